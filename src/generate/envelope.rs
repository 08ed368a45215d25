//! A planned change as Debezium 3.7's JSON: key, envelope, source block, and (where on) Connect's schema block.

use super::{
    content::{self, Cell},
    json,
    model::State,
    plan::{Planned, What},
    schema::{ColumnSpec, Default, Kind, ReplicaIdentity, Table},
};

/// Whether each message carries Connect's schema (`schemas.enable`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaBlock {
    Inline,
    Absent,
}

/// Writes one table's messages. All that is equal in every message is made once.
#[derive(Debug)]
pub(super) struct EnvelopeWriter {
    table: Table,
    seed: u64,
    key_schema: String,
    value_schema: String,
    /// `,"source":{...,"ts_ms":`
    source_head: String,
    /// `","db":"shop","sequence":"[`
    source_database: String,
    /// `000,"schema":"inventory","table":"orders","txId":`
    source_table: String,
    /// `"name":` of each column, with the comma before it from the second on.
    names: Vec<String>,
    cells: Vec<Cell>,
}

impl EnvelopeWriter {
    pub(super) fn new(seed: u64, table: Table, schema_block: SchemaBlock) -> Self {
        let db = table.schema();
        let (key_schema, value_schema) = match schema_block {
            SchemaBlock::Inline => (key_schema(table), value_schema(table)),
            SchemaBlock::Absent => (String::new(), String::new()),
        };
        Self {
            table,
            seed,
            key_schema,
            value_schema,
            source_head: format!(
                ",\"source\":{{\"version\":\"3.7.0.Final\",\"connector\":\"postgresql\",\"name\":\"{}\",\"ts_ms\":",
                db.prefix()
            ),
            source_database: format!("\",\"db\":\"{}\",\"sequence\":\"[", db.database()),
            source_table: format!("000,\"schema\":\"{}\",\"table\":\"{}\",\"txId\":", db.schema(), table.name()),
            names: table
                .columns()
                .iter()
                .enumerate()
                .map(|(i, c)| format!("{}\"{}\":", if i > 0 { "," } else { "" }, c.name))
                .collect(),
            cells: Vec::new(),
        }
    }

    /// The message's key.
    pub(super) fn key(&mut self, key: u64, out: &mut Vec<u8>) {
        self.payload_head(Which::Key, out);
        self.bare_key(key, out);
        self.payload_tail(out);
    }

    /// The key without a schema block, as the headers of a changed key carry it.
    pub(super) fn bare_key(&mut self, key: u64, out: &mut Vec<u8>) {
        self.cells.clear();
        content::key_cells(self.seed, self.table, key, &mut self.cells);
        self.object(out);
    }

    /// The message's value; a tombstone has none.
    pub(super) fn value(&mut self, change: &Planned, out: &mut Vec<u8>) {
        self.payload_head(Which::Value, out);
        out.extend_from_slice(b"{\"before\":");
        match (change.before, self.table.replica_identity(), change.what) {
            (Some(state), ReplicaIdentity::Full, _) => self.row(change.key, state, out),
            (Some(_), ReplicaIdentity::Default, What::Delete) => self.fillers(change.key, out),
            _ => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"after\":");
        match change.after {
            Some(state) => self.row(change.key, state, out),
            None => out.extend_from_slice(b"null"),
        }
        let ts_ms = change.ts_us / 1000;
        out.extend_from_slice(self.source_head.as_bytes());
        json::int(out, ts_ms);
        out.extend_from_slice(b",\"snapshot\":\"");
        out.extend_from_slice(change.what.snapshot().as_bytes());
        out.extend_from_slice(self.source_database.as_bytes());
        match change.sequence_lsn {
            None => out.extend_from_slice(b"null"),
            Some(lsn) => {
                out.extend_from_slice(b"\\\"");
                json::uint(out, lsn);
                out.extend_from_slice(b"\\\"");
            }
        }
        out.extend_from_slice(b",\\\"");
        json::uint(out, change.lsn);
        out.extend_from_slice(b"\\\"]\",\"ts_us\":");
        json::int(out, change.ts_us);
        out.extend_from_slice(b",\"ts_ns\":");
        json::int(out, change.ts_us);
        out.extend_from_slice(self.source_table.as_bytes());
        json::uint(out, change.tx_id);
        out.extend_from_slice(b",\"lsn\":");
        json::uint(out, change.lsn);
        out.extend_from_slice(b",\"xmin\":null,\"origin\":null,\"origin_lsn\":null},\"transaction\":null,\"op\":\"");
        out.extend_from_slice(change.what.op().as_bytes());
        // When the connector saw it: 20 ms and a little after the commit.
        let seen_us = change.ts_us + 20_000 + (change.lsn % 999) as i64;
        out.extend_from_slice(b"\",\"ts_ms\":");
        json::int(out, seen_us / 1000);
        out.extend_from_slice(b",\"ts_us\":");
        json::int(out, seen_us);
        out.extend_from_slice(b",\"ts_ns\":");
        json::int(out, seen_us);
        json::uint(out, 100 + change.lsn % 899);
        out.push(b'}');
        self.payload_tail(out);
    }

