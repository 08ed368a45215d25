//! `firn check`: connects to everything that the configuration names, says what is wrong and what to do.
//!
//! Here are the steps and the clients; what to think of their answers is in `judge`.

mod connect;
mod index;
mod judge;
mod outbox;
mod report;
mod sinks;
mod source;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use firn_catalog::{Catalog, ErrorKind};

use super::{ConfigFile, Failure, Output, print, with_causes};
use crate::config::{CatalogKind, Config, TableConfig};
use crate::position::Checkpoint;
use crate::registry::{Registry, RegistryError};
use crate::sink::lake::CHECKPOINT;
use crate::source::kafka::inspect::{Cluster, InspectError, Inspector};
use crate::source::kafka::settings;
use judge::Logs;
use report::{Finding, Report, Verdict};

/// For one step against one server; their own time-outs are shorter, this one is for what hangs.
const STEP: Duration = Duration::from_secs(60);
/// Nothing is fetched here.
const FETCH_AHEAD_BYTES: usize = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigFile,
}

pub(super) async fn run(args: &CheckArgs, output: Output) -> Result<(), Failure> {
    output.not_csv()?;
    let config = args.config.load()?;
    let mut report = Report::default();
    report.findings.push(Finding::ok(format!("config {}", args.config.config.display()), "valid"));
    report.findings.extend(judge::settings(&config));
    let (kafka, lake) = tokio::join!(kafka(&config), catalog(&config));
    let (cluster, logs, findings) = kafka;
    report.findings.extend(findings);
    report.findings.extend(lake.findings);
    if let Some(catalog) = lake.catalog {
        report.findings.extend(tables(&config, catalog.as_ref(), &cluster, &logs).await);
    }
    report.findings.extend(registry(&config).await);
    report.findings.extend(source::check(&config, &cluster).await);
    report.findings.extend(connect::check(&config).await);
    report.findings.extend(index::check(&config));
    report.findings.extend(sinks::check(&config).await);
    report.findings.extend(outbox::check(&config).await);
    report.findings.extend(listen(&config).await);
    match output {
        Output::Json => print::json(&report)?,
        _ => print::text(&report.to_text())?,
    }
    match report.count(Verdict::Fail) {
        0 => Ok(()),
        1 => Err(Failure::failed("1 check failed")),
        n => Err(Failure::failed(format!("{n} checks failed"))),
    }
}

/// Brokers, topics, and how far the selected topics' partitions reach.
async fn kafka(config: &Config) -> (Cluster, BTreeMap<String, Logs>, Vec<Finding>) {
    let subject = format!("kafka {}", config.kafka.bootstrap_servers);
    let wanted = config.clone();
    let client = settings(&config.kafka.bootstrap_servers, config.kafka.properties.iter(), FETCH_AHEAD_BYTES);
    let asked = tokio::task::spawn_blocking(move || {
        let inspector = Inspector::new(&client)?;
        let cluster = inspector.cluster()?;
        let mut logs = BTreeMap::<String, Logs>::new();
        for (name, topic) in cluster.topics.iter().filter(|(name, _)| wanted.selects(name)) {
            for partition in topic.partitions.iter().filter(|p| !topic.leaderless.contains(p)) {
                let reach = inspector.watermarks(name, *partition)?;
                logs.entry(name.clone()).or_default().insert(*partition, reach);
            }
        }
        Ok::<_, InspectError>((cluster, logs))
    });
    match asked.await {
        Ok(Ok((cluster, logs))) => {
            let mut findings = vec![Finding::ok(subject, format!("answers; brokers: {}", cluster.brokers))];
            findings.extend(judge::topics(config, &cluster));
            if let Some(topic) = &config.dead_letters.topic
                && config.dead_letter_table().is_none()
                && !cluster.topics.contains_key(topic)
            {
                findings.push(Finding::warn(
                    format!("topic {topic}"),
                    "for dead letters does not exist",
                    "make it, unless the brokers make topics by themselves",
                ));
            }
            (cluster, logs, findings)
        }
        Ok(Err(e)) => {
            let todo = match &e {
                InspectError::Settings(_) => "correct [kafka.properties]: names and values are librdkafka's",
                InspectError::Denied { .. } => "correct security.protocol, sasl.* and ssl.* under [kafka.properties]",
                InspectError::Unreachable { .. } => {
                    "check kafka.bootstrap_servers, that the broker runs, and that the addresses it advertises resolve from here"
                }
            };
            (Cluster::default(), BTreeMap::new(), vec![Finding::fail(subject, e.to_string(), todo)])
        }
        Err(e) => {
            let todo = "run again with -vv and report it";
            (Cluster::default(), BTreeMap::new(), vec![Finding::fail(subject, format!("the check broke: {e}"), todo)])
        }
    }
}

