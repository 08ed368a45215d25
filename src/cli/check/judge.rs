//! The judgements of `firn check`: plain data in, findings out.

use std::collections::{BTreeMap, BTreeSet};

use iceberg::spec::TableMetadata;

use super::report::Finding;
use crate::change::{ColumnType, DeleteImage};
use crate::config::error::nearest;
use crate::config::{Config, Mode, TableConfig};
use crate::position::Checkpoint;
use crate::sink::lake::{MODE, key_columns};
use crate::source::kafka::inspect::{Cluster, Watermarks};

/// Partition -> how far its log reaches.
pub(super) type Logs = BTreeMap<i32, Watermarks>;

/// The topics that the configuration selects, against those that there are.
pub(super) fn topics(config: &Config, cluster: &Cluster) -> Vec<Finding> {
    let mut findings = Vec::new();
    let all = || cluster.topics.keys().map(String::as_str);
    let of_pipelines = config.pipelines.iter().flat_map(|p| p.sources.iter().chain(&p.views)).map(|t| t.topic.as_str());
    let named: BTreeSet<&str> = config.lake.exact_topics().into_iter().chain(of_pipelines).collect();
    for name in named {
        if !cluster.topics.contains_key(name) {
            let hint = nearest(name, all()).map_or_else(String::new, |n| format!("; did you mean {n}?"));
            findings.push(Finding::warn(
                format!("topic {name}"),
                "does not exist yet",
                format!("firn waits for it; check the name and the connector{hint}"),
            ));
        }
    }
    let selected: Vec<&str> = all().filter(|t| config.selects(t)).collect();
    for name in &selected {
        let Some(topic) = cluster.topics.get(*name) else { continue };
        let subject = format!("topic {name}");
        if let Some(error) = &topic.error {
            findings.push(Finding::fail(subject, error.clone(), "the group needs Describe and Read on this topic"));
        } else if !topic.leaderless.is_empty() {
            let found = format!("partitions {:?} have no leader", topic.leaderless);
            findings.push(Finding::fail(subject, found, "see why the brokers that hold them are down"));
        } else {
            findings.push(Finding::ok(subject, format!("partitions: {}", topic.partitions.len())));
        }
    }
    if config.lake.is_used() && selected.is_empty() && config.lake.exact_topics().is_empty() {
        let some: Vec<&str> = all().filter(|t| !t.starts_with('_')).take(5).collect();
        let there =
            if some.is_empty() { "there are none yet".to_owned() } else { format!("there are: {}", some.join(", ")) };
        findings.push(Finding::warn(
            "topics",
            "none matches lake.topics or lake.topics_regex",
            format!("firn waits for one; {there}"),
        ));
    }
    if let Err(e) = config.check_collisions(selected) {
        findings.push(Finding::fail(
            "names",
            e.to_string(),
            "set namespace or table for one of them under [[lake.tables]]",
        ));
    }
    findings
}

