//! A worker's finished batch: files that no reader can see yet, durable or held back by their uploads until it is
//! their turn to be committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use firn_catalog::surroundings;
use iceberg::io::FileIO;
use iceberg::spec::{DataFile, DataFileBuilder};

use crate::memory::Counted;
use crate::position::{Positions, Span};
use crate::sink::lake::LakeError;
use crate::sink::lake::cut::TableEvents;
use crate::sink::lake::held::HeldBack;
use crate::sink::lake::layout::Layout;
use crate::sink::lake::letters::{PendingLetter, Replay};
use crate::sink::lake::overlay::Overlay;
use crate::sink::lake::parquet_file::Upload;
use crate::sink::lake::row_ids::{OpenEnd, RowIds};

/// What one worker staged. It can be committed once, together with the other workers' parts.
#[derive(Debug)]
pub struct Staged {
    /// The layouts that its files were written under; mostly one.
    pub(crate) layouts: Vec<Arc<Layout>>,
    pub(crate) generation: u64,
    /// Partitions that the table had a position of: if it has none any more, it was rolled back behind it.
    pub(crate) seen: Vec<Arc<Positions>>,
    pub(crate) files: Vec<StagedFile>,
    /// When the first of its files was begun.
    pub(crate) since_ms: Option<i64>,
    pub(crate) overlay: Option<Overlay>,
    /// Rows that lack values; whole, they go into files of the commit.
    pub(crate) held: HeldBack,
    pub(crate) spans: Vec<Span>,
    pub(crate) rows: u64,
    /// Letters of the spans whose keys could be read (upsert).
    pub(crate) letters: Vec<PendingLetter>,
    /// What it does to letters of earlier batches, where it is their replay.
    pub(crate) replay: Option<Replay>,
    /// Where the newest of its changes stands in the source's log; worked out where the source's drops of columns are followed.
    pub(crate) newest_lsn: Option<i64>,
    pub(crate) events: TableEvents,
    /// Given at the first try to commit; every later try keeps it.
    pub(crate) snapshot_id: Option<i64>,
    /// Whether a commit of it was sent whose answer never came: it may land yet.
    pub(crate) sent: bool,
    /// Its keys and held rows, and what their commit takes.
    pub(crate) counted: Counted,
}

impl Staged {
    /// The offsets that it accounts for.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Changes taken in, deletes included.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes of its files.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.data_file.file_size_in_bytes()).sum()
    }

    /// The parts of several workers as one batch.
    ///
    /// # Errors
    /// `None` given when there is nothing; a message when parts of an earlier try are mixed with new ones, which would give one
    /// snapshot id two contents.
    pub(crate) fn join(parts: Vec<Staged>) -> Result<Option<Staged>, LakeError> {
        let mut parts = parts.into_iter();
        let Some(mut whole) = parts.next() else { return Ok(None) };
        for part in parts {
            if part.snapshot_id != whole.snapshot_id {
                return Err(LakeError::Batch {
                    table: whole.table().to_owned(),
                    message: "a batch of an undecided commit must be committed again alone".to_owned(),
                });
            }
            if part.cleared() {
                whole.forget_held();
            }
            let (first_file, first_held) = (whole.files.len() as u32, whole.held.count());
            // Parts of one worker come in the order of its partitions' offsets; other workers have other keys.
            for letter in whole.letters.iter_mut().filter(|l| part.overlay.as_ref().is_some_and(|o| o.contains(l.key)))
            {
                letter.later = true;
            }
            whole.letters.extend(part.letters);
            whole.files.extend(part.files.into_iter().map(|f| StagedFile { number: f.number + first_file, ..f }));
            whole.overlay = match (whole.overlay.take(), part.overlay) {
                (Some(mut overlay), Some(later)) => {
                    whole.held.join(part.held, first_file, &overlay);
                    overlay.join(later, first_file, first_held);
                    Some(overlay)
                }
                (a, b) => a.or(b),
            };
            whole.layouts.extend(part.layouts);
            whole.layouts.dedup_by(|a, b| Arc::ptr_eq(a, b));
            whole.generation = whole.generation.min(part.generation);
            whole.seen.extend(part.seen);
            whole.spans.extend(part.spans);
            whole.since_ms = whole.since_ms.into_iter().chain(part.since_ms).min();
            whole.rows += part.rows;
            whole.newest_lsn = whole.newest_lsn.max(part.newest_lsn);
            whole.events.join(part.events, first_file);
            whole.counted.set(whole.counted.bytes() + part.counted.bytes());
        }
        Ok(Some(whole))
    }

    /// Whether the source table was emptied, and only the order of files tells what was there before: rows held back are in none.
    fn cleared(&self) -> bool {
        self.events.truncates().next().is_some() && !self.layouts.iter().all(|layout| layout.orders_rows())
    }

    fn forget_held(&mut self) {
        if let Some(overlay) = &mut self.overlay {
            overlay.forget_held();
        }
        self.held = HeldBack::default();
    }

    /// The one of its layouts that has all its columns.
    pub(crate) fn widest_layout(&self) -> Option<&Arc<Layout>> {
        self.layouts.iter().max_by_key(|l| (l.schema.as_struct().fields().len(), l.schema.schema_id()))
    }

    pub(crate) fn table(&self) -> &str {
        self.layouts.first().map_or("", |l| l.table.as_str())
    }

    /// Lets its files come to be, and waits until they are durable; not those that wait for the ids of their rows.
    pub(crate) async fn uploaded(&mut self) -> Result<(), LakeError> {
        self.files.iter_mut().for_each(StagedFile::release);
        for file in self.files.iter_mut().filter(|file| file.open.is_none()) {
            file.durable().await?;
        }
        Ok(())
    }

    /// Ends the files that wait for the ids of their rows, given by the files' numbers, and waits until all are durable. `false` where
    /// files have been ended with other ids.
    ///
    /// # Errors
    /// When a file could not be stored: the batch is lost then.
    pub(crate) async fn end(&mut self, mut row_ids: BTreeMap<u32, RowIds>) -> Result<bool, LakeError> {
        for file in &mut self.files {
            if !file.end(row_ids.remove(&file.number).unwrap_or_default()).await? {
                return Ok(false);
            }
        }
        self.uploaded().await?;
        Ok(true)
    }
}

