//! `[[pipelines]]`: from topics through one SELECT to sinks.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::columns::{DeclaredColumns, Encoding};
use super::error::Problem;
use super::lake::{LakeConfig, TableRule};
use super::naming::{TopicParts, fold};
use super::period::Period;
use super::rules::{AlertConfig, RunningConfig};
use super::sinks::{ClickHouseConfig, HttpConfig, LakeSinkConfig, LogSinkConfig, RedisConfig, TopicConfig};
use super::table::{Format, TableConfig};
use crate::change::Infinity;
use crate::sink::topic::ValueFormat;

/// One pipeline. Each of its sinks has a position of its own and reads by itself.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineConfig {
    /// In positions, metrics and commands.
    pub name: String,
    /// The SELECT over the sources and views, by their names.
    pub sql: String,
    /// Rows after which a delivery is made early; by the sink, if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_rows: Option<usize>,
    /// Longest wait of a first row for others.
    #[serde(default = "default_batch_wait_ms")]
    pub batch_wait_ms: u64,
    /// Longest wait until the views have what their topics had when the changes were read; then the join goes on with what there is.
    #[serde(default = "default_view_wait_ms")]
    pub view_wait_ms: u64,
    /// Topics whose changes are the SELECT's input.
    pub sources: Vec<PipelineTopic>,
    /// Topics kept as their current rows, to be joined.
    #[serde(default)]
    pub views: Vec<PipelineTopic>,
    /// Rows are alerts: of those with the same key only the first goes out within a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert: Option<AlertConfig>,
    /// Statistics of the changes before each change, as columns of their source.
    #[serde(default)]
    pub running: Vec<RunningConfig>,
    #[serde(default)]
    pub clickhouse: Vec<ClickHouseConfig>,
    #[serde(default)]
    pub redis: Vec<RedisConfig>,
    #[serde(default)]
    pub lake: Vec<LakeSinkConfig>,
    #[serde(default)]
    pub http: Vec<HttpConfig>,
    #[serde(default)]
    pub log: Vec<LogSinkConfig>,
    #[serde(default)]
    pub topic: Vec<TopicConfig>,
}

/// `[[pipelines.sources]]`, `[[pipelines.views]]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineTopic {
    pub topic: String,
    /// The table's name in the SQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default)]
    pub format: Format,
    /// Key columns where the record's own key is not to be used.
    #[serde(default)]
    pub key: Vec<String>,
    /// Declared columns, for records without a schema.
    #[serde(default)]
    pub columns: DeclaredColumns,
    /// How values are written in records without a schema, where their type does not tell.
    #[serde(default)]
    pub encodings: BTreeMap<String, Encoding>,
    /// What becomes of infinite dates and timestamps.
    #[serde(default)]
    pub infinity: Infinity,
    /// Of a view: how long the former versions of a row are there to be joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<Period>,
    /// Of a view: rows whose last change is older leave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Period>,
}

const USUAL_BATCH_ROWS: usize = 10_000;
/// ClickHouse takes as long for an insert of few rows as for one of many.
const CLICKHOUSE_BATCH_ROWS: usize = 50_000;

fn default_batch_wait_ms() -> u64 {
    50
}

fn default_view_wait_ms() -> u64 {
    5_000
}

impl PipelineTopic {
    /// The table's name in the SQL: the last part of the topic's, if none is given.
    pub fn table_name(&self) -> String {
        self.name.clone().unwrap_or_else(|| fold(TopicParts::of(&self.topic).table))
    }

    /// How its records are read, in the words of a lake table.
    pub fn as_table(&self) -> TableConfig {
        let rule = TableRule {
            topic: self.topic.clone(),
            format: Some(self.format),
            key: Some(self.key.clone()),
            columns: Some(self.columns.clone()),
            encodings: Some(self.encodings.clone()),
            infinity: Some(self.infinity),
            ..TableRule::default()
        };
        LakeConfig { tables: vec![rule], ..LakeConfig::default() }.resolve(&self.topic)
    }

