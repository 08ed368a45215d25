//! The SELECT of one sink: planned once the columns of all its tables are known, anew when they change, run over what was read.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::SchemaRef;
use arrow_select::filter::filter_record_batch;

use super::preview::Preview;
use super::state::Rules;
use super::view::{Since, View};
use crate::batch::RowOrigin;
use crate::change::{RowSchema, origin};
use crate::config::{PipelineConfig, PipelineTopic};
use crate::transform::{Transform, TransformError, changes};

/// What it is called where a column is not there: by DataFusion, of a struct and of a table, and by the rules.
const NO_SUCH_COLUMN: [&str; 3] = ["not found in struct", "No field named", "has no column"];

/// Rows of one partition that a sink is to get.
#[derive(Debug)]
pub(super) struct Made {
    pub rows: RecordBatch,
    pub origins: Option<Vec<RowOrigin>>,
}

/// A change that the SELECT fails on.
#[derive(Debug)]
pub(super) struct Failing {
    pub partition: i32,
    pub offset: i64,
    pub detail: String,
}

/// What a SELECT made of one topic's changes, by partition.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub made: BTreeMap<i32, Made>,
    pub failing: Vec<Failing>,
}

#[derive(Debug)]
pub(super) struct Plan {
    sql: String,
    /// Tables whose columns nobody has declared.
    undeclared: Vec<String>,
    views: Vec<Arc<View>>,
    rules: Arc<Rules>,
    planned: Option<Planned>,
}

#[derive(Debug)]
struct Planned {
    transform: Transform,
    tables: Vec<(String, SchemaRef)>,
    shown: HashMap<String, u64>,
}

impl Plan {
    pub(super) fn new(pipeline: &PipelineConfig, views: Vec<Arc<View>>, rules: Arc<Rules>) -> Self {
        let undeclared = pipeline.sources.iter().chain(&pipeline.views).filter(|topic| topic.columns.0.is_empty());
        let undeclared = undeclared.map(PipelineTopic::table_name).collect();
        Self { sql: pipeline.sql.clone(), undeclared, views, rules, planned: None }
    }

    pub(super) fn views(&self) -> &[Arc<View>] {
        &self.views
    }

    /// Plans for sources of these columns. Answers the columns of the SELECT where they are new, `None` where nothing changed.
    ///
    /// # Errors
    /// `Plan`: the SQL does not fit; or the sentence says whose columns are not known yet.
    pub(super) async fn fit(&mut self, sources: &[(String, Option<RowSchema>)]) -> Result<Option<SchemaRef>, Unfit> {
        let unknown = |name: &str| {
            Unfit::NotYet(format!(
                "the columns of {name} are not known: it has no record yet; declare its `columns`, or wait"
            ))
        };
        let mut tables = Vec::new();
        for (name, columns) in sources {
            let columns = columns.as_ref().ok_or_else(|| unknown(name))?;
            let wrong = |e: String| self.wrong(TransformError::Plan(e));
            tables.push((name.clone(), self.rules.columns(name, &changes::columns(columns)).map_err(wrong)?));
        }
        let count = tables.len();
        for view in &self.views {
            tables.push((view.name.clone(), view.columns().ok_or_else(|| unknown(&view.name))?));
        }
        if self.planned.as_ref().is_some_and(|p| p.tables == tables) {
            return Ok(None);
        }
        let (own, views) = tables.split_at(count);
        let transform = Transform::plan(&self.sql, own, views).await.map_err(|e| self.wrong(e))?;
        let columns = Arc::clone(transform.columns());
        self.rules.check(&columns, transform.is_traced()).map_err(|e| Unfit::Wrong(TransformError::Plan(e)))?;
        self.planned = Some(Planned { transform, tables, shown: HashMap::new() });
        Ok(Some(columns))
    }

    /// What to do where a column is missing that nobody has declared.
    fn wrong(&self, e: TransformError) -> Unfit {
        Unfit::Wrong(match e {
            TransformError::Plan(why)
                if !self.undeclared.is_empty() && NO_SUCH_COLUMN.iter().any(|words| why.contains(words)) =>
            {
                TransformError::Plan(format!(
                    "{why}. Of records without a schema a column is known once one has a value in it: declare it under `columns` of \
                     [[pipelines.sources]] or [[pipelines.views]] (none are declared of {})",
                    self.undeclared.join(", ")
                ))
            }
            other => other,
        })
    }

