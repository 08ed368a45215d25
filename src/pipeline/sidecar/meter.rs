//! The figures of one sink. Names and units are declared in `serve::metrics`.

use metrics::{Counter, Histogram, counter, gauge, histogram};

use super::latency::Latency;
use crate::position::TopicPartition;
use crate::serve::metrics as names;
use crate::serve::status::Quantiles;
use crate::sink::SinkError;

pub(super) struct Meter {
    sink: String,
    rows: Counter,
    delivery: Histogram,
    latency: Histogram,
    source_latency: Histogram,
    recent: Latency,
    recent_source: Latency,
}

impl Meter {
    pub(super) fn new(sink: &str) -> Self {
        let sink = || sink.to_owned();
        Self {
            rows: counter!(names::SINK_ROWS_TOTAL, "sink" => sink()),
            delivery: histogram!(names::SINK_DELIVERY_SECONDS, "sink" => sink()),
            latency: histogram!(names::SINK_LATENCY_SECONDS, "sink" => sink()),
            source_latency: histogram!(names::SINK_SOURCE_LATENCY_SECONDS, "sink" => sink()),
            recent: Latency::default(),
            recent_source: Latency::default(),
            sink: sink(),
        }
    }

    /// That many rows are visible now; the oldest came to Kafka, and was committed in its source, at these times.
    pub(super) fn delivered(
        &mut self,
        rows: usize,
        seconds: f64,
        now_ms: i64,
        kafka_ms: Option<i64>,
        source_ms: Option<i64>,
    ) {
        self.rows.increment(rows as u64);
        self.delivery.record(seconds);
        let since = |ms: i64| (now_ms - ms).max(0) as u64;
        if let Some(ms) = kafka_ms {
            self.latency.record_many(since(ms) as f64 / 1000.0, rows);
            self.recent.delivered(since(ms), rows);
        }
        if let Some(ms) = source_ms {
            self.source_latency.record_many(since(ms) as f64 / 1000.0, rows);
            self.recent_source.delivered(since(ms), rows);
        }
    }

    /// Of the last rows: since Kafka, since the source.
    pub(super) fn recent(&self) -> (Option<Quantiles>, Option<Quantiles>) {
        (self.recent.quantiles(), self.recent_source.quantiles())
    }

    pub(super) fn failed(&self, error: &SinkError) {
        let kind = match error {
            SinkError::Unavailable(_) | SinkError::Unfinished => "unavailable",
            SinkError::Moved(_) => "moved",
            SinkError::Refused(_) => "refused",
            SinkError::Stopped(_) => "stopped",
        };
        counter!(names::SINK_ERRORS_TOTAL, "sink" => self.sink.clone(), "kind" => kind).increment(1);
    }

    pub(super) fn rejected(&self, reason: &'static str) {
        counter!(names::SINK_REJECTED_TOTAL, "sink" => self.sink.clone(), "reason" => reason).increment(1);
    }

    /// So many writes were left out since the process began.
    pub(super) fn skipped(&self, writes: u64) {
        counter!(names::SINK_SKIPPED_WRITES_TOTAL, "sink" => self.sink.clone()).absolute(writes);
    }

    /// So many alerts came too soon after another of their key.
    pub(super) fn alerts_held_back(&self, rows: usize) {
        counter!(names::ALERTS_HELD_BACK_TOTAL, "sink" => self.sink.clone()).increment(rows as u64);
    }

    pub(super) fn keys_remembered(&self, keys: usize) {
        gauge!(names::STATE_KEYS, "sink" => self.sink.clone()).set(keys as f64);
    }

    pub(super) fn keys_forgotten(&self, keys: u64) {
        counter!(names::STATE_KEYS_FORGOTTEN_TOTAL, "sink" => self.sink.clone()).increment(keys);
    }

    pub(super) fn stopped(&self, stopped: bool) {
        gauge!(names::SINK_STOPPED, "sink" => self.sink.clone()).set(if stopped { 1.0 } else { 0.0 });
    }

    pub(super) fn lag(&self, at: &TopicPartition, records: i64) {
        let labels =
            [("sink", self.sink.clone()), ("topic", at.topic.clone()), ("partition", at.partition.to_string())];
        gauge!(names::SINK_LAG_RECORDS, &labels).set(records as f64);
    }
}

/// A join went on without what the view's topic had.
pub(super) fn view_timed_out(view: &str) {
    counter!(names::VIEW_TIMEOUTS_TOTAL, "view" => view.to_owned()).increment(1);
}
