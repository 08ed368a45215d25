//! Which change comes next: transactions as the application behind the database would make them.

use std::collections::VecDeque;

use super::{
    model::{Model, State},
    random::Random,
    schema::{SchemaName, Table},
};

/// The shares of what happens after the snapshot, in parts of their sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    pub inserts: u32,
    pub updates: u32,
    pub deletes: u32,
    /// Updates of a primary key: a delete, its tombstone, and a create.
    pub key_changes: u32,
    pub keys: Keys,
}

/// Which rows are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// All alike.
    Uniform,
    /// A few far more often than the rest, as in life.
    Skewed,
}

impl Mix {
    /// Inserts alone.
    pub const APPEND: Mix = Mix { inserts: 1, updates: 0, deletes: 0, key_changes: 0, keys: Keys::Uniform };
    /// 60% updates, 10% deletes, 30% inserts on even keys: the published measurement.
    pub const UPSERT: Mix = Mix { inserts: 30, updates: 60, deletes: 10, key_changes: 0, keys: Keys::Uniform };
    /// Everything a source can do, on skewed keys.
    pub const LIVELY: Mix = Mix { inserts: 40, updates: 45, deletes: 12, key_changes: 3, keys: Keys::Skewed };
}

/// What one message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// With the word that Debezium puts into `source.snapshot`.
    Read(&'static str),
    Create,
    Update,
    Delete,
    Tombstone,
}

impl What {
    pub(super) fn op(self) -> &'static str {
        match self {
            What::Read(_) => "r",
            What::Create => "c",
            What::Update => "u",
            What::Delete | What::Tombstone => "d",
        }
    }

    pub(super) fn snapshot(self) -> &'static str {
        if let What::Read(marker) = self { marker } else { "false" }
    }
}

/// One message, decided but not yet written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planned {
    pub table: Table,
    pub what: What,
    pub key: u64,
    pub before: Option<State>,
    pub after: Option<State>,
    /// The other key of a changed primary key: the new one on the delete and its tombstone, the old one on the create.
    pub other_key: Option<u64>,
    pub tx_id: u64,
    pub lsn: u64,
    /// The first part of `source.sequence`: absent before the first commit after the snapshot.
    pub sequence_lsn: Option<u64>,
    pub ts_us: i64,
}

/// Where one made-up database server stands.
#[derive(Clone, Debug)]
struct Server {
    schema: SchemaName,
    lsn: u64,
    tx_id: u64,
    committed_lsn: Option<u64>,
}

/// Plans one transaction after the other and keeps the [`Model`] in step.
#[derive(Debug)]
pub(super) struct Planner {
    random: Random,
    mix: Mix,
    pub model: Model,
    servers: Vec<Server>,
    births: u64,
    pub now_us: i64,
    step_us: u64,
    /// Messages of planned transactions, in order.
    pub queue: VecDeque<Planned>,
    /// Tables still to be read: how many rows are read, how many there are.
    snapshot: VecDeque<(Table, u64, u64)>,
}

/// Rows of the snapshot that are planned at once: bounds the queue's memory.
const SNAPSHOT_STEP: u64 = 1000;

/// Rows of the snapshot, each `keys` being one customer, one piece of content or one event of the bench.
fn snapshot_rows(table: Table, keys: u64) -> u64 {
    match table {
        Table::Customers | Table::Orders | Table::Events => keys,
        Table::Addresses => keys + keys / 4,
        // One to three lines an order.
        Table::OrderItems => keys * 2,
        Table::Products => keys.div_ceil(4),
        Table::Content => keys.div_ceil(10),
        Table::EngagementEvents => keys * 2,
    }
}

impl Planner {
    pub(super) fn new(seed: u64, schemas: &[SchemaName], mix: Mix, keys: u64, start_us: i64, step_us: u64) -> Self {
        let servers = schemas
            .iter()
            .enumerate()
            .map(|(i, schema)| Server {
                schema: *schema,
                lsn: 38_722_816 + i as u64 * 9_126_488,
                tx_id: 1188 + i as u64 * 149,
                committed_lsn: None,
            })
            .collect();
        let snapshot = schemas
            .iter()
            .flat_map(|s| s.tables())
            .map(|t| (*t, 0, snapshot_rows(*t, keys)))
            .filter(|(_, _, rows)| *rows > 0)
            .collect();
        Self {
            random: Random::new(seed),
            mix,
            model: Model::new(seed, schemas.iter().flat_map(|s| s.tables()).copied()),
            servers,
            births: 0,
            now_us: start_us,
            step_us,
            queue: VecDeque::new(),
            snapshot,
        }
    }

    /// Puts the next transaction's messages into the queue. Does nothing only when there is no database.
    pub(super) fn transaction(&mut self) {
        if let Some((table, from, rows)) = self.snapshot.pop_front() {
            let to = rows.min(from + SNAPSHOT_STEP);
            if to < rows {
                self.snapshot.push_front((table, to, rows));
            }
            return self.read_table(table, from..to, rows);
        }
        // The first database does most of the work.
        let last = self.servers.len().saturating_sub(1);
        let at = if last > 0 && self.random.percent(35) { 1 + self.random.below(last as u64) as usize } else { 0 };
        let Some(server) = self.servers.get_mut(at) else { return };
        server.tx_id += 1;
        server.lsn += 56 + 8 * self.random.below(64);
        self.now_us += (self.step_us / 2 + self.random.below(self.step_us.max(1))) as i64;
        let schema = server.schema;
        let first = self.queue.len();
        while self.queue.len() == first {
            self.statements(schema);
        }
        self.stamp(at, first);
    }

