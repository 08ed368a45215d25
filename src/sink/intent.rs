//! Sinks that can't change rows and position in one step: a range is stored before it is sent.
//!
//! Of each partition one [`Intent`] is stored, the last: which range was begun, and whether it is finished. It changes by
//! compare-and-set alone: every change has the number of the one that it follows plus one, and of two with the same number the
//! store keeps the first. So a range is begun by one process, and who was taken over from finds out at its next change.
//!
//! Knows nothing of where an intent is stored.

use super::{SinkError, Standing};
use crate::position::Span;

/// What is stored of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Counts the changes, from 1.
    pub number: u64,
    /// Counts rewinds: part of every token, so that what is delivered again is not taken for a repetition.
    pub generation: u64,
    /// Who made the change: one name for each life of a process.
    pub writer: String,
    pub topic_id: Option<String>,
    /// The range `[from, next)`.
    pub from: i64,
    pub next: i64,
    /// When the range was begun by the clock of who began it, but always later than the one before.
    pub begun_ms: u64,
    /// The sink has every row of it. Otherwise it is sent again, with the same bounds and tokens.
    pub finished: bool,
}

/// What a delivery means to a partition's last intent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// It is to be stored first.
    New(Intent),
    /// Its range is stored: begun before, and not finished.
    Again,
    /// It was finished before.
    Done,
}

impl Intent {
    /// Where the sink stands; `None` where no range was ever begun.
    pub fn standing(&self) -> Option<Standing> {
        let (next, until) = if self.finished { (self.next, None) } else { (self.from, Some(self.next)) };
        (next != Self::NOWHERE).then(|| Standing { next, until, topic_id: self.topic_id.clone() })
    }

    /// Where a partition stands that was taken over before anything was delivered. No offset is negative.
    const NOWHERE: i64 = -1;

    /// The change by which `writer` becomes the only one that can change it.
    pub fn taken_over(last: Option<&Intent>, writer: &str) -> Self {
        match last {
            Some(last) => Self { number: last.number + 1, writer: writer.to_owned(), ..last.clone() },
            None => Self {
                number: 1,
                generation: 0,
                writer: writer.to_owned(),
                topic_id: None,
                from: Self::NOWHERE,
                next: Self::NOWHERE,
                begun_ms: 0,
                finished: true,
            },
        }
    }

    /// What has to be stored before the rows of `span` are sent; `finished` where it has none. `now_ms` is the time.
    ///
    /// # Errors
    /// [`SinkError::Moved`] where the span does not follow; [`SinkError::Stopped`] where it is of another topic of the same name.
    pub fn begin(&self, span: &Span, finished: bool, now_ms: u64) -> Result<Begin, SinkError> {
        if let (Some(stored), Some(read)) = (&self.topic_id, &span.topic_id)
            && stored != read
        {
            return Err(SinkError::Stopped(format!(
                "topic {} was made anew: the stored offsets belong to topic id {stored}, Kafka now has {read}; \
                 `firn rewind` sets the sink to an offset of the new topic",
                span.at.topic
            )));
        }
        if (self.from, self.next) == (span.from, span.next) {
            return Ok(if self.finished { Begin::Done } else { Begin::Again });
        }
        let (at, from, next) = (&span.at, span.from, span.next);
        if !self.finished {
            return Err(SinkError::Moved(format!(
                "{at}: the range {}..{} is begun and has to be finished first, the delivery is {from}..{next}",
                self.from, self.next
            )));
        }
        if from != self.next && self.standing().is_some() {
            return Err(SinkError::Moved(format!(
                "{at}: the sink stands at offset {}, the delivery is {from}..{next}",
                self.next
            )));
        }
        Ok(Begin::New(Self {
            number: self.number + 1,
            topic_id: span.topic_id.clone().or_else(|| self.topic_id.clone()),
            from,
            next,
            begun_ms: now_ms.max(self.begun_ms + 1),
            finished,
            ..self.clone()
        }))
    }

    /// The change that says that the sink has every row.
    #[must_use]
    pub fn finish(&self) -> Self {
        Self { number: self.number + 1, finished: true, ..self.clone() }
    }

