//! What the receiver may answer, or not.

use rstest::rstest;

use super::*;

fn ids(numbers: std::ops::Range<i64>) -> Vec<i64> {
    numbers.collect()
}

#[rstest]
#[case::busy(429, "Unavailable")]
#[case::broken(500, "Unavailable")]
#[case::the_same_key_is_being_worked_on(409, "Unavailable")]
#[case::wrong_token(401, "Stopped")]
#[case::elsewhere(301, "Stopped")]
#[case::not_there(404, "Stopped")]
#[case::teapot(418, "Stopped")]
#[tokio::test]
async fn an_answer_says_what_to_do(#[case] status: u16, #[case] want: &str) {
    let ground = Ground::new().await;
    let (mut sink, _) = ground.start().await;
    ground.receiver.answers(move |_| Reply::Not(status, "location: http://127.0.0.1:1/\r\n"));
    let failed = sink.deliver(&delivery(0, 8)).await.unwrap_err();
    assert!(format!("{failed:?}").starts_with(want), "{failed:?}");
    assert!(failed.to_string().contains(&format!("/... answers {status}")), "{failed}");
    assert!(!failed.to_string().contains("token") && !failed.to_string().contains("/in"), "{failed}");
    assert_eq!(ground.keys().len(), 1, "the next request waits");
    ground.receiver.answers(|_| Reply::Taken(202));
    sink.deliver(&delivery(0, 8)).await.unwrap();
    let keys = ground.keys();
    assert_eq!(keys[0], keys[1], "the same again");
    assert_eq!(ground.receiver.held(), ids(0..8));
}

#[tokio::test]
async fn an_answer_can_be_declared_to_mean_that_it_is_there() {
    let mut ground = Ground::new().await;
    ground.settings.accept = BTreeSet::from([409]);
    let (mut sink, _) = ground.start().await;
    ground.receiver.answers(|_| Reply::Taken(409));
    sink.deliver(&delivery(0, 8)).await.unwrap();
    assert_eq!(ground.receiver.held(), ids(0..8));
}

#[tokio::test]
async fn a_receiver_that_asks_for_time_gets_it() {
    let ground = Ground::new().await;
    let (mut sink, _) = ground.start().await;
    ground.receiver.answers(|_| Reply::Not(429, "retry-after: 1\r\n"));
    assert!(sink.deliver(&delivery(0, 4)).await.is_err());
    ground.receiver.answers(|_| Reply::Taken(200));
    assert!(matches!(sink.deliver(&delivery(0, 4)).await, Err(SinkError::Unavailable(_))));
    assert_eq!(ground.keys().len(), 1, "it is left alone");
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    sink.deliver(&delivery(0, 4)).await.unwrap();
    assert_eq!(ground.keys().len(), 2);
}

/// Never, half, slow, and an acknowledgement that comes twice: the rows are there once.
#[rstest]
#[case::never(Reply::Slow(Duration::from_secs(60)), true)]
#[case::half(Reply::Half, true)]
#[case::slow(Reply::Slow(Duration::from_millis(300)), false)]
#[tokio::test]
async fn an_answer_that_does_not_come_whole_is_asked_for_again(#[case] reply: Reply, #[case] again: bool) {
    let ground = Ground::new().await;
    let (mut sink, _) = ground.start().await;
    ground.receiver.answers(move |_| reply.clone());
    let first = sink.deliver(&delivery(0, 4)).await;
    assert_eq!(matches!(first, Err(SinkError::Unavailable(_))), again, "{first:?}");
    ground.receiver.answers(|_| Reply::Taken(200));
    if again {
        // As a new process would.
        let (mut sink, standing) = ground.start().await;
        assert_eq!(standing.unwrap().until, Some(4));
        sink.deliver(&delivery(0, 4)).await.unwrap();
        assert!(ground.receiver.seen()[1].again, "acknowledged twice, under one key");
    }
    assert_eq!(ground.receiver.held(), ids(0..4));
}

