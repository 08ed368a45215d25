//! Mistakes in a configuration are named; every documented key is one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rstest::rstest;

use super::env::Lookup;
use super::*;

const MINIMAL: &str = r#"
[kafka]
bootstrap_servers = "localhost:9092"
[catalog]
type = "sql"
uri = "sqlite:catalog.db"
warehouse = "warehouse"
[lake]
topics = ["inventory-server.inventory.*"]
"#;

fn lookup() -> Lookup {
    Lookup {
        env: HashMap::from([("PW".to_owned(), "hunter2".to_owned())]),
        dir: PathBuf::from("/etc/firn"),
        ..Lookup::default()
    }
}

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("firn.toml"), &lookup()).map_err(|e| e.to_string())
}

/// MINIMAL with `line` put at the end of its section, e.g. `("kafka", "group = 'x'")`.
fn with(section: &str, line: &str) -> String {
    let header = format!("[{section}]\n");
    if MINIMAL.contains(&header) {
        MINIMAL.replace(&header, &format!("{header}{line}\n"))
    } else {
        format!("{MINIMAL}{header}{line}\n")
    }
}

#[rstest]
#[case("kafka", "gruop = 'x'", "firn.toml:3: ", "unknown key `gruop`, did you mean `group`?")]
#[case("kafka", "boostrap-servers = 'x'", "firn.toml:3: ", "did you mean `bootstrap_servers`?")]
#[case("lake", "commit_interval = 5", "firn.toml:9: ", "did you mean `commit_interval_ms`?")]
#[case("lake", "partition_bye = []", "firn.toml:9: ", "did you mean `partition_by`?")]
#[case("dead_letter", "max_share = 0.1", "", "unknown key `dead_letter`, did you mean `dead_letters`?")]
#[case("maintain.policy", "enable = true", "firn.toml:11: ", "did you mean `enabled`?")]
#[case("maintain.policy", "compact_every = '10x'", "firn.toml:11: ", "\"off\" turns it off")]
#[case("maintain.policy", "small_files = 1", "firn.toml:11: maintain.policy.small_files: ", "below 2")]
#[case("maintain.policy", "quiet_hours = '25:00-26:00'", "firn.toml:11: ", "08:00-18:00")]
#[case("maintain.budget", "cpu = 0", "firn.toml:11: maintain.budget.cpu: ", "between 0.01 and 1024")]
#[case("memory", "budget = 1", "firn.toml:11: ", "did you mean `budget_bytes`?")]
#[case("lake", "mode = 'upserts'", "firn.toml:9: ", "unknown value `upserts`, did you mean `upsert`?")]
#[case("lake", "format = 'flatened'", "firn.toml:9: ", "unknown value `flatened`, did you mean `flattened`?")]
#[case("lake", "infinity = 'nul'", "firn.toml:9: ", "unknown value `nul`, did you mean `null`?")]
#[case("lake", "infer_type = true", "firn.toml:9: ", "unknown key `infer_type`, did you mean `infer_types`?")]
#[case("lake", "encodings = { b = 'hexx' }", "firn.toml:9: ", "did you mean `hex`?")]
#[case("lake", "commit_rows = 'many'", "firn.toml:9: ", "invalid type: string \"many\", expected u64")]
#[case("lake", "commit_rows = 0", "firn.toml:9: lake.commit_rows: ", "0 is below 1")]
#[case("lake", "format_version = 1", "firn.toml:9: ", "1 is below 2")]
#[case(
    "lake",
    "columns = { id = 'bigint' }",
    "firn.toml:9: ",
    "column id: unknown type `bigint`, did you mean `long`?"
)]
#[case("lake", "partition_by = ['dya(created_at)']", "firn.toml:9: ", "did you mean `day`?")]
#[case("lake", "sort_by = ['x']\ncolumns = { id = 'long' }", "firn.toml:9: lake.sort_by: ", "`x` is not among")]
#[case("lake", "key = ['x']\ncolumns = { id = 'long' }", "firn.toml:9: lake.key: ", "`x` is not among")]
#[case("lake", "columns = { _firn_op = 'long' }", "firn.toml:9: lake.columns._firn_op: ", "firn's own")]
#[case("lake", "topics_regex = '('", "firn.toml:9: lake.topics_regex: ", "not a regular expression: error: unclosed")]
#[case("lake", "namespace = '{shcema}'", "firn.toml:9: lake.namespace: ", "unknown placeholder")]
#[case("kafka", "workers = 0", "firn.toml:3: kafka.workers: ", "between 1 and 64")]
#[case("kafka.properties", "'group.id' = 'x'", "firn.toml:11: kafka.properties.group.id: ", "set kafka.group")]
#[case("kafka.properties", "'enable.auto.commit' = true", "firn.toml:11: ", "committed with the rows")]
#[case("kafka.properties", "'sasl.password' = 'x'", "firn.toml:11: kafka.properties.sasl.password: ", "${NAME}")]
#[case("kafka.properties", "sasl.password = '${PW}'", "firn.toml:11: ", "dotted keys need quotes")]
#[case("catalog.properties", "'s3.secret-access-key' = 'x'", "firn.toml:11: ", "a secret must not stand in this file")]
#[case("registry", "url = 'http://u:pw@r:8081'", "firn.toml:11: ", "a secret must not stand in this file")]
#[case("registry", "url = 'r:8081'", "firn.toml:11: registry.url: ", "http://")]
#[case("source", "url = 'mysql://u@db/shop'", "firn.toml:11: source.url: ", "not a postgres:// address")]
#[case(
    "source",
    "url = 'postgres://u:pw@db/shop'",
    "firn.toml:11: source.url: ",
    "a secret must not stand in this file"
)]
#[case("connect", "url = 'c:8083'", "firn.toml:11: connect.url: ", "http://")]
#[case("conect", "url = 'http://c:8083'", "", "unknown key `conect`, did you mean `connect`?")]
#[case("catalog", "commit_mode = 'lock'", "firn.toml:5: catalog.commit_mode: ", "hive")]
#[case("catalog", "name = '${NOPE}'", "firn.toml:5: catalog.name: ", "NOPE is not set")]
#[case("dead_letters", "to = 'topic'", "firn.toml:10: dead_letters.topic: ", "needs the topic's name")]
#[case("dead_letters", "max_share = 2.0", "firn.toml:11: dead_letters.max_share: ", "between 0 and 1")]
#[case("memory", "budget_bytes = 1", "firn.toml:11: memory.budget_bytes: ", "64 MiB")]
#[case("serve", "listen = 'here'", "firn.toml:11: serve.listen: ", "ip:port")]
#[case("log", "filter = 'firn=loud'", "firn.toml:11: log.filter: ", "firn=loud")]
#[case("lake", "topics = 3", "firn.toml:10: ", "duplicate key")]
fn a_mistake_is_named_with_its_line_and_the_right_name(
    #[case] section: &str,
    #[case] line: &str,
    #[case] place: &str,
    #[case] want: &str,
) {
    let message = parse(&with(section, line)).unwrap_err();
    assert!(message.starts_with(place) && message.contains(want), "{message}");
}

