//! The rows of a view: the current ones, with their former versions where they are kept, without the old ones where they are not.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, Schema, SchemaRef};

use super::emptied::Emptied;
use super::history::{History, versioned};
use super::keep::Keep;
use super::rows::ViewRows;
use crate::batch::ChangeBatch;
use crate::change::{RowSchema, origin};
use crate::config::PipelineTopic;
use crate::transform::named::Named;

/// Columns of firn's that a view works with itself.
const NEEDED: [&str; 4] = [origin::PARTITION, origin::OP, origin::SOURCE_TS, origin::SOURCE_LSN];

pub(super) struct ViewTable {
    /// The topic's columns, each of which may be null: a join's may.
    columns: SchemaRef,
    /// The columns of the table in the SQL.
    shown: SchemaRef,
    /// Those that are kept, by their places in a batch.
    kept: Vec<usize>,
    rows: ViewRows,
    history: Option<History>,
    keep: Option<Keep>,
    /// The last time that the source table was emptied, by the source's log.
    emptied: Option<Emptied>,
}

impl ViewTable {
    /// With the columns that are `named`, and those that tell rows apart and say where they come from.
    ///
    /// # Errors
    /// When a key column has a type that can't be compared.
    pub(super) fn new(columns: &RowSchema, topic: &PipelineTopic, named: &Named) -> Result<Self, ArrowError> {
        let fields: Vec<_> = columns.arrow().fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
        let all = Arc::new(Schema::new(fields));
        let keys = columns.key_indices();
        let is_kept = |at: &usize| {
            let name = all.field(*at).name();
            keys.contains(at) || NEEDED.contains(&name.as_str()) || named.has(name)
        };
        let kept: Vec<usize> = (0..all.fields().len()).filter(is_kept).collect();
        let keys: Vec<usize> = (0..).zip(&kept).filter(|(_, at)| keys.contains(at)).map(|(place, _)| place).collect();
        let own = Arc::new(all.project(&kept)?);
        let history = topic.history.map(|length| History::new(&own, keys.clone(), length.ms)).transpose()?;
        let (shown, own) = match history.is_some() {
            true => (versioned(&all), versioned(&own)),
            false => (Arc::clone(&all), own),
        };
        let rows = ViewRows::new(own, keys)?;
        let keep = topic.keep.map(|length| Keep::new(length.ms));
        Ok(Self { columns: all, shown, kept, rows, history, keep, emptied: None })
    }

    /// The topic's columns.
    pub(super) fn is_of(&self, columns: &RowSchema) -> bool {
        let (have, want) = (self.columns.fields(), columns.arrow());
        let same = |(have, want): (&arrow_schema::FieldRef, &arrow_schema::FieldRef)| {
            **have == want.as_ref().clone().with_nullable(true)
        };
        have.len() == want.fields().len() && have.iter().zip(want.fields()).all(same)
    }

