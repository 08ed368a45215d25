//! Turns a worker's changes into files that no reader can see yet.
//!
//! Synchronous: it encodes on the worker's own thread while the uploads run on the runtime. Knows nothing of the table's
//! present rows: what an upsert replaces is looked up when it is committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{BooleanArray, RecordBatch, UInt32Array};
use arrow_select::filter::filter_record_batch;
use arrow_select::take::take_record_batch;
use firn_catalog::failpoint::{self, Step};
use firn_catalog::surroundings;
use hashbrown::HashMap;
use iceberg::spec::Struct;
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::batch::ChangeBatch;
use crate::change::{Op, origin};
use crate::memory::{Counted, Kind, Memory};
use crate::position::{Positions, Span};
use crate::sink::lake::conform::Conform;
use crate::sink::lake::cut::TableEvents;
use crate::sink::lake::held::{Arriving, HeldBack, HeldPlaces, Kept};
use crate::sink::lake::keys::KeyHasher;
use crate::sink::lake::layout::Layout;
use crate::sink::lake::letters::{LetterWatch, MetLetter};
use crate::sink::lake::overlay::{Overlay, RowPlace, moved_to};
use crate::sink::lake::parquet_file::{FinishedFile, ParquetFile};
use crate::sink::lake::sorted_file::SortedFile;
use crate::sink::lake::split::{Group, Splitter};
use crate::sink::lake::{LakeError, Staged, StagedFile};
use crate::table_event::{SourceSnapshot, Truncate};

/// Files open at once. More: memory (each holds a row group and up to three chunks of upload). Fewer: rows that alternate between
/// partitions make many small files.
const OPEN_FILES: usize = 32;
/// What a commit takes for a key, beside the batch: the key, sorted, its place in the index, the id of its row, its change.
const COMMIT_BYTES_A_KEY: usize = 128;

/// One worker's batch in the making.
#[derive(Debug)]
pub struct Stager {
    layout: Arc<Layout>,
    io: Handle,
    /// The table's generation when the batch began.
    generation: u64,
    /// Partitions that the table had a position of when the batch began.
    seen: Arc<Positions>,
    conform: Conform,
    splitter: Splitter,
    open: HashMap<Box<[u8]>, OpenFile>,
    done: Vec<StagedFile>,
    files: u32,
    /// When it was begun; asked on the thread that begins it, whose clock the commit's is.
    begun_ms: i64,
    /// Before the first file was begun.
    since_ms: Option<i64>,
    /// Makes the files' names unique.
    id: Uuid,
    upsert: Option<Upsert>,
    /// Where the rows of sorted files went, per file.
    moved: BTreeMap<u32, Vec<u32>>,
    rows: u64,
    newest_lsn: Option<i64>,
    events: TableEvents,
    counted: Counted,
}

#[derive(Debug)]
struct Upsert {
    hasher: KeyHasher,
    overlay: Overlay,
    letters: LetterWatch,
    held: HeldBack,
}

#[derive(Debug)]
struct OpenFile {
    /// Within the batch.
    number: u32,
    partition: Struct,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Streaming(Box<ParquetFile>),
    Sorting(SortedFile),
}

impl Body {
    fn rows(&self) -> u64 {
        match self {
            Body::Streaming(file) => file.rows(),
            Body::Sorting(file) => file.rows(),
        }
    }

    fn memory_bytes(&self) -> usize {
        match self {
            Body::Streaming(file) => file.memory_bytes(),
            Body::Sorting(file) => file.memory_bytes(),
        }
    }

    fn is_full(&self, target_bytes: u64) -> bool {
        match self {
            Body::Streaming(file) => file.size_bytes() >= target_bytes,
            Body::Sorting(file) => file.is_full(),
        }
    }
}

impl Stager {
    pub(crate) fn new(
        layout: Arc<Layout>,
        io: Handle,
        generation: u64,
        seen: Arc<Positions>,
        memory: &Arc<Memory>,
    ) -> Result<Self, LakeError> {
        let upsert = match layout.key.is_empty() {
            true => None,
            false => Some(Upsert {
                hasher: KeyHasher::new(&layout.key_types())?,
                overlay: Overlay::default(),
                letters: LetterWatch::default(),
                held: HeldBack::default(),
            }),
        };
        Ok(Self { generation, seen, upsert, ..Self::plain(layout, io, memory.count(Kind::Open))? })
    }

