//! Trino does the work: statements sent over its HTTP protocol (`/v1/statement`), one after the other, and what came of them.
//!
//! This module is the client; `work` says what is sent, `partition` where a partition is.

mod partition;
mod work;

use std::time::Duration;

use reqwest::{Certificate, Client, RequestBuilder, StatusCode};
use serde::Deserialize;
use serde_json::Value;

pub use partition::condition;
pub use work::{Expired, Optimized, WorkError, expire, manifests, optimize, orphans};

/// To a coordinator that is there.
const CONNECT: Duration = Duration::from_secs(10);
/// One answer: the coordinator holds it back for a second or so while a statement runs, not for as long as it runs.
const ANSWER: Duration = Duration::from_secs(60);
/// While the coordinator says that it is busy or starting.
const TRIES: u32 = 10;
/// What Trino says when somebody else committed first.
const CONFLICTS: [&str; 2] = ["ICEBERG_COMMIT_ERROR", "TRANSACTION_CONFLICT"];

/// How the coordinator is reached.
#[derive(Clone, Debug)]
pub struct Settings {
    pub url: String,
    pub user: String,
    pub login: Login,
    /// PEM, for a coordinator whose certificate no public authority signed.
    pub ca: Option<Vec<u8>>,
    /// The catalog in Trino that holds firn's tables.
    pub catalog: String,
}

/// By what the user is believed.
#[derive(Clone)]
pub enum Login {
    Nothing,
    Password(String),
    /// A JWT.
    Token(String),
}

/// Without the secret.
impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Password(_) => "Password",
            Self::Token(_) => "Token",
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TrinoError {
    #[error("maintain.trino: {0}")]
    Settings(String),
    #[error("Trino at {url} does not answer: {cause}; is it running, is maintain.trino.url right")]
    Unreachable { url: String, cause: String },
    #[error("Trino at {url} refuses the user {user}: set maintain.trino.password or token")]
    Denied { url: String, user: String },
    /// Its own words.
    #[error("Trino: {message} ({name})")]
    Failed { name: String, message: String },
}

impl TrinoError {
    /// Whether another writer was first: the statement may be run again.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Failed { name, .. } if CONFLICTS.contains(&name.as_str()))
    }
}

/// A coordinator.
#[derive(Clone, Debug)]
pub struct Trino {
    client: Client,
    settings: Settings,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    next_uri: Option<String>,
    #[serde(default)]
    data: Vec<Vec<Value>>,
    error: Option<Failure>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Failure {
    message: String,
    error_name: String,
}

impl Trino {
    /// Asks nothing yet.
    ///
    /// # Errors
    /// When the certificate can't be used.
    pub fn new(settings: Settings) -> Result<Self, TrinoError> {
        let bad = |what: &str| TrinoError::Settings(what.to_owned());
        let mut builder = Client::builder().connect_timeout(CONNECT).timeout(ANSWER);
        if let Some(pem) = &settings.ca {
            let certificates = Certificate::from_pem_bundle(pem).ok().filter(|found| !found.is_empty());
            for certificate in certificates.ok_or_else(|| bad("ca_file holds no PEM certificate"))? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        let client = builder.build().map_err(|_| bad("no HTTP client can be made of the settings"))?;
        Ok(Self { client, settings })
    }

    /// `catalog.namespace.table`, quoted.
    pub fn table(&self, ident: &iceberg::TableIdent) -> String {
        let parts = [self.settings.catalog.as_str(), &ident.namespace.join("."), ident.name()];
        parts.map(quoted).join(".")
    }

    /// A property of the catalog's, for the session.
    pub fn session(&self, name: &str, value: &str) -> (String, String) {
        (format!("{}.{name}", self.settings.catalog), value.to_owned())
    }

    /// Runs a statement to its end; answers its rows.
    ///
    /// # Errors
    /// See [`TrinoError`].
    pub async fn run(&self, statement: &str, session: &[(String, String)]) -> Result<Vec<Vec<Value>>, TrinoError> {
        tracing::debug!(statement, "to Trino");
        let url = format!("{}/v1/statement", self.settings.url.trim_end_matches('/'));
        let session: Vec<String> = session.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let first = || {
            let request = self.client.post(&url).header("X-Trino-Source", "firn").body(statement.to_owned());
            match session.is_empty() {
                true => request,
                false => request.header("X-Trino-Session", session.join(",")),
            }
        };
        let mut rows = Vec::new();
        let mut answer = self.ask(first).await?;
        loop {
            if let Some(Failure { message, error_name }) = answer.error {
                return Err(TrinoError::Failed { name: error_name, message });
            }
            rows.append(&mut answer.data);
            let Some(next) = answer.next_uri else { return Ok(rows) };
            answer = self.ask(|| self.client.get(&next)).await?;
        }
    }

    /// One request; again while the coordinator is busy, as its protocol has it. A statement that it was too busy for has not begun.
    async fn ask(&self, request: impl Fn() -> RequestBuilder) -> Result<Answer, TrinoError> {
        let url = || self.settings.url.clone();
        let unreachable = |cause: String| TrinoError::Unreachable { url: url(), cause };
        for n in 0..TRIES {
            let request = request().header("X-Trino-User", &self.settings.user);
            let request = match &self.settings.login {
                Login::Nothing => request,
                Login::Password(password) => request.basic_auth(&self.settings.user, Some(password)),
                Login::Token(token) => request.bearer_auth(token),
            };
            let answer = request.send().await.map_err(|e| unreachable(crate::cli::with_causes(&e.without_url())))?;
            match answer.status() {
                StatusCode::OK => return answer.json().await.map_err(|e| unreachable(e.without_url().to_string())),
                StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                    tokio::time::sleep(Duration::from_millis(100 << n.min(5))).await;
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    return Err(TrinoError::Denied { url: url(), user: self.settings.user.clone() });
                }
                status => return Err(unreachable(format!("it answers {status}"))),
            }
        }
        Err(unreachable("it is busy".to_owned()))
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::extract::State;
    use axum::http::HeaderMap;
    use axum::response::IntoResponse;
    use axum::routing::{get, post};
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    /// What came in: statements with their headers.
    type Seen = Arc<Mutex<Vec<(String, HeaderMap)>>>;

    fn text(answer: Value) -> String {
        answer.to_string()
    }

    /// Busy once, then two pages; `fail` fails.
    async fn coordinator() -> (String, Seen) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Seen::default();
        let begin = {
            let url = url.clone();
            move |State(seen): State<Seen>, headers: HeaderMap, statement: String| async move {
                let mut seen = seen.lock().unwrap();
                seen.push((statement.clone(), headers));
                match (seen.len(), statement.as_str()) {
                    (1, _) => axum::http::StatusCode::SERVICE_UNAVAILABLE.into_response(),
                    (_, "denied") => axum::http::StatusCode::UNAUTHORIZED.into_response(),
                    (_, "conflict") => text(json!({"id": "1",
                        "error": {"message": "Failed to commit", "errorName": "ICEBERG_COMMIT_ERROR"}}))
                    .into_response(),
                    _ => text(json!({"id": "1", "nextUri": format!("{url}/next"), "data": [["a", 1]]})).into_response(),
                }
            }
        };
        let router = Router::new()
            .route("/v1/statement", post(begin))
            .route("/next", get(|| async { text(json!({"id": "1", "data": [["b", 2]]})) }))
            .with_state(Arc::clone(&seen));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (url, seen)
    }

