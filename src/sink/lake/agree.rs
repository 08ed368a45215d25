//! Agreeing on a table's columns: created, or changed in a commit of its own before the first rows that need it.

use std::collections::HashMap;
use std::sync::Arc;

use iceberg::spec::{MAIN_BRANCH, Schema, SchemaRef, TableMetadata};
use iceberg::table::Table;
use iceberg::{TableCreation, TableRequirement, TableUpdate};

use crate::change::{Column, Mode, RowSchema, origin, origin_columns, unavailable_column};
use crate::lineage::Asker;
use crate::sink::lake::evolution::{
    AskingRecord, Base, COLUMNS, ColumnChange, Evolved, Rules, SCHEMA_HISTORY, SchemaChange, evolve, first_columns,
    refuse_collisions, with_change,
};
use crate::sink::lake::layout::{Layout, TableColumns};
use crate::sink::lake::resume::MODE;
use crate::sink::lake::schema::to_iceberg;
use crate::sink::lake::{KEY, LakeError, LakeTable, row_key};

/// Rounds of "load, work out the columns, swap" before a table whose columns keep moving is given up. Each round is lost only when
/// another process changed the table meanwhile.
const SCHEMA_ROUNDS: usize = 10;

impl LakeTable {
    /// [`agree`](Self::agree) for rows that come from no record.
    ///
    /// # Errors
    /// As there.
    pub async fn ensure_schema(&self, columns: &RowSchema) -> Result<RowSchema, LakeError> {
        Ok(self.agree(columns, None).await?.rows().clone())
    }

    /// Makes the table's columns fit the records: creates namespace and table, or changes the columns in a commit of its own.
    /// Answers the table's columns. Two processes may do this at once: each works from what it finds. `asker` is the record
    /// that has these columns; the table's history will name it.
    ///
    /// # Errors
    /// `Incompatible` names the column, both types and what to do.
    pub async fn agree(&self, record: &RowSchema, asker: Option<&Asker>) -> Result<TableColumns, LakeError> {
        let record = self.completed(record);
        let key_columns: Vec<String> = record.columns.iter().filter(|c| c.key).map(|c| c.name.clone()).collect();
        if self.spec.mode == Mode::Upsert && key_columns.is_empty() {
            return Err(self.spec.settings(
                "upsert needs a key, and the records have none: declare the key columns, or use mode append",
            ));
        }
        let _agreeing = self.agreeing.lock().await;
        let mut last = None;
        for _ in 0..SCHEMA_ROUNDS {
            let (table, fits) = match self.load().await? {
                None => match self.create(&record, &key_columns, asker).await {
                    Ok(table) => (table, true),
                    Err(e) if e.is_race() => {
                        last = Some(e);
                        continue;
                    }
                    // A metastore may answer a lost race with any error: what counts is whether the table is there now.
                    Err(e) => match self.load().await {
                        Ok(Some(_)) => continue,
                        _ => return Err(e),
                    },
                },
                Some(table) => {
                    self.check_mode(table.metadata())?;
                    (table, false)
                }
            };
            let table = match fits {
                true => table,
                false => match self.evolve(table, &record, &key_columns, asker).await {
                    Ok(table) => table,
                    Err(e) if e.is_race() => {
                        last = Some(e);
                        continue;
                    }
                    Err(e) => return Err(e),
                },
            };
            let layout = Arc::new(Layout::of(&table, &self.spec, &key_columns)?);
            let columns = TableColumns(Arc::clone(&layout));
            self.change_view(|view| {
                view.layout = Some(layout);
                view.key_columns = key_columns;
            });
            return Ok(columns);
        }
        Err(last.unwrap_or_else(|| self.spec.settings("the table's columns keep changing: try again")))
    }

    /// With firn's own columns.
    fn completed(&self, record: &RowSchema) -> RowSchema {
        let mut record = record.clone();
        if self.spec.origin_columns {
            let missing: Vec<Column> =
                origin_columns().into_iter().filter(|c| record.index_of(&c.name).is_none()).collect();
            record.columns.extend(missing);
        }
        if self.spec.unavailable_column && record.index_of(origin::UNAVAILABLE).is_none() {
            record.columns.push(unavailable_column());
        }
        record
    }

    fn rules(&self) -> Rules {
        let (mode, type_change, dropped_column) = (self.spec.mode, self.spec.type_change, self.spec.dropped_column);
        Rules { mode, type_change, dropped_column }
    }

    /// What records of these columns would change in the table's.
    ///
    /// # Errors
    /// `Incompatible` as [`agree`](Self::agree) would answer.
    pub(super) fn changes_for(&self, table: &Table, record: &RowSchema) -> Result<Vec<String>, LakeError> {
        let name = self.spec.to_string();
        let base = Base::of(&name, table.metadata())?;
        let evolved = evolve(&base, &self.completed(record), None, self.rules())?;
        Ok(evolved.map(|e| e.changes.iter().map(ToString::to_string).collect()).unwrap_or_default())
    }

