//! Stores and catalogs that fail on command, for tests and simulations.
//!
//! One [`Faults`] script may be shared by all stores and the catalog of a simulation: then "the nth call, whatever it is" can be
//! made to fail. It also keeps a journal of the calls, so a test can count what a commit costs.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error as StoreError, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult, UploadPart,
};
use tokio::sync::Semaphore;

use crate::ErrorKind;

/// What is being done: to a store the first seven, to a catalog the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// The moment a file becomes visible: a single put, or the completion of an upload in parts.
    Put,
    /// Starting an upload in parts, or one part.
    PutPart,
    Get,
    Head,
    Delete,
    List,
    Copy,
    Load,
    Create,
    Drop,
    Swap,
    /// Every other call to a catalog: namespaces, listings, the probe.
    Catalog,
}

impl Op {
    /// Those that change something.
    pub const WRITES: [Op; 7] = [Op::Put, Op::PutPart, Op::Delete, Op::Copy, Op::Create, Op::Drop, Op::Swap];
}

/// What happens instead of, or to, a call.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Fails with this kind before anything is done.
    Fail(ErrorKind),
    /// It is done, and then the answer is lost.
    LoseAnswer,
    /// It is done, and answered as if it was not: a metastore that tries again inside refuses what it has just done.
    FailAfter(ErrorKind),
    /// It is done after this time.
    Delay(Duration),
    /// It is done when the gate opens.
    Hold(Gate),
    /// A load answers the table as it was before the last swap; a list lacks some of what is there. Other calls are done as usual.
    Stale,
}

/// Holds calls until it is opened.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Semaphore>);

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }
}

impl Gate {
    /// Lets go who waits and whoever comes later.
    pub fn open(&self) {
        self.0.close();
    }

    /// Whether somebody waiting would go on.
    pub fn is_open(&self) -> bool {
        self.0.is_closed()
    }

    pub(crate) async fn wait(&self) {
        // Nothing gives permits: it ends when the gate opens, with an error that means just that.
        drop(self.0.acquire().await);
    }
}

/// One line of the script: which calls, which of them, and what happens.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Empty: any.
    ops: Vec<Op>,
    /// Part of the path (store) or of the table's name (catalog).
    pattern: Option<String>,
    /// Matching calls that pass first.
    skip: usize,
    /// Matching calls that are hit then.
    times: usize,
    effect: Effect,
}

impl Fault {
    /// Hits the next call of one of these kinds once; of any kind when empty.
    pub fn on(ops: impl IntoIterator<Item = Op>, effect: Effect) -> Self {
        Self { ops: ops.into_iter().collect(), pattern: None, skip: 0, times: 1, effect }
    }

    #[must_use]
    pub fn path(self, pattern: impl Into<String>) -> Self {
        Self { pattern: Some(pattern.into()), ..self }
    }

    #[must_use]
    pub fn skip(self, calls: usize) -> Self {
        Self { skip: calls, ..self }
    }

    #[must_use]
    pub fn times(self, calls: usize) -> Self {
        Self { times: calls, ..self }
    }

    fn matches(&self, op: Op, path: &str) -> bool {
        (self.ops.is_empty() || self.ops.contains(&op)) && self.pattern.as_ref().is_none_or(|p| path.contains(p))
    }
}

/// When a [`Turns`] is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Moment {
    /// Before the call is made.
    Call,
    /// Before its answer is given.
    Answer,
}

/// Decides when a call goes on: a simulation's scheduler.
pub trait Turns: fmt::Debug + Send + Sync {
    /// Answers when it is this call's turn; never, where the caller is dead.
    fn turn(&self, moment: Moment, op: Op, path: &str) -> BoxFuture<'static, ()>;
}

/// A call that was made.
#[derive(Clone, Debug)]
pub struct Call {
    pub op: Op,
    pub path: String,
    /// Sent or received; of a read in parts, the range.
    pub bytes: u64,
    /// What happened to it, where it was hit.
    pub hit: Option<Effect>,
}

/// The script and the journal; clones share both.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    script: Arc<Mutex<Script>>,
    turns: Option<Arc<dyn Turns>>,
}

#[derive(Debug, Default)]
struct Script {
    faults: Vec<Fault>,
    calls: Vec<Call>,
}

impl Faults {
    /// An empty script whose calls wait for their turns.
    pub fn in_turns(turns: Arc<dyn Turns>) -> Self {
        Self { script: Arc::default(), turns: Some(turns) }
    }

    pub fn add(&self, fault: Fault) {
        self.script().faults.push(fault);
    }

    /// Forgets the faults, not the journal.
    pub fn clear(&self) {
        self.script().faults.clear();
    }

    /// Hits that are still to come.
    pub fn pending(&self) -> usize {
        self.script().faults.iter().map(|f| f.times).sum()
    }

