//! The names of all metrics, with units and labels, in one place. docs/metrics.md says how to read each.

use std::sync::OnceLock;

use metrics::Unit;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

pub const RECORDS_TOTAL: &str = "firn_records_total";
pub const ROWS_TOTAL: &str = "firn_rows_total";
pub const SKIPPED_TOTAL: &str = "firn_skipped_total";
pub const REJECTED_TOTAL: &str = "firn_rejected_total";
pub const UNAVAILABLE_ROWS_TOTAL: &str = "firn_unavailable_rows_total";
pub const INFINITE_ROWS_TOTAL: &str = "firn_infinite_rows_total";
pub const TRUNCATES_TOTAL: &str = "firn_truncates_total";
pub const TRUNCATED_ROWS_TOTAL: &str = "firn_truncated_rows_total";
pub const COMMITS_TOTAL: &str = "firn_commits_total";
pub const COMMIT_SECONDS: &str = "firn_commit_seconds";
pub const COMMIT_ATTEMPTS: &str = "firn_commit_attempts";
pub const COMMITTED_OFFSET: &str = "firn_committed_offset";
pub const LAG_RECORDS: &str = "firn_lag_records";
pub const STAGED_BYTES: &str = "firn_staged_bytes";
pub const MEMORY_BYTES: &str = "firn_memory_bytes";
pub const MEMORY_PAUSED_MS_TOTAL: &str = "firn_memory_paused_ms_total";
pub const EARLY_BATCHES_TOTAL: &str = "firn_early_batches_total";
pub const TABLE_STOPPED: &str = "firn_table_stopped";
pub const TABLE_REPLAYING: &str = "firn_table_replaying";
pub const TABLE_ROWS: &str = "firn_table_rows";
pub const TABLE_DATA_FILES: &str = "firn_table_data_files";
pub const TABLE_DELETE_FILES: &str = "firn_table_delete_files";
pub const TABLE_BYTES: &str = "firn_table_bytes";
pub const TABLE_DELETED_ROWS: &str = "firn_table_deleted_rows";
pub const TABLE_MANIFESTS: &str = "firn_table_manifests";
pub const TABLE_SNAPSHOTS: &str = "firn_table_snapshots";
pub const TABLE_METADATA_FILES: &str = "firn_table_metadata_files";
pub const MAINTAIN_RUNS_TOTAL: &str = "firn_maintain_runs_total";
pub const MAINTAIN_FAILURES_TOTAL: &str = "firn_maintain_failures_total";
pub const MAINTAIN_LAST_SUCCESS_SECONDS: &str = "firn_maintain_last_success_seconds";
pub const MAINTAIN_DEFERRED_TOTAL: &str = "firn_maintain_deferred_total";
pub const MAINTAIN_BYTES_TOTAL: &str = "firn_maintain_bytes_total";
pub const MAINTAIN_CPU_MS_TOTAL: &str = "firn_maintain_cpu_ms_total";
pub const MAINTAIN_HELD_MS_TOTAL: &str = "firn_maintain_held_ms_total";
pub const FOREIGN_SNAPSHOTS_TOTAL: &str = "firn_foreign_snapshots_total";
pub const STALE_TOTAL: &str = "firn_stale_total";
pub const INDEX_KEYS: &str = "firn_index_keys";
pub const INDEX_REBUILD_SECONDS: &str = "firn_index_rebuild_seconds";
pub const ASSIGNED_PARTITIONS: &str = "firn_assigned_partitions";
pub const REBALANCES_TOTAL: &str = "firn_rebalances_total";
pub const REGISTRY_FETCHES_TOTAL: &str = "firn_registry_fetches_total";
pub const REGISTRY_FAILURES_TOTAL: &str = "firn_registry_failures_total";
pub const SOURCE_LOOKUPS_TOTAL: &str = "firn_source_lookups_total";
pub const SOURCE_FAILURES_TOTAL: &str = "firn_source_failures_total";
pub const SINK_ROWS_TOTAL: &str = "firn_sink_rows_total";
pub const SINK_DELIVERY_SECONDS: &str = "firn_sink_delivery_seconds";
pub const SINK_LATENCY_SECONDS: &str = "firn_sink_latency_seconds";
pub const SINK_SOURCE_LATENCY_SECONDS: &str = "firn_sink_source_latency_seconds";
pub const SINK_ERRORS_TOTAL: &str = "firn_sink_errors_total";
pub const SINK_REJECTED_TOTAL: &str = "firn_sink_rejected_total";
pub const SINK_SKIPPED_WRITES_TOTAL: &str = "firn_sink_skipped_writes_total";
pub const SINK_STOPPED: &str = "firn_sink_stopped";
pub const SINK_LAG_RECORDS: &str = "firn_sink_lag_records";
pub const ALERTS_HELD_BACK_TOTAL: &str = "firn_alerts_held_back_total";
pub const STATE_KEYS: &str = "firn_state_keys";
pub const STATE_KEYS_FORGOTTEN_TOTAL: &str = "firn_state_keys_forgotten_total";
pub const VIEW_TIMEOUTS_TOTAL: &str = "firn_view_timeouts_total";
pub const OUTBOX_UNSENT_ROWS: &str = "firn_outbox_unsent_rows";
pub const OUTBOX_SENT_TOTAL: &str = "firn_outbox_sent_total";
pub const OUTBOX_FOUND_TOTAL: &str = "firn_outbox_found_total";
pub const OUTBOX_REFUSED_ROWS: &str = "firn_outbox_refused_rows";
pub const OUTBOX_ERRORS_TOTAL: &str = "firn_outbox_errors_total";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One metric as it is declared and documented.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: Unit,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

