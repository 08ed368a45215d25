//! A table that another writer filled, gone on with: whether that is possible, and the position that it is given.

use std::collections::HashMap;

use arrow_cast::display::array_value_to_string;
use async_trait::async_trait;
use firn_catalog::{Attempt, CommitError, ManifestCache, Plan, Planner};
use hashbrown::hash_map::Entry;
use iceberg::spec::FormatVersion;
use iceberg::table::Table;
use roaring::RoaringBitmap;

use crate::change::{Mode, RowSchema};
use crate::position::Checkpoint;
use crate::sink::lake::layout::Layout;
use crate::sink::lake::live::{self, LiveFile};
use crate::sink::lake::resume::{CHECKPOINT, GENERATION, LAST_SNAPSHOT_ID, MODE, stored};
use crate::sink::lake::scan::{KeyScan, Ownership, key_columns, read_columns};
use crate::sink::lake::split::Splitter;
use crate::sink::lake::{LakeError, LakeTable, TableSpec, deletes, row_key};

/// Summary key: that the snapshot gave another writer's table its position.
const ADOPTED: &str = "firn.adopted";
/// Rows whose keys are held at once, some 200 MB: a larger table is read several times.
const KEYS_AT_ONCE: u64 = 4 << 20;
/// Keys with several rows that are named.
const KEYS_NAMED: usize = 10;

/// Why a table was not adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// To be called again with the same snapshot id.
    #[error("whether it was committed is not known yet: {0}")]
    Undecided(firn_catalog::Error),
}

/// The table as it was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LookedAt {
    snapshot_id: Option<i64>,
    /// That live in it.
    pub rows: u64,
    /// What the records' columns change in it.
    pub changes: Vec<String>,
    /// That the table tells another key than the records.
    pub other_key: Option<String>,
}

impl LakeTable {
    /// Whether the table can be gone on with by records of these columns.
    ///
    /// # Errors
    /// `Refused` with the way out, where it can't.
    pub async fn look_at_adoption(&self, records: Option<&RowSchema>) -> Result<LookedAt, AdoptError> {
        let refused = |why: String| AdoptError::Refused(why);
        let table = self.load().await?.ok_or_else(|| {
            refused("there is no such table: `firn run` makes it, and reads the topic from kafka.start on".to_owned())
        })?;
        let metadata = table.metadata();
        not_ours(&self.spec, &table)?;
        if metadata.format_version() == FormatVersion::V1 {
            return Err(refused(
                "it has format version 1, which knows no deletes of rows: upgrade it first (Spark: ALTER TABLE ... SET TBLPROPERTIES \
                 ('format-version' = '2'); Trino: ALTER TABLE ... SET PROPERTIES format_version = 2)"
                    .to_owned(),
            ));
        }
        let record_key: Vec<String> =
            records.iter().flat_map(|r| &r.columns).filter(|c| c.key).map(|c| c.name.clone()).collect();
        let key = if record_key.is_empty() { self.spec.key.clone() } else { record_key };
        let changes = match records {
            Some(records) => self.changes_for(&table, records)?,
            None => Vec::new(),
        };
        let layout = Layout::of(&table, &self.spec, &key)?;
        Splitter::new(&layout.partition_spec, &layout.schema)
            .map_err(|e| refused(format!("rows can't be written by its partition spec: {e}")))?;
        let told = row_key::key_columns(metadata);
        let other_key = (self.spec.mode == Mode::Upsert && !told.is_empty() && !key.is_empty())
            .then(|| row_key::to_note(metadata, metadata.current_schema(), &key))
            .flatten()
            .map(|_| {
                format!("the table's identifier fields are ({}), its rows go by ({})", told.join(", "), key.join(", "))
            });
        let files = live::list(&table, &layout.table, layout.origin_ids(), &self.shared.manifests).await?;
        let rows = self.count(&table, &layout, &files).await?;
        Ok(LookedAt { snapshot_id: metadata.current_snapshot_id(), rows, changes, other_key })
    }

