//! Writes the live rows of a group of files into new ones.

use std::sync::Arc;

use arrow_array::{BooleanArray, RecordBatch};
use arrow_select::filter::filter_record_batch;
use firn_catalog::{SpecFile, surroundings};
use iceberg::table::Table;
use roaring::RoaringBitmap;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::contents::OldFile;
use super::equality;
use super::plan::{Group, Limits};
use super::shape::Shape;
use super::sort::{Unsorted, sorted};
use super::writer::{GroupWriter, Origin, Place, Rows, Target};
use crate::maintain::budget::Limiter;
use crate::memory::Memory;
use crate::sink::lake::LakeError;
use crate::sink::lake::deletes::{self, DeleteFile};
use crate::sink::lake::moves::FileMoves;
use crate::sink::lake::sorted_file::SortBy;
use crate::sink::lake::split::Splitter;
use crate::sink::lake::stored::{self, Chosen};

/// What all groups of one snapshot have in common.
#[derive(Debug)]
pub(super) struct Rewriter {
    /// The snapshot that is read.
    pub(super) base: Table,
    pub(super) shape: Arc<Shape>,
    pub(super) io: Handle,
    pub(super) memory: Arc<Memory>,
    pub(super) limits: Limits,
    /// What rows of one group may hold while they are sorted; what is more goes to disk.
    pub(super) sort_bytes: usize,
    pub(super) limiter: Arc<Limiter>,
}

/// A group whose live rows are in new files, which are durable, and in no snapshot.
#[derive(Debug)]
pub(super) struct Rewritten {
    pub(super) group: Group,
    pub(super) files: Vec<SpecFile>,
    /// By old file.
    pub(super) moves: Vec<FileMoves>,
    /// Of each old file the rows that position deletes took, and equality deletes did not.
    pub(super) positions: Vec<RoaringBitmap>,
    /// Of the snapshot that was read.
    pub(super) sequence_number: i64,
    /// None of its files is older.
    pub(super) since_ms: i64,
}

impl Rewritten {
    /// Rows of the old files that were deleted.
    pub(super) fn left_out_rows(&self) -> u64 {
        self.moves.iter().map(|moves| moves.left_out.len()).sum()
    }
}

/// Why a group could not be rewritten. The others can.
#[derive(Debug)]
pub(super) struct Fault {
    /// A file that the table lists and storage does not have.
    pub(super) missing: Option<String>,
    pub(super) error: LakeError,
}

impl Rewriter {
    /// # Errors
    /// See [`Fault`]; nothing of the group is left in storage then.
    pub(super) async fn rewrite(&self, group: Group) -> Result<Rewritten, Fault> {
        let since_ms = surroundings::now_ms();
        match self.try_rewrite(&group).await {
            Ok((files, moves, positions)) => {
                let sequence_number = self.base.metadata().current_snapshot().map_or(0, |s| s.sequence_number());
                Ok(Rewritten { group, files, moves, positions, sequence_number, since_ms })
            }
            Err(error) => {
                let missing = self.missing(&group).await;
                Err(Fault { missing, error })
            }
        }
    }

    async fn try_rewrite(
        &self,
        group: &Group,
    ) -> Result<(Vec<SpecFile>, Vec<FileMoves>, Vec<RoaringBitmap>), LakeError> {
        let file_io = self.base.file_io();
        let wanted: Vec<(&str, &[DeleteFile])> = group.files.iter().map(|f| (f.path(), f.deletes.as_slice())).collect();
        let mut deleted = deletes::read(file_io, &wanted).await?;
        let positions: Vec<RoaringBitmap> =
            group.files.iter().map(|f| deleted.remove(f.path()).unwrap_or_default()).collect();
        let mut left_out = positions.clone();
        equality::apply(&self.base, &group.files, &mut left_out).await?;

        let order = SortBy::all_of(&self.shape.layout);
        let spec = &self.shape.layout.partition_spec;
        let target = match group.spec_id == spec.spec_id() {
            true => Target::Partition(group.partition.clone()),
            false => Target::Split(Box::new(Splitter::new(spec, &self.shape.layout.schema)?)),
        };
        let place = Place {
            shape: Arc::clone(&self.shape),
            io: self.io.clone(),
            memory: Arc::clone(&self.memory),
            id: surroundings::new_id(),
            sort_order_id: order.as_ref().and(i32::try_from(self.shape.layout.sort_order.order_id).ok()),
            roll_bytes: self.roll_bytes(group),
        };
        let writing = Writing::Idle(Box::new(GroupWriter::new(place, target, group.files.len())));
        let writing = match order {
            None => match self.copy_all(group, &left_out, To::Writer(writing)).await? {
                To::Writer(writing) => writing,
                To::Sorter(_) => return Err(LakeError::Storage("rows went to be sorted".to_owned())),
            },
            Some(order) => {
                let (unsorted, mut sorted) = sorted(&self.shape.arrow, order, self.sort_bytes)?;
                let copied = async { self.copy_all(group, &left_out, To::Sorter(unsorted)).await.map(drop) };
                let written = async {
                    let mut writing = writing;
                    while let Some(rows) = sorted.next().await? {
                        writing = writing.write(rows).await?;
                    }
                    Ok(writing)
                };
                futures::try_join!(copied, written)?.1
            }
        };
        let writer = writing.idle().await?;
        let finished = blocking(move || writer.finish());
        let (mut files, pieces) = joined(finished).await?;
        // All begin to be at once: what fails before leaves nothing behind.
        files.iter_mut().for_each(|new| new.upload.release());
        let mut failed = None;
        for new in &mut files {
            failed = new.upload.finished().await.err().or(failed);
        }
        let files: Vec<SpecFile> = files.into_iter().map(|new| new.file).collect();
        if let Some(e) = failed {
            remove(file_io, files.iter().map(|f| f.file.file_path().to_owned()).collect()).await;
            return Err(e);
        }
        let moves = left_out.into_iter().zip(pieces).map(|(left_out, pieces)| FileMoves { left_out, pieces });
        Ok((files, moves.collect(), positions))
    }

