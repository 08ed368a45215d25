//! A source that alters its table while it is written to, read by two processes: decoder and lake together, as the pipeline drives
//! them. Partitions are read at different speeds, so records of older schemas come after those of newer ones.
//!
//! `FIRN_EVOLUTION_SEEDS=5000` runs more seeds, `FIRN_EVOLUTION_SEED=17` one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use firn::change::Mode;
use firn::debezium::{DecodeOptions, Decoder, Pushed};
use firn::lineage::{Asker, DroppedColumn, TypeChange};
use firn::position::{Span, TopicPartition};
use firn::record::Record;
use firn::sink::lake::{ColumnChange, CommitFailure, LakeError, LakeTable, TableColumns, TableSpec, schema_history};
use firn_catalog::Catalog;
use firn_catalog::memory::MemoryCatalog;
use futures::TryStreamExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rstest::rstest;
use serde_json::{Value, json};
use tokio::runtime::Handle;

const TOPIC: &str = "shop.public.t";

/// One Kafka message.
#[derive(Clone, Debug)]
struct Message {
    key: String,
    /// `None` is a tombstone.
    value: Option<String>,
}

type Log = BTreeMap<i32, Vec<Message>>;

fn at(partition: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, partition)
}

/// A change as Debezium writes it; `columns` are names with Connect's types, the first is the key.
fn message(lsn: i64, columns: &[(String, &str)], id: i64, row: Option<Value>) -> Message {
    let fields: Vec<Value> =
        columns.iter().map(|(name, kind)| json!({"field": name, "type": kind, "optional": name != "id"})).collect();
    let side = |name: &str| json!({"type": "struct", "fields": fields, "optional": true, "field": name});
    let op = if row.is_some() { "u" } else { "d" };
    let before = if row.is_some() { Value::Null } else { json!({"id": id}) };
    let key = json!({"schema": {"type": "struct", "fields": [fields[0]]}, "payload": {"id": id}});
    let value = json!({
        "schema": {"type": "struct", "fields": [side("before"), side("after")]},
        "payload": {"before": before, "after": row, "source": {"ts_ms": lsn, "lsn": lsn}, "op": op},
    });
    Message { key: key.to_string(), value: Some(value.to_string()) }
}

/// What one worker of a process does, one record after the other.
struct Process {
    table: LakeTable,
    decoder: Decoder,
    columns: Option<TableColumns>,
    /// The next offset to read.
    next: BTreeMap<i32, i64>,
    /// Where the open batch began.
    from: BTreeMap<i32, i64>,
    rejected: Vec<String>,
    /// Times that it had to read again because the columns had moved.
    moved: usize,
}

impl Process {
    async fn start(catalog: &MemoryCatalog, spec: &TableSpec, partitions: &[i32]) -> Self {
        let table = LakeTable::open(Arc::new(catalog.clone()), spec.clone(), Handle::current()).await.unwrap();
        let next: BTreeMap<i32, i64> = partitions.iter().map(|p| (*p, 0)).collect();
        let mut process =
            Self { table, decoder: decoder(spec), columns: None, from: next.clone(), next, rejected: vec![], moved: 0 };
        process.restart().await;
        process
    }

    async fn restart(&mut self) {
        self.decoder = decoder(self.table.spec());
        let checkpoint = self.table.checkpoint().await.unwrap().unwrap_or_default();
        for (partition, next) in &mut self.next {
            *next = checkpoint.next(&at(*partition)).unwrap_or(0);
        }
        self.from = self.next.clone();
        self.table.own(self.next.keys().map(|p| at(*p)));
        if let Some(columns) = self.table.columns() {
            self.set(columns);
        }
    }

    fn set(&mut self, columns: TableColumns) {
        self.decoder.set_table(columns.rows(), columns.lineage()).unwrap();
        self.columns = Some(columns);
    }

