//! Which table is meant, and which rows: by the configuration and the lake alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use firn_catalog::Catalog;
use tokio::runtime::Handle;

use crate::change::{ColumnType, Mode, RowSchema, origin};
use crate::config::{Config, TableConfig};
use crate::debezium::signalling::Signalling;
use crate::lineage::{Lineage, same_name};
use crate::pipeline::backfill::range::{self, DAY_MS};
use crate::pipeline::backfill::{BackfillError, Range, Wish, place};
use crate::pipeline::wiring::table_spec;
use crate::position::{Checkpoint, TopicPosition};
use crate::sink::lake::{LakeTable, TableColumns};
use crate::source::kafka::{ClientSettings, list_topics};

/// A table of the lake and the topic that it comes from.
#[derive(Debug)]
pub(super) struct Found {
    pub topic: String,
    pub config: TableConfig,
    pub catalog: Arc<dyn Catalog>,
    pub lake: LakeTable,
    pub columns: TableColumns,
}

fn refused<T>(why: String) -> Result<T, BackfillError> {
    Err(BackfillError::Refused(why))
}

/// Whether a topic, of this table of the lake, goes by a name.
pub(super) fn is_called(topic: &str, table: &str, name: &str) -> bool {
    let in_source = topic.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'));
    topic == name || table == name || in_source && name.contains('.')
}

/// The table of this name.
///
/// # Errors
/// Where there is none, or none whose rows could be told again.
pub(super) async fn find(config: &Config, kafka: &ClientSettings, name: &str) -> Result<Found, BackfillError> {
    let asked = kafka.clone();
    let listed = tokio::task::spawn_blocking(move || list_topics(&asked)).await??;
    let mut topics: BTreeSet<String> = place::topics(config);
    topics.extend(listed.into_iter().map(|topic| topic.name).filter(|topic| config.selects(topic)));
    let fits = |topic: &String| {
        let table = config.table_for(topic).map(|t| t.ident().to_string()).unwrap_or_default();
        is_called(topic, &table, name)
    };
    let found: Vec<String> = topics.into_iter().filter(fits).collect();
    let topic = match found.as_slice() {
        [topic] => topic.clone(),
        [] => {
            return refused(format!(
                "the configuration reads no topic called {name}, or of a table called so; name the topic, schema.table, or the lake table"
            ));
        }
        _ => return refused(format!("{name} can be any of {}: name the topic", found.join(", "))),
    };
    let Some(table) = config.table_for(&topic) else {
        return refused(format!("the configuration writes {topic} into no lake table: rows can't be read from there"));
    };
    let ident = table.ident();
    if table.mode == Mode::Append {
        return refused(format!(
            "the lake table {ident} has every change as a row (mode append), not the rows as they are: --from-lake is for upsert tables"
        ));
    }
    let catalog = crate::catalogs::open(&config.catalog).await?;
    let lake = LakeTable::open(Arc::clone(&catalog), table_spec(&table), Handle::current()).await?;
    let Some(columns) = lake.columns() else {
        return refused(format!("there is no lake table {ident} yet"));
    };
    Ok(Found { topic, config: table, catalog, lake, columns })
}

impl Found {
    /// Where the table stands in the topic.
    ///
    /// # Errors
    /// Where firn never wrote it, or not from this topic alone.
    pub(super) async fn position(&self) -> Result<TopicPosition, BackfillError> {
        let ident = self.config.ident();
        let Some(Checkpoint { mut topics, .. }) = self.lake.checkpoint().await? else {
            return refused(format!(
                "firn never wrote to the lake table {ident}: where it stands in {} is not known",
                self.topic
            ));
        };
        if topics.keys().any(|topic| *topic != self.topic) {
            let all: Vec<&str> = topics.keys().map(String::as_str).collect();
            return refused(format!(
                "the lake table {ident} is written from several topics ({}): which row is of which is not known for sure",
                all.join(", ")
            ));
        }
        match topics.remove(&self.topic) {
            Some(position) => Ok(position),
            None => refused(format!("the lake table {ident} has nothing of {} yet", self.topic)),
        }
    }
}

