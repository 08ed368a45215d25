//! Topics, partitions and their batches. A batch stays as the producer compressed it; only its offset is set.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

/// Kafka's error codes that this broker answers.
pub mod code {
    pub const NONE: i16 = 0;
    pub const OFFSET_OUT_OF_RANGE: i16 = 1;
    pub const CORRUPT_MESSAGE: i16 = 2;
    pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    pub const ILLEGAL_GENERATION: i16 = 22;
    pub const INCONSISTENT_GROUP_PROTOCOL: i16 = 23;
    pub const UNKNOWN_MEMBER_ID: i16 = 25;
    pub const REBALANCE_IN_PROGRESS: i16 = 27;
    pub const UNSUPPORTED_VERSION: i16 = 35;
    pub const TOPIC_ALREADY_EXISTS: i16 = 36;
    pub const INVALID_PARTITIONS: i16 = 37;
    pub const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
}

/// Batches of one producer that are remembered to recognise a repeated one: the most that an idempotent client has in flight.
const REMEMBERED: usize = 5;

/// The header of a record batch, message format 2: <https://kafka.apache.org/documentation/#recordbatch>.
mod batch {
    pub const BASE_OFFSET: usize = 0;
    pub const LENGTH: usize = 8;
    pub const LEADER_EPOCH: usize = 12;
    pub const MAGIC: usize = 16;
    pub const LAST_OFFSET_DELTA: usize = 23;
    pub const MAX_TIMESTAMP: usize = 35;
    pub const PRODUCER_ID: usize = 43;
    pub const BASE_SEQUENCE: usize = 53;
    pub const HEADER: usize = 61;
}

#[derive(Debug)]
struct Batch {
    base_offset: i64,
    max_timestamp_ms: i64,
    bytes: Arc<[u8]>,
}

/// What was last taken from one idempotent producer: (first sequence, last sequence, base offset).
type Taken = VecDeque<(i32, i32, i64)>;

#[derive(Debug, Default)]
struct Partition {
    batches: Vec<Batch>,
    next_offset: i64,
    producers: HashMap<i64, Taken>,
}

#[derive(Debug, Default)]
pub struct Log {
    topics: BTreeMap<String, Vec<Partition>>,
    last_producer_id: i64,
}

/// What a fetch found.
#[derive(Debug)]
pub struct Fetched {
    pub error: i16,
    pub high_watermark: i64,
    /// Whole batches from the one that holds the asked offset.
    pub batches: Vec<Arc<[u8]>>,
}

impl Log {
    pub fn create(&mut self, topic: &str, partitions: i32) -> i16 {
        if self.topics.contains_key(topic) {
            return code::TOPIC_ALREADY_EXISTS;
        }
        match usize::try_from(partitions) {
            Ok(n) if (1..=1000).contains(&n) => {
                self.topics.insert(topic.to_owned(), (0..n).map(|_| Partition::default()).collect());
                code::NONE
            }
            _ => code::INVALID_PARTITIONS,
        }
    }

    pub fn topics(&self) -> impl Iterator<Item = (&str, usize)> {
        self.topics.iter().map(|(name, partitions)| (name.as_str(), partitions.len()))
    }

    pub fn partition_count(&self, topic: &str) -> Option<usize> {
        self.topics.get(topic).map(Vec::len)
    }

    pub fn high_watermarks(&self, topic: &str) -> Vec<i64> {
        self.topics.get(topic).into_iter().flatten().map(|p| p.next_offset).collect()
    }

    pub fn stored_bytes(&self) -> usize {
        self.topics.values().flatten().flat_map(|p| &p.batches).map(|b| b.bytes.len()).sum()
    }

    pub fn new_producer_id(&mut self) -> i64 {
        self.last_producer_id += 1;
        self.last_producer_id
    }

    fn partition(&self, topic: &str, partition: i32) -> Option<&Partition> {
        self.topics.get(topic)?.get(usize::try_from(partition).ok()?)
    }

