//! Proves on a scratch table that a metastore refuses a stale swap: one without HIVE-26882 ignores the expected value and says yes.

use std::collections::HashMap;

use uuid::Uuid;

use super::client::{Client, Data, StoredTable};
use super::fault::Fault;
use super::table::{Column, METADATA_LOCATION};
use crate::{Error, Result};

/// What a metastore does with an expected value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    /// Refuses the wrong one, accepts the right one.
    Works,
    /// Can't be used, and why.
    Fails(String),
}

/// Makes a table, in `database` if given (it must exist), else in one of its own; drops again what it made.
///
/// # Errors
/// When the metastore can't be reached or doesn't let us create a table.
pub(super) async fn compare(client: &Client, database: Option<&str>, owner: &str) -> Result<Compare> {
    let (client, given, owner) = (client.clone(), database.map(str::to_lowercase), owner.to_owned());
    // A task of its own: cleans up even if nobody waits for the result any more.
    let task = tokio::spawn(async move {
        let own = format!("firn_probe_{}", Uuid::new_v4().simple());
        let database = given.as_deref().unwrap_or(&own);
        if given.is_none() {
            let comment = "made by firn to see whether this metastore compares before it swaps; may be dropped";
            client
                .create_database(database, None, &HashMap::from([("comment".to_owned(), comment.to_owned())]))
                .await?;
        }
        let result = Box::pin(in_database(&client, database, &owner)).await;
        if given.is_none()
            && let Err(e) = client.drop_database(database).await
        {
            tracing::warn!("scratch database {database} not dropped: {e:?}");
        }
        result
    });
    let told = |e: Error| {
        let hint = "it needs a scratch table: name a database where this user may create tables as probe database, or set the mode to lock";
        e.context(format_args!("see whether the metastore refuses a stale swap ({hint})"))
    };
    match task.await {
        Ok(result) => result.map_err(|fault| told(fault.of_change())),
        Err(_) => Err(Error::new(crate::ErrorKind::Unavailable, "the runtime is shutting down")),
    }
}

async fn in_database(client: &Client, database: &str, owner: &str) -> Result<Compare, Fault> {
    let name = format!("firn_probe_{}", Uuid::new_v4().simple());
    let column = Column { name: "id".to_owned(), hive_type: "int".to_owned(), comment: None };
    let mut table = StoredTable::new(database, &name, owner).with_columns(&[column]);
    for (key, value) in [("EXTERNAL", "TRUE"), ("external.table.purge", "TRUE"), (METADATA_LOCATION, "before")] {
        table.set_parameter(key, value);
    }
    client.create_table(table).await?;
    let result = on_table(client, database, &name).await;
    if let Err(e) = client.drop_table(database, &name, Data::Delete).await {
        tracing::warn!("scratch table {database}.{name} not dropped: {e:?}");
    }
    result
}

async fn on_table(client: &Client, database: &str, name: &str) -> Result<Compare, Fault> {
    for (expected, wanted) in [("something else", Verdict::Refused), ("before", Verdict::Accepted)] {
        let mut table = client.table(database, name).await?;
        table.set_parameter(METADATA_LOCATION, "after");
        let answer = client.alter_table(database, name, table, Some((METADATA_LOCATION, expected))).await;
        let got = match &answer {
            Ok(()) => Verdict::Accepted,
            Err(fault) if fault.is_stale() => Verdict::Refused,
            Err(Fault::Answer(_, why)) => {
                return Ok(Compare::Fails(format!("it answers a compare-and-set with: {why}")));
            }
            Err(fault) => return Err(fault.clone()),
        };
        match (wanted, got) {
            (Verdict::Refused, Verdict::Accepted) => {
                return Ok(Compare::Fails("it ignores the expected value (no HIVE-26882)".to_owned()));
            }
            (Verdict::Accepted, Verdict::Refused) => {
                return Ok(Compare::Fails("it refuses the right value".to_owned()));
            }
            _ => {}
        }
    }
    Ok(Compare::Works)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Refused,
    Accepted,
}
