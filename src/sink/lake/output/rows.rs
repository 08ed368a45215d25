//! The rows of a delivery as changes of a table: its types, with firn's own columns behind those of the SELECT. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array,
};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, Schema};

use crate::batch::ChangeBatch;
use crate::change::{Op, RowSchema, origin, origin_columns};
use crate::sink::{Delivery, RefusedRow, SinkError};

/// `columns` are the SELECT's, as [`columns_of`](super::columns::columns_of) made them.
///
/// # Errors
/// [`SinkError::Refused`] with every row that has a value which its column can't hold, or none in its key.
pub(super) fn changes(delivery: &Delivery, columns: &RowSchema) -> Result<ChangeBatch, SinkError> {
    let rows = &delivery.rows;
    let mut refused = BTreeMap::new();
    let (mut fields, mut arrays) = (Vec::new(), Vec::<ArrayRef>::new());
    for column in &columns.columns {
        let Some(values) = rows.column_by_name(&column.name) else {
            return Err(SinkError::Stopped(format!("the rows have no column `{}`", column.name)));
        };
        let cast = cast(values, &column.column_type.arrow())
            .map_err(|e| SinkError::Stopped(format!("column `{}`: {e}: CAST it in the SELECT", column.name)))?;
        for row in (0..values.len()).filter(|row| cast.is_null(*row)) {
            if !values.is_null(row) {
                let (name, to) = (&column.name, &column.column_type);
                refused.entry(row).or_insert_with(|| format!("column `{name}`: the value does not fit {to}"));
            } else if column.key {
                let hint = match delivery.is_deleted(row) {
                    true => ": of a delete the key is in image.*, not in after.*",
                    false => "",
                };
                refused.entry(row).or_insert_with(|| format!("the key column `{}` is NULL{hint}", column.name));
            }
        }
        fields.push(Field::new(&column.name, cast.data_type().clone(), true));
        arrays.push(cast);
    }
    if !refused.is_empty() {
        return Err(SinkError::Refused(refused.into_iter().map(|(row, detail)| RefusedRow { row, detail }).collect()));
    }
    for (column, values) in origin_columns().into_iter().zip(origins(delivery)) {
        fields.push(Field::new(column.name, values.data_type().clone(), true));
        arrays.push(values);
    }
    let rows_of = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays);
    let rows_of = rows_of.map_err(|e| SinkError::Stopped(format!("rows can't be put together: {e}")))?;
    // A row of several changes is one of the result: it is there.
    let ops = match &delivery.origins {
        Some(origins) => origins.iter().map(|o| o.op).collect(),
        None => vec![Op::Create; rows.num_rows()],
    };
    Ok(ChangeBatch::new(rows_of, ops))
}

/// Null where a value does not fit.
fn cast(values: &ArrayRef, to: &DataType) -> Result<ArrayRef, arrow_schema::ArrowError> {
    match values.data_type() == to {
        true => Ok(Arc::clone(values)),
        false => cast_with_options(values, to, &CastOptions { safe: true, ..CastOptions::default() }),
    }
}

/// The columns of [`origin_columns`]. A row of several changes has the last offset of its delivery, and no more: what takes rows out from an
/// offset on takes it too.
fn origins(delivery: &Delivery) -> Vec<ArrayRef> {
    let (rows, at) = (delivery.rows.num_rows(), &delivery.span.at);
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&at.topic, rows))),
        Arc::new(Int32Array::from_iter_values(std::iter::repeat_n(at.partition, rows))),
    ];
    match &delivery.origins {
        Some(origins) => {
            let times = origins.iter().map(|o| o.source_us).collect::<TimestampMicrosecondArray>();
            columns.push(Arc::new(Int64Array::from_iter_values(origins.iter().map(|o| o.offset))));
            columns.push(Arc::new(StringArray::from_iter_values(origins.iter().map(|o| o.op.letter()))));
            columns.push(Arc::new(times.with_timezone("+00:00")));
            columns.push(Arc::new(origins.iter().map(|o| o.source_lsn).collect::<Int64Array>()));
        }
        None => {
            let last = delivery.span.next - 1;
            columns.push(Arc::new(Int64Array::from_iter_values(std::iter::repeat_n(last, rows))));
            let rest = origin_columns()
                .into_iter()
                .filter(|c| [origin::OP, origin::SOURCE_TS, origin::SOURCE_LSN].contains(&c.name.as_str()));
            columns.extend(rest.map(|c| new_null_array(&c.column_type.arrow(), rows)));
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;

    use super::*;
    use crate::batch::RowOrigin;
    use crate::change::{Column, ColumnType};
    use crate::position::{Span, TopicPartition};
    use crate::sink::keeping::Keeping;

    fn delivery(ids: Vec<Option<i64>>, origins: Option<Vec<RowOrigin>>) -> Delivery {
        let ids: ArrayRef = Arc::new(Int64Array::from(ids));
        Delivery {
            span: Span::new(TopicPartition::new("t", 3), 10, 20),
            rows: RecordBatch::try_from_iter_with_nullable([("id", ids, true)]).unwrap(),
            origins,
            keeping: Keeping::default(),
        }
    }

    fn key() -> RowSchema {
        RowSchema { columns: vec![Column::key("id", ColumnType::Long)] }
    }

    #[test]
    fn rows_say_where_they_come_from() {
        let origin = RowOrigin { source_us: Some(5), source_lsn: Some(6), ..RowOrigin::new(11, Op::Delete) };
        let batch = changes(&delivery(vec![Some(1)], Some(vec![origin])), &key()).unwrap();
        assert_eq!(batch.ops, [Op::Delete]);
        let names: Vec<_> = batch.rows.schema().fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(names[0], "id");
        assert!(names[1..].iter().zip(origin_columns()).all(|(have, want)| *have == want.name), "{names:?}");
        let long = |name: &str| batch.rows.column_by_name(name).unwrap().as_primitive::<Int64Type>().value(0);
        assert_eq!((long(origin::OFFSET), long(origin::SOURCE_LSN)), (11, 6));

        let of_several = changes(&delivery(vec![Some(1)], None), &key()).unwrap();
        assert_eq!(of_several.ops, [Op::Create]);
        let column = |name: &str| Arc::clone(of_several.rows.column_by_name(name).unwrap());
        assert_eq!(column(origin::OFFSET).as_primitive::<Int64Type>().value(0), 19);
        assert!(column(origin::OP).is_null(0) && column(origin::SOURCE_TS).is_null(0));
    }

    #[test]
    fn a_row_without_a_key_is_refused_alone() {
        let origins = (10..13).map(|offset| RowOrigin::new(offset, Op::Delete)).collect();
        let refused = changes(&delivery(vec![Some(1), None, Some(3)], Some(origins)), &key()).unwrap_err();
        let SinkError::Refused(rows) = refused else { panic!("{refused:?}") };
        assert_eq!(rows.iter().map(|r| r.row).collect::<Vec<_>>(), [1]);
        assert!(rows[0].detail.contains("`id` is NULL") && rows[0].detail.contains("image.*"), "{rows:?}");
    }

    #[test]
    fn a_value_that_does_not_fit_is_refused() {
        let narrow = RowSchema { columns: vec![Column::new("id", ColumnType::Int)] };
        let refused = changes(&delivery(vec![Some(1), Some(1 << 40)], None), &narrow).unwrap_err();
        assert!(
            matches!(&refused, SinkError::Refused(rows) if rows[0].row == 1 && rows[0].detail.contains("int")),
            "{refused:?}"
        );
    }
}
