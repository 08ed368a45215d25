//! `[[pipelines.http]]`

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::error::Problem;
use crate::config::secret::{Address, Secret, mask_path};
use crate::sink::http::{Body, HttpSettings};

/// One receiver of POST requests.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// The sink's name within its pipeline, in positions, metrics and commands.
    #[serde(default = "default_name")]
    pub name: String,
    /// `https://user:password@host/path`
    #[serde(serialize_with = "without_path")]
    pub url: Address,
    #[serde(default)]
    pub body: BodyConfig,
    /// Rows of one request, at most.
    #[serde(default = "default_max_rows")]
    pub max_rows: usize,
    /// Bytes of one request, at most, unless a single change has more.
    #[serde(default = "default_max_bytes")]
    pub max_bytes: usize,
    /// Requests of one partition that are under way at a time.
    #[serde(default = "default_parallel")]
    pub parallel: u32,
    /// Rows with the same values in these columns go one after another.
    #[serde(default)]
    pub key: Vec<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// What requests are signed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// Longest wait for one answer.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Answers that mean that the receiver has it, beside 200 to 299.
    #[serde(default)]
    pub accept: BTreeSet<u16>,
}

/// How rows stand in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyConfig {
    #[default]
    Array,
    Ndjson,
    Object,
}

/// What firn itself says in every request.
const OWN_HEADERS: [&str; 6] =
    ["idempotency-key", "x-firn-signature", "content-length", "transfer-encoding", "host", "connection"];

fn without_path<S: serde::Serializer>(url: &Address, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&mask_path(url.as_str()))
}

fn default_name() -> String {
    "http".to_owned()
}

fn default_max_rows() -> usize {
    500
}

/// Half of what nginx takes unless told otherwise.
fn default_max_bytes() -> usize {
    512 * 1024
}

fn default_parallel() -> u32 {
    1
}

fn default_timeout_ms() -> u64 {
    10_000
}

impl HttpConfig {
    pub(in crate::config) fn validate(&self) -> Result<(), Problem> {
        let host = self.url.as_str().split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"));
        let host = host.map(|(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or_default());
        let host = host.map(|authority| authority.rsplit_once('@').map_or(authority, |(_, host)| host));
        if host.is_none_or(|host| host.is_empty() || host.starts_with(':')) {
            return Err(Problem::new("url", format!("`{}` is not http://host/path or https://host/path", self.url)));
        }
        for (field, value, low, high) in [
            ("max_rows", self.max_rows as u64, 1, 10_000),
            ("max_bytes", self.max_bytes as u64, 1_024, 64 << 20),
            ("parallel", u64::from(self.parallel), 1, 64),
            ("timeout_ms", self.timeout_ms, 100, 60_000),
        ] {
            if !(low..=high).contains(&value) {
                return Err(Problem::new(field, format!("{value} is not between {low} and {high}")));
            }
        }
        if self.parallel > 1 && self.key.is_empty() {
            return Err(Problem::new(
                "key",
                "names the columns whose rows keep their order while others overtake them",
            ));
        }
        for (name, value) in &self.headers {
            let under = |message: &str| Err(Problem::new(format!("headers.{name}"), message));
            if OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
                return under("is firn's own");
            }
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)) {
                return under("is not the name of a header");
            }
            if value.as_str().chars().any(|c| c != '\t' && (c.is_ascii_control() || !c.is_ascii())) {
                return under("has a letter that a header can't have; a line break at its end?");
            }
        }
        if self.secret.as_ref().is_some_and(|secret| secret.as_str().is_empty()) {
            return Err(Problem::new("secret", "must not be empty: leave it out"));
        }
        match self.accept.iter().find(|status| !(400..=499).contains(*status)) {
            Some(status) => Err(Problem::new("accept", format!("{status} is not between 400 and 499"))),
            None => Ok(()),
        }
    }

    /// What the sink is told.
    pub fn settings(&self) -> HttpSettings {
        HttpSettings {
            url: self.url.as_str().to_owned(),
            body: match self.body {
                BodyConfig::Array => Body::Array,
                BodyConfig::Ndjson => Body::Lines,
                BodyConfig::Object => Body::Object,
            },
            max_rows: self.max_rows,
            max_bytes: self.max_bytes,
            parallel: self.parallel,
            key: self.key.clone(),
            headers: self.headers.iter().map(|(name, value)| (name.clone(), value.as_str().to_owned())).collect(),
            secret: self.secret.as_ref().map(|secret| secret.as_str().to_owned()),
            timeout: Duration::from_millis(self.timeout_ms),
            accept: self.accept.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn config(more: &str) -> HttpConfig {
        toml::from_str(&format!("url = \"https://hooks.example/in\"\n{more}")).unwrap()
    }

    #[rstest]
    #[case("tcp://a:1")]
    #[case("http://")]
    #[case("http://:80/x")]
    #[case("http://user:pw@/x")]
    fn an_address_has_a_host(#[case] url: &str) {
        let config: HttpConfig = toml::from_str(&format!("url = \"{url}\"")).unwrap();
        let problem = config.validate().unwrap_err();
        assert!(problem.field == "url" && !problem.message.contains("pw"), "{problem:?}");
    }

    #[rstest]
    #[case("max_rows = 0", "max_rows")]
    #[case("max_bytes = 10", "max_bytes")]
    #[case::who_may_overtake_whom("parallel = 4", "key")]
    #[case("timeout_ms = 1", "timeout_ms")]
    #[case("headers = { Idempotency-Key = \"mine\" }", "headers.Idempotency-Key")]
    #[case("headers = { \"a b\" = \"x\" }", "headers.a b")]
    #[case::of_a_file("headers = { X-Key = \"secret\\n\" }", "headers.X-Key")]
    #[case("secret = \"\"", "secret")]
    #[case::would_lose_rows("accept = [503]", "accept")]
    fn what_can_not_be_is_refused(#[case] more: &str, #[case] field: &str) {
        assert_eq!(config(more).validate().unwrap_err().field, field);
    }

    #[test]
    fn secrets_go_to_the_sink_and_nowhere_else() {
        let config = config("secret = \"whsec\"\nheaders = { X-Api-Key = \"hunter2\" }\naccept = [409]");
        assert_eq!(config.validate(), Ok(()));
        let printed = format!("{config:?} {} {:?}", toml::to_string(&config).unwrap(), config.settings());
        assert!(!printed.contains("whsec") && !printed.contains("hunter2"), "{printed}");
        let settings = config.settings();
        assert_eq!((settings.secret.as_deref(), settings.headers["X-Api-Key"].as_str()), (Some("whsec"), "hunter2"));
        assert_eq!((settings.max_rows, settings.parallel, settings.body), (500, 1, Body::Array));
    }
}