    /// Reads up to `most` records of a partition. False when it has to begin anew.
    async fn read(&mut self, log: &Log, partition: i32, most: usize) -> Result<bool, LakeError> {
        for _ in 0..most {
            let offset = self.next[&partition];
            let Some(message) = log[&partition].get(offset as usize) else { break };
            let record = Record {
                topic: TOPIC,
                partition,
                offset,
                key: Some(message.key.as_bytes()),
                value: message.value.as_deref().map(str::as_bytes),
                ..Record::default()
            };
            let mut pushed = self.decoder.push(&record);
            if let Pushed::NeedsSchema(asked) = pushed {
                if !self.commit().await {
                    return Ok(false);
                }
                let asker = Asker { origin: record.origin(), lsn: self.decoder.asking_lsn() };
                let columns = match self.table.agree(&asked, Some(&asker)).await {
                    Err(LakeError::Incompatible { .. }) if self.table.spec().type_change == TypeChange::DeadLetters => {
                        self.table.columns().unwrap()
                    }
                    other => other?,
                };
                self.set(columns);
                pushed = self.decoder.push(&record);
            }
            match pushed {
                Pushed::Row(_) | Pushed::Skipped(_) | Pushed::Truncate(_) => {}
                Pushed::Rejected(reject) => self.rejected.push(format!("{}: {}", reject.reason, reject.detail)),
                Pushed::NeedsSchema(_) | Pushed::NeedsWriterSchema(_) | Pushed::NeedsSource { .. } => {
                    panic!("asked again: {pushed:?}")
                }
            }
            self.next.insert(partition, offset + 1);
        }
        Ok(true)
    }

    /// Commits what was read. False when the table's columns or position had moved: all is read again.
    async fn commit(&mut self) -> bool {
        let batch = self.decoder.finish();
        let spans: Vec<Span> = self.next.iter().map(|(p, next)| Span::new(at(*p), self.from[p], *next)).collect();
        let Some(columns) = self.columns.clone() else { return true };
        let mut stager = self.table.stager_for(&columns).unwrap();
        let staged = tokio::task::spawn_blocking(move || {
            if batch.num_rows() > 0 {
                stager.write(batch).unwrap();
            }
            stager.close(spans).unwrap()
        });
        match self.table.commit(vec![staged.await.unwrap()]).await {
            Ok(_) => {
                self.from = self.next.clone();
                true
            }
            Err(CommitFailure::SchemaMoved(parts)) => {
                self.moved += 1;
                self.table.discard(parts).await;
                self.restart().await;
                false
            }
            Err(e) => panic!("{e}"),
        }
    }

    async fn read_to_the_end(&mut self, log: &Log) {
        for _ in 0..100 {
            let mut whole = true;
            for partition in self.next.keys().copied().collect::<Vec<_>>() {
                whole &= self.read(log, partition, usize::MAX).await.unwrap();
            }
            if whole && self.commit().await {
                return;
            }
        }
        panic!("it never comes to the end");
    }
}

fn decoder(spec: &TableSpec) -> Decoder {
    Decoder::new(DecodeOptions { mode: spec.mode, origin_columns: true, ..DecodeOptions::default() })
}

fn spec(type_change: TypeChange, dropped_column: DroppedColumn) -> TableSpec {
    TableSpec { mode: Mode::Upsert, type_change, dropped_column, ..TableSpec::new("db", "t") }
}

async fn load(catalog: &MemoryCatalog) -> iceberg::table::Table {
    catalog.load(&TableSpec::new("db", "t").ident().unwrap()).await.unwrap()
}

/// The source's columns, as `name type`.
async fn columns(catalog: &MemoryCatalog) -> Vec<String> {
    let table = load(catalog).await;
    let fields = table.metadata().current_schema().as_struct().fields().to_vec();
    let own = fields.iter().filter(|f| !f.name.starts_with("_firn_"));
    own.map(|f| format!("{} {}", f.name, f.field_type)).collect()
}

/// The rows by id: column -> value as text; nulls are left out.
async fn rows(catalog: &MemoryCatalog) -> BTreeMap<i64, BTreeMap<String, String>> {
    let table = load(catalog).await;
    let batches: Vec<RecordBatch> =
        table.scan().build().unwrap().to_arrow().await.unwrap().try_collect().await.unwrap();
    let mut rows = BTreeMap::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let mut cells = BTreeMap::new();
            for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
                if array.is_valid(row) && !field.name().starts_with("_firn_") {
                    let text = ArrayFormatter::try_new(array, &FormatOptions::default()).unwrap();
                    cells.insert(field.name().clone(), text.value(row).to_string());
                }
            }
            let id = cells.remove("id").unwrap().parse().unwrap();
            assert!(rows.insert(id, cells).is_none(), "{id} stands twice");
        }
    }
    rows
}

