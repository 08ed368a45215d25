//! What a compaction of many small files costs: against reading and writing the rows with nothing else, against Trino's `optimize`, and
//! what the writer feels of it.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::Bench;
use crate::commits::commit_ms;
use crate::process::{Measured, Usage};
use crate::report::percentile;
use crate::servers::number;
use crate::small_files::{self, Empty, Made};
use crate::topic::{self, Fill, TOPIC};
use crate::trino::Trino;
use crate::writer::{Setup, Storage};

const AT_MOST: Duration = Duration::from_secs(1_800);
/// Of the compaction beside a writer.
const CORES: &str = "0.5";
/// Enough commits for a percentile.
const COMMIT_ROWS: u64 = 20_000;

pub fn run(bench: &Bench) -> anyhow::Result<String> {
    let files = number("FIRN_BENCH_COMPACT_FILES", 2_000)?;
    let bytes = number("FIRN_BENCH_COMPACT_BYTES", 2_000_000_000)?;
    let local = setup("compact_local", Storage::Files).write_config(bench, 1)?;
    let minio = setup("compact_minio", Storage::Minio).write_config(bench, 1)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let namespace = setup("", Storage::Files).namespace(bench);
    let made = runtime.block_on(async {
        let (local, minio) = (small_files::catalog(&local).await?, small_files::catalog(&minio).await?);
        let of = |catalog: &std::sync::Arc<dyn firn_catalog::Catalog>, name| {
            let (catalog, namespace) = (catalog.clone(), namespace.clone());
            Empty { catalog, namespace, name }
        };
        let tables = [of(&local, "small"), of(&local, "beside"), of(&minio, "by_firn"), of(&minio, "by_trino")];
        small_files::make(&tables, files, bytes).await
    })?;
    eprintln!("{} rows, {} deleted, {} MB", made.rows, made.deleted_rows, made.bytes / 1_000_000);
    let table = |name: &str| format!("{namespace}.{name}");
    let limit = limit(bench, &made)?;
    let of_files = firn(bench, "small", &local, &table("small"), &made, &[])?;
    let of_minio = firn(bench, "by_firn", &minio, &table("by_firn"), &made, &[])?;
    let trino_s = optimize(bench, &namespace, &made)?;
    let mut out = format!(
        "| {} MB in {files} files, {} rows | wall s | CPU s | MB/s | of LIMIT | of Trino | peak RSS MiB |\n\
         |---|---:|---:|---:|---:|---:|---:|\n",
        made.bytes / 1_000_000,
        made.rows
    );
    let mb = made.bytes as f64 / 1e6;
    let mut line = |name: &str, usage: &Usage, of_limit: String, of_trino: String| {
        let Usage { wall_s, cpu_s, peak_rss_bytes } = usage;
        let rss = *peak_rss_bytes as f64 / 1_048_576.0;
        writeln!(out, "| {name} | {wall_s:.1} | {cpu_s:.1} | {:.0} | {of_limit} | {of_trino} | {rss:.0} |", mb / wall_s)
    };
    line("LIMIT, local", &limit, String::new(), String::new())?;
    line("firn, local", &of_files, format!("{:.2}", limit.wall_s / of_files.wall_s), String::new())?;
    line("firn, MinIO", &of_minio, String::new(), format!("{:.2}", trino_s / of_minio.wall_s))?;
    writeln!(out, "| Trino, MinIO | {trino_s:.1} | | {:.0} | | | |", mb / trino_s)?;
    eprintln!("{out}");
    out.push('\n');
    out.push_str(&beside(bench, &local, &table("beside"))?);
    Ok(out)
}

fn setup(name: &'static str, storage: Storage) -> Setup {
    Setup {
        name,
        topics: TOPIC,
        table: name,
        mode: "append",
        storage,
        commit_rows: COMMIT_ROWS,
        commit_interval_ms: 600_000,
    }
}

fn limit(bench: &Bench, made: &Made) -> anyhow::Result<Usage> {
    let dir = bench.dir.join("plain");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir)?;
    let list = dir.join("files");
    let paths: Vec<&str> = made.data_files.iter().map(|path| path.trim_start_matches("file://")).collect();
    std::fs::write(&list, paths.join("\n"))?;
    let mut command = Command::new(std::env::current_exe()?);
    let usage = Measured::spawn(command.arg("plain-rewrite").arg(&list).arg(&dir))?.ended()?;
    std::fs::remove_dir_all(&dir)?;
    Ok(usage)
}

