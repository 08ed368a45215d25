//! Which rows: a column of time, and its bounds.

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::place::Place;
use super::{BackfillError, Wish};
use crate::config::Config;
use crate::database::{Database, DescribedColumn, Found};

/// Rows whose column is in `[from, to)`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Range {
    /// `None` for all rows.
    pub column: Option<String>,
    /// Milliseconds since the epoch.
    pub from_ms: Option<i64>,
    pub to_ms: Option<i64>,
    /// In the source's words.
    pub condition: String,
}

/// PostgreSQL's types that a range can be of.
const OF_TIME: [&str; 3] = ["timestamptz", "timestamp", "date"];

/// The range of a wish, with its column.
pub(super) async fn choose(config: &Config, place: &Place, wish: &Wish) -> Result<Range, BackfillError> {
    let refused = |why: String| Err(BackfillError::Refused(why));
    let (from_ms, to_ms) = (wish.from_ms, wish.to_ms);
    if from_ms.is_none() && to_ms.is_none() {
        return Ok(Range { column: None, from_ms, to_ms, condition: String::new() });
    }
    let described = match &config.source.url {
        Some(url) => match Database::new(url.as_str())?.describe(&place.topic, None).await? {
            Found::Table(described) => Some(described.columns),
            Found::Nothing(_) => None,
        },
        None => None,
    };
    let column = match pick(described.as_deref().map(of_time), wish.column.as_deref()) {
        Ok(column) => column,
        Err(why) => return refused(format!("{}: {why}", place.collection)),
    };
    if is_of_days(described.as_deref(), &column) && [from_ms, to_ms].into_iter().flatten().any(|ms| ms % DAY_MS != 0) {
        return refused(format!(
            "{}: `{column}` is a date, and the source would read whole days: give --from and --to as dates",
            place.collection
        ));
    }
    let condition = place.signalling.condition(&column, from_ms, to_ms);
    Ok(Range { column: Some(column), from_ms, to_ms, condition })
}

pub(super) const DAY_MS: i64 = 86_400_000;

/// Whether a bound within a day would be rounded to it.
fn is_of_days(columns: Option<&[DescribedColumn]>, column: &str) -> bool {
    columns.into_iter().flatten().any(|c| c.name == column && c.type_name == "date")
}

fn of_time(columns: &[DescribedColumn]) -> Vec<&str> {
    let is_of_time = |c: &&DescribedColumn| OF_TIME.contains(&c.type_name.as_str()) && !c.is_array;
    columns.iter().filter(is_of_time).map(|c| c.name.as_str()).collect()
}

/// The column that was asked for, or the only one of time, where these are known.
pub(super) fn pick(of_time: Option<Vec<&str>>, wished: Option<&str>) -> Result<String, String> {
    match (wished, of_time) {
        (Some(wished), Some(of_time)) if !of_time.contains(&wished) => {
            Err(format!("`{wished}` is no column of a time or date; there are: {}", of_time.join(", ")))
        }
        (Some(wished), _) => Ok(wished.to_owned()),
        (None, Some(of_time)) => match of_time[..] {
            [only] => Ok(only.to_owned()),
            _ => Err(format!(
                "name the column of the range with --column; of times and dates there are: {}",
                of_time.join(", ")
            )),
        },
        (None, None) => Err("name the column of the range with --column".to_owned()),
    }
}

const TIME: &str = "%Y%m%d%H%M%S";
/// Ends the ids of ranges that were deleted first.
const REPLACED: &str = "r";

/// Whether the rows of the range with this id were deleted before it was read.
pub(super) fn is_replaced(id: &str) -> bool {
    id.ends_with(REPLACED)
}

/// When the range of this id was begun.
pub(super) fn begun_at(id: &str, ids: &str) -> Option<DateTime<Utc>> {
    let time = id.strip_prefix(ids)?.trim_end_matches(REPLACED);
    Some(NaiveDateTime::parse_from_str(time, TIME).ok()?.and_utc())
}

impl Range {
    /// What the ids of this range in this table begin with: the same for the same range.
    pub(super) fn ids(&self, collection: &str) -> String {
        format!("firn-{:016x}-", xxh3_64(format!("{collection}\0{}", self.condition).as_bytes()))
    }

    /// Of at most 42 characters, which is what signal tables have room for.
    pub(super) fn new_id(&self, collection: &str, replaced: bool, now: DateTime<Utc>) -> String {
        format!("{}{}{}", self.ids(collection), now.format(TIME), if replaced { REPLACED } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, type_name: &str, is_array: bool) -> DescribedColumn {
        DescribedColumn { name: name.to_owned(), type_name: type_name.to_owned(), modifier: -1, is_array }
    }

    #[test]
    fn the_only_column_of_time_need_not_be_named() {
        let one = [column("id", "int8", false), column("at", "timestamptz", false), column("many", "date", true)];
        assert_eq!(pick(Some(of_time(&one)), None), Ok("at".to_owned()));
        assert!(pick(Some(of_time(&one)), Some("id")).unwrap_err().contains("there are: at"));
        assert!(pick(Some(of_time(&one[..1])), None).is_err());
        let two = [column("at", "timestamp", false), column("day", "date", false)];
        assert!(pick(Some(of_time(&two)), None).unwrap_err().contains("at, day"));
        assert_eq!(pick(Some(of_time(&two)), Some("day")), Ok("day".to_owned()));
        assert_eq!(pick(None, Some("x")), Ok("x".to_owned()), "nobody knows better");
        assert!(pick(None, None).unwrap_err().contains("--column"));
    }

    #[test]
    fn only_dates_are_of_days() {
        let columns = [column("at", "timestamptz", false), column("day", "date", false)];
        assert!(is_of_days(Some(&columns), "day") && !is_of_days(Some(&columns), "at") && !is_of_days(None, "day"));
    }

    #[test]
    fn the_same_range_has_ids_that_begin_alike_and_fit() {
        let range =
            |condition: &str| Range { column: None, from_ms: None, to_ms: None, condition: condition.to_owned() };
        let id = range("a").new_id("public.t", true, DateTime::UNIX_EPOCH);
        assert!(
            id.starts_with(&range("a").ids("public.t"))
                && id.ends_with("-19700101000000r")
                && is_replaced(&id)
                && id.len() <= 42,
            "{id}"
        );
        assert_eq!(begun_at(&id, &range("a").ids("public.t")), Some(DateTime::UNIX_EPOCH));
        assert_eq!(begun_at(&id, &range("b").ids("public.t")), None);
        assert!(!is_replaced(&range("a").new_id("public.t", false, DateTime::UNIX_EPOCH)));
        assert_ne!(range("a").ids("public.t"), range("b").ids("public.t"));
        assert_ne!(range("a").ids("public.t"), range("a").ids("public.u"));
    }
}