fn captured() -> Log {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/types_default_schemas_true.jsonl");
    let lines = std::fs::read_to_string(path).unwrap();
    let records = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let messages = records
        .filter(|r| r["topic"].as_str().unwrap().ends_with(".evolving"))
        .map(|r| Message { key: text(&r["key"]).unwrap(), value: text(&r["value"]) });
    [(0, messages.collect())].into()
}

#[rstest]
#[case::kept(DroppedColumn::Keep)]
#[case::dropped(DroppedColumn::Drop)]
#[tokio::test]
async fn a_captured_table_that_was_altered_in_every_way_ends_as_in_its_source(#[case] dropped: DroppedColumn) {
    let catalog = MemoryCatalog::default();
    let log = captured();
    let mut process = Process::start(&catalog, &spec(TypeChange::Stop, dropped), &[0]).await;
    process.read_to_the_end(&log).await;
    assert!(process.rejected.is_empty(), "{:?}", process.rejected);
    let got = rows(&catalog).await;
    let row = |cells: &[(&str, &str)]| -> BTreeMap<String, String> {
        let gone = |name: &str| dropped == DroppedColumn::Drop && (name == "old_col" || name == "v");
        cells.iter().filter(|(n, _)| !gone(n)).map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    };
    assert_eq!(got.keys().copied().collect::<Vec<_>>(), [1, 3, 4, 5, 6, 7]);
    assert_eq!(got[&1], row(&[("n", "100"), ("old_col", "old"), ("v", "v1"), ("added", "dflt")]));
    assert_eq!(got[&4], row(&[("n", "4"), ("v", "v"), ("added", "dflt")]));
    assert_eq!(got[&5], row(&[("n", "5000000000"), ("v", "v"), ("added", "dflt")]));
    assert_eq!(got[&6], row(&[("n", "6"), ("v_renamed", "renamed"), ("added", "dflt")]));
    let seventh = [("n", "7"), ("added", "dflt"), ("req", "7"), ("amt", "1.50"), ("ts", "2024-01-01T00:00:00Z")];
    assert_eq!(got[&7], row(&seventh));

    let history = schema_history(load(&catalog).await.metadata().properties());
    let told: Vec<(i64, Vec<String>)> = history
        .iter()
        .map(|c| (c.record.as_ref().unwrap().offset, c.changes.iter().map(ToString::to_string).collect()))
        .collect();
    let mut want: Vec<(i64, Vec<&str>)> = vec![
        (0, vec!["created with 10 columns"]),
        (2, vec!["added added string"]),
        (5, vec!["widened n from int to long"]),
        (6, vec!["added v_renamed string"]),
        (7, vec!["added req int", "added amt decimal(9,2)", "added ts timestamptz"]),
    ];
    if dropped == DroppedColumn::Drop {
        want.insert(2, (4, vec!["dropped old_col"]));
        want[4].1.push("dropped v");
    }
    assert_eq!(told, want.iter().map(|(o, c)| (*o, c.iter().map(|c| (*c).to_owned()).collect())).collect::<Vec<_>>());
    let current = load(&catalog).await.metadata().current_schema_id();
    assert_eq!(history.last().unwrap().schema_id, current);
    assert_eq!(history.last().unwrap().record.as_ref().unwrap().lsn, Some(27_857_056));
    assert!(history.last().unwrap().after_snapshot_id.is_some());
}

/// `n` is int, then text, then int again; one record each.
fn retyped() -> Log {
    let row = |lsn: i64, kind: &'static str, id: i64, n: Value| {
        message(lsn, &[("id".to_owned(), "int64"), ("n".to_owned(), kind)], id, Some(json!({"id": id, "n": n})))
    };
    let messages = vec![
        row(1, "int32", 1, json!(1)),
        row(2, "int32", 2, json!(2)),
        row(3, "string", 2, json!("two")),
        row(4, "string", 3, json!("three")),
        row(5, "int64", 4, json!(4_000_000_000_i64)),
        row(6, "string", 5, json!("five")),
    ];
    [(0, messages)].into()
}

