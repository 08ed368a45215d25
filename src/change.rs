//! One row change and the columns of a row, free of any engine. Debezium's names end here.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, Schema, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::lineage::same_name;

/// What happened to the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    Create,
    Update,
    Delete,
    /// A row of an initial or incremental snapshot.
    Read,
}

impl Op {
    /// The letter used by Debezium and in the op column.
    pub fn letter(self) -> &'static str {
        match self {
            Op::Create => "c",
            Op::Update => "u",
            Op::Delete => "d",
            Op::Read => "r",
        }
    }
}

/// What a row of a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Every change is a row.
    #[default]
    Append,
    /// The table equals the source: one row a key.
    Upsert,
}

impl Mode {
    /// The word in configurations and in the tables' properties.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Append => "append",
            Mode::Upsert => "upsert",
        }
    }
}

/// What an append table keeps of a deleted row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeleteImage {
    /// The key columns; the rest is null. Beside the key a delete may hold fillers that look like values (PostgreSQL's default
    /// replica identity).
    #[default]
    Key,
    /// The row as it was before the delete, where the source tells all of it (REPLICA IDENTITY FULL, MySQL's full row image).
    Before,
}

/// What becomes of an infinite date or timestamp: no column can hold one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Infinity {
    /// A null.
    #[default]
    Null,
    /// The first moment of the year 1 or the last of the year 9999, which every engine can show.
    Clamp,
    /// The record is rejected.
    Reject,
}

/// A column's type: Iceberg's set of types under Iceberg's names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ColumnType {
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    Date,
    /// µs since midnight.
    Time,
    /// µs since the epoch, no zone.
    Timestamp,
    /// µs since the epoch, UTC.
    TimestampTz,
    String,
    Uuid,
    Binary,
    List(Box<ColumnType>),
    Struct(Vec<Column>),
    /// String keys.
    Map(Box<ColumnType>),
}

impl ColumnType {
    /// The Arrow type of a batch's column. List elements are named `element`, map entries `key_value` of `key` and `value`,
    /// as in Iceberg's own Arrow schemas; uuid is a 16-byte fixed binary.
    pub fn arrow(&self) -> DataType {
        match self {
            ColumnType::Boolean => DataType::Boolean,
            ColumnType::Int => DataType::Int32,
            ColumnType::Long => DataType::Int64,
            ColumnType::Float => DataType::Float32,
            ColumnType::Double => DataType::Float64,
            ColumnType::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale as i8),
            ColumnType::Date => DataType::Date32,
            ColumnType::Time => DataType::Time64(TimeUnit::Microsecond),
            ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            ColumnType::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
            ColumnType::String => DataType::Utf8,
            ColumnType::Uuid => DataType::FixedSizeBinary(16),
            ColumnType::Binary => DataType::LargeBinary,
            ColumnType::List(element) => DataType::List(Arc::new(Field::new("element", element.arrow(), true))),
            ColumnType::Struct(columns) => DataType::Struct(columns.iter().map(Column::arrow).collect::<Fields>()),
            ColumnType::Map(value) => {
                let entry = Fields::from(vec![
                    Field::new("key", DataType::Utf8, false),
                    Field::new("value", value.arrow(), true),
                ]);
                DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entry), false)), false)
            }
        }
    }
}

impl ColumnType {
    /// Whether one column can hold the values of both by Iceberg's promotions alone: int and long, float and double, decimals of one
    /// scale; lists, maps and structs (which may have fields that the other lacks) by their parts.
    pub fn is_kin(&self, other: &ColumnType) -> bool {
        use ColumnType as T;
        match (self, other) {
            (T::Int | T::Long, T::Int | T::Long) | (T::Float | T::Double, T::Float | T::Double) => true,
            (T::Decimal { scale: a, .. }, T::Decimal { scale: b, .. }) => a == b,
            (T::List(a), T::List(b)) | (T::Map(a), T::Map(b)) => a.is_kin(b),
            (T::Struct(a), T::Struct(b)) => a.iter().all(|column| {
                let twin = b.iter().find(|c| c.name == column.name);
                let twin = twin.or_else(|| b.iter().find(|c| same_name(&c.name, &column.name)));
                twin.is_none_or(|twin| column.column_type.is_kin(&twin.column_type))
            }),
            (a, b) => a == b,
        }
    }
}

