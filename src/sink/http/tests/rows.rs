//! What is sent, in which order, and what comes again after a crash.

use super::*;

#[tokio::test]
async fn each_piece_is_a_request_under_the_key_of_its_range() {
    let mut ground = Ground::new().await;
    ground.settings.headers.insert("Authorization".to_owned(), "Bearer hunter2".to_owned());
    ground.settings.secret = Some("whsec".to_owned());
    let (mut sink, standing) = ground.start().await;
    assert_eq!(standing, None);
    sink.deliver(&delivery(0, 10)).await.unwrap();
    assert_eq!(ground.keys(), ["firn.p.http-G-t-id-0-0-4", "firn.p.http-G-t-id-0-4-8", "firn.p.http-G-t-id-0-8-10"]);
    let seen = &ground.receiver.seen()[2];
    assert_eq!(seen.body, r#"[{"id":8,"k":"k2"},{"id":9,"k":"k0"}]"#);
    let header = |name: &str| seen.headers[name].as_str();
    assert_eq!((header("content-type"), header("authorization")), ("application/json", "Bearer hunter2"));
    let signed = header("x-firn-signature");
    let t: u64 = signed.strip_prefix("t=").unwrap().split_once(',').unwrap().0.parse().unwrap();
    assert_eq!(signed, request::signature("whsec", t, seen.body.as_bytes()), "made of the body as it came");
    let stored = ground.books.entry(&at()).unwrap();
    assert_eq!(
        (stored.next, stored.note.as_str()),
        (10, format!(r#"{{"generation":{},"topic_id":"id"}}"#, ground.generation()).as_str())
    );
}

#[tokio::test]
async fn a_range_that_was_begun_comes_again_as_it_was_whatever_the_settings_say_now() {
    let mut ground = Ground::new().await;
    ground.settings.parallel = 2;
    ground.settings.key = vec!["id".to_owned()];
    ground.settings.max_rows = 8;
    let (mut sink, _) = ground.start().await;
    let mut left = 1;
    ground.receiver.answers(move |_| {
        left -= 1;
        if left >= 0 { Reply::Taken(200) } else { Reply::Not(503, "") }
    });
    let failed = sink.deliver(&delivery(0, 6)).await;
    assert!(matches!(failed, Err(SinkError::Unavailable(_))), "{failed:?}");
    drop(sink);
    let first: BTreeMap<String, String> = ground.receiver.seen().into_iter().map(|s| (s.key, s.body)).collect();
    assert_eq!(first.len(), 2, "a request for each lane: {first:?}");

    ground.receiver.answers(|_| Reply::Taken(200));
    (ground.settings.parallel, ground.settings.max_rows) = (1, 1);
    let (mut sink, standing) = ground.start().await;
    assert_eq!(standing, Some(Standing { next: 0, until: Some(6), topic_id: Some("id".to_owned()) }));
    let other = sink.deliver(&delivery(0, 5)).await;
    assert!(matches!(other, Err(SinkError::Moved(_))), "{other:?}");
    sink.deliver(&delivery(0, 6)).await.unwrap();
    let again: BTreeMap<String, String> = ground.receiver.seen().into_iter().skip(2).map(|s| (s.key, s.body)).collect();
    assert_eq!(again, first);
    sink.deliver(&delivery(6, 7)).await.unwrap();
    assert_eq!(ground.keys().last(), Some(&"firn.p.http-G-t-id-0-6-7-0".to_owned()));
}

#[tokio::test]
async fn a_range_that_was_begun_is_not_divided_by_another_key() {
    let mut ground = Ground::new().await;
    (ground.settings.parallel, ground.settings.key) = (2, vec!["id".to_owned()]);
    let (mut sink, _) = ground.start().await;
    ground.receiver.answers(|_| Reply::Not(503, ""));
    assert!(matches!(sink.deliver(&delivery(0, 4)).await, Err(SinkError::Unavailable(_))));
    ground.receiver.answers(|_| Reply::Taken(200));

    ground.settings.key = vec!["k".to_owned()];
    let (mut sink, _) = ground.start().await;
    let told = sink.deliver(&delivery(0, 4)).await;
    assert!(matches!(&told, Err(SinkError::Stopped(why)) if why.contains("firn rewind --sink")), "{told:?}");
    assert_eq!(ground.receiver.held(), [] as [i64; 0]);

    ground.settings.key = vec!["id".to_owned()];
    let (mut sink, _) = ground.start().await;
    sink.deliver(&delivery(0, 4)).await.unwrap();
    ground.settings.key = vec!["k".to_owned()];
    let (mut sink, _) = ground.start().await;
    sink.deliver(&delivery(4, 8)).await.unwrap();
}

#[tokio::test]
async fn rows_of_one_key_never_overtake_each_other() {
    let mut ground = Ground::new().await;
    ground.settings.parallel = 4;
    ground.settings.key = vec!["k".to_owned()];
    let (mut sink, _) = ground.start().await;
    let mut n = 0;
    // The earlier ones take longer.
    ground.receiver.answers(move |_| {
        n += 1;
        Reply::Slow(Duration::from_millis(40 / n))
    });
    sink.deliver(&delivery(0, 60)).await.unwrap();
    let mut last = BTreeMap::new();
    for id in ground.receiver.held() {
        let before = last.insert(id % 3, id);
        assert!(before.is_none_or(|before| before < id), "{id} after {before:?}");
    }
    assert_eq!(ground.receiver.held().len(), 60);
}

#[tokio::test]
async fn an_object_is_one_row() {
    let mut ground = Ground::new().await;
    ground.settings.body = Body::Object;
    let (mut sink, _) = ground.start().await;
    sink.deliver(&delivery(5, 7)).await.unwrap();
    let bodies: Vec<String> = ground.receiver.seen().into_iter().map(|s| s.body).collect();
    assert_eq!(bodies, [r#"{"id":5,"k":"k2"}"#, r#"{"id":6,"k":"k0"}"#]);
    assert_eq!(ground.keys(), ["firn.p.http-G-t-id-0-5-6-0", "firn.p.http-G-t-id-0-6-7-0"]);
    assert_eq!(ground.books.history().len(), 2, "one range for both");
}

#[tokio::test]
async fn nothing_is_sent_before_its_range_is_stored() {
    let ground = Ground::new().await;
    let (mut sink, _) = ground.start().await;
    ground.books.fail(1);
    assert!(matches!(sink.deliver(&delivery(0, 4)).await, Err(SinkError::Unavailable(_))));
    assert_eq!(ground.keys().len(), 0);
    sink.deliver(&delivery(0, 4)).await.unwrap();
    // The end is not stored: nothing is sent again by the same process.
    let sent = ground.keys().len();
    let failing = ground.books.clone();
    ground.receiver.answers(move |_| {
        failing.fail(1);
        Reply::Taken(204)
    });
    assert!(matches!(sink.deliver(&delivery(4, 8)).await, Err(SinkError::Unavailable(_))));
    sink.deliver(&delivery(4, 8)).await.unwrap();
    assert_eq!(ground.keys().len(), sent + 1);
    assert_eq!(ground.books.entry(&at()).unwrap().next, 8);
}

#[tokio::test]
async fn a_topic_made_anew_and_a_column_that_is_not_there_stop_it() {
    let mut ground = Ground::new().await;
    let (mut sink, _) = ground.start().await;
    sink.deliver(&delivery(0, 4)).await.unwrap();
    let mut anew = delivery(4, 8);
    anew.span.topic_id = Some("other".to_owned());
    assert!(matches!(sink.deliver(&anew).await, Err(SinkError::Stopped(why)) if why.contains("firn rewind")));
    ground.settings.key = vec!["kay".to_owned()];
    let mut sink = HttpSink::new(ground.settings.clone(), "firn.p.http", ground.books.open());
    let unfit = sink.prepare(&delivery(0, 0).rows.schema()).await;
    assert!(matches!(unfit, Err(SinkError::Stopped(why)) if why.contains("`kay`") && why.contains("id, k")));
}

#[tokio::test]
async fn what_the_pipeline_keeps_is_stored_with_the_piece_whose_changes_did_it() {
    let ground = Ground::new().await;
    let (mut sink, _) = ground.start().await;
    let mut kept = delivery(0, 10);
    let steps = (0..10).map(|offset| Step { offset, key: "k".to_owned(), value: Some(offset.to_string()) }).collect();
    kept.keeping = Keeping { topic: "state".to_owned(), partition: 0, prefix: "p/".to_owned(), steps };
    let mut requests = 0;
    ground.receiver.answers(move |_| {
        requests += 1;
        if requests == 2 { Reply::Not(503, "") } else { Reply::Taken(200) }
    });
    assert!(sink.deliver(&kept).await.is_err());
    // The second piece is begun, the first one finished.
    let generation = ground.generation();
    assert_eq!(sink.kept(&at()), Some(Kept { generation, transactions: 1 }));
    let values = || -> Vec<(String, String)> {
        let text = |bytes: Option<Vec<u8>>| String::from_utf8(bytes.unwrap()).unwrap();
        ground.books.messages().into_iter().map(|m| (text(m.key), text(m.value))).collect()
    };
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(values(), [pair("p/k", "3"), pair("p/#", "1")]);

    // Another process goes on from there, with what is stored.
    let (mut other, standing) = ground.start().await;
    let standing = standing.unwrap();
    assert_eq!((standing.next, standing.until, other.kept(&at()).unwrap().transactions), (4, Some(8), 1));
    let mut rest = delivery(4, 8);
    rest.keeping = Keeping { steps: kept.keeping.steps[4..8].to_vec(), ..kept.keeping.clone() };
    other.deliver(&rest).await.unwrap();
    assert_eq!(values()[2..], [pair("p/k", "7"), pair("p/#", "2")]);
    other.rewind(&[(at(), 0)]).await.unwrap();
    let (anew, _) = ground.start().await;
    let anew = anew.kept(&at()).unwrap();
    assert!(anew.generation > generation && anew.transactions == 0, "what was kept counts no more: {anew:?}");
}
