//! Views under load, and sinks that wait for them.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::pipeline::sidecar::runner::Flow;
use crate::pipeline::sidecar::view::Since;

const EVENTS: &str = "s.public.events";
const CONTENT: &str = "s.public.content";
const JOINED: &str = "sql = \"SELECT c.id FROM events e LEFT JOIN content c ON e.after.id = c.id\"\nbatch_wait_ms = 20\n\
    sources = [{ topic = \"s.public.events\" }]\nviews = [{ topic = \"s.public.content\" }]";

fn start(trial: &Trial) -> Arc<View> {
    let (view, servers) = (&trial.config.pipelines[0].views[0], &trial.servers);
    let stop = servers.stop.clone();
    View::start(
        view,
        &trial.config.pipelines[0].sql,
        &servers.kafka,
        &trial.tellers(),
        &servers.shared.memory,
        &servers.runtime,
        stop,
    )
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_whose_columns_change_while_a_sink_waits_for_it_is_joined() {
    let trial = Trial::new(JOINED, &[(EVENTS, 1)]).await;
    trial.change(EVENTS, 0, 7, "").await;
    let (store, view) = (Store::default(), View::still(&trial.config.pipelines[0].views[0]));
    view.take(&trial.tellers(), "{\"id\":1}", &change(1, ""));
    let mut runner = trial.runner(&store, std::slice::from_ref(&view));
    let (tellers, later) = (trial.tellers(), Arc::clone(&view));
    let loading = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        later.take(&tellers, "{\"id\":7}", &change(7, ",\"title\":\"seven\""));
        later.loads();
    });
    on_a_thread(move || {
        runner.source.subscribe(&[EVENTS.to_owned()]).unwrap();
        let at = TopicPartition::new(EVENTS, 0);
        step_until(&mut runner, "the event is read", |r| r.slots.get(&at).is_some_and(|slot| slot.next == 1));
        assert!(!view.is_loaded());
        assert_eq!(runner.flush().unwrap(), Flow::On);
    })
    .await;
    loading.await.unwrap();
    assert_eq!(store.ids(&TopicPartition::new(EVENTS, 0)), [Some(7)], "joined with what the view has");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_view_is_up_to_date_though_its_topic_never_rests() {
    let trial = Arc::new(Trial::new(JOINED, &[(EVENTS, 1), (CONTENT, 1)]).await);
    let at = TopicPartition::new(CONTENT, 0);
    trial.change(CONTENT, 0, 0, "").await;
    let view = start(&trial);
    let goes_on = Arc::new(AtomicBool::new(true));
    let writing = tokio::spawn({
        let (trial, goes_on) = (Arc::clone(&trial), Arc::clone(&goes_on));
        async move {
            while goes_on.load(Ordering::Relaxed) {
                let some = (0..8).map(|id| trial.change(CONTENT, 0, id, ""));
                futures::future::join_all(some).await;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
    let asked = trial.servers.kafka.clone();
    let waited = on_a_thread(move || {
        let until = Instant::now() + LONGEST;
        while !view.is_loaded() {
            assert!(Instant::now() < until);
            std::thread::sleep(Duration::from_millis(20));
        }
        let wait = || {
            let (_, _, end) = kafka::watermarks(&asked, std::slice::from_ref(&at)).unwrap().remove(0);
            let begun = Instant::now();
            assert!(view.wait_for(&BTreeMap::from([(0, end)]), Duration::from_secs(5)), "it never gets there");
            begun.elapsed()
        };
        let waited: Vec<Duration> = (0..20).map(|_| wait()).collect();
        waited
    })
    .await;
    goes_on.store(false, Ordering::Relaxed);
    writing.await.unwrap();
    trial.stop.send_replace(true);
    let mean = waited.iter().sum::<Duration>() / waited.len() as u32;
    assert!(mean < Duration::from_millis(500), "{waited:?}");
}

/// The ids that a view shows, once they are these.
async fn shows(view: &Arc<View>, want: &[i64]) {
    let (until, mut shown) = (Instant::now() + LONGEST, Vec::new());
    while shown != want || !view.is_loaded() {
        assert!(Instant::now() < until, "it shows {shown:?} instead of {want:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let pieces = match view.rows_since(u64::MAX) {
            Since::Shown(shown) => shown.rows,
            Since::Same | Since::NotLoaded => Vec::new(),
        };
        shown = pieces
            .iter()
            .flat_map(|rows| rows.column_by_name("id").unwrap().as_primitive::<Int64Type>().values().to_vec())
            .collect();
        shown.sort_unstable();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_emptied_empties_the_view() {
    let trial = Trial::new(JOINED, &[(EVENTS, 1), (CONTENT, 1)]).await;
    let view = start(&trial);
    for id in 1..4 {
        trial.change(CONTENT, 0, id, "").await;
    }
    shows(&view, &[1, 2, 3]).await;
    let truncate = "{\"before\":null,\"after\":null,\"source\":{\"ts_ms\":9,\"lsn\":9},\"op\":\"t\",\"ts_ms\":9}";
    trial.writer.send(&TopicPartition::new(CONTENT, 0), None, truncate).await;
    trial.change(CONTENT, 0, 10, "").await;
    shows(&view, &[10]).await;
    trial.stop.send_replace(true);
}

/// Against a real Kafka, where `FIRN_KAFKA_BOOTSTRAP` names one: the one in memory deletes no topics.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_made_anew_is_read_from_its_beginning() {
    let Ok(bootstrap) = std::env::var("FIRN_KAFKA_BOOTSTRAP") else {
        return eprintln!("skipped: FIRN_KAFKA_BOOTSTRAP names no broker");
    };
    let topic = format!("view-{}.public.content", uuid::Uuid::new_v4().simple());
    let trial = Trial::on(&bootstrap, None, &JOINED.replace(CONTENT, &topic), &[(&topic, 1)]).await;
    let view = start(&trial);
    for id in 1..6 {
        trial.change(&topic, 0, id, "").await;
    }
    shows(&view, &[1, 2, 3, 4, 5]).await;
    let kafka = &trial.servers.kafka;
    testing::delete(kafka, &topic).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    testing::make(kafka, &topic, 1, &[]).await;
    trial.change(&topic, 0, 7, "").await;
    // A sink finds that the log ends before what was read of it.
    assert_eq!(view.read_to(), BTreeMap::from([(0, 5)]));
    view.doubt();
    shows(&view, &[7]).await;
    trial.stop.send_replace(true);
    testing::delete(kafka, &topic).await;
}
