//! How fast it goes; run by hand: `cargo test --lib sink::clickhouse -- --ignored --nocapture`.

use std::sync::Arc;
use std::time::Instant;

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};

use super::*;
use crate::change::Op;
use crate::position::Span;
use crate::sink::RowOrigin;
use crate::sink::keeping::Keeping;

fn delivery(from: i64, rows: i64) -> Delivery {
    let offsets = from..from + rows;
    let text = |word: &str| {
        Arc::new(StringArray::from_iter_values(offsets.clone().map(|o| format!("{word}-{}", o % 1000)))) as ArrayRef
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(offsets.clone()))),
        (
            "at",
            Arc::new(
                TimestampMicrosecondArray::from_iter_values(offsets.clone().map(|o| o * 1000)).with_timezone("+00:00"),
            ),
        ),
        ("user", text("user")),
        ("type", text("type")),
        ("title", text("a title of some length")),
        ("slug", text("a-slug")),
        ("device", text("device")),
        ("seconds", Arc::new(Float64Array::from_iter_values(offsets.clone().map(|o| o as f64)))),
        ("percent", Arc::new(Float64Array::from_iter_values(offsets.clone().map(|o| o as f64 / 7.0)))),
    ];
    Delivery {
        span: Span::new(conformance::at(0), from, from + rows),
        rows: RecordBatch::try_from_iter(columns).unwrap(),
        origins: Some(offsets.map(|offset| RowOrigin::new(offset, Op::Create)).collect()),
        keeping: Keeping::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn rows_a_second() {
    let Some(address) = address() else { return };
    let place = TestTable::new(&address, "speed");
    let mut sink = ClickHouseSink::new(place.settings.clone(), "suite.speed");
    sink.prepare(&delivery(0, 1).rows.schema()).await.unwrap();
    sink.take_over(&[conformance::at(0)]).await.unwrap();
    let mut next = 0;
    for (rows, times) in [(1, 50), (100, 50), (10_000, 30)] {
        let (began, mut longest) = (Instant::now(), Duration::ZERO);
        for _ in 0..times {
            let one = Instant::now();
            sink.deliver(&delivery(next, rows)).await.unwrap();
            next += rows;
            longest = longest.max(one.elapsed());
        }
        let each = began.elapsed() / times;
        let rate = rows as f64 / each.as_secs_f64();
        eprintln!(
            "{rows} rows: {} ms a delivery, {} ms the longest, {rate:.0} rows/s",
            each.as_millis(),
            longest.as_millis()
        );
    }
    assert_eq!(place.held().await.len() as i64, next);
    place.remove().await;
}
