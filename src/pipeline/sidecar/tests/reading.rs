//! What is read of partitions, and given up.

use super::*;
use crate::pipeline::sidecar::runner::Flow;
use crate::serve::status::TableState;

const IDS: &str =
    "sql = \"SELECT after.id FROM events\"\nbatch_wait_ms = 20\nsources = [{ topic = \"s.public.events\" }]";
const TOPIC: &str = "s.public.events";

fn at(partition: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, partition)
}

fn all(ids: std::ops::Range<i64>) -> Vec<Option<i64>> {
    ids.map(Some).collect()
}

async fn two_partitions() -> Trial {
    let trial = Trial::new(IDS, &[(TOPIC, 2)]).await;
    for id in 0..10 {
        trial.change(TOPIC, 0, id, "").await;
        trial.change(TOPIC, 1, id, "").await;
    }
    trial
}

fn has_read(runner: &Runner, at: &TopicPartition, next: i64) -> bool {
    runner.slots.get(at).is_some_and(|slot| slot.next == next)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_partition_is_lost_the_rows_of_the_others_are_read_again() {
    let (trial, store) = (two_partitions().await, Store::default());
    let mut runner = trial.runner(&store, &[]);
    on_a_thread(move || {
        runner.source.subscribe(&[TOPIC.to_owned()]).unwrap();
        step_until(&mut runner, "both are read", |r| has_read(r, &at(0), 10) && has_read(r, &at(1), 10));
        // Kafka's log ends before it.
        runner.slots.get_mut(&at(0)).unwrap().next = 1_000;
        runner.verify_positions();
        assert!(runner.held.get(&at(0)).is_some_and(|why| why.as_ref().unwrap().contains("ahead of Kafka's log")));
        assert_eq!(runner.slots[&at(1)].next, 0, "its rows stood in the batch that is given up");
        step_until(&mut runner, "it is read again", |r| has_read(r, &at(1), 10));
        assert_eq!(runner.flush().unwrap(), Flow::On);
    })
    .await;
    assert_eq!((store.ids(&at(1)), store.next(&at(1))), (all(0..10), Some(10)));
    assert_eq!(store.next(&at(0)), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_open_when_the_process_ends_is_unread_whatever_made_it_wait() {
    let trial = Trial::new(&IDS.replace("= 20", "= 60000"), &[(TOPIC, 1)]).await;
    trial.change(TOPIC, 0, 0, "").await;
    // Another column: what is open goes first.
    trial.change(TOPIC, 0, 1, ",\"name\":\"x\"").await;
    let store = Store::default();
    store.look().is_full = true;
    let runner = trial.runner(&store, &[]);
    let stop = trial.stop.clone();
    let waiting = store.clone();
    let ended = tokio::spawn(async move {
        while waiting.look().offered == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // As long as positions without rows may wait.
        tokio::time::sleep(Duration::from_millis(runner::EMPTY_MS + 500)).await;
        stop.send_replace(true);
    });
    on_a_thread(move || runner.run().unwrap()).await;
    ended.await.unwrap();
    assert_eq!((store.next(&at(0)), store.ids(&at(0))), (None, vec![]), "no position without its rows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_the_client_gives_up_while_the_sink_rests_is_read_on() {
    let (trial, store) = (two_partitions().await, Store::default());
    let mut runner = trial.runner(&store, &[]);
    on_a_thread(move || {
        runner.source.subscribe(&[TOPIC.to_owned()]).unwrap();
        step_until(&mut runner, "both are read", |r| has_read(r, &at(0), 10) && has_read(r, &at(1), 10));
        assert_eq!(runner.flush().unwrap(), Flow::On);
        runner.source.seek(&[(at(0), 1_000)]).unwrap();
        // The client has the brokers' answer, and nobody has asked it.
        std::thread::sleep(Duration::from_millis(800));
        assert_eq!(runner.rest(Duration::from_millis(300)).unwrap(), Flow::On);
        runner.parts.runtime.block_on(trial.change(TOPIC, 0, 10, ""));
        step_until(&mut runner, "it is read on", |r| has_read(r, &at(0), 11));
        assert_eq!(runner.flush().unwrap(), Flow::On);
    })
    .await;
    assert_eq!(store.ids(&at(0)), all(0..11));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_that_does_not_come_holds_the_others_up_for_a_while_only_and_no_more_than_a_batch_of_them() {
    let pipeline = format!("{IDS}\nbatch_rows = 5");
    let (trial, store) = (Trial::new(&pipeline, &[(TOPIC, 2)]).await, Store::default());
    let begun = Standing { next: 0, until: Some(10), topic_id: None };
    store.look().standings.insert(at(0), begun);
    for id in 0..5 {
        trial.change(TOPIC, 0, id, "").await;
    }
    let trial = Arc::new(trial);
    let mut runner = trial.runner(&store, &[]);
    let (writes, looks) = (Arc::clone(&trial), store.clone());
    on_a_thread(move || {
        let write = |partition: i32, ids: std::ops::Range<i64>| {
            writes.servers.runtime.block_on(async {
                for id in ids {
                    writes.change(TOPIC, partition, id, "").await;
                }
            });
        };
        runner.source.subscribe(&[TOPIC.to_owned()]).unwrap();
        step_until(&mut runner, "half of the range is read", |r| has_read(r, &at(0), 5));
        write(1, 0..50);
        let begun = Instant::now();
        let mut most = 0;
        while !runner.is_due() {
            assert_eq!(runner.step().unwrap(), Flow::On);
            most = most.max(runner.slots[&at(1)].next);
            assert!(begun.elapsed() < LONGEST);
        }
        assert!((5..10).contains(&most), "{most} of the other's 50 rows were taken into a batch of 5");
        assert_eq!(runner.flush().unwrap(), Flow::On);
        assert_eq!((looks.ids(&at(0)), looks.ids(&at(1)).len() as i64), (vec![], most));
        let deliver_until = |runner: &mut Runner, what: &str, holds: &dyn Fn() -> bool| {
            let begun = Instant::now();
            while !holds() {
                assert!(begun.elapsed() < 2 * LONGEST, "{what}: {:?}", looks.look());
                assert_eq!(runner.step().unwrap(), Flow::On);
                if runner.is_due() {
                    assert_eq!(runner.flush().unwrap(), Flow::On);
                }
            }
        };
        write(0, 5..12);
        deliver_until(&mut runner, "all of it comes", &|| {
            looks.next(&at(0)) == Some(12) && looks.next(&at(1)) == Some(50)
        });
    })
    .await;
    assert_eq!((store.ids(&at(0)), store.ids(&at(1))), (all(0..12), all(0..50)));
    assert!(store.look().ends[&at(0)].contains(&10), "the range ended where it was to end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_partition_that_a_person_has_to_mend_stops_the_sink_by_name_and_holds_no_other() {
    let (trial, store) = (two_partitions().await, Store::default());
    store.look().unfit.insert(at(0), SinkError::Stopped("topic/0: the note is none of firn's".to_owned()));
    let runner = trial.runner(&store, &[]);
    let running = std::thread::spawn(move || runner.run());
    let until = Instant::now() + LONGEST;
    let state = || trial.servers.status.snapshot().sinks.first().map(|sink| sink.state.clone());
    while store.next(&at(1)) != Some(10) {
        assert!(Instant::now() < until, "{:?}", store.look());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(state(), Some(TableState::Stopped { reason: "topic/0: the note is none of firn's".to_owned() }));
    assert_eq!(store.next(&at(0)), None);
    store.look().unfit.clear();
    while store.next(&at(0)) != Some(10) || state() != Some(TableState::Running) {
        assert!(Instant::now() < until, "{:?} {:?}", state(), store.look());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    trial.stop.send_replace(true);
    tokio::task::spawn_blocking(move || running.join().unwrap().unwrap()).await.unwrap();
    assert_eq!((store.ids(&at(0)), store.ids(&at(1))), (all(0..10), all(0..10)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_latest_is_where_the_log_ended_when_the_sink_first_came() {
    let (mut trial, store) = (two_partitions().await, Store::default());
    trial.config.kafka.start = FromWhere::Latest;
    let mut first = trial.runner(&store, &[]);
    on_a_thread(move || {
        first.source.subscribe(&[TOPIC.to_owned()]).unwrap();
        step_until(&mut first, "it has both", |r| has_read(r, &at(0), 10) && has_read(r, &at(1), 10));
    })
    .await;
    assert_eq!((store.next(&at(0)), store.ids(&at(0))), (Some(10), vec![]), "nothing was delivered");
    trial.change(TOPIC, 0, 10, "").await;
    let mut second = trial.runner(&store, &[]);
    on_a_thread(move || {
        second.source.subscribe(&[TOPIC.to_owned()]).unwrap();
        step_until(&mut second, "what came meanwhile", |r| has_read(r, &at(0), 11) && has_read(r, &at(1), 10));
        assert_eq!(second.flush().unwrap(), Flow::On);
    })
    .await;
    assert_eq!((store.ids(&at(0)), store.ids(&at(1))), (all(10..11), vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_for_the_last_batch_waits_for_no_others() {
    let pipeline = "sql = \"SELECT after.id AS id FROM events\"\nbatch_wait_ms = 5000\nsources = [{ topic = \"s.public.events\" }]";
    let trial = Trial::new(pipeline, &[("s.public.events", 1)]).await;
    trial.change("s.public.events", 0, 1, "").await;
    let mut runner = trial.runner(&Store::default(), &[]);
    on_a_thread(move || {
        runner.source.subscribe(&["s.public.events".to_owned()]).unwrap();
        step_until(&mut runner, "the record is read", |r| r.opened.is_some());
        assert!(!runner.is_due(), "others may come");
        runner.busy_since = Instant::now().checked_sub(Duration::from_secs(6));
        assert!(!runner.is_due(), "others may have come");
        step_until(&mut runner, "there are no others", Runner::is_due);
        assert!(runner.opened.is_some_and(|opened| opened.elapsed() < Duration::from_secs(5)));
        assert_eq!(runner.flush().unwrap(), Flow::On);
        assert!(runner.busy_since.is_some());
        step_until(&mut runner, "nothing waits", |r| r.busy_since.is_none());
    })
    .await;
}