    /// Runs it over the changes of one source, as the [table](changes::table) of them with the statistics' columns. `None` where a
    /// view has other columns than it was planned for, and has to [fit](Self::fit) first, or began its topic anew meanwhile.
    ///
    /// # Errors
    /// When it fails as a whole.
    pub(super) async fn run(&mut self, source: &str, table: &RecordBatch) -> Result<Option<Outcome>, TransformError> {
        let Some(planned) = &mut self.planned else { return Ok(None) };
        for view in &self.views {
            let version = planned.shown.get(&view.name).copied().unwrap_or_default();
            let few = match view.is_large() {
                true => planned.transform.sought(&view.name, source, table).await.and_then(|keys| view.rows_of(&keys)),
                false => None,
            };
            let shown = match few.map_or_else(|| view.rows_since(version), Since::Shown) {
                Since::Same => continue,
                Since::NotLoaded => return Ok(None),
                Since::Shown(shown) => shown,
            };
            let table = planned.tables.iter().find(|(name, _)| *name == view.name);
            if table.is_none_or(|(_, columns)| *columns != shown.columns) {
                return Ok(None);
            }
            planned.shown.insert(view.name.clone(), shown.version);
            planned.transform.set_view(&view.name, shown.rows);
        }
        let failed = |e: arrow_schema::ArrowError| TransformError::Run(e.to_string());
        let pieces = match planned.transform.is_traced() {
            true => vec![(None, table.clone())],
            false => by_partition(table).map_err(failed)?.into_iter().map(|(p, t)| (Some(p), t)).collect(),
        };
        let mut result = Outcome::default();
        for (partition, piece) in pieces {
            let output = planned.transform.run(source, &piece).await?;
            result.failing.extend(output.failed.into_iter().filter_map(|f| {
                let (partition, offset) = place(&piece, f.row)?;
                Some(Failing { partition, offset, detail: f.detail })
            }));
            match (partition, output.origins) {
                (Some(partition), _) => {
                    result.made.insert(partition, Made { rows: output.rows, origins: None });
                }
                (None, Some(origins)) => split(&output.rows, &origins, &mut result.made),
                (None, None) => {}
            }
        }
        Ok(Some(result))
    }
}

impl Plan {
    /// Itself, with these rows, for people.
    ///
    /// # Errors
    /// When there is no plan.
    pub(super) fn shown(
        self,
        rows: Vec<RecordBatch>,
        rejected: Vec<(String, String)>,
        pipeline: &PipelineConfig,
    ) -> Result<Preview, String> {
        let planned = self.planned.ok_or("there is no plan")?;
        let topics = pipeline.sources.iter().chain(&pipeline.views).map(|topic| topic.topic.clone());
        let tables = planned.tables.into_iter().zip(topics).map(|((name, columns), topic)| (name, topic, columns));
        Ok(Preview {
            tables: tables.collect(),
            columns: Arc::clone(planned.transform.columns()),
            traced: planned.transform.is_traced(),
            plan: planned.transform.explain(),
            rows,
            rejected,
        })
    }
}

/// Why there is no plan.
#[derive(Debug)]
pub(super) enum Unfit {
    NotYet(String),
    Wrong(TransformError),
}

/// Rows that are ordered by partition, in pieces.
fn split(rows: &RecordBatch, origins: &[(i32, RowOrigin)], made: &mut BTreeMap<i32, Made>) {
    let mut from = 0;
    for run in origins.chunk_by(|a, b| a.0 == b.0) {
        if let Some((partition, _)) = run.first() {
            let origins = run.iter().map(|(_, origin)| *origin).collect();
            made.insert(*partition, Made { rows: rows.slice(from, run.len()), origins: Some(origins) });
        }
        from += run.len();
    }
}

fn by_partition(table: &RecordBatch) -> Result<BTreeMap<i32, RecordBatch>, arrow_schema::ArrowError> {
    let Some(column) = table.column_by_name(origin::PARTITION) else { return Ok(BTreeMap::new()) };
    let column = column.as_primitive::<Int32Type>();
    let partitions: std::collections::BTreeSet<i32> = column.values().iter().copied().collect();
    let piece = |partition: i32| {
        let of_it: BooleanArray = column.values().iter().map(|p| Some(*p == partition)).collect();
        Ok((partition, filter_record_batch(table, &of_it)?))
    };
    partitions.into_iter().map(piece).collect()
}

fn place(table: &RecordBatch, row: usize) -> Option<(i32, i64)> {
    let partition = table.column_by_name(origin::PARTITION)?.as_primitive::<Int32Type>();
    let offset = table.column_by_name(origin::OFFSET)?.as_primitive::<arrow_array::types::Int64Type>();
    (row < partition.len()).then(|| (partition.value(row), offset.value(row)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Column, ColumnType, origin_columns};

    /// What the plan says of a SELECT of `after.duration_ms` where no record had one.
    async fn unfit(source: &str, sql: &str) -> String {
        let pipeline = format!("name = \"p\"\nsql = \"{sql}\"\nsources = [{source}]");
        let pipeline: PipelineConfig = toml::from_str(&pipeline).unwrap();
        let mut plan = Plan::new(&pipeline, Vec::new(), Arc::new(Rules::of(&pipeline)));
        let columns = [Column::new("id", ColumnType::Long)].into_iter().chain(origin_columns()).collect();
        match plan.fit(&[("events".to_owned(), Some(RowSchema { columns }))]).await {
            Err(Unfit::Wrong(e)) => e.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn who_misses_a_column_that_no_record_had_a_value_in_is_told_to_declare_it() {
        let (events, declared) = ("{ topic = \"s.events\" }", "{ topic = \"s.events\", columns = { id = \"long\" } }");
        let of_struct = unfit(events, "SELECT after.duration_ms FROM events").await;
        assert!(of_struct.contains("duration_ms") && of_struct.contains("declare it under `columns`"), "{of_struct}");
        let of_table = unfit(events, "SELECT duration_ms FROM events").await;
        assert!(of_table.contains("(none are declared of events)"), "{of_table}");
        let known = unfit(declared, "SELECT after.duration_ms FROM events").await;
        assert!(known.contains("duration_ms") && !known.contains("declare it"), "{known}");
        let other = unfit(events, "SELECT FROM WHERE").await;
        assert!(!other.contains("declare it"), "{other}");
    }
}
