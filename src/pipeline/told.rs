//! A record goes to a decoder with what it does not say itself, for those who can wait for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::source_tables::{SourceTables, columns};
use super::writer_schemas::{NotNow, WriterSchemas};
use crate::database::Found;
use crate::debezium::{Decoder, Pushed, Registered};
use crate::record::Record;

/// Who tells decoders what records do not say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told<'a> {
    pub schemas: &'a WriterSchemas,
    pub sources: &'a SourceTables,
}

/// How often a registry that is away is asked, each time for half a second.
const ASKED: usize = 20;

/// Decodes a record once what it does not say itself is known: the writer schemas that it names, the source database's types.
///
/// # Errors
/// When registry or database do not answer, or the database's types contradict the table's.
pub(super) fn push(decoder: &mut Decoder, record: &Record<'_>, told: Told<'_>) -> Result<Pushed, String> {
    loop {
        let pushed = decoder.push(record);
        match &pushed {
            Pushed::NeedsWriterSchema(id) => decoder.learn(*id, &*ask(told.schemas, *id)?),
            Pushed::NeedsSource { database } => {
                let asked = told.sources.ask(record.topic, database.clone());
                let found = tokio::task::block_in_place(|| Handle::current().block_on(asked.outcome()));
                decoder.describe(match found.map_err(|e| e.to_string())? {
                    Found::Table(table) => columns(&table),
                    Found::Nothing(_) => Vec::new(),
                })?;
            }
            _ => return Ok(pushed),
        }
    }
}

/// # Errors
/// When the registry does not answer.
pub(super) fn ask(schemas: &WriterSchemas, id: i32) -> Result<Arc<Registered>, String> {
    let mut asked = 0;
    loop {
        match tokio::task::block_in_place(|| Handle::current().block_on(schemas.get(id))) {
            Ok(registered) => return Ok(registered),
            Err(NotNow(why)) if asked == ASKED => return Err(format!("registry: {why}")),
            Err(_) => asked += 1,
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
