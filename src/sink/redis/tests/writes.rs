//! What becomes of rows, by kind of write.

use super::*;

#[tokio::test]
async fn a_stream_gets_an_entry_for_each_row_without_its_nulls() {
    let Some(mut place) = Place::named().await else { return };
    let all = write(place.key("all:{id}"), WriteKind::Stream { fields: None, trim: None });
    let trimmed = write(
        place.key("trimmed"),
        WriteKind::Stream { fields: Some(vec!["n".into()]), trim: Some(Trim::Entries(100)) },
    );
    let young =
        write(place.key("young"), WriteKind::Stream { fields: Some(vec!["n".into()]), trim: Some(Trim::AgeMs(1)) });
    let mut sink = place.owner(vec![all, trimmed, young]).await;
    let mut many = vec![row("a"), Row { title: None, n: Some(2), op: Op::Delete, ..row("a") }, row("b")];
    many.extend((0..900).map(|i| Row { n: Some(i), ..row("c") }));
    sink.deliver(&delivery(0, &many)).await.unwrap();
    let full = fields([
        ("id", "a"),
        ("title", "title of a"),
        ("n", "1"),
        ("percent", "12.34"),
        ("at", "2023-11-14T22:13:20Z"),
    ]);
    let mut second = full.clone();
    second.remove("title");
    second.insert("n".into(), "2".into());
    assert_eq!(place.entries("all:a").await, [full, second]);
    assert_eq!(place.entries("all:b").await.len(), 1);
    assert_eq!(place.entries("all:c").await.len(), 900);
    // Redis drops whole nodes of a hundred entries.
    let kept = place.entries("trimmed").await;
    assert!((100..=200).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept.last().unwrap(), &fields([("n", "899")]));
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    sink.deliver(&delivery(903, &[row("z")])).await.unwrap();
    assert!(place.entries("young").await.len() <= 200);
}

#[tokio::test]
async fn a_hash_holds_the_last_row_and_exact_sums_and_goes_with_a_delete() {
    let Some(mut place) = Place::named().await else { return };
    let increments = BTreeMap::from([
        ("events".to_owned(), Increment::By(1)),
        ("total".to_owned(), Increment::Column { column: "n".into(), scale: 0 }),
        ("percent".to_owned(), Increment::Column { column: "percent".into(), scale: 2 }),
    ]);
    let kind = WriteKind::Hash { fields: None, increments, ttl_ms: Some(60_000) };
    let mut sink = place.owner(vec![write(place.key("h:{id}"), kind)]).await;
    let first = [row("a"), row("a"), Row { n: None, percent: None, ..row("a") }, row("b")];
    sink.deliver(&delivery(0, &first)).await.unwrap();
    let sums = [("events", "3"), ("total", "2"), ("percent", "2468")];
    let mut want = fields(sums);
    want.extend(fields([("id", "a"), ("title", "title of a"), ("at", "2023-11-14T22:13:20Z")]));
    assert_eq!(place.hash("h:a").await, want);
    let key = place.key("h:a");
    assert!((1..=60_000).contains(&place.ask::<i64>(&["PTTL", &key]).await));

    // A column that is counted up is no field of its own, one that is NULL goes.
    let second = [Row { title: None, n: Some(-5), ..row("a") }, Row { op: Op::Delete, ..row("b") }];
    sink.deliver(&delivery(4, &second)).await.unwrap();
    want.extend(fields([("events", "4"), ("total", "-3"), ("percent", "3702"), ("n", "-5")]));
    want.remove("title");
    assert_eq!(place.hash("h:a").await, want);
    assert_eq!(place.hash("h:b").await, BTreeMap::new());

    // In one delivery: gone, and begun anew.
    let third = [row("a"), Row { op: Op::Delete, ..row("a") }, Row { title: None, ..row("a") }];
    sink.deliver(&delivery(6, &third)).await.unwrap();
    let again = place.hash("h:a").await;
    assert_eq!((again["events"].as_str(), again.get("title")), ("1", None));
    sink.deliver(&delivery(9, &[row("a"), Row { op: Op::Delete, ..row("a") }])).await.unwrap();
    assert_eq!(place.hash("h:a").await, BTreeMap::new());
}

