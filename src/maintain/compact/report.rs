//! What a compaction will do, or did, as people and scripts are told.

use serde::Serialize;

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CompactReport {
    pub table: String,
    pub dry_run: bool,
    pub target_bytes: u64,
    pub groups: Vec<GroupReport>,
    /// Of all groups that were, or are to be, rewritten.
    pub files_before: usize,
    pub files_after: u64,
    pub bytes_before: u64,
    /// Expected, of a dry run.
    pub bytes_after: u64,
    pub deleted_rows: u64,
    /// Delete files that went.
    pub delete_files_removed: usize,
    /// Rows deleted by others while their files were rewritten.
    pub moved_deletes: u64,
    pub snapshots: Vec<i64>,
    pub took_ms: u64,
}

/// What became of files that were to be rewritten together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupReport {
    /// As in paths, e.g. `day=2026-01-01`; empty for a table without partitions.
    pub partition: String,
    pub files: usize,
    pub bytes: u64,
    pub rows: u64,
    /// That deletes of their own name.
    pub deleted_rows: u64,
    pub delete_files: usize,
    /// Expected, until they are there.
    pub new_files: u64,
    pub new_bytes: u64,
    #[serde(flatten)]
    pub state: GroupState,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum GroupState {
    Planned,
    Committed {
        snapshot_id: i64,
    },
    /// Not begun: the run was told to end.
    Deferred {
        reason: String,
    },
    /// Another rewrite of the same files came first: nothing is missing.
    Lost {
        reason: String,
    },
    /// A file that the table lists is not in storage.
    Missing {
        path: String,
        reason: String,
    },
    Failed {
        reason: String,
    },
    /// The catalog gave no answer: it may be in the table. The new files stay until orphan removal.
    Open {
        reason: String,
    },
}

impl GroupState {
    /// Whether a person has to look.
    pub fn is_bad(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Failed { .. } | Self::Open { .. })
    }
}

impl CompactReport {
    /// Sums the groups up that are planned or done.
    pub(super) fn summed(mut self) -> Self {
        let counts = |g: &&GroupReport| matches!(g.state, GroupState::Planned | GroupState::Committed { .. });
        let groups: Vec<&GroupReport> = self.groups.iter().filter(counts).collect();
        self.files_before = groups.iter().map(|g| g.files).sum();
        self.files_after = groups.iter().map(|g| g.new_files).sum();
        self.bytes_before = groups.iter().map(|g| g.bytes).sum();
        self.bytes_after = groups.iter().map(|g| g.new_bytes).sum();
        self.deleted_rows = groups.iter().map(|g| g.deleted_rows).sum();
        self
    }
}
