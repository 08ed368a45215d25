//! A table's columns: to Iceberg, back, and what a record's columns ask of an existing table.
//!
//! Pure: the decision is data ([`evolve`] answers the schema to commit), nothing is loaded or committed here.

use std::sync::Arc;

use iceberg::spec::{ListType, MapType, NestedField, NestedFieldRef, PrimitiveType, Schema, StructType, Type};

use crate::change::Mode;
use crate::change::{Column, ColumnType, RowSchema};
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

fn to_type(column_type: &ColumnType, next_id: &mut i32) -> Type {
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

fn from_type(t: &Type) -> Option<ColumnType> {
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

/// What an existing table needs so that the record's columns fit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Evolution {
    /// They fit.
    Fits,
    /// This schema must be committed first.
    Commit(Box<Schema>),
}

/// Adds missing columns (optional ones), widens int, float and decimal, and lets a column be null that the table requires but the
/// records don't. Nothing is ever dropped, narrowed or renamed.
///
/// Names match exactly, else without regard to case (Hive and Trino fold it).
///
/// # Errors
/// [`LakeError::Incompatible`]; `Settings` when a key column would have to be added to a table that has rows without it.
pub(crate) fn evolve(
    table: &str,
    schema: &Schema,
    last_column_id: i32,
    record: &RowSchema,
    mode: Mode,
) -> Result<Evolution, LakeError> {
    let mut next_id = last_column_id.max(schema.highest_field_id());
    let mut changed = false;
    let mut fields: Vec<NestedFieldRef> = schema.as_struct().fields().to_vec();
    for column in &record.columns {
        let Some(at) = find(&fields, &column.name) else {
            if column.key && mode == Mode::Upsert {
                return Err(LakeError::Settings {
                    table: table.to_owned(),
                    message: format!(
                        "the key column {} is missing in the table, and its rows have no value for it: write to a new \
                         table or choose key columns that the table has",
                        column.name
                    ),
                });
            }
            next_id += 1;
            let id = next_id;
            fields.push(Arc::new(NestedField::optional(id, &column.name, to_type(&column.column_type, &mut next_id))));
            changed = true;
            continue;
        };
        let have = &fields[at];
        let widened =
            widen(&have.field_type, &column.column_type, &mut next_id).map_err(|()| LakeError::Incompatible {
                table: table.to_owned(),
                column: column.name.clone(),
                record_type: column.column_type.to_string(),
                table_type: have.field_type.to_string(),
            })?;
        let relax = have.required && !(column.key && mode == Mode::Upsert);
        if widened.is_some() || relax {
            let mut field = NestedField::clone(have);
            field.required = have.required && !relax;
            if let Some(wider) = widened {
                field.field_type = Box::new(wider);
            }
            fields[at] = Arc::new(field);
            changed = true;
        }
    }
    // A required column that the records don't have would refuse every row.
    for field in &mut fields {
        let known = record.columns.iter().any(|c| c.name.eq_ignore_ascii_case(&field.name));
        if field.required && !known {
            let mut optional = NestedField::clone(field);
            optional.required = false;
            *field = Arc::new(optional);
            changed = true;
        }
    }
    if !changed {
        return Ok(Evolution::Fits);
    }
    let required: Vec<i32> = fields.iter().filter(|f| f.required).map(|f| f.id).collect();
    let schema = Schema::builder()
        .with_fields(fields)
        .with_identifier_field_ids(schema.identifier_field_ids().filter(|id| required.contains(id)))
        .build()?;
    Ok(Evolution::Commit(Box::new(schema)))
}

/// The place of a column in the table: by its exact name, else the only one that differs in case.
pub(crate) fn find(fields: &[NestedFieldRef], name: &str) -> Option<usize> {
    fields.iter().position(|f| f.name == name).or_else(|| {
        let mut folded = fields.iter().enumerate().filter(|(_, f)| f.name.eq_ignore_ascii_case(name));
        match (folded.next(), folded.next()) {
            (Some((at, _)), None) => Some(at),
            _ => None,
        }
    })
}

/// `Some(type)` when the table's type must become that one, `None` when the records fit as it is.
fn widen(have: &Type, want: &ColumnType, next_id: &mut i32) -> Result<Option<Type>, ()> {
    use PrimitiveType as P;
    match (have, want) {
        (Type::Primitive(p), want) => match (p, want) {
            (P::Int, ColumnType::Long) => Ok(Some(Type::Primitive(P::Long))),
            (P::Long, ColumnType::Int) | (P::Double, ColumnType::Float) => Ok(None),
            (P::Float, ColumnType::Double) => Ok(Some(Type::Primitive(P::Double))),
            (P::Decimal { precision, scale }, ColumnType::Decimal { precision: wider, scale: s })
                if *scale == u32::from(*s) =>
            {
                let wider = u32::from(*wider);
                Ok((wider > *precision).then(|| Type::Primitive(P::Decimal { precision: wider, scale: *scale })))
            }
            _ => match from_type(have) {
                Some(same) if same == *want => Ok(None),
                _ => Err(()),
            },
        },
        (Type::List(list), ColumnType::List(element)) => {
            let field = &list.element_field;
            Ok(widen(&field.field_type, element, next_id)?.map(|t| Type::List(ListType::new(retyped(field, t)))))
        }
        (Type::Map(map), ColumnType::Map(value)) => {
            if map.key_field.field_type.as_primitive_type() != Some(&P::String) {
                return Err(());
            }
            let field = &map.value_field;
            Ok(widen(&field.field_type, value, next_id)?
                .map(|t| Type::Map(MapType::new(map.key_field.clone(), retyped(field, t)))))
        }
        (Type::Struct(have), ColumnType::Struct(columns)) => {
            let mut fields = have.fields().to_vec();
            let mut changed = false;
            for column in columns {
                match find(&fields, &column.name) {
                    None => {
                        *next_id += 1;
                        let id = *next_id;
                        let t = to_type(&column.column_type, next_id);
                        fields.push(Arc::new(NestedField::optional(id, &column.name, t)));
                        changed = true;
                    }
                    Some(at) => {
                        if let Some(t) = widen(&fields[at].field_type, &column.column_type, next_id)? {
                            fields[at] = retyped(&fields[at], t);
                            changed = true;
                        }
                    }
                }
            }
            Ok(changed.then(|| Type::Struct(StructType::new(fields))))
        }
        _ => Err(()),
    }
}

fn retyped(field: &NestedFieldRef, t: Type) -> NestedFieldRef {
    let mut field = NestedField::clone(field);
    field.field_type = Box::new(t);
    Arc::new(field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn columns(columns: Vec<Column>) -> RowSchema {
        RowSchema { columns }
    }

    fn nested() -> RowSchema {
        columns(vec![
            Column::key("id", ColumnType::Long),
            Column::new("tags", ColumnType::List(Box::new(ColumnType::String))),
            Column::new("attrs", ColumnType::Map(Box::new(ColumnType::Long))),
            Column::new("pos", ColumnType::Struct(vec![Column::new("x", ColumnType::Double)])),
            Column::new("price", ColumnType::Decimal { precision: 10, scale: 2 }),
        ])
    }

    #[test]
    fn columns_come_back_as_they_went() {
        let iceberg = to_iceberg(&nested(), Mode::Upsert).unwrap();
        assert_eq!(from_iceberg(&iceberg), nested());
    }

    #[test]
    fn what_fits_needs_no_commit() {
        let iceberg = to_iceberg(&nested(), Mode::Upsert).unwrap();
        assert_eq!(evolve("t", &iceberg, 0, &nested(), Mode::Upsert).unwrap(), Evolution::Fits);
    }

    #[rstest]
    #[case::int_to_long(ColumnType::Int, ColumnType::Long, Some("long"))]
    #[case::narrower_fits(ColumnType::Long, ColumnType::Int, None)]
    #[case::float_to_double(ColumnType::Float, ColumnType::Double, Some("double"))]
    #[case::decimal(ColumnType::Decimal { precision: 9, scale: 2 }, ColumnType::Decimal { precision: 12, scale: 2 }, Some("decimal(12,2)"))]
    #[case::struct_grows(
        ColumnType::Struct(vec![Column::new("a", ColumnType::Int)]),
        ColumnType::Struct(vec![Column::new("a", ColumnType::Long), Column::new("b", ColumnType::String)]),
        Some("struct<a: long, b: string>")
    )]
    fn a_type_widens(#[case] have: ColumnType, #[case] want: ColumnType, #[case] becomes: Option<&str>) {
        let table = to_iceberg(&columns(vec![Column::new("c", have)]), Mode::Append).unwrap();
        let got = evolve("t", &table, 0, &columns(vec![Column::new("c", want)]), Mode::Append).unwrap();
        match (got, becomes) {
            (Evolution::Fits, None) => {}
            (Evolution::Commit(s), Some(becomes)) => {
                assert_eq!(from_iceberg(&s).columns[0].column_type.to_string(), becomes);
                assert_eq!(s.as_struct().fields()[0].id, table.as_struct().fields()[0].id, "the id stays");
            }
            (got, becomes) => panic!("{got:?}, wanted {becomes:?}"),
        }
    }

    #[rstest]
    #[case(ColumnType::String, ColumnType::Long)]
    #[case(ColumnType::Long, ColumnType::String)]
    #[case(ColumnType::Timestamp, ColumnType::TimestampTz)]
    #[case(ColumnType::Decimal { precision: 9, scale: 2 }, ColumnType::Decimal { precision: 9, scale: 3 })]
    fn what_can_not_widen_is_refused_with_both_types(#[case] have: ColumnType, #[case] want: ColumnType) {
        let table = to_iceberg(&columns(vec![Column::new("c", have)]), Mode::Append).unwrap();
        let e = evolve("s.t", &table, 0, &columns(vec![Column::new("c", want.clone())]), Mode::Append).unwrap_err();
        assert!(e.to_string().contains("column c") && e.to_string().contains(&want.to_string()), "{e}");
    }

    #[test]
    fn a_new_column_gets_an_id_never_used_before() {
        let table = to_iceberg(&columns(vec![Column::key("id", ColumnType::Long)]), Mode::Upsert).unwrap();
        let want = columns(vec![Column::key("ID", ColumnType::Long), Column::new("b", ColumnType::String)]);
        let Evolution::Commit(s) = evolve("t", &table, 7, &want, Mode::Upsert).unwrap() else { panic!() };
        assert_eq!(s.field_by_name("b").unwrap().id, 8);
        assert!(s.field_by_name("id").unwrap().required, "the key keeps its name and stays required");
    }

    #[test]
    fn a_required_column_that_records_lack_may_be_null_from_then_on() {
        let table = Schema::builder()
            .with_fields([Arc::new(NestedField::required(1, "old", Type::Primitive(PrimitiveType::Int)))])
            .build()
            .unwrap();
        let Evolution::Commit(s) = evolve("t", &table, 1, &RowSchema::default(), Mode::Append).unwrap() else {
            panic!()
        };
        assert!(!s.field_by_name("old").unwrap().required);
    }
}
