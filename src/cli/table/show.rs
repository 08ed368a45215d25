//! `firn table show`

use std::collections::BTreeMap;
use std::fmt::Write;

use iceberg::table::Table;
use serde::Serialize;

use super::super::{Failure, Output, print};
use super::utc;
use crate::position::Checkpoint;
use crate::sink::lake::letters::{PENDING, REPLAYED};
use crate::sink::lake::{
    CHECKPOINT, COLUMNS, KEY, LOST_RANGES, LostRange, REPLAYING, Replaying, SCHEMA_HISTORY, SchemaChange, Size,
    key_columns, lost_ranges, schema_history,
};

#[derive(Debug, Serialize)]
struct Shown {
    table: String,
    location: String,
    format_version: u8,
    uuid: String,
    size: Size,
    snapshot_id: Option<i64>,
    last_commit_ms: Option<i64>,
    partition_by: Vec<String>,
    sort_by: Vec<String>,
    columns: Vec<ShownColumn>,
    /// The next offset to read, by topic and partition.
    positions: BTreeMap<String, BTreeMap<i32, i64>>,
    generation: Option<u64>,
    /// Where the table stood before a rewind that kept its rows, until it is there again.
    replaying: Option<Replaying>,
    /// Offsets that Kafka lost before they were read.
    lost_ranges: Vec<LostRange>,
    schema_id: i32,
    /// Changes of the columns, oldest first.
    schema_history: Vec<SchemaChange>,
    properties: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct ShownColumn {
    id: i32,
    name: String,
    #[serde(rename = "type")]
    column_type: String,
    required: bool,
    key: bool,
    doc: Option<String>,
}

pub(super) fn run(table: &Table, output: Output) -> Result<(), Failure> {
    output.not_csv()?;
    let shown = shown(table);
    match output {
        Output::Json => print::json(&shown),
        _ => print::text(&text(&shown)),
    }
}

fn shown(table: &Table) -> Shown {
    let metadata = table.metadata();
    let schema = metadata.current_schema();
    let column = |id: i32| schema.name_by_field_id(id).unwrap_or("?").to_owned();
    let term = |id: i32, transform: iceberg::spec::Transform| {
        crate::config::PartitionBy { column: column(id), transform }.to_string()
    };
    let keys = key_columns(metadata);
    let checkpoint = metadata.properties().get(CHECKPOINT).and_then(|json| Checkpoint::from_json(json).ok());
    let positions = checkpoint.iter().flat_map(|c| &c.topics);
    Shown {
        table: table.identifier().to_string(),
        location: metadata.location().to_owned(),
        format_version: metadata.format_version() as u8,
        uuid: metadata.uuid().to_string(),
        size: Size::of(metadata),
        snapshot_id: metadata.current_snapshot_id(),
        last_commit_ms: metadata.current_snapshot().map(|s| s.timestamp_ms()),
        partition_by: metadata
            .default_partition_spec()
            .fields()
            .iter()
            .map(|f| term(f.source_id, f.transform))
            .collect(),
        sort_by: metadata
            .default_sort_order()
            .fields
            .iter()
            .map(|f| format!("{} {} nulls {}", term(f.source_id, f.transform), f.direction, f.null_order))
            .collect(),
        columns: schema
            .as_struct()
            .fields()
            .iter()
            .map(|f| ShownColumn {
                id: f.id,
                name: f.name.clone(),
                column_type: f.field_type.to_string(),
                required: f.required,
                key: keys.contains(&f.name),
                doc: f.doc.clone(),
            })
            .collect(),
        positions: positions
            .map(|(t, p)| (t.clone(), p.partitions.iter().map(|(n, at)| (*n, at.next)).collect()))
            .collect(),
        generation: checkpoint.as_ref().map(|c| c.generation),
        replaying: Replaying::of(&table.identifier().to_string(), metadata).ok().flatten(),
        lost_ranges: lost_ranges(metadata.properties()),
        schema_id: metadata.current_schema_id(),
        schema_history: schema_history(metadata.properties()),
        properties: metadata.properties().iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
    }
}

fn text(t: &Shown) -> String {
    let number = |n: Option<u64>| n.map_or_else(|| "?".to_owned(), |n| n.to_string());
    let list = |terms: &[String]| if terms.is_empty() { "no".to_owned() } else { terms.join(", ") };
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a String does not fail.
        let _ = writeln!(out, "{name:<14}{value}");
    };
    line("table", &t.table);
    line("location", &t.location);
    line("format", &t.format_version.to_string());
    line("rows", &number(t.size.rows));
    line(
        "files",
        &format!(
            "{} data, {} delete, {} bytes, {} equality deletes",
            number(t.size.data_files),
            number(t.size.delete_files),
            number(t.size.bytes),
            number(t.size.equality_deletes)
        ),
    );
    line("snapshot", &t.snapshot_id.map_or_else(|| "none yet".to_owned(), |id| id.to_string()));
    line("last commit", &t.last_commit_ms.map_or_else(String::new, utc));
    line("partitioned", &list(&t.partition_by));
    line("sorted", &list(&t.sort_by));
    line("columns", "");
    let width = t.columns.iter().map(|c| c.name.chars().count()).max().unwrap_or(0);
    for c in &t.columns {
        let marks =
            [(c.required, " required"), (c.key, " key")].iter().filter(|m| m.0).map(|m| m.1).collect::<String>();
        line("", &format!("{:<width$}  {}{marks}", c.name, c.column_type));
    }
    line("positions", if t.positions.is_empty() { "none: firn has not committed here" } else { "(next offset)" });
    for (topic, partitions) in &t.positions {
        for (partition, next) in partitions {
            line("", &format!("{topic}/{partition}  {next}"));
        }
    }
    for (topic, ends) in t.replaying.iter().flat_map(|replaying| &replaying.ends) {
        for (partition, end) in ends {
            line("replaying", &format!("{topic}/{partition}  rows may be older ones until offset {end}"));
        }
    }
    for lost in &t.lost_ranges {
        let LostRange { topic, partition, from, to, at_ms } = lost;
        line("lost", &format!("{topic}/{partition}  offsets {from} to {to}, given up {}", utc(*at_ms)));
    }
    line("schemas", if t.schema_history.is_empty() { "none that firn made" } else { "(newest first)" });
    for change in t.schema_history.iter().rev() {
        let current = if change.schema_id == t.schema_id { " (current)" } else { "" };
        let asked = change.record.as_ref().map_or_else(String::new, |record| format!(" for {record}"));
        line("", &format!("{}{current}  {}{asked}", change.schema_id, utc(change.at_ms)));
        for what in &change.changes {
            line("", &format!("    {what}"));
        }
    }
    line("properties", "");
    // These stand above, in words; letters have a command of their own.
    let told = [CHECKPOINT, COLUMNS, KEY, SCHEMA_HISTORY, PENDING, REPLAYED, REPLAYING, LOST_RANGES];
    for (name, value) in t.properties.iter().filter(|(name, _)| !told.contains(&name.as_str())) {
        line("", &format!("{name} = {value}"));
    }
    out
}
