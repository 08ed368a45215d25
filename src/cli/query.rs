//! `firn query "SELECT ..."`.

use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_cast::pretty::pretty_format_batches_with_schema;
use clap::Args;

use super::print::Grid;
use super::sql::{Answer, query};
use super::{ConfigFile, Failure, Output, print};

#[derive(Debug, Args)]
pub(super) struct QueryArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// A SELECT, SHOW TABLES or DESCRIBE; tables are namespace.table
    #[arg(value_name = "SQL")]
    sql: String,
}

pub(super) async fn run(args: &QueryArgs, output: Output) -> Result<(), Failure> {
    let catalog = crate::catalogs::open(&args.config.load()?.catalog).await?;
    show(&query(catalog, &args.sql).await?, output)
}

/// Prints an answer in any format.
pub(super) fn show(answer: &Answer, output: Output) -> Result<(), Failure> {
    match output {
        Output::Text => {
            let table = pretty_format_batches_with_schema(answer.schema.clone(), &answer.batches).map_err(broken)?;
            print::text(&format!("{table}\n"))
        }
        Output::Json => {
            let mut writer = arrow_json::WriterBuilder::new()
                .with_explicit_nulls(true)
                .build::<_, arrow_json::writer::JsonArray>(Vec::new());
            writer.write_batches(&answer.batches.iter().collect::<Vec<_>>()).map_err(broken)?;
            writer.finish().map_err(broken)?;
            let json = String::from_utf8_lossy(&writer.into_inner()).into_owned();
            print::text(&format!("{}\n", if json.is_empty() { "[]" } else { &json }))
        }
        Output::Csv => print::text(&csv(answer).map_err(broken)?.to_csv()),
    }
}

fn csv(answer: &Answer) -> Result<Grid, arrow_schema::ArrowError> {
    let mut grid = Grid::new(answer.schema.fields().iter().map(|f| f.name().clone()));
    let options = FormatOptions::new();
    for batch in &answer.batches {
        let columns =
            batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options)).collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            grid.row(columns.iter().map(|c| c.value(row).to_string()));
        }
    }
    Ok(grid)
}

fn broken(error: impl std::error::Error + 'static) -> Failure {
    Failure::failed(format!("can't print the answer: {error}"))
}
