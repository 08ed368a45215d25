//! What a topic sink makes of deliveries, and of its ledger's answers. The real Kafka is in the pipeline's tests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use apache_avro::types::Value as Avro;
use arrow_array::builder::{Int64Builder, ListBuilder, MapBuilder, StringBuilder};
use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, FixedSizeBinaryArray, Float64Array,
    Int64Array, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow_schema::{DataType, Field};
use rstest::rstest;

use super::*;
use crate::change::Op;
use crate::position::Span;
use crate::sink::keeping::{Keeping, Step};
use crate::sink::ledger::{Entry, Message};
use crate::sink::{RefusedRow, RowOrigin};

/// Keeps in memory what a ledger keeps, and answers what it is told to.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    entries: HashMap<TopicPartition, Entry>,
    messages: Vec<Message>,
    /// The next answer, in place of doing it.
    answer: Option<SinkError>,
    commits: usize,
    schema: Option<String>,
    made: Vec<(String, Option<i32>)>,
}

#[async_trait]
impl Ledger for Memory {
    async fn take_over(&mut self, at: &TopicPartition) -> Result<Option<Entry>, SinkError> {
        Ok(self.0.lock().unwrap().entries.get(at).cloned())
    }

    async fn commit(&mut self, at: &TopicPartition, entry: &Entry, messages: &[Message]) -> Result<(), SinkError> {
        let mut kept = self.0.lock().unwrap();
        kept.commits += 1;
        if let Some(answer) = kept.answer.take() {
            return Err(answer);
        }
        kept.entries.insert(at.clone(), entry.clone());
        kept.messages.extend_from_slice(messages);
        Ok(())
    }
}

#[async_trait]
impl Cluster for Memory {
    async fn make(&self, topic: &str, partitions: Option<i32>, _: Option<i32>) -> Result<(), SinkError> {
        self.0.lock().unwrap().made.push((topic.to_owned(), partitions));
        Ok(())
    }

    async fn register(&self, subject: &str, schema: &str) -> Result<i32, SinkError> {
        assert_eq!(subject, "out.events-value");
        self.0.lock().unwrap().schema = Some(schema.to_owned());
        Ok(77)
    }
}

fn settings() -> TopicSettings {
    TopicSettings {
        topic: "out.events".to_owned(),
        key: vec!["id".to_owned()],
        key_format: KeyFormat::Json,
        on_null_key: OnNullKey::Reject,
        format: ValueFormat::Json,
        deletes: Deletes::Tombstone,
        origin_headers: false,
        partitions: Some(3),
        replication: None,
    }
}

fn at() -> TopicPartition {
    TopicPartition::new("in", 2)
}

/// Rows at offsets from `from` on: an id, a name and what was done to it.
fn delivery(from: i64, rows: &[(Option<i64>, Op)]) -> Delivery {
    let ids: ArrayRef = Arc::new(rows.iter().map(|(id, _)| *id).collect::<Int64Array>());
    let names: ArrayRef = Arc::new(rows.iter().map(|(id, _)| id.map(|id| format!("n{id}"))).collect::<StringArray>());
    Delivery {
        span: Span { topic_id: Some("one".to_owned()), ..Span::new(at(), from, from + rows.len() as i64) },
        rows: RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("name", names, true)]).unwrap(),
        origins: Some(rows.iter().zip(from..).map(|((_, op), offset)| RowOrigin::new(offset, *op)).collect()),
        keeping: Keeping::default(),
    }
}

async fn sink(settings: TopicSettings) -> (TopicSink, Memory) {
    let memory = Memory::default();
    let mut sink = TopicSink::new(settings, Box::new(memory.clone()), Box::new(memory.clone()));
    assert_eq!(sink.take_over(&[at()]).await, Ok(vec![None]));
    sink.prepare(&delivery(0, &[]).rows.schema()).await.unwrap();
    (sink, memory)
}

impl Memory {
    /// Keys and values, as text.
    fn sent(&self) -> Vec<(Option<String>, Option<String>)> {
        let text = |bytes: &Option<Vec<u8>>| bytes.clone().map(|b| String::from_utf8(b).unwrap());
        self.0.lock().unwrap().messages.iter().map(|m| (text(&m.key), text(&m.value))).collect()
    }

    fn answers(&self, e: SinkError) {
        self.0.lock().unwrap().answer = Some(e);
    }
}

