//! What a record's columns ask of an existing table.
//!
//! Pure: the decision is data ([`evolve`] answers what to commit), nothing is loaded or committed here. Decided from the table's own
//! schema and what it remembers, so that every process and every restart decides the same.
//!
//! - Columns are added (optional ones), widened by Iceberg's promotions, and may be null where the records' may.
//! - A type that no promotion leads to: by [`TypeChange`]. Which version of a column takes a record's values is a matter of the
//!   record's type alone, never of the order in which records come.
//! - A column that the source has dropped: by [`DroppedColumn`]. Partitions of a topic are read at different speeds; the source's log
//!   position tells which of two records is the newer one.

mod history;
mod remembered;
mod widen;

use std::collections::BTreeSet;
use std::sync::Arc;

use iceberg::spec::{NestedField, NestedFieldRef, Schema, TableMetadata};

use crate::change::{Column, ColumnType, Mode, RowSchema, origin};
use crate::lineage::{DroppedColumn, TypeChange, colliding, fold, same_name};
use crate::sink::lake::LakeError;
use crate::sink::lake::schema::{find, from_type, to_type};
pub(crate) use history::with_change;
pub use history::{AskingRecord, ColumnChange, SCHEMA_HISTORY, SchemaChange, schema_history};
pub use remembered::COLUMNS;
pub(crate) use remembered::{Remembered, fixed};
use widen::widen;

/// What was chosen for the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) mode: Mode,
    pub(crate) type_change: TypeChange,
    pub(crate) dropped_column: DroppedColumn,
}

/// The table as it is.
#[derive(Clone, Debug)]
pub(crate) struct Base<'a> {
    /// For errors.
    pub(crate) table: &'a str,
    pub(crate) schema: &'a Schema,
    pub(crate) last_column_id: i32,
    pub(crate) remembered: Remembered,
    /// Columns that can't be dropped.
    pub(crate) fixed: BTreeSet<i32>,
}

/// What must be committed before the first rows that need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Evolved {
    pub(crate) schema: Schema,
    pub(crate) remembered: Remembered,
    pub(crate) changes: Vec<ColumnChange>,
}

impl<'a> Base<'a> {
    pub(crate) fn of(table: &'a str, metadata: &'a TableMetadata) -> Result<Self, LakeError> {
        Ok(Self {
            table,
            schema: metadata.current_schema(),
            last_column_id: metadata.last_column_id(),
            remembered: Remembered::of(table, metadata)?,
            fixed: fixed(metadata),
        })
    }
}

/// What a table remembers that was made for `columns`; its field ids are those of `schema`.
pub(crate) fn first_columns(schema: &Schema, lsn: Option<i64>) -> Remembered {
    let fields = schema.as_struct().fields().iter();
    let source = fields.filter(|f| !f.name.starts_with(origin::PREFIX)).map(|f| f.id).collect();
    Remembered { lsn, source, ..Remembered::default() }
}

/// Refuses columns that Hive and Trino would take for one, also inside structs.
///
/// # Errors
/// `Settings` names both.
pub(crate) fn refuse_collisions(table: &str, record: &RowSchema) -> Result<(), LakeError> {
    fn within(columns: &[Column]) -> Option<(&str, &str)> {
        let here = colliding(columns.iter().map(|c| c.name.as_str()));
        here.or_else(|| columns.iter().find_map(|c| inside(&c.column_type)))
    }
    fn inside(column_type: &ColumnType) -> Option<(&str, &str)> {
        match column_type {
            ColumnType::Struct(columns) => within(columns),
            ColumnType::List(inner) | ColumnType::Map(inner) => inside(inner),
            _ => None,
        }
    }
    match within(&record.columns) {
        None => Ok(()),
        Some((own, _)) if origin::is_own(own) => Err(LakeError::Settings {
            table: table.to_owned(),
            message: format!(
                "the records have a column {own}, and that name is one of firn's own: leave it out (the connector's column.exclude.list) \
                 or rename it (the transform ReplaceField with renames)"
            ),
        }),
        Some((a, b)) => Err(LakeError::Settings {
            table: table.to_owned(),
            message: format!(
                "the records' columns {a} and {b} differ in case only: Hive and Trino fold names, so both would be one column; \
                 leave one of them out (the connector's column.exclude.list) or rename it"
            ),
        }),
    }
}

