//! Writes the rows of one group into new files. On a thread that may block.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{RecordBatch, UInt32Array};
use firn_catalog::SpecFile;
use firn_catalog::failpoint::{self, Step};
use iceberg::spec::Struct;
use roaring::RoaringBitmap;
use tokio::runtime::Handle;
use uuid::Uuid;

use super::finished::Finished;
use super::shape::Shape;
use super::ways::{Ways, WaysWriter};
use crate::memory::Memory;
use crate::sink::lake::LakeError;
use crate::sink::lake::moves::Piece;
use crate::sink::lake::parquet_file::{FinishedFile, ParquetFile};
use crate::sink::lake::split::Splitter;

/// Rows to be written one after the other.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) batch: RecordBatch,
    pub(super) origin: Origin,
}

impl Rows {
    /// All but so many.
    fn after(&self, first: usize) -> Self {
        let left = self.batch.num_rows() - first;
        let origin = match &self.origin {
            Origin::Run { old_file, rank } => Origin::Run { old_file: *old_file, rank: rank + first as u32 },
            Origin::Each { old_files, ranks } => {
                Origin::Each { old_files: old_files.slice(first, left), ranks: ranks.slice(first, left) }
            }
        };
        Self { batch: self.batch.slice(first, left), origin }
    }
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
    /// Each row says; those of one partition come together.
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
    /// What may be held of where rows went.
    pub(super) ways_bytes: usize,
    /// Takes the files that are whole.
    pub(super) finished: Arc<Finished>,
}

/// The new files of a group in the making.
pub(super) struct GroupWriter {
    place: Place,
    target: Target,
    open: Option<OpenFile>,
    files: u32,
    ways: WaysWriter,
}

struct OpenFile {
    number: u32,
    key: Box<[u8]>,
    partition: Struct,
    file: ParquetFile,
}

impl GroupWriter {
    pub(super) fn new(place: Place, target: Target, old_files: usize) -> Self {
        let ways = WaysWriter::new(old_files, place.ways_bytes);
        Self { place, target, open: None, files: 0, ways }
    }

    /// The files that are whole.
    pub(super) fn finished(&self) -> Arc<Finished> {
        Arc::clone(&self.place.finished)
    }

    /// Gives back the rows that came behind as many finished files as may be on their way to storage.
    ///
    /// # Errors
    /// When storage fails.
    pub(super) fn write(&mut self, rows: Rows) -> Result<Option<Rows>, LakeError> {
        let Target::Split(splitter) = &mut self.target else {
            self.write_to(&[], None, &rows, 0..rows.batch.num_rows())?;
            return Ok(None);
        };
        // Partition values come from the table's columns alone.
        let columns: Vec<usize> = (0..self.place.shape.layout.arrow.fields().len()).collect();
        let mut first = 0;
        for group in splitter.split(&rows.batch.project(&columns)?)? {
            let count = group.rows.map_or(rows.batch.num_rows(), |members| members.len());
            if self.place.finished.is_full() {
                return Ok(Some(rows.after(first)));
            }
            self.write_to(&group.key, Some(group.partition), &rows, first..first + count)?;
            first += count;
        }
        Ok(None)
    }

    /// Some of the rows, all of one partition.
    fn write_to(
        &mut self,
        key: &[u8],
        partition: Option<Struct>,
        rows: &Rows,
        which: Range<usize>,
    ) -> Result<(), LakeError> {
        let mut open = match self.open.take() {
            Some(open) if *open.key == *key => open,
            other => {
                if let Some(of_another) = other {
                    self.finish_one(of_another)?;
                }
                self.begin(key, partition)?
            }
        };
        let first = open.file.rows() as u32;
        open.file.write(&rows.batch.slice(which.start, which.len()))?;
        match &rows.origin {
            Origin::Run { old_file, rank } => {
                let piece = Piece { rank: rank + which.start as u32, file: open.number, position: first };
                self.ways.add(*old_file, piece, which.len() as u32)?;
            }
            Origin::Each { old_files, ranks } => {
                for (position, row) in (first..).zip(which) {
                    let piece = Piece { rank: ranks.value(row), file: open.number, position };
                    self.ways.add(old_files.value(row) as usize, piece, 1)?;
                }
            }
        }
        if open.file.size_bytes() >= self.place.roll_bytes {
            return self.finish_one(open);
        }
        self.open = Some(open);
        Ok(())
    }

    fn begin(&mut self, key: &[u8], partition: Option<Struct>) -> Result<OpenFile, LakeError> {
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
        Ok(OpenFile { number, key: key.into(), partition, file })
    }

    fn finish_one(&mut self, open: OpenFile) -> Result<(), LakeError> {
        let spec_id = self.place.shape.layout.partition_spec.spec_id();
        let FinishedFile { path, mut data_file, upload, .. } = open.file.finish()?;
        data_file.partition(open.partition).partition_spec_id(spec_id);
        if let Some(order) = self.place.sort_order_id {
            data_file.sort_order_id(order);
        }
        let file = data_file.build().map_err(|e| LakeError::Storage(format!("describing {path}: {e}")))?;
        self.place.finished.add(open.number, SpecFile { spec_id, file }, upload);
        Ok(())
    }

    /// Where the rows of the old files went; `left_out` are those of each that were not to be written.
    ///
    /// # Errors
    /// When storage fails.
    pub(super) fn finish(mut self, left_out: Vec<RoaringBitmap>) -> Result<Ways, LakeError> {
        if let Some(open) = self.open.take() {
            self.finish_one(open)?;
        }
        self.ways.finish(left_out)
    }
}
