//! The images of `before`, beside the rows.

use super::*;
use crate::change::{Column, origin_columns};

fn record(value: &str) -> Record<'_> {
    Record { topic: "s.t", key: Some(br#"{"id":1}"#), value: Some(value.as_bytes()), ..Record::default() }
}

#[test]
fn each_row_has_one_or_none() {
    let options = DecodeOptions {
        origin_columns: true,
        before_images: true,
        delete_image: DeleteImage::Before,
        ..DecodeOptions::default()
    };
    let mut decoder = Decoder::new(options);
    let own = [Column::key("id", ColumnType::Long), Column::new("price", ColumnType::Double)];
    decoder.set_schema(&RowSchema { columns: own.into_iter().chain(origin_columns()).collect() }).unwrap();
    for (value, want) in [
        (r#"{"before":null,"after":{"id":1,"price":1.5},"source":{},"op":"c"}"#, Some(Op::Create)),
        (r#"{"before":{"id":1,"price":1.5},"after":{"id":1,"price":2.5},"source":{},"op":"u"}"#, Some(Op::Update)),
        // What is wrong in the old image alone takes the whole record back.
        (r#"{"before":{"id":1,"price":"x"},"after":{"id":1,"price":3.5},"source":{},"op":"u"}"#, None),
        (r#"{"after":{"id":1,"price":4.5},"before":{"id":1,"price":2.5},"source":{},"op":"u"}"#, Some(Op::Update)),
        (r#"{"before":{"id":1,"price":4.5},"after":null,"source":{},"op":"d"}"#, Some(Op::Delete)),
    ] {
        match (decoder.push(&record(value)), want) {
            (Pushed::Row(op), Some(want)) => assert_eq!(op, want, "{value}"),
            (Pushed::Rejected(_), None) => {}
            (other, _) => panic!("{value}: {other:?}"),
        }
    }
    let batch = decoder.finish();
    let prices = |rows: &RecordBatch| rows.column(1).as_primitive::<Float64Type>().iter().collect::<Vec<_>>();
    assert_eq!(prices(&batch.rows), [Some(1.5), Some(2.5), Some(4.5), Some(4.5)]);
    let before = batch.before.unwrap();
    assert_eq!(before.there, [false, true, true, true]);
    assert_eq!(prices(&before.rows), [None, Some(1.5), Some(2.5), Some(4.5)]);
    assert_eq!(decoder.finish().before.unwrap().there, [false; 0]);
}