    /// Gives the messages from `first` on their place in the log: one transaction, growing LSNs, d and c of a changed key at one.
    fn stamp(&mut self, at: usize, first: usize) {
        let Some(server) = self.servers.get_mut(at) else { return };
        let begin = server.lsn;
        let mut same_place = true;
        for message in self.queue.range_mut(first..) {
            let joined = message.what == What::Tombstone || message.what == What::Create && message.other_key.is_some();
            if !same_place && !joined {
                server.lsn += 128 + 8 * self.random.below(32);
            }
            same_place = false;
            message.lsn = server.lsn;
            message.tx_id = server.tx_id;
            message.ts_us = self.now_us;
            message.sequence_lsn = server.committed_lsn.map(|_| begin);
        }
        server.committed_lsn = Some(server.lsn);
    }

    fn read_table(&mut self, table: Table, range: std::ops::Range<u64>, rows: u64) {
        let schema = table.schema();
        let is = |t: Option<&Table>| t == Some(&table);
        let (first_table, last_table) = (is(schema.tables().first()), is(schema.tables().last()));
        let Some(server) = self.servers.iter().find(|s| s.schema == schema).cloned() else { return };
        for i in range {
            let marker = match (i == 0, i + 1 == rows) {
                (true, _) if first_table => "first",
                (_, true) if last_table => "last",
                (true, _) => "first_in_data_collection",
                (_, true) => "last_in_data_collection",
                _ => "true",
            };
            // The snapshot's order lines lie one to three on each order, as later ones do.
            let key = match table {
                Table::OrderItems => (1 + i / 2) << 8 | (1 + i % 2),
                _ => self.model.table_mut(table).map_or(0, |m| m.next_key()),
            };
            let link = self.link(table, rows);
            let state = self.born(link);
            if let Some(model) = self.model.table_mut(table) {
                model.put(key, state);
            }
            self.queue.push_back(Planned {
                tx_id: server.tx_id,
                lsn: server.lsn,
                ts_us: self.now_us,
                ..planned(table, What::Read(marker), key, None, Some(state))
            });
        }
    }

    fn born(&mut self, link: u32) -> State {
        self.births += 1;
        State { birth: self.births, version: 0, link }
    }

    /// The key of the row that a new row refers to. `guess` bounds it while the other table is still empty (a snapshot reads the
    /// tables by name, not by reference).
    fn link(&mut self, table: Table, guess: u64) -> u32 {
        let other = match table {
            Table::Addresses | Table::Orders => Table::Customers,
            Table::OrderItems => Table::Products,
            Table::EngagementEvents => Table::Content,
            _ => return 0,
        };
        let key = self.draw(other).unwrap_or_else(|| 1 + self.random.below(guess.div_ceil(8)));
        key as u32
    }

    /// A live row's key, as the mix draws them.
    fn draw(&mut self, table: Table) -> Option<u64> {
        self.draw_by(self.mix.keys, table)
    }

    fn draw_by(&mut self, keys: Keys, table: Table) -> Option<u64> {
        let model = self.model.table(table)?;
        let at = match keys {
            Keys::Uniform => self.random.below(model.len()),
            Keys::Skewed => self.random.skewed(model.len()),
        };
        model.key_at(at)
    }

    fn statements(&mut self, schema: SchemaName) {
        let Mix { inserts, updates, deletes, key_changes, .. } = self.mix;
        let mut draw = self.random.below(u64::from(inserts + updates + deletes + key_changes)) as u32;
        if draw < inserts || inserts + updates + deletes + key_changes == 0 {
            return self.insert_some(schema);
        }
        draw -= inserts;
        let d100 = self.random.below(100);
        if draw < updates {
            let table = match (schema, d100) {
                (SchemaName::Inventory, 0..40) => Table::Orders,
                (SchemaName::Inventory, 40..60) => Table::Products,
                (SchemaName::Inventory, 60..75) => Table::Customers,
                (SchemaName::Inventory, 75..85) => Table::Addresses,
                (SchemaName::Inventory, _) => Table::OrderItems,
                (SchemaName::Engagement, 0..40) => Table::Content,
                (SchemaName::Engagement, _) => Table::EngagementEvents,
                (SchemaName::Bench, _) => Table::Events,
            };
            return match self.draw(table) {
                Some(key) => self.update(table, key),
                None => self.insert_some(schema),
            };
        }
        draw -= updates;
        let table = match (schema, d100) {
            (SchemaName::Inventory, 0..25) if draw < deletes => Table::Orders,
            (SchemaName::Inventory, 0..45) => Table::Addresses,
            (SchemaName::Inventory, 45..60) => Table::Customers,
            (SchemaName::Inventory, 60..70) => Table::Products,
            (SchemaName::Inventory, _) => Table::OrderItems,
            (SchemaName::Engagement, 0..15) => Table::Content,
            (SchemaName::Engagement, _) => Table::EngagementEvents,
            (SchemaName::Bench, _) => Table::Events,
        };
        // Deletes on even keys: else the busy rows would die first and the skew with them.
        match self.draw_by(if draw < deletes { Keys::Uniform } else { self.mix.keys }, table) {
            Some(key) if draw < deletes => self.delete(table, key),
            Some(key) => self.change_key(table, key),
            None => self.insert_some(schema),
        }
    }

