//! What a feed tells of its progress: figures for metrics and the status page.

use super::Feed;
use crate::change::Mode;
use crate::source::kafka::KafkaSource;

impl Feed {
    /// Tells how far the table is behind the log's end, as of the last fetch.
    pub fn report(&self, source: &KafkaSource) {
        for (at, committed) in self.places.committed() {
            if let Some(high) = source.cached_high(&at) {
                self.handle.lag(&at, committed, high);
            }
        }
    }

    /// Counts what was read since it was last told.
    pub fn tell(&mut self) {
        if self.told.0 == self.taken && self.told.1 == self.refused {
            return;
        }
        let (taken, refused, skipped) = std::mem::replace(&mut self.told, (self.taken, self.refused, self.skipped));
        self.handle.meter.read(self.taken - taken, self.decoder.take_infinite());
        let unavailable = self.decoder.take_unavailable();
        if self.handle.lake.spec().mode == Mode::Append {
            self.handle.meter.unavailable("marked", unavailable);
        }
        self.handle.counted(self.refused - refused, self.skipped - skipped);
    }
}
