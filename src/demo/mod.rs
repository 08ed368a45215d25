//! `firn demo`: all of it on one machine, with no server, ending in a proof.
//!
//! A broker in this process, a generator that fills it, `firn run` as a child process that is killed (kill -9) in the middle and started
//! again, and then every table read through Iceberg's own scan and compared with the generator's model.
//!
//! - [`broker`]: a Kafka in memory; [`workspace`]: the demo's directory; [`writer`]: the child process
//! - [`orchestrate`]: the story from start to end; [`proof`]: equal or not; [`show`]: what is seen meanwhile

pub mod broker;
pub mod orchestrate;
pub mod proof;
pub mod show;
pub mod workspace;
pub mod writer;

pub use orchestrate::{DemoOptions, Outcome, run};
pub use proof::TableProof;

/// Why a demo could not come to its proof.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("{path} holds something that no demo made: choose another --dir, or empty it")]
    ForeignDirectory { path: String },
    #[error("{path} cannot be written: check its rights and the disk")]
    Directory { path: String, source: std::io::Error },
    #[error("the embedded broker cannot listen on the loopback address")]
    Broker(#[source] std::io::Error),
    #[error(transparent)]
    Produce(#[from] crate::generate::produce::ProduceError),
    #[error("the writer cannot be started")]
    Start(#[source] std::io::Error),
    #[error("the writer ended by itself ({status}), its last words, more in {log}:\n{words}")]
    WriterEnded { status: String, log: String, words: String },
    #[error(
        "the writer has committed nothing for {seconds} s ({committed} of {total} records), its last words, more in {log}:\n{words}"
    )]
    Stuck { seconds: u64, committed: u64, total: u64, log: String, words: String },
    #[error("the configuration that the demo wrote is refused")]
    Config(#[from] crate::config::ConfigError),
    #[error("the catalog does not answer")]
    Catalog(#[from] firn_catalog::Error),
    #[error("the table {table} cannot be read")]
    Read { table: String, source: iceberg::Error },
    #[error("the table {table} does not have the generator's columns: {what}")]
    Shape { table: String, what: String },
    #[error("a thread ended early")]
    Thread(#[from] tokio::task::JoinError),
    #[error("interrupted")]
    Interrupted,
}
