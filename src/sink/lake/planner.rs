//! What a batch does to the table as it is now: checked and worked out anew on every fresh base.

use std::collections::HashMap;

use async_trait::async_trait;
use firn_catalog::surroundings;
use firn_catalog::{Attempt, CommitError, ManifestCache, Plan, Planner, RowDelta, SpecFile};
use iceberg::TableUpdate;
use iceberg::spec::TableMetadata;
use iceberg::table::Table;

use crate::position::Checkpoint;
use crate::sink::lake::cut::Cuts;
use crate::sink::lake::evolution::{COLUMNS, Remembered};
use crate::sink::lake::letters::replay::read_again;
use crate::sink::lake::letters::{PENDING, PendingSet, REPLAYED};
use crate::sink::lake::resume::{CHECKPOINT, GENERATION, LAST_SNAPSHOT_ID, MODE, standing};
use crate::sink::lake::upsert::{Effect, Upserts};
use crate::sink::lake::{CatchUp, LakeError, REPLAYING, Replaying, Staged, TableSpec};
use crate::table_event::SourceSnapshot;

/// Half of the least age at which other writers remove files that a table doesn't name (3 days: Iceberg's procedure; 7: Trino's). Of
/// firn's own removal the table tells (`files_since_ms`).
const MAX_STAGED_AGE_MS: i64 = 36 * 3_600_000;

/// Plans one batch.
pub(crate) struct BatchPlanner<'a> {
    pub(crate) spec: &'a TableSpec,
    pub(crate) batch: &'a mut Staged,
    pub(crate) snapshot_id: i64,
    /// `None` in append mode.
    pub(crate) upserts: Option<&'a mut Upserts>,
    pub(crate) manifests: &'a ManifestCache,
    /// Of the last plan.
    pub(crate) planned: Option<Planned>,
    /// Why the last plan was refused, where the reason is more than a text.
    pub(crate) refusal: Option<Refusal>,
}

/// What the last plan would do once it is committed.
pub(crate) struct Planned {
    pub(crate) attempt: Attempt,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) effect: Effect,
    /// Files of the batch that the plan leaves out, by their number: none of their rows is the last word on its key.
    pub(crate) left_out: Vec<u32>,
    /// Snapshots of the source that the batch brought the first records of, over rows that may be older; by topic.
    pub(crate) resnapshots: Vec<(String, SourceSnapshot)>,
    pub(crate) catch_up: CatchUp,
}

pub(crate) enum Refusal {
    SchemaMoved,
    Failed(LakeError),
}

#[async_trait]
impl Planner for BatchPlanner<'_> {
    async fn plan(&mut self, base: &Table, attempt: Attempt) -> Result<Plan, CommitError> {
        self.refusal = None;
        match self.try_plan(base, attempt).await {
            Ok(plan) => Ok(plan),
            Err(Stop::Stale(reason)) => Err(CommitError::Stale { reason, open: false }),
            Err(Stop::SchemaMoved) => {
                self.refusal = Some(Refusal::SchemaMoved);
                let reason = "the table's columns changed".to_owned();
                Err(CommitError::Stale { reason, open: false })
            }
            Err(Stop::Lost(e)) => {
                let error = firn_catalog::Error::new(firn_catalog::ErrorKind::Invalid, e.to_string());
                self.refusal = Some(Refusal::Failed(e));
                Err(CommitError::Failed(error))
            }
            Err(Stop::Failed(e)) => {
                // Not reaching storage leaves the outcome of earlier attempts open; everything else is final.
                let kind = match e.is_transient() {
                    true => firn_catalog::ErrorKind::Unavailable,
                    false => firn_catalog::ErrorKind::Invalid,
                };
                let error = firn_catalog::Error::new(kind, e.to_string());
                match e.is_transient() {
                    true => Err(CommitError::Undecided(error)),
                    false => {
                        self.refusal = Some(Refusal::Failed(e));
                        Err(CommitError::Failed(error))
                    }
                }
            }
        }
    }

    fn manifests(&self) -> Option<ManifestCache> {
        Some(self.manifests.clone())
    }
}

enum Stop {
    Stale(String),
    SchemaMoved,
    Failed(LakeError),
    /// A file of the batch could not be stored.
    Lost(LakeError),
}

