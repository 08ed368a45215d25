//! A view that no thread keeps: the test says what it holds.

use super::*;
use crate::record::Record;

impl View {
    pub(in crate::pipeline::sidecar) fn still(topic: &PipelineTopic) -> Arc<Self> {
        Arc::new(Self {
            name: topic.table_name(),
            topic: topic.topic.clone(),
            settings: topic.clone(),
            named: Named::All,
            state: Mutex::default(),
            moved: Condvar::new(),
        })
    }

    /// As if its topic had held this change next.
    pub(in crate::pipeline::sidecar) fn take(&self, tellers: &Tellers, key: &str, value: &str) {
        let mut intake = Intake::new(options(&self.settings, Mode::Upsert, tellers.told())).unwrap();
        let record = Record {
            topic: &self.topic,
            key: Some(key.as_bytes()),
            value: Some(value.as_bytes()),
            ..Record::default()
        };
        assert_eq!(intake.push(&record, tellers.told()), Ok(Taken::Row));
        self.show(&mut intake).unwrap();
    }

    /// As if it had been where its topic ends.
    pub(in crate::pipeline::sidecar) fn loads(&self) {
        self.state().loaded = true;
        self.moved.notify_all();
    }
}
