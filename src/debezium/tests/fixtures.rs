//! Decoded values of representative records, compared with what stands in them, by hand.

use super::*;
use crate::change::{Column, origin_columns};
use crate::table_event::SourceSnapshot;

fn table(columns: Vec<Column>) -> RowSchema {
    RowSchema { columns: columns.into_iter().chain(origin_columns()).collect() }
}

#[test]
fn the_first_record_asks_for_the_table_that_it_needs() {
    let records = of_topic(fixture("inventory_schemas_true"), ".addresses");
    let out = decode(Mode::Upsert, &records);
    use ColumnType as T;
    assert_eq!(
        out.asked.first(),
        Some(&table(vec![
            Column::key("id", T::Int),
            Column::new("customer_id", T::Int),
            Column::new("street", T::String),
            Column::new("city", T::String),
            Column::new("state", T::String),
            Column::new("zip", T::String),
            Column::new("type", T::String),
        ]))
    );
    assert_eq!(out.asked.len(), 1);
    let first = &out.rows[0];
    assert_eq!(first.op, Op::Read);
    assert_eq!(first.get("id"), &Cell::Int(1));
    assert_eq!(first.get("street"), &text("3183 Moore Avenue"));
    assert_eq!(first.get("zip"), &text("76036"));
    assert_eq!(first.get("_firn_topic"), &text("inventory-server.inventory.addresses"));
    assert_eq!(first.get("_firn_partition"), &Cell::Int(0));
    assert_eq!(first.get("_firn_offset"), &Cell::Int(0));
    assert_eq!(first.get("_firn_op"), &text("r"));
    assert_eq!(first.get("_firn_source_ts"), &Cell::Int(1_795_168_249_794_000));
    assert_eq!(first.get("_firn_source_lsn"), &Cell::Int(43_329_968));
}

#[test]
fn an_added_column_and_a_widened_one_are_asked_for_once_each() {
    let records = of_topic(fixture("types_default_schemas_true"), ".evolving");
    let out = decode(Mode::Upsert, &records);
    assert!(out.rejected.is_empty(), "{:?}", out.rejected);
    let asked: Vec<Vec<String>> = out
        .asked
        .iter()
        .map(|s| {
            s.columns
                .iter()
                .filter(|c| !c.name.starts_with('_'))
                .map(|c| format!("{} {}", c.name, c.column_type))
                .collect()
        })
        .collect();
    assert_eq!(
        asked,
        [
            vec!["id int", "n int", "old_col string", "v string"],
            vec!["id int", "n int", "old_col string", "v string", "added string"],
            vec!["id int", "n long", "v string", "added string"],
            vec!["id int", "n long", "v_renamed string", "added string"],
            vec![
                "id int",
                "n long",
                "v_renamed string",
                "added string",
                "req int",
                "amt decimal(9,2)",
                "ts timestamptz"
            ],
        ]
    );
    let by_id = |id: i128| out.rows.iter().rev().find(|r| r.get("id") == &Cell::Int(id)).unwrap();
    assert_eq!(by_id(5).get("n"), &Cell::Int(5_000_000_000));
    assert_eq!(by_id(5).get("added"), &text("dflt"));
    let last = by_id(7);
    assert_eq!(last.get("old_col"), &Cell::Null);
    assert_eq!(last.get("amt"), &Cell::Int(150));
    assert_eq!(last.get("ts"), &Cell::Int(1_704_067_200_000_000));
    // The delete's before holds fillers (req 7, amt 1.50): none of them is in the row.
    let delete = out.rows.iter().find(|r| r.op == Op::Delete).unwrap();
    assert_eq!(delete.get("id"), &Cell::Int(2));
    assert!(["n", "v_renamed", "added", "req", "amt", "ts"].iter().all(|c| delete.get(c) == &Cell::Null));
}

