//! How a table's columns came from its source's, and what is to be done when the source changes them. Pure.
//!
//! One mapping, stated here: a source column goes to the table's column of the same name, else to the one whose name differs in case
//! only (Hive and Trino fold it); after a change of type that no promotion covers, to a later version of it (`name__v2` ...).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::record::Origin;

/// What becomes of records whose column has a type that the table's can't be promoted to (text to int, another decimal scale ...).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TypeChange {
    /// The table stops, its position stays; others go on.
    #[default]
    Stop,
    /// Values of the new type go to a column of their own, `name__v2`.
    NewColumn,
    /// They become dead letters.
    DeadLetters,
}

/// What becomes of a column that the source has dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DroppedColumn {
    /// It stays, null in later rows.
    #[default]
    Keep,
    /// It is dropped from the table's schema.
    Drop,
}

/// The record that asked for other columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    pub origin: Origin,
    /// Its place in the source's log. Offsets of several partitions can't be compared; this can.
    pub lsn: Option<i64>,
}

/// What a table remembers of its source's columns, beside their names and types.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// Whether columns that the source drops are dropped here.
    pub drops: bool,
    /// The newest place in the source's log that is in the table, or that its columns were made for. The table has every column that
    /// the source had there, or had and dropped it since. So a record beyond it that is without one of them tells that the source
    /// has dropped it, and a record before it that has another one is older than the drop of that one.
    pub newest: Option<i64>,
    /// Columns that hold a source column's values since its type changed: their names, and the source's.
    pub versions: BTreeMap<String, String>,
    /// Columns that are dropped once a record beyond `newest` is without them; empty unless `drops`.
    pub droppable: BTreeSet<String>,
    /// Source columns (folded) that were dropped, and where in the source's log the record stood that no longer had them.
    pub dropped: BTreeMap<String, i64>,
}

impl Lineage {
    /// The source column that a column of the table belongs to.
    pub fn source_of<'a>(&'a self, column: &'a str) -> &'a str {
        self.versions.get(column).map_or(column, String::as_str)
    }

    /// Where in the source's log records must stand at least for their field `name` to be the column that the table means; `None`
    /// when all do. Older ones have a column of that name which was dropped since. `known`: the table has such a column now.
    pub fn valid_from(&self, name: &str, known: bool) -> Option<i64> {
        if !self.drops {
            return None;
        }
        if known { self.dropped.get(&fold(name)).copied() } else { self.newest }
    }
}

/// A name as Hive and Trino compare it.
pub fn fold(name: &str) -> String {
    name.to_lowercase()
}

/// Whether two names are one column to Hive and Trino.
pub fn same_name(a: &str, b: &str) -> bool {
    a == b || (a.len() == b.len() || !a.is_ascii() || !b.is_ascii()) && fold(a) == fold(b)
}

/// Two names of one set that only differ in case.
pub fn colliding<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<(&'a str, &'a str)> {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for name in names {
        if let Some(first) = seen.insert(fold(name), name) {
            return Some((first, name));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_in_case_only_are_one_column() {
        assert!(same_name("Straße", "STRAßE") && same_name("id", "ID") && !same_name("id", "idx"));
        assert_eq!(colliding(["a", "Name", "b", "name"]), Some(("Name", "name")));
        assert_eq!(colliding(["a", "name", "b"]), None);
    }

    #[test]
    fn a_field_means_the_tables_column_from_the_drop_of_its_namesake_on() {
        let mut lineage = Lineage { newest: Some(9), dropped: [("x".to_owned(), 5)].into(), ..Lineage::default() };
        assert_eq!(lineage.valid_from("gone", false), None, "nothing is ever dropped unless it was asked for");
        lineage.drops = true;
        assert_eq!(lineage.valid_from("gone", false), Some(9));
        assert_eq!(lineage.valid_from("X", true), Some(5));
        assert_eq!(lineage.valid_from("other", true), None);
    }
}
