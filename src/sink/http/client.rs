//! The connection to the receiver, and what its answers mean.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};

use super::request::{Request, signature};
use super::settings::HttpSettings;
use crate::sink::SinkError;

const CONNECT: Duration = Duration::from_secs(5);
/// What is read of an answer so that its connection can be used again. A longer one costs a connection.
const MOST_ANSWER_BYTES: usize = 64 * 1024;
/// A receiver that asks for more time gets this much, and is asked again.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

pub(super) struct Client {
    http: reqwest::Client,
    url: Url,
    settings: HttpSettings,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The receiver has the rows.
    Taken,
    /// It does not take these rows.
    Refused(StatusCode),
    /// The same again, later; not before this time where the receiver said so.
    Later(String, Option<Duration>),
    /// A person has to do something first.
    Stopped(String),
}

impl Client {
    /// # Errors
    /// Names the setting that can't be.
    pub(super) fn new(settings: &HttpSettings) -> Result<Self, SinkError> {
        let wrong = |what: String| SinkError::Stopped(what);
        let url = Url::parse(&settings.url).ok().filter(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
        let url = url.ok_or_else(|| wrong("url is not http(s)://host/path".to_owned()))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(settings.body.content_type()));
        for (name, value) in &settings.headers {
            let unfit = || wrong(format!("headers.{name}: a header can't have this name or value"));
            let mut value = HeaderValue::from_str(value).map_err(|_| unfit())?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_bytes(name.as_bytes()).map_err(|_| unfit())?, value);
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("firn/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT.min(settings.timeout))
            .timeout(settings.timeout)
            // What is redirected may arrive as a GET without its rows, or elsewhere than a person wanted.
            .redirect(reqwest::redirect::Policy::none())
            .default_headers(headers)
            .build()
            .map_err(|e| wrong(format!("HTTP client: {}", explain(e))))?;
        Ok(Self { http, url, settings: settings.clone() })
    }

    /// The receiver without what may be secret: the token of a webhook is in its path.
    pub(super) fn place(&self) -> String {
        let port = self.url.port().map_or_else(String::new, |port| format!(":{port}"));
        let path = if self.url.path() == "/" { "" } else { "/..." };
        format!("{}://{}{port}{path}", self.url.scheme(), self.url.host_str().unwrap_or_default())
    }

    /// `host:port`, as one connects to it.
    pub(super) fn address(&self) -> (String, u16) {
        let host = self.url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        (host, self.url.port_or_known_default().unwrap_or(80))
    }

    pub(super) async fn post(&self, request: &Request) -> Answer {
        let mut post = self.http.post(self.url.clone()).header("Idempotency-Key", &request.key);
        if let Some(secret) = &self.settings.secret {
            post = post.header("X-Firn-Signature", signature(secret, unix_s(), &request.body));
        }
        let place = self.place();
        match post.body(request.body.clone()).send().await {
            Ok(response) => {
                let answer = self.judge(&response, &place);
                // An answer that breaks off may be of a receiver that did so too.
                match drain(response).await {
                    Err(e) if answer == Answer::Taken => Answer::Later(format!("{place}: {}", explain(e)), None),
                    _ => answer,
                }
            }
            Err(e) => Answer::Later(format!("{place} does not answer: {}", explain(e)), None),
        }
    }

    fn judge(&self, response: &Response, place: &str) -> Answer {
        let status = response.status();
        if status.is_success() || self.settings.accept.contains(&status.as_u16()) {
            return Answer::Taken;
        }
        let said = format!("{place} answers {status}");
        match status.as_u16() {
            400 | 413 | 422 => Answer::Refused(status),
            408 | 409 | 425 | 429 | 500..=599 => {
                Answer::Later(said, retry_after(response.headers(), SystemTime::now()))
            }
            401 | 403 => {
                Answer::Stopped(format!("{said}: give it what it asks for in `headers`, or the right `secret`"))
            }
            404 | 405 | 410 => Answer::Stopped(format!("{said}: look at `url`, and whether it takes a POST")),
            300..=399 => {
                Answer::Stopped(format!("{said}, and firn follows no redirect: write the address it leads to in `url`"))
            }
            _ => Answer::Stopped(format!(
                "{said}: look at the receiver's log; an answer that means that it has the rows can be listed in `accept`"
            )),
        }
    }
}

/// Reads the answer to its end, or drops its connection where that is far.
async fn drain(mut response: Response) -> Result<(), reqwest::Error> {
    let mut bytes = 0;
    while let Some(chunk) = response.chunk().await? {
        bytes += chunk.len();
        if bytes > MOST_ANSWER_BYTES {
            break;
        }
    }
    Ok(())
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until: DateTime<Utc> = DateTime::parse_from_rfc2822(text).ok()?.into();
            SystemTime::from(until).duration_since(now).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The library's error says what it did; the causes say why it failed. Without the address, which may hold a secret.
fn explain(e: reqwest::Error) -> String {
    let e = e.without_url();
    let mut told = e.to_string();
    let mut cause = std::error::Error::source(&e);
    while let Some(c) = cause {
        told = format!("{told}: {c}");
        cause = c.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("7", Some(7))]
    #[case("86400", Some(300))]
    #[case("Sun, 06 Nov 1994 08:49:47 GMT", Some(10))]
    #[case("Sun, 06 Nov 1994 08:00:00 GMT", Some(0))]
    #[case("soon", None)]
    fn a_receiver_says_when(#[case] text: &str, #[case] want: Option<u64>) {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(text).unwrap())]);
        // Sun, 06 Nov 1994 08:49:37 GMT
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(retry_after(&headers, now), want.map(Duration::from_secs));
    }
}
