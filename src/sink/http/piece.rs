//! A delivery cut into pieces: ranges that are begun and finished one after another, each in a request, or in one for each lane.

use std::ops::Range;

use arrow_array::ArrayRef;

use crate::sink::{Delivery, text};

/// What one piece may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Of one lane.
    pub rows: usize,
    /// Of one lane.
    pub bytes: usize,
    pub lanes: u32,
}

/// A row as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Of [`Delivery::rows`].
    pub row: usize,
    /// Of its change, where that is known.
    pub offset: Option<i64>,
    /// How many rows of the same change, or of the piece where changes are not known, stand before it.
    pub nth: usize,
    pub json: Vec<u8>,
}

/// The rows of `[from, next)`. Rows of the same key stand in the same lane, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub from: i64,
    pub next: i64,
    pub lanes: Vec<Vec<Row>>,
}

impl Piece {
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.iter().all(Vec::is_empty)
    }
}

/// The piece of `delivery` that begins at `from`: as many changes as the limits let in, one at least.
pub(super) fn cut(delivery: &Delivery, from: i64, keys: &[ArrayRef], limits: &Limits) -> Piece {
    let fits = |lane: &Lane, row: &Row| lane.rows.len() < limits.rows && lane.bytes + row.json.len() < limits.bytes;
    gather(delivery, from, delivery.span.next, keys, limits.lanes, fits)
}

/// The piece `[from, until)` as it was begun before.
pub(super) fn again(delivery: &Delivery, from: i64, until: i64, keys: &[ArrayRef], lanes: u32) -> Piece {
    gather(delivery, from, until, keys, lanes, |_, _| true)
}

#[derive(Clone, Default)]
struct Lane {
    rows: Vec<Row>,
    bytes: usize,
}

fn gather(
    delivery: &Delivery,
    from: i64,
    until: i64,
    keys: &[ArrayRef],
    lanes: u32,
    fits: impl Fn(&Lane, &Row) -> bool,
) -> Piece {
    let mut filled = vec![Lane::default(); lanes.max(1) as usize];
    let mut next = until;
    for (offset, change) in changes(delivery) {
        if offset.is_some_and(|offset| offset < from || offset >= until) {
            continue;
        }
        let is_first = filled.iter().all(|lane| lane.rows.is_empty());
        let before: Vec<usize> = filled.iter().map(|lane| lane.rows.len()).collect();
        let mut has_room = true;
        for row in change.clone() {
            let made = Row { row, offset, nth: row - change.start, json: json(delivery, row) };
            if let Some(lane) = filled.get_mut(lane_of(keys, row, lanes)) {
                has_room &= fits(lane, &made);
                // What stands between two rows counts too.
                lane.bytes += made.json.len() + 1;
                lane.rows.push(made);
            }
        }
        // It goes with the next piece. Where the rows don't tell their changes, there is one alone.
        if let (false, false, Some(offset)) = (has_room, is_first, offset) {
            filled.iter_mut().zip(before).for_each(|(lane, before)| lane.rows.truncate(before));
            next = offset;
            break;
        }
    }
    Piece { from, next, lanes: filled.into_iter().map(|lane| lane.rows).collect() }
}

/// The offset and the rows of each change; all rows, and no offset, where they don't tell theirs, or not in order.
fn changes(delivery: &Delivery) -> Vec<(Option<i64>, Range<usize>)> {
    let rows = delivery.rows.num_rows();
    let origins = delivery.origins.as_ref().filter(|o| o.len() == rows && o.is_sorted_by_key(|o| o.offset));
    let Some(origins) = origins else { return vec![(None, 0..rows)] };
    let mut start = 0;
    let mut changes = Vec::new();
    for change in origins.chunk_by(|a, b| a.offset == b.offset) {
        changes.push((change.first().map(|o| o.offset), start..start + change.len()));
        start += change.len();
    }
    changes
}

fn json(delivery: &Delivery, row: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let schema = delivery.rows.schema_ref();
    let names = schema.fields().iter().map(|f| f.name().as_str());
    text::object(names.zip(delivery.rows.columns()), row, &mut out);
    out
}

