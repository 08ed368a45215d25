//! Questions about topics: ids, partition counts, where their logs begin and end.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use rdkafka::client::Client;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::{BROKER_ANSWER, ClientSettings, SourceError};
use crate::position::TopicPartition;

/// How long a topic that was just made may take to show.
const MADE_WITHIN: Duration = Duration::from_secs(2);

/// One topic as the cluster lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicListing {
    pub name: String,
    pub partition_count: i32,
}

fn ask(settings: &ClientSettings) -> Result<BaseConsumer, SourceError> {
    settings.plain().create().map_err(SourceError::Client)
}

fn unreachable(settings: &ClientSettings, source: KafkaError) -> SourceError {
    SourceError::Unreachable { bootstrap: settings.bootstrap().to_owned(), source }
}

/// All topics of the cluster, by name.
///
/// # Errors
/// When the cluster does not answer or refuses the credentials.
pub fn list_topics(settings: &ClientSettings) -> Result<Vec<TopicListing>, SourceError> {
    let client = ask(settings)?;
    let metadata = client.fetch_metadata(None, BROKER_ANSWER).map_err(|e| unreachable(settings, e))?;
    let mut topics: Vec<TopicListing> = metadata
        .topics()
        .iter()
        .map(|t| TopicListing { name: t.name().to_owned(), partition_count: t.partitions().len() as i32 })
        .collect();
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(topics)
}

/// `(low, high)` of each partition: its first offset and the one after its last.
///
/// # Errors
/// When the cluster does not answer for one of them.
pub fn watermarks(
    settings: &ClientSettings,
    partitions: &[TopicPartition],
) -> Result<Vec<(TopicPartition, i64, i64)>, SourceError> {
    let client = ask(settings)?;
    partitions
        .iter()
        .map(|at| {
            let (low, high) = client
                .fetch_watermarks(&at.topic, at.partition, BROKER_ANSWER)
                .map_err(|e| unreachable(settings, e))?;
            Ok((at.clone(), low, high))
        })
        .collect()
}

/// How far a partition's log reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    pub low: i64,
    /// Where a reader of what is committed stops: before the first transaction that is open.
    pub committed: i64,
    /// The offset after the last record of any kind.
    pub high: i64,
}

/// Of each partition of a topic; none where there is no such topic.
///
/// # Errors
/// When the cluster does not answer for one of them.
pub fn reach(settings: &ClientSettings, topic: &str) -> Result<BTreeMap<i32, Reach>, SourceError> {
    let failed = |e| unreachable(settings, e);
    let committed = ask(settings)?;
    let mut client = settings.plain();
    client.set("isolation.level", "read_uncommitted");
    let all: BaseConsumer = client.create().map_err(SourceError::Client)?;
    let begun = Instant::now();
    let count = loop {
        match partition_counts(all.client(), &[topic.to_owned()], BROKER_ANSWER).get(topic) {
            Some(count) => break *count,
            None if begun.elapsed() < MADE_WITHIN => std::thread::sleep(MADE_WITHIN / 20),
            // Whether a broker answers at all.
            None => {
                all.fetch_metadata(None, BROKER_ANSWER).map_err(failed)?;
                return Ok(BTreeMap::new());
            }
        }
    };
    let look = |partition| {
        let (_, stop) = committed.fetch_watermarks(topic, partition, BROKER_ANSWER).map_err(failed)?;
        let (low, high) = all.fetch_watermarks(topic, partition, BROKER_ANSWER).map_err(failed)?;
        Ok((partition, Reach { low, committed: stop, high }))
    };
    (0..count).map(look).collect()
}

