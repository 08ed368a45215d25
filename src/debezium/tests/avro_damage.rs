//! Seeded damage to Avro records: never a panic, every record accounted for, the good ones around it unharmed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::avro::captured;
use super::damage::{damage, seeds};
use super::*;

/// Varints that claim much, or end never.
const PIECES: &[&[u8]] = &[
    &[0],
    &[1],
    &[2],
    &[0x80],
    &[0xff; 9],
    &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
    &[0x80, 0x80, 0x80, 0x80, 0x10],
    b"__debezium_unavailable_value",
];

/// The header is left alone most of the time: it decides too soon.
fn begin(_: usize, random: &mut StdRng) -> usize {
    if random.random_bool(0.95) { 5 } else { 0 }
}

fn storm(name: &str, topic: &str, mode: Mode) {
    let records = of_topic(captured(name), topic);
    let options = || DecodeOptions { mode, origin_columns: true, ..DecodeOptions::default() };
    let table = decode(mode, &records).table;
    let clean = drive(&mut Decoder::new(options()), Some(table.clone()), &records);
    let by_offset: BTreeMap<(i32, i64), &Row> =
        clean.from.iter().map(|at| (records[*at].partition, records[*at].offset)).zip(&clean.rows).collect();
    for seed in 0..seeds() {
        let mut random = StdRng::seed_from_u64(seed);
        let mut decoder = Decoder::new(options());
        decoder.set_schema(&table).unwrap();
        let (mut good, mut bytes, mut pushed) = (0, 0, 0);
        for record in &records {
            let mut record = record.clone();
            let damaged = random.random_bool(0.4);
            let encoded = record.avro.as_mut().unwrap();
            if damaged {
                match (&mut encoded.key, &mut encoded.value) {
                    (Some(key), _) if random.random_bool(0.2) => damage(key, &mut random, PIECES, begin),
                    (_, Some(value)) => damage(value, &mut random, PIECES, begin),
                    _ => {}
                }
                // Damaged rows are told apart by an offset that no good one has.
                record.offset = -1;
            }
            bytes += record.record().value.map_or(0, <[u8]>::len);
            pushed += 1;
            match push(&mut decoder, &record) {
                Pushed::Row(_) => good += usize::from(!damaged),
                Pushed::Rejected(_) => {
                    // What the clean run rejects is rejected here too, and nothing else that is good.
                    assert!(damaged || !by_offset.contains_key(&(record.partition, record.offset)), "seed {seed}");
                }
                Pushed::Skipped(_) | Pushed::Truncate(_) => {}
                // A damaged id can be that of another table's schema.
                Pushed::NeedsSchema(asked) => assert!(damaged, "seed {seed}: {asked:?}"),
                Pushed::NeedsWriterSchema(id) => panic!("seed {seed}: {id} was learnt"),
                Pushed::NeedsSource { .. } => panic!("seed {seed}: nobody can be asked"),
            }
        }
        // A byte of the message is worth some bytes of columns, however much it claims.
        let width: usize = table.columns.len() * 64;
        assert!(decoder.bytes() < 64 * bytes + 64 * width + pushed * width, "seed {seed}: {}", decoder.bytes());
        let batch = decoder.finish();
        let mut seen = 0;
        for row in rows_of(&batch.rows, &batch.ops) {
            let (Cell::Int(partition), Cell::Int(offset)) = (row.get("_firn_partition"), row.get("_firn_offset"))
            else {
                panic!("seed {seed}: no origin");
            };
            if *offset >= 0 {
                assert_eq!(&row, by_offset[&(*partition as i32, *offset as i64)], "seed {seed} offset {offset}");
                seen += 1;
            }
        }
        assert_eq!(seen, good, "seed {seed}");
    }
}

#[test]
fn damaged_avro_harms_only_itself() {
    storm("inventory", ".customers", Mode::Upsert);
    storm("inventory", ".orders", Mode::Append);
    storm("types", ".all_types", Mode::Upsert);
    storm("types", ".all_types", Mode::Append);
    storm("types", ".specials", Mode::Append);
    storm("types", ".toast_default", Mode::Upsert);
    storm("types", ".evolving", Mode::Upsert);
    storm("engagement", ".content", Mode::Upsert);
}

#[test]
fn noise_behind_a_known_id_panics_never_and_allocates_little() {
    let records = of_topic(captured("types"), ".all_types");
    let table = decode(Mode::Append, &records).table;
    let mut decoder = Decoder::new(DecodeOptions::default());
    decoder.set_schema(&table).unwrap();
    let header = records[0].record().value.unwrap()[..5].to_vec();
    let mut random = StdRng::seed_from_u64(11);
    for round in 0..20_000 {
        let mut record = records[0].clone();
        let mut value = header.clone();
        value.extend((0..random.random_range(0..200)).map(|_| match round % 3 {
            0 => random.random(),
            1 => random.random_range(0..8),
            _ => [0, 1, 2, 0xff, 0x80][random.random_range(0..5)],
        }));
        record.avro.as_mut().unwrap().value = Some(value);
        if let Pushed::Row(_) = push(&mut decoder, &record) {
            drop(decoder.finish());
        }
        assert!(decoder.bytes() < 4 << 20, "{}", decoder.bytes());
    }
}
