//! What an entry holds of a location: with the id of the row where tables have them (format v3), else without.

use std::fmt::Debug;

use super::Location;

/// A location as entries hold it.
pub(crate) trait Place: Copy + Debug + PartialEq + Send + Sync + 'static {
    /// In a file.
    const BYTES: usize;

    fn of(at: Location) -> Self;

    fn location(self) -> Location;

    fn push_to(self, bytes: &mut Vec<u8>);

    fn from_bytes(bytes: &[u8]) -> Self;
}

/// Without a row id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bare {
    file: u32,
    position: u32,
}

/// With a row id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbered {
    bare: Bare,
    row_id: i64,
}

/// Ids are not negative.
const NO_ROW_ID: i64 = -1;

impl Place for Bare {
    const BYTES: usize = 8;

    fn of(at: Location) -> Self {
        Self { file: at.file, position: at.position }
    }

    fn location(self) -> Location {
        Location { file: self.file, position: self.position, row_id: None }
    }

    fn push_to(self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.file.to_le_bytes());
        bytes.extend_from_slice(&self.position.to_le_bytes());
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        Self { file: u32::from_le_bytes(piece(bytes, 0)), position: u32::from_le_bytes(piece(bytes, 4)) }
    }
}

impl Place for Numbered {
    const BYTES: usize = Bare::BYTES + 8;

    fn of(at: Location) -> Self {
        Self { bare: Bare::of(at), row_id: at.row_id.unwrap_or(NO_ROW_ID) }
    }

    fn location(self) -> Location {
        Location { row_id: (self.row_id != NO_ROW_ID).then_some(self.row_id), ..self.bare.location() }
    }

    fn push_to(self, bytes: &mut Vec<u8>) {
        self.bare.push_to(bytes);
        bytes.extend_from_slice(&self.row_id.to_le_bytes());
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        Self { bare: Bare::from_bytes(bytes), row_id: i64::from_le_bytes(piece(bytes, Bare::BYTES)) }
    }
}

/// The `N` bytes from `at` on; zeros where there are fewer.
pub(super) fn piece<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}
