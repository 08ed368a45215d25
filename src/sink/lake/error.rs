//! What can go wrong between a batch and its table, by what the caller can do.

use crate::sink::lake::Staged;

/// Why the lake could not do what it was asked; the sentence says what to do.
#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    /// The table's settings contradict themselves, its columns, or the table as it is.
    #[error("table {table}: {message}")]
    Settings { table: String, message: String },
    /// A column of the record can't be written to the table's column of that name.
    #[error(
        "table {table}, column {column}: the records have {record_type}, the table has {table_type}, and no promotion leads \
         there: choose on_type_change = \"new_column\" or \"dead_letters\", or write to another table"
    )]
    Incompatible { table: String, column: String, record_type: String, table_type: String },
    /// The batch does not fit the columns that were agreed upon.
    #[error("table {table}: {message}")]
    Batch { table: String, message: String },
    /// The table's history does not tell where to go on.
    #[error("table {table}: {message}")]
    Unclear { table: String, message: String },
    /// The table holds something that this writer can't keep right.
    #[error("table {table}: {message}")]
    Foreign { table: String, message: String },
    /// A row of a changed key lacks values that stand in the row of its former key, whose delete has not come yet. `own`: it is
    /// behind the batch in this process's own partitions, so reading again may bring both.
    #[error(
        "table {table}: a row of a changed key waits for the delete of its former key, which is in another partition"
    )]
    Awaited { table: String, own: bool },
    #[error(transparent)]
    Catalog(#[from] firn_catalog::Error),
    #[error("storage: {0}")]
    Storage(String),
    #[error("parquet: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    #[error("arrow: {0}")]
    Arrow(#[from] arrow_schema::ArrowError),
    #[error("iceberg: {0}")]
    Iceberg(#[from] iceberg::Error),
    /// The key index is damaged or full; it can be built anew from the table.
    #[error("key index: {0}")]
    Index(String),
}

impl LakeError {
    /// Somebody else was faster, or may have been: look again.
    pub(crate) fn is_race(&self) -> bool {
        use firn_catalog::ErrorKind as K;
        matches!(self, LakeError::Catalog(e) if matches!(e.kind(), K::AlreadyExists | K::Conflict | K::OutcomeUnknown))
    }

    /// Whether waiting and trying the same again can help.
    pub fn is_transient(&self) -> bool {
        use firn_catalog::ErrorKind as K;
        match self {
            LakeError::Catalog(e) => matches!(e.kind(), K::Unavailable | K::Conflict | K::OutcomeUnknown),
            LakeError::Storage(_) | LakeError::Awaited { .. } | LakeError::Index(_) => true,
            LakeError::Iceberg(e) => e.kind() == iceberg::ErrorKind::Unexpected,
            // Iceberg's reader hands what storage failed with through Parquet's; damaged files fail otherwise.
            LakeError::Parquet(parquet::errors::ParquetError::External(e)) => e.is::<iceberg::Error>(),
            _ => false,
        }
    }
}

/// Why a commit did not land.
#[derive(Debug, thiserror::Error)]
pub enum CommitFailure {
    /// The table stands elsewhere. The batch and its files are dropped: read the position from the table and go on there.
    #[error("stale: {0}")]
    Stale(String),
    /// The table's columns are others than those that the batch was staged under. Take the new columns, then go on from the
    /// table's position; [`LakeTable::discard`](crate::sink::lake::LakeTable::discard) the parts.
    #[error("the table's columns changed while the batch was staged")]
    SchemaMoved(Vec<Staged>),
    /// Whether it landed is open. Hand the same parts to `commit` again, all of them and nothing else; they keep their snapshot id.
    #[error("not committed yet: {1}")]
    Undecided(Vec<Staged>, #[source] firn_catalog::Error),
    /// It did not land and the same would fail again. The batch is dropped: go on from the table's position once the cause is gone.
    #[error("{0}")]
    Failed(#[source] LakeError),
}
