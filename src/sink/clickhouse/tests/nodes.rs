//! Nodes that are away, and what `firn check` says.

use super::*;

/// A port at which nobody listens.
async fn nobody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_does_not_know_where_the_sink_stands() {
    let Some(address) = address() else { return };
    let away = nobody().await;
    let mut place = TestTable::new(&address, "nodes");
    place.settings.nodes = vec![away.clone(), address.clone()];
    let mut sink = ClickHouseSink::new(place.settings.clone(), "suite.nodes");
    let Err(SinkError::Unavailable(text)) = sink.prepare(&conformance::columns()).await else {
        panic!("used another node")
    };
    assert!(text.contains(away.trim_start_matches("http://")) && text.contains("not both replicas"), "{text}");

    place.settings.nodes.reverse();
    let mut sink = ClickHouseSink::new(place.settings.clone(), "suite.nodes");
    sink.prepare(&conformance::columns()).await.unwrap();
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_away() {
    let mut settings = settings(&nobody().await, "t");
    let mut sink = ClickHouseSink::new(settings.clone(), "suite.away");
    assert!(matches!(sink.take_over(&[conformance::at(0)]).await, Err(SinkError::Unavailable(_))));
    assert!(matches!(probe(&settings).await, Err(SinkError::Unavailable(_))));

    // One that takes the connection and is silent.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    settings.nodes = vec![format!("http://{}", listener.local_addr().unwrap())];
    settings.timeout = Duration::from_millis(200);
    let mut sink = ClickHouseSink::new(settings, "suite.away");
    let Err(SinkError::Unavailable(text)) = sink.prepare(&conformance::columns()).await else { panic!("not away") };
    assert!(text.contains("200 ms"), "{text}");
}

#[tokio::test]
async fn an_address_that_is_none_has_to_be_put_right() {
    let mut sink = ClickHouseSink::new(settings("http://firn:secret@", "t"), "suite.address");
    let Err(SinkError::Stopped(text)) = sink.prepare(&conformance::columns()).await else { panic!("taken") };
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_says_who_may_do_what() {
    let Some(address) = address() else { return };
    let said = probe(&settings(&address, "t")).await.unwrap();
    assert!(said.contains("may insert and make tables in firn_"), "{said}");
}
