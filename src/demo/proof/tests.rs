//! The proof must fail for every way in which a table can be wrong.

use std::sync::Arc;

use arrow_schema::Schema;
use rstest::rstest;

use super::*;
use crate::{
    change::{Column, origin_columns},
    generate::{Generator, GeneratorOptions, SchemaName},
};

/// One row of a lake's table: cells, (partition, offset), op.
type Stored = (Row, (i32, i64), &'static str);

fn array(column_type: &ColumnType, cells: &[Cell]) -> ArrayRef {
    macro_rules! collected {
        ($array:ty, $($pattern:pat => $value:expr),+) => {
            cells.iter().map(|c| match c { $($pattern => Some($value),)+ Cell::Null => None, other => panic!("{other}") })
                .collect::<$array>()
        };
    }
    match column_type {
        ColumnType::Int => Arc::new(collected!(Int32Array, Cell::Int(v) => *v as i32)),
        ColumnType::Long => Arc::new(collected!(Int64Array, Cell::Int(v) => *v)),
        ColumnType::Double => Arc::new(collected!(Float64Array, Cell::Double(v) => *v)),
        ColumnType::Decimal { precision, scale } => Arc::new(
            collected!(Decimal128Array, Cell::Decimal { unscaled, .. } => *unscaled)
                .with_precision_and_scale(*precision, *scale as i8)
                .unwrap(),
        ),
        ColumnType::String => Arc::new(collected!(StringArray, Cell::Text(v) => v.to_string())),
        ColumnType::Uuid => {
            let values = cells.iter().map(|c| if let Cell::Uuid(v) = c { Some(v.to_be_bytes()) } else { None });
            Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(values, 16).unwrap())
        }
        ColumnType::Date => Arc::new(collected!(Date32Array, Cell::Date(v) => *v)),
        ColumnType::Timestamp => Arc::new(collected!(TimestampMicrosecondArray, Cell::Timestamp(v) => *v)),
        ColumnType::TimestampTz => {
            Arc::new(collected!(TimestampMicrosecondArray, Cell::TimestampTz(v) => *v).with_timezone("+00:00"))
        }
        other => panic!("{other}"),
    }
}

fn batch(table: Table, stored: &[Stored]) -> RecordBatch {
    let mut columns: Vec<Column> = table.columns().iter().map(|c| Column::new(c.name, c.kind.column_type())).collect();
    let source_columns = columns.len();
    columns.extend(origin_columns());
    let arrays = columns.iter().enumerate().map(|(i, column)| {
        let cells: Vec<Cell> = stored
            .iter()
            .map(|(row, (partition, offset), op)| match column.name.as_str() {
                _ if i < source_columns => row[i].clone(),
                origin::TOPIC => Cell::Text(table.topic().into()),
                origin::PARTITION => Cell::Int(i64::from(*partition)),
                origin::OFFSET => Cell::Int(*offset),
                origin::OP => Cell::Text((*op).into()),
                _ => Cell::Null,
            })
            .collect();
        array(&column.column_type, &cells)
    });
    let arrays: Vec<ArrayRef> = arrays.collect();
    let schema = Schema::new(columns.iter().map(Column::arrow).collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), arrays).unwrap()
}

/// The rows of a small generated table, as a right lake would hold them.
fn right(table: Table) -> (Vec<Row>, Vec<Stored>) {
    let mut generator = Generator::new(GeneratorOptions {
        keys: 30,
        changes: Some(600),
        ..GeneratorOptions::new(11, [SchemaName::Inventory, SchemaName::Engagement])
    });
    generator.by_ref().for_each(drop);
    let rows = generator.model().rows(table);
    let stored = rows.iter().cloned().enumerate().map(|(i, row)| (row, ((i % 3) as i32, i as i64), "c")).collect();
    (rows, stored)
}

fn proof(table: Table, truth: &Truth, stored: &[Stored]) -> TableProof {
    let (first, second) = stored.split_at(stored.len() / 2);
    compare(table, table.name(), truth, &[batch(table, second), batch(table, first)]).unwrap()
}

#[rstest]
#[case(Table::Addresses)]
#[case(Table::Customers)]
#[case(Table::OrderItems)]
#[case(Table::Orders)]
#[case(Table::Products)]
#[case(Table::Content)]
fn a_table_that_holds_the_models_rows_in_any_order_is_equal(#[case] table: Table) {
    let (rows, stored) = right(table);
    assert!(rows.len() > 2);
    let proof = proof(table, &Truth::Rows(rows), &stored);
    assert!(proof.equal(), "{proof:?}");
}

