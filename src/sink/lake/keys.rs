//! A row's key as 128 bits: the same for the batch, the index and the scan of a file.
//!
//! Columns are widened before they are hashed, so a key column that grows from int to long keeps its hashes. Two different keys with
//! one hash are taken for one key: among 10^10 keys the chance is below 10^-18.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_cast::cast;
use arrow_row::{RowConverter, SortField};
use arrow_schema::{DataType, TimeUnit};
use xxhash_rust::xxh3::xxh3_128;

use crate::sink::lake::LakeError;

/// Hashes key columns of one set of types.
pub(crate) struct KeyHasher {
    converter: RowConverter,
    types: Vec<DataType>,
}

impl KeyHasher {
    /// For key columns of these types, in the order of the key.
    pub(crate) fn new(types: &[DataType]) -> Result<Self, LakeError> {
        let types: Vec<DataType> = types.iter().map(canonical).collect();
        let converter = RowConverter::new(types.iter().cloned().map(SortField::new).collect())?;
        Ok(Self { converter, types })
    }

    /// One hash per row, appended to `out`.
    ///
    /// # Errors
    /// When a column can't be brought to its canonical type.
    pub(crate) fn hash(&mut self, columns: &[ArrayRef], out: &mut Vec<u128>) -> Result<(), LakeError> {
        let columns = columns
            .iter()
            .zip(&self.types)
            .map(|(c, t)| if c.data_type() == t { Ok(Arc::clone(c)) } else { cast(c, t) })
            .collect::<Result<Vec<_>, _>>()?;
        let rows = self.converter.convert_columns(&columns)?;
        out.reserve(rows.num_rows());
        out.extend(rows.iter().map(|row| xxh3_128(row.as_ref())));
        Ok(())
    }

    /// The hashes of a batch's key columns at `indices`.
    pub(crate) fn hash_batch(&mut self, batch: &RecordBatch, indices: &[usize]) -> Result<Vec<u128>, LakeError> {
        let columns: Vec<ArrayRef> = indices.iter().map(|i| Arc::clone(batch.column(*i))).collect();
        let mut out = vec![];
        self.hash(&columns, &mut out)?;
        Ok(out)
    }
}

impl std::fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyHasher").field("types", &self.types).finish_non_exhaustive()
    }
}

/// The hash of a known key: what was stored with another one was hashed in another way.
pub(crate) fn probe() -> String {
    use arrow_array::{Int64Array, StringArray};
    let columns: [ArrayRef; 2] = [Arc::new(Int64Array::from(vec![-7])), Arc::new(StringArray::from(vec!["firn"]))];
    let mut hashes = vec![];
    let hashed =
        KeyHasher::new(&[DataType::Int64, DataType::Utf8]).and_then(|mut hasher| hasher.hash(&columns, &mut hashes));
    match (hashed, hashes.first()) {
        (Ok(()), Some(hash)) => format!("{hash:032x}"),
        _ => String::new(),
    }
}

/// The widest type of its family: what Iceberg may promote a column to.
pub(crate) fn canonical(t: &DataType) -> DataType {
    match t {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => DataType::Int64,
        DataType::Float32 | DataType::Float64 => DataType::Float64,
        DataType::Decimal128(_, scale) => DataType::Decimal128(38, *scale),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => DataType::LargeBinary,
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        other => other.clone(),
    }
}

/// A map from key hashes: they are random already and are not hashed again.
pub(crate) type KeyMap<V> = std::collections::HashMap<u128, V, BuildHasherDefault<AsIs>>;

#[derive(Debug, Default)]
pub struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Only u128 keys are hashed; anything else falls back to its first bytes.
        let mut eight = [0; 8];
        for (to, from) in eight.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.0 = u64::from_le_bytes(eight);
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Decimal128Array, Int32Array, Int64Array, StringArray};

    fn hash(columns: Vec<ArrayRef>) -> Vec<u128> {
        let types: Vec<DataType> = columns.iter().map(|c| c.data_type().clone()).collect();
        let mut out = vec![];
        KeyHasher::new(&types).unwrap().hash(&columns, &mut out).unwrap();
        out
    }

    #[test]
    fn a_key_keeps_its_hash_when_its_column_widens() {
        assert_eq!(
            hash(vec![Arc::new(Int32Array::from(vec![-7, 1]))]),
            hash(vec![Arc::new(Int64Array::from(vec![-7, 1]))])
        );
        let narrow = Decimal128Array::from(vec![5]).with_precision_and_scale(9, 2).unwrap();
        let wide = Decimal128Array::from(vec![5]).with_precision_and_scale(20, 2).unwrap();
        assert_eq!(hash(vec![Arc::new(narrow)]), hash(vec![Arc::new(wide)]));
    }

    #[test]
    fn the_parts_of_a_key_do_not_run_into_each_other() {
        let a = hash(vec![Arc::new(StringArray::from(vec!["ab"])), Arc::new(StringArray::from(vec!["c"]))]);
        let b = hash(vec![Arc::new(StringArray::from(vec!["a"])), Arc::new(StringArray::from(vec!["bc"]))]);
        assert_ne!(a, b);
    }
}