#[rstest]
#[case::in_one_go(false)]
#[case::with_a_restart_before_every_record(true)]
#[tokio::test]
async fn values_of_a_new_type_get_a_column_of_their_own(#[case] restarts: bool) {
    let (catalog, log) = (MemoryCatalog::default(), retyped());
    let spec = spec(TypeChange::NewColumn, DroppedColumn::Keep);
    let mut process = Process::start(&catalog, &spec, &[0]).await;
    for _ in 0..log[&0].len() {
        if restarts {
            process.commit().await;
            process = Process::start(&catalog, &spec, &[0]).await;
        }
        process.read(&log, 0, 1).await.unwrap();
    }
    process.commit().await;
    assert_eq!(columns(&catalog).await, ["id long", "n long", "n__v2 string"]);
    let got = rows(&catalog).await;
    let cell = |id: i64| got[&id].iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>();
    assert_eq!(cell(1), ["n=1"]);
    assert_eq!(cell(2), ["n__v2=two"]);
    assert_eq!(cell(4), ["n=4000000000"]);
    assert_eq!(cell(5), ["n__v2=five"]);
    let history = schema_history(load(&catalog).await.metadata().properties());
    assert!(
        matches!(&history[1].changes[..], [ColumnChange::Versioned { column, into, .. }] if column == "n" && into == "n__v2")
    );
    assert_eq!(history[1].record.as_ref().unwrap().to_string(), "shop.public.t/0@2");
}

#[tokio::test]
async fn values_of_a_new_type_become_dead_letters_and_the_others_go_on() {
    let (catalog, log) = (MemoryCatalog::default(), retyped());
    let mut process = Process::start(&catalog, &spec(TypeChange::DeadLetters, DroppedColumn::Keep), &[0]).await;
    process.read_to_the_end(&log).await;
    let why = "incompatible_schema: column n: the record has string, the table";
    assert_eq!(process.rejected, [format!("{why} int"), format!("{why} int"), format!("{why} long")]);
    let got = rows(&catalog).await;
    assert_eq!(got.keys().copied().collect::<Vec<_>>(), [1, 2, 4]);
    assert_eq!((got[&2]["n"].as_str(), got[&4]["n"].as_str()), ("2", "4000000000"));
}

#[tokio::test]
async fn values_of_a_new_type_stop_the_table_before_them() {
    let (catalog, log) = (MemoryCatalog::default(), retyped());
    let mut process = Process::start(&catalog, &spec(TypeChange::Stop, DroppedColumn::Keep), &[0]).await;
    let e = process.read(&log, 0, usize::MAX).await.unwrap_err();
    assert!(matches!(e, LakeError::Incompatible { .. }), "{e}");
    let stands = process.table.checkpoint().await.unwrap().unwrap();
    assert_eq!(stands.next(&at(0)), Some(2), "what came before is in the table, the position before it");
    // With another policy it goes on there.
    let mut process = Process::start(&catalog, &spec(TypeChange::NewColumn, DroppedColumn::Keep), &[0]).await;
    process.read_to_the_end(&log).await;
    assert_eq!(rows(&catalog).await.len(), 5);
}

#[tokio::test]
async fn columns_that_differ_in_case_only_stop_the_table_by_both_names() {
    let catalog = MemoryCatalog::default();
    let columns = ["id", "Name", "name"].map(|name| (name.to_owned(), "int64"));
    let log: Log = [(0, vec![message(1, &columns, 1, Some(json!({"id": 1, "Name": 1, "name": 2})))])].into();
    let mut process = Process::start(&catalog, &spec(TypeChange::NewColumn, DroppedColumn::Keep), &[0]).await;
    let e = process.read(&log, 0, 1).await.unwrap_err().to_string();
    assert!(e.contains("columns Name and name differ in case only"), "{e}");
}

#[tokio::test]
async fn a_column_called_as_one_of_firns_own_stops_the_table_by_its_name() {
    for name in ["_firn_op", "_FIRN_OFFSET", "_firn_unavailable"] {
        let id = [("id".to_owned(), "int64")];
        let with: Vec<_> = id.iter().cloned().chain([(name.to_owned(), "string")]).collect();
        let taken = |lsn| message(lsn, &with, 1, Some(json!({"id": 1, name: "x"})));
        // In a table to be made, and in one that is there.
        for log in [vec![taken(1)], vec![message(1, &id, 1, Some(json!({"id": 1}))), taken(2)]] {
            let (catalog, before) = (MemoryCatalog::default(), log.len() - 1);
            let log: Log = [(0, log)].into();
            let mut process = Process::start(&catalog, &spec(TypeChange::NewColumn, DroppedColumn::Keep), &[0]).await;
            process.read(&log, 0, before).await.unwrap();
            let e = process.read(&log, 0, 1).await.unwrap_err().to_string();
            assert!(e.contains(&format!("a column {name}")) && e.contains("column.exclude.list"), "{e}");
        }
    }
}

