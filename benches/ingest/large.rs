//! Upserts into a table of 100 million rows against the same into one of a million: whole processes, and the rebuild of a lost index.
//!
//! Trino writes the rows: for firn those are another writer's files, which it has to scan.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::Bench;
use crate::process::Usage;
use crate::servers::number;
use crate::topic::{self, Fill, PARTITIONS, TOPIC};
use crate::trino::Trino;
use crate::writer::{Setup, Storage};

const AT_MOST: Duration = Duration::from_secs(3_600);
/// Rows of one statement in Trino.
const WRITTEN_AT_ONCE: u64 = 10_000_000;
const SMALL: u64 = 1_000_000;

struct Run {
    rows: u64,
    changes: u64,
    usage: Usage,
    rebuild_s: f64,
    rebuild_rss_bytes: u64,
    index_bytes: u64,
}

pub fn run(bench: &Bench) -> anyhow::Result<String> {
    let large = number("FIRN_BENCH_ROWS", 100_000_000)?;
    let small = run_at(bench, "small", SMALL)?;
    let large = run_at(bench, "large", large)?;
    let rate = |run: &Run| run.changes as f64 / run.usage.wall_s;
    let line = |run: &Run| {
        format!(
            "| {} | {} | {:.1} | {:.0} | {:.2} | {:.0} | {:.1} | {:.2} | {:.0} | {:.1} |",
            run.rows,
            run.changes,
            run.usage.wall_s,
            rate(run),
            rate(run) / rate(&small),
            run.usage.peak_rss_bytes as f64 / 1_048_576.0,
            run.rebuild_s,
            run.rows as f64 / run.rebuild_s / 1e6,
            run.rebuild_rss_bytes as f64 / 1_048_576.0,
            run.index_bytes as f64 / run.rows as f64
        )
    };
    Ok(format!(
        "| rows in the table | changes | wall s | changes/s | ratio | peak RSS MiB | rebuild s | rebuild, M keys/s | rebuild, peak RSS MiB | index, bytes a key |\n\
         |---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n{}\n{}\n",
        line(&small),
        line(&large)
    ))
}

fn run_at(bench: &Bench, name: &'static str, rows: u64) -> anyhow::Result<Run> {
    let changes = number("FIRN_BENCH_CHANGES", 2_000_000)?;
    let setup = Setup {
        name,
        topics: TOPIC,
        table: name,
        mode: "upsert",
        storage: Storage::Minio,
        commit_rows: 250_000,
        commit_interval_ms: 600_000,
    };
    let _ = std::fs::remove_dir_all(setup.index_dir(bench));

    // firn makes the table, with a few rows; they come again with other values.
    let made = topic::fill(bench, &Fill { changes: 1_000, mix: "upsert", keys: 1_000, schema_block: false })?;
    let mut writer = setup.start(bench)?;
    writer.wait_for("firn_records_total", made, AT_MOST)?;
    writer.end()?;
    write_rows(bench, &setup, rows)?;

    // What a lost index costs: a few changes, for which all keys have to be read.
    std::fs::remove_dir_all(setup.index_dir(bench))?;
    send(bench, rows, 1_000)?;
    let mut writer = Setup { commit_interval_ms: 1_000, ..setup }.start(bench)?;
    writer.wait_for("firn_commits_total", 1, AT_MOST)?;
    let rebuild_s = writer.value("firn_index_rebuild_seconds_sum");
    anyhow::ensure!(rebuild_s > 0.0, "nothing was scanned; see {}", writer.log.display());
    let rebuild = writer.end()?;

    let sent = send(bench, rows, changes)?;
    eprintln!("{name}: {sent} changes of {rows} rows");
    let mut writer = setup.start(bench)?;
    writer.wait_for("firn_records_total", sent, AT_MOST)?;
    let usage = writer.end()?;
    let index_bytes = bytes_below(&setup.index_dir(bench))?;
    Ok(Run { rows, changes: sent, usage, rebuild_s, rebuild_rss_bytes: rebuild.peak_rss_bytes, index_bytes })
}

