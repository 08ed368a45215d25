//! Which of several nodes is worked with.
//!
//! Where a sink stands, and which tokens came, a node knows of its own tables alone, unless they are replicas of another node's. So the
//! first node is kept, however long it is away; another one only stands in for it where both the table and the intents are
//! replicated.

use super::fault::FaultKind;
use super::intents::{self, Intents};
use super::server::Server;
use super::settings::ClickHouseSettings;
use super::sql::{name, text};
use crate::sink::SinkError;

/// Tables of which nodes have copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Replicated {
    table: bool,
    intents: bool,
}

/// A node that may be worked with: its place in the list, and whether another may stand in for it.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    pub server: Server,
    pub index: usize,
    pub replaceable: bool,
}

/// The first node from `start` on that answers, with the database and the intents.
pub(super) async fn choose(
    settings: &ClickHouseSettings,
    intents: &Intents,
    start: usize,
) -> Result<Chosen, SinkError> {
    let mut away = Vec::new();
    for turn in 0..settings.nodes.len() {
        let index = (start + turn) % settings.nodes.len();
        let server = Server::new(&settings.nodes[index], settings)?;
        let replicated = match Replicated::ask(&server, settings).await {
            Ok(replicated) => replicated,
            Err(fault) if fault.kind == FaultKind::Away => {
                away.push(fault.text);
                continue;
            }
            Err(fault) => return Err(fault.into()),
        };
        if index > 0 && replicated != (Replicated { table: true, intents: true }) {
            return Err(SinkError::Unavailable(format!(
                "{}; {} answers, but its tables {} and {} are not both replicas: only the first node knows where the sink stands",
                away.join("; "),
                server.node,
                settings.table_name(),
                intents::TABLE
            )));
        }
        if index > 0 {
            return Ok(Chosen { server: server.with_quorum(), index, replaceable: true });
        }
        create_database(&server, settings).await?;
        if replicated.table && !replicated.intents {
            // A node that is away now gets none, and is not worked with.
            for other in &settings.nodes[1..] {
                let _ = intents.prepare(&Server::new(other, settings)?, true).await;
            }
        }
        intents.prepare(&server, replicated.table).await?;
        let server = if replicated.table { server.with_quorum() } else { server };
        return Ok(Chosen { server, index, replaceable: replicated.table });
    }
    match away.is_empty() {
        true => Err(SinkError::Stopped("no ClickHouse node is named".to_owned())),
        false => Err(SinkError::Unavailable(away.join("; "))),
    }
}

impl Replicated {
    async fn ask(server: &Server, settings: &ClickHouseSettings) -> Result<Self, super::fault::Fault> {
        let sql = format!(
            "SELECT name, engine FROM system.tables WHERE database = {} AND name IN ({}, '{}')",
            text(&settings.database),
            text(&settings.table),
            intents::TABLE
        );
        let mut replicated = Self::default();
        for (name, engine) in server.rows::<(String, String)>(&sql).await? {
            let copies = engine.starts_with("Replicated") || engine.starts_with("Shared");
            if name == intents::TABLE {
                replicated.intents = copies;
            } else {
                replicated.table = copies;
            }
        }
        Ok(replicated)
    }
}

async fn create_database(server: &Server, settings: &ClickHouseSettings) -> Result<(), super::fault::Fault> {
    let exists = format!("SELECT count() FROM system.databases WHERE name = {}", text(&settings.database));
    if server.rows::<u64>(&exists).await?.first() == Some(&0) {
        server.execute(&format!("CREATE DATABASE IF NOT EXISTS {}", name(&settings.database))).await?;
    }
    Ok(())
}
