//! Speed and memory of `firn run` on real servers, against what the machine can do at all (LIMIT).
//!
//! `deploy/ci/bench` starts the servers and runs this. Sections are chosen by name: throughput, commits, idle, tables, scan, sidecar, large,
//! compact; none = all.

mod commits;
mod compact;
mod idle;
mod large;
mod limit;
mod plain_rewrite;
mod process;
mod report;
mod scan;
mod servers;
mod sidecar;
mod small_files;
mod tables;
mod throughput;
mod topic;
mod trino;
mod writer;

use std::path::{Path, PathBuf};

use servers::{Servers, env, number};

/// What every section needs.
struct Bench {
    servers: Servers,
    /// The binary under test.
    firn: PathBuf,
    /// For warehouses, configurations, logs.
    dir: PathBuf,
    /// New in every run: part of groups and namespaces.
    run: String,
    events: u64,
}

const SECTIONS: [&str; 8] = ["throughput", "commits", "idle", "tables", "scan", "sidecar", "large", "compact"];

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let servers = Servers::from_env();
    if let [kind, topic, events, dir] = args.as_slice()
        && kind == "limit"
    {
        let rows =
            limit::run(&servers.kafka, topic, topic::PARTITIONS, writer::WORKERS, events.parse()?, Path::new(dir))?;
        eprintln!("limit: {rows} rows");
        return Ok(());
    }
    if let [kind, list, dir] = args.as_slice()
        && kind == "plain-rewrite"
    {
        let rows = plain_rewrite::run(Path::new(list), Path::new(dir))?;
        eprintln!("plain rewrite: {rows} rows");
        return Ok(());
    }
    if let Some(unknown) = args.iter().find(|a| !SECTIONS.contains(&a.as_str())) {
        anyhow::bail!("there is no section {unknown}: {}", SECTIONS.join(", "));
    }
    let dir = PathBuf::from(env("FIRN_BENCH_DIR", &std::env::temp_dir().join("firn-bench").to_string_lossy()));
    // An earlier run's tables take gigabytes.
    let _ = std::fs::remove_dir_all(dir.join("warehouse"));
    std::fs::create_dir_all(&dir)?;
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let bench = Bench {
        servers,
        firn: PathBuf::from(env!("CARGO_BIN_EXE_firn")),
        dir,
        run: format!("{:x}", since_epoch.as_secs()),
        events: number("FIRN_BENCH_EVENTS", 4_000_000)?,
    };
    let mut found = Vec::new();
    for section in SECTIONS.into_iter().filter(|s| args.is_empty() || args.iter().any(|a| a == s)) {
        found.push(match section {
            "throughput" => throughput::run(&bench)?,
            "commits" => commits::run(&bench)?,
            "idle" => idle::run(&bench)?,
            "tables" => tables::run(&bench)?,
            "scan" => scan::run(&bench)?,
            "sidecar" => sidecar::run(&bench)?,
            "large" => large::run(&bench)?,
            _ => compact::run(&bench)?,
        });
    }
    topic::remove(&bench.servers.kafka)?;
    println!("{}", found.join("\n"));
    Ok(())
}
