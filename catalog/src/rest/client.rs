//! Requests to a REST catalog: addresses, headers, the token, pages. The only place that knows the HTTP client.

use std::collections::HashMap;
use std::time::Duration;

use iceberg::NamespaceIdent;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use super::auth::Auth;
use super::config::RestConfig;
use super::fault::{Doing, Fault, told};
use super::wire::CatalogConfig;
use crate::{Error, ErrorKind, Result};

/// By the protocol, between the levels of a namespace in an address.
const LEVELS: &str = "\u{1f}";

pub(super) struct Client {
    http: reqwest::Client,
    auth: Auth,
    config: RestConfig,
    session: OnceCell<Session>,
}

/// What the server said at the beginning.
pub(super) struct Session {
    /// `…/v1/prefix`.
    base: Url,
    /// The server's and ours.
    pub(super) properties: HashMap<String, String>,
}

impl Session {
    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        // It has a host, so it has a path: `Session` is only made of such.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }
}

/// An address below the prefix.
pub(super) fn namespace_path(namespace: &NamespaceIdent) -> String {
    namespace.as_ref().join(LEVELS)
}

impl Client {
    /// Asks nothing yet.
    ///
    /// # Errors
    /// `Refused` when the configuration is wrong.
    pub(super) fn new(config: RestConfig) -> Result<Self> {
        let bad = |what: &str, why: &dyn std::fmt::Display| Error::new(ErrorKind::Refused, format!("{what}: {why}"));
        base_url(&config.uri).map_err(|e| e.context("uri"))?;
        let mut headers = HeaderMap::new();
        for (name, value) in config.headers() {
            let name = HeaderName::try_from(name).map_err(|e| bad(&format!("header.{name}"), &e))?;
            let mut value = HeaderValue::try_from(value).map_err(|e| bad(&format!("header.{name}"), &e))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(concat!("firn/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_millis(config.connect_timeout_ms))
            .timeout(Duration::from_millis(config.call_timeout_ms))
            .build()
            .map_err(|e| bad("HTTP client", &e))?;
        let auth = Auth::new(&config, config.uri.trim_end_matches('/'));
        Ok(Self { http, auth, config, session: OnceCell::new() })
    }

    pub(super) fn config(&self) -> &RestConfig {
        &self.config
    }

    /// The server's configuration, asked for once.
    pub(super) async fn session(&self) -> Result<&Session> {
        self.session.get_or_try_init(|| self.ask_config()).await
    }

    /// # Errors
    /// When the server can't be reached, denies access or doesn't know the warehouse.
    pub(super) async fn ask_config(&self) -> Result<Session> {
        let mut url = base_url(&self.config.uri)?;
        url.path_segments_mut().map_err(|()| no_base(&self.config.uri))?.push("config");
        if let Some(warehouse) = &self.config.warehouse {
            url.query_pairs_mut().append_pair("warehouse", warehouse);
        }
        let asked: Result<CatalogConfig, _> = self.send(|| self.http.get(url.clone())).await;
        let properties = asked
            .map_err(|f| f.into_error(Doing::Read).context("configuration of the catalog"))?
            .over(&self.config.properties);
        let uri = properties.get("uri").map_or(self.config.uri.as_str(), String::as_str);
        let base = match properties.get("prefix").filter(|p| !p.is_empty()) {
            // Encoded by the server, who made it.
            Some(prefix) => {
                let uri = format!("{}/{}", base_url(uri)?.as_str().trim_end_matches('/'), prefix.trim_matches('/'));
                Url::parse(&uri).map_err(|_| no_base(&uri))?
            }
            None => base_url(uri)?,
        };
        Ok(Session { base, properties })
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, &str)]) -> Result<T> {
        let url = self.session().await?.url(path);
        let answer = self.send(|| self.http.get(url.clone()).query(query)).await;
        answer.map_err(|f| f.into_error(Doing::Read))
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &impl Serialize,
        doing: Doing,
    ) -> Result<T> {
        let url = self.session().await?.url(path);
        let answer = self.send(|| self.http.request(Method::POST, url.clone()).json(body)).await;
        answer.map_err(|f| f.into_error(doing))
    }

    pub(super) async fn delete(&self, path: &[&str], query: &[(&str, &str)]) -> Result<()> {
        let url = self.session().await?.url(path);
        let answer: Result<Nothing, _> = self.send(|| self.http.delete(url.clone()).query(query)).await;
        answer.map(|_| ()).map_err(|f| f.into_error(Doing::Change))
    }

    /// Sent once, and once more with another token when the server refuses the one in hand: it did nothing then.
    async fn send<T: DeserializeOwned>(&self, request: impl Fn() -> RequestBuilder) -> Result<T, Fault> {
        let Some(token) = self.auth.token(&self.http).await? else { return answer(request()).await };
        match answer(request().bearer_auth(&token)).await {
            Err(Fault::Status(401 | 419, _)) if self.auth.renew(&token).await => {
                match self.auth.token(&self.http).await? {
                    Some(token) => answer(request().bearer_auth(token)).await,
                    None => answer(request()).await,
                }
            }
            answer => answer,
        }
    }
}

/// Of an answer without a body.
#[derive(serde::Deserialize)]
#[serde(from = "serde::de::IgnoredAny")]
pub(super) struct Nothing;
impl From<serde::de::IgnoredAny> for Nothing {
    fn from(_: serde::de::IgnoredAny) -> Self {
        Self
    }
}

/// Sends and reads the answer.
pub(super) async fn answer<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, Fault> {
    let response = match request.send().await {
        Ok(response) => response,
        Err(e) if e.is_connect() || e.is_builder() => return Err(Fault::NotSent(explain(&e))),
        Err(e) => return Err(Fault::Lost(explain(&e))),
    };
    let status = response.status();
    let body = response.bytes().await;
    if !status.is_success() {
        return Err(told(status.as_u16(), &String::from_utf8_lossy(&body.unwrap_or_default())));
    }
    let body = body.map_err(|e| Fault::Lost(explain(&e)))?;
    let json: &[u8] = if status == StatusCode::NO_CONTENT || body.is_empty() { b"null" } else { &body };
    serde_json::from_slice(json).map_err(|e| Fault::Lost(format!("the answer is not understood: {e}")))
}

/// The library's error says what it did; the cause says why it failed.
fn explain(e: &reqwest::Error) -> String {
    let mut told = e.to_string();
    let mut cause = std::error::Error::source(e);
    while let Some(c) = cause {
        told = format!("{told}: {c}");
        cause = c.source();
    }
    told
}

/// `…/v1`, which paths can be added to.
fn base_url(uri: &str) -> Result<Url> {
    let url = Url::parse(&format!("{}/v1", uri.trim_end_matches('/'))).map_err(|_| no_base(uri))?;
    if matches!(url.scheme(), "http" | "https") && url.has_host() { Ok(url) } else { Err(no_base(uri)) }
}

fn no_base(uri: &str) -> Error {
    Error::new(ErrorKind::Refused, format!("'{uri}' is not the address of a catalog, want http(s)://host/path"))
}
