//! Writes the rows of one group into new files. On a thread that may block.

use std::sync::Arc;

use arrow_array::{RecordBatch, UInt32Array};
use arrow_select::take::take_record_batch;
use firn_catalog::SpecFile;
use firn_catalog::failpoint::{self, Step};
use iceberg::spec::Struct;
use tokio::runtime::Handle;
use uuid::Uuid;

use super::shape::Shape;
use crate::memory::Memory;
use crate::sink::lake::LakeError;
use crate::sink::lake::moves::Piece;
use crate::sink::lake::parquet_file::{FinishedFile, ParquetFile, Upload};
use crate::sink::lake::split::Splitter;

/// Files open at once where rows of an older partition spec go to many partitions: the one that is not written to for longest is
/// finished then.
const OPEN_FILES: usize = 16;

/// Rows to be written one after the other.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) batch: RecordBatch,
    pub(super) origin: Origin,
}

/// Where rows come from: an old file by its number in the group, and the rank among the rows of that file that are written.
#[derive(Debug)]
pub(super) enum Origin {
    /// All from one file, in its order; the rank is the first one's.
    Run {
        old_file: usize,
        rank: u32,
    },
    Each {
        old_files: UInt32Array,
        ranks: UInt32Array,
    },
}

/// Where rows of a group belong.
#[derive(Debug)]
pub(super) enum Target {
    Partition(Struct),
    /// Each row says.
    Split(Box<Splitter>),
}

/// What is needed for new files.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) shape: Arc<Shape>,
    pub(super) io: Handle,
    pub(super) memory: Arc<Memory>,
    /// Unique: part of the files' names.
    pub(super) id: Uuid,
    /// Of the order that the rows come in, if it is the table's.
    pub(super) sort_order_id: Option<i32>,
    /// A file that has grown so large is finished.
    pub(super) roll_bytes: u64,
}

/// The new files of a group in the making.
pub(super) struct GroupWriter {
    place: Place,
    target: Target,
    /// The one written to last stands last.
    open: Vec<OpenFile>,
    done: Vec<(u32, NewFile)>,
    files: u32,
    /// By old file, as they come.
    pieces: Vec<Vec<Piece>>,
    /// By old file, what would follow the last row written.
    ends: Vec<Option<Piece>>,
}

struct OpenFile {
    number: u32,
    key: Box<[u8]>,
    partition: Struct,
    file: ParquetFile,
}

/// A file that is whole, on its way to storage: nobody sees it before its upload is released.
#[derive(Debug)]
pub(super) struct NewFile {
    pub(super) file: SpecFile,
    pub(super) upload: Upload,
}

impl GroupWriter {
    pub(super) fn new(place: Place, target: Target, old_files: usize) -> Self {
        Self {
            place,
            target,
            open: vec![],
            done: vec![],
            files: 0,
            pieces: vec![vec![]; old_files],
            ends: vec![None; old_files],
        }
    }

    /// # Errors
    /// When storage fails.
    pub(super) fn write(&mut self, rows: &Rows) -> Result<(), LakeError> {
        let Target::Split(splitter) = &mut self.target else {
            return self.write_to(&[], None, rows, &rows.batch, None);
        };
        // Partition values come from the table's columns alone.
        let columns: Vec<usize> = (0..self.place.shape.layout.arrow.fields().len()).collect();
        for group in splitter.split(&rows.batch.project(&columns)?)? {
            let batch = match &group.rows {
                None => rows.batch.clone(),
                Some(members) => take_record_batch(&rows.batch, &UInt32Array::from(members.clone()))?,
            };
            self.write_to(&group.key, Some(group.partition), rows, &batch, group.rows.as_deref())?;
        }
        Ok(())
    }

