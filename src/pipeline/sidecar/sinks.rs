//! From the configuration to sinks.

use std::time::Duration;

use crate::config::sinks::clickhouse::ClickHouseEngine;
use crate::config::{ClickHouseConfig, Config, PipelineConfig};
use crate::sink::clickhouse::{self, ClickHouseSettings, ClickHouseSink, Engine};
use crate::sink::redis::{self, RedisSink};
use crate::sink::{Sink, SinkError};

/// A sink under its name.
pub(super) type Named = (String, Box<dyn Sink>);

/// The sinks of a pipeline.
///
/// # Errors
/// When a setting is wrong.
pub(super) fn of(config: &Config, pipeline: &PipelineConfig) -> Result<Vec<Named>, String> {
    let id = |name: &str| format!("{}.{}.{name}", config.kafka.group, pipeline.name);
    let mut sinks: Vec<Named> = Vec::new();
    for sink in &pipeline.clickhouse {
        sinks.push((sink.name.clone(), Box::new(ClickHouseSink::new(clickhouse_settings(sink), &id(&sink.name)))));
    }
    for sink in &pipeline.redis {
        let settings = sink.settings().map_err(|p| format!("{}: {}", p.field, p.message))?;
        sinks.push((sink.name.clone(), Box::new(RedisSink::new(settings, &id(&sink.name)))));
    }
    Ok(sinks)
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
    }
    answers
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
        origin_columns: sink.origin_columns,
        timeout: Duration::from_millis(sink.timeout_ms),
        properties: sink.properties.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
    }
}