    /// Writes rows as they come, whatever their keys. What it holds is `counted`.
    pub(crate) fn plain(layout: Arc<Layout>, io: Handle, counted: Counted) -> Result<Self, LakeError> {
        Ok(Self {
            io,
            generation: 0,
            seen: Arc::default(),
            conform: Conform::new(&layout.table, Arc::clone(&layout.arrow)),
            splitter: Splitter::new(&layout.partition_spec, &layout.schema)?,
            open: HashMap::new(),
            done: vec![],
            files: 0,
            begun_ms: surroundings::now_ms(),
            since_ms: None,
            id: surroundings::new_id(),
            upsert: None,
            moved: BTreeMap::new(),
            rows: 0,
            newest_lsn: None,
            events: TableEvents::default(),
            counted,
            layout,
        })
    }

    /// Takes the batch in. In append mode every change is a row; in upsert mode a delete writes none, and of several changes of a
    /// key only the last stays.
    ///
    /// Blocks while the uploads are behind. Must not run inside an async task (`spawn_blocking`, or a thread of its own).
    ///
    /// # Errors
    /// When the batch doesn't fit the table's columns, or storage failed: the batch can only be abandoned then.
    pub fn write(&mut self, batch: ChangeBatch) -> Result<(), LakeError> {
        if batch.rows.num_rows() != batch.ops.len() {
            return Err(LakeError::Batch {
                table: self.layout.table.clone(),
                message: format!("{} rows come with {} ops", batch.rows.num_rows(), batch.ops.len()),
            });
        }
        self.rows += batch.ops.len() as u64;
        if self.layout.lineage.drops {
            self.newest_lsn = self.newest_lsn.max(newest_lsn(&batch.rows));
        }
        let rows = self.conform.apply(&batch.rows)?;
        let Some(upsert) = &mut self.upsert else { return self.append(&rows, |_, _| {}) };
        let keys = upsert.hasher.hash_batch(&rows, &self.layout.key)?;
        upsert.letters.pass(&keys);
        let Kept { keep, deleted } = match batch.unavailable.is_empty() && batch.rekeyed.is_empty() {
            true => {
                Kept { keep: upsert.overlay.arrive(&keys, |i| batch.ops.get(i) == Some(&Op::Delete)), deleted: vec![] }
            }
            false => {
                let arriving = Arriving { layout: &self.layout, rows: &rows, keys: &keys, changes: &batch };
                upsert.held.arrive(&mut upsert.overlay, &mut upsert.hasher, &arriving)?
            }
        };
        let all = keys.iter().zip(0u32..).zip(&keep);
        let kept_keys: Vec<(u128, u32)> = all.filter(|(_, keep)| **keep).map(|((key, row), _)| (*key, row)).collect();
        if kept_keys.is_empty() {
            self.counted.set(self.bytes());
            return Ok(());
        }
        let rows =
            if kept_keys.len() == keys.len() { rows } else { filter_record_batch(&rows, &BooleanArray::from(keep))? };
        let mut places = vec![RowPlace { file: 0, position: 0 }; kept_keys.len()];
        self.append(&rows, |row, place| {
            if let Some(at) = places.get_mut(row) {
                *at = place;
            }
        })?;
        if let Some(upsert) = &mut self.upsert {
            for ((key, row), place) in kept_keys.into_iter().zip(places) {
                match deleted.binary_search_by_key(&row, |(row, _)| *row) {
                    Err(_) => upsert.overlay.written(key, place),
                    Ok(at) => {
                        upsert.overlay.supersede(place);
                        upsert.held.deleted_at(deleted.get(at).and_then(|(_, key)| *key), place);
                    }
                }
            }
        }
        Ok(())
    }

    /// Letters among the rows that are written next; to be told before them. One whose key is not of the table's columns is not
    /// watched.
    pub fn met(&mut self, letters: Vec<MetLetter>) {
        for MetLetter { origin, before_row, key } in letters {
            let hashes = self.key_hashes(&key);
            if let (Ok(hashes), Some(upsert)) = (hashes, &mut self.upsert)
                && let [key] = hashes[..]
            {
                upsert.letters.met(origin, before_row, key);
            }
        }
    }

    /// The hashes of rows' keys; none in append mode.
    ///
    /// # Errors
    /// When the rows have columns that the table lacks.
    pub fn key_hashes(&mut self, rows: &RecordBatch) -> Result<Vec<u128>, LakeError> {
        match &mut self.upsert {
            Some(upsert) => upsert.hasher.hash_batch(&self.conform.apply(rows)?, &self.layout.key),
            None => Ok(vec![]),
        }
    }