#[test]
fn inventory_with_and_without_schema_blocks_gives_the_same_rows() {
    for topic in ["customers", "addresses", "products", "orders", "order_items"] {
        let with = decode(Mode::Upsert, &of_topic(fixture("inventory_schemas_true"), &format!(".{topic}")));
        let without = of_topic(fixture("inventory_schemas_false"), &format!(".{topic}"));
        // timestamp(3) counts ms, which only the schema block says.
        let wire = vec![("placed_at".to_owned(), Wire::Counts(Unit::Millis))];
        let options = DecodeOptions { mode: Mode::Upsert, origin_columns: true, wire, ..DecodeOptions::default() };
        let without = drive(&mut Decoder::new(options), Some(with.table.clone()), &without);
        assert!(with.rejected.is_empty() && without.rejected.is_empty(), "{topic} {:?}", without.rejected);
        assert_eq!(with.rows.len(), without.rows.len());
        for (with, without) in with.rows.iter().zip(&without.rows) {
            // The captures are two runs: clocks and log positions differ. Only one was driven with all columns from the start.
            let differs = |c: &str| c.starts_with("_firn_source") || c == "created_at" || c == "updated_at";
            for (column, cell) in without.cells.iter().filter(|(column, _)| !differs(column)) {
                assert_eq!(with.cells.get(column).unwrap_or(&Cell::Null), cell, "{topic} {column}");
            }
        }
        assert!(with.rows.len() >= 6, "{topic}");
    }
}

#[test]
fn a_delete_is_its_key_and_so_is_the_tombstone_behind_it() {
    let records = of_topic(fixture("types_default_schemas_true"), ".pk_composite");
    let upsert = decode(Mode::Upsert, &records);
    let deletes: Vec<&Row> = upsert.rows.iter().filter(|r| r.op == Op::Delete).collect();
    assert!(deletes.len() >= 2);
    for delete in &deletes {
        assert!(delete.get("tenant") != &Cell::Null && delete.get("code") != &Cell::Null);
        assert_eq!((delete.get("qty"), delete.get("note")), (&Cell::Null, &Cell::Null));
    }
    let tombstones = records.iter().filter(|r| r.value.is_none()).count();
    assert!(tombstones > 0 && upsert.skipped.is_empty());
    let append = decode(Mode::Append, &records);
    assert_eq!(append.skipped.len(), tombstones);
    assert!(append.skipped.iter().all(|(_, skip)| *skip == Skip::Tombstone));
    assert_eq!(append.table.key_indices().len(), 2);
}

#[test]
fn a_whole_before_is_the_deletes_row_only_where_that_is_declared() {
    let records = of_topic(fixture("types_default_schemas_true"), ".ri_full");
    let options = DecodeOptions { mode: Mode::Upsert, delete_image: DeleteImage::Before, ..DecodeOptions::default() };
    let whole = drive(&mut Decoder::new(options), None, &records);
    let delete = whole.rows.iter().find(|r| r.op == Op::Delete).unwrap();
    assert_eq!((delete.get("a"), delete.get("b")), (&text("one"), &Cell::Int(2125)));
    let key_only = decode(Mode::Upsert, &records);
    let delete = key_only.rows.iter().find(|r| r.op == Op::Delete).unwrap();
    assert_eq!((delete.get("a"), delete.get("b")), (&Cell::Null, &Cell::Null));
}

#[test]
fn a_table_without_a_key_appends_whole_deletes_and_refuses_upsert() {
    let records = of_topic(fixture("types_default_schemas_true"), ".no_pk_full");
    let append = decode(Mode::Append, &records);
    assert!(append.rejected.is_empty());
    let delete = append.rows.iter().find(|r| r.op == Op::Delete).unwrap();
    assert_eq!((delete.get("a"), delete.get("b")), (&Cell::Int(1), &text("xx")));
    assert_eq!(append.skipped.len(), 1);
    let upsert = decode(Mode::Upsert, &records);
    assert_eq!(upsert.rows.len(), 0);
    assert!(upsert.rejected.iter().all(|(_, r)| r.reason == reason::NO_KEY));
    // With declared key columns it works, the delete's key from its before.
    let options = DecodeOptions { mode: Mode::Upsert, key_columns: Some(vec!["a".into()]), ..DecodeOptions::default() };
    let declared = drive(&mut Decoder::new(options), None, &records);
    assert!(declared.rejected.is_empty(), "{:?}", declared.rejected);
    let delete = declared.rows.iter().find(|r| r.op == Op::Delete).unwrap();
    assert_eq!((delete.get("a"), delete.get("b")), (&Cell::Int(1), &Cell::Null));
}

