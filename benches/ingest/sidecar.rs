//! The pipelines of examples/r2-enrichment: rows a second from filled topics into each sink, memory with many contents, and how long a
//! row takes at a steady rate, from Kafka and from PostgreSQL.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::Bench;
use crate::process::{Measured, Usage};
use crate::servers::{env, number};
use crate::topic::remove_all;

const CONTENT: &str = "postgres.public.content";
const EVENTS: &str = "postgres.public.engagement_events";
const RATE: u64 = 2_000;
const REDIS_DB: &str = "9";
const AT_MOST: Duration = Duration::from_secs(900);

pub fn run(bench: &Bench) -> anyhow::Result<String> {
    let events = number("FIRN_BENCH_SIDECAR_EVENTS", 1_000_000)?;
    let contents = number("FIRN_BENCH_CONTENTS", 1_000_000)?;
    let seconds = number("FIRN_BENCH_SIDECAR_SECONDS", 60)?;
    let mut lines = vec![
        "| run | contents | events | wall s | events/s | events/CPU-s | peak RSS MiB |".to_owned(),
        "|---|---:|---:|---:|---:|---:|---:|".to_owned(),
    ];
    for (contents, events, sinks) in [
        (1_000, events, &["enriched.clickhouse", "enriched.redis"][..]),
        (contents, events / 2, &["enriched.redis"][..]),
    ] {
        let filled = fill(bench, contents, events)?;
        for sink in sinks {
            let (wall_s, used) = drain(bench, sink, filled)?;
            let line = format!(
                "| {sink} | {contents} | {filled} | {wall_s:.1} | {:.0} | {:.0} | {:.0} |",
                filled as f64 / wall_s,
                filled as f64 / used.cpu_s,
                used.peak_rss_bytes as f64 / 1_048_576.0
            );
            eprintln!("{line}");
            lines.push(line);
        }
    }
    lines.push("\n| events/s from | sink | p50 ms | p99 ms |\n|---|---|---:|---:|".to_owned());
    lines.extend(from_kafka(bench, seconds)?);
    lines.extend(from_postgres(bench, seconds)?);
    Ok(lines.join("\n") + "\n")
}

/// Makes both topics anew; answers how many events there are.
fn fill(bench: &Bench, contents: u64, events: u64) -> anyhow::Result<u64> {
    let kafka = &bench.servers.kafka;
    remove_all(kafka, &[CONTENT, EVENTS])?;
    eprintln!("filling {EVENTS} with {events} events of {contents} contents");
    // A rate beyond any: then the events are of now, not a day for some hundreds of them.
    let mut generator = generator(bench, contents, contents + events);
    let status = generator.args(["--rate", "1000000"]).stdout(Stdio::null()).status()?;
    anyhow::ensure!(status.success(), "firn generate failed");
    let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", kafka).create()?;
    let mut records = 0;
    for partition in 0..crate::topic::PARTITIONS {
        let (low, high) = client.fetch_watermarks(EVENTS, partition, Duration::from_secs(10))?;
        records += (high - low) as u64;
    }
    Ok(records)
}

/// The generator's snapshot has a content for each ten keys.
fn generator(bench: &Bench, contents: u64, changes: u64) -> Command {
    let mut command = Command::new(&bench.firn);
    command
        .args(["generate", "--output", "json", "--schema", "engagement", "--create-topics", "--mix", "append"])
        .args(["--bootstrap-servers", &bench.servers.kafka])
        .args(["--events", &changes.to_string(), "--keys", &(contents * 10).to_string()])
        .args(["--partitions", &crate::topic::PARTITIONS.to_string()]);
    command
}

/// Delivers all events into one sink.
fn drain(bench: &Bench, sink: &str, events: u64) -> anyhow::Result<(f64, Usage)> {
    eprintln!("{sink}: {events} events");
    let mut firn = Sidecar::start(bench, sink, &["--only", sink])?;
    let began = Instant::now();
    let delivered = |status: &serde_json::Value| {
        status["sinks"].as_array().is_some_and(|sinks| sinks.iter().any(|s| s["rows"].as_u64() >= Some(events)))
    };
    loop {
        let status = firn.status();
        if delivered(&status) {
            break;
        }
        anyhow::ensure!(!stopped(&status) && firn.process.runs()?, "firn stopped; see {}", firn.log);
        anyhow::ensure!(began.elapsed() < AT_MOST, "not delivered within {} s; see {}", AT_MOST.as_secs(), firn.log);
        std::thread::sleep(Duration::from_millis(50));
    }
    let wall_s = began.elapsed().as_secs_f64();
    Ok((wall_s, firn.end()?))
}

fn stopped(status: &serde_json::Value) -> bool {
    status["sinks"].as_array().is_some_and(|sinks| sinks.iter().any(|s| s["state"]["state"] == "stopped"))
}

/// How long rows take from Kafka at a steady rate, into both sinks at once.
fn from_kafka(bench: &Bench, seconds: u64) -> anyhow::Result<Vec<String>> {
    remove_all(&bench.servers.kafka, &[CONTENT, EVENTS])?;
    let mut flow = generator(bench, 1_000, u64::MAX >> 1)
        .args(["--rate", &RATE.to_string(), "--seconds", &(seconds + 20).to_string()])
        .stdout(Stdio::null())
        .spawn()?;
    let lines = latencies(bench, "kafka", seconds, "latency")?;
    flow.wait()?;
    Ok(lines)
}