/// All rows up to this one that are not there yet.
fn write_rows(bench: &Bench, setup: &Setup, rows: u64) -> anyhow::Result<()> {
    let trino = Trino::new(bench)?;
    let table = format!("{}.{}.{}", bench.servers.trino_catalog, setup.namespace(bench), setup.name);
    trino.run(&format!("DELETE FROM {table}"))?;
    for first in (0..rows).step_by(WRITTEN_AT_ONCE as usize) {
        let thousands = WRITTEN_AT_ONCE.min(rows - first) / 1_000;
        eprintln!("{}: {} rows by Trino", setup.name, first + thousands * 1_000);
        trino.run(&format!(
            "INSERT INTO {table} (id, account, kind, amount, made_at, updated_at, note) \
             SELECT {first} + a * 1000 + b, CAST(b AS integer), 'kind', DECIMAL '10.00', TIMESTAMP '2024-01-01 00:00:00.000000', \
             TIMESTAMP '2024-01-01 00:00:00.000000 UTC', 'a note' \
             FROM UNNEST(sequence(0, {thousands} - 1)) t (a) CROSS JOIN UNNEST(sequence(0, 999)) u (b)"
        ))?;
    }
    Ok(())
}

/// Changes of rows chosen evenly, seven updates, one delete (with its tombstone) and two new rows of ten. Answers how many records.
fn send(bench: &Bench, rows: u64, changes: u64) -> anyhow::Result<u64> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &bench.servers.kafka)
        .set("linger.ms", "20")
        .set("batch.size", "1000000")
        .set("queue.buffering.max.messages", "1000000")
        .create()?;
    let (mut luck, mut records, mut born) = (0x9e37_79b9_7f4a_7c15_u64, 0, rows);
    for n in 0..changes {
        // xorshift: the choice has to be even, no more.
        luck ^= luck << 13;
        luck ^= luck >> 7;
        luck ^= luck << 17;
        let (op, id) = match n % 10 {
            0..7 => ("u", luck % rows),
            7 => ("d", luck % rows),
            _ => ("c", born),
        };
        born += u64::from(op == "c");
        let row = format!(
            r#"{{"id":{id},"account":{},"kind":"changed","amount":"AMg=","made_at":1717200000000000,"updated_at":"2024-06-01T00:00:00.000000Z","note":"change {n}"}}"#,
            n % 1_000
        );
        let (before, after) = if op == "d" { (row.as_str(), "null") } else { ("null", row.as_str()) };
        let value = format!(
            r#"{{"before":{before},"after":{after},"source":{{"version":"3.7.0.Final","connector":"postgresql","name":"bench","ts_ms":1717200000000,"snapshot":"false","db":"bench","sequence":"[null,\"1\"]","schema":"public","table":"events","txId":{n},"lsn":{n},"xmin":null}},"op":"{op}","ts_ms":1717200000001,"transaction":null}}"#
        );
        let key = format!(r#"{{"id":{id}}}"#);
        // By the key, as Kafka Connect does: a key stays in its partition.
        let partition = (id % PARTITIONS as u64) as i32;
        put(&producer, partition, &key, Some(&value))?;
        records += 1;
        if op == "d" {
            put(&producer, partition, &key, None)?;
            records += 1;
        }
    }
    producer.flush(Duration::from_secs(60))?;
    Ok(records)
}

fn put(producer: &BaseProducer, partition: i32, key: &str, value: Option<&str>) -> anyhow::Result<()> {
    loop {
        let mut record = BaseRecord::to(TOPIC).partition(partition).key(key);
        if let Some(value) = value {
            record = record.payload(value);
        }
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((e, _)) if e.rdkafka_error_code() == Some(rdkafka::types::RDKafkaErrorCode::QueueFull) => {
                producer.poll(Duration::from_millis(50));
            }
            Err((e, _)) => return Err(e.into()),
        }
    }
}

fn bytes_below(folder: &std::path::Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { bytes_below(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}
