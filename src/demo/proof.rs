//! Whether a table is what the generator's model says: row by row, value by value.
//!
//! Reads through Iceberg's own scan and shares no code with what wrote the table.

use std::collections::{BTreeMap, HashSet};

use arrow_array::{
    Array, ArrayRef, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array,
    RecordBatch, StringArray, TimestampMicrosecondArray,
};
use futures::TryStreamExt;
use serde::Serialize;

use super::DemoError;
use crate::{
    change::{ColumnType, origin},
    generate::{Cell, Row, Table},
};

/// Differences that are told in full; the rest is counted.
const TOLD: usize = 5;

/// What a table must hold.
#[derive(Clone, Debug)]
pub enum Truth {
    /// These rows, sorted: an upsert table.
    Rows(Vec<Row>),
    /// Every change as a row of its own, so many; folded by key they are these rows: an append table.
    EveryChange { rows: Vec<Row>, changes: u64 },
}

/// One table, compared.
#[derive(Clone, Debug, Serialize)]
pub struct TableProof {
    pub table: String,
    pub mode: &'static str,
    pub rows_expected: u64,
    pub rows_found: u64,
    /// Rows that have another row's (topic, partition, offset).
    pub duplicates: u64,
    /// How many rows are missing, too many or different.
    pub different: u64,
    /// The first of them.
    pub differences: Vec<String>,
    pub commits: u64,
}

impl TableProof {
    pub fn equal(&self) -> bool {
        self.rows_expected == self.rows_found && self.duplicates == 0 && self.different == 0
    }
}

/// The whole table as its readers see it.
///
/// # Errors
/// When the scan fails.
pub async fn read(table: &iceberg::table::Table) -> iceberg::Result<Vec<RecordBatch>> {
    table.scan().select_all().build()?.to_arrow().await?.try_collect().await
}

/// A row as it stands in the lake.
struct Found {
    row: Row,
    /// Partition and offset.
    at: (i64, i64),
    topic: String,
    op: String,
}

/// Compares what was read with what must be there.
///
/// # Errors
/// When the columns are not the generator's.
pub fn compare(table: Table, name: &str, truth: &Truth, batches: &[RecordBatch]) -> Result<TableProof, DemoError> {
    let shape = |what: String| DemoError::Shape { table: name.to_owned(), what };
    let mut found = Vec::new();
    for batch in batches {
        found.extend(rows(table, batch).map_err(shape)?);
    }
    let mut places = HashSet::new();
    let duplicates = found.iter().filter(|f| !places.insert((f.topic.as_str(), f.at))).count() as u64;
    let rows_found = found.len() as u64;
    let keys = table.columns().iter().filter(|c| c.key).count();
    let (mode, rows_expected, expected, state) = match truth {
        Truth::Rows(rows) => ("upsert", rows.len() as u64, rows, found.into_iter().map(|f| f.row).collect()),
        Truth::EveryChange { rows, changes } => ("append", *changes, rows, fold(found, keys)),
    };
    let (different, differences) = differences(table, expected, state);
    Ok(TableProof {
        table: name.to_owned(),
        mode,
        rows_expected,
        rows_found,
        duplicates,
        different,
        differences,
        commits: 0,
    })
}

/// The state that a log of changes comes to: per key the last change counts, in Kafka's order within its partition.
fn fold(mut changes: Vec<Found>, keys: usize) -> Vec<Row> {
    changes.sort_by_key(|c| c.at);
    let mut state: BTreeMap<Row, Option<Row>> = BTreeMap::new();
    for change in changes {
        let key = change.row.iter().take(keys).cloned().collect();
        state.insert(key, (change.op != "d").then_some(change.row));
    }
    state.into_values().flatten().collect()
}

/// How many rows differ, and the first ones in words. `expected` is sorted.
fn differences(table: Table, expected: &[Row], mut found: Vec<Row>) -> (u64, Vec<String>) {
    found.sort_unstable();
    if expected == found {
        return (0, Vec::new());
    }
    let keys: Vec<&str> = table.columns().iter().filter(|c| c.key).map(|c| c.name).collect();
    let mut by_key: BTreeMap<&[Cell], (Vec<&Row>, Vec<&Row>)> = BTreeMap::new();
    for row in expected {
        by_key.entry(row.get(..keys.len()).unwrap_or_default()).or_default().0.push(row);
    }
    for row in &found {
        by_key.entry(row.get(..keys.len()).unwrap_or_default()).or_default().1.push(row);
    }
    let mut told = Vec::new();
    let mut count = 0;
    for (key, (expected, found)) in by_key {
        if expected == found {
            continue;
        }
        count += 1;
        if told.len() < TOLD {
            let name: Vec<String> = keys.iter().zip(key).map(|(name, cell)| format!("{name}={cell}")).collect();
            told.push(format!("{}: {}", name.join(" "), in_words(table, &expected, &found)));
        }
    }
    (count, told)
}

