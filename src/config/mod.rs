//! The configuration: one TOML file, unknown keys refused with the nearest right name, every value printable, secrets only
//! from the environment or from files.
//!
//! Knows the keys, their defaults and bounds, and the naming rule; opens no connection.
//!
//! # Layout
//! - [`Config`]: the whole; each section is a struct that validates itself ([`kafka`], [`registry`], [`source`], [`catalog`], [`lake`], [`pipelines`] with
//!   their [`sinks`], [`outbox`], [`maintain`] with [`policy`] and [`quiet`], [`process`]); [`table`] is what comes out for one topic.
//! - [`naming`]: from a topic to a table's name. [`layout`]: partition and sort fields. [`columns`]: types as text.
//! - [`env`]: placeholders and `.env`. [`secret`]: what is never printed. [`error`]: where and what is wrong.

pub mod catalog;
pub mod columns;
mod document;
pub mod env;
pub mod error;
pub mod kafka;
pub mod lake;
pub mod layout;
pub mod maintain;
pub mod naming;
pub mod outbox;
pub mod period;
pub mod pipelines;
pub mod policy;
pub mod process;
pub mod quiet;
pub mod registry;
pub mod rules;
pub mod secret;
pub mod sinks;
pub mod source;
pub mod table;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use crate::change::{DeleteImage, Infinity, Mode};
pub use catalog::{CatalogConfig, CatalogKind, CommitMode};
pub use columns::DeclaredColumns;
pub use columns::Encoding;
pub use error::{ConfigError, Problem};
pub use kafka::{ConnectConfig, KafkaConfig, Start};
pub use lake::{LakeConfig, TableRule};
pub use layout::{PartitionBy, SortBy};
pub use maintain::MaintainConfig;
pub use naming::Selection;
pub use outbox::OutboxConfig;
pub use pipelines::{PipelineConfig, PipelineTopic};
pub use policy::{BudgetConfig, Every, PolicyConfig, PolicyRule};
pub use process::{DeadLetterTarget, DeadLettersConfig, IndexConfig, LogConfig, LogFormat, MemoryConfig, ServeConfig};
pub use quiet::QuietHours;
pub use registry::RegistryConfig;
pub use rules::{AlertConfig, RunningConfig};
pub use secret::{Address, Properties};
pub use sinks::{ClickHouseConfig, LakeSinkConfig, RedisConfig};
pub use source::SourceConfig;
pub use table::{Format, OnTruncate, TableConfig};

/// The whole configuration, checked. Prints (Debug, Serialize) without secrets.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub kafka: KafkaConfig,
    #[serde(default)]
    pub registry: RegistryConfig,
    #[serde(default)]
    pub source: SourceConfig,
    #[serde(default)]
    pub connect: ConnectConfig,
    #[serde(default)]
    pub catalog: CatalogConfig,
    #[serde(default)]
    pub lake: LakeConfig,
    #[serde(default)]
    pub pipelines: Vec<PipelineConfig>,
    #[serde(default)]
    pub outbox: Vec<OutboxConfig>,
    #[serde(default)]
    pub dead_letters: DeadLettersConfig,
    #[serde(default)]
    pub maintain: MaintainConfig,
    #[serde(default)]
    pub index: IndexConfig,
    #[serde(default)]
    pub memory: MemoryConfig,
    #[serde(default)]
    pub serve: ServeConfig,
    #[serde(default)]
    pub log: LogConfig,
    #[serde(skip)]
    selection: Option<Selection>,
    #[serde(skip)]
    origins: document::Origins,
}

