//! When a run that is to end by itself has nothing more to do.

use std::time::{Duration, Instant};

use crate::serve::Status;
use crate::serve::status::{ConsumerState, LastError, Snapshot, TableState};

const LOOK: Duration = Duration::from_millis(250);

/// Returns once nothing was read, delivered or committed for so long, and nothing that is read waits or fails.
pub(super) async fn wait(status: &Status, idle: Duration) {
    let (mut seen, mut since) = (None, Instant::now());
    while since.elapsed() < idle {
        tokio::time::sleep(LOOK).await;
        let now = status.snapshot();
        let shown = Some(moves(&now));
        if shown != seen || !is_well(&now) {
            (seen, since) = (shown, Instant::now());
        }
    }
}

/// What moves while there is something to do.
fn moves(now: &Snapshot) -> Vec<i64> {
    let tables = now.tables.iter().flat_map(|t| {
        let partitions = t.partitions.values().flat_map(|p| [p.committed, p.end]);
        [t.rows as i64, t.rejected as i64, t.skipped as i64, at(t.last_error.as_ref())].into_iter().chain(partitions)
    });
    let sinks = now.sinks.iter().flat_map(|s| {
        let partitions = s.partitions.values().flat_map(|p| [p.committed, p.end]);
        [s.rows as i64, s.rejected as i64, at(s.last_error.as_ref())].into_iter().chain(partitions)
    });
    tables.chain(sinks).collect()
}

/// Each failed try is one of its own.
fn at(error: Option<&LastError>) -> i64 {
    error.map_or(0, |e| e.at_ms)
}

/// Whether all that is to be read is being read.
fn is_well(now: &Snapshot) -> bool {
    let stopped = |state: &TableState| matches!(state, TableState::Stopped { .. });
    let waiting = now.sinks.iter().any(|s| s.partitions.is_empty() || s.is_busy);
    matches!(now.consumer, ConsumerState::Assigned { .. })
        && !waiting
        && !now.tables.iter().any(|t| stopped(&t.state))
        && !now.sinks.iter().any(|s| stopped(&s.state))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn it_waits_while_something_moves_or_is_not_read_yet() {
        let status = Arc::new(Status::default());
        let waited = Instant::now();
        let told = tokio::spawn({
            let status = Arc::clone(&status);
            async move {
                for rows in 1..4 {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    status.set_consumer(ConsumerState::Assigned { partitions: 1 });
                    status.update("t", |t| t.rows = rows);
                }
            }
        });
        wait(&status, Duration::from_millis(600)).await;
        told.await.unwrap();
        assert_eq!(status.snapshot().tables[0].rows, 3);
        assert!(waited.elapsed() >= Duration::from_millis(1_500), "{:?}", waited.elapsed());
    }
}
