//! Letters on standard output.

use serde_json::{Map, Value, json};

use crate::cli::print::{self, Grid};
use crate::cli::{Failure, Output};
use crate::letter::{Letter, Status};
use crate::pipeline::replay::Outcome;

pub(super) fn list(letters: &[Letter], output: Output) -> Result<(), Failure> {
    let mut grid = Grid::new(["origin", "table", "status", "rejected", "reason", "detail"]);
    for l in letters {
        grid.row([
            l.origin.to_string(),
            l.target.clone(),
            l.status.as_str().to_owned(),
            l.rejected_ms.map(utc).unwrap_or_default(),
            l.reason.clone(),
            l.detail.clone(),
        ]);
    }
    grid.print(output, &letters.iter().map(outside).collect::<Vec<_>>())
}

/// All that is known; several where one record was rejected for several tables.
pub(super) fn whole(letters: &[Letter], output: Output) -> Result<(), Failure> {
    output.not_csv()?;
    if output == Output::Json {
        let letters: Vec<Value> = letters.iter().map(with_contents).collect();
        return print::json(&letters);
    }
    for l in letters {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| text += &format!("{name:<11} {value}\n");
        line("origin", &l.origin.to_string());
        line("topic id", l.topic_id.as_deref().unwrap_or("-"));
        line("table", &l.target);
        line("record", &l.timestamp_ms.map_or("-".to_owned(), utc));
        line("rejected", &l.rejected_ms.map_or("-".to_owned(), utc));
        line("reason", &l.reason);
        line("detail", &l.detail);
        if let Some(id) = l.schema_id {
            line("schema id", &id.to_string());
        }
        let since = l.status_ms.map(|ms| format!(" since {}", utc(ms))).unwrap_or_default();
        let why = if l.status_detail.is_empty() { String::new() } else { format!(": {}", l.status_detail) };
        line("status", &format!("{}{since}{why}", l.status.as_str()));
        for (name, value) in &l.headers {
            line("header", &format!("{name}: {}", readable(value)));
        }
        line("key", &l.key.as_deref().map_or("-".to_owned(), readable));
        line("value", &l.value.as_deref().map_or("- (tombstone)".to_owned(), readable));
        print::text(&format!("{text}\n"))?;
    }
    Ok(())
}

pub(super) fn outcomes(outcomes: &[Outcome], output: Output) -> Result<(), Failure> {
    let mut grid = Grid::new(["origin", "table", "status", "detail"]);
    let mut values = vec![];
    for o in outcomes {
        grid.row([o.id.origin.to_string(), o.id.target.clone(), o.status.as_str().to_owned(), o.detail.clone()]);
        values.push(json!({
            "origin": o.id.origin.to_string(), "target": o.id.target, "status": o.status.as_str(), "detail": o.detail,
        }));
    }
    grid.print(output, &values)?;
    if output == Output::Text {
        let of = |status| outcomes.iter().filter(|o| o.status == status).count();
        let counts: Vec<String> = Status::ALL.iter().map(|s| format!("{} {}", of(*s), s.as_str())).collect();
        print::text(&format!("{}\n", counts.join(", ")))?;
    }
    Ok(())
}

fn outside(l: &Letter) -> Value {
    json!({
        "origin": l.origin.to_string(),
        "target": l.target,
        "topic": l.origin.at.topic,
        "topic_id": l.topic_id,
        "partition": l.origin.at.partition,
        "offset": l.origin.offset,
        "record_ts": l.timestamp_ms.map(utc),
        "rejected_ts": l.rejected_ms.map(utc),
        "reason": l.reason,
        "detail": l.detail,
        "schema_id": l.schema_id,
        "status": l.status.as_str(),
        "status_ts": l.status_ms.map(utc),
        "status_detail": l.status_detail,
    })
}

fn with_contents(l: &Letter) -> Value {
    let mut all = outside(l);
    if let Value::Object(all) = &mut all {
        let bytes = |bytes: &Option<Vec<u8>>| bytes.as_deref().map(encoded);
        all.insert("key".to_owned(), json!(bytes(&l.key)));
        all.insert("value".to_owned(), json!(bytes(&l.value)));
        let headers: Map<String, Value> =
            l.headers.iter().map(|(name, value)| (name.clone(), encoded(value))).collect();
        all.insert("headers".to_owned(), Value::Object(headers));
    }
    all
}

/// `{"text": ...}`, or `{"hex": ...}` where it is no UTF-8.
fn encoded(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "text": text }),
        Err(_) => json!({ "hex": hex(bytes) }),
    }
}

/// As text where it is UTF-8 that a terminal can show.
fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) => text.to_owned(),
        _ => format!("0x{}", hex(bytes)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A time in UTC.
fn utc(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms)
        .map_or_else(|| ms.to_string(), |t| t.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_text_where_they_can_be() {
        assert_eq!((encoded(b"{}"), encoded(&[0xFF])), (json!({"text": "{}"}), json!({"hex": "ff"})));
        assert_eq!(
            (readable("é\n".as_bytes()), readable(b"\x1b[2J"), readable(&[0, 1])),
            ("é\n".to_owned(), "0x1b5b324a".to_owned(), "0x0001".to_owned())
        );
    }
}
