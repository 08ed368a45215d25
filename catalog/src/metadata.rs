//! Table metadata from one version to the next: what every catalog that swaps a `metadata_location` shares.
//!
//! Knows metadata files; knows nothing of how a catalog compares and sets.

use std::str::FromStr;

use iceberg::io::FileIO;
use iceberg::spec::{TableMetadata, TableMetadataBuilder};
use iceberg::table::Table;
use iceberg::{MetadataLocation, Runtime, TableCreation, TableIdent, TableRequirement, TableUpdate};
use uuid::Uuid;

use crate::{Error, ErrorKind, Result};

/// A metadata file that is written and that no catalog names yet.
#[derive(Debug)]
pub(crate) struct Written {
    pub metadata: TableMetadata,
    pub location: String,
}

/// `base` + `updates` as a new metadata file.
///
/// # Errors
/// `Conflict` when `base` doesn't meet the requirements, `Invalid` when the updates don't fit it, the storage's otherwise: then the
/// file may be there, and is named as left over.
pub(crate) async fn write_next(
    base: &Table,
    requirements: &[TableRequirement],
    updates: &[TableUpdate],
) -> Result<Written> {
    for requirement in requirements {
        requirement.check(Some(base.metadata()))?;
    }
    let previous = base.metadata_location_result()?;
    let mut builder = base.metadata().clone().into_builder(Some(previous.to_owned()));
    for update in updates {
        builder = update.clone().apply(builder)?;
    }
    let metadata = builder.build()?.metadata;
    let location = next_location(previous, &metadata)?;
    let written = metadata.write_to(base.file_io(), &location).await;
    // The answer may have been lost.
    written.map_err(|e| Error::from(e).with_leftover(location.to_string()))?;
    Ok(Written { metadata, location: location.to_string() })
}

/// The first metadata file of a new table at `location`.
///
/// # Errors
/// `Invalid` when schema, spec or order don't fit together, the storage's otherwise.
pub(crate) async fn write_first(file_io: &FileIO, location: &str, mut creation: TableCreation) -> Result<Written> {
    creation.location = Some(location.trim_end_matches('/').to_owned());
    let metadata = TableMetadataBuilder::from_table_creation(creation)?.build()?.metadata;
    let location = MetadataLocation::new_with_metadata(metadata.location(), &metadata);
    metadata.write_to(file_io, &location).await?;
    Ok(Written { metadata, location: location.to_string() })
}

/// Reads what `location` holds.
///
/// # Errors
/// `Invalid` when it isn't there or isn't a metadata file, the storage's otherwise.
pub(crate) async fn read(ident: &TableIdent, file_io: &FileIO, location: String) -> Result<Table> {
    let read = TableMetadata::read_from(file_io, &location).await;
    let metadata = read.map_err(|e| Error::from(e).context(format!("table {ident}, metadata {location}")))?;
    table(ident, file_io, Written { metadata, location })
}

/// As [`read`], unless `location` is the one that is known.
pub(crate) async fn read_unless_at(
    ident: &TableIdent,
    file_io: &FileIO,
    location: String,
    known: &str,
) -> Result<Option<Table>> {
    if location == known {
        return Ok(None);
    }
    read(ident, file_io, location).await.map(Some)
}

pub(crate) fn table(ident: &TableIdent, file_io: &FileIO, written: Written) -> Result<Table> {
    let table = Table::builder()
        .identifier(ident.clone())
        .file_io(file_io.clone())
        .metadata(written.metadata)
        .metadata_location(written.location)
        .runtime(Runtime::try_current()?)
        .build()?;
    Ok(table)
}

/// `00007-uuid.metadata.json` after `00006-…`, also after names that Iceberg's own parser doesn't know (`v6.metadata.json`).
fn next_location(previous: &str, metadata: &TableMetadata) -> Result<MetadataLocation> {
    let name = previous.rsplit('/').next().unwrap_or(previous);
    let digits: String = name.trim_start_matches('v').chars().take_while(char::is_ascii_digit).collect();
    let version = digits.parse::<u32>().map_or(0, |n| n.saturating_add(1));
    let next = format!("{}/metadata/{version:05}-{}.metadata.json", metadata.location(), Uuid::new_v4());
    let parsed = MetadataLocation::from_str(&next).map_err(|e| {
        Error::new(ErrorKind::Invalid, format!("no metadata file can follow {previous}")).with_source(e)
    })?;
    Ok(parsed.with_new_metadata(metadata))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::testing;

    #[rstest]
    #[case::ours("memory://m/t/metadata/00006-2cd22b57-5127-4198-92ba-e4e67c79821b.metadata.json", "00007-")]
    #[case::hadoop("memory://m/t/metadata/v41.metadata.json", "00042-")]
    #[case::unnumbered("memory://m/t/metadata/first.json", "00000-")]
    fn a_metadata_file_is_numbered_after_the_previous_one(#[case] previous: &str, #[case] name: &str) {
        let next = next_location(previous, &testing::metadata("memory://m/t")).unwrap().to_string();
        assert!(next.starts_with(&format!("memory://m/t/metadata/{name}")), "{next}");
    }
}
