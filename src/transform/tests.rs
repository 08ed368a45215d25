//! The SELECT over batches of changes.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow_cast::pretty::pretty_format_batches;

use super::*;
use crate::batch::{BeforeImages, ChangeBatch};
use crate::change::{Column, ColumnType, RowSchema, origin_columns};

fn products() -> RowSchema {
    let mut columns = vec![
        Column { key: true, ..Column::new("id", ColumnType::Long) },
        Column::new("name", ColumnType::String),
        Column::new("price", ColumnType::Double),
    ];
    columns.extend(origin_columns());
    RowSchema { columns }
}

/// Changes of products (op, id, name, price, price before), from this offset on.
fn changes(from: i64, rows: &[(Op, i64, &str, f64, Option<f64>)]) -> RecordBatch {
    let n = rows.len();
    let schema = Arc::new(products().arrow());
    let own: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.2))),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|r| r.3))),
    ];
    let mut all = own.clone();
    all.push(Arc::new(StringArray::from(vec!["shop.public.products"; n])));
    all.push(Arc::new(arrow_array::Int32Array::from(vec![0; n])));
    all.push(Arc::new(Int64Array::from_iter_values(from..from + n as i64)));
    all.push(Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.0.letter()))));
    all.push(Arc::new(
        arrow_array::TimestampMicrosecondArray::from_iter_values((0..n as i64).map(|i| (1_000 + i) * 1_000))
            .with_timezone("+00:00"),
    ));
    all.push(Arc::new(Int64Array::from_iter_values((0..n as i64).map(|i| 77 + i))));
    let nullable: Vec<_> = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
    let mut before: Vec<ArrayRef> = all.iter().map(|a| arrow_array::new_null_array(a.data_type(), n)).collect();
    before[0] = Arc::clone(&own[0]);
    before[2] = Arc::new(rows.iter().map(|r| r.4).collect::<Float64Array>());
    let batch = ChangeBatch {
        before: Some(BeforeImages {
            rows: RecordBatch::try_new(Arc::new(Schema::new(nullable)), before).unwrap(),
            there: rows.iter().map(|r| r.4.is_some()).collect(),
        }),
        ..ChangeBatch::new(RecordBatch::try_new(schema, all).unwrap(), rows.iter().map(|r| r.0).collect())
    };
    changes::table(&batch).unwrap()
}

async fn over_products(sql: &str) -> Result<Transform, TransformError> {
    Transform::plan(sql, &[("products".to_owned(), changes::columns(&products()))], &[]).await
}

fn text(rows: &RecordBatch) -> String {
    pretty_format_batches(std::slice::from_ref(rows)).unwrap().to_string()
}

#[tokio::test]
async fn images_op_and_source_are_columns_and_rows_know_their_change() {
    let sql = "SELECT p.image.id AS id, p.after.name, p.before.price AS was, p.after.price AS is_now, p.op, p.source.lsn, p.source.ts_ms \
               FROM products p WHERE p.op <> 'r'";
    let transform = over_products(sql).await.unwrap();
    let rows = [
        (Op::Read, 1, "a", 1.0, None),
        (Op::Update, 2, "b", 2.5, Some(2.0)),
        (Op::Delete, 3, "c", 3.0, Some(3.0)),
        (Op::Create, 4, "d", 4.0, None),
    ];
    let output = transform.run("products", &changes(10, &rows)).await.unwrap();
    let origin = |offset: i64, op| {
        let (source_us, source_lsn) = (Some((990 + offset) * 1_000), Some(67 + offset));
        (0, RowOrigin { source_us, source_lsn, ..RowOrigin::new(offset, op) })
    };
    assert_eq!(output.origins.unwrap(), [origin(11, Op::Update), origin(12, Op::Delete), origin(13, Op::Create)]);
    assert_eq!(
        text(&output.rows),
        "\
+----+------+-----+--------+----+-----+-------+
| id | name | was | is_now | op | lsn | ts_ms |
+----+------+-----+--------+----+-----+-------+
| 2  | b    | 2.0 | 2.5    | u  | 78  | 1001  |
| 3  |      | 3.0 |        | d  | 79  | 1002  |
| 4  | d    |     | 4.0    | c  | 80  | 1003  |
+----+------+-----+--------+----+-----+-------+"
    );
    assert!(output.failed.is_empty());
}

