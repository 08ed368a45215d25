//! Whether a table rejects too much: the share of bad records among the recent ones.

/// When rejected records stop a table.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max_share: f64,
    pub min_rows: u64,
}

/// Recent means so many times `min_rows`. A table that has read millions of good records must not take thousands of bad ones before
/// it stops; fewer would let a short burst stop it.
const RECENT: u64 = 10;

/// Counts the records of one table on one worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    taken: u64,
    refused: u64,
}

impl Share {
    pub fn took(&mut self, limits: Limits) {
        self.taken += 1;
        if self.taken >= limits.min_rows.saturating_mul(RECENT).max(2) {
            self.taken /= 2;
            self.refused /= 2;
        }
    }

    /// Counts a record that is to be rejected; says so when these are too many.
    pub fn refused(&mut self, limits: Limits) -> Option<String> {
        self.refused += 1;
        let (refused, total) = (self.refused, self.taken + 1);
        let too_many = total >= limits.min_rows && refused as f64 > limits.max_share * total as f64;
        let max_share = limits.max_share;
        too_many.then(|| {
            format!(
                "{refused} of the last {total} records were rejected, more than dead_letters.max_share = {max_share}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { max_share: 0.01, min_rows: 1_000 };

    /// Bad records in a row until the table stops.
    fn until_stopped(share: &mut Share, limits: Limits) -> u64 {
        for n in 1..100_000 {
            if share.refused(limits).is_some() {
                return n;
            }
            share.took(limits);
        }
        0
    }

    #[test]
    fn few_records_do_not_count() {
        assert_eq!(until_stopped(&mut Share::default(), LIMITS), LIMITS.min_rows);
    }

    #[test]
    fn a_flood_stops_the_table_as_soon_after_many_good_records_as_after_some() {
        let mut share = Share::default();
        (0..10_000_000).for_each(|_| share.took(LIMITS));
        let bad = until_stopped(&mut share, LIMITS);
        assert!((50..=101).contains(&bad), "{bad}");
    }

    #[test]
    fn a_share_below_the_limit_never_stops_it_and_all_may_be_bad_at_one() {
        let mut share = Share::default();
        for n in 0..1_000_000 {
            assert!(n % 200 != 0 || share.refused(LIMITS).is_none(), "record {n}");
            share.took(LIMITS);
        }
        let all = Limits { max_share: 1.0, min_rows: 10 };
        assert_eq!(until_stopped(&mut Share::default(), all), 0);
    }
}
