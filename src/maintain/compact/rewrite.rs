//! Writes the live rows of a group of files into new ones.

use std::sync::Arc;

use arrow_array::RecordBatch;
use firn_catalog::{SpecFile, surroundings};
use iceberg::spec::Struct;
use iceberg::table::Table;
use roaring::RoaringBitmap;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::contents::OldFile;
use super::decode::Decoder;
use super::equality;
use super::finished::Finished;
use super::plan::{Group, Limits};
use super::read::{Fetch, Numbered, named};
use super::shape::Shape;
use super::sort::{Order, Unsorted, batch_rows, sorted};
use super::ways::Ways;
use super::writer::{GroupWriter, Origin, Place, Rows, Target};
use crate::maintain::budget::Limiter;
use crate::memory::Memory;
use crate::sink::lake::LakeError;
use crate::sink::lake::deletes::{self, DeleteFile};
use crate::sink::lake::sorted_file::SortBy;
use crate::sink::lake::split::Splitter;
use crate::sink::lake::stored::Columns;

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
    /// The same of where they went.
    pub(super) ways_bytes: usize,
    pub(super) limiter: Arc<Limiter>,
}

/// A group whose live rows are in new files, which are durable, and in no snapshot.
#[derive(Debug)]
pub(super) struct Rewritten {
    pub(super) group: Group,
    pub(super) files: Vec<SpecFile>,
    pub(super) ways: Ways,
    /// Of each old file the rows that position deletes took, and equality deletes did not.
    pub(super) positions: Vec<RoaringBitmap>,
    /// Of the snapshot that was read.
    pub(super) sequence_number: i64,
    /// None of its files is older.
    pub(super) since_ms: i64,
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
    /// See [`Fault`]; what is finished of the group does not stay in storage then. A file that ends at that very moment is an orphan.
    pub(super) async fn rewrite(&self, group: Group) -> Result<Rewritten, Fault> {
        let since_ms = surroundings::now_ms();
        let finished = Arc::new(Finished::default());
        match self.try_rewrite(&group, Arc::clone(&finished)).await {
            Ok((files, ways, positions)) => {
                let sequence_number = self.base.metadata().current_snapshot().map_or(0, |s| s.sequence_number());
                Ok(Rewritten { group, files, ways, positions, sequence_number, since_ms })
            }
            Err(error) => {
                finished.remove(self.base.file_io()).await;
                let missing = self.missing(&group).await;
                Err(Fault { missing, error })
            }
        }
    }

    async fn try_rewrite(
        &self,
        group: &Group,
        finished: Arc<Finished>,
    ) -> Result<(Vec<SpecFile>, Ways, Vec<RoaringBitmap>), LakeError> {
        let file_io = self.base.file_io();
        let wanted: Vec<(&str, &[DeleteFile])> = group.files.iter().map(|f| (f.path(), f.deletes.as_slice())).collect();
        let mut deleted = deletes::read(file_io, &wanted).await?;
        let positions: Vec<RoaringBitmap> =
            group.files.iter().map(|f| deleted.remove(f.path()).unwrap_or_default()).collect();
        let mut left_out = positions.clone();
        equality::apply(&self.base, &group.files, &mut left_out).await?;

        let layout = &self.shape.layout;
        let by = SortBy::all_of(layout);
        let spec = &layout.partition_spec;
        let splitter = || Splitter::new(spec, &layout.schema);
        let is_split = group.spec_id != spec.spec_id() && !spec.is_unpartitioned();
        let target = match (is_split, &group.partition) {
            (true, _) => Target::Split(Box::new(splitter()?)),
            (false, Some(partition)) if group.spec_id == spec.spec_id() => Target::Partition(partition.clone()),
            (false, _) => Target::Partition(Struct::empty()),
        };
        let place = Place {
            shape: Arc::clone(&self.shape),
            io: self.io.clone(),
            memory: Arc::clone(&self.memory),
            id: surroundings::new_id(),
            sort_order_id: by.as_ref().and(i32::try_from(layout.sort_order.order_id).ok()),
            roll_bytes: self.roll_bytes(group),
            ways_bytes: self.ways_bytes,
            finished: Arc::clone(&finished),
        };
        let sorting = match is_split || by.is_some() {
            false => None,
            true => {
                let partitions = if is_split { Some(splitter()?) } else { None };
                let table_columns = layout.arrow.fields().len();
                let order = Order { partitions, by: by.unwrap_or_default(), table_columns };
                let sum = |of: fn(&OldFile) -> u64| group.files.iter().map(of).sum();
                let rows = batch_rows(self.sort_bytes, sum(OldFile::bytes), sum(OldFile::rows));
                Some(sorted(&self.shape.arrow, order, self.sort_bytes, rows)?)
            }
        };
        let writing = Writing::Idle(Box::new(GroupWriter::new(place, target, group.files.len())));
        let writing = match sorting {
            None => self.copy_all(group, &left_out, To::Writer(writing)).await?,
            Some((unsorted, mut sorted)) => {
                let copied = async { self.copy_all(group, &left_out, To::Sorter(Box::new(unsorted))).await.map(drop) };
                let written = async move {
                    let mut writing = writing;
                    while let Some(rows) = sorted.next().await? {
                        writing = writing.write(rows).await?;
                        self.limiter.turn().await;
                    }
                    Ok(Some(writing))
                };
                futures::try_join!(copied, written)?.1
            }
        };
        let writing = writing.ok_or_else(|| LakeError::Storage("rows went to be sorted".to_owned()))?;
        let writer = writing.idle().await?;
        let ways = joined(blocking(move || writer.finish(left_out))).await?;
        Ok((finished.all().await?, ways, positions))
    }