#[tokio::test]
async fn a_left_join_keeps_events_without_partner_and_their_order() {
    let view = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from_iter_values([3, 1])) as ArrayRef),
        ("label", Arc::new(StringArray::from_iter_values(["three", "one"])) as ArrayRef),
    ])
    .unwrap();
    let sources = [("products".to_owned(), changes::columns(&products()))];
    let sql = "SELECT products.after.id AS id, l.label FROM products LEFT JOIN labels l ON products.after.id = l.id";
    let transform = Transform::plan(sql, &sources, &[("labels".to_owned(), view.schema())]).await.unwrap();
    let rows: Vec<_> = (0..5).map(|id| (Op::Create, id, "x", 1.0, None)).collect();
    let ids = |output: &Output| output.rows.column(0).as_primitive::<Int64Type>().values().to_vec();
    let before = transform.run("products", &changes(0, &rows)).await.unwrap();
    assert_eq!((ids(&before), before.rows.column(1).null_count()), (vec![0, 1, 2, 3, 4], 5));
    transform.set_view("labels", vec![view]);
    let joined = transform.run("products", &changes(0, &rows)).await.unwrap();
    assert_eq!(ids(&joined), [0, 1, 2, 3, 4]);
    let labels: Vec<_> = joined.rows.column(1).as_string::<i32>().iter().collect();
    assert_eq!(labels, [None, Some("one"), None, Some("three"), None]);
    assert_eq!(joined.origins.unwrap().iter().map(|(_, o)| o.offset).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn a_row_that_the_select_fails_on_is_named_and_the_others_go_on() {
    let transform = over_products("SELECT CAST(after.name AS BIGINT) AS n FROM products").await.unwrap();
    let names = ["1", "2", "three", "4", "five"];
    let rows: Vec<_> = names.iter().map(|name| (Op::Create, 1, *name, 1.0, None)).collect();
    let output = transform.run("products", &changes(0, &rows)).await.unwrap();
    assert_eq!(output.rows.column(0).as_primitive::<Int64Type>().values(), &[1, 2, 4]);
    assert_eq!(output.failed.iter().map(|f| f.row).collect::<Vec<_>>(), [2, 4]);
    assert!(output.failed[0].detail.contains("three"), "{}", output.failed[0].detail);
}

#[tokio::test]
async fn a_select_that_fails_on_all_rows_is_wrong_itself() {
    let transform = over_products("SELECT CAST(after.name AS BIGINT) AS n FROM products").await.unwrap();
    let rows: Vec<_> = (0..1_200).map(|_| (Op::Create, 1, "one", 1.0, None)).collect();
    let few = transform.run("products", &changes(0, &rows[..MOST_FAILING])).await.unwrap();
    assert_eq!((few.rows.num_rows(), few.failed.len()), (0, MOST_FAILING));
    let e = transform.run("products", &changes(0, &rows)).await.unwrap_err().to_string();
    assert!(e.contains("more than 1000 rows of one batch fail") && e.contains("one"), "{e}");
}

#[tokio::test]
async fn a_grouped_select_runs_and_its_rows_come_from_no_single_change() {
    let transform =
        over_products("SELECT op, count(*) AS n, sum(after.price) AS total FROM products GROUP BY op ORDER BY op")
            .await
            .unwrap();
    assert!(!transform.is_traced());
    let rows = [(Op::Create, 1, "a", 1.0, None), (Op::Create, 2, "b", 2.0, None), (Op::Read, 3, "c", 3.0, None)];
    let output = transform.run("products", &changes(0, &rows)).await.unwrap();
    assert!(output.origins.is_none());
    assert_eq!(output.rows.column(1).as_primitive::<Int64Type>().values(), &[2, 1]);
    assert_eq!(output.rows.column(2).as_primitive::<Float64Type>().values(), &[3.0, 3.0]);
}

#[tokio::test]
async fn a_union_of_sources_is_traced() {
    let sources = ["a", "b"].map(|name| (name.to_owned(), changes::columns(&products())));
    let sql = "SELECT after.id AS id, 'a' AS kind FROM a UNION ALL SELECT after.id, 'b' FROM b";
    let transform = Transform::plan(sql, &sources, &[]).await.unwrap();
    let output = transform.run("b", &changes(5, &[(Op::Create, 9, "x", 1.0, None)])).await.unwrap();
    let origin = RowOrigin { source_us: Some(1_000_000), source_lsn: Some(77), ..RowOrigin::new(5, Op::Create) };
    assert_eq!(output.origins.unwrap(), [(0, origin)]);
    assert_eq!(output.rows.column(1).as_string::<i32>().value(0), "b");
}

#[tokio::test]
async fn a_select_that_does_not_fit_says_where() {
    for (sql, says) in [
        ("SELECT after.prize FROM products", "prize"),
        ("SELECT nothing FROM products", "nothing"),
        ("SELECT after.id FROM orders", "orders"),
        ("DELETE FROM products", "SELECT"),
        ("SELECT after.id FRM products", "Column: 21"),
        ("SELECT op, after.name AS op FROM products", "op"),
    ] {
        let e = over_products(sql).await.unwrap_err().to_string();
        assert!(e.contains(says), "{sql}: {e}");
    }
}

#[tokio::test]
async fn now_is_the_time_of_the_run() {
    let transform = over_products("SELECT now() AS at FROM products").await.unwrap();
    let at = || async {
        let output = transform.run("products", &changes(0, &[(Op::Create, 1, "a", 1.0, None)])).await.unwrap();
        output.rows.column(0).to_data()
    };
    let first = at().await;
    std::thread::sleep(std::time::Duration::from_millis(2));
    assert_ne!(first, at().await);
}

#[tokio::test]
async fn of_a_view_that_is_joined_on_equal_columns_only_what_is_sought_has_to_be_there() {
    let columns = |names: [&str; 2]| {
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values([3, 1, 7]));
        let labels: ArrayRef = Arc::new(StringArray::from_iter_values(["three", "one", "seven"]));
        RecordBatch::try_from_iter([(names[0], values), (names[1], labels)]).unwrap()
    };
    let (labels, kinds) = (columns(["id", "label"]), columns(["id", "kind"]));
    let planned = async |sql: &str| {
        let sources = [("products".to_owned(), changes::columns(&products()))];
        let views = [("labels".to_owned(), labels.schema()), ("kinds".to_owned(), kinds.schema())];
        let transform = Transform::plan(sql, &sources, &views).await.unwrap();
        transform.set_view("labels", vec![labels.clone()]);
        transform.set_view("kinds", vec![kinds.clone()]);
        transform
    };
    let rows: Vec<_> = (0..5).map(|id| (Op::Create, id, "x", 1.0, None)).collect();
    let changed = changes(0, &rows);
    let select = "SELECT p.after.id, l.label FROM products p";
    for (sql, want) in [
        ("LEFT JOIN labels l ON p.after.id = l.id AND l.label <> 'x'", Some(vec![0, 1, 2, 3, 4])),
        ("JOIN labels l ON l.id = p.after.id WHERE p.after.id > 2", Some(vec![3, 4])),
        (
            "LEFT JOIN (SELECT label, id AS n FROM labels WHERE id < 5) l ON l.n = p.after.id + 1",
            Some(vec![1, 2, 3, 4, 5]),
        ),
        ("LEFT JOIN kinds k ON k.id = p.after.id LEFT JOIN labels l ON l.id = k.id", None),
        ("FULL JOIN labels l ON l.id = p.after.id", None),
        ("RIGHT JOIN labels l ON l.id = p.after.id", None),
        ("JOIN labels l ON l.id = p.after.id WHERE l.id < (SELECT max(id) FROM labels)", None),
        ("JOIN labels l ON l.id + 1 = p.after.id", None),
        ("JOIN labels l ON l.id IS NOT DISTINCT FROM p.after.id", None),
        ("JOIN labels l ON l.id > p.after.id", None),
        ("JOIN labels l ON l.id = p.after.id + extract(year FROM now())", None),
    ] {
        let transform = planned(&format!("{select} {sql}")).await;
        let sought = transform.sought("labels", "products", &changed).await;
        let ids =
            sought.as_ref().map(|s| s.column_by_name("id").unwrap().as_primitive::<Int64Type>().values().to_vec());
        assert_eq!(ids, want, "{sql}");
        let Some(ids) = ids else { continue };
        let whole = transform.run("products", &changed).await.unwrap();
        let kept: arrow_array::BooleanArray =
            labels.column(0).as_primitive::<Int64Type>().values().iter().map(|id| Some(ids.contains(id))).collect();
        transform.set_view("labels", vec![filter_record_batch(&labels, &kept).unwrap()]);
        let narrow = transform.run("products", &changed).await.unwrap();
        assert_eq!((text(&narrow.rows), narrow.origins), (text(&whole.rows), whole.origins), "{sql}");
    }
    // A part of the batch has other values here than the whole.
    for of in [
        "SELECT max(after.id) AS id FROM products GROUP BY after.id % 2",
        "SELECT after.id AS id FROM products LIMIT 2",
    ] {
        let transform = planned(&format!("SELECT u.id, l.label FROM ({of}) u LEFT JOIN labels l ON l.id = u.id")).await;
        assert!(transform.sought("labels", "products", &changed).await.is_none(), "{of}");
    }
}

