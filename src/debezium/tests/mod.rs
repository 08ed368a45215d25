//! Real records from captures of Debezium (`tests/fixtures`), driven through the decoder as the pipeline does it.

mod altered;
mod avro;
mod avro_damage;
mod avro_keys;
mod before;
mod captures;
mod damage;
mod described;
mod faults;
mod fixtures;
mod flattened;
mod fuzz;
mod inference;
mod keys;
mod mutations;
mod oracle;
mod schemas;
mod sql;
mod unavailable;
mod values;

use std::collections::BTreeMap;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;

use super::*;
use crate::change::{ColumnType, DeleteImage, Mode, Op, RowSchema};
use crate::record::{Headers, Record};
use crate::table_event::Fence;

/// A record as captured.
#[derive(Clone, Debug, serde::Deserialize)]
pub(super) struct Captured {
    pub(super) topic: String,
    partition: i32,
    offset: i64,
    timestamp: Option<i64>,
    pub(super) key: Option<String>,
    pub(super) value: Option<String>,
    #[serde(default)]
    headers: CapturedHeaders,
    #[serde(skip)]
    avro: Option<avro::Encoded>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(transparent)]
struct CapturedHeaders(BTreeMap<String, Option<String>>);

impl Headers for CapturedHeaders {
    fn last(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name)?.as_deref().map(str::as_bytes)
    }

    fn all(&self) -> Vec<(String, Vec<u8>)> {
        self.0.iter().map(|(name, value)| (name.clone(), value.clone().unwrap_or_default().into_bytes())).collect()
    }
}

impl Captured {
    pub(super) fn record(&self) -> Record<'_> {
        Record {
            topic: &self.topic,
            partition: self.partition,
            offset: self.offset,
            timestamp_ms: self.timestamp,
            key: self.avro.as_ref().map_or(self.key.as_deref().map(str::as_bytes), |e| e.key.as_deref()),
            value: self.avro.as_ref().map_or(self.value.as_deref().map(str::as_bytes), |e| e.value.as_deref()),
            headers: Some(&self.headers),
        }
    }
}

pub(super) fn fixture(name: &str) -> Vec<Captured> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format!("{name}.jsonl"));
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of_topic(records: Vec<Captured>, suffix: &str) -> Vec<Captured> {
    records.into_iter().filter(|r| r.topic.ends_with(suffix)).collect()
}

/// A value, whatever its column's type.
#[derive(Clone, Debug, PartialEq)]
enum Cell {
    Null,
    Boolean(bool),
    Int(i128),
    /// By its bits: NaN equals NaN, -0.0 is not 0.0.
    Float(u64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Cell>),
    Struct(Vec<(String, Cell)>),
    Map(Vec<(String, Cell)>),
}

fn cell(array: &dyn Array, at: usize) -> Cell {
    if array.is_null(at) {
        return Cell::Null;
    }
    match array.data_type() {
        DataType::Boolean => Cell::Boolean(array.as_boolean().value(at)),
        DataType::Int32 => Cell::Int(array.as_primitive::<Int32Type>().value(at).into()),
        DataType::Date32 => Cell::Int(array.as_primitive::<Date32Type>().value(at).into()),
        DataType::Int64 => Cell::Int(array.as_primitive::<Int64Type>().value(at).into()),
        DataType::Time64(_) => Cell::Int(array.as_primitive::<Time64MicrosecondType>().value(at).into()),
        DataType::Timestamp(_, _) => Cell::Int(array.as_primitive::<TimestampMicrosecondType>().value(at).into()),
        DataType::Decimal128(_, _) => Cell::Int(array.as_primitive::<Decimal128Type>().value(at)),
        DataType::Float32 => Cell::Float(f64::from(array.as_primitive::<Float32Type>().value(at)).to_bits()),
        DataType::Float64 => Cell::Float(array.as_primitive::<Float64Type>().value(at).to_bits()),
        DataType::Utf8 => Cell::Text(array.as_string::<i32>().value(at).to_owned()),
        DataType::LargeBinary => Cell::Bytes(array.as_binary::<i64>().value(at).to_vec()),
        DataType::FixedSizeBinary(_) => Cell::Bytes(array.as_fixed_size_binary().value(at).to_vec()),
        DataType::List(_) => {
            let list = array.as_list::<i32>().value(at);
            Cell::List((0..list.len()).map(|i| cell(&list, i)).collect())
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            Cell::Struct(fields.iter().zip(columns).map(|(f, c)| (f.name().clone(), cell(c, at))).collect())
        }
        DataType::Map(_, _) => {
            let entries = array.as_map().value(at);
            let text = |i| match cell(entries.column(0), i) {
                Cell::Text(text) => text,
                other => panic!("{other:?}"),
            };
            Cell::Map((0..entries.len()).map(|i| (text(i), cell(entries.column(1), i))).collect())
        }
        other => panic!("{other}"),
    }
}