impl std::fmt::Display for ColumnType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ColumnType::Boolean => f.write_str("boolean"),
            ColumnType::Int => f.write_str("int"),
            ColumnType::Long => f.write_str("long"),
            ColumnType::Float => f.write_str("float"),
            ColumnType::Double => f.write_str("double"),
            ColumnType::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            ColumnType::Date => f.write_str("date"),
            ColumnType::Time => f.write_str("time"),
            ColumnType::Timestamp => f.write_str("timestamp"),
            ColumnType::TimestampTz => f.write_str("timestamptz"),
            ColumnType::String => f.write_str("string"),
            ColumnType::Uuid => f.write_str("uuid"),
            ColumnType::Binary => f.write_str("binary"),
            ColumnType::List(element) => write!(f, "list<{element}>"),
            ColumnType::Struct(columns) => {
                f.write_str("struct<")?;
                for (i, c) in columns.iter().enumerate() {
                    write!(f, "{}{}: {}", if i > 0 { ", " } else { "" }, c.name, c.column_type)?;
                }
                f.write_str(">")
            }
            ColumnType::Map(value) => write!(f, "map<string, {value}>"),
        }
    }
}

/// One column of a table. Columns are nullable except keys: an unavailable or dropped value must have a place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    pub column_type: ColumnType,
    /// Part of the primary key, therefore never null in an upsert table.
    pub key: bool,
}

impl Column {
    pub fn new(name: impl Into<String>, column_type: ColumnType) -> Self {
        Self { name: name.into(), column_type, key: false }
    }

    pub fn key(name: impl Into<String>, column_type: ColumnType) -> Self {
        Self { name: name.into(), column_type, key: true }
    }

    pub fn arrow(&self) -> Field {
        Field::new(&self.name, self.column_type.arrow(), !self.key)
    }
}

/// The columns of a table's rows: the source's columns, then (where on) the origin columns of [`origin_columns`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RowSchema {
    pub columns: Vec<Column>,
}

impl RowSchema {
    pub fn arrow(&self) -> Schema {
        Schema::new(self.columns.iter().map(Column::arrow).collect::<Vec<_>>())
    }

    pub fn key_indices(&self) -> Vec<usize> {
        self.columns.iter().enumerate().filter(|(_, c)| c.key).map(|(i, _)| i).collect()
    }

    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == name)
    }
}

/// Names of the columns that say where a row came from.
pub mod origin {
    /// What all of them begin with.
    pub const PREFIX: &str = "_firn_";
    pub const TOPIC: &str = "_firn_topic";
    pub const PARTITION: &str = "_firn_partition";
    pub const OFFSET: &str = "_firn_offset";
    pub const OP: &str = "_firn_op";
    /// When the source database committed the change (`source.ts_ms`).
    pub const SOURCE_TS: &str = "_firn_source_ts";
    pub const SOURCE_LSN: &str = "_firn_source_lsn";
    /// The columns whose null stands for a value that the source did not send and the table did not have: a list of names. In the
    /// table only where it is needed.
    pub const UNAVAILABLE: &str = "_firn_unavailable";

    /// Whether a column of this name is firn's own, as Hive and Trino compare names.
    pub fn is_own(name: &str) -> bool {
        let own = [TOPIC, PARTITION, OFFSET, OP, SOURCE_TS, SOURCE_LSN, UNAVAILABLE];
        name.starts_with(['_']) && own.iter().any(|own| own.eq_ignore_ascii_case(name))
    }
}

/// The column of [`origin::UNAVAILABLE`].
pub fn unavailable_column() -> Column {
    Column::new(origin::UNAVAILABLE, ColumnType::List(Box::new(ColumnType::String)))
}

/// The origin columns, in the order in which they follow the source's columns.
pub fn origin_columns() -> Vec<Column> {
    vec![
        Column::new(origin::TOPIC, ColumnType::String),
        Column::new(origin::PARTITION, ColumnType::Int),
        Column::new(origin::OFFSET, ColumnType::Long),
        Column::new(origin::OP, ColumnType::String),
        Column::new(origin::SOURCE_TS, ColumnType::TimestampTz),
        Column::new(origin::SOURCE_LSN, ColumnType::Long),
    ]
}