#[tokio::test]
async fn strings_json_and_sorted_sets_hold_the_last_row() {
    let Some(mut place) = Place::named().await else { return };
    let writes = vec![
        write(place.key("s:{id}"), WriteKind::Text { value: "{title}/{n}".parse().unwrap(), ttl_ms: None }),
        write(
            place.key("j:{id}"),
            WriteKind::Json { fields: Some(vec!["id".into(), "title".into(), "percent".into()]), ttl_ms: Some(30_000) },
        ),
        write(place.key("z"), WriteKind::SortedSet { member: "m:{id}".parse().unwrap(), score: "percent".into() }),
    ];
    let mut sink = place.owner(writes).await;
    let gone = |id: &str| Row { op: Op::Delete, ..row(id) };
    let first = [
        row("a"),
        Row { n: Some(2), percent: Some(0.5), ..row("a") },
        row("b"),
        row("c"),
        gone("c"),
        Row { title: None, percent: None, ..row("d") },
    ];
    sink.deliver(&delivery(0, &first)).await.unwrap();
    for (name, want) in [
        ("s:a", Some("title of a/2")),
        ("s:b", Some("title of b/1")),
        ("s:c", None),
        ("s:d", None),
        ("j:a", Some(r#"{"id":"a","title":"title of a","percent":0.5}"#)),
        ("j:c", None),
        ("j:d", Some(r#"{"id":"d","title":null,"percent":null}"#)),
    ] {
        let key = place.key(name);
        let got: Option<String> = place.ask(&["GET", &key]).await;
        assert_eq!(got.as_deref(), want, "{name}");
    }
    let (json, set) = (place.key("j:a"), place.key("z"));
    assert!((1..=30_000).contains(&place.ask::<i64>(&["PTTL", &json]).await));
    let members: Vec<(String, f64)> = place.ask(&["ZRANGE", &set, "0", "-1", "WITHSCORES"]).await;
    assert_eq!(members, [("m:a".to_owned(), 0.5), ("m:b".to_owned(), 12.34)]);
    // What has no score or is deleted has no place.
    sink.deliver(&delivery(6, &[Row { percent: None, ..row("a") }, gone("b")])).await.unwrap();
    assert_eq!(place.ask::<i64>(&["EXISTS", &set]).await, 0);
    let key = place.key("s:b");
    assert_eq!(place.ask::<i64>(&["EXISTS", &key]).await, 0);
}

#[tokio::test]
async fn more_members_than_lua_takes_at_once_are_written_in_one_delivery() {
    let Some(mut place) = Place::named().await else { return };
    let kind = WriteKind::SortedSet { member: "{id}".parse().unwrap(), score: "n".into() };
    let mut sink = place.owner(vec![write(place.key("z"), kind)]).await;
    // Rows that don't tell their changes are not cut.
    let mut all = delivery(0, &rows(0..9_001));
    all.origins = None;
    sink.deliver(&all).await.unwrap();
    let set = place.key("z");
    assert_eq!(place.ask::<i64>(&["ZCARD", &set]).await, 9_001);
    let mut gone: Vec<Row> = rows(0..9_000);
    gone.iter_mut().for_each(|r| r.n = None);
    let mut none = delivery(9_001, &gone);
    none.origins = None;
    sink.deliver(&none).await.unwrap();
    assert_eq!(place.ask::<i64>(&["ZCARD", &set]).await, 1);
}

#[tokio::test]
async fn a_null_in_a_key_leaves_the_write_out_or_refuses_the_row() {
    let Some(mut place) = Place::named().await else { return };
    let hash = || {
        write(
            place.key("h:{title}"),
            WriteKind::Hash { fields: Some(vec!["id".into()]), increments: BTreeMap::new(), ttl_ms: None },
        )
    };
    let set = || write(place.key("z"), WriteKind::SortedSet { member: "{title}".parse().unwrap(), score: "n".into() });
    let (stream, hash, set) = (place.stream(), hash(), set());
    let mut sink = place.owner(vec![stream.clone(), hash.clone(), set.clone()]).await;
    let some = [row("a"), Row { title: None, ..row("b") }];
    sink.deliver(&delivery(0, &some)).await.unwrap();
    assert_eq!(place.ids().await, ["a", "b"]);
    assert_eq!(place.hash("h:title of a").await, fields([("id", "a")]));
    assert_eq!(sink.skipped().load(Ordering::Relaxed), 2);

    let strict = RedisSettings { on_null_key: OnNullKey::Reject, ..place.settings(vec![stream, hash, set]) };
    let mut sink = RedisSink::new(strict, &place.prefix);
    sink.prepare(&batch(&[]).schema()).await.unwrap();
    sink.take_over(&[at()]).await.unwrap();
    let Err(SinkError::Refused(refused)) = sink.deliver(&delivery(2, &some)).await else { panic!("it was taken") };
    assert_eq!(refused.len(), 1);
    assert!(refused[0].row == 1 && refused[0].detail.contains("NULL"), "{refused:?}");
    assert_eq!(place.ids().await, ["a", "b"]);
}
