//! Writing manifests of one attempt.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use iceberg::spec::{
    DataFile, DataFileBuilder, FormatVersion, Manifest, ManifestContentType, ManifestFile, ManifestWriter,
    ManifestWriterBuilder, PartitionSpecRef, SchemaRef, SnapshotSummaryCollector, TableMetadata,
    UNASSIGNED_SEQUENCE_NUMBER,
};

use super::Staging;
use crate::manifests::{ManifestCache, Standing};
use crate::{Error, ErrorKind, Result, RowDelta, SpecFile};

/// A new file, and its data sequence number where it does not get that of the snapshot.
type Added<'d> = (&'d DataFile, i64);

/// The delta's data files in the order in which they are written: by spec, new rows first.
fn data_files(delta: &RowDelta) -> Vec<(i32, Vec<Added<'_>>)> {
    let new = by_spec(delta.data_files.iter().map(|f| (f, UNASSIGNED_SEQUENCE_NUMBER)));
    let rewritten = by_spec(delta.rewritten.iter().map(|r| (&r.file, r.sequence_number)));
    new.into_iter().chain(rewritten).collect()
}

fn by_spec<'d>(files: impl Iterator<Item = (&'d SpecFile, i64)>) -> BTreeMap<i32, Vec<Added<'d>>> {
    let mut by_spec: BTreeMap<i32, Vec<Added<'d>>> = BTreeMap::new();
    for (SpecFile { spec_id, file }, sequence_number) in files {
        by_spec.entry(*spec_id).or_default().push((file, sequence_number));
    }
    by_spec
}

/// The id of the first row of each of a delta's data files, by path, in a snapshot whose new rows begin with `first`: its own manifests
/// come first in the list.
pub(crate) fn first_row_ids(delta: &RowDelta, first: u64) -> HashMap<String, i64> {
    let mut next = first;
    let mut ids = HashMap::new();
    for (file, _) in data_files(delta).into_iter().flat_map(|(_, files)| files) {
        ids.extend(i64::try_from(next).ok().map(|id| (file.file_path().to_owned(), id)));
        next = next.saturating_add(file.record_count());
    }
    ids
}

pub(crate) struct Writer<'a> {
    pub staging: &'a Staging<'a>,
    /// The base with the plan's updates applied.
    pub metadata: &'a TableMetadata,
    pub written: &'a mut Vec<String>,
    pub collector: SnapshotSummaryCollector,
    count: usize,
}

/// What becomes of a live entry in a manifest that is written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Stays,
    Removed,
}

impl<'a> Writer<'a> {
    pub fn new(staging: &'a Staging<'a>, metadata: &'a TableMetadata, written: &'a mut Vec<String>) -> Self {
        Self { staging, metadata, written, collector: SnapshotSummaryCollector::default(), count: 0 }
    }

