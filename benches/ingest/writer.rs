//! `firn run` as it is configured here, as a child process.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::Bench;
use crate::process::{Measured, Usage};

pub const WORKERS: i32 = 2;

/// Where the tables' files go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    Files,
    Minio,
}

/// One configuration.
#[derive(Clone, Copy)]
pub struct Setup {
    /// Of the run: the group's, the log's.
    pub name: &'static str,
    pub topics: &'static str,
    /// A name, or a template of one.
    pub table: &'static str,
    pub mode: &'static str,
    pub storage: Storage,
    pub commit_rows: u64,
    pub commit_interval_ms: u64,
}

pub struct Writer {
    process: Measured,
    metrics_port: u16,
    pub log: PathBuf,
}

impl Setup {
    /// Where its key indexes are.
    pub fn index_dir(&self, bench: &Bench) -> PathBuf {
        bench.dir.join(format!("index-{}", self.name))
    }

    pub fn namespace(&self, bench: &Bench) -> String {
        format!("bench_{}", bench.run)
    }

    pub fn start(&self, bench: &Bench) -> anyhow::Result<Writer> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = self.write_config(bench, port)?;
        let log = bench.dir.join(format!("{}.log", self.name));
        let mut command = Command::new(&bench.firn);
        command
            .arg("run")
            .arg("-c")
            .arg(&config)
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?);
        Ok(Writer { process: Measured::spawn(&mut command)?, metrics_port: port, log })
    }

    /// Its configuration, in a file; answers where.
    pub fn write_config(&self, bench: &Bench, port: u16) -> anyhow::Result<PathBuf> {
        let path = bench.dir.join(format!("{}.toml", self.name));
        std::fs::write(&path, self.config(bench, port)?)?;
        Ok(path)
    }

    fn config(&self, bench: &Bench, port: u16) -> anyhow::Result<String> {
        let servers = &bench.servers;
        let (warehouse, properties) = match self.storage {
            Storage::Files => {
                let warehouse = bench.dir.join("warehouse");
                std::fs::create_dir_all(&warehouse)?;
                (format!("file://{}", warehouse.display()), String::new())
            }
            Storage::Minio => {
                let endpoint = &servers.s3;
                let properties = format!(
                    "[catalog.properties]\n\"s3.endpoint\" = \"{endpoint}\"\n\"s3.access-key-id\" = \"${{FIRN_S3_ACCESS_KEY}}\"\n\
                     \"s3.secret-access-key\" = \"${{FIRN_S3_SECRET_KEY}}\"\n\"s3.region\" = \"us-east-1\"\n\"s3.path-style-access\" = \"true\"\n"
                );
                (format!("s3://{}/bench", servers.bucket), properties)
            }
        };
        Ok(format!(
            r#"
[kafka]
bootstrap_servers = "{kafka}"
group = "bench-{run}-{name}"
workers = {WORKERS}
[catalog]
type = "hive"
uri = "{hms}"
name = "bench"
warehouse = "{warehouse}"
{properties}
[lake]
topics = ["{topics}"]
mode = "{mode}"
namespace = "{namespace}"
table = "{table}"
commit_interval_ms = {interval}
commit_rows = {rows}
key = ["id"]
[lake.columns]
id = "long"
account = "int"
kind = "string"
amount = "decimal(12,2)"
made_at = "timestamp"
updated_at = "timestamptz"
note = "string"
[index]
dir = "{index}"
[serve]
listen = "127.0.0.1:{port}"
[log]
format = "json"
"#,
            kafka = servers.kafka,
            run = bench.run,
            name = self.name,
            topics = self.topics,
            table = self.table,
            hms = servers.hms,
            mode = self.mode,
            namespace = self.namespace(bench),
            interval = self.commit_interval_ms,
            rows = self.commit_rows,
            index = self.index_dir(bench).display(),
        ))
    }
}

impl Writer {
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until a counter, summed over its labels, is at least `want`.
    pub fn wait_for(&mut self, counter: &str, want: u64, at_most: Duration) -> anyhow::Result<()> {
        while self.counter(counter) < want {
            anyhow::ensure!(self.process.runs()?, "firn ended; see {}", self.log.display());
            anyhow::ensure!(
                self.process.elapsed() < at_most,
                "{counter} is {} and not {want} within {} s; see {}",
                self.counter(counter),
                at_most.as_secs(),
                self.log.display()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn counter(&self, name: &str) -> u64 {
        self.value(name) as u64
    }

    /// Of a metric, summed over its labels.
    pub fn value(&self, name: &str) -> f64 {
        let metrics = self.metrics().unwrap_or_default();
        let of_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        metrics.lines().filter(of_it).filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// By a request that costs next to nothing: the machine is the run's.
    fn metrics(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.metrics_port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// SIGTERM: it commits what it has and ends.
    pub fn end(self) -> anyhow::Result<Usage> {
        self.process.terminate()?;
        self.process.ended()
    }
}
