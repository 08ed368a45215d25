//! The table: made and altered as the SELECT's columns need it, never narrowed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use arrow_schema::SchemaRef;

use super::cast::can_send;
use super::fault::Fault;
use super::rows::{DELETED, OFFSET, PARTITION, TOPIC, VERSION};
use super::server::Server;
use super::settings::{ClickHouseSettings, Engine};
use super::split::PartitionKey;
use super::sql::{name, text, words};
use super::types::{declared, nullable, of_arrow};
use crate::sink::SinkError;

/// Inserts that the table remembers by their tokens. What is sent again after a lost answer or by the next owner of a partition has
/// to be among them; what a paused process still sends, at most a receive time-out after it was taken over from, too. More cost
/// memory in the server (some 100 bytes each).
const TOKENS: u64 = 10_000;

/// The table as it is.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// Every column that can be inserted into, with its type.
    pub columns: BTreeMap<String, String>,
    /// Columns that have a value of their own where there is none to be sent: there NULL stands for it.
    pub defaults: BTreeSet<String>,
    pub partition_key: PartitionKey,
}

/// A row of `system.columns`: name, type, kind of default, whether it is in the partition key.
type ColumnRow = (String, String, String, u8);

impl Table {
    /// Makes the table or adds the columns that it lacks.
    pub(super) async fn prepare(
        server: &Server,
        settings: &ClickHouseSettings,
        select: &SchemaRef,
    ) -> Result<Self, SinkError> {
        let wanted = wanted(settings, select)?;
        let engine: Vec<(String, String, String)> = server
            .rows(&format!(
                "SELECT engine, partition_key, engine_full FROM system.tables WHERE database = {} AND name = {}",
                text(&settings.database),
                text(&settings.table)
            ))
            .await?;
        let Some((engine, _, engine_full)) = engine.into_iter().next() else {
            server.execute(&create(settings, select, &wanted)?).await?;
            return Self::read(server, settings, select).await;
        };
        check_engine(settings, &engine)?;
        let present: BTreeSet<String> = Self::column_rows(server, settings).await?.into_iter().map(|c| c.0).collect();
        let missing: Vec<String> = wanted
            .iter()
            .filter(|(column, _)| select.column_with_name(column).is_some() && !present.contains(column))
            .map(|(column, declaration)| format!("ADD COLUMN IF NOT EXISTS {} {declaration}", name(column)))
            .collect();
        if !missing.is_empty() {
            server.execute(&format!("ALTER TABLE {} {}", settings.table_name(), missing.join(", "))).await?;
        }
        if !engine.starts_with("Replicated") && !engine.starts_with("Shared") && tokens(&engine_full) < TOKENS {
            let sql = format!(
                "ALTER TABLE {} MODIFY SETTING non_replicated_deduplication_window = {TOKENS}",
                settings.table_name()
            );
            server.execute(&sql).await?;
        }
        Self::read(server, settings, select).await
    }

    async fn column_rows(server: &Server, settings: &ClickHouseSettings) -> Result<Vec<ColumnRow>, Fault> {
        let sql = format!(
            "SELECT name, type, default_kind, is_in_partition_key FROM system.columns WHERE database = {} AND table = {} ORDER BY position",
            text(&settings.database),
            text(&settings.table)
        );
        server.rows(&sql).await
    }

    async fn read(server: &Server, settings: &ClickHouseSettings, select: &SchemaRef) -> Result<Self, SinkError> {
        let sql = format!(
            "SELECT partition_key, timezone() FROM system.tables WHERE database = {} AND name = {}",
            text(&settings.database),
            text(&settings.table)
        );
        let (expression, zone) = server.rows::<(String, String)>(&sql).await?.pop().unwrap_or_default();
        let rows = Self::column_rows(server, settings).await?;
        let computed = |kind: &str| matches!(kind, "MATERIALIZED" | "ALIAS");
        let columns: BTreeMap<String, String> =
            rows.iter().filter(|c| !computed(&c.2)).map(|c| (c.0.clone(), c.1.clone())).collect();
        let table = settings.table_name();
        for field in select.fields() {
            let Some(column_type) = columns.get(field.name()) else {
                return Err(SinkError::Stopped(format!(
                    "column `{}` of {table} is computed by ClickHouse: leave it out of the SELECT, or give it another name there",
                    field.name()
                )));
            };
            if !can_send(field.data_type(), column_type) {
                return Err(SinkError::Stopped(format!(
                    "column `{0}` of {table} is {column_type}, the SELECT gives {1}: cast it in the SELECT, or alter the table \
                     (ALTER TABLE {table} MODIFY COLUMN {0} ...)",
                    field.name(),
                    field.data_type()
                )));
            }
        }
        let mut keys = Vec::new();
        for (column, column_type, kind, _) in rows.iter().filter(|c| c.3 == 1) {
            let given =
                select.column_with_name(column).is_some() || [TOPIC, PARTITION, OFFSET].contains(&column.as_str());
            if !given || computed(kind) {
                return Err(SinkError::Stopped(format!(
                    "{table} is partitioned by `{expression}`, and the SELECT does not give `{column}`: rows that are sent again could \
                     fall into another partition; add the column to the SELECT, or partition the table by others"
                )));
            }
            keys.push((column.clone(), column_type.clone()));
        }
        // Where the partition is found out here, the value has to be known here.
        let has_default = |c: &&ColumnRow| c.2 == "DEFAULT" && c.3 != 1;
        let defaults = rows.iter().filter(has_default).map(|c| c.0.clone()).collect();
        Ok(Self { columns, defaults, partition_key: PartitionKey { expression, columns: keys, zone } })
    }
}

