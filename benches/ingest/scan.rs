//! What upserts leave to the readers: Trino's scan of a table after millions of upserts, against the same rows written clean.

use std::time::Duration;

use anyhow::Context;

use crate::Bench;
use crate::report::median;
use crate::servers::number;
use crate::topic::{self, Fill, TOPIC};
use crate::trino::Trino;
use crate::writer::{Setup, Storage};

const RUNS: usize = 7;

pub fn run(bench: &Bench) -> anyhow::Result<String> {
    let loaded = number("FIRN_BENCH_LOADED", 250_000)?;
    let fill = Fill { changes: bench.events + loaded, mix: "upsert", keys: loaded, schema_block: false };
    let changes = topic::fill(bench, &fill)?;
    let setup = Setup {
        name: "scanned",
        topics: TOPIC,
        table: "scanned",
        mode: "upsert",
        storage: Storage::Minio,
        commit_rows: 250_000,
        commit_interval_ms: 600_000,
    };
    eprintln!("scan: {changes} upserts first");
    let mut writer = setup.start(bench)?;
    writer.wait_for("firn_records_total", changes, Duration::from_secs(1_800))?;
    writer.end()?;

    let trino = Trino::new(bench)?;
    let (catalog, namespace) = (&bench.servers.trino_catalog, setup.namespace(bench));
    let (upserts, clean) = (format!("{catalog}.{namespace}.scanned"), format!("{catalog}.{namespace}.clean"));
    trino.run(&format!("CREATE TABLE {clean} AS SELECT * FROM {upserts}"))?;
    let rows = |table: &str| format!("SELECT count(*), sum(account), max(updated_at), max(note) FROM {table}");
    let (mut of_upserts, mut of_clean) = (vec![], vec![]);
    let mut answers = vec![];
    for n in 0..=RUNS {
        let (a, b) = (trino.run(&rows(&upserts))?, trino.run(&rows(&clean))?);
        if n == 0 {
            // The first brings files and code into memory.
            answers = vec![a.rows, b.rows];
            continue;
        }
        of_upserts.push(a.elapsed_ms);
        of_clean.push(b.elapsed_ms);
    }
    anyhow::ensure!(answers[0] == answers[1], "the two tables differ: {answers:?}");
    let one = |sql: String| -> anyhow::Result<f64> { trino.run(&sql)?.rows[0][0].as_f64().context("no number") };
    let live = one(format!("SELECT count(*) FROM {upserts}"))?;
    let stored =
        one(format!("SELECT sum(record_count) FROM {catalog}.{namespace}.\"scanned$files\" WHERE content = 0"))?;
    let (slow, fast) = (median(&of_upserts), median(&of_clean));
    Ok(format!(
        "| scan in Trino | live rows | stored rows | upserts, ms | clean, ms | ratio | 1.3 x stored / live |\n\
         |---|---:|---:|---:|---:|---:|---:|\n| median of {RUNS} | {live} | {stored} | {slow:.0} | {fast:.0} | {:.2} | {:.2} |\n",
        slow / fast,
        1.3 * stored / live
    ))
}
