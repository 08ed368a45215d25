//! The open batch goes to the sink: letters first, then one delivery a partition, however long it takes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{BooleanArray, RecordBatch};
use arrow_select::filter::filter_record_batch;

use super::meter;
use super::plan::{Made, Unfit};
use super::runner::{EMPTY_MS, Flow, Runner};
use super::state::State;
use super::view::View;
use crate::batch::ChangeBatch;
use crate::change::origin;
use crate::pipeline::tables::epoch_ms;
use crate::position::TopicPartition;
use crate::record::{Record, Rejected};
use crate::sink::{Delivery, RefusedRow, SinkError};
use crate::source::kafka::{SourceError, read_log};

/// Waits between two tries of what is not to be had now: doubled up to the second.
pub(super) const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// How often what needs a person is tried nevertheless.
const STOPPED_AGAIN: Duration = Duration::from_secs(15);

impl Runner {
    /// Delivers what was read since the last time. Where the shutdown comes first, what is not delivered counts as unread.
    pub(super) fn flush(&mut self) -> Result<Flow, SourceError> {
        self.opened = None;
        self.busy_since = Some(Instant::now());
        self.source_ms = None;
        self.parts.status.update_sink(&self.parts.id, |s| s.is_busy = true);
        let flow = self.deliver_all();
        self.parts.status.update_sink(&self.parts.id, |s| s.is_busy = false);
        let flow = flow?;
        match flow {
            Flow::On => self.let_go(),
            // Its rows are gone: nobody may store a position above them.
            Flow::Shutdown => self.give_up(),
        }
        Ok(flow)
    }

    fn deliver_all(&mut self) -> Result<Flow, SourceError> {
        let mut made = BTreeMap::new();
        let topics: Vec<String> = self.parts.inputs.keys().cloned().collect();
        for topic in topics {
            let Some(input) = self.parts.inputs.get_mut(&topic).filter(|input| input.intake.rows() > 0) else {
                continue;
            };
            let (name, batch) = (input.name.clone(), input.intake.finish());
            if self.run_over(&topic, &name, &batch, &mut made)? == Flow::Shutdown {
                return Ok(Flow::Shutdown);
            }
        }
        if self.write_letters()? == Flow::Shutdown {
            return Ok(Flow::Shutdown);
        }
        let now = self.now();
        let moved: Vec<TopicPartition> =
            self.slots.iter().filter(|(_, slot)| slot.has_moved()).map(|(at, _)| at.clone()).collect();
        let mut deliveries = Vec::with_capacity(moved.len());
        for at in moved {
            // Its rest is still to come: all of it once more, then.
            if let Some(slot) = self.slots.get_mut(&at).filter(|slot| slot.is_incomplete()) {
                slot.put_off();
                self.read_on(&[at]);
                continue;
            }
            let made = made.remove(&at);
            let Some(slot) = self.slots.get(&at).filter(|slot| slot.has_moved()) else { continue };
            let is_empty = made.as_ref().is_none_or(|m| m.rows.num_rows() == 0);
            // A position alone can wait for rows, but not for ever.
            if is_empty && slot.until.is_none() && now < slot.delivered_at + EMPTY_MS && !self.is_shutdown() {
                continue;
            }
            let made = made.unwrap_or_else(|| Made {
                rows: RecordBatch::new_empty(arrow_schema::Schema::empty().into()),
                origins: None,
            });
            let keeping = slot.state.as_ref().map(State::keeping).unwrap_or_default();
            deliveries.push(Delivery { span: slot.span(&at), rows: made.rows, origins: made.origins, keeping });
        }
        while !deliveries.is_empty() {
            let begun = Instant::now();
            let results = self.parts.mount.deliver_some(&deliveries);
            let rest = deliveries.split_off(results.len().min(deliveries.len()));
            let done = std::mem::replace(&mut deliveries, rest).into_iter().zip(results);
            let (done, failed): (Vec<_>, Vec<_>) = done.partition(|(_, result)| result.is_ok());
            // What is done does not wait for what has to be tried again.
            for (delivery, result) in done.into_iter().chain(failed) {
                if self.settle(delivery, result, begun)? == Flow::Shutdown {
                    return Ok(Flow::Shutdown);
                }
            }
            // One that was placed anew meanwhile is read again.
            deliveries.retain(|d| self.slots.get(&d.span.at).is_some_and(|slot| slot.is_at(&d.span)));
        }
        Ok(Flow::On)
    }

