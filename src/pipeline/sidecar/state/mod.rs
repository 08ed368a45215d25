//! What a pipeline keeps of one source partition from change to change: when alerts last went out, and running statistics.
//!
//! It is made of the changes alone, in their order, and stored with the sink's position in one transaction: so after a restart, a
//! repetition or a take-over it is what it was at that position.
//!
//! # Layout
//! - [`Rules`]: what a person chose. [`State`]: of one partition. [`shelf`]: values by key, bounded. [`running`]: the statistics.
//! - [`stored`]: the topic that it is stored in.

mod running;
mod shelf;
mod stored;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StructArray};
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema, SchemaRef};
use arrow_select::filter::filter_record_batch;

use crate::batch::RowOrigin;
use crate::config::PipelineConfig;
use crate::sink::json_values;
use crate::sink::keeping::{Keeping, Step};
use crate::transform::changes;
use running::Running;
use shelf::Shelf;
pub(super) use stored::{StateTopic, state_topic};

/// What a pipeline keeps.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    alert: Option<Alert>,
    running: Vec<Statistic>,
}

#[derive(Clone, Debug)]
struct Alert {
    key: Vec<String>,
    cool_down_ms: i64,
    max_keys: usize,
}

#[derive(Clone, Debug)]
struct Statistic {
    name: String,
    /// The table's name in the SQL.
    source: String,
    key: String,
    value: String,
    ops: Vec<String>,
    max_keys: usize,
}

impl Rules {
    pub(super) fn of(pipeline: &PipelineConfig) -> Self {
        let alert = pipeline.alert.as_ref().map(|alert| Alert {
            key: alert.key.clone(),
            cool_down_ms: i64::try_from(alert.cool_down.ms).unwrap_or(i64::MAX),
            max_keys: alert.max_keys,
        });
        let first = pipeline.sources.first().map(crate::config::PipelineTopic::table_name).unwrap_or_default();
        let statistic = |running: &crate::config::RunningConfig| Statistic {
            name: running.name.clone(),
            source: running.source.clone().unwrap_or_else(|| first.clone()),
            key: running.key.clone(),
            value: running.value.clone(),
            ops: running.ops.clone(),
            max_keys: running.max_keys,
        };
        Self { alert, running: pipeline.running.iter().map(statistic).collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.alert.is_none() && self.running.is_empty()
    }

    /// The columns of a source's table with those of the statistics.
    ///
    /// # Errors
    /// The sentence for a person: a column that is not there, a value that is no number.
    pub(super) fn columns(&self, source: &str, table: &SchemaRef) -> Result<SchemaRef, String> {
        let mut fields: Vec<Arc<Field>> = table.fields().iter().cloned().collect();
        for statistic in self.running.iter().filter(|s| s.source == source) {
            for path in [&statistic.key, &statistic.value] {
                let found = path.split_once('.').and_then(|(image, column)| match table.field_with_name(image) {
                    Ok(image) => match image.data_type() {
                        DataType::Struct(fields) => fields.find(column).map(|(_, field)| field.data_type().clone()),
                        _ => None,
                    },
                    Err(_) => None,
                });
                let Some(data_type) = found else {
                    return Err(format!("running {}: {source} has no column {path}", statistic.name));
                };
                if path == &statistic.value && !data_type.is_numeric() {
                    return Err(format!("running {}: {path} is no number but {data_type}", statistic.name));
                }
            }
            fields.push(Arc::new(Field::new(&statistic.name, DataType::Struct(statistics()), false)));
        }
        Ok(Arc::new(Schema::new(fields)))
    }
}

impl Rules {
    pub(super) fn has_alert(&self) -> bool {
        self.alert.is_some()
    }

