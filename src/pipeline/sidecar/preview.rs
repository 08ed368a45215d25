//! A pipeline tried on the last records of its topics: what it would read, what it would make of that. Nothing is written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::intake::{Intake, Taken, options};
use super::plan::{Plan, Unfit};
use super::state::{Rules, State, with_statistics};
use super::view::{Tellers, View};
use crate::batch::ChangeBatch;
use crate::change::{Mode, RowSchema, origin};
use crate::config::{Config, PipelineConfig, TableConfig};
use crate::debezium::DecodeOptions;
use crate::pipeline::{source_tables, wiring, writer_schemas};
use crate::position::TopicPartition;
use crate::source::kafka::{self, ClientSettings, partition_count, read_log, watermarks};
use crate::transform::changes;

/// How long a view may take to be loaded.
const LOADING: Duration = Duration::from_secs(60);

/// What a pipeline is, with rows that it would deliver now.
pub struct Preview {
    /// The sources and views: the table's name, its topic, its columns.
    pub tables: Vec<(String, String, SchemaRef)>,
    /// The columns of the SELECT.
    pub columns: SchemaRef,
    /// Whether each row comes from one change.
    pub traced: bool,
    /// How the SELECT is run.
    pub plan: String,
    pub rows: Vec<RecordBatch>,
    /// Records that can't be rows, and changes that the SELECT fails on: where they stand, and why.
    pub rejected: Vec<(String, String)>,
}

impl std::fmt::Debug for Preview {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Preview").field("columns", &self.columns).finish_non_exhaustive()
    }
}

/// Runs the pipeline over the last `records` records of each partition of its sources.
///
/// # Errors
/// The sentence for a person: there is no such pipeline, the SQL does not fit, a topic has no record, Kafka does not answer.
pub async fn preview(config: &Config, name: &str, records: i64) -> Result<Preview, String> {
    let pipeline = config.pipelines.iter().find(|p| p.name == name).ok_or_else(|| {
        let names: Vec<&str> = config.pipelines.iter().map(|p| p.name.as_str()).collect();
        format!("there is no pipeline {name}; there are: {}", names.join(", "))
    })?;
    let kafka = kafka::settings(&config.kafka.bootstrap_servers, config.kafka.properties.iter(), 16 << 20);
    let tellers = tellers(config)?;
    let memory = wiring::shared(config).memory;
    let (stop, stopping) = watch::channel(false);
    let views = pipeline.views.iter().map(|topic| {
        View::start(topic, &pipeline.sql, &kafka, &tellers, &memory, &Handle::current(), stopping.clone())
    });
    let views = views.collect::<Result<Vec<_>, _>>()?;
    let (pipeline, runtime) = (pipeline.clone(), Handle::current());
    let read = tokio::task::spawn_blocking(move || {
        let _runtime = runtime.enter();
        let outcome = look(&pipeline, &kafka, &tellers, views, records, &runtime);
        let _ = stop.send(true);
        outcome
    });
    read.await.map_err(|e| e.to_string())?
}

