//! Whether a server can be worked with, before anything runs.

use super::server::Server;
use super::settings::ClickHouseSettings;
use super::sql::{name, text};
use crate::sink::SinkError;

/// What `firn check` says: the version of the first node that answers, and what its user may do. Changes nothing.
///
/// # Errors
/// [`SinkError::Unavailable`] where no node answers, [`SinkError::Stopped`] where the user may not do what the sink has to.
pub async fn probe(settings: &ClickHouseSettings) -> Result<String, SinkError> {
    let mut answer = Err(SinkError::Stopped("no ClickHouse node is named".to_owned()));
    for node in &settings.nodes {
        answer = ask(&Server::new(node, settings)?, settings).await;
        if !matches!(answer, Err(SinkError::Unavailable(_))) {
            break;
        }
    }
    answer
}

async fn ask(server: &Server, settings: &ClickHouseSettings) -> Result<String, SinkError> {
    let (version, readonly, user): (String, String, String) = server
        .rows("SELECT version(), toString(getSetting('readonly')), currentUser()")
        .await?
        .pop()
        .ok_or_else(|| SinkError::Unavailable(format!("ClickHouse {}: an empty answer", server.node)))?;
    let database = name(&settings.database);
    if readonly != "0" {
        return Err(SinkError::Stopped(format!(
            "ClickHouse {}: user {user} may only read; GRANT SELECT, INSERT, CREATE DATABASE, CREATE TABLE, ALTER ON {database}.* TO {user}, \
             with a profile that has readonly = 0",
            server.node
        )));
    }
    let mut needed = vec!["SELECT", "INSERT", "CREATE TABLE", "ALTER ADD COLUMN", "ALTER SETTINGS"];
    let exists = format!("SELECT count() FROM system.databases WHERE name = {}", text(&settings.database));
    if server.rows::<u64>(&exists).await?.first() == Some(&0) {
        needed.push("CREATE DATABASE");
    }
    for right in needed {
        let granted = server.rows::<u8>(&format!("CHECK GRANT {right} ON {database}.*")).await;
        if granted.is_ok_and(|granted| granted.first() == Some(&0)) {
            return Err(SinkError::Stopped(format!(
                "ClickHouse {}: user {user} lacks a right: GRANT {right} ON {database}.* TO {user}",
                server.node
            )));
        }
    }
    Ok(format!("ClickHouse {version} at {}: {user} may insert and make tables in {}", server.node, settings.database))
}
