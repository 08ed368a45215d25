//! A process that is paused between its last look at the intent and the end of its insert.

use super::server::OpenInsert;
use super::*;
use crate::change::Op;
use crate::position::Span;
use crate::sink::RowOrigin;
use crate::sink::intent::Begin;
use crate::sink::keeping::Keeping;

fn delivery(ids: &[i64]) -> Delivery {
    let columns: Vec<arrow_array::ArrayRef> = vec![
        std::sync::Arc::new(arrow_array::Int64Array::from(ids.to_vec())),
        std::sync::Arc::new(arrow_array::TimestampMicrosecondArray::from(vec![0; ids.len()]).with_timezone("+00:00")),
        std::sync::Arc::new(arrow_array::StringArray::from_iter_values(ids.iter().map(ToString::to_string))),
    ];
    let (from, next) = (ids[0], ids[ids.len() - 1] + 1);
    Delivery {
        span: Span::new(conformance::at(0), from, next),
        rows: arrow_array::RecordBatch::try_new(conformance::columns(), columns).unwrap(),
        origins: Some(ids.iter().map(|id| RowOrigin::new(*id, Op::Create)).collect()),
        keeping: Keeping::default(),
    }
}

async fn start(place: &TestTable) -> (ClickHouseSink, Server) {
    let mut sink = ClickHouseSink::new(place.settings.clone(), &format!("suite.{}", place.settings.table));
    sink.prepare(&conformance::columns()).await.unwrap();
    sink.take_over(&[conformance::at(0)]).await.unwrap();
    let server = sink.server().await.unwrap();
    (sink, server)
}

/// The state of a process that has opened its insert and read that the intent is its own.
async fn opened(place: &TestTable) -> (Server, OpenInsert) {
    let (mut sink, server) = start(place).await;
    let (at, delivery) = (conformance::at(0), delivery(&[0, 1, 2]));
    let Ok(Begin::New(intent)) = sink.held[&at].intent().begin(&delivery.span, false, now_ms()) else { panic!() };
    let rows = rows::encode(&delivery, &intent, sink.table.as_ref().unwrap()).unwrap();
    let parts = sink.table.as_ref().unwrap().partition_key.split(&server, &rows, &Default::default()).await.unwrap();
    sink.held.insert(at.clone(), Held::offered(intent.clone()));
    sink.store(&server, &at).await.unwrap();
    let open = sink.open(&server, &at, &intent, &parts[0]).await.unwrap();
    (server, open)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_after_the_next_owner_sent_it_again_is_dropped() {
    let Some(address) = address() else { return };
    let place = TestTable::new(&address, "late");
    let (server, open) = opened(&place).await;
    let (mut new, _) = start(&place).await;
    new.deliver(&delivery(&[0, 1, 2])).await.unwrap();
    new.deliver(&delivery(&[3, 4])).await.unwrap();
    server.end_insert(open).await.unwrap();
    assert_eq!(place.held().await.len(), 5);
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_before_the_next_owner_sends_it_again_stays() {
    let Some(address) = address() else { return };
    let place = TestTable::new(&address, "late");
    let (server, open) = opened(&place).await;
    let (mut new, _) = start(&place).await;
    server.end_insert(open).await.unwrap();
    new.deliver(&delivery(&[0, 1, 2])).await.unwrap();
    assert_eq!(place.held().await.len(), 3);
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_ended_is_never_there() {
    let Some(address) = address() else { return };
    let place = TestTable::new(&address, "late");
    let (server, open) = opened(&place).await;
    drop(open);
    assert_eq!(place.held().await, Vec::<i64>::new());
    drop(server);
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_range_is_not_sent_again_once_that_is_stored() {
    let Some(address) = address() else { return };
    let place = TestTable::new(&address, "finished");
    let (mut sink, _) = start(&place).await;
    sink.deliver(&delivery(&[0, 1, 2])).await.unwrap();
    let at = [conformance::at(0)];
    let until = |standing: Vec<Option<Standing>>| standing[0].clone().unwrap().until;
    let (mut other, _) = start(&place).await;
    assert_eq!(until(other.take_over(&at).await.unwrap()), Some(3), "nobody stored that it is finished");
    other.deliver(&delivery(&[0, 1, 2])).await.unwrap();
    other.tick(i64::MAX).await.unwrap();
    sink.tick(i64::MAX).await.unwrap();
    assert_eq!(until(sink.take_over(&at).await.unwrap()), None);
    sink.deliver(&delivery(&[3, 4])).await.unwrap();
    assert_eq!(until(sink.take_over(&at).await.unwrap()), None, "what the process itself finished it knows");
    assert_eq!(place.held().await.len(), 5);
    place.remove().await;
}

/// An answer that was lost on the way of the intent itself: the same sink goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_may_be_stored_is_offered_again() {
    let Some(address) = address() else { return };
    for stored in [false, true] {
        let place = TestTable::new(&address, "offered");
        let (mut sink, server) = start(&place).await;
        let at = conformance::at(0);
        let Ok(Begin::New(intent)) = sink.held[&at].intent().begin(&Span::new(at.clone(), 0, 3), false, 1) else {
            panic!()
        };
        if stored {
            sink.intents.offer(&server, &at, &intent).await.unwrap();
        }
        sink.held.insert(at.clone(), Held::offered(intent));
        sink.deliver(&delivery(&[0, 1, 2])).await.unwrap();
        assert_eq!(place.held().await.len(), 3, "stored: {stored}");
        place.remove().await;
    }
}
