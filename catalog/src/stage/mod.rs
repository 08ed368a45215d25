//! A row delta on a base, as files that nobody sees yet and the updates that show them.
//!
//! Knows one base and one attempt; knows nothing of retries. On another base it is staged anew, never patched.

mod carry;
mod expire;
mod summary;
mod write;

use std::collections::HashMap;

use iceberg::spec::{
    FormatVersion, MAIN_BRANCH, ManifestListWriter, Snapshot, SnapshotRef, SnapshotReference, SnapshotRetention,
    TableMetadata,
};
use iceberg::table::Table;
use iceberg::{TableRequirement, TableUpdate};

use crate::commit::{LAST_COMMIT_ID, Plan};
use crate::manifests::{self, ManifestCache};
use crate::{Error, ErrorKind, Result, metadata, surroundings};
pub(crate) use carry::{KindAndSpec, kind_and_spec, length};
pub(crate) use expire::{Expiry, chain, references, without_snapshots};
pub(crate) use write::{Fate, Writer, first_row_ids};

const PREVIOUS_VERSIONS_MAX: &str = "write.metadata.previous-versions-max";
const PREVIOUS_VERSIONS_MAX_DEFAULT: usize = 100;

/// What one attempt sends to the catalog, and what it leaves in storage.
#[derive(Debug)]
pub(crate) struct Staged {
    pub updates: Vec<TableUpdate>,
    pub requirements: Vec<TableRequirement>,
    /// Tells which attempt a snapshot in the table came from. None without a snapshot.
    pub manifest_list: Option<String>,
    pub expiry: Option<Expiry>,
}

/// What is staged, where.
#[derive(Debug)]
pub(crate) struct Staging<'a> {
    pub base: &'a Table,
    pub plan: &'a Plan,
    pub snapshot_id: i64,
    /// Unique among all attempts there ever are: part of the file names.
    pub attempt_id: uuid::Uuid,
    pub manifests: &'a ManifestCache,
}