#[test]
fn unavailable_values_are_null_and_counted_never_text() {
    for name in ["types_default_schemas_true", "types_default_schemas_false"] {
        let with = of_topic(fixture("types_default_schemas_true"), ".toast_default");
        let table = decode(Mode::Append, &with).table;
        let records = of_topic(fixture(name), ".toast_default");
        let mut decoder = Decoder::new(DecodeOptions { origin_columns: true, ..DecodeOptions::default() });
        let out = drive(&mut decoder, Some(table), &records);
        let holders =
            records.iter().filter(|r| r.value.as_ref().is_some_and(|v| v.contains("unavailable_value"))).count();
        assert_eq!(decoder.take_unavailable(), holders as u64);
        assert_eq!(decoder.take_unavailable(), 0);
        assert!(holders >= 3);
        let placeholder = "__debezium_unavailable_value";
        assert!(!format!("{:?}", out.rows).contains(placeholder));
        assert!(!out.rows.iter().any(|r| r.cells.values().any(|c| *c == Cell::Bytes(placeholder.into()))));
        let updated = out.rows.iter().find(|r| r.op == Op::Update).unwrap();
        assert_eq!(updated.get("small"), &text("changed"));
        for column in ["big", "big_json", "big_bytes", "big_arr"] {
            assert_eq!(updated.get(column), &Cell::Null, "{column}");
        }
        let created = &out.rows[0];
        assert!(["big", "big_json", "big_bytes", "big_arr"].iter().all(|c| created.get(c) != &Cell::Null));
    }
}

#[test]
fn what_is_no_row_is_skipped_by_kind() {
    for name in ["types_default_schemas_true", "types_default_schemas_false"] {
        for (topic, kind) in [
            ("__debezium-heartbeat", Skip::Heartbeat),
            ("-notif", Skip::Notification),
            ("-signal", Skip::Signal),
            (".message", Skip::Message),
            (".transaction", Skip::Transaction),
        ] {
            let records: Vec<Captured> = fixture(name).into_iter().filter(|r| r.topic.contains(topic)).collect();
            let out = decode(Mode::Upsert, &records);
            assert!(!records.is_empty() && out.skipped.len() == records.len(), "{topic} {:?}", out.rejected);
            assert!(out.skipped.iter().all(|(_, skip)| *skip == kind), "{topic}");
        }
        let truncates = of_topic(fixture(name), ".truncated");
        let table = decode(Mode::Upsert, &of_topic(fixture("types_default_schemas_true"), ".truncated")).table;
        let options = || DecodeOptions { mode: Mode::Upsert, origin_columns: true, ..DecodeOptions::default() };
        let out = drive(&mut Decoder::new(options()), Some(table), &truncates);
        let lsn = |fence: &Option<Fence>| fence.unwrap().lsn;
        let rows_at = |ids: &[i128]| -> Vec<i128> {
            let row = |id| out.rows.iter().find(|r| r.get("id") == &Cell::Int(id)).unwrap();
            ids.iter()
                .map(|id| match row(*id).get("_firn_source_lsn") {
                    Cell::Int(lsn) => *lsn,
                    other => panic!("{other:?}"),
                })
                .collect()
        };
        let [(3, first), (5, second)] = &out.truncates[..] else { panic!("{:?}", out.truncates) };
        let (first, second) = (lsn(first), lsn(second));
        assert!(rows_at(&[1, 2, 3]).iter().all(|row| *row < first.into()), "what the snapshot read was there before");
        assert!(i128::from(first) < rows_at(&[10])[0] && rows_at(&[10])[0] < second.into());
        // Also as the very first record, before any table is known; of both tables at once.
        let other = of_topic(fixture(name), ".truncated2");
        let alone = drive(&mut Decoder::new(options()), None, &other[..1]).truncates;
        assert_eq!(alone, [(0, Some(Fence { lsn: second, last_commit: alone[0].1.unwrap().last_commit }))]);
        assert!(alone[0].1.unwrap().last_commit.unwrap() <= second);
        for skipping in
            [DecodeOptions::default(), DecodeOptions { skip_truncates: true, mode: Mode::Upsert, ..options() }]
        {
            let out = drive(&mut Decoder::new(skipping), None, &other);
            assert_eq!((out.skipped, out.truncates), (vec![(0, Skip::Truncate)], vec![]));
        }
    }
}

