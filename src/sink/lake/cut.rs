//! Rows that leave a table although no change names their keys: those from before a TRUNCATE of the source table, those that a
//! snapshot of the source did not find again, and those that are read again after a rewind.
//!
//! A row goes by what its origin columns say, so it doesn't matter which process wrote it, when, or into which file it was compacted
//! since. Whole files are judged by their columns' bounds; only files on both sides are read.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use futures::{StreamExt, TryStreamExt, stream};
use iceberg::io::FileIO;
use roaring::RoaringBitmap;

use crate::change::{Op, origin};
use crate::position::Checkpoint;
use crate::sink::lake::layout::OriginIds;
use crate::sink::lake::scan::{WantedColumn, read_columns};
use crate::sink::lake::{LakeError, Staged};
use crate::table_event::{Fence, SourceSnapshot, Truncate};

/// Files read at once: of each a few narrow columns.
const READ_AT_ONCE: usize = 4;

/// What a batch saw happen to the source table as a whole.
#[derive(Debug, Default)]
pub(crate) struct TableEvents {
    /// Each with the number of files that the batch had begun before.
    truncates: Vec<(Truncate, u32)>,
    /// By topic.
    pub(crate) snapshots: BTreeMap<String, SourceSnapshot>,
    pub(crate) sweep: Option<Sweep>,
}

impl TableEvents {
    pub(crate) fn truncated(&mut self, truncate: Truncate, files: u32) {
        self.truncates.push((truncate, files));
    }

    pub(crate) fn saw_snapshot(&mut self, topic: &str, seen: SourceSnapshot) {
        let snapshot = self.snapshots.entry(topic.to_owned()).or_insert(seen);
        *snapshot = snapshot.join(seen);
    }

    /// Joins those of another worker, whose files are numbered from `first_file` on.
    pub(crate) fn join(&mut self, other: TableEvents, first_file: u32) {
        self.truncates.extend(other.truncates.into_iter().map(|(t, files)| (t, files + first_file)));
        other.snapshots.iter().for_each(|(topic, seen)| self.saw_snapshot(topic, *seen));
        self.sweep = self.sweep.take().or(other.sweep);
    }

    pub(crate) fn truncates(&self) -> impl Iterator<Item = &Truncate> {
        self.truncates.iter().map(|(truncate, _)| truncate)
    }
}

/// Removes what a snapshot of the source did not find: rows of the topic that are older, and that came before its records did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    pub topic: String,
    pub snapshot: SourceSnapshot,
    /// For each partition the first offset that may belong to the snapshot or to what followed it.
    pub before: BTreeMap<i32, i64>,
    /// Where the topic ended after the snapshot: the table must have passed it.
    pub ends: BTreeMap<i32, i64>,
}

impl Sweep {
    /// Why it can't be done on a table that stands here.
    pub(crate) fn refused(&self, standing: &Checkpoint) -> Option<String> {
        let topic = standing.topics.get(&self.topic);
        if topic.and_then(|t| t.snapshot).map(|s| (s.lsn, s.ended)) != Some((self.snapshot.lsn, true)) {
            return Some(format!("the table has not seen the end of the snapshot at LSN {}", self.snapshot.lsn));
        }
        let next = |partition| topic.and_then(|t| t.partitions.get(partition)).map_or(0, |p| p.next);
        self.ends.iter().find(|(partition, end)| next(partition) < **end).map(|(partition, end)| {
            format!("the table stands at offset {} of {}/{partition}, before {end}", next(partition), self.topic)
        })
    }
}

/// Which rows go.
#[derive(Clone, Debug)]
enum Cut {
    /// From before the fence, in all partitions of the topic.
    Fence {
        topic: String,
        fence: Fence,
    },
    /// From before the offset, in its partition.
    Offset {
        topic: String,
        partition: i32,
        offset: i64,
        without_lsn_only: bool,
    },
    Sweep(Sweep),
    /// From these offsets of its partitions on.
    Rewind {
        topic: String,
        from: BTreeMap<i32, i64>,
    },
    /// All rows of a topic.
    Topic(String),
    /// All; of a batch the files numbered below.
    Files(u32),
}

/// How much of a file goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    Nothing,
    Everything,
    /// Its rows must be asked.
    Some,
}

/// A row's origin.
#[derive(Clone, Copy, Debug)]
struct Origin<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    lsn: Option<i64>,
    /// Whether a snapshot read it.
    read: bool,
}