    /// Stores the batches of one produce call. Returns the error code and the first batch's offset.
    pub fn append(&mut self, topic: &str, partition: i32, records: &[u8]) -> (i16, i64) {
        let stored = usize::try_from(partition).ok().and_then(|p| self.topics.get_mut(topic)?.get_mut(p));
        let Some(stored) = stored else { return (code::UNKNOWN_TOPIC_OR_PARTITION, -1) };
        let mut first = None;
        let mut rest = records;
        while !rest.is_empty() {
            let Some((batch, after)) = split_batch(rest) else { return (code::CORRUPT_MESSAGE, -1) };
            match stored.append(batch) {
                Ok(offset) => first = first.or(Some(offset)),
                Err(error) => return (error, -1),
            }
            rest = after;
        }
        (code::NONE, first.unwrap_or(stored.next_offset))
    }

    /// Batches from the one that holds `offset`, at least one, up to `max_bytes`.
    pub fn fetch(&self, topic: &str, partition: i32, offset: i64, max_bytes: usize) -> Fetched {
        let Some(stored) = self.partition(topic, partition) else {
            return Fetched { error: code::UNKNOWN_TOPIC_OR_PARTITION, high_watermark: -1, batches: Vec::new() };
        };
        let high_watermark = stored.next_offset;
        if !(0..=high_watermark).contains(&offset) {
            return Fetched { error: code::OFFSET_OUT_OF_RANGE, high_watermark, batches: Vec::new() };
        }
        let mut bytes = 0;
        // The last batch that begins at or before the offset holds it: the client skips what stands before.
        let from = stored.batches.partition_point(|b| b.base_offset <= offset).saturating_sub(1);
        let batches = stored
            .batches
            .iter()
            .skip(from)
            .filter(|_| offset < high_watermark)
            .take_while(|b| {
                let more = bytes == 0 || bytes + b.bytes.len() <= max_bytes;
                bytes += b.bytes.len();
                more
            })
            .map(|b| b.bytes.clone())
            .collect();
        Fetched { error: code::NONE, high_watermark, batches }
    }

    /// Kafka's ListOffsets: -1 the end, -2 the beginning, else the first batch that holds a record as young. (error, ms, offset)
    pub fn offset_of(&self, topic: &str, partition: i32, timestamp_ms: i64) -> (i16, i64, i64) {
        let Some(stored) = self.partition(topic, partition) else { return (code::UNKNOWN_TOPIC_OR_PARTITION, -1, -1) };
        match timestamp_ms {
            -1 => (code::NONE, -1, stored.next_offset),
            -2 => (code::NONE, -1, 0),
            asked => {
                let found = stored.batches.iter().find(|b| b.max_timestamp_ms >= asked);
                found.map_or((code::NONE, -1, -1), |b| (code::NONE, b.max_timestamp_ms, b.base_offset))
            }
        }
    }
}

impl Partition {
    fn append(&mut self, bytes: &[u8]) -> Result<i64, i16> {
        let number = |at| be_i64(bytes, at).ok_or(code::CORRUPT_MESSAGE);
        let int = |at| be_i32(bytes, at).ok_or(code::CORRUPT_MESSAGE);
        let (producer, first, delta) =
            (number(batch::PRODUCER_ID)?, int(batch::BASE_SEQUENCE)?, int(batch::LAST_OFFSET_DELTA)?);
        if delta < 0 {
            return Err(code::CORRUPT_MESSAGE);
        }
        let base_offset = self.next_offset;
        if producer >= 0 && first >= 0 {
            let taken = self.producers.entry(producer).or_default();
            if let Some((.., offset)) = taken.iter().find(|(f, ..)| *f == first) {
                return Ok(*offset);
            }
            if taken.back().is_some_and(|(_, last, _)| next_sequence(*last) != first) {
                return Err(code::OUT_OF_ORDER_SEQUENCE_NUMBER);
            }
            if taken.len() == REMEMBERED {
                taken.pop_front();
            }
            taken.push_back((first, first.wrapping_add(delta) & i32::MAX, base_offset));
        }
        let mut bytes = bytes.to_vec();
        // `split_batch` made sure that the whole header is there. Neither field is covered by the checksum.
        bytes[batch::BASE_OFFSET..batch::LENGTH].copy_from_slice(&base_offset.to_be_bytes());
        bytes[batch::LEADER_EPOCH..batch::MAGIC].copy_from_slice(&0i32.to_be_bytes());
        self.next_offset += i64::from(delta) + 1;
        self.batches.push(Batch { base_offset, max_timestamp_ms: number(batch::MAX_TIMESTAMP)?, bytes: bytes.into() });
        Ok(base_offset)
    }
}