struct LakeChecked {
    catalog: Option<Arc<dyn Catalog>>,
    findings: Vec<Finding>,
}

/// The catalog's answer, and an object written, read and deleted in the warehouse.
async fn catalog(config: &Config) -> LakeChecked {
    let subject = format!("catalog {}", config.catalog.uri);
    let catalog = match crate::catalogs::open(&config.catalog).await {
        Ok(catalog) => catalog,
        Err(e) => return LakeChecked { catalog: None, findings: vec![catalog_failure(subject, &e, config)] },
    };
    let mut findings = Vec::new();
    let answers = match within(catalog.probe()).await {
        Ok(()) => {
            findings.push(Finding::ok(subject, catalog.describe()));
            true
        }
        Err(e) => {
            findings.push(catalog_failure(subject, &e, config));
            false
        }
    };
    if let Some(warehouse) = &config.catalog.warehouse
        && warehouse.contains("://")
    {
        let subject = format!("warehouse {warehouse}");
        findings.push(match within(write_read_delete(catalog.as_ref(), warehouse)).await {
            Ok(()) => Finding::ok(subject, "an object was written, read and deleted"),
            Err(e) => {
                let todo = match e.kind() {
                    ErrorKind::Denied => "correct s3.access-key-id and s3.secret-access-key, or the bucket's policy",
                    ErrorKind::NotFound => "make the bucket, or correct catalog.warehouse",
                    _ => "check s3.endpoint, s3.region and that the bucket exists; for file:// that the disk has room",
                };
                Finding::fail(subject, with_causes(&e), todo)
            }
        });
    }
    LakeChecked { catalog: answers.then_some(catalog), findings }
}

fn catalog_failure(subject: String, e: &firn_catalog::Error, config: &Config) -> Finding {
    let todo = match (e.kind(), config.catalog.kind) {
        (ErrorKind::Denied, _) => "correct the credentials under [catalog.properties] or in catalog.uri",
        (ErrorKind::Unsupported | ErrorKind::Refused, CatalogKind::Hive) => {
            "correct catalog.commit_mode: this metastore can't do what it asks for"
        }
        (ErrorKind::Unavailable, _) => "check catalog.uri and that the server runs",
        _ => "check catalog.type, catalog.uri and [catalog.properties]",
    };
    Finding::fail(subject, with_causes(e), todo)
}

async fn write_read_delete(catalog: &dyn Catalog, warehouse: &str) -> firn_catalog::Result<()> {
    let path = format!("{}/.firn-check-{}", warehouse.trim_end_matches('/'), uuid::Uuid::new_v4());
    let text = bytes::Bytes::from_static(b"written by firn check, to be deleted at once");
    let io = catalog.file_io();
    io.new_output(&path)?.write(text.clone()).await?;
    let read = io.new_input(&path)?.read().await?;
    io.delete(&path).await?;
    if read != text {
        let message = format!("{path} reads back as something else");
        return Err(firn_catalog::Error::new(ErrorKind::Invalid, message));
    }
    Ok(())
}

