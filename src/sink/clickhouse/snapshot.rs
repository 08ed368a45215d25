//! Rows of snapshots that a table of facts is not to get: its settings want none, or only those that it lacks.
//!
//! | a row | is left out where |
//! |---|---|
//! | of a snapshot | its key is in the table, or a row before it in the same delivery has it |
//! | of a change | never |
//!
//! A key with a NULL is equal to no other. A delivery that was sent in part is looked at anew when it is sent again: a part that the
//! table has is dropped by its token, whatever it holds then; of a part that it lacks a row is left out only where another row has
//! its key. So no key is there twice, and none is lost.

use std::collections::{BTreeSet, HashSet};

use arrow_array::{ArrayRef, RecordBatch};
use arrow_row::{RowConverter, SortField};

use super::server::Server;
use super::settings::{ClickHouseSettings, SnapshotRows};
use super::sql::name;
use super::stated::{ROW, stated};
use super::table::Table;
use crate::change::Op;
use crate::sink::{Delivery, SinkError};

/// The rows of a delivery, `rows` as they would be sent, that are left out.
///
/// # Errors
/// [`SinkError::Stopped`] where a row of the SELECT is not one of a change, or has no such key.
pub(super) async fn left_out(
    server: &Server,
    settings: &ClickHouseSettings,
    table: &Table,
    delivery: &Delivery,
    rows: &RecordBatch,
) -> Result<BTreeSet<u32>, SinkError> {
    if settings.snapshot_rows == SnapshotRows::All {
        return Ok(BTreeSet::new());
    }
    let Some(origins) = &delivery.origins else {
        return Err(SinkError::Stopped(
            "snapshot_rows needs to know which change a row comes from, and the SELECT puts several into one: leave GROUP BY, \
             DISTINCT or the like out of it, or set snapshot_rows = \"all\""
                .to_owned(),
        ));
    };
    let reads: BTreeSet<u32> = (0..).zip(origins).filter(|(_, o)| o.op == Op::Read).map(|(row, _)| row).collect();
    if reads.is_empty() || settings.snapshot_rows == SnapshotRows::None {
        return Ok(reads);
    }
    let key = key_columns(settings, table, rows)?;
    let mut out = repeated(&key, &reads)?;
    let asked: Vec<u32> = reads.difference(&out).copied().collect();
    out.extend(present(server, settings, table, rows, &asked).await?);
    Ok(out)
}

/// Whether the table is asked which rows of this delivery it has.
pub(super) fn is_asked_for(settings: &ClickHouseSettings, delivery: &Delivery) -> bool {
    settings.snapshot_rows == SnapshotRows::Missing
        && delivery.origins.iter().flatten().any(|origin| origin.op == Op::Read)
}

fn key_columns(settings: &ClickHouseSettings, table: &Table, rows: &RecordBatch) -> Result<Vec<ArrayRef>, SinkError> {
    let column = |name: &String| match rows.column_by_name(name) {
        Some(values) if table.columns.contains_key(name) => Ok(values.clone()),
        _ => Err(SinkError::Stopped(format!("snapshot_key names `{name}`, which the SELECT does not give"))),
    };
    settings.snapshot_key.iter().map(column).collect()
}

/// Of `reads` those whose key a row before them has.
fn repeated(key: &[ArrayRef], reads: &BTreeSet<u32>) -> Result<BTreeSet<u32>, SinkError> {
    let unfit = |e: arrow_schema::ArrowError| SinkError::Stopped(format!("snapshot_key can't be compared: {e}"));
    let fields = key.iter().map(|values| SortField::new(values.data_type().clone())).collect();
    let rows = RowConverter::new(fields).and_then(|converter| converter.convert_columns(key)).map_err(unfit)?;
    let mut seen = HashSet::new();
    let has_null = |row: usize| key.iter().any(|values| values.is_null(row));
    let again = |row: &u32| {
        let at = *row as usize;
        !has_null(at) && !seen.insert(rows.row(at)) && reads.contains(row)
    };
    Ok((0..rows.num_rows() as u32).filter(again).collect())
}

/// Of `asked` those whose key is in the table.
async fn present(
    server: &Server,
    settings: &ClickHouseSettings,
    table: &Table,
    rows: &RecordBatch,
    asked: &[u32],
) -> Result<Vec<u32>, SinkError> {
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let typed = settings.snapshot_key.iter().filter_map(|c| Some((c.clone(), table.columns.get(c)?.clone())));
    let asked = stated(rows, &typed.collect::<Vec<_>>(), asked).map_err(SinkError::Stopped)?;
    let key: Vec<String> = settings.snapshot_key.iter().map(|column| name(column)).collect();
    let key = key.join(", ");
    // The inner set lets ClickHouse read only what the sorting key and the partitions leave.
    let sql = format!(
        "SELECT {ROW} FROM {asked} WHERE ({key}) IN (SELECT {key} FROM {} WHERE ({key}) IN (SELECT {key} FROM {asked}))",
        settings.table_name()
    );
    Ok(server.rows::<u32>(&sql).await?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, StringArray};

    use super::*;

    #[test]
    fn of_rows_with_one_key_the_first_counts_and_changes_always_do() {
        let ids = Int64Array::from(vec![Some(1), Some(1), Some(2), Some(1), None, None, Some(2)]);
        let kinds = StringArray::from(vec!["a", "a", "a", "b", "a", "a", "a"]);
        let key: Vec<ArrayRef> = vec![Arc::new(ids), Arc::new(kinds)];
        // Row 2 is a change, and so is 6.
        let reads = BTreeSet::from([0, 1, 3, 4, 5]);
        assert_eq!(repeated(&key, &reads).unwrap(), BTreeSet::from([1]));
        assert_eq!(repeated(&key, &BTreeSet::from([6])).unwrap(), BTreeSet::from([6]));
    }
}
