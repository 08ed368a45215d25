//! The index on disk: a log-structured merge tree of one folder.
//!
//! Fresh entries are in memory and in the log. When the memory that all indexes share is used up they become a run of each segment,
//! between two stamps: what is on disk is then true for the stamp. An index that was cleared is filled in bulk.
//!
//! Nothing is forced to the disk, since all of it can be built anew: checksums tell what a power cut damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::bulk::{self, Bulk};
use super::home::is_lock_of;
use super::log::{self, Log, Stamped};
use super::manifest::{Manifest, SegmentRuns};
use super::map::{Entry, EntryMap, Numbers};
use super::place::Place;
use super::run::{self, Run, RunId};
use super::segment::{Merging, Segment};
use super::{KeyIndex, Location, Stamp, broken};
use crate::memory::{Counted, Kind, Memory};
use crate::sink::lake::LakeError;
use crate::sink::lake::keys::probe;

/// The log is not let grow beyond this: it is read when a process starts.
const MOST_LOG_BYTES: u64 = 64 << 20;
/// Segments whose base may be written anew at one time, as a share of all: keys are spread evenly, so all of them would be due at once.
const BASES_SHARE: usize = 8;
/// A base of so few entries is written anew whenever it is due.
const SMALL_BASE: u64 = 64 << 10;
/// Keys that one thread looks up faster than two.
const FEW_KEYS: usize = 4 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct DiskIndex<P> {
    folder: PathBuf,
    lock: File,
    counted: Counted,
    fresh: Fresh<P>,
    /// In the order of their keys; none = no run at all.
    segments: Vec<Segment<P>>,
    next_id: Arc<AtomicU64>,
    log: Log,
    log_id: u64,
    numbers: Numbers,
    /// Files that came since the last stamp.
    named: BTreeMap<String, u32>,
    stamp: Option<Stamp>,
    /// Something could not be written: entries may be in memory no more, and not on disk. Until it is cleared it is true for nothing.
    lost: bool,
}

#[derive(Debug)]
enum Fresh<P> {
    /// Since it was cleared.
    Bulk(Bulk<P>),
    Map(EntryMap<P>),
}

