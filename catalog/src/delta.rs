//! What one commit does to a table's files.

use std::collections::HashSet;

use iceberg::spec::DataFile;

/// A data or delete file with the partition spec it was written under (a `DataFile` has no getter for it).
#[derive(Clone, Debug)]
pub struct SpecFile {
    pub spec_id: i32,
    pub file: DataFile,
}

/// What identifies a live file: deletion vectors share one Puffin file, so the path alone is not enough.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileKey {
    pub path: String,
    pub content_offset: Option<i64>,
}

impl FileKey {
    pub fn of(file: &DataFile) -> Self {
        Self { path: file.file_path().to_owned(), content_offset: file.content_offset() }
    }
}

/// A data file of rows that the table has already, in files that go with the same commit.
#[derive(Clone, Debug)]
pub struct RewrittenFile {
    pub file: SpecFile,
    /// Its data sequence number: that of the snapshot whose deletes were applied to its rows. Equality deletes that came later apply to
    /// it, as they did to the files before.
    pub sequence_number: i64,
}

/// Data files and delete files to add, files (of both kinds) to remove. All of it becomes visible in one snapshot.
#[derive(Clone, Debug, Default)]
pub struct RowDelta {
    pub data_files: Vec<SpecFile>,
    pub rewritten: Vec<RewrittenFile>,
    pub delete_files: Vec<SpecFile>,
    pub removed: HashSet<FileKey>,
}

impl RowDelta {
    pub fn is_empty(&self) -> bool {
        self.data_files.is_empty()
            && self.rewritten.is_empty()
            && self.delete_files.is_empty()
            && self.removed.is_empty()
    }
}