    /// The calls since the last time this was asked.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.script().calls)
    }

    /// Does `call` as the script says. `error` makes the caller's error of a kind and a text.
    pub(crate) async fn around<T, E>(
        &self,
        op: Op,
        path: &str,
        error: impl Fn(ErrorKind, String) -> E + Send,
        call: impl Future<Output = Result<(T, u64), E>> + Send,
    ) -> Result<T, E> {
        self.turn(Moment::Call, op, path).await;
        let (index, effect) = self.meet(op, path);
        let lost = match effect {
            Some(Effect::Fail(kind)) => return Err(error(kind, format!("injected failure of {op:?} {path}"))),
            Some(Effect::Delay(time)) => {
                tokio::time::sleep(time).await;
                None
            }
            Some(Effect::Hold(gate)) => {
                gate.wait().await;
                None
            }
            Some(Effect::LoseAnswer) => Some(ErrorKind::OutcomeUnknown),
            Some(Effect::FailAfter(kind)) => Some(kind),
            Some(Effect::Stale) | None => None,
        };
        let answer = call.await;
        self.turn(Moment::Answer, op, path).await;
        let (answer, bytes) = answer?;
        if let Some(call) = self.script().calls.get_mut(index) {
            call.bytes = bytes;
        }
        if let Some(kind) = lost {
            return Err(error(kind, format!("injected loss of the answer of {op:?} {path}")));
        }
        Ok(answer)
    }

    /// Writes the call into the journal, and answers its number there and what is to happen.
    pub(crate) fn meet(&self, op: Op, path: &str) -> (usize, Option<Effect>) {
        let mut script = self.script();
        let mut effect = None;
        for fault in script.faults.iter_mut().filter(|f| f.times > 0 && f.matches(op, path)) {
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if effect.is_none() {
                fault.times -= 1;
                effect = Some(fault.effect.clone());
            }
        }
        script.calls.push(Call { op, path: path.to_owned(), bytes: 0, hit: effect.clone() });
        (script.calls.len() - 1, effect)
    }

    pub(crate) async fn turn(&self, moment: Moment, op: Op, path: &str) {
        if let Some(turns) = &self.turns {
            turns.turn(moment, op, path).await;
        }
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A store that fails as its script says.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    faults: Faults,
}

impl FaultyStore {
    pub fn new(inner: Arc<dyn ObjectStore>, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

fn store_error(kind: ErrorKind, text: String) -> StoreError {
    match kind {
        ErrorKind::Denied => StoreError::PermissionDenied { path: String::new(), source: text.into() },
        ErrorKind::Invalid | ErrorKind::NotFound => StoreError::NotFound { path: String::new(), source: text.into() },
        ErrorKind::AlreadyExists => StoreError::AlreadyExists { path: String::new(), source: text.into() },
        _ => StoreError::Generic { store: "faulty", source: text.into() },
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> StoreResult<PutResult> {
        let bytes = payload.content_length() as u64;
        let put = async { self.inner.put_opts(location, payload, opts).await.map(|r| (r, bytes)) };
        self.faults.around(Op::Put, location.as_ref(), store_error, put).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        let start = async { self.inner.put_multipart_opts(location, opts).await.map(|r| (r, 0)) };
        let inner = self.faults.around(Op::PutPart, location.as_ref(), store_error, start).await?;
        Ok(Box::new(FaultyUpload { inner, faults: self.faults.clone(), path: location.to_string() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        let op = if options.head { Op::Head } else { Op::Get };
        let get = async {
            let got = self.inner.get_opts(location, options).await?;
            let bytes = if op == Op::Head { 0 } else { got.range.end - got.range.start };
            Ok((got, bytes))
        };
        self.faults.around(op, location.as_ref(), store_error, get).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> StoreResult<Vec<Bytes>> {
        let bytes = ranges.iter().map(|r| r.end - r.start).sum();
        let get = async { self.inner.get_ranges(location, ranges).await.map(|r| (r, bytes)) };
        self.faults.around(Op::Get, location.as_ref(), store_error, get).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        let (inner, faults) = (self.inner.clone(), self.faults.clone());
        locations
            .then(move |location| {
                let (inner, faults) = (inner.clone(), faults.clone());
                async move {
                    let location = location?;
                    let delete = async { inner.delete(&location).await.map(|()| ((), 0)) };
                    faults.around(Op::Delete, location.as_ref(), store_error, delete).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let path = prefix.map(ToString::to_string).unwrap_or_default();
        let (faults, all) = (self.faults.clone(), self.inner.list(prefix));
        let listed = async move {
            faults.turn(Moment::Call, Op::List, &path).await;
            let failed = |kind| store_error(kind, format!("injected failure of List {path}"));
            match faults.meet(Op::List, &path).1 {
                Some(Effect::Fail(kind)) => futures::stream::iter([Err(failed(kind))]).boxed(),
                // Some of it came.
                Some(Effect::LoseAnswer) => {
                    let first = all.take(1);
                    first.chain(futures::stream::iter([Err(failed(ErrorKind::Unavailable))])).boxed()
                }
                Some(Effect::Stale) => all.enumerate().filter_map(async |(n, one)| (n % 3 > 0).then_some(one)).boxed(),
                Some(Effect::FailAfter(kind)) => all.chain(futures::stream::iter([Err(failed(kind))])).boxed(),
                _ => all,
            }
        };
        futures::stream::once(listed).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        let path = prefix.map(ToString::to_string).unwrap_or_default();
        let list = async { self.inner.list_with_delimiter(prefix).await.map(|r| (r, 0)) };
        self.faults.around(Op::List, &path, store_error, list).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        let copy = async { self.inner.copy_opts(from, to, options).await.map(|()| ((), 0)) };
        self.faults.around(Op::Copy, to.as_ref(), store_error, copy).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    faults: Faults,
    path: String,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let bytes = data.content_length() as u64;
        let part = self.inner.put_part(data);
        let (faults, path) = (self.faults.clone(), self.path.clone());
        Box::pin(async move {
            let put = async { part.await.map(|()| ((), bytes)) };
            faults.around(Op::PutPart, &path, store_error, put).await
        })
    }

    async fn complete(&mut self) -> StoreResult<PutResult> {
        let complete = async { self.inner.complete().await.map(|r| (r, 0)) };
        self.faults.around(Op::Put, &self.path, store_error, complete).await
    }

    async fn abort(&mut self) -> StoreResult<()> {
        self.inner.abort().await
    }
}
