//! A range of a table deleted, so that it can come anew.

use std::time::Duration;

use super::fault::Fault;
use super::server::Server;
use super::settings::ClickHouseSettings;
use super::sql::{name, text};
use crate::sink::SinkError;

/// How often it is asked whether a deletion is done.
const ASK: Duration = Duration::from_millis(200);

/// Deletes the rows whose `column` is in `[from, to)`, ms since the epoch, and returns once they are gone: how many there were when
/// it began. What is inserted meanwhile stays.
///
/// # Errors
/// [`SinkError::Unavailable`] where no node answers, [`SinkError::Stopped`] where the column is none of times, or ClickHouse refuses.
pub async fn delete_between(
    settings: &ClickHouseSettings,
    column: &str,
    from_ms: Option<i64>,
    to_ms: Option<i64>,
) -> Result<u64, SinkError> {
    let mut answer = Err(SinkError::Stopped("no ClickHouse node is named".to_owned()));
    for node in &settings.nodes {
        let server = Server::new(node, settings)?;
        answer = delete(&server, settings, column, from_ms, to_ms).await;
        if !matches!(answer, Err(SinkError::Unavailable(_))) {
            break;
        }
    }
    answer
}

async fn delete(
    server: &Server,
    settings: &ClickHouseSettings,
    column: &str,
    from_ms: Option<i64>,
    to_ms: Option<i64>,
) -> Result<u64, SinkError> {
    let of_table = format!("database = {} AND table = {}", text(&settings.database), text(&settings.table));
    let types: Vec<String> =
        server.rows(&format!("SELECT type FROM system.columns WHERE {of_table} AND name = {}", text(column))).await?;
    let Some(column_type) = types.first() else {
        let exists = format!(
            "SELECT count() FROM system.tables WHERE database = {} AND name = {}",
            text(&settings.database),
            text(&settings.table)
        );
        // A table that is not there yet has nothing of the range.
        return match server.rows::<u64>(&exists).await?.first() {
            Some(0) | None => Ok(0),
            Some(_) => Err(SinkError::Stopped(format!(
                "{} has no column `{column}`: the SELECT has to give the range's column under its own name, for --replace",
                settings.table_name()
            ))),
        };
    };
    let bounds = [(">=", from_ms), ("<", to_ms)];
    let bounds = bounds.into_iter().filter_map(|(sign, ms)| Some((sign, ms?)));
    let condition = bounds.map(|(sign, ms)| Some(format!("{} {sign} {}", name(column), moment(column_type, ms)?)));
    let Some(condition) = condition.collect::<Option<Vec<String>>>() else {
        return Err(SinkError::Stopped(format!(
            "column `{column}` of {} is {column_type}, no time or date: --replace can't tell its range",
            settings.table_name()
        )));
    };
    let condition = condition.join(" AND ");
    let count = format!("SELECT count() FROM {} WHERE {condition}", settings.table_name());
    let rows = server.rows::<u64>(&count).await?.first().copied().unwrap_or_default();
    if rows > 0 {
        server.execute(&format!("ALTER TABLE {} DELETE WHERE {condition}", settings.table_name())).await?;
        wait(server, &of_table).await?;
    }
    Ok(rows)
}

/// Until the table has no mutation that is under way.
async fn wait(server: &Server, of_table: &str) -> Result<(), SinkError> {
    let sql = format!("SELECT latest_fail_reason FROM system.mutations WHERE {of_table} AND NOT is_done");
    loop {
        let open: Vec<String> = server.rows(&sql).await.map_err(|fault: Fault| SinkError::from(fault))?;
        match open.iter().find(|why| !why.is_empty()) {
            Some(why) => return Err(SinkError::Stopped(format!("ClickHouse can't delete the range: {why}"))),
            None if open.is_empty() => return Ok(()),
            None => tokio::time::sleep(ASK).await,
        }
    }
}

/// A moment as a value that a column of this type is compared with.
fn moment(column_type: &str, ms: i64) -> Option<String> {
    let bare = |of: &str| {
        ["Nullable(", "LowCardinality("].iter().fold(of.to_owned(), |t, w| t.trim_start_matches(w).to_owned())
    };
    match bare(column_type) {
        t if t.starts_with("DateTime") => Some(format!("fromUnixTimestamp64Milli(toInt64({ms}), 'UTC')")),
        t if t.starts_with("Date") => Some(format!("toDate32(fromUnixTimestamp64Milli(toInt64({ms}), 'UTC'))")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_of_times_or_dates() {
        assert!(moment("Nullable(DateTime64(3, 'Europe/Berlin'))", 7).is_some_and(|m| m.starts_with("fromUnix")));
        assert!(moment("Date", 7).is_some_and(|m| m.starts_with("toDate32(")));
        assert_eq!(moment("UInt64", 7), None);
    }
}