#[rstest]
#[case("uri = \"sqlite:catalog.db\"\n", "", "firn.toml:4: `uri` is missing")]
#[case(
    "sqlite:catalog.db",
    "thrift://h:9083",
    "firn.toml:6: catalog.uri: `thrift://h:9083` does not begin with sqlite:"
)]
#[case("\"warehouse\"", "\"gs://b\"", "firn.toml:7: catalog.warehouse: firn can't store under gs://")]
#[case("warehouse = \"warehouse\"\n", "", "firn.toml:4: catalog.warehouse: is missing")]
#[case("[\"inventory-server.inventory.*\"]", "[]", "firn.toml:9: lake.topics: no topics")]
#[case("inventory-server.inventory.*", "a b", "firn.toml:9: lake.topics[0]: `a b` holds ` `")]
fn what_is_missing_or_impossible_is_named(#[case] from: &str, #[case] to: &str, #[case] want: &str) {
    let message = parse(&MINIMAL.replace(from, to)).unwrap_err();
    assert!(message.starts_with(want), "{message}");
}

#[test]
fn a_missing_file_says_how_to_make_one() {
    let message = Config::load(Path::new("/nowhere/firn.toml")).unwrap_err().to_string();
    assert!(message.contains("/nowhere/firn.toml") && message.contains("firn config init"), "{message}");
}

