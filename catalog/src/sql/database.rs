//! SQLite or PostgreSQL behind the few statements that the catalog needs. All its columns are text.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Column as _, Row as _};

use crate::{Error, ErrorKind, Result};

/// How long a process waits while others write: a commit holds SQLite's lock for milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Commits to many tables come one after another; a few connections keep them from waiting for each other.
const CONNECTIONS: u32 = 4;

#[derive(Clone, Debug)]
pub(super) enum Database {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

impl Database {
    /// `sqlite:///path/cat.db` (made with its directories if missing), `sqlite::memory:`, `postgres://user:password@host/db`, also
    /// with `SQLAlchemy`'s driver (`postgresql+psycopg2://`).
    pub async fn open(uri: &str) -> Result<Self> {
        let scheme = uri.split(':').next().unwrap_or_default();
        let plain = scheme.split('+').next().unwrap_or_default();
        let uri = format!("{plain}{}", uri.strip_prefix(scheme).unwrap_or_default());
        match plain {
            "sqlite" => Self::open_sqlite(&uri).await,
            "postgres" | "postgresql" => {
                let options = PgConnectOptions::from_str(&uri).map_err(bad_uri)?;
                let pool = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(CONNECT_WITHIN);
                Ok(Self::Postgres(pool.connect_with(options).await.map_err(explain)?))
            }
            other => {
                let text = format!("catalog uri: scheme {other:?} is not supported; use sqlite or postgresql");
                Err(Error::new(ErrorKind::Unsupported, text))
            }
        }
    }

    async fn open_sqlite(uri: &str) -> Result<Self> {
        let options = SqliteConnectOptions::from_str(uri).map_err(bad_uri)?;
        let in_memory = uri.contains(":memory:") || uri.contains("mode=memory");
        let options = options
            .create_if_missing(true)
            // readers and the writer of several processes don't block each other
            .journal_mode(if in_memory { SqliteJournalMode::Memory } else { SqliteJournalMode::Wal })
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT);
        if !in_memory && let Some(directory) = options.get_filename().parent().filter(|d| *d != Path::new("")) {
            std::fs::create_dir_all(directory).map_err(|e| {
                let text = format!("can't make the catalog's directory {}: {e}", directory.display());
                Error::new(ErrorKind::Denied, text).with_source(e)
            })?;
        }
        // each connection to memory is a database of its own
        let pool = SqlitePoolOptions::new().max_connections(if in_memory { 1 } else { CONNECTIONS });
        let pool = pool.acquire_timeout(BUSY_TIMEOUT + CONNECT_WITHIN);
        Ok(Self::Sqlite(pool.connect_with(options).await.map_err(explain)?))
    }

    /// Answers how many rows it changed. `$1` ... stand for `values`.
    pub async fn execute(&self, sql: &str, values: &[&str]) -> Result<u64, sqlx::Error> {
        match self {
            Self::Sqlite(pool) => {
                let query = values.iter().fold(sqlx::query(sql), |q, v| q.bind(*v));
                Ok(query.execute(pool).await?.rows_affected())
            }
            Self::Postgres(pool) => {
                let query = values.iter().fold(sqlx::query(sql), |q, v| q.bind(*v));
                Ok(query.execute(pool).await?.rows_affected())
            }
        }
    }

    pub async fn rows(&self, sql: &str, values: &[&str]) -> Result<Vec<Vec<Option<String>>>, sqlx::Error> {
        match self {
            Self::Sqlite(pool) => {
                let query = values.iter().fold(sqlx::query(sql), |q, v| q.bind(*v));
                let rows = query.fetch_all(pool).await?;
                rows.iter().map(|row| row.columns().iter().map(|c| row.try_get(c.ordinal())).collect()).collect()
            }
            Self::Postgres(pool) => {
                let query = values.iter().fold(sqlx::query(sql), |q, v| q.bind(*v));
                let rows = query.fetch_all(pool).await?;
                rows.iter().map(|row| row.columns().iter().map(|c| row.try_get(c.ordinal())).collect()).collect()
            }
        }
    }
}

fn bad_uri(e: sqlx::Error) -> Error {
    Error::new(ErrorKind::Refused, format!("catalog uri can't be used: {e}")).with_source(e)
}

/// For calls that change nothing, or that are harmless to repeat.
pub(super) fn explain(e: sqlx::Error) -> Error {
    let code = e.as_database_error().and_then(|d| d.code()).map(|c| c.into_owned()).unwrap_or_default();
    let (kind, hint) = match code.as_str() {
        "28P01" | "28000" | "42501" => (ErrorKind::Denied, "; check the catalog's user and password"),
        "3D000" => (ErrorKind::Refused, "; create the catalog's database"),
        "8" | "14" => (ErrorKind::Denied, "; check the catalog file's owner, mode and directory"),
        "11" | "26" => (ErrorKind::Invalid, "; the catalog file is damaged or is not an SQLite database"),
        _ => (ErrorKind::Unavailable, ""),
    };
    Error::new(kind, format!("catalog database: {e}{hint}")).with_source(e)
}

/// For the compare-and-set: only what surely did not happen is said to.
pub(super) fn explain_swap(e: sqlx::Error) -> Error {
    let code = e.as_database_error().and_then(|d| d.code()).map(|c| c.into_owned()).unwrap_or_default();
    let kind = match code.as_str() {
        // SQLITE_BUSY, its recovery and snapshot variants; PostgreSQL's serialization failure and deadlock
        "5" | "261" | "517" | "40001" | "40P01" => ErrorKind::Conflict,
        "8" | "14" | "42501" => ErrorKind::Denied,
        "22001" => ErrorKind::Refused,
        _ => ErrorKind::OutcomeUnknown,
    };
    Error::new(kind, format!("catalog database, swap: {e}")).with_source(e)
}
