//! Types from the values themselves, for columns of records without schema block that nothing else tells the type of.
//!
//! One value proves little. So a type is taken that the column's other values surely fit, or are rejected by: every whole number is a
//! long, never a double later; objects and arrays are the text of their JSON; a null says nothing and its column waits.

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
    let (mut object, mut found, mut scratch) = (object.clone(), Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    let mut more = object.open_object()?;
    while more {
        let name = object.name()?.decoded(&mut scratch)?.to_owned();
        if !seen.insert(name.to_lowercase()) {
            return Err(reject(reason::DUPLICATE_FIELD, format!("field {name} stands twice in the record")));
        }
        if let Some(natural) = type_of(object.raw()?) {
            found.push(SourceField { name, natural, encoding: Encoding::Json });
        }
        more = object.more(b'}')?;
    }
    Ok(found)
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
    /// The columns that a table needs for a row with these fields and this key: the table's own, wider where a whole number needs it,
    /// and new ones. `tables_set` is the number of the table that is set.
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
            let column_type = match have {
                Some(column) if !is_wider(&field.natural, &column.column_type) => column.column_type.clone(),
                _ => {
                    if self.asked.get(&field.name).is_some_and(|asked| *asked < tables_set) {
                        let how = "the table has no column that takes it, and did not get one";
                        return Err(reject(reason::INCOMPATIBLE_SCHEMA, format!("column {}: {how}", field.name)));
                    }
                    self.asked.insert(field.name.clone(), tables_set);
                    let column_type = match &field.natural {
                        ColumnType::Int => ColumnType::Long,
                        other => other.clone(),
                    };
                    self.named.push(format!("{} {column_type}", field.name));
                    column_type
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

/// Whether a value of type `value` needs a wider column than `column`, and there is one.
fn is_wider(value: &ColumnType, column: &ColumnType) -> bool {
    (value, column) == (&ColumnType::Long, &ColumnType::Int)
}

impl Table {
    /// Whether one of these fields, none of them declared, needs a wider column.
    pub(super) fn is_too_narrow(&self, fields: &[SourceField]) -> bool {
        fields.iter().any(|field| {
            let column = self.column_of(&field.name).and_then(|at| self.schema.columns.get(at));
            column.is_some_and(|column| is_wider(&field.natural, &column.column_type))
        })
    }
}
