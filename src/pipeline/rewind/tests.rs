//! How a table gets to where it is wanted, and why not.

use std::collections::{BTreeMap, HashMap};

use iceberg::TableCreation;
use iceberg::spec::{Operation, Schema, Snapshot, Summary, TableMetadata, TableMetadataBuilder};
use rstest::rstest;

use super::decide::{Decision, TableAsIs, Target, TopicLog, Wish, decide};
use crate::change::Mode;
use crate::position::{Checkpoint, PartitionPosition, TopicPosition};
use crate::sink::lake::{CHECKPOINT, How};

const TOPIC: &str = "shop.public.t";
const TIME: i64 = 1_700_000_000_000;

fn by_partition<const N: usize>(offsets: [i64; N]) -> BTreeMap<i32, i64> {
    (0..).zip(offsets).collect()
}

fn at<const N: usize>(offsets: [i64; N]) -> Checkpoint {
    let position = |next| PartitionPosition { next, leader_epoch: None, timestamp_ms: None };
    let topic = TopicPosition {
        topic_id: Some("one".to_owned()),
        partition_count: N as i32,
        partitions: (0..).zip(offsets.map(position)).collect(),
        grew_from: None,
        truncated: None,
        snapshot: None,
    };
    Checkpoint { generation: 0, topics: [(TOPIC.to_owned(), topic)].into() }
}

/// Snapshots 1, 2 ... each the child of the one before; `None` is another writer's.
fn history(snapshots: &[Option<Checkpoint>]) -> TableMetadata {
    let creation = TableCreation::builder()
        .name("t".to_owned())
        .location("memory://t".to_owned())
        .schema(Schema::builder().build().unwrap())
        .build();
    let mut builder = TableMetadataBuilder::from_table_creation(creation).unwrap();
    for (id, checkpoint) in (1..).zip(snapshots) {
        let summary = checkpoint.iter().map(|c| (CHECKPOINT.to_owned(), c.to_json())).collect::<HashMap<_, _>>();
        let snapshot = Snapshot::builder()
            .with_snapshot_id(id)
            .with_parent_snapshot_id((id > 1).then_some(id - 1))
            .with_sequence_number(id)
            .with_timestamp_ms(TIME + id)
            .with_manifest_list(format!("memory://t/metadata/{id}.avro"))
            .with_schema_id(0)
            .with_summary(Summary { operation: Operation::Append, additional_properties: summary })
            .build();
        builder = builder.set_branch_snapshot(snapshot, "main").unwrap();
    }
    builder.build().unwrap().metadata
}

/// A table that stands at 100 and 50 after three commits, the last but one of them Trino's.
fn usual() -> TableMetadata {
    history(&[Some(at([40, 0])), Some(at([70, 30])), None, Some(at([100, 50]))])
}

fn log() -> TopicLog {
    TopicLog {
        topic: TOPIC.to_owned(),
        topic_id: Some("one".to_owned()),
        reaches: [(0, (0, 120)), (1, (0, 60))].into(),
        compacted: Some(false),
        since: by_partition([80, 60]),
    }
}

#[derive(Clone)]
struct Case {
    mode: Mode,
    has_origins: bool,
    metadata: TableMetadata,
    standing: Checkpoint,
    unclear: bool,
    log: TopicLog,
    replay: bool,
    accept_compacted: bool,
}

fn case(mode: Mode) -> Case {
    Case {
        mode,
        has_origins: true,
        metadata: usual(),
        standing: at([100, 50]),
        unclear: false,
        log: log(),
        replay: false,
        accept_compacted: false,
    }
}

impl Case {
    fn decide(&self, target: Target) -> Result<Decision, String> {
        let table = TableAsIs {
            name: "db.t",
            mode: self.mode,
            has_origins: self.has_origins,
            metadata: &self.metadata,
            standing: &self.standing,
            unclear: self.unclear,
            ends_of_rows: [(0, 97)].into(),
        };
        let wish = Wish { target, replay: self.replay, accept_compacted: self.accept_compacted };
        decide(&wish, &table, &self.log)
    }

