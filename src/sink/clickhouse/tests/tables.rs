//! Tables that firn makes, and tables that are there.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, TimeUnit};

use super::*;

fn select(fields: &[(&str, DataType, bool)]) -> SchemaRef {
    Arc::new(Schema::new(
        fields.iter().map(|(name, of, null)| Field::new(*name, of.clone(), *null)).collect::<Vec<_>>(),
    ))
}

fn moment() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))
}

async fn prepared(place: &TestTable, select: &SchemaRef) -> Result<ClickHouseSink, SinkError> {
    let mut sink = ClickHouseSink::new(place.settings.clone(), &format!("suite.{}", place.settings.table));
    sink.prepare(select).await?;
    Ok(sink)
}

async fn columns(place: &TestTable) -> Vec<String> {
    let sql = format!(
        "SELECT concat(name, ' ', type, if(default_expression = '', '', concat(' DEFAULT ', default_expression))) FROM system.columns \
         WHERE database = '{}' AND table = '{}' ORDER BY position",
        place.settings.database, place.settings.table
    );
    place.server().rows::<String>(&sql).await.unwrap()
}

async fn engine(place: &TestTable) -> String {
    let sql = format!(
        "SELECT engine_full FROM system.tables WHERE database = '{}' AND name = '{}'",
        place.settings.database, place.settings.table
    );
    place.server().rows::<String>(&sql).await.unwrap().remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_facts_is_made_with_the_types_that_are_declared() {
    let Some(address) = address() else { return };
    let mut place = TestTable::new(&address, "facts");
    place.settings.order_by = ["event_ts", "content_id", "event_id"].map(str::to_owned).to_vec();
    place.settings.partition_by = Some("toDate(event_ts)".to_owned());
    place.settings.columns = [
        ("event_id", "UInt64"),
        ("event_type", "LowCardinality(String)"),
        ("event_ts", "DateTime64(3)"),
        ("content_type", "LowCardinality(String)"),
        ("publish_ts", "DateTime64(3)"),
        ("loaded_at", "DateTime DEFAULT now()"),
    ]
    .map(|(name, of)| (name.to_owned(), of.to_owned()))
    .into();
    let select = select(&[
        ("event_id", DataType::Int64, false),
        ("content_id", DataType::FixedSizeBinary(16), true),
        ("event_type", DataType::Utf8, false),
        ("event_ts", moment(), true),
        ("duration_ms", DataType::Int32, true),
        ("engagement_percent", DataType::Float64, true),
        ("content_type", DataType::Utf8, true),
        ("publish_ts", moment(), true),
    ]);
    prepared(&place, &select).await.unwrap();
    let want = [
        "event_id UInt64",
        "content_id UUID",
        "event_type LowCardinality(String)",
        "event_ts DateTime64(3)",
        "duration_ms Nullable(Int32)",
        "engagement_percent Nullable(Float64)",
        "content_type LowCardinality(Nullable(String))",
        "publish_ts Nullable(DateTime64(3))",
        "loaded_at DateTime DEFAULT now()",
        "_firn_topic LowCardinality(String) DEFAULT ''",
        "_firn_partition Int32 DEFAULT -1",
        "_firn_offset Int64 DEFAULT -1",
    ];
    assert_eq!(columns(&place).await, want);
    let engine = engine(&place).await;
    for part in
        ["MergeTree PARTITION BY toDate(event_ts)", "ORDER BY (event_ts, content_id, event_id)", "window = 10000"]
    {
        assert!(engine.contains(part), "{part}: {engine}");
    }
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_made_with_the_version_that_is_named() {
    let Some(address) = address() else { return };
    let mut place = TestTable::new(&address, "mirror");
    place.settings.engine = Engine::Replacing;
    place.settings.partition_by = None;
    place.settings.origin_columns = false;
    place.settings.version = Some("version_ts_ms".to_owned());
    place.settings.columns = BTreeMap::from([("version_ts_ms".to_owned(), "UInt64".to_owned())]);
    let fields = [
        ("id", DataType::FixedSizeBinary(16), true),
        ("title", DataType::Utf8, true),
        ("version_ts_ms", DataType::Int64, true),
    ];
    let select = select(&fields);
    prepared(&place, &select).await.unwrap();
    let want = ["id UUID", "title Nullable(String)", "version_ts_ms UInt64", "is_deleted UInt8 DEFAULT 0"];
    assert_eq!(columns(&place).await, want);
    assert!(engine(&place).await.starts_with("ReplacingMergeTree(version_ts_ms, is_deleted) ORDER BY (id)"));
    place.remove().await;

    place.settings.version = Some("version".to_owned());
    let Err(SinkError::Stopped(text)) = prepared(&place, &select).await else { panic!("no such column") };
    assert!(text.contains("`version`, which the SELECT does not give"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_there_is_used_as_it_is() {
    let Some(address) = address() else { return };
    let place = TestTable::new(&address, "present");
    prepared(&place, &conformance::columns()).await.unwrap();
    let (server, table) = (place.server(), place.settings.table_name());
    server.execute(&format!("DROP TABLE {table}")).await.unwrap();
    let made =
        "(id Int32, at DateTime, extra String DEFAULT 'x') ENGINE = MergeTree ORDER BY id PARTITION BY toYYYYMM(at)";
    server.execute(&format!("CREATE TABLE {table} {made}")).await.unwrap();

    let mut sink = prepared(&place, &conformance::columns()).await.unwrap();
    assert_eq!(
        columns(&place).await,
        ["id Int32", "at DateTime", "extra String DEFAULT 'x'", "digits Nullable(UInt32)"],
        "a column is added, none is changed"
    );
    assert!(engine(&place).await.contains("non_replicated_deduplication_window = 10000"));
    sink.take_over(&[conformance::at(0)]).await.unwrap();
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_another_shape_stops_the_sink() {
    let Some(address) = address() else { return };
    let place = TestTable::new(&address, "shape");
    prepared(&place, &conformance::columns()).await.unwrap();
    let (server, table) = (place.server(), place.settings.table_name());
    for (made, parts) in [
        (
            "(id UUID, at DateTime) ENGINE = MergeTree ORDER BY id",
            ["`id`", "is UUID", "gives Int64", "MODIFY COLUMN"].as_slice(),
        ),
        ("(id Int64) ENGINE = SummingMergeTree ORDER BY id", &["SummingMergeTree", "needs MergeTree"]),
        ("(id Int64) ENGINE = ReplacingMergeTree ORDER BY id", &["engine = \"replacing\""]),
        (
            "(id Int64 MATERIALIZED 1, other Int64) ENGINE = MergeTree ORDER BY tuple()",
            &["`id`", "computed by ClickHouse"],
        ),
        (
            "(id Int64, day Date DEFAULT today()) ENGINE = MergeTree ORDER BY id PARTITION BY day",
            &["`day`", "SELECT does not give"],
        ),
    ] {
        server.execute(&format!("DROP TABLE IF EXISTS {table}")).await.unwrap();
        server.execute(&format!("CREATE TABLE {table} {made}")).await.unwrap();
        let Err(SinkError::Stopped(text)) = prepared(&place, &conformance::columns()).await else { panic!("{made}") };
        for part in parts {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
    }
    place.remove().await;
}
