//! Which snapshots the rules let go, case by case. No storage.

use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::testing;

const NOW: i64 = 1_800_000_000_000;
const HOUR: i64 = 3_600_000;
const AS_STATED: Rules<'_> = Rules { max_age_ms: None, min_kept: None, horizon_ms: 0, tells: None, last: None };

/// Snapshots by id, parent (0 = none), age in hours, and whether the writer made it.
fn table(snapshots: &[(i64, i64, i64, bool)], refs: Value, properties: Value) -> TableMetadata {
    let mut metadata = serde_json::to_value(testing::metadata("memory://m/t")).unwrap();
    let made = snapshots.iter().enumerate().map(|(n, (id, parent, hours, own))| {
        let mut summary = json!({"operation": "append"});
        if *own {
            summary["position"] = json!("7");
        }
        let mut snapshot = json!({
            "snapshot-id": id, "sequence-number": n + 1, "timestamp-ms": NOW - hours * HOUR, "schema-id": 0,
            "manifest-list": format!("memory://m/t/metadata/{id}.avro"), "summary": summary,
        });
        if *parent != 0 {
            snapshot["parent-snapshot-id"] = json!(parent);
        }
        snapshot
    });
    metadata["snapshots"] = made.collect();
    metadata["last-sequence-number"] = json!(snapshots.len());
    metadata["last-updated-ms"] = json!(NOW);
    metadata["current-snapshot-id"] = refs["main"]["snapshot-id"].clone();
    metadata["refs"] = refs;
    metadata["properties"] = properties;
    serde_json::from_value(metadata).unwrap()
}

fn main_at(id: i64) -> Value {
    json!({"main": {"snapshot-id": id, "type": "branch"}})
}

fn gone(rules: Rules<'_>, metadata: &TableMetadata) -> Vec<i64> {
    rules.expiring(metadata, NOW).unwrap().snapshots.iter().map(|s| s.snapshot_id()).collect()
}

/// Made 200, 100, 50, 2 and 1 hours ago.
const CHAIN: [(i64, i64, i64, bool); 5] =
    [(1, 0, 200, true), (2, 1, 100, true), (3, 2, 50, false), (4, 3, 2, true), (5, 4, 1, false)];

#[rstest]
#[case::five_days_where_nothing_is_said(AS_STATED, json!({}), &[1])]
#[case::the_tables_age(AS_STATED, json!({"history.expire.max-snapshot-age-ms": "36000000"}), &[1, 2, 3])]
#[case::the_asked_age_goes_before_it(Rules { max_age_ms: Some(40 * 3_600_000), ..AS_STATED }, json!({"history.expire.max-snapshot-age-ms": "1"}), &[1, 2, 3])]
#[case::the_tables_count(AS_STATED, json!({"history.expire.max-snapshot-age-ms": "1", "history.expire.min-snapshots-to-keep": "2"}), &[1, 2, 3])]
#[case::the_asked_count(Rules { max_age_ms: Some(1), min_kept: Some(4), ..AS_STATED }, json!({}), &[1])]
#[case::the_head_always_stays(Rules { max_age_ms: Some(0), ..AS_STATED }, json!({}), &[1, 2, 3, 4])]
#[case::nothing_within_the_horizon(Rules { max_age_ms: Some(1), horizon_ms: 60 * 3_600_000, ..AS_STATED }, json!({}), &[1, 2])]
#[case::the_oldest_that_stays_tells_where_its_writer_stood(Rules { max_age_ms: Some(60 * 3_600_000), tells: Some("position"), ..AS_STATED }, json!({}), &[1])]
#[case::the_head_may_be_the_oldest_only_if_it_tells(Rules { max_age_ms: Some(1), tells: Some("position"), ..AS_STATED }, json!({}), &[1, 2, 3])]
#[case::a_table_without_such_a_writer(Rules { max_age_ms: Some(1), tells: Some("another"), ..AS_STATED }, json!({}), &[1, 2, 3, 4])]
fn snapshots_go_by_age_and_count(#[case] rules: Rules<'_>, #[case] properties: Value, #[case] expected: &[i64]) {
    assert_eq!(gone(rules, &table(&CHAIN, main_at(5), properties)), expected);
}

#[test]
fn none_of_mains_goes_where_no_older_one_tells() {
    let adopted = [(1, 0, 200, false), (2, 1, 100, false), (3, 2, 50, true)];
    let rules = Rules { max_age_ms: Some(150 * 3_600_000), tells: Some("position"), ..AS_STATED };
    assert_eq!(gone(rules, &table(&adopted, main_at(3), json!({}))), [0_i64; 0]);
    assert_eq!(gone(Rules { max_age_ms: Some(1), ..rules }, &table(&adopted, main_at(3), json!({}))), [1, 2]);
}

#[test]
fn tags_and_branches_are_kept_until_they_are_too_old_themselves() {
    let refs = json!({
        "main": {"snapshot-id": 5, "type": "branch"},
        "kept": {"snapshot-id": 1, "type": "tag"},
        "old": {"snapshot-id": 2, "type": "tag", "max-ref-age-ms": 10 * HOUR},
        "young": {"snapshot-id": 3, "type": "tag", "max-ref-age-ms": 100 * HOUR},
    });
    let expiring = Rules { max_age_ms: Some(1), ..AS_STATED }.expiring(&table(&CHAIN, refs, json!({})), NOW).unwrap();
    assert_eq!(expiring.references, ["old"]);
    assert_eq!(expiring.snapshots.iter().map(|s| s.snapshot_id()).collect::<Vec<_>>(), [2, 4]);
}

