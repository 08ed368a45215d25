//! The rows of a range as one snapshot of the lake has them.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, TimestampMicrosecondType};
use arrow_array::{Array, BooleanArray, RecordBatch, UInt32Array};
use arrow_schema::{DataType, SchemaRef};
use arrow_select::filter::{filter, filter_record_batch};
use firn_catalog::ManifestCache;
use firn_catalog::live::{self, LiveFile};
use iceberg::spec::{DataFileFormat, Datum, NestedFieldRef, PrimitiveLiteral};
use iceberg::table::Table;
use roaring::RoaringBitmap;

use super::stored::Place;
use crate::pipeline::backfill::{BackfillError, Range};
use crate::sink::lake::conform::conform;
use crate::sink::lake::deletes::{self, DeleteFile};
use crate::sink::lake::live::Applying;
use crate::sink::lake::stored::{Chosen, StoredRows, open};
use crate::sink::lake::{LakeError, TableColumns};

const DAY_MS: i64 = 86_400_000;

/// One snapshot of a table, and the files of it that may have rows of the range.
pub(super) struct Snapshot {
    base: Table,
    pub id: i64,
    pub timestamp_ms: i64,
    files: Vec<File>,
    fields: Vec<NestedFieldRef>,
    /// The table's columns in their files' types, and as a decoder has them.
    stored: SchemaRef,
    told: SchemaRef,
    bounds: Option<Bounds>,
}

struct File {
    path: String,
    rows: u64,
    deletes: Vec<DeleteFile>,
}

/// The range's column by its place, and what its values lie between: `[from, to)`, in days or µs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    column: usize,
    from: i64,
    to: i64,
}

/// Rows of the range, and where the file goes on behind each.
#[derive(Debug)]
pub(super) struct Piece {
    pub rows: RecordBatch,
    pub next: Vec<Place>,
}

impl Piece {
    /// The place behind its last row.
    pub(super) fn end(&self) -> Place {
        self.next.last().cloned().unwrap_or_default()
    }
}

impl Snapshot {
    /// The snapshot of this id, or the current one; `None` where it was expired.
    ///
    /// # Errors
    /// When the table can't be read, or what it holds can't be told.
    pub(super) async fn find(
        base: Table,
        columns: &TableColumns,
        id: Option<i64>,
        range: &Range,
        cache: &ManifestCache,
    ) -> Result<Option<Self>, BackfillError> {
        let Some(id) = id.or(base.metadata().current_snapshot_id()) else {
            return Err(BackfillError::Refused(format!("the lake table {} has no rows yet", base.identifier())));
        };
        let Some(snapshot) = base.metadata().snapshot_by_id(id).cloned() else { return Ok(None) };
        let layout = &columns.0;
        let told: SchemaRef = Arc::new(columns.rows().arrow());
        let bounds = match &range.column {
            None => None,
            Some(name) => {
                let place = told.fields().iter().position(|f| f.name() == name);
                place.map(|column| Bounds::of(column, told.field(column).data_type(), range))
            }
        };
        let fields: Vec<NestedFieldRef> = layout.schema.as_struct().fields().to_vec();
        let listed = live::files(&base, Some(id), cache).await.map_err(LakeError::from)?;
        let applying = Applying::new(&listed);
        let mut files = Vec::new();
        for entry in &listed.data {
            let path = entry.file.file_path().to_owned();
            if entry.file.file_format() != DataFileFormat::Parquet || applying.equality(entry).next().is_some() {
                return Err(BackfillError::Refused(format!(
                    "{path} of the lake is not Parquet, or another writer made equality deletes for it: compact the table first \
                     (`firn maintain compact {}`)",
                    base.identifier()
                )));
            }
            let id = bounds.and_then(|b| fields.get(b.column)).map(|f| f.id);
            if bounds.zip(id).is_none_or(|(bounds, id)| bounds.may_be_in(entry, id)) {
                files.push(File { path, rows: entry.file.record_count(), deletes: applying.positions(entry) });
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let (stored, timestamp_ms) = (Arc::clone(&layout.arrow), snapshot.timestamp_ms());
        Ok(Some(Self { base, id, timestamp_ms, files, fields, stored, told, bounds }))
    }

    /// In all files.
    pub(super) fn rows(&self) -> u64 {
        self.files.iter().map(|file| file.rows).sum()
    }

    /// In the files before a place, and in its file before it.
    pub(super) fn rows_before(&self, at: &Place) -> u64 {
        let before = |file: &&File| file.path < at.file;
        self.files.iter().filter(before).map(|file| file.rows).sum::<u64>() + u64::from(at.row)
    }

    /// From a place on.
    pub(super) fn read(&self, from: &Place) -> Rows<'_> {
        let left: VecDeque<&File> = self.files.iter().filter(|file| file.path >= from.file).collect();
        Rows { snapshot: self, left, from: from.clone(), open: None }
    }
}

/// Rows on their way.
pub(super) struct Rows<'s> {
    snapshot: &'s Snapshot,
    left: VecDeque<&'s File>,
    from: Place,
    open: Option<OpenFile<'s>>,
}

struct OpenFile<'s> {
    file: &'s File,
    rows: StoredRows,
    positions: roaring::bitmap::IntoIter,
}