impl Config {
    /// Reads the file, fills in placeholders (the environment, `.env` beside the file), checks every value.
    ///
    /// # Errors
    /// See [`ConfigError`]; names the file, the line and what to change.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read_error = |source| ConfigError::Read { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(read_error)?;
        let path_of_dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let lookup = env::Lookup::of_process(path_of_dir)
            .map_err(|source| ConfigError::Read { path: path_of_dir.join(".env"), source })?;
        Self::parse(&text, path, &lookup)
    }

    /// [`Config::load`] for a text at hand; `path` is for errors, relative paths start from `lookup.dir`.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(text: &str, path: &Path, lookup: &env::Lookup) -> Result<Self, ConfigError> {
        let at = |e: document::AtLine| ConfigError::At { path: path.to_owned(), line: e.line, message: e.message };
        let (mut config, lines, origins) = document::read::<Self>(text, lookup).map_err(at)?;
        config.validate().map_err(|p| at(lines.locate(p)))?;
        config.catalog.resolve_paths(&lookup.dir);
        config.index.resolve_paths(&lookup.dir);
        config.maintain.resolve_paths(&lookup.dir);
        config.selection = config.lake.selection().ok();
        config.origins = origins;
        config.check_collisions(config.lake.exact_topics())?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), Problem> {
        self.kafka.validate().map_err(|p| p.under("kafka"))?;
        self.registry.validate().map_err(|p| p.under("registry"))?;
        self.source.validate().map_err(|p| p.under("source"))?;
        self.connect.validate().map_err(|p| p.under("connect"))?;
        self.catalog.validate().map_err(|p| p.under("catalog"))?;
        if self.lake.is_used() || (self.pipelines.is_empty() && self.outbox.is_empty()) {
            self.lake.validate().map_err(|p| p.under("lake"))?;
        }
        let has_tables = self.lake.is_used() || self.pipelines.iter().any(|p| !p.lake.is_empty());
        if self.catalog.is_embedded() && (has_tables || (self.pipelines.is_empty() && self.outbox.is_empty())) {
            return Err(Problem::new("catalog", "is missing: say where tables are registered"));
        }
        pipelines::validate(&self.pipelines)?;
        if self.registry.url.is_none() {
            pipelines::without_registry(&self.pipelines)?;
        }
        outbox::validate(&self.outbox, &self.source)?;
        self.dead_letters.validate().map_err(|p| p.under("dead_letters"))?;
        self.maintain.validate().map_err(|p| p.under("maintain"))?;
        for (i, rule) in self.lake.tables.iter().enumerate() {
            let policy = rule.maintain.as_ref().map(|rule| self.maintain.policy.with(rule));
            policy.map_or(Ok(()), |p| p.validate()).map_err(|p| p.under(&format!("lake.tables[{i}].maintain")))?;
        }
        for (i, pipeline) in self.pipelines.iter().enumerate() {
            for (j, sink) in pipeline.lake.iter().enumerate() {
                let policy = sink.maintain.as_ref().map(|rule| self.maintain.policy.with(rule));
                let place = format!("pipelines[{i}].lake[{j}].maintain");
                policy.map_or(Ok(()), |p| p.validate()).map_err(|p| p.under(&place))?;
            }
        }
        self.memory.validate().map_err(|p| p.under("memory"))?;
        self.serve.validate().map_err(|p| p.under("serve"))?;
        self.log.validate().map_err(|p| p.under("log"))
    }

    /// The configuration with the tables, or these pipelines and sinks alone: `lake`, `NAME`, `NAME.SINK`.
    ///
    /// # Errors
    /// The sentence for a person, when there is nothing of such a name.
    pub fn only(mut self, names: &[String]) -> Result<Self, String> {
        let known: Vec<String> = std::iter::once("lake".to_owned())
            .filter(|_| self.lake.is_used())
            .chain(self.pipelines.iter().flat_map(|p| {
                std::iter::once(p.name.clone()).chain(p.sink_names().map(|sink| format!("{}.{sink}", p.name)))
            }))
            .collect();
        if let Some(wrong) = names.iter().find(|name| !known.contains(name)) {
            return Err(format!("--only {wrong}: there is no such pipeline or sink; there are: {}", known.join(", ")));
        }
        if !names.iter().any(|name| name == "lake") {
            self.lake = LakeConfig::default();
            self.selection = None;
        }
        for pipeline in &mut self.pipelines {
            let of_it: Vec<&str> =
                names.iter().filter_map(|n| n.strip_prefix(&format!("{}.", pipeline.name))).collect();
            let whole = names.contains(&pipeline.name);
            pipeline.keep_sinks(|sink| whole || of_it.contains(&sink));
        }
        self.pipelines.retain(|pipeline| pipeline.sink_names().next().is_some());
        Ok(self)
    }

    /// Whether `topic` is read. The dead-letter topic never is.
    pub fn selects(&self, topic: &str) -> bool {
        self.dead_letters.topic.as_deref() != Some(topic) && self.selection.as_ref().is_some_and(|s| s.matches(topic))
    }

    /// The table that `topic` goes to; `None` when the topic is not selected.
    pub fn table_for(&self, topic: &str) -> Option<TableConfig> {
        self.selects(topic).then(|| self.lake.resolve(topic))
    }

    /// What `firn run` does to keep the table fast.
    pub fn policy_for(&self, table: &TableConfig) -> PolicyConfig {
        self.maintain.policy.with(&table.maintain)
    }

    /// The name of the dead-letter table, when that is where they go.
    pub fn dead_letter_table(&self) -> Option<iceberg::TableIdent> {
        let d = &self.dead_letters;
        (d.to == DeadLetterTarget::Table)
            .then(|| iceberg::TableIdent::new(iceberg::NamespaceIdent::new(d.namespace.clone()), d.table.clone()))
    }

    /// # Errors
    /// [`ConfigError::Collision`] when two of the topics map to one table, or one of them to the dead-letter table or a pipeline's.
    pub fn check_collisions<'a>(&self, topics: impl IntoIterator<Item = &'a str>) -> Result<(), ConfigError> {
        let mut taken: BTreeMap<String, String> = BTreeMap::new();
        if let Some(ident) = self.dead_letter_table() {
            taken.insert(ident.to_string(), "the dead letters".to_owned());
        }
        for (pipeline, sink) in self.pipelines.iter().flat_map(|p| p.lake.iter().map(move |sink| (p, sink))) {
            let name = format!("pipeline {}.{}", pipeline.name, sink.name);
            if let Some(first) = taken.insert(sink.table.clone(), name.clone()) {
                return Err(ConfigError::Collision { table: sink.table.clone(), first, second: name });
            }
        }
        for topic in topics {
            let Some(table) = self.table_for(topic) else { continue };
            let name = table.ident().to_string();
            if let Some(first) = taken.insert(name.clone(), topic.to_owned())
                && first != topic
            {
                return Err(ConfigError::Collision { table: name, first, second: topic.to_owned() });
            }
        }
        Ok(())
    }

    /// Where values came from that the file does not hold itself, by their keys (`kafka.start`, `pipelines[0].sql`).
    pub fn origins(&self) -> impl Iterator<Item = (&str, &[env::Origin])> {
        self.origins.iter().map(|(key, origins)| (key.as_str(), origins.as_slice()))
    }

    /// The effective configuration as TOML, defaults filled in, secrets as `***`.
    ///
    /// # Errors
    /// Never in practice: every section is a TOML table of plain values.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(self)
    }
}

#[cfg(test)]
mod tests;