    /// Writes rows of the table's columns and tells where each went.
    pub(crate) fn append(
        &mut self,
        rows: &RecordBatch,
        mut placed: impl FnMut(usize, RowPlace),
    ) -> Result<(), LakeError> {
        let target_bytes = self.layout.target_file_bytes;
        for Group { key, partition, rows: members } in self.splitter.split(rows)? {
            let part = match &members {
                None => rows.clone(),
                Some(members) => take_record_batch(rows, &UInt32Array::from(members.clone()))?,
            };
            let file = self.file_of(key.clone(), partition)?;
            let first = file.body.rows() as u32;
            let number = file.number;
            match &mut file.body {
                Body::Streaming(file) => file.write(&part)?,
                Body::Sorting(file) => file.write(part),
            }
            match &members {
                None => {
                    (0..rows.num_rows()).for_each(|i| placed(i, RowPlace { file: number, position: first + i as u32 }))
                }
                Some(members) => members
                    .iter()
                    .zip(first..)
                    .for_each(|(i, position)| placed(*i as usize, RowPlace { file: number, position })),
            }
            if file.body.is_full(target_bytes)
                && let Some(full) = self.open.remove(&key)
            {
                self.finish_early(full)?;
            }
        }
        self.counted.set(self.bytes());
        Ok(())
    }

    fn file_of(&mut self, key: Box<[u8]>, partition: Struct) -> Result<&mut OpenFile, LakeError> {
        if !self.open.contains_key(&key) && self.open.len() >= OPEN_FILES {
            let largest = self.open.iter().max_by_key(|(_, f)| f.body.memory_bytes()).map(|(k, _)| k.clone());
            if let Some(file) = largest.and_then(|k| self.open.remove(&k)) {
                self.finish_early(file)?;
            }
        }
        let number = self.files;
        match self.open.entry(key) {
            hashbrown::hash_map::Entry::Occupied(open) => Ok(open.into_mut()),
            hashbrown::hash_map::Entry::Vacant(free) => {
                let memory = self.counted.memory();
                let body = match SortedFile::new(&self.layout, memory.file_bytes()) {
                    Some(sorted) => Body::Sorting(sorted),
                    None => Body::Streaming(Box::new(create(&self.layout, &self.io, self.id, number, memory)?)),
                };
                self.files += 1;
                self.since_ms.get_or_insert(self.begun_ms);
                Ok(free.insert(OpenFile { number, partition, body }))
            }
        }
    }

    /// In mid-batch: a file held back would hold memory, of files without number. One that waits for the ids of its rows does; it counts.
    fn finish_early(&mut self, file: OpenFile) -> Result<(), LakeError> {
        self.finish(file)?;
        if let Some(file) = self.done.last_mut() {
            file.release();
        }
        Ok(())
    }

    fn finish(&mut self, file: OpenFile) -> Result<(), LakeError> {
        let mut sort_order_id = None;
        let body = match file.body {
            Body::Streaming(body) => *body,
            Body::Sorting(sorted) => {
                let mut body = create(&self.layout, &self.io, self.id, file.number, self.counted.memory())?;
                let order = sorted.write_sorted(&mut body)?;
                if !self.layout.key.is_empty() {
                    self.moved.insert(file.number, order);
                }
                sort_order_id = Some(self.layout.sort_order.order_id as i32);
                body
            }
        };
        let (finished, open) = match self.layout.keeps_row_ids() {
            true => body.finish_open().map(|(file, end)| (file, Some(end)))?,
            false => (body.finish()?, None),
        };
        let FinishedFile { path, rows, mut data_file, upload } = finished;
        let spec_id = self.layout.partition_spec.spec_id();
        data_file.partition(file.partition).partition_spec_id(spec_id);
        if let Some(id) = sort_order_id {
            data_file.sort_order_id(id);
        }
        self.done.push(StagedFile::new(file.number, spec_id, path, rows, data_file, upload, open)?);
        Ok(())
    }

    /// The source table was emptied, after what was written so far and before what follows.
    ///
    /// # Errors
    /// `Settings` when nothing tells which rows were there before; storage.
    pub fn truncate(&mut self, truncate: Truncate) -> Result<(), LakeError> {
        let by_columns = self.layout.orders_rows();
        if !(truncate.only_partition || by_columns && truncate.fence.is_some()) {
            let (why, anew) = match by_columns {
                false => ("the table has no origin columns (origin_columns = false)", "with origin_columns = true"),
                true => ("the source's messages carry no LSN", "from a topic of one partition"),
            };
            return Err(LakeError::Settings {
                table: self.layout.table.clone(),
                message: format!(
                    "{}@{}: the source table was truncated, and which rows of the topic's other partitions were there before \
                     can't be told: {why}. Make the table anew {anew}, or empty it by hand and set truncate = \"skip\" until \
                     this offset is passed",
                    truncate.at, truncate.offset,
                ),
            });
        }
        if !by_columns {
            // Then the files' order has to tell.
            self.take_open().into_iter().try_for_each(|file| self.finish_early(file))?;
            if let Some(upsert) = &mut self.upsert {
                upsert.overlay.forget_held();
                upsert.held = HeldBack::default();
            }
        }
        self.events.truncated(truncate, self.files);
        Ok(())
    }