#[test]
fn the_printed_configuration_reads_back_and_holds_no_secret() {
    let text = format!(
        "{MINIMAL}
[[lake.tables]]
topic = 'inventory-server.inventory.orders'
mode = 'upsert'
columns = {{ z = 'long', password = 'string', m = 'list<int>' }}
partition_by = ['bucket(z, 4)']
[kafka.properties]
'sasl.password' = '${{PW}}'
'socket.timeout.ms' = 5000
[catalog.properties]
's3.secret-access-key' = '${{PW}}'
"
    )
    .replace("sqlite:catalog.db", "postgres://u:${PW}@h/d");
    let config = parse(&text).unwrap();
    let shown = config.to_toml().unwrap();
    assert!(!shown.contains("hunter2") && !format!("{config:?}").contains("hunter2"), "{shown}");
    assert!(shown.contains("postgres://u:***@h/d") && shown.contains("\"sasl.password\" = \"***\""), "{shown}");
    assert_eq!(config.catalog.uri.as_str(), "postgres://u:hunter2@h/d");
    assert_eq!(config.kafka.properties.get("sasl.password"), Some("hunter2"));
    assert_eq!(config.kafka.properties.get("socket.timeout.ms"), Some("5000"));
    let again = parse(&shown.replace("***", "${PW}")).unwrap();
    assert_eq!(again.to_toml().unwrap(), shown);
}

/// The names that pipelines of Python scripts and Spark jobs read, all in strings of the file.
#[test]
fn the_environment_names_of_a_pipeline_come_from_the_environment_or_dotenv_or_have_defaults() {
    let text = r#"
[kafka]
bootstrap_servers = "${KAFKA_BOOTSTRAP:-localhost:9092}"
start = "${STARTING_OFFSETS:-latest}"
[[pipelines]]
name = "enriched"
sql = "SELECT * FROM events"
[[pipelines.sources]]
topic = "${TOPIC_EVENTS:-postgres.public.engagement_events}"
name = "events"
[[pipelines.redis]]
url = "redis://${REDIS_HOST:-localhost}:${REDIS_PORT:-6379}"
[[pipelines.redis.writes]]
kind = "stream"
key = "enriched_events"
"#;
    let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let lookup = Lookup {
        env: pairs(&[("STARTING_OFFSETS", "earliest"), ("REDIS_HOST", "cache")]),
        dotenv: pairs(&[("REDIS_HOST", "never"), ("REDIS_PORT", "6380"), ("KAFKA_BOOTSTRAP", "broker:1")]),
        ..lookup()
    };
    let config = Config::parse(text, Path::new("firn.toml"), &lookup).unwrap();
    assert_eq!((config.kafka.bootstrap_servers.as_str(), config.kafka.start), ("broker:1", Start::Earliest));
    assert_eq!(config.pipelines[0].redis[0].url.as_str(), "redis://cache:6380");
    assert_eq!(config.pipelines[0].sources[0].topic, "postgres.public.engagement_events");
    let said: Vec<String> = config.origins().map(|(key, of)| format!("{key}: {} {:?}", of[0], of.len())).collect();
    assert_eq!(
        said,
        [
            "kafka.bootstrap_servers: KAFKA_BOOTSTRAP of .env 1",
            "kafka.start: STARTING_OFFSETS of the environment 1",
            "pipelines[0].redis[0].url: REDIS_HOST of the environment 2",
            "pipelines[0].sources[0].topic: the default, as TOPIC_EVENTS is not set 1",
        ]
    );
    let unset = text.replace(":-localhost}:", "}:");
    let message = Config::parse(&unset, Path::new("firn.toml"), &self::lookup()).unwrap_err().to_string();
    assert!(
        message.starts_with("firn.toml:12: pipelines[0].redis[0].url: environment variable REDIS_HOST"),
        "{message}"
    );
    let wrong = Lookup { env: pairs(&[("STARTING_OFFSETS", "newest")]), ..self::lookup() };
    let message = Config::parse(text, Path::new("firn.toml"), &wrong).unwrap_err().to_string();
    assert!(message.starts_with("firn.toml:4: ") && message.contains("earliest, latest"), "{message}");
}

