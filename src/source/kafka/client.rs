//! From configuration to librdkafka's properties.

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

/// How to reach Kafka: what every client of this process shares.
#[derive(Clone)]
pub struct ClientSettings {
    base: ClientConfig,
    /// Memory that one consumer may take for what it fetches ahead.
    pub fetch_ahead_bytes: usize,
}

impl std::fmt::Debug for ClientSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Properties hold passwords: only the address is shown.
        f.debug_struct("ClientSettings").field("bootstrap", &self.bootstrap()).finish_non_exhaustive()
    }
}

/// Settings from `[kafka]`; `properties` are librdkafka's own, passed through.
pub fn settings<'a>(
    bootstrap_servers: &str,
    properties: impl IntoIterator<Item = (&'a str, &'a str)>,
    fetch_ahead_bytes: usize,
) -> ClientSettings {
    let mut base = ClientConfig::new();
    base.set_log_level(RDKafkaLogLevel::Info);
    base.set("client.id", "firn");
    for (key, value) in properties {
        base.set(key, value);
    }
    base.set("bootstrap.servers", bootstrap_servers);
    ClientSettings { base, fetch_ahead_bytes }
}

impl ClientSettings {
    pub fn bootstrap(&self) -> &str {
        self.base.get("bootstrap.servers").unwrap_or_default()
    }

    /// Whether what is produced becomes smaller on its way.
    pub(super) fn compresses(&self) -> bool {
        let set = |key| self.base.get(key).is_some_and(|codec| codec != "none");
        set("compression.codec") || set("compression.type")
    }

    /// A client that belongs to no group, for questions.
    pub(super) fn plain(&self) -> ClientConfig {
        self.base.clone()
    }

    pub(super) fn consumer(&self, group: &str, worker: usize) -> ClientConfig {
        let mut c = self.base.clone();
        c.set("group.id", group);
        // Static membership: every worker is a member of its own.
        if let Some(instance) = self.base.get("group.instance.id") {
            c.set("group.instance.id", format!("{instance}-{worker}"));
        }
        // The position is the sink's; the group's offsets are written only for lag tools.
        c.set("enable.auto.commit", "false");
        c.set("enable.auto.offset.store", "false");
        // A position that the log doesn't hold is an error with a name, never a silent jump.
        c.set("auto.offset.reset", "error");
        c.set("isolation.level", "read_committed");
        // A move costs the new owner a scan of the keys: partitions move only when they must.
        c.set("partition.assignment.strategy", "cooperative-sticky");
        c.set("allow.auto.create.topics", "false");
        self.bound_queue(&mut c);
        // A full queue is looked at again soon: librdkafka's one second starves a fast reader.
        set_unless(&mut c, "fetch.queue.backoff.ms", "2");
        // New topics of a pattern and new partitions show within this time.
        set_unless(&mut c, "topic.metadata.refresh.interval.ms", "10000");
        // A rebalance takes two heartbeats of the slowest member.
        set_unless(&mut c, "heartbeat.interval.ms", "1000");
        // Idle fetches wait at the broker instead of asking again.
        set_unless(&mut c, "fetch.wait.max.ms", "500");
        c
    }

    /// Half of the memory is for the messages in the queue, a quarter for what the client keeps of each beside its bytes, the rest for
    /// answers on their way: one a broker.
    fn bound_queue(&self, c: &mut ClientConfig) {
        let ahead = self.fetch_ahead_bytes;
        c.set("queued.max.messages.kbytes", (ahead / 2 / 1024).max(512).to_string());
        c.set("queued.min.messages", (ahead / 4 / MESSAGE_OVERHEAD_BYTES).clamp(1_000, 1_000_000).to_string());
        // An answer brings a larger message all the same, alone. The limit of what is produced, which a consumer doesn't, must not be
        // above it.
        let answer = (ahead / 8).max(256 << 10).to_string();
        c.set("message.max.bytes", "1000");
        set_unless(c, "fetch.max.bytes", &answer);
        if c.get("max.partition.fetch.bytes").is_none() {
            set_unless(c, "fetch.message.max.bytes", &(ahead / 8).clamp(256 << 10, 1 << 20).to_string());
        }
    }
}

/// What librdkafka keeps of a message in its queue beside key, value and headers.
const MESSAGE_OVERHEAD_BYTES: usize = 600;

pub(super) fn set_unless(c: &mut ClientConfig, key: &str, value: &str) {
    if c.get(key).is_none() {
        c.set(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exactly_once_rests_on_cannot_be_overridden() {
        let s = settings("b:1", [("enable.auto.commit", "true"), ("isolation.level", "read_uncommitted")], 1 << 20);
        let c = s.consumer("g", 0);
        assert_eq!(c.get("enable.auto.commit"), Some("false"));
        assert_eq!(c.get("isolation.level"), Some("read_committed"));
        assert_eq!(c.get("auto.offset.reset"), Some("error"));
    }

    #[test]
    fn what_is_fetched_ahead_fits_its_share() {
        let number = |c: &ClientConfig, key: &str| c.get(key).unwrap().parse::<usize>().unwrap();
        for mib in [4, 24, 256] {
            let c = settings("b:1", [("message.max.bytes", "20000000")], mib << 20).consumer("g", 0);
            let queue = number(&c, "queued.max.messages.kbytes") * 1024;
            let overhead = number(&c, "queued.min.messages") * MESSAGE_OVERHEAD_BYTES;
            assert!(queue + overhead + number(&c, "fetch.max.bytes") <= mib << 20, "{mib} MiB");
            assert!(number(&c, "fetch.max.bytes") >= number(&c, "message.max.bytes"), "librdkafka refuses it");
            c.create::<rdkafka::consumer::BaseConsumer>().unwrap();
        }
    }

    #[test]
    fn tuning_properties_pass_through_and_secrets_are_not_printed() {
        let s = settings("b:1", [("fetch.wait.max.ms", "10"), ("sasl.password", "hidden")], 1 << 20);
        assert_eq!(s.consumer("g", 0).get("fetch.wait.max.ms"), Some("10"));
        assert!(!format!("{s:?}").contains("hidden"));
    }
}
