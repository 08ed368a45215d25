//! Puts rewritten groups into the table as it is by then: worked out anew on every fresh base.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use async_trait::async_trait;
use firn_catalog::live::LiveFile;
use firn_catalog::{
    Attempt, CommitError, ErrorKind, FileKey, ManifestCache, Plan, Planner, Retention, RewrittenFile, RowDelta,
};
use iceberg::spec::Operation;
use iceberg::table::Table;
use roaring::RoaringBitmap;

use super::contents::{Contents, OldFile};
use super::rewrite::Rewritten;
use super::shape::Shape;
use crate::change::Mode;
use crate::sink::lake::LakeError;
use crate::sink::lake::deletes::{self, DeleteFile, Deleted};
use crate::sink::lake::live::equality_applies;
use crate::sink::lake::moves::FileMoves;
use crate::sink::lake::remap::{self, MOST_PIECES, MovedFile, MovedGroup, REMAP};
use crate::sink::lake::resume::{CHECKPOINT, GENERATION, LAST_SNAPSHOT_ID, MODE, standing};

/// In the summary of a snapshot that compaction made: how many groups of files it rewrote.
pub(super) const COMPACTED_GROUPS: &str = "firn.compacted-groups";

/// Plans the commit of some groups.
pub(super) struct CompactPlanner<'a> {
    pub(super) shape: &'a Shape,
    /// Of the table whose files were read: one made anew under the same name is another.
    pub(super) uuid: uuid::Uuid,
    pub(super) snapshot_id: i64,
    pub(super) groups: &'a [Rewritten],
    pub(super) manifests: ManifestCache,
    /// What each attempt did; why groups were left out of it.
    pub(super) plans: Vec<Planned>,
}

/// What one attempt was to do.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) attempt: Attempt,
    /// Of each group why it is not in it, if it isn't.
    pub(super) lost: Vec<Option<String>>,
    /// Rows that were deleted while their files were rewritten.
    pub(super) moved_deletes: u64,
    /// Delete files that go.
    pub(super) removed_deletes: usize,
    /// The old files that its base has.
    old: HashSet<String>,
}

#[async_trait]
impl Planner for CompactPlanner<'_> {
    async fn plan(&mut self, base: &Table, attempt: Attempt) -> Result<Plan, CommitError> {
        let metadata = base.metadata();
        if metadata.uuid() != self.uuid {
            return Err(stale("the table was dropped and made anew meanwhile"));
        }
        if !self.shape.layout.fits(metadata) {
            return Err(stale("the table's columns changed meanwhile"));
        }
        let (planned, delta) = self.work_out(base, attempt).await.map_err(failed)?;
        let groups = planned.lost.iter().filter(|lost| lost.is_none()).count();
        self.plans.push(planned);
        if groups == 0 {
            return Err(stale("all its files were rewritten or removed by others meanwhile"));
        }
        let own_files = self.leave_word(base).await;
        let mut summary = HashMap::from([(COMPACTED_GROUPS.to_owned(), groups.to_string())]);
        summary.extend(own_files.iter().map(|path| (REMAP.to_owned(), path.clone())));
        let mut properties = HashMap::new();
        // The writer's position, as it stands in this base, goes on with the table. Where its history does not tell, that stays the
        // writer's to settle: nothing here makes it clearer or less clear.
        if let Ok(Some(checkpoint)) = standing(&self.shape.layout.table, metadata) {
            let json = checkpoint.to_json();
            summary.insert(CHECKPOINT.to_owned(), json.clone());
            properties.extend([
                (CHECKPOINT.to_owned(), json),
                (GENERATION.to_owned(), checkpoint.generation.to_string()),
                (LAST_SNAPSHOT_ID.to_owned(), self.snapshot_id.to_string()),
            ]);
        }
        // Snapshots are the writer's to let go, or expiry's: only they know how far back a table must reach.
        let retention = Retention { max_snapshots: usize::MAX, ..Retention::default() };
        let operation = Some(Operation::Replace);
        let files_since_ms = self.groups.iter().map(|group| group.since_ms).min();
        Ok(Plan { delta, operation, summary, properties, own_files, files_since_ms, retention, ..Plan::default() })
    }

    fn manifests(&self) -> Option<ManifestCache> {
        Some(self.manifests.clone())
    }
}

fn stale(reason: &str) -> CommitError {
    CommitError::Stale { reason: reason.to_owned(), open: false }
}

fn failed(e: LakeError) -> CommitError {
    let kind = match e.is_transient() {
        true => ErrorKind::Unavailable,
        false => ErrorKind::Invalid,
    };
    firn_catalog::Error::new(kind, e.to_string()).into()
}