impl From<LakeError> for Stop {
    fn from(e: LakeError) -> Self {
        match e {
            // Waiting on the same batch would be in vain.
            LakeError::Awaited { own: true, .. } => Stop::Stale(e.to_string()),
            e => Stop::Failed(e),
        }
    }
}

impl BatchPlanner<'_> {
    async fn try_plan(&mut self, base: &Table, attempt: Attempt) -> Result<Plan, Stop> {
        let metadata = base.metadata();
        let table = self.spec.to_string();
        let before = standing(&table, metadata)?.unwrap_or_default();
        let mut checkpoint = self.advance(before.clone())?;
        if self.batch.since_ms.is_some_and(|since| surroundings::now_ms().saturating_sub(since) > MAX_STAGED_AGE_MS) {
            return Err(Stop::Stale(
                "it was staged so long ago that a removal of orphans may have taken its files".to_owned(),
            ));
        }
        if !self.batch.layouts.iter().all(|layout| layout.fits(metadata)) {
            return Err(Stop::SchemaMoved);
        }
        for layout in &self.batch.layouts {
            if layout.tells_of_drops(metadata, self.batch.newest_lsn)? {
                return Err(Stop::SchemaMoved);
            }
        }
        let letters = self.letters(&table, metadata, &checkpoint)?;
        let catch_up = match Replaying::of(&table, metadata)? {
            None => CatchUp::None,
            Some(replaying) if replaying.is_over(&checkpoint) => CatchUp::Reached,
            Some(_) => CatchUp::Behind,
        };
        let (delta, effect) = match &mut self.upserts {
            Some(upserts) => {
                upserts.own_too(checkpoint.of_grown_topics());
                if self.spec.keys_roam {
                    upserts.own_too(checkpoint.positions().map(|(at, _)| at));
                }
                let cuts = Cuts::of(self.batch, &before, &checkpoint);
                let mut found = upserts.find(base, self.batch, &cuts).await?;
                let row_ids = std::mem::take(&mut found.row_ids);
                match self.batch.end(row_ids).await {
                    Ok(true) => upserts.plan(base, self.batch, &cuts, found).await?,
                    // A row would get the id that another has by now.
                    Ok(false) => {
                        return Err(Stop::Stale("another writer changed rows that the batch replaces".to_owned()));
                    }
                    Err(e) => return Err(Stop::Lost(e)),
                }
            }
            None => (appended(self.batch), Effect::default()),
        };
        let left_out = match self.upserts {
            Some(_) => self.batch.files.iter().map(|f| f.number).filter(|n| !effect.adds(*n)).collect(),
            None => vec![],
        };
        let resnapshots = self.note_snapshots(&before, &mut checkpoint);
        let own_files = effect.own_files();
        let json = checkpoint.to_json();
        let mut properties = HashMap::from([
            (CHECKPOINT.to_owned(), json.clone()),
            (GENERATION.to_owned(), checkpoint.generation.to_string()),
            (MODE.to_owned(), self.spec.mode.as_str().to_owned()),
            // Also for a batch without rows: its summary makes a snapshot.
            (LAST_SNAPSHOT_ID.to_owned(), self.snapshot_id.to_string()),
        ]);
        properties.extend(letters);
        if let Some(columns) = Remembered::with_rows_up_to(&table, metadata, self.batch.newest_lsn)? {
            properties.insert(COLUMNS.to_owned(), columns);
        }
        let updates = match catch_up {
            CatchUp::Reached => vec![TableUpdate::RemoveProperties { removals: vec![REPLAYING.to_owned()] }],
            CatchUp::None | CatchUp::Behind => vec![],
        };
        self.planned = Some(Planned { attempt, checkpoint, effect, left_out, resnapshots, catch_up });
        Ok(Plan {
            delta,
            operation: None,
            summary: HashMap::from([(CHECKPOINT.to_owned(), json)]),
            properties,
            updates,
            own_files,
            files_since_ms: self.batch.since_ms,
            retention: self.spec.retention,
            ..Plan::default()
        })
    }

    /// The properties by which the table remembers its letters, as far as the batch changes them.
    fn letters(
        &self,
        table: &str,
        metadata: &TableMetadata,
        checkpoint: &Checkpoint,
    ) -> Result<Vec<(String, String)>, Stop> {
        let mut properties = vec![];
        if let (Some(_), Some(layout)) = (&self.upserts, self.batch.layouts.first()) {
            let key_ids = layout.key_ids();
            let stored = metadata.properties().get(PENDING);
            let before = PendingSet::read(stored.map(String::as_str), &key_ids);
            if let Some(reason) = self.batch.replay.as_ref().and_then(|replay| before.refuses(replay)) {
                return Err(Stop::Stale(reason));
            }
            let mut after = before.clone();
            after.take(self.batch);
            if let Some(replay) = &self.batch.replay {
                after.settle(replay);
            }
            let json = after.to_json(&key_ids);
            // A set of another kind goes too: from here on it would miss changes, and its own kind would believe it.
            if stored.map_or(!after.is_empty(), |stored| *stored != json) {
                properties.push((PENDING.to_owned(), json));
            }
        }
        let replayed = match &self.batch.replay {
            Some(replay) => Some(replay.property(table, metadata, checkpoint)?.map_err(Stop::Stale)?),
            None => read_again(table, metadata, &self.batch.spans)?,
        };
        properties.extend(replayed.map(|json| (REPLAYED.to_owned(), json)));
        Ok(properties)
    }

    /// The table's checkpoint moved on by the batch; other processes' partitions stay as the base has them.
    fn advance(&self, mut checkpoint: Checkpoint) -> Result<Checkpoint, Stop> {
        if checkpoint.generation > self.batch.generation {
            return Err(Stop::Stale(format!(
                "the table was rewound or rolled back (generation {}) after this batch was begun (generation {})",
                checkpoint.generation, self.batch.generation
            )));
        }
        // Also where the batch has no span: partitions that were added are read on the strength of others' positions. And a partition
        // without a position takes any span as its first.
        for (at, seen) in self.batch.seen.iter().flat_map(|seen| seen.iter()) {
            let have = checkpoint.next(at);
            if have.is_none_or(|have| have < *seen) {
                let have = have.map_or("no position".to_owned(), |have| format!("position {have}"));
                return Err(Stop::Stale(format!(
                    "{at}: the table has {have} where it had {seen}: it was rolled back or made anew"
                )));
            }
        }
        for span in &self.batch.spans {
            checkpoint.advance(span).map_err(|e| Stop::Stale(e.to_string()))?;
        }
        for truncate in self.batch.events.truncates() {
            if let Some(fence) = truncate.fence {
                checkpoint.truncate(&truncate.at.topic, fence);
            }
        }
        if let Some(sweep) = &self.batch.events.sweep {
            if let Some(reason) = sweep.refused(&checkpoint) {
                return Err(Stop::Stale(reason));
            }
            if let Some(topic) = checkpoint.topics.get_mut(&sweep.topic) {
                topic.snapshot = Some(SourceSnapshot { over_rows: false, ..sweep.snapshot });
            }
        }
        Ok(checkpoint)
    }

    /// Notes the snapshots that the batch has rows of; answers those that begin here and may leave older rows behind.
    fn note_snapshots(&self, before: &Checkpoint, checkpoint: &mut Checkpoint) -> Vec<(String, SourceSnapshot)> {
        let mut resnapshots = vec![];
        for (topic, seen) in &self.batch.events.snapshots {
            let known = before.topics.get(topic).and_then(|t| t.snapshot).map(|s| s.lsn);
            let begins = known.is_none_or(|known| known < seen.lsn);
            let over_rows = begins && self.upserts.as_ref().is_some_and(|u| u.may_hold_older(seen.lsn));
            let seen = SourceSnapshot { over_rows, ..*seen };
            checkpoint.saw_snapshot(topic, seen);
            if over_rows {
                resnapshots.push((topic.clone(), seen));
            }
        }
        resnapshots
    }
}

fn appended(batch: &Staged) -> RowDelta {
    RowDelta {
        data_files: batch.files.iter().map(|f| SpecFile { spec_id: f.spec_id, file: f.data_file.clone() }).collect(),
        ..RowDelta::default()
    }
}
