//! What stands in a row: a pure function of (seed, table, key, [`State`]), so the model keeps 20 bytes a row, not the row.

use std::borrow::Cow;

use super::{
    json,
    model::State,
    random::mix,
    schema::{CREATED_AT_DEFAULT, Table},
};

/// One value, in the form in which generator and lake are compared.
#[derive(Clone, Debug)]
pub enum Cell {
    Null,
    /// int and long
    Int(i64),
    Double(f64),
    Decimal {
        unscaled: i128,
        scale: i8,
    },
    Text(Cow<'static, str>),
    Uuid(u128),
    /// Days since the epoch.
    Date(i32),
    /// µs since the epoch, no zone.
    Timestamp(i64),
    /// µs since the epoch, UTC.
    TimestampTz(i64),
}

impl Cell {
    fn rank(&self) -> (u8, i128) {
        match self {
            Cell::Null => (0, 0),
            Cell::Int(v) => (1, i128::from(*v)),
            // The order is of no matter as long as there is one; bits make it total, NaN included.
            Cell::Double(v) => (2, i128::from(v.to_bits())),
            Cell::Decimal { unscaled, scale } => (3 + *scale as u8, *unscaled),
            Cell::Text(_) => (100, 0),
            Cell::Uuid(v) => (101, (*v ^ (1 << 127)) as i128),
            Cell::Date(v) => (102, i128::from(*v)),
            Cell::Timestamp(v) => (103, i128::from(*v)),
            Cell::TimestampTz(v) => (104, i128::from(*v)),
        }
    }
}

impl Ord for Cell {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        match (self, other) {
            (Cell::Text(a), Cell::Text(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Cell {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Cell {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Cell {}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = Vec::new();
        match self {
            Cell::Null => return f.write_str("NULL"),
            Cell::Int(v) => return write!(f, "{v}"),
            Cell::Double(v) => return write!(f, "{v:?}"),
            Cell::Decimal { unscaled, scale } => {
                let unit = 10i128.pow(u32::from(scale.unsigned_abs()));
                let sign = if *unscaled < 0 { "-" } else { "" };
                let (whole, part) = (unscaled.abs() / unit, unscaled.abs() % unit);
                return write!(f, "{sign}{whole}.{part:0width$}", width = usize::from(scale.unsigned_abs()));
            }
            Cell::Text(v) => return write!(f, "{v:?}"),
            Cell::Uuid(v) => json::uuid(&mut out, *v),
            Cell::Date(v) => {
                let (year, month, day) = json::civil(i64::from(*v));
                return write!(f, "{year:04}-{month:02}-{day:02}");
            }
            Cell::Timestamp(v) => {
                json::zoned(&mut out, *v);
                out.pop();
            }
            Cell::TimestampTz(v) => json::zoned(&mut out, *v),
        }
        f.write_str(&String::from_utf8_lossy(&out))
    }
}

const FIRST_NAMES: &[&str] =
    &["Sally", "George", "Edward", "Anne", "Żółć", "José", "Mei-Ling", "Ødegård", "愛子", "Bob"];
const LAST_NAMES: &[&str] =
    &["Thomas", "Bailey", "Walker", "Kretchmar", "O'Hara", "de la Cruz", "Müller", "\"Mac\" Neil"];
const STREETS: &[&str] = &["Moore Avenue", "Hidden Valley Road", "Riverside Drive", "Brownton Road", "Rue de l'Église"];
const CITIES: &[&str] = &["Euless", "Harrisburg", "Augusta", "Columbus", "Łódź", "São Paulo", "Köln", "東京"];
const STATES: &[&str] = &["Texas", "Pennsylvania", "Georgia", "Mississippi"];
const ADDRESS_TYPES: &[&str] = &["SHIPPING", "BILLING", "LIVING"];
const PRODUCTS: &[&str] = &["scooter", "car battery", "12-pack drill bits", "hammer", "rocks", "jacket", "spare tyre"];
const DESCRIPTIONS: &[&str] = &[
    "Small 2-wheel scooter",
    "14oz carpenter's hammer",
    "19\" rack \\ shelf",
    "box of assorted rocks\nsold by weight",
    "water resistant black wind breaker ☂",
];
const STATUSES: &[&str] = &["NEW", "PAID", "SHIPPED", "DELIVERED"];
const LATE_STATUSES: &[&str] = &["DELIVERED", "CANCELLED", "RETURNED"];
const CONTENT_TYPES: &[&str] = &["podcast", "newsletter", "video"];
const EVENT_TYPES: &[&str] = &["play", "pause", "finish", "click"];
const DEVICES: &[&str] = &["ios", "android", "web-chrome", "web-safari", "tv"];
const PAYLOADS: &[&str] =
    &["{}", "{\"nested\": {\"k\": \"ü\"}}", "{\"v\": 4, \"tags\": [\"a\", null], \"ratio\": 4.50}"];
const BENCH_KINDS: &[&str] = &["buy", "sell", "fee", "gift"];

/// A draw that depends on the row alone.
fn pick(list: &'static [&'static str], h: u64) -> Cell {
    // The lists above are not empty; `get` keeps that provable here.
    Cell::Text(Cow::Borrowed(list.get((h % list.len().max(1) as u64) as usize).copied().unwrap_or("")))
}

fn or_null(present: bool, cell: impl FnOnce() -> Cell) -> Cell {
    if present { cell() } else { Cell::Null }
}

fn text(value: String) -> Cell {
    Cell::Text(Cow::Owned(value))
}

fn money(unscaled: u64) -> Cell {
    Cell::Decimal { unscaled: i128::from(unscaled), scale: 2 }
}

/// A version-4 shaped uuid.
pub fn uuid(seed: u64, what: u64) -> u128 {
    let (high, low) = (mix(seed ^ what), mix(mix(seed) ^ what));
    let bits = (u128::from(high) << 64) | u128::from(low);
    bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62)
}

/// Content is known by a uuid; the model knows it by a number.
pub fn content_uuid(seed: u64, key: u64) -> u128 {
    uuid(seed ^ 0x00c0_7e47, key)
}

/// The key columns' cells come first in every table.
pub fn key_cells(seed: u64, table: Table, key: u64, out: &mut Vec<Cell>) {
    match table {
        Table::OrderItems => out.extend([Cell::Int((key >> 8) as i64), Cell::Int((key & 0xff) as i64)]),
        Table::Content => out.push(Cell::Uuid(content_uuid(seed, key))),
        _ => out.push(Cell::Int(key as i64)),
    }
}

/// Appends the row's cells in the order of [`Table::columns`].
pub fn row(seed: u64, table: Table, key: u64, state: State, out: &mut Vec<Cell>) {
    // `b` stays with a row for life, `v` changes with every update.
    let b = mix(seed ^ mix(state.birth));
    let v = mix(b ^ u64::from(state.version));
    let version = u64::from(state.version);
    // Somewhere in the 200 days after 2024-05-01, with all six digits of the microseconds in use.
    let born_micros = CREATED_AT_DEFAULT + (mix(b ^ 1) % 17_280_000_000_000) as i64;
    key_cells(seed, table, key, out);
    match table {
        Table::Addresses => out.extend([
            Cell::Int(i64::from(state.link)),
            text(format!("{} {}", v % 9999, STREETS[(b % STREETS.len() as u64) as usize])),
            pick(CITIES, b >> 8),
            or_null(b >> 16 & 7 != 0, || pick(STATES, b >> 20)),
            or_null(v >> 16 & 7 != 0, || text(format!("{:05}", v >> 20 & 0xffff))),
            pick(ADDRESS_TYPES, b >> 40),
        ]),
        Table::Customers => out.extend([
            pick(FIRST_NAMES, b),
            pick(LAST_NAMES, b >> 8),
            text(format!("user{}.{version}@example.org", state.birth)),
            if b >> 20 & 3 == 0 { Cell::TimestampTz(CREATED_AT_DEFAULT) } else { Cell::TimestampTz(born_micros) },
        ]),
        Table::OrderItems => out.extend([
            Cell::Int(i64::from(state.link)),
            Cell::Int(1 + (v % 12) as i64),
            money(if b & 31 == 0 { 1 } else { 50 + (b >> 8) % 99_999 }),
        ]),
        Table::Orders => out.extend([
            Cell::Uuid(uuid(seed ^ 0x0bde, state.birth)),
            Cell::Int(i64::from(state.link)),
            STATUSES
                .get(version as usize)
                .map_or_else(|| pick(LATE_STATUSES, v), |status| Cell::Text(Cow::Borrowed(status))),
            Cell::Date((born_micros / 86_400_000_000) as i32),
            money(100 + (if version < 2 { b } else { v } >> 8) % 5_000_000_000),
            Cell::Timestamp(born_micros / 1000 * 1000),
            or_null(version > 0, || Cell::TimestampTz(born_micros + (version * 3_600_000_000 + v % 999_999) as i64)),
        ]),
        Table::Products => out.extend([
            text(format!("SKU-{:06}", state.birth)),
            pick(PRODUCTS, b),
            or_null(b >> 8 & 3 != 0, || pick(DESCRIPTIONS, b >> 12)),
            or_null(v & 15 != 0, || Cell::Double(((b >> 16) % 10_000) as f64 / 1000.0)),
            money(1 + (v >> 8) % 100_000),
            or_null(v >> 32 & 1 == 0, || text(format!("{{\"stock\": {}, \"colour\": \"red\"}}", v >> 40 & 0xfff))),
        ]),
        Table::Content => out.extend([
            text(format!("slug-{}", state.birth)),
            text(format!("Title {}.{version} – “quoted” \\ \"{}\"", state.birth, v & 0xff)),
            or_null(b & 63 != 0, || pick(CONTENT_TYPES, b >> 8)),
            or_null(v & 3 != 0, || Cell::Int(((v >> 8) % 3600) as i64)),
            Cell::TimestampTz(born_micros),
        ]),
        Table::EngagementEvents => out.extend([
            or_null(b & 63 != 0, || Cell::Uuid(content_uuid(seed, u64::from(state.link)))),
            or_null(b >> 8 & 63 != 0, || Cell::Uuid(uuid(seed ^ 0x05e4, (b >> 16) % 5000))),
            pick(EVENT_TYPES, b >> 32),
            Cell::TimestampTz(happened_micros(key, b)),
            or_null(b >> 32 & 3 != 3, || Cell::Int((v % 3_600_000) as i64)),
            or_null(v >> 24 & 7 != 0, || pick(DEVICES, v >> 28)),
            or_null(v >> 34 & 3 != 0, || pick(PAYLOADS, v >> 36)),
        ]),
        Table::Events => out.extend([
            Cell::Int((b % 100_000) as i64),
            pick(BENCH_KINDS, b >> 20),
            money(1 + (v >> 8) % 10_000_000),
            Cell::Timestamp(born_micros),
            or_null(version > 0, || Cell::TimestampTz(born_micros + (version * 1_000_003) as i64)),
            or_null(v & 31 != 0, || text(note(v))),
        ]),
    }
}

/// Events happen one after the other, fifty a second, and are told up to two seconds later.
fn happened_micros(key: u64, b: u64) -> i64 {
    CREATED_AT_DEFAULT + (key * 20_000) as i64 - (b % 2_000_000) as i64
}

/// Some ten bytes that don't compress to nothing.
fn note(v: u64) -> String {
    let mut out = Vec::with_capacity(16);
    json::uint(&mut out, v % 1_000_000_000);
    String::from_utf8(out).unwrap_or_default()
}
