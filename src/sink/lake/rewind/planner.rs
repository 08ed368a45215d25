//! What a rewind does to the table as it is now: worked out anew on every fresh base.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use firn_catalog::{Attempt, CommitError, ManifestCache, Plan, Planner, RowDelta};
use iceberg::TableUpdate;
use iceberg::spec::TableMetadata;
use iceberg::table::Table;

use super::files::TakenOut;
use super::position::standing_or_stored;
use super::replaying::{REPLAYING, Replaying};
use super::{How, REWIND, Rewind, RewindError, Rewound, lost};
use crate::change::Mode;
use crate::position::{Checkpoint, TopicPartition};
use crate::record::Origin;
use crate::sink::lake::cut::Cuts;
use crate::sink::lake::layout::Layout;
use crate::sink::lake::letters::{PENDING, PendingSet, REPLAYED, replay};
use crate::sink::lake::resume::{CHECKPOINT, GENERATION, LAST_SNAPSHOT_ID, MODE};
use crate::sink::lake::{LakeError, TableSpec};

pub(super) struct RewindPlanner<'a> {
    pub(super) spec: &'a TableSpec,
    pub(super) rewind: &'a Rewind,
    pub(super) snapshot_id: i64,
    pub(super) manifests: ManifestCache,
    /// What the last plan does.
    pub(super) planned: Option<Rewound>,
}

/// A rewind of one base.
pub(super) struct Outcome {
    pub(super) rewound: Rewound,
    layout: Layout,
    taken: TakenOut,
}

#[async_trait]
impl Planner for RewindPlanner<'_> {
    async fn plan(&mut self, base: &Table, _attempt: Attempt) -> Result<Plan, CommitError> {
        self.try_plan(base).await.map_err(|e| match e {
            RewindError::Refused(reason) => CommitError::Stale { reason, open: false },
            RewindError::Undecided(e) => CommitError::Undecided(e),
            RewindError::Lake(e) => {
                let kind = match e.is_transient() {
                    true => firn_catalog::ErrorKind::Unavailable,
                    false => firn_catalog::ErrorKind::Invalid,
                };
                firn_catalog::Error::new(kind, e.to_string()).into()
            }
        })
    }

    fn manifests(&self) -> Option<ManifestCache> {
        Some(self.manifests.clone())
    }
}

