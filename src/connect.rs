//! Kafka Connect's REST API: the connectors with their settings and states. What the settings mean is somebody else's business.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::Address;

/// For the whole answer. Connect holds an answer back while it hands out its connectors anew.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Without the address, which may hold a password.
#[derive(Debug, thiserror::Error)]
#[error("Kafka Connect does not answer: {0}")]
pub struct ConnectError(#[source] reqwest::Error);

/// A connector as Connect has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connector {
    /// As it was registered: `${...}` stands for what only the worker knows.
    pub config: BTreeMap<String, String>,
    /// `RUNNING`, `PAUSED`, `FAILED` ... of the connector and of each of its tasks.
    pub states: Vec<String>,
}

/// Connectors by name.
///
/// # Errors
/// When Connect can't be reached or refuses.
pub async fn connectors(url: &Address) -> Result<BTreeMap<String, Connector>, ConnectError> {
    let answer: BTreeMap<String, Expanded> = get(url, "/connectors?expand=info&expand=status").await?;
    Ok(answer.into_iter().map(|(name, expanded)| (name, expanded.connector())).collect())
}

/// The offsets that are stored of a connector: all that it sent before them is in Kafka. Since Kafka 3.5.
///
/// # Errors
/// When Connect can't be reached, refuses, or is too old to tell.
pub async fn offsets(url: &Address, connector: &str) -> Result<Vec<Value>, ConnectError> {
    let answer: Offsets = get(url, &format!("/connectors/{connector}/offsets")).await?;
    Ok(answer.offsets.into_iter().map(|stored| stored.offset).collect())
}

async fn get<T: DeserializeOwned>(url: &Address, path: &str) -> Result<T, ConnectError> {
    let fetch = async {
        let client = reqwest::Client::builder().timeout(ANSWER_WITHIN).build()?;
        let address = format!("{}{path}", url.as_str().trim_end_matches('/'));
        client.get(address).send().await?.error_for_status()?.json().await
    };
    fetch.await.map_err(|e: reqwest::Error| ConnectError(e.without_url()))
}

#[derive(Debug, Deserialize)]
struct Offsets {
    offsets: Vec<Stored>,
}

#[derive(Debug, Deserialize)]
struct Stored {
    offset: Value,
}

#[derive(Debug, Deserialize)]
struct Expanded {
    info: Info,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Deserialize)]
struct Info {
    config: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
struct Status {
    connector: Option<State>,
    #[serde(default)]
    tasks: Vec<State>,
}

#[derive(Debug, Deserialize)]
struct State {
    state: String,
}

impl Expanded {
    fn connector(self) -> Connector {
        let states = self.status.connector.into_iter().chain(self.status.tasks);
        Connector { config: self.info.config, states: states.map(|s| s.state).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connector_has_its_settings_and_the_states_of_its_parts() {
        let answer = r#"{"shop":{"info":{"name":"shop","config":{"topic.prefix":"p"},"tasks":[],"type":"source"},
            "status":{"name":"shop","connector":{"state":"RUNNING","worker_id":"w"},"tasks":[{"id":0,"state":"FAILED","trace":"x"}]}},
            "new":{"info":{"config":{}}}}"#;
        let answer: BTreeMap<String, Expanded> = serde_json::from_str(answer).unwrap();
        let all: BTreeMap<_, _> = answer.into_iter().map(|(name, e)| (name, e.connector())).collect();
        assert_eq!(all["shop"].states, ["RUNNING", "FAILED"]);
        assert_eq!(all["shop"].config["topic.prefix"], "p");
        assert_eq!(all["new"], Connector::default());
        let answer = r#"{"offsets":[{"partition":{"server":"p"},"offset":{"lsn":7}}]}"#;
        let answer: Offsets = serde_json::from_str(answer).unwrap();
        assert_eq!(answer.offsets[0].offset["lsn"], 7);
    }

    #[tokio::test]
    async fn the_address_is_not_told() {
        let error = connectors(&Address::new("http://u:hunter2@127.0.0.1:1")).await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
}
