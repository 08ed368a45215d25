//! What maintenance may take of a machine that a writer works on: CPU, bytes read and written. (Its memory is a [`crate::memory::Memory`] of its own.)
//!
//! # Layout
//! - [`Allowance`]: so much a second, and what is owed. Pure.
//! - [`Limiter`]: the allowances of CPU and bytes; holds back whoever asks it for a turn.
//! - [`Pool`]: the threads that the work runs on: of low priority, and their CPU time is known.

mod allowance;
mod limiter;
mod pool;

pub use allowance::Allowance;
pub use limiter::{Limiter, Spent, Unpaced};
pub use pool::Pool;

/// What may be taken at most. None is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Budget {
    /// Cores, on average over a second.
    pub cpu: Option<f64>,
    /// Read and written.
    pub bytes_per_second: Option<u64>,
}

impl Budget {
    pub fn is_bounded(&self) -> bool {
        self.cpu.is_some() || self.bytes_per_second.is_some()
    }
}
