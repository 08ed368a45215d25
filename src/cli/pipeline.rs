//! `firn pipeline list|explain|preview`

use clap::{Args, Subcommand};
use serde::Serialize;

use super::print::Grid;
use super::query::show;
use super::sql::Answer;
use super::{ConfigFile, Failure, Output, print};
use crate::pipeline::{Preview, preview};

/// Records of each partition whose columns are looked at by `explain`.
const LOOKED_AT: i64 = 10;

#[derive(Debug, Subcommand)]
pub(super) enum PipelineCommand {
    /// The pipelines of the configuration, with their topics and sinks
    List(ConfigFile),
    /// What a pipeline reads, and the columns that it delivers
    Explain(OnePipeline),
    /// Rows that a pipeline would deliver for the last records of its topics; nothing is written
    Preview {
        #[command(flatten)]
        pipeline: OnePipeline,
        /// Last records of each partition
        #[arg(short, long, default_value_t = 10, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        number: i64,
    },
}

#[derive(Debug, Args)]
pub(super) struct OnePipeline {
    #[command(flatten)]
    config: ConfigFile,
    /// The pipeline's name
    #[arg(value_name = "PIPELINE")]
    name: String,
}

#[derive(Serialize)]
struct Listed<'a> {
    pipeline: &'a str,
    sources: Vec<&'a str>,
    views: Vec<&'a str>,
    sinks: Vec<&'a str>,
}

#[derive(Serialize)]
struct Described {
    name: String,
    #[serde(rename = "type")]
    data_type: String,
}

#[derive(Serialize)]
struct Table {
    name: String,
    topic: String,
    columns: Vec<Described>,
}

#[derive(Serialize)]
struct Explained {
    pipeline: String,
    tables: Vec<Table>,
    columns: Vec<Described>,
    /// Whether each row comes from one change: else refused rows can't be told from others, and stop the sink.
    traced: bool,
    plan: String,
}

pub(super) async fn run(command: &PipelineCommand, output: Output) -> Result<(), Failure> {
    match command {
        PipelineCommand::List(file) => list(file, output),
        PipelineCommand::Explain(one) => {
            output.not_csv()?;
            let preview = preview(&one.config.load()?, &one.name, LOOKED_AT).await.map_err(Failure::failed)?;
            explain(&one.name, preview, output)
        }
        PipelineCommand::Preview { pipeline, number } => {
            let preview = preview(&pipeline.config.load()?, &pipeline.name, *number).await.map_err(Failure::failed)?;
            for (record, why) in &preview.rejected {
                tracing::warn!("{record}: {why}");
            }
            show(&Answer { schema: preview.columns, batches: preview.rows }, output)
        }
    }
}

fn list(file: &ConfigFile, output: Output) -> Result<(), Failure> {
    let config = file.load()?;
    let listed: Vec<Listed<'_>> = config
        .pipelines
        .iter()
        .map(|p| Listed {
            pipeline: &p.name,
            sources: p.sources.iter().map(|t| t.topic.as_str()).collect(),
            views: p.views.iter().map(|t| t.topic.as_str()).collect(),
            sinks: p.sink_names().collect(),
        })
        .collect();
    let mut grid = Grid::new(["pipeline", "sources", "views", "sinks"]);
    for l in &listed {
        grid.row([l.pipeline.to_owned(), l.sources.join(" "), l.views.join(" "), l.sinks.join(" ")]);
    }
    grid.print(output, &listed)
}

fn explain(name: &str, preview: Preview, output: Output) -> Result<(), Failure> {
    let described = |columns: &arrow_schema::Schema| -> Vec<Described> {
        let column = |f: &std::sync::Arc<arrow_schema::Field>| Described {
            name: f.name().clone(),
            data_type: f.data_type().to_string(),
        };
        columns.fields().iter().map(column).collect()
    };
    let table = |(name, topic, columns): (String, String, arrow_schema::SchemaRef)| Table {
        name,
        topic,
        columns: described(&columns),
    };
    let explained = Explained {
        pipeline: name.to_owned(),
        columns: described(&preview.columns),
        tables: preview.tables.into_iter().map(table).collect(),
        traced: preview.traced,
        plan: preview.plan,
    };
    if output == Output::Json {
        return print::json(&explained);
    }
    let mut text = String::new();
    for t in &explained.tables {
        text += &format!("{} (topic {})\n", t.name, t.topic);
        for c in &t.columns {
            text += &format!("    {}: {}\n", c.name, c.data_type);
        }
    }
    let mut grid = Grid::new(["column", "type"]);
    for c in &explained.columns {
        grid.row([c.name.clone(), c.data_type.clone()]);
    }
    let origin =
        if explained.traced { "each row comes from one change" } else { "a row may come from several changes" };
    print::text(&format!("{text}\nDelivered ({origin}):\n{}\n{}\n", grid.to_text(), explained.plan))
}
