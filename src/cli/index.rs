//! `firn index verify`

use clap::Subcommand;

use super::exit::{Code, Failure};
use super::table::OneTable;
use super::{Output, print};
use crate::pipeline::verify_indexes;
use crate::sink::lake::IndexReport;

#[derive(Debug, Subcommand)]
pub(super) enum IndexCommand {
    /// Hold the stored indexes of a table against its live rows; a process that runs keeps its own to itself
    Verify(OneTable),
}

pub(super) async fn run(command: &IndexCommand, output: Output) -> Result<(), Failure> {
    output.not_csv()?;
    let IndexCommand::Verify(args) = command;
    let config = args.config()?;
    let ident = args.load().await?.identifier().clone();
    let reports = verify_indexes(&config, &ident).await?;
    match output {
        Output::Json => print::json(&reports)?,
        _ if reports.is_empty() => print::text(&format!(
            "{ident} has no index in {}: it is built by a scan when it is needed\n",
            config.index.dir.display()
        ))?,
        _ => print::text(&reports.iter().map(line).collect::<String>())?,
    }
    match reports.iter().find(|report| !report.is_right()) {
        Some(wrong) => Err(Failure::new(
            Code::Failed,
            format!("the index in {0} is not right: delete {0}, it is built anew", wrong.folder.display()),
        )),
        None => Ok(()),
    }
}

fn line(report: &IndexReport) -> String {
    let folder = report.folder.display();
    if report.in_use {
        return format!("{folder}: a process that runs has it; stop it to compare\n");
    }
    if report.partitions == 0 {
        return format!("{folder}: empty; it is filled by a scan when it is needed\n");
    }
    format!(
        "{folder}: {} rows of {} partitions, {} missing, {} misplaced, {} under another row id; {} entries, {} bytes on disk\n",
        report.rows,
        report.partitions,
        report.missing,
        report.misplaced,
        report.misnumbered,
        report.entries,
        report.bytes_on_disk
    )
}
