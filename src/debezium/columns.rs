//! Arrow columns under construction that can be cut back to an earlier length, so a bad value takes back its row alone.
//!
//! Arrow's own builders cannot be cut back. Knows nothing of JSON.

use std::sync::Arc;

use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimestampMicrosecondType,
};
use arrow_array::{
    ArrayRef, BooleanArray, FixedSizeBinaryArray, LargeBinaryArray, ListArray, MapArray, PrimitiveArray, StringArray,
    StructArray,
};
use arrow_buffer::{BooleanBufferBuilder, Buffer, NullBuffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Fields};

use super::fault::{Fallible, bad_value};
use crate::change::ColumnType;

/// One column under construction.
#[derive(Debug)]
pub(super) struct ColumnBuilder {
    data_type: DataType,
    pub nulls: NullBufferBuilder,
    pub values: Values,
}

/// The values of a column, by the way Arrow lays them out. Every part has an entry for a null too.
#[derive(Debug)]
pub(super) enum Values {
    Boolean(BooleanBufferBuilder),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Int128(Vec<i128>),
    Text(Runs<i32>),
    Binary(Runs<i64>),
    Bytes16(Vec<[u8; 16]>),
    List { ends: Ends<i32>, element: Box<ColumnBuilder> },
    Struct(Vec<ColumnBuilder>),
    Map { ends: Ends<i32>, keys: Box<ColumnBuilder>, values: Box<ColumnBuilder> },
}

/// Where each entry ends in what stands behind a column; the first number is 0.
#[derive(Debug)]
pub(super) struct Ends<O>(Vec<O>);

impl<O: TryFrom<usize> + Copy + Default> Ends<O> {
    fn new() -> Self {
        Self(vec![O::default()])
    }

    #[inline]
    pub(super) fn push(&mut self, end: usize) -> Fallible<()> {
        self.0.push(
            O::try_from(end).map_err(|_| bad_value("the batch holds 2 GiB of this column: make batches smaller"))?,
        );
        Ok(())
    }

    #[inline]
    fn repeat(&mut self) {
        let last = self.0.last().copied().unwrap_or_default();
        self.0.push(last);
    }

    /// Keeps `len` entries and answers where the last of them ends.
    fn truncate(&mut self, len: usize) -> usize
    where
        i64: From<O>,
    {
        self.0.truncate(len + 1);
        self.0.last().map_or(0, |end| i64::from(*end) as usize) // an end was a usize when it came in
    }

    /// Where the entry `index` stands.
    fn range(&self, index: usize) -> std::ops::Range<usize>
    where
        i64: From<O>,
    {
        let end = |at: usize| self.0.get(at).map_or(0, |end| i64::from(*end) as usize); // an end was a usize when it came in
        end(index)..end(index + 1)
    }

    fn take(&mut self) -> Vec<O> {
        std::mem::replace(&mut self.0, vec![O::default()])
    }
}

/// Entries of any length, one behind the other.
#[derive(Debug)]
pub(super) struct Runs<O> {
    pub bytes: Vec<u8>,
    ends: Ends<O>,
}

impl<O: TryFrom<usize> + Copy + Default> Runs<O> {
    fn new() -> Self {
        Self { bytes: Vec::new(), ends: Ends::new() }
    }

    fn entry(&self, index: usize) -> Option<&[u8]>
    where
        i64: From<O>,
    {
        self.bytes.get(self.ends.range(index))
    }

    /// What was added to `bytes` since the last call is one entry.
    #[inline]
    pub(super) fn close(&mut self) -> Fallible<()> {
        self.ends.push(self.bytes.len())
    }
}