impl RewindPlanner<'_> {
    pub(super) async fn look(&self, base: &Table) -> Result<Outcome, RewindError> {
        let metadata = base.metadata();
        let name = self.spec.to_string();
        let Some(before) = standing_or_stored(&name, metadata)? else {
            return Err(RewindError::Refused(
                "firn never committed to the table: there is nothing to go back to".to_owned(),
            ));
        };
        if before.generation != self.rewind.generation {
            return Err(RewindError::Refused(format!(
                "the table was rewound by somebody else meanwhile (generation {}, looked at in {})",
                before.generation, self.rewind.generation
            )));
        }
        let how = &self.rewind.how;
        let mut after = how.position(&before, metadata).map_err(RewindError::Refused)?;
        after.generation += 1;
        let layout = Layout::of(base, self.spec, &[])?;
        let taken = match self.cuts(&before) {
            Some(cuts) => TakenOut::of(base, &layout, &cuts, &self.manifests).await?,
            None => TakenOut::default(),
        };
        let now_ms = chrono::Utc::now().timestamp_millis();
        let earlier = Replaying::of(&name, metadata)?;
        let replaying = match how {
            How::Replay { .. } => Replaying::between(&before, &after, earlier, now_ms),
            How::Deliver { .. } if self.spec.mode == Mode::Upsert => {
                Replaying::between(&before, &after, earlier, now_ms).filter(|replaying| !replaying.is_over(&after))
            }
            How::SkipLost { .. } => earlier.filter(|earlier| !earlier.is_over(&after)),
            How::TakeOut { .. } | How::Deliver { .. } | How::Restore { .. } | How::NewTopic { .. } => None,
        };
        let foreign_snapshots = match how {
            How::Restore { snapshot_id } => undone(metadata, *snapshot_id),
            _ => 0,
        };
        let rewound = Rewound {
            snapshot_id: None,
            removal: taken.removal,
            foreign_snapshots,
            replaying,
            lost: lost::given_up(how, &before, now_ms),
            before,
            after,
        };
        Ok(Outcome { rewound, layout, taken })
    }

    async fn try_plan(&mut self, base: &Table) -> Result<Plan, RewindError> {
        self.planned = None;
        let metadata = base.metadata();
        let Outcome { rewound, layout, taken } = self.look(base).await?;
        let json = rewound.after.to_json();
        let mut properties = HashMap::from([
            (CHECKPOINT.to_owned(), json.clone()),
            (GENERATION.to_owned(), rewound.after.generation.to_string()),
            (MODE.to_owned(), self.spec.mode.as_str().to_owned()),
            (LAST_SNAPSHOT_ID.to_owned(), self.snapshot_id.to_string()),
        ]);
        properties.extend(self.letters(metadata, &layout, &rewound)?);
        properties.extend(lost::with(metadata, &rewound.lost).map(|json| (lost::LOST_RANGES.to_owned(), json)));
        let mut updates = vec![];
        match &rewound.replaying {
            Some(replaying) => {
                properties.insert(REPLAYING.to_owned(), replaying.to_json());
            }
            None if metadata.properties().contains_key(REPLAYING) => {
                updates.push(TableUpdate::RemoveProperties { removals: vec![REPLAYING.to_owned()] });
            }
            None => {}
        }
        let onto = match self.rewind.how {
            How::Restore { snapshot_id } => Some(snapshot_id),
            _ => None,
        };
        let summary = HashMap::from([(CHECKPOINT.to_owned(), json), (REWIND.to_owned(), self.note(&rewound))]);
        let delta: RowDelta = taken.into_delta(base, &layout).await?;
        self.planned = Some(rewound);
        Ok(Plan { delta, summary, properties, updates, onto, retention: self.spec.retention, ..Plan::default() })
    }

    /// The rows that go.
    fn cuts(&self, before: &Checkpoint) -> Option<Cuts> {
        let sole_topic = before.topics.len() == 1;
        match &self.rewind.how {
            How::TakeOut { topic, to } if !to.is_empty() => Some(Cuts::of_rewind(topic, Some(to), sole_topic)),
            How::Deliver { topic, to } if self.spec.mode == Mode::Append => {
                Some(Cuts::of_rewind(topic, Some(to), sole_topic))
            }
            How::NewTopic { topic, .. } if self.spec.mode == Mode::Append => {
                Some(Cuts::of_rewind(topic, None, sole_topic))
            }
            _ => None,
        }
    }

    /// What the table remembers of its letters. Those that are read again become letters again, or rows. A restored snapshot undoes
    /// replays and later changes of letters' keys, nobody knows which: those letters' replays look into Kafka's log.
    fn letters(
        &self,
        metadata: &TableMetadata,
        layout: &Layout,
        rewound: &Rewound,
    ) -> Result<Vec<(String, String)>, LakeError> {
        let new_topic = match &self.rewind.how {
            How::NewTopic { topic, .. } => Some(topic),
            _ => None,
        };
        let again = How::read_again(&rewound.before, &rewound.after);
        let stays = |origin: &Origin| {
            let TopicPartition { topic, partition } = &origin.at;
            let from = again.get(topic).and_then(|partitions| partitions.get(partition));
            new_topic != Some(topic) && from.is_none_or(|from| origin.offset < *from)
        };
        let restored = matches!(self.rewind.how, How::Restore { .. });
        let mut properties = vec![];
        if let (Mode::Upsert, Some(json)) = (self.spec.mode, metadata.properties().get(PENDING)) {
            let key_ids = layout.key_ids();
            let mut pending = PendingSet::read(Some(json), &key_ids);
            pending.retain(|letter| stays(&letter.origin) && !(restored && letter.later));
            properties.push((PENDING.to_owned(), pending.to_json(&key_ids)));
        }
        let replayed = replay::rewound(&layout.table, metadata, |origin| !restored && stays(origin))?;
        properties.extend(replayed.map(|json| (REPLAYED.to_owned(), json)));
        Ok(properties)
    }

    /// For the snapshot's summary.
    fn note(&self, rewound: &Rewound) -> String {
        let moved = |(topic, had): (&String, &crate::position::TopicPosition)| {
            let has = rewound.after.topics.get(topic);
            let partitions: BTreeMap<i32, (i64, Option<i64>)> = had
                .partitions
                .iter()
                .map(|(p, had)| (*p, (had.next, has.and_then(|t| t.partitions.get(p)).map(|p| p.next))))
                .filter(|(_, (had, has))| Some(*had) != *has)
                .collect();
            (!partitions.is_empty()).then(|| (topic.clone(), partitions))
        };
        let positions: BTreeMap<String, BTreeMap<i32, (i64, Option<i64>)>> =
            rewound.before.topics.iter().filter_map(moved).collect();
        let snapshot_id = match self.rewind.how {
            How::Restore { snapshot_id } => Some(snapshot_id),
            _ => None,
        };
        serde_json::json!({
            "how": self.rewind.how.as_str(),
            "generation": rewound.after.generation,
            "snapshot_id": snapshot_id,
            "positions": positions,
        })
        .to_string()
    }
}

/// Snapshots of other writers between the current one and this ancestor of it.
fn undone(metadata: &TableMetadata, ancestor: i64) -> usize {
    let mut at = metadata.current_snapshot();
    let mut foreign = 0;
    for _ in 0..=metadata.snapshots().len() {
        let Some(snapshot) = at.filter(|s| s.snapshot_id() != ancestor) else { break };
        foreign += usize::from(!snapshot.summary().additional_properties.contains_key(CHECKPOINT));
        at = snapshot.parent_snapshot_id().and_then(|id| metadata.snapshot_by_id(id));
    }
    foreign
}
