//! The lists of top members.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const WINDOW_MS: u64 = 2_000;
const BUCKET_MS: i64 = 200;

fn top(place: &Place, window_ms: u64, ttl_ms: u64) -> Write {
    let list = TopList {
        member: "m{id}".parse().unwrap(),
        score: "percent".into(),
        scale: 2,
        time: "at".into(),
        window_ms,
        ttl_ms,
    };
    write(place.key("top:{title}"), WriteKind::Top(list))
}

fn event(list: &str, member: &str, hundredths: i64, at_ms: i64) -> Row {
    Row { title: Some(list.to_owned()), percent: Some(hundredths as f64 / 100.0), at_ms: Some(at_ms), ..row(member) }
}

impl Place {
    async fn top(&mut self, list: &str) -> Vec<(String, i64)> {
        let key = self.key(&format!("top:{list}"));
        self.ask(&["ZREVRANGE", &key, "0", "-1", "WITHSCORES"]).await
    }

    /// What is left of firn's own keys, but those that stay.
    async fn own_keys(&mut self) -> Vec<String> {
        let pattern = format!("firn:{}:*", self.prefix);
        let mut keys: Vec<String> = self.ask(&["KEYS", &pattern]).await;
        keys.retain(|key| !key.ends_with(":positions") && !key.ends_with(":server"));
        keys
    }
}

fn scores<const N: usize>(pairs: [(&str, i64); N]) -> Vec<(String, i64)> {
    pairs.into_iter().map(|(m, s)| (m.to_owned(), s)).collect()
}

#[tokio::test]
async fn a_list_has_the_sums_of_the_window() {
    let Some(mut place) = Place::named().await else { return };
    let mut sink = place.owner(vec![top(&place, 600_000, 600_000)]).await;
    let now = place.now_ms().await;
    let minutes = |n: i64| now - n * 60_000;
    let rows = [
        event("video", "a", 1234, minutes(0)),
        event("video", "b", 5000, minutes(3)),
        event("video", "a", 6667, minutes(9)),
        event("podcast", "c", 1, minutes(1)),
        // Too old, without a score, without a time, negative, and a delete.
        event("video", "c", 9999, minutes(10) - 1),
        Row { percent: None, ..event("video", "c", 0, minutes(0)) },
        Row { at_ms: None, ..event("video", "c", 1, 0) },
        event("video", "d", -5, minutes(0)),
        Row { op: Op::Delete, ..event("video", "b", 100, minutes(0)) },
        event("video", "e", 7, minutes(0)),
        event("video", "e", -7, minutes(4)),
    ];
    sink.deliver(&delivery(0, &rows)).await.unwrap();
    assert_eq!(place.top("video").await, scores([("ma", 7901), ("mb", 5000)]));
    assert_eq!(place.top("podcast").await, scores([("mc", 1)]));
    let key = place.key("top:video");
    assert!((590_000..=600_000).contains(&place.ask::<i64>(&["PTTL", &key]).await));
    // What was below zero counts when more comes; what comes from the future counts as now.
    sink.deliver(&delivery(11, &[event("video", "d", 12, minutes(-600_000))])).await.unwrap();
    assert_eq!(place.top("video").await[2], ("md".to_owned(), 7));
    // A list that somebody removed is mended by the next event, or by the clock.
    place.ask::<i64>(&["DEL", &key]).await;
    sink.deliver(&delivery(12, &[event("video", "b", 1, minutes(0))])).await.unwrap();
    assert_eq!(place.top("video").await, scores([("ma", 7901), ("mb", 5001), ("md", 7)]));
    for key in place.own_keys().await {
        let left: i64 = place.ask(&["PTTL", &key]).await;
        assert!((1..=1_300_000 * 2).contains(&left), "{key} stays for {left} ms");
    }
    // A score beyond all sense is refused.
    let refused = sink.deliver(&delivery(13, &[event("video", "b", 1_000_000_000_000, now)])).await;
    assert!(matches!(refused, Err(SinkError::Refused(_))), "{refused:?}");
}

/// The sums at one moment by the definition: an event counts if it was in the window when it came, and until its bucket has left it.
fn model(events: &[(String, String, i64, i64)], list: &str, now: i64) -> Vec<(String, i64)> {
    let mut sums = BTreeMap::<&str, i64>::new();
    for (of, member, score, at) in events {
        let end = at.div_euclid(BUCKET_MS) * BUCKET_MS + BUCKET_MS;
        if of == list && end > now - WINDOW_MS as i64 {
            *sums.entry(member).or_default() += score;
        }
    }
    let mut top: Vec<_> = sums.into_iter().filter(|(_, sum)| *sum > 0).map(|(m, s)| (format!("m{m}"), s)).collect();
    top.sort_by(|a, b| (b.1, &b.0).cmp(&(a.1, &a.0)));
    top
}