/// The same from the commit in PostgreSQL, through Debezium.
fn from_postgres(bench: &Bench, seconds: u64) -> anyhow::Result<Vec<String>> {
    remove_all(&bench.servers.kafka, &[CONTENT, EVENTS])?;
    // Else Debezium's first snapshot would read those of the runs before, and the new ones wait.
    stack(&["psql", "-q", "-c", "TRUNCATE public.engagement_events"])?;
    stack(&["connector", "engagement"])?;
    let rounds = (seconds + 20) * 20;
    let load = format!(
        "DO $$ BEGIN FOR i IN 1..{rounds} LOOP \
           INSERT INTO public.engagement_events (content_id, user_id, event_type, event_ts, duration_ms, device) \
           SELECT (SELECT id FROM public.content LIMIT 1 OFFSET n % 3), gen_random_uuid(), 'play', now(), n * 1000, 'ios' \
           FROM generate_series(1, {}) n; COMMIT; PERFORM pg_sleep(0.05 - extract(epoch FROM clock_timestamp() - now())); \
         END LOOP; END $$",
        RATE / 20
    );
    let mut flow = Command::new("deploy/native/stack").args(["psql", "-q", "-c", &load]).spawn()?;
    let lines = latencies(bench, "PostgreSQL", seconds, "source_latency")?;
    flow.wait()?;
    stack(&["connector-delete", "engagement"])?;
    Ok(lines)
}

fn latencies(bench: &Bench, from: &str, seconds: u64, of: &str) -> anyhow::Result<Vec<String>> {
    eprintln!("{RATE} events/s from {from} for {seconds} s");
    let firn =
        Sidecar::start(bench, &format!("from-{from}"), &["--only", "enriched.clickhouse", "--only", "enriched.redis"])?;
    std::thread::sleep(Duration::from_secs(seconds + 10));
    let status = firn.status();
    firn.end()?;
    let sinks = status["sinks"].as_array().context("the status names no sinks")?;
    let line = |s: &serde_json::Value| {
        let (name, q) = (s["sink"].as_str().unwrap_or_default(), &s[of]);
        anyhow::ensure!(q["p99_ms"].is_u64(), "{name} has delivered nothing: {s}");
        let line = format!("| {from} | {name} | {} | {} |", q["p50_ms"], q["p99_ms"]);
        eprintln!("{line}");
        Ok(line)
    };
    sinks.iter().map(line).collect()
}

fn stack(args: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("deploy/native/stack").args(args).stdout(Stdio::null()).status()?;
    anyhow::ensure!(status.success(), "deploy/native/stack {} failed", args.join(" "));
    Ok(())
}

/// `firn run` with the example's configuration, into a database and a Redis of its own.
struct Sidecar {
    process: Measured,
    port: u16,
    log: String,
    database: String,
}

impl Sidecar {
    fn start(bench: &Bench, name: &str, args: &[&str]) -> anyhow::Result<Self> {
        let database = format!("bench_{}_{}", bench.run, name.replace(['.', '-'], "_").to_lowercase());
        stack(&["clickhouse", &format!("CREATE DATABASE IF NOT EXISTS {database}")])?;
        stack(&["redis-cli", "-n", REDIS_DB, "FLUSHDB"])?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let example = Path::new("examples/r2-enrichment/firn.toml");
        let example = std::fs::read_to_string(example).context("run from the repository's root")?;
        let config = bench.dir.join(format!("{name}.toml"));
        std::fs::write(&config, format!("{example}\n[serve]\nlisten = \"127.0.0.1:{port}\"\n"))?;
        let log = bench.dir.join(format!("{name}.log"));
        let mut command = Command::new(&bench.firn);
        command
            .arg("run")
            .arg("-c")
            .arg(&config)
            .args(args)
            .env("KAFKA_BOOTSTRAP", &bench.servers.kafka)
            .env("FIRN_GROUP", format!("bench-{}-{name}", bench.run))
            .env("CLICKHOUSE_URL", env("FIRN_CLICKHOUSE_URL", "http://127.0.0.1:8123"))
            .env("CLICKHOUSE_DATABASE", &database)
            .env("REDIS_HOST", "127.0.0.1")
            .env("REDIS_PORT", env("FIRN_REDIS_PORT", "6379"))
            .env("REDIS_DB", REDIS_DB)
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?);
        Ok(Self { process: Measured::spawn(&mut command)?, port, log: log.display().to_string(), database })
    }

    /// Null while it does not answer.
    fn status(&self) -> serde_json::Value {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let asked = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
            let url = format!("http://127.0.0.1:{}/status.json", self.port);
            runtime.block_on(async { Ok(reqwest::get(&url).await?.json().await?) })
        });
        asked.unwrap_or_default()
    }

    fn end(self) -> anyhow::Result<Usage> {
        self.process.terminate()?;
        let usage = self.process.ended()?;
        // Else the engine would merge and remove its parts beside what is measured next.
        stack(&["clickhouse", &format!("DROP DATABASE {} SYNC", self.database)])?;
        Ok(usage)
    }
}