    /// The columns of the table in the SQL. The rows lack those that it does not name.
    pub(super) fn shown(&self) -> &SchemaRef {
        &self.shown
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of memory, about.
    pub(super) fn bytes(&self) -> usize {
        let history = self.history.as_ref().map_or(0, History::bytes);
        self.rows.bytes() + history + self.keep.as_ref().map_or(0, Keep::bytes)
    }

    /// Takes changes, in their order.
    ///
    /// # Errors
    /// Never, as long as batches keep to their schema.
    pub(super) fn apply(&mut self, batch: &ChangeBatch) -> Result<(), ArrowError> {
        let batch = &ChangeBatch::new(batch.rows.project(&self.kept)?, batch.ops.clone());
        let left = self.emptied.map(|emptied| emptied.left(batch)).transpose()?;
        let batch = left.as_ref().unwrap_or(batch);
        match &mut self.history {
            Some(history) => {
                let versions = history.versions(&mut self.rows, &batch.rows, &batch.ops)?;
                self.rows.put(&versions.rows, versions.keys, |_| false)?;
            }
            None => self.rows.apply(batch)?,
        }
        match &mut self.keep {
            Some(keep) => keep.drop_old(&mut self.rows, &batch.rows),
            None => Ok(()),
        }
    }

    /// The source table was emptied.
    ///
    /// # Errors
    /// Never, as long as batches keep to their schema.
    pub(super) fn empty(&mut self, emptied: Emptied) -> Result<(), ArrowError> {
        // Partitions are read beside each other: one may tell of an earlier time than another did.
        let at = |emptied: Emptied| emptied.fence.map(|fence| fence.lsn);
        if self.emptied.is_none_or(|last| at(last) <= at(emptied)) {
            self.emptied = Some(emptied);
        }
        match &mut self.history {
            Some(history) => {
                let none = RecordBatch::new_empty(Arc::new(self.columns.project(&self.kept)?));
                let ended = history.empty(&mut self.rows, emptied, &none)?;
                self.rows.put(&ended.rows, ended.keys, |_| false)
            }
            None => self.rows.take_out(|rows, row| emptied.takes(rows, row)),
        }
    }

    /// The rows as they are now.
    ///
    /// # Errors
    /// Never, as long as batches keep to their schema.
    pub(super) fn scan(&mut self) -> Result<Vec<RecordBatch>, ArrowError> {
        self.rows.scan()
    }

    /// The rows with these keys, their former versions too; `None` where `keys` are not the columns of the key.
    ///
    /// # Errors
    /// Never, as long as batches keep to their schema.
    pub(super) fn rows_of(&self, keys: &RecordBatch) -> Result<Option<RecordBatch>, ArrowError> {
        let Some(keys) = self.rows.key_hashes(keys)? else { return Ok(None) };
        let rows = match &self.history {
            Some(history) => self.rows.rows_of(keys.into_iter().flat_map(|key| history.all_of(key))),
            None => self.rows.rows_of(keys.into_iter()),
        };
        rows.map(Some)
    }

    /// Takes the rows of a table of former columns; columns that it lacks are null.
    ///
    /// # Errors
    /// When a column's type has changed into one that its values can't have.
    pub(super) fn adopt(&mut self, mut former: Self) -> Result<(), ArrowError> {
        for piece in former.scan()? {
            let rows = self.rows.widened(&piece)?;
            let keys = match &self.history {
                Some(history) => history.places(&rows)?,
                None => self.rows.hashes(&rows)?,
            };
            self.rows.put(&rows, keys, |_| false)?;
        }
        if let (Some(history), Some(before)) = (self.history.take(), &former.history) {
            let mut history = history.since_ms(before.newest_ms());
            let pieces = self.rows.scan()?;
            history.know(&pieces)?;
            self.history = Some(history);
        }
        self.emptied = former.emptied;
        for piece in self.rows.scan()? {
            if let Some(keep) = &mut self.keep {
                keep.drop_old(&mut self.rows, &piece)?;
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for ViewTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ViewTable").field("rows", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_array::{ArrayRef, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};

    use super::*;
    use crate::change::{Column, ColumnType, Op};
    use crate::table_event::Fence;

    #[test]
    fn where_the_table_was_emptied_the_rows_of_before_go_and_stay_away() {
        let columns = [Column { key: true, ..Column::new("id", ColumnType::Long) }];
        let schema = RowSchema { columns: columns.into_iter().chain(crate::change::origin_columns()).collect() };
        let mut table = ViewTable::new(&schema, &toml::from_str("topic = \"t\"").unwrap(), &Named::All).unwrap();
        // Of a partition, at a source position.
        let batch = |changes: &[(i64, i32, Option<i64>)]| {
            let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(changes.iter().map(|c| c.0)));
            let partitions: ArrayRef = Arc::new(Int32Array::from_iter_values(changes.iter().map(|c| c.1)));
            let lsns: ArrayRef = Arc::new(changes.iter().map(|c| c.2).collect::<Int64Array>());
            let ops: ArrayRef = Arc::new(StringArray::from_iter_values(changes.iter().map(|_| "c")));
            let arrow = Arc::new(schema.arrow());
            let column = |field: &Arc<arrow_schema::Field>| match field.name().as_str() {
                "id" => Arc::clone(&ids),
                origin::PARTITION => Arc::clone(&partitions),
                origin::SOURCE_LSN => Arc::clone(&lsns),
                origin::OP => Arc::clone(&ops),
                origin::TOPIC => Arc::new(StringArray::from_iter_values(changes.iter().map(|_| "t"))) as ArrayRef,
                origin::OFFSET => Arc::clone(&ids),
                _ => arrow_array::new_null_array(field.data_type(), changes.len()),
            };
            let rows = RecordBatch::try_new(Arc::clone(&arrow), arrow.fields().iter().map(column).collect()).unwrap();
            ChangeBatch::new(rows, vec![Op::Create; changes.len()])
        };
        let ids = |table: &mut ViewTable| {
            let pieces = table.scan().unwrap();
            let ids = pieces.iter().flat_map(|p| p.column(0).as_primitive::<Int64Type>().values().to_vec());
            let mut ids: Vec<i64> = ids.collect();
            ids.sort_unstable();
            ids
        };
        table
            .apply(&batch(&[(1, 0, Some(10)), (2, 0, Some(70)), (3, 1, Some(20)), (4, 1, Some(60)), (5, 1, None)]))
            .unwrap();
        let fence = Fence { lsn: 50, last_commit: None };
        table.empty(Emptied { partition: 0, fence: Some(fence) }).unwrap();
        assert_eq!(ids(&mut table), [4], "its own partition's are all from before");
        table.apply(&batch(&[(6, 1, Some(40)), (7, 1, Some(55)), (8, 0, Some(30)), (9, 1, None)])).unwrap();
        assert_eq!(ids(&mut table), [4, 7, 8, 9], "another's come late");
        let mut wider = ViewTable::new(&schema, &toml::from_str("topic = \"t\"").unwrap(), &Named::All).unwrap();
        wider.adopt(table).unwrap();
        wider.apply(&batch(&[(6, 1, Some(40))])).unwrap();
        assert_eq!(ids(&mut wider), [4, 7, 8, 9]);
        wider.empty(Emptied { partition: 2, fence: Some(Fence { lsn: 5, last_commit: None }) }).unwrap();
        wider.apply(&batch(&[(6, 1, Some(40))])).unwrap();
        assert_eq!(ids(&mut wider), [4, 7, 8], "another partition's earlier one lets nothing back in");
        wider.empty(Emptied { partition: 0, fence: None }).unwrap();
        assert_eq!(ids(&mut wider), [0_i64; 0], "nobody can say what was before");
    }

    #[test]
    fn what_the_select_does_not_name_is_not_kept() {
        let columns = vec![
            Column::new("more", ColumnType::String),
            Column { key: true, ..Column::new("id", ColumnType::Long) },
            Column::new("label", ColumnType::String),
        ];
        let schema = RowSchema { columns };
        let named = Named::of("SELECT c.Label FROM content c");
        let mut table = ViewTable::new(&schema, &toml::from_str("topic = \"t\"").unwrap(), &named).unwrap();
        let text = |words: [&str; 2]| Arc::new(StringArray::from_iter_values(words)) as ArrayRef;
        let columns =
            vec![text(["a", "b"]), Arc::new(Int64Array::from(vec![7, 8])) as ArrayRef, text(["seven", "eight"])];
        let rows = RecordBatch::try_new(Arc::new(schema.arrow()), columns).unwrap();
        table.apply(&ChangeBatch::new(rows, vec![Op::Create; 2])).unwrap();
        assert_eq!(table.shown().fields().len(), 3, "the SQL may be planned with all of them");
        let kept = table.scan().unwrap().remove(0);
        assert_eq!(kept.schema().fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), ["id", "label"]);
        let key = |name: &str, id: ArrayRef| RecordBatch::try_from_iter([(name, id)]).unwrap();
        let found =
            table.rows_of(&key("id", Arc::new(Int64Array::from(vec![Some(8), Some(9), None, Some(8)])))).unwrap();
        assert_eq!(found.unwrap().column(0).as_primitive::<Int64Type>().values().to_vec(), [8]);
        assert_eq!(table.rows_of(&key("label", text(["seven", "x"]))).unwrap(), None, "it is no key");
        assert_eq!(table.rows_of(&key("id", Arc::new(Int32Array::from(vec![8])))).unwrap(), None, "of another type");
    }

    #[test]
    fn rows_that_are_older_than_they_are_kept_leave() {
        let columns = vec![
            Column { key: true, ..Column::new("id", ColumnType::Long) },
            Column::new(origin::SOURCE_TS, ColumnType::TimestampTz),
        ];
        let schema = RowSchema { columns };
        let topic: PipelineTopic = toml::from_str("topic = \"t\"\nkeep = \"10s\"").unwrap();
        let mut table = ViewTable::new(&schema, &topic, &Named::All).unwrap();
        let mut take = |changes: &[(i64, Option<i64>)]| {
            let times = changes.iter().map(|(_, s)| s.map(|s| s * 1_000_000)).collect::<TimestampMicrosecondArray>();
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from_iter_values(changes.iter().map(|(id, _)| *id))),
                Arc::new(times.with_timezone("+00:00")),
            ];
            let rows = RecordBatch::try_new(Arc::new(schema.arrow()), columns).unwrap();
            table.apply(&ChangeBatch::new(rows, vec![Op::Update; changes.len()])).unwrap();
            table.len()
        };
        assert_eq!(take(&[(1, Some(0)), (2, Some(5)), (3, None)]), 3);
        assert_eq!(take(&[(1, Some(9)), (4, Some(10))]), 4);
        // 2 is too old; 1 has changed since.
        assert_eq!(take(&[(4, Some(16))]), 3);
        assert_eq!(take(&[(5, Some(100))]), 2);
    }
}
