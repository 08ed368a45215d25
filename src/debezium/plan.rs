//! Which field of a record goes to which column of the table, and which columns a table for a record needs.

use super::connect::SourceField;
use super::decoder::DecodeOptions;
use super::flat;
use super::object::{Member, NOWHERE, ObjectReader, Unknown};
use super::reader::{Fit, Reader, Wire, any_reader, reader};
use crate::change::{Column, ColumnType, Mode, RowSchema, origin, origin_columns};
use crate::lineage::{Lineage, same_name};

/// The table that rows are made for.
#[derive(Debug)]
pub(super) struct Table {
    pub schema: RowSchema,
    pub lineage: Lineage,
    /// The key columns: declared, or as flagged.
    pub keys: Vec<usize>,
    key_names: Vec<String>,
    /// Reads records without a schema block.
    pub bare: ObjectReader,
    /// The same for flattened ones.
    pub bare_flat: ObjectReader,
    /// Reads keys without a schema block.
    pub bare_key: ObjectReader,
}

impl Table {
    pub(super) fn new(schema: RowSchema, lineage: Lineage, keys: Vec<usize>, options: &DecodeOptions) -> Self {
        let member = |at: usize, column: &Column| Member {
            name: column.name.clone(),
            column: at,
            key: keys.contains(&at),
            reader: any_reader(&column.column_type, options.wire_of(&column.name)),
        };
        // Without a schema block a value has no type that could lead to a later version of its column.
        let of_source = |name: &str| !origin::is_own(name) && !lineage.versions.contains_key(name);
        let source = || schema.columns.iter().enumerate().filter(|(_, c)| of_source(&c.name));
        let all = || source().map(|(at, c)| member(at, c));
        let flat = all().chain(flat::usual_names().map(|name| nowhere(&name)));
        let key = source()
            .filter(|(at, _)| keys.is_empty() || keys.contains(at))
            .map(|(at, c)| Member { key: true, ..member(at, c) })
            .collect();
        let (bare, bare_flat) =
            (ObjectReader::new(all().collect(), Unknown::Noted), ObjectReader::new(flat.collect(), Unknown::Noted));
        let bare_key = ObjectReader::new(key, Unknown::Skipped);
        let key_names = keys.iter().filter_map(|at| schema.columns.get(*at)).map(|c| c.name.clone()).collect();
        Self { schema, lineage, keys, key_names, bare, bare_flat, bare_key }
    }

    /// The column of the field `name`: of the same name, or of the folded one.
    pub(super) fn column_of(&self, name: &str) -> Option<usize> {
        let own = |c: &Column| !self.lineage.versions.contains_key(&c.name);
        let place = |is: &dyn Fn(&Column) -> bool| self.schema.columns.iter().position(|c| own(c) && is(c));
        let found = place(&|c| c.name == name).or_else(|| place(&|c| same_name(&c.name, name)))?;
        (!origin::is_own(name)).then_some(found)
    }

    /// The columns for the field `name`: its own, then those made when its type changed, oldest first.
    fn versions_of(&self, name: &str) -> Vec<usize> {
        let later = self
            .schema
            .columns
            .iter()
            .enumerate()
            .filter(|(_, c)| self.lineage.versions.get(&c.name).is_some_and(|source| same_name(source, name)));
        self.column_of(name).into_iter().chain(later.map(|(at, _)| at)).collect()
    }

    /// The column that holds a field's values as it is, and how they are read. The first whose type is of the field's kin (it alone,
    /// so that a value's column is a matter of its type); where there is none, the first that holds them without loss.
    fn place(&self, field: &SourceField, options: &DecodeOptions) -> Option<(usize, Reader)> {
        let fit = options.fit_of(&field.name);
        let type_of = |at: usize| self.schema.columns.get(at).map(|c| &c.column_type);
        let versions = self.versions_of(&field.name);
        let holder = |at: usize| reader(&field.encoding, type_of(at)?, fit).map(|reader| (at, reader));
        let is_kin = |at: &usize| type_of(*at).is_some_and(|t| field.natural.is_kin(t));
        match versions.iter().copied().find(is_kin).filter(|_| fit == Fit::Promotion) {
            Some(at) => holder(at),
            None => versions.into_iter().find_map(holder),
        }
    }

    /// Whether the source has dropped a column that is to be dropped here: none of these fields is its own.
    pub(super) fn lacks_columns(&self, fields: &[SourceField]) -> bool {
        self.lineage.droppable.iter().any(|column| {
            let source = self.lineage.source_of(column);
            fields.iter().all(|f| !same_name(&f.name, source))
        })
    }