impl<P: Place> DiskIndex<P> {
    /// The index in `folder`, empty where there is none of use. `lock` is kept as long as it is open.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub(super) fn open(folder: PathBuf, lock: File, memory: &Arc<Memory>) -> Result<Self, LakeError> {
        let restored = Self::restored(&folder).unwrap_or_else(|e| {
            tracing::warn!("{e}: the index is built anew");
            None
        });
        let index = match restored {
            Some(restored) => restored,
            None => Restored {
                segments: vec![],
                next_id: 1,
                log: Log::create(&folder, 0)?,
                log_id: 0,
                entries: EntryMap::default(),
                numbers: Numbers::default(),
                stamp: None,
            },
        };
        let mut index = Self {
            counted: memory.count(Kind::Index),
            fresh: Fresh::Map(index.entries),
            segments: index.segments,
            next_id: Arc::new(AtomicU64::new(index.next_id)),
            log: index.log,
            log_id: index.log_id,
            numbers: index.numbers,
            named: BTreeMap::new(),
            stamp: index.stamp,
            lost: false,
            folder,
            lock,
        };
        if index.stamp.is_none() {
            index.clear()?;
        }
        index.remove_strays();
        index.recount();
        Ok(index)
    }

    fn restored(folder: &std::path::Path) -> Result<Option<Restored<P>>, LakeError> {
        let Some(manifest) = Manifest::read::<P>(folder, &probe())? else { return Ok(None) };
        let Some(stamp) = manifest.stamp else { return Ok(None) };
        let segments = manifest.segments.iter().map(|segment| {
            let first = u128::from_str_radix(&segment.first, 16).map_err(broken)?;
            let runs = segment.runs.iter().map(|(id, entries)| Run::open(folder, RunId { id: *id, entries: *entries }));
            Ok(Segment { first, runs: runs.collect::<Result<_, LakeError>>()? })
        });
        let segments = segments.collect::<Result<Vec<_>, LakeError>>()?;
        let mut entries = EntryMap::default();
        let (mut stamp, mut files, mut next_number) = (stamp, manifest.files, manifest.next_number);
        let log = Log::replay(folder, manifest.log, |of_stamp: Vec<Entry<P>>, stamped| {
            for entry in of_stamp {
                entries.put(entry.key(), entry.at());
            }
            stamped.forgotten.iter().for_each(|path| {
                files.remove(path);
            });
            files.extend(stamped.named);
            (stamp, next_number) = (stamped.stamp, stamped.next_number);
        })?;
        let numbers = Numbers::restored(files, next_number);
        Ok(Some(Restored {
            segments,
            next_id: manifest.next_id,
            log,
            log_id: manifest.log,
            entries,
            numbers,
            stamp: Some(stamp),
        }))
    }

    /// Files of an earlier time that no longer count.
    fn remove_strays(&self) {
        let runs: BTreeSet<u64> = self.segments.iter().flat_map(|s| &s.runs).map(|run| run.id.id).collect();
        let Ok(files) = std::fs::read_dir(&self.folder) else { return };
        for file in files.flatten() {
            let name = file.file_name();
            let Some(name) = name.to_str() else { continue };
            let stray = run::id_of(name).is_some_and(|id| !runs.contains(&id))
                || log::id_of(name).is_some_and(|id| id != self.log_id)
                || bulk::is_spill(name);
            if stray {
                let _ = std::fs::remove_file(file.path());
            }
        }
    }

    fn memory_bytes(&self) -> usize {
        let fresh = match &self.fresh {
            Fresh::Bulk(bulk) => bulk.bytes(),
            Fresh::Map(map) => map.bytes(),
        };
        fresh + self.segments.iter().flat_map(|s| &s.runs).map(Run::memory_bytes).sum::<usize>()
    }

    fn recount(&mut self) {
        self.counted.set(self.memory_bytes());
    }

    /// Answers as `written` did; where that failed the index is true for nothing any more.
    fn or_lost<T>(&mut self, written: Result<T, LakeError>) -> Result<T, LakeError> {
        if written.is_err() {
            self.lost = true;
            self.stamp = None;
        }
        written
    }

    /// Whether it is to write to disk, since all indexes hold too much: not for the little that many small ones hold.
    fn is_due(&self) -> bool {
        let (memory, share) = (self.counted.memory(), self.counted.memory().index_bytes());
        memory.used(Kind::Index) > share && self.counted.bytes() > share / 1024
    }

    fn put_fresh(&mut self, changes: &[(u128, Option<Location>)]) -> Result<(), LakeError> {
        match &mut self.fresh {
            Fresh::Bulk(bulk) => {
                for (key, at) in changes {
                    bulk.put(*key, at.unwrap_or(Location::GONE))?;
                }
            }
            Fresh::Map(map) => {
                for (key, at) in changes {
                    map.put(*key, at.unwrap_or(Location::GONE));
                }
                let entries = changes.iter().map(|(key, at)| Entry::<P>::new(*key, at.unwrap_or(Location::GONE)));
                self.log.entries(entries)?;
            }
        }
        self.recount();
        // Far beyond what a batch brings: another writer's new files. Interrupted now, all of it is scanned again.
        if matches!(self.fresh, Fresh::Map(_)) && self.counted.bytes() > 2 * self.counted.memory().index_bytes() {
            self.flush(None)
        } else {
            Ok(())
        }
    }

    fn stamp_all(&mut self, stamp: Stamp, is_live: &dyn Fn(u32) -> bool) -> Result<(), LakeError> {
        if self.lost {
            return Err(broken(format!("{}: entries were lost: it has to be cleared", self.folder.display())));
        }
        let mut forgotten = self.numbers.retain(is_live);
        forgotten.retain(|path| self.named.remove(path).is_none());
        let filled = matches!(self.fresh, Fresh::Bulk(_));
        self.end_bulk()?;
        self.recount();
        if filled || self.is_due() || self.log.bytes() > MOST_LOG_BYTES {
            self.flush(Some(stamp.clone()))?;
        } else {
            let (named, next_number) = (std::mem::take(&mut self.named), self.numbers.next());
            let stamped = Stamped { stamp: stamp.clone(), named, forgotten, next_number };
            self.log.stamp(&stamped)?;
        }
        self.stamp = Some(stamp);
        Ok(())
    }

    /// Ends the first fill: its entries become runs, or stay in memory where they are few.
    fn end_bulk(&mut self) -> Result<(), LakeError> {
        if matches!(self.fresh, Fresh::Map(_)) {
            return Ok(());
        }
        let Fresh::Bulk(mut bulk) = std::mem::replace(&mut self.fresh, Fresh::Map(EntryMap::default())) else {
            return Ok(());
        };
        if let Some(entries) = bulk.in_memory() {
            let mut map = EntryMap::default();
            self.log.entries(entries.inspect(|entry| map.put(entry.key(), entry.at())))?;
            self.fresh = Fresh::Map(map);
            return Ok(());
        }
        self.segments = bulk.finish(&self.merging())?;
        Ok(())
    }

    fn merging(&self) -> Merging<'_> {
        Merging { folder: &self.folder, ids: &self.next_id, is_file: &|_| true }
    }

    /// Fresh entries become runs. On disk the index is true for `stamp` then.
    fn flush(&mut self, stamp: Option<Stamp>) -> Result<(), LakeError> {
        self.end_bulk()?;
        let Fresh::Map(map) = &mut self.fresh else { return Ok(()) };
        let entries = map.drain_sorted();
        if self.segments.is_empty() {
            self.segments.push(Segment { first: 0, runs: vec![] });
        }
        let mut work = vec![];
        let mut from = 0;
        for (i, segment) in self.segments.iter().enumerate() {
            let next = self.segments.get(i + 1).map(|s| s.first);
            let left = entries.get(from..).unwrap_or_default();
            let here = next.map_or(left.len(), |next| left.partition_point(|e| e.key() < next));
            work.push((segment.clone(), from..from + here, segment.due(here as u64)));
            from += here;
        }
        let mut bases: Vec<usize> = (0..work.len()).filter(|i| is_large_base(work.get(*i))).collect();
        // The most overdue first.
        bases.sort_by_key(|i| work.get(*i).map(|(segment, ..)| std::cmp::Reverse(segment.runs.len())));
        for i in bases.into_iter().skip(self.segments.len() / BASES_SHARE + 1) {
            if let Some((_, _, due)) = work.get_mut(i) {
                *due -= 1;
            }
        }
        let files: BTreeSet<u32> = self.numbers.iter().map(|(_, number)| number).collect();
        let merging = Merging { folder: &self.folder, ids: &self.next_id, is_file: &|number| files.contains(&number) };
        let put = in_parallel(work, |(segment, range, due)| {
            if range.is_empty() {
                return Ok(vec![segment]);
            }
            segment.put(entries.get(range).unwrap_or_default(), due, &merging)
        })?;
        let before = std::mem::replace(&mut self.segments, put.into_iter().flatten().collect());
        self.switch(stamp)?;
        let kept: BTreeSet<u64> = self.segments.iter().flat_map(|s| &s.runs).map(|run| run.id.id).collect();
        before.iter().flat_map(|s| &s.runs).filter(|run| !kept.contains(&run.id.id)).for_each(Run::remove);
        self.recount();
        Ok(())
    }

    /// The runs as they are now are the index, for `stamp`; an empty log begins.
    fn switch(&mut self, stamp: Option<Stamp>) -> Result<(), LakeError> {
        if !is_lock_of(&self.lock, &self.folder) {
            return Err(broken(format!("{}: it was deleted while it was in use", self.folder.display())));
        }
        let log_id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let log = Log::create(&self.folder, log_id)?;
        let segments = self.segments.iter().map(|segment| SegmentRuns {
            first: format!("{:032x}", segment.first),
            runs: segment.runs.iter().map(|run| (run.id.id, run.id.entries)).collect(),
        });
        let mut manifest = Manifest::new::<P>(probe());
        manifest.stamp = stamp;
        manifest.files = self.numbers.iter().map(|(path, number)| (path.to_owned(), number)).collect();
        manifest.next_number = self.numbers.next();
        manifest.next_id = self.next_id.load(Ordering::Relaxed);
        manifest.log = log_id;
        manifest.segments = segments.collect();
        manifest.write(&self.folder)?;
        self.named.clear();
        self.log_id = log_id;
        std::mem::replace(&mut self.log, log).remove();
        Ok(())
    }
}