#[test]
fn a_table_takes_the_defaults_and_what_its_rule_says() {
    let text = format!(
        "{MINIMAL}commit_rows = 7
properties = {{ 'a' = '1', 'b' = '1' }}
[[lake.tables]]
topic = 'inventory-server.inventory.o*'
mode = 'upsert'
commit_rows = 8
[[lake.tables]]
topic = 'inventory-server.inventory.orders'
table = 'all-{{table}}'
namespace = 'Sales'
key = ['id']
columns = {{ z = 'long', id = 'long' }}
properties = {{ 'b' = '2' }}
[[lake.tables]]
topic = 'elsewhere'
"
    );
    let config = parse(&text).unwrap();
    let orders = config.table_for("inventory-server.inventory.orders").unwrap();
    assert_eq!(orders.ident().to_string(), "sales.all_orders");
    assert_eq!((orders.mode, orders.commit_rows), (Mode::Append, 7), "the exact rule alone applies");
    assert_eq!(
        orders.columns.iter().map(|c| (c.name.as_str(), c.key)).collect::<Vec<_>>(),
        [("z", false), ("id", true)]
    );
    assert_eq!(orders.properties.iter().map(|(k, v)| format!("{k}{v}")).collect::<String>(), "a1b2");
    let items = config.table_for("inventory-server.inventory.order_items").unwrap();
    assert_eq!(
        (items.mode, items.commit_rows, items.ident().to_string().as_str()),
        (Mode::Upsert, 8, "inventory.order_items")
    );
    assert!(config.table_for("inventory-server.other.orders").is_none());
    assert_eq!(config.table_for("elsewhere").unwrap().ident().to_string(), "default.elsewhere");
    assert_eq!(config.lake.exact_topics(), ["elsewhere", "inventory-server.inventory.orders"]);
}

#[test]
fn two_topics_of_one_table_are_refused() {
    let named = MINIMAL.replace("[\"inventory-server.inventory.*\"]", "[\"s.a.Order-Items\", \"s.a.order_items\"]");
    let message = parse(&named).unwrap_err();
    assert!(message.contains("`s.a.Order-Items` and `s.a.order_items` both map to table a.order_items"), "{message}");

    let found = parse(&MINIMAL.replace("inventory-server.inventory.*", "*")).unwrap();
    assert!(found.check_collisions(["a.s.t", "a.s.u", "a.s.t"]).is_ok());
    assert!(found.check_collisions(["a.s.t", "b.s.t"]).is_err());
    assert!(found.check_collisions(["a.firn.firn_dead_letters"]).is_err());
}

#[test]
fn the_dead_letter_topic_is_never_read() {
    let text = with("dead_letters", "to = 'topic'\ntopic = 'dead'").replace("inventory-server.inventory.*", "*");
    let config = parse(&text).unwrap();
    assert!(config.selects("alive") && !config.selects("dead"));
    assert!(config.dead_letter_table().is_none());
}

const DOC: &str = include_str!("../../docs/configuration.md");