    async fn create(&self, record: &RowSchema, key: &[String], asker: Option<&Asker>) -> Result<Table, LakeError> {
        refuse_collisions(&self.spec.to_string(), record)?;
        let schema = to_iceberg(record, self.spec.mode)?;
        let mut properties = self.spec.properties.clone();
        properties.insert(MODE.to_owned(), self.spec.mode.as_str().to_owned());
        if self.spec.mode == Mode::Upsert {
            properties.insert(KEY.to_owned(), row_key::to_json(&schema, key));
        }
        let changes = vec![ColumnChange::Created { columns: record.columns.len() }];
        let change = schema_change(schema.schema_id(), None, asker, changes);
        properties.insert(SCHEMA_HISTORY.to_owned(), with_change(&properties, change));
        properties.insert(COLUMNS.to_owned(), first_columns(&schema, asker.and_then(|a| a.lsn)).to_json());
        let creation = TableCreation::builder()
            .name(self.spec.name.clone())
            .location_opt(self.spec.location.clone())
            .partition_spec_opt(self.spec.partition_spec(&schema)?)
            .sort_order_opt(self.spec.sort_order(&schema)?)
            .schema(schema)
            .properties(properties)
            .format_version(self.spec.format()?)
            .build();
        let namespace = self.ident.namespace();
        self.catalog.ensure_namespace(namespace, Default::default()).await?;
        Ok(self.catalog.create(namespace, creation).await?)
    }

    async fn evolve(
        &self,
        table: Table,
        record: &RowSchema,
        key: &[String],
        asker: Option<&Asker>,
    ) -> Result<Table, LakeError> {
        let metadata = table.metadata();
        let name = self.spec.to_string();
        let base = Base::of(&name, metadata)?;
        let evolved = evolve(&base, record, asker.and_then(|a| a.lsn), self.rules())?;
        let schema: &Schema = evolved.as_ref().map_or(metadata.current_schema().as_ref(), |evolved| &evolved.schema);
        let noted = (self.spec.mode == Mode::Upsert).then(|| row_key::to_note(metadata, schema, key)).flatten();
        let mut properties: HashMap<String, String> = noted.map(|key| (KEY.to_owned(), key)).into_iter().collect();
        let mut updates = vec![];
        let mut what = format!("the key is ({})", key.join(", "));
        if let Some(Evolved { schema, remembered, changes }) = evolved {
            what = changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let after = metadata.current_snapshot_id();
            let change = schema_change(next_schema_id(metadata, &schema), after, asker, changes);
            properties.insert(SCHEMA_HISTORY.to_owned(), with_change(metadata.properties(), change));
            properties.insert(COLUMNS.to_owned(), remembered.to_json());
            updates.extend([TableUpdate::AddSchema { schema }, TableUpdate::SetCurrentSchema { schema_id: -1 }]);
        }
        if properties.is_empty() {
            return Ok(table);
        }
        updates.push(TableUpdate::SetProperties { updates: properties });
        let record = asker.map_or_else(String::new, |a| a.origin.to_string());
        let requirements = [
            TableRequirement::UuidMatch { uuid: metadata.uuid() },
            TableRequirement::CurrentSchemaIdMatch { current_schema_id: metadata.current_schema_id() },
            TableRequirement::LastAssignedFieldIdMatch { last_assigned_field_id: metadata.last_column_id() },
            // Rows committed meanwhile may have values in a column that is to be dropped.
            TableRequirement::RefSnapshotIdMatch {
                r#ref: MAIN_BRANCH.to_owned(),
                snapshot_id: metadata.current_snapshot_id(),
            },
        ];
        let table = self.catalog.swap(&table, &requirements, &updates).await?;
        tracing::info!(table = %self.spec, record, "columns changed: {what}");
        Ok(table)
    }
}

fn schema_change(
    schema_id: i32,
    after_snapshot_id: Option<i64>,
    asker: Option<&Asker>,
    changes: Vec<ColumnChange>,
) -> SchemaChange {
    let at_ms = chrono::Utc::now().timestamp_millis();
    SchemaChange { schema_id, at_ms, record: asker.map(AskingRecord::from), after_snapshot_id, changes }
}

/// The id that a schema gets: that of an earlier one that is the same, else the next.
fn next_schema_id(metadata: &TableMetadata, schema: &Schema) -> i32 {
    let same = |have: &&SchemaRef| {
        have.as_struct() == schema.as_struct() && have.identifier_field_ids().eq(schema.identifier_field_ids())
    };
    let next = || metadata.schemas_iter().map(|s| s.schema_id()).max().unwrap_or(0) + 1;
    metadata.schemas_iter().find(same).map_or_else(next, |s| s.schema_id())
}
