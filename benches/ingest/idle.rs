//! What a writer costs while nothing arrives: CPU, and calls to the object store.

use std::time::Duration;

use crate::Bench;
use crate::process::cpu_seconds;
use crate::topic::{self, Fill, TOPIC};
use crate::writer::{Setup, Storage};

const WATCHED: Duration = Duration::from_secs(60);

pub fn run(bench: &Bench) -> anyhow::Result<String> {
    let records = topic::fill(bench, &Fill { changes: 10_000, mix: "upsert", keys: 1_000, schema_block: false })?;
    let setup = Setup {
        name: "idle",
        topics: TOPIC,
        table: "idle",
        mode: "upsert",
        storage: Storage::Minio,
        commit_rows: 1_000_000,
        commit_interval_ms: 1_000,
    };
    eprintln!("idle: {} s", WATCHED.as_secs());
    let mut writer = setup.start(bench)?;
    writer.wait_for("firn_records_total", records, Duration::from_secs(60))?;
    // The last commit and its clean-up.
    std::thread::sleep(Duration::from_secs(5));
    let (cpu, calls) = (cpu_seconds(writer.pid())?, s3_calls(&bench.servers.s3)?);
    std::thread::sleep(WATCHED);
    let (cpu, calls) = (cpu_seconds(writer.pid())? - cpu, s3_calls(&bench.servers.s3)? - calls);
    writer.end()?;
    let percent = 100.0 * cpu / WATCHED.as_secs_f64();
    Ok(format!(
        "| idle | % of a core | object-store calls |\n|---|---:|---:|\n| {} s | {percent:.2} | {calls:.0} |\n",
        WATCHED.as_secs()
    ))
}

/// S3 requests that MinIO has counted.
fn s3_calls(endpoint: &str) -> anyhow::Result<f64> {
    let url = format!("{endpoint}/minio/v2/metrics/cluster");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let text = runtime.block_on(async { reqwest::get(&url).await?.error_for_status()?.text().await })?;
    let counted = text.lines().filter(|l| l.starts_with("minio_s3_requests_total"));
    let calls: Vec<f64> = counted.filter_map(|l| l.rsplit(' ').next()?.parse().ok()).collect();
    anyhow::ensure!(!calls.is_empty(), "{url} counts no S3 requests");
    Ok(calls.iter().sum())
}
