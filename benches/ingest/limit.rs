//! LIMIT: what the machine can do with the same records when nothing has to be right. Consume with librdkafka, parse the envelope
//! borrowed, decode with arrow-json, write Parquet (zstd 1), origin columns too; one consumer a thread; no table, no commit.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow_json::ReaderBuilder;
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Bare<'a> {
    #[serde(borrow)]
    before: Option<&'a RawValue>,
    #[serde(borrow)]
    after: Option<&'a RawValue>,
    op: &'a str,
    source: Source,
}

#[derive(Deserialize)]
struct WithSchema<'a> {
    #[serde(borrow)]
    payload: Bare<'a>,
}

#[derive(Deserialize)]
struct Source {
    ts_ms: i64,
    lsn: Option<i64>,
}

/// The bench table's columns as they stand in the message: what arrow-json decodes fastest.
fn row_schema() -> Schema {
    Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("account", DataType::Int32, true),
        Field::new("kind", DataType::Utf8, true),
        Field::new("amount", DataType::Utf8, true),
        Field::new("made_at", DataType::Int64, true),
        Field::new("updated_at", DataType::Utf8, true),
        Field::new("note", DataType::Utf8, true),
    ])
}

fn origin_fields() -> Vec<Field> {
    vec![
        Field::new("topic", DataType::Utf8, false),
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("op", DataType::Utf8, false),
        Field::new("source_ts", DataType::Timestamp(TimeUnit::Millisecond, None), false),
        Field::new("source_lsn", DataType::Int64, true),
    ]
}

/// Reads `events` records of `topic` with `threads` threads into `dir`; answers the rows written.
pub fn run(
    bootstrap: &str,
    topic: &str,
    partitions: i32,
    threads: i32,
    events: u64,
    dir: &Path,
) -> anyhow::Result<u64> {
    let seen = Arc::new(AtomicU64::new(0));
    let handles: Vec<_> = (0..threads)
        .map(|thread| {
            let mut list = TopicPartitionList::new();
            for p in (0..partitions).filter(|p| p % threads == thread) {
                list.add_partition_offset(topic, p, Offset::Beginning)?;
            }
            let consumer: BaseConsumer = ClientConfig::new()
                .set("bootstrap.servers", bootstrap)
                .set("group.id", "limit")
                .set("enable.auto.commit", "false")
                .set("queued.max.messages.kbytes", "65536")
                .set("queued.min.messages", "1000000")
                .set("fetch.queue.backoff.ms", "2")
                .create()?;
            consumer.assign(&list)?;
            let (seen, path) = (Arc::clone(&seen), dir.join(format!("limit-{thread}.parquet")));
            Ok(std::thread::spawn(move || write(&consumer, events, &seen, &path)))
        })
        .collect::<anyhow::Result<_>>()?;
    let mut rows = 0;
    for handle in handles {
        rows += handle.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    }
    Ok(rows)
}

fn write(consumer: &BaseConsumer, events: u64, seen: &AtomicU64, path: &Path) -> anyhow::Result<u64> {
    const BATCH: usize = 8_192;
    let schema = Arc::new(row_schema());
    let mut decoder = ReaderBuilder::new(Arc::clone(&schema)).with_batch_size(BATCH).build_decoder()?;
    let fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).chain(origin_fields()).collect();
    let full = Arc::new(Schema::new(fields));
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?)).build();
    let mut writer = ArrowWriter::try_new(File::create(path)?, Arc::clone(&full), Some(properties))?;
    let (mut partition, mut offset, mut ts, mut lsn) = (vec![], vec![], vec![], vec![]);
    let (mut topics, mut ops): (Vec<String>, Vec<String>) = (vec![], vec![]);
    let mut rows = 0;
    loop {
        let message = consumer.poll(Duration::from_millis(50));
        let all = seen.load(Ordering::Relaxed) >= events;
        if let Some(message) = message {
            let message = message?;
            seen.fetch_add(1, Ordering::Relaxed);
            if let Some(payload) = message.payload() {
                let envelope = if payload.starts_with(br#"{"schema""#) {
                    serde_json::from_slice::<WithSchema<'_>>(payload)?.payload
                } else {
                    serde_json::from_slice::<Bare<'_>>(payload)?
                };
                if let Some(row) = envelope.after.or(envelope.before) {
                    decoder.decode(row.get().as_bytes())?;
                    topics.push(message.topic().to_owned());
                    ops.push(envelope.op.to_owned());
                    partition.push(message.partition());
                    offset.push(message.offset());
                    ts.push(envelope.source.ts_ms);
                    lsn.push(envelope.source.lsn);
                }
            }
        }
        if partition.len() >= BATCH || (all && !partition.is_empty()) {
            let Some(batch) = decoder.flush()? else { continue };
            let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
            columns.push(Arc::new(StringArray::from(std::mem::take(&mut topics))));
            columns.push(Arc::new(Int32Array::from(std::mem::take(&mut partition))));
            columns.push(Arc::new(Int64Array::from(std::mem::take(&mut offset))));
            columns.push(Arc::new(StringArray::from(std::mem::take(&mut ops))));
            columns.push(Arc::new(TimestampMillisecondArray::from(std::mem::take(&mut ts))));
            columns.push(Arc::new(Int64Array::from(std::mem::take(&mut lsn))));
            rows += batch.num_rows() as u64;
            writer.write(&RecordBatch::try_new(Arc::clone(&full), columns)?)?;
        } else if all {
            break;
        }
    }
    writer.close()?;
    Ok(rows)
}
