//! Table metadata from one version to the next: what every catalog that swaps a `metadata_location` shares.
//!
//! Knows metadata files; knows nothing of how a catalog compares and sets.

use std::str::FromStr;

use chrono::Utc;
use iceberg::io::FileIO;
use iceberg::spec::{TableMetadata, TableMetadataBuilder};
use iceberg::table::Table;
use iceberg::{MetadataLocation, Runtime, TableCreation, TableIdent, TableRequirement, TableUpdate};
use serde_json::Value;

use crate::{Error, ErrorKind, Result, surroundings};

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
    let metadata = updated(base.metadata(), Some(previous), updates)?;
    let location = next_location(previous, &metadata)?;
    let written = metadata.write_to(base.file_io(), &location).await;
    // The answer may have been lost.
    written.map_err(|e| Error::from(e).with_leftover(location.to_string()))?;
    Ok(Written { metadata, location: location.to_string() })
}

/// `base` + `updates`, not written anywhere; `previous` is the base's own file.
///
/// Time does not go back in a table: Iceberg's builder takes the machine's clock for updates without a snapshot, and refuses them
/// when the last writer's clock was a minute ahead of it.
///
/// # Errors
/// `Invalid` when the updates don't fit.
pub(crate) fn updated(base: &TableMetadata, previous: Option<&str>, updates: &[TableUpdate]) -> Result<TableMetadata> {
    let build = |base: TableMetadata| -> Result<TableMetadata> {
        let mut builder = base.into_builder(previous.map(str::to_owned));
        for update in updates {
            builder = update.clone().apply(builder)?;
        }
        Ok(builder.build()?.metadata)
    };
    if base.last_updated_ms() <= Utc::now().timestamp_millis() {
        return build(base.clone());
    }
    let before = serde_json::to_value(base).map_err(unfit)?;
    let mut timeless = before.clone();
    set_time(&mut timeless, LAST_UPDATED, |_| 0);
    for (log, _) in LOGS {
        entries(&mut timeless, log).for_each(|entry| set_time(entry, TIME, |_| 0));
    }
    let built = build(serde_json::from_value(timeless).map_err(unfit)?)?;
    let mut after = serde_json::to_value(&built).map_err(unfit)?;
    set_time(&mut after, LAST_UPDATED, |time| time.max(base.last_updated_ms()));
    for (log, name) in LOGS {
        let mut known = before.get(log).and_then(Value::as_array).into_iter().flatten();
        for entry in entries(&mut after, log) {
            let known = known.find(|known| known.get(name) == entry.get(name));
            let at = known.and_then(|known| known.get(TIME)).and_then(Value::as_i64);
            set_time(entry, TIME, |time| at.unwrap_or(time.max(base.last_updated_ms())));
        }
    }
    serde_json::from_value(after).map_err(unfit)
}

const LAST_UPDATED: &str = "last-updated-ms";
const TIME: &str = "timestamp-ms";
/// The logs of a table's metadata, and what an entry of each is known by.
const LOGS: [(&str, &str); 2] = [("snapshot-log", "snapshot-id"), ("metadata-log", "metadata-file")];

fn entries<'a>(metadata: &'a mut Value, log: &str) -> impl Iterator<Item = &'a mut Value> {
    metadata.get_mut(log).and_then(Value::as_array_mut).into_iter().flatten()
}

fn set_time(of: &mut Value, field: &str, set: impl Fn(i64) -> i64) {
    if let Some(time) = of.get_mut(field) {
        *time = set(time.as_i64().unwrap_or(0)).into();
    }
}

fn unfit(e: serde_json::Error) -> Error {
    Error::new(ErrorKind::Invalid, "the table's metadata can't be read back").with_source(e)
}

/// The first metadata file of a new table at `location`.
///
/// # Errors
/// `Invalid` when schema, spec or order don't fit together, the storage's otherwise.
pub(crate) async fn write_first(file_io: &FileIO, location: &str, mut creation: TableCreation) -> Result<Written> {
    creation.location = Some(location.trim_end_matches('/').to_owned());
    let metadata = TableMetadataBuilder::from_table_creation(creation)?.build()?.metadata;
    let location = numbered(0, &metadata)?;
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
    numbered(version, metadata)
}

fn numbered(version: u32, metadata: &TableMetadata) -> Result<MetadataLocation> {
    let name = format!("{}/metadata/{version:05}-{}.metadata.json", metadata.location(), surroundings::new_id());
    let parsed = MetadataLocation::from_str(&name)
        .map_err(|e| Error::new(ErrorKind::Invalid, format!("{name} can't name a metadata file")).with_source(e))?;
    Ok(parsed.with_new_metadata(metadata))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use iceberg::spec::{MAIN_BRANCH, Operation, Snapshot, Summary};
    use rstest::rstest;

    use super::*;
    use crate::testing;

    /// A snapshot of a machine whose clock is an hour ahead.
    fn ahead() -> TableMetadata {
        let snapshot = Snapshot::builder()
            .with_snapshot_id(1)
            .with_sequence_number(1)
            .with_timestamp_ms(Utc::now().timestamp_millis() + 3_600_000)
            .with_manifest_list("memory://m/t/metadata/1.avro")
            .with_schema_id(0)
            .with_summary(Summary { operation: Operation::Append, additional_properties: HashMap::new() })
            .build();
        let builder = testing::metadata("memory://m/t").into_builder(Some("memory://m/t/metadata/first".to_owned()));
        builder.set_branch_snapshot(snapshot, MAIN_BRANCH).unwrap().build().unwrap().metadata
    }

    #[test]
    fn a_clock_that_is_behind_the_last_writers_does_not_keep_from_updates() {
        let base = ahead();
        let updates = HashMap::from([("a".to_owned(), "b".to_owned())]);
        let after =
            updated(&base, Some("memory://m/t/metadata/second"), &[TableUpdate::SetProperties { updates }]).unwrap();
        assert_eq!(after.properties()["a"], "b");
        assert_eq!(after.last_updated_ms(), base.last_updated_ms());
        assert_eq!(after.history(), base.history());
        let logged: Vec<_> = after.metadata_log().iter().map(|e| (e.metadata_file.as_str(), e.timestamp_ms)).collect();
        assert_eq!(logged[0], ("memory://m/t/metadata/first", base.metadata_log()[0].timestamp_ms));
        assert_eq!(logged[1..], [("memory://m/t/metadata/second", base.last_updated_ms())]);
        // What Iceberg's own readers insist on.
        let json = serde_json::to_string(&after).unwrap();
        assert_eq!(serde_json::from_str::<TableMetadata>(&json).unwrap(), after);
    }

    #[rstest]
    #[case::ours("memory://m/t/metadata/00006-2cd22b57-5127-4198-92ba-e4e67c79821b.metadata.json", "00007-")]
    #[case::hadoop("memory://m/t/metadata/v41.metadata.json", "00042-")]
    #[case::unnumbered("memory://m/t/metadata/first.json", "00000-")]
    fn a_metadata_file_is_numbered_after_the_previous_one(#[case] previous: &str, #[case] name: &str) {
        let next = next_location(previous, &testing::metadata("memory://m/t")).unwrap().to_string();
        assert!(next.starts_with(&format!("memory://m/t/metadata/{name}")), "{next}");
    }
}
