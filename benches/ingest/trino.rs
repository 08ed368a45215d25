//! Statements in Trino.

use anyhow::Context;
use serde_json::Value;

use crate::Bench;

pub struct Trino {
    url: String,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

pub struct Answer {
    pub rows: Vec<Vec<Value>>,
    /// As Trino counts it.
    pub elapsed_ms: f64,
}

impl Trino {
    pub fn new(bench: &Bench) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { url: bench.servers.trino.clone(), client: reqwest::Client::new(), runtime })
    }

    pub fn run(&self, sql: &str) -> anyhow::Result<Answer> {
        self.runtime.block_on(async {
            let statement = format!("{}/v1/statement", self.url);
            let first = self.client.post(statement).header("X-Trino-User", "bench").body(sql.to_owned());
            let mut page: Value = first.send().await?.error_for_status()?.json().await?;
            let mut rows = vec![];
            loop {
                anyhow::ensure!(page["error"].is_null(), "{sql}: {}", page["error"]["message"]);
                for row in page["data"].as_array().into_iter().flatten() {
                    rows.push(row.as_array().cloned().unwrap_or_default());
                }
                let Some(next) = page["nextUri"].as_str() else { break };
                page = self.client.get(next).send().await?.error_for_status()?.json().await?;
            }
            let elapsed_ms = page["stats"]["elapsedTimeMillis"].as_f64().context("Trino tells no time")?;
            Ok(Answer { rows, elapsed_ms })
        })
    }
}
