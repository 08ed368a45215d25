//! What a sink gathers: committed together, or read again together.

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use firn_catalog::storage::fault::{Effect, Fault, Faults, Op as Call};
use firn_catalog::{Catalog, ErrorKind, Patience};
use futures::TryStreamExt;
use iceberg::TableIdent;

use super::*;
use crate::change::Op;
use crate::pipeline::sidecar::runner::Flow;
use crate::position::Span;
use crate::sink::RowOrigin;
use crate::sink::keeping::Keeping;
use crate::sink::lake::output::{LakeSink, Pace};
use crate::sink::lake::{Shared, TableSpec};

const IDS: &str =
    "sql = \"SELECT after.id FROM events\"\nbatch_wait_ms = 20\nsources = [{ topic = \"s.public.events\" }]";
const TOPIC: &str = "s.public.events";

fn at(partition: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, partition)
}

/// Committed by command alone.
fn sink(catalog: &MemoryCatalog) -> LakeSink {
    let pace = Pace { interval: Duration::from_secs(3600), rows: 1_000_000, bytes: 1 << 30 };
    let sink = LakeSink::new(
        TableSpec::new("gold", "ids"),
        pace,
        Arc::new(catalog.clone()),
        Shared::default(),
        Handle::current(),
    );
    sink.with_patience(Patience { attempts: 1, ..Patience::default() })
}

async fn ids(catalog: &MemoryCatalog) -> Vec<i64> {
    let Ok(table) = catalog.load(&TableIdent::from_strs(["gold", "ids"]).unwrap()).await else { return vec![] };
    let rows: Vec<RecordBatch> = table.scan().build().unwrap().to_arrow().await.unwrap().try_collect().await.unwrap();
    let of = |batch: &RecordBatch| batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().values().to_vec();
    let mut all: Vec<i64> = rows.iter().flat_map(of).collect();
    all.sort_unstable();
    all
}

/// Two partitions with ten rows each, 0..10 and 100..110, which the runner has taken in.
async fn gathered(catalog: &MemoryCatalog) -> (Trial, Runner) {
    let trial = Trial::new(IDS, &[(TOPIC, 2)]).await;
    for id in 0..10 {
        trial.change(TOPIC, 0, id, "").await;
        trial.change(TOPIC, 1, 100 + id, "").await;
    }
    let mut runner = trial.runner_of(Box::new(sink(catalog)), &[]);
    let runner = on_a_thread(move || {
        runner.source.subscribe(&[TOPIC.to_owned()]).unwrap();
        step_until(&mut runner, "both are read", |r| [0, 1].iter().all(|p| has_read(r, *p)));
        assert_eq!(runner.flush().unwrap(), Flow::On);
        assert_eq!(runner.commit_if_due().unwrap(), Flow::On);
        runner
    })
    .await;
    let stand = |p| runner.slots.get(&at(p)).map(|slot| (slot.done, slot.from));
    assert_eq!((stand(0), stand(1)), (Some((0, 10)), Some((0, 10))), "taken in, and not done");
    assert!(ids(catalog).await.is_empty());
    (trial, runner)
}

fn has_read(runner: &Runner, partition: i32) -> bool {
    runner.slots.get(&at(partition)).is_some_and(|slot| slot.next == 10)
}

fn both() -> Vec<i64> {
    (0..10).chain(100..110).collect()
}

/// As it goes on after what was gathered was let go.
fn finish(runner: &mut Runner, partitions: &'static [i32]) {
    step_until(runner, "it is read again", |r| partitions.iter().all(|p| has_read(r, *p)));
    assert_eq!(runner.flush().unwrap(), Flow::On);
    assert_eq!(runner.commit().unwrap(), Flow::On);
    assert!(runner.waiting.is_none() && runner.slots.values().all(|slot| slot.done == 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_one_was_first_with_is_not_there_twice() {
    let catalog = MemoryCatalog::default();
    let (_trial, mut runner) = gathered(&catalog).await;
    let mut other = sink(&catalog);
    let rows: ArrayRef = Arc::new(Int64Array::from(vec![0, 1, 2]));
    let delivery = Delivery {
        span: Span::new(at(0), 0, 3),
        rows: RecordBatch::try_from_iter_with_nullable([("id", rows, true)]).unwrap(),
        origins: Some((0..3).map(|offset| RowOrigin::new(offset, Op::Create)).collect()),
        keeping: Keeping::default(),
    };
    other.prepare(&delivery.rows.schema()).await.unwrap();
    other.take_over(&[at(0)]).await.unwrap();
    other.deliver(&delivery).await.unwrap();
    other.commit().await.unwrap();
    on_a_thread(move || {
        assert_eq!(runner.commit().unwrap(), Flow::On);
        finish(&mut runner, &[0, 1]);
    })
    .await;
    assert_eq!(ids(&catalog).await, both());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_gathered_of_a_partition_that_goes_is_committed_first() {
    let catalog = MemoryCatalog::default();
    let (_trial, mut runner) = gathered(&catalog).await;
    let runner = on_a_thread(move || {
        runner.revoked(&[at(0)]);
        runner
    })
    .await;
    assert_eq!(ids(&catalog).await, both());
    assert_eq!(runner.slots.iter().map(|(at, slot)| (at.partition, slot.done)).collect::<Vec<_>>(), [(1, 10)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_committed_when_a_partition_goes_is_read_again() {
    let faults = Faults::default();
    let catalog = MemoryCatalog::new(faults.clone());
    let (_trial, mut runner) = gathered(&catalog).await;
    faults.add(Fault::on([Call::Swap], Effect::Fail(ErrorKind::Unavailable)).times(1_000));
    on_a_thread(move || {
        runner.revoked(&[at(0)]);
        assert_eq!(runner.slots[&at(1)].next, 0, "it was gathered with the other's rows");
        faults.clear();
        finish(&mut runner, &[1]);
    })
    .await;
    assert_eq!(ids(&catalog).await, (100..110).collect::<Vec<_>>());
}

/// A process that is told to end commits what it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gathered_is_committed_when_the_process_ends() {
    let catalog = MemoryCatalog::default();
    let (trial, runner) = gathered(&catalog).await;
    trial.stop.send_replace(true);
    on_a_thread(move || runner.run().unwrap()).await;
    assert_eq!(ids(&catalog).await, both());
}