    /// Has a plan for the columns that there are now, and what the plan makes ready in the sink.
    fn planned(&mut self) -> Result<Flow, SourceError> {
        let mut told = false;
        loop {
            let sources: Vec<_> =
                self.parts.inputs.values().map(|input| (input.name.clone(), input.intake.columns().cloned())).collect();
            let runtime = self.parts.runtime.clone();
            let wait = match runtime.block_on(self.parts.plan.fit(&sources)) {
                Ok(None) => return Ok(Flow::On),
                Ok(Some(columns)) => match self.ready(&columns)? {
                    Flow::On => return Ok(Flow::On),
                    Flow::Shutdown => return Ok(Flow::Shutdown),
                },
                Err(Unfit::NotYet(why)) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(sink = self.parts.id, "waiting: {why}");
                    }
                    self.trouble(why);
                    Duration::from_millis(500)
                }
                Err(Unfit::Wrong(e)) => {
                    self.stop(&e.to_string());
                    STOPPED_AGAIN
                }
            };
            if self.rest_on(wait)? == Flow::Shutdown {
                return Ok(Flow::Shutdown);
            }
        }
    }

    fn ready(&mut self, columns: &arrow_schema::SchemaRef) -> Result<Flow, SourceError> {
        // Under the columns that it was gathered for.
        if self.commit()? == Flow::Shutdown {
            return Ok(Flow::Shutdown);
        }
        let mut wait = AGAIN.0;
        loop {
            match self.parts.mount.prepare(columns) {
                Ok(()) => {
                    self.goes_on();
                    return Ok(Flow::On);
                }
                Err(e) => {
                    let flow = self.failed(&e, &mut wait)?;
                    if flow == Flow::Shutdown {
                        return Ok(flow);
                    }
                }
            }
        }
    }

    /// Runs the SELECT over one topic's changes, once its views have what their topics had.
    fn run_over(
        &mut self,
        topic: &str,
        name: &str,
        batch: &ChangeBatch,
        made: &mut BTreeMap<TopicPartition, Made>,
    ) -> Result<Flow, SourceError> {
        if self.ready_to_run()? == Flow::Shutdown {
            return Ok(Flow::Shutdown);
        }
        self.source_ms = self.source_ms.into_iter().chain(oldest_source_ms(batch)).min();
        let table = match self.table(topic, name, batch) {
            Ok(table) => table,
            Err(e) => {
                self.stop(&e);
                while self.rest_on(STOPPED_AGAIN)? == Flow::On {}
                return Ok(Flow::Shutdown);
            }
        };
        let runtime = self.parts.runtime.clone();
        loop {
            match runtime.block_on(self.parts.plan.run(name, &table)) {
                // The views' columns are others by now than those that it was planned for.
                Ok(None) => {
                    if self.ready_to_run()? == Flow::Shutdown {
                        return Ok(Flow::Shutdown);
                    }
                }
                Ok(Some(mut outcome)) => {
                    if let Err(e) = self.pass_alerts(topic, &table, &mut outcome.made) {
                        self.stop(&e);
                        while self.rest_on(STOPPED_AGAIN)? == Flow::On {}
                        return Ok(Flow::Shutdown);
                    }
                    let mut failing: BTreeMap<i32, BTreeMap<i64, String>> = BTreeMap::new();
                    for f in outcome.failing {
                        failing.entry(f.partition).or_default().insert(f.offset, f.detail);
                    }
                    for (partition, failing) in failing {
                        self.reject("sql_failed", &TopicPartition::new(topic, partition), failing);
                    }
                    made.extend(outcome.made.into_iter().map(|(p, m)| (TopicPartition::new(topic, p), m)));
                    return Ok(Flow::On);
                }
                Err(e) => {
                    self.stop(&e.to_string());
                    if self.rest_on(STOPPED_AGAIN)? == Flow::Shutdown {
                        return Ok(Flow::Shutdown);
                    }
                }
            }
        }
    }

    /// Has the views, and a plan for the columns that they have then.
    fn ready_to_run(&mut self) -> Result<Flow, SourceError> {
        match self.wait_for_views()? {
            Flow::On => self.planned(),
            Flow::Shutdown => Ok(Flow::Shutdown),
        }
    }

    fn wait_for_views(&mut self) -> Result<Flow, SourceError> {
        for view in self.parts.plan.views().to_vec() {
            let ends = loop {
                if self.wait_until_loaded(&view)? == Flow::Shutdown {
                    return Ok(Flow::Shutdown);
                }
                let read = view.read_to();
                let at: Vec<_> = read.keys().map(|p| TopicPartition::new(view.topic(), *p)).collect();
                match self.source.ends(&at) {
                    Ok(ends) if read.values().zip(&ends).any(|(read, end)| end < read) => view.doubt(),
                    Ok(ends) => break read.into_keys().zip(ends).collect(),
                    Err(e) => {
                        let (sink, view) = (&self.parts.id, &view.name);
                        tracing::warn!(sink, view, "where the view's topic ends can't be told: {e}");
                        break BTreeMap::new();
                    }
                }
            };
            if !view.wait_for(&ends, self.parts.view_wait) {
                // The view was stopped, too: what is open is read again at the next start.
                if self.is_shutdown() {
                    return Ok(Flow::Shutdown);
                }
                meter::view_timed_out(&view.name);
                let (sink, view) = (&self.parts.id, &view.name);
                tracing::warn!(sink, view, "joined without waiting longer for the view's topic");
            }
        }
        Ok(Flow::On)
    }

    fn wait_until_loaded(&mut self, view: &View) -> Result<Flow, SourceError> {
        if !view.is_loaded() {
            tracing::info!(sink = self.parts.id, view = view.name, "waiting until the view is loaded");
        }
        while !view.is_loaded() {
            if self.rest_on(Duration::from_millis(100))? == Flow::Shutdown {
                return Ok(Flow::Shutdown);
            }
        }
        Ok(Flow::On)
    }

    /// Notes records of one partition, by offset and sentence, as dead letters. Their bytes are read again.
    fn reject(&mut self, reason: &'static str, at: &TopicPartition, failing: BTreeMap<i64, String>) {
        let (Some((first, _)), Some((last, _))) = (failing.first_key_value(), failing.last_key_value()) else { return };
        let mut bytes = BTreeMap::new();
        let read = read_log(&self.parts.kafka, at, *first, *last + 1, |record| {
            if let Some(detail) = failing.get(&record.offset) {
                bytes.insert(record.offset, Rejected::new(record, reason, detail.clone(), epoch_ms()));
            }
        });
        if let Err(e) = read {
            tracing::warn!(
                sink = self.parts.id,
                "rejected records can't be read again, their letters have no bytes: {e}"
            );
        }
        for (offset, detail) in failing {
            let record = Record { topic: &at.topic, partition: at.partition, offset, ..Default::default() };
            let letter = bytes.remove(&offset);
            let letter = letter.unwrap_or_else(|| Rejected::new(&record, reason, detail, epoch_ms()));
            self.rejects.push(letter, &self.meter);
        }
    }

    fn write_letters(&mut self) -> Result<Flow, SourceError> {
        // Before they are written: after a restart the same records are read again.
        if let Some(why) = self.rejects.too_many().map(str::to_owned) {
            self.stop(&why);
            while self.rest_on(STOPPED_AGAIN)? == Flow::On {}
            return Ok(Flow::Shutdown);
        }
        for letter in &mut self.rejects.letters {
            letter.topic_id = self.slots.get(&letter.origin.at).and_then(|slot| slot.topic_id.clone());
        }
        let mut wait = AGAIN.0;
        while !self.rejects.letters.is_empty() {
            let runtime = self.parts.runtime.clone();
            match runtime.block_on(self.parts.dead_letters.write(&self.parts.id, &self.rejects.letters)) {
                Ok(()) => self.rejects.letters.clear(),
                Err(e) => {
                    let e = SinkError::Unavailable(format!("dead letters: {e}"));
                    if self.failed(&e, &mut wait)? == Flow::Shutdown {
                        return Ok(Flow::Shutdown);
                    }
                }
            }
        }
        Ok(Flow::On)
    }

    /// Does what a delivery's result asks for, until it is delivered or placed anew.
    fn settle(
        &mut self,
        mut delivery: Delivery,
        mut result: Result<(), SinkError>,
        mut begun: Instant,
    ) -> Result<Flow, SourceError> {
        let at = &delivery.span.at.clone();
        let mut wait = AGAIN.0;
        loop {
            match result {
                Ok(()) => {
                    self.delivered(at, &delivery, begun);
                    return Ok(Flow::On);
                }
                Err(SinkError::Refused(rows)) if delivery.origins.is_some() && !rows.is_empty() => {
                    self.meter.failed(&SinkError::Refused(Vec::new()));
                    self.refuse(at, &mut delivery, &rows);
                    if self.write_letters()? == Flow::Shutdown {
                        return Ok(Flow::Shutdown);
                    }
                }
                Err(SinkError::Unfinished) => {
                    self.goes_on();
                    if self.rest(Duration::from_millis(1))? == Flow::Shutdown {
                        return Ok(Flow::Shutdown);
                    }
                }
                Err(SinkError::Moved(why)) => {
                    self.meter.failed(&SinkError::Moved(String::new()));
                    tracing::warn!(sink = self.parts.id, partition = %at, "going on from where the sink stands: {why}");
                    self.trouble(why);
                    match self.waiting.is_some() {
                        true => self.read_again()?,
                        false => self.place_anew(at)?,
                    }
                    return Ok(Flow::On);
                }
                Err(e) => {
                    let flow = self.failed(&e, &mut wait)?;
                    if flow == Flow::Shutdown {
                        return Ok(flow);
                    }
                }
            }
            begun = Instant::now();
            result = self.parts.mount.deliver(&delivery);
        }
    }

    fn delivered(&mut self, at: &TopicPartition, delivery: &Delivery, begun: Instant) {
        let oldest = self.slots.get(at).and_then(|slot| slot.oldest_ms);
        let now = self.now();
        if let Some(slot) = self.slots.get_mut(at) {
            slot.delivered(now);
        }
        self.took_in(delivery.rows.num_rows(), oldest, begun);
        self.goes_on();
    }

    /// Takes the refused rows out of the delivery, into the dead letters.
    fn refuse(&mut self, at: &TopicPartition, delivery: &mut Delivery, rows: &[RefusedRow]) {
        let Some(origins) = delivery.origins.take() else { return };
        let failing = rows.iter().filter_map(|r| Some((origins.get(r.row)?.offset, r.detail.clone()))).collect();
        self.reject("sink_refused", at, failing);
        let refused: BTreeSet<usize> = rows.iter().map(|r| r.row).collect();
        let keep = |row: &usize| !refused.contains(row);
        let kept: BooleanArray = (0..origins.len()).map(|row| Some(keep(&row))).collect();
        if let Ok(left) = filter_record_batch(&delivery.rows, &kept) {
            delivery.rows = left;
        }
        delivery.origins = Some(origins.into_iter().enumerate().filter(|(row, _)| keep(row)).map(|(_, o)| o).collect());
    }

    /// Waits before the same is tried again.
    pub(super) fn failed(&mut self, e: &SinkError, wait: &mut Duration) -> Result<Flow, SourceError> {
        self.meter.failed(e);
        match e {
            SinkError::Stopped(why) => {
                self.stop(why);
                self.rest(STOPPED_AGAIN)
            }
            SinkError::Refused(_) => {
                self.stop(&e.to_string());
                self.rest(STOPPED_AGAIN)
            }
            SinkError::Unavailable(_) | SinkError::Moved(_) | SinkError::Unfinished => {
                tracing::warn!(sink = self.parts.id, "trying again in {} ms: {e}", wait.as_millis());
                self.trouble(e.to_string());
                let flow = self.rest(*wait);
                *wait = (*wait * 2).min(AGAIN.1);
                flow
            }
        }
    }
}

fn oldest_source_ms(batch: &ChangeBatch) -> Option<i64> {
    let times = batch.rows.column_by_name(origin::SOURCE_TS)?.as_primitive_opt::<TimestampMicrosecondType>()?;
    times.iter().flatten().min().map(|us| us / 1000)
}