/// The columns that the table has to have, in order, each with its declaration.
fn wanted(settings: &ClickHouseSettings, select: &SchemaRef) -> Result<Vec<(String, String)>, SinkError> {
    let keys: BTreeSet<String> = settings
        .order_by
        .iter()
        .chain(&settings.partition_by)
        .chain(&settings.version)
        .flat_map(|e| words(e))
        .collect();
    let mut wanted = Vec::new();
    for field in select.fields() {
        let declaration = settings.columns.get(field.name()).map(|d| declared(d));
        let (column_type, rest) = match declaration {
            Some((column_type, rest)) => (column_type.to_owned(), rest),
            None => (
                of_arrow(field.data_type()).ok_or_else(|| {
                    SinkError::Stopped(format!(
                        "column `{}`: ClickHouse has no type for {}; cast it in the SELECT",
                        field.name(),
                        field.data_type()
                    ))
                })?,
                "",
            ),
        };
        let column_type =
            if field.is_nullable() && !keys.contains(field.name()) { nullable(&column_type) } else { column_type };
        wanted.push((field.name().clone(), format!("{column_type} {rest}").trim_end().to_owned()));
    }
    let others = settings.columns.iter().filter(|(column, _)| select.column_with_name(column).is_none());
    wanted.extend(others.map(|(column, declaration)| (column.clone(), declaration.clone())));
    Ok(wanted)
}

fn create(settings: &ClickHouseSettings, select: &SchemaRef, wanted: &[(String, String)]) -> Result<String, SinkError> {
    let mut columns = wanted.to_vec();
    let mut add = |column: &str, declaration: &str| {
        if !columns.iter().any(|(present, _)| present == column) {
            columns.push((column.to_owned(), declaration.to_owned()));
        }
    };
    let engine = match settings.engine {
        Engine::MergeTree => "MergeTree".to_owned(),
        Engine::Replacing => {
            let version = match &settings.version {
                Some(version) if select.column_with_name(version).is_none() => {
                    return Err(SinkError::Stopped(format!(
                        "`version` names the column `{version}`, which the SELECT does not give: add it there, or leave `version` out"
                    )));
                }
                Some(version) => version.as_str(),
                None => {
                    add(VERSION, "UInt64");
                    VERSION
                }
            };
            add(DELETED, "UInt8 DEFAULT 0");
            format!("ReplacingMergeTree({}, {DELETED})", name(version))
        }
    };
    if settings.origin_columns {
        add(TOPIC, "LowCardinality(String) DEFAULT ''");
        add(PARTITION, "Int32 DEFAULT -1");
        add(OFFSET, "Int64 DEFAULT -1");
    }
    let columns: Vec<String> =
        columns.iter().map(|(column, declaration)| format!("{} {declaration}", name(column))).collect();
    let mut sql =
        format!("CREATE TABLE IF NOT EXISTS {} ({}) ENGINE = {engine}", settings.table_name(), columns.join(", "));
    if let Some(expression) = &settings.partition_by {
        let _ = write!(sql, " PARTITION BY {expression}");
    }
    let _ = write!(
        sql,
        " ORDER BY ({}) SETTINGS non_replicated_deduplication_window = {TOKENS}, fsync_after_insert = 1, fsync_part_directory = 1",
        settings.order_by.join(", ")
    );
    Ok(sql)
}

/// Only what keeps rows as they are, and tokens, can do what the configuration promises.
fn check_engine(settings: &ClickHouseSettings, engine: &str) -> Result<(), SinkError> {
    let kind = engine.trim_start_matches("Replicated").trim_start_matches("Shared");
    let (want, setting) = match settings.engine {
        Engine::MergeTree => ("MergeTree", "merge_tree"),
        Engine::Replacing => ("ReplacingMergeTree", "replacing"),
    };
    if kind == want {
        return Ok(());
    }
    let other = match kind {
        "MergeTree" => "; set engine = \"merge_tree\", or name another table",
        "ReplacingMergeTree" => "; set engine = \"replacing\", or name another table",
        _ => "; name another table, or make this one anew",
    };
    Err(SinkError::Stopped(format!(
        "{} is a table of the engine {engine}, engine = \"{setting}\" needs {want}{other}",
        settings.table_name()
    )))
}

/// How many tokens the table remembers.
fn tokens(engine_full: &str) -> u64 {
    let set = engine_full.split_once("non_replicated_deduplication_window = ");
    set.and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()).unwrap_or(0)
}
