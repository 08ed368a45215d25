//! So much a second, and what is owed. Pure: time comes as an argument.

use std::time::Duration;

/// What may be taken at once after a rest, in seconds of the rate: more, and a rest is followed by a burst that the writer feels; less, and
/// a step that ends late costs time that nobody gives back.
const REST_S: f64 = 0.2;

/// Taken first and waited for afterwards: what a step costs is known only when it is done. So over any time `t` at most
/// `rate * (t + 0.2 s)` is taken, and the steps that are under way.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    per_second: f64,
    /// Below zero: owed.
    credit: f64,
    /// Up to when it was credited.
    at: Duration,
}

impl Allowance {
    /// `now` is any clock that doesn't go back, the same in all calls.
    pub fn new(per_second: f64, now: Duration) -> Self {
        Self { per_second, credit: 0.0, at: now }
    }

    /// So much was taken.
    pub fn take(&mut self, amount: f64, now: Duration) {
        self.advance(now);
        self.credit -= amount;
    }

    /// How long until nothing is owed.
    pub fn wait(&mut self, now: Duration) -> Duration {
        self.advance(now);
        match self.credit < 0.0 {
            true => Duration::try_from_secs_f64(-self.credit / self.per_second).unwrap_or(Duration::MAX),
            false => Duration::ZERO,
        }
    }

    fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.credit = (self.credit + passed * self.per_second).min(self.per_second * REST_S);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// Works in steps, one after the other or several at once, and waits as told; answers (end of each step, what it took).
    fn work(rate: f64, steps: &[f64], threads: usize, speed: f64) -> Vec<(f64, f64)> {
        let mut allowance = Allowance::new(rate, Duration::ZERO);
        // When each thread is free.
        let mut free = vec![Duration::ZERO; threads];
        let mut done = vec![];
        for amount in steps {
            let now = *free.iter().min().unwrap();
            let thread = free.iter_mut().min().unwrap();
            let mut begin = now;
            loop {
                let wait = allowance.wait(begin);
                if wait.is_zero() {
                    break;
                }
                begin += wait + Duration::from_nanos(1);
            }
            let end = begin + Duration::from_secs_f64(amount / speed);
            allowance.take(*amount, end);
            *thread = end;
            done.push((end.as_secs_f64(), *amount));
        }
        done
    }

    /// Of every second of the whole.
    fn worst_second(done: &[(f64, f64)]) -> f64 {
        let of =
            |from: f64| done.iter().filter(|(end, _)| (from..from + 1.0).contains(end)).map(|(_, took)| took).sum();
        done.iter().map(|(end, _)| of(*end)).fold(0.0, f64::max)
    }

    #[rstest]
    #[case::half_a_core_in_small_steps(0.5, 0.01, 1)]
    #[case::a_tenth_in_steps_of_its_size(0.1, 0.1, 1)]
    #[case::two_threads(0.5, 0.02, 2)]
    #[case::more_than_one_core(1.5, 0.02, 2)]
    fn cpu_stays_below_its_share(#[case] rate: f64, #[case] step: f64, #[case] threads: usize) {
        // A step of CPU takes that much time of its thread.
        let done = work(rate, &vec![step; 600], threads, 1.0);
        let (end, total) = (done.last().unwrap().0, done.iter().map(|(_, took)| took).sum::<f64>());
        assert!(total <= rate * (end + REST_S) + step * threads as f64, "{total} in {end} s");
        assert!(worst_second(&done) <= rate * (1.0 + REST_S) + step * threads as f64 + 1e-6, "{}", worst_second(&done));
        assert!(total >= rate * end * 0.9, "and what is allowed is used: {total} in {end} s");
    }

    #[test]
    fn bytes_stay_below_their_rate_however_large_the_pieces_are() {
        let pieces: Vec<f64> = (0..400).map(|n| [1e3, 8e6, 64e3, 1e6][n % 4]).collect();
        let done = work(1e6, &pieces, 3, 1e9);
        let (end, total) = (done.last().unwrap().0, pieces.iter().sum::<f64>());
        assert!(total <= 1e6 * (end + REST_S) + 3.0 * 8e6, "{total} in {end} s");
        assert!(total >= 1e6 * end * 0.9, "{total} in {end} s");
    }

    #[test]
    fn a_long_rest_is_followed_by_a_short_burst() {
        let mut allowance = Allowance::new(100.0, Duration::ZERO);
        let later = Duration::from_secs(3600);
        assert_eq!(allowance.wait(later), Duration::ZERO);
        allowance.take(100.0, later);
        assert_eq!(allowance.wait(later), Duration::from_millis(800), "a fifth of a second was saved up");
        assert_eq!(allowance.wait(later + Duration::from_millis(800)), Duration::ZERO);
        assert_eq!(allowance.wait(later), Duration::ZERO, "a clock that goes back takes nothing away");
    }
}