impl CompactPlanner<'_> {
    /// Tells the key indexes of the table's writers where rows went, for the groups of the last plan. Answers the file that says it, if there
    /// is one: they read the new files otherwise.
    async fn leave_word(&self, base: &Table) -> Vec<String> {
        if base.metadata().properties().get(MODE).is_none_or(|mode| mode != Mode::Upsert.as_str()) {
            return vec![];
        }
        let Some(plan) = self.plans.last() else { return vec![] };
        let mut pieces = 0;
        let is_little = |group: &&Rewritten| {
            let Some(moves) = group.ways.in_memory() else { return false };
            let more: usize = moves.iter().map(|moves| moves.pieces.len()).sum();
            pieces += more;
            pieces <= MOST_PIECES || {
                pieces -= more;
                false
            }
        };
        let groups = self.groups.iter().zip(&plan.lost).filter(|(_, lost)| lost.is_none()).map(|(group, _)| group);
        let groups: Vec<MovedGroup> = groups.filter(is_little).map(|group| told(group, &plan.old)).collect();
        if groups.is_empty() {
            return vec![];
        }
        match remap::write(base, &groups).await {
            Ok(path) => vec![path],
            Err(e) => {
                tracing::debug!("where rows were moved to could not be told: {e}");
                vec![]
            }
        }
    }

    async fn work_out(&self, base: &Table, attempt: Attempt) -> Result<(Planned, RowDelta), LakeError> {
        let contents = Contents::of(base, &self.manifests).await?;
        let mut lost = Vec::with_capacity(self.groups.len());
        let mut delta = RowDelta::default();
        let mut to_write: Vec<Deleted> = vec![];
        let mut old: HashSet<&str> = HashSet::new();
        let mut new: Vec<(&Rewritten, usize)> = vec![];
        for rewritten in self.groups {
            match since_read(base, &contents, rewritten).await? {
                Ok(deleted) => {
                    lost.push(None);
                    to_write.extend(deleted);
                    old.extend(
                        rewritten.group.files.iter().map(OldFile::path).filter(|p| contents.files.contains_key(*p)),
                    );
                    new.extend((0..rewritten.files.len()).map(|n| (rewritten, n)));
                }
                Err(reason) => lost.push(Some(reason)),
            }
        }
        delta.removed.extend(old.iter().map(|path| FileKey { path: (*path).to_owned(), content_offset: None }));
        let dangling = Dangling { base, contents: &contents, old: &old, new: &new };
        let dangling = dangling.find().await?;
        let removed_deletes = dangling.len();
        delta.removed.extend(dangling);
        delta.rewritten = new
            .iter()
            .filter_map(|(rewritten, n)| {
                let file = rewritten.files.get(*n)?.clone();
                Some(RewrittenFile { file, sequence_number: rewritten.sequence_number })
            })
            .collect();
        let moved_deletes = to_write.iter().map(|d| d.positions.len()).sum();
        let (format, location) = (base.metadata().format_version(), &self.shape.layout.data_location);
        delta.delete_files = deletes::write(base.file_io(), location, format, to_write).await?;
        let old = old.into_iter().map(str::to_owned).collect();
        Ok((Planned { attempt, lost, moved_deletes, removed_deletes, old }, delta))
    }
}

/// Of the old files that the base has, `live`: where the rows of the others are now, whoever removed them has told.
fn told(rewritten: &Rewritten, live: &HashSet<String>) -> MovedGroup {
    let old = |(file, moves): (&OldFile, &FileMoves)| MovedFile {
        path: file.path().to_owned(),
        snapshot_id: file.entry.snapshot_id,
        first_row_id: file.entry.first_row_id,
        moves: moves.clone(),
    };
    MovedGroup {
        new_files: rewritten.files.iter().map(|new| new.file.file_path().to_owned()).collect(),
        old_files: rewritten
            .group
            .files
            .iter()
            .zip(rewritten.ways.in_memory().unwrap_or_default())
            .filter(|(file, _)| live.contains(file.path()))
            .map(old)
            .collect(),
    }
}