/// The schema that the table needs for a record with these columns, which stands at `lsn` in the source's log; `None` when it fits.
///
/// # Errors
/// [`LakeError::Incompatible`]; `Settings` when two columns are one to Hive and Trino, or a key column would have to be added to a table
/// that has rows without it.
pub(crate) fn evolve(
    base: &Base<'_>,
    record: &RowSchema,
    lsn: Option<i64>,
    rules: Rules,
) -> Result<Option<Evolved>, LakeError> {
    refuse_collisions(base.table, record)?;
    let mut work = Work {
        base,
        record,
        rules,
        next_id: base.last_column_id.max(base.schema.highest_field_id()),
        fields: base.schema.as_struct().fields().to_vec(),
        remembered: base.remembered.clone(),
        changes: vec![],
    };
    let drops = rules.dropped_column == DroppedColumn::Drop;
    let newest = base.remembered.lsn.filter(|_| base.schema.field_by_name(origin::SOURCE_LSN).is_some());
    for column in &record.columns {
        work.take(column, lsn.filter(|_| drops))?;
    }
    work.relax_missing();
    if let (true, Some(lsn), Some(newest)) = (drops, lsn, newest)
        && lsn > newest
    {
        work.drop_missing(lsn);
    }
    work.finish(lsn)
}

struct Work<'a> {
    base: &'a Base<'a>,
    record: &'a RowSchema,
    rules: Rules,
    next_id: i32,
    fields: Vec<NestedFieldRef>,
    remembered: Remembered,
    changes: Vec<ColumnChange>,
}