/// `firn maintain compact`, and whether all came of it that had to.
fn firn(bench: &Bench, name: &str, config: &Path, table: &str, made: &Made, more: &[&str]) -> anyhow::Result<Usage> {
    let (mut command, report) = compaction(bench, name, config, table, more)?;
    let usage = Measured::spawn(&mut command)?.ended()?;
    let report: Value = serde_json::from_slice(&std::fs::read(&report)?)?;
    let of = |what: &str| report[0][what].as_u64().with_context(|| format!("no {what} in the report of {table}"));
    anyhow::ensure!(of("files_before")? == made.data_files.len() as u64, "not all files of {table} were rewritten");
    anyhow::ensure!(of("deleted_rows")? == made.deleted_rows, "{table} has deleted rows left");
    eprintln!("{name}: {:.1} s, {:.1} s of CPU, {} files", usage.wall_s, usage.cpu_s, of("files_after")?);
    Ok(usage)
}

fn compaction(
    bench: &Bench,
    name: &str,
    config: &Path,
    table: &str,
    more: &[&str],
) -> anyhow::Result<(Command, PathBuf)> {
    let report = bench.dir.join(format!("{name}.json"));
    let mut command = Command::new(&bench.firn);
    command
        .args(["maintain", "compact", table, "--output", "json", "-c"])
        .arg(config)
        .args(more)
        .stdout(File::create(&report)?);
    Ok((command, report))
}

/// Trino's own rewrite of the same files, once it is warm.
fn optimize(bench: &Bench, namespace: &str, made: &Made) -> anyhow::Result<f64> {
    let trino = Trino::new(bench)?;
    let schema = format!("{}.{namespace}", bench.servers.trino_catalog);
    trino.run(&format!("CREATE TABLE {schema}.warm AS SELECT * FROM {schema}.by_trino WHERE id % 8 = 0"))?;
    let began = std::time::Instant::now();
    trino.run(&format!("ALTER TABLE {schema}.by_trino EXECUTE optimize(file_size_threshold => '512MB')"))?;
    let took = began.elapsed().as_secs_f64();
    let rows = trino.run(&format!("SELECT count(*) FROM {schema}.by_trino"))?.rows;
    let left = trino.run(&format!("SELECT count(*) FROM {schema}.\"by_trino$files\""))?.rows;
    eprintln!("Trino: {took:.1} s, {} files", left[0][0]);
    anyhow::ensure!(rows[0][0].as_u64() == Some(made.rows - made.deleted_rows), "Trino has other rows: {rows:?}");
    // Both have the same rows by the same engine.
    let sums =
        |table: &str| trino.run(&format!("SELECT count(*), sum(id), sum(amount), max(payload) FROM {schema}.{table}"));
    let (ours, theirs) = (sums("by_firn")?.rows, sums("by_trino")?.rows);
    anyhow::ensure!(ours == theirs, "the two tables differ: {ours:?}, {theirs:?}");
    Ok(took)
}

/// A writer alone, and beside a compaction of another table that is held to a part of a core.
fn beside(bench: &Bench, config: &Path, table: &str) -> anyhow::Result<String> {
    let records = topic::fill(bench, &Fill { changes: bench.events, mix: "append", keys: 0, schema_block: false })?;
    let mut out = format!(
        "| writer, {records} records | wall s | records/s | ratio | commits | p50 ms | p99 ms | ratio of p99 |\n"
    );
    out.push_str("|---|---:|---:|---:|---:|---:|---:|---:|\n");
    let mut alone: Option<(f64, f64)> = None;
    for (name, compacts) in [("alone", false), ("beside_a_compaction", true)] {
        let compaction = match compacts {
            false => None,
            true => {
                let (mut command, _) = compaction(bench, "beside", config, table, &["--cpu", CORES])?;
                Some(Measured::spawn(&mut command)?)
            }
        };
        let mut writer = setup(name, Storage::Files).start(bench)?;
        writer.wait_for("firn_records_total", records, AT_MOST)?;
        let log = writer.log.clone();
        let wall_s = writer.end()?.wall_s;
        if let Some(mut compaction) = compaction {
            anyhow::ensure!(
                compaction.runs()?,
                "the compaction ended before the writer: make FIRN_BENCH_COMPACT_BYTES larger"
            );
            compaction.killed()?;
        }
        let took = commit_ms(&log)?;
        let p99 = percentile(&took, 0.99);
        let (wall_alone, p99_alone) = *alone.get_or_insert((wall_s, p99));
        let line = format!(
            "| {} | {wall_s:.1} | {:.0} | {:.2} | {} | {:.0} | {p99:.0} | {:.2} |",
            name.replace('_', " "),
            records as f64 / wall_s,
            wall_alone / wall_s,
            took.len(),
            percentile(&took, 0.5),
            p99 / p99_alone
        );
        eprintln!("{line}");
        writeln!(out, "{line}")?;
    }
    Ok(out)
}
