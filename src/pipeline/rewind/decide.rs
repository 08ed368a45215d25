//! How a table gets to where a person wants it: decided from what the table and Kafka's log say. Pure.

use std::collections::BTreeMap;

use iceberg::spec::{SnapshotRef, TableMetadata};

use crate::change::Mode;
use crate::position::{Checkpoint, PartitionPosition, TopicPosition};
use crate::sink::lake::{CHECKPOINT, How, taken_with};

/// Where a table is to stand. Offsets are the next ones to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// By partition; the others stay.
    Offsets(BTreeMap<i32, i64>),
    /// The first record that is not older, ms since the epoch.
    Timestamp(i64),
    /// Where the table stood when it had this snapshot.
    Snapshot(i64),
    /// The log's beginning.
    Beginning,
    /// Behind the newest rows that the table has, whatever its properties say.
    Rows,
    /// What its properties say, whatever its history does.
    Stored,
    /// The log's beginning for the partitions that the log has lost offsets of, and those alone.
    SkipLost,
    /// The beginning of a topic that was made anew under the old name.
    NewTopic,
}

/// What a person asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub target: Target,
    /// Keep an upsert table's rows and read the log over them again, also where a snapshot could be restored.
    pub replay: bool,
    /// Go on although the topic is compacted.
    pub accept_compacted: bool,
}

/// What Kafka has of the topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicLog {
    pub topic: String,
    pub topic_id: Option<String>,
    /// `[low, high)` by partition.
    pub reaches: BTreeMap<i32, (i64, i64)>,
    /// Whether compaction may have taken records; `None` where the brokers don't say.
    pub compacted: Option<bool>,
    /// For [`Target::Timestamp`]: the first offset by partition whose record is not older.
    pub since: BTreeMap<i32, i64>,
}

/// A table as it is.
#[derive(Debug)]
pub struct TableAsIs<'a> {
    pub name: &'a str,
    pub mode: Mode,
    /// Whether its rows say where they came from.
    pub has_origins: bool,
    pub metadata: &'a TableMetadata,
    /// Where it stands; where its history does not tell, what its properties hold.
    pub standing: &'a Checkpoint,
    /// Its history does not tell where it stands.
    pub unclear: bool,
    /// For [`Target::Rows`].
    pub ends_of_rows: BTreeMap<i32, i64>,
}

/// What is to be done, and what a person should know before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub how: How,
    pub warnings: Vec<String>,
}

/// # Errors
/// The sentence says why not, and what to do instead.
pub fn decide(wish: &Wish, table: &TableAsIs<'_>, log: &TopicLog) -> Result<Decision, String> {
    let decider = Decider { wish, table, log };
    let mut warnings = vec![];
    let how = decider.how(&mut warnings)?;
    Ok(Decision { how, warnings })
}

struct Decider<'a> {
    wish: &'a Wish,
    table: &'a TableAsIs<'a>,
    log: &'a TopicLog,
}

