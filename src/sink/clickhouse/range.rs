//! A range of a table deleted, so that it can come anew.

use std::time::Duration;

use super::fault::Fault;
use super::intents::Intents;
use super::nodes;
use super::server::Server;
use super::settings::ClickHouseSettings;
use super::sql::{name, text};
use crate::sink::SinkError;

/// How often it is asked whether a deletion is done.
const ASK: Duration = Duration::from_millis(200);

/// Deletes the rows whose `column` is in `[from, to)`, ms since the epoch, and returns once they are gone from every replica: how many
/// there were when it began. What is inserted meanwhile stays.
///
/// # Errors
/// [`SinkError::Unavailable`] where a node that is needed does not answer, [`SinkError::Stopped`] where the column is none of times, a bound is
/// finer than the column, or ClickHouse refuses.
pub async fn delete_between(
    settings: &ClickHouseSettings,
    column: &str,
    from_ms: Option<i64>,
    to_ms: Option<i64>,
) -> Result<u64, SinkError> {
    // The node that the sink works with: another one's tables are others, unless they are replicas.
    let chosen = nodes::choose(settings, &Intents::new(&settings.database, "backfill"), 0).await?;
    let of_table = format!("database = {} AND table = {}", text(&settings.database), text(&settings.table));
    let Some(condition) = condition(&chosen.server, settings, &of_table, column, from_ms, to_ms).await? else {
        return Ok(0);
    };
    let count = format!("SELECT count() FROM {} WHERE {condition}", settings.table_name());
    let rows = chosen.server.rows::<u64>(&count).await?.first().copied().unwrap_or_default();
    if rows == 0 {
        return Ok(0);
    }
    let replicas = match chosen.replaceable {
        true => settings.nodes.iter().map(|node| Server::new(node, settings)).collect::<Result<Vec<_>, _>>()?,
        false => vec![chosen.server.clone()],
    };
    let mut earlier = Vec::new();
    for server in &replicas {
        let ids = format!("SELECT mutation_id FROM system.mutations WHERE {of_table}");
        earlier.push(server.rows::<String>(&ids).await?);
    }
    chosen.server.execute(&format!("ALTER TABLE {} DELETE WHERE {condition}", settings.table_name())).await?;
    for (server, earlier) in replicas.iter().zip(&earlier) {
        wait(server, &of_table, earlier).await?;
    }
    Ok(rows)
}

/// Which rows; `None` where there is no table yet.
async fn condition(
    server: &Server,
    settings: &ClickHouseSettings,
    of_table: &str,
    column: &str,
    from_ms: Option<i64>,
    to_ms: Option<i64>,
) -> Result<Option<String>, SinkError> {
    let types = format!("SELECT type FROM system.columns WHERE {of_table} AND name = {}", text(column));
    let types: Vec<String> = server.rows(&types).await?;
    let Some(column_type) = types.first() else {
        let exists = format!(
            "SELECT count() FROM system.tables WHERE database = {} AND name = {}",
            text(&settings.database),
            text(&settings.table)
        );
        // A table that is not there yet has nothing of the range.
        return match server.rows::<u64>(&exists).await?.first() {
            Some(0) | None => Ok(None),
            Some(_) => Err(SinkError::Stopped(format!(
                "{} has no column `{column}`: the SELECT has to give the range's column under its own name, for --replace",
                settings.table_name()
            ))),
        };
    };
    let Some(unit) = unit_ms(column_type) else {
        return Err(SinkError::Stopped(format!(
            "column `{column}` of {} is {column_type}, no time or date: --replace can't tell its range",
            settings.table_name()
        )));
    };
    if [from_ms, to_ms].into_iter().flatten().any(|ms| ms % unit != 0) {
        return Err(SinkError::Stopped(format!(
            "column `{column}` of {} is {column_type}: --replace would delete more than the range that is read; give bounds that are whole \
             multiples of {}",
            settings.table_name(),
            if unit == DAY_MS { "a day (UTC)".to_owned() } else { format!("{unit} ms") }
        )));
    }
    let bounds = [(">=", from_ms), ("<", to_ms)].into_iter().filter_map(|(sign, ms)| Some((sign, ms?)));
    let bounds = bounds.filter_map(|(sign, ms)| Some(format!("{} {sign} {}", name(column), moment(column_type, ms)?)));
    Ok(Some(bounds.collect::<Vec<_>>().join(" AND ")))
}

/// Until none of the table's mutations is under way but those of `earlier`.
async fn wait(server: &Server, of_table: &str, earlier: &[String]) -> Result<(), SinkError> {
    let earlier: Vec<String> = earlier.iter().map(|id| text(id)).collect();
    let sql = format!(
        "SELECT latest_fail_reason FROM system.mutations WHERE {of_table} AND NOT is_done AND mutation_id NOT IN [{}]",
        earlier.join(", ")
    );
    loop {
        let open: Vec<String> = server.rows(&sql).await.map_err(|fault: Fault| SinkError::from(fault))?;
        match open.iter().find(|why| !why.is_empty()) {
            Some(why) => return Err(SinkError::Stopped(format!("ClickHouse can't delete the range: {why}"))),
            None if open.is_empty() => return Ok(()),
            None => tokio::time::sleep(ASK).await,
        }
    }
}

const DAY_MS: i64 = 86_400_000;

fn bare(column_type: &str) -> String {
    ["LowCardinality(", "Nullable("].iter().fold(column_type.to_owned(), |t, w| t.trim_start_matches(w).to_owned())
}

/// What a column of this type tells apart, in milliseconds.
fn unit_ms(column_type: &str) -> Option<i64> {
    match bare(column_type) {
        t if t.starts_with("DateTime64(") => {
            let digits: u32 =
                t["DateTime64(".len()..].chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()?;
            Some(10_i64.pow(3_u32.saturating_sub(digits)))
        }
        t if t.starts_with("DateTime") => Some(1_000),
        t if t.starts_with("Date") => Some(DAY_MS),
        _ => None,
    }
}

/// A moment as a value that a column of this type is compared with.
fn moment(column_type: &str, ms: i64) -> Option<String> {
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

    #[test]
    fn a_column_tells_apart_what_its_type_can() {
        assert_eq!(unit_ms("Nullable(DateTime64(3, 'Europe/Berlin'))"), Some(1));
        assert_eq!(unit_ms("DateTime64(6)"), Some(1));
        assert_eq!(unit_ms("DateTime64(0)"), Some(1_000));
        assert_eq!(unit_ms("DateTime('UTC')"), Some(1_000));
        assert_eq!(unit_ms("LowCardinality(Nullable(Date32))"), Some(DAY_MS));
        assert_eq!(unit_ms("Int64"), None);
    }
}