fn lane_of(keys: &[ArrayRef], row: usize, lanes: u32) -> usize {
    if lanes <= 1 {
        return 0;
    }
    (xxhash_rust::xxh3::xxh3_64(text::json_values(keys, row).as_bytes()) % u64::from(lanes)) as usize
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, RecordBatch, StringArray};

    use super::*;
    use crate::change::Op;
    use crate::position::{Span, TopicPartition};
    use crate::sink::RowOrigin;
    use crate::sink::keeping::Keeping;

    /// Rows of `(offset, key)` in the span `[from, next)`.
    fn delivery(from: i64, next: i64, rows: &[(i64, &str)], traced: bool) -> Delivery {
        let offsets: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.0)));
        let keys: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.1)));
        Delivery {
            span: Span::new(TopicPartition::new("t", 0), from, next),
            rows: RecordBatch::try_from_iter([("o", offsets), ("k", keys)]).unwrap(),
            keeping: Keeping::default(),
            origins: traced.then(|| rows.iter().map(|r| RowOrigin::new(r.0, Op::Create)).collect()),
        }
    }

    /// All pieces, as their bounds and the offsets of each lane.
    fn pieces(delivery: &Delivery, limits: Limits) -> Vec<(i64, i64, Vec<Vec<i64>>)> {
        let keys = [delivery.rows.column(1).clone()];
        let mut from = delivery.span.from;
        let mut all = Vec::new();
        while from < delivery.span.next {
            let piece = cut(delivery, from, &keys, &limits);
            assert!(piece.next > from, "{piece:?}");
            assert_eq!(again(delivery, from, piece.next, &keys, limits.lanes), piece, "the same bounds, the same rows");
            from = piece.next;
            let lanes = piece.lanes.iter().map(|lane| lane.iter().map(|row| row.offset.unwrap_or(-1)).collect());
            all.push((piece.from, piece.next, lanes.collect()));
        }
        all
    }

    #[test]
    fn pieces_end_between_changes_and_cover_the_span() {
        let rows: Vec<(i64, &str)> = [2, 4, 4, 4, 7, 9].map(|o| (o, "a")).to_vec();
        let limits = Limits { rows: 2, bytes: 1 << 20, lanes: 1 };
        assert_eq!(
            pieces(&delivery(0, 20, &rows, true), limits),
            [(0, 4, vec![vec![2]]), (4, 7, vec![vec![4, 4, 4]]), (7, 20, vec![vec![7, 9]])]
        );
        assert_eq!(pieces(&delivery(0, 20, &rows, false), limits), [(0, 20, vec![vec![-1; 6]])]);
        assert_eq!(pieces(&delivery(0, 20, &[], true), limits), [(0, 20, vec![vec![]])]);
    }

    #[test]
    fn a_request_keeps_to_its_bytes_unless_one_change_is_larger() {
        let large = "x".repeat(200);
        let rows = [(0, "a"), (1, "a"), (2, large.as_str()), (3, "a")];
        // {"o":0,"k":"a"}
        let limits = Limits { rows: 10, bytes: 40, lanes: 1 };
        assert_eq!(
            pieces(&delivery(0, 4, &rows, true), limits),
            [(0, 2, vec![vec![0, 1]]), (2, 3, vec![vec![2]]), (3, 4, vec![vec![3]])]
        );
    }

    #[test]
    fn rows_of_one_key_stand_in_one_lane_in_their_order() {
        let rows: Vec<(i64, String)> = (0..100).map(|o| (o, format!("k{}", o % 7))).collect();
        let rows: Vec<(i64, &str)> = rows.iter().map(|(o, k)| (*o, k.as_str())).collect();
        let limits = Limits { rows: 20, bytes: 1 << 20, lanes: 4 };
        let pieces = pieces(&delivery(0, 100, &rows, true), limits);
        let mut lane_of_key = std::collections::HashMap::new();
        for (from, next, lanes) in &pieces {
            let mut seen: Vec<i64> = lanes.concat();
            seen.sort_unstable();
            assert_eq!(seen, (*from..*next).collect::<Vec<_>>());
            for (number, lane) in lanes.iter().enumerate() {
                assert!(lane.is_sorted() && lane.len() <= 20);
                lane.iter().for_each(|o| assert_eq!(*lane_of_key.entry(o % 7).or_insert(number), number));
            }
        }
        assert!(pieces.len() > 1 && pieces[0].2.iter().filter(|lane| !lane.is_empty()).count() > 1, "{pieces:?}");
    }
}
