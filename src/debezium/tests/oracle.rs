//! Every fixture record once more, by another path: serde_json trees, chrono, long division. Both must agree.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::*;

/// The column's schema within a schema block's `after`.
type Fields = Vec<(String, Value)>;

fn after_fields(schema: &Value) -> Option<Fields> {
    let after = schema["fields"].as_array()?.iter().find(|f| f["field"] == "after")?;
    let fields = after["fields"].as_array()?;
    Some(fields.iter().map(|f| (f["field"].as_str().unwrap().to_owned(), f.clone())).collect())
}

/// Digits of a big-endian two's complement number, by long multiplication.
fn digits(bytes: &[u8], scale: usize) -> String {
    let negative = bytes.first().is_some_and(|b| *b >= 0x80);
    let mut decimal = vec![0u32];
    for byte in bytes {
        let byte = u32::from(if negative { !*byte } else { *byte });
        let mut carry = byte;
        for digit in decimal.iter_mut() {
            let sum = *digit * 256 + carry;
            (*digit, carry) = (sum % 10, sum / 10);
        }
        while carry > 0 {
            decimal.push(carry % 10);
            carry /= 10;
        }
    }
    if negative {
        let mut at = 0;
        loop {
            if at == decimal.len() {
                decimal.push(0);
            }
            decimal[at] += 1;
            if decimal[at] < 10 {
                break;
            }
            decimal[at] = 0;
            at += 1;
        }
    }
    while decimal.len() <= scale {
        decimal.push(0);
    }
    let mut text: String = decimal.iter().rev().map(|d| char::from(b'0' + *d as u8)).collect();
    text = text.trim_start_matches('0').to_owned();
    while text.len() <= scale {
        text.insert(0, '0');
    }
    if scale > 0 {
        text.insert(text.len() - scale, '.');
    }
    if negative { format!("-{text}") } else { text }
}

/// The cell that a value must become; `Err` where it must be rejected.
fn expect(value: &Value, schema: &Value) -> Result<Cell, String> {
    if value.is_null() {
        return Ok(Cell::Null);
    }
    if let Some(text) = value.as_str()
        && ["__debezium_unavailable_value", "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="].contains(&text)
    {
        return Ok(Cell::Null);
    }
    let base64 = |v: &Value| STANDARD.decode(v.as_str().unwrap()).unwrap();
    let int = || i128::from(value.as_i64().unwrap());
    Ok(match schema["name"].as_str().unwrap_or_default() {
        "org.apache.kafka.connect.data.Decimal" => {
            let scale: usize = schema["parameters"]["scale"].as_str().unwrap().parse().unwrap();
            let text = digits(&base64(value), scale);
            match schema["parameters"].get("connect.decimal.precision") {
                Some(_) => Cell::Int(text.replace('.', "").parse().unwrap()),
                None => Cell::Text(text),
            }
        }
        "io.debezium.data.VariableScaleDecimal" => {
            Cell::Text(digits(&base64(&value["value"]), value["scale"].as_u64().unwrap() as usize))
        }
        "io.debezium.time.Date" => match int() {
            2_146_033_979 | -2_147_472_691 | -622_191_234 | -625_821_272 => Cell::Null,
            days => Cell::Int(days),
        },
        "io.debezium.time.Time" => Cell::Int(int() * 1000),
        "io.debezium.time.MicroTime" if int() >= 86_400_000_000 => return Err("24:00".into()),
        "io.debezium.time.Timestamp" => Cell::Int(int() * 1000),
        "io.debezium.time.MicroTimestamp" if [i64::MAX, i64::MIN].map(i128::from).contains(&int()) => Cell::Null,
        "io.debezium.time.MicroTimestamp" if int() == -9_223_372_036_853_775_810 => return Err("overflowed".into()),
        "io.debezium.time.ZonedTimestamp" => match value.as_str().unwrap() {
            "infinity" | "-infinity" => Cell::Null,
            text => {
                let instant = text.parse::<chrono::DateTime<chrono::Utc>>().map_err(|e| format!("{text}: {e}"))?;
                Cell::Int(instant.timestamp_micros().into())
            }
        },
        "io.debezium.data.Uuid" => {
            let hex: String = value.as_str().unwrap().replace('-', "");
            Cell::Bytes((0..16).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect())
        }
        _ => match schema["type"].as_str().unwrap() {
            "boolean" => Cell::Boolean(value.as_bool().unwrap()),
            "int8" | "int16" | "int32" | "int64" => Cell::Int(int()),
            kind @ ("float" | "double") => {
                let number = match value.as_str() {
                    Some("NaN") => f64::NAN,
                    Some("Infinity") => f64::INFINITY,
                    Some("-Infinity") => f64::NEG_INFINITY,
                    Some(other) => return Err(other.to_owned()),
                    None => value.as_f64().unwrap(),
                };
                Cell::Float(if kind == "float" { f64::from(number as f32) } else { number }.to_bits())
            }
            "string" => text(value.as_str().unwrap()),
            "bytes" => Cell::Bytes(base64(value)),
            "array" => {
                let list = value.as_array().unwrap();
                if *list == ["__debezium_unavailable_value"] {
                    return Ok(Cell::Null);
                }
                Cell::List(list.iter().map(|v| expect(v, &schema["items"])).collect::<Result<_, _>>()?)
            }
            "map" => {
                let entries = value.as_object().unwrap().iter();
                Cell::Map(
                    entries
                        .map(|(k, v)| Ok((k.clone(), expect(v, &schema["values"])?)))
                        .collect::<Result<_, String>>()?,
                )
            }
            "struct" => {
                let fields = schema["fields"].as_array().unwrap().iter();
                let members = fields.map(|f| {
                    let name = f["field"].as_str().unwrap();
                    Ok((name.to_owned(), expect(&value[name], f)?))
                });
                Cell::Struct(members.collect::<Result<_, String>>()?)
            }
            other => panic!("{other}"),
        },
    })
}