fn is_large_base<P>(work: Option<&(Segment<P>, std::ops::Range<usize>, usize)>) -> bool {
    work.is_some_and(|(segment, _, due)| {
        *due > 0 && *due == segment.runs.len() && segment.runs.last().is_some_and(|base| base.id.entries > SMALL_BASE)
    })
}

struct Restored<P> {
    segments: Vec<Segment<P>>,
    next_id: u64,
    log: Log,
    log_id: u64,
    entries: EntryMap<P>,
    numbers: Numbers,
    stamp: Option<Stamp>,
}

impl<P: Place> KeyIndex for DiskIndex<P> {
    fn lookup(&mut self, keys: &[u128]) -> Result<Vec<Option<Location>>, LakeError> {
        let ended = self.end_bulk();
        self.or_lost(ended)?;
        let Fresh::Map(map) = &self.fresh else { return Ok(vec![None; keys.len()]) };
        let mut places: Vec<Option<Location>> = keys.iter().map(|key| map.get(*key)).collect();
        let mut missed: Vec<(u128, u32)> =
            (0..).zip(keys).zip(&places).filter(|(_, at)| at.is_none()).map(|((i, key), _)| (*key, i)).collect();
        missed.sort_unstable();
        let mut work = vec![];
        let mut from = 0;
        for (i, segment) in self.segments.iter().enumerate() {
            let left = missed.get(from..).unwrap_or_default();
            let next = self.segments.get(i + 1).map(|s| s.first);
            let here = next.map_or(left.len(), |next| left.partition_point(|(key, _)| *key < next));
            if here > 0 {
                work.push((segment, left.get(..here).unwrap_or_default().to_vec()));
            }
            from += here;
        }
        let look_up = |(segment, wanted): (&Segment<P>, Vec<(u128, u32)>)| {
            let mut found = Vec::with_capacity(wanted.len());
            segment.lookup(wanted, |index, at| found.push((index, at)))?;
            Ok(found)
        };
        let found = match missed.len() {
            ..FEW_KEYS => work.into_iter().map(look_up).collect::<Result<Vec<_>, _>>()?,
            _ => in_parallel(work, look_up)?,
        };
        for (index, at) in found.into_iter().flatten() {
            if let Some(place) = places.get_mut(index as usize) {
                *place = Some(at);
            }
        }
        Ok(places.into_iter().map(|at| at.and_then(Location::kept)).collect())
    }