    fn validate(&self) -> Result<(), Problem> {
        if self.topic.is_empty() || self.topic.contains(['*', '?']) {
            return Err(Problem::new("topic", format!("`{}` is not the name of one topic", self.topic)));
        }
        let DeclaredColumns(columns) = &self.columns;
        match self.key.iter().find(|key| !columns.is_empty() && !columns.iter().any(|(name, _)| name == *key)) {
            Some(name) => Err(Problem::new("key", format!("`{name}` is not among the declared columns"))),
            None => Ok(()),
        }
    }
}

impl PipelineConfig {
    /// The names of its sinks, each once.
    pub fn sink_names(&self) -> impl Iterator<Item = &str> {
        let stores = self.clickhouse.iter().map(|s| &s.name).chain(self.redis.iter().map(|s| &s.name));
        let others = self.http.iter().map(|s| &s.name).chain(self.log.iter().map(|s| &s.name));
        let stores = stores.chain(self.lake.iter().map(|s| &s.name));
        stores.chain(others).chain(self.topic.iter().map(|s| &s.name)).map(String::as_str)
    }

    /// Rows after which a delivery to this sink is made early.
    pub fn batch_rows_of(&self, sink: &str) -> usize {
        let of_kind = match self.clickhouse.iter().any(|s| s.name == sink) {
            true => CLICKHOUSE_BATCH_ROWS,
            false => USUAL_BATCH_ROWS,
        };
        self.batch_rows.unwrap_or(of_kind)
    }

    /// Leaves out the other sinks.
    pub fn keep_sinks(&mut self, wanted: impl Fn(&str) -> bool) {
        self.clickhouse.retain(|sink| wanted(&sink.name));
        self.redis.retain(|sink| wanted(&sink.name));
        self.lake.retain(|sink| wanted(&sink.name));
        self.topic.retain(|sink| wanted(&sink.name));
        self.http.retain(|sink| wanted(&sink.name));
        self.log.retain(|sink| wanted(&sink.name));
    }

    fn validate(&self) -> Result<(), Problem> {
        check_name(&self.name)?;
        if self.sources.is_empty() {
            return Err(Problem::new("sources", "no topic to read: write [[pipelines.sources]] with a topic"));
        }
        if self.sql.trim().is_empty() {
            return Err(Problem::new("sql", "must not be empty"));
        }
        for (field, value, low, high) in [
            ("batch_rows", self.batch_rows.unwrap_or(USUAL_BATCH_ROWS) as u64, 1, 1_000_000),
            ("batch_wait_ms", self.batch_wait_ms, 0, 60_000),
            ("view_wait_ms", self.view_wait_ms, 0, 600_000),
        ] {
            if !(low..=high).contains(&value) {
                return Err(Problem::new(field, format!("{value} is not between {low} and {high}")));
            }
        }
        let mut tables = BTreeSet::new();
        for (list, topics) in [("sources", &self.sources), ("views", &self.views)] {
            for (i, topic) in topics.iter().enumerate() {
                topic.validate().map_err(|p| p.under(&format!("{list}[{i}]")))?;
                let of_view = [("history", topic.history), ("keep", topic.keep)];
                if let Some((key, _)) = of_view.iter().find(|(_, period)| list == "sources" && period.is_some()) {
                    return Err(Problem::new(format!("{list}[{i}].{key}"), "is a key of [[pipelines.views]]"));
                }
                if !tables.insert(topic.table_name()) {
                    let problem = format!("`{}` is the name of another source or view too", topic.table_name());
                    return Err(Problem::new(format!("{list}[{i}].name"), problem));
                }
            }
        }
        let mut names = BTreeSet::new();
        for name in self.sink_names() {
            check_name(name)?;
            if !names.insert(name) {
                return Err(Problem::new("", format!("two sinks are called `{name}`: give one another `name`")));
            }
        }
        if names.is_empty() {
            return Err(Problem::new(
                "",
                "has no sink: write [[pipelines.clickhouse]], [[pipelines.redis]], [[pipelines.lake]], [[pipelines.topic]], [[pipelines.http]] or [[pipelines.log]]",
            ));
        }
        self.validate_rules()?;
        for (i, sink) in self.clickhouse.iter().enumerate() {
            sink.validate().map_err(|p| p.under(&format!("clickhouse[{i}]")))?;
        }
        for (i, sink) in self.redis.iter().enumerate() {
            sink.validate().map_err(|p| p.under(&format!("redis[{i}]")))?;
        }
        for (i, sink) in self.lake.iter().enumerate() {
            sink.validate().map_err(|p| p.under(&format!("lake[{i}]")))?;
        }
        for (i, sink) in self.http.iter().enumerate() {
            sink.validate().map_err(|p| p.under(&format!("http[{i}]")))?;
        }
        for (i, sink) in self.topic.iter().enumerate() {
            let sources = self.sources.iter().chain(&self.views).map(|t| t.topic.as_str());
            sink.validate(sources).map_err(|p| p.under(&format!("topic[{i}]")))?;
        }
        Ok(())
    }
}

