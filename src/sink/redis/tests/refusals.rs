//! What Redis or a row will not have: nothing is done then, and the rows are named.

use super::*;

fn refused(result: Result<(), SinkError>) -> Vec<(usize, String)> {
    match result {
        Err(SinkError::Refused(rows)) => rows.into_iter().map(|r| (r.row, r.detail)).collect(),
        other => panic!("not refused: {other:?}"),
    }
}

fn stopped(result: Result<(), SinkError>) -> String {
    match result {
        Err(SinkError::Stopped(why)) => why,
        other => panic!("not stopped: {other:?}"),
    }
}

fn counting(key: String) -> Write {
    let increments = BTreeMap::from([("n".to_owned(), Increment::Column { column: "n".into(), scale: 0 })]);
    write(key, WriteKind::Hash { fields: Some(vec!["id".into()]), increments, ttl_ms: None })
}

#[tokio::test]
async fn a_key_of_another_type_refuses_its_rows_and_nothing_is_done() {
    let Some(mut place) = Place::named().await else { return };
    let mut sink = place.owner(vec![place.stream(), counting(place.key("{id}"))]).await;
    let (list, text) = (place.key("1"), place.key("3"));
    place.ask::<i64>(&["RPUSH", &list, "x"]).await;
    place.ask::<i64>(&["HSET", &text, "n", "1.5"]).await;
    let all = [row("0"), row("1"), row("2"), row("3"), row("1")];
    let bad = refused(sink.deliver(&delivery(0, &all)).await);
    assert_eq!(bad.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1, 3, 4]);
    assert!(bad[0].1.contains(&list) && bad[0].1.contains("holds a list, not a hash"), "{bad:?}");
    assert!(bad[1].1.contains("its field n holds 1.5"), "{bad:?}");
    assert_eq!(place.ids().await, Vec::<String>::new());
    assert_eq!(place.hash("0").await, BTreeMap::new());
    // Without them the delivery is taken, at the same place.
    let mut rest = delivery(0, &[row("0"), row("2")]);
    rest.span.next = 5;
    sink.deliver(&rest).await.unwrap();
    assert_eq!(place.ids().await, ["0", "2"]);
    sink.deliver(&delivery(5, &[row("4")])).await.unwrap();
}

#[tokio::test]
async fn all_refused_rows_of_a_large_delivery_are_named_at_once() {
    let Some(mut place) = Place::named().await else { return };
    let mut sink = place.owner(vec![counting(place.key("{id}"))]).await;
    for id in ["5", "1500", "2400"] {
        let key = place.key(id);
        place.ask::<String>(&["SET", &key, "x"]).await;
    }
    let bad = refused(sink.deliver(&delivery(0, &rows(0..2500))).await);
    assert_eq!(bad.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [5, 1500, 2400]);
    assert_eq!(place.hash("6").await, BTreeMap::new());
}

#[tokio::test]
async fn sums_beyond_what_redis_counts_are_refused() {
    let Some(mut place) = Place::named().await else { return };
    let mut sink = place.owner(vec![counting(place.key("{id}"))]).await;
    let most = 999_999_999_999_999_999;
    let bad = refused(sink.deliver(&delivery(0, &[Row { n: Some(i64::MAX), ..row("a") }])).await);
    assert!(bad[0].1.contains("what increments `n` is beyond"), "{bad:?}");
    let two = [Row { n: Some(most), ..row("a") }, row("a")];
    assert!(refused(sink.deliver(&delivery(0, &two)).await)[0].1.contains("together are beyond"));
    // The most that may be there, and the most that may come.
    let key = place.key("a");
    place.ask::<i64>(&["HSET", &key, "n", &most.to_string()]).await;
    sink.deliver(&delivery(0, &two[..1])).await.unwrap();
    assert_eq!(place.hash("a").await["n"], "1999999999999999998");
    assert!(refused(sink.deliver(&delivery(1, &two[1..])).await)[0].1.contains("can not be counted on"));
}

#[tokio::test]
async fn a_stream_at_its_end_is_refused() {
    let Some(mut place) = Place::named().await else { return };
    let mut sink = place.owner(vec![counting(place.key("{id}")), place.stream()]).await;
    let key = place.key("stream");
    place.ask::<String>(&["XADD", &key, "18446744073709551615-18446744073709551615", "id", "last"]).await;
    assert!(refused(sink.deliver(&delivery(0, &[row("a")])).await)[0].1.contains("its last id is the greatest"));
    assert_eq!(place.hash("a").await, BTreeMap::new());
}

#[tokio::test]
async fn rows_that_say_nothing_usable_are_refused() {
    let Some(mut place) = Place::named().await else { return };
    let set = write(place.key("z"), WriteKind::SortedSet { member: "{id}".parse().unwrap(), score: "percent".into() });
    let titles = write(place.key("titles"), WriteKind::Stream { fields: Some(vec!["title".into()]), trim: None });
    let all = [row("a"), Row { percent: Some(f64::NAN), ..row("b") }, Row { title: None, ..row("c") }];
    let mut sink = place.owner(vec![place.stream(), set.clone(), titles]).await;
    let bad = refused(sink.deliver(&delivery(0, &all)).await);
    assert_eq!(bad.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1, 2]);
    assert!(bad[0].1.contains("writes[1] (sorted_set") && bad[0].1.contains("not a number"), "{bad:?}");
    assert!(bad[1].1.contains("all its fields are NULL"), "{bad:?}");
    assert_eq!(place.ids().await, Vec::<String>::new());
    // Two templates that meet in one key.
    let other = write(place.key("{n}"), WriteKind::Text { value: "x".parse().unwrap(), ttl_ms: None });
    let mut sink = place.owner(vec![counting(place.key("{id}")), other]).await;
    let bad = refused(sink.deliver(&delivery(0, &[row("a"), row("1")])).await);
    assert!(bad[0].0 == 1 && bad[0].1.contains("two writes have the same key"), "{bad:?}");
}

#[tokio::test]
async fn columns_are_checked_before_the_first_row() {
    let Some(place) = Place::named().await else { return };
    let schema = batch(&[]).schema();
    let top = |score: &str, time: &str| {
        WriteKind::Top(TopList {
            member: "{id}".parse().unwrap(),
            score: score.into(),
            scale: 2,
            time: time.into(),
            window_ms: 1000,
            ttl_ms: 1000,
        })
    };
    let stream = |fields: &[&str]| WriteKind::Stream {
        fields: Some(fields.iter().map(|f| (*f).to_owned()).collect()),
        trim: None,
    };
    for (key, kind, want) in [
        (
            "k:{ID}",
            stream(&["id"]),
            "writes[0] (stream, `k:{ID}`): key names the column `ID`, which the SELECT does not have; it has id, title, n, percent, at",
        ),
        ("k", stream(&["id", "x"]), "fields names the column `x`"),
        ("k", top("title", "at"), "score is the column `title` of type Utf8, which is not a number"),
        ("k", top("n", "n"), "time is the column `n` of type Int64, which is not a timestamp"),
    ] {
        let mut sink = RedisSink::new(place.settings(vec![write(key.to_owned(), kind)]), &place.prefix);
        let why = stopped(sink.prepare(&schema).await);
        assert!(why.contains(want), "{why}");
    }
    // Rows of other columns than those that were checked.
    let mut sink = place.owner(vec![place.stream()]).await;
    let mut other = delivery(0, &rows(0..1));
    other.rows = other.rows.project(&[0, 1]).unwrap();
    assert!(stopped(sink.deliver(&other).await).contains("other columns"));
}
