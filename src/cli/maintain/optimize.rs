//! `firn maintain compact --engine trino`: firn plans, Trino rewrites.

use firn_catalog::Catalog;
use iceberg::TableIdent;
use serde::Serialize;

use super::super::{Failure, Output};
use super::{Outcome, answer};
use crate::maintain::compact::{CompactReport, Compaction};
use crate::maintain::trino::{Optimized, Trino, condition, optimize};

/// What was rewritten, and what lost to other writers each time.
#[derive(Debug, Serialize)]
struct Shown {
    /// Files that were worth it, before.
    files: usize,
    bytes: u64,
    partitions: usize,
    statements: usize,
    lost: Vec<String>,
}

pub(super) async fn run(
    trino: &Trino,
    catalog: &dyn Catalog,
    plans: &Compaction,
    tables: &[TableIdent],
    output: Output,
) -> Result<(), Failure> {
    let mut outcomes = Vec::new();
    let mut lost = Vec::new();
    for table in tables {
        let shown = one(trino, catalog, plans, table).await;
        if shown.as_ref().is_ok_and(|shown| !shown.lost.is_empty()) {
            lost.push(table.to_string());
        }
        outcomes.push(Outcome::new(table, shown));
    }
    answer(&outcomes, output, Shown::text)?;
    match lost.is_empty() {
        true => Ok(()),
        false => Err(Failure::failed(format!("not all of {} was rewritten; run it again to go on", lost.join(", ")))),
    }
}

/// Compacts by Trino what the plan of `compaction` finds worth it; `compaction` is a dry run.
async fn one(
    trino: &Trino,
    catalog: &dyn Catalog,
    compaction: &Compaction,
    table: &TableIdent,
) -> Result<Shown, Failure> {
    let plan = compaction.run(table).await.map_err(Failure::from)?;
    let mut partitions: Vec<&str> = plan.groups.iter().map(|g| g.partition.as_str()).collect();
    partitions.sort_unstable();
    partitions.dedup();
    if partitions.is_empty() {
        return Ok(Shown::of(&plan, 0, Optimized::default()));
    }
    let metadata = catalog.load(table).await?;
    let conditions: Option<Vec<String>> =
        partitions.iter().map(|partition| condition(metadata.metadata(), partition)).collect();
    // Where one can't be said, it is the whole table at once.
    let conditions = conditions.unwrap_or_else(|| vec![String::new()]);
    let done = optimize(trino, table, plan.target_bytes / 4 * 3, &conditions).await?;
    Ok(Shown::of(&plan, partitions.len(), done))
}

impl Shown {
    fn of(plan: &CompactReport, partitions: usize, done: Optimized) -> Self {
        Self {
            files: plan.groups.iter().map(|g| g.files).sum(),
            bytes: plan.bytes_before,
            partitions,
            statements: done.statements,
            lost: done.lost,
        }
    }

    fn text(&self) -> String {
        let Self { files, bytes, partitions, statements, lost, .. } = self;
        if self.statements == 0 {
            return "nothing to rewrite".to_owned();
        }
        let mut text = format!(
            "Trino rewrote what was worth it: {files} files of {bytes} bytes in {partitions} partitions, by {statements} statements"
        );
        for condition in lost {
            let which = if condition.is_empty() { "the table" } else { condition.as_str() };
            text += &format!("\n  lost to other writers each time, run it again: {which}");
        }
        text
    }
}