/// One data file of a batch.
#[derive(Debug)]
pub(crate) struct StagedFile {
    /// Within its worker's batch.
    pub(crate) number: u32,
    pub(crate) spec_id: i32,
    pub(crate) path: String,
    pub(crate) rows: u64,
    pub(crate) data_file: DataFile,
    upload: Upload,
    durable: bool,
    /// Until it is known which rows its rows replace.
    open: Option<Open>,
    /// The ids that it was ended with.
    pub(crate) row_ids: RowIds,
}

/// What ends a file, and what it is to be described with then.
struct Open {
    end: OpenEnd,
    data_file: DataFileBuilder,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.end.fmt(f)
    }
}

impl StagedFile {
    pub(crate) fn new(
        number: u32,
        spec_id: i32,
        path: String,
        rows: u64,
        data_file: DataFileBuilder,
        upload: Upload,
        open: Option<OpenEnd>,
    ) -> Result<Self, LakeError> {
        let described = described(&data_file, &path)?;
        let open = open.map(|end| Open { end, data_file });
        let row_ids = RowIds::default();
        Ok(Self { number, spec_id, path, rows, data_file: described, upload, durable: false, open, row_ids })
    }

    /// Memory held until it is ended.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.end.memory_bytes())
    }

    /// Lets it come to be, unless it waits for the ids of its rows.
    pub(crate) fn release(&mut self) {
        if self.open.is_none() {
            self.upload.release();
        }
    }

    /// Waits until it is durable.
    pub(crate) async fn durable(&mut self) -> Result<(), LakeError> {
        if !self.durable {
            self.upload.finished().await?;
            self.durable = true;
        }
        Ok(())
    }

    /// Ends it, if it waits for the ids of its rows. `false` where it has been ended with others.
    pub(crate) async fn end(&mut self, row_ids: RowIds) -> Result<bool, LakeError> {
        let Some(Open { end, mut data_file }) = self.open.take() else { return Ok(self.row_ids == row_ids) };
        let closing = tokio::task::spawn_blocking(move || (end.close(&row_ids), row_ids));
        let closing = surroundings::joined(closing).await;
        let (closed, row_ids) = closing.map_err(|e| LakeError::Storage(format!("ending {}: {e}", self.path)))?;
        let size_bytes = closed.map_err(|e| self.upload.reason(e))?;
        data_file.file_size_in_bytes(size_bytes);
        self.data_file = described(&data_file, &self.path)?;
        self.row_ids = row_ids;
        Ok(true)
    }

    /// Removes the file, once its upload is over; one that was never released does not exist. What can't be removed now is in no
    /// snapshot and does no harm.
    pub(crate) async fn remove(mut self, io: &FileIO) {
        if self.durable || self.upload.is_released() {
            // Whatever it says: the answer to the last request may have been lost.
            let _ = self.upload.finished().await;
            let _ = io.delete(&self.path).await;
        }
    }
}

fn described(data_file: &DataFileBuilder, path: &str) -> Result<DataFile, LakeError> {
    data_file.build().map_err(|e| LakeError::Storage(format!("describing {path}: {e}")))
}
