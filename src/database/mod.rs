//! The source database: what its catalog says of a table's columns, and the table by which a connector takes signals. Reads nothing else
//! there, and writes nothing but what a person asks for.
//!
//! PostgreSQL alone; sqlx stops here. What its types mean is somebody else's business.

mod lookup;
mod signal;

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::Mutex;

/// For one answer, connecting included. A catalog in reach answers within some ms.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseError {
    /// The address can't be used.
    #[error("source.url can't be used: {0}")]
    Settings(String),
    /// Not reached, starting, overloaded: it may answer later.
    #[error("the source database does not answer: {0}")]
    Unavailable(String),
    /// It wants another user, password or database.
    #[error("the source database refuses: {0}; correct user, password and database in source.url")]
    Refused(String),
}

/// A table's columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// `schema.table`
    pub name: String,
    /// In the table's order.
    pub columns: Vec<DescribedColumn>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedColumn {
    pub name: String,
    /// `pg_type.typname` of a base type, of the elements where it is an array, without its domains; empty for other kinds of types.
    pub type_name: String,
    /// `pg_attribute.atttypmod`, or the domain's.
    pub modifier: i32,
    pub is_array: bool,
}

/// What the database says of a topic's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Table(Described),
    /// None, or more than one that the topic could mean: the sentence that says so.
    Nothing(String),
}

/// A database, asked over one connection that is opened when it is needed.
pub struct Database {
    options: PgConnectOptions,
    connection: Mutex<Option<PgConnection>>,
}

/// Without the password.
impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("host", &self.options.get_host()).finish_non_exhaustive()
    }
}

impl Database {
    /// `postgres://user:password@host:port/database`. Connects to nothing yet.
    ///
    /// # Errors
    /// `Settings`.
    pub fn new(url: &str) -> Result<Self, DatabaseError> {
        let options = PgConnectOptions::from_str(url).map_err(|e| DatabaseError::Settings(e.to_string()))?;
        let options = options.application_name("firn").disable_statement_logging();
        Ok(Self { options, connection: Mutex::default() })
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// What stands in the way.
    pub async fn probe(&self) -> Result<(), DatabaseError> {
        // Of no table: the name begins with what would be its schema.
        self.describe("", None).await.map(|_| ())
    }

    /// Puts a row `(id, kind, data)` into the connector's signal table, `schema.table`, unless one with that id is there.
    ///
    /// # Errors
    /// When that is not done, or not for sure.
    pub async fn signal(&self, table: &str, id: &str, kind: &str, data: &str) -> Result<(), DatabaseError> {
        self.at_once(async |connection| signal::insert(connection, table, id, kind, data).await).await
    }

    /// The ids in the signal table that begin so, in their order.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn signals(&self, table: &str, begin: &str) -> Result<Vec<String>, DatabaseError> {
        self.at_once(async |connection| signal::ids(connection, table, begin).await).await
    }

    /// On a connection of its own.
    async fn at_once<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, DatabaseError> {
        let work = async {
            let mut connection = PgConnection::connect_with(&self.options).await?;
            work(&mut connection).await
        };
        match tokio::time::timeout(ANSWER_WITHIN, work).await {
            Ok(done) => done.map_err(explain),
            Err(_) => Err(DatabaseError::Unavailable(format!("nothing within {} s", ANSWER_WITHIN.as_secs()))),
        }
    }

    /// The table that a topic is named after (`prefix.schema.table`), with its columns. `database` is the one that the topic's records
    /// are from, where they say so.
    ///
    /// # Errors
    /// When nothing can be said of the table now.
    pub async fn describe(&self, topic: &str, database: Option<&str>) -> Result<Found, DatabaseError> {
        let mut slot = self.connection.lock().await;
        let asked = async {
            // A connection that was open may be broken by now.
            if let Some(mut connection) = slot.take()
                && let Ok(found) = lookup::describe(&mut connection, topic, database).await
            {
                *slot = Some(connection);
                return Ok(found);
            }
            let mut connection = PgConnection::connect_with(&self.options).await?;
            let found = lookup::describe(&mut connection, topic, database).await?;
            *slot = Some(connection);
            Ok(found)
        };
        match tokio::time::timeout(ANSWER_WITHIN, asked).await {
            Ok(answer) => answer.map_err(explain),
            Err(_) => Err(DatabaseError::Unavailable(format!("nothing within {} s", ANSWER_WITHIN.as_secs()))),
        }
    }
}

fn explain(e: sqlx::Error) -> DatabaseError {
    let code = e.as_database_error().and_then(|d| d.code()).map(|code| code.into_owned()).unwrap_or_default();
    match code.as_str() {
        // Password, authorization, no such database, no right to connect to it.
        "28P01" | "28000" | "3D000" | "42501" => DatabaseError::Refused(e.to_string()),
        _ => DatabaseError::Unavailable(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_none_is_refused_and_the_password_is_not_shown() {
        assert!(matches!(Database::new("postgres//x"), Err(DatabaseError::Settings(_))));
        let database = Database::new("postgres://firn:hunter2@db/shop").unwrap();
        assert!(!format!("{database:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn a_database_that_is_away_may_answer_later() {
        let database = Database::new("postgres://firn@127.0.0.1:1/shop").unwrap();
        let answer = database.describe("p.public.t", None).await;
        assert!(matches!(answer, Err(DatabaseError::Unavailable(_))), "{answer:?}");
    }
}
