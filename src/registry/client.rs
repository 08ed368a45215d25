//! Requests to a registry: addresses, credentials, what an answer's status means.

use std::time::Duration;

use reqwest::{Certificate, RequestBuilder, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{RegistryError, Settings};

const CONNECT: Duration = Duration::from_secs(5);
/// A schema of a thousand columns has some hundred kB.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// What Confluent's API answers in the body of a 404 that is about a subject, a version, a schema; other 404s are some other server's.
const NOT_FOUND_CODES: std::ops::RangeInclusive<i64> = 40401..=40499;

/// As Confluent's clients send it.
const SCHEMA_REGISTRY_JSON: &str = "application/vnd.schemaregistry.v1+json";

/// An answer that says something.
pub(super) enum Answer<T> {
    Found(T),
    /// There is none; the registry's own words.
    Nothing(String),
}

pub(super) struct Client {
    http: reqwest::Client,
    urls: Vec<Url>,
    basic: Option<(String, String)>,
    bearer: Option<String>,
}

/// Without the credentials.
impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("urls", &self.urls.len()).finish_non_exhaustive()
    }
}

/// The registry's own words for what is wrong.
#[derive(Deserialize)]
struct Told {
    error_code: i64,
    #[serde(default)]
    message: String,
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Result<Self, RegistryError> {
        let bad = |what: String| RegistryError::Settings(what);
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("firn/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT.min(settings.timeout))
            .timeout(settings.timeout);
        if let Some(pem) = &settings.ca {
            let certificates = Certificate::from_pem_bundle(pem)
                .ok()
                .filter(|found| !found.is_empty())
                .ok_or_else(|| bad("ssl.ca.location: the file holds no PEM certificate".to_owned()))?;
            for certificate in certificates {
                builder = builder.add_root_certificate(certificate);
            }
        }
        let url = |text: &String| {
            Url::parse(text)
                .ok()
                .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
                .ok_or_else(|| bad("registry.url is not http(s)://host/path".to_owned()))
        };
        let urls: Vec<Url> = settings.urls.iter().map(url).collect::<Result<_, _>>()?;
        if urls.is_empty() {
            return Err(bad("registry.url names no address".to_owned()));
        }
        let basic = settings.basic_auth.as_ref().map(|info| {
            let (user, password) = info.split_once(':').unwrap_or((info, ""));
            (user.to_owned(), password.to_owned())
        });
        // reqwest's error says nothing of the settings but what was said already.
        let http = builder.build().map_err(|e| bad(format!("HTTP client: {e}")))?;
        Ok(Self { http, urls, basic, bearer: settings.bearer_token.clone() })
    }

    /// Asks the addresses in turn, until one has it. That there is none counts only once all were asked: one may be behind another.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<Answer<T>, RegistryError> {
        self.ask(path, |url| self.http.get(url)).await
    }

    /// [`Self::get`] with a body.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &serde_json::Value,
    ) -> Result<Answer<T>, RegistryError> {
        let text = body.to_string();
        self.ask(path, |url| self.http.post(url).header("content-type", SCHEMA_REGISTRY_JSON).body(text.clone())).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        path: &[&str],
        request: impl Fn(Url) -> RequestBuilder,
    ) -> Result<Answer<T>, RegistryError> {
        let mut answered = Err(RegistryError::Unavailable("no address".to_owned()));
        for base in &self.urls {
            let mut url = base.clone();
            if let Ok(mut segments) = url.path_segments_mut() {
                segments.pop_if_empty().extend(path);
            }
            let place = place(base);
            match answer(self.with_credentials(request(url)), &place).await {
                Ok(found @ Answer::Found(_)) => return Ok(found),
                Ok(nothing) => answered = Ok(nothing),
                Err(e) if answered.is_err() => answered = Err(e),
                Err(_) => {}
            }
        }
        answered
    }

    fn with_credentials(&self, request: RequestBuilder) -> RequestBuilder {
        match (&self.bearer, &self.basic) {
            (Some(token), _) => request.bearer_auth(token),
            (None, Some((user, password))) => request.basic_auth(user, Some(password)),
            (None, None) => request,
        }
    }
}

/// The address without credentials.
fn place(url: &Url) -> String {
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    format!("registry {}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

async fn answer<T: DeserializeOwned>(request: RequestBuilder, place: &str) -> Result<Answer<T>, RegistryError> {
    use RegistryError as E;
    let lost = |e: reqwest::Error| E::Unavailable(format!("{place} does not answer: {}", explain(&e.without_url())));
    let mut response = request.send().await.map_err(lost)?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(lost)? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(E::Unavailable(format!("{place} answers with more than {MAX_ANSWER_BYTES} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    let told: Option<Told> = serde_json::from_slice(&body).ok();
    let says =
        || told.as_ref().map_or_else(|| status.to_string(), |told| format!("{status}: {}", excerpt(&told.message)));
    match status {
        StatusCode::NOT_FOUND => match &told {
            Some(told) if NOT_FOUND_CODES.contains(&told.error_code) => Ok(Answer::Nothing(excerpt(&told.message))),
            _ => Err(E::NoRegistry(format!("{place} answers {}", says()))),
        },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(E::Denied(format!("{place} answers {}", says()))),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
            Err(E::Unavailable(format!("{place} answers {}", says())))
        }
        StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => {
            Err(E::Refused(format!("{place} answers {}", says())))
        }
        _ if status.is_server_error() => Err(E::Unavailable(format!("{place} answers {}", says()))),
        _ if status.is_success() => serde_json::from_slice(&body)
            .map(Answer::Found)
            .map_err(|_| E::NoRegistry(format!("{place} answers something else than a schema"))),
        _ => Err(E::NoRegistry(format!("{place} answers {}", says()))),
    }
}

fn excerpt(text: &str) -> String {
    text.chars().take(200).collect()
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
