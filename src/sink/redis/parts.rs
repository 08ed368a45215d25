//! A delivery cut into parts, each with the position after it: a script must not hold Redis up for long.

use std::ops::Range;

use crate::sink::Delivery;

/// Rows of one script run: with three writes each some 10 ms of Redis, in which nobody else is served. Fewer cost more round trips,
/// and more writes to keys that several rows change.
const MOST_ROWS: usize = 500;
/// Bytes of rows in one script run, roughly.
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// Rows, and the position once they are done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) rows: Range<usize>,
    pub(super) next: i64,
}

/// The parts in their order. A delivery is cut between two changes only, and not at all where rows don't tell theirs.
pub(super) fn parts(delivery: &Delivery) -> Vec<Part> {
    let (rows, next) = (delivery.rows.num_rows(), delivery.span.next);
    let mut parts = Vec::new();
    let mut start = 0;
    if let Some(origins) = delivery.origins.as_ref().filter(|o| o.len() == rows && o.is_sorted_by_key(|o| o.offset)) {
        let row_bytes = delivery.rows.get_array_memory_size() / rows.max(1);
        let most = (MOST_BYTES / row_bytes.max(1)).clamp(1, MOST_ROWS);
        for (row, pair) in origins.windows(2).enumerate().map(|(i, pair)| (i + 1, pair)) {
            if let [before, after] = pair
                && row - start >= most
                && before.offset < after.offset
                && (delivery.span.from..next).contains(&after.offset)
            {
                parts.push(Part { rows: start..row, next: after.offset });
                start = row;
            }
        }
    }
    parts.push(Part { rows: start..rows, next });
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Op;
    use crate::position::{Span, TopicPartition};
    use crate::sink::RowOrigin;
    use crate::sink::keeping::Keeping;
    use arrow_array::{ArrayRef, Int64Array, RecordBatch};
    use rstest::rstest;
    use std::sync::Arc;

    fn delivery(offsets: Option<Vec<i64>>, rows: usize) -> Delivery {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
        let origins = offsets.map(|o| o.into_iter().map(|offset| RowOrigin::new(offset, Op::Create)).collect());
        let span = Span::new(TopicPartition::new("t", 0), 100, 100_000);
        Delivery {
            span,
            rows: RecordBatch::try_from_iter([("id", ids)]).unwrap(),
            origins,
            keeping: Keeping::default(),
        }
    }

    #[rstest]
    #[case::by_offsets(Some((0..2500).map(|i| 100 + 2 * i).collect()), 2500, vec![(0..500, 1100), (500..1000, 2100), (1000..1500, 3100), (1500..2000, 4100), (2000..2500, 100_000)])]
    #[case::rows_of_one_change_stay_together(Some((0..2500).map(|i| 100 + i / 600).collect()), 2500, vec![(0..600, 101), (600..1200, 102), (1200..1800, 103), (1800..2400, 104), (2400..2500, 100_000)])]
    #[case::without_origins(None, 2500, vec![(0..2500, 100_000)])]
    #[case::no_rows(Some(vec![]), 0, vec![(0..0, 100_000)])]
    fn parts_end_between_changes(
        #[case] offsets: Option<Vec<i64>>,
        #[case] rows: usize,
        #[case] want: Vec<(Range<usize>, i64)>,
    ) {
        let want: Vec<Part> = want.into_iter().map(|(rows, next)| Part { rows, next }).collect();
        assert_eq!(parts(&delivery(offsets, rows)), want);
    }
}
