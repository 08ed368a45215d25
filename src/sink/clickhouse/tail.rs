//! The last rows of a table, for people.

use serde_json::Value;

use super::fault::Fault;
use super::rows::{OFFSET, PARTITION};
use super::server::Server;
use super::settings::ClickHouseSettings;
use crate::sink::SinkError;

/// Names of the columns, and rows as ClickHouse's JSON has their values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LastRows {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Value>>,
}

/// The `count` rows with the highest values in a column, or the highest offsets where none is named; the highest last.
///
/// # Errors
/// [`SinkError::Unavailable`] where no node answers, [`SinkError::Stopped`] where there is no such table or column, or it does not say
/// where rows come from.
pub async fn tail(settings: &ClickHouseSettings, by: Option<&str>, count: usize) -> Result<LastRows, SinkError> {
    let mut answer = Err(SinkError::Stopped("no ClickHouse node is named".to_owned()));
    for node in &settings.nodes {
        let server = Server::new(node, settings)?;
        answer = ask(&server, settings, by, count).await.map_err(SinkError::from);
        if !matches!(answer, Err(SinkError::Unavailable(_))) {
            break;
        }
    }
    answer
}

async fn ask(
    server: &Server,
    settings: &ClickHouseSettings,
    by: Option<&str>,
    count: usize,
) -> Result<LastRows, Fault> {
    let table = settings.table_name();
    let order = by.map_or_else(|| format!("{OFFSET} DESC, {PARTITION}"), |by| format!("{} DESC", super::sql::name(by)));
    let sql = format!("SELECT * FROM {table} ORDER BY {order} LIMIT {count}");
    let text = server.text(&sql, "JSONCompactEachRowWithNames").await?;
    let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Vec<Value>>(line).ok());
    let names = lines.next().unwrap_or_default().into_iter();
    let columns = names.map(|name| name.as_str().unwrap_or_default().to_owned()).collect();
    let mut rows: Vec<Vec<Value>> = lines.collect();
    rows.reverse();
    Ok(LastRows { columns, rows })
}