    /// Rows of a snapshot of the whole source table were among those written.
    pub fn saw_snapshot(&mut self, topic: &str, seen: SourceSnapshot) {
        self.events.saw_snapshot(topic, seen);
    }

    /// Changes taken in, deletes included.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Memory held for this batch.
    pub fn bytes(&self) -> usize {
        self.open.values().map(|f| f.body.memory_bytes()).sum::<usize>()
            + self.done.iter().map(StagedFile::memory_bytes).sum::<usize>()
            + self.upsert.as_ref().map_or(0, |u| u.overlay.memory_bytes() + u.held.memory_bytes())
    }

    /// Bytes of the files finished and begun, for triggers by size.
    pub fn file_bytes(&self) -> u64 {
        let open = self.open.values().map(|f| match &f.body {
            Body::Streaming(file) => file.size_bytes(),
            Body::Sorting(file) => file.bytes() as u64,
        });
        let held = self.upsert.as_ref().map_or(0, |u| u.held.memory_bytes() as u64);
        open.sum::<u64>() + held + self.done.iter().map(|f| f.data_file.file_size_in_bytes()).sum::<u64>()
    }

    /// Finishes the files; `spans` are the offsets that this batch accounts for, one per partition. The last step of
    /// their uploads is the commit's.
    ///
    /// # Errors
    /// When storage failed: the batch is gone and must be read again.
    pub fn close(mut self, spans: Vec<Span>) -> Result<Staged, LakeError> {
        if let Err(e) = self.finish_all() {
            self.abandon();
            return Err(e);
        }
        let (overlay, letters, held) = match self.upsert {
            None => (None, vec![], HeldBack::default()),
            Some(mut upsert) => {
                upsert.overlay.rows_moved(&self.moved);
                upsert.held.rows_moved(&self.moved);
                (Some(upsert.overlay), upsert.letters.into_letters(), upsert.held)
            }
        };
        let keys = overlay.as_ref().map_or(0, |o| o.memory_bytes() + o.len() * COMMIT_BYTES_A_KEY);
        let open_ends: usize = self.done.iter().map(StagedFile::memory_bytes).sum();
        let counted = self.counted.turned(Kind::Staged, keys + held.memory_bytes() + open_ends);
        Ok(Staged {
            layouts: vec![self.layout],
            generation: self.generation,
            seen: vec![self.seen],
            files: self.done,
            since_ms: self.since_ms,
            overlay,
            held,
            spans,
            rows: self.rows,
            letters,
            replay: None,
            newest_lsn: self.newest_lsn,
            events: self.events,
            snapshot_id: None,
            sent: false,
            counted,
        })
    }

    /// Finishes the files of a plain writer; answers with them where the rows that were told to be at `places` are now.
    pub(crate) fn close_plain(mut self, mut places: HeldPlaces) -> Result<(Vec<StagedFile>, HeldPlaces), LakeError> {
        if let Err(e) = self.finish_all() {
            self.abandon();
            return Err(e);
        }
        places.iter_mut().for_each(|(_, place)| *place = moved_to(&self.moved, *place));
        Ok((self.done, places))
    }

    fn finish_all(&mut self) -> Result<(), LakeError> {
        self.take_open().into_iter().try_for_each(|file| self.finish(file))?;
        self.done.sort_unstable_by_key(|f| f.number);
        Ok(())
    }

    fn take_open(&mut self) -> Vec<OpenFile> {
        let mut open: Vec<OpenFile> = self.open.drain().map(|(_, file)| file).collect();
        open.sort_unstable_by_key(|f| f.number);
        open
    }

    /// Gives the batch up: its files are removed in the background, those not finished with the end of their upload.
    pub fn abandon(self) {
        let Self { io, done, layout, .. } = self;
        io.spawn(async move {
            for file in done {
                file.remove(&layout.file_io).await;
            }
        });
    }
}

fn newest_lsn(rows: &RecordBatch) -> Option<i64> {
    let lsn = rows.column_by_name(origin::SOURCE_LSN)?.as_primitive_opt::<Int64Type>()?;
    lsn.iter().flatten().max()
}

fn create(layout: &Layout, io: &Handle, id: Uuid, number: u32, memory: &Arc<Memory>) -> Result<ParquetFile, LakeError> {
    let path = format!("{}/{}-{number:05}.parquet", layout.data_location, id.simple());
    let (schema, arrow) = (Arc::clone(&layout.schema), Arc::clone(&layout.arrow));
    failpoint::around(
        Step::OpenFile,
        || ParquetFile::create(&layout.file_io, io, path, schema, arrow, layout.properties.clone(), memory),
        |failure| LakeError::Storage(failure.to_string()),
    )
}