impl Staging<'_> {
    /// Writes manifests and manifest list. Every path goes into `written` before it is written, so that it is known also when
    /// the answer of the write is lost.
    ///
    /// # Errors
    /// `Invalid` when a file to remove isn't live or a file doesn't fit its spec, `NotFound` when the snapshot to go on from is gone,
    /// `Unsupported` for a v1 table, the storage's
    /// otherwise.
    pub async fn stage(&self, written: &mut Vec<String>) -> Result<Staged> {
        let mut updates = self.plan.updates.clone();
        updates.push(TableUpdate::SetProperties { updates: self.properties() });
        let metadata = metadata::updated(self.base.metadata(), None, &updates)?;
        let head = metadata.current_snapshot_id();

        let mut requirements = self.plan.requirements.clone();
        requirements.push(TableRequirement::UuidMatch { uuid: self.base.metadata().uuid() });
        requirements.push(TableRequirement::RefSnapshotIdMatch { r#ref: MAIN_BRANCH.to_owned(), snapshot_id: head });
        if !self.plan.needs_snapshot() {
            return Ok(Staged { updates, requirements, manifest_list: None, expiry: None });
        }

        let (snapshot, manifest_list) = self.snapshot(&metadata, written).await?;
        let built = metadata.into_builder(None).set_branch_snapshot(snapshot.clone(), MAIN_BRANCH)?.build()?;
        // the builder keeps the branch's retention, which a reference made anew would reset
        let reference = built.changes.iter().rev().find_map(|change| match change {
            TableUpdate::SetSnapshotRef { reference, .. } => Some(reference.clone()),
            _ => None,
        });
        let reference = reference
            .unwrap_or_else(|| SnapshotReference::new(self.snapshot_id, SnapshotRetention::branch(None, None, None)));
        updates.push(TableUpdate::AddSnapshot { snapshot });
        updates.push(TableUpdate::SetSnapshotRef { ref_name: MAIN_BRANCH.to_owned(), reference });
        let expiry = Expiry::of(&built.metadata, self.plan)?;
        updates.extend(expiry.iter().flat_map(|e| e.updates(&built.metadata)));
        Ok(Staged { updates, requirements, manifest_list: Some(manifest_list), expiry })
    }

    /// The snapshot that the new one follows.
    fn parent<'m>(&self, metadata: &'m TableMetadata) -> Result<Option<&'m SnapshotRef>> {
        let Some(id) = self.plan.onto else { return Ok(metadata.current_snapshot()) };
        let gone = || Error::new(ErrorKind::NotFound, format!("table {} has no snapshot {id}", self.base.identifier()));
        metadata.snapshot_by_id(id).map(Some).ok_or_else(gone)
    }

    fn properties(&self) -> HashMap<String, String> {
        let mut properties = self.plan.properties.clone();
        properties.insert(LAST_COMMIT_ID.to_owned(), self.snapshot_id.to_string());
        let kept = self.plan.retention.max_metadata_files;
        // the owner's own setting stands
        let stated = self.base.metadata().properties().contains_key(PREVIOUS_VERSIONS_MAX);
        if !stated && kept != PREVIOUS_VERSIONS_MAX_DEFAULT {
            properties.entry(PREVIOUS_VERSIONS_MAX.to_owned()).or_insert_with(|| kept.max(1).to_string());
        }
        properties
    }

    async fn snapshot(&self, metadata: &TableMetadata, written: &mut Vec<String>) -> Result<(Snapshot, String)> {
        if metadata.format_version() < FormatVersion::V2 {
            let text = format!("table {} has format version 1; upgrade it to 2", self.base.identifier());
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let parent = self.parent(metadata)?;
        let mut writer = Writer::new(self, metadata, written);
        let mut entries = writer.added(&self.plan.delta).await?;
        let mut before = 0;
        if let Some(parent) = parent {
            let list = manifests::list(self.base, parent).await?;
            before = list.len();
            let list = carry::replaced(list, self.plan.replaced_manifests.as_ref())?;
            entries.extend(carry::carry(&mut writer, list, &entries).await?);
        } else if let Some(missing) = self.plan.delta.removed.iter().next() {
            return Err(carry::not_live(&missing.path));
        }
        let kept = entries.iter().filter(|m| m.added_snapshot_id != self.snapshot_id).count();
        let mut counted = writer.collector.build();
        for (name, count) in [
            ("manifests-created", entries.len() - kept),
            ("manifests-kept", kept),
            ("manifests-replaced", before.saturating_sub(kept)),
        ] {
            counted.insert(name.to_owned(), count.to_string());
        }
        let summary = summary::summary(self.plan, counted, parent.map(|p| p.summary()));

        let parent_id = parent.map(|p| p.snapshot_id());
        let sequence_number = metadata.next_sequence_number();
        let first_row_id = metadata.next_row_id();
        let path = format!("{}/metadata/snap-{}-{}.avro", metadata.location(), self.snapshot_id, self.attempt_id);
        writer.written.push(path.clone());
        let output = self.base.file_io().new_output(&path)?.writer().await?;
        let mut list = if metadata.format_version() == FormatVersion::V2 {
            ManifestListWriter::v2(output, self.snapshot_id, parent_id, sequence_number)
        } else {
            ManifestListWriter::v3(output, self.snapshot_id, parent_id, sequence_number, Some(first_row_id))
        };
        list.add_manifests(entries.into_iter())?;
        let next_row_id = list.next_row_id();
        list.close().await?;

        let snapshot = Snapshot::builder()
            .with_snapshot_id(self.snapshot_id)
            .with_parent_snapshot_id(parent_id)
            .with_sequence_number(sequence_number)
            // another writer's clock may be ahead: time must not go back in a table
            .with_timestamp_ms(
                surroundings::now_ms()
                    .max(self.base.metadata().last_updated_ms())
                    .max(parent.map_or(0, |p| p.timestamp_ms())),
            )
            .with_manifest_list(path.clone())
            .with_summary(summary)
            .with_schema_id(metadata.current_schema_id());
        let snapshot = match next_row_id {
            Some(next) => snapshot.with_row_range(first_row_id, next.saturating_sub(first_row_id)).build(),
            None => snapshot.build(),
        };
        Ok((snapshot, path))
    }
}

#[cfg(test)]
mod tests;
