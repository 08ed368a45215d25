//! The source's changes as a worker hands them to its stager.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use firn::batch::{ChangeBatch, Unavailable};
use firn::change::{Column, ColumnType, Op, RowSchema, origin};
use firn::sink::lake::Stager;
use firn::table_event::{Fence, Truncate};

use super::source::{Change, Record, RowChange, TOPIC, at};

/// `wide`: the records have a later column.
pub fn columns(wide: bool) -> RowSchema {
    let mut columns = vec![Column::key("id", ColumnType::Long)];
    columns.extend(["v", "body"].map(|name| Column::new(name, ColumnType::Long)));
    if wide {
        columns.push(Column::new("later", ColumnType::String));
    }
    RowSchema { columns }
}

/// In append mode a truncate is no row.
pub fn write(stager: &mut Stager, partition: i32, records: &[Record], wide: bool) {
    let mut rows = vec![];
    let flush = |stager: &mut Stager, rows: &mut Vec<_>| {
        if !rows.is_empty() {
            stager.write(batch(partition, &std::mem::take(rows), wide)).unwrap();
        }
    };
    for Record { offset, change } in records {
        match change.clone() {
            Change::Row(change) => rows.push((*offset, change)),
            Change::Truncate { lsn } => {
                flush(stager, &mut rows);
                let fence = Some(Fence { lsn, last_commit: Some(lsn - 1) });
                stager.truncate(Truncate { at: at(partition), offset: *offset, fence, only_partition: false }).unwrap();
            }
        }
    }
    flush(stager, &mut rows);
}

/// Rows, each with its offset.
fn batch(partition: i32, rows: &[(i64, RowChange)], wide: bool) -> ChangeBatch {
    let n = rows.len();
    let ops: Vec<Op> = rows.iter().map(|(_, c)| if c.v.is_some() { Op::Update } else { Op::Delete }).collect();
    let body = |c: &RowChange| (c.sent && c.v.is_some()).then_some(c.body);
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, c)| c.id)))),
        ("v", Arc::new(rows.iter().map(|(_, c)| c.v).collect::<Int64Array>())),
        ("body", Arc::new(rows.iter().map(|(_, c)| body(c)).collect::<Int64Array>())),
        (origin::TOPIC, Arc::new(StringArray::from(vec![TOPIC; n]))),
        (origin::PARTITION, Arc::new(Int32Array::from(vec![partition; n]))),
        (origin::OFFSET, Arc::new(Int64Array::from_iter_values(rows.iter().map(|(offset, _)| *offset)))),
        (origin::OP, Arc::new(StringArray::from_iter_values(ops.iter().map(|op| op.letter())))),
        (origin::SOURCE_LSN, Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, c)| c.lsn)))),
    ];
    if wide {
        columns.push(("later", Arc::new(StringArray::from(vec!["x"; n]))));
    }
    let mut batch = ChangeBatch::new(RecordBatch::try_from_iter(columns).unwrap(), ops);
    let mut former = vec![];
    for (row, (_, change)) in (0..).zip(rows) {
        if change.rekeyed {
            batch.rekeyed.push(row);
        }
        if !change.sent {
            let former_key = change.former.map(|_| former.len() as u32);
            former.extend(change.former);
            batch.unavailable.push(Unavailable { row, columns: vec![2], former_key });
        }
    }
    if !former.is_empty() {
        let former: ArrayRef = Arc::new(Int64Array::from(former));
        batch.former_keys = Some(RecordBatch::try_from_iter([("id", former)]).unwrap());
    }
    batch
}