/// The range of a wish, with its column.
pub(super) fn choose(columns: &RowSchema, lineage: &Lineage, wish: &Wish, table: &str) -> Result<Range, BackfillError> {
    let (from_ms, to_ms) = (wish.from_ms, wish.to_ms);
    if from_ms.is_none() && to_ms.is_none() {
        return Ok(Range { column: None, from_ms, to_ms, condition: String::new() });
    }
    let is_of_time = |t: &ColumnType| matches!(t, ColumnType::Date | ColumnType::Timestamp | ColumnType::TimestampTz);
    let of_time = columns.columns.iter().filter(|c| is_of_time(&c.column_type) && !origin::is_own(&c.name));
    let of_time = of_time.map(|c| c.name.as_str()).collect();
    let column = match range::pick(Some(of_time), wish.column.as_deref()) {
        Ok(column) => column,
        Err(why) => return refused(format!("{table}: {why}")),
    };
    let is_of_same = |name: &str| name != column && same_name(lineage.source_of(name), lineage.source_of(&column));
    if let Some(other) = columns.columns.iter().find(|c| is_of_same(&c.name)) {
        return refused(format!(
            "{table}: the type of `{column}` changed, so other rows have their value in `{}`, and a range of one lacks those of the other: \
             take another column, or let Debezium read the range (without --from-lake)",
            other.name
        ));
    }
    let is_date = columns.columns.iter().any(|c| c.name == column && c.column_type == ColumnType::Date);
    if is_date && [from_ms, to_ms].into_iter().flatten().any(|ms| ms % DAY_MS != 0) {
        return refused(format!("{table}: `{column}` is a date: give --from and --to as dates"));
    }
    let condition = Signalling { is_postgres: true, ..Signalling::default() }.condition(&column, from_ms, to_ms);
    Ok(Range { column: Some(column), from_ms, to_ms, condition })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Column, origin_columns};

    #[test]
    fn a_table_goes_by_three_names() {
        let is = |name| is_called("pg.public.events", "lake.events", name);
        assert!(is("pg.public.events") && is("public.events") && is("lake.events"));
        assert!(!is("events") && !is("ublic.events") && !is("other.events"));
    }

    #[test]
    fn a_range_is_of_a_column_of_time() {
        let mut columns = vec![Column::key("id", ColumnType::Long), Column::new("day", ColumnType::Date)];
        columns.extend(origin_columns());
        let columns = RowSchema { columns };
        let choose = |column: Option<&str>, from_ms: Option<i64>| {
            let wish = Wish { column: column.map(str::to_owned), from_ms, ..Wish::default() };
            choose(&columns, &Lineage::default(), &wish, "s.t")
        };
        let range = choose(None, Some(DAY_MS)).unwrap();
        assert_eq!(
            (range.column.as_deref(), range.condition.as_str()),
            (Some("day"), "\"day\" >= '1970-01-02 00:00:00+00'")
        );
        assert!(choose(Some("id"), Some(0)).unwrap_err().to_string().contains("there are: day"));
        assert!(choose(None, Some(1)).unwrap_err().to_string().contains("as dates"));
        assert_eq!(choose(Some("id"), None).unwrap().column, None, "all rows");
    }

    #[test]
    fn a_range_is_not_of_a_column_whose_type_changed() {
        let columns = vec![
            Column::key("id", ColumnType::Long),
            Column::new("at", ColumnType::Date),
            Column::new("at__v2", ColumnType::Timestamp),
            Column::new("day", ColumnType::Date),
        ];
        let lineage = Lineage { versions: [("at__v2".to_owned(), "at".to_owned())].into(), ..Lineage::default() };
        let choose = |column: &str| {
            let wish = Wish { column: Some(column.to_owned()), from_ms: Some(0), ..Wish::default() };
            choose(&RowSchema { columns: columns.clone() }, &lineage, &wish, "s.t")
        };
        assert!(choose("at").unwrap_err().to_string().contains("in `at__v2`"));
        assert!(choose("at__v2").unwrap_err().to_string().contains("in `at`"));
        assert_eq!(choose("day").unwrap().column.as_deref(), Some("day"));
    }
}