#[rstest]
#[case::one_lane(1)]
#[case::several(3)]
#[tokio::test]
async fn exactly_the_rows_that_it_does_not_take_are_refused(#[case] parallel: u32) {
    let mut ground = Ground::new().await;
    ground.settings.parallel = parallel;
    ground.settings.key = vec!["k".to_owned()];
    ground.settings.max_rows = 8;
    let (mut sink, _) = ground.start().await;
    let poison = |id: i64| id == 2 || id == 5;
    ground.receiver.answers(move |seen| match seen.ids().into_iter().any(poison) {
        true => Reply::Not(422, ""),
        false => Reply::Taken(200),
    });
    let Err(SinkError::Refused(rows)) = sink.deliver(&delivery(0, 8)).await else { panic!() };
    assert_eq!(rows.iter().map(|r| r.row).collect::<Vec<_>>(), [2, 5]);
    assert!(rows[0].detail.contains("422"), "{rows:?}");
    assert_eq!(ground.books.entry(&at()).unwrap().next, 0, "the position waits for their dead letters");
    let sent = ground.keys().len();

    // A crash before the dead letters were written: the same questions, the same answers.
    let (mut other, standing) = ground.start().await;
    assert_eq!(standing.unwrap().until, Some(8));
    let Err(SinkError::Refused(same)) = other.deliver(&delivery(0, 8)).await else { panic!() };
    assert_eq!(same, rows);
    assert!(ground.keys()[sent..].iter().all(|key| ground.keys()[..sent].contains(key)));
    let sent = ground.keys().len();
    other.deliver(&without(delivery(0, 8), &[2, 5])).await.unwrap();
    assert_eq!(ground.keys().len(), sent, "the others are there already");
    other.deliver(&delivery(8, 12)).await.unwrap();
    let mut held = ground.receiver.held();
    held.sort_unstable();
    assert_eq!(held, [0, 1, 3, 4, 6, 7, 8, 9, 10, 11]);
}

#[tokio::test]
async fn rows_that_nobody_can_leave_out_are_asked_about_again() {
    let ground = Ground::new().await;
    let (mut sink, _) = ground.start().await;
    let mut sums = delivery(0, 8);
    sums.origins = None;
    ground.receiver.answers(|seen| if seen.ids().contains(&3) { Reply::Not(400, "") } else { Reply::Taken(200) });
    for _ in 0..2 {
        let refused = sink.deliver(&sums).await;
        assert!(matches!(&refused, Err(SinkError::Refused(rows)) if rows[0].row == 3), "{refused:?}");
    }
    ground.receiver.answers(|_| Reply::Taken(200));
    sink.deliver(&sums).await.unwrap();
    let mut held = ground.receiver.held();
    held.sort_unstable();
    assert_eq!(held, ids(0..8));
}

#[tokio::test]
async fn requests_that_are_too_large_get_smaller() {
    let mut ground = Ground::new().await;
    ground.settings.max_rows = 100;
    let (mut sink, _) = ground.start().await;
    ground.receiver.answers(|seen| if seen.body.len() > 200 { Reply::Not(413, "") } else { Reply::Taken(200) });
    sink.deliver(&delivery(0, 20)).await.unwrap();
    assert_eq!(ground.receiver.held(), ids(0..20));
    let sent = ground.keys().len();
    sink.deliver(&delivery(20, 40)).await.unwrap();
    assert_eq!(ground.receiver.held(), ids(0..40));
    assert!(ground.keys().len() - sent <= 4, "in requests that it takes: {:?}", &ground.keys()[sent..]);
}

#[tokio::test]
async fn many_slow_requests_are_several_calls() {
    let mut ground = Ground::new().await;
    ground.settings.max_rows = 1;
    let (mut sink, _) = ground.start().await;
    ground.receiver.answers(|_| Reply::Slow(Duration::from_millis(400)));
    assert_eq!(sink.deliver(&delivery(0, 16)).await, Err(SinkError::Unfinished));
    let sent = ground.keys().len();
    assert!((8..=14).contains(&sent), "{sent}");
    sink.deliver(&delivery(0, 16)).await.unwrap();
    assert_eq!((ground.keys().len(), ground.receiver.held()), (16, ids(0..16)), "each once");
}

#[tokio::test]
async fn a_check_says_nothing_to_the_receiver() {
    let ground = Ground::new().await;
    let said = probe(&ground.settings).await.unwrap();
    assert!(said.contains("takes connections") && !said.contains("token"), "{said}");
    assert_eq!(ground.keys().len(), 0);
    let away = HttpSettings { url: "http://127.0.0.1:1/in".to_owned(), ..ground.settings.clone() };
    assert!(matches!(probe(&away).await, Err(SinkError::Unavailable(_))));
}