fn look(
    pipeline: &PipelineConfig,
    kafka: &ClientSettings,
    tellers: &Tellers,
    views: Vec<Arc<View>>,
    records: i64,
    runtime: &Handle,
) -> Result<Preview, String> {
    let mut rejected = Vec::new();
    let mut sources = Vec::new();
    for topic in &pipeline.sources {
        let options = options(topic, Mode::Append, tellers.told());
        let (columns, batches) = last(&topic.topic, options, kafka, tellers, records, &mut rejected)?;
        sources.push((topic, columns, batches));
    }
    let begun = Instant::now();
    while let Some(view) = views.iter().find(|view| !view.is_loaded()) {
        if begun.elapsed() > LOADING {
            return Err(format!("view {}: not loaded within {} s", view.name, LOADING.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let rules = Arc::new(Rules::of(pipeline));
    let mut plan = Plan::new(pipeline, views, Arc::clone(&rules));
    let columns: Vec<_> = sources.iter().map(|(topic, columns, _)| (topic.table_name(), columns.clone())).collect();
    let fit = |plan: &mut Plan| match runtime.block_on(plan.fit(&columns)) {
        Ok(_) => Ok(()),
        Err(Unfit::NotYet(why)) => Err(why),
        Err(Unfit::Wrong(e)) => Err(e.to_string()),
    };
    fit(&mut plan)?;
    let mut rows = Vec::new();
    for (topic, _, batches) in &sources {
        // As if these records were all that there are.
        let mut kept: BTreeMap<i32, State> = BTreeMap::new();
        for batch in batches {
            let table = changes::table(batch).map_err(|e| e.to_string())?;
            for (partition, _) in changes::places(&table).map_err(|e| e.to_string())? {
                kept.entry(partition).or_insert_with(|| State::trial(&rules));
            }
            let mut states = kept.iter_mut().map(|(partition, state)| (*partition, state)).collect();
            let table = with_statistics(&rules, &topic.table_name(), &table, &mut states).map_err(|e| e.to_string())?;
            let outcome = loop {
                match runtime.block_on(plan.run(&topic.table_name(), &table)).map_err(|e| e.to_string())? {
                    Some(outcome) => break outcome,
                    None => fit(&mut plan)?,
                }
            };
            let place = |p: i32, offset: i64| format!("{}/{p}@{offset}", topic.topic);
            rejected.extend(outcome.failing.into_iter().map(|f| (place(f.partition, f.offset), f.detail)));
            rows.extend(outcome.made.into_values().map(|made| made.rows));
        }
    }
    plan.shown(rows, rejected, pipeline)
}

/// The columns that the last records of a table's topic have, without firn's own; `None` where they hold no row.
///
/// # Errors
/// The sentence for a person: Kafka or the registry does not answer.
pub async fn last_columns(config: &Config, table: &TableConfig, records: i64) -> Result<Option<RowSchema>, String> {
    let kafka = kafka::settings(&config.kafka.bootstrap_servers, config.kafka.properties.iter(), 16 << 20);
    let tellers = tellers(config)?;
    let (table, runtime) = (table.clone(), Handle::current());
    let read = tokio::task::spawn_blocking(move || {
        let _runtime = runtime.enter();
        let options = wiring::decode_options(&table, tellers.told().sources.before());
        last(&table.topic, options, &kafka, &tellers, records, &mut Vec::new())
    });
    let (columns, _) = read.await.map_err(|e| e.to_string())??;
    Ok(columns.map(|mut columns| {
        columns.columns.retain(|column| !origin::is_own(&column.name));
        columns
    }))
}

fn tellers(config: &Config) -> Result<Tellers, String> {
    Ok(Tellers {
        schemas: Arc::new(writer_schemas(config).map_err(|e| e.to_string())?),
        sources: Arc::new(source_tables(config).map_err(|e| e.to_string())?),
    })
}

/// The columns and rows of the last records of a topic.
fn last(
    topic: &str,
    options: DecodeOptions,
    kafka: &ClientSettings,
    tellers: &Tellers,
    records: i64,
    rejected: &mut Vec<(String, String)>,
) -> Result<(Option<RowSchema>, Vec<ChangeBatch>), String> {
    let mut intake = Intake::new(options)?;
    let count = partition_count(kafka, topic).map_err(|e| format!("topic {topic}: {e}"))?;
    let partitions: Vec<_> = (0..count).map(|p| TopicPartition::new(topic, p)).collect();
    let mut kept: Vec<crate::letter::Letter> = Vec::new();
    for (at, low, high) in watermarks(kafka, &partitions).map_err(|e| e.to_string())? {
        let from = low.max(high - records);
        read_log(kafka, &at, from, high, |record| {
            let whole = crate::record::Rejected::new(record, "", String::new(), 0);
            kept.push(crate::letter::Letter::new("", &whole));
        })
        .map_err(|e| e.to_string())?;
    }
    // Twice: the columns are those of all of them.
    let mut batches = Vec::new();
    for round in 0..2 {
        batches.clear();
        for letter in &kept {
            let record = letter.record();
            let mut taken = intake.push(&record, tellers.told())?;
            if taken == Taken::Full {
                batches.push(intake.finish());
                taken = intake.push(&record, tellers.told())?;
            }
            if let Taken::Rejected { detail, .. } = taken
                && round == 1
            {
                rejected.push((record.origin().to_string(), detail));
            }
        }
        batches.push(intake.finish());
    }
    Ok((intake.columns().cloned(), batches))
}
