//! Records that a sink's thread could not bring to a row, or the sink refused: on their way to the dead letters.

use std::sync::Arc;

use super::meter::Meter;
use crate::pipeline::share::{Limits, Share};
use crate::record::Rejected;
use crate::serve::Status;

/// Of one sink.
pub(super) struct Rejects {
    /// `pipeline.sink`.
    sink: String,
    status: Arc<Status>,
    limits: Limits,
    share: Share,
    too_many: Option<String>,
    /// Not yet written.
    pub letters: Vec<Rejected>,
}

impl Rejects {
    pub(super) fn new(sink: String, status: Arc<Status>, limits: Limits) -> Self {
        Self { sink, status, limits, share: Share::default(), too_many: None, letters: Vec::new() }
    }

    /// A record was read.
    pub(super) fn took(&mut self) {
        self.share.took(self.limits);
    }

    pub(super) fn push(&mut self, letter: Rejected, meter: &Meter) {
        let Rejected { origin, reason, detail, .. } = &letter;
        tracing::warn!(sink = self.sink, record = %origin, reason, "rejected: {detail}");
        meter.rejected(reason);
        self.status.update_sink(&self.sink, |s| s.rejected += 1);
        if let Some(why) = self.share.refused(self.limits) {
            self.too_many = Some(format!("{why}; the last one, {origin}: {reason}: {detail}"));
        }
        self.letters.push(letter);
    }

    /// Why nothing goes on: so many are bad that the statement or the topic is wrong.
    pub(super) fn too_many(&self) -> Option<&str> {
        self.too_many.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;

    #[test]
    fn few_bad_records_are_let_go_and_too_many_are_named() {
        let status = Arc::new(Status::default());
        let limits = Limits { max_share: 0.5, min_rows: 4 };
        let (mut rejects, meter) = (Rejects::new("p.s".to_owned(), Arc::clone(&status), limits), Meter::new("p.s"));
        let bad = |offset| {
            let record = Record { topic: "t", offset, ..Record::default() };
            Rejected::new(&record, "sql_failed", format!("trouble {offset}"), 0)
        };
        for offset in 0..8 {
            rejects.took();
            if offset % 3 == 0 {
                rejects.push(bad(offset), &meter);
            }
        }
        assert_eq!((rejects.letters.len(), rejects.too_many()), (3, None));
        for offset in 8..12 {
            rejects.took();
            rejects.push(bad(offset), &meter);
        }
        let why = rejects.too_many().unwrap();
        assert!(
            why.contains("dead_letters.max_share = 0.5") && why.contains("t/0@11: sql_failed: trouble 11"),
            "{why}"
        );
        assert_eq!(status.snapshot().sinks[0].rejected, 7);
    }
}
