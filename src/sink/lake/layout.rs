//! How a table's rows are laid out in files: columns with their field ids, partition spec, sort order, place.
//!
//! Taken from one version of the table's metadata; a batch is staged under it and says so when it is committed.

use std::sync::Arc;

use arrow_schema::{DataType, SchemaRef as ArrowSchemaRef};
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::io::FileIO;
use iceberg::spec::{
    FormatVersion, PartitionSpecRef, PrimitiveType, Schema, SchemaRef, SortOrderRef, TableMetadata, Type,
};
use iceberg::table::Table;
use parquet::file::properties::WriterProperties;

use crate::change::Mode;
use crate::change::{RowSchema, origin};
use crate::lineage::Lineage;
use crate::sink::lake::evolution::{Remembered, fixed};
use crate::sink::lake::parquet_file::data_properties;
use crate::sink::lake::{LakeError, TableSpec, row_key, schema};

/// One version of a table's layout.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) table: String,
    pub(crate) format: FormatVersion,
    pub(crate) file_io: FileIO,
    /// Without a slash at the end.
    pub(crate) data_location: String,
    pub(crate) schema: SchemaRef,
    /// `schema` in Arrow, with field ids.
    pub(crate) arrow: ArrowSchemaRef,
    pub(crate) rows: RowSchema,
    pub(crate) lineage: Lineage,
    pub(crate) partition_spec: PartitionSpecRef,
    pub(crate) sort_order: SortOrderRef,
    /// Places of the key columns in `arrow`; empty in append mode.
    pub(crate) key: Vec<usize>,
    pub(crate) properties: WriterProperties,
    pub(crate) target_file_bytes: u64,
}

/// A table's columns as they were agreed upon: what rows are decoded for, and then staged under.
#[derive(Clone, Debug)]
pub struct TableColumns(pub(crate) Arc<Layout>);

impl TableColumns {
    pub fn rows(&self) -> &RowSchema {
        &self.0.rows
    }

    pub fn lineage(&self) -> &Lineage {
        &self.0.lineage
    }
}

impl Layout {
    /// The layout of `table` as it is now. `key_columns` are the records'; empty until one came.
    ///
    /// # Errors
    /// When an upsert table has no key, or a key column is missing.
    pub(crate) fn of(table: &Table, spec: &TableSpec, key_columns: &[String]) -> Result<Self, LakeError> {
        let metadata = table.metadata();
        let schema = Arc::clone(metadata.current_schema());
        let mut rows = schema::from_iceberg(&schema);
        let fields = schema.as_struct().fields();
        let key = match spec.mode {
            Mode::Append => vec![],
            Mode::Upsert => row_key::places(metadata, spec, key_columns)?,
        };
        for column in &mut rows.columns {
            column.key = key.iter().any(|i| fields[*i].name == column.name);
        }
        let name = spec.to_string();
        let mut fixed = fixed(metadata);
        fixed.extend(key.iter().map(|i| fields[*i].id));
        let lineage = Remembered::of(&name, metadata)?.lineage(&schema, &fixed, spec.dropped_column);
        Ok(Self {
            table: name,
            format: metadata.format_version(),
            lineage,
            file_io: table.file_io().clone(),
            data_location: data_location(metadata),
            arrow: Arc::new(schema_to_arrow_schema(&schema)?),
            rows,
            partition_spec: Arc::clone(metadata.default_partition_spec()),
            sort_order: Arc::clone(metadata.default_sort_order()),
            key,
            properties: data_properties(spec.zstd_level)?,
            target_file_bytes: spec.target_file_bytes,
            schema,
        })
    }

    /// Whether a row that replaces another has the id of that one: row lineage, of format v3.
    pub(crate) fn keeps_row_ids(&self) -> bool {
        self.format >= FormatVersion::V3 && !self.key.is_empty()
    }

    /// Field ids of the key columns, in the order of the columns.
    pub(crate) fn key_ids(&self) -> Vec<i32> {
        let fields = self.schema.as_struct().fields();
        self.key.iter().map(|i| fields[*i].id).collect()
    }

    /// Arrow types of the key columns.
    pub(crate) fn key_types(&self) -> Vec<DataType> {
        self.key.iter().map(|i| self.arrow.field(*i).data_type().clone()).collect()
    }