fn in_words(table: Table, expected: &[&Row], found: &[&Row]) -> String {
    match (expected, found) {
        (_, []) => "is missing".to_owned(),
        ([], _) => "must not be there".to_owned(),
        ([expected], [found]) => {
            let cells = table.columns().iter().zip(expected.iter().zip(found.iter()));
            let different = cells.filter(|(_, (e, f))| e != f);
            different.map(|(c, (e, f))| format!("{} is {f}, must be {e}", c.name)).collect::<Vec<_>>().join(", ")
        }
        _ => format!("is there {} times", found.len()),
    }
}

fn rows(table: Table, batch: &RecordBatch) -> Result<Vec<Found>, String> {
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("column {name} is missing"));
    let mut rows: Vec<Row> = vec![Vec::with_capacity(table.columns().len()); batch.num_rows()];
    for spec in table.columns() {
        let cells = cells(column(spec.name)?, &spec.kind.column_type()).ok_or_else(|| {
            let is = batch.schema().field_with_name(spec.name).map(|f| f.data_type().to_string()).unwrap_or_default();
            format!("column {} is {is}, must be {}", spec.name, spec.kind.column_type())
        })?;
        rows.iter_mut().zip(cells).for_each(|(row, cell)| row.push(cell));
    }
    let origin = |name: &str, column_type: ColumnType| {
        cells(column(name)?, &column_type).ok_or_else(|| format!("column {name} is not {column_type}"))
    };
    let text = |cell: Cell| if let Cell::Text(text) = cell { text.into_owned() } else { String::new() };
    let number = |cell: Cell| if let Cell::Int(number) = cell { number } else { -1 };
    let topics = origin(origin::TOPIC, ColumnType::String)?;
    let partitions = origin(origin::PARTITION, ColumnType::Int)?;
    let offsets = origin(origin::OFFSET, ColumnType::Long)?;
    let ops = origin(origin::OP, ColumnType::String)?;
    Ok(rows
        .into_iter()
        .zip(topics)
        .zip(partitions.into_iter().zip(offsets))
        .zip(ops)
        .map(|(((row, topic), (partition, offset)), op)| Found {
            row,
            at: (number(partition), number(offset)),
            topic: text(topic),
            op: text(op),
        })
        .collect())
}

/// A column's values; `None` where it is not of the type.
fn cells(column: &ArrayRef, column_type: &ColumnType) -> Option<Vec<Cell>> {
    let any = column.as_any();
    let each = |cell: &dyn Fn(usize) -> Cell| {
        (0..column.len()).map(|i| if column.is_null(i) { Cell::Null } else { cell(i) }).collect()
    };
    Some(match column_type {
        ColumnType::Int => {
            let a = any.downcast_ref::<Int32Array>()?;
            each(&|i| Cell::Int(i64::from(a.value(i))))
        }
        ColumnType::Long => {
            let a = any.downcast_ref::<Int64Array>()?;
            each(&|i| Cell::Int(a.value(i)))
        }
        ColumnType::Double => {
            let a = any.downcast_ref::<Float64Array>()?;
            each(&|i| Cell::Double(a.value(i)))
        }
        ColumnType::Decimal { precision, scale } => {
            let a = any.downcast_ref::<Decimal128Array>()?;
            if (a.precision(), a.scale()) != (*precision, *scale as i8) {
                return None;
            }
            each(&|i| Cell::Decimal { unscaled: a.value(i), scale: *scale as i8 })
        }
        ColumnType::String => {
            let a = any.downcast_ref::<StringArray>()?;
            each(&|i| Cell::Text(a.value(i).to_owned().into()))
        }
        ColumnType::Uuid => {
            let a = any.downcast_ref::<FixedSizeBinaryArray>().filter(|a| a.value_length() == 16)?;
            each(&|i| Cell::Uuid(a.value(i).iter().fold(0, |n, b| (n << 8) | u128::from(*b))))
        }
        ColumnType::Date => {
            let a = any.downcast_ref::<Date32Array>()?;
            each(&|i| Cell::Date(a.value(i)))
        }
        ColumnType::Timestamp => {
            let a = any.downcast_ref::<TimestampMicrosecondArray>().filter(|a| a.timezone().is_none())?;
            each(&|i| Cell::Timestamp(a.value(i)))
        }
        ColumnType::TimestampTz => {
            let a = any.downcast_ref::<TimestampMicrosecondArray>().filter(|a| a.timezone().is_some())?;
            each(&|i| Cell::TimestampTz(a.value(i)))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
