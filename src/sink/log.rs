//! Rows as lines of firn's own log, one of JSON for each: for alerts that a person or a log collector reads.
//!
//! A line can't be taken back, and a position not be kept with it: after a crash the last delivery may stand in the log twice.

use std::collections::BTreeMap;
use std::fmt;

use arrow_schema::SchemaRef;
use async_trait::async_trait;
use tracing::Level;

use super::keeping::Kept;
use super::ledger::Ledger;
use super::note::{self, Note};
use super::{Delivery, Sink, SinkError, Standing, text};
use crate::position::TopicPartition;

/// One pipeline's rows in the log.
pub struct LogSink {
    level: Level,
    /// `<pipeline>.<sink>`, in every line.
    name: String,
    ledger: Box<dyn Ledger>,
    held: BTreeMap<TopicPartition, Held>,
}

/// A partition that was taken over.
#[derive(Debug)]
struct Held {
    /// `None` where nothing was ever delivered.
    next: Option<i64>,
    note: Note,
    /// The delivery whose lines are written, and its position not stored yet.
    written: Option<(i64, i64)>,
}

impl fmt::Debug for LogSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogSink").field("name", &self.name).finish_non_exhaustive()
    }
}

impl LogSink {
    /// `ledger` keeps its positions.
    pub fn new(level: Level, name: &str, ledger: Box<dyn Ledger>) -> Self {
        Self { level, name: name.to_owned(), ledger, held: BTreeMap::new() }
    }
}

fn write(level: Level, sink: &str, delivery: &Delivery) {
    let names = delivery.rows.schema();
    for row in 0..delivery.rows.num_rows() {
        let mut json = Vec::new();
        let columns = names.fields().iter().map(|f| f.name().as_str()).zip(delivery.rows.columns());
        text::object(columns, row, &mut json);
        let row = String::from_utf8_lossy(&json);
        match level {
            Level::ERROR => tracing::error!(sink, "{row}"),
            Level::WARN => tracing::warn!(sink, "{row}"),
            _ => tracing::info!(sink, "{row}"),
        }
    }
}

#[async_trait]
impl Sink for LogSink {
    async fn prepare(&mut self, _columns: &SchemaRef) -> Result<(), SinkError> {
        Ok(())
    }

    async fn take_over(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Option<Standing>>, SinkError> {
        let mut standings = Vec::with_capacity(partitions.len());
        for at in partitions {
            self.held.remove(at);
            let entry = self.ledger.take_over(at).await?;
            let note = Note::of(at, entry.as_ref())?;
            let next = entry.map(|entry| entry.next);
            standings.push(next.map(|next| note.standing(next)));
            self.held.insert(at.clone(), Held { next, note, written: None });
        }
        Ok(standings)
    }

    async fn deliver(&mut self, delivery: &Delivery) -> Result<(), SinkError> {
        let span = &delivery.span;
        let at = &span.at;
        let Some(held) = self.held.get_mut(at) else {
            return Err(SinkError::Moved(format!("{at}: not taken over, or lost to another process")));
        };
        held.note.same_topic(span)?;
        if let Some(next) = held.next.filter(|next| *next != span.from) {
            return Err(SinkError::Moved(format!(
                "{at}: the sink stands at offset {next}, the delivery is {}..{}",
                span.from, span.next
            )));
        }
        if span.topic_id.is_some() {
            held.note.topic_id.clone_from(&span.topic_id);
        }
        if held.written.replace((span.from, span.next)) != Some((span.from, span.next)) {
            write(self.level, &self.name, delivery);
        }
        let mut note = held.note.clone();
        let messages = note.keep(&delivery.keeping, span.from, span.next);
        match self.ledger.commit(at, &note.entry(span.next), &messages).await {
            Ok(()) => {
                held.note = note;
                held.next = Some(span.next);
                held.written = None;
                Ok(())
            }
            Err(e) => {
                if matches!(e, SinkError::Moved(_)) {
                    self.held.remove(at);
                }
                Err(e)
            }
        }
    }

    fn kept(&self, at: &TopicPartition) -> Option<Kept> {
        self.held.get(at).map(|held| held.note.kept())
    }

    async fn rewind(&mut self, to: &[(TopicPartition, i64)]) -> Result<(), SinkError> {
        to.iter().for_each(|(at, _)| drop(self.held.remove(at)));
        note::rewind(self.ledger.as_mut(), to).await
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use arrow_array::{ArrayRef, Int64Array, RecordBatch};

    use super::*;
    use crate::position::Span;
    use crate::sink::conformance::ledger::Books;
    use crate::sink::keeping::Keeping;
    use crate::sink::ledger::Entry;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Written {
        fn rows(&self) -> Vec<String> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            let row = |line: &str| line[line.find('{').unwrap()..=line.find('}').unwrap()].to_owned();
            text.lines().filter(|line| line.contains("WARN") && line.contains("alerts.log")).map(row).collect()
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn delivery(from: i64, next: i64) -> Delivery {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(from..next));
        let span = Span::new(TopicPartition::new("t", 0), from, next);
        Delivery {
            span,
            rows: RecordBatch::try_from_iter([("id", ids)]).unwrap(),
            origins: None,
            keeping: Keeping::default(),
        }
    }

    #[tokio::test]
    async fn each_row_is_a_line_once_unless_a_process_ends_between_line_and_position() {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let books = Books::default();
        let at = TopicPartition::new("t", 0);
        let mut sink = LogSink::new(Level::WARN, "alerts.log", books.open());
        assert_eq!(sink.take_over(std::slice::from_ref(&at)).await.unwrap(), [None]);
        sink.deliver(&delivery(0, 2)).await.unwrap();
        books.fail(2);
        for _ in 0..2 {
            assert!(matches!(sink.deliver(&delivery(2, 3)).await, Err(SinkError::Unavailable(_))));
        }
        sink.deliver(&delivery(2, 3)).await.unwrap();
        assert_eq!(written.rows(), [r#"{"id":0}"#, r#"{"id":1}"#, r#"{"id":2}"#]);

        assert!(matches!(sink.deliver(&delivery(0, 2)).await, Err(SinkError::Moved(_))));
        let mut other = LogSink::new(Level::WARN, "alerts.log", books.open());
        let standing = other.take_over(std::slice::from_ref(&at)).await.unwrap().remove(0).unwrap();
        assert_eq!((standing.next, standing.until), (3, None));
        assert!(matches!(sink.deliver(&delivery(3, 3)).await, Err(SinkError::Moved(_))), "taken over");
        other.rewind(&[(at.clone(), 1)]).await.unwrap();
        let note = |entry: Option<Entry>| Note::of(&at, entry.as_ref()).unwrap();
        let before = note(books.history().into_iter().rev().nth(1));
        let rewound = note(books.entry(&at));
        assert_eq!(
            (rewound.clone(), books.entry(&at).unwrap().next),
            (Note { generation: rewound.generation, ..Note::default() }, 1)
        );
        assert!(rewound.generation > before.generation);
    }
}
