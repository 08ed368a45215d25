//! One sink set back, or over what Kafka has lost, beside processes that run: they notice at their next delivery.

use tokio::runtime::Handle;

use crate::config::Config;
use crate::pipeline::rewind::Target;
use crate::position::TopicPartition;
use crate::sink::lake::Shared;
use crate::source::kafka::{self, ClientSettings, offsets_since, partition_count, watermarks};

use super::sinks;

/// What a sink is to be set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkRewind {
    /// `pipeline.sink`.
    pub sink: String,
    /// The next offsets to deliver.
    pub to: Vec<(TopicPartition, i64)>,
}

/// Works out the positions of `sink`, `pipeline.sink`, in its topics or in `topic` alone.
///
/// # Errors
/// The sentence for a person: there is no such sink or topic, the target is none of a sink's, Kafka does not answer.
pub async fn prepare_sink_rewind(
    config: &Config,
    sink: &str,
    topic: Option<&str>,
    target: &Target,
) -> Result<SinkRewind, String> {
    let of_sink = |p: &&crate::config::PipelineConfig| p.sink_names().any(|name| sink == format!("{}.{name}", p.name));
    let pipeline = config.pipelines.iter().find(of_sink).ok_or_else(|| {
        let all = config.pipelines.iter().flat_map(|p| p.sink_names().map(move |name| format!("{}.{name}", p.name)));
        format!("there is no sink {sink}; there are: {}", all.collect::<Vec<_>>().join(", "))
    })?;
    let topics: Vec<String> = pipeline.sources.iter().map(|t| t.topic.clone()).collect();
    let topics = match topic {
        Some(topic) if topics.iter().any(|t| t == topic) => vec![topic.to_owned()],
        Some(topic) => return Err(format!("the pipeline does not read {topic}; it reads {}", topics.join(", "))),
        None => topics,
    };
    if topics.len() > 1 && matches!(target, Target::Offsets(_)) {
        return Err(format!("offsets are of one topic: name it with --topic; there are {}", topics.join(", ")));
    }
    let client = kafka::settings(&config.kafka.bootstrap_servers, config.kafka.properties.iter(), 1 << 20);
    let (target, name) = (target.clone(), sink.to_owned());
    let asked = tokio::task::spawn_blocking(move || {
        let mut to = Vec::new();
        for topic in &topics {
            to.extend(positions(&client, topic, &target)?);
        }
        Ok(SinkRewind { sink: name, to })
    });
    asked.await.map_err(|e| e.to_string())?
}

fn positions(client: &ClientSettings, topic: &str, target: &Target) -> Result<Vec<(TopicPartition, i64)>, String> {
    let count = partition_count(client, topic).map_err(|e| format!("topic {topic}: {e}"))?;
    let partitions: Vec<_> = (0..count).map(|p| TopicPartition::new(topic, p)).collect();
    let logs = watermarks(client, &partitions).map_err(|e| e.to_string())?;
    match target {
        Target::Beginning => Ok(logs.into_iter().map(|(at, low, _)| (at, low)).collect()),
        Target::Timestamp(ms) => offsets_since(client, &partitions, *ms).map_err(|e| e.to_string()),
        Target::Offsets(wanted) => {
            let position = |(partition, offset): (&i32, &i64)| {
                let at = TopicPartition::new(topic, *partition);
                match logs.iter().find(|(known, _, _)| *known == at) {
                    Some((_, low, high)) if (low..=high).contains(&offset) => Ok((at, *offset)),
                    Some((_, low, high)) => {
                        Err(format!("{at}: offset {offset} is outside the log, which holds {low} to {high}"))
                    }
                    None => Err(format!("topic {topic} has no partition {partition}")),
                }
            };
            wanted.iter().map(position).collect()
        }
        _ => Err("a sink is set to offset=PARTITION:OFFSET[,...], timestamp=TIME or beginning".to_owned()),
    }
}

/// Sets the sink's positions, in a new generation.
///
/// # Errors
/// When the sink does not take them.
pub async fn rewind_sink(config: &Config, rewind: &SinkRewind) -> Result<(), String> {
    let catalog = crate::catalogs::open(&config.catalog).await.map_err(|e| e.to_string())?;
    let lake = sinks::Lake { catalog, shared: Shared::default(), io: Handle::current() };
    for pipeline in &config.pipelines {
        for mut named in sinks::of(config, pipeline, &lake)? {
            if format!("{}.{}", pipeline.name, named.name) == rewind.sink {
                return named.sink.rewind(&rewind.to).await.map_err(|e| e.to_string());
            }
        }
    }
    Err(format!("there is no sink {}", rewind.sink))
}
