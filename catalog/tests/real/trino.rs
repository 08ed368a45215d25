//! Trino on the same metastore: an outside reader and writer.

use std::collections::HashMap;
use std::time::Duration;

use firn_catalog::Catalog;
use firn_catalog::hms::{CommitMode, HmsCatalog, HmsConfig};
use iceberg::TableIdent;
use rstest::rstest;
use serde_json::Value;

use crate::ground::{creation, land, namespace, wanted, warehouse};

/// Runs a statement to its end, answers its rows.
async fn sql(statement: &str) -> Vec<Value> {
    try_sql(statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"))
}

async fn try_sql(statement: &str) -> Result<Vec<Value>, String> {
    let var = |name: &str| std::env::var(name).unwrap();
    let http = reqwest::Client::new();
    let mut request = http.post(format!("{}/v1/statement", var("FIRN_TRINO_URL"))).body(statement.to_owned());
    request = request.header("X-Trino-User", "test").header("X-Trino-Catalog", var("FIRN_TRINO_CATALOG"));
    let mut rows = Vec::new();
    loop {
        let body: Value = serde_json::from_slice(&request.send().await.unwrap().bytes().await.unwrap()).unwrap();
        if let Some(error) = body.get("error") {
            return Err(error["message"].to_string());
        }
        rows.extend(body["data"].as_array().cloned().unwrap_or_default());
        match body["nextUri"].as_str() {
            Some(next) => request = http.get(next),
            None => return Ok(rows),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[rstest]
#[case(CommitMode::LockAndCompare)]
#[case(CommitMode::Compare)]
#[tokio::test(flavor = "multi_thread")]
async fn trino_reads_and_writes_our_tables_and_we_its(#[case] mode: CommitMode) {
    let (Some(uri), Some(_)) = (wanted("FIRN_HMS_URI"), wanted("FIRN_TRINO_URL")) else { return };
    let (warehouse, file_io) = warehouse();
    let catalog = HmsCatalog::new(HmsConfig { mode, ..HmsConfig::new(uri, warehouse) }, file_io).unwrap();
    let ns = namespace();
    catalog.ensure_namespace(&ns, HashMap::new()).await.unwrap();
    let schema = ns.to_url_string();

    let ours = catalog.create(&ns, creation("ours")).await.unwrap().identifier().clone();
    sql(&format!("INSERT INTO {schema}.ours VALUES (1, 'a'), (2, 'b')")).await;
    land(&catalog, &ours, "between").await;
    sql(&format!("INSERT INTO {schema}.ours VALUES (3, 'c')")).await;
    sql(&format!("DELETE FROM {schema}.ours WHERE id = 1")).await;
    assert_eq!(sql(&format!("SELECT count(*) FROM {schema}.ours")).await[0][0], 2);
    let seen = catalog.load(&ours).await.unwrap();
    assert_eq!(seen.metadata().snapshots().len(), 3);
    assert!(seen.metadata().properties().contains_key("between"), "Trino kept what we set");

    sql(&format!("CREATE TABLE {schema}.theirs (id bigint, at timestamp(6) with time zone) WITH (partitioning = ARRAY['day(at)'])")).await;
    sql(&format!("INSERT INTO {schema}.theirs VALUES (1, current_timestamp)")).await;
    let theirs = TableIdent::new(ns.clone(), "theirs".into());
    let mut tables = catalog.list_tables(&ns).await.unwrap();
    tables.sort();
    assert_eq!(tables, [ours, theirs.clone()]);
    land(&catalog, &theirs, "us").await;
    sql(&format!("INSERT INTO {schema}.theirs VALUES (2, current_timestamp)")).await;
    assert_eq!(sql(&format!("SELECT count(*) FROM {schema}.theirs")).await[0][0], 2);

    // Both at once.
    let inserts = async {
        for n in 10..15 {
            // Beside a writer that takes no lock Trino's own swap can be refused: it then asks for the statement to be run again.
            let insert = format!("INSERT INTO {schema}.theirs VALUES ({n}, current_timestamp)");
            while let Err(e) = try_sql(&insert).await {
                assert!(mode == CommitMode::Compare && e.contains("The table has been modified"), "{e}");
                let there = sql(&format!("SELECT count(*) FROM {schema}.theirs WHERE id = {n}")).await;
                assert_eq!(there[0][0], 0, "a refused statement left its row");
            }
        }
    };
    let swaps = async {
        for n in 0..10 {
            land(&catalog, &theirs, &format!("n{n}")).await;
        }
    };
    tokio::join!(inserts, swaps);
    assert_eq!(sql(&format!("SELECT count(*) FROM {schema}.theirs")).await[0][0], 7);
    let seen = catalog.load(&theirs).await.unwrap();
    assert!((0..10).all(|n| seen.metadata().properties().contains_key(&format!("n{n}"))));
}
