//! Mistakes in pipelines are named; the examples and the documentation's own are read.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rstest::rstest;

use crate::config::env::Lookup;
use crate::config::{Config, PipelineConfig};

fn parse(text: &str) -> Result<Config, String> {
    let lookup = Lookup { env: HashMap::new(), dir: PathBuf::from("/etc/firn"), ..Lookup::default() };
    Config::parse(text, Path::new("firn.toml"), &lookup).map_err(|e| e.to_string())
}

/// Two pipelines over one topic, with three sinks each.
fn two(line: &str, of: &str) -> String {
    let pipeline = |name: &str| {
        format!(
            r#"
[[pipelines]]
name = "{name}"
sql = "SELECT after.id FROM orders"
{pipeline}
[[pipelines.sources]]
topic = "shop.public.orders"
{source}
[[pipelines.views]]
topic = "shop.public.products"
{view}
[[pipelines.clickhouse]]
url = "http://localhost:8123"
table = "t"
order_by = ["id"]
{clickhouse}
[[pipelines.redis]]
url = "redis://localhost"
writes = [{{ kind = "stream", key = "s" }}]
[[pipelines.http]]
url = "http://localhost:8099"
{http}
[[pipelines.log]]
"#,
            pipeline = if of == "pipeline" { line } else { "" },
            source = if of == "source" { line } else { "" },
            view = if of == "view" { line } else { "" },
            clickhouse = if of == "clickhouse" { line } else { "" },
            http = if of == "http" { line } else { "" },
        )
    };
    format!("[kafka]\nbootstrap_servers = \"localhost:9092\"\n{}{}", pipeline("first"), pipeline("second"))
}

#[rstest]
#[case("pipeline", "batch_rows = 0", "pipelines[0].batch_rows: 0 is not between 1 and 1000000")]
#[case("pipeline", "batch_waitms = 3", "did you mean `batch_wait_ms`?")]
#[case("source", "topic = 'a'", "duplicate key")]
#[case(
    "source",
    "name = 'products'",
    "pipelines[0].views[0].name: `products` is the name of another source or view too"
)]
#[case("source", "history = '1d'", "pipelines[0].sources[0].history: is a key of [[pipelines.views]]")]
#[case("view", "keep = '1 fortnight'", "is not a span of time")]
#[case(
    "view",
    "key = ['sku']\ncolumns = { id = 'long' }",
    "pipelines[0].views[0].key: `sku` is not among the declared columns"
)]
#[case("http", "name = 'redis'", "two sinks are called `redis`")]
#[case("http", "name = 'a.b'", "`a.b` is not made of letters, digits, _ and -")]
#[case(
    "pipeline",
    "alert = { key = ['id'], cool_down = '1m' }",
    "pipelines[0].alert: what it remembers is stored with the position in Kafka, and the sink `clickhouse` keeps its position itself"
)]
#[case(
    "pipeline",
    "running = [{ name = 'n', key = 'after.a', value = 'b' }]",
    "pipelines[0].running[0].value: `b` is not after.COLUMN"
)]
fn a_mistake_is_named_with_its_place(#[case] of: &str, #[case] line: &str, #[case] want: &str) {
    let message = parse(&two(line, of)).unwrap_err();
    assert!(message.contains(want), "{message}");
}

#[test]
fn names_of_pipelines_and_sinks_are_needed_once() {
    let same = parse(&two("", "").replace("\"second\"", "\"first\"")).unwrap_err();
    assert!(same.contains("pipelines[1].name: two pipelines are called `first`"), "{same}");
    let text = "[kafka]\nbootstrap_servers = \"k:9092\"\n[[pipelines]]\nname = \"p\"\nsql = \"SELECT 1\"\n";
    let none = parse(&format!("{text}[[pipelines.sources]]\ntopic = \"t\"\n")).unwrap_err();
    assert!(none.contains("has no sink"), "{none}");
}

#[rstest]
#[case(&["first"], &["first.clickhouse", "first.redis", "first.http", "first.log"])]
#[case(&["first.http", "second.log"], &["first.http", "second.log"])]
#[case(&["second", "second.redis"], &["second.clickhouse", "second.redis", "second.http", "second.log"])]
fn only_what_is_named_is_run(#[case] names: &[&str], #[case] want: &[&str]) {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let config = parse(&two("", "")).unwrap().only(&names).unwrap();
    let left = config.pipelines.iter().flat_map(|p| p.sink_names().map(|sink| format!("{}.{sink}", p.name)));
    assert_eq!(left.collect::<Vec<_>>(), want);
}

