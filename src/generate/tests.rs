//! The generator against an independent reader (serde_json, base64, chrono) and against records captured from Debezium 3.7.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base64::Engine;
use regex::Regex;
use rstest::rstest;
use serde_json::{Value, value::RawValue};

use super::{envelope::SchemaBlock, schema::Kind, *};

fn options(seed: u64) -> GeneratorOptions {
    GeneratorOptions {
        keys: 60,
        changes: Some(6000),
        schema_block: SchemaBlock::Absent,
        ..GeneratorOptions::new(seed, [SchemaName::Inventory, SchemaName::Engagement])
    }
}

fn table_of(topic: &str) -> Table {
    let tables = [SchemaName::Inventory, SchemaName::Engagement, SchemaName::Bench];
    tables.iter().flat_map(|s| s.tables()).copied().find(|t| t.topic() == topic).unwrap()
}

fn payload(record: &GeneratedRecord) -> Option<Value> {
    let value: Value = serde_json::from_slice(record.value.as_ref()?).unwrap();
    Some(value.get("payload").cloned().unwrap_or(value))
}

/// One JSON value as the cell that its column's Debezium type makes of it.
fn cell(kind: Kind, value: &Value) -> Cell {
    if value.is_null() {
        return Cell::Null;
    }
    match kind {
        Kind::Int32 | Kind::Int64 => Cell::Int(value.as_i64().unwrap()),
        Kind::Double => Cell::Double(value.as_f64().unwrap()),
        Kind::Text | Kind::Json => Cell::Text(value.as_str().unwrap().to_owned().into()),
        Kind::Uuid => Cell::Uuid(uuid::Uuid::parse_str(value.as_str().unwrap()).unwrap().as_u128()),
        Kind::Decimal(_) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(value.as_str().unwrap()).unwrap();
            let sign = if bytes[0] >= 0x80 { -1 } else { 0 };
            Cell::Decimal { unscaled: bytes.iter().fold(sign, |n, b| (n << 8) | i128::from(*b)), scale: 2 }
        }
        Kind::Date => Cell::Date(value.as_i64().unwrap() as i32),
        Kind::Timestamp => Cell::Timestamp(value.as_i64().unwrap() * 1000),
        Kind::MicroTimestamp => Cell::Timestamp(value.as_i64().unwrap()),
        Kind::ZonedTimestamp => {
            let time = chrono::DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap();
            Cell::TimestampTz(time.timestamp_micros())
        }
    }
}

fn row_of(table: Table, row: &Value) -> Row {
    table.columns().iter().map(|c| cell(c.kind, row.get(c.name).unwrap())).collect()
}

/// The records folded per partition as any correct sink would, with every rule of the stream checked on the way.
fn fold(records: impl Iterator<Item = GeneratedRecord>) -> BTreeMap<Table, Vec<Row>> {
    let mut live: HashMap<(Table, Vec<u8>), Row> = HashMap::new();
    let mut owed: Option<(Vec<u8>, i32)> = None;
    let mut lsns: HashMap<String, i64> = HashMap::new();
    for record in records {
        let table = table_of(&record.topic);
        let at = (table, record.key.clone());
        let Some(envelope) = payload(&record) else {
            assert_eq!(owed.take(), Some((record.key.clone(), record.partition)), "a tombstone follows its delete");
            continue;
        };
        assert_eq!(owed, None, "nothing stands between a delete and its tombstone");
        let lsn = envelope["source"]["lsn"].as_i64().unwrap();
        let last = lsns.insert(envelope["source"]["name"].to_string(), lsn).unwrap_or(0);
        assert!(lsn >= last, "the log grows");
        let before = live.get(&at).cloned();
        if table == Table::Orders && matches!(envelope["op"].as_str(), Some("u" | "d")) {
            assert_eq!(
                before.as_ref(),
                Some(&row_of(table, &envelope["before"])),
                "replica identity full: the old row"
            );
        }
        match envelope["op"].as_str().unwrap() {
            "c" | "r" => {
                assert!(before.is_none(), "{at:?} is inserted twice");
                live.insert(at, row_of(table, &envelope["after"]));
            }
            "u" => {
                assert!(before.is_some(), "{at:?} is updated and was never there");
                live.insert(at, row_of(table, &envelope["after"]));
            }
            "d" => {
                assert!(before.is_some(), "{at:?} is deleted and was never there");
                live.remove(&at);
                owed = Some((record.key, record.partition));
            }
            other => panic!("op {other}"),
        }
    }
    assert_eq!(owed, None);
    let mut tables: BTreeMap<Table, Vec<Row>> = BTreeMap::new();
    for ((table, _), row) in live {
        tables.entry(table).or_default().push(row);
    }
    tables.values_mut().for_each(|rows| rows.sort());
    tables
}