/// For each partition the first offset whose record is not older than `timestamp_ms`; where there is none, the log's end.
///
/// # Errors
/// When the cluster does not answer for one of them.
pub fn offsets_since(
    settings: &ClientSettings,
    partitions: &[TopicPartition],
    timestamp_ms: i64,
) -> Result<Vec<(TopicPartition, i64)>, SourceError> {
    let client = ask(settings)?;
    let failed = |e| unreachable(settings, e);
    let mut asked = TopicPartitionList::new();
    for at in partitions {
        asked.add_partition_offset(&at.topic, at.partition, Offset::Offset(timestamp_ms)).map_err(failed)?;
    }
    let found = client.offsets_for_times(asked, BROKER_ANSWER).map_err(failed)?;
    partitions
        .iter()
        .map(|at| {
            let answer = found.find_partition(&at.topic, at.partition).map(|p| p.error().map(|()| p.offset()));
            let offset = match answer.transpose().map_err(failed)? {
                Some(Offset::Offset(offset)) => offset,
                _ => client.fetch_watermarks(&at.topic, at.partition, BROKER_ANSWER).map_err(failed)?.1,
            };
            Ok((at.clone(), offset))
        })
        .collect()
}

/// Up to where a consumer group says that it is, in each partition; `None` where it says nothing.
///
/// # Errors
/// When the cluster does not answer.
pub fn committed(
    settings: &ClientSettings,
    group: &str,
    partitions: &[TopicPartition],
) -> Result<Vec<Option<i64>>, SourceError> {
    let mut client = settings.consumer(group, 0);
    client.remove("group.instance.id");
    let client: BaseConsumer = client.create().map_err(SourceError::Client)?;
    let asked = super::list(partitions.iter().map(|at| (at, Offset::Invalid)));
    let found = client.committed_offsets(asked, BROKER_ANSWER).map_err(|e| unreachable(settings, e))?;
    let offset = |at: &TopicPartition| match found.find_partition(&at.topic, at.partition)?.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    };
    Ok(partitions.iter().map(offset).collect())
}

/// How many partitions a topic has now.
///
/// # Errors
/// When the cluster does not answer, or has no such topic.
pub fn partition_count(settings: &ClientSettings, topic: &str) -> Result<i32, SourceError> {
    let counts = partition_counts(ask(settings)?.client(), &[topic.to_owned()], BROKER_ANSWER);
    let unknown = || unreachable(settings, KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition));
    counts.get(topic).copied().ok_or_else(unknown)
}

/// The topic's id now, where the brokers tell it.
///
/// # Errors
/// When the client can't be made.
pub fn topic_id(settings: &ClientSettings, topic: &str) -> Result<Option<String>, SourceError> {
    let client = ask(settings)?;
    Ok(describe(client.client(), &[topic.to_owned()], BROKER_ANSWER).remove(topic))
}

/// Up to so many topics or partitions are asked for one by one: a cluster may have many more.
const ASKED_ALONE: usize = 16;

/// How many partitions each of these topics has, and maybe others; topics that don't exist are left out.
pub(super) fn partition_counts<C: ClientContext>(
    client: &Client<C>,
    names: &[String],
    timeout: Duration,
) -> HashMap<String, i32> {
    // One question for all topics of the cluster, or one for each of a few.
    let questions: Vec<Option<&str>> = match names.len() {
        ..ASKED_ALONE => names.iter().map(|name| Some(name.as_str())).collect(),
        _ => vec![None],
    };
    let mut counts = HashMap::new();
    for question in questions {
        if let Ok(metadata) = client.fetch_metadata(question, timeout) {
            let there = metadata.topics().iter().filter(|t| !t.partitions().is_empty());
            counts.extend(there.map(|t| (t.name().to_owned(), t.partitions().len() as i32)));
        }
    }
    counts
}

/// Where the logs of these partitions begin and end, by two questions a broker. Those that it has no answer for are left out.
pub(super) fn edges<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: &[&TopicPartition],
    timeout: Duration,
) -> HashMap<TopicPartition, (i64, i64)> {
    // These stand for times, too: the earliest and the latest.
    let ask = |edge: Offset| {
        let tpl = super::list(partitions.iter().map(|at| (*at, edge)));
        let found = consumer.offsets_for_times(tpl, timeout).map(|found| {
            let known = found.elements().into_iter().filter(|e| e.error().is_ok());
            let offset = |e: TopicPartitionListElem<'_>| match e.offset() {
                Offset::Offset(offset) => Some((TopicPartition::new(e.topic(), e.partition()), offset)),
                _ => None,
            };
            known.filter_map(offset).collect::<HashMap<_, _>>()
        });
        found.unwrap_or_default()
    };
    if partitions.len() < ASKED_ALONE {
        return HashMap::new();
    }
    let (begins, mut ends) = (ask(Offset::Beginning), ask(Offset::End));
    begins.into_iter().filter_map(|(at, low)| ends.remove(&at).map(|high| (at, (low, high)))).collect()
}

