//! What the rows of new files look like: the table's columns as they are now, and in format v3 each row's id and age.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema as ArrowSchema, SchemaRef as ArrowSchemaRef};
use firn_catalog::live::LiveFile;
use iceberg::spec::{FormatVersion, NestedField, NestedFieldRef, PrimitiveType, Type};
use iceberg::table::Table;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

use crate::sink::lake::layout::Layout;
use crate::sink::lake::row_ids::{ROW_ID, ROW_ID_FIELD};
use crate::sink::lake::{LakeError, TableSpec};

/// When a row was last changed, of the column in data files (Iceberg spec, reserved field ids).
const LAST_UPDATED: &str = "_last_updated_sequence_number";
const LAST_UPDATED_FIELD: i32 = i32::MAX - 108;

const ZSTD_LEVEL: &str = "write.parquet.compression-level";

/// How rows are read and written.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) layout: Layout,
    /// The table's columns; in format v3 the row's id and age follow.
    pub(super) fields: Vec<NestedFieldRef>,
    pub(super) arrow: ArrowSchemaRef,
    /// Whether rows have an id and an age (row lineage, format v3).
    lineage: bool,
}

impl Shape {
    /// # Errors
    /// When the table's columns can't be written.
    pub(super) fn of(table: &Table) -> Result<Self, LakeError> {
        let ident = table.identifier();
        let mut spec = TableSpec { namespace: ident.namespace().as_ref().clone(), ..TableSpec::new("", ident.name()) };
        let level = table.metadata().properties().get(ZSTD_LEVEL).and_then(|level| level.parse().ok());
        spec.zstd_level = level.filter(|level| (1..=22).contains(level)).unwrap_or(spec.zstd_level);
        let layout = Layout::of(table, &spec, &[])?;
        let mut fields: Vec<NestedFieldRef> = layout.schema.as_struct().fields().to_vec();
        let mut columns: Vec<_> = layout.arrow.fields().iter().cloned().collect();
        let lineage = layout.format >= FormatVersion::V3;
        if lineage {
            for (id, name) in [(ROW_ID_FIELD, ROW_ID), (LAST_UPDATED_FIELD, LAST_UPDATED)] {
                fields.push(Arc::new(NestedField::optional(id, name, Type::Primitive(PrimitiveType::Long))));
                let metadata = [(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())].into();
                columns.push(Arc::new(Field::new(name, DataType::Int64, true).with_metadata(metadata)));
            }
        }
        Ok(Self { layout, fields, arrow: Arc::new(ArrowSchema::new(columns)), lineage })
    }

    /// Gives rows of a file the ids and ages that they have there, by their place and by the file, where they don't say them themselves.
    /// `first` is the position of the batch's first row.
    ///
    /// # Errors
    /// When the batch is not of this shape.
    pub(super) fn with_lineage(
        &self,
        batch: RecordBatch,
        file: &LiveFile,
        first: u32,
    ) -> Result<RecordBatch, LakeError> {
        let columns = self.layout.arrow.fields().len();
        if !self.lineage || batch.num_columns() < columns + 2 {
            return Ok(batch);
        }
        let mut arrays = batch.columns().to_vec();
        let first_id = file.first_row_id.map(|id| id + i64::from(first));
        arrays[columns] = filled(&arrays[columns], |row| first_id.map(|id| id + row as i64));
        arrays[columns + 1] = filled(&arrays[columns + 1], |_| Some(file.sequence_number));
        Ok(RecordBatch::try_new(Arc::clone(&self.arrow), arrays)?)
    }
}

/// Nulls become what `value` says of their row.
fn filled(column: &ArrayRef, value: impl Fn(usize) -> Option<i64>) -> ArrayRef {
    if column.null_count() == 0 {
        return Arc::clone(column);
    }
    let have = column.as_primitive::<Int64Type>().iter().enumerate();
    Arc::new(have.map(|(row, have)| have.or_else(|| value(row))).collect::<Int64Array>())
}