    /// Whether the SELECT's rows can be alerts.
    ///
    /// # Errors
    /// The sentence for a person.
    pub(super) fn check(&self, columns: &SchemaRef, traced: bool) -> Result<(), String> {
        let Some(alert) = &self.alert else { return Ok(()) };
        if !traced {
            return Err(
                "an alert comes from one change: GROUP BY, DISTINCT and the like can't be with [pipelines.alert]"
                    .to_owned(),
            );
        }
        match alert.key.iter().find(|name| columns.field_with_name(name).is_err()) {
            Some(name) => Err(format!("alert.key: the SELECT gives no column `{name}`")),
            None => Ok(()),
        }
    }
}

fn statistics() -> Fields {
    Fields::from(vec![
        Field::new("count", DataType::Int64, false),
        Field::new("mean", DataType::Float64, true),
        Field::new("stddev", DataType::Float64, true),
    ])
}

/// What is kept of one source partition.
#[derive(Debug)]
pub(super) struct State {
    rules: Arc<Rules>,
    topic: String,
    partition: i32,
    prefix: String,
    /// By the alert's key: the source's time of the change that it last went out for.
    alerts: Shelf<i64>,
    /// In the order of the rules.
    running: Vec<Shelf<Running>>,
    /// Keys that had to go since anybody asked.
    forgotten: u64,
}

/// Rows of an alert that went out, and how many did not.
#[derive(Debug)]
pub(super) struct Passed {
    pub rows: RecordBatch,
    pub origins: Vec<RowOrigin>,
    pub held_back: usize,
}

impl State {
    /// Nothing yet; `prefix` tells it from all others in that partition of the topic.
    fn new(rules: &Arc<Rules>, topic: &str, partition: i32, prefix: String) -> Self {
        Self {
            alerts: Shelf::new(rules.alert.as_ref().map_or(0, |alert| alert.max_keys)),
            running: rules.running.iter().map(|statistic| Shelf::new(statistic.max_keys)).collect(),
            rules: Arc::clone(rules),
            topic: topic.to_owned(),
            partition,
            prefix,
            forgotten: 0,
        }
    }

    /// Nothing yet, and nowhere to store it.
    pub(super) fn trial(rules: &Arc<Rules>) -> Self {
        Self::new(rules, "", 0, String::new())
    }

    /// Keys that had to go since the last time, since there were too many.
    pub(super) fn take_forgotten(&mut self) -> u64 {
        std::mem::take(&mut self.forgotten)
    }

    /// How many keys are remembered.
    pub(super) fn len(&self) -> usize {
        self.alerts.len() + self.running.iter().map(Shelf::len).sum::<usize>()
    }

    /// As it was when the sink was told last.
    pub(super) fn undo(&mut self) {
        self.alerts.undo();
        self.running.iter_mut().for_each(Shelf::undo);
    }

    /// The sink has it.
    pub(super) fn settle(&mut self) {
        self.alerts.settle();
        self.running.iter_mut().for_each(Shelf::settle);
    }

    /// What is to be stored with the next position.
    pub(super) fn keeping(&self) -> Keeping {
        let mut steps: Vec<Step> = Vec::new();
        let step = |shelf: &str, (offset, key, value): (i64, &str, Option<String>)| Step {
            offset,
            key: format!("{shelf}/{key}"),
            value,
        };
        steps.extend(self.alerts.done().map(|done| step(ALERT, done)));
        for (statistic, shelf) in self.rules.running.iter().zip(&self.running) {
            steps.extend(shelf.done().map(|done| step(&statistic.name, done)));
        }
        Keeping { topic: self.topic.clone(), partition: self.partition, prefix: self.prefix.clone(), steps }
    }

    /// Takes what was stored under a key without its prefix. What belongs to no rule any more is left.
    fn load(&mut self, key: &str, value: Option<&str>) {
        let Some((shelf, key)) = key.split_once('/') else { return };
        let is_read = match self.rules.running.iter().position(|statistic| statistic.name == shelf) {
            Some(at) => self.running.get_mut(at).is_none_or(|shelf| shelf.load(key, value)),
            None if shelf == ALERT && self.rules.alert.is_some() => self.alerts.load(key, value),
            None => true,
        };
        if !is_read {
            tracing::warn!(
                topic = self.topic,
                "what is stored of {}{shelf}/{key} can't be read, and is left out",
                self.prefix
            );
        }
    }

