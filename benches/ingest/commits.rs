//! How long a commit takes, and whether it grows with the table's history: many small commits to the metastore and MinIO.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::Bench;
use crate::report::{median, percentile};
use crate::servers::number;
use crate::topic::{self, Fill, TOPIC};
use crate::writer::{Setup, Storage};

/// Changes a second that come in: more than a commit of 200 rows after the other takes.
const RATE: u64 = 3_000;
/// The least that is allowed.
const INTERVAL_MS: u64 = 100;
const AT_MOST: Duration = Duration::from_secs(1_800);

pub fn run(bench: &Bench) -> anyhow::Result<String> {
    let commits = number("FIRN_BENCH_COMMITS", 2_000)?;
    let mut out =
        format!("| commits to HMS and MinIO | n | p50 ms | p99 ms | around 20, ms | around {commits}, ms | ratio |\n");
    out.push_str("|---|---:|---:|---:|---:|---:|---:|\n");
    for (name, mode) in [("commits_append", "append"), ("commits_upsert", "upsert")] {
        let fill = Fill { changes: u64::from(u32::MAX), mix: mode, keys: 20_000, schema_block: false };
        let mut generator = topic::flow(bench, &fill, RATE)?;
        let setup = Setup {
            name,
            topics: TOPIC,
            table: name,
            mode,
            storage: Storage::Minio,
            commit_rows: 200,
            commit_interval_ms: INTERVAL_MS,
        };
        eprintln!("{name}: {commits} commits");
        let mut writer = setup.start(bench)?;
        let waited = writer.wait_for("firn_commits_total", commits + 10, AT_MOST);
        generator.kill()?;
        generator.wait()?;
        waited?;
        let log = writer.log.clone();
        writer.end()?;
        let took = commit_ms(&log)?;
        let around = |n: u64| median(&took[(n as usize).saturating_sub(10)..(n as usize + 10).min(took.len())]);
        let (early, late) = (around(20), around(commits));
        let line = format!(
            "| {mode} | {} | {:.0} | {:.0} | {early:.0} | {late:.0} | {:.2} |",
            took.len(),
            median(&took),
            percentile(&took, 0.99),
            late / early
        );
        eprintln!("{line}");
        writeln!(out, "{line}")?;
    }
    Ok(out)
}

/// The milliseconds that firn's log says of each commit: from the last durable file to the catalog's answer.
pub fn commit_ms(log: &Path) -> anyhow::Result<Vec<f64>> {
    let text = std::fs::read_to_string(log)?;
    let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let took: Vec<f64> = lines.filter(|l| l["message"] == "committed").filter_map(|l| l["ms"].as_f64()).collect();
    anyhow::ensure!(!took.is_empty(), "{} tells of no commit", log.display());
    Ok(took)
}
