//! `[registry]`: the schema registry that Avro messages name their schemas in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{Problem, nearest};
use super::secret::{Address, Properties, password_in};
use crate::registry::Settings;

const BASIC_AUTH: &str = "basic.auth.user.info";
const BEARER_TOKEN: &str = "bearer.auth.token";
const CA: &str = "ssl.ca.location";
const TIMEOUT: &str = "request.timeout.ms";
const KNOWN: [&str; 4] = [BASIC_AUTH, BEARER_TOKEN, CA, TIMEOUT];

const DEFAULT_TIMEOUT_MS: u64 = 10_000;

/// `[registry]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryConfig {
    /// The root of a Confluent-compatible API; several with commas between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Address>,
    /// Under the names of Confluent's clients.
    #[serde(default)]
    pub properties: Properties,
}

impl RegistryConfig {
    fn urls(&self) -> Vec<&str> {
        self.url.iter().flat_map(|url| url.as_str().split(',')).map(str::trim).collect()
    }

    pub(super) fn validate(&self) -> Result<(), Problem> {
        let urls = self.urls();
        for url in &urls {
            if !url.starts_with("http://") && !url.starts_with("https://") {
                let url = Address::new(*url);
                return Err(Problem::new("url", format!("`{url}` is not an http:// or https:// address")));
            }
            if urls.len() > 1 && password_in(url).is_some() {
                return Err(Problem::new("url", format!("one of several has a password: set properties.{BASIC_AUTH}")));
            }
        }
        for (key, value) in self.properties.iter() {
            let field = format!("properties.{key}");
            if !KNOWN.contains(&key) {
                let hint = nearest(key, KNOWN)
                    .map_or_else(|| format!("firn knows {}", KNOWN.join(", ")), |near| format!("did you mean {near}?"));
                return Err(Problem::new(field, format!("unknown; {hint}")));
            }
            if key == TIMEOUT && !value.parse::<u64>().is_ok_and(|ms| (100..=600_000).contains(&ms)) {
                return Err(Problem::new(field, format!("`{value}` is not between 100 and 600000")));
            }
        }
        let set = |key| self.properties.get(key).is_some();
        if set(BASIC_AUTH) && set(BEARER_TOKEN) {
            return Err(Problem::new(
                format!("properties.{BEARER_TOKEN}"),
                format!("{BASIC_AUTH} is set too: choose one"),
            ));
        }
        if urls.is_empty() && !self.properties.is_empty() {
            return Err(Problem::new("url", "is missing: the properties are for a registry"));
        }
        Ok(())
    }

    /// How the registry is reached; `None` where there is none.
    ///
    /// # Errors
    /// The sentence for a person when the certificates can't be read.
    pub fn settings(&self) -> Result<Option<Settings>, String> {
        if self.url.is_none() {
            return Ok(None);
        }
        let property = |key| self.properties.get(key).map(str::to_owned);
        let read = |path: String| std::fs::read(&path).map_err(|e| format!("registry.properties.{CA}: {path}: {e}"));
        let timeout_ms = self.properties.get(TIMEOUT).and_then(|ms| ms.parse().ok()).unwrap_or(DEFAULT_TIMEOUT_MS);
        Ok(Some(Settings {
            urls: self.urls().into_iter().map(str::to_owned).collect(),
            basic_auth: property(BASIC_AUTH),
            bearer_token: property(BEARER_TOKEN),
            ca: property(CA).map(read).transpose()?,
            timeout: Duration::from_millis(timeout_ms),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn config(text: &str) -> RegistryConfig {
        toml::from_str(text).unwrap()
    }

    #[rstest]
    #[case("url = 'http://a:8081/base'", None)]
    #[case("url = 'http://a:8081, https://b'", None)]
    #[case("", None)]
    #[case("url = 'http://a,ftp://b'", Some("http:// or https://"))]
    #[case("url = 'http://a,http://u:p@b'", Some("basic.auth.user.info"))]
    #[case("url = 'http://a'\nproperties.'bearer.auth.tokn' = 't'", Some("did you mean bearer.auth.token"))]
    #[case("url = 'http://a'\nproperties.'x' = 't'", Some("firn knows basic.auth.user.info"))]
    #[case("url = 'http://a'\nproperties.'request.timeout.ms' = 5", Some("between 100"))]
    #[case(
        "url = 'http://a'\nproperties.'bearer.auth.token' = 't'\nproperties.'basic.auth.user.info' = 'u:p'",
        Some("choose one")
    )]
    #[case("properties.'bearer.auth.token' = 't'", Some("is missing"))]
    fn a_registrys_keys_are_checked(#[case] text: &str, #[case] refused: Option<&str>) {
        match (config(text).validate(), refused) {
            (Ok(()), None) => {}
            (Err(problem), Some(want)) => assert!(problem.message.contains(want), "{problem:?}"),
            (got, want) => panic!("{got:?} for {want:?}"),
        }
    }

    #[test]
    fn secrets_reach_the_client_and_nothing_else() {
        let c = config("url = 'http://a , http://b'\nproperties.'basic.auth.user.info' = 'u:s3cret'");
        assert!(!format!("{c:?} {}", toml::to_string(&c).unwrap()).contains("s3cret"));
        let settings = c.settings().unwrap().unwrap();
        assert_eq!(settings.basic_auth.as_deref(), Some("u:s3cret"));
        assert_eq!(
            (settings.urls, settings.timeout),
            (vec!["http://a".into(), "http://b".into()], Duration::from_secs(10))
        );
        let missing = config("url = 'http://a'\nproperties.'ssl.ca.location' = '/none.pem'");
        assert!(missing.settings().unwrap_err().contains("/none.pem"));
        assert!(config("").settings().unwrap().is_none());
    }
}