    /// Leaves out the rows of an alert that went out not long ago. `times`: the source's time of each change, in ms.
    ///
    /// # Errors
    /// The sentence for a person: a key column that the SELECT does not give.
    pub(super) fn pass(
        &mut self,
        rows: &RecordBatch,
        origins: &[RowOrigin],
        time: impl Fn(i64) -> Option<i64>,
    ) -> Result<Passed, String> {
        let Some(alert) = &self.rules.alert else {
            return Ok(Passed { rows: rows.clone(), origins: origins.to_vec(), held_back: 0 });
        };
        let column = |name: &String| {
            rows.column_by_name(name).cloned().ok_or_else(|| format!("alert.key: the SELECT gives no column `{name}`"))
        };
        let columns: Vec<ArrayRef> = alert.key.iter().map(column).collect::<Result<_, _>>()?;
        let mut goes = Vec::with_capacity(origins.len());
        for (row, origin) in origins.iter().enumerate() {
            let key = json_values(&columns, row);
            // Without a time nobody can say what is soon.
            let Some(at) = time(origin.offset) else {
                goes.push(true);
                continue;
            };
            let is_soon = self.alerts.get(&key).is_some_and(|last| at < last.saturating_add(alert.cool_down_ms));
            if !is_soon {
                self.forgotten += self.alerts.put(origin.offset, &key, at);
            }
            goes.push(!is_soon);
        }
        let held_back = goes.iter().filter(|goes| !**goes).count();
        let left = origins.iter().zip(&goes).filter(|(_, goes)| **goes).map(|(origin, _)| *origin).collect();
        let rows = filter_record_batch(rows, &BooleanArray::from(goes)).map_err(|e| e.to_string())?;
        Ok(Passed { rows, origins: left, held_back })
    }
}

/// The shelf of alerts in stored keys. No statistic can be called so.
const ALERT: &str = "ALERT";

/// Adds the statistics' columns to the changes of one source: of each row what came before it in its partition.
///
/// # Errors
/// When a column is not what it was when the SELECT was planned.
pub(super) fn with_statistics(
    rules: &Rules,
    source: &str,
    table: &RecordBatch,
    states: &mut BTreeMap<i32, &mut State>,
) -> Result<RecordBatch, ArrowError> {
    let (mut fields, mut columns) = (table.schema().fields().to_vec(), table.columns().to_vec());
    for (at, statistic) in rules.running.iter().enumerate().filter(|(_, statistic)| statistic.source == source) {
        let key = of_path(table, &statistic.key)?;
        let values = arrow_cast::cast(&of_path(table, &statistic.value)?, &DataType::Float64)?;
        let before = statistic.before(at, table, &key, values.as_primitive(), states)?;
        let parts: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(before.iter().map(|b| b.count))),
            Arc::new(before.iter().map(Running::mean).collect::<Float64Array>()),
            Arc::new(before.iter().map(Running::stddev).collect::<Float64Array>()),
        ];
        fields.push(Arc::new(Field::new(&statistic.name, DataType::Struct(statistics()), false)));
        columns.push(Arc::new(StructArray::try_new(statistics(), parts, None)?));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

impl Statistic {
    /// What came before each change; `at`: its place among the rules.
    fn before(
        &self,
        at: usize,
        table: &RecordBatch,
        key: &ArrayRef,
        values: &Float64Array,
        states: &mut BTreeMap<i32, &mut State>,
    ) -> Result<Vec<Running>, ArrowError> {
        let ops = changes::ops(table)?;
        let mut before = Vec::with_capacity(table.num_rows());
        for (row, (partition, offset)) in changes::places(table)?.into_iter().enumerate() {
            let state = states.get_mut(&partition).filter(|_| key.is_valid(row));
            let Some(shelf) = state.and_then(|state| state.running.get_mut(at)) else {
                before.push(Running::default());
                continue;
            };
            let key = json_values(std::slice::from_ref(key), row);
            let had = shelf.get(&key).copied().unwrap_or_default();
            before.push(had);
            let counts = self.ops.iter().any(|op| op == ops.value(row));
            if counts && values.is_valid(row) && values.value(row).is_finite() {
                let gone = shelf.put(offset, &key, had.and(values.value(row)));
                if let Some(state) = states.get_mut(&partition) {
                    state.forgotten += gone;
                }
            }
        }
        Ok(before)
    }
}

/// `after.amount`
fn of_path(table: &RecordBatch, path: &str) -> Result<ArrayRef, ArrowError> {
    let (image, column) = path.split_once('.').unwrap_or((path, ""));
    let found = table.column_by_name(image).and_then(|image| image.as_struct_opt()?.column_by_name(column).cloned());
    found.ok_or_else(|| ArrowError::SchemaError(format!("there is no column {path}")))
}

#[cfg(test)]
mod tests;
