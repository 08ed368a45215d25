//! Tests of the library as a whole, in one binary.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod compact;
mod evolution;
mod foreign;
mod index;
mod lake;
mod letters;
mod rewind;
mod row_ids;
mod several;
mod simulation;
mod table_events;
mod unavailable;
