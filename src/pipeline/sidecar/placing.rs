//! Which partitions are read, and from where: assignments, revocations, and what the client or the sink has given up.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::position::TopicPartition;
use crate::sink::SinkError;
use crate::source::kafka::{Assigned, Misplaced, SourceError, has_record_soon};

use super::runner::Runner;
use super::slot::Slot;
use super::state::State;

impl Runner {
    /// Takes note of partitions that came, or were asked for again.
    pub(super) fn assigned(&mut self, assigned: Vec<Assigned>) {
        let mut away = BTreeSet::new();
        for a in assigned {
            let mut standing = self.parts.mount.standing(&a.at);
            let known = standing.as_ref().and_then(|s| s.topic_id.as_ref());
            let anew = known.zip(a.topic_id.as_ref()).is_some_and(|(had, has)| had != has);
            match (&a.misplaced, a.position) {
                _ if anew => {
                    let why = format!(
                        "topic {} was made anew: the sink's offsets belong to another topic id; `firn rewind --sink {} --to beginning` \
                         delivers the new one from its beginning",
                        a.at.topic, self.parts.id
                    );
                    self.hold(a.at, Some(why));
                }
                (Some(m), _) => {
                    let why = misplaced(&self.parts.id, &a.at, m);
                    match m {
                        Misplaced::Unknown { .. } => {
                            tracing::warn!(sink = self.parts.id, "held: {why}");
                            self.hold(a.at, None);
                        }
                        _ => self.hold(a.at, Some(why)),
                    }
                }
                (None, None) => away.extend(self.not_taken_over(a.at)),
                (None, Some(position)) => {
                    if standing.is_none() && self.parts.mount.begins_late() {
                        match self.parts.mount.begin(&a.at, position) {
                            Ok(begun) => standing = begun,
                            Err(e) => {
                                self.parts.mount.not_taken_over(&a.at, e);
                                away.extend(self.not_taken_over(a.at));
                                continue;
                            }
                        }
                    }
                    let state = match self.remembered(&a.at) {
                        Ok(state) => state,
                        Err(why) => {
                            tracing::warn!(sink = self.parts.id, partition = %a.at, "held: {why}");
                            self.trouble(why);
                            self.hold(a.at, None);
                            continue;
                        }
                    };
                    self.held.remove(&a.at);
                    tracing::info!(sink = self.parts.id, partition = %a.at, position, high = a.high, "reading");
                    let now = self.now();
                    let mut slot = Slot::new(&a, position, standing.as_ref(), now);
                    slot.state = state;
                    self.slots.insert(a.at.clone(), slot);
                }
            }
        }
        for why in away {
            tracing::warn!(sink = self.parts.id, "the sink does not say where it stands, trying again: {why}");
            self.trouble(why);
        }
        self.show_partitions();
    }

    /// Holds a partition in which the sink does not say where it stands; why, where time may mend it.
    fn not_taken_over(&mut self, at: TopicPartition) -> Option<String> {
        let trouble = self.parts.mount.take_trouble(&at);
        trouble.iter().for_each(|e| self.meter.failed(e));
        match trouble {
            Some(SinkError::Stopped(why)) => {
                self.hold(at, Some(why));
                None
            }
            other => {
                self.hold(at, None);
                other.map(|e| e.to_string())
            }
        }
    }

    /// What the pipeline keeps of a partition that the sink has taken over, as it was where the sink stands.
    fn remembered(&self, at: &TopicPartition) -> Result<Option<State>, String> {
        let Some(topic) = &self.parts.state_topic else { return Ok(None) };
        let kept = self.parts.mount.kept(at).ok_or("the sink stores nothing of what the pipeline keeps")?;
        let state = topic.read(&self.parts.rules, &self.parts.id, at, kept, &self.parts.runtime)?;
        tracing::info!(sink = self.parts.id, partition = %at, keys = state.len(), "remembered");
        Ok(Some(state))
    }

    /// As above, where the client may stand elsewhere by now.
    pub(super) fn assigned_again(&mut self, assigned: Vec<Assigned>) {
        let at: Vec<_> = assigned.iter().map(|a| a.at.clone()).collect();
        self.assigned(assigned);
        let go: Vec<_> = at.into_iter().filter(|at| self.slots.contains_key(at)).collect();
        if !go.is_empty() {
            self.read_on(&go);
            self.goes_on();
        }
    }

    /// Reads nothing of it until the sink says where it stands. With a reason the sink counts as stopped.
    pub(super) fn hold(&mut self, at: TopicPartition, why: Option<String>) {
        // What was gathered may be in the log no more.
        if self.slots.get(&at).is_some_and(Slot::is_gathered) {
            self.commit_or_forget();
        }
        // What was read of it must not stand in the batch beside what is read of it again.
        if self.slots.remove(&at).is_some_and(|slot| slot.has_moved()) {
            self.start_over();
        }
        self.source.pause(std::slice::from_ref(&at));
        // It is said once, however often the sink is asked.
        let is_new = self.held.get(&at) != Some(&why);
        if let Some(why) = why.as_ref().filter(|_| is_new) {
            self.stop(why);
        }
        self.held.insert(at, why);
    }

