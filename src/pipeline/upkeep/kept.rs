//! The tables that policies are for, and which process keeps each.

use std::sync::Arc;

use iceberg::TableIdent;

use crate::config::{Config, LakeSinkConfig, PipelineConfig, PolicyConfig};
use crate::pipeline::tables::{TableHandle, Tables};
use crate::position::TopicPartition;
use crate::serve::Status;
use crate::serve::status::Upkeep;

/// A table that this process writes, or may come to write.
#[derive(Debug)]
pub(super) struct Kept {
    /// `namespace.table`.
    pub name: String,
    pub ident: TableIdent,
    pub policy: PolicyConfig,
    writer: Writer,
}

/// Who writes it. Of the processes of its group, the one that has the first partition keeps the table.
#[derive(Debug)]
enum Writer {
    /// `[lake]`, from a topic.
    Topic(Arc<TableHandle>),
    /// A pipeline: `pipeline.sink`, and the first partition that it reads.
    Sink { sink: String, first: String, status: Arc<Status> },
}

impl Kept {
    /// The tables of `[lake]` that are open.
    pub(super) fn open(config: &Config, tables: &Tables) -> Vec<Self> {
        let of = |handle: Arc<TableHandle>| Self {
            name: handle.name.clone(),
            ident: handle.config().ident(),
            policy: config.policy_for(handle.config()),
            writer: Writer::Topic(handle),
        };
        tables.open_tables().into_iter().map(of).collect()
    }

    /// The tables of pipelines.
    pub(super) fn of_pipelines(config: &Config, status: &Arc<Status>) -> Vec<Self> {
        let sinks = config.pipelines.iter().flat_map(|pipeline| pipeline.lake.iter().map(move |sink| (pipeline, sink)));
        let of = |(pipeline, sink): (&PipelineConfig, &LakeSinkConfig)| {
            let first = TopicPartition::new(pipeline.sources.first()?.topic.clone(), 0).to_string();
            let (table, status) = (sink.as_table(), Arc::clone(status));
            Some(Self {
                name: sink.table.clone(),
                ident: table.ident(),
                policy: config.policy_for(&table),
                writer: Writer::Sink { sink: format!("{}.{}", pipeline.name, sink.name), first, status },
            })
        };
        sinks.filter_map(of).collect()
    }

    /// Whether it is this process that keeps it now.
    pub(super) fn is_ours(&self) -> bool {
        match &self.writer {
            Writer::Topic(handle) => handle.keeps(),
            Writer::Sink { sink, first, status } => status.reads(sink, first),
        }
    }

    /// Changes what is told of it.
    pub(super) fn tell(&self, change: impl FnOnce(&mut Vec<Upkeep>)) {
        match &self.writer {
            Writer::Topic(handle) => handle.status().update(&handle.topic, |t| change(&mut t.maintenance)),
            Writer::Sink { sink, status, .. } => status.update_sink(sink, |s| {
                s.table = Some(self.name.clone());
                change(&mut s.maintenance);
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maintain::policy::Kind;
    use crate::serve::status::{PartitionStatus, TableState};

    #[test]
    fn a_pipelines_table_is_kept_where_its_sink_has_the_first_partition() {
        let config: Config = toml::from_str(
            "[kafka]\nbootstrap_servers = 'k:9092'\n[maintain.policy]\nenabled = true\n\
             [[pipelines]]\nname = 'spend'\nsql = 'SELECT 1'\nsources = [{ topic = 'a' }, { topic = 'b' }]\n\
             [[pipelines.lake]]\ntable = 'gold.spend'\nmaintain = { compact_every = '2m' }\n",
        )
        .unwrap();
        let status = Arc::new(Status::default());
        let tables = Kept::of_pipelines(&config, &status);
        let [table] = tables.as_slice() else { panic!("{tables:?}") };
        assert_eq!((table.name.as_str(), table.ident.to_string().as_str()), ("gold.spend", "gold.spend"));
        assert_eq!((table.policy.enabled, table.policy.compact_every.to_string().as_str()), (true, "2m"));
        let has = |at: &str| {
            let partitions = [(at.to_owned(), PartitionStatus::default())].into();
            status.update_sink("spend.lake", |s| s.partitions = partitions);
            table.is_ours()
        };
        assert!(!table.is_ours() && !has("b/0") && !has("a/1") && has("a/0"));
        table.tell(|told| told.push(Upkeep::new(Kind::Compact)));
        let snapshot = status.snapshot();
        let told: Vec<_> = snapshot.upkeep().map(|(table, upkeep)| (table.as_str(), upkeep.word())).collect();
        assert_eq!(told, [("gold.spend", "waiting")]);
        status.update_sink("spend.lake", |s| s.state = TableState::Stopped { reason: "a type".to_owned() });
        assert!(!table.is_ours());
    }
}
