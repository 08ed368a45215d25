//! How far snapshots are, by what their connector says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::debezium::signalling::{Notification, SnapshotEvent};

/// What a scan that brought all rows ends with.
const COMPLETE: [&str; 2] = ["SUCCEEDED", "EMPTY"];

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum State {
    /// It is not taken up yet.
    Waiting,
    Running,
    Paused,
    Done,
    Stopped,
    /// By the connector's word.
    Failed {
        why: String,
    },
}

impl State {
    pub fn is_over(&self) -> bool {
        matches!(self, State::Done | State::Stopped | State::Failed { .. })
    }
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Of the signal that began it.
    pub id: String,
    /// `schema.table`
    pub table: String,
    #[serde(flatten)]
    pub state: State,
    /// In the range when its reading began, where the connector says so.
    pub rows: Option<u64>,
    /// Chunks of rows that were read, some of them twice after a restart of the connector.
    pub chunks_read: u64,
    pub chunks: Option<u64>,
    /// Rows of the lake that were not sent, since their newest change is in the topic, or a dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<u64>,
    pub began_ms: i64,
    pub told_ms: i64,
    /// Chunks of the connector's lives before this one.
    #[serde(skip)]
    earlier: u64,
    #[serde(skip)]
    scanned: bool,
    /// How much of how much is done, where it does not go by chunks.
    #[serde(skip)]
    pub(super) share: Option<(u64, u64)>,
}

impl Progress {
    /// One that was asked for and not heard of.
    pub fn waiting(id: &str, table: &str, at_ms: i64) -> Self {
        Self {
            id: id.to_owned(),
            table: table.to_owned(),
            state: State::Waiting,
            rows: None,
            chunks_read: 0,
            chunks: None,
            left_out: None,
            began_ms: at_ms,
            told_ms: at_ms,
            earlier: 0,
            scanned: false,
            share: None,
        }
    }

    /// Hundredths of what is to be read; `None` where the connector does not say how much that is.
    pub fn percent(&self) -> Option<u64> {
        if self.state == State::Done {
            return Some(100);
        }
        let (done, of) = self.share.or_else(|| Some((self.chunks_read, self.chunks.filter(|chunks| *chunks > 0)?)))?;
        Some((done * 100 / of).min(99))
    }

    fn hear(&mut self, event: &SnapshotEvent) {
        match event {
            SnapshotEvent::Started { collections } => {
                self.table.clone_from(collections);
                self.state = State::Running;
            }
            SnapshotEvent::Chunk { index, chunks, rows } => {
                if let Some(index) = *index {
                    let here = self.chunks_read - self.earlier;
                    if index <= here {
                        self.earlier = self.chunks_read;
                    }
                    self.chunks_read = self.earlier + index;
                }
                self.chunks = chunks.or(self.chunks);
                self.rows = rows.or(self.rows);
                // What was paused goes on by itself after a restart.
                self.state = State::Running;
            }
            SnapshotEvent::Scanned { status } if COMPLETE.contains(&status.as_str()) => self.scanned = true,
            SnapshotEvent::Scanned { status } => self.state = State::Failed { why: reason(status) },
            SnapshotEvent::Paused => self.state = State::Paused,
            SnapshotEvent::Resumed => self.state = State::Running,
            SnapshotEvent::Stopped => self.state = State::Stopped,
            SnapshotEvent::Completed if self.state.is_over() => {}
            SnapshotEvent::Completed if self.scanned => self.state = State::Done,
            SnapshotEvent::Completed => self.state = State::Stopped,
        }
    }
}

fn reason(status: &str) -> String {
    match status {
        "SQL_EXCEPTION" => {
            "the source database refused the query: is there such a column, and may the connector's user read it? \
                            The connector's log has the error"
                .to_owned()
        }
        "UNKNOWN_SCHEMA" => "the connector does not capture the table".to_owned(),
        "NO_PRIMARY_KEY" => {
            "the table has no primary key: Debezium reads such tables anew only with a surrogate key".to_owned()
        }
        other => format!("the connector says {other}"),
    }
}

/// All snapshots that a connector spoke of, by their ids.
#[derive(Clone, Debug, Default)]
pub struct Snapshots(BTreeMap<String, Progress>);

impl Snapshots {
    pub fn hear(&mut self, notification: &Notification) {
        let Notification { id, at_ms, event, .. } = notification;
        let progress = self.0.entry(id.clone()).or_insert_with(|| Progress::waiting(id, "", *at_ms));
        progress.told_ms = *at_ms;
        progress.hear(event);
    }

    pub fn get(&self, id: &str) -> Option<&Progress> {
        self.0.get(id)
    }

    /// Those whose beginning was told, the newest last.
    pub fn in_order(&self) -> Vec<&Progress> {
        // A stop is told under an id of its own.
        let mut all: Vec<&Progress> = self.0.values().filter(|p| !p.table.is_empty()).collect();
        all.sort_by_key(|p| (p.began_ms, &p.id));
        all
    }

    /// The newest that is not over.
    pub fn running(&self) -> Option<&Progress> {
        self.in_order().into_iter().rfind(|p| !p.state.is_over())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(events: &[SnapshotEvent]) -> Snapshots {
        let mut all = Snapshots::default();
        for (at_ms, event) in (0..).zip(events) {
            all.hear(&Notification { id: "a".to_owned(), prefix: "p".to_owned(), at_ms, event: event.clone() });
        }
        all
    }

    fn started() -> SnapshotEvent {
        SnapshotEvent::Started { collections: "public.t".to_owned() }
    }

    fn chunk(index: u64) -> SnapshotEvent {
        SnapshotEvent::Chunk { index: Some(index), chunks: Some(34), rows: Some(34_559) }
    }

    fn scanned(status: &str) -> SnapshotEvent {
        SnapshotEvent::Scanned { status: status.to_owned() }
    }

    /// As Debezium 3.7 tells it: chunks are counted anew after a restart, and a pause does not outlive one.
    #[test]
    fn chunks_are_counted_through_restarts() {
        let mut events = vec![started(), chunk(1), chunk(2), SnapshotEvent::Paused];
        let paused = told(&events);
        assert_eq!((&paused.running().unwrap().state, paused.running().unwrap().percent()), (&State::Paused, Some(5)));
        events.extend([chunk(1), chunk(2), chunk(1)]);
        let on = told(&events);
        let on = on.running().unwrap();
        assert_eq!((&on.state, on.chunks_read, on.rows), (&State::Running, 5, Some(34_559)));
        events.extend((2..40).map(chunk));
        assert_eq!(told(&events).running().unwrap().percent(), Some(99), "the end alone is the end");
        events.extend([scanned("SUCCEEDED"), SnapshotEvent::Completed]);
        let done = told(&events);
        assert_eq!((done.get("a").unwrap().percent(), done.running()), (Some(100), None));
    }

    #[test]
    fn what_did_not_bring_all_rows_is_not_done() {
        let state = |events: &[SnapshotEvent]| told(events).get("a").unwrap().state.clone();
        assert_eq!(state(&[started(), scanned("EMPTY"), SnapshotEvent::Completed]), State::Done);
        assert_eq!(state(&[started(), chunk(1), SnapshotEvent::Completed]), State::Stopped, "stopped by a signal");
        let failed = state(&[started(), scanned("SQL_EXCEPTION"), SnapshotEvent::Completed]);
        assert!(matches!(failed, State::Failed { why } if why.contains("column")));
        assert!(matches!(state(&[started(), scanned("UNKNOWN_SCHEMA")]), State::Failed { .. }));
    }
}
