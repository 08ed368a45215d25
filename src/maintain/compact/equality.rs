//! Which rows equality deletes take: found by their keys, so that they need not be asked again.
//!
//! Works on any number of keys with bounded memory: a part of them is held, the key columns of the group's files are read, then the next
//! part.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema as ArrowSchema, SchemaRef};
use firn_catalog::live::LiveFile;
use iceberg::arrow::type_to_arrow_type;
use iceberg::spec::{DataFileFormat, NestedFieldRef, TableMetadata};
use iceberg::table::Table;
use roaring::RoaringBitmap;

use super::contents::OldFile;
use crate::sink::lake::LakeError;
use crate::sink::lake::keys::{KeyHasher, KeyMap};
use crate::sink::lake::stored::{self, Chosen};

/// Keys held at once, some 40 bytes each. More: fewer passes over the key columns.
const KEYS_AT_ONCE: usize = 1 << 20;

/// Adds the rows of `files` that their equality deletes take to `gone`, which has a set for each of them.
///
/// # Errors
/// When files can't be read, or a key is of columns that can't be compared.
pub(super) async fn apply(base: &Table, files: &[OldFile], gone: &mut [RoaringBitmap]) -> Result<(), LakeError> {
    let mut by_columns: BTreeMap<Vec<i32>, BTreeMap<&str, &Arc<LiveFile>>> = BTreeMap::new();
    for delete in files.iter().flat_map(|file| &file.equality) {
        let mut ids = delete.file.equality_ids().unwrap_or_default();
        ids.sort_unstable();
        by_columns.entry(ids).or_default().insert(delete.file.file_path(), delete);
    }
    for (ids, deletes) in by_columns {
        let mut pass = Pass::new(base, &ids)?;
        for delete in deletes.into_values() {
            pass.hold(base, delete, files, gone).await?;
        }
        pass.strike(base, files, gone).await?;
    }
    Ok(())
}

/// Keys of the same columns.
struct Pass {
    fields: Vec<NestedFieldRef>,
    types: SchemaRef,
    hasher: KeyHasher,
    /// The youngest delete of each key: it takes rows of files that are older.
    keys: KeyMap<i64>,
}

impl Pass {
    fn new(base: &Table, ids: &[i32]) -> Result<Self, LakeError> {
        let metadata = base.metadata();
        let fields = ids.iter().map(|id| field(metadata, *id)).collect::<Option<Vec<_>>>().filter(|f| !f.is_empty());
        let Some(fields) = fields else {
            return Err(LakeError::Foreign {
                table: base.identifier().to_string(),
                message: format!(
                    "equality deletes of the field ids {ids:?} can't be applied: the table has no such columns"
                ),
            });
        };
        let columns = fields.iter().map(|field| {
            let data_type = type_to_arrow_type(&field.field_type)?;
            Ok(Field::new(&field.name, data_type, true))
        });
        let columns = columns.collect::<Result<Vec<_>, iceberg::Error>>()?;
        let types: Vec<DataType> = columns.iter().map(|column| column.data_type().clone()).collect();
        let hasher = KeyHasher::new(&types)?;
        Ok(Self { fields, types: Arc::new(ArrowSchema::new(columns)), hasher, keys: KeyMap::default() })
    }

    /// Takes the keys of a delete file; strikes in between where they are many.
    async fn hold(
        &mut self,
        base: &Table,
        delete: &LiveFile,
        files: &[OldFile],
        gone: &mut [RoaringBitmap],
    ) -> Result<(), LakeError> {
        let path = delete.file.file_path();
        if delete.file.file_format() != DataFileFormat::Parquet {
            let message =
                format!("the equality delete file {path} is not Parquet: rewrite the table with its own writer");
            return Err(LakeError::Foreign { table: base.identifier().to_string(), message });
        }
        let mut stored = stored::open(base.file_io(), path, Chosen::All, &self.fields, &self.types).await?;
        while let Some(batch) = stored.next().await? {
            let mut hashes = Vec::with_capacity(batch.num_rows());
            self.hasher.hash(batch.columns(), &mut hashes)?;
            for key in hashes {
                let since = self.keys.entry(key).or_insert(delete.sequence_number);
                *since = delete.sequence_number.max(*since);
            }
            if self.keys.len() >= KEYS_AT_ONCE {
                self.strike(base, files, gone).await?;
            }
        }
        Ok(())
    }

    /// Finds the rows of the keys held, and lets the keys go.
    async fn strike(&mut self, base: &Table, files: &[OldFile], gone: &mut [RoaringBitmap]) -> Result<(), LakeError> {
        let keys = std::mem::take(&mut self.keys);
        let Some(youngest) = keys.values().max().copied() else { return Ok(()) };
        for (file, gone) in files.iter().zip(gone) {
            if file.equality.is_empty() || file.entry.sequence_number >= youngest {
                continue;
            }
            let mut stored = stored::open(base.file_io(), file.path(), Chosen::All, &self.fields, &self.types).await?;
            let mut position = 0;
            while let Some(batch) = stored.next().await? {
                let mut hashes = Vec::with_capacity(batch.num_rows());
                self.hasher.hash(batch.columns(), &mut hashes)?;
                for key in hashes {
                    if keys.get(&key).is_some_and(|since| *since > file.entry.sequence_number) {
                        gone.insert(position);
                    }
                    position += 1;
                }
            }
        }
        Ok(())
    }
}

/// A top-level column of the table, of an older schema where it was dropped since.
fn field(metadata: &TableMetadata, id: i32) -> Option<NestedFieldRef> {
    let of = |schema: &iceberg::spec::Schema| schema.as_struct().fields().iter().find(|f| f.id == id).cloned();
    of(metadata.current_schema()).or_else(|| {
        let older: HashMap<i32, _> = metadata.schemas_iter().map(|s| (s.schema_id(), s)).collect();
        let mut ids: Vec<i32> = older.keys().copied().collect();
        ids.sort_unstable();
        ids.into_iter().rev().find_map(|schema_id| of(older.get(&schema_id)?))
    })
}
