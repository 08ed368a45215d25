//! A thousand tables that each get little: memory, CPU and commits of one process, once all of them are there.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

use crate::Bench;
use crate::process::{cpu_seconds, peak_rss_bytes};
use crate::report::percentile;
use crate::servers::number;
use crate::writer::{Setup, Storage};

/// Events a second, over all tables.
const RATE: u64 = 1_000;
/// Rows that the changes of a table go to.
const KEYS: u64 = 5_000;

pub fn run(bench: &Bench) -> anyhow::Result<String> {
    let tables = number("FIRN_BENCH_TABLES", 1_000)?;
    let interval_s = number("FIRN_BENCH_TABLES_INTERVAL", 300)?;
    let topics: Vec<String> = (0..tables).map(|n| format!("many{n:04}.public.t{n:04}")).collect();
    make(&bench.servers.kafka, &topics)?;
    let events = Flow::begin(&bench.servers.kafka, topics.clone())?;
    let setup = Setup {
        name: "tables",
        topics: "many*",
        table: "{table}",
        mode: "upsert",
        storage: Storage::Minio,
        commit_rows: 1_000_000,
        commit_interval_ms: interval_s * 1000,
    };
    eprintln!("tables: {tables}, a commit of each every {interval_s} s");
    let mut writer = setup.start(bench)?;
    // The first commits make the tables; then one interval of each is looked at.
    let interval = Duration::from_secs(interval_s);
    writer.wait_for("firn_commits_total", tables, interval * 3 + Duration::from_secs(300))?;
    let (began, cpu) = (Instant::now(), cpu_seconds(writer.pid())?);
    let before = commit_ms(&writer.log)?.len();
    std::thread::sleep(interval);
    let percent = 100.0 * (cpu_seconds(writer.pid())? - cpu) / began.elapsed().as_secs_f64();
    let peak = peak_rss_bytes(writer.pid())?;
    let took = commit_ms(&writer.log)?.split_off(before);
    events.end()?;
    writer.end()?;
    remove(&bench.servers.kafka, &topics)?;
    let line = format!(
        "| {tables} | {RATE} | {interval_s} | {:.0} | {percent:.1} | {} | {:.0} | {:.0} |",
        peak as f64 / 1048576.0,
        took.len(),
        percentile(&took, 0.5),
        percentile(&took, 0.99)
    );
    eprintln!("{line}");
    Ok(format!(
        "| tables | events/s | interval s | peak RSS MiB | % of a core | commits | p50 ms | p99 ms |\n\
         |---:|---:|---:|---:|---:|---:|---:|---:|\n{line}\n"
    ))
}

fn commit_ms(log: &Path) -> anyhow::Result<Vec<f64>> {
    Ok(crate::commits::commit_ms(log).unwrap_or_default())
}

fn admin(bootstrap: &str) -> anyhow::Result<AdminClient<DefaultClientContext>> {
    Ok(ClientConfig::new().set("bootstrap.servers", bootstrap).create()?)
}

/// Makes the topics, of one partition each.
fn make(bootstrap: &str, topics: &[String]) -> anyhow::Result<()> {
    remove(bootstrap, topics)?;
    let admin = admin(bootstrap)?;
    for some in topics.chunks(100) {
        let new: Vec<NewTopic<'_>> = some.iter().map(|t| NewTopic::new(t, 1, TopicReplication::Fixed(1))).collect();
        for made in futures::executor::block_on(admin.create_topics(&new, &AdminOptions::new()))? {
            made.map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}"))?;
        }
    }
    Ok(())
}

fn remove(bootstrap: &str, topics: &[String]) -> anyhow::Result<()> {
    let admin = admin(bootstrap)?;
    let there = |left: &mut Vec<String>| -> anyhow::Result<()> {
        let metadata = admin.inner().fetch_metadata(None, Duration::from_secs(30))?;
        left.retain(|topic| metadata.topics().iter().any(|t| t.name() == topic));
        Ok(())
    };
    let mut left = topics.to_vec();
    for _ in 0..600 {
        there(&mut left)?;
        if left.is_empty() {
            return Ok(());
        }
        for some in left.chunks(100) {
            let names: Vec<&str> = some.iter().map(String::as_str).collect();
            let _ = futures::executor::block_on(admin.delete_topics(&names, &AdminOptions::new()))?;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    anyhow::bail!("{} topics are still there", left.len())
}

/// Changes that go on until it is ended, one topic after the other.
struct Flow {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Flow {
    fn begin(bootstrap: &str, topics: Vec<String>) -> anyhow::Result<Self> {
        let producer: ThreadedProducer<DefaultProducerContext> =
            ClientConfig::new().set("bootstrap.servers", bootstrap).set("linger.ms", "50").create()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let began = Instant::now();
            let mut sent = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                let due = began.elapsed().as_millis() as u64 * RATE / 1_000;
                while sent < due {
                    let topic = topics.get((sent % topics.len() as u64) as usize).context("there is no topic")?;
                    let (key, value) = change(topic, sent);
                    let record = BaseRecord::to(topic).key(&key).payload(&value);
                    producer.send(record).map_err(|(e, _)| e)?;
                    sent += 1;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(producer.flush(Duration::from_secs(10))?)
        });
        Ok(Self { stop, thread })
    }

    fn end(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the producer broke off"))?
    }
}

/// An insert or an update, as Debezium writes it; keys come in an order that looks like chance.
fn change(topic: &str, n: u64) -> (String, String) {
    let id = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % KEYS;
    let ms = 1_750_000_000_000 + n;
    let value = format!(
        r#"{{"before":null,"after":{{"id":{id},"account":{},"kind":"{}","amount":"ATk=","made_at":{ms},"updated_at":"2025-06-15T12:00:00.{:06}Z","note":"{}"}},"source":{{"version":"3.7.0.Final","connector":"postgresql","name":"many","ts_ms":{ms},"snapshot":"false","db":"source","schema":"public","table":"{topic}","txId":{n},"lsn":{n}}},"op":"u","ts_ms":{ms}}}"#,
        n % 100,
        ["open", "paid", "sent"][(n % 3) as usize],
        n % 1_000_000,
        "words ".repeat(1 + (n % 20) as usize),
    );
    (format!(r#"{{"id":{id}}}"#), value)
}
