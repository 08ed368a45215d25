//! How a connector is told to read rows anew while it streams, and what it says of that: Debezium's incremental snapshots.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Where a connector listens and speaks, by its settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signalling {
    /// Its topics begin with it; signals through a topic have it as their key.
    pub prefix: String,
    /// `schema.table` where signals are rows, if it looks there.
    pub table: Option<String>,
    /// The topic where signals are records, if it looks there.
    pub topic: Option<String>,
    /// The topic where it says what becomes of snapshots.
    pub notifications: Option<String>,
    /// The names of its database's columns and its literals of time are PostgreSQL's.
    pub is_postgres: bool,
    /// Whether its messages are JSON.
    pub is_json: bool,
}

impl Signalling {
    /// `None` for a connector that is not Debezium's.
    ///
    /// # Errors
    /// The sentence for a person: what has to be set so that it can read rows anew.
    pub fn of(config: &BTreeMap<String, String>) -> Result<Option<Self>, String> {
        let get = |key: &str| config.get(key).map(|value| value.trim()).filter(|value| !value.is_empty());
        let class = get("connector.class").unwrap_or_default();
        let Some(prefix) = get("topic.prefix").filter(|_| class.starts_with("io.debezium.connector.")) else {
            return Ok(None);
        };
        let lists = |key: &str, default: &str, wanted: &str| {
            get(key).unwrap_or(default).split(',').any(|channel| channel.trim().eq_ignore_ascii_case(wanted))
        };
        let listens = |channel| lists("signal.enabled.channels", "source", channel);
        let collection = get("signal.data.collection").map(str::to_owned);
        if collection.is_none() && get("read.only") != Some("true") {
            return Err("it has no signal.data.collection, the table by which it tells rows that it reads anew from changes: make the \
                 table (docs/backfill.md) and set it"
                .to_owned());
        }
        let own_topic = || get("signal.kafka.topic").map_or_else(|| format!("{prefix}-signal"), str::to_owned);
        let found = Self {
            prefix: prefix.to_owned(),
            table: collection.filter(|_| listens("source")),
            topic: listens("kafka").then(own_topic),
            notifications: get("notification.sink.topic.name")
                .filter(|_| lists("notification.enabled.channels", "", "sink"))
                .map(str::to_owned),
            is_postgres: class.ends_with(".PostgresConnector"),
            is_json: get("value.converter").is_none_or(|class| class.ends_with(".JsonConverter")),
        };
        let told = [Some(&found.prefix), found.topic.as_ref(), found.notifications.as_ref()];
        if let Some(hidden) = told.into_iter().flatten().find(|value| value.contains("${")) {
            return Err(format!(
                "`{hidden}` is known to the Connect worker alone: write it out in the connector's settings"
            ));
        }
        Ok(Some(found))
    }

    /// What a topic of the connector is called in its source: `schema.table`.
    pub fn collection<'a>(&self, topic: &'a str) -> Option<&'a str> {
        topic.strip_prefix(self.prefix.as_str())?.strip_prefix('.').filter(|rest| rest.contains('.'))
    }

    /// The condition for rows whose `column` is in `[from, to)`, ms since the epoch.
    pub fn condition(&self, column: &str, from_ms: Option<i64>, to_ms: Option<i64>) -> String {
        let name = match self.is_postgres {
            true => format!("\"{}\"", column.replace('"', "\"\"")),
            false => column.to_owned(),
        };
        let moment = |ms: i64| {
            let at = chrono::DateTime::from_timestamp_millis(ms).unwrap_or_default();
            // A column without a zone, or of a date alone, takes no notice of it.
            at.format(if self.is_postgres { "'%Y-%m-%d %H:%M:%S%.f+00'" } else { "'%Y-%m-%d %H:%M:%S%.f'" }).to_string()
        };
        let bounds = [(">=", from_ms), ("<", to_ms)];
        let bounds = bounds.into_iter().filter_map(|(sign, ms)| Some(format!("{name} {sign} {}", moment(ms?))));
        bounds.collect::<Vec<_>>().join(" AND ")
    }
}

/// What a connector is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Signal {
    /// What it says of a snapshot has the id of the signal that began it.
    pub id: String,
    pub kind: &'static str,
    pub data: Value,
}

impl Signal {
    /// Rows of `collection` that the condition holds for are read; all where it is empty.
    pub fn execute(id: &str, collection: &str, condition: &str) -> Self {
        let mut data = json!({ "type": "incremental", "data-collections": [pattern(collection)] });
        if !condition.is_empty() {
            data["additional-conditions"] = json!([{ "data-collection": pattern(collection), "filter": condition }]);
        }
        Self { id: id.to_owned(), kind: "execute-snapshot", data }
    }