#[test]
fn who_names_what_is_not_there_is_told_what_is() {
    let config = parse(&two("", "")).unwrap();
    let message = config.only(&["third".to_owned()]).unwrap_err();
    assert!(message.contains("--only third") && message.contains("first.clickhouse, first.redis"), "{message}");
}

#[test]
fn a_table_of_the_lake_needs_a_catalog_and_nobody_else_writes_to_it() {
    let catalog = "[catalog]\ntype = \"sql\"\nuri = \"sqlite:x\"\nwarehouse = \"w\"\n";
    let lake = "[lake]\ntopics = [\"shop.gold.*\", \"shop.gold.orders\"]\n";
    let pipeline = |sinks: &str| {
        format!("[[pipelines]]\nname = \"p\"\nsql = \"SELECT 1\"\nsources = [{{ topic = \"t\" }}]\n{sinks}")
    };
    let of = |sections: &str, sinks: &str| {
        parse(&format!("[kafka]\nbootstrap_servers = \"k:9092\"\n{sections}{}", pipeline(sinks)))
    };
    let sink = |name: &str, table: &str| format!("[[pipelines.lake]]\nname = \"{name}\"\ntable = \"{table}\"\n");
    let one = of(catalog, &sink("lake", "gold.orders")).unwrap();
    assert_eq!(one.pipelines[0].sink_names().collect::<Vec<_>>(), ["lake"]);
    let both = of(&format!("{catalog}{lake}"), &sink("lake", "gold.others")).unwrap();
    assert!(both.only(&["p.lake".to_owned()]).is_ok());

    let without = of("", &sink("lake", "gold.orders")).unwrap_err();
    assert!(without.contains("catalog: is missing"), "{without}");
    for (sections, sinks, first) in [
        (catalog.to_owned(), [sink("a", "gold.orders"), sink("b", "gold.orders")].concat(), "p.a"),
        (format!("{catalog}{lake}"), sink("a", "gold.orders"), "p.a"),
        (
            format!("{catalog}[dead_letters]\nnamespace = \"gold\"\n"),
            sink("a", "gold.firn_dead_letters"),
            "dead letters",
        ),
    ] {
        let message = of(&sections, &sinks).unwrap_err();
        assert!(message.contains("gold.") && message.contains(first), "{message}");
    }
    let alert = "[pipelines.alert]\nkey = [\"id\"]\ncool_down = \"1m\"\n";
    let kept = of(catalog, &[sink("lake", "gold.orders"), alert.to_owned()].concat()).unwrap_err();
    assert!(kept.contains("the sink `lake` keeps its position itself"), "{kept}");
}

#[test]
fn the_examples_are_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut read = 0;
    for example in std::fs::read_dir(root.join("examples")).unwrap() {
        let file = example.unwrap().path().join("firn.toml");
        if !file.exists() {
            continue;
        }
        let config = parse(&std::fs::read_to_string(&file).unwrap());
        assert!(config.is_ok(), "{}: {}", file.display(), config.unwrap_err());
        read += 1;
    }
    assert!(read >= 2, "{read}");
}

#[test]
fn the_pipelines_of_the_documentation_are_read() {
    let text = include_str!("../../../docs/sidecar.md");
    let blocks: Vec<&str> = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let whole: Vec<&&str> = blocks.iter().filter(|block| block.starts_with("[[pipelines]]")).collect();
    assert!(!whole.is_empty());
    for block in whole {
        let config = parse(&format!("[kafka]\nbootstrap_servers = \"localhost:9092\"\n{block}"));
        assert!(config.is_ok(), "{block}\n{}", config.unwrap_err());
    }
}

#[test]
fn clickhouse_gets_more_rows_at_a_time_unless_a_number_is_said() {
    let of = |more: &str| -> PipelineConfig {
        let text = format!(
            "name = 'p'\nsql = 'SELECT 1'\n{more}\n[[sources]]\ntopic = 't'\n[[clickhouse]]\nurl = 'http://c'\ntable = 't'\norder_by = ['id']\n[[log]]\n"
        );
        toml::from_str(&text).unwrap()
    };
    let rows = |p: PipelineConfig| (p.batch_rows_of("clickhouse"), p.batch_rows_of("log"));
    assert_eq!(rows(of("")), (50_000, 10_000));
    assert_eq!(rows(of("batch_rows = 7")), (7, 7));
}
