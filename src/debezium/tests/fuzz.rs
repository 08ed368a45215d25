//! Arbitrary input: the corpus of `tests/corpus/json.txt`, and generated messages by seed. Never a panic, never a row that the message
//! does not say, never a neighbour harmed. serde_json is the judge.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::*;
use crate::change::Column;

fn table() -> RowSchema {
    let columns = vec![
        Column::key("id", ColumnType::Int),
        Column::new("name", ColumnType::String),
        Column::new("n", ColumnType::Long),
        Column::new("d", ColumnType::Decimal { precision: 10, scale: 2 }),
        Column::new("at", ColumnType::TimestampTz),
        Column::new("blob", ColumnType::Binary),
        Column::new("tags", ColumnType::List(Box::new(ColumnType::Int))),
        Column::new("map", ColumnType::Map(Box::new(ColumnType::String))),
        Column::new("point", ColumnType::Struct(vec![Column::new("x", ColumnType::Double)])),
    ];
    RowSchema { columns }
}

fn record(value: &[u8]) -> Record<'_> {
    Record { topic: "t", value: Some(value), ..Record::default() }
}

fn good(id: i32) -> String {
    format!(r#"{{"before":null,"after":{{"id":{id},"name":"good","n":7,"tags":[1]}},"op":"c"}}"#)
}

/// `\xNN` is a byte, `\N*text;` is text N times.
fn unescape(line: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), line);
    while let Some(at) = rest.find("\\x").into_iter().chain(rest.find("\\*")).min() {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        if rest[at..].starts_with("\\x") {
            out.push(u8::from_str_radix(&rest[at + 2..at + 4], 16).unwrap());
            rest = &rest[at + 4..];
        } else {
            let (count, after) = rest[at + 2..].split_once(' ').unwrap();
            let (text, after) = after.split_once("\\;").unwrap();
            out.extend_from_slice(text.repeat(count.parse().unwrap()).as_bytes());
            rest = after;
        }
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

#[test]
fn every_case_of_the_corpus_has_its_outcome_and_harms_no_neighbour() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/json.txt");
    let text = std::fs::read_to_string(path).unwrap();
    let (mut cases, mut wrong) = (0, Vec::new());
    for (line, case) in text.lines().enumerate().filter(|(_, l)| !l.is_empty() && !l.starts_with('#')) {
        let (want, message) = case.split_once('\t').unwrap();
        let message = unescape(message);
        for infer_types in [false, true] {
            let mut decoder = Decoder::new(DecodeOptions { infer_types, ..DecodeOptions::default() });
            decoder.set_schema(&table()).unwrap();
            assert_eq!(decoder.push(&record(good(1).as_bytes())), Pushed::Row(Op::Create));
            let pushed = decoder.push(&record(&message));
            let is_row = matches!(pushed, Pushed::Row(_));
            let got = match pushed {
                Pushed::Row(op) => op.letter(),
                Pushed::Rejected(reject) => reject.reason,
                Pushed::Skipped(skip) => skip.as_str(),
                Pushed::NeedsSchema(_) if infer_types => want,
                other => panic!("line {}: {other:?}", line + 1),
            };
            if got != want {
                wrong.push(format!("line {}: {got} instead of {want}", line + 1));
                continue;
            }
            assert_eq!(decoder.push(&record(good(2).as_bytes())), Pushed::Row(Op::Create));
            let batch = decoder.finish();
            let rows = rows_of(&batch.rows, &batch.ops);
            let ids: Vec<&Cell> = rows.iter().filter(|r| r.get("name") == &text_cell()).map(|r| r.get("id")).collect();
            assert_eq!(ids, [&Cell::Int(1), &Cell::Int(2)], "line {}", line + 1);
            assert_eq!(rows.len(), 2 + usize::from(is_row), "line {}", line + 1);
        }
        cases += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases >= 45, "{cases}");
}

fn text_cell() -> Cell {
    text("good")
}

const NAMES: [&str; 16] = [
    "id",
    "name",
    "n",
    "d",
    "at",
    "blob",
    "tags",
    "map",
    "point",
    "x",
    "other",
    "__op",
    "__deleted",
    "op",
    "after",
    "i\\u0064",
];

const SCALARS: [&str; 24] = [
    "null",
    "true",
    "1",
    "-0",
    "2147483648",
    "9223372036854775807",
    "-9223372036854775809",
    "0.1",
    "123456789012345678901234567890.5",
    "\"\"",
    "\"a\\u0000b\"",
    "\"\\ud83e\\udd80\"",
    "\"AQ==\"",
    "\"2024-02-29T10:00:00Z\"",
    "\"infinity\"",
    "\"NAN\"",
    "\"__debezium_unavailable_value\"",
    "\"c\"",
    "\"d\"",
    "\"true\"",
    "{\"scale\":2,\"value\":\"AQ==\"}",
    "{\"x\":1}",
    "[1,null]",
    "[]",
];

fn value(random: &mut StdRng, depth: u32, out: &mut String) {
    match random.random_range(0..if depth == 0 { 8 } else { 12 }) {
        0..8 => out.push_str(SCALARS[random.random_range(0..SCALARS.len())]),
        8 | 9 => object(random, depth - 1, out),
        _ => {
            out.push('[');
            for at in 0..random.random_range(0..4) {
                if at > 0 {
                    out.push(',');
                }
                value(random, depth - 1, out);
            }
            out.push(']');
        }
    }
}