impl Rows<'_> {
    /// The next piece that has rows of the range.
    ///
    /// # Errors
    /// When a file can't be read.
    pub(super) async fn next(&mut self) -> Result<Option<Piece>, BackfillError> {
        loop {
            if self.open.is_none() {
                let Some(file) = self.left.pop_front() else { return Ok(None) };
                self.open = Some(self.snapshot.open(file, &self.from).await?);
            }
            let Some(open) = &mut self.open else { continue };
            let Some(batch) = open.rows.next().await? else {
                self.open = None;
                continue;
            };
            let path = &open.file.path;
            let positions: UInt32Array = open.positions.by_ref().take(batch.num_rows()).collect();
            let (rows, positions) = self.snapshot.chosen(&batch, &positions)?;
            if rows.num_rows() > 0 {
                let place = |row: &u32| Place { file: path.clone(), row: row + 1 };
                let next = positions.values().iter().map(place).collect();
                return Ok(Some(Piece { rows, next }));
            }
        }
    }
}

impl Snapshot {
    async fn open<'s>(&self, file: &'s File, from: &Place) -> Result<OpenFile<'s>, BackfillError> {
        let wanted = [(file.path.as_str(), file.deletes.as_slice())];
        let deleted = deletes::read(self.base.file_io(), &wanted).await?.remove(&file.path).unwrap_or_default();
        let first = if file.path == from.file { from.row } else { 0 };
        let mut positions = RoaringBitmap::new();
        positions.insert_range(first..u32::try_from(file.rows).unwrap_or(u32::MAX));
        positions -= deleted;
        let chosen = Chosen::At(&positions);
        let rows = open(self.base.file_io(), &file.path, chosen, &self.fields, &self.stored).await?;
        Ok(OpenFile { file, rows, positions: positions.into_iter() })
    }

    /// The rows of the range, in the types that a decoder has.
    fn chosen(
        &self,
        batch: &RecordBatch,
        positions: &UInt32Array,
    ) -> Result<(RecordBatch, UInt32Array), BackfillError> {
        let failed = |e| BackfillError::Lake(LakeError::from(e));
        let columns = batch.columns().iter().zip(self.told.fields()).map(|(c, f)| conform(c, f.data_type()));
        let columns = columns.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let rows = RecordBatch::try_new(Arc::clone(&self.told), columns).map_err(failed)?;
        let Some(bounds) = self.bounds else { return Ok((rows, positions.clone())) };
        let takes = bounds.takes(rows.column(bounds.column).as_ref());
        let rows = filter_record_batch(&rows, &takes).map_err(failed)?;
        let positions = filter(positions, &takes).map_err(failed)?;
        Ok((rows, positions.as_primitive().clone()))
    }
}

impl Bounds {
    fn of(column: usize, data_type: &DataType, range: &Range) -> Self {
        let scaled = |ms: i64| match data_type {
            DataType::Date32 => ms.div_euclid(DAY_MS),
            _ => ms.saturating_mul(1_000),
        };
        Self { column, from: range.from_ms.map_or(i64::MIN, scaled), to: range.to_ms.map_or(i64::MAX, scaled) }
    }

    fn takes(&self, values: &dyn Array) -> BooleanArray {
        let within = |value: Option<i64>| value.is_some_and(|value| (self.from..self.to).contains(&value));
        if let Some(days) = values.as_primitive_opt::<Date32Type>() {
            return days.iter().map(|day| Some(within(day.map(i64::from)))).collect();
        }
        match values.as_primitive_opt::<TimestampMicrosecondType>() {
            Some(moments) => moments.iter().map(|us| Some(within(us))).collect(),
            None => BooleanArray::from(vec![false; values.len()]),
        }
    }

    /// By what the manifest says of the column of this field id.
    fn may_be_in(&self, entry: &LiveFile, id: i32) -> bool {
        let value = |datum: Option<&Datum>| match datum?.literal() {
            PrimitiveLiteral::Int(days) => Some(i64::from(*days)),
            PrimitiveLiteral::Long(us) => Some(*us),
            _ => None,
        };
        let lower = value(entry.file.lower_bounds().get(&id));
        let upper = value(entry.file.upper_bounds().get(&id));
        lower.is_none_or(|lower| lower < self.to) && upper.is_none_or(|upper| upper >= self.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Date32Array, TimestampMicrosecondArray};
    use arrow_schema::TimeUnit;

    #[test]
    fn a_range_takes_its_first_moment_and_not_the_one_after_it() {
        let range = |from_ms, to_ms| Range { column: None, from_ms, to_ms, condition: String::new() };
        let days = Bounds::of(0, &DataType::Date32, &range(Some(2 * DAY_MS), Some(4 * DAY_MS)));
        let taken = days.takes(&Date32Array::from(vec![Some(1), Some(2), Some(3), Some(4), None]));
        assert_eq!(taken, BooleanArray::from(vec![false, true, true, false, false]));
        let moment = DataType::Timestamp(TimeUnit::Microsecond, None);
        let until = Bounds::of(0, &moment, &range(None, Some(1)));
        let taken = until.takes(&TimestampMicrosecondArray::from(vec![Some(-5), Some(999), Some(1_000), None]));
        assert_eq!(taken, BooleanArray::from(vec![true, true, false, false]));
    }
}
