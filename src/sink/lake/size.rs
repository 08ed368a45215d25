//! How large a table is, by its metadata alone.

use iceberg::spec::TableMetadata;
use serde::Serialize;

/// What the current snapshot's summary says of the table's size.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Size {
    /// Without the deleted ones, as far as they are position deletes.
    pub rows: Option<u64>,
    pub data_files: Option<u64>,
    pub delete_files: Option<u64>,
    pub bytes: Option<u64>,
    /// Readers pay for these row by row; firn writes none.
    pub equality_deletes: Option<u64>,
}

impl Size {
    pub fn of(metadata: &TableMetadata) -> Self {
        let Some(snapshot) = metadata.current_snapshot() else {
            return Self {
                rows: Some(0),
                data_files: Some(0),
                delete_files: Some(0),
                bytes: Some(0),
                equality_deletes: Some(0),
            };
        };
        let summary = &snapshot.summary().additional_properties;
        let total = |name: &str| summary.get(name).and_then(|v| v.parse::<u64>().ok());
        Self {
            rows: total("total-records").map(|r| r.saturating_sub(total("total-position-deletes").unwrap_or(0))),
            data_files: total("total-data-files"),
            delete_files: total("total-delete-files"),
            bytes: total("total-files-size"),
            equality_deletes: total("total-equality-deletes"),
        }
    }
}

/// What grows with commits, and what maintenance makes less.
#[derive(Clone, Copy, Debug, Default)]
pub struct Growth {
    pub snapshots: u64,
    /// Versions of the metadata that the table names.
    pub metadata_files: u64,
    /// Of the current snapshot, where its writer says so.
    pub manifests: Option<u64>,
    /// Rows deleted by position.
    pub deleted_rows: Option<u64>,
}

impl Growth {
    pub fn of(metadata: &TableMetadata) -> Self {
        let number =
            |name: &str| metadata.current_snapshot()?.summary().additional_properties.get(name)?.parse::<u64>().ok();
        Self {
            snapshots: metadata.snapshots().len() as u64,
            metadata_files: metadata.metadata_log().len() as u64 + 1,
            manifests: number("manifests-created").zip(number("manifests-kept")).map(|(made, kept)| made + kept),
            deleted_rows: number("total-position-deletes"),
        }
    }
}
