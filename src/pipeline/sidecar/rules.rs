//! What a pipeline remembers, at work: statistics before the SELECT, alerts after it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_array::RecordBatch;

use super::plan::Made;
use super::runner::Runner;
use super::state::{State, with_statistics};
use crate::batch::ChangeBatch;
use crate::transform::changes;

impl Runner {
    /// The changes of one source as the SELECT sees them.
    ///
    /// # Errors
    /// The sentence for a person: the columns don't fit any more.
    pub(super) fn table(&mut self, topic: &str, name: &str, batch: &ChangeBatch) -> Result<RecordBatch, String> {
        let table = changes::table(batch).map_err(|e| e.to_string())?;
        let rules = Arc::clone(&self.parts.rules);
        let table = with_statistics(&rules, name, &table, &mut self.states(topic)).map_err(|e| e.to_string())?;
        self.count_forgotten(topic);
        Ok(table)
    }

    /// Leaves out of each partition's rows the alerts that come too soon.
    ///
    /// # Errors
    /// The sentence for a person.
    pub(super) fn pass_alerts(
        &mut self,
        topic: &str,
        table: &RecordBatch,
        made: &mut BTreeMap<i32, Made>,
    ) -> Result<(), String> {
        if !self.parts.rules.has_alert() {
            return Ok(());
        }
        let places = changes::places(table).map_err(|e| e.to_string())?;
        let times: HashMap<(i32, i64), i64> = changes::times(table)
            .map_err(|e| e.to_string())?
            .iter()
            .zip(places)
            .filter_map(|(time, place)| Some((place, time?)))
            .collect();
        let mut held_back = 0;
        let mut states = self.states(topic);
        for (partition, made) in made {
            let (Some(state), Some(origins)) = (states.get_mut(partition), &made.origins) else { continue };
            let passed = state.pass(&made.rows, origins, |offset| times.get(&(*partition, offset)).copied())?;
            held_back += passed.held_back;
            *made = Made { rows: passed.rows, origins: Some(passed.origins) };
        }
        self.meter.alerts_held_back(held_back);
        self.count_forgotten(topic);
        Ok(())
    }

    /// What is kept of the partitions of a topic.
    fn states(&mut self, topic: &str) -> BTreeMap<i32, &mut State> {
        let of_it = self.slots.iter_mut().filter(|(at, _)| at.topic == topic);
        of_it.filter_map(|(at, slot)| Some((at.partition, slot.state.as_mut()?))).collect()
    }

    fn count_forgotten(&mut self, topic: &str) {
        let forgotten = self.states(topic).into_values().map(State::take_forgotten).sum();
        if forgotten > 0 {
            self.meter.keys_forgotten(forgotten);
        }
    }

    /// How many keys are remembered, for the figures.
    pub(super) fn show_remembered(&self) {
        if self.parts.state_topic.is_some() {
            self.meter.keys_remembered(self.slots.values().filter_map(|slot| Some(slot.state.as_ref()?.len())).sum());
        }
    }
}
