//! The outbox's table, its marks, and the table of positions beside it. sqlx stops here.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{ConnectOptions, Connection, Postgres, Row as _, Transaction};

use super::Error;
use super::position::Settled;
use super::statements::{Columns, Statements};
use crate::config::OutboxConfig;

/// For one step, connecting included. A mark waits for whoever has locked its row.
const STEP_WITHIN: Duration = Duration::from_secs(90);

/// A row to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Of the table, as text.
    pub key: String,
    pub message_key: Option<String>,
    /// A JSON object.
    pub value: String,
}

/// One outbox's rows, over one connection.
pub(super) struct Rows {
    connection: PgConnection,
    sql: Statements,
    name: String,
    owner: String,
}

/// The outbox is this process's once this is committed; until then no other can take it.
pub(super) struct Claim<'c> {
    transaction: Transaction<'c, Postgres>,
    /// What the table of positions says; none for an outbox that never began.
    pub settled: Option<Settled>,
}

/// How an outbox is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    /// From whoever has it.
    Over,
    /// Only if it is still this process's.
    Again,
}

impl Rows {
    /// Connects, and looks at the table. `owner` is this process.
    pub async fn open(config: &OutboxConfig, url: &str, owner: &str) -> Result<Self, Error> {
        let options = PgConnectOptions::from_str(url).map_err(|e| Error::Settings(e.to_string()))?;
        let options = options.application_name("firn outbox").disable_statement_logging();
        within(async {
            let mut connection = PgConnection::connect_with(&options).await.map_err(explain)?;
            // One that stands still with its claim open holds up the next.
            query(&mut connection, "SET idle_in_transaction_session_timeout = '90s'").await?;
            let columns = describe(&mut connection, config).await?;
            let sql = Statements::new(config, &columns);
            Ok(Self { connection, sql, name: config.name.clone(), owner: owner.to_owned() })
        })
        .await
    }

    /// Whether the table of positions is there, and may be used, or else made.
    pub async fn has_state(&mut self) -> Result<bool, Error> {
        within(async {
            let (exists, creates): (bool, bool) = sqlx::query_as(&self.sql.state_rights)
                .persistent(false)
                .fetch_one(&mut self.connection)
                .await
                .map_err(explain)?;
            match exists || creates {
                true => Ok(exists),
                false => Err(Error::Table(format!(
                    "the user may not make the table of positions; let an owner run: {}, and grant SELECT, INSERT and UPDATE on it",
                    self.sql.make_state
                ))),
            }
        })
        .await
    }

    /// Makes the table of positions, if there is none, and begins to take the outbox.
    pub async fn claim(&mut self, take: Take, topic: &str, transactional_id: &str) -> Result<Claim<'_>, Error> {
        let has_state = self.has_state().await?;
        within(async {
            if !has_state {
                let made = sqlx::raw_sql(&self.sql.make_state).execute(&mut self.connection).await;
                match made.map_err(|e| (code(&e), e)) {
                    // Made by another at this moment.
                    Ok(_) | Err(("23505" | "42P07", _)) => {}
                    Err((_, e)) => return Err(explain(e)),
                }
            }
            let mut transaction = self.connection.begin().await.map_err(explain)?;
            let asked = match take {
                Take::Over => sqlx::query(&self.sql.take_over)
                    .bind(&self.name)
                    .bind(&self.owner)
                    .bind(topic)
                    .bind(transactional_id),
                Take::Again => sqlx::query(&self.sql.take_again).bind(&self.name).bind(&self.owner),
            };
            let row = asked.persistent(false).fetch_optional(&mut *transaction).await.map_err(explain)?;
            let row = row.ok_or_else(|| Error::Taken(self.name.clone()))?;
            Ok(Claim { transaction, settled: settled(&row).map_err(explain)? })
        })
        .await
    }

    /// Rows that are not marked, in the order of their keys, without `refused`.
    pub async fn unsent(&mut self, at_most: usize, refused: &[String]) -> Result<Vec<Row>, Error> {
        let read = |row: &PgRow| Ok(Row { key: row.try_get(0)?, message_key: row.try_get(1)?, value: row.try_get(2)? });
        within(async {
            let rows = sqlx::query(&self.sql.unsent)
                .bind(at_most as i64)
                .bind(refused)
                .persistent(false)
                .fetch_all(&mut self.connection)
                .await
                .map_err(explain)?;
            rows.iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(explain)
        })
        .await
    }

    /// How many rows are not marked, without `refused`; many are not all counted.
    pub async fn backlog(&mut self, refused: &[String]) -> Result<i64, Error> {
        within(async {
            let counted = sqlx::query_scalar(&self.sql.backlog).bind(refused).persistent(false);
            counted.fetch_one(&mut self.connection).await.map_err(explain)
        })
        .await
    }

    /// Marks the rows of these keys and moves the position, both or none. Answers how many were not marked before.
    pub async fn settle(&mut self, keys: &[String], to: &Settled) -> Result<u64, Error> {
        let next = serde_json::to_string(&to.next).unwrap_or_default();
        within(async {
            let mut transaction = self.connection.begin().await.map_err(explain)?;
            let moved = sqlx::query(&self.sql.settle)
                .bind(&self.name)
                .bind(&self.owner)
                .bind(&to.topic)
                .bind(&to.topic_id)
                .bind(&to.transactional_id)
                .bind(next)
                .persistent(false)
                .execute(&mut *transaction)
                .await
                .map_err(explain)?;
            if moved.rows_affected() == 0 {
                return Err(Error::Taken(self.name.clone()));
            }
            let mut marked = 0;
            for some in keys.chunks(MARKED_AT_ONCE) {
                let done = sqlx::query(&self.sql.mark).bind(some).persistent(false).execute(&mut *transaction).await;
                marked += done.map_err(explain)?.rows_affected();
                let left = sqlx::query(&self.sql.unmarked).bind(some).persistent(false);
                let left = left.fetch_optional(&mut *transaction).await.map_err(explain)?;
                if let Some(row) = left {
                    return Err(Error::Unmarked(row.try_get(0).map_err(explain)?));
                }
            }
            transaction.commit().await.map_err(explain)?;
            Ok(marked)
        })
        .await
    }
}