#[tokio::test]
async fn a_key_that_widens_still_finds_its_rows() {
    let catalog = MemoryCatalog::default();
    let row = |lsn: i64, kind: &'static str, id: i64, v: i64| {
        message(lsn, &[("id".to_owned(), kind), ("v".to_owned(), "int64")], id, Some(json!({"id": id, "v": v})))
    };
    let log: Log = [(0, vec![row(1, "int32", 7, 1), row(2, "int32", 8, 1), row(3, "int64", 7, 2)])].into();
    let spec = spec(TypeChange::Stop, DroppedColumn::Keep);
    let mut process = Process::start(&catalog, &spec, &[0]).await;
    process.read(&log, 0, 2).await.unwrap();
    process.commit().await;
    process.read_to_the_end(&log).await;
    assert_eq!(columns(&catalog).await, ["id long", "v long"]);
    let got = rows(&catalog).await;
    assert_eq!((got.len(), got[&7]["v"].as_str()), (2, "2"), "the key is not there twice");
}

// ---------------------------------------------------------------------------------------------------------------------------------

#[derive(Clone, Debug, PartialEq)]
struct SourceColumn {
    name: String,
    kind: &'static str,
    /// Counts the columns that ever were: one that comes back under the same name is another.
    number: usize,
}

/// The source's table and its log.
struct Source {
    rng: StdRng,
    lsn: i64,
    made: usize,
    columns: Vec<SourceColumn>,
    /// Whether a column may come back under a former name.
    names_return: bool,
    log: Log,
    /// Of each id the columns and values of its last change; `None` after a delete.
    last: BTreeMap<i64, Option<Vec<(SourceColumn, String)>>>,
    /// The columns as the newest record has them.
    newest: Vec<SourceColumn>,
}

const KINDS: [&str; 3] = ["int32", "int64", "string"];

impl Source {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let names_return = rng.random_bool(0.5);
        let mut source = Self {
            rng,
            lsn: 100,
            made: 0,
            columns: vec![],
            names_return,
            log: (0..3).map(|p| (p, vec![])).collect(),
            last: BTreeMap::new(),
            newest: vec![],
        };
        source.add();
        source.add();
        for _ in 0..source.rng.random_range(5..40) {
            match source.rng.random_range(0..10) {
                0 => source.add(),
                1 => source.drop(),
                2 => source.retype(),
                _ => source.change(),
            }
        }
        source.change();
        source
    }

    fn add(&mut self) {
        self.made += 1;
        let name = match self.names_return {
            true => ["a", "b", "c"].choose(&mut self.rng).unwrap().to_string(),
            false => format!("n{}", self.made),
        };
        if self.columns.iter().all(|c| c.name != name) {
            let kind = KINDS.choose(&mut self.rng).unwrap();
            self.columns.push(SourceColumn { name, kind, number: self.made });
        }
    }

    fn drop(&mut self) {
        if self.columns.len() > 1 {
            let at = self.rng.random_range(0..self.columns.len());
            self.columns.remove(at);
        }
    }

    fn retype(&mut self) {
        let at = self.rng.random_range(0..self.columns.len());
        let kind = KINDS.choose(&mut self.rng).unwrap();
        self.columns[at].kind = kind;
    }

    fn change(&mut self) {
        self.lsn += 1;
        let id = self.rng.random_range(0..9_i64);
        let mut columns = vec![("id".to_owned(), "int64")];
        columns.extend(self.columns.iter().map(|c| (c.name.clone(), c.kind)));
        let row = self.rng.random_bool(0.85).then(|| {
            let values = self.columns.iter().map(|c| {
                let value = if c.kind == "string" { format!("s{}", self.lsn) } else { self.lsn.to_string() };
                (c.clone(), value)
            });
            values.collect::<Vec<_>>()
        });
        let payload = row.as_ref().map(|row| {
            let mut object = serde_json::Map::from_iter([("id".to_owned(), json!(id))]);
            for (column, value) in row {
                let number = || json!(value.parse::<i64>().unwrap());
                object.insert(column.name.clone(), if column.kind == "string" { json!(value) } else { number() });
            }
            Value::Object(object)
        });
        let message = message(self.lsn, &columns, id, payload);
        self.log.get_mut(&((id % 3) as i32)).unwrap().push(message);
        self.last.insert(id, row);
        self.newest = self.columns.clone();
    }
}