    /// The change of a person's will.
    pub fn rewound(last: Option<&Intent>, writer: &str, to: i64) -> Self {
        let taken = Self::taken_over(last, writer);
        Self { generation: taken.generation + 1, from: to, next: to, finished: true, topic_id: None, ..taken }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::TopicPartition;
    use rstest::rstest;

    fn span(from: i64, next: i64) -> Span {
        Span::new(TopicPartition::new("t", 0), from, next)
    }

    fn begun(from: i64, next: i64) -> Intent {
        let Begin::New(intent) = Intent::taken_over(None, "a").begin(&span(from, next), false, 1_000).unwrap() else {
            panic!()
        };
        intent
    }

    #[test]
    fn a_partition_without_deliveries_stands_nowhere() {
        let taken = Intent::taken_over(None, "a");
        assert_eq!((taken.number, taken.standing()), (1, None));
        let again = Intent::taken_over(Some(&taken), "b");
        assert_eq!((again.number, again.writer.as_str(), again.standing()), (2, "b", None));
        assert_eq!(begun(7, 9).number, 2, "the first delivery may begin anywhere");
    }

    #[test]
    fn a_range_that_was_begun_keeps_its_bounds_through_a_take_over() {
        let begun = begun(0, 10);
        assert_eq!(begun.standing(), Some(Standing { next: 0, until: Some(10), topic_id: None }));
        let taken = Intent::taken_over(Some(&begun), "b");
        assert_eq!(taken.standing(), begun.standing());
        assert_eq!(taken.begin(&span(0, 10), false, 1_000), Ok(Begin::Again));
        let finished = taken.finish();
        assert_eq!(
            (finished.number, finished.standing().unwrap().next, finished.standing().unwrap().until),
            (4, 10, None)
        );
    }

    #[rstest]
    #[case::begun_with_other_bounds(false, 0, 12)]
    #[case::the_next_before_it_is_finished(false, 10, 20)]
    #[case::behind(true, 5, 12)]
    #[case::beyond(true, 11, 12)]
    fn a_delivery_that_does_not_follow_is_refused(#[case] finished: bool, #[case] from: i64, #[case] next: i64) {
        let intent = if finished { begun(0, 10).finish() } else { begun(0, 10) };
        assert!(matches!(intent.begin(&span(from, next), false, 1_000), Err(SinkError::Moved(_))));
    }

    #[test]
    fn the_same_delivery_again_is_done() {
        let finished = begun(0, 10).finish();
        assert_eq!(finished.begin(&span(0, 10), false, 1_000), Ok(Begin::Done));
        let Ok(Begin::New(next)) = finished.begin(&span(10, 12), true, 1_000) else { panic!() };
        assert_eq!((next.number, next.from, next.next, next.finished), (4, 10, 12, true));
    }

    #[test]
    fn a_range_begins_after_the_one_before_whatever_the_clock_says() {
        let later = begun(0, 10).finish();
        let Ok(Begin::New(next)) = later.begin(&span(10, 20), false, 400) else { panic!() };
        assert_eq!((later.begun_ms, next.begun_ms), (1_000, 1_001));
        let taken = Intent::taken_over(Some(&next), "b");
        assert_eq!(taken.begun_ms, next.begun_ms, "what is sent again was begun before");
    }

    #[test]
    fn a_topic_made_anew_is_not_gone_on_with() {
        let id = |id: &str, from, next| Span { topic_id: Some(id.to_owned()), ..span(from, next) };
        let Ok(Begin::New(begun)) = Intent::taken_over(None, "a").begin(&id("one", 0, 10), false, 1_000) else {
            panic!()
        };
        let finished = begun.finish();
        assert!(matches!(finished.begin(&id("two", 10, 20), false, 1_000), Err(SinkError::Stopped(_))));
        let rewound = Intent::rewound(Some(&finished), "b", 0);
        assert_eq!((rewound.generation, rewound.number), (1, 4));
        assert!(matches!(rewound.begin(&id("two", 0, 20), false, 1_000), Ok(Begin::New(_))));
    }
}
