//! Brings a batch's columns into the exact shape of a table's files: order, types, nested field ids, nulls for what is missing.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, ListArray, MapArray, RecordBatch, RecordBatchOptions, StructArray, new_null_array};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{ArrowError, DataType, FieldRef, Fields, SchemaRef};

use crate::lineage::same_name;
use crate::sink::lake::LakeError;

/// Columns of incoming batches by name; worked out once per incoming schema.
#[derive(Debug)]
pub(crate) struct Conform {
    table: String,
    to: SchemaRef,
    seen: Option<(SchemaRef, Vec<Option<usize>>)>,
}

impl Conform {
    pub(crate) fn new(table: &str, to: SchemaRef) -> Self {
        Self { table: table.to_owned(), to, seen: None }
    }

    /// `batch` with the table's columns.
    ///
    /// # Errors
    /// When the batch has a column that the table lacks (its value would be lost), a value that doesn't fit the table's type, or
    /// a null where the table requires a value.
    pub(crate) fn apply(&mut self, batch: &RecordBatch) -> Result<RecordBatch, LakeError> {
        let known = matches!(&self.seen, Some((s, _)) if Arc::ptr_eq(s, batch.schema_ref()) || *s == batch.schema());
        if !known {
            let sources = self.sources(batch.schema_ref())?;
            self.seen = Some((batch.schema(), sources));
        }
        let sources = self.seen.as_ref().map(|(_, sources)| sources.as_slice()).unwrap_or_default();
        let mut columns = Vec::with_capacity(sources.len());
        for (field, source) in self.to.fields().iter().zip(sources) {
            let column = match source {
                Some(i) => conform(batch.column(*i), field.data_type())
                    .map_err(|e| self.refuse(format!("column {}: {e}", field.name())))?,
                None => new_null_array(field.data_type(), batch.num_rows()),
            };
            columns.push(column);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.to), columns, &options)
            .map_err(|e| self.refuse(e.to_string()))
    }

    fn sources(&self, from: &SchemaRef) -> Result<Vec<Option<usize>>, LakeError> {
        let sources: Vec<Option<usize>> = self.to.fields().iter().map(|f| find(from.fields(), f.name())).collect();
        for (i, field) in from.fields().iter().enumerate() {
            if !sources.contains(&Some(i)) {
                return Err(self.refuse(format!(
                    "the batch has a column {} that the table lacks: agree on the columns first",
                    field.name()
                )));
            }
        }
        Ok(sources)
    }

    fn refuse(&self, message: String) -> LakeError {
        LakeError::Batch { table: self.table.clone(), message }
    }
}

/// Names match exactly, else folded.
pub(crate) fn find(fields: &Fields, name: &str) -> Option<usize> {
    fields.iter().position(|f| f.name() == name).or_else(|| fields.iter().position(|f| same_name(f.name(), name)))
}

/// Nested types are rebuilt, because equality of Arrow types includes the field ids; plain types are cast, an overflow is an error.
pub(crate) fn conform(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    if array.data_type() == to {
        return Ok(Arc::clone(array));
    }
    match (array.data_type(), to) {
        (DataType::List(_), DataType::List(element)) => {
            let list = array.as_list::<i32>();
            let values = conform(list.values(), element.data_type())?;
            let list = ListArray::try_new(Arc::clone(element), list.offsets().clone(), values, list.nulls().cloned())?;
            Ok(Arc::new(list))
        }
        (DataType::Struct(_), DataType::Struct(fields)) => Ok(Arc::new(conform_struct(array.as_struct(), fields)?)),
        (DataType::Map(_, _), DataType::Map(entry, ordered)) => {
            let map = array.as_map();
            let DataType::Struct(fields) = entry.data_type() else {
                return Err(ArrowError::SchemaError("a map's entries must be a struct".to_owned()));
            };
            let entries = positional(map.entries(), fields)?;
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(Arc::clone(entry), offsets, entries, nulls, *ordered)?))
        }
        _ => cast_with_options(array, to, &CastOptions { safe: false, ..Default::default() }),
    }
}

fn conform_struct(from: &StructArray, fields: &Fields) -> Result<StructArray, ArrowError> {
    let columns = fields
        .iter()
        .map(|f: &FieldRef| match find(from.fields(), f.name()) {
            Some(i) => conform(from.column(i), f.data_type()),
            None => Ok(new_null_array(f.data_type(), from.len())),
        })
        .collect::<Result<Vec<_>, _>>()?;
    StructArray::try_new(fields.clone(), columns, from.nulls().cloned())
}

/// Key and value go by place: their names differ between writers.
fn positional(from: &StructArray, fields: &Fields) -> Result<StructArray, ArrowError> {
    let columns =
        from.columns().iter().zip(fields).map(|(c, f)| conform(c, f.data_type())).collect::<Result<Vec<_>, _>>()?;
    StructArray::try_new(fields.clone(), columns, from.nulls().cloned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Int32Array, Int64Array, StringArray};
    use arrow_schema::{Field, Schema};

    fn batch(fields: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(fields.into_iter().map(|(n, a)| (n, a, true))).unwrap()
    }

    #[test]
    fn columns_are_ordered_widened_and_filled() {
        let to = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("late", DataType::Utf8, true),
            Field::new("name", DataType::Utf8, true),
        ]));
        let from = batch(vec![
            ("name", Arc::new(StringArray::from(vec!["a", "b"]))),
            ("ID", Arc::new(Int32Array::from(vec![1, 2]))),
        ]);
        let got = Conform::new("t", to).apply(&from).unwrap();
        assert_eq!(got.column(0).as_ref(), &Int64Array::from(vec![1, 2]) as &dyn Array);
        assert_eq!(got.column(1).null_count(), 2);
    }

    #[test]
    fn nothing_is_lost_in_silence() {
        let to = Arc::new(Schema::new(vec![Field::new("id", DataType::Int32, false)]));
        let mut conform = Conform::new("t", to);
        let extra =
            batch(vec![("id", Arc::new(Int32Array::from(vec![1]))), ("x", Arc::new(Int32Array::from(vec![1])))]);
        assert!(conform.apply(&extra).unwrap_err().to_string().contains("column x"));
        let large = batch(vec![("id", Arc::new(Int64Array::from(vec![1 << 40])))]);
        assert!(conform.apply(&large).unwrap_err().to_string().contains("column id"));
        let null = batch(vec![("id", Arc::new(Int32Array::from(vec![None::<i32>])))]);
        assert!(conform.apply(&null).is_err());
    }

    #[test]
    fn nested_fields_take_the_tables_ids_by_name() {
        let with_id = |name: &str, id: &str| {
            Field::new(name, DataType::Int32, true)
                .with_metadata([("PARQUET:field_id".to_owned(), id.to_owned())].into())
        };
        let to = Fields::from(vec![with_id("a", "2"), with_id("b", "3")]);
        let schema = Arc::new(Schema::new(vec![Field::new("s", DataType::Struct(to.clone()), true)]));
        let from = StructArray::try_new(
            Fields::from(vec![Field::new("b", DataType::Int32, true)]),
            vec![Arc::new(Int32Array::from(vec![7]))],
            None,
        )
        .unwrap();
        let got = Conform::new("t", schema).apply(&batch(vec![("s", Arc::new(from))])).unwrap();
        assert_eq!(got.column(0).as_struct().column(1).as_ref(), &Int32Array::from(vec![7]) as &dyn Array);
        assert_eq!(got.column(0).as_struct().column(0).null_count(), 1);
    }
}
