//! Seeded damage to real records: never a panic, every record accounted for, the good ones around it unharmed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::damage::{damage, seeds};
use super::*;

const PIECES: &[&[u8]] = &[
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"\\",
    b"\\u12",
    b"\\ud800",
    b"-",
    b"1e999",
    b"99999999999999999999",
    b"true",
    b"{}",
    "é".as_bytes(),
    b"\"after\":",
    b"\"op\":\"d\"",
    b"\"payload\":",
    b"\0",
];

/// The schema block is most of a message: the payload's end is aimed at half of the time.
fn begin(len: usize, random: &mut StdRng) -> usize {
    if random.random() { len.saturating_sub(700) } else { 0 }
}

fn storm(name: &str, topic: &str, mode: Mode, with_table: bool) {
    let records = of_topic(fixture(name), topic);
    let with_blocks = of_topic(fixture(&name.replace("false", "true")), topic);
    let options = || DecodeOptions { mode, origin_columns: true, ..DecodeOptions::default() };
    let table = decode(mode, &with_blocks).table;
    let clean = drive(&mut Decoder::new(options()), Some(table.clone()), &records);
    let by_offset: BTreeMap<(i32, i64), &Row> =
        clean.from.iter().map(|at| (records[*at].partition, records[*at].offset)).zip(&clean.rows).collect();
    for seed in 0..seeds() {
        let mut random = StdRng::seed_from_u64(seed);
        let mut decoder = Decoder::new(options());
        if with_table {
            decoder.set_schema(&table).unwrap();
        }
        let (mut rows, mut other, mut total) = (Vec::new(), 0, 0);
        let mut good = 0;
        for record in &records {
            let mut key = record.key.clone().map(String::into_bytes);
            let mut value = record.value.clone().map(String::into_bytes);
            let damaged = random.random_bool(0.4);
            if damaged {
                match (&mut key, &mut value) {
                    (Some(key), _) if random.random_bool(0.2) => damage(key, &mut random, PIECES, begin),
                    (_, Some(value)) => damage(value, &mut random, PIECES, begin),
                    _ => {}
                }
            }
            // Damaged rows are told apart by an offset that no good one has.
            let offset = if damaged { -1 } else { record.offset };
            let record = Record { offset, key: key.as_deref(), value: value.as_deref(), ..record.record() };
            total += 1;
            match decoder.push(&record) {
                Pushed::Row(_) => good += usize::from(!damaged),
                Pushed::NeedsSchema(asked) => {
                    let batch = decoder.finish();
                    rows.extend(rows_of(&batch.rows, &batch.ops));
                    // What damage makes of a schema is not taken over.
                    assert!(damaged || !with_table, "seed {seed}: {asked:?}");
                    decoder.set_schema(&table).unwrap();
                    match decoder.push(&record) {
                        Pushed::Row(_) => good += usize::from(!damaged),
                        Pushed::NeedsSchema(again) => panic!("seed {seed}: asked twice {again:?}"),
                        _ => other += 1,
                    }
                }
                _ => other += 1,
            }
        }
        let batch = decoder.finish();
        rows.extend(rows_of(&batch.rows, &batch.ops));
        assert_eq!(rows.len() + other, total, "seed {seed}");
        let mut seen = 0;
        for row in &rows {
            let (Cell::Int(partition), Cell::Int(offset)) = (row.get("_firn_partition"), row.get("_firn_offset"))
            else {
                panic!("seed {seed}: no origin");
            };
            if *offset >= 0 {
                assert_eq!(row, by_offset[&(*partition as i32, *offset as i64)], "seed {seed} offset {offset}");
                seen += 1;
            }
        }
        assert_eq!(seen, good, "seed {seed}");
    }
}

#[test]
fn damaged_records_harm_only_themselves() {
    storm("inventory_schemas_true", ".customers", Mode::Upsert, true);
    storm("inventory_schemas_false", ".orders", Mode::Append, true);
    storm("types_default_schemas_true", ".all_types", Mode::Upsert, false);
    storm("types_default_schemas_false", ".all_types", Mode::Append, true);
    storm("types_default_schemas_true", ".specials", Mode::Append, true);
    storm("types_default_schemas_true", ".toast_default", Mode::Upsert, true);
    storm("types_default_schemas_false", ".evolving", Mode::Upsert, true);
    storm("engagement_schemas_false", ".content", Mode::Upsert, true);
}

#[test]
fn noise_is_never_a_row() {
    let mut random = StdRng::seed_from_u64(7);
    let mut decoder = Decoder::new(DecodeOptions::default());
    let table = decode(Mode::Append, &of_topic(fixture("inventory_schemas_true"), ".orders")).table;
    decoder.set_schema(&table).unwrap();
    for _ in 0..20_000 {
        let alphabet = b"{}[]\",:\\u0123456789-+.eEtruefalsnopafter \x00\xff\xc3\xa9";
        let value: Vec<u8> =
            (0..random.random_range(0..60)).map(|_| alphabet[random.random_range(0..alphabet.len())]).collect();
        let record = Record {
            topic: "t",
            partition: 0,
            offset: 0,
            timestamp_ms: None,
            key: None,
            value: Some(&value),
            ..Record::default()
        };
        assert!(!matches!(decoder.push(&record), Pushed::Row(_)));
    }
    assert_eq!(decoder.finish().num_rows(), 0);
}
