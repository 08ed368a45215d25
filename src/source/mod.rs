//! Where records come from. Knows positions and records, knows nothing of their meaning.

pub mod kafka;