#[rstest]
#[case::everything(options(7))]
#[case::with_schema_blocks(GeneratorOptions { schema_block: SchemaBlock::Inline, changes: Some(2000), ..options(8) })]
#[case::no_snapshot(GeneratorOptions { keys: 0, ..options(9) })]
#[case::bench_append(GeneratorOptions { changes: Some(3000), ..GeneratorOptions::new(1, [SchemaName::Bench]) })]
#[case::bench_upsert(GeneratorOptions {
    keys: 2500, mix: Mix::UPSERT, changes: Some(9000), ..GeneratorOptions::new(1, [SchemaName::Bench])
})]
fn the_model_is_the_fold_of_the_records(#[case] options: GeneratorOptions) {
    let mut generator = Generator::new(options);
    let folded = fold(generator.by_ref());
    let model = generator.model();
    for table in model.tables() {
        let want = model.rows(table);
        assert_eq!(folded.get(&table).cloned().unwrap_or_default(), want, "{table:?}");
        assert_eq!(want.len() as u64, model.row_count(table));
        assert_eq!(model::digest(folded.get(&table).map_or(&[], Vec::as_slice)), model.digest(table));
    }
}

#[test]
fn the_same_options_give_the_same_bytes_and_another_seed_others() {
    let all = |seed| Generator::new(options(seed)).collect::<Vec<_>>();
    let first = all(3);
    assert_eq!(first, all(3));
    assert_ne!(first, all(4));
    let digests = |seed| {
        let mut generator = Generator::new(options(seed));
        generator.by_ref().for_each(drop);
        generator.model().tables().map(|t| generator.model().digest(t)).collect::<Vec<_>>()
    };
    assert_eq!(digests(3), digests(3));
    assert_ne!(digests(3), digests(4));
}

#[test]
fn every_kind_of_change_comes_for_every_schema() {
    let mut seen = BTreeSet::new();
    let mut reborn = 0;
    let mut dead: BTreeSet<(String, Vec<u8>)> = BTreeSet::new();
    for record in Generator::new(options(5)) {
        let schema = record.topic.split('.').next().unwrap().to_owned();
        let op = payload(&record).map_or("tombstone".to_owned(), |p| p["op"].as_str().unwrap().to_owned());
        let at = (record.topic.clone(), record.key.clone());
        match op.as_str() {
            "d" => drop(dead.insert(at)),
            "c" => reborn += u32::from(dead.remove(&at)),
            _ => {}
        }
        seen.insert((schema.clone(), op));
        if let Some((name, _)) = record.headers.first().filter(|(n, _)| n.ends_with("key")) {
            seen.insert((schema, name.clone()));
        }
    }
    for schema in ["inventory-server", "postgres"] {
        for what in ["r", "c", "u", "d", "tombstone", "__debezium.newkey", "__debezium.oldkey"] {
            assert!(seen.contains(&(schema.to_owned(), what.to_owned())), "{schema} {what}");
        }
    }
    assert!(reborn > 10, "keys come back: {reborn}");
}

#[test]
fn a_changed_key_is_a_delete_a_tombstone_and_a_create_that_name_each_other() {
    let records: Vec<_> = Generator::new(options(6)).collect();
    let changes: Vec<_> =
        records.windows(3).filter(|w| w[2].headers.iter().any(|(n, _)| n == "__debezium.oldkey")).collect();
    assert!(changes.len() > 20);
    for change in changes {
        let [delete, tombstone, create] = change else { unreachable!() };
        let header =
            |r: &GeneratedRecord, name: &str| r.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        assert_eq!(header(delete, "__debezium.newkey"), Some(create.key.clone()));
        assert_eq!(header(tombstone, "__debezium.newkey"), Some(create.key.clone()));
        assert_eq!(header(create, "__debezium.oldkey"), Some(delete.key.clone()));
        assert_eq!((&tombstone.value, &tombstone.key), (&None, &delete.key));
        let (d, c) = (payload(delete).unwrap(), payload(create).unwrap());
        assert_eq!((&d["op"], &c["op"]), (&"d".into(), &"c".into()));
        assert_eq!(d["source"]["lsn"], c["source"]["lsn"]);
    }
}