    fn insert_some(&mut self, schema: SchemaName) {
        match (schema, self.random.below(100)) {
            (SchemaName::Inventory, 0..45) => {
                let order = self.free_key(Table::Orders);
                self.insert(Table::Orders, order);
                for line in 0..=self.random.below(3) {
                    let key = order << 8 | (line + 1);
                    if self.model.table(Table::OrderItems).is_some_and(|m| m.get(key).is_none()) {
                        self.insert(Table::OrderItems, key);
                    }
                }
            }
            (SchemaName::Inventory, 45..60) => {
                self.insert_next(Table::Customers);
                self.insert_next(Table::Addresses);
            }
            (SchemaName::Inventory, 60..75) => self.insert_next(Table::Addresses),
            (SchemaName::Inventory, 75..85) => self.insert_next(Table::Products),
            (SchemaName::Inventory, _) => {
                // A line more on an order that exists; full orders leave the transaction to the next draw.
                let line = self.draw(Table::Orders).and_then(|order| self.free_line(order));
                if let Some(key) = line {
                    self.insert(Table::OrderItems, key);
                }
            }
            (SchemaName::Engagement, 0..8) => self.insert_next(Table::Content),
            (SchemaName::Engagement, _) => self.insert_next(Table::EngagementEvents),
            (SchemaName::Bench, _) => {
                let key = self.model.table_mut(Table::Events).map_or(0, |m| m.next_key());
                self.insert(Table::Events, key);
            }
        }
    }

    /// The first order line that is free, deleted ones again.
    fn free_line(&self, order: u64) -> Option<u64> {
        let items = self.model.table(Table::OrderItems)?;
        (1..=9).map(|line| order << 8 | line).find(|key| items.get(*key).is_none())
    }

    /// A new key, sometimes one that a deleted row had.
    fn free_key(&mut self, table: Table) -> u64 {
        let again = self.random.percent(10);
        let random = &mut self.random;
        self.model
            .table_mut(table)
            .map_or(0, |m| again.then(|| m.reuse_key(random)).flatten().unwrap_or_else(|| m.next_key()))
    }

    fn insert_next(&mut self, table: Table) {
        let key = self.free_key(table);
        self.insert(table, key);
    }

    fn insert(&mut self, table: Table, key: u64) {
        let link = self.link(table, 8);
        let state = self.born(link);
        self.put(table, key, state);
        self.queue.push_back(planned(table, What::Create, key, None, Some(state)));
    }

    fn put(&mut self, table: Table, key: u64, state: State) {
        if let Some(model) = self.model.table_mut(table) {
            model.put(key, state);
        }
    }

    fn update(&mut self, table: Table, key: u64) {
        let Some(before) = self.model.table(table).and_then(|m| m.get(key)) else { return };
        let after = State { version: before.version + 1, ..before };
        self.put(table, key, after);
        self.queue.push_back(planned(table, What::Update, key, Some(before), Some(after)));
    }

    /// Deletes a row; an order takes its lines with it.
    fn delete(&mut self, table: Table, key: u64) {
        let Some(before) = self.model.table_mut(table).and_then(|m| m.remove(key)) else { return };
        self.gone(table, key, before, None);
        if table == Table::Orders {
            for line in 1..=9 {
                self.delete(Table::OrderItems, key << 8 | line);
            }
        }
    }

    fn gone(&mut self, table: Table, key: u64, before: State, other_key: Option<u64>) {
        self.queue.push_back(Planned { other_key, ..planned(table, What::Delete, key, Some(before), None) });
        self.queue.push_back(Planned { other_key, ..planned(table, What::Tombstone, key, None, None) });
    }

    fn change_key(&mut self, table: Table, key: u64) {
        let new_key = match table {
            Table::OrderItems => self.free_line(key >> 8),
            _ => Some(self.free_key(table)),
        };
        let (Some(new_key), Some(model)) = (new_key, self.model.table_mut(table)) else { return };
        let Some(before) = model.remove(key) else { return };
        model.put(new_key, before);
        self.gone(table, key, before, Some(new_key));
        self.queue
            .push_back(Planned { other_key: Some(key), ..planned(table, What::Create, new_key, None, Some(before)) });
    }
}

/// A message without its place in the log, which [`Planner::stamp`] gives.
fn planned(table: Table, what: What, key: u64, before: Option<State>, after: Option<State>) -> Planned {
    Planned { table, what, key, before, after, other_key: None, tx_id: 0, lsn: 0, sequence_lsn: None, ts_us: 0 }
}
