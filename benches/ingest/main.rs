//! Speed and memory of `firn run` on a real Kafka and a real Hive Metastore, against what the machine can do at all (LIMIT).
//!
//! `deploy/ci/bench` starts the servers and runs this. Every figure is of a whole process, from its start to its last commit.

mod limit;
mod process;
mod report;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use process::{Measured, Usage};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use report::{Line, Report};

/// What is asked of a run.
struct Case {
    name: &'static str,
    topic: String,
    mode: &'static str,
    /// Records in the topic.
    records: u64,
    commit_rows: u64,
}

fn env(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn number(name: &str, default: u64) -> anyhow::Result<u64> {
    env(name, &default.to_string()).parse().with_context(|| format!("{name} is not a number"))
}

const PARTITIONS: i32 = 4;
const THREADS: i32 = 2;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let bootstrap = env("FIRN_KAFKA_BOOTSTRAP", "127.0.0.1:9092");
    if let [kind, topic, events, dir] = args.as_slice()
        && kind == "limit"
    {
        let rows = limit::run(&bootstrap, topic, PARTITIONS, THREADS, events.parse()?, Path::new(dir))?;
        eprintln!("limit: {rows} rows");
        return Ok(());
    }

    let events = number("FIRN_BENCH_EVENTS", 4_000_000)?;
    let with_schema = number("FIRN_BENCH_SCHEMA_EVENTS", 1_000_000)?;
    let loaded = number("FIRN_BENCH_LOADED", 250_000)?;
    let dir = PathBuf::from(env("FIRN_BENCH_DIR", "/tmp/firn-bench"));
    std::fs::create_dir_all(&dir)?;
    let firn = PathBuf::from(env!("CARGO_BIN_EXE_firn"));
    let run = format!("{:x}", std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs());

    let mut report = Report::default();
    let append = fill(&firn, &bootstrap, events, "append", 0, "false")?;
    let base = limit(&bootstrap, &append.0, append.1, &dir)?;
    report.add(Line::new("LIMIT", append.1, base));
    let case = Case { name: "append", topic: append.0, mode: "append", records: append.1, commit_rows: 1_000_000 };
    let used = firn_run(&firn, &bootstrap, &dir, &run, &case)?;
    report.add(Line::new("append", case.records, used).against(&base, append.1));

    let upsert = fill(&firn, &bootstrap, events + loaded, "upsert", loaded, "false")?;
    let case = Case { name: "upsert", topic: upsert.0, mode: "upsert", records: upsert.1, commit_rows: 250_000 };
    let used = firn_run(&firn, &bootstrap, &dir, &run, &case)?;
    report.add(Line::new("upsert", case.records, used).against(&base, append.1));

    let blocks = fill(&firn, &bootstrap, with_schema, "append", 0, "true")?;
    let base = limit(&bootstrap, &blocks.0, blocks.1, &dir)?;
    report.add(Line::new("LIMIT, schema block", blocks.1, base));
    let case = Case { name: "schema", topic: blocks.0, mode: "append", records: blocks.1, commit_rows: 1_000_000 };
    let used = firn_run(&firn, &bootstrap, &dir, &run, &case)?;
    report.add(Line::new("append, schema block", case.records, used).against(&base, blocks.1));

    println!("{report}");
    Ok(())
}

/// The topic that the generator's `bench` schema fills.
const TOPIC: &str = "bench.public.events";

