//! Against the server that `FIRN_CLICKHOUSE_URL` names (`http://user:password@host:port`).

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

use super::server::Server;
use super::*;
use crate::sink::conformance::{self, Place};

mod late;
mod nodes;
mod snapshots;
mod speed;
mod tables;
mod values;

/// The server's address, if one is named.
fn address() -> Option<String> {
    let address = std::env::var("FIRN_CLICKHOUSE_URL").ok();
    if address.is_none() {
        eprintln!("skipped: FIRN_CLICKHOUSE_URL names no ClickHouse server");
    }
    address
}

fn settings(address: &str, table: &str) -> ClickHouseSettings {
    ClickHouseSettings {
        nodes: vec![address.to_owned()],
        database: format!("firn_{}", uuid::Uuid::new_v4().simple()),
        table: table.to_owned(),
        engine: Engine::MergeTree,
        order_by: vec!["id".to_owned()],
        partition_by: Some("toDate(at)".to_owned()),
        version: None,
        columns: BTreeMap::from([("digits".to_owned(), "UInt32".to_owned())]),
        snapshot_rows: SnapshotRows::All,
        snapshot_key: vec![],
        origin_columns: true,
        timeout: Duration::from_secs(10),
        properties: BTreeMap::new(),
    }
}

struct TestTable {
    address: String,
    settings: ClickHouseSettings,
}

impl TestTable {
    fn new(address: &str, case: &str) -> Self {
        Self { address: address.to_owned(), settings: settings(address, case) }
    }

    fn server(&self) -> Server {
        Server::new(&self.address, &self.settings).unwrap()
    }
}

#[async_trait]
impl Place for TestTable {
    fn server(&self) -> String {
        self.server().node
    }

    async fn open(&self, server: &str) -> Box<dyn Sink> {
        let mut url = reqwest::Url::parse(&self.address).unwrap();
        let (host, port) = server.rsplit_once(':').unwrap();
        url.set_host(Some(host)).unwrap();
        url.set_port(port.parse().ok()).unwrap();
        let settings = ClickHouseSettings { nodes: vec![url.to_string()], ..self.settings.clone() };
        Box::new(ClickHouseSink::new(settings, &format!("suite.{}", self.settings.table)))
    }

    async fn held(&self) -> Vec<i64> {
        let last = if self.overwrites() { "FINAL" } else { "" };
        let sql = format!("SELECT assumeNotNull(id) FROM {} {last}", self.settings.table_name());
        self.server().rows::<i64>(&sql).await.unwrap()
    }

    fn refuses_poison(&self) -> bool {
        true
    }

    fn takes_several(&self) -> bool {
        true
    }

    fn overwrites(&self) -> bool {
        self.settings.engine == Engine::Replacing
    }

    async fn remove(&self) {
        self.server().execute(&format!("DROP DATABASE IF EXISTS {}", self.settings.database)).await.unwrap();
    }
}

#[test]
fn a_delivery_is_begun_later_than_the_one_before() {
    let mut sink = ClickHouseSink::new(settings("http://localhost", "t"), "suite.times");
    let times: Vec<u64> = (0..100).map(|_| sink.begin_ms()).collect();
    assert!(times.windows(2).all(|two| two[0] < two[1]), "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_facts_conforms() {
    let Some(address) = address() else { return };
    conformance::all(|case| TestTable::new(&address, case)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_conforms() {
    let Some(address) = address() else { return };
    let place = |case: &str| {
        let mut place = TestTable::new(&address, case);
        place.settings.engine = Engine::Replacing;
        place.settings.partition_by = None;
        place
    };
    conformance::all(place).await;
}

/// An expression and a type of which only ClickHouse knows what becomes of a value.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_conforms_that_only_clickhouse_understands() {
    let Some(address) = address() else { return };
    let place = |case: &str| {
        let mut place = TestTable::new(&address, case);
        place.settings.partition_by = Some("(intDiv(id, 4) % 3, toHour(at))".to_owned());
        let names: Vec<String> = (0..40).chain(1_000_000..1_000_120).map(|id| format!("'{id}'")).collect();
        place.settings.columns = BTreeMap::from([("digits".to_owned(), format!("Enum16({})", names.join(", ")))]);
        place
    };
    conformance::all(place).await;
}
