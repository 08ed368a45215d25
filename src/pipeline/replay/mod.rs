//! Dead letters put into their tables after all, beside running processes and by the same decoder, stager and commit.
//!
//! One replay settles some hundred letters of one table:
//! 1. What the last replay settled is written to the letters, in case that one died before it could.
//! 2. The letters are decoded under today's configuration and columns. What can't be read stays pending, with today's reason.
//! 3. In an upsert table a letter goes in only if no later change of its key did. The table's pending set says so. A letter that is
//!    not in the set is enrolled, and what came between the letter and that moment is looked for in Kafka's log.
//! 4. Rows and the letters that they settle are committed to the table in one swap, which holds only if the set still says the same
//!    and no other replay came in between; else all of it is done again.
//! 5. The letters get their status.
//!
//! Killed after 4, the next replay begins with that status. Killed before, nothing has happened.

mod decode;
mod log;
mod table;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use firn_catalog::Catalog;
use tokio::runtime::Handle;

use super::letters::DeadLetters;
use super::source_tables::SourceTables;
use super::tables::epoch_ms;
use super::wiring::{decode_options, shared, table_spec};
use super::writer_schemas::WriterSchemas;
use super::{Error, source_tables, writer_schemas};
use crate::config::{Config, TableConfig};
use crate::letter::{Choice, Letter, LetterId, Status};
use crate::sink::lake::letters::Contents;
use crate::sink::lake::{LakeTable, Shared};
use crate::source::kafka::{self, ClientSettings};
pub(super) use decode::{Changes, LogKeys};
use log::KafkaLog;
use table::TableReplay;

/// What became of a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub id: LetterId,
    /// Pending: it could not be replayed, `detail` says why.
    pub status: Status,
    pub detail: String,
}

/// The dead letters of a configuration, as a person looks at them.
#[derive(Debug)]
pub struct Letterbox {
    config: Config,
    catalog: Arc<dyn Catalog>,
    kafka: ClientSettings,
    letters: DeadLetters,
    schemas: WriterSchemas,
    shared: Shared,
    sources: SourceTables,
}

impl Letterbox {
    /// # Errors
    /// When the configuration's settings can't be used.
    pub async fn open(config: Config) -> Result<Self, Error> {
        // Little is fetched ahead: a replay reads for its own use only.
        const FETCH_AHEAD_BYTES: usize = 16 << 20;
        let kafka = kafka::settings(&config.kafka.bootstrap_servers, config.kafka.properties.iter(), FETCH_AHEAD_BYTES);
        let catalog = crate::catalogs::open(&config.catalog).await?;
        let shared = shared(&config);
        let letters = DeadLetters::open(&config, Arc::clone(&catalog), &kafka, Handle::current(), shared.clone())?;
        let schemas = writer_schemas(&config)?;
        let sources = source_tables(&config)?;
        Ok(Self { config, catalog, kafka, letters, schemas, sources, shared })
    }

    /// The letters that `choice` takes, by target and origin.
    ///
    /// # Errors
    /// When table or topic can't be read.
    pub async fn read(&self, choice: &Choice, contents: Contents) -> Result<Vec<Letter>, Error> {
        self.letters.read(choice, contents).await.map_err(Error::Letters)
    }

    /// Puts these pending letters into their tables, in the order of each partition.
    ///
    /// # Errors
    /// When a table can't be reached. Letters before it are settled then.
    pub async fn replay(&self, ids: Vec<LetterId>) -> Result<Vec<Outcome>, Error> {
        let mut tables = BTreeMap::<(String, String), Vec<LetterId>>::new();
        for id in ids {
            tables.entry((id.target.clone(), id.origin.at.topic.clone())).or_default().push(id);
        }
        let mut outcomes = vec![];
        for ((target, topic), ids) in tables {
            match self.table_for(&target, &topic) {
                Err(reason) => outcomes.extend(ids.into_iter().map(|id| Outcome {
                    id,
                    status: Status::Pending,
                    detail: reason.clone(),
                })),
                Ok(config) => {
                    let lake = LakeTable::open(Arc::clone(&self.catalog), table_spec(&config), Handle::current());
                    let lake = lake.await.map_err(|e| Error::Letters(e.to_string()))?.sharing(self.shared.clone());
                    let log = KafkaLog::new(&self.kafka);
                    let replay = TableReplay {
                        name: &target,
                        lake: &lake,
                        options: decode_options(&config, self.sources.before()),
                        letters: &self.letters,
                        schemas: &self.schemas,
                        sources: &self.sources,
                        log: &log,
                    };
                    outcomes.extend(replay.run(ids).await.map_err(Error::Letters)?);
                }
            }
        }
        Ok(outcomes)
    }

    fn table_for(&self, target: &str, topic: &str) -> Result<TableConfig, String> {
        match self.config.table_for(topic) {
            None => Err(format!("the configuration feeds topic {topic} into no table")),
            Some(config) if config.ident().to_string() != target => {
                Err(format!("the configuration feeds topic {topic} into {}, not into {target}", config.ident()))
            }
            Some(config) => Ok(config),
        }
    }

    /// Closes these pending letters without a row.
    ///
    /// # Errors
    /// When they can't be read or written.
    pub async fn discard(&self, ids: &[LetterId], detail: &str) -> Result<Vec<Outcome>, Error> {
        let mut outcomes = vec![];
        for ids in ids.chunks(table::AT_ONCE) {
            let mut letters = self.letters.fetch(ids).await.map_err(Error::Letters)?;
            letters.retain(|l| l.status == Status::Pending);
            let now_ms = epoch_ms();
            let closed: Vec<Letter> =
                letters.into_iter().map(|l| l.turned(Status::Discarded, now_ms, detail)).collect();
            self.letters.put(&closed).await.map_err(|e| Error::Letters(e.to_string()))?;
            let outcome = |l: &Letter| Outcome { id: l.id(), status: l.status, detail: detail.to_owned() };
            outcomes.extend(closed.iter().map(outcome));
        }
        Ok(outcomes)
    }
}