    /// All rows of the group's files but those that are left out. Answers the writer, if they went there.
    async fn copy_all(
        &self,
        group: &Group,
        left_out: &[RoaringBitmap],
        mut to: To,
    ) -> Result<Option<Writing>, LakeError> {
        let columns = Columns::new(&self.shape.fields, &self.shape.arrow);
        // Several are held: decoded, encoded, waiting to be sorted.
        let batch_bytes = self.memory.file_bytes() as u64 / 4;
        let mut decoders = vec![];
        let mut live: Vec<Numbered> = vec![];
        for (n, (file, gone)) in group.files.iter().zip(left_out).enumerate() {
            let (shape, columns, entry) = (Arc::clone(&self.shape), columns.clone(), Arc::clone(&file.entry));
            if gone.len() < file.rows() {
                live.push((n, Arc::clone(&entry)));
            }
            let gone = gone.clone();
            decoders.push(Some(Decoder { shape, columns, entry, batch_bytes, gone, position: 0, rank: 0 }));
        }
        let wanted: Vec<usize> = live.iter().map(|(n, _)| *n).collect();
        let file_io = self.base.file_io().clone();
        let fetch = Fetch { file_io, columns, most_bytes: self.memory.file_bytes() as u64 };
        let (parts, mut fetched) = mpsc::unbounded_channel();
        let fetching = Arc::new(fetch).run(live, parts);
        let copying = async {
            while let Some(part) = fetched.recv().await {
                let (Some(file), Some(decoder)) = (group.files.get(part.old_file), decoders.get_mut(part.old_file))
                else {
                    continue;
                };
                let named = |e| named(e, file.path());
                let Some(of_file) = decoder.take() else { continue };
                let old_file = part.old_file;
                let mut decoding = joined(blocking(move || of_file.begin(part))).await.map_err(named)?;
                loop {
                    let (rows, back) = joined(blocking(move || decoding.next())).await.map_err(named)?;
                    decoding = back;
                    let Some((batch, rank)) = rows else { break };
                    to = to.take(batch, old_file, rank).await?;
                    self.limiter.turn().await;
                }
                *decoder = Some(decoding.end());
            }
            Ok(to)
        };
        let ((), to) = futures::try_join!(fetching, copying)?;
        for n in wanted {
            let (Some(file), Some(Some(decoder))) = (group.files.get(n), decoders.get(n)) else { continue };
            if u64::from(decoder.position) != file.rows() {
                let says = format!("{} has {} rows, the table says {}", file.path(), decoder.position, file.rows());
                return Err(LakeError::Storage(says));
            }
        }
        Ok(match to {
            To::Writer(writing) => Some(writing),
            To::Sorter(_) => None,
        })
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
    Sorter(Box<Unsorted>),
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
    Busy(Encoding),
}

/// Gives back the writer, and rows that wait until files that are finished are stored.
type Encoding = JoinHandle<Result<(Box<GroupWriter>, Option<Rows>), LakeError>>;

impl Writing {
    /// Encodes while more is read: these rows once those before are written.
    async fn write(self, rows: Rows) -> Result<Self, LakeError> {
        Ok(Self::Busy(encode(self.idle().await?, rows)))
    }

    async fn idle(self) -> Result<Box<GroupWriter>, LakeError> {
        let mut encoding = match self {
            Self::Idle(writer) => return Ok(writer),
            Self::Busy(encoding) => encoding,
        };
        loop {
            let (writer, rest) = joined(encoding).await?;
            writer.finished().settle().await?;
            match rest {
                Some(rows) => encoding = encode(writer, rows),
                None => return Ok(writer),
            }
        }
    }
}

fn encode(mut writer: Box<GroupWriter>, rows: Rows) -> Encoding {
    blocking(move || {
        let rest = writer.write(rows)?;
        Ok((writer, rest))
    })
}

fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LakeError> + Send + 'static,
) -> JoinHandle<Result<T, LakeError>> {
    tokio::task::spawn_blocking(work)
}

async fn joined<T>(work: JoinHandle<Result<T, LakeError>>) -> Result<T, LakeError> {
    surroundings::joined(work).await.map_err(|e| LakeError::Storage(format!("encoding rows: {e}")))?
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
