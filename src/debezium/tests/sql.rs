//! What types_snapshot.sql and types_stream.sql write, read by hand, against what becomes of it: no decoder, no JSON library between.

use chrono::{DateTime, Days, NaiveDate, NaiveTime};

use super::*;
use crate::change::Column;

/// A value as one would write it in SQL.
fn show(column_type: &ColumnType, cell: &Cell) -> String {
    match (column_type, cell) {
        (_, Cell::Null) => "null".to_owned(),
        (ColumnType::Decimal { scale, .. }, Cell::Int(unscaled)) => {
            let scale = usize::from(*scale);
            let digits = format!("{:0width$}", unscaled.unsigned_abs(), width = scale + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            let sign = if *unscaled < 0 { "-" } else { "" };
            if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
        }
        (ColumnType::Date, Cell::Int(days)) => {
            let epoch = NaiveDate::from_ymd_opt(1970, 1, 1).unwrap();
            let distance = Days::new(days.unsigned_abs() as u64);
            let date = if *days < 0 { epoch.checked_sub_days(distance) } else { epoch.checked_add_days(distance) };
            date.unwrap().to_string()
        }
        (ColumnType::Time, Cell::Int(us)) => {
            let (seconds, us) = ((us / 1_000_000) as u32, (us % 1_000_000) as u32);
            NaiveTime::from_num_seconds_from_midnight_opt(seconds, us * 1000).unwrap().to_string()
        }
        (ColumnType::Timestamp | ColumnType::TimestampTz, Cell::Int(us)) => {
            let text = DateTime::from_timestamp_micros(*us as i64).unwrap().naive_utc().to_string();
            if *column_type == ColumnType::TimestampTz { text + "Z" } else { text }
        }
        (ColumnType::Uuid, Cell::Bytes(bytes)) => uuid::Uuid::from_slice(bytes).unwrap().to_string(),
        (_, Cell::Bytes(bytes)) => bytes.iter().map(|b| format!("{b:02x}")).collect(),
        (ColumnType::List(element), Cell::List(cells)) => {
            format!("[{}]", cells.iter().map(|c| show(element, c)).collect::<Vec<_>>().join(", "))
        }
        (ColumnType::Struct(columns), Cell::Struct(cells)) => {
            let members =
                columns.iter().zip(cells).map(|(c, (_, cell))| format!("{} {}", c.name, show(&c.column_type, cell)));
            format!("({})", members.collect::<Vec<_>>().join(", "))
        }
        (ColumnType::Map(value), Cell::Map(entries)) => {
            let mut entries: Vec<String> = entries.iter().map(|(k, v)| format!("{k}={}", show(value, v))).collect();
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        (_, Cell::Boolean(value)) => value.to_string(),
        (_, Cell::Int(value)) => value.to_string(),
        (_, Cell::Float(bits)) => f64::from_bits(*bits).to_string(),
        (_, Cell::Text(text)) => text.clone(),
        other => panic!("{other:?}"),
    }
}

/// Type and value where the modes of v1 make another of them.
type InV1 = Option<(&'static str, &'static str)>;

/// Column, its type, and the value of the first row of `all_types`. Where the modes of v1 (decimals and intervals as strings, hstore
/// as map, bytes as base64 text, types that Debezium does not know as base64 of their text) make something else of it: that too.
const FIRST_ROW: &[(&str, &str, &str, InV1)] = &[
    ("c_smallint", "int", "-32768", None),
    ("c_int", "int", "-2147483648", None),
    ("c_bigint", "long", "-9223372036854775808", None),
    ("c_oid", "long", "4294967295", None),
    ("c_real", "float", "1.5", None),
    ("c_double", "double", "2.718281828459045", None),
    ("c_numeric_10_2", "decimal(10,2)", "-12345678.90", Some(("string", "-12345678.90"))),
    (
        "c_numeric_38_0",
        "decimal(38,0)",
        "99999999999999999999999999999999999999",
        Some(("string", "99999999999999999999999999999999999999")),
    ),
    ("c_numeric_38_18", "decimal(38,18)", "-0.000000000000000001", Some(("string", "-0.000000000000000001"))),
    ("c_numeric", "string", "12345.6789", Some(("string", "12345.678900"))),
    ("c_numeric_5", "decimal(5,0)", "12345", Some(("string", "12345"))),
    ("c_money", "string", "-1234.56", None),
    ("c_bool", "boolean", "true", None),
    ("c_char", "string", "ab   ", None),
    ("c_varchar", "string", "varchar ünïcødé 🦀", None),
    ("c_text", "string", "text with \"quotes\", \\back and\nnewline", None),
    ("c_citext", "string", "CiText", None),
    ("c_name", "string", "a_name", None),
    ("c_internal_char", "string", "x", None),
    ("c_bytea", "binary", "00ff10deadbeef", Some(("string", "AP8Q3q2+7w=="))),
    ("c_uuid", "uuid", "b3a1c2d4-0000-4000-8000-00000000beef", None),
    ("c_json", "string", "{\"a\": 1,  \"b\":[1,2,{\"c\":null}]}", None),
    ("c_jsonb", "string", "{\"a\": 1.10, \"n\": 12345678901234567890.123, \"z\": 1}", None),
    ("c_xml", "string", "<r a=\"1\">x</r>", None),
    ("c_date", "date", "2024-02-29", None),
    ("c_time", "time", "23:59:59.999999", None),
    ("c_time3", "time", "12:34:56.789", None),
    ("c_timetz", "string", "04:41:12.131415Z", None),
    ("c_ts", "timestamp", "2024-02-29 12:34:56.123456", None),
    ("c_ts0", "timestamp", "2024-02-29 12:34:56", None),
    ("c_ts3", "timestamp", "2024-02-29 12:34:56.123", None),
    ("c_ts6", "timestamp", "1969-12-31 23:59:59.999999", None),
    ("c_tstz", "timestamptz", "2024-02-29 10:34:56.123456Z", None),
    ("c_tstz0", "timestamptz", "2024-02-29 12:34:56Z", None),
    ("c_tstz3", "timestamptz", "2024-02-29 19:34:56.120Z", None),
    ("c_interval", "long", "37091106789000", Some(("string", "P1Y2M3DT4H5M6.789S"))),
    ("c_inet", "string", "192.168.1.7/24", None),
    ("c_cidr", "string", "10.0.0.0/8", None),
    ("c_macaddr", "string", "08:00:2b:01:02:03", None),
    ("c_macaddr8", "string", "08:00:2b:01:02:03:04:05", None),
    ("c_bit1", "boolean", "true", None),
    ("c_bit8", "binary", "aa", None),
    ("c_bit40", "binary", "0100000080", None),
    ("c_varbit", "binary", "0b", None),
    (
        "c_point",
        "struct<x: double, y: double, wkb: binary, srid: int>",
        "(x 1.5, y -2.25, wkb 0101000000000000000000f83f00000000000002c0, srid null)",
        None,
    ),
    ("c_line", "struct<a: double, b: double, c: double>", "(a 1, b 2, c 3)", None),
    (
        "c_lseg",
        "struct<wkb: binary, srid: int, extensions: map<string, string>>",
        "(wkb 01020000000200000000000000000000000000000000000000000000000000f03f000000000000f03f, srid null, extensions {type=lseg})",
        None,
    ),
    (
        "c_circle",
        "struct<center: struct<x: double, y: double, wkb: binary, srid: int>, radius: double>",
        "(center (x 1, y 2, wkb 0101000000000000000000f03f0000000000000040, srid null), radius 3)",
        None,
    ),
    ("c_int4range", "string", "[1,10)", None),
    ("c_int8range", "string", "(,9223372036854775807)", None),
    ("c_numrange", "string", "[1.5,2.5]", None),
    ("c_tsrange", "string", "[\"2024-01-01 00:00:00\",\"2024-01-02 00:00:00\")", None),
    ("c_tstzrange", "string", "[\"2024-01-01 00:00:00+00\",\"2024-01-02 00:00:00+00\")", None),
    ("c_daterange", "string", "[2024-01-01,2024-02-01)", None),
    ("c_int4multirange", "", "", Some(("string", "e1sxLDMpLFs1LDgpfQ=="))),
    ("c_enum", "string", "happy", None),
    ("c_composite", "", "", Some(("string", "KCJNYWluIHN0LiAiIjUiIiIsMTIzNDUp"))),
    ("c_domain_int", "int", "7", None),
    ("c_domain_num", "decimal(12,4)", "99.9999", Some(("string", "99.9999"))),
    (
        "c_hstore",
        "string",
        "{\"a\":\"1\",\"d\":\"x\\\"y\",\"b c\":null}",
        Some(("map<string, string>", "{a=1, b c=null, d=x\"y}")),
    ),
    ("c_ltree", "string", "top.science.astro", None),
    ("c_tsvector", "string", "'brown':3 'fox':4 'quick':2", None),
    ("c_tsquery", "", "", Some(("string", "J3F1aWNrJyAmICdmb3gn"))),
    ("c_pg_lsn", "", "", Some(("string", "MTYvQjM3NEQ4NDg="))),
    ("a_int", "list<int>", "[1, null, -3]", None),
    ("a_bigint", "list<long>", "[9223372036854775807]", None),
    ("a_smallint", "list<int>", "[1, 2]", None),
    ("a_text", "list<string>", "[a, b,c, null, NULL, d\"e]", None),
    ("a_varchar", "list<string>", "[x]", None),
    ("a_bool", "list<boolean>", "[true, false, null]", None),
    ("a_real", "list<float>", "[1.5, null]", None),
    ("a_double", "list<double>", "[1.25, -0.5]", None),
    (
        "a_numeric",
        "list<string>",
        "[1.1, null, 12345678901234567890.5]",
        Some(("list<string>", "[1.10, null, 12345678901234567890.5]")),
    ),
    ("a_numeric_10_2", "list<decimal(10,2)>", "[1.10, 2.20]", Some(("list<string>", "[1.10, 2.20]"))),
    ("a_uuid", "list<uuid>", "[b3a1c2d4-0000-4000-8000-00000000beef]", None),
    ("a_jsonb", "list<string>", "[{\"k\": 1}, [1, 2]]", None),
    ("a_date", "list<date>", "[2024-02-29, 1970-01-01]", None),
    // 01:02:03.000004 in the SQL: Debezium cuts times in arrays to seconds.
    ("a_time", "list<time>", "[01:02:03]", None),
    ("a_ts", "list<timestamp>", "[2024-02-29 12:34:56.123456]", None),
    ("a_tstz", "list<timestamptz>", "[2024-02-29 12:34:56.123456Z, null]", None),
    ("a_bytea", "list<binary>", "[01ff]", Some(("list<string>", "[Af8=]"))),
    ("a_enum", "list<string>", "[sad, happy]", None),
    ("a_inet", "list<string>", "[10.0.0.1, ::1]", None),
    // Debezium has no arrays of two dimensions: it sends a null for each of the first.
    ("a_int_2d", "list<int>", "[null, null]", None),
    ("g_stored", "long", "-4294967296", None),
];

fn first_row(out: &Outcome, column: &str) -> Option<(String, String)> {
    let column = out.table.columns.iter().find(|c| c.name == column)?;
    Some((column.column_type.to_string(), show(&column.column_type, out.rows[0].cells.get(&column.name)?)))
}

#[test]
fn the_first_row_of_every_type_is_what_the_sql_says() {
    let default = decode(Mode::Upsert, &of_topic(fixture("types_default_schemas_true"), ".all_types"));
    let v1 = decode(Mode::Upsert, &of_topic(fixture("types_v1_string_interval_base64_unknown"), ".all_types"));
    let of = |t: &'static str, v: &'static str| Some((t.to_owned(), v.to_owned())).filter(|_| !t.is_empty());
    for (name, column_type, value, in_v1) in FIRST_ROW {
        let want = of(column_type, value);
        assert_eq!(first_row(&default, name), want, "{name}");
        assert_eq!(first_row(&v1, name), in_v1.map_or(want, |(t, v)| of(t, v)), "{name} in v1");
    }
    // Nothing of the table is left out but the polygons, which the lseg stands for, and the key.
    let untold = v1.table.columns.iter().filter(|c| FIRST_ROW.iter().all(|(name, ..)| *name != c.name));
    let untold: Vec<&str> = untold.map(|c| c.name.as_str()).filter(|n| !n.starts_with("_firn_")).collect();
    assert_eq!(untold, ["id", "c_box", "c_path", "c_polygon"]);
}

#[test]
fn declared_types_bring_back_what_the_modes_made_texts_of() {
    let parsed = |name: &str, column_type: &str| Column::new(name, column_type.parse().unwrap());
    let declared = vec![
        parsed("c_numeric_10_2", "decimal(10,2)"),
        parsed("c_numeric_38_18", "decimal(38,18)"),
        parsed("c_numeric", "double"),
        parsed("c_bytea", "binary"),
        parsed("a_bytea", "list<binary>"),
        parsed("a_numeric_10_2", "list<decimal(10,2)>"),
        parsed("c_domain_num", "decimal(20,6)"),
        parsed("c_time", "long"),
        parsed("c_bit1", "boolean"),
    ];
    let records = of_topic(fixture("types_v1_string_interval_base64_unknown"), ".all_types");
    let options = DecodeOptions { declared, mode: Mode::Upsert, ..DecodeOptions::default() };
    let out = drive(&mut Decoder::new(options), None, &records);
    assert!(out.rejected.is_empty(), "{:?}", out.rejected);
    for (name, want) in [
        ("c_numeric_10_2", "-12345678.90"),
        ("c_numeric_38_18", "-0.000000000000000001"),
        ("c_numeric", "12345.6789"),
        ("c_bytea", "00ff10deadbeef"),
        ("a_bytea", "[01ff]"),
        ("a_numeric_10_2", "[1.10, 2.20]"),
        ("c_domain_num", "99.999900"),
        ("c_time", "86399999999"),
        ("c_bit1", "true"),
    ] {
        assert_eq!(first_row(&out, name).unwrap().1, want, "{name}");
    }
}

/// The rows of `specials` with one special value each, as a table of the default modes shows it; both the streamed row and the one
/// of the incremental snapshot must be so.
const SPECIALS: &[(i128, &str, &str)] = &[
    (1, "v_double", "NaN"),
    (1, "v_real", "inf"),
    (2, "v_double", "-inf"),
    // Debezium sends nothing for them in precise mode.
    (3, "v_numeric", "null"),
    (4, "v_numeric_10_2", "null"),
    (5, "v_numeric", "null"),
    (7, "v_ts", "null"),
    (8, "v_ts", "null"),
    (9, "v_tstz", "null"),
    (10, "v_tstz", "null"),
    (11, "v_date", "null"),
    (12, "v_date", "null"),
    (13, "v_ts", "-0043-03-15 12:00:00"),
    (13, "v_tstz", "-0043-03-15 12:00:00Z"),
    (14, "v_date", "+12345-06-07"),
    (14, "v_ts", "+12345-06-07 08:09:10.111213"),
    (14, "v_tstz", "+12345-06-07 08:09:10.111213Z"),
    // Debezium can't read an offset with seconds.
    (16, "v_timetz", "null"),
    (17, "v_interval", "9223372036854775807"),
    (19, "v_numeric", "123456789012345678901234567890123456789012345678901234567890.123456789"),
    (20, "v_numeric", "0"),
    (21, "v_text", "🦀 \u{1} \u{2028} end"),
    (21, "v_jsonb", "{\"e\": \"\u{2028} \\\\ \\\" 🦀\"}"),
    (22, "v_double", "-0"),
    (23, "v_tstzrange", "[\"2024-01-01 00:00:00+00\",infinity)"),
    (26, "v_ts", "1582-10-14 00:00:00"),
    (26, "v_tstz", "1582-10-14 00:00:00Z"),
];

#[test]
fn special_values_are_the_same_streamed_and_from_a_snapshot() {
    let out = decode(Mode::Append, &of_topic(fixture("types_default_schemas_true"), ".specials"));
    for (id, name, want) in SPECIALS {
        let column = out.table.columns.iter().find(|c| c.name == *name).unwrap();
        let rows: Vec<&Row> = out.rows.iter().filter(|r| r.get("id") == &Cell::Int(*id)).collect();
        assert_eq!(rows.len(), 2, "{id}");
        for row in rows {
            assert_eq!(show(&column.column_type, row.get(name)), *want, "{id} {name} {:?}", row.op);
        }
    }
    // The one value that Debezium itself sends twice differently and that nothing tells apart from a true one: a snapshot over JDBC
    // loses the era of a date BC.
    let dates: Vec<String> = out
        .rows
        .iter()
        .filter(|r| r.get("id") == &Cell::Int(13))
        .map(|r| show(&ColumnType::Date, r.get("v_date")))
        .collect();
    assert_eq!(dates, ["-0043-03-15", "0044-03-15"]);
}

#[test]
fn infinite_values_follow_the_tables_policy() {
    use crate::change::Infinity;
    let records = of_topic(fixture("types_default_schemas_true"), ".specials");
    let driven = |infinity| {
        let mut decoder = Decoder::new(DecodeOptions { infinity, ..DecodeOptions::default() });
        let out = drive(&mut decoder, None, &records);
        (out, decoder.take_infinite())
    };
    let (clamped, count) = driven(Infinity::Clamp);
    assert_eq!(count, 12);
    for (id, name, want) in [
        (7, "v_ts", "9999-12-31 23:59:59.999999"),
        (8, "v_ts", "0001-01-01 00:00:00"),
        (9, "v_tstz", "9999-12-31 23:59:59.999999Z"),
        (10, "v_tstz", "0001-01-01 00:00:00Z"),
        (11, "v_date", "9999-12-31"),
        (12, "v_date", "0001-01-01"),
    ] {
        let column_type = &clamped.table.columns.iter().find(|c| c.name == name).unwrap().column_type;
        for row in clamped.rows.iter().filter(|r| r.get("id") == &Cell::Int(id)) {
            assert_eq!(show(column_type, row.get(name)), want, "{id}");
        }
    }
    let (nulls, _) = driven(Infinity::Null);
    let (rejecting, _) = driven(Infinity::Reject);
    assert_eq!(rejecting.rejected.len(), nulls.rejected.len() + 12);
    assert_eq!(rejecting.rejected.iter().filter(|(_, r)| r.detail.contains("infinity is \"reject\"")).count(), 12);
}