#[test]
fn the_snapshot_comes_first_and_is_marked_as_debezium_marks_it() {
    let markers: Vec<(String, String)> = Generator::new(options(1))
        .filter(|r| r.topic.starts_with("inventory"))
        .filter_map(|r| Some((r.topic.clone(), payload(&r)?["source"]["snapshot"].as_str().unwrap().to_owned())))
        .collect();
    let end = markers.iter().position(|(_, m)| m == "false").unwrap();
    assert!(markers[end..].iter().all(|(_, m)| m == "false"));
    let first = |marker: &str| markers[..end].iter().filter(|(_, m)| m == marker).count();
    assert_eq!((first("first"), first("last")), (1, 1));
    assert_eq!((first("first_in_data_collection"), first("last_in_data_collection")), (4, 4));
    assert_eq!((markers[0].1.as_str(), markers[end - 1].1.as_str()), ("first", "last"));
}

#[test]
fn skewed_keys_hit_a_few_rows_far_more_often() {
    let share_of_busiest = |keys| {
        let mix = Mix { keys, ..Mix::UPSERT };
        let mut hits: HashMap<Vec<u8>, u32> = HashMap::new();
        let generator = Generator::new(GeneratorOptions {
            keys: 1000,
            mix,
            changes: Some(21_000),
            ..GeneratorOptions::new(2, [SchemaName::Bench])
        });
        for record in generator.filter(|r| payload(r).is_some_and(|p| p["op"] == "u")) {
            *hits.entry(record.key).or_default() += 1;
        }
        let mut counts: Vec<u32> = hits.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        counts[..counts.len() / 10].iter().sum::<u32>() as f64 / counts.iter().sum::<u32>() as f64
    };
    assert!(share_of_busiest(Keys::Skewed) > 1.5 * share_of_busiest(Keys::Uniform));
}

