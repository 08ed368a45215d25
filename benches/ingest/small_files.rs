//! Tables of many small files, the same ones in each, with some rows deleted by position.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use arrow_array::{
    ArrayRef, Decimal128Array, FixedSizeBinaryArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use async_trait::async_trait;
use bytes::Bytes;
use firn_catalog::{Attempt, Catalog, CommitError, Patience, Plan, Planner, RowDelta, SpecFile};
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::metadata_columns::{RESERVED_FIELD_ID_DELETE_FILE_PATH, RESERVED_FIELD_ID_DELETE_FILE_POS};
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, NestedField, PrimitiveType, Schema, Struct, Type,
};
use iceberg::table::Table;
use iceberg::{NamespaceIdent, TableCreation, TableIdent};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

/// Files of one commit.
const COMMITTED_AT_ONCE: u64 = 100;
/// Every so many files one has deletes, of every so many rows.
const DELETES_EVERY: u64 = 10;
const DELETED_EVERY: i64 = 20;
const THREADS: u64 = 2;
/// To learn how large a row gets.
const TRIED_ROWS: u64 = 10_000;
/// Enough that a text is rarely the same twice.
const WORDS: u64 = 3_000;

/// A table to be made.
pub struct Empty {
    pub catalog: Arc<dyn Catalog>,
    pub namespace: String,
    pub name: &'static str,
}

/// What was made.
#[derive(Debug, Default)]
pub struct Made {
    pub rows: u64,
    pub deleted_rows: u64,
    pub bytes: u64,
    /// Of the first table.
    pub data_files: Vec<String>,
}

/// Opens the catalog that a configuration file names.
pub async fn catalog(config: &Path) -> anyhow::Result<Arc<dyn Catalog>> {
    Ok(firn::catalogs::open(&firn::config::Config::load(config)?.catalog).await?)
}

/// Makes the tables, each of so many files and so many bytes.
pub async fn make(tables: &[Empty], files: u64, bytes: u64) -> anyhow::Result<Made> {
    let mut created = vec![];
    for Empty { catalog, namespace, name } in tables {
        let namespace = NamespaceIdent::new(namespace.clone());
        catalog.ensure_namespace(&namespace, std::collections::HashMap::new()).await?;
        let creation = TableCreation::builder().name((*name).to_owned()).schema(columns()?).build();
        created.push((
            catalog,
            TableIdent::new(namespace.clone(), (*name).to_owned()),
            catalog.create(&namespace, creation).await?,
        ));
    }
    let tried = encode(0, TRIED_ROWS)?.len() as u64;
    let rows = (bytes / files.max(1) * TRIED_ROWS / tried).max(1);
    eprintln!("{files} files of {rows} rows, {} bytes a row, for {} tables", tried / TRIED_ROWS, tables.len());
    let (to_store, encoded) = sync_channel::<anyhow::Result<(u64, Bytes)>>(4);
    for thread in 0..THREADS {
        let to_store = to_store.clone();
        std::thread::spawn(move || {
            for n in (thread..files).step_by(THREADS as usize) {
                if to_store.send(encode(n * rows, rows).map(|bytes| (n, bytes))).is_err() {
                    return;
                }
            }
        });
    }
    drop(to_store);
    let mut made = Made::default();
    let mut deltas: Vec<RowDelta> = tables.iter().map(|_| RowDelta::default()).collect();
    for stored in 1..=files {
        let (n, bytes) = encoded.recv()??;
        (made.rows, made.bytes) = (made.rows + rows, made.bytes + bytes.len() as u64);
        for (at, ((_, _, table), delta)) in created.iter().zip(&mut deltas).enumerate() {
            let file = put(table, &format!("small-{n:06}"), bytes.clone(), rows, DataContentType::Data).await?;
            if at == 0 {
                made.data_files.push(file.file_path().to_owned());
            }
            if n % DELETES_EVERY == 0 {
                let (bytes, deleted) = encode_deletes(file.file_path(), rows)?;
                let name = format!("small-{n:06}-deletes");
                let deletes = put(table, &name, bytes, deleted, DataContentType::PositionDeletes).await?;
                delta.delete_files.push(SpecFile { spec_id: 0, file: deletes });
                made.deleted_rows += if at == 0 { deleted } else { 0 };
            }
            delta.data_files.push(SpecFile { spec_id: 0, file });
        }
        if stored % COMMITTED_AT_ONCE == 0 || stored == files {
            for ((catalog, ident, _), delta) in created.iter().zip(&mut deltas) {
                let mut plan = AsItIs(std::mem::take(delta));
                let id = firn_catalog::new_snapshot_id();
                firn_catalog::commit(catalog.as_ref(), ident, id, &mut plan, Patience::default()).await?;
            }
        }
    }
    Ok(made)
}

struct AsItIs(RowDelta);

#[async_trait]
impl Planner for AsItIs {
    async fn plan(&mut self, _base: &Table, _attempt: Attempt) -> Result<Plan, CommitError> {
        Ok(Plan { delta: self.0.clone(), ..Plan::default() })
    }
}

