//! Rows of snapshots that the table has already, or is not to get.

use std::sync::atomic::Ordering;

use super::*;
use crate::change::Op;
use crate::position::Span;
use crate::sink::RowOrigin;
use crate::sink::intent::Begin;
use crate::sink::keeping::Keeping;

const DAY_US: i64 = 86_400_000_000;

/// Rows `(id, op)`; each id is on a day of its own of three.
fn delivery(from: i64, rows: &[(i64, Op)]) -> Delivery {
    let ids = rows.iter().map(|(id, _)| *id);
    let days = arrow_array::TimestampMicrosecondArray::from_iter_values(ids.clone().map(|id| id % 3 * DAY_US));
    let columns: Vec<arrow_array::ArrayRef> = vec![
        Arc::new(arrow_array::Int64Array::from_iter_values(ids.clone())),
        Arc::new(days.with_timezone("+00:00")),
        Arc::new(arrow_array::StringArray::from_iter_values(ids.map(|id| id.to_string()))),
    ];
    let origin = |(offset, row): (i64, &(i64, Op))| RowOrigin::new(offset, row.1);
    Delivery {
        span: Span::new(conformance::at(0), from, from + rows.len() as i64),
        rows: arrow_array::RecordBatch::try_new(conformance::columns(), columns).unwrap(),
        origins: Some((from..).zip(rows).map(origin).collect()),
        keeping: Keeping::default(),
    }
}

fn of(op: Op, ids: &[i64]) -> Vec<(i64, Op)> {
    ids.iter().map(|id| (*id, op)).collect()
}

fn place(address: &str, rows: SnapshotRows, key: &[&str]) -> TestTable {
    let mut place = TestTable::new(address, "snapshots");
    place.settings.snapshot_rows = rows;
    place.settings.snapshot_key = key.iter().map(|column| (*column).to_owned()).collect();
    place
}

async fn start(place: &TestTable) -> ClickHouseSink {
    let mut sink = ClickHouseSink::new(place.settings.clone(), "suite.snapshots");
    sink.prepare(&conformance::columns()).await.unwrap();
    sink.take_over(&[conformance::at(0)]).await.unwrap();
    sink
}

async fn held(place: &TestTable) -> Vec<i64> {
    let mut held = place.held().await;
    held.sort_unstable();
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_table_lacks_comes_from_a_snapshot() {
    let Some(address) = address() else { return };
    for key in [&["id"][..], &["id", "at", "digits"]] {
        let place = place(&address, SnapshotRows::Missing, key);
        let mut sink = start(&place).await;
        sink.deliver(&delivery(0, &of(Op::Create, &[2, 3, 4]))).await.unwrap();
        // Within a delivery too, whatever a row of the same key is; and a change is a row in any case.
        let mut rows = of(Op::Read, &[0, 1, 2, 3, 1]);
        rows.extend(of(Op::Update, &[7, 4]));
        rows.extend(of(Op::Read, &[7, 8]));
        sink.deliver(&delivery(3, &rows)).await.unwrap();
        assert_eq!(held(&place).await, [0, 1, 2, 3, 4, 4, 7, 8], "{key:?}");
        assert_eq!(sink.skipped().load(Ordering::Relaxed), 4);
        // All of it once more: a range that only has what is there.
        sink.deliver(&delivery(12, &of(Op::Read, &[0, 1, 2, 3, 4, 7, 8]))).await.unwrap();
        sink.deliver(&delivery(19, &of(Op::Read, &[9]))).await.unwrap();
        assert_eq!(held(&place).await, [0, 1, 2, 3, 4, 4, 7, 8, 9]);
        place.remove().await;
    }
}

/// A key can be in several Kafka partitions.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_table_lacks_is_known_once_the_deliveries_before_are_in_it() {
    let Some(address) = address() else { return };
    let place = place(&address, SnapshotRows::Missing, &["id"]);
    let mut sink = start(&place).await;
    sink.take_over(&[conformance::at(1)]).await.unwrap();
    let mut other = delivery(0, &of(Op::Read, &[1, 2]));
    other.span.at = conformance::at(1);
    let deliveries = [delivery(0, &of(Op::Read, &[0, 1])), other];
    assert_eq!(sink.deliver_some(&deliveries).await, [Ok(())]);
    assert_eq!(sink.deliver_some(&deliveries[1..]).await, [Ok(())]);
    assert_eq!(held(&place).await, [0, 1, 2]);
    place.remove().await;
}

/// A range that was sent in part, by a process that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_is_sent_again_is_neither_doubled_nor_lost() {
    let Some(address) = address() else { return };
    let mut rows = of(Op::Read, &[0, 1, 2, 3, 4, 5]);
    rows.extend(of(Op::Create, &[6, 7, 8]));
    let delivery = delivery(0, &rows);
    for inserted in [&[0][..], &[1], &[2], &[0, 2], &[0, 1, 2]] {
        let place = place(&address, SnapshotRows::Missing, &["id"]);
        let mut sink = start(&place).await;
        let (server, at) = (sink.server().await.unwrap(), conformance::at(0));
        let Ok(Begin::New(intent)) = sink.held[&at].intent().begin(&delivery.span, false, now_ms()) else { panic!() };
        let encoded = rows::encode(&delivery, &intent, sink.table.as_ref().unwrap()).unwrap();
        let key = &sink.table.as_ref().unwrap().partition_key;
        let parts = key.split(&server, &encoded, &Default::default()).await.unwrap();
        sink.held.insert(at.clone(), Held::offered(intent.clone()));
        sink.store(&server, &at).await.unwrap();
        for part in inserted {
            let open = sink.open(&server, &at, &intent, &parts[*part]).await.unwrap();
            server.end_insert(open).await.unwrap();
        }
        start(&place).await.deliver(&delivery).await.unwrap();
        assert_eq!(held(&place).await, [0, 1, 2, 3, 4, 5, 6, 7, 8], "after parts {inserted:?}");
        place.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_may_want_no_row_of_a_snapshot() {
    let Some(address) = address() else { return };
    let place = place(&address, SnapshotRows::None, &[]);
    let mut sink = start(&place).await;
    let mut rows = of(Op::Read, &[0, 1, 2]);
    sink.deliver(&delivery(0, &rows)).await.unwrap();
    rows.extend(of(Op::Create, &[3]));
    sink.deliver(&delivery(3, &rows)).await.unwrap();
    assert_eq!((held(&place).await, sink.skipped().load(Ordering::Relaxed)), (vec![3], 6));
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_told_apart_stops_the_sink() {
    let Some(address) = address() else { return };
    let place = place(&address, SnapshotRows::Missing, &["nothing"]);
    let mut sink = start(&place).await;
    let unknown = sink.deliver(&delivery(0, &of(Op::Read, &[0]))).await;
    assert!(matches!(unknown, Err(SinkError::Stopped(why)) if why.contains("`nothing`")));
    let several = Delivery { origins: None, ..delivery(0, &of(Op::Read, &[0])) };
    assert!(matches!(sink.deliver(&several).await, Err(SinkError::Stopped(why)) if why.contains("GROUP BY")));
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_gets_what_it_lacks_conforms() {
    let Some(address) = address() else { return };
    let place = |case: &str| {
        let mut place = TestTable::new(&address, case);
        place.settings.snapshot_rows = SnapshotRows::Missing;
        place.settings.snapshot_key = vec!["id".to_owned()];
        place
    };
    conformance::all(place).await;
}