    fn how(&self, target: Target) -> How {
        self.decide(target).unwrap().how
    }

    /// Why not; the words must be in it.
    fn refused(&self, target: Target, words: &[&str]) {
        let why = self.decide(target).unwrap_err();
        assert!(words.iter().all(|word| why.contains(word)), "{why}");
    }
}

fn offsets<const N: usize>(offsets: [(i32, i64); N]) -> Target {
    Target::Offsets(offsets.into())
}

fn take_out(to: BTreeMap<i32, i64>) -> How {
    How::TakeOut { topic: TOPIC.to_owned(), to }
}

fn replay(to: BTreeMap<i32, i64>) -> How {
    How::Replay { topic: TOPIC.to_owned(), to }
}

#[rstest]
#[case::named_partitions_only(offsets([(1, 20)]), [(1, 20)].into())]
#[case::a_time_but_not_beyond_where_the_table_is(Target::Timestamp(5), by_partition([80, 50]))]
#[case::the_beginning(Target::Beginning, by_partition([0, 0]))]
#[case::the_rows(Target::Rows, by_partition([97, 0]))]
#[case::what_is_stored(Target::Stored, BTreeMap::new())]
fn an_append_table_loses_the_rows_that_are_read_again(#[case] target: Target, #[case] to: BTreeMap<i32, i64>) {
    assert_eq!(case(Mode::Append).how(target), take_out(to));
}

#[rstest]
#[case::the_newest_that_is_nowhere_beyond(offsets([(0, 90), (1, 30)]), 3)]
#[case::one_partition_alone_can_ask_for_it(offsets([(0, 69)]), 1)]
#[case::exactly_there(offsets([(0, 70), (1, 30)]), 3)]
#[case::a_time(Target::Timestamp(5), 3)]
#[case::a_snapshot(Target::Snapshot(2), 2)]
#[case::anothers_snapshot(Target::Snapshot(3), 3)]
fn an_upsert_table_is_restored_to_a_snapshot(#[case] target: Target, #[case] snapshot_id: i64) {
    assert_eq!(case(Mode::Upsert).how(target.clone()), How::Restore { snapshot_id });
    let without_origins = Case { has_origins: false, ..case(Mode::Append) };
    assert_eq!(without_origins.how(target), How::Restore { snapshot_id });
}

#[test]
fn without_a_snapshot_an_upsert_table_is_read_over_and_an_append_table_is_not() {
    let decision = case(Mode::Upsert).decide(offsets([(0, 39)])).unwrap();
    assert_eq!(decision.how, replay([(0, 39)].into()));
    assert!(decision.warnings[0].contains("the rows stay"), "{:?}", decision.warnings);
    let asked = Case { replay: true, ..case(Mode::Upsert) };
    assert_eq!(asked.how(offsets([(0, 90)])), replay([(0, 90)].into()));
    assert_eq!(asked.how(Target::Snapshot(1)), replay(by_partition([40, 0])));
    Case { has_origins: false, ..case(Mode::Append) }.refused(offsets([(0, 39)]), &["origin_columns = false"]);
    Case { replay: true, ..case(Mode::Append) }.refused(offsets([(0, 39)]), &["--replay is for upsert tables"]);
}

#[test]
fn nothing_is_left_out_and_nothing_to_do_is_said() {
    for mode in [Mode::Append, Mode::Upsert] {
        let case = case(mode);
        case.refused(offsets([(0, 101)]), &["stands at offset 100, before 101"]);
        case.refused(offsets([(2, 0)]), &["no position in shop.public.t/2"]);
        case.refused(offsets([(0, 100)]), &["stands there already"]);
        case.refused(Target::SkipLost, &["nothing is lost"]);
        case.refused(Target::NewTopic, &["is still the topic"]);
        case.refused(Target::Snapshot(9), &["there is no snapshot 9", "firn table history db.t"]);
    }
    let foreign_only = Case { metadata: history(&[None]), ..case(Mode::Upsert) };
    foreign_only.refused(Target::Snapshot(1), &["neither snapshot 1"]);
}