impl Work<'_> {
    /// Makes room for one of the record's columns. `lsn` where the source's drops are followed.
    fn take(&mut self, column: &Column, lsn: Option<i64>) -> Result<(), LakeError> {
        let is_key = column.key && self.rules.mode == Mode::Upsert;
        let versions = self.versions(&column.name);
        let before = |at: Option<i64>| matches!((lsn, at), (Some(lsn), Some(at)) if lsn < at);
        if versions.is_empty() {
            if is_key {
                return Err(self.base.settings(format!(
                    "the key column {} is missing in the table, and its rows have no value for it: write to a new table or choose \
                     key columns that the table has",
                    column.name
                )));
            }
            // The table has all that the source had at the newest place: this column was dropped since.
            if is_origin(&column.name) || !before(self.base.remembered.lsn) {
                self.add(column, None);
            }
            return Ok(());
        }
        if before(self.base.remembered.dropped.get(&fold(&column.name)).copied()) {
            return Ok(());
        }
        let fit = versions.iter().find_map(|at| {
            let mut next_id = self.next_id;
            let wider = widen(&self.fields[*at].field_type, &column.column_type, &mut next_id).ok()?;
            Some((*at, wider, next_id))
        });
        let Some((at, wider, next_id)) = fit else {
            let oldest = &self.fields[versions[0]]; // it is not empty
            let have = written(oldest);
            if self.rules.type_change != TypeChange::NewColumn || is_key {
                return Err(LakeError::Incompatible {
                    table: self.base.table.to_owned(),
                    column: column.name.clone(),
                    record_type: column.column_type.to_string(),
                    table_type: have,
                });
            }
            self.add(column, Some(have));
            return Ok(());
        };
        self.next_id = next_id;
        if !is_origin(&column.name) {
            self.remembered.source.insert(self.fields[at].id);
        }
        if let Some(wider) = wider {
            let field = widen::retyped(&self.fields[at], wider);
            let (column, from, to) = (field.name.clone(), written(&self.fields[at]), written(&field));
            self.changes.push(ColumnChange::Widened { column, from, to });
            self.fields[at] = field;
        }
        if self.fields[at].required && !is_key {
            self.relax(at);
        }
        Ok(())
    }

    /// The table's columns for a source column: the one of its name, then those made when its type changed, oldest first.
    fn versions(&self, name: &str) -> Vec<usize> {
        let is_version = |f: &NestedFieldRef| self.remembered.versions.contains_key(&f.id);
        let own: Vec<NestedFieldRef> = self.fields.iter().filter(|f| !is_version(f)).cloned().collect();
        let own = find(&own, name).and_then(|at| self.fields.iter().position(|f| f.id == own[at].id));
        let later = self
            .fields
            .iter()
            .enumerate()
            .filter(|(_, f)| self.remembered.versions.get(&f.id).is_some_and(|source| same_name(source, name)));
        own.into_iter().chain(later.map(|(at, _)| at)).collect()
    }

    /// Adds a column; `former` is the type of the version before it.
    fn add(&mut self, column: &Column, former: Option<String>) {
        let taken = |name: &str| {
            self.fields.iter().any(|f| same_name(&f.name, name))
                || self.record.columns.iter().any(|c| c.name != column.name && same_name(&c.name, name))
        };
        let mut name = column.name.clone();
        let mut version = 1;
        while taken(&name) {
            version += 1;
            name = format!("{}__v{version}", column.name);
        }
        self.next_id += 1;
        let id = self.next_id;
        let field = NestedField::optional(id, &name, to_type(&column.column_type, &mut self.next_id));
        let column_type = column.column_type.to_string();
        if version > 1 {
            self.remembered.versions.insert(id, column.name.clone());
        }
        self.changes.push(match former {
            Some(from) => ColumnChange::Versioned { column: column.name.clone(), from, to: column_type, into: name },
            None => ColumnChange::Added { column: name, column_type },
        });
        self.fields.push(Arc::new(field));
        if !is_origin(&column.name) {
            self.remembered.source.insert(id);
        }
    }

    fn relax(&mut self, at: usize) {
        let mut optional = NestedField::clone(&self.fields[at]);
        optional.required = false;
        self.changes.push(ColumnChange::Relaxed { column: optional.name.clone() });
        self.fields[at] = Arc::new(optional);
    }

    /// A required column that the records don't have would refuse every row.
    fn relax_missing(&mut self) {
        for at in 0..self.fields.len() {
            if self.fields[at].required && !self.has(&self.fields[at]) {
                self.relax(at);
            }
        }
    }

    /// Whether the record has the source column that this column belongs to.
    fn has(&self, field: &NestedField) -> bool {
        let source = self.remembered.versions.get(&field.id).unwrap_or(&field.name);
        self.record.columns.iter().any(|c| same_name(&c.name, source))
    }

    /// Drops what the source had and has no more.
    fn drop_missing(&mut self, lsn: i64) {
        let gone: Vec<NestedFieldRef> = self
            .fields
            .iter()
            .filter(|f| self.remembered.source.contains(&f.id) && !self.base.fixed.contains(&f.id) && !self.has(f))
            .cloned()
            .collect();
        for field in gone {
            self.fields.retain(|f| f.id != field.id);
            self.remembered.source.remove(&field.id);
            let source = self.remembered.versions.remove(&field.id).unwrap_or_else(|| field.name.clone());
            self.remembered.dropped.insert(fold(&source), lsn);
            self.changes.push(ColumnChange::Dropped { column: field.name.clone() });
        }
    }

    fn finish(mut self, lsn: Option<i64>) -> Result<Option<Evolved>, LakeError> {
        if self.changes.is_empty() {
            return Ok(None);
        }
        self.remembered.lsn = self.remembered.lsn.max(lsn);
        let required: Vec<i32> = self.fields.iter().filter(|f| f.required).map(|f| f.id).collect();
        let schema = Schema::builder()
            .with_fields(self.fields)
            .with_identifier_field_ids(self.base.schema.identifier_field_ids().filter(|id| required.contains(id)))
            .build()?;
        Ok(Some(Evolved { schema, remembered: self.remembered, changes: self.changes }))
    }
}

impl Base<'_> {
    fn settings(&self, message: String) -> LakeError {
        LakeError::Settings { table: self.table.to_owned(), message }
    }
}

fn is_origin(name: &str) -> bool {
    name.starts_with(origin::PREFIX)
}

/// A column's type as in the configuration; Iceberg's own words for what can't be written there.
fn written(field: &NestedField) -> String {
    from_type(&field.field_type).map_or_else(|| field.field_type.to_string(), |t| t.to_string())
}

#[cfg(test)]
mod tests;