#[test]
fn a_branch_goes_by_its_own_settings() {
    let snapshots = [CHAIN.as_slice(), &[(6, 2, 40, false), (7, 6, 30, false), (8, 7, 20, false)]].concat();
    let refs = |retention: Value| {
        let mut refs = json!({"main": {"snapshot-id": 5, "type": "branch"}});
        refs["audit"] = retention;
        refs
    };
    let rules = Rules { max_age_ms: Some(1), ..AS_STATED };
    let own = refs(json!({"snapshot-id": 8, "type": "branch", "min-snapshots-to-keep": 2}));
    assert_eq!(gone(rules, &table(&snapshots, own, json!({}))), [1, 2, 3, 4, 6]);
    let by_age = refs(json!({"snapshot-id": 8, "type": "branch", "max-snapshot-age-ms": 60 * HOUR}));
    assert_eq!(gone(rules, &table(&snapshots, by_age, json!({}))), [1, 2, 3, 4]);
    let too_old = refs(json!({"snapshot-id": 8, "type": "branch", "max-ref-age-ms": HOUR}));
    let expiring = Rules { max_age_ms: Some(25 * 3_600_000), ..AS_STATED }
        .expiring(&table(&snapshots, too_old, json!({})), NOW)
        .unwrap();
    assert_eq!(expiring.references, ["audit"]);
    let ids: Vec<i64> = expiring.snapshots.iter().map(|s| s.snapshot_id()).collect();
    assert_eq!(ids, [1, 2, 3, 6, 7], "8 is no one's, but young");
}

#[test]
fn an_age_is_told_at_which_all_of_main_stays_that_has_to() {
    let oldest = |rules: Rules<'_>, metadata: &TableMetadata| {
        rules.expiring(metadata, NOW).unwrap().oldest_kept_ms.map(|ms| (NOW - ms) / HOUR)
    };
    let rules = Rules { max_age_ms: Some(1), tells: Some("position"), ..AS_STATED };
    assert_eq!(oldest(rules, &table(&CHAIN, main_at(5), json!({}))), Some(2));
    let back_at_3 = table(&CHAIN, main_at(3), json!({}));
    assert_eq!(oldest(Rules { max_age_ms: Some(60 * 3_600_000), ..AS_STATED }, &back_at_3), Some(50));
    assert_eq!(oldest(Rules { max_age_ms: Some(90 * 60_000), ..AS_STATED }, &back_at_3), Some(50), "the head, and 5");
}

#[test]
fn what_a_rollback_left_aside_goes_by_its_age() {
    let back_at_2 = table(&CHAIN, main_at(2), json!({}));
    assert_eq!(gone(Rules { max_age_ms: Some(3 * 3_600_000), ..AS_STATED }, &back_at_2), [1, 3]);
}

#[test]
fn what_the_writer_made_last_stays_until_the_writer_knows_that_it_was_rolled_back() {
    let back_at_2 = |last: &str| table(&CHAIN, main_at(2), json!({ "last": last }));
    let rules = Rules { max_age_ms: Some(1), last: Some("last"), ..AS_STATED };
    assert_eq!(gone(rules, &back_at_2("5")), [1, 3, 4]);
    assert_eq!(gone(rules, &back_at_2("2")), [1, 3, 4, 5], "it has gone on since");
    let before_its_first = Rules { tells: Some("another"), ..rules };
    assert_eq!(
        gone(before_its_first, &back_at_2("5")),
        [3, 4],
        "and whatever shows that the table has none of its rows"
    );
    assert_eq!(gone(before_its_first, &back_at_2("2")), [1, 3, 4, 5]);
}

#[test]
fn what_the_writer_made_last_stays_where_a_branch_goes_on_from_it() {
    let mut references = main_at(2);
    references["audit"] = json!({ "snapshot-id": 5, "type": "branch" });
    let rules = Rules { max_age_ms: Some(1), last: Some("last"), ..AS_STATED };
    assert_eq!(gone(rules, &table(&CHAIN, references.clone(), json!({ "last": "4" }))), [1, 3]);
    assert_eq!(gone(rules, &table(&CHAIN, references, json!({ "last": "2" }))), [1, 3, 4]);
}

#[rstest]
#[case::shared_files(json!({"gc.enabled": "false"}), "gc.enabled")]
#[case::no_number(json!({"history.expire.max-snapshot-age-ms": "5d"}), "max-snapshot-age-ms is \"5d\"")]
fn what_can_not_be_obeyed_is_refused(#[case] properties: Value, #[case] word: &str) {
    let refused = AS_STATED.expiring(&table(&CHAIN, main_at(5), properties), NOW).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(refused.to_string().contains(word), "{refused}");
}

#[test]
fn a_table_without_snapshots_has_none_to_lose() {
    let metadata = testing::metadata("memory://m/t");
    assert!(Rules { max_age_ms: Some(0), ..AS_STATED }.expiring(&metadata, NOW).unwrap().is_empty());
}
