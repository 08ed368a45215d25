//! A table set back on purpose: a snapshot of its own, with a position and a generation of its own.
//!
//! | [`How`] | the rows | the position |
//! |---|---|---|
//! | `TakeOut` | those of the topic from the target on go, by their origin columns | the target |
//! | `Restore` | are those of an older snapshot, which the new one follows | that snapshot's |
//! | `Replay` | stay, and what is read again is applied to them again: `firn.replaying` until it is through | the target |
//! | `Deliver` | of an append table as `TakeOut`, of an upsert table as `Replay` | the target, also where the table has no position |
//! | `SkipLost` | stay | goes on over offsets that the log has lost; `firn.lost-ranges` says which |
//! | `NewTopic` | of an upsert table stay, an append table's rows of the topic go | that of another topic of the same name |
//!
//! What Kafka's log still holds is not known here; see `pipeline::rewind`.

mod files;
mod lost;
mod planner;
mod position;
mod replaying;

use std::collections::BTreeMap;

use firn_catalog::{CommitError, ErrorKind};
use iceberg::spec::TableMetadata;

pub use files::Removal;
pub use lost::{LOST_RANGES, LostRange, lost_ranges};
use planner::RewindPlanner;
pub use position::{standing_or_stored, taken_with};
pub use replaying::{CatchUp, REPLAYING, Replaying};

use crate::position::{Checkpoint, TopicPosition};
use crate::sink::lake::layout::Layout;
use crate::sink::lake::{LakeError, LakeTable};

/// Summary key: what a rewind was.
pub const REWIND: &str = "firn.rewind";

/// What becomes of rows and position; see the module's table. Offsets are by partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    TakeOut { topic: String, to: BTreeMap<i32, i64> },
    Restore { snapshot_id: i64 },
    Replay { topic: String, to: BTreeMap<i32, i64> },
    Deliver { topic: String, to: BTreeMap<i32, i64> },
    SkipLost { topic: String, to: BTreeMap<i32, i64> },
    NewTopic { topic: String, begins: TopicPosition },
}

impl How {
    /// The word in summaries and answers.
    pub fn as_str(&self) -> &'static str {
        match self {
            How::TakeOut { .. } => "take_out",
            How::Restore { .. } => "restore",
            How::Replay { .. } => "replay",
            How::Deliver { .. } => "deliver",
            How::SkipLost { .. } => "skip_lost",
            How::NewTopic { .. } => "new_topic",
        }
    }
}

/// A rewind as it was worked out on a table of this generation; of another one it is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewind {
    pub how: How,
    pub generation: u64,
}

/// What a rewind does, or did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewound {
    /// `None` while it is only looked at.
    pub snapshot_id: Option<i64>,
    pub before: Checkpoint,
    pub after: Checkpoint,
    /// What leaves the current snapshot, where rows are taken out.
    pub removal: Removal,
    /// Snapshots of other writers that are undone with it.
    pub foreign_snapshots: usize,
    /// Where the table stood: until it is there again, its rows may be older ones.
    pub replaying: Option<Replaying>,
    pub lost: Vec<LostRange>,
}

/// Why a table was not rewound.
#[derive(Debug, thiserror::Error)]
pub enum RewindError {
    /// The table is not as it was looked at, or does not allow it: nothing was done.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// To be called again with the same snapshot id.
    #[error("whether the rewind was committed is not known yet: {0}")]
    Undecided(firn_catalog::Error),
}

impl LakeTable {
    /// What [`LakeTable::rewind`] would do now.
    ///
    /// # Errors
    /// As there.
    pub async fn look_at_rewind(&self, rewind: &Rewind) -> Result<Rewound, RewindError> {
        let table = self.load().await?.ok_or_else(|| RewindError::Refused("the table does not exist".to_owned()))?;
        let planner = self.planner(rewind, firn_catalog::new_snapshot_id());
        Ok(planner.look(&table).await?.rewound)
    }

    /// Does it: one swap, one snapshot. The same `snapshot_id` never lands twice.
    ///
    /// # Errors
    /// See [`RewindError`].
    pub async fn rewind(&self, rewind: &Rewind, snapshot_id: i64) -> Result<Rewound, RewindError> {
        let mut planner = self.planner(rewind, snapshot_id);
        let done =
            firn_catalog::commit(self.catalog.as_ref(), &self.ident, snapshot_id, &mut planner, self.patience).await;
        let planned = planner.planned.take();
        match done {
            Ok(done) => {
                if let Err(e) = done.cleanup.run().await {
                    tracing::debug!(error = %e, "files that nobody needs stay behind");
                }
                // One that an earlier call had landed was not planned again: the table says where it stands.
                let rewound = match planned {
                    Some(rewound) => rewound,
                    None => Rewound {
                        after: standing_or_stored(&self.spec.to_string(), done.table.metadata())?.unwrap_or_default(),
                        ..Rewound::default()
                    },
                };
                Ok(Rewound { snapshot_id: Some(snapshot_id), ..rewound })
            }
            Err(CommitError::Stale { reason, .. }) => Err(RewindError::Refused(reason)),
            Err(CommitError::Undecided(e)) => Err(RewindError::Undecided(e)),
            Err(CommitError::Failed(e)) => Err(LakeError::Catalog(e).into()),
        }
    }

    fn planner<'a>(&'a self, rewind: &'a Rewind, snapshot_id: i64) -> RewindPlanner<'a> {
        RewindPlanner { spec: &self.spec, rewind, snapshot_id, manifests: self.shared.manifests.clone(), planned: None }
    }

    /// For each partition of the topic the offset behind the newest row that lives in the table: what was read of the partition reaches
    /// at least there. Empty where rows don't say where they came from.
    ///
    /// # Errors
    /// When the table can't be read.
    pub async fn ends_of_rows(&self, topic: &str) -> Result<BTreeMap<i32, i64>, LakeError> {
        let Some(table) = self.load().await? else { return Ok(BTreeMap::new()) };
        let layout = Layout::of(&table, &self.spec, &[])?;
        files::ends_of_rows(&table, &layout, topic, &self.shared.manifests).await
    }

    /// Files of this snapshot that are not in the current one and can't be found any more, at most so many.
    ///
    /// # Errors
    /// When the snapshot's manifests can't be read: then it can't be restored either.
    pub async fn missing_files(&self, snapshot_id: i64, most: usize) -> Result<Vec<String>, LakeError> {
        let Some(table) = self.load().await? else { return Ok(vec![]) };
        files::missing(&table, snapshot_id, most, &self.shared.manifests).await
    }

    /// The table's metadata, to choose from its snapshots; `None` where there is no table.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn metadata(&self) -> Result<Option<TableMetadata>, LakeError> {
        Ok(self.load().await?.map(|table| table.metadata().clone()))
    }

    /// How often the table was rewound, as its properties say now: while nobody commits this asks the catalog alone, not storage.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn generation(&self) -> Result<u64, LakeError> {
        let Some(seen) = self.last_seen() else {
            return Ok(self.load().await?.map_or(0, |table| self.saw(&table)));
        };
        match self.catalog.load_unless_at(&self.ident, &seen.location).await {
            Ok(Some(table)) => Ok(self.saw(&table)),
            Ok(None) => Ok(seen.generation),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(0),
            Err(e) => Err(e.into()),
        }
    }
}