/// A decoded row.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    op: Op,
    cells: BTreeMap<String, Cell>,
}

impl Row {
    #[track_caller]
    fn get(&self, column: &str) -> &Cell {
        self.cells.get(column).unwrap_or_else(|| panic!("no column {column}"))
    }
}

fn rows_of(batch: &RecordBatch, ops: &[Op]) -> Vec<Row> {
    batch.columns().iter().for_each(|c| c.to_data().validate_full().unwrap());
    assert_eq!(batch.num_rows(), ops.len());
    let names: Vec<String> = batch.schema().fields().iter().map(|f| f.name().clone()).collect();
    let row = |at: usize| Row {
        op: ops[at],
        cells: names.iter().cloned().zip(batch.columns().iter().map(|c| cell(c, at))).collect(),
    };
    (0..ops.len()).map(row).collect()
}

/// What became of some records of one table.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    rows: Vec<Row>,
    /// By index of the record.
    skipped: Vec<(usize, Skip)>,
    truncates: Vec<(usize, Option<Fence>)>,
    rejected: Vec<(usize, Reject)>,
    /// Row schemas asked for, in order.
    asked: Vec<RowSchema>,
    pub(super) table: RowSchema,
    /// Index of the record of each row.
    from: Vec<usize>,
}

/// As the pipeline does it: columns are added and types widened when the decoder asks for them.
fn evolve(table: &RowSchema, asked: &RowSchema) -> RowSchema {
    let mut table = table.clone();
    for column in &asked.columns {
        match table.columns.iter_mut().find(|c| c.name == column.name) {
            None => table.columns.push(column.clone()),
            Some(have) => match (&have.column_type, &column.column_type) {
                (ColumnType::Int, ColumnType::Long) | (ColumnType::Float, ColumnType::Double) => {
                    have.column_type = column.column_type.clone();
                }
                (ColumnType::Decimal { precision: p, scale: s }, ColumnType::Decimal { precision, scale })
                    if scale == s && precision > p =>
                {
                    have.column_type = column.column_type.clone();
                }
                _ => {}
            },
        }
    }
    table
}

/// As the pipeline does it: writer schemas are learnt when the decoder asks for them. A source database says what it said before.
fn push(decoder: &mut Decoder, captured: &Captured) -> Pushed {
    let mut pushed = decoder.push(&captured.record());
    while let (Pushed::NeedsWriterSchema(id), Some(encoded)) = (&pushed, &captured.avro) {
        decoder.learn(*id, &encoded.registered(*id));
        pushed = decoder.push(&captured.record());
    }
    while let (Pushed::NeedsSource { .. }, SourceTypes::Columns(columns)) = (&pushed, decoder.source_types().clone()) {
        decoder.describe(columns).unwrap();
        pushed = decoder.push(&captured.record());
    }
    pushed
}

pub(super) fn drive(decoder: &mut Decoder, table: Option<RowSchema>, records: &[Captured]) -> Outcome {
    let mut out = Outcome { table: table.unwrap_or_default(), ..Outcome::default() };
    if !out.table.columns.is_empty() {
        decoder.set_schema(&out.table).unwrap();
    }
    for (at, captured) in records.iter().enumerate() {
        let mut pushed = push(decoder, captured);
        if let Pushed::NeedsSchema(asked) = &pushed {
            let batch = decoder.finish();
            out.rows.extend(rows_of(&batch.rows, &batch.ops));
            out.table = evolve(&out.table, asked);
            out.asked.push(asked.clone());
            decoder.set_schema(&out.table).unwrap();
            pushed = push(decoder, captured);
        }
        match pushed {
            Pushed::Row(_) => out.from.push(at),
            Pushed::Skipped(skip) => out.skipped.push((at, skip)),
            Pushed::Truncate(fence) => out.truncates.push((at, fence)),
            Pushed::Rejected(reject) => out.rejected.push((at, reject)),
            Pushed::NeedsSchema(again) => panic!("asked twice: {again:?}"),
            Pushed::NeedsWriterSchema(id) => panic!("schema {id} is asked for by JSON"),
            Pushed::NeedsSource { .. } => panic!("nobody can be asked"),
        }
    }
    let batch = decoder.finish();
    out.rows.extend(rows_of(&batch.rows, &batch.ops));
    assert_eq!(out.rows.len() + out.skipped.len() + out.truncates.len() + out.rejected.len(), records.len());
    assert_eq!(out.rows.len(), out.from.len());
    assert_eq!(decoder.rows(), 0);
    out
}

fn decode(mode: Mode, records: &[Captured]) -> Outcome {
    let options = DecodeOptions { mode, origin_columns: true, ..DecodeOptions::default() };
    drive(&mut Decoder::new(options), None, records)
}

fn text(text: &str) -> Cell {
    Cell::Text(text.to_owned())
}