    /// Field ids of the columns that name the Kafka partition of a row, where the table has them.
    pub(crate) fn origin_ids(&self) -> Option<OriginIds> {
        let field = |name: &str| self.schema.field_by_name(name);
        let (topic, partition) = (field(origin::TOPIC)?, field(origin::PARTITION)?);
        let is = |t: &Type, p: PrimitiveType| matches!(t, Type::Primitive(have) if *have == p);
        let id_of = |name: &str, p| field(name).filter(|f| is(&f.field_type, p)).map(|f| f.id);
        (is(&topic.field_type, PrimitiveType::String) && is(&partition.field_type, PrimitiveType::Int)).then(|| {
            OriginIds {
                topic: topic.id,
                partition: partition.id,
                offset: id_of(origin::OFFSET, PrimitiveType::Long),
                op: id_of(origin::OP, PrimitiveType::String),
                lsn: id_of(origin::SOURCE_LSN, PrimitiveType::Long),
            }
        })
    }

    /// Whether a row tells what it came before and after.
    pub(crate) fn orders_rows(&self) -> bool {
        self.origin_ids().is_some_and(|ids| ids.offset.is_some() && ids.op.is_some() && ids.lsn.is_some())
    }

    /// Whether files staged under this layout are right in a table that looks like `now`: same format, ids, names, and types that read as
    /// the table's.
    pub(crate) fn fits(&self, now: &TableMetadata) -> bool {
        let schema: &Schema = now.current_schema();
        let columns = schema.schema_id() == self.schema.schema_id() && *schema == *self.schema
            || self.schema.as_struct().fields().iter().all(|staged| {
                schema
                    .field_by_id(staged.id)
                    .is_some_and(|have| have.name == staged.name && promotes(&staged.field_type, &have.field_type))
            }) && schema
                .as_struct()
                .fields()
                .iter()
                .all(|have| !have.required || self.schema.field_by_id(have.id).is_some());
        columns
            && now.format_version() == self.format
            && now
                .partition_spec_by_id(self.partition_spec.spec_id())
                .is_some_and(|spec| spec.fields() == self.partition_spec.fields())
    }
}

impl Layout {
    /// Whether rows that stand up to `newest` in the source's log, and were made for these columns, tell that the source has dropped
    /// one of the columns that the table got since: they are newer, and without it.
    ///
    /// # Errors
    /// When what the table remembers can't be read.
    pub(crate) fn tells_of_drops(&self, now: &TableMetadata, newest: Option<i64>) -> Result<bool, LakeError> {
        if !self.lineage.drops {
            return Ok(false);
        }
        let remembered = Remembered::of(&self.table, now)?;
        let is_new =
            |id: &i32| self.schema.field_by_id(*id).is_none() && now.current_schema().field_by_id(*id).is_some();
        Ok(newest > remembered.lsn && remembered.source.iter().any(is_new))
    }
}

/// Field ids of the origin columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OriginIds {
    pub(crate) topic: i32,
    pub(crate) partition: i32,
    pub(crate) offset: Option<i32>,
    pub(crate) op: Option<i32>,
    pub(crate) lsn: Option<i32>,
}

fn data_location(metadata: &TableMetadata) -> String {
    metadata
        .properties()
        .get("write.data.path")
        .cloned()
        .unwrap_or_else(|| format!("{}/data", metadata.location().trim_end_matches('/')))
        .trim_end_matches('/')
        .to_owned()
}

fn promotes(from: &Type, to: &Type) -> bool {
    use PrimitiveType as P;
    match (from, to) {
        (Type::Primitive(P::Int), Type::Primitive(P::Long)) => true,
        (Type::Primitive(P::Float), Type::Primitive(P::Double)) => true,
        (
            Type::Primitive(P::Decimal { precision: a, scale: s }),
            Type::Primitive(P::Decimal { precision: b, scale: t }),
        ) => s == t && a <= b,
        (Type::Struct(a), Type::Struct(b)) => a
            .fields()
            .iter()
            .all(|f| b.field_by_id(f.id).is_some_and(|g| g.name == f.name && promotes(&f.field_type, &g.field_type))),
        (Type::List(a), Type::List(b)) => {
            a.element_field.id == b.element_field.id
                && promotes(&a.element_field.field_type, &b.element_field.field_type)
        }
        (Type::Map(a), Type::Map(b)) => {
            a.value_field.id == b.value_field.id && promotes(&a.value_field.field_type, &b.value_field.field_type)
        }
        (a, b) => a == b,
    }
}
