//! The judgements of `firn check`, on findings made by hand: nothing is connected to.

use std::collections::HashMap;
use std::path::Path;

use iceberg::spec::{NestedField, PrimitiveType, Schema, TableMetadata, Type};
use iceberg::{NamespaceIdent, TableCreation};
use rstest::rstest;

use super::report::Finding;
use super::*;
use crate::config::env::Lookup;
use crate::position::{Span, TopicPartition};
use crate::source::kafka::inspect::{TopicInfo, Watermarks};

fn config(lake: &str) -> Config {
    let text = format!(
        "[kafka]\nbootstrap_servers = '127.0.0.1:1'\n[catalog]\ntype = 'sql'\nuri = 'sqlite:x'\nwarehouse = 'w'\n[lake]\n{lake}"
    );
    Config::parse(&text, Path::new("firn.toml"), &Lookup::default()).unwrap()
}

fn said(findings: &[Finding]) -> String {
    Report { findings: findings.to_vec() }.to_text()
}

fn cluster(topics: &[&str]) -> Cluster {
    let info = TopicInfo { partitions: vec![0, 1], ..TopicInfo::default() };
    Cluster { brokers: 1, topics: topics.iter().map(|t| ((*t).to_owned(), info.clone())).collect() }
}

#[rstest]
#[case("topics = ['s.a.orders']", &["s.a.order"], "warn  topic s.a.orders", "did you mean s.a.order?")]
#[case("topics = ['s.a.*']", &["s.a.b"], "ok    topic s.a.b  partitions: 2", "ok: 1, warn: 0")]
#[case("topics = ['s.a.*']", &["t.a.b", "_schemas"], "warn  topics", "there are: t.a.b")]
#[case("topics = ['s.*']", &["s.a.x", "s.b.a.x"], "FAIL  names", "map to table a.x")]
fn topics_are_compared_with_what_there_is(
    #[case] lake: &str,
    #[case] topics: &[&str],
    #[case] line: &str,
    #[case] more: &str,
) {
    let text = said(&judge::topics(&config(lake), &cluster(topics)));
    assert!(text.contains(line) && text.contains(more), "{text}");
}

#[rstest]
#[case::vouched("mode = 'upsert'\nkey = ['email']\ndelete_image = 'before'", true)]
#[case::by_the_record_key("mode = 'upsert'\ndelete_image = 'before'", false)]
#[case::not_from_before("mode = 'upsert'\nkey = ['email']", false)]
#[case::append("key = ['email']\ndelete_image = 'before'", false)]
fn keys_from_before_need_a_source_that_sends_them(#[case] rule: &str, #[case] warned: bool) {
    let wanted = config(&format!("topics = ['s.a.t']\n{rule}")).table_for("s.a.t").unwrap();
    let found = judge::deletes(&wanted).map(|f| said(&[f]));
    assert_eq!(found.is_some_and(|text| text.contains("REPLICA IDENTITY FULL")), warned);
}

#[rstest]
#[case::behind(5, 0, 9, "ok    position s.a.t  4 records behind")]
#[case::ahead(10, 0, 9, "FAIL  position s.a.t/0  the table is at offset 10, the log ends at 9")]
#[case::gone(2, 3, 9, "FAIL  position s.a.t/0  the table is at offset 2, the log begins at 3: 1 offsets are gone")]
#[case::at_the_edge(3, 3, 3, "ok    position s.a.t  0 records behind")]
fn a_position_has_to_be_inside_the_log(#[case] next: i64, #[case] low: i64, #[case] high: i64, #[case] want: &str) {
    let wanted = config("topics = ['s.a.t']").table_for("s.a.t").unwrap();
    let mut stored = Checkpoint::default();
    let at = TopicPartition::new("s.a.t", 0);
    stored.advance(&Span::new(at, 0, next)).unwrap();
    let text = said(&judge::positions(&wanted, &stored, &Logs::from([(0, Watermarks { low, high })])));
    assert!(text.starts_with(want), "{text}");
    let gone = said(&judge::positions(&wanted, &stored, &Logs::new()));
    assert!(gone.contains("the partition is gone"), "{gone}");
}

