//! Writer schemas for all workers: each id is asked for once, and a registry that is away holds up no thread.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use super::meter;
use crate::debezium::Registered;
use crate::registry::{Found, Registry};

/// How long a worker waits for an answer before its table does: a registry in reach takes some ms.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
/// How long an id has to be unknown before that is believed: a registry's followers get a new schema some moments after the leader that
/// a connector registered it with. As long an id that it does not have is not asked for again.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);
/// Until then it is asked for this often.
const ASKED_AGAIN: Duration = Duration::from_millis(500);
/// After an id was waited for in vain, others are not for this long: damaged records can name any number of them.
const IN_VAIN: Duration = Duration::from_secs(600);
/// Ids kept. Damaged records can name any number of ids that there are none of.
const MAX_KEPT: usize = 10_000;

/// Why there is no answer now; to be asked again later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotNow(pub String);

#[derive(Clone, Debug)]
enum State {
    Asked,
    Told(Arc<Registered>),
    Failed(String),
}

#[derive(Debug)]
struct Slot {
    state: watch::Receiver<State>,
    since: Instant,
    /// When it was asked for first, of answers in a row that it is unknown.
    unknown_since: Instant,
}

/// What the registry said so far.
#[derive(Debug)]
pub struct WriterSchemas {
    registry: Option<Arc<Registry>>,
    runtime: Handle,
    slots: Mutex<HashMap<i32, Slot>>,
    /// When an id was last waited for in vain.
    in_vain: Mutex<Option<Instant>>,
}

impl WriterSchemas {
    pub fn new(registry: Option<Registry>, runtime: Handle) -> Self {
        Self { registry: registry.map(Arc::new), runtime, slots: Mutex::default(), in_vain: Mutex::default() }
    }

    /// What the registry says of an id, and of an unknown one only after some time that it is unknown.
    ///
    /// # Errors
    /// [`NotNow`].
    pub async fn settled(&self, id: i32) -> Result<Arc<Registered>, NotNow> {
        let answer = self.get(id).await?;
        match &*answer {
            Registered::Unknown(told) if self.may_come(id) => {
                Err(NotNow(format!("schema {id}: the registry does not have it, or not yet: {told}")))
            }
            _ => Ok(answer),
        }
    }

    /// What the registry says of an id. Waits a moment at most; a slow answer is there at a later call. Without a registry every id is
    /// unknown.
    ///
    /// # Errors
    /// [`NotNow`].
    pub async fn get(&self, id: i32) -> Result<Arc<Registered>, NotNow> {
        let Some(registry) = &self.registry else {
            let told = "no registry is configured, set registry.url".to_owned();
            return Ok(Arc::new(Registered::Unknown(told)));
        };
        let (mut state, since) = self.ask(id, registry);
        let answered = tokio::time::timeout_at(since + PATIENCE, state.wait_for(|s| !matches!(s, State::Asked))).await;
        match answered {
            Ok(Ok(state)) => match &*state {
                State::Told(registered) => Ok(Arc::clone(registered)),
                State::Failed(why) => Err(NotNow(format!("schema {id}: {why}"))),
                State::Asked => Err(NotNow(format!("schema {id}: asked for"))),
            },
            _ => Err(NotNow(format!("schema {id}: the registry has not answered yet"))),
        }
    }

    /// Whether an id that the registry does not have may still come.
    fn may_come(&self, id: i32) -> bool {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = slots.get(&id).filter(|_| self.registry.is_some()) else { return false };
        let mut in_vain = self.in_vain.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_settled() {
            *in_vain = (*in_vain).max(Some(slot.unknown_since + UNKNOWN_FOR));
            return false;
        }
        in_vain.is_none_or(|at| at.elapsed() >= IN_VAIN)
    }

    /// The answer under way, or a new one where the last is none.
    fn ask(&self, id: i32, registry: &Arc<Registry>) -> (watch::Receiver<State>, Instant) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(&id).filter(|slot| slot.holds()) {
            return (slot.state.clone(), slot.since);
        }
        let unknown_since = slots.get(&id).filter(|slot| slot.is_unknown()).map(|slot| slot.unknown_since);
        if slots.len() >= MAX_KEPT {
            slots.retain(|_, slot| slot.is_schema());
        }
        let (sender, state) = watch::channel(State::Asked);
        let registry = Arc::clone(registry);
        self.runtime.spawn(async move {
            let answer = registry.schema(id).await;
            meter::registry_asked(answer.is_ok());
            // Whoever asked may be gone.
            let _ = sender.send(match answer {
                Ok(found) => State::Told(Arc::new(registered(found))),
                Err(e) => State::Failed(e.to_string()),
            });
        });
        let since = Instant::now();
        slots.insert(id, Slot { state: state.clone(), since, unknown_since: unknown_since.unwrap_or(since) });
        (state, since)
    }
}

impl Slot {
    /// Whether it need not be asked for again.
    fn holds(&self) -> bool {
        match &*self.state.borrow() {
            // A task that died answers never.
            State::Asked => self.state.has_changed().is_ok(),
            State::Told(told) if matches!(**told, Registered::Unknown(_)) => {
                self.since.elapsed() < if self.is_settled() { UNKNOWN_FOR } else { ASKED_AGAIN }
            }
            State::Told(_) => true,
            State::Failed(_) => false,
        }
    }

