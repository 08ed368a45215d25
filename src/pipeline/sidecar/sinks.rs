//! From the configuration to sinks.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use firn_catalog::Catalog;
use tokio::runtime::Handle;

use super::ledger::GroupLedger;
use super::topic::{self, Surroundings};
use crate::config::sinks::clickhouse::ClickHouseEngine;
use crate::config::sinks::log::LogLevel;
use crate::config::{ClickHouseConfig, Config, LakeSinkConfig, PipelineConfig};
use crate::pipeline::wiring::table_spec;
use crate::sink::clickhouse::{self, ClickHouseSettings, ClickHouseSink, Engine, LastRows};
use crate::sink::http::{self, HttpSink};
use crate::sink::lake::output::{self, LakeSink, Pace};
use crate::sink::lake::{Shared, TableSpec};
use crate::sink::log::LogSink;
use crate::sink::redis::{self, RedisSink};
use crate::sink::topic::TopicSink;
use crate::sink::{Sink, SinkError};
use crate::source::kafka::{self, ClientSettings};

/// A ledger's consumer fetches nothing: the least that the client takes.
const PRODUCER_FETCHES: usize = 1 << 20;

/// A sink under its name.
pub(super) struct Named {
    pub name: String,
    pub sink: Box<dyn Sink>,
    pub offsets: GroupOffsets,
    /// Counts writes that the sink's settings leave out, where it knows such.
    pub skipped: Option<Arc<AtomicU64>>,
}

/// What the offsets of a sink's consumer group are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GroupOffsets {
    /// For lag tools alone: the sink itself knows where it stands.
    Reported,
    /// The sink's positions, which its transactions move and nothing else may.
    Positions,
}

/// What tables of the lake are made with.
#[derive(Clone)]
pub(super) struct Lake {
    pub catalog: Arc<dyn Catalog>,
    pub shared: Shared,
    /// Uploads run there.
    pub io: Handle,
}

/// The sinks of a pipeline.
///
/// # Errors
/// When a setting is wrong.
pub(super) fn of(config: &Config, pipeline: &PipelineConfig, lake: &Lake) -> Result<Vec<Named>, String> {
    let id = |name: &str| format!("{}.{}.{name}", config.kafka.group, pipeline.name);
    let mut sinks: Vec<Named> = Vec::new();
    for sink in &pipeline.clickhouse {
        let made = ClickHouseSink::new(clickhouse_settings(sink), &id(&sink.name));
        let (name, offsets) = (sink.name.clone(), GroupOffsets::Reported);
        let skipped = Some(made.skipped());
        sinks.push(Named { name, sink: Box::new(made), offsets, skipped });
    }
    for sink in &pipeline.redis {
        let settings = sink.settings().map_err(|p| format!("{}: {}", p.field, p.message))?;
        let made = RedisSink::new(settings, &id(&sink.name));
        let skipped = Some(made.skipped());
        let (name, offsets) = (sink.name.clone(), GroupOffsets::Reported);
        sinks.push(Named { name, sink: Box::new(made), offsets, skipped });
    }
    for sink in &pipeline.lake {
        let Lake { catalog, shared, io } = lake.clone();
        let made = LakeSink::new(table_of(sink), pace_of(sink), catalog, shared, io);
        let (name, offsets) = (sink.name.clone(), GroupOffsets::Reported);
        sinks.push(Named { name, sink: Box::new(made), offsets, skipped: None });
    }
    // The sink's consumer group, whose offsets are its positions.
    let ledger = |name: &str| Box::new(GroupLedger::new(kafka_of(config), &id(name)));
    for sink in &pipeline.topic {
        let around = Box::new(Surroundings::of(config)?);
        let made = TopicSink::new(sink.settings(), ledger(&sink.name), around);
        let (name, offsets) = (sink.name.clone(), GroupOffsets::Positions);
        sinks.push(Named { name, sink: Box::new(made), offsets, skipped: None });
    }
    for sink in &pipeline.http {
        let made = HttpSink::new(sink.settings(), &id(&sink.name), ledger(&sink.name));
        let (name, offsets) = (sink.name.clone(), GroupOffsets::Positions);
        sinks.push(Named { name, sink: Box::new(made), offsets, skipped: None });
    }
    for sink in &pipeline.log {
        let level = match sink.level {
            LogLevel::Info => tracing::Level::INFO,
            LogLevel::Warn => tracing::Level::WARN,
            LogLevel::Error => tracing::Level::ERROR,
        };
        let made = LogSink::new(level, &format!("{}.{}", pipeline.name, sink.name), ledger(&sink.name));
        let (name, offsets) = (sink.name.clone(), GroupOffsets::Positions);
        sinks.push(Named { name, sink: Box::new(made), offsets, skipped: None });
    }
    Ok(sinks)
}