#[test]
fn a_snapshot_of_the_whole_table_says_so_and_an_incremental_one_does_not() {
    for name in ["types_default_schemas_true", "types_default_schemas_false"] {
        let records = of_topic(fixture(name), ".snap_source");
        let table = decode(Mode::Upsert, &of_topic(fixture("types_default_schemas_true"), ".snap_source")).table;
        let mut decoder =
            Decoder::new(DecodeOptions { mode: Mode::Upsert, origin_columns: true, ..Default::default() });
        let (whole, incremental) = records.split_at(12);
        let out = drive(&mut decoder, Some(table.clone()), &whole[..11]);
        let Cell::Int(lsn) = *out.rows[0].get("_firn_source_lsn") else { panic!() };
        let since_ms = whole[0].timestamp.unwrap();
        let seen = SourceSnapshot { lsn: lsn as i64, since_ms, ended: false, over_rows: false };
        assert_eq!(decoder.take_snapshot(), Some(seen));
        drive(&mut decoder, Some(table.clone()), &whole[11..]);
        let last = SourceSnapshot { ended: true, since_ms: whole[11].timestamp.unwrap(), ..seen };
        assert_eq!(decoder.take_snapshot(), Some(last));
        let out = drive(&mut decoder, Some(table), incremental);
        assert_eq!((out.rows.len(), decoder.take_snapshot()), (12, None));
        // Such a row has no LSN of its own: it says up to where the log was sent.
        assert!(out.rows.iter().all(|r| matches!(r.get("_firn_source_lsn"), Cell::Int(at) if *at > lsn)));
    }
}

#[test]
fn special_values_are_what_the_source_meant() {
    let records = of_topic(fixture("types_default_schemas_true"), ".specials");
    let mut decoder = Decoder::new(DecodeOptions { origin_columns: true, ..DecodeOptions::default() });
    let out = drive(&mut decoder, None, &records);
    let by_id = |id: i128| out.rows.iter().find(|r| r.get("id") == &Cell::Int(id)).unwrap();
    let float = |v: f64| Cell::Float(v.to_bits());
    assert_eq!((by_id(1).get("v_double"), by_id(1).get("v_real")), (&float(f64::NAN), &float(f64::INFINITY)));
    assert_eq!((by_id(2).get("v_double"), by_id(2).get("v_real")), (&float(f64::NEG_INFINITY), &float(f64::NAN)));
    assert_eq!(by_id(22).get("v_double"), &float(-0.0));
    assert_eq!(by_id(22).get("v_real"), &float(f64::from(f32::from_bits(1))));
    for (id, column) in [(7, "v_ts"), (8, "v_ts"), (9, "v_tstz"), (10, "v_tstz"), (11, "v_date"), (12, "v_date")] {
        assert!(out.rows.iter().filter(|r| r.get("id") == &Cell::Int(id)).all(|r| r.get(column) == &Cell::Null));
    }
    assert_eq!(decoder.take_infinite(), 12);
    assert_eq!(by_id(13).get("v_tstz"), &Cell::Int(-63_517_780_800_000_000));
    assert_eq!(by_id(14).get("v_tstz"), &Cell::Int(327_416_976_550_111_213));
    assert_eq!(
        by_id(19).get("v_numeric"),
        &text("123456789012345678901234567890123456789012345678901234567890.123456789")
    );
    assert_eq!(by_id(21).get("v_text"), &text("🦀 \u{1} \u{2028} end"));
    // 24:00 has no place in time, PostgreSQL's last instant none in µs since 1970; each row stands twice in the capture.
    let reasons: Vec<(&str, bool)> =
        out.rejected.iter().map(|(_, r)| (r.reason, r.detail.contains("column v_t"))).collect();
    assert_eq!(reasons, [("bad_value", true); 4]);
}

#[test]
fn nulls_of_columns_with_a_default_stay_null_where_the_connector_keeps_them() {
    let table = RowSchema {
        columns: vec![
            Column::key("id", ColumnType::Int),
            Column::new("a", ColumnType::String),
            Column::new("n", ColumnType::Int),
        ],
    };
    let options = DecodeOptions { mode: Mode::Upsert, ..DecodeOptions::default() };
    let kept = drive(&mut Decoder::new(options.clone()), Some(table.clone()), &fixture("null_default_kept"));
    assert_eq!((kept.rows[0].get("a"), kept.rows[0].get("n")), (&Cell::Null, &Cell::Null));
    let replaced = drive(&mut Decoder::new(options), Some(table), &fixture("null_default_replaced"));
    assert_ne!(replaced.rows[0].get("a"), &Cell::Null);
}
