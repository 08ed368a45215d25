//! Which rows ClickHouse does not take, where it alone converts (enums, addresses, JSON).
//!
//! Found by halves: the rows are inserted into `null(...)`, ClickHouse's table function that converts and keeps nothing.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use bytes::Bytes;

use super::fault::{Fault, FaultKind};
use super::rows::arrow_stream;
use super::server::Server;
use super::sql::{name, text};
use crate::sink::{RefusedRow, SinkError};

/// What is to be said of rows whose insert failed with `fault`.
pub(super) async fn find(
    server: &Server,
    rows: &RecordBatch,
    columns: &BTreeMap<String, String>,
    fault: Fault,
) -> SinkError {
    if fault.kind != FaultKind::Value {
        return fault.into();
    }
    let (mut names, mut structure) = (Vec::new(), Vec::new());
    for field in rows.schema_ref().fields() {
        let column_type = columns.get(field.name()).map_or("String", String::as_str);
        names.push(name(field.name()));
        structure.push(format!("{} {column_type}", name(field.name())));
    }
    let insert =
        format!("INSERT INTO FUNCTION null({}) ({}) FORMAT ArrowStream", text(&structure.join(", ")), names.join(", "));
    let mut refused = Vec::new();
    let mut open = vec![(0, rows.num_rows())];
    while let Some((from, length)) = open.pop() {
        match convert(server, &insert, &rows.slice(from, length)).await {
            Ok(()) => {}
            Err(fault) if fault.kind != FaultKind::Value => return fault.into(),
            Err(fault) if length == 1 => refused.push(RefusedRow { row: from, detail: fault.text }),
            Err(_) => {
                let half = length / 2;
                open.push((from + half, length - half));
                open.push((from, half));
            }
        }
    }
    // Each row can be converted: what is wrong is the table's own rule, and ClickHouse's text names it.
    if refused.is_empty() { fault.into() } else { SinkError::Refused(refused) }
}

async fn convert(server: &Server, insert: &str, rows: &RecordBatch) -> Result<(), Fault> {
    let stream =
        arrow_stream(rows).map_err(|e| Fault::away(&server.node, &format!("rows can't be written as Arrow: {e}")))?;
    let open = server.open_insert(insert, "", Bytes::from(stream)).await?;
    server.end_insert(open).await
}
