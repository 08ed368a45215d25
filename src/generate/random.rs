//! Randomness that is the same on every machine and in every version: SplitMix64.
//!
//! Not the `rand` crate's: its generators may change between versions, and a seed printed by a failing test must stay good.

/// A step of SplitMix64: spreads any 64 bits evenly.
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Self { state: mix(seed) }
    }

    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// Evenly from `0..bound`; 0 where `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product: no division, and the bias is below 2^-32 for the bounds used here.
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// True in `percent` of all calls.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// From `0..bound`, the low ones far more often (a cube of an even draw: 10% of the range takes 46% of the draws).
    pub fn skewed(&mut self, bound: u64) -> u64 {
        let even = (self.bits() >> 11) as f64 / (1u64 << 53) as f64;
        ((even * even * even * bound as f64) as u64).min(bound.saturating_sub(1))
    }
}
