//! Iceberg's promotions: what a column's type must become so that it holds another's values too.

use std::sync::Arc;

use iceberg::spec::{ListType, MapType, NestedField, NestedFieldRef, PrimitiveType, StructType, Type};

use crate::change::ColumnType;
use crate::sink::lake::schema::{find, from_type, to_type};

/// `Some(type)` when the table's type must become that one, `None` when the records fit as it is; an error when no promotion leads
/// there ([`ColumnType::is_kin`] says the same of the types alone).
pub(super) fn widen(have: &Type, want: &ColumnType, next_id: &mut i32) -> Result<Option<Type>, ()> {
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

pub(super) fn retyped(field: &NestedFieldRef, t: Type) -> NestedFieldRef {
    let mut field = NestedField::clone(field);
    field.field_type = Box::new(t);
    Arc::new(field)
}