    fn apply(&mut self, changes: &[(u128, Option<Location>)]) -> Result<(), LakeError> {
        let put = self.put_fresh(changes);
        self.or_lost(put)
    }

    fn number(&mut self, path: &str) -> Result<u32, LakeError> {
        let (number, new) = self.numbers.number(path)?;
        if new {
            self.named.insert(path.to_owned(), number);
        }
        Ok(number)
    }

    fn files(&self) -> BTreeSet<u32> {
        self.numbers.iter().map(|(_, number)| number).collect()
    }

    fn stamp(&self) -> Option<&Stamp> {
        self.stamp.as_ref()
    }

    fn set_stamp(&mut self, stamp: Stamp, is_live: &dyn Fn(u32) -> bool) -> Result<(), LakeError> {
        let stamped = self.stamp_all(stamp, is_live);
        self.or_lost(stamped)
    }

    fn clear(&mut self) -> Result<(), LakeError> {
        self.stamp = None;
        let before = std::mem::take(&mut self.segments);
        // An eighth at a time: the buffers of the partitions grow by doubling.
        self.fresh = Fresh::Bulk(Bulk::new(&self.folder, (self.counted.memory().index_bytes() / 8).max(1 << 20)));
        self.numbers.clear();
        self.switch(None)?;
        self.lost = false;
        before.iter().flat_map(|s| &s.runs).for_each(Run::remove);
        self.recount();
        Ok(())
    }

    fn len(&self) -> usize {
        let fresh = match &self.fresh {
            Fresh::Bulk(bulk) => bulk.len(),
            Fresh::Map(map) => map.len(),
        };
        fresh + self.segments.iter().map(|s| s.entries() as usize).sum::<usize>()
    }
}

/// Does `work` on all cores; answers come in its order.
pub(super) fn in_parallel<T: Send, R: Send>(
    work: Vec<T>,
    each: impl Fn(T) -> Result<R, LakeError> + Sync,
) -> Result<Vec<R>, LakeError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(work.len());
    if threads <= 1 {
        return work.into_iter().map(each).collect();
    }
    let queue = Mutex::new(work.into_iter().enumerate());
    let answers = std::thread::scope(|scope| {
        let work_off = || {
            let mut done = vec![];
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((i, work)) = next else { return done };
                done.push((i, each(work)));
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work_off)).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| broken("a thread broke off"))).collect::<Vec<_>>()
    });
    let mut sorted = vec![];
    for of_thread in answers {
        sorted.extend(of_thread?);
    }
    sorted.sort_unstable_by_key(|(i, _)| *i);
    sorted.into_iter().map(|(_, answer)| answer).collect()
}