    /// The live rows, each key's only one.
    async fn count(&self, table: &Table, layout: &Layout, files: &[LiveFile]) -> Result<u64, AdoptError> {
        let wanted: Vec<_> = files.iter().map(|file| (file.path.as_str(), file.deletes.as_slice())).collect();
        let deleted = deletes::read(table.file_io(), &wanted).await?;
        let none = RoaringBitmap::new();
        let deleted_in = |file: &LiveFile| deleted.get(&file.path).unwrap_or(&none);
        let rows: u64 = files.iter().map(|file| file.rows - deleted_in(file).len().min(file.rows)).sum();
        if layout.key.is_empty() {
            return Ok(rows);
        }
        let rounds = u128::from(rows.div_ceil(KEYS_AT_ONCE).max(1));
        let (mut several, mut examples) = (0u64, Vec::new());
        for round in 0..rounds {
            // Where a key was met first, and how often.
            let mut met = hashbrown::HashMap::<u128, (usize, u32, u32)>::new();
            for (number, file) in files.iter().enumerate() {
                let mut scan = KeyScan::open(layout, table.file_io(), &file.path, deleted_in(file), &Everyones).await?;
                while let Some(rows) = scan.next().await? {
                    for row in rows.into_iter().filter(|row| row.key % rounds == round) {
                        match met.entry(row.key) {
                            Entry::Vacant(first) => {
                                first.insert((number, row.position, 1));
                            }
                            Entry::Occupied(mut again) => again.get_mut().2 += 1,
                        }
                    }
                }
            }
            let twice = met.into_values().filter(|(_, _, times)| *times > 1);
            for found in twice {
                several += 1;
                if examples.len() < KEYS_NAMED {
                    examples.push(found);
                }
            }
        }
        if several == 0 {
            return Ok(rows);
        }
        let mut named = Vec::new();
        for (number, position, times) in examples {
            let Some(file) = files.get(number) else { continue };
            named.push(format!("({}) {times} times", self.key_at(table, layout, file, position).await?));
        }
        named.sort();
        Err(AdoptError::Refused(format!(
            "{several} keys have several rows, and an upsert keeps one row a key: {}{}. Remove all but the newest of each, in Trino or \
             Spark, then try again; or take mode append",
            named.join(", "),
            if several as usize > named.len() { ", ..." } else { "" }
        )))
    }

    /// The key of a row, as text.
    async fn key_at(
        &self,
        table: &Table,
        layout: &Layout,
        file: &LiveFile,
        position: u32,
    ) -> Result<String, LakeError> {
        let columns = key_columns(layout);
        let (mut before, mut text) = (0usize, String::new());
        read_columns(table.file_io(), &file.path, &columns, |arrays, rows| {
            if let Some(at) = (position as usize).checked_sub(before).filter(|at| *at < rows) {
                let values = arrays
                    .iter()
                    .zip(&columns)
                    .map(|(array, column)| Ok(format!("{} = {}", column.name, array_value_to_string(array, at)?)));
                text = values.collect::<Result<Vec<_>, LakeError>>()?.join(", ");
            }
            before += rows;
            Ok(())
        })
        .await?;
        Ok(text)
    }

    /// Gives the table the position: one swap, one snapshot. The same `snapshot_id` never lands twice.
    ///
    /// # Errors
    /// `Refused` when the table is not as it was looked at.
    pub async fn adopt(&self, position: &Checkpoint, looked_at: &LookedAt, snapshot_id: i64) -> Result<(), AdoptError> {
        let mut planner = AdoptPlanner {
            spec: &self.spec,
            position,
            looked_at,
            snapshot_id,
            manifests: self.shared.manifests.clone(),
        };
        match firn_catalog::commit(self.catalog.as_ref(), &self.ident, snapshot_id, &mut planner, self.patience).await {
            Ok(_) => Ok(()),
            Err(CommitError::Stale { reason, .. }) => Err(AdoptError::Refused(reason)),
            Err(CommitError::Undecided(e)) => Err(AdoptError::Undecided(e)),
            Err(CommitError::Failed(e)) => Err(LakeError::Catalog(e).into()),
        }
    }
}

/// Every row, wherever it came from.
struct Everyones;

impl Ownership for Everyones {
    fn owns(&self, _origin: Option<(&str, i32)>) -> bool {
        true
    }
}

fn not_ours(spec: &TableSpec, table: &Table) -> Result<(), AdoptError> {
    match stored(&spec.to_string(), table.metadata())? {
        None => Ok(()),
        Some(_) => Err(AdoptError::Refused(
            "firn has a position in it already: `firn run` goes on from there, `firn rewind` sets it elsewhere"
                .to_owned(),
        )),
    }
}

struct AdoptPlanner<'a> {
    spec: &'a TableSpec,
    position: &'a Checkpoint,
    looked_at: &'a LookedAt,
    snapshot_id: i64,
    manifests: ManifestCache,
}

#[async_trait]
impl Planner for AdoptPlanner<'_> {
    async fn plan(&mut self, base: &Table, _attempt: Attempt) -> Result<Plan, CommitError> {
        let stale = |reason: String| CommitError::Stale { reason, open: false };
        not_ours(self.spec, base).map_err(|e| stale(e.to_string()))?;
        if base.metadata().current_snapshot_id() != self.looked_at.snapshot_id {
            return Err(stale(
                "another writer changed the table since it was looked at: stop it, then run this again".to_owned(),
            ));
        }
        let json = self.position.to_json();
        let properties = [
            (CHECKPOINT, json.clone()),
            (GENERATION, self.position.generation.to_string()),
            (MODE, self.spec.mode.as_str().to_owned()),
            (LAST_SNAPSHOT_ID, self.snapshot_id.to_string()),
        ];
        let summary = HashMap::from([(CHECKPOINT.to_owned(), json), (ADOPTED.to_owned(), "true".to_owned())]);
        let properties = properties.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Ok(Plan { summary, properties, retention: self.spec.retention, ..Plan::default() })
    }

    fn manifests(&self) -> Option<ManifestCache> {
        Some(self.manifests.clone())
    }
}