#[test]
fn what_the_log_has_lost_is_not_gone_back_to() {
    let mut case = case(Mode::Upsert);
    case.log.reaches = [(0, (45, 120)), (1, (0, 60))].into();
    case.refused(offsets([(0, 44)]), &["begins only at offset 45", "Choose a target from 45"]);
    case.refused(Target::Snapshot(1), &["begins only at offset 45"]);
    // The older snapshot can't be gone on from, the newer one can.
    assert_eq!(case.how(offsets([(0, 60)])), replay([(0, 60)].into()));
    assert_eq!(case.how(offsets([(0, 70)])), How::Restore { snapshot_id: 3 });
}

#[test]
fn a_partition_that_the_snapshot_did_not_know_must_be_there_from_its_beginning() {
    let mut case = case(Mode::Upsert);
    case.metadata = history(&[Some(at([40])), Some(at([100, 50]))]);
    assert_eq!(case.how(Target::Snapshot(1)), How::Restore { snapshot_id: 1 });
    case.log.reaches.insert(1, (5, 60));
    case.refused(Target::Snapshot(1), &["shop.public.t/1", "begins only at offset 5", "from 0"]);
}

#[test]
fn lost_offsets_are_stepped_over_only_where_they_are_lost() {
    for mode in [Mode::Append, Mode::Upsert] {
        let mut case = case(mode);
        case.log.reaches = [(0, (20, 120)), (1, (55, 60))].into();
        assert_eq!(case.how(Target::SkipLost), How::SkipLost { topic: TOPIC.to_owned(), to: [(1, 55)].into() });
        case.refused(Target::Beginning, &["begins only at offset 55", "firn rewind db.t --skip-lost"]);
    }
}

#[test]
fn another_topic_of_the_name_is_gone_on_with_only_on_purpose() {
    for mode in [Mode::Append, Mode::Upsert] {
        let mut case = case(mode);
        case.log.topic_id = Some("two".to_owned());
        case.log.reaches = [(0, (0, 500)), (1, (3, 500))].into();
        for target in [Target::Beginning, Target::SkipLost, Target::Snapshot(2), Target::Stored, Target::Rows] {
            case.refused(target, &["made again", "firn rewind db.t --new-topic"]);
        }
        let How::NewTopic { begins, .. } = case.how(Target::NewTopic) else { panic!() };
        assert_eq!((begins.topic_id.as_deref(), begins.partition_count), (Some("two"), 2));
        assert_eq!(begins.partitions.values().map(|p| p.next).collect::<Vec<_>>(), [0, 3]);
        // With other partitions the keys of an upsert table's rows are elsewhere.
        case.log.reaches.insert(2, (0, 0));
        match mode {
            Mode::Append => assert!(matches!(case.how(Target::NewTopic), How::NewTopic { .. })),
            Mode::Upsert => case.refused(Target::NewTopic, &["had 2 partitions and has 3"]),
        }
    }
    // A snapshot of the time of the topic of before has no log any more.
    let mut past = case(Mode::Upsert);
    past.log.topic_id = Some("two".to_owned());
    past.standing.topics.get_mut(TOPIC).unwrap().topic_id = Some("two".to_owned());
    past.refused(Target::Snapshot(2), &["another topic of this name"]);
    past.replay = true;
    past.refused(Target::Snapshot(2), &["another topic of this name"]);
    // Brokers that tell no ids: the log's end tells.
    let mut old = case(Mode::Append);
    old.log.topic_id = None;
    old.refused(Target::NewTopic, &["is still the topic"]);
    old.log.reaches = [(0, (0, 10)), (1, (0, 60))].into();
    assert!(matches!(old.how(Target::NewTopic), How::NewTopic { .. }));
}

