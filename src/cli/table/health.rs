//! `firn table health`

use std::fmt::Write;

use clap::Args;
use serde::Serialize;

use super::super::{ConfigFile, Failure, Output, print};
use super::utc;
use crate::maintain::health::{Health, SizeClass, health};
use crate::maintain::horizon_ms;

#[derive(Debug, Args)]
pub(in crate::cli) struct HealthArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// namespace.table [default: all Iceberg tables of the catalog]
    #[arg(value_name = "TABLE")]
    tables: Vec<String>,
}

/// A table, or why it can't be looked at.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Looked {
    At(Box<Health>),
    Failed { table: String, error: String },
}

pub(super) async fn run(args: &HealthArgs, output: Output) -> Result<(), Failure> {
    output.not_csv()?;
    let config = args.config.load()?;
    let catalog = crate::catalogs::open(&config.catalog).await?;
    let mut tables = Vec::new();
    for name in &args.tables {
        tables.push(super::load(catalog.as_ref(), name).await?.identifier().clone());
    }
    if args.tables.is_empty() {
        tables = super::names(catalog.as_ref()).await?;
    }
    let mut looked = Vec::new();
    let mut failure: Option<Failure> = None;
    for ident in tables {
        let of = async { health_of(catalog.load(&ident).await?, &config).await };
        looked.push(match of.await {
            Ok(health) => Looked::At(Box::new(health)),
            // One broken table must not hide the others.
            Err(e) => {
                let error = e.to_string();
                let worse = Failure::from(e);
                failure = failure.filter(|worst| worst.code() as u8 >= worse.code() as u8).or(Some(worse));
                Looked::Failed { table: ident.to_string(), error }
            }
        });
    }
    match output {
        Output::Json => print::json(&looked)?,
        _ => print::text(&looked.iter().map(text).collect::<Vec<_>>().join("\n"))?,
    }
    failure.map_or(Ok(()), Err)
}

async fn health_of(table: iceberg::table::Table, config: &crate::config::Config) -> firn_catalog::Result<Health> {
    health(&table, horizon_ms(config, &table)).await
}

fn text(looked: &Looked) -> String {
    let health = match looked {
        Looked::At(health) => health,
        Looked::Failed { table, error } => return format!("{table}: {error}\n"),
    };
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String does not fail.
        let _ = writeln!(out, "{name:<14}{value}");
    };
    let (files, deletes, scan) = (&health.files, &health.deletes, &health.scan);
    line("table", health.table.clone());
    line(
        "data files",
        format!(
            "{} in {} partitions, {} bytes, {} rows; {} are small (target {} bytes)",
            files.count, files.partitions, files.bytes, files.rows, files.small, files.target_bytes
        ),
    );
    for class in files.sizes.iter().filter(|c| c.files > 0) {
        line("", format!("{:<16}{} files, {} bytes", bound(class), class.files, class.bytes));
    }
    line(
        "deletes",
        format!(
            "{} position delete files, {} deletion vectors, {} equality delete files; {} rows, {:.1} % of all",
            deletes.position_files,
            deletes.vectors,
            deletes.equality_files,
            deletes.rows,
            deletes.ratio * 100.0
        ),
    );
    line(
        "manifests",
        format!(
            "{} of data, {} of deletes, {} bytes",
            health.manifests.data, health.manifests.deletes, health.manifests.bytes
        ),
    );
    let oldest = health.snapshots.oldest_ms.map_or_else(String::new, |ms| format!(", the oldest of {}", utc(ms)));
    let snapshots = &health.snapshots;
    line("snapshots", format!("{}{oldest}; {} metadata files", snapshots.count, snapshots.metadata_files));
    line(
        "a full scan",
        format!(
            "{} files, {} bytes, {} manifests: at least {} requests",
            scan.files, scan.bytes, scan.manifests, scan.requests
        ),
    );
    if health.advice.is_empty() {
        line("advice", "none: the table is in order".to_owned());
    }
    for advice in &health.advice {
        line("advice", format!("{}: `{}`", advice.why, advice.command));
    }
    out
}

fn bound(class: &SizeClass) -> String {
    class.below_bytes.map_or_else(|| "larger".to_owned(), |bytes| format!("below {} MiB", bytes >> 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maintain::health::{Advice, Files};

    #[test]
    fn advice_stands_with_its_command() {
        let advice = Advice { why: "9 files are small".to_owned(), command: "firn maintain compact a.t".to_owned() };
        let sizes = vec![
            SizeClass { below_bytes: Some(1 << 20), files: 9, bytes: 90 },
            SizeClass { below_bytes: None, files: 0, bytes: 0 },
        ];
        let files = Files { count: 9, sizes, ..Files::default() };
        let health = Health { table: "a.t".to_owned(), files, advice: vec![advice], ..Health::default() };
        let text = text(&Looked::At(Box::new(health)));
        assert!(text.contains("9 files are small: `firn maintain compact a.t`"), "{text}");
        assert!(text.contains("below 1 MiB     9 files, 90 bytes") && !text.contains("larger"), "{text}");
    }
}