impl PipelineConfig {
    fn validate_rules(&self) -> Result<(), Problem> {
        let sources: Vec<String> = self.sources.iter().map(PipelineTopic::table_name).collect();
        if let Some(alert) = &self.alert {
            alert.validate().map_err(|p| p.under("alert"))?;
        }
        let mut names = BTreeSet::new();
        for (i, running) in self.running.iter().enumerate() {
            let under = |p: Problem| p.under(&format!("running[{i}]"));
            running.validate(&sources).map_err(under)?;
            if !names.insert(&running.name) {
                return Err(under(Problem::new("name", format!("two statistics are called `{}`", running.name))));
            }
        }
        let keeps = if self.alert.is_some() { "alert" } else { "running" };
        let stores = self.clickhouse.iter().map(|s| &s.name).chain(self.redis.iter().map(|s| &s.name));
        let other = stores.chain(self.lake.iter().map(|s| &s.name)).next();
        match other.filter(|_| self.alert.is_some() || !self.running.is_empty()) {
            Some(sink) => Err(Problem::new(
                keeps,
                format!(
                    "what it remembers is stored with the position in Kafka, and the sink `{sink}` keeps its position itself: \
                     send the rows to a topic, and that into `{sink}` by a pipeline of its own"
                ),
            )),
            None => Ok(()),
        }
    }
}

/// Refuses what needs a schema registry.
pub(super) fn without_registry(pipelines: &[PipelineConfig]) -> Result<(), Problem> {
    for (i, pipeline) in pipelines.iter().enumerate() {
        if let Some(j) = pipeline.topic.iter().position(|sink| sink.format == ValueFormat::Avro) {
            let field = format!("pipelines[{i}].topic[{j}].format");
            return Err(Problem::new(field, "avro needs a schema registry: set registry.url"));
        }
    }
    Ok(())
}

pub(super) fn check_name(name: &str) -> Result<(), Problem> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    match !name.is_empty() && name.chars().all(fits) {
        true => Ok(()),
        false => Err(Problem::new("name", format!("`{name}` is not made of letters, digits, _ and -"))),
    }
}

/// All of them, each with its place in the file.
pub(super) fn validate(pipelines: &[PipelineConfig]) -> Result<(), Problem> {
    let mut names = BTreeSet::new();
    for (i, pipeline) in pipelines.iter().enumerate() {
        let under = |p: Problem| p.under(&format!("pipelines[{i}]"));
        pipeline.validate().map_err(under)?;
        if !names.insert(&pipeline.name) {
            return Err(under(Problem::new("name", format!("two pipelines are called `{}`", pipeline.name))));
        }
    }
    Ok(())
}