    pub fn pause(id: &str) -> Self {
        Self { id: id.to_owned(), kind: "pause-snapshot", data: json!({ "type": "incremental" }) }
    }

    pub fn resume(id: &str) -> Self {
        Self { id: id.to_owned(), kind: "resume-snapshot", data: json!({ "type": "incremental" }) }
    }

    pub fn stop(id: &str, collection: &str) -> Self {
        let data = json!({ "type": "incremental", "data-collections": [pattern(collection)] });
        Self { id: id.to_owned(), kind: "stop-snapshot", data }
    }

    /// As a record of the signal topic.
    pub fn message(&self) -> String {
        json!({ "id": self.id, "type": self.kind, "data": self.data }).to_string()
    }
}

/// Names are matched as regular expressions.
fn pattern(collection: &str) -> String {
    regex::escape(collection)
}

/// Whether a connector that stored this offset is past the snapshot that began at `began_ms`: then every row of it is in Kafka, since an
/// offset is stored only once all before it is. (That a snapshot is completed is told in another topic, and may be there before its
/// last rows are.) `None` where the offset does not tell.
pub fn is_past(offset: &Value, began_ms: i64) -> Option<bool> {
    // The offset has its state until it is completed.
    if offset.as_object()?.keys().any(|key| key.starts_with("incremental_snapshot_")) {
        return Some(false);
    }
    let number = |key: &str| offset.get(key).and_then(Value::as_i64);
    let at_ms = number("ts_usec").map(|us| us / 1_000).or_else(|| Some(number("ts_sec")? * 1_000))?;
    Some(at_ms >= began_ms)
}

/// What a connector says of an incremental snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Of the signal that began it.
    pub id: String,
    /// The connector's prefix.
    pub prefix: String,
    pub at_ms: i64,
    pub event: SnapshotEvent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotEvent {
    Started {
        collections: String,
    },
    /// The rows up to a key were read. Chunks are counted from 1, anew after each restart of the connector.
    Chunk {
        index: Option<u64>,
        chunks: Option<u64>,
        rows: Option<u64>,
    },
    /// A table was read to its end, or could not be.
    Scanned {
        status: String,
    },
    Paused,
    Resumed,
    Stopped,
    Completed,
}