    fn payload_head(&self, which: Which, out: &mut Vec<u8>) {
        let schema = match which {
            Which::Key => &self.key_schema,
            Which::Value => &self.value_schema,
        };
        if !schema.is_empty() {
            out.extend_from_slice(b"{\"schema\":");
            out.extend_from_slice(schema.as_bytes());
            out.extend_from_slice(b",\"payload\":");
        }
    }

    fn payload_tail(&self, out: &mut Vec<u8>) {
        if !self.value_schema.is_empty() {
            out.push(b'}');
        }
    }

    fn row(&mut self, key: u64, state: State, out: &mut Vec<u8>) {
        self.cells.clear();
        content::row(self.seed, self.table, key, state, &mut self.cells);
        self.object(out);
    }

    /// A deleted row whose old values were not logged: the key, then what Debezium puts in place of the unknown.
    fn fillers(&mut self, key: u64, out: &mut Vec<u8>) {
        self.cells.clear();
        content::key_cells(self.seed, self.table, key, &mut self.cells);
        self.cells.extend(self.table.columns().iter().filter(|c| !c.key).map(|c| {
            match (c.default, c.optional, c.kind) {
                (Default::Zoned(micros), ..) => Cell::TimestampTz(micros),
                (_, true, _) => Cell::Null,
                (_, _, Kind::Text | Kind::Json | Kind::Uuid) => Cell::Text("".into()),
                (_, _, Kind::Decimal(_)) => Cell::Decimal { unscaled: 0, scale: 2 },
                (_, _, Kind::ZonedTimestamp) => Cell::Text("1970-01-01T00:00:00Z".into()),
                _ => Cell::Int(0),
            }
        }));
        self.object(out);
    }

    /// The cells as an object: all columns, or only the first ones (a key).
    fn object(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for ((cell, name), column) in self.cells.iter().zip(&self.names).zip(self.table.columns()) {
            out.extend_from_slice(name.as_bytes());
            match cell {
                Cell::Null => out.extend_from_slice(b"null"),
                Cell::Int(v) => json::int(out, *v),
                Cell::Double(v) => json::double(out, *v),
                Cell::Decimal { unscaled, .. } => json::decimal(out, *unscaled as i64),
                Cell::Text(v) => json::string(out, v),
                Cell::Uuid(v) => {
                    out.push(b'"');
                    json::uuid(out, *v);
                    out.push(b'"');
                }
                Cell::Date(v) => json::int(out, i64::from(*v)),
                Cell::Timestamp(v) if column.kind == Kind::Timestamp => json::int(out, v / 1000),
                Cell::Timestamp(v) => json::int(out, *v),
                Cell::TimestampTz(v) => {
                    out.push(b'"');
                    json::zoned(out, *v);
                    out.push(b'"');
                }
            }
        }
        out.push(b'}');
    }
}

#[derive(Clone, Copy)]
enum Which {
    Key,
    Value,
}

/// Whether a field names the source's own type: the connector's `column.propagate.source.type`.
#[derive(Clone, Copy)]
enum SourceTypes {
    Told,
    Untold,
}

impl SourceTypes {
    /// The bench has it on: so its schema block has the published size.
    fn of(table: Table) -> Self {
        if table == Table::Events { SourceTypes::Told } else { SourceTypes::Untold }
    }
}