    /// Where in the source's log records must stand at least for a field to be the column that the table means, for those of the
    /// fields of which not all do; by their places in `fields`.
    pub(super) fn valid_from(&self, fields: &[SourceField]) -> Vec<(usize, i64)> {
        let from = |f: &SourceField| self.lineage.valid_from(&f.name, !self.versions_of(&f.name).is_empty());
        let of_source = fields.iter().enumerate().filter(|(_, f)| flat::added(&f.name).is_none());
        of_source.filter_map(|(at, f)| Some((at, from(f)?))).collect()
    }

    /// How rows with these fields are read into the table, or the sentence that says which field does not fit.
    pub(super) fn row_members(&self, fields: &[SourceField], options: &DecodeOptions) -> Result<Vec<Member>, String> {
        let mut members: Vec<Member> = Vec::with_capacity(fields.len());
        for field in fields {
            let member = self.member(field, options)?;
            if let Some(twin) = members.iter().find(|m| m.column == member.column) {
                return Err(format!("fields {} and {} meet in one column", twin.name, member.name));
            }
            members.push(member);
        }
        Ok(members)
    }

    /// [`Table::row_members`] for JSON.
    pub(super) fn row_reader(&self, fields: &[SourceField], options: &DecodeOptions) -> Result<ObjectReader, String> {
        self.row_members(fields, options).map(|members| ObjectReader::new(members, Unknown::Noted))
    }

    /// [`Table::row_members`] for flattened rows: what the transform has added goes to a column only where the table has one of its
    /// name.
    pub(super) fn flat_members(&self, fields: &[SourceField], options: &DecodeOptions) -> Result<Vec<Member>, String> {
        let (own, added): (Vec<_>, Vec<_>) = fields.iter().cloned().partition(|f| self.is_rows_own(&f.name, options));
        let mut members = self.row_members(&own, options)?;
        members.extend(added.iter().map(|field| nowhere(&field.name)));
        Ok(members)
    }

    /// Whether a flattened record's field belongs to the row.
    pub(super) fn is_rows_own(&self, name: &str, options: &DecodeOptions) -> bool {
        options.is_rows_own(name) || self.schema.index_of(name).is_some()
    }

    /// How keys with these fields are read: key columns only, or all fields where the table names no key.
    pub(super) fn key_members(&self, fields: &[SourceField], options: &DecodeOptions) -> Result<Vec<Member>, String> {
        let is_key = |at: usize| self.keys.is_empty() || self.keys.contains(&at);
        let members = fields
            .iter()
            .filter(|field| self.column_of(&field.name).is_some_and(is_key))
            .map(|field| self.member(field, options).map(|member| Member { key: true, ..member }));
        members.collect()
    }

    fn member(&self, field: &SourceField, options: &DecodeOptions) -> Result<Member, String> {
        let name = &field.name;
        if let Some((at, reader)) = self.place(field, options) {
            return Ok(Member { name: name.clone(), column: at, key: self.keys.contains(&at), reader });
        }
        let types: Vec<String> = self
            .versions_of(name)
            .into_iter()
            .filter_map(|at| self.schema.columns.get(at).map(|c| c.column_type.to_string()))
            .collect();
        Err(match types.is_empty() {
            true => format!("column {name}: the table has none of this name"),
            false => format!("column {name}: the record has {}, the table {}", field.natural, types.join(" and ")),
        })
    }

    /// How one plain value is read that is the key, where the key is one column which can hold it. Who declares a key column says that
    /// the value is its.
    pub(super) fn only_key_member(&self, value: &SourceField, options: &DecodeOptions) -> Option<Member> {
        let [at] = self.keys[..] else { return None };
        let column = self.schema.columns.get(at)?;
        let reader = reader(&value.encoding, &column.column_type, Fit::Declared(options.wire_of(&column.name)))?;
        Some(Member { name: column.name.clone(), column: at, key: true, reader })
    }

    /// The key column's name, where the key is one column.
    pub(super) fn only_key(&self) -> Option<&str> {
        match self.key_names.as_slice() {
            [name] => Some(name),
            _ => None,
        }
    }

    pub(super) fn key_names(&self) -> impl Iterator<Item = &str> {
        self.key_names.iter().map(String::as_str)
    }

    pub(super) fn is_key_column(&self, name: &str) -> bool {
        self.key_names.iter().any(|key| key == name) || self.column_of(name).is_some_and(|at| self.keys.contains(&at))
    }

    /// Whether these are the names of the key columns.
    pub(super) fn is_whole_key<'n>(&self, names: impl Iterator<Item = &'n str>) -> bool {
        let mut count = 0;
        let all_known = names.inspect(|_| count += 1).all(|name| self.is_key_column(name));
        all_known && count == self.keys.len()
    }
}

/// A field that is read over.
fn nowhere(name: &str) -> Member {
    Member { name: name.to_owned(), column: NOWHERE, key: false, reader: Reader::AnyText }
}

