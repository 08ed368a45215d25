//! Each delivery once, whatever is repeated, lost or overtaken.

use super::*;

fn moved(result: Result<(), SinkError>) -> String {
    match result {
        Err(SinkError::Moved(why)) => why,
        other => panic!("not moved: {other:?}"),
    }
}

#[tokio::test]
async fn a_delivery_goes_on_where_the_last_one_ended() {
    let Some(mut place) = Place::named().await else { return };
    let mut sink = place.sink(vec![place.stream()]).await;
    assert_eq!(sink.take_over(&[at()]).await.unwrap(), [None]);
    // The first may begin anywhere.
    sink.deliver(&delivery(100, &rows(0..3))).await.unwrap();
    // Without rows the position moves too.
    sink.deliver(&delivery(103, &[])).await.unwrap();
    let mut empty = delivery(103, &[]);
    empty.span.next = 110;
    empty.span.topic_id = Some("topic-id".into());
    sink.deliver(&empty).await.unwrap();
    sink.deliver(&delivery(110, &rows(3..5))).await.unwrap();

    let mut other = place.sink(vec![place.stream()]).await;
    let unknown = TopicPartition::new("t", 1);
    let stands = Standing { next: 112, until: None, topic_id: Some("topic-id".into()) };
    assert_eq!(other.take_over(&[unknown, at()]).await.unwrap(), [None, Some(stands)]);
    other.deliver(&delivery(112, &rows(5..6))).await.unwrap();
    assert_eq!(place.ids().await, names(0..6));
}

#[tokio::test]
async fn what_was_delivered_is_not_delivered_again_and_nothing_is_left_out() {
    let Some(mut place) = Place::named().await else { return };
    let mut sink = place.owner(vec![place.stream()]).await;
    let first = delivery(0, &rows(0..3));
    sink.deliver(&first).await.unwrap();
    assert!(moved(sink.deliver(&first).await).contains("stands at offset 3, the delivery begins at 0"));
    moved(sink.deliver(&delivery(2, &rows(2..4))).await);
    moved(sink.deliver(&delivery(4, &rows(4..5))).await);
    assert_eq!(sink.take_over(&[at()]).await.unwrap()[0].as_ref().unwrap().next, 3);
    sink.deliver(&delivery(3, &rows(3..5))).await.unwrap();
    assert_eq!(place.ids().await, names(0..5));
}

#[tokio::test]
async fn where_redis_kept_the_take_over_and_lost_the_first_deliveries_nothing_is_left_out() {
    let Some(mut place) = Place::named().await else { return };
    let mut sink = place.owner(vec![place.stream()]).await;
    let positions = sink.keys.positions.clone();
    let taken_over: String = place.ask(&["HGET", &positions, "t/0"]).await;
    sink.deliver(&delivery(0, &rows(0..3))).await.unwrap();
    let stream = place.key("stream");
    place.ask::<i64>(&["DEL", &stream]).await;
    place.ask::<i64>(&["HSET", &positions, "t/0", &taken_over]).await;
    assert!(moved(sink.deliver(&delivery(3, &rows(3..5))).await).contains("lost"));
    assert_eq!(sink.take_over(&[at()]).await.unwrap(), [None]);
    sink.deliver(&delivery(0, &rows(0..5))).await.unwrap();
    assert_eq!(place.ids().await, names(0..5));
}

#[tokio::test]
async fn whoever_was_overtaken_writes_no_more() {
    let Some(mut place) = Place::named().await else { return };
    let mut old = place.owner(vec![place.stream()]).await;
    // Before anything was delivered, and after.
    let mut new = place.owner(vec![place.stream()]).await;
    assert!(moved(old.deliver(&delivery(0, &rows(7..9))).await).contains("another process"));
    new.deliver(&delivery(0, &rows(0..2))).await.unwrap();
    assert!(moved(old.deliver(&delivery(2, &rows(7..9))).await).contains("another process"));
    // Other partitions are its own still, once taken over.
    let mut elsewhere = delivery(0, &rows(2..3));
    elsewhere.span.at.partition = 1;
    assert!(moved(old.deliver(&elsewhere).await).contains("not taken over"));
    old.take_over(&[elsewhere.span.at.clone()]).await.unwrap();
    old.deliver(&elsewhere).await.unwrap();
    assert_eq!(place.ids().await, names(0..3));
}