impl ColumnBuilder {
    pub(super) fn new(column_type: &ColumnType) -> Self {
        let values = match column_type {
            ColumnType::Boolean => Values::Boolean(BooleanBufferBuilder::new(0)),
            ColumnType::Int | ColumnType::Date => Values::Int32(Vec::new()),
            ColumnType::Long | ColumnType::Time | ColumnType::Timestamp | ColumnType::TimestampTz => {
                Values::Int64(Vec::new())
            }
            ColumnType::Float => Values::Float32(Vec::new()),
            ColumnType::Double => Values::Float64(Vec::new()),
            ColumnType::Decimal { .. } => Values::Int128(Vec::new()),
            ColumnType::String => Values::Text(Runs::new()),
            ColumnType::Binary => Values::Binary(Runs::new()),
            ColumnType::Uuid => Values::Bytes16(Vec::new()),
            ColumnType::List(element) => {
                Values::List { ends: Ends::new(), element: Box::new(ColumnBuilder::new(element)) }
            }
            ColumnType::Struct(columns) => {
                Values::Struct(columns.iter().map(|c| ColumnBuilder::new(&c.column_type)).collect())
            }
            ColumnType::Map(value) => Values::Map {
                ends: Ends::new(),
                keys: Box::new(ColumnBuilder::new(&ColumnType::String)),
                values: Box::new(ColumnBuilder::new(value)),
            },
        };
        Self { data_type: column_type.arrow(), nulls: NullBufferBuilder::new(0), values }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.nulls.len()
    }

    /// Whether the entry at `index` is null; false beyond the end.
    #[inline]
    pub(super) fn is_null(&self, index: usize) -> bool {
        index < self.nulls.len() && !self.nulls.is_valid(index)
    }

    pub(super) fn push_null(&mut self) {
        match &mut self.values {
            Values::Boolean(v) => v.append(false),
            Values::Int32(v) => v.push(0),
            Values::Int64(v) => v.push(0),
            Values::Float32(v) => v.push(0.0),
            Values::Float64(v) => v.push(0.0),
            Values::Int128(v) => v.push(0),
            Values::Bytes16(v) => v.push([0; 16]),
            Values::Text(v) => v.ends.repeat(),
            Values::Binary(v) => v.ends.repeat(),
            Values::List { ends, .. } | Values::Map { ends, .. } => ends.repeat(),
            Values::Struct(columns) => columns.iter_mut().for_each(ColumnBuilder::push_null),
        }
        self.nulls.append_null();
    }

    /// For a text column: adds `text`. Does nothing to a column of another type.
    #[inline]
    pub(super) fn push_text(&mut self, text: &str) -> Fallible<()> {
        if let Values::Text(v) = &mut self.values {
            v.bytes.extend_from_slice(text.as_bytes());
            v.close()?;
            self.nulls.append_non_null();
        }
        Ok(())
    }

    /// For a column of 32- or 64-bit integers: adds `value`, a null if it does not fit. Does nothing to a column of another type.
    #[inline]
    pub(super) fn push_integer(&mut self, value: Option<i64>) {
        match (&mut self.values, value) {
            (Values::Int64(v), Some(value)) => {
                v.push(value);
                self.nulls.append_non_null();
            }
            (Values::Int32(v), Some(value)) if i32::try_from(value).is_ok() => {
                v.push(value as i32);
                self.nulls.append_non_null();
            }
            (Values::Int64(_) | Values::Int32(_), _) => self.push_null(),
            _ => {}
        }
    }