async fn metadata(properties: &[(&str, &str)]) -> TableMetadata {
    let catalog = firn_catalog::memory::MemoryCatalog::default();
    let namespace = NamespaceIdent::new("a".to_owned());
    catalog.ensure_namespace(&namespace, HashMap::new()).await.unwrap();
    let schema = Schema::builder()
        .with_fields([
            Arc::new(NestedField::required(1, "id", Type::Primitive(PrimitiveType::Int))),
            Arc::new(NestedField::optional(2, "name", Type::Primitive(PrimitiveType::String))),
        ])
        .with_identifier_field_ids([1])
        .build()
        .unwrap();
    let properties = properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<HashMap<_, _>>();
    let creation = TableCreation::builder().name("t".to_owned()).schema(schema).properties(properties).build();
    catalog.create(&namespace, creation).await.unwrap().metadata().clone()
}

#[rstest]
#[case::fits(
    "mode = 'upsert'\ncolumns = { id = 'long', new = 'date' }\nkey = ['id']",
    "ok    table a.t  upsert, 2 columns"
)]
#[case::mode("mode = 'append'", "is an upsert table, the configuration says append")]
#[case::column(
    "mode = 'upsert'\ncolumns = { name = 'long' }",
    "column name is string, the configuration declares long"
)]
#[case::key("mode = 'upsert'\nkey = ['name']", "has the key (id), the configuration says (name)")]
#[case::version("mode = 'upsert'\nformat_version = 3", "has format version 2, the configuration says 3")]
#[tokio::test]
async fn a_table_that_is_there_has_to_be_what_is_wanted(#[case] lake: &str, #[case] want: &str) {
    let wanted = config(&format!("topics = ['s.a.t']\n{lake}")).table_for("s.a.t").unwrap();
    let text = said(&judge::table(&wanted, &metadata(&[("firn.mode", "upsert")]).await));
    assert!(text.contains(want), "{text}");
}

#[rstest]
#[case::upsert("mode = 'upsert'", 3, true)]
#[case::nothing_is_deleted("mode = 'append'", 3, false)]
#[case::delete_files("mode = 'upsert'", 2, false)]
fn readers_of_deletion_vectors_are_warned_of(#[case] lake: &str, #[case] version: u8, #[case] warned: bool) {
    let wanted = config(&format!("topics = ['s.a.t']\n{lake}")).table_for("s.a.t").unwrap();
    let found = judge::readers(&wanted, version);
    assert_eq!(found.map(|f| said(&[f]).contains("Trino 476")), warned.then_some(true));
}

#[tokio::test]
async fn an_unreachable_broker_is_named_with_what_to_do() {
    let (_, _, findings) = kafka(&config("topics = ['s.a.t']")).await;
    let text = said(&findings);
    assert!(text.starts_with("FAIL  kafka 127.0.0.1:1") && text.contains("check kafka.bootstrap_servers"), "{text}");
}

#[tokio::test]
async fn the_warehouse_is_written_and_left_clean() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = format!("file://{}", dir.path().display());
    let stores = firn_catalog::storage::Stores::default();
    let catalog = firn_catalog::memory::MemoryCatalog::on(stores, &warehouse, Default::default());
    write_read_delete(&catalog, &warehouse).await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_keeps_tables_fast_is_told_and_a_budget_of_the_whole_machine_is_warned_of() {
    let base = "[kafka]\nbootstrap_servers = 'k:1'\n[catalog]\ntype = 'sql'\nuri = 'sqlite:c.db'\nwarehouse = 'w'\n\
                [lake]\ntopics = ['a.b.c']\n";
    let of = |more: &str| {
        let lookup = crate::config::env::Lookup::default();
        let config = Config::parse(&format!("{base}{more}"), std::path::Path::new("firn.toml"), &lookup).unwrap();
        judge::upkeep(&config, 2)
    };
    assert_eq!(of(""), []);
    let found = &of("[maintain.policy]\nenabled = true\nquiet_hours = 'mon-fri 08:00-18:00'")[0].found;
    for want in ["compact 10m", "orphans off", "not at mon-fri 08:00-18:00 UTC"] {
        assert!(found.contains(want), "{found}");
    }
    let one = of("[[lake.tables]]\ntopic = 'a.b.c'\nmaintain = { enabled = true }\n[maintain.budget]\ncpu = 2.0");
    assert!(one[0].found.starts_with("1 of ") && one[1].subject == "maintain.budget.cpu", "{one:?}");
}