#[test]
fn the_upsert_mix_is_sixty_updates_ten_deletes_thirty_inserts() {
    let mut ops: BTreeMap<String, u32> = BTreeMap::new();
    let options = GeneratorOptions {
        keys: 5000,
        mix: Mix::UPSERT,
        changes: Some(25_000),
        ..GeneratorOptions::new(2, [SchemaName::Bench])
    };
    for envelope in Generator::new(options).filter_map(|r| payload(&r)) {
        *ops.entry(envelope["op"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let near = |op: &str, share: f64| (f64::from(ops[op]) / 20_000.0 - share).abs() < 0.015;
    assert!(ops["r"] == 5000 && near("u", 0.6) && near("d", 0.1) && near("c", 0.3), "{ops:?}");
}

#[rstest]
#[case(SchemaBlock::Absent, 530..580)]
#[case(SchemaBlock::Inline, 4300..4700)]
fn the_bench_has_the_published_message_size(#[case] schema_block: SchemaBlock, #[case] want: std::ops::Range<usize>) {
    let options =
        GeneratorOptions { schema_block, changes: Some(4000), ..GeneratorOptions::new(1, [SchemaName::Bench]) };
    assert_eq!(Table::Events.columns().len(), 7);
    let sizes: Vec<usize> = Generator::new(options).map(|r| r.value.unwrap().len()).collect();
    let mean = sizes.iter().sum::<usize>() / sizes.len();
    assert!(want.contains(&mean), "{mean}");
}

#[test]
fn the_end_comes_between_transactions_and_finish_brings_it_on() {
    let mut generator = Generator::new(GeneratorOptions { changes: None, ..options(1) });
    generator.by_ref().take(5000).for_each(drop);
    generator.finish();
    let rest: Vec<_> = generator.by_ref().collect();
    assert!(rest.len() < 3000, "only what was planned: {}", rest.len());
    let mut again = Generator::new(GeneratorOptions { changes: None, ..options(1) });
    let folded = fold(again.by_ref().take(5000 + rest.len()));
    assert_eq!(folded[&Table::Orders], generator.model().rows(Table::Orders));
}

/// A record captured from Debezium 3.7 on PostgreSQL, with schema blocks.
#[derive(serde::Deserialize)]
struct Captured {
    topic: String,
    key: String,
    headers: serde_json::Map<String, Value>,
    value: Option<String>,
}

#[derive(serde::Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    schema: &'a RawValue,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// Those with a value, before the source's tables were altered (a column more, another type).
fn captured() -> Vec<Captured> {
    let inventory = include_str!("../../tests/fixtures/inventory_schemas_true.jsonl");
    let engagement = include_str!("../../tests/fixtures/engagement_schemas_true.jsonl");
    let all = inventory.lines().chain(engagement.lines()).map(|l| serde_json::from_str::<Captured>(l).unwrap());
    let altered = |v: &str| {
        v.contains(r#""field":"phone""#) || v.contains(r#"{"type":"int64","optional":false,"field":"quantity"}"#)
    };
    all.filter(|c| c.value.as_ref().is_some_and(|v| !altered(v))).collect()
}

/// The names of all members in the order in which they stand, those of embedded JSON texts not among them.
fn names(json: &str) -> Vec<String> {
    static NAME: std::sync::LazyLock<Regex> = std::sync::LazyLock::new(|| Regex::new(r#"[{,]"(\w+)":"#).unwrap());
    NAME.captures_iter(json).map(|c| c[1].to_owned()).collect()
}

#[test]
fn schema_blocks_are_debeziums_to_the_byte() {
    let options = GeneratorOptions { schema_block: SchemaBlock::Inline, changes: Some(1000), ..options(1) };
    let ours: HashMap<String, GeneratedRecord> =
        Generator::new(options).filter(|r| r.value.is_some()).map(|r| (r.topic.clone(), r)).collect();
    let mut compared = BTreeSet::new();
    for record in captured() {
        let Some(value) = record.value else { continue };
        let ours = &ours[&record.topic];
        let text = std::str::from_utf8(ours.value.as_ref().unwrap()).unwrap();
        let (theirs, mine): (Raw<'_>, Raw<'_>) =
            (serde_json::from_str(&value).unwrap(), serde_json::from_str(text).unwrap());
        assert_eq!(mine.schema.get(), theirs.schema.get(), "{}", record.topic);
        let key = std::str::from_utf8(&ours.key).unwrap();
        let (theirs, mine): (Raw<'_>, Raw<'_>) =
            (serde_json::from_str(&record.key).unwrap(), serde_json::from_str(key).unwrap());
        assert_eq!(mine.schema.get(), theirs.schema.get(), "key of {}", record.topic);
        assert_eq!(names(mine.payload.get()), names(theirs.payload.get()));
        compared.insert(record.topic);
    }
    assert_eq!(compared.len(), 7);
}

#[test]
fn envelopes_have_the_members_types_and_fillers_of_captured_records() {
    let mut ours: HashMap<(String, String), GeneratedRecord> = HashMap::new();
    for record in Generator::new(options(1)) {
        if let Some(envelope) = payload(&record) {
            ours.insert((record.topic.clone(), envelope["op"].as_str().unwrap().to_owned()), record);
        }
    }
    let mut compared = 0;
    for record in captured() {
        let theirs = serde_json::from_str::<Raw<'_>>(record.value.as_ref().unwrap()).unwrap().payload.get().to_owned();
        let their: Value = serde_json::from_str(&theirs).unwrap();
        let Some(own) = ours.get(&(record.topic.clone(), their["op"].as_str().unwrap().to_owned())) else {
            panic!("{} {}", record.topic, their["op"])
        };
        let text = String::from_utf8(own.value.clone().unwrap()).unwrap();
        assert_eq!(names(&text), names(&theirs), "{}", record.topic);
        let envelope: Value = serde_json::from_str(&text).unwrap();
        same_types(&envelope, &their, &record.topic);
        if their["op"] == "d" && record.topic != Table::Orders.topic() {
            for column in table_of(&record.topic).columns().iter().filter(|c| !c.key) {
                assert_eq!(envelope["before"][column.name], their["before"][column.name], "{}", record.topic);
            }
        }
        let context = |names: &mut dyn Iterator<Item = String>| {
            names.filter(|name| name.contains("context")).collect::<BTreeSet<_>>()
        };
        assert_eq!(
            context(&mut own.headers.iter().map(|(name, _)| name.clone())),
            context(&mut record.headers.keys().cloned())
        );
        compared += 1;
    }
    assert!(compared > 200, "{compared}");
}

fn same_types(ours: &Value, theirs: &Value, at: &str) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => a.iter().for_each(|(k, v)| same_types(v, &b[k], &format!("{at}.{k}"))),
        (Value::Null, _) | (_, Value::Null) => {}
        (Value::Number(a), Value::Number(b)) => assert_eq!(a.is_f64(), b.is_f64(), "{at}"),
        (a, b) => assert_eq!(std::mem::discriminant(a), std::mem::discriminant(b), "{at}"),
    }
}
