//! The suite that every sink runs.

use async_trait::async_trait;

use super::*;
use crate::sink::conformance;

/// A stream of the rows, and a string for each, of which one key holds something else.
struct Keys {
    prefix: String,
    server: String,
}

impl Keys {
    async fn place(&self) -> Place {
        Place { prefix: self.prefix.clone(), ..Place::at(&format!("redis://{}", self.server)).await }
    }
}

#[async_trait]
impl conformance::Place for Keys {
    fn server(&self) -> String {
        self.server.clone()
    }

    async fn open(&self, server: &str) -> Box<dyn Sink> {
        let mut place = self.place().await;
        let taken = place.key(&format!("digits:{}", conformance::NO_DIGITS));
        place.ask::<i64>(&["SADD", &taken, "somebody's"]).await;
        let number = WriteKind::Text { value: "{id}".parse().unwrap(), ttl_ms: None };
        let writes = vec![place.stream(), write(place.key("digits:{digits}"), number)];
        let settings = RedisSettings { url: format!("redis://{server}"), ..place.settings(writes) };
        Box::new(RedisSink::new(settings, &self.prefix))
    }

    async fn held(&self) -> Vec<i64> {
        self.place().await.ids().await.iter().map(|id| id.parse().unwrap()).collect()
    }

    fn refuses_poison(&self) -> bool {
        true
    }

    async fn remove(&self) {
        let mut place = self.place().await;
        let pattern = format!("*{}:*", self.prefix);
        for key in place.ask::<Vec<String>>(&["KEYS", &pattern]).await {
            place.ask::<i64>(&["DEL", &key]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_conforms() {
    let Some(place) = Place::named().await else { return };
    let server = place.url.trim_start_matches("redis://").trim_end_matches('/').to_owned();
    conformance::all(|name| Keys { prefix: format!("{}-{name}", place.prefix), server: server.clone() }).await;
}
