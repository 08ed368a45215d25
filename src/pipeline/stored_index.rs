//! `firn index verify`: which table it is, and where its indexes are.

use std::sync::Arc;

use iceberg::TableIdent;
use tokio::runtime::Handle;

use super::Error;
use super::wiring::{configured, dead_letter_spec, shared, table_spec};
use crate::config::Config;
use crate::sink::lake::{IndexReport, LakeTable};

/// Compares the stored indexes of a table with its rows.
///
/// # Errors
/// When the table or an index can't be read, or the configuration has no such table.
pub async fn verify_indexes(config: &Config, table: &TableIdent) -> Result<Vec<IndexReport>, Error> {
    let catalog = crate::catalogs::open(&config.catalog).await?;
    let loaded = catalog.load(table).await?;
    let spec = match configured(config, &loaded) {
        Some(chosen) => table_spec(&chosen),
        None if config.dead_letter_table().as_ref() == Some(table) => dead_letter_spec(config),
        None => return Err(Error::NoTopic(table.to_string())),
    };
    let lake = LakeTable::open(Arc::clone(&catalog), spec, Handle::current()).await.map_err(Error::Lake)?;
    lake.sharing(shared(config)).verify_indexes().await.map_err(Error::Lake)
}