const fn metric(
    name: &'static str,
    kind: Kind,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, unit, labels, help }
}

/// Every metric of firn.
pub const METRICS: [Metric; 62] = [
    metric(RECORDS_TOTAL, Kind::Counter, Unit::Count, &["topic"], "Kafka records read"),
    metric(ROWS_TOTAL, Kind::Counter, Unit::Count, &["table", "op"], "rows committed, by op (c, u, d, r)"),
    metric(SKIPPED_TOTAL, Kind::Counter, Unit::Count, &["topic", "kind"], "records skipped by a rule, by its name"),
    metric(REJECTED_TOTAL, Kind::Counter, Unit::Count, &["topic", "reason"], "records sent to the dead letters"),
    metric(
        UNAVAILABLE_ROWS_TOTAL,
        Kind::Counter,
        Unit::Count,
        &["table", "outcome"],
        "rows with values that the source did not send: restored, lost, marked",
    ),
    metric(
        INFINITE_ROWS_TOTAL,
        Kind::Counter,
        Unit::Count,
        &["topic"],
        "rows with an infinite value that has no place in the table",
    ),
    metric(
        TRUNCATES_TOTAL,
        Kind::Counter,
        Unit::Count,
        &["table"],
        "truncates of the source table that were committed",
    ),
    metric(TRUNCATED_ROWS_TOTAL, Kind::Counter, Unit::Count, &["table"], "rows that went by a truncate"),
    metric(COMMITS_TOTAL, Kind::Counter, Unit::Count, &["table"], "snapshots committed"),
    metric(
        COMMIT_SECONDS,
        Kind::Histogram,
        Unit::Seconds,
        &["table"],
        "from the last staged file to the catalog's answer",
    ),
    metric(COMMIT_ATTEMPTS, Kind::Histogram, Unit::Count, &["table"], "tries that a commit took; 1 = uncontended"),
    metric(
        COMMITTED_OFFSET,
        Kind::Gauge,
        Unit::Count,
        &["topic", "partition"],
        "next offset to read according to the table",
    ),
    metric(LAG_RECORDS, Kind::Gauge, Unit::Count, &["topic", "partition"], "end of the log minus the committed offset"),
    metric(STAGED_BYTES, Kind::Gauge, Unit::Bytes, &["table"], "bytes staged and not yet committed"),
    metric(MEMORY_BYTES, Kind::Gauge, Unit::Bytes, &["kind"], "bytes held of the memory budget, by what they are for"),
    metric(
        MEMORY_PAUSED_MS_TOTAL,
        Kind::Counter,
        Unit::Milliseconds,
        &[],
        "time for which workers read nothing since the memory budget was used up",
    ),
    metric(
        EARLY_BATCHES_TOTAL,
        Kind::Counter,
        Unit::Count,
        &[],
        "batches committed early since the memory budget was used up",
    ),
    metric(TABLE_STOPPED, Kind::Gauge, Unit::Count, &["table"], "1 while the table is stopped and needs a person"),
    metric(
        TABLE_REPLAYING,
        Kind::Gauge,
        Unit::Count,
        &["table"],
        "1 while the table is behind where it stood before a rewind",
    ),
    metric(TABLE_ROWS, Kind::Gauge, Unit::Count, &["table"], "rows of the table, without those deleted by position"),
    metric(TABLE_DATA_FILES, Kind::Gauge, Unit::Count, &["table"], "data files of the table"),
    metric(TABLE_DELETE_FILES, Kind::Gauge, Unit::Count, &["table"], "delete files of the table"),
    metric(TABLE_BYTES, Kind::Gauge, Unit::Bytes, &["table"], "bytes of the table's files"),
    metric(TABLE_DELETED_ROWS, Kind::Gauge, Unit::Count, &["table"], "rows in data files that are deleted by position"),
    metric(TABLE_MANIFESTS, Kind::Gauge, Unit::Count, &["table"], "manifests of the current snapshot"),
    metric(TABLE_SNAPSHOTS, Kind::Gauge, Unit::Count, &["table"], "snapshots that the table keeps"),
    metric(TABLE_METADATA_FILES, Kind::Gauge, Unit::Count, &["table"], "versions of its metadata that the table names"),
    metric(
        MAINTAIN_RUNS_TOTAL,
        Kind::Counter,
        Unit::Count,
        &["table", "kind"],
        "runs of maintenance by policy: compact, manifests, expire, orphans",
    ),
    metric(MAINTAIN_FAILURES_TOTAL, Kind::Counter, Unit::Count, &["table", "kind"], "of these, those that failed"),
    metric(
        MAINTAIN_LAST_SUCCESS_SECONDS,
        Kind::Gauge,
        Unit::Seconds,
        &["table", "kind"],
        "when the last run ended well, since the epoch",
    ),
    metric(
        MAINTAIN_DEFERRED_TOTAL,
        Kind::Counter,
        Unit::Count,
        &["table", "kind", "reason"],
        "times that maintenance was due and had to wait: quiet_hours, budget",
    ),
    metric(
        MAINTAIN_BYTES_TOTAL,
        Kind::Counter,
        Unit::Count,
        &["table", "kind"],
        "bytes that maintenance read and wrote",
    ),
    metric(
        MAINTAIN_CPU_MS_TOTAL,
        Kind::Counter,
        Unit::Milliseconds,
        &["table", "kind"],
        "CPU time that maintenance took",
    ),
    metric(
        MAINTAIN_HELD_MS_TOTAL,
        Kind::Counter,
        Unit::Milliseconds,
        &["table", "kind"],
        "time for which its budget held maintenance back",
    ),
    metric(
        FOREIGN_SNAPSHOTS_TOTAL,
        Kind::Counter,
        Unit::Count,
        &["table"],
        "snapshots of other writers that were caught up with",
    ),
    metric(
        STALE_TOTAL,
        Kind::Counter,
        Unit::Count,
        &["table"],
        "batches dropped because another writer had committed them",
    ),
    metric(INDEX_KEYS, Kind::Gauge, Unit::Count, &["table"], "primary keys in the index"),
    metric(INDEX_REBUILD_SECONDS, Kind::Histogram, Unit::Seconds, &["table"], "index rebuilds by a scan of the table"),
    metric(ASSIGNED_PARTITIONS, Kind::Gauge, Unit::Count, &["topic"], "partitions that this process owns"),
    metric(REBALANCES_TOTAL, Kind::Counter, Unit::Count, &[], "assignments received from the consumer group"),
    metric(REGISTRY_FETCHES_TOTAL, Kind::Counter, Unit::Count, &[], "schemas asked for at the schema registry"),
    metric(
        REGISTRY_FAILURES_TOTAL,
        Kind::Counter,
        Unit::Count,
        &[],
        "of these, those that the registry gave no answer to: tables wait",
    ),
    metric(SOURCE_LOOKUPS_TOTAL, Kind::Counter, Unit::Count, &[], "tables asked for at the source database"),
    metric(
        SOURCE_FAILURES_TOTAL,
        Kind::Counter,
        Unit::Count,
        &[],
        "of these, those that the source database gave no answer to: tables may wait",
    ),
    metric(SINK_ROWS_TOTAL, Kind::Counter, Unit::Count, &["sink"], "rows delivered to a pipeline's sink"),
    metric(
        SINK_DELIVERY_SECONDS,
        Kind::Histogram,
        Unit::Seconds,
        &["sink"],
        "what the sink took for a delivery of one partition",
    ),
    metric(
        SINK_LATENCY_SECONDS,
        Kind::Histogram,
        Unit::Seconds,
        &["sink"],
        "from the record's time in Kafka until it is visible in the sink, the oldest of each delivery counted for all its rows",
    ),
    metric(
        SINK_SOURCE_LATENCY_SECONDS,
        Kind::Histogram,
        Unit::Seconds,
        &["sink"],
        "from the commit in the source database until it is visible in the sink, counted likewise",
    ),
    metric(
        SINK_ERRORS_TOTAL,
        Kind::Counter,
        Unit::Count,
        &["sink", "kind"],
        "deliveries that failed: unavailable, moved, refused, stopped",
    ),
    metric(SINK_REJECTED_TOTAL, Kind::Counter, Unit::Count, &["sink", "reason"], "records sent to the dead letters"),
    metric(
        SINK_SKIPPED_WRITES_TOTAL,
        Kind::Counter,
        Unit::Count,
        &["sink"],
        "writes that the sink's settings left out for a row: a key with a NULL (Redis), a row of a snapshot that is there (ClickHouse)",
    ),
    metric(
        ALERTS_HELD_BACK_TOTAL,
        Kind::Counter,
        Unit::Count,
        &["sink"],
        "alerts that came too soon after another of their key",
    ),
    metric(STATE_KEYS, Kind::Gauge, Unit::Count, &["sink"], "keys of alerts and statistics that are remembered"),
    metric(
        STATE_KEYS_FORGOTTEN_TOTAL,
        Kind::Counter,
        Unit::Count,
        &["sink"],
        "keys of alerts and statistics that went since there were more than max_keys",
    ),
    metric(SINK_STOPPED, Kind::Gauge, Unit::Count, &["sink"], "1 while the sink is stopped and needs a person"),
    metric(
        SINK_LAG_RECORDS,
        Kind::Gauge,
        Unit::Count,
        &["sink", "topic", "partition"],
        "end of the log minus the sink's position",
    ),
    metric(
        VIEW_TIMEOUTS_TOTAL,
        Kind::Counter,
        Unit::Count,
        &["view"],
        "joins that went on without waiting longer for the view's topic",
    ),
    metric(
        OUTBOX_UNSENT_ROWS,
        Kind::Gauge,
        Unit::Count,
        &["outbox"],
        "rows that are not marked as sent, up to 100,000, without those that the topic does not take",
    ),
    metric(OUTBOX_SENT_TOTAL, Kind::Counter, Unit::Count, &["outbox"], "rows sent and marked"),
    metric(
        OUTBOX_FOUND_TOTAL,
        Kind::Counter,
        Unit::Count,
        &["outbox"],
        "rows that were in the topic already and only had to be marked",
    ),
    metric(OUTBOX_REFUSED_ROWS, Kind::Gauge, Unit::Count, &["outbox"], "rows that the topic does not take"),
    metric(
        OUTBOX_ERRORS_TOTAL,
        Kind::Counter,
        Unit::Count,
        &["outbox"],
        "failures after which the outbox is taken anew",
    ),
];

