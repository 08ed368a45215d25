//! Types from the values themselves, for columns of records without schema block that nothing else tells the type of.
//!
//! One value proves little. So a type is taken that the column's other values surely fit, or are rejected by: every whole number is a
//! long, never a double later; objects and arrays are the text of their JSON; a null says nothing and its column waits. Where the
//! configuration or the source database tells a type, that is it.

use std::collections::{BTreeMap, HashSet};

use super::connect::{Encoding, SourceField};
use super::cursor::Cursor;
use super::decoder::DecodeOptions;
use super::fault::{Fallible, reason, reject};
use super::plan::Table;
use crate::change::{Column, ColumnType, RowSchema, origin};
use crate::lineage::same_name;

/// The members of the object here that have a value. Whole numbers that fit are int here.
///
/// # Errors
/// `not_json`; `duplicate_field` when two members would be one column.
pub(super) fn fields(object: &Cursor<'_>) -> Fallible<Vec<SourceField>> {
    members(object, |_, value| type_of(value))
}

/// The members of a row's object that get columns: those of a type that was told, with a value or not; the others with a value, where
/// types may be inferred.
///
/// # Errors
/// As [`fields`].
pub(super) fn row_fields(object: &Cursor<'_>, options: &DecodeOptions) -> Fallible<Vec<SourceField>> {
    members(object, |name, value| {
        let by_value = || type_of(value).filter(|_| options.infers());
        options.told_type(name).cloned().or_else(by_value)
    })
}

/// The members that `type_of` answers a type for, by name and JSON.
fn members(object: &Cursor<'_>, type_of: impl Fn(&str, &str) -> Option<ColumnType>) -> Fallible<Vec<SourceField>> {
    let (mut object, mut found, mut scratch) = (object.clone(), Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    let mut more = object.open_object()?;
    while more {
        let name = object.name()?.decoded(&mut scratch)?.to_owned();
        if !seen.insert(name.to_lowercase()) {
            return Err(reject(reason::DUPLICATE_FIELD, format!("field {name} stands twice in the record")));
        }
        if let Some(natural) = type_of(&name, object.raw()?) {
            found.push(field(&name, natural));
        }
        more = object.more(b'}')?;
    }
    Ok(found)
}

pub(super) fn field(name: &str, natural: ColumnType) -> SourceField {
    SourceField { name: name.to_owned(), natural, encoding: Encoding::Json }
}

fn type_of(value: &str) -> Option<ColumnType> {
    Some(match value.as_bytes().first()? {
        b'n' => return None,
        b't' | b'f' => ColumnType::Boolean,
        b'-' | b'0'..=b'9' if value.contains(['.', 'e', 'E']) => ColumnType::Double,
        b'-' | b'0'..=b'9' => match value.parse::<i64>() {
            Ok(number) if i32::try_from(number).is_ok() => ColumnType::Int,
            Ok(_) => ColumnType::Long,
            // More digits than any integer column holds.
            Err(_) => ColumnType::String,
        },
        _ => ColumnType::String,
    })
}

/// What was asked for already.
#[derive(Debug, Default)]
pub(super) struct Inference {
    /// The number of the table that was set when a column was asked for.
    asked: BTreeMap<String, u64>,
    /// Columns whose types were inferred since this was last taken.
    pub named: Vec<String>,
}

impl Inference {
    /// The columns that a table needs for a row with these fields and this key: the table's own, wider where a whole number or the type
    /// that was told needs it, and new ones. `tables_set` is the number of the table that is set.
    ///
    /// # Errors
    /// `incompatible_schema` when the table was set without a column that was asked for, `no_schema` when no value tells a type.
    pub(super) fn schema(
        &mut self,
        options: &DecodeOptions,
        fields: &[SourceField],
        key: &[SourceField],
        table: Option<&Table>,
        tables_set: u64,
    ) -> Fallible<RowSchema> {
        let only_in_key = key.iter().filter(|k| fields.iter().all(|f| !same_name(&f.name, &k.name)));
        let mut columns = Vec::new();
        for field in only_in_key.chain(fields) {
            let have = table.and_then(|t| t.schema.columns.get(t.column_of(&field.name)?));
            let told = options.told_type(&field.name);
            let column_type = match have {
                Some(column) if !is_wider(field, told, &column.column_type) => column.column_type.clone(),
                // Of the key alone, and nothing may be inferred.
                _ if told.is_none() && !options.infers() => continue,
                _ => {
                    if self.asked.get(&field.name).is_some_and(|asked| *asked < tables_set) {
                        let how = "the table has no column that takes it, and did not get one";
                        return Err(reject(reason::INCOMPATIBLE_SCHEMA, format!("column {}: {how}", field.name)));
                    }
                    self.asked.insert(field.name.clone(), tables_set);
                    let by_value = match &field.natural {
                        ColumnType::Int => ColumnType::Long,
                        other => other.clone(),
                    };
                    if told.is_none() {
                        self.named.push(format!("{} {by_value}", field.name));
                    }
                    told.cloned().unwrap_or(by_value)
                }
            };
            columns.push(Column { name: field.name.clone(), column_type, key: options.is_key(&field.name, key) });
        }
        if columns.iter().all(|c| c.name.starts_with(origin::PREFIX)) {
            return Err(reject(reason::NO_SCHEMA, "no value of the record tells a type: declare the columns"));
        }
        Ok(options.with_origin(columns))
    }
}

/// Whether a field needs a wider column than one of type `column`, and there is one. By its value that is a whole number alone.
fn is_wider(field: &SourceField, told: Option<&ColumnType>, column: &ColumnType) -> bool {
    match told {
        Some(told) => promotes(column, told),
        None => (&field.natural, column) == (&ColumnType::Long, &ColumnType::Int),
    }
}

/// Whether `from` is promoted to `to`, which is another type.
fn promotes(from: &ColumnType, to: &ColumnType) -> bool {
    use ColumnType as T;
    match (from, to) {
        (T::Int, T::Long) | (T::Float, T::Double) => true,
        (T::Decimal { precision: less, scale: a }, T::Decimal { precision: more, scale: b }) => a == b && less < more,
        (T::List(from), T::List(to)) | (T::Map(from), T::Map(to)) => promotes(from, to),
        _ => false,
    }
}

impl Table {
    /// Whether one of these fields needs a wider column.
    pub(super) fn is_too_narrow(&self, fields: &[SourceField], options: &DecodeOptions) -> bool {
        fields.iter().any(|field| {
            let column = self.column_of(&field.name).and_then(|at| self.schema.columns.get(at));
            column.is_some_and(|column| is_wider(field, options.told_type(&field.name), &column.column_type))
        })
    }
}