    /// What was read of them is given up: the new owner reads it again. So is what was read of the others, since rows are mixed.
    pub(super) fn revoked(&mut self, revoked: &[TopicPartition]) {
        if revoked.iter().any(|at| self.slots.get(at).is_some_and(Slot::is_gathered)) {
            self.commit_or_forget();
        }
        for at in revoked {
            tracing::info!(sink = self.parts.id, partition = %at, "given up");
            self.slots.remove(at);
            if let Some(Some(_)) = self.held.remove(at) {
                self.goes_on();
            }
        }
        self.start_over();
        self.show_partitions();
    }

    /// Gives up the open batch, and reads it again.
    fn start_over(&mut self) {
        if self.opened.is_none() {
            return;
        }
        self.give_up();
        let all: Vec<_> = self.slots.keys().cloned().collect();
        self.read_on(&all);
    }

    /// Gives up the open batch: nothing of it counts as read.
    pub(super) fn give_up(&mut self) {
        self.opened = None;
        self.held_back.clear();
        self.rejects.letters.clear();
        for input in self.parts.inputs.values_mut() {
            drop(input.intake.finish());
        }
        self.slots.values_mut().for_each(Slot::start_over);
    }

    /// A range that was begun once may end with offsets that hold no record any more: nothing would come that shows it.
    pub(super) fn finish_ranges(&mut self) {
        let now = self.now();
        for (at, slot) in &mut self.slots {
            if let Some(until) = slot.ask(now)
                && matches!(has_record_soon(&self.parts.kafka, at, Some(slot.next), until), Ok(false))
            {
                slot.complete();
                self.opened.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Asks the sink anew where it stands in what is held. To ask is to take over: not from a new owner.
    pub(super) fn retry_held(&mut self) -> Result<(), SourceError> {
        if self.held.is_empty() {
            return Ok(());
        }
        let assigned = self.source.assignment()?;
        let before = self.held.len();
        self.held.retain(|at, _| assigned.contains(at));
        if self.held.len() < before {
            self.goes_on();
        }
        let held: Vec<TopicPartition> = self.held.keys().cloned().collect();
        if !held.is_empty() {
            let placed = self.source.place(&held);
            self.assigned_again(placed);
        }
        Ok(())
    }

    /// The sink stands elsewhere in a partition: reads on from there.
    pub(super) fn place_anew(&mut self, at: &TopicPartition) -> Result<(), SourceError> {
        self.hold(at.clone(), None);
        self.retry_held()
    }

    /// Reads partitions on from where they stand. One that was taken away meanwhile is read no more, so that no gap can come of it.
    pub(super) fn read_on(&mut self, partitions: &[TopicPartition]) {
        let place = |at: &TopicPartition| Some((at.clone(), self.slots.get(at)?.next));
        let places: Vec<_> = partitions.iter().filter_map(place).collect();
        if places.is_empty() || self.source.seek(&places).is_ok() {
            return;
        }
        // One that is no longer assigned is refused with all others.
        for at in partitions {
            // To hold one may have set the others back.
            let Some(next) = self.slots.get(at).map(|slot| slot.next) else { continue };
            if let Err(e) = self.source.seek(&[(at.clone(), next)]) {
                tracing::info!(sink = self.parts.id, partition = %at, "no longer read: {e}");
                self.hold(at.clone(), None);
            }
        }
    }

    /// The client has given up a partition, and does not say which.
    pub(super) fn verify_positions(&mut self) {
        let positions: Vec<_> = self.slots.iter().map(|(at, slot)| (at.clone(), slot.next)).collect();
        for (at, _, m) in self.source.check_positions(&positions) {
            if let Some(m) = m.filter(|m| !matches!(m, Misplaced::Unknown { .. })) {
                let why = misplaced(&self.parts.id, &at, &m);
                self.hold(at, Some(why));
            }
        }
        // Where they stand now: what was held may have set them back.
        let left: Vec<_> = self.slots.keys().cloned().collect();
        self.read_on(&left);
    }
}

fn misplaced(sink: &str, at: &TopicPartition, misplaced: &Misplaced) -> String {
    match misplaced {
        Misplaced::BehindLog { position, low } => format!(
            "{at}: offsets gone: the sink stands at offset {position}, but Kafka's log begins only at {low}. Restore them, or accept \
             the loss: `firn rewind --sink {sink} --to beginning` goes on at {low}"
        ),
        Misplaced::AheadOfLog { position, high } => format!(
            "{at}: the sink's offset {position} is ahead of Kafka's log, which ends at {high}; the topic was made anew, or this is \
             another cluster. `firn rewind --sink {sink} --to beginning` delivers it from its beginning"
        ),
        Misplaced::Unknown { detail } => {
            format!("{at}: the broker does not say where the log begins and ends: {detail}")
        }
    }
}