async fn put(table: &Table, name: &str, bytes: Bytes, rows: u64, content: DataContentType) -> anyhow::Result<DataFile> {
    let path = format!("{}/data/{name}.parquet", table.metadata().location());
    let size = bytes.len() as u64;
    table.file_io().new_output(&path)?.write(bytes).await?;
    Ok(DataFileBuilder::default()
        .content(content)
        .file_path(path)
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::empty())
        .partition_spec_id(0)
        .record_count(rows)
        .file_size_in_bytes(size)
        .build()?)
}

fn columns() -> anyhow::Result<Schema> {
    let field = |id, name: &str, of| Arc::new(NestedField::required(id, name, Type::Primitive(of)));
    Ok(Schema::builder()
        .with_fields([
            field(1, "id", PrimitiveType::Long),
            field(2, "request", PrimitiveType::Uuid),
            field(3, "status", PrimitiveType::String),
            field(4, "title", PrimitiveType::String),
            field(5, "made_at", PrimitiveType::Timestamptz),
            field(6, "amount", PrimitiveType::Decimal { precision: 12, scale: 2 }),
            field(7, "payload", PrimitiveType::String),
        ])
        .build()?)
}

/// xorshift: the choice has to be even, no more.
struct Luck(u64);

impl Luck {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn words(&mut self, at_least: u64, spread: u64) -> String {
        const SYLLABLES: [&str; 16] =
            ["ka", "ro", "mi", "ten", "sol", "ver", "lu", "da", "nor", "pe", "shi", "gra", "um", "el", "fo", "bri"];
        let mut text = String::new();
        for _ in 0..at_least + self.next() % spread {
            // Some words are more common than others.
            let word = (self.next() % WORDS) * (self.next() % WORDS) / WORDS;
            if !text.is_empty() {
                text.push(' ');
            }
            for shift in [0, 4, 8] {
                text.push_str(SYLLABLES[(word >> shift) as usize % SYLLABLES.len()]);
            }
        }
        text
    }
}

/// Rows of these ids in a file.
fn encode(first: u64, rows: u64) -> anyhow::Result<Bytes> {
    let mut luck = Luck((first + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let (mut ids, mut requests, mut status, mut titles) = (vec![], vec![], vec![], vec![]);
    let (mut made, mut amounts, mut payloads) = (vec![], vec![], vec![]);
    for id in first..first + rows {
        ids.push(id as i64);
        requests.push((u128::from(luck.next()) << 64 | u128::from(luck.next())).to_be_bytes());
        status.push(["open", "paid", "sent", "returned"][(luck.next() % 4) as usize]);
        titles.push(luck.words(3, 6));
        made.push(1_700_000_000_000_000 + id as i64 * 1_700 + (luck.next() % 1_000) as i64);
        amounts.push(i128::from(luck.next() % 1_000_000));
        payloads.push(format!(
            r#"{{"account":{},"country":"{}","device":{{"os":"{}","build":{}}},"note":"{}"}}"#,
            luck.next() % 500_000,
            ["DE", "FR", "US", "JP", "BR"][(luck.next() % 5) as usize],
            ["android", "ios", "web"][(luck.next() % 3) as usize],
            luck.next() % 400,
            luck.words(5, 12)
        ));
    }
    let arrow = Arc::new(schema_to_arrow_schema(&columns()?)?);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids)),
        Arc::new(FixedSizeBinaryArray::try_from_iter(requests.into_iter())?),
        Arc::new(StringArray::from(status)),
        Arc::new(StringArray::from(titles)),
        Arc::new(TimestampMicrosecondArray::from(made).with_timezone("+00:00")),
        Arc::new(Decimal128Array::from(amounts).with_precision_and_scale(12, 2)?),
        Arc::new(StringArray::from(payloads)),
    ];
    parquet(&RecordBatch::try_new(arrow, columns)?)
}

/// Every so many rows of a file; answers how many.
fn encode_deletes(path: &str, rows: u64) -> anyhow::Result<(Bytes, u64)> {
    let field = |id, name: &str, of| Arc::new(NestedField::required(id, name, Type::Primitive(of)));
    let schema = Schema::builder()
        .with_fields([
            field(RESERVED_FIELD_ID_DELETE_FILE_PATH, "file_path", PrimitiveType::String),
            field(RESERVED_FIELD_ID_DELETE_FILE_POS, "pos", PrimitiveType::Long),
        ])
        .build()?;
    let positions: Vec<i64> = (0..rows as i64).step_by(DELETED_EVERY as usize).collect();
    let deleted = positions.len() as u64;
    let columns: Vec<ArrayRef> =
        vec![Arc::new(StringArray::from(vec![path; positions.len()])), Arc::new(Int64Array::from(positions))];
    let batch = RecordBatch::try_new(Arc::new(schema_to_arrow_schema(&schema)?), columns)?;
    Ok((parquet(&batch)?, deleted))
}

fn parquet(batch: &RecordBatch) -> anyhow::Result<Bytes> {
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?)).build();
    let mut bytes = vec![];
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties))?;
    writer.write(batch)?;
    writer.close()?;
    Ok(bytes.into())
}
