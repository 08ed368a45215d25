//! The columns of a SELECT as those of a table. Pure.

use arrow_schema::{DataType, Field, Schema};

use crate::change::{Column, ColumnType, RowSchema, origin};

/// The table's columns for rows of these, without firn's own: those the sink adds itself.
///
/// # Errors
/// The sentence for a person: a column of a type that no table has, a key column that is not there.
pub(super) fn columns_of(columns: &Schema, key: &[String]) -> Result<RowSchema, String> {
    if let Some(name) = key.iter().find(|name| columns.field_with_name(name).is_err()) {
        return Err(format!("the SELECT has no column `{name}`, which `key` names"));
    }
    let own = columns.fields().iter().filter(|field| !origin::is_own(field.name()));
    let column = |field: &std::sync::Arc<Field>| {
        let column_type = type_of(field.data_type()).ok_or_else(|| {
            let (name, data_type) = (field.name(), field.data_type());
            format!("column `{name}`: no Iceberg table has a type for {data_type}: CAST it in the SELECT")
        })?;
        Ok(Column { name: field.name().clone(), column_type, key: key.contains(field.name()) })
    };
    Ok(RowSchema { columns: own.map(column).collect::<Result<_, String>>()? })
}

/// The narrowest type that holds all values of this one; µs for what is finer.
fn type_of(data_type: &DataType) -> Option<ColumnType> {
    use ColumnType as T;
    use DataType as D;
    let column = |field: &Field| Some(Column::new(field.name(), type_of(field.data_type())?));
    Some(match data_type {
        D::Boolean => T::Boolean,
        D::Int8 | D::Int16 | D::Int32 | D::UInt8 | D::UInt16 => T::Int,
        D::Int64 | D::UInt32 => T::Long,
        D::UInt64 => T::Decimal { precision: 20, scale: 0 },
        D::Float16 | D::Float32 => T::Float,
        D::Float64 => T::Double,
        D::Decimal32(precision, scale)
        | D::Decimal64(precision, scale)
        | D::Decimal128(precision, scale)
        | D::Decimal256(precision, scale)
            if *precision <= 38 =>
        {
            T::Decimal { precision: *precision, scale: u8::try_from(*scale).ok()? }
        }
        D::Date32 | D::Date64 => T::Date,
        D::Time32(_) | D::Time64(_) => T::Time,
        D::Timestamp(_, None) => T::Timestamp,
        D::Timestamp(_, Some(_)) => T::TimestampTz,
        D::Utf8 | D::LargeUtf8 | D::Utf8View => T::String,
        D::FixedSizeBinary(16) => T::Uuid,
        D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_) => T::Binary,
        D::Dictionary(_, value) => type_of(value)?,
        D::List(element) | D::LargeList(element) | D::FixedSizeList(element, _) => {
            T::List(Box::new(type_of(element.data_type())?))
        }
        D::Struct(fields) => T::Struct(fields.iter().map(|f| column(f)).collect::<Option<_>>()?),
        D::Map(entry, _) => match entry.data_type() {
            D::Struct(fields) => match &fields[..] {
                [key, value] if type_of(key.data_type()) == Some(T::String) => {
                    T::Map(Box::new(type_of(value.data_type())?))
                }
                _ => return None,
            },
            _ => return None,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use arrow_schema::{IntervalUnit, TimeUnit};

    use super::*;

    #[test]
    fn each_type_finds_the_column_that_holds_it() {
        let fields = vec![
            Field::new("id", DataType::UInt32, true),
            Field::new("n", DataType::UInt64, true),
            Field::new("price", DataType::Decimal128(12, 2), true),
            Field::new("at", DataType::Timestamp(TimeUnit::Nanosecond, Some("+00:00".into())), true),
            Field::new("tags", DataType::List(Field::new("item", DataType::Utf8View, true).into()), true),
            Field::new(origin::OP, DataType::Utf8, true),
        ];
        let columns = columns_of(&Schema::new(fields), &["id".to_owned()]).unwrap().columns;
        let want = [
            Column::key("id", ColumnType::Long),
            Column::new("n", ColumnType::Decimal { precision: 20, scale: 0 }),
            Column::new("price", ColumnType::Decimal { precision: 12, scale: 2 }),
            Column::new("at", ColumnType::TimestampTz),
            Column::new("tags", ColumnType::List(Box::new(ColumnType::String))),
        ];
        assert_eq!(columns, want);
    }

    #[test]
    fn what_no_table_holds_is_named_with_the_way_out() {
        let of = |data_type| columns_of(&Schema::new(vec![Field::new("gap", data_type, true)]), &[]).unwrap_err();
        for data_type in [
            DataType::Interval(IntervalUnit::DayTime),
            DataType::Null,
            DataType::Decimal128(10, -2),
            DataType::Decimal256(40, 2),
        ] {
            let why = of(data_type);
            assert!(why.contains("`gap`") && why.contains("CAST"), "{why}");
        }
        let key = columns_of(&Schema::empty(), &["id".to_owned()]).unwrap_err();
        assert!(key.contains("`id`"), "{key}");
    }
}