/// Keys of one statement.
const MARKED_AT_ONCE: usize = 10_000;

impl Claim<'_> {
    pub async fn commit(self) -> Result<(), Error> {
        within(async { self.transaction.commit().await.map_err(explain) }).await
    }
}

fn settled(row: &PgRow) -> Result<Option<Settled>, sqlx::Error> {
    let next: Option<String> = row.try_get("next")?;
    let next: Option<BTreeMap<i32, i64>> =
        next.map(|text| serde_json::from_str(&text)).transpose().map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
    next.map(|next| {
        Ok(Settled {
            topic: row.try_get("topic")?,
            topic_id: row.try_get("topic_id")?,
            transactional_id: row.try_get("transactional_id")?,
            next,
        })
    })
    .transpose()
}

/// The columns, if the table can be an outbox.
async fn describe(connection: &mut PgConnection, config: &OutboxConfig) -> Result<Columns, Error> {
    let (schema, table) = config.table_parts();
    let found = sqlx::query(super::statements::COLUMNS)
        .bind(schema)
        .bind(table)
        .persistent(false)
        .fetch_all(connection)
        .await
        .map_err(explain)?;
    let column = |row: &PgRow| {
        Ok(super::statements::Column {
            name: row.try_get("name")?,
            type_name: row.try_get("type")?,
            is_unique: row.try_get("is_unique")?,
            readable: row.try_get("readable")?,
            writable: row.try_get("writable")?,
        })
    };
    let columns = found.iter().map(column).collect::<Result<Vec<_>, sqlx::Error>>().map_err(explain)?;
    Columns::fit(config, columns).map_err(Error::Table)
}

async fn query(connection: &mut PgConnection, sql: &str) -> Result<(), Error> {
    sqlx::raw_sql(sql).execute(connection).await.map(|_| ()).map_err(explain)
}

async fn within<T>(step: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(STEP_WITHIN, step)
        .await
        .unwrap_or_else(|_| Err(Error::Database(format!("no answer within {} s", STEP_WITHIN.as_secs()))))
}

fn code(e: &sqlx::Error) -> &'static str {
    // The few that make a difference.
    const KNOWN: [&str; 13] = [
        "23505", "42P07", "28P01", "28000", "3D000", "42501", "42703", "42P01", "42804", "22P02", "42846", "23514",
        "23502",
    ];
    let code = e.as_database_error().and_then(|d| d.code());
    KNOWN.into_iter().find(|known| code.as_deref() == Some(known)).unwrap_or_default()
}

fn explain(e: sqlx::Error) -> Error {
    match code(&e) {
        "28P01" | "28000" | "3D000" => Error::Refused(e.to_string()),
        "" => Error::Database(e.to_string()),
        // Rights, columns that changed, a constraint against the mark.
        _ => Error::Table(e.to_string()),
    }
}