/// What was deleted from a group's old files since they were read, by the new files that have the rows; or why the group is worth
/// nothing in this base.
async fn since_read(
    base: &Table,
    contents: &Contents,
    rewritten: &Rewritten,
) -> Result<Result<Vec<Deleted>, String>, LakeError> {
    let mut others: Vec<(usize, &OldFile)> = vec![];
    // By old file, the positions there.
    let mut gone: Vec<(usize, RoaringBitmap)> = vec![];
    let (mut left, mut dead) = (0, 0);
    for (n, read) in rewritten.group.files.iter().enumerate() {
        let Some(now) = contents.files.get(read.path()) else {
            // Whoever removed it: the table has no row through it any more. A writer does so when all of them were replaced.
            dead += read.rows();
            let mut all = RoaringBitmap::new();
            all.insert_range(0..u32::try_from(read.rows()).unwrap_or(u32::MAX));
            gone.push((n, all));
            continue;
        };
        left += now.rows();
        if now.entry.first_row_id != read.entry.first_row_id {
            return Ok(Err(format!("the rows of {} got ids meanwhile", read.path())));
        }
        // Those that came since apply to the new files, too; those that were applied must not be undone.
        let has =
            |e: &LiveFile| contents.equality_deletes.iter().any(|have| have.file.file_path() == e.file.file_path());
        if !read.equality.iter().all(|e| has(e)) {
            return Ok(Err(format!("deletes of {} were undone meanwhile", read.path())));
        }
        // They don't where these are of another partition spec.
        let has_read = |e: &LiveFile| read.equality.iter().any(|had| had.file.file_path() == e.file.file_path());
        let is_moved = rewritten.files.iter().any(|new| new.spec_id != now.entry.spec_id);
        if is_moved && contents.equality_deletes.iter().any(|e| equality_applies(e, &now.entry) && !has_read(e)) {
            return Ok(Err(format!("rows of {} were deleted by value meanwhile", read.path())));
        }
        if now.deletes != read.deletes {
            others.push((n, now));
        }
    }
    if left < dead {
        return Ok(Err("its files were rewritten or removed by others meanwhile".to_owned()));
    }
    let wanted: Vec<(&str, &[DeleteFile])> = others.iter().map(|(_, f)| (f.path(), f.deletes.as_slice())).collect();
    let deleted = deletes::read(base.file_io(), &wanted).await?;
    for (n, now) in others {
        let (Some(now), Some(then)) = (deleted.get(now.path()), rewritten.positions.get(n)) else { continue };
        if !then.is_subset(now) {
            let path = rewritten.group.files.get(n).map_or("", OldFile::path);
            return Ok(Err(format!("the table was rolled back: rows of {path} that were deleted are back")));
        }
        gone.push((n, now - then));
    }
    let mut by_file: BTreeMap<u32, RoaringBitmap> = BTreeMap::new();
    for (file, position) in rewritten.ways.places(gone).await? {
        by_file.entry(file).or_default().insert(position);
    }
    let deleted = by_file.into_iter().filter_map(|(file, positions)| {
        let new = rewritten.files.get(file as usize)?;
        Some(Deleted {
            data_file: new.file.file_path().to_owned(),
            spec_id: new.spec_id,
            partition: new.file.partition().clone(),
            positions,
        })
    });
    Ok(Ok(deleted.collect()))
}

/// Looks for delete files that nothing is deleted from any more, once the old files are gone.
struct Dangling<'a> {
    base: &'a Table,
    contents: &'a Contents,
    old: &'a HashSet<&'a str>,
    new: &'a [(&'a Rewritten, usize)],
}

impl Dangling<'_> {
    async fn find(&self) -> Result<Vec<FileKey>, LakeError> {
        let mut found = vec![];
        for delete in &self.contents.position_deletes {
            let dangles = match delete.deletes_from() {
                Some(path) => !self.stays(&path),
                None => self.is_touched(delete) && !self.any_stays(delete).await?,
            };
            if dangles {
                found.push(delete.key());
            }
        }
        let dangles = |delete: &&std::sync::Arc<LiveFile>| !self.applies(delete);
        found.extend(self.contents.equality_deletes.iter().filter(dangles).map(|delete| delete.key()));
        Ok(found)
    }

    fn stays(&self, path: &str) -> bool {
        self.contents.files.contains_key(path) && !self.old.contains(path)
    }

    /// Whether it may have rows of files that go.
    fn is_touched(&self, delete: &LiveFile) -> bool {
        let of = |file: &OldFile| {
            file.entry.spec_id == delete.spec_id && file.entry.file.partition() == delete.file.partition()
        };
        self.old.iter().filter_map(|path| self.contents.files.get(*path)).any(of)
    }

    /// Whether one of the several data files that it is for stays.
    async fn any_stays(&self, delete: &LiveFile) -> Result<bool, LakeError> {
        let files: BTreeSet<String> = deletes::data_files(self.base.file_io(), delete.file.file_path()).await?;
        Ok(files.iter().any(|path| self.stays(path)))
    }

    /// Whether an equality delete file is younger than a data file of its partition.
    fn applies(&self, delete: &LiveFile) -> bool {
        let stays = self.contents.files.iter().filter(|(path, _)| !self.old.contains(path.as_str()));
        stays.map(|(_, file)| file).any(|file| equality_applies(delete, &file.entry))
            || self.new.iter().any(|(rewritten, n)| {
                rewritten.files.get(*n).is_some_and(|new| {
                    let same = new.spec_id == delete.spec_id && new.file.partition() == delete.file.partition();
                    delete.sequence_number > rewritten.sequence_number
                        && (same || delete.file.partition().fields().is_empty())
                })
            })
    }
}
