//! A plan as the flat arguments of `deliver.lua`.

use arrow_array::ArrayRef;

use super::bind::{Bound, BoundKind, Field};
use super::plan::{Change, KeyPlan};
use super::settings::Trim;
use crate::sink::text;

/// Arguments one after the other: a delivery has hundreds of thousands.
#[derive(Debug, Default)]
pub(super) struct Args {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Args {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| self.bytes.get(start..*end).unwrap_or_default())
    }

    fn push(&mut self, arg: &[u8]) {
        self.bytes.extend_from_slice(arg);
        self.ends.push(self.bytes.len());
    }

    fn number(&mut self, arg: impl std::fmt::Display) {
        self.with(|out| {
            // Writing to a `Vec` can't fail.
            let _ = std::io::Write::write_fmt(out, format_args!("{arg}"));
        });
    }

    /// `-` for nothing.
    fn option(&mut self, arg: Option<u64>) {
        match arg {
            Some(arg) => self.number(arg),
            None => self.push(b"-"),
        }
    }

    fn with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    /// Field and value of each column that is not NULL.
    fn fields(&mut self, fields: &[Field], columns: &[ArrayRef], row: usize) {
        for field in fields {
            if let Some(array) = columns.get(field.column).filter(|a| !text::is_null(a, row)) {
                self.push(field.name.as_bytes());
                self.with(|out| text::write(array, row, out));
            }
        }
    }
}

/// How many of the fields are not NULL.
fn present(fields: &[Field], columns: &[ArrayRef], row: usize) -> usize {
    fields.iter().filter(|f| columns.get(f.column).is_some_and(|a| !text::is_null(a, row))).count()
}

/// What the script does to one key: its tag there, and the arguments.
pub(super) fn encode(bound: &Bound, columns: &[ArrayRef], plan: &KeyPlan, args: &mut Args) -> &'static str {
    args.clear();
    let Some(write) = bound.writes.get(plan.write) else { return "" };
    match (&write.kind, &plan.change) {
        (BoundKind::Stream { fields, trim }, _) => {
            match trim {
                None => (args.push(b"-"), args.push(b"-")),
                Some(Trim::Entries(n)) => (args.push(b"MAXLEN"), args.number(n)),
                Some(Trim::AgeMs(ms)) => (args.push(b"MINID"), args.number(ms)),
            };
            for row in plan.rows.iter().map(|row| *row as usize) {
                args.number(2 * present(fields, columns, row));
                args.fields(fields, columns, row);
            }
            "s"
        }
        (BoundKind::Hash { fields, increments, ttl_ms }, Change::Latest { cleared, last, sums }) => {
            args.number(u8::from(*cleared));
            args.option(*ttl_ms);
            let row = last.map(|row| row as usize);
            // Zero is counted too: the field is there then, and readers need not know that it may be absent.
            let counted = if row.is_some() { increments.as_slice() } else { &[] };
            let set = row.map_or(0, |row| present(fields, columns, row));
            args.number(counted.len());
            args.number(2 * (counted.len() + set));
            for (increment, sum) in counted.iter().zip(sums) {
                args.push(increment.field.as_bytes());
                args.number(sum);
            }
            if let Some(row) = row {
                args.fields(fields, columns, row);
                for field in fields {
                    if columns.get(field.column).is_none_or(|a| text::is_null(a, row)) {
                        args.push(field.name.as_bytes());
                    }
                }
            }
            "h"
        }
        (BoundKind::SortedSet { score, .. }, Change::Members(members)) => {
            args.number(2 * members.values().flatten().count());
            for (member, row) in members {
                if let (Some(row), Some(array)) = (row, columns.get(*score)) {
                    args.with(|out| text::write(array, *row as usize, out));
                    args.push(member);
                }
            }
            for (member, _) in members.iter().filter(|(_, row)| row.is_none()) {
                args.push(member);
            }
            "z"
        }
        (BoundKind::Text { value, ttl_ms }, Change::Latest { last, .. }) => {
            let mut held = Vec::new();
            match last.filter(|row| value.render(columns, *row as usize, &mut held)) {
                Some(_) => {
                    args.push(b"1");
                    args.option(*ttl_ms);
                    args.push(&held);
                }
                None => args.push(b"0"),
            }
            "t"
        }
        (BoundKind::Json { fields, ttl_ms }, Change::Latest { last, .. }) => {
            match last {
                Some(row) => {
                    args.push(b"1");
                    args.option(*ttl_ms);
                    let named = fields.iter().filter_map(|f| Some((f.name.as_str(), columns.get(f.column)?)));
                    args.with(|out| text::object(named, *row as usize, out));
                }
                None => args.push(b"0"),
            }
            "t"
        }
        (BoundKind::Top { list, .. }, Change::Events(events)) => {
            for setting in [list.window_ms, list.bucket_ms(), list.ttl_ms] {
                args.number(setting);
            }
            for event in events {
                args.push(&event.member);
                args.number(event.time_ms);
                args.number(event.score);
            }
            "T"
        }
        // A plan is made by the kind of its write.
        _ => "",
    }
}