fn object(random: &mut StdRng, depth: u32, out: &mut String) {
    out.push('{');
    for at in 0..random.random_range(0..8) {
        if at > 0 {
            out.push_str(
                [",", ", ", ",,", ";"][if random.random_ratio(1, 40) { random.random_range(2..4) } else { at % 2 }],
            );
        }
        let name = NAMES[random.random_range(0..NAMES.len())];
        out.push_str(&format!("\"{name}\":"));
        if name == "id" || name == "i\\u0064" {
            out.push_str(&random.random_range(0..100).to_string());
        } else {
            value(random, depth, out);
        }
    }
    out.push('}');
}

fn message(random: &mut StdRng) -> String {
    let mut out = String::new();
    match random.random_range(0..6) {
        0..3 => {
            out.push_str("{\"before\":null,\"after\":");
            object(random, 3, &mut out);
            out.push_str(",\"op\":\"c\"}");
        }
        3 => {
            out.push_str("{\"before\":");
            object(random, 2, &mut out);
            out.push_str(",\"after\":null,\"op\":\"d\"}");
        }
        4 => object(random, 3, &mut out),
        _ => value(random, 5, &mut out),
    }
    match random.random_range(0..20) {
        0 => out.push_str(&out.clone()),
        1 => out.truncate((0..out.len()).rev().find(|at| out.is_char_boundary(*at)).unwrap_or(0)),
        2 => out.push(' '),
        _ => {}
    }
    out
}

/// The `id` that the message says, in whichever image it stands.
fn id_of(message: &Value) -> Option<i64> {
    let image = ["after", "before"].iter().find_map(|name| message.get(name).filter(|v| v.is_object()));
    let is_envelope = message.get("op").is_some_and(Value::is_string);
    image.filter(|_| is_envelope).unwrap_or(message).get("id")?.as_i64()
}

#[test]
fn a_generated_message_is_its_own_row_or_none() {
    let mut rows_seen = 0;
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        for (mode, format, infer_types) in [
            (Mode::Append, Format::Auto, false),
            (Mode::Append, Format::Auto, true),
            (Mode::Append, Format::Flattened, false),
            (Mode::Upsert, Format::Auto, false),
        ] {
            let key_columns = Some(vec!["id".to_owned()]);
            let mut decoder =
                Decoder::new(DecodeOptions { mode, format, infer_types, key_columns, ..DecodeOptions::default() });
            decoder.set_schema(&table()).unwrap();
            let mut wanted = Vec::new();
            for at in 0..150 {
                let message = message(&mut random);
                if let Pushed::Row(_) = decoder.push(&record(message.as_bytes())) {
                    let parsed: Value = serde_json::from_str(&message)
                        .unwrap_or_else(|e| panic!("seed {seed} {at}: a row of what is no JSON: {e}: {message}"));
                    let parsed = if format == Format::Flattened {
                        serde_json::json!({"after": parsed, "op": "c"})
                    } else {
                        parsed
                    };
                    wanted.push((id_of(&parsed), message));
                }
                if at % 10 == 0 && decoder.push(&record(good(1000 + at).as_bytes())) == Pushed::Row(Op::Create) {
                    wanted.push((Some(i64::from(1000 + at)), String::new()));
                }
            }
            let batch = decoder.finish();
            let rows = rows_of(&batch.rows, &batch.ops);
            assert_eq!(rows.len(), wanted.len(), "seed {seed}");
            for (row, (id, message)) in rows.iter().zip(&wanted) {
                assert_eq!(row.get("id"), &id.map_or(Cell::Null, |id| Cell::Int(id.into())), "seed {seed}: {message}");
            }
            rows_seen += rows.len();
        }
    }
    assert!(rows_seen > 2_000, "{rows_seen}");
}

#[test]
fn arbitrary_bytes_are_never_a_row() {
    let mut random = StdRng::seed_from_u64(11);
    for mode in [Mode::Append, Mode::Upsert] {
        let mut decoder = Decoder::new(DecodeOptions { mode, infer_types: true, ..DecodeOptions::default() });
        decoder.set_schema(&table()).unwrap();
        for _ in 0..5_000 {
            let bytes: Vec<u8> = (0..random.random_range(0..80)).map(|_| random.random()).collect();
            let key: Vec<u8> = (0..random.random_range(0..20)).map(|_| random.random()).collect();
            let pushed = decoder.push(&Record { key: Some(&key), ..record(&bytes) });
            assert!(!matches!(pushed, Pushed::Row(_)), "{bytes:?}");
        }
    }
}

#[test]
fn a_value_of_100_mb_is_one_row_and_a_rejected_one_holds_no_memory() {
    const SIZE: usize = 100 << 20;
    let large = "x".repeat(SIZE);
    let mut decoder = Decoder::new(DecodeOptions::default());
    decoder.set_schema(&table()).unwrap();
    let bad = format!(r#"{{"after":{{"id":1,"name":"{large}","n":"no number"}},"op":"c"}}"#);
    let began = std::time::Instant::now();
    assert!(matches!(decoder.push(&record(bad.as_bytes())), Pushed::Rejected(r) if r.detail.len() < 200));
    assert!(decoder.bytes() < 1 << 20, "{}", decoder.bytes());
    drop(bad);
    let fine = format!(r#"{{"after":{{"id":1,"name":"{large}","n":1}},"op":"c"}}"#);
    assert_eq!(decoder.push(&record(fine.as_bytes())), Pushed::Row(Op::Create));
    assert!(decoder.bytes() < SIZE * 9 / 8, "{}", decoder.bytes());
    assert_eq!(decoder.push(&record(good(2).as_bytes())), Pushed::Row(Op::Create));
    let batch = decoder.finish();
    assert_eq!(batch.rows.column(1).as_string::<i32>().value(0).len(), SIZE);
    assert_eq!(batch.rows.column(1).as_string::<i32>().value(1), "good");
    // Without optimization; seconds at most.
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
}