#[rstest]
#[case::as_debezium(&["id"], KeyFormat::Json, Some(r#"{"id":7}"#))]
#[case(&["name", "id"], KeyFormat::Json, Some(r#"{"name":"n7","id":7}"#))]
#[case(&["id"], KeyFormat::Text, Some("7"))]
#[case(&["name"], KeyFormat::Text, Some("n7"))]
#[case(&[], KeyFormat::Json, None)]
#[tokio::test]
async fn a_row_is_a_message(#[case] key: &[&str], #[case] key_format: KeyFormat, #[case] want: Option<&str>) {
    let key = key.iter().map(|k| (*k).to_owned()).collect();
    let (mut sink, memory) = sink(TopicSettings { key, key_format, ..settings() }).await;
    sink.deliver(&delivery(5, &[(Some(7), Op::Create)])).await.unwrap();
    assert_eq!(memory.sent(), [(want.map(str::to_owned), Some(r#"{"id":7,"name":"n7"}"#.to_owned()))]);
    let kept = memory.0.lock().unwrap();
    assert_eq!(kept.made, [("out.events".to_owned(), Some(3))]);
    let note = Note::of(&at(), kept.entries.get(&at())).unwrap();
    assert_eq!((kept.entries[&at()].next, note.topic_id.as_deref(), note.begun), (6, Some("one"), None));
}

#[rstest]
#[case(Deletes::Tombstone, None)]
#[case(Deletes::Row, Some(r#"{"id":7,"name":"n7"}"#))]
#[tokio::test]
async fn a_delete_is_what_it_is_to_be(#[case] deletes: Deletes, #[case] want: Option<&str>) {
    let (mut sink, memory) = sink(TopicSettings { deletes, origin_headers: true, ..settings() }).await;
    sink.deliver(&delivery(5, &[(Some(1), Op::Update), (Some(7), Op::Delete)])).await.unwrap();
    assert_eq!(memory.sent()[1], (Some(r#"{"id":7}"#.to_owned()), want.map(str::to_owned)));
    let headers = memory.0.lock().unwrap().messages[1].headers.clone();
    let text = |(name, value): (String, Vec<u8>)| format!("{name}={}", String::from_utf8(value).unwrap());
    let headers: Vec<String> = headers.into_iter().map(text).collect();
    assert_eq!(headers, ["_firn_topic=in", "_firn_partition=2", "_firn_offset=6"]);
}

#[tokio::test]
async fn rows_without_a_key_are_refused_all_at_once_and_nothing_is_sent() {
    let (mut sink, memory) = sink(settings()).await;
    let rows = [(Some(1), Op::Create), (None, Op::Create), (Some(2), Op::Create), (None, Op::Update)];
    let Err(SinkError::Refused(refused)) = sink.deliver(&delivery(0, &rows)).await else { panic!("not refused") };
    let detail = "column id of the key is NULL".to_owned();
    assert_eq!(refused, [1, 3].map(|row| RefusedRow { row, detail: detail.clone() }));
    assert_eq!(memory.0.lock().unwrap().commits, 0);
    sink.deliver(&Delivery { span: Span::new(at(), 0, 4), ..delivery(0, &[rows[0], rows[2]]) }).await.unwrap();
    assert_eq!(memory.sent().len(), 2);
}

#[tokio::test]
async fn rows_without_a_key_are_sent_where_that_is_wanted_but_for_tombstones() {
    let (mut sink, memory) = sink(TopicSettings { on_null_key: OnNullKey::Send, ..settings() }).await;
    let rows = [(None, Op::Create), (Some(1), Op::Create), (None, Op::Delete)];
    let Err(SinkError::Refused(refused)) = sink.deliver(&delivery(0, &rows)).await else { panic!("not refused") };
    assert_eq!(refused.iter().map(|r| r.row).collect::<Vec<_>>(), [2]);
    sink.deliver(&delivery(0, &rows[..2])).await.unwrap();
    let keys: Vec<_> = memory.sent().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [None, Some(r#"{"id":1}"#.to_owned())]);
}

#[tokio::test]
async fn what_was_not_answered_goes_again_with_the_same_position() {
    let (mut sink, memory) = sink(settings()).await;
    memory.answers(SinkError::Unavailable("away".into()));
    let first = delivery(0, &[(Some(1), Op::Create)]);
    assert_eq!(sink.deliver(&first).await, Err(SinkError::Unavailable("away".into())));
    sink.deliver(&first).await.unwrap();
    assert_eq!(memory.sent().len(), 1);
    // After it was taken over nothing is tried until it is taken over again.
    memory.answers(SinkError::Moved("fenced".into()));
    let next = delivery(1, &[(Some(2), Op::Create)]);
    assert_eq!(sink.deliver(&next).await, Err(SinkError::Moved("fenced".into())));
    assert!(matches!(sink.deliver(&next).await, Err(SinkError::Moved(_))));
    assert_eq!(memory.0.lock().unwrap().commits, 3);
    let standing = Standing { next: 1, until: None, topic_id: Some("one".to_owned()) };
    assert_eq!(sink.take_over(&[at()]).await, Ok(vec![Some(standing)]));
    sink.deliver(&next).await.unwrap();
}

#[tokio::test]
async fn what_a_pipeline_keeps_goes_in_the_same_transaction() {
    let (mut sink, memory) = sink(settings()).await;
    let step = Step { offset: 0, key: "k".to_owned(), value: Some("v".to_owned()) };
    let keeping = Keeping { topic: "state".to_owned(), partition: 1, prefix: "p/".to_owned(), steps: vec![step] };
    let kept = Delivery { keeping, ..delivery(0, &[(Some(1), Op::Create)]) };
    sink.deliver(&kept).await.unwrap();
    assert_eq!(sink.kept(&at()).map(|kept| kept.transactions), Some(1));
    let topics: Vec<String> = memory.0.lock().unwrap().messages.iter().map(|m| m.topic.clone()).collect();
    assert_eq!(topics, ["out.events", "state", "state"]);
    // Of the three messages only the first is a row's.
    let next = Delivery { span: Span::new(at(), 1, 2), keeping: Keeping::default(), ..kept.clone() };
    let too_large = |row| SinkError::Refused(vec![RefusedRow { row, detail: "too large".to_owned() }]);
    memory.answers(too_large(0));
    assert_eq!(sink.deliver(&next).await, Err(too_large(0)));
    memory.answers(too_large(1));
    assert!(matches!(sink.deliver(&next).await, Err(SinkError::Stopped(_))));
}

#[tokio::test]
async fn a_topic_made_anew_is_not_gone_on_with_unless_a_person_says_so() {
    let (mut sink, memory) = sink(settings()).await;
    sink.deliver(&delivery(0, &[(Some(1), Op::Create)])).await.unwrap();
    let mut other = delivery(1, &[(Some(2), Op::Create)]);
    other.span.topic_id = Some("two".to_owned());
    assert!(matches!(sink.deliver(&other).await, Err(SinkError::Stopped(why)) if why.contains("made anew")));
    sink.rewind(&[(at(), 1)]).await.unwrap();
    assert_eq!(memory.sent().len(), 1, "a rewind sends nothing");
    assert!(matches!(sink.deliver(&other).await, Err(SinkError::Moved(_))), "not taken over since");
    sink.take_over(&[at()]).await.unwrap();
    sink.deliver(&other).await.unwrap();
}

#[tokio::test]
async fn offsets_that_another_client_commits_are_noticed() {
    let (mut sink, memory) = sink(settings()).await;
    let set = |note: &str| {
        memory.0.lock().unwrap().entries.insert(at(), Entry { next: 9, note: note.to_owned() });
    };
    set("");
    let plain = Standing { next: 9, ..Standing::default() };
    assert_eq!(sink.take_over(&[at()]).await, Ok(vec![Some(plain)]), "a person's tool sets an offset alone");
    set("somebody's");
    assert!(matches!(sink.take_over(&[at()]).await, Err(SinkError::Stopped(why)) if why.contains("note beside")));
}

#[tokio::test]
async fn a_key_that_the_select_does_not_give_is_named() {
    let (mut sink, _) = sink(settings()).await;
    sink.settings.key = vec!["number".to_owned()];
    let told = sink.prepare(&delivery(0, &[]).rows.schema()).await;
    assert!(matches!(told, Err(SinkError::Stopped(why)) if why.contains("no column number")));
}

/// A column of each kind, with a value and a null.
fn kinds() -> RecordBatch {
    let mut lists = ListBuilder::new(Int64Builder::new());
    lists.append_value([Some(1), None, Some(-3)]);
    lists.append_null();
    let mut maps = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    maps.keys().append_value("k");
    maps.values().append_value(5);
    maps.append(true).unwrap();
    maps.append(false).unwrap();
    let inner: ArrayRef = Arc::new(StringArray::from(vec![Some("in"), None]));
    let structs = StructArray::try_new(
        vec![Field::new("a", DataType::Utf8, true)].into(),
        vec![inner],
        Some(vec![true, false].into()),
    );
    let id = [0x11_u8; 16];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("yes", Arc::new(BooleanArray::from(vec![Some(true), None]))),
        ("many", Arc::new(UInt64Array::from(vec![Some(u64::MAX), None]))),
        ("long", Arc::new(Int64Array::from(vec![Some(-1234567), None]))),
        ("double", Arc::new(Float64Array::from(vec![Some(1.5), None]))),
        ("text", Arc::new(vec![Some("héllo"), None].into_iter().collect::<DictionaryArray<Int32Type>>())),
        ("day", Arc::new(Date32Array::from(vec![Some(20_000), None]))),
        ("at", Arc::new(TimestampMicrosecondArray::from(vec![Some(1_700_000_000_123_456), None]).with_timezone("UTC"))),
        ("local", Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), None]))),
        ("money", Arc::new(Decimal128Array::from(vec![Some(-129), None]).with_precision_and_scale(10, 2).unwrap())),
        (
            "id",
            Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size([Some(id), None].into_iter(), 16).unwrap()),
        ),
        ("list", Arc::new(lists.finish())),
        ("map", Arc::new(maps.finish())),
        ("struct", Arc::new(structs.unwrap())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
}

#[tokio::test]
async fn apaches_reader_reads_what_is_written_in_avro() {
    let rows = kinds();
    let memory = Memory::default();
    let settings = TopicSettings { key: vec![], format: ValueFormat::Avro, deletes: Deletes::Row, ..settings() };
    let mut sink = TopicSink::new(settings, Box::new(memory.clone()), Box::new(memory.clone()));
    sink.take_over(&[at()]).await.unwrap();
    sink.prepare(&rows.schema()).await.unwrap();
    sink.deliver(&Delivery { span: Span::new(at(), 0, 2), rows, origins: None, keeping: Keeping::default() })
        .await
        .unwrap();
    let kept = memory.0.lock().unwrap();
    let schema = apache_avro::Schema::parse_str(kept.schema.as_ref().unwrap()).unwrap();
    assert_eq!(schema.name().unwrap().fullname(None), "out.events.Value");
    let read = |message: &Message| {
        let mut bytes = message.value.as_deref().unwrap();
        assert_eq!(bytes[..5], [0, 0, 0, 0, 77], "magic and id");
        bytes = &bytes[5..];
        let value = apache_avro::from_avro_datum(&schema, &mut bytes, None).unwrap();
        assert!(bytes.is_empty(), "{bytes:?} is left");
        let Avro::Record(fields) = value else { panic!("{value:?}") };
        let inner = |value| if let Avro::Union(_, value) = value { *value } else { panic!("{value:?}") };
        fields.into_iter().map(|(name, value)| (name, inner(value))).collect::<HashMap<String, Avro>>()
    };
    let some = |value| Avro::Union(1, Box::new(value));
    let first = read(&kept.messages[0]);
    let decimal = |value: &Avro| match value {
        Avro::Decimal(d) => <Vec<u8>>::try_from(d.clone()).unwrap(),
        other => panic!("{other:?}"),
    };
    for (name, want) in [
        ("yes", Avro::Boolean(true)),
        ("long", Avro::Long(-1_234_567)),
        ("double", Avro::Double(1.5)),
        ("text", Avro::String("héllo".into())),
        ("day", Avro::Date(20_000)),
        ("at", Avro::TimestampMicros(1_700_000_000_123_456)),
        ("local", Avro::LocalTimestampMicros(-1)),
        ("id", Avro::Uuid(uuid::Uuid::from_bytes([0x11; 16]))),
        ("list", Avro::Array(vec![some(Avro::Long(1)), Avro::Union(0, Box::new(Avro::Null)), some(Avro::Long(-3))])),
        ("map", Avro::Map([("k".to_owned(), some(Avro::Long(5)))].into())),
        ("struct", Avro::Record(vec![("a".to_owned(), some(Avro::String("in".into())))])),
    ] {
        assert_eq!(first[name], want, "{name}");
    }
    assert_eq!(decimal(&first["money"]), [0xff, 0x7f], "-129 in as few bytes as hold its sign");
    assert_eq!(decimal(&first["many"]), [0, 255, 255, 255, 255, 255, 255, 255, 255]);
    assert!(read(&kept.messages[1]).values().all(|value| *value == Avro::Null));
}

#[rstest]
#[case("a b", DataType::Int64, "a b")]
#[case("span", DataType::Duration(arrow_schema::TimeUnit::Second), "span")]
fn what_avro_does_not_have_is_named(#[case] name: &str, #[case] kind: DataType, #[case] want: &str) {
    let columns: SchemaRef = Arc::new(arrow_schema::Schema::new(vec![Field::new(name, kind, true)]));
    let told = AvroWriter::new("t", &columns).unwrap_err();
    assert!(told.contains(want), "{told}");
}
