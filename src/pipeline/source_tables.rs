//! What the source database says of the columns of tables whose records carry no schema. A database that is away holds up no thread.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::meter;
use super::writer_schemas::PATIENCE;
use crate::database::{Database, DatabaseError, Described, Found};
use crate::debezium::{SourceColumn, SourceTypes, postgres};

/// How often the types are looked at again: until then a record of a column that the source has altered may be read as before.
pub const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What the database said.
type Answer = Result<Found, DatabaseError>;

/// A question under way.
#[derive(Debug)]
pub struct Asked(JoinHandle<Answer>);

/// The source database, if one is configured.
#[derive(Debug)]
pub struct SourceTables {
    database: Option<Arc<Database>>,
    runtime: Handle,
}

impl SourceTables {
    pub fn new(database: Option<Database>, runtime: Handle) -> Self {
        Self { database: database.map(Arc::new), runtime }
    }

    /// What a decoder knows before its first record.
    pub fn before(&self) -> SourceTypes {
        match self.database {
            Some(_) => SourceTypes::Unasked,
            None => SourceTypes::None,
        }
    }

    /// Asks for the table of a topic. `database` is the one that its records are from, where they say so.
    pub fn ask(&self, topic: &str, database: Option<String>) -> Asked {
        let (asked, topic) = (self.database.clone(), topic.to_owned());
        Asked(self.runtime.spawn(async move {
            // Decoders ask only where there is one.
            let Some(asked) = asked else { return Ok(Found::Nothing("no source database is configured".to_owned())) };
            let answer = asked.describe(&topic, database.as_deref()).await;
            meter::source_asked(answer.is_ok());
            answer
        }))
    }
}

impl Asked {
    pub fn is_answered(&self) -> bool {
        self.0.is_finished()
    }

    /// The answer, if it comes within a moment.
    pub async fn answer(&mut self) -> Option<Answer> {
        match tokio::time::timeout(PATIENCE, &mut self.0).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(e)) => Some(Err(DatabaseError::Unavailable(e.to_string()))),
            Err(_) => None,
        }
    }

    /// The answer, however long it takes.
    ///
    /// # Errors
    /// See [`DatabaseError`].
    pub async fn outcome(self) -> Answer {
        self.0.await.unwrap_or_else(|e| Err(DatabaseError::Unavailable(e.to_string())))
    }
}

/// The columns as records have them by default.
pub fn columns(table: &Described) -> Vec<SourceColumn> {
    let column = |c: &crate::database::DescribedColumn| {
        let (column_type, wire) = postgres::column_type(&c.type_name, c.modifier, c.is_array);
        SourceColumn { name: c.name.clone(), column_type, wire }
    };
    table.columns.iter().map(column).collect()
}
