//! Notices that a person rewound a table, also while nothing comes for it that a commit would be refused for, and while it is stopped.

use std::sync::Arc;
use std::time::Duration;

use super::tables::Tables;

/// A table that committed, or was looked at, within this is not looked at: a commit tells of a rewind itself.
const QUIET_MS: u64 = 10_000;
/// At most one look within this, of all tables: a thousand quiet tables load the catalog no more than one busy table does.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// Runs until it is aborted.
pub async fn run(tables: Arc<Tables>) {
    loop {
        tokio::time::sleep(BETWEEN_LOOKS).await;
        let Some(table) = tables.quietest().filter(|table| table.quiet_ms() >= QUIET_MS) else { continue };
        match table.lake.generation().await {
            Ok(generation) => table.is_of(generation),
            Err(e) => {
                tracing::debug!(table = %table.name, "whether it was rewound can't be seen: {e}");
                table.heard();
            }
        }
    }
}
