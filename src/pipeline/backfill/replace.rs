//! Rows of the range that are deleted before it is read anew.

use super::{Affected, BackfillError, Effect, Range};
use crate::config::Config;
use crate::pipeline::sidecar::delete_between;

/// Deletes the range in every sink that fills in what is missing; how many rows each had.
pub(super) async fn delete(
    config: &Config,
    affected: &[Affected],
    range: &Range,
) -> Result<Vec<(String, u64)>, BackfillError> {
    let Some(column) = &range.column else {
        return Err(BackfillError::Refused("--replace needs a range: --from and --to".to_owned()));
    };
    let mut deleted = Vec::new();
    for Affected { sink, .. } in affected.iter().filter(|a| a.effect == Effect::FillsIn) {
        let rows = delete_between(config, sink, column, range.from_ms, range.to_ms).await;
        let rows = rows.map_err(|why| BackfillError::Refused(format!("{sink}: {why}")))?;
        deleted.push((sink.clone(), rows));
    }
    Ok(deleted)
}
