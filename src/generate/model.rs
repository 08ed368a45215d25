//! The truth so far: per table, key -> row.

use hashbrown::HashMap;
use xxhash_rust::xxh3::Xxh3;

use super::{
    content::{self, Cell},
    random::Random,
    schema::Table,
};

/// A row in canonical form: the cells of the table's columns in order.
pub type Row = Vec<Cell>;

/// All that tells one row's content from another's, the key aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The how-many-th row ever inserted: a key that comes back brings another row.
    pub birth: u64,
    /// Updates since.
    pub version: u32,
    /// The key of the row that this one refers to.
    pub link: u32,
}

#[derive(Clone, Debug)]
struct Live {
    state: State,
    /// Where `keys` holds the key.
    slot: u32,
}

/// How many deleted keys wait to come back.
const REUSABLE: usize = 256;

#[derive(Clone, Debug, Default)]
pub(super) struct TableModel {
    live: HashMap<u64, Live>,
    /// The live keys, so that one can be drawn.
    keys: Vec<u64>,
    deleted: Vec<u64>,
    last_key: u64,
}

impl TableModel {
    pub(super) fn len(&self) -> u64 {
        self.keys.len() as u64
    }

    pub(super) fn get(&self, key: u64) -> Option<State> {
        self.live.get(&key).map(|l| l.state)
    }

    pub(super) fn key_at(&self, index: u64) -> Option<u64> {
        self.keys.get(index as usize).copied()
    }

    /// Sets the row of a key, new or not.
    pub(super) fn put(&mut self, key: u64, state: State) {
        match self.live.entry(key) {
            hashbrown::hash_map::Entry::Occupied(mut entry) => entry.get_mut().state = state,
            hashbrown::hash_map::Entry::Vacant(entry) => {
                entry.insert(Live { state, slot: self.keys.len() as u32 });
                self.keys.push(key);
            }
        }
    }

    pub(super) fn remove(&mut self, key: u64) -> Option<State> {
        let gone = self.live.remove(&key)?;
        let slot = gone.slot as usize;
        // `slot` is where `put` or the line below stored the key, so it is within `keys`.
        self.keys.swap_remove(slot);
        if let Some(moved) = self.keys.get(slot)
            && let Some(live) = self.live.get_mut(moved)
        {
            live.slot = gone.slot;
        }
        if self.deleted.len() < REUSABLE {
            self.deleted.push(key);
        }
        Some(gone.state)
    }

    /// A number never given before.
    pub(super) fn next_key(&mut self) -> u64 {
        self.last_key += 1;
        self.last_key
    }

    /// A key that was deleted before and is free now.
    pub(super) fn reuse_key(&mut self, random: &mut Random) -> Option<u64> {
        let at = random.below(self.deleted.len() as u64) as usize;
        let key = (at < self.deleted.len()).then(|| self.deleted.swap_remove(at))?;
        (!self.live.contains_key(&key)).then_some(key)
    }
}

/// What each table must hold after the last whole transaction.
#[derive(Clone, Debug)]
pub struct Model {
    seed: u64,
    tables: Vec<(Table, TableModel)>,
}

impl Model {
    pub(super) fn new(seed: u64, tables: impl IntoIterator<Item = Table>) -> Self {
        Self { seed, tables: tables.into_iter().map(|t| (t, TableModel::default())).collect() }
    }

    pub fn tables(&self) -> impl Iterator<Item = Table> {
        self.tables.iter().map(|(t, _)| *t)
    }

    pub(super) fn table(&self, table: Table) -> Option<&TableModel> {
        self.tables.iter().find(|(t, _)| *t == table).map(|(_, m)| m)
    }

    pub(super) fn table_mut(&mut self, table: Table) -> Option<&mut TableModel> {
        self.tables.iter_mut().find(|(t, _)| *t == table).map(|(_, m)| m)
    }

    /// How many rows the table must have.
    pub fn row_count(&self, table: Table) -> u64 {
        self.table(table).map_or(0, TableModel::len)
    }

    /// The table's rows in canonical form, sorted.
    pub fn rows(&self, table: Table) -> Vec<Row> {
        let mut rows: Vec<Row> = self
            .table(table)
            .into_iter()
            .flat_map(|m| &m.live)
            .map(|(key, live)| {
                let mut row = Vec::with_capacity(table.columns().len());
                content::row(self.seed, table, *key, live.state, &mut row);
                row
            })
            .collect();
        rows.sort_unstable();
        rows
    }

    /// One number for the table's whole content: [`digest`] of its rows.
    pub fn digest(&self, table: Table) -> u64 {
        digest(&self.rows(table))
    }
}

/// One number for sorted rows. Equal rows give equal digests, whoever read them.
pub fn digest(rows: &[Row]) -> u64 {
    use std::fmt::Write;
    let mut hash = Xxh3::new();
    let mut text = String::new();
    for row in rows {
        text.clear();
        for cell in row {
            // Writing to a String cannot fail; the unit separator keeps neighbours apart, text cells are quoted.
            let _ = write!(text, "{cell}\u{1f}");
        }
        text.push('\n');
        hash.update(text.as_bytes());
    }
    hash.digest()
}