    /// For a column of lists of text: adds a list of `texts`. Does nothing to a column of another type.
    pub(super) fn push_texts<'t>(&mut self, texts: impl Iterator<Item = &'t str>) -> Fallible<()> {
        if let Values::List { ends, element } = &mut self.values {
            for text in texts {
                element.push_text(text)?;
            }
            ends.push(element.len())?;
            self.nulls.append_non_null();
        }
        Ok(())
    }

    /// For a column of 32- or 64-bit integers: whether its entries from `from` on are the numbers in `bytes`.
    pub(super) fn ends_with_bytes(&self, from: usize, bytes: &[u8]) -> bool {
        self.len() - from == bytes.len()
            && match &self.values {
                Values::Int32(v) => v.iter().skip(from).copied().eq(bytes.iter().map(|b| i32::from(*b))),
                Values::Int64(v) => v.iter().skip(from).copied().eq(bytes.iter().map(|b| i64::from(*b))),
                _ => false,
            }
    }

    /// Whether the entry at `index` equals the entry `at` of a column of the same type. Floats are compared by their bits.
    pub(super) fn same(&self, index: usize, other: &Self, at: usize) -> bool {
        if self.is_null(index) || other.is_null(at) {
            return self.is_null(index) && other.is_null(at);
        }
        match (&self.values, &other.values) {
            (Values::Boolean(a), Values::Boolean(b)) => a.get_bit(index) == b.get_bit(at),
            (Values::Int32(a), Values::Int32(b)) => a.get(index) == b.get(at),
            (Values::Int64(a), Values::Int64(b)) => a.get(index) == b.get(at),
            (Values::Float32(a), Values::Float32(b)) => {
                a.get(index).map(|f| f.to_bits()) == b.get(at).map(|f| f.to_bits())
            }
            (Values::Float64(a), Values::Float64(b)) => {
                a.get(index).map(|f| f.to_bits()) == b.get(at).map(|f| f.to_bits())
            }
            (Values::Int128(a), Values::Int128(b)) => a.get(index) == b.get(at),
            (Values::Bytes16(a), Values::Bytes16(b)) => a.get(index) == b.get(at),
            (Values::Text(a), Values::Text(b)) => a.entry(index) == b.entry(at),
            (Values::Binary(a), Values::Binary(b)) => a.entry(index) == b.entry(at),
            (Values::List { ends: a, element: x }, Values::List { ends: b, element: y }) => {
                let (a, b) = (a.range(index), b.range(at));
                a.len() == b.len() && a.zip(b).all(|(a, b)| x.same(a, y, b))
            }
            (Values::Struct(a), Values::Struct(b)) => a.iter().zip(b).all(|(a, b)| a.same(index, b, at)),
            (Values::Map { ends: a, keys: k, values: v }, Values::Map { ends: b, keys: l, values: w }) => {
                let (a, b) = (a.range(index), b.range(at));
                a.len() == b.len() && a.zip(b).all(|(a, b)| k.same(a, l, b) && v.same(a, w, b))
            }
            _ => false,
        }
    }

    /// Cuts the column back to `len` entries, whatever state a failed value has left it in.
    pub(super) fn truncate(&mut self, len: usize) {
        match &mut self.values {
            Values::Boolean(v) => v.truncate(len),
            Values::Int32(v) => v.truncate(len),
            Values::Int64(v) => v.truncate(len),
            Values::Float32(v) => v.truncate(len),
            Values::Float64(v) => v.truncate(len),
            Values::Int128(v) => v.truncate(len),
            Values::Bytes16(v) => v.truncate(len),
            Values::Text(v) => cut(&mut v.bytes, v.ends.truncate(len)),
            Values::Binary(v) => cut(&mut v.bytes, v.ends.truncate(len)),
            Values::List { ends, element } => element.truncate(ends.truncate(len)),
            Values::Struct(columns) => columns.iter_mut().for_each(|c| c.truncate(len)),
            Values::Map { ends, keys, values } => {
                let len = ends.truncate(len);
                keys.truncate(len);
                values.truncate(len);
            }
        }
        if self.nulls.len() > len {
            self.nulls.truncate(len);
        }
    }

    /// Bytes of memory that the column holds on to.
    pub(super) fn allocated_bytes(&self) -> usize {
        let values = match &self.values {
            Values::Boolean(v) => v.capacity() / 8,
            Values::Int32(v) => v.capacity() * 4,
            Values::Int64(v) => v.capacity() * 8,
            Values::Float32(v) => v.capacity() * 4,
            Values::Float64(v) => v.capacity() * 8,
            Values::Int128(v) => v.capacity() * 16,
            Values::Bytes16(v) => v.capacity() * 16,
            Values::Text(v) => v.bytes.capacity() + v.ends.0.capacity() * 4,
            Values::Binary(v) => v.bytes.capacity() + v.ends.0.capacity() * 8,
            Values::List { ends, element } => ends.0.capacity() * 4 + element.allocated_bytes(),
            Values::Struct(columns) => columns.iter().map(ColumnBuilder::allocated_bytes).sum(),
            Values::Map { ends, keys, values } => {
                ends.0.capacity() * 4 + keys.allocated_bytes() + values.allocated_bytes()
            }
        };
        values + self.nulls.allocated_size()
    }

    /// The column as an array; the builder is empty afterwards.
    ///
    /// # Errors
    /// When the parts do not make a valid array; the methods above keep them so that they do.
    pub(super) fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let len = self.len();
        let nulls = self.nulls.finish();
        // `finish` of a builder without nulls leaves its length behind.
        self.nulls = NullBufferBuilder::new(0);
        let data_type = &self.data_type;
        Ok(match &mut self.values {
            Values::Boolean(v) => Arc::new(BooleanArray::new(v.finish(), nulls)),
            Values::Int32(v) => match data_type {
                DataType::Date32 => primitive::<Date32Type>(v, nulls, data_type)?,
                _ => primitive::<Int32Type>(v, nulls, data_type)?,
            },
            Values::Int64(v) => match data_type {
                DataType::Time64(_) => primitive::<Time64MicrosecondType>(v, nulls, data_type)?,
                DataType::Timestamp(_, _) => primitive::<TimestampMicrosecondType>(v, nulls, data_type)?,
                _ => primitive::<Int64Type>(v, nulls, data_type)?,
            },
            Values::Float32(v) => primitive::<Float32Type>(v, nulls, data_type)?,
            Values::Float64(v) => primitive::<Float64Type>(v, nulls, data_type)?,
            Values::Int128(v) => primitive::<Decimal128Type>(v, nulls, data_type)?,
            Values::Bytes16(v) => {
                let bytes = Buffer::from_vec(std::mem::take(v).into_flattened());
                Arc::new(FixedSizeBinaryArray::try_new(16, bytes, nulls)?)
            }
            Values::Text(v) => {
                let (bytes, ends) = (std::mem::take(&mut v.bytes), offsets(v.ends.take()));
                Arc::new(StringArray::try_new(ends, Buffer::from_vec(bytes), nulls)?)
            }
            Values::Binary(v) => {
                let (bytes, ends) = (std::mem::take(&mut v.bytes), offsets(v.ends.take()));
                Arc::new(LargeBinaryArray::try_new(ends, Buffer::from_vec(bytes), nulls)?)
            }
            Values::List { ends, element } => {
                let DataType::List(field) = data_type else { return Err(wrong_type(data_type)) };
                Arc::new(ListArray::try_new(Arc::clone(field), offsets(ends.take()), element.finish()?, nulls)?)
            }
            Values::Struct(columns) => {
                let DataType::Struct(fields) = data_type else { return Err(wrong_type(data_type)) };
                Arc::new(structure(fields, columns.iter_mut(), nulls, len)?)
            }
            Values::Map { ends, keys, values } => {
                let DataType::Map(field, _) = data_type else { return Err(wrong_type(data_type)) };
                let DataType::Struct(fields) = field.data_type() else { return Err(wrong_type(data_type)) };
                let entries = keys.len();
                let entries = structure(fields, [keys.as_mut(), values.as_mut()].into_iter(), None, entries)?;
                Arc::new(MapArray::try_new(Arc::clone(field), offsets(ends.take()), entries, nulls, false)?)
            }
        })
    }
}