/// `serde_json::Map` sorts its keys; a map's order is no part of its meaning.
fn sorted(cell: &Cell) -> Cell {
    match cell {
        Cell::Map(entries) => {
            let mut entries: Vec<_> = entries.iter().map(|(k, v)| (k.clone(), sorted(v))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Cell::Map(entries)
        }
        Cell::Struct(members) => Cell::Struct(members.iter().map(|(k, v)| (k.clone(), sorted(v))).collect()),
        Cell::List(items) => Cell::List(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

fn by_topic(records: Vec<Captured>) -> BTreeMap<String, Vec<Captured>> {
    let mut topics: BTreeMap<String, Vec<Captured>> = BTreeMap::new();
    for record in records.into_iter().filter(|r| r.topic.matches('.').count() == 2) {
        topics.entry(record.topic.clone()).or_default().push(record);
    }
    topics
}

/// Compares all rows of one topic with the oracle's; answers how many values were compared.
fn compare(records: &[Captured], out: &Outcome, fields: &HashMap<String, Value>) -> usize {
    let rejected: Vec<usize> = out.rejected.iter().map(|(at, _)| *at).collect();
    let mut rows = out.from.iter().zip(&out.rows).collect::<HashMap<_, _>>();
    let mut compared = 0;
    for (at, record) in records.iter().enumerate() {
        let Some(value) = &record.value else { continue };
        let value: Value = serde_json::from_str(value).unwrap();
        let own = value.get("schema").and_then(after_fields);
        let payload = value.get("payload").unwrap_or(&value);
        let Some(after) = payload["after"].as_object() else { continue };
        let schema_of = |name: &str| match &own {
            Some(own) => own.iter().find(|(n, _)| n == name).map(|(_, s)| s.clone()),
            None => fields.get(name).cloned(),
        };
        let expected: Result<Vec<(String, Cell)>, String> = after
            .iter()
            .map(|(name, value)| {
                let schema = schema_of(name).unwrap_or_else(|| panic!("{} has no {name}", record.topic));
                Ok((name.clone(), expect(value, &schema)?))
            })
            .collect();
        let Ok(expected) = expected else {
            assert!(rejected.contains(&at), "{} {at} should be rejected", record.topic);
            continue;
        };
        let row = rows.remove(&at).unwrap_or_else(|| panic!("{} {at} has no row: {:?}", record.topic, out.rejected));
        assert_eq!(row.op.letter(), payload["op"]);
        for (name, cell) in expected {
            assert_eq!(sorted(row.get(&name)), sorted(&cell), "{} {at} {name}", record.topic);
            compared += 1;
        }
        for (name, cell) in &row.cells {
            assert!(after.contains_key(name) || name.starts_with("_firn_") || *cell == Cell::Null);
        }
        assert_eq!(row.get("_firn_offset"), &Cell::Int(record.offset.into()));
        assert_eq!(row.get("_firn_partition"), &Cell::Int(record.partition.into()));
        // Rows of an incremental snapshot have no LSN: they get the end of the last transaction sent before.
        let sequence = || -> Option<i64> {
            let sequence: Value = serde_json::from_str(payload["source"]["sequence"].as_str()?).ok()?;
            sequence[0].as_str()?.parse().ok()
        };
        let lsn = payload["source"]["lsn"].as_i64().or_else(sequence);
        let lsn = lsn.map_or(Cell::Null, |lsn| Cell::Int(lsn.into()));
        assert_eq!(row.get("_firn_source_lsn"), &lsn);
        let ts_us = i128::from(payload["source"]["ts_ms"].as_i64().unwrap()) * 1000;
        assert_eq!(row.get("_firn_source_ts"), &Cell::Int(ts_us));
    }
    assert!(rows.values().all(|row| row.op == Op::Delete));
    compared
}

#[test]
fn records_with_schema_blocks_decode_as_serde_json_reads_them() {
    let mut compared = 0;
    for name in [
        "inventory_schemas_true",
        "engagement_schemas_true",
        "types_default_schemas_true",
        "types_v1_string_interval_base64_unknown",
    ] {
        for (topic, records) in by_topic(fixture(name)) {
            for mode in [Mode::Append, Mode::Upsert] {
                if mode == Mode::Upsert && topic.contains("no_pk") {
                    continue;
                }
                compared += compare(&records, &decode(mode, &records), &HashMap::new());
            }
        }
    }
    assert!(compared > 7000, "{compared}");
}

#[test]
fn records_without_schema_blocks_decode_as_serde_json_reads_them() {
    let mut compared = 0;
    for name in ["inventory", "engagement", "types_default"] {
        let mut bare = by_topic(fixture(&format!("{name}_schemas_false")));
        for (topic, with) in by_topic(fixture(&format!("{name}_schemas_true"))) {
            let table = decode(Mode::Append, &with).table;
            let mut fields = HashMap::new();
            for record in &with {
                let value: Value = serde_json::from_str(record.value.as_deref().unwrap_or("null")).unwrap();
                fields.extend(after_fields(&value["schema"]).unwrap_or_default());
            }
            // Money's scale stands in the schema block only: without it the base64 stays.
            if let Some(money) = fields.get_mut("c_money") {
                *money = serde_json::json!({"type": "string"});
            }
            let millis = |c: &str| (c.to_owned(), Wire::Counts(Unit::Millis));
            let options = DecodeOptions {
                origin_columns: true,
                wire: ["c_time3", "c_ts0", "c_ts3", "placed_at"].map(millis).to_vec(),
                ..DecodeOptions::default()
            };
            let topic = topic.replacen("td.", "tn.", 1);
            let records = bare.remove(&topic).unwrap();
            let mut decoder = Decoder::new(options);
            let out = drive(&mut decoder, Some(table), &records);
            assert_eq!(decoder.take_unknown_fields(), Vec::<String>::new(), "{topic}");
            compared += compare(&records, &out, &fields);
        }
    }
    assert!(compared > 2000, "{compared}");
}
