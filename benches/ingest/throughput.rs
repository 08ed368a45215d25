//! Rows a second and a CPU-second, and the peak of memory, of whole processes: from the start to the last commit.

use std::process::Command;
use std::time::Duration;

use crate::Bench;
use crate::process::{Measured, Usage};
use crate::report::{Line, Report};
use crate::servers::number;
use crate::topic::{self, Fill, TOPIC};
use crate::writer::{Setup, Storage};

const AT_MOST: Duration = Duration::from_secs(1_800);

pub fn run(bench: &Bench) -> anyhow::Result<String> {
    let with_schema = number("FIRN_BENCH_SCHEMA_EVENTS", 1_000_000)?;
    let loaded = number("FIRN_BENCH_LOADED", 250_000)?;
    let mut report = Report::default();

    let records = topic::fill(bench, &Fill { changes: bench.events, mix: "append", keys: 0, schema_block: false })?;
    let base = limit(bench, records)?;
    report.add(Line::new("LIMIT", records, base));
    let used = firn(bench, "append", "append", records, 1_000_000)?;
    report.add(Line::new("append", records, used).against(&base, records));

    let changes =
        topic::fill(bench, &Fill { changes: bench.events + loaded, mix: "upsert", keys: loaded, schema_block: false })?;
    let used = firn(bench, "upsert", "upsert", changes, 250_000)?;
    report.add(Line::new("upsert", changes, used).against(&base, records));

    let blocks = topic::fill(bench, &Fill { changes: with_schema, mix: "append", keys: 0, schema_block: true })?;
    let base = limit(bench, blocks)?;
    report.add(Line::new("LIMIT, schema block", blocks, base));
    let used = firn(bench, "schema_block", "append", blocks, 1_000_000)?;
    report.add(Line::new("append, schema block", blocks, used).against(&base, blocks));
    Ok(report.to_string())
}

fn limit(bench: &Bench, events: u64) -> anyhow::Result<Usage> {
    let dir = bench.dir.join("limit");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["limit", TOPIC, &events.to_string()]).arg(&dir);
    let usage = Measured::spawn(&mut command)?.ended()?;
    std::fs::remove_dir_all(&dir)?;
    Ok(usage)
}

fn firn(
    bench: &Bench,
    name: &'static str,
    mode: &'static str,
    records: u64,
    commit_rows: u64,
) -> anyhow::Result<Usage> {
    let setup = Setup {
        name,
        topics: TOPIC,
        table: name,
        mode,
        storage: Storage::Files,
        commit_rows,
        commit_interval_ms: 600_000,
    };
    eprintln!("{name}: {records} records");
    let mut writer = setup.start(bench)?;
    writer.wait_for("firn_records_total", records, AT_MOST)?;
    writer.end()
}
