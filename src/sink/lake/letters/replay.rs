//! What a replay does to the table that its letters were meant for: a commit without spans that says which letters it settled.
//!
//! Two replays can't both land on what they read: each counts the replays of the table, and the commit holds only if no other came
//! in between. The letters that the last one settled stay named in the table until the next one, which writes their status where
//! the process died before it could.

use iceberg::spec::TableMetadata;
use serde::{Deserialize, Serialize};

use crate::change::Mode;
use crate::letter::Status;
use crate::position::{Checkpoint, Span, TopicPartition};
use crate::record::Origin;
use crate::sink::lake::letters::pending::{PENDING, PendingLetter, PendingSet};
use crate::sink::lake::letters::present;
use crate::sink::lake::resume::standing;
use crate::sink::lake::{LakeError, LakeTable, Staged};

/// Table property: how many replays there were, and the letters of the last one.
pub const REPLAYED: &str = "firn.replayed-letters";

/// Letters that are settled in one commit: the rows of the applied ones are the batch.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// [`Standing::replays`] when the letters were looked at.
    pub replays: u64,
    /// Those whose rows go into an upsert table, as the pending set must have them.
    pub applied: Vec<PendingLetter>,
    /// All letters that are settled hereby.
    pub settled: Vec<(Origin, Status)>,
}

/// What a table says of its letters.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    pub checkpoint: Checkpoint,
    pub pending: PendingSet,
    pub replays: u64,
    /// The letters that the last replay settled.
    pub settled: Vec<(Origin, Status)>,
}

#[derive(Default, Deserialize, Serialize)]
struct Stored {
    replays: u64,
    letters: Vec<(String, i32, i64, String)>,
}

impl Stored {
    fn of(table: &str, metadata: &TableMetadata) -> Result<Self, LakeError> {
        let Some(json) = metadata.properties().get(REPLAYED) else { return Ok(Self::default()) };
        serde_json::from_str(json).map_err(|e| LakeError::Unclear {
            table: table.to_owned(),
            message: format!(
                "the property {REPLAYED} can't be read ({e}): it may be of a newer version; it has {json}"
            ),
        })
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The property once these offsets were read again: what becomes of their records now is another story. `None` when it stays.
pub(crate) fn read_again(table: &str, metadata: &TableMetadata, spans: &[Span]) -> Result<Option<String>, LakeError> {
    let mut stored = Stored::of(table, metadata)?;
    let before = stored.letters.len();
    let again = |(topic, partition, offset, _): &(String, i32, i64, String)| {
        spans.iter().any(|s| s.at.topic == *topic && s.at.partition == *partition && (s.from..s.next).contains(offset))
    };
    stored.letters.retain(|letter| !again(letter));
    Ok((stored.letters.len() < before).then(|| stored.to_json()))
}

/// The property after a rewind: letters that are read again, or whose rows went, are not settled any more, and a replay that was
/// worked out before does not hold. `None` where there never was a replay.
pub(crate) fn rewound(
    table: &str,
    metadata: &TableMetadata,
    stays: impl Fn(&Origin) -> bool,
) -> Result<Option<String>, LakeError> {
    let mut stored = Stored::of(table, metadata)?;
    if stored.replays == 0 {
        return Ok(None);
    }
    stored.replays += 1;
    stored.letters.retain(|(topic, partition, offset, _)| {
        stays(&Origin { at: TopicPartition::new(topic.clone(), *partition), offset: *offset })
    });
    Ok(Some(stored.to_json()))
}

impl Replay {
    /// The table's property after this replay.
    ///
    /// # Errors
    /// `Ok(Err)` says why the replay must look again: another one came in between, or the table stands before a letter.
    pub(crate) fn property(
        &self,
        table: &str,
        metadata: &TableMetadata,
        checkpoint: &Checkpoint,
    ) -> Result<Result<String, String>, LakeError> {
        let have = Stored::of(table, metadata)?;
        if have.replays != self.replays {
            return Ok(Err("another replay came in between".to_owned()));
        }
        let behind = |(o, _): &&(Origin, Status)| checkpoint.next(&o.at).is_none_or(|next| next <= o.offset);
        if let Some((origin, _)) = self.settled.iter().find(behind) {
            return Ok(Err(format!("the table stands before {origin} again")));
        }
        let letters = self
            .settled
            .iter()
            .map(|(o, status)| (o.at.topic.clone(), o.at.partition, o.offset, status.as_str().to_owned()));
        Ok(Ok(Stored { replays: self.replays + 1, letters: letters.collect() }.to_json()))
    }
}

impl Staged {
    /// The batch as a replay: it accounts for no offsets, and settles letters.
    #[must_use]
    pub fn replaying(mut self, replay: Replay) -> Self {
        self.replay = Some(replay);
        self
    }
}

impl LakeTable {
    /// What the table says of its letters now; `None` when it doesn't exist or firn never committed to it.
    ///
    /// # Errors
    /// When the catalog can't be reached, or the table's history doesn't tell where it stands.
    pub async fn letters(&self) -> Result<Option<Standing>, LakeError> {
        let Some(table) = self.load().await? else { return Ok(None) };
        self.standing_in(table.metadata())
    }

    pub(super) fn standing_in(&self, metadata: &TableMetadata) -> Result<Option<Standing>, LakeError> {
        let name = self.spec().to_string();
        let Some(checkpoint) = standing(&name, metadata)? else { return Ok(None) };
        let stored = Stored::of(&name, metadata)?;
        let settled = stored.letters.into_iter().filter_map(|(topic, partition, offset, status)| {
            Some((Origin { at: TopicPartition::new(topic, partition), offset }, Status::of(&status)?))
        });
        Ok(Some(Standing {
            checkpoint,
            pending: PendingSet::read(metadata.properties().get(PENDING).map(String::as_str), &self.key_ids()),
            replays: stored.replays,
            settled: settled.collect(),
        }))
    }

    /// Which of these records have a row of their own in the table, deleted ones included. Empty where rows don't say where they
    /// came from.
    ///
    /// # Errors
    /// When the table can't be read.
    pub async fn present(&self, origins: &[Origin]) -> Result<Vec<Origin>, LakeError> {
        let (Some(table), Some(layout)) = (self.load().await?, self.layout()) else { return Ok(vec![]) };
        present::present(&table, &layout, origins, &self.shared.manifests).await
    }

    /// Field ids of the key columns; none in append mode.
    pub(super) fn key_ids(&self) -> Vec<i32> {
        match self.spec().mode {
            Mode::Append => vec![],
            Mode::Upsert => self.layout().map(|layout| layout.key_ids()).unwrap_or_default(),
        }
    }
}
