//! Reading a JSON object's members into columns: a row's image, or a struct inside one.

use std::collections::HashMap;

use super::columns::ColumnBuilder;
use super::cursor::{Cursor, Text};
use super::fault::{Fallible, in_column, reason, reject};
use super::reader::Reader;
use super::value::{Notes, read};

/// Reads objects of one shape into the columns of a row or a struct.
#[derive(Clone, Debug)]
pub(super) struct ObjectReader {
    /// In the order in which the members are expected.
    fields: Vec<FieldReader>,
    /// Positions in `fields`, by name and by folded name (where that is not another field's own).
    by_name: HashMap<String, usize>,
    /// Whether members that no field expects are noted or just skipped.
    unknown: Unknown,
    /// Whether its columns are those of the row.
    is_row: bool,
}

#[derive(Clone, Debug)]
struct FieldReader {
    name: String,
    /// `"name":` as Debezium writes it: one comparison steps over it.
    pattern: Vec<u8>,
    /// The column that takes the value.
    column: usize,
    key: bool,
    reader: Reader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    Noted,
    Skipped,
}

/// The column of a member that is read over.
pub(super) const NOWHERE: usize = usize::MAX;

/// Which members of an object are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    All,
    /// Only key columns that have no value for this row yet.
    MissingKeys,
}

/// One member: its name, the column that takes it, whether that is a key column, and how it is read.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub name: String,
    pub column: usize,
    pub key: bool,
    pub reader: Reader,
}

impl ObjectReader {
    pub(super) fn new(members: Vec<Member>, unknown: Unknown) -> Self {
        let fields: Vec<FieldReader> = members
            .into_iter()
            .map(|m| FieldReader {
                pattern: format!("\"{}\":", m.name).into_bytes(),
                name: m.name,
                column: m.column,
                key: m.key,
                reader: m.reader,
            })
            .collect();
        let mut by_name: HashMap<String, usize> = HashMap::with_capacity(fields.len());
        for (at, field) in fields.iter().enumerate() {
            by_name.entry(field.name.clone()).or_insert(at);
        }
        for (at, field) in fields.iter().enumerate() {
            by_name.entry(field.name.to_lowercase()).or_insert(at);
        }
        Self { fields, by_name, unknown, is_row: true }
    }

    /// The members of a struct: name, column, reader.
    pub(super) fn of_known(members: Vec<(String, usize, Reader)>) -> Self {
        let members = members.into_iter().map(|(name, column, reader)| Member { name, column, key: false, reader });
        Self { is_row: false, ..Self::new(members.collect(), Unknown::Skipped) }
    }

    /// The column that takes the member `name`, and how it is read.
    pub(super) fn member(&self, name: &str) -> Option<(usize, &Reader)> {
        let field = self.fields.get(*self.by_name.get(name)?)?;
        Some((field.column, &field.reader))
    }

    /// Of each field its name, the column that takes it, and how it is read.
    pub(super) fn members(&self) -> impl Iterator<Item = (&str, usize, &Reader)> {
        self.fields.iter().map(|field| (field.name.as_str(), field.column, &field.reader))
    }

    /// Whether a field goes to the column.
    pub(super) fn takes(&self, column: usize) -> bool {
        self.fields.iter().any(|field| field.column == column)
    }

    /// Reads the object here as the entry `row` of `columns`; columns that it does not name keep their length.
    ///
    /// # Errors
    /// What the value's reader says, with the column's name; `duplicate_field` when a column would get two values.
    pub(super) fn read(
        &self,
        cursor: &mut Cursor<'_>,
        columns: &mut [ColumnBuilder],
        row: usize,
        take: Take,
        notes: &mut Notes,
    ) -> Fallible<()> {
        if !cursor.open_object()? {
            return Ok(());
        }
        let mut next = 0;
        // The key fields that were there, one bit each.
        let mut keys = 0u128;
        loop {
            let field = match self.fields.get(next) {
                Some(field) if cursor.eat(&field.pattern) => Some(field),
                _ => match self.find(cursor.name()?, notes)? {
                    Some(at) => {
                        next = at;
                        self.fields.get(at)
                    }
                    None => None,
                },
            };
            match field {
                Some(field) => {
                    if take == Take::MissingKeys && field.key && next < 128 {
                        if keys >> next & 1 == 1 {
                            return Err(twice(&field.name));
                        }
                        keys |= 1 << next;
                    }
                    next += 1;
                    self.read_member(field, cursor, columns, row, take, notes)?;
                }
                None => {
                    notes.missing |= self.unknown == Unknown::Noted && cursor.peek() != b'n';
                    cursor.skip()?;
                }
            }
            if !cursor.more(b'}')? {
                return Ok(());
            }
        }
    }

    /// Reads the value here, which stands outside an object, as the member `name` of `row`. Nothing is left of one that can't be read.
    /// False if no field is called so.
    pub(super) fn read_value(
        &self,
        name: &str,
        cursor: &mut Cursor<'_>,
        columns: &mut [ColumnBuilder],
        row: usize,
        notes: &mut Notes,
    ) -> Fallible<bool> {
        let Some(field) = self.by_name.get(name).and_then(|at| self.fields.get(*at)) else {
            return cursor.skip().map(|()| false);
        };
        let read = self.read_member(field, cursor, columns, row, Take::All, notes);
        if read.is_err()
            && let Some(column) = columns.get_mut(field.column)
        {
            column.truncate(row);
        }
        read.map(|()| true)
    }

    #[inline]
    fn read_member(
        &self,
        field: &FieldReader,
        cursor: &mut Cursor<'_>,
        columns: &mut [ColumnBuilder],
        row: usize,
        take: Take,
        notes: &mut Notes,
    ) -> Fallible<()> {
        let Some(column) = columns.get_mut(field.column) else { return cursor.skip() };
        if take == Take::MissingKeys && (!field.key || column.len() > row) {
            return cursor.skip();
        }
        if column.len() > row {
            return Err(twice(&field.name));
        }
        read(cursor, &field.reader, column, notes).map_err(|fault| in_column(fault, &field.name))?;
        if notes.unavailable && self.is_row {
            notes.lacks(field.column, column, row);
        }
        Ok(())
    }

    #[cold]
    fn find(&self, name: Text<'_>, notes: &mut Notes) -> Fallible<Option<usize>> {
        let mut scratch = Vec::new();
        let name = name.decoded(&mut scratch)?;
        let found = self.by_name.get(name).or_else(|| self.by_name.get(&name.to_lowercase())).copied();
        if found.is_none() && self.unknown == Unknown::Noted {
            notes.unknown_field(name);
        }
        Ok(found)
    }
}

#[cold]
fn twice(name: &str) -> Box<super::fault::Reject> {
    reject(reason::DUPLICATE_FIELD, format!("column {name}: stands twice in the record"))
}