/// Makes the topic anew and fills it; answers its name and how many records it holds.
fn fill(
    firn: &Path,
    bootstrap: &str,
    changes: u64,
    mix: &str,
    keys: u64,
    schemas: &str,
) -> anyhow::Result<(String, u64)> {
    remove_topic(bootstrap)?;
    eprintln!("filling {TOPIC} with {changes} changes ({mix}, schemas.enable={schemas})");
    let output = Command::new(firn)
        .args(["generate", "--output", "json", "--schema", "bench", "--create-topics"])
        .args(["--bootstrap-servers", bootstrap, "--mix", mix, "--schemas-enable", schemas])
        .args(["--events", &changes.to_string(), "--keys", &keys.to_string()])
        .args(["--partitions", &PARTITIONS.to_string()])
        .stderr(std::process::Stdio::inherit())
        .output()?;
    anyhow::ensure!(output.status.success(), "firn generate failed");
    let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    let mut records = 0;
    for partition in 0..PARTITIONS {
        let (low, high) = client.fetch_watermarks(TOPIC, partition, Duration::from_secs(10))?;
        records += (high - low) as u64;
    }
    Ok((TOPIC.to_owned(), records))
}

fn remove_topic(bootstrap: &str) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    // A topic that was not there is as good as one that is gone.
    let _ = futures::executor::block_on(admin.delete_topics(&[TOPIC], &AdminOptions::new()))?;
    let gone = |admin: &AdminClient<DefaultClientContext>| -> anyhow::Result<bool> {
        let metadata = admin.inner().fetch_metadata(None, Duration::from_secs(10))?;
        Ok(metadata.topics().iter().all(|t| t.name() != TOPIC))
    };
    for _ in 0..100 {
        if gone(&admin)? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    anyhow::bail!("{TOPIC} was not deleted within 10 s")
}

fn limit(bootstrap: &str, topic: &str, events: u64, dir: &Path) -> anyhow::Result<Usage> {
    let dir = dir.join("limit");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["limit", topic, &events.to_string()]).arg(&dir).env("FIRN_KAFKA_BOOTSTRAP", bootstrap);
    let usage = Measured::spawn(&mut command)?.ended()?;
    std::fs::remove_dir_all(&dir)?;
    Ok(usage)
}

fn firn_run(firn: &Path, bootstrap: &str, dir: &Path, run: &str, case: &Case) -> anyhow::Result<Usage> {
    let warehouse = dir.join("warehouse");
    std::fs::create_dir_all(&warehouse)?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let config = format!(
        r#"
[kafka]
bootstrap_servers = "{bootstrap}"
group = "bench-{run}-{name}"
workers = {THREADS}
[catalog]
type = "hive"
uri = "{hms}"
name = "bench"
warehouse = "file://{warehouse}"
[lake]
topics = ["{topic}"]
mode = "{mode}"
namespace = "bench_{run}"
table = "{name}"
commit_interval_ms = 600000
commit_rows = {commit_rows}
key = ["id"]
[lake.columns]
id = "long"
account = "int"
kind = "string"
amount = "decimal(12,2)"
made_at = "timestamp"
updated_at = "timestamptz"
note = "string"
[serve]
listen = "127.0.0.1:{port}"
"#,
        name = case.name,
        hms = env("FIRN_HMS_URI", "thrift://127.0.0.1:9083"),
        warehouse = warehouse.display(),
        topic = case.topic,
        mode = case.mode,
        commit_rows = case.commit_rows,
    );
    let path = dir.join(format!("{}.toml", case.name));
    std::fs::write(&path, config)?;
    let mut command = Command::new(firn);
    command.arg("run").arg("-c").arg(&path);
    eprintln!("{}: {} records", case.name, case.records);
    let process = Measured::spawn(&mut command)?;
    // When every record is taken, SIGTERM makes firn commit the rest and end: the figures are those of the ended process.
    loop {
        if taken(&metrics(port).unwrap_or_default()) >= case.records {
            break;
        }
        anyhow::ensure!(
            process.elapsed() < Duration::from_secs(1_800),
            "not done within 30 minutes; see the log above"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    process.terminate()?;
    process.ended()
}

/// firn's metrics, by a request that costs next to nothing: the machine is the run's.
fn metrics(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Records that firn has taken from Kafka, whatever became of them.
fn taken(metrics: &str) -> u64 {
    metrics
        .lines()
        .filter(|l| l.starts_with("firn_records_total{"))
        .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
        .sum::<f64>() as u64
}