impl Cut {
    /// `sole_topic`: the table has rows of no other topic.
    fn of_file(&self, file: &Candidate, sole_topic: bool) -> Share {
        match (self, file.lsn) {
            (Cut::Fence { fence, .. }, Some((low, _))) if low >= fence.clear_from() => Share::Nothing,
            (Cut::Fence { fence, .. }, Some((_, high))) if high < fence.lsn && sole_topic => Share::Everything,
            (Cut::Offset { without_lsn_only: true, .. }, Some(_)) => Share::Nothing,
            (Cut::Sweep(sweep), Some((low, _))) if low >= sweep.snapshot.lsn => Share::Nothing,
            (Cut::Rewind { from, .. }, _) => file.share_from(from, sole_topic),
            // A file whose rows all say where they came from.
            (Cut::Topic(_), _) if sole_topic && file.kafka.is_some() => Share::Everything,
            (Cut::Files(below), _) if file.number >= *below => Share::Nothing,
            (Cut::Files(_), _) => Share::Everything,
            _ => Share::Some,
        }
    }

    fn takes(&self, row: Origin<'_>) -> bool {
        match self {
            Cut::Fence { topic, fence } => {
                row.topic == topic && row.lsn.is_some_and(|lsn| fence.is_after(lsn, row.read))
            }
            Cut::Offset { topic, partition, offset, without_lsn_only } => {
                row.topic == topic
                    && row.partition == *partition
                    && row.offset < *offset
                    && (row.lsn.is_none() || !without_lsn_only)
            }
            Cut::Sweep(sweep) => {
                row.topic == sweep.topic
                    && row.lsn.is_some_and(|lsn| lsn < sweep.snapshot.lsn)
                    && sweep.before.get(&row.partition).is_some_and(|before| row.offset < *before)
            }
            Cut::Rewind { topic, from } => {
                row.topic == topic && from.get(&row.partition).is_some_and(|from| row.offset >= *from)
            }
            Cut::Topic(topic) => row.topic == topic,
            Cut::Files(_) => false,
        }
    }
}

/// A data file that rows may go from.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) number: u32,
    pub(crate) path: String,
    pub(crate) rows: u64,
    /// Bounds of its rows' Kafka partitions, offsets and LSN; `None` where a row may have none, or any.
    pub(crate) kafka: Option<(i32, i32)>,
    pub(crate) offsets: Option<(i64, i64)>,
    pub(crate) lsn: Option<(i64, i64)>,
}

impl Candidate {
    /// How much of it came from these offsets of its partitions on.
    fn share_from(&self, from: &BTreeMap<i32, i64>, sole_topic: bool) -> Share {
        let Some((first, last)) = self.kafka.filter(|(first, last)| first <= last) else { return Share::Some };
        let within: Vec<i64> = from.range(first..=last).map(|(_, from)| *from).collect();
        match self.offsets {
            _ if within.is_empty() => Share::Nothing,
            Some((_, high)) if within.iter().all(|from| high < *from) => Share::Nothing,
            Some((low, _)) if sole_topic && first == last && within.iter().all(|from| low >= *from) => {
                Share::Everything
            }
            _ => Share::Some,
        }
    }
}

/// What a commit takes out beside what its keys replace.
#[derive(Debug, Default)]
pub(crate) struct Cuts {
    table: Vec<Cut>,
    batch: Vec<Cut>,
    sole_topic: bool,
}

impl Cuts {
    /// Of a batch on a base that stands at `before` and will stand at `after`. Rows from before the base's own fence are gone from the
    /// base; a batch may still bring some.
    pub(crate) fn of(batch: &Staged, before: &Checkpoint, after: &Checkpoint) -> Self {
        let by_columns = batch.layouts.first().is_some_and(|layout| layout.orders_rows());
        let mut cuts = Self { sole_topic: after.topics.len() == 1, ..Self::default() };
        let fences = after.topics.iter().filter_map(|(topic, t)| Some((topic.clone(), t.truncated?)));
        cuts.batch.extend(fences.filter(|_| by_columns).map(|(topic, fence)| Cut::Fence { topic, fence }));
        for (Truncate { at, offset, fence, .. }, files) in &batch.events.truncates {
            if !by_columns {
                cuts.batch.push(Cut::Files(*files));
                cuts.table.push(Cut::Files(u32::MAX));
                continue;
            }
            let (topic, partition, offset) = (at.topic.clone(), at.partition, *offset);
            let known = before.topics.get(&topic).and_then(|t| t.truncated);
            if let Some(fence) = fence.filter(|f| known.is_none_or(|known| known.lsn < f.lsn)) {
                cuts.table.push(Cut::Fence { topic: topic.clone(), fence });
            }
            let cut = Cut::Offset { topic, partition, offset, without_lsn_only: fence.is_some() };
            cuts.table.push(cut.clone());
            cuts.batch.push(cut);
        }
        cuts.table.extend(batch.events.sweep.clone().map(Cut::Sweep));
        cuts
    }

    /// Of a sweep alone.
    pub(crate) fn of_sweep(sweep: &Sweep) -> Self {
        Self { table: vec![Cut::Sweep(sweep.clone())], ..Self::default() }
    }

