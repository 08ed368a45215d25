//! What the rows of a backfill do to each sink that reads their topic.

use std::fmt;

use serde::Serialize;

use super::Wish;
use crate::change::Mode;
use crate::config::sinks::clickhouse::{ClickHouseEngine, SnapshotRows};
use crate::config::sinks::redis::KindConfig;
use crate::config::{ClickHouseConfig, Config, PipelineConfig, RedisConfig};

/// What becomes of a row that a sink has already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It is overwritten by its key.
    Overwrites,
    /// It is left out: only rows come that the sink lacks.
    FillsIn,
    /// No row of a snapshot comes at all.
    LeavesOut,
    /// Every change is a row, the new reading one more.
    Keeps,
    /// It is there, or counted, once more.
    Doubles,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Effect::Overwrites => "overwritten by key",
            Effect::FillsIn => "only what is missing is inserted",
            Effect::LeavesOut => "gets no rows of snapshots",
            Effect::Keeps => "one more change of each row",
            Effect::Doubles => "doubled where it has them already",
        })
    }
}

/// A sink that reads the topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Affected {
    /// `lake`, or `pipeline.sink`.
    pub sink: String,
    pub effect: Effect,
    /// The consumer group under which it says how far it is.
    pub group: String,
}

/// All sinks that read the topic.
pub fn affected(config: &Config, topic: &str) -> Vec<Affected> {
    let group = |sink: &str| format!("{}.{sink}", config.kafka.group);
    let mut all = Vec::new();
    if let Some(table) = config.table_for(topic) {
        all.push(Affected { sink: "lake".to_owned(), effect: of_table(table.mode), group: group("lake") });
    }
    for pipeline in config.pipelines.iter().filter(|p| p.sources.iter().any(|source| source.topic == topic)) {
        for name in pipeline.sink_names() {
            let sink = format!("{}.{name}", pipeline.name);
            all.push(Affected { effect: of_sink(pipeline, name), group: group(&sink), sink });
        }
    }
    all
}

/// Why rows are not sent on without a person's word.
pub(super) fn objection(affected: &[Affected], wish: &Wish, topic: &str) -> Option<String> {
    let of = |effect: Effect| -> Vec<&str> {
        affected.iter().filter(|a| a.effect == effect).map(|a| a.sink.as_str()).collect()
    };
    let accepted = &wish.accept_doubles;
    if let Some(unknown) = accepted.iter().find(|name| !affected.iter().any(|a| a.sink == **name)) {
        return Some(format!(
            "--accept-doubles: {} is not read by `{unknown}`; it is by {}",
            topic,
            affected.iter().map(|a| a.sink.as_str()).collect::<Vec<_>>().join(", ")
        ));
    }
    let doubled: Vec<&str> = of(Effect::Doubles).into_iter().filter(|s| !accepted.iter().any(|a| a == s)).collect();
    if affected.is_empty() {
        return Some(format!("no table and no pipeline reads {}", topic));
    }
    if !doubled.is_empty() {
        return Some(format!(
            "rows that are there already would be doubled in {}: set snapshot_rows = \"missing\" with a snapshot_key (ClickHouse), \
             or say --accept-doubles {} where that is meant, where the range is not there, or where the SELECT leaves snapshots out \
             (WHERE op <> 'r')",
            doubled.join(", "),
            doubled.join(",")
        ));
    }
    if wish.replace && of(Effect::FillsIn).is_empty() {
        return Some(
            "--replace is for ClickHouse tables with snapshot_rows = \"missing\", and no pipeline has one for this topic: others \
             overwrite by key, or would double rows that come meanwhile"
                .to_owned(),
        );
    }
    None
}

fn of_sink(pipeline: &PipelineConfig, name: &str) -> Effect {
    // Its statistics count a row that is read anew once more, whatever the SELECT takes.
    if pipeline.running.iter().any(|running| running.ops.iter().any(|op| op == "r")) {
        return Effect::Doubles;
    }
    let clickhouse = pipeline.clickhouse.iter().find(|sink| sink.name == name).map(of_clickhouse);
    let redis = || pipeline.redis.iter().find(|sink| sink.name == name).map(of_redis);
    let lake = || pipeline.lake.iter().find(|sink| sink.name == name).map(|sink| of_table(sink.mode));
    clickhouse.or_else(redis).or_else(lake).unwrap_or(Effect::Doubles)
}