/// Whether a column of the table holds such values.
fn holds(table_type: &str, kind: &str) -> bool {
    if kind == "string" { table_type == "string" } else { table_type == "int" || table_type == "long" }
}

async fn run(seed: u64) -> usize {
    let mut source = Source::new(seed);
    let dropped = if source.rng.random_bool(0.6) { DroppedColumn::Drop } else { DroppedColumn::Keep };
    let spec = spec(TypeChange::NewColumn, dropped);
    let catalog = MemoryCatalog::default();
    let log = source.log.clone();
    let owned = [vec![0, 1], vec![2]];
    let mut processes = vec![];
    for partitions in &owned {
        processes.push(Process::start(&catalog, &spec, partitions).await);
    }
    let mut moved = 0;
    for _ in 0..60 {
        let who = source.rng.random_range(0..2);
        match source.rng.random_range(0..10) {
            0 => {
                moved += processes[who].moved;
                assert!(processes[who].rejected.is_empty(), "seed {seed}: {:?}", processes[who].rejected);
                processes[who] = Process::start(&catalog, &spec, &owned[who]).await;
            }
            1 | 2 => {
                processes[who].commit().await;
            }
            _ => {
                let partition = *owned[who].choose(&mut source.rng).unwrap();
                let most = source.rng.random_range(1..4);
                processes[who].read(&log, partition, most).await.unwrap();
            }
        }
    }
    for process in &mut processes {
        process.read_to_the_end(&log).await;
        assert!(process.rejected.is_empty(), "seed {seed}: {:?}", process.rejected);
        moved += process.moved;
    }
    verify(seed, &source, dropped, &catalog).await;
    moved
}

async fn verify(seed: u64, source: &Source, dropped: DroppedColumn, catalog: &MemoryCatalog) {
    let types: BTreeMap<String, String> = columns(catalog)
        .await
        .iter()
        .map(|c| c.split_once(' ').unwrap())
        .map(|(name, t)| (name.to_owned(), t.to_owned()))
        .collect();
    let of_source = |column: &str| column.split("__v").next().unwrap().to_owned();
    if dropped == DroppedColumn::Drop {
        let have: BTreeSet<String> = types.keys().map(|c| of_source(c)).filter(|c| c != "id").collect();
        let want: BTreeSet<String> = source.newest.iter().map(|c| c.name.clone()).collect();
        assert_eq!(have, want, "seed {seed}");
    }
    let got = rows(catalog).await;
    let living: Vec<i64> = source.last.iter().filter(|(_, row)| row.is_some()).map(|(id, _)| *id).collect();
    assert_eq!(got.keys().copied().collect::<Vec<_>>(), living, "seed {seed}");
    for (id, row) in &source.last {
        let Some(row) = row else { continue };
        let mut cells = got[id].clone();
        for (column, value) in row {
            let is_its = |name: &String| of_source(name) == column.name && holds(&types[name], column.kind);
            let Some(place) = types.keys().find(|name| is_its(name)) else {
                let live = source.newest.iter().any(|c| c.name == column.name && c.number == column.number);
                assert!(dropped == DroppedColumn::Drop && !live, "seed {seed}: {id} {column:?} has no place");
                continue;
            };
            let cell = cells.remove(place);
            let stays = dropped == DroppedColumn::Keep || source.newest.iter().any(|c| c.number == column.number);
            if stays {
                assert_eq!(cell.as_ref(), Some(value), "seed {seed}: {id} {column:?} in {place}");
            } else {
                // Dropped, and come back under the same name: gone, unless the drop could not be seen in time.
                assert!(cell.is_none() || cell.as_ref() == Some(value), "seed {seed}: {id} {column:?}: {cell:?}");
            }
        }
        assert!(cells.is_empty(), "seed {seed}: {id} has {cells:?} beside {row:?}");
    }
}

#[test]
fn two_processes_follow_a_source_that_is_altered_all_the_time() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let Some(seed) = number("FIRN_EVOLUTION_SEED") {
        runtime.block_on(run(seed));
        return;
    }
    let seeds = number("FIRN_EVOLUTION_SEEDS").unwrap_or(60);
    let moved: usize = (0..seeds).map(|seed| runtime.block_on(run(seed))).sum();
    assert!(moved > 0, "no batch ever met columns that had moved: the schedule is too tame");
}
