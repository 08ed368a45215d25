//! The topic that the generator's `bench` schema fills: Debezium envelopes of seven columns.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::Bench;

pub const TOPIC: &str = "bench.public.events";
pub const PARTITIONS: i32 = 4;

/// What is to be in it.
pub struct Fill {
    pub changes: u64,
    /// The generator's mix of changes after `keys` rows of snapshot.
    pub mix: &'static str,
    pub keys: u64,
    pub schema_block: bool,
}

/// Makes the topic anew and fills it; answers how many records it holds.
pub fn fill(bench: &Bench, fill: &Fill) -> anyhow::Result<u64> {
    remove(&bench.servers.kafka)?;
    eprintln!("filling {TOPIC} with {} changes ({}, schema block: {})", fill.changes, fill.mix, fill.schema_block);
    let output = generator(bench, fill).stdout(Stdio::piped()).spawn()?.wait_with_output()?;
    anyhow::ensure!(output.status.success(), "firn generate failed");
    let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &bench.servers.kafka).create()?;
    let mut records = 0;
    for partition in 0..PARTITIONS {
        let (low, high) = client.fetch_watermarks(TOPIC, partition, Duration::from_secs(10))?;
        records += (high - low) as u64;
    }
    Ok(records)
}

/// Goes on filling it at `rate` changes a second, until it is stopped.
pub fn flow(bench: &Bench, fill: &Fill, rate: u64) -> anyhow::Result<Child> {
    remove(&bench.servers.kafka)?;
    Ok(generator(bench, fill).args(["--rate", &rate.to_string()]).stdout(Stdio::null()).spawn()?)
}

fn generator(bench: &Bench, fill: &Fill) -> Command {
    let mut command = Command::new(&bench.firn);
    command
        .args(["generate", "--output", "json", "--schema", "bench", "--create-topics"])
        .args(["--bootstrap-servers", &bench.servers.kafka, "--mix", fill.mix])
        .args(["--schemas-enable", if fill.schema_block { "true" } else { "false" }])
        .args(["--events", &fill.changes.to_string(), "--keys", &fill.keys.to_string()])
        .args(["--partitions", &PARTITIONS.to_string()]);
    command
}

/// Deletes it: the broker has its disk back.
pub fn remove(bootstrap: &str) -> anyhow::Result<()> {
    remove_all(bootstrap, &[TOPIC])
}

pub fn remove_all(bootstrap: &str, topics: &[&str]) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    // A topic that was not there is as good as one that is gone.
    let _ = futures::executor::block_on(admin.delete_topics(topics, &AdminOptions::new()))?;
    for _ in 0..100 {
        let metadata = admin.inner().fetch_metadata(None, Duration::from_secs(10))?;
        if metadata.topics().iter().all(|t| !topics.contains(&t.name())) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    anyhow::bail!("{} was not deleted within 10 s", topics.join(", "))
}
