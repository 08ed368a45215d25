//! Every JSON capture through the decoder, as the pipeline does it: rows + rejected + skipped = records, and nothing that is no row
//! without a stated reason.

use super::*;

/// All captures of JSON; those of Avro have their own test.
const CAPTURES: [&str; 10] = [
    "engagement_schemas_false",
    "engagement_schemas_true",
    "inventory_schemas_false",
    "inventory_schemas_true",
    "null_default_kept",
    "null_default_replaced",
    "types_default_schemas_false",
    "types_default_schemas_true",
    "types_v1_string_interval_base64_unknown",
    "types_v4_unwrap_flat",
];

/// Topic (without the connector's name), outcome, how often in a capture, why. A row is the only outcome that needs no reason; an
/// outcome that is not named here, or a line that no record bears out, fails the test.
const EXPLAINED: &[(&str, &str, &[usize], &str)] = &[
    ("heartbeat", "skipped heartbeat", &[3], "says that the connector lives"),
    ("notif", "skipped notification", &[70], "progress of snapshots"),
    ("signal", "skipped signal", &[1], "a command to the connector"),
    ("message", "skipped message", &[2], "pg_logical_emit_message: belongs to no table"),
    ("transaction", "skipped transaction", &[60, 6], "BEGIN and END"),
    ("public.truncated", "skipped truncate", &[2], "no row; its own rule in the pipeline"),
    ("public.truncated2", "skipped truncate", &[1], "no row; its own rule in the pipeline"),
    ("public.specials", "rejected bad_value column v_time", &[2], "24:00:00, streamed and from a snapshot"),
    ("public.specials", "rejected bad_value column v_ts", &[2], "294276-12-31 overflowed in Debezium"),
    ("public.no_pk", "rejected no_key upsert", &[2], "no key, none declared"),
    ("public.no_pk_full", "rejected no_key upsert", &[3], "no key, none declared"),
    ("public.no_pk_full", "skipped tombstone upsert", &[1], "a tombstone without a key names no row"),
    ("*", "skipped tombstone append", &[1, 2, 3, 4, 9], "the delete stands before it"),
];

/// Every topic of a capture is a table of its own, whatever it holds: nothing says beforehand which topics have none.
fn outcomes(capture: &str, mode: Mode) -> BTreeMap<(String, String), usize> {
    let mut topics: BTreeMap<String, Vec<Captured>> = BTreeMap::new();
    for record in fixture(capture) {
        topics.entry(record.topic.clone()).or_default().push(record);
    }
    let mut outcomes = BTreeMap::new();
    for (topic, records) in topics {
        let options = DecodeOptions { mode, infer_types: true, origin_columns: true, ..DecodeOptions::default() };
        // drive() itself holds that rows, skipped and rejected are all of the records.
        let out = drive(&mut Decoder::new(options), None, &records);
        let nulls = records.iter().filter(|r| r.value.is_none()).count();
        let tombstones = out.skipped.iter().filter(|(_, skip)| *skip == Skip::Tombstone).count();
        assert!(tombstones == 0 || mode == Mode::Upsert || tombstones == nulls, "{capture} {topic}");
        let topic = match topic.split_once('.') {
            Some(("__debezium-heartbeat", _)) => "heartbeat",
            Some((_, rest)) => rest,
            None => topic.split_once('-').map_or(topic.as_str(), |(_, rest)| rest),
        };
        let skipped = out.skipped.iter().map(|(_, skip)| format!("skipped {}", skip.as_str()));
        let rejected = out.rejected.iter().map(|(_, reject)| {
            let place = reject.detail.split(':').next().filter(|p| p.starts_with("column ")).unwrap_or_default();
            format!("rejected {} {place}", reject.reason).trim_end().to_owned()
        });
        for outcome in skipped.chain(rejected) {
            *outcomes.entry((topic.to_owned(), outcome)).or_default() += 1;
        }
    }
    outcomes
}

#[test]
fn every_record_of_every_capture_is_a_row_or_explained() {
    let mut unexplained = Vec::new();
    let mut used = vec![false; EXPLAINED.len()];
    for capture in CAPTURES {
        for mode in [Mode::Append, Mode::Upsert] {
            for ((topic, outcome), count) in outcomes(capture, mode) {
                let in_mode = format!("{outcome} {}", mode.as_str());
                let found = EXPLAINED.iter().position(|(t, o, counts, _)| {
                    (*t == "*" || *t == topic) && (*o == outcome || *o == in_mode) && counts.contains(&count)
                });
                match found {
                    Some(at) => used[at] = true,
                    None => unexplained.push(format!("{capture} {topic}: {in_mode} x {count}")),
                }
            }
        }
    }
    assert!(unexplained.is_empty(), "{}", unexplained.join("\n"));
    let unused: Vec<_> = EXPLAINED.iter().zip(&used).filter(|(_, used)| !**used).map(|(e, _)| e).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

#[test]
fn all_json_captures_are_looked_at() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".jsonl").map(str::to_owned))
        .filter(|name| !name.starts_with("avro_"))
        .collect();
    names.sort();
    assert_eq!(names, CAPTURES);
}