#[rstest]
#[case::missing(|stored: &mut Vec<Stored>| { stored.remove(1); }, "is missing")]
#[case::doubled(|stored: &mut Vec<Stored>| { let mut twin = stored[1].clone(); twin.1.1 += 1000; stored.push(twin); }, "2 times")]
#[case::foreign(|stored: &mut Vec<Stored>| { let mut row = stored[1].clone(); row.0[0] = Cell::Int(99_999); row.1.1 += 1000; stored.push(row); }, "must not be there")]
#[case::altered(|stored: &mut Vec<Stored>| stored[1].0[5] = Cell::Decimal { unscaled: 7, scale: 2 }, "price is 0.07, must be")]
#[case::nulled(|stored: &mut Vec<Stored>| stored[1].0[1] = Cell::Null, "sku is NULL, must be")]
#[case::swapped(|stored: &mut Vec<Stored>| { let name = stored[1].0[1].clone(); stored[1].0[1] = stored[2].0[1].clone(); stored[2].0[1] = name; }, "sku is")]
fn any_difference_in_the_rows_is_found_and_told(#[case] harm: fn(&mut Vec<Stored>), #[case] told: &str) {
    let (rows, mut stored) = right(Table::Products);
    harm(&mut stored);
    let proof = proof(Table::Products, &Truth::Rows(rows), &stored);
    assert!(!proof.equal());
    assert!(proof.differences.iter().any(|d| d.contains(told)), "{:?}", proof.differences);
}

#[test]
fn two_rows_of_one_record_are_duplicates_though_every_value_is_right() {
    let (rows, mut stored) = right(Table::Products);
    stored[2].1 = stored[1].1;
    let proof = proof(Table::Products, &Truth::Rows(rows), &stored);
    assert_eq!((proof.duplicates, proof.different, proof.equal()), (1, 0, false));
}

#[test]
fn an_empty_table_is_not_equal_to_a_full_model() {
    let (rows, _) = right(Table::Products);
    let proof = compare(Table::Products, "products", &Truth::Rows(rows), &[]).unwrap();
    assert!(!proof.equal() && proof.rows_found == 0);
}

/// Events as an append table holds them: created, updated, deleted.
fn log_of_changes() -> (Truth, Vec<Stored>) {
    let (rows, mut stored) = right(Table::EngagementEvents);
    // Older versions of two rows before the right ones, and a row that was created and deleted.
    for i in [0, 1] {
        let (row, (partition, offset), _) = &mut stored[i];
        let mut older = row.clone();
        older[6] = Cell::Text("an older device".into());
        *offset += 500;
        let at = (*partition, *offset - 100);
        stored.push((older, at, "c"));
    }
    let mut gone = stored[2].0.clone();
    gone[0] = Cell::Int(123_456);
    stored.push((gone.clone(), (0, 700), "c"));
    gone.iter_mut().skip(1).for_each(|cell| *cell = Cell::Null);
    stored.push((gone, (0, 701), "d"));
    (Truth::EveryChange { rows, changes: stored.len() as u64 }, stored)
}

#[test]
fn an_append_table_is_right_when_its_log_folds_to_the_model() {
    let (truth, stored) = log_of_changes();
    let proof = proof(Table::EngagementEvents, &truth, &stored);
    assert!(proof.equal(), "{proof:?}");
    assert_eq!(proof.mode, "append");
}

#[rstest]
#[case::a_change_is_missing(|stored: &mut Vec<Stored>| { stored.pop(); })]
#[case::a_change_came_twice(|stored: &mut Vec<Stored>| { let twin = stored[3].clone(); stored.push(twin); })]
#[case::a_delete_is_missing_and_another_change_came_twice(|stored: &mut Vec<Stored>| { stored.pop(); let twin = stored[3].clone(); stored.push(twin); })]
#[case::the_order_is_wrong(|stored: &mut Vec<Stored>| stored[0].1.1 -= 400)]
fn an_append_table_that_lost_doubled_or_reordered_a_change_is_not_equal(#[case] harm: fn(&mut Vec<Stored>)) {
    let (truth, mut stored) = log_of_changes();
    harm(&mut stored);
    assert!(!proof(Table::EngagementEvents, &truth, &stored).equal());
}

#[test]
fn a_column_of_another_type_or_a_missing_one_is_an_error_that_names_it() {
    let (rows, stored) = right(Table::Products);
    let whole = batch(Table::Products, &stored);
    let without = whole.project(&(1..whole.num_columns()).collect::<Vec<_>>()).unwrap();
    let error = compare(Table::Products, "products", &Truth::Rows(rows.clone()), &[without]).unwrap_err();
    assert!(error.to_string().contains("column id is missing"), "{error}");
    let error = compare(Table::Orders, "orders", &Truth::Rows(rows), &[whole]).unwrap_err();
    assert!(error.to_string().contains("column id is Int32, must be long"), "{error}");
}
