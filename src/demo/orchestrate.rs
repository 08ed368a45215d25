//! The demo's story: fill, write, kill, write on, compare.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use firn_catalog::{Catalog, ErrorKind};
use iceberg::{NamespaceIdent, TableIdent};
use tokio::{sync::oneshot, task::JoinHandle};

use super::{
    DemoError,
    broker::Broker,
    proof::{self, TableProof, Truth},
    show::{Show, Voice},
    workspace::{NAMESPACE, Workspace},
    writer::Writer,
};
use crate::{
    config::Config,
    generate::{
        Generator, GeneratorOptions, Model, SchemaName, Table,
        produce::{GeneratorProducer, Pace, ProduceError, Sent, TopicCreation},
    },
    position::Checkpoint,
    sink::lake::CHECKPOINT,
};

/// Of every topic: enough that a group has something to share out.
const PARTITIONS: i32 = 3;
/// Between two looks at the tables.
const LOOK: Duration = Duration::from_millis(200);
/// Without any commit for so long the demo gives up. Longer than a killed process holds its partitions.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// Changes to generate, tombstones not counted.
    pub events: u64,
    pub seed: u64,
    pub dir: PathBuf,
    pub voice: Voice,
}

/// What the demo has to show for itself.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub tables: Vec<TableProof>,
    pub sent: Sent,
    pub kills: u32,
    /// From the first record to the last commit.
    pub seconds: f64,
    pub workspace: Workspace,
}

impl Outcome {
    pub fn equal(&self) -> bool {
        !self.tables.is_empty() && self.tables.iter().all(TableProof::equal)
    }

    pub fn commits(&self) -> u64 {
        self.tables.iter().map(|t| t.commits).sum()
    }

    pub fn changes_per_second(&self) -> f64 {
        self.sent.changes as f64 / self.seconds.max(0.001)
    }
}

/// Runs the demo; `Ctrl-C` ends it with everything it started. The broker is the caller's then: to be dropped, or looked at.
///
/// # Errors
/// When it does not come to its proof. A proof that fails is an [`Outcome`].
pub async fn run(options: DemoOptions) -> Result<(Outcome, Broker), DemoError> {
    let workspace = Workspace::create(&options.dir)?;
    let broker = Broker::start().await.map_err(DemoError::Broker)?;
    let (filling, filled) = oneshot::channel();
    let run = Run { options, workspace, broker: &broker, stop: Arc::default(), filling: Mutex::new(Some(filling)) };
    let outcome = tokio::select! {
        outcome = run.story() => outcome,
        _ = tokio::signal::ctrl_c() => Err(DemoError::Interrupted),
    };
    // The story is dropped, and with it the writer; the broker stays until the generator has let go of it.
    run.stop.store(true, Ordering::Relaxed);
    drop(run);
    let _ = filled.await;
    Ok((outcome?, broker))
}

/// One demo: what all its parts share.
struct Run<'a> {
    options: DemoOptions,
    workspace: Workspace,
    broker: &'a Broker,
    stop: Arc<AtomicBool>,
    /// Dropped when the generator's thread ends.
    filling: Mutex<Option<oneshot::Sender<()>>>,
}

impl Run<'_> {
    async fn story(&self) -> Result<Outcome, DemoError> {
        let Run { options, workspace, broker, .. } = self;
        workspace.write_config(&broker.bootstrap_servers())?;
        let config = Config::load(&workspace.config_file())?;
        let mut show = Show::new(options.voice, options.events);
        show.say(&format!("broker at {}, everything else in {}", broker.bootstrap_servers(), options.dir.display()));

        let lake = Lake { catalog: crate::catalogs::open(&config.catalog).await?, broker };
        let begun = Instant::now();
        let filling = self.fill().await?;
        let mut writer = start(workspace)?;
        let mut watch = Watch { lake: &lake, filling: &filling, workspace, moved: Instant::now(), committed: 0 };

        // In the middle: half is generated and something is committed.
        while filling.records() < options.events / 2 || watch.committed == 0 {
            watch.look(&mut writer, &mut show).await?;
        }
        writer.kill().await.map_err(DemoError::Start)?;
        let (records, committed) = (filling.records(), watch.committed);
        show.say(&format!("kill -9 of the writer: {records} records generated, {committed} committed"));
        let mut writer = start(workspace)?;
        show.say("the writer is started again; it finds its position in the tables");

        while !filling.done() || watch.committed < lake.total(&filling.topics) {
            watch.look(&mut writer, &mut show).await?;
        }
        let seconds = begun.elapsed().as_secs_f64();
        show.finish();
        let status = writer.terminate().await.map_err(DemoError::Start)?;
        if !status.success() {
            return Err(ended(workspace, &status.to_string()));
        }
        show.say("all is committed and the writer has ended; comparing the tables with the generator's model");

        let (model, sent) = filling.task.await??;
        let tables = lake.prove(&model, &sent).await?;
        Ok(Outcome { tables, sent, kills: 1, seconds, workspace: workspace.clone() })
    }

    async fn fill(&self) -> Result<Filling, DemoError> {
        let events = self.options.events;
        let mut generator = Generator::new(GeneratorOptions {
            changes: Some(events),
            keys: (events / 40).clamp(10, 100_000),
            ..GeneratorOptions::new(self.options.seed, [SchemaName::Inventory, SchemaName::Engagement])
        });
        let producer = GeneratorProducer::new(&self.broker.bootstrap_servers(), &[])?;
        producer.prepare(&mut generator, TopicCreation::Create { partitions: PARTITIONS, replication: 1 }).await?;
        let topics = generator.topics().map(str::to_owned).collect();
        let (sent, pace, stop) = (Arc::new(AtomicU64::new(0)), pace(events), self.stop.clone());
        let (count, filling) = (sent.clone(), self.filling.lock().unwrap_or_else(PoisonError::into_inner).take());
        let task = tokio::task::spawn_blocking(move || {
            let result =
                producer.send(&mut generator, pace, &stop, |sent| count.store(sent.records(), Ordering::Relaxed));
            drop((producer, filling));
            Ok((generator.model().clone(), result?))
        });
        Ok(Filling { task, sent, topics })
    }
}