#[test]
fn what_compaction_took_is_not_read_again_unawares() {
    let compacted = |mode| Case { log: TopicLog { compacted: Some(true), ..log() }, ..case(mode) };
    let append = compacted(Mode::Append);
    append.refused(offsets([(0, 5)]), &["compacted", "rows would be lost", "--accept-compacted"]);
    let upsert = compacted(Mode::Upsert);
    upsert.refused(Target::Snapshot(2), &["compacted", "--replay"]);
    // The rows stay, so what was deleted stays deleted.
    let over = upsert.decide(offsets([(0, 90), (1, 30)])).unwrap();
    assert_eq!(over.how, replay([(0, 90), (1, 30)].into()));
    assert_eq!(over.warnings.len(), 2, "{:?}", over.warnings);
    for mode in [Mode::Append, Mode::Upsert] {
        let accepted = Case { accept_compacted: true, ..compacted(mode) }.decide(offsets([(0, 90), (1, 30)])).unwrap();
        assert!(!matches!(accepted.how, How::Replay { .. }) && accepted.warnings.len() == 1, "{accepted:?}");
        let silent = Case { log: TopicLog { compacted: None, ..log() }, ..case(mode) };
        let warnings = silent.decide(offsets([(0, 90), (1, 30)])).unwrap().warnings;
        assert!(warnings[0].contains("DescribeConfigs"), "{warnings:?}");
    }
}

#[test]
fn a_table_whose_history_does_not_tell_is_settled_by_all_partitions_or_its_rows() {
    let unclear = |mode| Case { unclear: true, ..case(mode) };
    unclear(Mode::Append).refused(offsets([(0, 50)]), &["every partition", "shop.public.t/1", "--to rows"]);
    assert_eq!(unclear(Mode::Append).how(offsets([(0, 50), (1, 50)])), take_out(by_partition([50, 50])));
    assert_eq!(unclear(Mode::Append).how(Target::Rows), take_out(by_partition([97, 0])));
    // Of its snapshots nobody knows which are its history.
    assert_eq!(unclear(Mode::Upsert).how(offsets([(0, 70), (1, 30)])), replay(by_partition([70, 30])));
    assert_eq!(unclear(Mode::Upsert).how(Target::Stored), replay(BTreeMap::new()));
    assert_eq!(unclear(Mode::Upsert).how(Target::Snapshot(2)), How::Restore { snapshot_id: 2 });
}

#[test]
fn a_key_that_moved_within_the_range_is_not_read_over_out_of_order() {
    let mut grown = case(Mode::Upsert);
    grown.metadata = history(&[Some(at([40])), Some(at([100, 50]))]);
    grown.replay = true;
    grown.refused(offsets([(0, 39)]), &["grew from 1 to 2 partitions", "firn table history db.t"]);
    assert_eq!(grown.how(offsets([(0, 40)])), replay([(0, 40)].into()));
    grown.replay = false;
    assert_eq!(grown.how(offsets([(0, 40)])), How::Restore { snapshot_id: 1 });
}

#[test]
fn a_topic_that_does_not_feed_the_table_any_more_is_not_set_back_with_it() {
    let with = |c: Checkpoint, next: i64| {
        let mut c = c;
        let other = at([next]).topics.remove(TOPIC).unwrap();
        c.topics.insert("old.topic".to_owned(), other);
        c
    };
    let mut case = case(Mode::Upsert);
    case.standing = with(at([100, 50]), 9);
    case.metadata = history(&[Some(with(at([40, 0]), 5)), Some(with(at([70, 30]), 9)), Some(with(at([100, 50]), 9))]);
    case.refused(Target::Snapshot(1), &["old.topic"]);
    assert_eq!(case.how(Target::Snapshot(2)), How::Restore { snapshot_id: 2 });
    assert_eq!(
        case.how(offsets([(0, 69)])),
        replay([(0, 69)].into()),
        "the fitting snapshot would take the other back"
    );
}