/// How a sink reaches the Kafka that its pipeline reads from.
pub(super) fn kafka_of(config: &Config) -> ClientSettings {
    kafka::settings(&config.kafka.bootstrap_servers, config.kafka.properties.iter(), PRODUCER_FETCHES)
}

/// Asks each sink of each pipeline whether it can be written to; `pipeline.sink` and what it said.
pub async fn probe(config: &Config) -> Vec<(String, Result<String, SinkError>)> {
    let mut answers = Vec::new();
    for pipeline in &config.pipelines {
        for sink in &pipeline.clickhouse {
            answers.push((
                format!("{}.{}", pipeline.name, sink.name),
                clickhouse::probe(&clickhouse_settings(sink)).await,
            ));
        }
        for sink in &pipeline.redis {
            let answer = match sink.settings() {
                Ok(settings) => redis::probe(&settings).await,
                Err(p) => Err(SinkError::Stopped(format!("{}: {}", p.field, p.message))),
            };
            answers.push((format!("{}.{}", pipeline.name, sink.name), answer));
        }
        for sink in &pipeline.lake {
            let answer = match crate::catalogs::open(&config.catalog).await {
                Ok(catalog) => output::probe(table_of(sink), catalog).await,
                Err(e) => Err(SinkError::Stopped(e.to_string())),
            };
            answers.push((format!("{}.{}", pipeline.name, sink.name), answer));
        }
        for sink in &pipeline.http {
            answers.push((format!("{}.{}", pipeline.name, sink.name), http::probe(&sink.settings()).await));
        }
        for sink in &pipeline.topic {
            let id = format!("{}.{}", pipeline.name, sink.name);
            let answer = topic::probe(config, &sink.settings(), &format!("{}.{id}", config.kafka.group)).await;
            answers.push((id, answer));
        }
    }
    answers
}

/// The last rows of a pipeline's table in ClickHouse; `name` is a pipeline or `pipeline.sink`.
///
/// # Errors
/// The sentence for a person: there is no such table, or more than one; the server does not answer.
pub async fn last_rows(config: &Config, name: &str, by: Option<&str>, count: usize) -> Result<LastRows, String> {
    let all =
        config.pipelines.iter().flat_map(|p| p.clickhouse.iter().map(move |s| (format!("{}.{}", p.name, s.name), s)));
    let all: Vec<(String, &ClickHouseConfig)> = all.collect();
    let of_name = |id: &String| id == name || id.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    let found: Vec<_> = all.iter().filter(|(id, _)| of_name(id)).collect();
    match found[..] {
        [(_, sink)] => clickhouse::tail(&clickhouse_settings(sink), by, count).await.map_err(|e| e.to_string()),
        _ => {
            let there: Vec<&str> = all.iter().map(|(id, _)| id.as_str()).collect();
            Err(format!("`{name}` names {} tables in ClickHouse; there are: {}", found.len(), there.join(", ")))
        }
    }
}

/// Deletes the rows of a range in the ClickHouse table of `pipeline.sink`; how many there were.
///
/// # Errors
/// The sentence for a person.
pub async fn delete_between(
    config: &Config,
    sink: &str,
    column: &str,
    from_ms: Option<i64>,
    to_ms: Option<i64>,
) -> Result<u64, String> {
    let of_pipeline =
        |p: &PipelineConfig| p.clickhouse.iter().find(|s| format!("{}.{}", p.name, s.name) == sink).cloned();
    let Some(found) = config.pipelines.iter().find_map(of_pipeline) else {
        return Err("it is no ClickHouse table".to_owned());
    };
    let deleted = clickhouse::delete_between(&clickhouse_settings(&found), column, from_ms, to_ms).await;
    deleted.map_err(|e| e.to_string())
}

/// The SELECT chooses the key: rows of one may come from any partition of any source.
fn table_of(sink: &LakeSinkConfig) -> TableSpec {
    TableSpec { keys_roam: true, ..table_spec(&sink.as_table()) }
}

fn pace_of(sink: &LakeSinkConfig) -> Pace {
    Pace { interval: Duration::from_millis(sink.commit_interval_ms), rows: sink.commit_rows, bytes: sink.commit_bytes }
}

fn clickhouse_settings(sink: &ClickHouseConfig) -> ClickHouseSettings {
    ClickHouseSettings {
        nodes: sink.nodes().iter().map(|node| node.as_str().to_owned()).collect(),
        database: sink.database.clone(),
        table: sink.table.clone(),
        engine: match sink.engine {
            ClickHouseEngine::MergeTree => Engine::MergeTree,
            ClickHouseEngine::Replacing => Engine::Replacing,
        },
        order_by: sink.order_by.clone(),
        partition_by: sink.partition_by.clone(),
        version: sink.version.clone(),
        columns: sink.columns.clone(),
        snapshot_rows: sink.snapshot_rows,
        snapshot_key: sink.snapshot_key.clone(),
        origin_columns: sink.origin_columns,
        timeout: Duration::from_millis(sink.timeout_ms),
        properties: sink.properties.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
    }
}