fn start(workspace: &Workspace) -> Result<Writer, DemoError> {
    Writer::start(&workspace.config_file(), &workspace.log_file()).map_err(DemoError::Start)
}

fn ended(workspace: &Workspace, status: &str) -> DemoError {
    DemoError::WriterEnded {
        status: status.to_owned(),
        log: workspace.log_file().display().to_string(),
        words: workspace.last_words(),
    }
}

/// The generator at work in a thread of its own.
struct Filling {
    task: JoinHandle<Result<(Model, Sent), ProduceError>>,
    sent: Arc<AtomicU64>,
    topics: Vec<String>,
}

impl Filling {
    fn done(&self) -> bool {
        self.task.is_finished()
    }

    fn records(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// How fast it goes: so that the kill falls into the work, and a small demo doesn't take long.
fn pace(events: u64) -> Pace {
    let seconds = (events as f64 / 15_000.0).clamp(3.0, 60.0);
    Pace { rate: Some(events as f64 / seconds), at_most: None }
}

/// Looks at the tables again and again and notices when nothing moves.
struct Watch<'a> {
    lake: &'a Lake<'a>,
    filling: &'a Filling,
    workspace: &'a Workspace,
    moved: Instant,
    committed: u64,
}

impl Watch<'_> {
    async fn look(&mut self, writer: &mut Writer, show: &mut Show) -> Result<(), DemoError> {
        tokio::time::sleep(LOOK).await;
        if let Some(status) = writer.ended().map_err(DemoError::Start)? {
            return Err(ended(self.workspace, &status.to_string()));
        }
        let committed = self.lake.committed(&self.filling.topics).await?;
        if committed > self.committed {
            (self.committed, self.moved) = (committed, Instant::now());
        }
        let total = self.lake.total(&self.filling.topics);
        show.progress(self.filling.records(), committed, total.max(self.filling.records()));
        if self.moved.elapsed() > PATIENCE {
            return Err(DemoError::Stuck {
                seconds: PATIENCE.as_secs(),
                committed,
                total,
                log: self.workspace.log_file().display().to_string(),
                words: self.workspace.last_words(),
            });
        }
        Ok(())
    }
}

/// The tables as anyone sees them: through the catalog.
struct Lake<'a> {
    catalog: Arc<dyn Catalog>,
    broker: &'a Broker,
}

fn table_ident(topic: &str) -> TableIdent {
    let name = topic.rsplit('.').next().unwrap_or(topic);
    TableIdent::new(NamespaceIdent::new(NAMESPACE.to_owned()), name.to_owned())
}

impl Lake<'_> {
    /// Records in the topics.
    fn total(&self, topics: &[String]) -> u64 {
        topics.iter().flat_map(|t| self.broker.high_watermarks(t)).sum::<i64>().max(0) as u64
    }

    /// Records that the tables' own checkpoints cover.
    async fn committed(&self, topics: &[String]) -> Result<u64, DemoError> {
        let mut committed = 0;
        for topic in topics {
            let table = match self.catalog.load(&table_ident(topic)).await {
                Ok(table) => table,
                // Not made yet; or the one file of the SQLite catalog is being written.
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Unavailable) => continue,
                Err(e) => return Err(e.into()),
            };
            let stored = table.metadata().properties().get(CHECKPOINT);
            let Some(Ok(checkpoint)) = stored.map(|json| Checkpoint::from_json(json)) else { continue };
            let partitions = checkpoint.topics.get(topic).map(|t| &t.partitions);
            committed += partitions.into_iter().flatten().map(|(_, p)| p.next.max(0) as u64).sum::<u64>();
        }
        Ok(committed)
    }

    async fn prove(&self, model: &Model, sent: &Sent) -> Result<Vec<TableProof>, DemoError> {
        let mut proofs = Vec::new();
        for table in model.tables() {
            let name = table_ident(&table.topic());
            let loaded = self.catalog.load(&name).await?;
            let batches =
                proof::read(&loaded).await.map_err(|source| DemoError::Read { table: name.to_string(), source })?;
            let truth = match table {
                Table::EngagementEvents => {
                    Truth::EveryChange { rows: model.rows(table), changes: changes_of(&sent.changes_by_topic, table) }
                }
                _ => Truth::Rows(model.rows(table)),
            };
            let mut proof = proof::compare(table, &name.to_string(), &truth, &batches)?;
            proof.commits = loaded.metadata().snapshots().count() as u64;
            proofs.push(proof);
        }
        Ok(proofs)
    }
}

fn changes_of(by_topic: &BTreeMap<String, u64>, table: Table) -> u64 {
    by_topic.get(&table.topic()).copied().unwrap_or(0)
}
