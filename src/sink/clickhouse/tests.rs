//! Against the server that `FIRN_CLICKHOUSE_URL` names (`http://user:password@host:port`).

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

use super::server::Server;
use super::*;
use crate::sink::conformance::{self, Place};

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
        database: "firn_test".to_owned(),
        table: table.to_owned(),
        engine: Engine::MergeTree,
        order_by: vec!["id".to_owned()],
        partition_by: Some("toDate(at)".to_owned()),
        version: None,
        columns: BTreeMap::from([("digits".to_owned(), "UInt32".to_owned())]),
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
        let table = format!("{case}_{}", uuid::Uuid::new_v4().simple());
        Self { address: address.to_owned(), settings: settings(address, &table) }
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
        self.server()
            .rows::<i64>(&format!("SELECT assumeNotNull(id) FROM {}", self.settings.table_name()))
            .await
            .unwrap()
    }

    fn refuses_poison(&self) -> bool {
        true
    }

    async fn remove(&self) {
        self.server().execute(&format!("DROP TABLE IF EXISTS {}", self.settings.table_name())).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_facts_conforms() {
    let Some(address) = address() else { return };
    conformance::all(|case| TestTable::new(&address, case)).await;
}
