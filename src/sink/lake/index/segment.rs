//! A range of keys: a few runs, of which the newest that has a key is right.
//!
//! A run is merged with older ones once it is a quarter of their size, so that their number grows with the logarithm of the
//! segment's size only. What grew too large is split: a merge stays short, and needs little room beside.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Location;
use super::map::Entry;
use super::place::Place;
use super::run::{Run, RunWriter};
use crate::sink::lake::LakeError;

/// Entries of a segment; twice as many and it is split.
pub(super) const SEGMENT_ENTRIES: u64 = 512 << 10;
/// How much smaller a run is than the next older one.
const GROWTH: u64 = 4;

/// Keys from `first` to the next segment's.
#[derive(Clone, Debug)]
pub(super) struct Segment<P> {
    pub(super) first: u128,
    /// The newest first; the last is the base, which has no removed keys in it.
    pub(super) runs: Vec<Run<P>>,
}

/// What merges need to know.
pub(super) struct Merging<'a> {
    pub(super) folder: &'a Path,
    pub(super) ids: &'a AtomicU64,
    /// Whether a data file is still there.
    pub(super) is_file: &'a (dyn Fn(u32) -> bool + Sync),
}

impl Merging<'_> {
    fn writer<P: Place>(&self) -> Result<RunWriter<P>, LakeError> {
        RunWriter::create(self.folder, self.ids.fetch_add(1, Ordering::Relaxed))
    }
}

impl<P: Place> Segment<P> {
    pub(super) fn entries(&self) -> u64 {
        self.runs.iter().map(|run| run.id.entries).sum()
    }

    /// Tells `found` the places of `wanted` (in order, by their index); removed keys are `GONE`.
    pub(super) fn lookup(
        &self,
        mut wanted: Vec<(u128, u32)>,
        mut found: impl FnMut(u32, Location),
    ) -> Result<(), LakeError> {
        for run in &self.runs {
            if wanted.is_empty() {
                break;
            }
            wanted = run.lookup(wanted, &mut found)?;
        }
        Ok(())
    }

    /// How many of the newest runs are merged with `fresh` entries.
    pub(super) fn due(&self, fresh: u64) -> usize {
        let mut total = fresh;
        let mut due = 0;
        for run in &self.runs {
            if run.id.entries > total.saturating_mul(GROWTH) {
                break;
            }
            total += run.id.entries;
            due += 1;
        }
        due
    }

    /// The segment with `fresh` entries put in, its `merged` newest runs made one with them; several segments where it grew too
    /// large.
    pub(super) fn put(self, fresh: &[Entry<P>], merged: usize, merging: &Merging<'_>) -> Result<Vec<Self>, LakeError> {
        let older = self.runs.get(merged..).unwrap_or_default().to_vec();
        let mut sources = vec![Source::Fresh(fresh.iter())];
        for run in self.runs.get(..merged).unwrap_or_default() {
            sources.push(Source::Run(Box::new(run.entries()?)));
        }
        let entries = Merge::of(sources)?;
        if !older.is_empty() {
            let mut writer = merging.writer()?;
            for entry in entries {
                writer.push(entry?)?;
            }
            let runs = writer.finish()?.into_iter().chain(older).collect();
            return Ok(vec![Segment { first: self.first, runs }]);
        }
        let most = fresh.len() as u64 + self.entries();
        let alive =
            entries.filter(|e| e.as_ref().map_or(true, |e| e.at().kept().is_some_and(|at| (merging.is_file)(at.file))));
        bases(self.first, alive, most, merging)
    }
}

/// Entries in order as new segments, the first of which begins at `first`.
pub(super) fn bases<P: Place>(
    first: u128,
    entries: impl Iterator<Item = Result<Entry<P>, LakeError>>,
    most: u64,
    merging: &Merging<'_>,
) -> Result<Vec<Segment<P>>, LakeError> {
    let parts = if most > 2 * SEGMENT_ENTRIES { most.div_ceil(SEGMENT_ENTRIES) } else { 1 };
    let each = most.div_ceil(parts).max(1);
    let mut segments = vec![];
    let (mut first, mut writer) = (first, merging.writer()?);
    for entry in entries {
        let entry = entry?;
        if writer.len() >= each {
            let full = std::mem::replace(&mut writer, merging.writer()?);
            segments.push(Segment { first, runs: full.finish()?.into_iter().collect() });
            first = entry.key();
        }
        writer.push(entry)?;
    }
    segments.push(Segment { first, runs: writer.finish()?.into_iter().collect() });
    Ok(segments)
}

enum Source<'a, P> {
    Fresh(std::slice::Iter<'a, Entry<P>>),
    Run(Box<super::run::Entries<P>>),
}

impl<P: Place> Source<'_, P> {
    fn next(&mut self) -> Result<Option<Entry<P>>, LakeError> {
        match self {
            Source::Fresh(entries) => Ok(entries.next().copied()),
            Source::Run(entries) => entries.next().transpose(),
        }
    }
}

/// Sources made one, the newest first: of several entries of a key the newest counts.
struct Merge<'a, P> {
    sources: Vec<(Entry<P>, Source<'a, P>)>,
}

impl<'a, P: Place> Merge<'a, P> {
    fn of(sources: Vec<Source<'a, P>>) -> Result<Self, LakeError> {
        let mut begun = Vec::with_capacity(sources.len());
        for mut source in sources {
            if let Some(first) = source.next()? {
                begun.push((first, source));
            }
        }
        Ok(Self { sources: begun })
    }
}

impl<P: Place> Iterator for Merge<'_, P> {
    type Item = Result<Entry<P>, LakeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let least = self.sources.iter().map(|(entry, _)| entry.key()).min()?;
        let mut answer = None;
        let mut i = 0;
        while let Some((entry, source)) = self.sources.get_mut(i) {
            if entry.key() == least {
                answer = answer.or(Some(*entry));
                match source.next() {
                    Ok(Some(next)) => *entry = next,
                    Ok(None) => {
                        self.sources.remove(i);
                        continue;
                    }
                    Err(e) => return Some(Err(e)),
                }
            }
            i += 1;
        }
        answer.map(Ok)
    }
}