impl Decider<'_> {
    fn how(&self, warnings: &mut Vec<String>) -> Result<How, String> {
        let Self { wish, table, log } = self;
        let topic = &log.topic;
        if wish.replay && table.mode == Mode::Append {
            return Err(
                "--replay is for upsert tables: in an append table rows that are read again would be there twice"
                    .to_owned(),
            );
        }
        let Some(standing) = table.standing.topics.get(topic) else {
            return Err(format!("firn never read {topic} into the table"));
        };
        if wish.target == Target::NewTopic {
            return self.new_topic(standing);
        }
        if let (Some(have), Some(now)) = (&standing.topic_id, &log.topic_id)
            && have != now
        {
            return Err(format!(
                "topic {topic} was deleted and made again (its id was {have}, now {now}): the table's offsets mean nothing \
                 in it. `firn rewind {} --new-topic` goes on with the new one",
                table.name
            ));
        }
        match &wish.target {
            Target::Snapshot(id) => self.snapshot(*id, standing, warnings),
            Target::SkipLost => self.skip_lost(standing),
            Target::Stored => Ok(self.set_back(BTreeMap::new())),
            Target::Rows => {
                let to = self.ends_of_rows(standing);
                self.check_readable(&to)?;
                let kind = match table.mode {
                    Mode::Append => Kind::ReadAgain,
                    Mode::Upsert => Kind::Over,
                };
                self.check_compacted(kind, warnings)?;
                Ok(self.set_back(to))
            }
            Target::Offsets(_) | Target::Timestamp(_) | Target::Beginning | Target::NewTopic => {
                let to = self.positions(standing)?;
                self.check_readable(&to)?;
                self.to_positions(standing, to, warnings)
            }
        }
    }

    /// Where the partitions are to stand.
    fn positions(&self, standing: &TopicPosition) -> Result<BTreeMap<i32, i64>, String> {
        let Self { wish, table, log } = self;
        let topic = &log.topic;
        if let Target::Offsets(to) = &wish.target {
            if let Some(unnamed) = standing.partitions.keys().find(|p| table.unclear && !to.contains_key(p)) {
                return Err(format!(
                    "the table's history does not tell where it stands: say an offset for every partition ({topic}/{unnamed} \
                     has none), or use --to rows"
                ));
            }
            for (partition, to) in to {
                let Some(have) = standing.partitions.get(partition) else {
                    return Err(format!("the table has no position in {topic}/{partition}"));
                };
                if *to > have.next {
                    return Err(format!(
                        "{topic}/{partition}: the table stands at offset {}, before {to}: a rewind goes back, and nothing \
                         may be left out",
                        have.next
                    ));
                }
            }
            return Ok(to.clone());
        }
        let mut all = BTreeMap::new();
        for (partition, have) in &standing.partitions {
            let to = match wish.target {
                Target::Timestamp(_) => log.since.get(partition).copied(),
                _ => log.reaches.get(partition).map(|(low, _)| *low),
            };
            let Some(to) = to else { return Err(self.gone(*partition)) };
            all.insert(*partition, to.min(have.next));
        }
        Ok(all)
    }

    fn gone(&self, partition: i32) -> String {
        format!(
            "{}/{partition} is not there any more: the topic was made anew with fewer partitions (`firn rewind {} \
             --new-topic`), or this is another cluster",
            self.log.topic, self.table.name
        )
    }

    /// Whether the log can be read from these positions.
    fn check_readable(&self, to: &BTreeMap<i32, i64>) -> Result<(), String> {
        let topic = &self.log.topic;
        for (partition, to) in to {
            let Some((low, high)) = self.log.reaches.get(partition) else { return Err(self.gone(*partition)) };
            if to < low {
                return Err(format!(
                    "{topic}/{partition}: Kafka's log begins only at offset {low}, the table would be read on from {to}: \
                     the range in between has expired. Choose a target from {low} on{}",
                    self.hint_of_loss(*partition, *low)
                ));
            }
            if to > high {
                return Err(format!(
                    "{topic}/{partition}: offset {to} is ahead of Kafka's log, which ends at {high}: the topic was cut, or \
                     made anew (`firn rewind {} --new-topic`), or this is another cluster",
                    self.table.name
                ));
            }
        }
        Ok(())
    }

    fn hint_of_loss(&self, partition: i32, low: i64) -> String {
        let standing = self.table.standing.topics.get(&self.log.topic);
        match standing.and_then(|t| t.partitions.get(&partition)).is_some_and(|have| have.next < low) {
            true => format!("; `firn rewind {} --skip-lost` gives up what is lost", self.table.name),
            false => String::new(),
        }
    }

    fn check_compacted(&self, kind: Kind, warnings: &mut Vec<String>) -> Result<(), String> {
        let topic = &self.log.topic;
        match (self.log.compacted, kind) {
            (Some(false), _) => {}
            (None, _) => warnings.push(format!(
                "the brokers don't say whether {topic} is compacted (DescribeConfigs): what compaction took can't be read again"
            )),
            (Some(true), Kind::Over) => warnings.push(format!(
                "{topic} is compacted: of each key only what its log still has is read again"
            )),
            (Some(true), Kind::ReadAgain) if self.wish.accept_compacted => warnings.push(format!(
                "{topic} is compacted: what compaction took is not read again"
            )),
            (Some(true), Kind::ReadAgain) => {
                let instead = match self.table.mode {
                    Mode::Append => "rows would be lost",
                    Mode::Upsert => "rows deleted since would come back for good; --replay keeps the rows and is safe",
                };
                return Err(format!(
                    "{topic} is compacted, and what compaction took can't be read again: {instead}. Where you know that it took \
                     nothing of the range, add --accept-compacted"
                ));
            }
        }
        Ok(())
    }

    /// The rows stay, or those that are read again go.
    fn set_back(&self, to: BTreeMap<i32, i64>) -> How {
        let topic = self.log.topic.clone();
        match self.table.mode {
            Mode::Append => How::TakeOut { topic, to },
            Mode::Upsert => How::Replay { topic, to },
        }
    }

    fn to_positions(
        &self,
        standing: &TopicPosition,
        to: BTreeMap<i32, i64>,
        warnings: &mut Vec<String>,
    ) -> Result<How, String> {
        let Self { wish, table, log } = self;
        let moves = to.iter().any(|(p, to)| standing.partitions.get(p).is_some_and(|have| have.next != *to));
        if !moves && !table.unclear {
            return Err("the table stands there already: there is nothing to rewind".to_owned());
        }
        if table.mode == Mode::Append && table.has_origins {
            self.check_compacted(Kind::ReadAgain, warnings)?;
            return Ok(self.set_back(to));
        }
        let compacted = log.compacted == Some(true) && !wish.accept_compacted;
        let restorable = (!wish.replay && !table.unclear && !compacted).then(|| self.newest_at_or_below(&to)).flatten();
        if let Some(snapshot) = restorable {
            self.check_compacted(Kind::ReadAgain, warnings)?;
            return Ok(How::Restore { snapshot_id: snapshot.snapshot_id() });
        }
        if table.mode == Mode::Append {
            return Err(
                "no snapshot of the table stands there or before, and its rows don't say where they came from \
                        (origin_columns = false): those that would be read again can't be told"
                    .to_owned(),
            );
        }
        self.check_replay(&to)?;
        self.check_compacted(Kind::Over, warnings)?;
        if !wish.replay {
            warnings.push(match compacted {
                true => "its log is compacted: the rows stay, and the log is read over them again".to_owned(),
                false => "no snapshot of the table stands there or before: the rows stay, and the log is read over them again"
                    .to_owned(),
            });
        }
        Ok(self.set_back(to))
    }

    /// The newest ancestor of the current snapshot whose position is nowhere beyond `to`, and from which the log can be read. What
    /// other writers did upon that position stays.
    fn newest_at_or_below(&self, to: &BTreeMap<i32, i64>) -> Option<&SnapshotRef> {
        let metadata = self.table.metadata;
        let mut at = metadata.current_snapshot();
        for _ in 0..=metadata.snapshots().len() {
            let snapshot = at?;
            if let Some(checkpoint) = taken_with(metadata, snapshot.snapshot_id())
                && self.goes_on_from(&checkpoint).is_ok()
                && let Some(position) = checkpoint.topics.get(&self.log.topic)
                && position.partitions.iter().all(|(p, have)| to.get(p).is_none_or(|to| have.next <= *to))
            {
                return Some(snapshot);
            }
            at = snapshot.parent_snapshot_id().and_then(|id| metadata.snapshot_by_id(id));
        }
        None
    }

    fn snapshot(&self, id: i64, standing: &TopicPosition, warnings: &mut Vec<String>) -> Result<How, String> {
        let metadata = self.table.metadata;
        if metadata.snapshot_by_id(id).is_none() {
            return Err(format!(
                "there is no snapshot {id}: it was expired, or is another table's. `firn table history {}` shows what is there",
                self.table.name
            ));
        }
        let Some(checkpoint) = taken_with(metadata, id) else {
            return Err(format!("neither snapshot {id} nor the ones before it say where the table stood in Kafka"));
        };
        if self.wish.replay {
            let position = checkpoint.topics.get(&self.log.topic);
            self.is_same_topic(position)?;
            let then = |p: &i32| position.and_then(|t| t.partitions.get(p)).map(|at| at.next);
            let low = |p: &i32| self.log.reaches.get(p).map_or(0, |(low, _)| *low);
            let to = standing.partitions.iter().map(|(p, have)| (*p, then(p).unwrap_or_else(|| low(p)).min(have.next)));
            let to: BTreeMap<i32, i64> = to.collect();
            self.check_readable(&to)?;
            self.check_replay(&to)?;
            self.check_compacted(Kind::Over, warnings)?;
            return Ok(self.set_back(to));
        }
        self.goes_on_from(&checkpoint)?;
        self.check_compacted(Kind::ReadAgain, warnings)?;
        Ok(How::Restore { snapshot_id: id })
    }

    /// Whether a position of the past is one in the topic of today.
    fn is_same_topic(&self, then: Option<&TopicPosition>) -> Result<(), String> {
        match (then.and_then(|t| t.topic_id.as_ref()), &self.log.topic_id) {
            (Some(had), Some(now)) if had != now => {
                Err(format!("at that time {} was another topic of this name: its log is gone", self.log.topic))
            }
            _ => Ok(()),
        }
    }

    /// Whether everything that came after a position can be read again.
    fn goes_on_from(&self, then: &Checkpoint) -> Result<(), String> {
        let Self { table, log, .. } = self;
        for (topic, have) in table.standing.topics.iter().filter(|(topic, _)| **topic != log.topic) {
            if then.topics.get(topic).map(|t| &t.partitions) != Some(&have.partitions) {
                return Err(format!("it would set topic {topic} back as well, which does not feed the table any more"));
            }
        }
        let position = then.topics.get(&log.topic);
        self.is_same_topic(position)?;
        // What had no position then was not read: all of it must be there.
        let then = |p: &i32| position.and_then(|t| t.partitions.get(p)).map_or(0, |at| at.next);
        let standing = table.standing.topics.get(&log.topic);
        let known =
            standing.iter().flat_map(|t| t.partitions.keys()).chain(position.iter().flat_map(|t| t.partitions.keys()));
        self.check_readable(&known.map(|p| (*p, then(p))).collect())
    }

    /// A key may have moved between partitions within the range: read again all at once, its changes would lose their order.
    fn check_replay(&self, to: &BTreeMap<i32, i64>) -> Result<(), String> {
        let topic = &self.log.topic;
        let now = self.table.standing.topics.get(topic).map_or(0, |t| t.partition_count);
        for snapshot in self.table.metadata.snapshots() {
            let json = snapshot.summary().additional_properties.get(CHECKPOINT);
            let Some(then) = json.and_then(|json| Checkpoint::from_json(json).ok()) else { continue };
            let Some(then) = then.topics.get(topic).filter(|t| t.partition_count < now) else { continue };
            if then.partitions.iter().any(|(p, at)| to.get(p).is_some_and(|to| *to < at.next)) {
                return Err(format!(
                    "{topic} grew from {} to {now} partitions within the range: read again over the rows that are there, \
                     changes of one key could lose their order. Go back to a snapshot instead (`firn table history {}`)",
                    then.partition_count, self.table.name
                ));
            }
        }
        Ok(())
    }

    fn skip_lost(&self, standing: &TopicPosition) -> Result<How, String> {
        let Self { table, log, .. } = self;
        let topic = &log.topic;
        let lost = |(partition, have): (&i32, &PartitionPosition)| {
            let (low, _) = log.reaches.get(partition)?;
            (have.next < *low).then_some((*partition, *low))
        };
        let to: BTreeMap<i32, i64> = standing.partitions.iter().filter_map(lost).collect();
        if to.is_empty() {
            return Err(format!(
                "nothing is lost: Kafka's log has every offset of {topic} from where {} stands",
                table.name
            ));
        }
        Ok(How::SkipLost { topic: topic.clone(), to })
    }

    fn new_topic(&self, standing: &TopicPosition) -> Result<How, String> {
        let Self { table, log, .. } = self;
        let topic = &log.topic;
        let ahead =
            standing.partitions.iter().any(|(p, have)| log.reaches.get(p).is_none_or(|(_, high)| have.next > *high));
        let other = match (&standing.topic_id, &log.topic_id) {
            (Some(have), Some(now)) => have != now,
            _ => ahead,
        };
        if !other {
            return Err(format!(
                "{topic} is still the topic that the table was read from: --new-topic is for one made anew"
            ));
        }
        let count = log.reaches.len() as i32;
        if table.mode == Mode::Upsert && standing.partition_count != count {
            return Err(format!(
                "{topic} had {} partitions and has {count} now: its keys are in other partitions than the table's rows say. \
                 Make it anew with as many partitions as before, or feed it into a new table",
                standing.partition_count
            ));
        }
        let begin = |(p, (low, _)): (&i32, &(i64, i64))| {
            (*p, PartitionPosition { next: *low, leader_epoch: None, timestamp_ms: None })
        };
        let begins = TopicPosition {
            topic_id: log.topic_id.clone(),
            partition_count: count,
            partitions: log.reaches.iter().map(begin).collect(),
            grew_from: None,
            truncated: None,
            snapshot: None,
        };
        Ok(How::NewTopic { topic: topic.clone(), begins })
    }

    /// Where the table's own rows end; for partitions that it has no row of, where the log begins.
    fn ends_of_rows(&self, standing: &TopicPosition) -> BTreeMap<i32, i64> {
        let end = |(partition, have): (&i32, &PartitionPosition)| {
            let low = self.log.reaches.get(partition).map_or(0, |(low, _)| *low);
            (*partition, self.table.ends_of_rows.get(partition).copied().unwrap_or(low).min(have.next))
        };
        standing.partitions.iter().map(end).collect()
    }
}

/// What is done with records that are read again.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Their rows are not in the table then.
    ReadAgain,
    /// Over rows that stay.
    Over,
}