    /// `members` are the rows' places in the whole batch; all of them unless given.
    fn write_to(
        &mut self,
        key: &[u8],
        partition: Option<Struct>,
        rows: &Rows,
        batch: &RecordBatch,
        members: Option<&[u32]>,
    ) -> Result<(), LakeError> {
        let at = match self.open.iter().position(|open| *open.key == *key) {
            Some(at) => at,
            None => self.begin(key, partition)?,
        };
        let mut open = self.open.remove(at);
        let first = open.file.rows() as u32;
        open.file.write(batch)?;
        let count = batch.num_rows() as u32;
        match (&rows.origin, members) {
            (Origin::Run { old_file, rank }, None) => {
                self.moved(*old_file, Piece { rank: *rank, file: open.number, position: first }, count);
            }
            (Origin::Run { old_file, rank }, Some(members)) => {
                for (position, member) in (first..).zip(members) {
                    self.moved(*old_file, Piece { rank: rank + member, file: open.number, position }, 1);
                }
            }
            (Origin::Each { old_files, ranks }, members) => {
                for (position, nth) in (first..first + count).zip(0..) {
                    let member = members.map_or(nth, |members| members.get(nth).map_or(0, |member| *member as usize));
                    let (old_file, rank) = (old_files.value(member) as usize, ranks.value(member));
                    self.moved(old_file, Piece { rank, file: open.number, position }, 1);
                }
            }
        }
        if open.file.size_bytes() >= self.place.roll_bytes {
            return self.finish_one(open);
        }
        self.open.push(open);
        Ok(())
    }

    /// So many rows went there. Those that follow the last ones of their old file in both files belong to their piece.
    fn moved(&mut self, old_file: usize, piece: Piece, rows: u32) {
        let (Some(pieces), Some(end)) = (self.pieces.get_mut(old_file), self.ends.get_mut(old_file)) else { return };
        if *end != Some(piece) {
            pieces.push(piece);
        }
        *end = Some(Piece { rank: piece.rank + rows, position: piece.position + rows, ..piece });
    }

    fn begin(&mut self, key: &[u8], partition: Option<Struct>) -> Result<usize, LakeError> {
        if self.open.len() >= OPEN_FILES {
            let oldest = self.open.remove(0);
            self.finish_one(oldest)?;
        }
        let partition = match (partition, &self.target) {
            (Some(partition), _) => partition,
            (None, Target::Partition(partition)) => partition.clone(),
            (None, Target::Split(_)) => Struct::empty(),
        };
        let Place { shape, io, memory, id, .. } = &self.place;
        let (number, layout) = (self.files, &shape.layout);
        let path = format!("{}/{}-{number:05}.parquet", layout.data_location, id.simple());
        let (schema, arrow) = (Arc::clone(&layout.schema), Arc::clone(&shape.arrow));
        let file = failpoint::around(
            Step::OpenFile,
            || ParquetFile::create(&layout.file_io, io, path, schema, arrow, layout.properties.clone(), memory),
            |failure| LakeError::Storage(failure.to_string()),
        )?;
        self.files += 1;
        self.open.push(OpenFile { number, key: key.into(), partition, file });
        Ok(self.open.len() - 1)
    }

    fn finish_one(&mut self, open: OpenFile) -> Result<(), LakeError> {
        let spec_id = self.place.shape.layout.partition_spec.spec_id();
        let FinishedFile { path, mut data_file, upload, .. } = open.file.finish()?;
        data_file.partition(open.partition).partition_spec_id(spec_id);
        if let Some(order) = self.place.sort_order_id {
            data_file.sort_order_id(order);
        }
        let file = data_file.build().map_err(|e| LakeError::Storage(format!("describing {path}: {e}")))?;
        self.done.push((open.number, NewFile { file: SpecFile { spec_id, file }, upload }));
        Ok(())
    }

    /// The files by their numbers, none of them to be seen yet, and of each old file where its rows went.
    ///
    /// # Errors
    /// When storage fails.
    pub(super) fn finish(mut self) -> Result<(Vec<NewFile>, Vec<Vec<Piece>>), LakeError> {
        for open in std::mem::take(&mut self.open) {
            self.finish_one(open)?;
        }
        self.done.sort_unstable_by_key(|(number, _)| *number);
        for pieces in &mut self.pieces {
            // Rows that were split or sorted come in another order.
            pieces.sort_unstable_by_key(|piece| piece.rank);
        }
        Ok((self.done.into_iter().map(|(_, file)| file).collect(), self.pieces))
    }
}