/// Sequences count to i32::MAX and then from 0.
fn next_sequence(last: i32) -> i32 {
    last.wrapping_add(1) & i32::MAX
}

/// The first batch and what follows; `None` where it isn't a whole batch of format 2.
fn split_batch(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(be_i32(bytes, batch::LENGTH)?).ok()?.checked_add(batch::LEADER_EPOCH)?;
    let (first, rest) = bytes.split_at_checked(length)?;
    (first.len() >= batch::HEADER && first.get(batch::MAGIC) == Some(&2)).then_some((first, rest))
}

fn be_i32(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(at..)?.first_chunk().map(|b| i32::from_be_bytes(*b))
}

fn be_i64(bytes: &[u8], at: usize) -> Option<i64> {
    bytes.get(at..)?.first_chunk().map(|b| i64::from_be_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn records(producer: i64, sequence: i32, count: i32) -> Vec<u8> {
        let mut bytes = vec![0; batch::HEADER + 10];
        bytes[8..12].copy_from_slice(&((batch::HEADER + 10 - 12) as i32).to_be_bytes());
        bytes[batch::MAGIC] = 2;
        bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        bytes[43..51].copy_from_slice(&producer.to_be_bytes());
        bytes[53..57].copy_from_slice(&sequence.to_be_bytes());
        bytes
    }

    fn log() -> Log {
        let mut log = Log::default();
        log.create("t", 2);
        for i in 0..4 {
            assert_eq!(log.append("t", 0, &records(-1, -1, 10)), (code::NONE, i * 10));
        }
        log
    }

    #[rstest]
    #[case::start(0, 0, Some(0), 4)]
    #[case::inside_a_batch(25, 0, Some(20), 2)]
    #[case::a_batch_begins(30, 0, Some(30), 1)]
    #[case::end(40, 0, None, 0)]
    #[case::beyond(41, code::OFFSET_OUT_OF_RANGE, None, 0)]
    #[case::before(-1, code::OFFSET_OUT_OF_RANGE, None, 0)]
    fn a_fetch_begins_with_the_batch_that_holds_the_offset(
        #[case] offset: i64,
        #[case] error: i16,
        #[case] first: Option<i64>,
        #[case] count: usize,
    ) {
        let got = log().fetch("t", 0, offset, usize::MAX);
        assert_eq!((got.error, got.batches.len()), (error, count));
        assert_eq!(got.batches.first().and_then(|b| be_i64(b, 0)), first);
    }

    #[test]
    fn a_fetch_gives_one_batch_even_where_it_is_larger_than_asked() {
        assert_eq!(log().fetch("t", 0, 0, 1).batches.len(), 1);
        assert_eq!(log().fetch("t", 0, 0, 150).batches.len(), 2);
    }

    #[test]
    fn a_repeated_batch_is_not_stored_twice_and_a_missing_one_is_noticed() {
        let mut log = Log::default();
        log.create("t", 1);
        assert_eq!(log.append("t", 0, &records(7, 0, 10)), (code::NONE, 0));
        assert_eq!(log.append("t", 0, &records(7, 10, 5)), (code::NONE, 10));
        assert_eq!(log.append("t", 0, &records(7, 0, 10)), (code::NONE, 0));
        assert_eq!(log.append("t", 0, &records(7, 20, 5)).0, code::OUT_OF_ORDER_SEQUENCE_NUMBER);
        assert_eq!(log.high_watermarks("t"), [15]);
    }

    #[rstest]
    #[case(&[1, 2, 3])]
    #[case(&[0; 80])]
    fn what_is_not_a_batch_is_refused(#[case] bytes: &[u8]) {
        assert_eq!(log().append("t", 0, bytes).0, code::CORRUPT_MESSAGE);
        assert_eq!(log().append("t", 9, bytes).0, code::UNKNOWN_TOPIC_OR_PARTITION);
    }

    #[test]
    fn offsets_are_found_by_end_beginning_and_time() {
        assert_eq!(log().offset_of("t", 0, -1), (code::NONE, -1, 40));
        assert_eq!(log().offset_of("t", 0, -2), (code::NONE, -1, 0));
        assert_eq!(log().offset_of("t", 0, 0), (code::NONE, 0, 0));
        assert_eq!(log().offset_of("t", 0, 1), (code::NONE, -1, -1));
    }
}