    pub fn manifests(&self) -> &'a ManifestCache {
        self.staging.manifests
    }

    /// The delta's new files, one manifest for each kind and spec; rewritten rows apart from new ones.
    pub async fn added(&mut self, delta: &RowDelta) -> Result<Vec<ManifestFile>> {
        let mut made = Vec::new();
        let deletes = by_spec(delta.delete_files.iter().map(|f| (f, UNASSIGNED_SEQUENCE_NUMBER)));
        let data = data_files(delta).into_iter().map(|group| (ManifestContentType::Data, group));
        let deletes = deletes.into_iter().map(|group| (ManifestContentType::Deletes, group));
        for (content, (spec_id, files)) in data.chain(deletes) {
            let (spec, schema) = self.spec(spec_id, None)?;
            let mut writer = self.open(content, spec.clone(), schema.clone())?;
            for (file, sequence_number) in files {
                fits(file, &spec)?;
                self.collector.add_file(file, schema.clone(), spec.clone());
                // unassigned: inherited from the manifest list when read
                writer.add_file(file.clone(), sequence_number)?;
            }
            made.push(writer.write_manifest_file().await?);
        }
        Ok(made)
    }

    /// Live entries of older manifests of one kind and spec as one new manifest, every inherited value made explicit.
    pub async fn rewritten(
        &mut self,
        content: ManifestContentType,
        spec_id: i32,
        from: &Manifest,
        entries: &[(Standing, Fate)],
    ) -> Result<ManifestFile> {
        let (spec, schema) = self.spec(spec_id, Some(from))?;
        let mut writer = self.open(content, spec.clone(), schema.clone())?;
        for (standing, fate) in entries {
            let file = standing.entry.data_file();
            fits(file, &spec)?;
            let file = &with_first_row_id(file, spec_id, standing.first_row_id)?;
            let (sequence_number, file_sequence_number) = (standing.sequence_number, standing.file_sequence_number);
            match fate {
                Fate::Removed => {
                    self.collector.remove_file(file, schema.clone(), spec.clone());
                    writer.add_delete_file(file.clone(), sequence_number, file_sequence_number)?;
                }
                Fate::Stays => {
                    writer.add_existing_file(
                        file.clone(),
                        standing.snapshot_id,
                        sequence_number,
                        file_sequence_number,
                    )?;
                }
            }
        }
        let mut made = writer.write_manifest_file().await?;
        if content == ManifestContentType::Data {
            // With every row id explicit nothing is left to inherit: a given first row id keeps the list from handing out new ones.
            let ids = entries.iter().filter(|(_, fate)| *fate == Fate::Stays).map(|(s, _)| s.first_row_id);
            made.first_row_id = ids.collect::<Option<Vec<_>>>().and_then(|ids| ids.into_iter().min()?.try_into().ok());
        }
        Ok(made)
    }

    /// The spec, and a schema it binds to: the current one, unless a column that an old spec needs is gone.
    fn spec(&self, id: i32, manifest: Option<&Manifest>) -> Result<(PartitionSpecRef, SchemaRef)> {
        let spec = self.metadata.partition_spec_by_id(id).ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                format!("table {} has no partition spec {id}", self.staging.base.identifier()),
            )
        })?;
        let current = self.metadata.current_schema();
        let schema = match manifest {
            Some(manifest) if spec.partition_type(current).is_err() => manifest.metadata().schema(),
            _ => current,
        };
        spec.partition_type(schema)?;
        Ok((spec.clone(), schema.clone()))
    }

    fn open(
        &mut self,
        content: ManifestContentType,
        spec: PartitionSpecRef,
        schema: SchemaRef,
    ) -> Result<ManifestWriter> {
        let path = format!("{}/metadata/{}-m{}.avro", self.metadata.location(), self.staging.attempt_id, self.count);
        self.count += 1;
        self.written.push(path.clone());
        let output = self.staging.base.file_io().new_output(path)?;
        let spec = Arc::unwrap_or_clone(spec);
        let builder = ManifestWriterBuilder::new(output, Some(self.staging.snapshot_id), schema, spec);
        Ok(match (self.metadata.format_version(), content) {
            (FormatVersion::V3, ManifestContentType::Data) => builder.build_v3_data(),
            (FormatVersion::V3, ManifestContentType::Deletes) => builder.build_v3_deletes(),
            (_, ManifestContentType::Data) => builder.build_v2_data(),
            (_, ManifestContentType::Deletes) => builder.build_v2_deletes(),
        })
    }
}

/// The manifest writer panics on a partition of another arity.
fn fits(file: &DataFile, spec: &PartitionSpecRef) -> Result<()> {
    let (have, want) = (file.partition().fields().len(), spec.fields().len());
    if have == want {
        return Ok(());
    }
    let text = format!("{}: {have} partition values, but spec {} has {want} fields", file.file_path(), spec.spec_id());
    Err(Error::new(ErrorKind::Invalid, text))
}

/// `DataFile` has no setters: a data file that is to carry its row id is built anew.
fn with_first_row_id(file: &DataFile, spec_id: i32, first_row_id: Option<i64>) -> Result<DataFile> {
    if first_row_id.is_none() || file.first_row_id() == first_row_id {
        return Ok(file.clone());
    }
    let mut builder = DataFileBuilder::default();
    builder
        .content(file.content_type())
        .file_path(file.file_path().to_owned())
        .file_format(file.file_format())
        .partition(file.partition().clone())
        .record_count(file.record_count())
        .file_size_in_bytes(file.file_size_in_bytes())
        .column_sizes(file.column_sizes().clone())
        .value_counts(file.value_counts().clone())
        .null_value_counts(file.null_value_counts().clone())
        .nan_value_counts(file.nan_value_counts().clone())
        .lower_bounds(file.lower_bounds().clone())
        .upper_bounds(file.upper_bounds().clone())
        .key_metadata(file.key_metadata().map(<[u8]>::to_vec))
        .split_offsets(file.split_offsets().map(<[i64]>::to_vec))
        .equality_ids(file.equality_ids())
        .partition_spec_id(spec_id)
        .first_row_id(first_row_id);
    if let Some(id) = file.sort_order_id() {
        builder.sort_order_id(id);
    }
    builder.build().map_err(|e| Error::new(ErrorKind::Invalid, format!("{}: {e}", file.file_path())))
}
