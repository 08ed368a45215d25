//! Where changes go.

pub mod lake;