/// The selected topics' tables: whether firn can go on with what is there.
async fn tables(
    config: &Config,
    catalog: &dyn Catalog,
    cluster: &Cluster,
    logs: &BTreeMap<String, Logs>,
) -> Vec<Finding> {
    let mut topics: Vec<&str> = cluster.topics.keys().map(String::as_str).chain(config.lake.exact_topics()).collect();
    topics.sort_unstable();
    topics.dedup();
    let mut findings = Vec::new();
    for wanted in topics.into_iter().filter_map(|t| config.table_for(t)) {
        findings.extend(judge::deletes(&wanted));
        findings.extend(one_table(&wanted, catalog, logs.get(&wanted.topic)).await);
    }
    findings
}

async fn one_table(wanted: &TableConfig, catalog: &dyn Catalog, logs: Option<&Logs>) -> Vec<Finding> {
    let subject = format!("table {}", wanted.ident());
    let table = match within(catalog.load(&wanted.ident())).await {
        Ok(table) => table,
        Err(e) => {
            return vec![match e.kind() {
                ErrorKind::NotFound => {
                    let mut findings = vec![Finding::ok(subject, "is made when the first record comes")];
                    findings.extend(judge::readers(wanted, wanted.format_version));
                    return findings;
                }
                ErrorKind::NotIceberg => Finding::fail(
                    subject,
                    "exists and is not an Iceberg table",
                    "set another namespace or table for the topic, or migrate it",
                ),
                ErrorKind::Denied => Finding::fail(subject, with_causes(&e), "grant firn's user read and write on it"),
                _ => {
                    Finding::fail(subject, with_causes(&e), "make the table readable again, or give the topic another")
                }
            }];
        }
    };
    let metadata = table.metadata();
    let mut findings = judge::table(wanted, metadata);
    findings.extend(judge::readers(wanted, metadata.format_version() as u8));
    let Some(stored) = metadata.properties().get(CHECKPOINT) else { return findings };
    match (Checkpoint::from_json(stored), logs) {
        (Ok(stored), Some(logs)) => findings.extend(judge::positions(wanted, &stored, logs)),
        // The topic is not there: said already.
        (Ok(_), None) => {}
        (Err(e), _) => findings.push(Finding::fail(
            subject,
            format!("the stored positions can't be read: {e}"),
            "they may come from a newer firn: use that version",
        )),
    }
    findings
}

async fn registry(config: &Config) -> Option<Finding> {
    let url = config.registry.url.as_ref()?;
    let subject = format!("registry {url}");
    let registry = match config.registry.settings() {
        Ok(settings) => Registry::new(&settings?),
        Err(why) => Err(RegistryError::Settings(why)),
    };
    let probed = match registry {
        Ok(registry) => registry.probe().await,
        Err(e) => Err(e),
    };
    let Err(e) = probed else { return Some(Finding::ok(subject, "answers")) };
    let todo = match &e {
        RegistryError::Settings(_) => "correct [registry]",
        RegistryError::Unavailable(_) => "check registry.url and that the registry runs",
        RegistryError::Denied(_) => "firn needs to read schemas and subjects",
        RegistryError::Refused(_) => "look at the subject's compatibility rule",
        RegistryError::NoRegistry(_) => "correct registry.url",
    };
    Some(Finding::fail(subject, e.to_string(), todo))
}

async fn listen(config: &Config) -> Option<Finding> {
    let address = config.serve.address()?;
    let subject = format!("serve {address}");
    Some(match crate::serve::Server::bind(address).await {
        Ok(_) => Finding::ok(subject, "is free"),
        Err(e) => Finding::warn(
            subject,
            with_causes(&e),
            "fine when that is a running firn; else set serve.listen to a free address",
        ),
    })
}

async fn within<T>(step: impl Future<Output = firn_catalog::Result<T>>) -> firn_catalog::Result<T> {
    tokio::time::timeout(STEP, step).await.unwrap_or_else(|_| {
        Err(firn_catalog::Error::new(ErrorKind::Unavailable, format!("no answer within {} s", STEP.as_secs())))
    })
}

#[cfg(test)]
mod tests;