    /// All rows of the group's files but those that are left out.
    async fn copy_all(&self, group: &Group, left_out: &[RoaringBitmap], mut to: To) -> Result<To, LakeError> {
        for (old_file, (file, gone)) in group.files.iter().zip(left_out).enumerate() {
            if gone.len() < file.rows() {
                to = self.copy(old_file, file, gone, to).await.map_err(|e| named(e, file.path()))?;
            }
        }
        Ok(to)
    }

    async fn copy(&self, old_file: usize, file: &OldFile, gone: &RoaringBitmap, mut to: To) -> Result<To, LakeError> {
        let Shape { fields, arrow, .. } = self.shape.as_ref();
        let mut stored = stored::open(self.base.file_io(), file.path(), Chosen::All, fields, arrow).await?;
        if !stored.has_field_ids() {
            return Err(LakeError::Foreign {
                table: self.shape.layout.table.clone(),
                message: "its columns have no field ids (it was imported), so which they are can't be told for sure: rewrite it with \
                          the engine that imported it"
                    .to_owned(),
            });
        }
        let (mut position, mut rank) = (0, 0);
        while let Some(batch) = stored.next().await? {
            let rows = batch.num_rows() as u32;
            let batch = self.shape.with_lineage(batch, &file.entry, position)?;
            let batch = without(&batch, gone, position)?;
            position += rows;
            if batch.num_rows() > 0 {
                let written = batch.num_rows() as u32;
                to = to.take(batch, old_file, rank).await?;
                rank += written;
            }
            self.limiter.turn().await;
        }
        if u64::from(position) != file.rows() {
            let says = format!("{} has {position} rows, the table says {}", file.path(), file.rows());
            return Err(LakeError::Storage(says));
        }
        Ok(to)
    }

    /// One file for what fits one; else files of equal size, so that no small one is left over.
    fn roll_bytes(&self, group: &Group) -> u64 {
        let limits = &self.limits;
        match group.new_files(limits) {
            0 | 1 => limits.max_bytes,
            files => (group.live_bytes() / files).saturating_mul(11) / 10,
        }
    }

    async fn missing(&self, group: &Group) -> Option<String> {
        for file in &group.files {
            let deletes = file.deletes.iter().map(|d| d.path.as_str());
            let equality = file.equality.iter().map(|e| e.file.file_path());
            for path in std::iter::once(file.path()).chain(deletes).chain(equality) {
                if let Ok(false) = self.base.file_io().exists(path).await {
                    return Some(path.to_owned());
                }
            }
        }
        None
    }
}

/// Where rows go that were read.
enum To {
    Writer(Writing),
    Sorter(Unsorted),
}

impl To {
    async fn take(self, batch: RecordBatch, old_file: usize, rank: u32) -> Result<Self, LakeError> {
        match self {
            Self::Writer(writing) => {
                let origin = Origin::Run { old_file, rank };
                Ok(Self::Writer(writing.write(Rows { batch, origin }).await?))
            }
            Self::Sorter(unsorted) => {
                unsorted.send(batch, old_file, rank).await?;
                Ok(Self::Sorter(unsorted))
            }
        }
    }
}

/// A group's writer: at hand, or at work on a thread that may block.
enum Writing {
    Idle(Box<GroupWriter>),
    Busy(JoinHandle<Result<Box<GroupWriter>, LakeError>>),
}

impl Writing {
    /// Encodes while more is read: these rows once those before are written.
    async fn write(self, rows: Rows) -> Result<Self, LakeError> {
        let mut writer = self.idle().await?;
        Ok(Self::Busy(blocking(move || {
            writer.write(&rows)?;
            Ok(writer)
        })))
    }

    async fn idle(self) -> Result<Box<GroupWriter>, LakeError> {
        match self {
            Self::Idle(writer) => Ok(writer),
            Self::Busy(work) => joined(work).await,
        }
    }
}

fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LakeError> + Send + 'static,
) -> JoinHandle<Result<T, LakeError>> {
    tokio::task::spawn_blocking(work)
}

async fn joined<T>(work: JoinHandle<Result<T, LakeError>>) -> Result<T, LakeError> {
    surroundings::joined(work).await.map_err(|e| LakeError::Storage(format!("encoding rows: {e}")))?
}

/// The batch without the rows that are gone; `first` is the position of its first row.
fn without(batch: &RecordBatch, gone: &RoaringBitmap, first: u32) -> Result<RecordBatch, LakeError> {
    let rows = first..first + batch.num_rows() as u32;
    if gone.range_cardinality(rows.clone()) == 0 {
        return Ok(batch.clone());
    }
    let stays: BooleanArray = rows.map(|position| Some(!gone.contains(position))).collect();
    Ok(filter_record_batch(batch, &stays)?)
}

/// Errors of decoders don't say of which file.
fn named(e: LakeError, path: &str) -> LakeError {
    match e {
        LakeError::Storage(_) => e,
        e => LakeError::Storage(format!("rewriting {path}: {e}")),
    }
}

/// Removes files that are in no snapshot, as far as storage lets it; orphan removal gets the rest.
pub(super) async fn remove(file_io: &iceberg::io::FileIO, paths: Vec<String>) {
    if paths.is_empty() {
        return;
    }
    let files = paths.len();
    if let Err(e) = file_io.delete_stream(futures::stream::iter(paths)).await {
        tracing::warn!(files, error = %e, "new files that nobody needs could not be removed: they are orphans now");
    }
}
