//! The metastore's exclusive lock of one table, held while a swap is made. Java's writers take the same one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use super::client::{Client, Lock, LockOwner, LockState};
use super::fault::{Exception, Fault};
use crate::{Error, ErrorKind, Result};

/// Between two looks at a lock that is waited for. The first is about a commit's time; the last bounds what a freed lock lies idle.
const FIRST_WAIT: Duration = Duration::from_millis(25);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Before an unlock is tried again: one that is left out holds up every writer until the metastore's time limit.
const UNLOCK_AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];

/// How locks are taken.
#[derive(Clone, Debug)]
pub(super) struct LockPolicy {
    /// Longest wait for the lock.
    pub(super) timeout: Duration,
    /// Between two signs of life; the metastore drops a lock after `metastore.txn.timeout` (300 s) without one.
    pub(super) heartbeat: Duration,
    pub(super) user: String,
    pub(super) host: String,
}

/// The lock, kept alive until [`release`](Self::release) or drop.
#[derive(Debug)]
pub(super) struct TableLock {
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    client: Client,
    id: i64,
    heartbeat: AbortHandle,
    lost: Arc<AtomicBool>,
}

impl TableLock {
    /// Waits for the lock.
    ///
    /// # Errors
    /// `Unavailable` when it isn't had in time (naming who holds it) or the metastore can't be reached.
    pub(super) async fn acquire(client: &Client, policy: &LockPolicy, database: &str, table: &str) -> Result<Self> {
        // A task of its own: whoever stops waiting for it leaves no lock behind, because a lock that nobody takes is dropped.
        let waiting = Waiting {
            client: client.clone(),
            policy: policy.clone(),
            database: database.to_owned(),
            table: table.to_owned(),
        };
        let task = tokio::spawn(async move { waiting.acquire().await });
        let gone = |_| Error::new(ErrorKind::Unavailable, "the runtime is shutting down");
        task.await.map_err(gone)?.map_err(|e| e.context(format_args!("lock {database}.{table}")))
    }

    /// Whether the metastore has the lock still, as far as the heartbeats tell.
    ///
    /// # Errors
    /// `Conflict` when a heartbeat was refused: another writer may be at work.
    pub(super) fn ensure_held(&self) -> Result<()> {
        match &self.held {
            Some(held) if !held.lost.load(Ordering::Acquire) => Ok(()),
            _ => Err(Error::new(ErrorKind::Conflict, "the metastore has dropped the table's lock meanwhile")),
        }
    }

    pub(super) async fn release(mut self) {
        if let Some(held) = self.held.take() {
            held.release().await;
        }
    }
}

impl Drop for TableLock {
    fn drop(&mut self) {
        if let (Some(held), Ok(runtime)) = (self.held.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(held.release());
        }
    }
}

impl Held {
    fn new(client: Client, id: i64, every: Duration) -> Self {
        let lost = Arc::new(AtomicBool::new(false));
        let beat = { beat(client.clone(), id, every, Arc::clone(&lost)) };
        let heartbeat = tokio::spawn(beat).abort_handle();
        Self { client, id, heartbeat, lost }
    }

    async fn release(self) {
        self.heartbeat.abort();
        for wait in UNLOCK_AGAIN {
            match self.client.unlock(self.id).await {
                Ok(()) | Err(Fault::Answer(Exception::NoSuchLock, _)) => return,
                Err(e) => tracing::debug!(lock = self.id, "table lock not released yet: {e:?}"),
            }
            sleep(wait).await;
        }
        if let Err(e) = self.client.unlock(self.id).await {
            // It goes away by itself after the metastore's time limit; until then all writers wait, this one too.
            tracing::warn!(lock = self.id, "table lock not released: {e:?}");
        }
    }
}

async fn beat(client: Client, id: i64, every: Duration, lost: Arc<AtomicBool>) {
    loop {
        sleep(every).await;
        match client.heartbeat(id).await {
            Ok(()) => {}
            Err(Fault::Answer(..)) => return lost.store(true, Ordering::Release),
            // Out of reach: the next beat tells more, and a swap wouldn't get through either.
            Err(e) => tracing::warn!(lock = id, "heartbeat of the table lock failed: {e:?}"),
        }
    }
}

/// How long a wait for the lock may be before the log says so: an uncontended commit holds it for some tens of ms.
const WORTH_TELLING: std::time::Duration = std::time::Duration::from_secs(3);

struct Waiting {
    client: Client,
    policy: LockPolicy,
    database: String,
    table: String,
}

impl Waiting {
    async fn acquire(self) -> Result<TableLock> {
        let deadline = Instant::now() + self.policy.timeout;
        let owner = LockOwner {
            user: self.policy.user.clone(),
            host: self.policy.host.clone(),
            agent: format!("firn-{}", Uuid::new_v4()),
        };
        let (id, state) = match self.client.lock(&self.database, &self.table, &owner).await {
            Ok(asked) => asked,
            // Whatever was told, the request may stand there: then it would be in everybody's way.
            Err(e) => self.find(&owner).await.ok_or_else(|| e.of_read())?,
        };
        // From here on the lock is given back whatever happens.
        let lock = TableLock { held: Some(Held::new(self.client.clone(), id, self.policy.heartbeat)) };
        match timeout_at(deadline, self.wait(id, state)).await {
            Ok(Ok(())) => Ok(lock),
            Ok(Err(e)) => {
                lock.release().await;
                Err(e)
            }
            Err(_) => {
                let holder = self.holder(id).await;
                lock.release().await;
                Err(Error::new(
                    ErrorKind::Unavailable,
                    format!("not had within {} ms, {holder}", self.policy.timeout.as_millis()),
                ))
            }
        }
    }

    async fn wait(&self, id: i64, mut state: LockState) -> Result<()> {
        let mut pause = FIRST_WAIT;
        let began = Instant::now();
        let mut told = false;
        while state == LockState::Waiting {
            sleep(pause).await;
            if !told && began.elapsed() > WORTH_TELLING {
                told = true;
                let holder = self.holder(id).await;
                tracing::warn!(table = %format_args!("{}.{}", self.database, self.table), "waiting for the metastore's lock, {holder}");
            }
            pause = (pause * 3 / 2).min(LONGEST_WAIT);
            state = match self.client.check_lock(id).await {
                Ok(state) => state,
                Err(Fault::Answer(Exception::NoSuchLock, _)) => LockState::Gone,
                Err(e) => return Err(e.of_read()),
            };
        }
        match state {
            LockState::Acquired => Ok(()),
            _ => Err(Error::new(ErrorKind::Unavailable, "the metastore gave the request up")),
        }
    }

    /// The request that has no good answer, if it got through.
    async fn find(&self, owner: &LockOwner) -> Option<(i64, LockState)> {
        let locks = self.client.locks(&self.database, &self.table).await.ok()?;
        locks.into_iter().find(|l| l.agent.as_deref() == Some(&owner.agent)).map(|l| (l.id, l.state))
    }

    async fn holder(&self, own: i64) -> String {
        let locks = self.client.locks(&self.database, &self.table).await.unwrap_or_default();
        match locks.into_iter().find(|l| l.id != own && l.state == LockState::Acquired) {
            Some(Lock { id, user, host, agent, .. }) => {
                format!("held by {user}@{host} ({}, lock {id})", agent.as_deref().unwrap_or("no agent given"))
            }
            None => "its holder is not known".to_owned(),
        }
    }
}