impl DecodeOptions {
    fn declared_type(&self, name: &str) -> Option<&Column> {
        self.declared.iter().find(|c| c.name == name)
    }

    /// Whether a flattened record's field belongs to the row, by its name and the configuration.
    pub(super) fn is_rows_own(&self, name: &str) -> bool {
        flat::added(name).is_none() || self.declared_type(name).is_some()
    }

    fn fit_of(&self, name: &str) -> Fit {
        if self.declared_type(name).is_some() { Fit::Declared(self.wire_of(name)) } else { Fit::Promotion }
    }

    fn wire_of(&self, name: &str) -> Option<Wire> {
        let set = self.wire.iter().find(|(column, _)| column == name).map(|(_, wire)| *wire);
        set.or_else(|| self.source_wire_of(name))
    }

    /// The columns of a table for records with these fields: of the declared type, else of the type that the table has already
    /// where that holds the record's values, else of the source's own. `key` are the record key's fields; those that the row lacks
    /// come first.
    pub(super) fn row_schema(&self, fields: &[SourceField], key: &[SourceField], table: Option<&Table>) -> RowSchema {
        let is_key = |name: &str| self.is_key(name, key);
        let is_new = |k: &SourceField| fields.iter().all(|f| !same_name(&f.name, &k.name));
        let only_in_key = key.iter().filter(|k| is_key(&k.name) && is_new(k));
        let columns = only_in_key.chain(fields).map(|field| {
            let held = || {
                let table = table?;
                let (at, _) = table.place(field, self)?;
                table.schema.columns.get(at).map(|c| c.column_type.clone())
            };
            let declared = self.declared_type(&field.name).map(|c| c.column_type.clone());
            Column {
                name: field.name.clone(),
                column_type: declared.or_else(held).unwrap_or_else(|| field.natural.clone()),
                key: is_key(&field.name),
            }
        });
        self.with_origin(columns.collect())
    }

    /// The columns of a table for records without a schema block: as declared. `key` are the names of the record key's fields.
    pub(super) fn declared_schema(&self, key: &[String]) -> RowSchema {
        let names = self.key_columns.as_deref().unwrap_or(key);
        let columns = self.declared.iter().cloned().map(|mut c| {
            c.key |= names.contains(&c.name);
            c
        });
        self.with_origin(columns.collect())
    }

    /// Whether `name` is a key column of a table to be made, beside these fields of the record key.
    pub(super) fn is_key(&self, name: &str, key: &[SourceField]) -> bool {
        match &self.key_columns {
            Some(names) => names.iter().any(|n| n == name),
            None => key.iter().any(|k| same_name(&k.name, name)),
        }
    }

    /// Whether rows are told apart by the record key's own fields.
    pub fn goes_by_record_key(&self) -> bool {
        self.mode == Mode::Upsert && self.key_columns.is_none()
    }

    /// Whether columns of records without schema block may get the types of their values.
    pub(super) fn infers(&self) -> bool {
        self.infer_types && self.declared.is_empty()
    }

    /// A source column that has the name of one of firn's own stays beside it: the table refuses the two by name.
    pub(super) fn with_origin(&self, mut columns: Vec<Column>) -> RowSchema {
        let taken: Vec<Column> = columns.iter().filter(|c| origin::is_own(&c.name)).cloned().collect();
        if self.origin_columns {
            columns.extend(origin_columns());
        }
        let alone = |c: &Column| columns.iter().filter(|other| same_name(&other.name, &c.name)).count() == 1;
        let twins: Vec<Column> = taken.into_iter().filter(alone).collect();
        columns.extend(twins);
        RowSchema { columns }
    }
}

/// Refuses a table that no batch can be made for: two columns of one name, a decimal that Arrow has no type for.
pub(super) fn check(table: &RowSchema) -> Result<(), String> {
    if table.columns.is_empty() {
        return Err("the table has no columns".to_owned());
    }
    for (at, column) in table.columns.iter().enumerate() {
        if table.index_of(&column.name) != Some(at) {
            return Err(format!("the table has two columns {}", column.name));
        }
        check_type(&column.column_type).map_err(|why| format!("column {}: {why}", column.name))?;
    }
    Ok(())
}

fn check_type(column_type: &ColumnType) -> Result<(), String> {
    use ColumnType as T;
    match column_type {
        T::Decimal { precision, scale } if !(1..=38).contains(precision) || scale > precision => {
            Err(format!("{column_type} is no type"))
        }
        T::List(inner) | T::Map(inner) => check_type(inner),
        T::Struct(columns) if columns.is_empty() => Err("a struct without fields".to_owned()),
        T::Struct(columns) if columns.iter().any(|c| c.key) => Err("a key inside a struct".to_owned()),
        T::Struct(columns) => columns.iter().try_for_each(|c| check_type(&c.column_type)),
        _ => Ok(()),
    }
}
