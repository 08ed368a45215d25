//! What changed in a table's columns, when, and which record asked for it: kept in a property, set in the same swap as the schema.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::lineage::Asker;

/// Table property: the latest [`SchemaChange`]s, oldest first, as a JSON array.
pub const SCHEMA_HISTORY: &str = "firn.schema-history";

/// Changes kept. More: every metadata file grows by some 200 bytes each. Fewer: a table whose source is altered daily forgets a year's end.
const MOST_CHANGES: usize = 200;
/// Bytes kept, below what a Hive metastore takes as one parameter (32,672).
const MOST_BYTES: usize = 24_000;

/// One change of a table's columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaChange {
    /// The schema that it made current.
    pub schema_id: i32,
    pub at_ms: i64,
    /// The record that asked for it; none where no record did.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub record: Option<AskingRecord>,
    /// The table's snapshot at that time: rows up to it were written under the former columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_snapshot_id: Option<i64>,
    pub changes: Vec<ColumnChange>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskingRecord {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// In the source's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<i64>,
}

impl From<&Asker> for AskingRecord {
    fn from(asker: &Asker) -> Self {
        let at = &asker.origin.at;
        Self { topic: at.topic.clone(), partition: at.partition, offset: asker.origin.offset, lsn: asker.lsn }
    }
}

impl std::fmt::Display for AskingRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

/// What became of one column. Types are written as in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum ColumnChange {
    /// The table came to be with so many columns.
    Created {
        columns: usize,
    },
    Added {
        column: String,
        #[serde(rename = "type")]
        column_type: String,
    },
    Widened {
        column: String,
        from: String,
        to: String,
    },
    /// It may be null from now on.
    Relaxed {
        column: String,
    },
    Dropped {
        column: String,
    },
    /// The source's column has another type; its values go to the column `into` from now on.
    Versioned {
        column: String,
        from: String,
        to: String,
        into: String,
    },
}

impl std::fmt::Display for ColumnChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ColumnChange::Created { columns } => write!(f, "created with {columns} columns"),
            ColumnChange::Added { column, column_type } => write!(f, "added {column} {column_type}"),
            ColumnChange::Widened { column, from, to } => write!(f, "widened {column} from {from} to {to}"),
            ColumnChange::Relaxed { column } => write!(f, "relaxed {column}: may be null"),
            ColumnChange::Dropped { column } => write!(f, "dropped {column}"),
            ColumnChange::Versioned { column, from, to, into } => {
                write!(f, "added {into} {to} for {column}, which was {from}")
            }
        }
    }
}

/// The changes that a table's properties tell; none where they can't be read.
pub fn schema_history(properties: &HashMap<String, String>) -> Vec<SchemaChange> {
    properties.get(SCHEMA_HISTORY).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

/// The property with one change more; the oldest go where it would become too long.
pub(crate) fn with_change(properties: &HashMap<String, String>, change: SchemaChange) -> String {
    let mut history = schema_history(properties);
    history.push(change);
    let excess = history.len().saturating_sub(MOST_CHANGES);
    history.drain(..excess);
    loop {
        // Structs of numbers and text: always JSON.
        let json = serde_json::to_string(&history).unwrap_or_default();
        if json.len() <= MOST_BYTES || history.len() <= 1 {
            return json;
        }
        history.remove(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(schema_id: i32, name: &str) -> SchemaChange {
        SchemaChange {
            schema_id,
            at_ms: 1,
            record: Some(AskingRecord { topic: "t".to_owned(), partition: 2, offset: 7, lsn: Some(9) }),
            after_snapshot_id: Some(5),
            changes: vec![ColumnChange::Added { column: name.to_owned(), column_type: "long".to_owned() }],
        }
    }

    #[test]
    fn a_change_reads_as_it_was_written() {
        let json = with_change(&HashMap::new(), change(3, "x"));
        assert_eq!(
            json,
            r#"[{"schema_id":3,"at_ms":1,"topic":"t","partition":2,"offset":7,"lsn":9,"after_snapshot_id":5,"changes":[{"change":"added","column":"x","type":"long"}]}]"#
        );
        assert_eq!(schema_history(&[(SCHEMA_HISTORY.to_owned(), json)].into()), [change(3, "x")]);
        let nobody = SchemaChange { record: None, ..change(4, "x") };
        let json = with_change(&HashMap::new(), nobody.clone());
        assert_eq!(schema_history(&[(SCHEMA_HISTORY.to_owned(), json)].into()), [nobody]);
    }

    #[test]
    fn the_oldest_changes_go_first_and_the_property_stays_short() {
        let mut properties = HashMap::new();
        for n in 0..500 {
            let json = with_change(&properties, change(n, &"x".repeat(n as usize)));
            assert!(json.len() <= MOST_BYTES, "{n}: {}", json.len());
            properties.insert(SCHEMA_HISTORY.to_owned(), json);
        }
        let history = schema_history(&properties);
        assert_eq!(history.last().map(|c| c.schema_id), Some(499));
        assert!(history.len() > 10 && history.windows(2).all(|w| w[0].schema_id + 1 == w[1].schema_id));
    }
}