/// Bounds around the promise of 500 ms for an uncontended commit, out to a metastore that hangs for a minute.
const SECONDS_BUCKETS: [f64; 13] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0];
/// A commit gives up after 20 attempts.
const ATTEMPTS_BUCKETS: [f64; 6] = [1.0, 2.0, 3.0, 5.0, 10.0, 20.0];

/// Installs the process's recorder, once; later calls answer the same handle.
///
/// # Errors
/// When another recorder was installed before.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(COMMIT_ATTEMPTS.to_owned()), &ATTEMPTS_BUCKETS)?
        .install_recorder()?;
    describe();
    Ok(HANDLE.get_or_init(|| handle).clone())
}

/// Tells the recorder in place what each metric is.
fn describe() {
    for m in METRICS {
        match m.kind {
            Kind::Counter => metrics::describe_counter!(m.name, m.unit, m.help),
            Kind::Gauge => metrics::describe_gauge!(m.name, m.unit, m.help),
            Kind::Histogram => metrics::describe_histogram!(m.name, m.unit, m.help),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_documented_with_its_labels() {
        let doc = include_str!("../../docs/metrics.md");
        for m in METRICS {
            let labels = if m.labels.is_empty() { String::new() } else { format!("{{{}}}", m.labels.join(",")) };
            let heading = format!("### `{}{labels}`", m.name);
            assert!(doc.contains(&heading), "docs/metrics.md lacks {heading}");
        }
        let documented = doc.lines().filter(|l| l.starts_with("### `firn_")).count();
        assert_eq!(documented, METRICS.len(), "docs/metrics.md describes a metric that is not there");
    }

    #[test]
    fn a_name_ends_with_its_unit_or_total() {
        for m in METRICS {
            assert_eq!(m.kind == Kind::Counter, m.name.ends_with("_total"), "{}", m.name);
            assert_eq!(m.unit == Unit::Seconds, m.name.ends_with("_seconds"), "{}", m.name);
            assert_eq!(m.unit == Unit::Bytes, m.name.ends_with("_bytes"), "{}", m.name);
        }
    }

    /// As GitHub makes them of headings.
    fn anchors(page: &str) -> Vec<String> {
        let headings = page.lines().filter(|l| l.starts_with('#')).map(|l| l.trim_start_matches('#').trim());
        let keeps = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        headings.map(|h| h.to_lowercase().chars().filter(keeps).collect::<String>().replace(' ', "-")).collect()
    }

    #[test]
    fn every_alert_goes_by_metrics_that_are_there_and_says_what_to_do() {
        let rules = include_str!("../../deploy/prometheus/firn.rules.yml");
        let (metrics_page, maintenance_page) =
            (include_str!("../../docs/metrics.md"), include_str!("../../docs/maintenance.md"));
        let known = [("metrics.md", anchors(metrics_page)), ("maintenance.md", anchors(maintenance_page))];
        let names = regex::Regex::new(r"\bfirn_[a-z_]+").unwrap();
        let shown = regex::Regex::new(r"\$labels\.([a-z]+)").unwrap();
        let parts = ["_bucket", "_sum", "_count"];
        let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
        assert!(alerts.len() >= 20, "{}", alerts.len());
        for alert in alerts {
            let name = alert.lines().next().unwrap();
            let line = |key: &str| {
                let found = alert.lines().find_map(|l| l.trim().strip_prefix(key));
                found.unwrap_or_else(|| panic!("{name} lacks {key}")).trim().to_owned()
            };
            let mut labels = vec!["instance"];
            for found in names.find_iter(&line("expr:")).map(|m| m.as_str()) {
                let of = |m: &&Metric| match m.kind {
                    Kind::Histogram => parts.iter().any(|part| found.strip_suffix(part) == Some(m.name)),
                    _ => m.name == found,
                };
                let metric =
                    METRICS.iter().find(of).unwrap_or_else(|| panic!("{name} goes by {found}, which is no metric"));
                labels.extend(metric.labels);
            }
            assert!(labels.len() > 1 || line("expr:").contains("firn_"), "{name} goes by no metric of firn");
            for used in shown.captures_iter(alert).map(|c| c[1].to_owned()) {
                assert!(labels.contains(&used.as_str()), "{name} shows the label {used}, which its metrics lack");
            }
            assert!(["{ severity: page }", "{ severity: ticket }"].contains(&line("labels:").as_str()), "{name}");
            assert!(!line("summary:").is_empty() && !line("description:").is_empty());
            let link = line("runbook_url:");
            let (page, anchor) = link.rsplit_once('/').and_then(|(_, end)| end.split_once('#')).unwrap();
            let there = known.iter().any(|(known, anchors)| *known == page && anchors.iter().any(|a| a == anchor));
            assert!(there, "{name}: {link} leads nowhere");
        }
    }
}
