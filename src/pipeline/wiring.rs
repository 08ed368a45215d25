//! From the configuration's words to the parts' own settings.

use std::collections::HashMap;

use firn_catalog::Retention;
use iceberg::table::Table;

use crate::change::Mode;
use crate::config::{Config, Encoding, Format, OnTruncate, TableConfig};
use crate::debezium::{self, DecodeOptions, SourceTypes, Unit, Wire};
use crate::lineage::{DroppedColumn, TypeChange};
use crate::memory::Memory;
use crate::position::Checkpoint;
use crate::sink::lake::{CHECKPOINT, Shared, TableSpec};
use crate::source::kafka::{SourceError, TopicListing};

/// zstd level of data files: 1 costs a third of the CPU of 3 and makes files some 5 % larger; compaction writes them anew anyway.
const ZSTD_LEVEL: i32 = 1;

/// `source` is what is known of the source database.
pub(super) fn decode_options(config: &TableConfig, source: SourceTypes) -> DecodeOptions {
    DecodeOptions {
        mode: config.mode,
        format: format(config.format),
        infer_types: config.infer_types,
        infinity: config.infinity,
        origin_columns: config.origin_columns,
        declared: config.columns.clone(),
        wire: config.encodings.iter().map(|(column, encoding)| (column.clone(), wire(*encoding))).collect(),
        key_columns: (!config.key.is_empty()).then(|| config.key.clone()),
        delete_image: config.delete_image,
        before_images: false,
        skip_truncates: config.truncate == OnTruncate::Skip,
        source,
    }
}

fn wire(encoding: Encoding) -> Wire {
    match encoding {
        Encoding::Ms => Wire::Counts(Unit::Millis),
        Encoding::Us => Wire::Counts(Unit::Micros),
        Encoding::Ns => Wire::Counts(Unit::Nanos),
        Encoding::Text => Wire::DecimalText,
        Encoding::Hex => Wire::Hex,
    }
}

fn format(format: Format) -> debezium::Format {
    match format {
        Format::Auto => debezium::Format::Auto,
        Format::Envelope => debezium::Format::Envelope,
        Format::Flattened => debezium::Format::Flattened,
    }
}

pub(super) fn table_spec(config: &TableConfig) -> TableSpec {
    TableSpec {
        namespace: vec![config.namespace.clone()],
        name: config.table.clone(),
        mode: config.mode,
        key: config.key.clone(),
        partition_by: config.partition_by.iter().map(ToString::to_string).collect(),
        sort_by: config.sort_by.iter().map(ToString::to_string).collect(),
        format_version: config.format_version,
        properties: config.properties.clone().into_iter().collect(),
        location: None,
        retention: Retention {
            max_snapshots: config.max_snapshots,
            horizon_ms: config.rewind_horizon_ms,
            ..Retention::default()
        },
        target_file_bytes: config.target_file_bytes,
        zstd_level: ZSTD_LEVEL,
        origin_columns: config.origin_columns,
        type_change: config.on_type_change,
        dropped_column: config.on_dropped_column,
        unavailable_column: config.unavailable_column,
        keys_roam: false,
    }
}

/// The configuration of a table: that of a topic which was committed to it.
pub fn configured(config: &Config, table: &Table) -> Option<TableConfig> {
    let stored = table.metadata().properties().get(CHECKPOINT).and_then(|json| Checkpoint::from_json(json).ok());
    let topics = stored.unwrap_or_default().topics;
    topics.keys().find_map(|topic| config.table_for(topic).filter(|c| c.ident() == *table.identifier()))
}

/// What the tables of a process share, as configured.
pub(super) fn shared(config: &Config) -> Shared {
    let dir = (!config.index.dir.as_os_str().is_empty()).then_some(config.index.dir.as_path());
    Shared::new(Memory::new(config.memory.budget_bytes as usize), dir)
}

/// The table of rejected records: few rows, many of them never.
pub(super) fn dead_letter_spec(config: &Config) -> TableSpec {
    TableSpec {
        namespace: vec![config.dead_letters.namespace.clone()],
        name: config.dead_letters.table.clone(),
        mode: Mode::Upsert,
        key: vec![],
        partition_by: vec![],
        sort_by: vec![],
        format_version: 2,
        properties: HashMap::new(),
        location: None,
        retention: Retention::default(),
        target_file_bytes: config.lake.target_file_bytes,
        zstd_level: 3,
        origin_columns: false,
        type_change: TypeChange::default(),
        dropped_column: DroppedColumn::default(),
        unavailable_column: false,
        keys_roam: false,
    }
}

/// The topics to read now: those that match, and those named exactly whether Kafka has them yet or not.
pub(super) fn selected(
    config: &Config,
    listed: Result<Vec<TopicListing>, SourceError>,
) -> Result<Vec<String>, SourceError> {
    let mut topics: Vec<String> = config.lake.exact_topics().into_iter().map(str::to_owned).collect();
    topics.extend(listed?.into_iter().map(|t| t.name).filter(|name| config.selects(name)));
    topics.sort_unstable();
    topics.dedup();
    Ok(topics)
}