fn field(column: &ColumnSpec, source_types: SourceTypes) -> String {
    let (connect, semantic) = column.kind.connect();
    let mut out = format!("{{\"type\":\"{connect}\",\"optional\":{}", column.optional);
    if let Some(name) = semantic {
        out += &format!(",\"name\":\"{name}\",\"version\":1");
    }
    let mut parameters = Vec::new();
    if let Kind::Decimal(precision) = column.kind {
        parameters.push(format!("\"scale\":\"2\",\"connect.decimal.precision\":\"{precision}\""));
    }
    if let SourceTypes::Told = source_types {
        parameters.push(format!("\"__debezium.source.column.type\":\"{}\"", column.kind.postgres()));
    }
    if !parameters.is_empty() {
        out += &format!(",\"parameters\":{{{}}}", parameters.join(","));
    }
    match column.default {
        Default::None => {}
        Default::Zero => out += ",\"default\":0",
        Default::Zoned(micros) => {
            let mut text = Vec::new();
            json::zoned(&mut text, micros);
            out += &format!(",\"default\":\"{}\"", String::from_utf8_lossy(&text));
        }
    }
    out += &format!(",\"field\":\"{}\"}}", column.name);
    out
}

fn fields<'a>(columns: impl Iterator<Item = &'a ColumnSpec>, source_types: SourceTypes) -> String {
    columns.map(|c| field(c, source_types)).collect::<Vec<_>>().join(",")
}

fn key_schema(table: Table) -> String {
    format!(
        "{{\"type\":\"struct\",\"fields\":[{}],\"optional\":false,\"name\":\"{}.Key\"}}",
        fields(table.columns().iter().filter(|c| c.key), SourceTypes::of(table)),
        table.topic()
    )
}

fn value_schema(table: Table) -> String {
    let (topic, columns) = (table.topic(), fields(table.columns().iter(), SourceTypes::of(table)));
    let image = |name: &str| {
        format!(
            "{{\"type\":\"struct\",\"fields\":[{columns}],\"optional\":true,\"name\":\"{topic}.Value\",\"field\":\"{name}\"}}"
        )
    };
    format!(
        "{{\"type\":\"struct\",\"fields\":[{},{},{SOURCE_AND_REST}],\"optional\":false,\"name\":\"{topic}.Envelope\",\"version\":2}}",
        image("before"),
        image("after")
    )
}

/// The fields of the envelope that are the same for every table of a PostgreSQL connector.
const SOURCE_AND_REST: &str = concat!(
    r#"{"type":"struct","fields":[{"type":"string","optional":false,"field":"version"},"#,
    r#"{"type":"string","optional":false,"field":"connector"},{"type":"string","optional":false,"field":"name"},"#,
    r#"{"type":"int64","optional":false,"field":"ts_ms"},"#,
    r#"{"type":"string","optional":true,"name":"io.debezium.data.Enum","version":1,"parameters":{"allowed":"#,
    r#""true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"},"default":"false","field":"snapshot"},"#,
    r#"{"type":"string","optional":false,"field":"db"},{"type":"string","optional":true,"field":"sequence"},"#,
    r#"{"type":"int64","optional":true,"field":"ts_us"},{"type":"int64","optional":true,"field":"ts_ns"},"#,
    r#"{"type":"string","optional":false,"field":"schema"},{"type":"string","optional":false,"field":"table"},"#,
    r#"{"type":"int64","optional":true,"field":"txId"},{"type":"int64","optional":true,"field":"lsn"},"#,
    r#"{"type":"int64","optional":true,"field":"xmin"},{"type":"string","optional":true,"field":"origin"},"#,
    r#"{"type":"int64","optional":true,"field":"origin_lsn"}],"optional":false,"#,
    r#""name":"io.debezium.connector.postgresql.Source","version":1,"field":"source"},"#,
    r#"{"type":"struct","fields":[{"type":"string","optional":false,"field":"id"},"#,
    r#"{"type":"int64","optional":false,"field":"total_order"},{"type":"int64","optional":false,"field":"data_collection_order"}],"#,
    r#""optional":true,"name":"event.block","version":1,"field":"transaction"},"#,
    r#"{"type":"string","optional":false,"field":"op"},{"type":"int64","optional":true,"field":"ts_ms"},"#,
    r#"{"type":"int64","optional":true,"field":"ts_us"},{"type":"int64","optional":true,"field":"ts_ns"}"#,
);
