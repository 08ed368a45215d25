//! How a REST catalog is reached: properties named as in `PyIceberg` and Java. Pure.

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;

#[derive(Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RestConfig {
    /// Without the `v1`: `https://host/iceberg`.
    pub uri: String,
    /// What the server calls a warehouse: a name or a location.
    #[serde(default)]
    pub warehouse: Option<String>,
    /// `token`; `credential` (`id:secret`), `oauth2-server-uri`, `scope`, `audience`, `resource`; `header.*`; and the storage's (`s3.*`),
    /// which a table's own configuration completes.
    #[serde(default)]
    pub properties: HashMap<String, String>,
    #[serde(default = "connect_timeout_ms")]
    pub connect_timeout_ms: u64,
    /// For one request. Too short, and a busy server's swaps end as unknown.
    #[serde(default = "call_timeout_ms")]
    pub call_timeout_ms: u64,
}

impl RestConfig {
    pub fn new(uri: impl Into<String>) -> Self {
        Self {
            uri: uri.into(),
            warehouse: None,
            properties: HashMap::new(),
            connect_timeout_ms: connect_timeout_ms(),
            call_timeout_ms: call_timeout_ms(),
        }
    }

    pub(super) fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// `header.X-Name = value` becomes the header `X-Name`.
    pub(super) fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.properties.iter().filter_map(|(k, v)| Some((k.strip_prefix("header.")?, v.as_str())))
    }
}

/// Without the properties: they hold secrets.
impl fmt::Debug for RestConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestConfig").field("uri", &self.uri).field("warehouse", &self.warehouse).finish_non_exhaustive()
    }
}

fn connect_timeout_ms() -> u64 {
    5_000
}
fn call_timeout_ms() -> u64 {
    60_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_is_refused_and_secrets_are_not_printed() {
        assert!(serde_json::from_str::<RestConfig>(r#"{"uri": "http://h", "warehose": "w"}"#).is_err());
        let config: RestConfig =
            serde_json::from_str(r#"{"uri": "http://h", "properties": {"token": "s3cret", "header.X-A": "b"}}"#)
                .unwrap();
        assert!(!format!("{config:?}").contains("s3cret"));
        assert_eq!(config.headers().collect::<Vec<_>>(), [("X-A", "b")]);
    }
}