/// The ids of these topics. Empty where the broker is too old or does not answer: then the record's timestamp is compared.
#[allow(unsafe_code)] // librdkafka's DescribeTopics has no safe wrapper in rdkafka
pub(super) fn describe<C: ClientContext>(
    client: &Client<C>,
    names: &[String],
    timeout: Duration,
) -> HashMap<String, String> {
    use rdkafka::bindings as k;
    use std::ffi::{CStr, CString};

    let owned: Vec<CString> = names.iter().filter_map(|n| CString::new(n.as_str()).ok()).collect();
    let mut pointers: Vec<*const std::ffi::c_char> = owned.iter().map(|n| n.as_ptr()).collect();
    let mut ids = HashMap::new();
    if pointers.is_empty() {
        return ids;
    }
    // SAFETY: every object made here is destroyed below, in reverse order, and none outlives `client`; the strings that the
    // event lends are copied before it is destroyed; `pointers` outlives the collection's making, which copies the names.
    unsafe {
        let queue = k::rd_kafka_queue_new(client.native_ptr());
        let collection = k::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        let options =
            k::rd_kafka_AdminOptions_new(client.native_ptr(), k::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        let mut text = [0 as std::ffi::c_char; 256];
        k::rd_kafka_AdminOptions_set_request_timeout(
            options,
            timeout.as_millis() as i32,
            text.as_mut_ptr(),
            text.len(),
        );
        k::rd_kafka_DescribeTopics(client.native_ptr(), collection, options, queue);
        let event = k::rd_kafka_queue_poll(queue, timeout.as_millis() as i32);
        let result = if event.is_null() { std::ptr::null() } else { k::rd_kafka_event_DescribeTopics_result(event) };
        if !result.is_null() {
            let mut count = 0;
            let topics = k::rd_kafka_DescribeTopics_result_topics(result, &mut count);
            for i in 0..count {
                let topic = *topics.add(i);
                let error = k::rd_kafka_error_code(k::rd_kafka_TopicDescription_error(topic));
                let id = k::rd_kafka_TopicDescription_topic_id(topic);
                if error == k::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && !id.is_null() {
                    let text = k::rd_kafka_Uuid_base64str(id);
                    let unset = k::rd_kafka_Uuid_most_significant_bits(id) == 0
                        && k::rd_kafka_Uuid_least_significant_bits(id) == 0;
                    if !text.is_null() && !unset {
                        let name = CStr::from_ptr(k::rd_kafka_TopicDescription_name(topic));
                        ids.insert(
                            name.to_string_lossy().into_owned(),
                            CStr::from_ptr(text).to_string_lossy().into_owned(),
                        );
                    }
                }
            }
        }
        if !event.is_null() {
            k::rd_kafka_event_destroy(event);
        }
        k::rd_kafka_AdminOptions_destroy(options);
        k::rd_kafka_TopicCollection_destroy(collection);
        k::rd_kafka_queue_destroy(queue);
    }
    ids
}

/// What the last fetch said about the end of the log.
#[allow(unsafe_code)] // rd_kafka_get_watermark_offsets has no safe wrapper in rdkafka
pub(super) fn cached_high<C: ClientContext>(client: &Client<C>, at: &TopicPartition) -> Option<i64> {
    let topic = std::ffi::CString::new(at.topic.as_str()).ok()?;
    let (mut low, mut high) = (0i64, 0i64);
    // SAFETY: the pointers are valid for the call; librdkafka only writes the two numbers.
    let code = unsafe {
        rdkafka::bindings::rd_kafka_get_watermark_offsets(
            client.native_ptr(),
            topic.as_ptr(),
            at.partition,
            &mut low,
            &mut high,
        )
    };
    (code == rdkafka::bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(high)
}
