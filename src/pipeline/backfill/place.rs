//! The table's topic, the connector that writes it, and where that listens.

use std::collections::{BTreeMap, BTreeSet};

use super::BackfillError;
use crate::config::Config;
use crate::connect::{Connector, connectors};
use crate::database::{Database, Found};
use crate::debezium::signalling::Signalling;

/// By which way a connector is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Channel {
    /// By its signal topic if it has one.
    #[default]
    Auto,
    Topic,
    /// By a row of its signal table.
    Table,
}

/// A way that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way<'a> {
    Topic(&'a str),
    Table(&'a str),
}

/// A table as its connector has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub topic: String,
    pub connector: String,
    /// `schema.table`
    pub collection: String,
    pub signalling: Signalling,
    /// Of the connector and its tasks.
    pub states: Vec<String>,
}

impl Place {
    pub(super) async fn find(config: &Config, table: &str) -> Result<Self, BackfillError> {
        let mut found: Vec<Self> = all(config, table).await?;
        let mut place = match found.len() {
            1 => found.remove(0),
            0 => {
                return Err(BackfillError::Refused(format!(
                    "no connector writes a topic called {table}, or of a table called so, that the configuration reads; name the topic, \
                     schema.table, or the lake table"
                )));
            }
            _ => {
                let topics: Vec<&str> = found.iter().map(|p| p.topic.as_str()).collect();
                return Err(BackfillError::Refused(format!(
                    "{table} can be any of {}: name the topic",
                    topics.join(", ")
                )));
            }
        };
        if let Some(state) = place.states.iter().find(|state| !matches!(state.as_str(), "RUNNING" | "RESTARTING")) {
            return Err(BackfillError::Refused(format!(
                "the connector {} is {state}: have it run first",
                place.connector
            )));
        }
        if let Some(url) = &config.source.url
            && let Found::Table(described) = Database::new(url.as_str())?.describe(&place.topic, None).await?
        {
            // Topics are named after tables, but for letters that a topic can't have.
            place.collection = described.name;
        }
        Ok(place)
    }

    pub(super) fn prefix(&self) -> &str {
        &self.signalling.prefix
    }

    /// Where its connector says what becomes of snapshots, if firn can read that.
    pub(super) fn notifications(&self) -> Option<&str> {
        self.signalling.notifications.as_deref().filter(|_| self.signalling.is_json)
    }

    pub(super) fn signal_topic(&self) -> Option<&str> {
        self.signalling.topic.as_deref()
    }

    pub(super) fn channel(&self, config: &Config, wished: Channel) -> Result<Way<'_>, BackfillError> {
        let topic = self.signal_topic().map(Way::Topic).filter(|_| wished != Channel::Table);
        let table = self.signalling.table.as_deref().map(Way::Table);
        let table = table.filter(|_| wished != Channel::Topic && config.source.url.is_some());
        topic.or(table).ok_or_else(|| {
            let connector = &self.connector;
            BackfillError::Refused(match wished {
                Channel::Topic => format!(
                    "the connector {connector} takes no signals from a topic: set signal.enabled.channels=source,kafka and \
                     signal.kafka.bootstrap.servers"
                ),
                _ if self.signalling.table.is_some() => {
                    format!("the connector {connector} takes signals from {}: set source.url, so that firn can write there",
                        self.signalling.table.as_deref().unwrap_or_default())
                }
                _ => format!("the connector {connector} takes no signals: set signal.enabled.channels=source,kafka"),
            })
        })
    }
}

/// Every table of every connector that fits the name.
async fn all(config: &Config, name: &str) -> Result<Vec<Place>, BackfillError> {
    let (connectors, troubles) = known(config).await?;
    let read = topics(config);
    let mut found: Vec<Place> = Vec::new();
    for (connector, (signalling, states)) in connectors {
        let as_topic = (name.to_owned(), format!("{}.{name}", signalling.prefix));
        let is_lake_table = |topic: &&String| config.table_for(topic).is_some_and(|t| t.ident().to_string() == name);
        let candidates = [as_topic.0, as_topic.1].into_iter().chain(read.iter().filter(is_lake_table).cloned());
        for topic in candidates.collect::<BTreeSet<_>>() {
            let Some(collection) = signalling.collection(&topic).map(str::to_owned) else { continue };
            if (read.contains(&topic) || config.selects(&topic)) && found.iter().all(|p| p.topic != topic) {
                let (connector, signalling, states) = (connector.clone(), signalling.clone(), states.clone());
                found.push(Place { topic, connector, collection, signalling, states });
            }
        }
    }
    match troubles.into_iter().next().filter(|_| found.is_empty()) {
        Some(trouble) => Err(BackfillError::Refused(trouble)),
        None => Ok(found),
    }
}

/// The topics that the configuration names one by one.
pub(super) fn topics(config: &Config) -> BTreeSet<String> {
    let of_pipelines = config.pipelines.iter().flat_map(|p| p.sources.iter().chain(&p.views));
    of_pipelines.map(|t| t.topic.clone()).chain(config.lake.exact_topics().into_iter().map(str::to_owned)).collect()
}

type Known = BTreeMap<String, (Signalling, Vec<String>)>;

/// Debezium's connectors that can read anew; what the others lack.
pub(super) async fn known(config: &Config) -> Result<(Known, Vec<String>), BackfillError> {
    let Some(url) = &config.connect.url else {
        return Err(BackfillError::Refused(
            "connect.url is missing: firn asks Kafka Connect which connector writes the table's topic, and where that listens".to_owned(),
        ));
    };
    let (mut known, mut troubles) = (Known::new(), Vec::new());
    for (name, Connector { config, states }) in connectors(url).await? {
        match Signalling::of(&config) {
            Ok(Some(signalling)) => _ = known.insert(name, (signalling, states)),
            Ok(None) => {}
            Err(why) => troubles.push(format!("connector {name}: {why}")),
        }
    }
    Ok((known, troubles))
}
