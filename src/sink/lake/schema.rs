//! A table's columns: to Iceberg and back. Pure.

use std::sync::Arc;

use iceberg::spec::{ListType, MapType, NestedField, NestedFieldRef, PrimitiveType, Schema, StructType, Type};

use crate::change::Mode;
use crate::change::{Column, ColumnType, RowSchema};
use crate::lineage::same_name;
use crate::sink::lake::LakeError;

/// The schema of a table to create. Ids are counted from 1; the catalog may assign them anew.
///
/// In upsert mode the key columns are required and the identifier fields (Iceberg allows no float as an identifier).
///
/// # Errors
/// When Iceberg refuses it, e.g. two columns of one name.
pub(crate) fn to_iceberg(schema: &RowSchema, mode: Mode) -> Result<Schema, LakeError> {
    let mut next_id = schema.columns.len() as i32;
    let mut fields = vec![];
    let mut identifiers = vec![];
    for (i, column) in schema.columns.iter().enumerate() {
        let id = i as i32 + 1;
        let required = column.key && mode == Mode::Upsert;
        if required && !matches!(column.column_type, ColumnType::Float | ColumnType::Double) {
            identifiers.push(id);
        }
        fields.push(Arc::new(NestedField::new(id, &column.name, to_type(&column.column_type, &mut next_id), required)));
    }
    Ok(Schema::builder().with_fields(fields).with_identifier_field_ids(identifiers).build()?)
}

pub(crate) fn to_type(column_type: &ColumnType, next_id: &mut i32) -> Type {
    let mut fresh = || {
        *next_id += 1;
        *next_id
    };
    let primitive = match column_type {
        ColumnType::Boolean => PrimitiveType::Boolean,
        ColumnType::Int => PrimitiveType::Int,
        ColumnType::Long => PrimitiveType::Long,
        ColumnType::Float => PrimitiveType::Float,
        ColumnType::Double => PrimitiveType::Double,
        ColumnType::Decimal { precision, scale } => {
            PrimitiveType::Decimal { precision: u32::from(*precision), scale: u32::from(*scale) }
        }
        ColumnType::Date => PrimitiveType::Date,
        ColumnType::Time => PrimitiveType::Time,
        ColumnType::Timestamp => PrimitiveType::Timestamp,
        ColumnType::TimestampTz => PrimitiveType::Timestamptz,
        ColumnType::String => PrimitiveType::String,
        ColumnType::Uuid => PrimitiveType::Uuid,
        ColumnType::Binary => PrimitiveType::Binary,
        ColumnType::List(element) => {
            let id = fresh();
            let element = NestedField::list_element(id, to_type(element, next_id), false);
            return Type::List(ListType::new(Arc::new(element)));
        }
        ColumnType::Map(value) => {
            let (key, value_id) = (fresh(), fresh());
            let value = to_type(value, next_id);
            return Type::Map(MapType::optional(key, Type::Primitive(PrimitiveType::String), value_id, value));
        }
        ColumnType::Struct(columns) => {
            let fields = columns
                .iter()
                .map(|c| {
                    let id = {
                        *next_id += 1;
                        *next_id
                    };
                    Arc::new(NestedField::optional(id, &c.name, to_type(&c.column_type, next_id)))
                })
                .collect();
            return Type::Struct(StructType::new(fields));
        }
    };
    Type::Primitive(primitive)
}

/// The columns of a table that this writer can name. Columns of other types (made by others) are left out; they are
/// written as null.
pub(crate) fn from_iceberg(schema: &Schema) -> RowSchema {
    let keys: Vec<i32> = schema.identifier_field_ids().collect();
    let columns = schema
        .as_struct()
        .fields()
        .iter()
        .filter_map(|f| {
            Some(Column { name: f.name.clone(), column_type: from_type(&f.field_type)?, key: keys.contains(&f.id) })
        })
        .collect();
    RowSchema { columns }
}

pub(crate) fn from_type(t: &Type) -> Option<ColumnType> {
    Some(match t {
        Type::Primitive(p) => match p {
            PrimitiveType::Boolean => ColumnType::Boolean,
            PrimitiveType::Int => ColumnType::Int,
            PrimitiveType::Long => ColumnType::Long,
            PrimitiveType::Float => ColumnType::Float,
            PrimitiveType::Double => ColumnType::Double,
            PrimitiveType::Decimal { precision, scale } => {
                ColumnType::Decimal { precision: *precision as u8, scale: *scale as u8 }
            }
            PrimitiveType::Date => ColumnType::Date,
            PrimitiveType::Time => ColumnType::Time,
            PrimitiveType::Timestamp => ColumnType::Timestamp,
            PrimitiveType::Timestamptz => ColumnType::TimestampTz,
            PrimitiveType::String => ColumnType::String,
            PrimitiveType::Uuid => ColumnType::Uuid,
            PrimitiveType::Binary => ColumnType::Binary,
            PrimitiveType::TimestampNs | PrimitiveType::TimestamptzNs | PrimitiveType::Fixed(_) => return None,
        },
        Type::List(l) => ColumnType::List(Box::new(from_type(&l.element_field.field_type)?)),
        Type::Map(m) => match m.key_field.field_type.as_ref() {
            Type::Primitive(PrimitiveType::String) => ColumnType::Map(Box::new(from_type(&m.value_field.field_type)?)),
            _ => return None,
        },
        Type::Struct(s) => ColumnType::Struct(
            s.fields()
                .iter()
                .map(|f| Some(Column::new(f.name.clone(), from_type(&f.field_type)?)))
                .collect::<Option<Vec<_>>>()?,
        ),
    })
}

/// The place of a column in the table: by its exact name, else the only one that differs in case.
pub(crate) fn find(fields: &[NestedFieldRef], name: &str) -> Option<usize> {
    fields.iter().position(|f| f.name == name).or_else(|| {
        let mut folded = fields.iter().enumerate().filter(|(_, f)| same_name(&f.name, name));
        match (folded.next(), folded.next()) {
            (Some((at, _)), None) => Some(at),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_come_back_as_they_went() {
        let nested = RowSchema {
            columns: vec![
                Column::key("id", ColumnType::Long),
                Column::new("tags", ColumnType::List(Box::new(ColumnType::String))),
                Column::new("attrs", ColumnType::Map(Box::new(ColumnType::Long))),
                Column::new("pos", ColumnType::Struct(vec![Column::new("x", ColumnType::Double)])),
                Column::new("price", ColumnType::Decimal { precision: 10, scale: 2 }),
            ],
        };
        assert_eq!(from_iceberg(&to_iceberg(&nested, Mode::Upsert).unwrap()), nested);
    }
}