#[tokio::test]
async fn a_list_equals_the_model_over_random_events_and_ticks() {
    let Some(mut place) = Place::named().await else { return };
    let seed = rand::random::<u64>();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut sink = place.owner(vec![top(&place, WINDOW_MS, 10_000)]).await;
    let mut counted = Vec::new();
    let (mut next, mut compared) = (0, 0);
    let lists = ["video", "podcast"];
    for step in 0..120 {
        // Mostly events, at times a pause that lets whole lists run out.
        let pause = if step % 40 == 39 { 2_500 } else { random.random_range(0..60) };
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if step % 40 < 30 {
            let now = place.now_ms().await;
            let mut rows = Vec::new();
            for _ in 0..random.random_range(0..20) {
                // None so close to the window's end that a moment decides.
                let age = match random.random_range(0..10) {
                    0 => random.random_range(2_000..5_000),
                    _ => random.random_range(0..1_500),
                };
                let list = lists[random.random_range(0..lists.len())];
                let (member, score) = (random.random_range(0..8).to_string(), random.random_range(-3_000..9_000));
                rows.push(event(list, &member, score, now - age));
                if age < WINDOW_MS as i64 {
                    counted.push((list.to_owned(), member, score, now - age));
                }
            }
            let taken = tokio::time::Instant::now();
            sink.deliver(&delivery(next, &rows)).await.unwrap();
            assert!(taken.elapsed() < Duration::from_millis(450), "too slow a machine to tell what is in the window");
            next += rows.len() as i64;
        }
        for list in lists {
            // The tick is due by Redis' clock: compare where the moment does not matter.
            let before = place.now_ms().await;
            sink.tick(0).await.unwrap();
            let got = place.top(list).await;
            let want = model(&counted, list, before);
            if want == model(&counted, list, place.now_ms().await) {
                assert_eq!(got, want, "step {step}, seed {seed}");
                compared += 1;
            }
        }
    }
    assert!(compared > 100, "only {compared} comparisons");
}

#[tokio::test]
async fn old_members_are_taken_out_in_steps_and_all_at_the_end() {
    let Some(mut place) = Place::named().await else { return };
    let mut sink = place.owner(vec![top(&place, 1_000, 60_000)]).await;
    let now = place.now_ms().await;
    let many: Vec<Row> = (0..5_000).map(|i| event("video", &i.to_string(), 100, now)).collect();
    sink.deliver(&delivery(0, &many)).await.unwrap();
    assert_eq!(place.top("video").await.len(), 5_000);
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    // More than one run of the script takes out: the delivery waits for it.
    let now = place.now_ms().await;
    sink.deliver(&delivery(5_000, &[event("video", "x", 5, now)])).await.unwrap();
    assert_eq!(place.top("video").await, scores([("mx", 5)]));
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    sink.tick(0).await.unwrap();
    assert_eq!(place.own_keys().await, Vec::<String>::new());
    assert_eq!(place.top("video").await, []);
}

#[tokio::test]
async fn ticks_keep_a_list_and_nothing_stays_when_they_end() {
    let Some(mut place) = Place::named().await else { return };
    let mut sink = place.owner(vec![top(&place, 3_000, 900)]).await;
    let now = place.now_ms().await;
    sink.deliver(&delivery(0, &[event("video", "a", 5, now)])).await.unwrap();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        sink.tick(0).await.unwrap();
        assert_eq!(place.top("video").await, scores([("ma", 5)]));
    }
    // Firn stops for longer than the list stays, but not for so long that the event is too old.
    tokio::time::sleep(Duration::from_millis(950)).await;
    assert_eq!(place.top("video").await, []);
    sink.tick(0).await.unwrap();
    assert_eq!(place.top("video").await, scores([("ma", 5)]));
    // For ever.
    tokio::time::sleep(Duration::from_millis(8_000)).await;
    assert_eq!(place.own_keys().await, Vec::<String>::new());
    assert_eq!(place.top("video").await, []);
    // What another left under the list's name is no part of it.
    let (key, now) = (place.key("top:video"), place.now_ms().await);
    place.ask::<i64>(&["ZADD", &key, "99", "stranger"]).await;
    sink.deliver(&delivery(1, &[event("video", "a", 5, now)])).await.unwrap();
    assert_eq!(place.top("video").await, scores([("ma", 5)]));
    // Somebody takes the name for something else: the clock leaves it alone.
    place.ask::<String>(&["SET", &key, "x"]).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    sink.tick(0).await.unwrap();
    assert_eq!(place.ask::<String>(&["GET", &key]).await, "x");
}