impl Notification {
    /// `None` for a record that is about something else.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let whole: Value = serde_json::from_slice(value).ok()?;
        let told = whole.get("payload").unwrap_or(&whole);
        let text = |of: &Value, key: &str| of.get(key).and_then(Value::as_str).map(str::to_owned);
        if text(told, "aggregate_type")? != "Incremental Snapshot" {
            return None;
        }
        let more = told.get("additional_data").cloned().unwrap_or_default();
        let number = |key: &str| text(&more, key)?.parse().ok();
        let event = match text(told, "type")?.as_str() {
            "STARTED" => SnapshotEvent::Started { collections: text(&more, "data_collections").unwrap_or_default() },
            "IN_PROGRESS" => SnapshotEvent::Chunk {
                index: number("chunk_index"),
                chunks: number("total_chunks"),
                rows: number("total_rows"),
            },
            "TABLE_SCAN_COMPLETED" => SnapshotEvent::Scanned { status: text(&more, "status").unwrap_or_default() },
            "PAUSED" => SnapshotEvent::Paused,
            "RESUMED" => SnapshotEvent::Resumed,
            "ABORTED" => SnapshotEvent::Stopped,
            "COMPLETED" => SnapshotEvent::Completed,
            _ => return None,
        };
        let at_ms = told.get("timestamp").and_then(Value::as_i64).unwrap_or_default();
        Some(Self { id: text(told, "id")?, prefix: text(&more, "connector_name")?, at_ms, event })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn config(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let usual = [
            ("connector.class", "io.debezium.connector.postgresql.PostgresConnector"),
            ("topic.prefix", "shop"),
            ("signal.data.collection", "debezium.signal"),
        ];
        usual.iter().chain(pairs).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_connector_says_where_it_listens() {
        let of = |pairs: &[(&str, &str)]| Signalling::of(&config(pairs)).unwrap().unwrap();
        let plain = of(&[]);
        assert_eq!((plain.table.as_deref(), plain.topic.as_deref()), (Some("debezium.signal"), None), "the default");
        let both = of(&[
            ("signal.enabled.channels", "source, kafka"),
            ("notification.enabled.channels", "log,sink"),
            ("notification.sink.topic.name", "told"),
        ]);
        assert_eq!((both.topic.as_deref(), both.notifications.as_deref()), (Some("shop-signal"), Some("told")));
        let kafka = of(&[
            ("signal.enabled.channels", "kafka"),
            ("signal.kafka.topic", "s"),
            ("notification.sink.topic.name", "told"),
        ]);
        assert_eq!((kafka.table, kafka.topic.as_deref(), kafka.notifications), (None, Some("s"), None));
        assert_eq!(Signalling::of(&config(&[("connector.class", "org.example.Sink")])), Ok(None));
        let without = Signalling::of(&config(&[("signal.data.collection", "")])).unwrap_err();
        assert!(without.contains("signal.data.collection"), "{without}");
        let hidden = Signalling::of(&config(&[("topic.prefix", "${env:PREFIX}")])).unwrap_err();
        assert!(hidden.contains("${env:PREFIX}"), "{hidden}");
        assert_eq!(plain.collection("shop.public.orders"), Some("public.orders"));
        assert_eq!(plain.collection("shopping.public.orders"), None);
    }

    #[test]
    fn a_range_is_a_condition_in_the_sources_words() {
        let day = 86_400_000;
        let mut signalling = Signalling { is_postgres: true, ..Signalling::default() };
        assert_eq!(
            signalling.condition("event_ts", Some(0), Some(day + 1)),
            "\"event_ts\" >= '1970-01-01 00:00:00+00' AND \"event_ts\" < '1970-01-02 00:00:00.001+00'"
        );
        assert_eq!(signalling.condition("a\"b", None, Some(0)), "\"a\"\"b\" < '1970-01-01 00:00:00+00'");
        assert_eq!(signalling.condition("x", None, None), "");
        signalling.is_postgres = false;
        assert_eq!(signalling.condition("at", Some(day), None), "at >= '1970-01-02 00:00:00'");
    }

    #[test]
    fn a_signal_names_its_table_as_a_pattern() {
        let signal = Signal::execute("id", "public.a+b", "x > 1");
        assert_eq!(
            signal.message(),
            r#"{"data":{"additional-conditions":[{"data-collection":"public\\.a\\+b","filter":"x > 1"}],"data-collections":["public\\.a\\+b"],"type":"incremental"},"id":"id","type":"execute-snapshot"}"#
        );
        assert!(Signal::execute("id", "a.b", "").data.get("additional-conditions").is_none());
    }

    #[test]
    fn an_offset_tells_whether_a_snapshot_is_behind_it() {
        let past = |offset: Value| is_past(&offset, 1_795_323_061_000);
        assert_eq!(past(json!({ "lsn": 1, "ts_usec": 1_795_323_059_531_254_i64 })), Some(false), "before it");
        assert_eq!(
            past(json!({ "lsn": 2, "incremental_snapshot_correlation_id": "firn-x" })),
            Some(false),
            "within it"
        );
        assert_eq!(past(json!({ "lsn": 3, "ts_usec": 1_795_323_066_245_152_i64 })), Some(true));
        assert_eq!(past(json!({ "ts_sec": 1_795_323_061 })), Some(true));
        assert_eq!(past(json!({ "event_serial_no": 1 })), None);
    }

    /// As Debezium 3.7 writes them.
    #[rstest]
    #[case("STARTED", r#""data_collections":"public.t""#, Some(SnapshotEvent::Started { collections: "public.t".to_owned() }))]
    #[case("IN_PROGRESS", r#""chunk_index":"2","last_processed_key":"10","total_rows":"12","total_chunks":"3""#,
        Some(SnapshotEvent::Chunk { index: Some(2), chunks: Some(3), rows: Some(12) }))]
    #[case::of_older_ones("IN_PROGRESS", r#""last_processed_key":"10""#, Some(SnapshotEvent::Chunk { index: None, chunks: None, rows: None }))]
    #[case("TABLE_SCAN_COMPLETED", r#""total_rows_scanned":"0","status":"SQL_EXCEPTION""#, Some(SnapshotEvent::Scanned { status: "SQL_EXCEPTION".to_owned() }))]
    #[case("COMPLETED", r#""x":"y""#, Some(SnapshotEvent::Completed))]
    #[case("DATA_COLLECTIONS_RESOLVED", r#""x":"y""#, None)]
    fn what_a_connector_says_is_understood(
        #[case] kind: &str,
        #[case] more: &str,
        #[case] want: Option<SnapshotEvent>,
    ) {
        let plain = format!(
            r#"{{"id":"i","type":"{kind}","aggregate_type":"Incremental Snapshot","additional_data":{{"connector_name":"p",{more}}},"timestamp":7}}"#
        );
        for text in [plain.clone(), format!(r#"{{"schema":{{}},"payload":{plain}}}"#)] {
            let got = Notification::parse(text.as_bytes());
            assert_eq!(got.as_ref().map(|n| &n.event), want.as_ref());
            assert!(got.is_none_or(|n| (n.id.as_str(), n.prefix.as_str(), n.at_ms) == ("i", "p", 7)));
        }
        let initial = plain.replace("Incremental", "Initial");
        assert_eq!(Notification::parse(initial.as_bytes()), None);
    }
}
