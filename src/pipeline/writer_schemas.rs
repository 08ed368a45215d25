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
const PATIENCE: Duration = Duration::from_millis(500);
/// How long an id that the registry does not have is not asked for again.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);
/// Ids kept. Damaged records can name any number of ids that there are none of.
const MAX_KEPT: usize = 10_000;

/// Why there is no schema now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// No registry is configured.
    NoRegistry,
    /// Ask again later.
    NotNow(String),
}

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
}

/// What the registry said so far.
#[derive(Debug)]
pub struct WriterSchemas {
    registry: Option<Arc<Registry>>,
    runtime: Handle,
    slots: Mutex<HashMap<i32, Slot>>,
}

impl WriterSchemas {
    pub fn new(registry: Option<Registry>, runtime: Handle) -> Self {
        Self { registry: registry.map(Arc::new), runtime, slots: Mutex::default() }
    }

    /// What the registry says of an id. Waits a moment at most; a slow answer is there at a later call.
    ///
    /// # Errors
    /// See [`Lack`].
    pub async fn get(&self, id: i32) -> Result<Arc<Registered>, Lack> {
        let Some(registry) = &self.registry else { return Err(Lack::NoRegistry) };
        let (mut state, since) = self.ask(id, registry);
        let answered = tokio::time::timeout_at(since + PATIENCE, state.wait_for(|s| !matches!(s, State::Asked))).await;
        match answered {
            Ok(Ok(state)) => match &*state {
                State::Told(registered) => Ok(Arc::clone(registered)),
                State::Failed(why) => Err(Lack::NotNow(format!("schema {id}: {why}"))),
                State::Asked => Err(Lack::NotNow(format!("schema {id}: asked for"))),
            },
            _ => Err(Lack::NotNow(format!("schema {id}: the registry has not answered yet"))),
        }
    }

    /// The answer under way, or a new one where the last is none.
    fn ask(&self, id: i32, registry: &Arc<Registry>) -> (watch::Receiver<State>, Instant) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(&id).filter(|slot| slot.holds()) {
            return (slot.state.clone(), slot.since);
        }
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
        slots.insert(id, Slot { state: state.clone(), since });
        (state, since)
    }
}

impl Slot {
    /// Whether it need not be asked for again.
    fn holds(&self) -> bool {
        match &*self.state.borrow() {
            // A task that died answers never.
            State::Asked => self.state.has_changed().is_ok(),
            State::Told(told) => !matches!(**told, Registered::Unknown(_)) || self.since.elapsed() < UNKNOWN_FOR,
            State::Failed(_) => false,
        }
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
        assert!(
            matches!(schemas.get(7).await, Err(Lack::NotNow(why)) if why.contains("503") && why.contains("schema 7"))
        );
        assert!(schemas.get(7).await.is_err());
        assert!(schemas.get(7).await.is_ok());
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_slow_answer_is_waited_for_once_and_then_found() {
        let (schemas, asked) = schemas(0, 900, STRING).await;
        let begun = Instant::now();
        assert!(matches!(schemas.get(7).await, Err(Lack::NotNow(_))));
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
        assert_eq!(without.get(9).await, Err(Lack::NoRegistry));
    }
}
