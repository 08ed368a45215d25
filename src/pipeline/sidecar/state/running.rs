//! Statistics of what came before, by Welford's method: stable however many values there are, and however large.

use super::shelf::Value;

/// Of one key's values so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Running {
    pub count: i64,
    mean: f64,
    /// The sum of the squares of the differences from the mean.
    squares: f64,
}

impl Running {
    #[must_use]
    pub(super) fn and(self, value: f64) -> Self {
        let count = self.count + 1;
        let from_mean = value - self.mean;
        let mean = self.mean + from_mean / count as f64;
        Self { count, mean, squares: self.squares + from_mean * (value - mean) }
    }

    /// `None` of nothing.
    pub(super) fn mean(&self) -> Option<f64> {
        (self.count > 0).then_some(self.mean)
    }

    /// Of the sample, as SQL's `stddev`; `None` of fewer than two.
    pub(super) fn stddev(&self) -> Option<f64> {
        (self.count > 1).then(|| (self.squares / (self.count - 1) as f64).sqrt())
    }
}

/// Rust prints the shortest digits that read back as the same number.
impl Value for Running {
    fn text(&self) -> String {
        format!("{} {:?} {:?}", self.count, self.mean, self.squares)
    }

    fn of_text(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let read = Self {
            count: parts.next()?.parse().ok()?,
            mean: parts.next()?.parse().ok()?,
            squares: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_postgres_says() {
        // SELECT count(v), avg(v), stddev(v) FROM unnest(ARRAY[2,4,4,4,5,5,7,9]) v
        let of = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0].into_iter().fold(Running::default(), Running::and);
        assert_eq!((of.count, of.mean()), (8, Some(5.0)));
        assert!((of.stddev().unwrap() - 2.138_089_935_299_395).abs() < 1e-15);
        let none = Running::default();
        assert_eq!(
            (none.mean(), none.stddev(), none.and(3.0).mean(), none.and(3.0).stddev()),
            (None, None, Some(3.0), None)
        );
    }

    #[test]
    fn large_values_keep_their_spread_and_text_reads_back_exactly() {
        let of = [1e9 + 4.0, 1e9 + 7.0, 1e9 + 13.0, 1e9 + 16.0].into_iter().fold(Running::default(), Running::and);
        assert!((of.stddev().unwrap().powi(2) - 30.0).abs() < 1e-6);
        let odd = of.and(0.1).and(1.0 / 3.0);
        assert_eq!(Running::of_text(&odd.text()), Some(odd));
        assert_eq!((Running::of_text("1 2"), Running::of_text("1 2 3 4")), (None, None));
    }
}