    /// Whether it has been unknown for long enough to be believed.
    fn is_settled(&self) -> bool {
        self.unknown_since.elapsed() >= UNKNOWN_FOR
    }

    fn is_unknown(&self) -> bool {
        matches!(&*self.state.borrow(), State::Told(told) if matches!(**told, Registered::Unknown(_)))
    }

    fn is_schema(&self) -> bool {
        matches!(&*self.state.borrow(), State::Told(told) if !matches!(**told, Registered::Unknown(_)))
    }
}

fn registered(found: Found) -> Registered {
    match found {
        Found::Avro { schema, references } => Registered::Avro { schema, references },
        Found::Other(kind) => Registered::Other(kind),
        Found::Nothing(told) => Registered::Unknown(told),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::http::StatusCode;

    use super::*;
    use crate::registry::Settings;

    /// A registry whose first `away` answers are 503; each takes `ms`. Counts what it is asked.
    async fn schemas(away: usize, ms: u64, answer: (u16, &'static str)) -> (Arc<WriterSchemas>, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let app = Router::new().fallback(move || {
            let nth = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                let (status, body) = if nth < away { (503, "") } else { answer };
                (StatusCode::from_u16(status).unwrap(), body)
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let settings = Settings { urls: vec![url], timeout: Duration::from_secs(5), ..Settings::default() };
        let registry = Registry::new(&settings).unwrap();
        (Arc::new(WriterSchemas::new(Some(registry), Handle::current())), asked)
    }

    const STRING: (u16, &str) = (200, r#"{"schema":"\"string\""}"#);

    #[tokio::test]
    async fn an_id_is_asked_for_once_by_all_workers() {
        let (schemas, asked) = schemas(0, 20, STRING).await;
        let all = (0..16).map(|_| {
            let schemas = Arc::clone(&schemas);
            tokio::spawn(async move { schemas.get(7).await })
        });
        for got in futures::future::join_all(all).await {
            assert!(matches!(*got.unwrap().unwrap(), Registered::Avro { .. }));
        }
        assert!(schemas.get(7).await.is_ok());
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_registry_that_is_away_is_asked_again_at_the_next_call() {
        let (schemas, asked) = schemas(2, 0, STRING).await;
        assert!(matches!(schemas.get(7).await, Err(NotNow(why)) if why.contains("503") && why.contains("schema 7")));
        assert!(schemas.get(7).await.is_err());
        assert!(schemas.get(7).await.is_ok());
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_slow_answer_is_waited_for_once_and_then_found() {
        let (schemas, asked) = schemas(0, 900, STRING).await;
        let begun = Instant::now();
        assert!(matches!(schemas.get(7).await, Err(NotNow(_))));
        assert!(begun.elapsed() < Duration::from_millis(800));
        let again = Instant::now();
        assert!(schemas.get(7).await.is_err());
        assert!(again.elapsed() < Duration::from_millis(200), "the second call does not wait anew");
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(schemas.get(7).await.is_ok());
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn an_unknown_id_is_not_asked_for_with_every_record() {
        let (schemas, asked) = schemas(0, 0, (404, r#"{"error_code":40403,"message":"none"}"#)).await;
        for _ in 0..5 {
            assert_eq!(*schemas.get(9).await.unwrap(), Registered::Unknown("none".into()));
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        let without = WriterSchemas::new(None, Handle::current());
        for answer in [without.get(9).await, without.settled(9).await] {
            assert!(matches!(&*answer.unwrap(), Registered::Unknown(told) if told.contains("registry.url")));
        }
    }

    #[tokio::test]
    async fn an_id_may_come_some_moments_after_its_records() {
        let (schemas, asked) = schemas(0, 0, (404, r#"{"error_code":40403,"message":"none"}"#)).await;
        let age = |id: i32, by: Duration| {
            let mut slots = schemas.slots.lock().unwrap();
            let slot = slots.get_mut(&id).unwrap();
            (slot.since, slot.unknown_since) = (slot.since - by, slot.unknown_since - by);
        };
        for nth in 1..=3 {
            assert!(matches!(schemas.settled(9).await, Err(NotNow(why)) if why.contains("none")));
            assert_eq!(asked.load(Ordering::SeqCst), nth, "asked again and again");
            age(9, ASKED_AGAIN);
        }
        age(9, UNKNOWN_FOR);
        let unknown = || Registered::Unknown("none".to_owned());
        assert_eq!(*schemas.settled(9).await.unwrap(), unknown());
        // The next ones are not waited for so soon after.
        assert_eq!(*schemas.settled(10).await.unwrap(), unknown());
        *schemas.in_vain.lock().unwrap() = Some(Instant::now() - IN_VAIN);
        assert!(schemas.settled(11).await.is_err());
        assert_eq!(*schemas.get(11).await.unwrap(), unknown(), "unless it is asked for what is known now");
    }
}
