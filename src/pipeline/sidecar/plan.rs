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
use super::view::View;
use crate::batch::RowOrigin;
use crate::change::{RowSchema, origin};
use crate::config::PipelineConfig;
use crate::transform::{Transform, TransformError, changes};

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
    pub(super) fn new(sql: &str, views: Vec<Arc<View>>, rules: Arc<Rules>) -> Self {
        Self { sql: sql.to_owned(), views, rules, planned: None }
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
            let wrong = |e: String| Unfit::Wrong(TransformError::Plan(e));
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
        let transform = Transform::plan(&self.sql, own, views).await.map_err(Unfit::Wrong)?;
        let columns = Arc::clone(transform.columns());
        self.rules.check(&columns, transform.is_traced()).map_err(|e| Unfit::Wrong(TransformError::Plan(e)))?;
        self.planned = Some(Planned { transform, tables, shown: HashMap::new() });
        Ok(Some(columns))
    }

    /// Runs it over the changes of one source, as the [table](changes::table) of them with the statistics' columns.
    ///
    /// # Errors
    /// When it fails as a whole.
    pub(super) async fn run(&mut self, source: &str, table: &RecordBatch) -> Result<Outcome, TransformError> {
        let Some(planned) = &mut self.planned else { return Ok(Outcome::default()) };
        for view in &self.views {
            let version = planned.shown.get(&view.name).copied().unwrap_or_default();
            if let Some(shown) = view.rows_since(version) {
                let table = planned.tables.iter().find(|(name, _)| *name == view.name);
                // New columns came in since the plan was made: the next fit takes them.
                if table.is_some_and(|(_, columns)| *columns == shown.columns) {
                    planned.shown.insert(view.name.clone(), shown.version);
                    planned.transform.set_view(&view.name, shown.rows);
                }
            }
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
        Ok(result)
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