fn of_table(mode: Mode) -> Effect {
    match mode {
        Mode::Upsert => Effect::Overwrites,
        Mode::Append => Effect::Keeps,
    }
}

fn of_clickhouse(sink: &ClickHouseConfig) -> Effect {
    match (sink.engine, sink.snapshot_rows) {
        (ClickHouseEngine::Replacing, _) => Effect::Overwrites,
        (ClickHouseEngine::MergeTree, SnapshotRows::Missing) => Effect::FillsIn,
        (ClickHouseEngine::MergeTree, SnapshotRows::None) => Effect::LeavesOut,
        (ClickHouseEngine::MergeTree, SnapshotRows::All) => Effect::Doubles,
    }
}

fn of_redis(sink: &RedisConfig) -> Effect {
    let counts = sink
        .writes
        .iter()
        .any(|write| matches!(write.kind, KindConfig::Stream | KindConfig::Top) || !write.increments.is_empty());
    if counts { Effect::Doubles } else { Effect::Overwrites }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn each_sink_says_what_becomes_of_rows_that_it_has() {
        let clickhouse = |name: &str, more: &str| {
            format!(
                "[[pipelines.clickhouse]]\nname = '{name}'\nurl = 'http://c'\ntable = 't'\norder_by = ['id']\n{more}\n"
            )
        };
        let redis = |name: &str, write: &str| {
            format!(
                "[[pipelines.redis]]\nname = '{name}'\nurl = 'redis://r'\n[[pipelines.redis.writes]]\nkey = 'k:{{id}}'\n{write}\n"
            )
        };
        let text = [
            "[kafka]\nbootstrap_servers = 'k:1'\ngroup = 'g'\n[catalog]\ntype = 'sql'\nuri = 'sqlite:x'\nwarehouse = 'w'\n\
             [lake]\ntopics = ['p.s.*']\nmode = 'upsert'\n\
             [[pipelines]]\nname = 'p'\nsql = 'SELECT 1'\n[[pipelines.sources]]\ntopic = 'p.s.t'\n"
                .to_owned(),
            clickhouse("facts", ""),
            clickhouse("mirror", "engine = 'replacing'"),
            clickhouse("gaps", "snapshot_rows = 'missing'\nsnapshot_key = ['id']"),
            clickhouse("live", "snapshot_rows = 'none'"),
            "[[pipelines.lake]]\ntable = 'gold.t'\nmode = 'upsert'\nkey = ['id']\n".to_owned(),
            redis("hash", "kind = 'hash'"),
            redis("counts", "kind = 'hash'\nincrements = { n = 1 }"),
            redis("stream", "kind = 'stream'"),
            "[[pipelines]]\nname = 's'\nsql = 'SELECT 1'\n[[pipelines.sources]]\ntopic = 'p.s.t'\n\
             [[pipelines.running]]\nname = 'n'\nkey = 'after.a'\nvalue = 'after.b'\n[[pipelines.log]]\n"
                .to_owned(),
            "[[pipelines]]\nname = 'q'\nsql = 'SELECT 1'\n[[pipelines.sources]]\ntopic = 'p.s.other'\n".to_owned(),
            clickhouse("facts", ""),
        ]
        .concat();
        let lookup = crate::config::env::Lookup::default();
        let config = Config::parse(&text, Path::new("firn.toml"), &lookup).unwrap();
        let all = affected(&config, "p.s.t");
        let said: Vec<_> = all.iter().map(|a| (a.sink.as_str(), a.effect)).collect();
        use Effect::{Doubles, FillsIn, LeavesOut, Overwrites};
        assert_eq!(
            said,
            [
                ("lake", Overwrites),
                ("p.facts", Doubles),
                ("p.mirror", Overwrites),
                ("p.gaps", FillsIn),
                ("p.live", LeavesOut),
                ("p.hash", Overwrites),
                ("p.counts", Doubles),
                ("p.stream", Doubles),
                ("p.lake", Overwrites),
                ("s.log", Doubles),
            ]
        );
        assert_eq!(all.last().unwrap().group, "g.s.log");
    }
}
