//! The rows of a view: the current ones, with their former versions where they are kept, without the old ones where they are not.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, Schema, SchemaRef};

use super::history::{History, versioned};
use super::keep::Keep;
use super::rows::ViewRows;
use crate::batch::ChangeBatch;
use crate::change::RowSchema;
use crate::config::PipelineTopic;

pub(super) struct ViewTable {
    /// The topic's columns, each of which may be null: a join's may.
    columns: SchemaRef,
    rows: ViewRows,
    history: Option<History>,
    keep: Option<Keep>,
}

impl ViewTable {
    /// # Errors
    /// When a key column has a type that can't be compared.
    pub(super) fn new(columns: &RowSchema, topic: &PipelineTopic) -> Result<Self, ArrowError> {
        let fields =
            columns.arrow().fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>();
        let shown = Arc::new(Schema::new(fields));
        let (rows, history) = match topic.history {
            Some(length) => {
                let (all, keys) = versioned(columns, &shown);
                (ViewRows::new(all, keys)?, Some(History::new(columns, &shown, length.ms)?))
            }
            None => (ViewRows::new(Arc::clone(&shown), columns.key_indices())?, None),
        };
        Ok(Self { columns: shown, rows, history, keep: topic.keep.map(|length| Keep::new(length.ms)) })
    }

    /// The topic's columns.
    pub(super) fn is_of(&self, columns: &RowSchema) -> bool {
        let (have, want) = (self.columns.fields(), columns.arrow());
        let same = |(have, want): (&arrow_schema::FieldRef, &arrow_schema::FieldRef)| {
            **have == want.as_ref().clone().with_nullable(true)
        };
        have.len() == want.fields().len() && have.iter().zip(want.fields()).all(same)
    }

    /// The columns of its rows.
    pub(super) fn columns(&self) -> &SchemaRef {
        self.rows.columns()
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
        match &mut self.history {
            Some(history) => {
                let versions = history.versions(&mut self.rows, batch)?;
                self.rows.apply(&versions)?;
            }
            None => self.rows.apply(batch)?,
        }
        match &mut self.keep {
            Some(keep) => keep.drop_old(&mut self.rows, &batch.rows),
            None => Ok(()),
        }
    }

    /// The rows as they are now.
    ///
    /// # Errors
    /// Never, as long as batches keep to their schema.
    pub(super) fn scan(&mut self) -> Result<Vec<RecordBatch>, ArrowError> {
        self.rows.scan()
    }

    /// Takes the rows of a table of former columns; columns that it lacks are null.
    ///
    /// # Errors
    /// When a column's type has changed into one that its values can't have.
    pub(super) fn adopt(&mut self, mut former: Self) -> Result<(), ArrowError> {
        for piece in former.scan()? {
            self.rows.adopt(&piece)?;
        }
        if let (Some(history), Some(before)) = (self.history.take(), &former.history) {
            let mut history = history.since_ms(before.newest_ms());
            for piece in self.rows.scan()? {
                history.know(&self.rows, &piece)?;
            }
            self.history = Some(history);
        }
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
    use arrow_array::{ArrayRef, Int64Array, TimestampMicrosecondArray};

    use super::*;
    use crate::change::{Column, ColumnType, Op, origin};

    #[test]
    fn rows_that_are_older_than_they_are_kept_leave() {
        let columns = vec![
            Column { key: true, ..Column::new("id", ColumnType::Long) },
            Column::new(origin::SOURCE_TS, ColumnType::TimestampTz),
        ];
        let schema = RowSchema { columns };
        let topic: PipelineTopic = toml::from_str("topic = \"t\"\nkeep = \"10s\"").unwrap();
        let mut table = ViewTable::new(&schema, &topic).unwrap();
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
