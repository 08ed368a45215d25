//! `firn table sweep`

use clap::Args;

use super::super::exit::{Code, Failure, of_catalog};
use super::super::{Output, print};
use super::OneTable;
use crate::pipeline::{SweepError, sweep};
use crate::sink::lake::LakeError;
use crate::source::kafka::SourceError;

/// Keys shown.
const KEYS_SHOWN: usize = 20;

#[derive(Debug, Args)]
pub(in crate::cli) struct SweepArgs {
    #[command(flatten)]
    of: OneTable,
    /// Only show what would be removed
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(args: &SweepArgs, output: Output) -> Result<(), Failure> {
    output.not_csv()?;
    let config = args.of.config.load()?;
    let catalog = crate::catalogs::open(&config.catalog).await?;
    let ident = super::load(catalog.as_ref(), &args.of.table).await?.identifier().clone();
    let swept = sweep(&config, catalog, &ident, args.dry_run, KEYS_SHOWN).await?;
    if output == Output::Json {
        return print::json(&swept);
    }
    let mut text = match swept.snapshot_id {
        Some(id) => format!("removed {} rows from {} in snapshot {id}\n", swept.rows, swept.table),
        None if swept.rows == 0 => {
            format!(
                "nothing to remove: the snapshot at LSN {} found every row that can be judged\n",
                swept.snapshot_lsn
            )
        }
        None => format!("{} rows of {} would be removed\n", swept.rows, swept.table),
    };
    for key in &swept.keys {
        text += &format!("  {key}\n");
    }
    let more = swept.rows.saturating_sub(swept.keys.len() as u64);
    if more > 0 {
        text += &format!("  and {more} more\n");
    }
    if !swept.unjudged.is_empty() {
        let partitions = swept.unjudged.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        text += &format!(
            "not judged: the rows of partitions {partitions} of {}, whose logs begin after the snapshot did\n",
            swept.topic
        );
    }
    print::text(&text)
}

impl From<SweepError> for Failure {
    fn from(e: SweepError) -> Self {
        let code = match &e {
            SweepError::Lake(LakeError::Catalog(c)) | SweepError::Undecided(c) => of_catalog(c),
            SweepError::Source(SourceError::Unreachable { .. }) => Code::Unreachable,
            _ => Code::Failed,
        };
        Self::from_error(code, &e)
    }
}
