//! Rows that a rewrite has moved: entries of the key index stay as they are, and are followed to where the row is now.
//!
//! A file whose rows the index knows by way of older files is not read. Its number in the index is that of another name, so that a process
//! that starts anew doesn't take it for one whose keys are in the index: it looks for the way again, and reads the file if there is none.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::future::BoxFuture;
use iceberg::table::Table;

use super::Upserts;
use crate::memory::{Counted, Kind, Memory};
use crate::sink::lake::LakeError;
use crate::sink::lake::index::Location;
use crate::sink::lake::live::LiveFile;
use crate::sink::lake::moves::{FileMoves, Piece};
use crate::sink::lake::remap::{self, MovedGroup, REMAP};

/// Rewrites of rewrites that are followed where this process saw none of them.
const MOST_STEPS: usize = 16;

/// What one table may remember whatever others do.
const LEAST_BYTES: usize = 256 << 10;

/// The ways that are known.
#[derive(Debug)]
pub(super) struct Remaps {
    /// By the old file's number.
    moved: HashMap<u32, Moved>,
    /// Numbers of files whose rows the index has under older ones, by path.
    through: HashMap<String, u32>,
    counted: Counted,
}

#[derive(Debug)]
struct Moved {
    moves: FileMoves,
    /// Numbers of the new files.
    to: Arc<[u32]>,
    first_row_id: Option<i64>,
}

impl Moved {
    fn bytes(&self) -> usize {
        bytes(&self.moves)
    }
}

fn bytes(moves: &FileMoves) -> usize {
    moves.left_out.serialized_size() + moves.pieces.len() * size_of::<Piece>() + 128
}

impl Remaps {
    pub(super) fn new(memory: &Arc<Memory>) -> Self {
        Self { moved: HashMap::new(), through: HashMap::new(), counted: memory.count(Kind::Index) }
    }

    pub(super) fn clear(&mut self) {
        self.moved.clear();
        self.through.clear();
        self.counted.set(0);
    }

    /// Whether so much more may be remembered: a quarter of what indexes may hold, of all tables, and a little of each in any case.
    fn has_room_for(&self, bytes: usize) -> bool {
        let memory = self.counted.memory();
        let share = memory.index_bytes() / 4;
        self.counted.bytes() + bytes <= LEAST_BYTES || memory.used(Kind::Index) + bytes <= share
    }

    /// Where the row is now; `None` when a rewrite left it out.
    pub(super) fn follow(&self, mut at: Location) -> Option<Location> {
        while let Some(moved) = self.moved.get(&at.file) {
            let (file, position) = moved.moves.place(at.position)?;
            let row_id = at.row_id.or_else(|| Some(moved.first_row_id? + i64::from(at.position)));
            at = Location { file: *moved.to.get(file as usize)?, position, row_id };
        }
        Some(at)
    }

    /// The number of a file that is known by way of others.
    pub(super) fn number(&self, path: &str) -> Option<u32> {
        self.through.get(path).copied()
    }

    /// Whether entries of this file lead somewhere.
    pub(super) fn leads_on(&self, number: u32) -> bool {
        self.moved.contains_key(&number)
    }

    /// Ways that lead to no live file go.
    pub(super) fn retain(&mut self, is_live: impl Fn(u32) -> bool) {
        loop {
            let ends: HashSet<u32> = self
                .moved
                .iter()
                .filter(|(_, moved)| !moved.to.iter().any(|to| is_live(*to) || self.moved.contains_key(to)))
                .map(|(number, _)| *number)
                .collect();
            if ends.is_empty() {
                break;
            }
            self.moved.retain(|number, _| !ends.contains(number));
        }
        let moved = &self.moved;
        self.through.retain(|_, number| is_live(*number) || moved.contains_key(number));
        self.counted.set(self.moved.values().map(Moved::bytes).sum());
    }
}

impl Upserts {
    /// The number of a data file in the index.
    pub(super) fn number(&mut self, path: &str) -> Result<u32, LakeError> {
        match self.remaps.number(path) {
            Some(number) => Ok(number),
            None => self.index.number(path),
        }
    }

    /// Looks for the ways to listed files that the index does not know: what rewrote them may have left word where their rows were before.
    pub(super) async fn follow_rewrites(&mut self, base: &Table, listing: &[LiveFile]) -> Result<(), LakeError> {
        let mut told = HashMap::new();
        for file in listing {
            if let Some(snapshot_id) = file.added_by {
                self.find_way(base, &file.path, snapshot_id, &mut told, MOST_STEPS).await?;
            }
        }
        Ok(())
    }

    /// Whether the keys of this file are in the index, or it can be told now under which older files.
    fn find_way<'a>(
        &'a mut self,
        base: &'a Table,
        path: &'a str,
        snapshot_id: i64,
        told: &'a mut HashMap<i64, Arc<Vec<MovedGroup>>>,
        steps: usize,
    ) -> BoxFuture<'a, Result<bool, LakeError>> {
        Box::pin(async move {
            let known = self.remaps.number(path).is_some() || {
                let number = self.index.number(path)?;
                self.is_known(number)
            };
            if known || steps == 0 {
                return Ok(known);
            }
            let groups = match told.get(&snapshot_id) {
                Some(groups) => Arc::clone(groups),
                None => {
                    let groups = Arc::new(groups_of(base, snapshot_id).await);
                    told.insert(snapshot_id, Arc::clone(&groups));
                    groups
                }
            };
            let has = |group: &&MovedGroup| group.new_files.iter().any(|new| new == path);
            let Some(group) = groups.iter().find(has) else { return Ok(false) };
            let size: usize = group.old_files.iter().map(|old| bytes(&old.moves)).sum();
            if !self.remaps.has_room_for(size) {
                return Ok(false);
            }
            for old in &group.old_files {
                if !self.find_way(base, &old.path, old.snapshot_id, told, steps - 1).await? {
                    return Ok(false);
                }
            }
            self.moved(group)?;
            Ok(true)
        })
    }

    fn moved(&mut self, group: &MovedGroup) -> Result<(), LakeError> {
        let mut to = vec![];
        for path in &group.new_files {
            let number = self.index.number(&format!("moved to {path}"))?;
            self.remaps.through.insert(path.clone(), number);
            to.push(number);
        }
        let to: Arc<[u32]> = to.into();
        for old in &group.old_files {
            let number = self.number(&old.path)?;
            let moved = Moved { moves: old.moves.clone(), to: Arc::clone(&to), first_row_id: old.first_row_id };
            self.remaps.counted.set(self.remaps.counted.bytes() + moved.bytes());
            self.remaps.moved.insert(number, moved);
        }
        Ok(())
    }
}

/// What the snapshot left word of; nothing where it is not to be had: the files are read then.
async fn groups_of(base: &Table, snapshot_id: i64) -> Vec<MovedGroup> {
    let snapshot = base.metadata().snapshot_by_id(snapshot_id);
    let path = snapshot.and_then(|s| s.summary().additional_properties.get(REMAP).cloned());
    let Some(path) = path else { return vec![] };
    match remap::read(base, &path).await {
        Ok(groups) => groups,
        Err(e) => {
            tracing::info!("where rows were moved to is read from the new files: {e}");
            vec![]
        }
    }
}