#[tokio::test]
async fn a_lost_position_is_not_taken_for_a_first_delivery() {
    let Some(mut place) = Place::named().await else { return };
    let mut sink = place.owner(vec![place.stream()]).await;
    sink.deliver(&delivery(0, &rows(0..2))).await.unwrap();
    let positions = sink.keys.positions.clone();
    place.ask::<i64>(&["DEL", &positions]).await;
    assert!(moved(sink.deliver(&delivery(2, &rows(2..3))).await).contains("nothing is stored"));
    assert_eq!(sink.take_over(&[at()]).await.unwrap(), [None]);
    assert_eq!(place.ids().await, names(0..2));
}

#[tokio::test]
async fn a_rewind_delivers_again_and_stops_who_is_writing() {
    let Some(mut place) = Place::named().await else { return };
    let mut writer = place.owner(vec![place.stream()]).await;
    let mut first = delivery(0, &rows(0..3));
    first.span.topic_id = Some("old-topic".into());
    writer.deliver(&first).await.unwrap();
    let mut command = place.sink(vec![place.stream()]).await;
    command.rewind(&[(at(), 1), (TopicPartition::new("t", 1), 7)]).await.unwrap();
    moved(writer.deliver(&delivery(3, &rows(3..4))).await);
    let other = TopicPartition::new("t", 1);
    let standings = writer.take_over(&[at(), other]).await.unwrap();
    let stands = |next| Some(Standing { next, until: None, topic_id: None });
    assert_eq!(standings, [stands(1), stands(7)]);
    writer.deliver(&delivery(1, &rows(1..4))).await.unwrap();
    assert_eq!(place.ids().await, ["0", "1", "2", "1", "2", "3"]);
    let stored: String = place.ask(&["HGET", &writer.keys.positions.clone(), "t/0"]).await;
    assert_eq!(stored, "4 3 1 -");
}

#[tokio::test]
async fn a_topic_made_anew_stops_the_sink() {
    let Some(mut place) = Place::named().await else { return };
    let mut sink = place.owner(vec![place.stream()]).await;
    for (id, from) in [(Some("one"), 0), (None, 1), (Some("one"), 2)] {
        let mut delivery = delivery(from, &rows(from as usize..from as usize + 1));
        delivery.span.topic_id = id.map(str::to_owned);
        sink.deliver(&delivery).await.unwrap();
    }
    let mut anew = delivery(3, &rows(3..4));
    anew.span.topic_id = Some("two".into());
    let Err(SinkError::Stopped(why)) = sink.deliver(&anew).await else { panic!("it was taken") };
    assert!(why.contains("topic id one, Kafka now has two"), "{why}");
    assert_eq!(place.ids().await, names(0..3));
}

#[tokio::test]
async fn a_large_delivery_goes_in_parts_that_each_move_the_position() {
    let Some(mut place) = Place::named().await else { return };
    let mut sink = place.owner(vec![place.stream()]).await;
    sink.deliver(&delivery(0, &rows(0..2500))).await.unwrap();
    assert_eq!(place.ids().await, names(0..2500));
    // The fourth part can't be done: those before it stand, and their end is where it goes on.
    let bad = rows(2500..4500);
    let counter = write(
        place.key("{id}"),
        WriteKind::Hash { fields: Some(vec!["n".into()]), increments: BTreeMap::new(), ttl_ms: None },
    );
    let blocked = place.key("4200");
    place.ask::<String>(&["SET", &blocked, "not a hash"]).await;
    let mut sink = place.owner(vec![place.stream(), counter]).await;
    assert!(moved(sink.deliver(&delivery(2500, &bad)).await).contains("done up to offset 4000"));
    assert_eq!(sink.take_over(&[at()]).await.unwrap()[0].as_ref().unwrap().next, 4000);
    let rest = delivery(4000, &bad[1500..]);
    let Err(SinkError::Refused(refused)) = sink.deliver(&rest).await else { panic!("it was taken") };
    assert_eq!(refused.iter().map(|r| r.row).collect::<Vec<_>>(), [200]);
    assert_eq!(place.ids().await, names(0..4000));
}