    fn trino(url: &str, login: Login) -> Trino {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (user, catalog) = ("firn".to_owned(), "lake".to_owned());
        Trino::new(Settings { url: url.to_owned(), user, login, ca: None, catalog }).unwrap()
    }

    #[tokio::test]
    async fn a_statement_is_sent_until_it_is_taken_and_followed_to_its_end() {
        let (url, seen) = coordinator().await;
        let trino = trino(&url, Login::Token("t0ken".to_owned()));
        let session = [trino.session("expire_snapshots_min_retention", "0s")];
        let rows = trino.run("SELECT 1", &session).await.unwrap();
        assert_eq!(rows, [vec![json!("a"), json!(1)], vec![json!("b"), json!(2)]]);
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 2, "the busy answer, and the one that counted");
        let header = |name: &str| seen[1].1.get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(
            (header("x-trino-user"), header("authorization"), header("x-trino-session")),
            ("firn".into(), "Bearer t0ken".into(), "lake.expire_snapshots_min_retention=0s".into())
        );
    }

    #[rstest]
    #[case("conflict", true, "Failed to commit")]
    #[case("denied", false, "maintain.trino.password")]
    #[tokio::test]
    async fn a_failure_is_told_in_its_own_words(#[case] statement: &str, #[case] conflict: bool, #[case] words: &str) {
        let (url, _) = coordinator().await;
        let trino = trino(&url, Login::Nothing);
        trino.run("first", &[]).await.unwrap();
        let failed = trino.run(statement, &[]).await.unwrap_err();
        assert!(failed.is_conflict() == conflict && failed.to_string().contains(words), "{failed}");
    }

    #[tokio::test]
    async fn one_that_is_away_is_named_without_the_password() {
        let trino = trino("http://127.0.0.1:1", Login::Password("hunter2".to_owned()));
        let away = trino.run("SELECT 1", &[]).await.unwrap_err();
        assert!(
            away.to_string().contains("http://127.0.0.1:1") && away.to_string().contains("maintain.trino.url"),
            "{away}"
        );
        assert!(!format!("{away} {away:?} {trino:?}").contains("hunter2"));
        let ident = iceberg::TableIdent::from_strs(["s", "a\"b"]).unwrap();
        assert_eq!(trino.table(&ident), r#""lake"."s"."a""b""#);
    }
}