/// An existing table against what the configuration wants of it.
pub(super) fn table(wanted: &TableConfig, metadata: &TableMetadata) -> Vec<Finding> {
    let subject = format!("table {}", wanted.ident());
    let mut findings = Vec::new();
    let mode = wanted.mode.as_str();
    match metadata.properties().get(MODE) {
        Some(have) if have != mode => findings.push(Finding::fail(
            subject.clone(),
            format!("is an {have} table, the configuration says {mode}"),
            format!("set mode = \"{have}\" for topic {}, or give the topic another table", wanted.topic),
        )),
        None if metadata.current_snapshot().is_some() => findings.push(Finding::warn(
            subject.clone(),
            "holds rows that firn did not write",
            match wanted.mode {
                Mode::Append => "firn adds to them; give the topic another table if that is not wanted",
                Mode::Upsert => "they count as rows of the source: a key that comes again replaces them",
            },
        )),
        _ => {}
    }
    let schema = metadata.current_schema();
    for column in &wanted.columns {
        let Some(field) = schema.field_by_name_case_insensitive(&column.name) else {
            continue;
        };
        let have = field.field_type.to_string();
        if have
            .parse::<ColumnType>()
            .is_ok_and(|have| have != column.column_type && !widens(&have, &column.column_type))
        {
            findings.push(Finding::fail(
                subject.clone(),
                format!("column {} is {have}, the configuration declares {}", field.name, column.column_type),
                format!("declare it as \"{have}\", or give the topic another table"),
            ));
        }
    }
    let keys = key_columns(metadata);
    if wanted.mode == Mode::Upsert && !wanted.key.is_empty() && !keys.is_empty() {
        let mut have: Vec<&str> = keys.iter().map(String::as_str).collect();
        have.sort_unstable();
        let mut want: Vec<&str> = wanted.key.iter().map(String::as_str).collect();
        want.sort_unstable();
        if have != want {
            findings.push(Finding::fail(
                subject.clone(),
                format!("has the key ({}), the configuration says ({})", keys.join(", "), wanted.key.join(", ")),
                "set key to the table's own, or give the topic another table",
            ));
        }
    }
    if metadata.format_version() as u8 != wanted.format_version {
        findings.push(Finding::warn(
            subject.clone(),
            format!(
                "has format version {}, the configuration says {}",
                metadata.format_version() as u8,
                wanted.format_version
            ),
            "format_version counts at creation; the table keeps its own",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(subject, format!("{mode}, {} columns", schema.as_struct().fields().len())));
    }
    findings
}

/// Deletes whose key is taken from `before`: only the source knows whether it sends the whole of it.
pub(super) fn deletes(wanted: &TableConfig) -> Option<Finding> {
    let vouched = wanted.mode == Mode::Upsert && !wanted.key.is_empty() && wanted.delete_image == DeleteImage::Before;
    vouched.then(|| {
        Finding::warn(
            format!("table {}", wanted.ident()),
            "takes the key of a delete from its before (delete_image = \"before\")",
            "make sure that the source sends all of it (REPLICA IDENTITY FULL; MySQL: binlog_row_image=full): else a filler can \
             name another row",
        )
    })
}

/// What a table of this format asks of its readers.
pub(super) fn readers(wanted: &TableConfig, format_version: u8) -> Option<Finding> {
    (format_version >= 3 && wanted.mode == Mode::Upsert).then(|| {
        Finding::warn(
            format!("table {}", wanted.ident()),
            "marks deleted rows in deletion vectors (format version 3), which not every engine reads",
            "Spark 3.5 with Iceberg 1.10 and PyIceberg read them, Trino 476 and `firn query` do not: see that your readers do, or set \
             format_version = 2 before the table is made",
        )
    })
}

/// Whether firn may change a column of type `have` to `want` in place: Iceberg's promotions.
fn widens(have: &ColumnType, want: &ColumnType) -> bool {
    match (have, want) {
        (ColumnType::Int, ColumnType::Long) | (ColumnType::Float, ColumnType::Double) => true,
        (ColumnType::Decimal { precision: p, scale: s }, ColumnType::Decimal { precision, scale }) => {
            precision >= p && scale == s
        }
        _ => false,
    }
}

/// The stored positions of one topic against its log.
pub(super) fn positions(wanted: &TableConfig, stored: &Checkpoint, logs: &Logs) -> Vec<Finding> {
    let subject = format!("position {}", wanted.topic);
    let Some(topic) = stored.topics.get(&wanted.topic) else {
        return vec![Finding::ok(subject, "none stored yet: kafka.start decides")];
    };
    let mut findings = Vec::new();
    let mut lag = 0;
    for (partition, at) in &topic.partitions {
        let subject = format!("position {}/{partition}", wanted.topic);
        let Some(log) = logs.get(partition) else {
            findings.push(Finding::fail(
                subject,
                format!("the table is at offset {}, but the partition is gone", at.next),
                format!("the topic was made anew with fewer partitions: `firn rewind {} --new-topic`, or give it another table", wanted.ident()),
            ));
            continue;
        };
        if at.next > log.high {
            findings.push(Finding::fail(
                subject,
                format!("the table is at offset {}, the log ends at {}", at.next, log.high),
                format!(
                    "the topic was made anew or cut, and firn will not read on: `firn rewind {} --new-topic`",
                    wanted.ident()
                ),
            ));
        } else if at.next < log.low {
            findings.push(Finding::fail(
                subject,
                format!("the table is at offset {}, the log begins at {}: {} offsets are gone", at.next, log.low, log.low - at.next),
                format!("retention removed them before they were read: `firn rewind {} --skip-lost`, then a new snapshot of the source", wanted.ident()),
            ));
        } else {
            lag += log.high - at.next;
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(subject, format!("{lag} records behind")));
    }
    findings
}

/// Settings that are valid each by itself, but not together.
pub(super) fn settings(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if config.lake.commit_bytes > config.memory.budget_bytes {
        findings.push(Finding::warn(
            "memory",
            format!(
                "lake.commit_bytes {} is above memory.budget_bytes {}",
                config.lake.commit_bytes, config.memory.budget_bytes
            ),
            "commits are made when the budget is full, before commit_bytes is reached",
        ));
    }
    if config.kafka.bootstrap_servers.contains("localhost") && config.serve.listen.starts_with("0.0.0.0") {
        findings.push(Finding::warn(
            "kafka.bootstrap_servers",
            "is localhost while serve.listen is open to others, as in a container",
            "inside a container localhost is the container itself: name the broker's host",
        ));
    }
    findings.extend(upkeep(config, std::thread::available_parallelism().map_or(1, usize::from)));
    findings
}

/// What `firn run` does to keep tables fast.
pub(super) fn upkeep(config: &Config, cores: usize) -> Vec<Finding> {
    let policy = &config.maintain.policy;
    let of_tables = config.lake.tables.iter().map(|rule| rule.maintain.as_ref());
    let of_pipelines = config.pipelines.iter().flat_map(|p| &p.lake).map(|sink| sink.maintain.as_ref());
    let of_some = of_tables.chain(of_pipelines).flatten().filter(|rule| rule.enabled == Some(true)).count();
    let has_tables = config.lake.is_used() || config.pipelines.iter().any(|p| !p.lake.is_empty());
    if !has_tables || (!policy.enabled && of_some == 0) {
        return Vec::new();
    }
    let budget = &config.maintain.budget;
    let who = if policy.enabled {
        "tables are kept fast".to_owned()
    } else {
        format!("{of_some} of [[lake.tables]] and [[pipelines.lake]] have tables kept fast")
    };
    let (compact, manifests) = (policy.compact_every, policy.manifests_every);
    let quiet =
        if policy.quiet_hours.is_empty() { String::new() } else { format!(", not at {} UTC", policy.quiet_hours) };
    let found = format!(
        "{who}: compact {compact}, manifests {manifests}, expire {}, orphans {}{quiet}; within {} cores and {} bytes",
        policy.expire_every, policy.orphans_every, budget.cpu, budget.memory_bytes
    );
    let mut findings = vec![Finding::ok("maintain.policy", found)];
    if budget.cpu >= cores as f64 {
        findings.push(Finding::warn(
            "maintain.budget.cpu",
            format!("{} is all that this machine has ({cores} cores)", budget.cpu),
            "leave the writer more: 0.5 is the default",
        ));
    }
    findings
}