    /// Of a rewind: rows of the topic from these offsets of its partitions on; all of them without any.
    pub(crate) fn of_rewind(topic: &str, from: Option<&BTreeMap<i32, i64>>, sole_topic: bool) -> Self {
        let topic = topic.to_owned();
        let cut = match from {
            Some(from) => Cut::Rewind { topic, from: from.clone() },
            None => Cut::Topic(topic),
        };
        Self { table: vec![cut], batch: vec![], sole_topic }
    }

    /// The rows that go from these files of the table, per file.
    pub(crate) async fn of_table(
        &self,
        io: &FileIO,
        ids: Option<OriginIds>,
        files: impl Iterator<Item = Candidate>,
    ) -> Result<BTreeMap<u32, RoaringBitmap>, LakeError> {
        taken(io, ids, &self.table, self.sole_topic, files).await
    }

    /// The rows that go from these files of the batch, per file.
    pub(crate) async fn of_batch(
        &self,
        io: &FileIO,
        ids: Option<OriginIds>,
        files: impl Iterator<Item = Candidate>,
    ) -> Result<BTreeMap<u32, RoaringBitmap>, LakeError> {
        taken(io, ids, &self.batch, self.sole_topic, files).await
    }
}

async fn taken(
    io: &FileIO,
    ids: Option<OriginIds>,
    cuts: &[Cut],
    sole_topic: bool,
    files: impl Iterator<Item = Candidate>,
) -> Result<BTreeMap<u32, RoaringBitmap>, LakeError> {
    let mut taken = BTreeMap::new();
    let mut to_read = vec![];
    if cuts.is_empty() {
        return Ok(taken);
    }
    for file in files {
        let shares: Vec<Share> = cuts.iter().map(|cut| cut.of_file(&file, sole_topic)).collect();
        if shares.contains(&Share::Everything) {
            let mut all = RoaringBitmap::new();
            all.insert_range(0..u32::try_from(file.rows).unwrap_or(u32::MAX));
            taken.insert(file.number, all);
        } else if shares.contains(&Share::Some)
            && let Some(ids) = ids
        {
            to_read.push((file, ids));
        }
    }
    to_read.sort_unstable_by_key(|(file, _)| file.number);
    let cuts: Arc<[Cut]> = cuts.into();
    let mut read = stream::iter(to_read)
        .map(|(file, ids)| {
            let (io, cuts) = (io.clone(), Arc::clone(&cuts));
            async move {
                let number = file.number;
                let task = tokio::spawn(async move { rows_of(&io, &file.path, ids, &cuts).await });
                let rows = task.await.map_err(|e| LakeError::Storage(format!("reading origins broke off: {e}")))??;
                Ok::<_, LakeError>((number, rows))
            }
        })
        .buffer_unordered(READ_AT_ONCE);
    while let Some((number, rows)) = read.try_next().await? {
        if !rows.is_empty() {
            taken.insert(number, rows);
        }
    }
    Ok(taken)
}

/// The rows of one file that a cut takes.
async fn rows_of(io: &FileIO, path: &str, ids: OriginIds, cuts: &[Cut]) -> Result<RoaringBitmap, LakeError> {
    let column = |id: Option<i32>, name: &str, data_type| {
        // A table without the column has no field of this id: all rows read as null.
        WantedColumn { id: id.unwrap_or_default(), name: name.to_owned(), data_type }
    };
    let columns = [
        column(Some(ids.topic), origin::TOPIC, DataType::Utf8),
        column(Some(ids.partition), origin::PARTITION, DataType::Int32),
        column(ids.offset, origin::OFFSET, DataType::Int64),
        column(ids.lsn, origin::SOURCE_LSN, DataType::Int64),
        column(ids.op, origin::OP, DataType::Utf8),
    ];
    let mut taken = RoaringBitmap::new();
    let mut first = 0u32;
    read_columns(io, path, &columns, |arrays, rows| {
        for row in (0..rows).filter(|row| origin(arrays, *row).is_some_and(|o| cuts.iter().any(|cut| cut.takes(o)))) {
            taken.insert(first + row as u32);
        }
        first += rows as u32;
        Ok(())
    })
    .await?;
    Ok(taken)
}

/// `None` for a row that doesn't say where it came from: another writer made it.
fn origin(arrays: &[ArrayRef], row: usize) -> Option<Origin<'_>> {
    let [topic, partition, offset, lsn, op] = arrays else { return None };
    if [topic, partition, offset].into_iter().any(|column| column.is_null(row)) {
        return None;
    }
    let lsn_of = lsn.as_primitive::<Int64Type>();
    let op_of = op.as_string::<i32>();
    Some(Origin {
        topic: topic.as_string::<i32>().value(row),
        partition: partition.as_primitive::<Int32Type>().value(row),
        offset: offset.as_primitive::<Int64Type>().value(row),
        lsn: lsn.is_valid(row).then(|| lsn_of.value(row)),
        read: op.is_valid(row) && op_of.value(row) == Op::Read.letter(),
    })
}
