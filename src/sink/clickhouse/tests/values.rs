//! Values as readers see them.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};

use super::*;
use crate::change::{Column, ColumnType, Op};
use crate::position::Span;
use crate::sink::RowOrigin;
use crate::sink::keeping::Keeping;

fn column(name: &str, column_type: ColumnType) -> Column {
    Column { name: name.to_owned(), column_type, key: false }
}

/// One delivery of the rows that `json` has, as lines.
fn delivery(columns: &[Column], from: i64, json: &str, ops: &[Op]) -> Delivery {
    let schema: SchemaRef = Arc::new(arrow_schema::Schema::new(columns.iter().map(Column::arrow).collect::<Vec<_>>()));
    let mut reader = arrow_json::ReaderBuilder::new(schema.clone()).build(json.as_bytes()).unwrap();
    let rows = reader.next().unwrap().unwrap();
    assert_eq!(rows.num_rows(), ops.len());
    let origins = ops.iter().enumerate().map(|(i, op)| RowOrigin::new(from + i as i64, *op)).collect();
    Delivery {
        span: Span::new(conformance::at(0), from, from + ops.len() as i64),
        rows,
        origins: Some(origins),
        keeping: Keeping::default(),
    }
}

async fn sink(place: &TestTable, delivery: &Delivery) -> ClickHouseSink {
    let mut sink = ClickHouseSink::new(place.settings.clone(), &format!("suite.{}", place.settings.table));
    sink.prepare(&delivery.rows.schema()).await.unwrap();
    sink.take_over(&[conformance::at(0)]).await.unwrap();
    sink.deliver(delivery).await.unwrap();
    sink
}

#[tokio::test(flavor = "multi_thread")]
async fn values_arrive_as_they_are_and_nulls_as_nulls() {
    let Some(address) = address() else { return };
    let mut place = TestTable::new(&address, "values");
    place.settings.partition_by = None;
    place.settings.columns =
        BTreeMap::from([("given".to_owned(), "UUID".to_owned()), ("short".to_owned(), "DateTime64(3)".to_owned())]);
    let columns = [
        column("id", ColumnType::Long),
        column("text", ColumnType::String),
        column("moment", ColumnType::TimestampTz),
        column("wall", ColumnType::Timestamp),
        column("short", ColumnType::TimestampTz),
        column("day", ColumnType::Date),
        column("time", ColumnType::Time),
        column("price", ColumnType::Decimal { precision: 10, scale: 2 }),
        column("ratio", ColumnType::Double),
        column("yes", ColumnType::Boolean),
        column("given", ColumnType::String),
        column("list", ColumnType::List(Box::new(ColumnType::Int))),
        column("point", ColumnType::Struct(vec![column("x", ColumnType::Double)])),
    ];
    let json = r#"{"id": 1, "text": "ä'\\", "moment": "2024-02-29T12:00:00.123456Z", "wall": "2024-02-29T12:00:00", "short": "2024-02-29T12:00:00.123Z", "day": "1969-12-31", "time": "12:34:56.789", "price": "12.30", "ratio": 0.1, "yes": true, "given": "61f0c404-5cb3-11e7-907b-a6006ad3dba0", "list": [1, null], "point": {"x": 1.5}}
        {"id": 2}"#;
    let mut delivery = delivery(&columns, 0, json, &[Op::Create, Op::Create]);
    let uuid: ArrayRef = Arc::new(
        arrow_array::FixedSizeBinaryArray::try_from_sparse_iter_with_size([Some([7; 16]), None].into_iter(), 16)
            .unwrap(),
    );
    let schema = delivery.rows.schema();
    let named = delivery
        .rows
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(values, field)| (field.name().as_str(), values.clone(), true));
    delivery.rows = RecordBatch::try_from_iter_with_nullable(named.chain([("uuid", uuid, true)])).unwrap();
    sink(&place, &delivery).await;
    let sql = format!("SELECT toString(tuple(* EXCEPT ('^_firn_'))) FROM {} ORDER BY id", place.settings.table_name());
    let rows = place.server().rows::<String>(&sql).await.unwrap();
    assert_eq!(
        rows[0],
        "(1,'ä\\'\\\\','2024-02-29 12:00:00.123456','2024-02-29 12:00:00.000000','2024-02-29 12:00:00.123','1969-12-31','12:34:56.789',12.3,0.1,true,'61f0c404-5cb3-11e7-907b-a6006ad3dba0',[1,NULL],(1.5),'07070707-0707-0707-0707-070707070707')"
    );
    assert_eq!(rows[1], "(2,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,[],(NULL),NULL)");
    let sql = format!(
        "SELECT toString((_firn_topic, _firn_partition, _firn_offset)) FROM {} ORDER BY id",
        place.settings.table_name()
    );
    assert_eq!(place.server().rows::<String>(&sql).await.unwrap()[1], "('server.public.events',0,1)");
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_shows_the_last_row_of_a_key_and_no_deleted_one() {
    let Some(address) = address() else { return };
    let mut place = TestTable::new(&address, "last");
    place.settings.engine = Engine::Replacing;
    place.settings.partition_by = None;
    let columns = [column("id", ColumnType::Long), column("text", ColumnType::String)];
    let first =
        r#"{"id": 1, "text": "a"} {"id": 1, "text": "b"} {"id": 2, "text": "a"} {"id": 3, "text": "a"} {"id": 3}"#;
    let ops = [Op::Create, Op::Update, Op::Create, Op::Create, Op::Delete];
    let mut sink = sink(&place, &delivery(&columns, 100, first, &ops)).await;
    let shown = || async {
        let sql = format!("SELECT toString((id, text)) FROM {} FINAL ORDER BY id", place.settings.table_name());
        place.server().rows::<String>(&sql).await.unwrap()
    };
    assert_eq!(shown().await, ["(1,'b')", "(2,'a')"]);
    sink.deliver(&delivery(&columns, 105, r#"{"id": 3, "text": "again"}"#, &[Op::Create])).await.unwrap();
    assert_eq!(shown().await, ["(1,'b')", "(2,'a')", "(3,'again')"]);

    // What is read again from the start is the last word on each key, though its offsets are older.
    sink.rewind(&[(conformance::at(0), 0)]).await.unwrap();
    sink.take_over(&[conformance::at(0)]).await.unwrap();
    sink.deliver(&delivery(&columns, 0, r#"{"id": 1, "text": "r"} {"id": 2}"#, &[Op::Read, Op::Delete])).await.unwrap();
    assert_eq!(shown().await, ["(1,'r')", "(3,'again')"]);

    // A key that moved to a partition that was added.
    let added = crate::position::TopicPartition::new("server.public.events", 1);
    sink.take_over(std::slice::from_ref(&added)).await.unwrap();
    let mut moved = delivery(&columns, 0, r#"{"id": 1, "text": "moved"}"#, &[Op::Update]);
    moved.span.at = added;
    sink.deliver(&moved).await.unwrap();
    assert_eq!(shown().await, ["(1,'moved')", "(3,'again')"]);
    place.remove().await;
}