#[tokio::test]
async fn rows_of_a_view_may_lack_what_the_select_does_not_name() {
    let whole = Schema::new(
        ["id", "label", "more"]
            .map(|name| {
                let of_name = if name == "id" { DataType::Int64 } else { DataType::Utf8 };
                arrow_schema::Field::new(name, of_name, true)
            })
            .to_vec(),
    );
    let whole = Arc::new(whole);
    let stored = RecordBatch::try_new(
        Arc::new(whole.project(&[1, 0]).unwrap()),
        vec![Arc::new(StringArray::from(vec!["one"])), Arc::new(Int64Array::from(vec![1]))],
    );
    let sources = [("products".to_owned(), changes::columns(&products()))];
    let sql = "SELECT l.label FROM products p JOIN labels l ON p.after.id = l.id";
    let transform = Transform::plan(sql, &sources, &[("labels".to_owned(), whole)]).await.unwrap();
    transform.set_view("labels", vec![stored.unwrap()]);
    let rows = [(Op::Create, 1, "x", 1.0, None), (Op::Create, 2, "x", 1.0, None)];
    let joined = transform.run("products", &changes(0, &rows)).await.unwrap();
    assert_eq!(joined.rows.column(0).as_string::<i32>().iter().collect::<Vec<_>>(), [Some("one")]);
}
