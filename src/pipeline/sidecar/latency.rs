//! How long the rows that were delivered last took: what people look at. The histograms in the metrics have all of them.

use std::collections::VecDeque;

use crate::serve::status::Quantiles;

/// Deliveries that count.
const RECENT: usize = 1_000;

/// Milliseconds and rows of each delivery.
#[derive(Debug, Default)]
pub(super) struct Latency(VecDeque<(u64, u64)>);

impl Latency {
    pub(super) fn delivered(&mut self, ms: u64, rows: usize) {
        if rows > 0 {
            self.0.truncate(RECENT - 1);
            self.0.push_front((ms, rows as u64));
        }
    }

    /// `None` before the first row.
    pub(super) fn quantiles(&self) -> Option<Quantiles> {
        let mut sorted: Vec<_> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        let all: u64 = sorted.iter().map(|(_, rows)| rows).sum();
        let at = |share: f64| {
            let mut below = (all as f64 * share).ceil() as u64;
            let found = sorted.iter().find(|(_, rows)| {
                let reached = *rows >= below;
                below = below.saturating_sub(*rows);
                reached
            });
            found.map(|(ms, _)| *ms)
        };
        Some(Quantiles { p50_ms: at(0.5)?, p99_ms: at(0.99)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_count_not_deliveries_and_the_old_ones_are_forgotten() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantiles(), None);
        latency.delivered(900, 0);
        assert_eq!(latency.quantiles(), None);
        latency.delivered(10, 980);
        latency.delivered(500, 19);
        latency.delivered(800, 1);
        assert_eq!(latency.quantiles(), Some(Quantiles { p50_ms: 10, p99_ms: 500 }));
        (0..RECENT).for_each(|_| latency.delivered(7, 1));
        assert_eq!(latency.quantiles(), Some(Quantiles { p50_ms: 7, p99_ms: 7 }));
    }
}