#[test]
fn every_block_of_the_documentation_is_valid() {
    let variables = [
        "KAFKA_PASSWORD",
        "REGISTRY_PASSWORD",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "PGPASSWORD",
        "SOURCE_PASSWORD",
        "HOOK_SECRET",
        "HOOK_KEY",
    ];
    let env = variables.map(|name| (name.to_owned(), "x".to_owned())).into();
    let lookup = Lookup { env, ..lookup() };
    let blocks: Vec<&str> = DOC.split("```toml\n").skip(1).filter_map(|b| b.split("```").next()).collect();
    assert!(blocks.len() >= 6, "{}", blocks.len());
    for block in blocks {
        // A block may show some sections only: the others are those of MINIMAL.
        let absent = MINIMAL.split("\n[").filter(|s| !s.trim().is_empty()).filter(|section| {
            let header = section.split(']').next().unwrap();
            !block.lines().any(|l| l == format!("[{header}]"))
        });
        let text = absent.fold(block.to_owned(), |all, section| format!("{all}\n[{section}"));
        if let Err(e) = Config::parse(&text, Path::new("block"), &lookup) {
            panic!("{e} in\n{text}");
        }
    }
}

#[test]
fn every_key_is_documented_and_every_documented_key_is_there() {
    let text = format!(
        "{MINIMAL}topics_regex = 'x'\n[registry]\nurl = 'http://r'\n[source]\nurl = 'postgres://p'\n[connect]\nurl = 'http://c'\n[dead_letters]\ntopic = 'd'\n[maintain.trino]\nurl = 'http://t'\ncatalog = 'c'\n"
    );
    let shown: toml::Table = parse(&text).unwrap().to_toml().unwrap().parse().unwrap();
    for (section, keys) in shown.iter().filter(|(_, keys)| keys.is_table()) {
        let heading = format!("## [{section}]");
        let part = DOC.split("\n## [").find(|p| heading.ends_with(&format!("[{}", p.split('\n').next().unwrap())));
        let part = part.unwrap_or_else(|| panic!("no {heading}"));
        let part = part.split("\n### ").next().unwrap();
        let documented: Vec<&str> = part
            .lines()
            .filter_map(|l| l.strip_prefix("| `")?.split('`').next())
            .filter(|k| !k.contains('.'))
            .collect();
        let mut keys: Vec<&str> =
            keys.as_table().unwrap().keys().map(String::as_str).filter(|k| *k != "tables").collect();
        keys.sort_unstable();
        for key in &keys {
            assert!(documented.contains(key), "{heading} lacks {key}");
        }
        let modes = ["auto", "lock-and-compare", "compare", "lock"];
        for key in documented.iter().filter(|k| !modes.contains(k)) {
            assert!(keys.contains(key), "{heading} has {key}, which is no key");
        }
    }
}

#[test]
fn the_keys_of_policies_are_documented_and_a_table_has_its_own() {
    let text = format!(
        "{MINIMAL}[maintain.policy]\nenabled = true\nexpire_older_than = '2d'\nretain_last = 3\n[[lake.tables]]\ntopic = 'x.a.b'\nmaintain = {{ compact_every = '2m' }}\n"
    );
    let config = parse(&text).unwrap();
    let policy = config.policy_for(&config.table_for("x.a.b").unwrap());
    assert_eq!((policy.enabled, policy.compact_every.to_string().as_str()), (true, "2m"));
    let shown: toml::Table = config.to_toml().unwrap().parse().unwrap();
    for section in ["policy", "budget"] {
        let part = DOC.split(&format!("### [maintain.{section}]")).nth(1).unwrap().split("\n### ").next().unwrap();
        let documented: Vec<&str> = part.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next()).collect();
        let keys: Vec<&str> = shown["maintain"][section].as_table().unwrap().keys().map(String::as_str).collect();
        assert!(keys.iter().all(|key| documented.contains(key)), "{section}: {keys:?} of {documented:?}");
        assert_eq!(keys.len(), documented.len(), "{documented:?}");
    }
    let wrong = text.replace("'2m'", "'2ms'");
    let message = parse(&wrong).unwrap_err();
    assert!(
        message.starts_with("firn.toml:16: lake.tables[0].maintain.compact_every: 2ms is not between"),
        "{message}"
    );
}