/// Cuts back to `len` bytes. What a large value has made the buffer grow to is not held on to for the next one.
fn cut(bytes: &mut Vec<u8>, len: usize) {
    const KEPT_BYTES: usize = 1 << 20;
    let grown = bytes.len().saturating_sub(len) > KEPT_BYTES / 2;
    bytes.truncate(len);
    if grown {
        bytes.shrink_to(len + KEPT_BYTES / 2);
    }
}

fn primitive<T: ArrowPrimitiveType>(
    values: &mut Vec<T::Native>,
    nulls: Option<NullBuffer>,
    data_type: &DataType,
) -> Result<ArrayRef, ArrowError> {
    let values = ScalarBuffer::from(std::mem::take(values));
    let array = PrimitiveArray::<T>::try_new(values, nulls)?;
    if !PrimitiveArray::<T>::is_compatible(data_type) {
        return Err(wrong_type(data_type));
    }
    Ok(Arc::new(array.with_data_type(data_type.clone())))
}

fn structure<'a>(
    fields: &Fields,
    columns: impl Iterator<Item = &'a mut ColumnBuilder>,
    nulls: Option<NullBuffer>,
    len: usize,
) -> Result<StructArray, ArrowError> {
    let arrays = columns.map(ColumnBuilder::finish).collect::<Result<Vec<_>, _>>()?;
    StructArray::try_new_with_length(fields.clone(), arrays, nulls, len)
}

/// Offsets grow: `Ends` only ever adds the length of something that grows.
fn offsets<O: arrow_array::OffsetSizeTrait>(ends: Vec<O>) -> OffsetBuffer<O> {
    OffsetBuffer::new(ScalarBuffer::from(ends))
}

fn wrong_type(data_type: &DataType) -> ArrowError {
    ArrowError::SchemaError(format!("a builder of another layout stands behind {data_type}"))
}
