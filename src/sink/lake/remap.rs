//! What a rewrite tells the key indexes of a table: where each row went, in a small file beside the metadata, which the snapshot's summary
//! names. With it an index goes on without reading the new files; without it they are read. Nobody else needs it: it may be
//! lost at any time, and goes with its snapshot.
//!
//! # The file
//! A magic number, the groups, and a CRC-32 of both at the end. Numbers are little-endian; texts and bitmaps have their length before them.

use bytes::Bytes;
pub(crate) use firn_catalog::maintain::REMAP;
use firn_catalog::surroundings;
use iceberg::table::Table;
use roaring::RoaringBitmap;

use crate::sink::lake::LakeError;
use crate::sink::lake::moves::{FileMoves, Piece};

const MAGIC: &[u8; 8] = b"FIRNMV01";
/// Of one commit. Groups of which more is to be told are not told of: to read their new files costs less then.
pub(crate) const MOST_PIECES: usize = 1 << 20;
/// Of one file that is read: the pieces, twelve bytes each, names and bitmaps.
const MOST_BYTES: u64 = 32 << 20;

/// Files that were rewritten together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct MovedGroup {
    pub(crate) new_files: Vec<String>,
    pub(crate) old_files: Vec<MovedFile>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MovedFile {
    pub(crate) path: String,
    /// The snapshot that added it.
    pub(crate) snapshot_id: i64,
    /// Of its first row (format v3).
    pub(crate) first_row_id: Option<i64>,
    pub(crate) moves: FileMoves,
}

/// Writes the groups to a new file beside the metadata of `table`; answers its path.
///
/// # Errors
/// When storage fails.
pub(crate) async fn write(table: &Table, groups: &[MovedGroup]) -> Result<String, LakeError> {
    let location = table.metadata().location().trim_end_matches('/');
    let path = format!("{location}/metadata/{}-moves.bin", surroundings::new_id().simple());
    let bytes = encode(groups)?;
    table.file_io().new_output(&path)?.write(bytes.into()).await?;
    Ok(path)
}

/// Reads what [`write`] wrote.
///
/// # Errors
/// When the file is not there, or is damaged.
pub(crate) async fn read(table: &Table, path: &str) -> Result<Vec<MovedGroup>, LakeError> {
    let file = table.file_io().new_input(path)?;
    let size = file.metadata().await?.size;
    if size > MOST_BYTES {
        return Err(LakeError::Storage(format!("{path} has {size} bytes, which is more than is worth reading")));
    }
    let bytes: Bytes = file.read().await?;
    decode(&bytes).ok_or_else(|| LakeError::Storage(format!("{path} is damaged")))
}

fn encode(groups: &[MovedGroup]) -> Result<Vec<u8>, LakeError> {
    let mut to = MAGIC.to_vec();
    let number = |to: &mut Vec<u8>, n: usize| to.extend_from_slice(&(n as u32).to_le_bytes());
    let text = |to: &mut Vec<u8>, text: &str| {
        number(to, text.len());
        to.extend_from_slice(text.as_bytes());
    };
    number(&mut to, groups.len());
    for group in groups {
        number(&mut to, group.new_files.len());
        group.new_files.iter().for_each(|path| text(&mut to, path));
        number(&mut to, group.old_files.len());
        for MovedFile { path, snapshot_id, first_row_id, moves } in &group.old_files {
            text(&mut to, path);
            to.extend_from_slice(&snapshot_id.to_le_bytes());
            // Ids are not negative.
            to.extend_from_slice(&first_row_id.unwrap_or(-1).to_le_bytes());
            number(&mut to, moves.left_out.serialized_size());
            let written = moves.left_out.serialize_into(&mut to);
            written.map_err(|e| LakeError::Storage(format!("encoding moved rows: {e}")))?;
            number(&mut to, moves.pieces.len());
            for Piece { rank, file, position } in &moves.pieces {
                for n in [rank, file, position] {
                    to.extend_from_slice(&n.to_le_bytes());
                }
            }
        }
    }
    let checksum = crc32fast::hash(&to);
    to.extend_from_slice(&checksum.to_le_bytes());
    Ok(to)
}

fn decode(bytes: &[u8]) -> Option<Vec<MovedGroup>> {
    let (body, checksum) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let mut from = Cursor(body.strip_prefix(MAGIC)?);
    let mut groups = vec![];
    for _ in 0..from.number()? {
        let mut group = MovedGroup::default();
        for _ in 0..from.number()? {
            group.new_files.push(from.text()?);
        }
        for _ in 0..from.number()? {
            let path = from.text()?;
            let (snapshot_id, first_row_id) = (from.long()?, from.long()?);
            let bitmap = from.number()? as usize;
            let left_out = RoaringBitmap::deserialize_from(from.take(bitmap)?).ok()?;
            let mut pieces = vec![];
            for _ in 0..from.number()? {
                pieces.push(Piece { rank: from.number()?, file: from.number()?, position: from.number()? });
            }
            let first_row_id = (first_row_id >= 0).then_some(first_row_id);
            group.old_files.push(MovedFile { path, snapshot_id, first_row_id, moves: FileMoves { left_out, pieces } });
        }
        groups.push(group);
    }
    from.0.is_empty().then_some(groups)
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn long(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<String> {
        let length = self.number()? as usize;
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_read_and_damage_is_seen() {
        let moves = FileMoves {
            left_out: [1, 70_000].into_iter().collect(),
            pieces: vec![Piece { rank: 0, file: 0, position: 9 }, Piece { rank: 4, file: 1, position: 0 }],
        };
        let old = |path: &str, first_row_id| MovedFile {
            path: path.to_owned(),
            snapshot_id: 7,
            first_row_id,
            moves: moves.clone(),
        };
        let groups = vec![
            MovedGroup { new_files: vec!["n/1".to_owned()], old_files: vec![old("o/1", None), old("o/2", Some(0))] },
            MovedGroup::default(),
        ];
        let bytes = encode(&groups).unwrap();
        assert_eq!(decode(&bytes).unwrap(), groups);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(decode(&damaged), None, "byte {at}");
        }
        assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
    }
}
