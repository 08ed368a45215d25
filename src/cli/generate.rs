//! `firn generate`: the generator against a real Kafka.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};

use super::{Code, Failure, Output, print};
use crate::generate::{
    Generator, GeneratorOptions, Mix, SchemaName,
    envelope::SchemaBlock,
    produce::{GeneratorProducer, Pace, ProduceError, Sent, TopicCreation},
};

/// Write Debezium records of a made-up database to a real Kafka.
///
/// The same seed gives the same rows. Without --rate the source's clock is made up too, and the same options give the same bytes;
/// with --rate it is the real one, so that freshness can be measured.
#[derive(Args, Clone, Debug)]
pub struct GenerateArgs {
    /// Where Kafka is: host:port, comma-separated.
    #[arg(long, env = "KAFKA_BOOTSTRAP", default_value = "127.0.0.1:9092")]
    pub bootstrap_servers: String,
    /// A librdkafka property, as key=value; may be given several times.
    #[arg(short = 'X', long = "property", value_name = "KEY=VALUE", value_parser = key_value)]
    pub properties: Vec<(String, String)>,
    /// The database to play; may be given several times.
    #[arg(long = "schema", value_enum, default_values = ["inventory"])]
    pub schemas: Vec<SchemaName>,
    /// End after so many changes, the snapshot's rows included, tombstones not.
    #[arg(long, value_name = "N")]
    pub events: Option<u64>,
    /// End after so many seconds.
    #[arg(long, value_name = "S", value_parser = positive)]
    pub seconds: Option<f64>,
    /// Changes per second; as fast as the broker takes them if left out.
    #[arg(long, value_name = "N", value_parser = positive)]
    pub rate: Option<f64>,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What happens after the snapshot; `append` for the bench, `lively` for the others, if left out.
    #[arg(long, value_enum)]
    pub mix: Option<MixName>,
    /// Size of the snapshot: customers, or rows of the bench (0: no snapshot). 1000 if left out; for the bench 250000 with
    /// --mix upsert, else 0.
    #[arg(long, value_name = "N")]
    pub keys: Option<u64>,
    /// Put Connect's schema into each message, as a converter with schemas.enable=true does.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "true|false")]
    pub schemas_enable: bool,
    /// Create the topics that are missing.
    #[arg(long)]
    pub create_topics: bool,
    /// Partitions of the topics that are created; topics that exist keep theirs.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..))]
    pub partitions: i32,
    /// Replicas of the topics that are created.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
    pub replication_factor: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MixName {
    /// Inserts alone.
    Append,
    /// 60% updates, 10% deletes, 30% inserts on even keys.
    Upsert,
    /// Inserts, updates, deletes and changed keys on skewed keys.
    Lively,
}

impl GenerateArgs {
    fn generator_options(&self) -> GeneratorOptions {
        let usual = GeneratorOptions::new(self.seed, self.schemas.clone());
        let mix = match self.mix {
            None => usual.mix,
            Some(MixName::Append) => Mix::APPEND,
            Some(MixName::Upsert) => Mix::UPSERT,
            Some(MixName::Lively) => Mix::LIVELY,
        };
        let base = if usual.schemas == [SchemaName::Bench] && self.mix == Some(MixName::Upsert) {
            250_000
        } else {
            usual.keys
        };
        GeneratorOptions {
            mix,
            keys: self.keys.unwrap_or(base),
            schema_block: if self.schemas_enable { SchemaBlock::Inline } else { SchemaBlock::Absent },
            partitions: self.partitions,
            changes: self.events,
            ..usual
        }
    }
}

/// # Errors
/// When Kafka can't be reached, a topic is missing, or a record is not delivered.
pub async fn run(args: GenerateArgs, output: Output) -> Result<(), Failure> {
    output.not_csv()?;
    let mut generator = Generator::new(args.generator_options());
    let producer = GeneratorProducer::new(&args.bootstrap_servers, &args.properties).map_err(failure)?;
    let creation = if args.create_topics {
        TopicCreation::Create { partitions: args.partitions, replication: args.replication_factor }
    } else {
        TopicCreation::Refuse
    };
    producer.prepare(&mut generator, creation).await.map_err(failure)?;

    let stop = Arc::new(AtomicBool::new(false));
    let on_signal = stop.clone();
    let signal = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            on_signal.store(true, Ordering::Relaxed);
        }
    });
    let pace = Pace { rate: args.rate, at_most: args.seconds.map(Duration::from_secs_f64) };
    let mut line = ProgressLine::new(output, args.events);
    let sent = tokio::task::spawn_blocking(move || {
        let sent = producer.send(&mut generator, pace, &stop, |sent| line.show(sent));
        line.finish();
        sent
    })
    .await
    .map_err(|e| Failure::from_error(Code::Failed, &e))?
    .map_err(failure)?;
    signal.abort();
    match output {
        Output::Json => print::json(&summary(&args, &sent)),
        Output::Text | Output::Csv => print::text(&summary_text(&args, &sent)),
    }
}

fn failure(error: ProduceError) -> Failure {
    let code = match error {
        ProduceError::Configuration(_) => Code::Usage,
        ProduceError::Unreachable { .. } | ProduceError::Admin(_) | ProduceError::Send(_) => Code::Unreachable,
        ProduceError::NoTopic { .. } | ProduceError::Create { .. } | ProduceError::Undelivered { .. } => Code::Failed,
    };
    Failure::from_error(code, &error)
}

fn summary(args: &GenerateArgs, sent: &Sent) -> serde_json::Value {
    serde_json::json!({
        "seed": args.seed,
        "changes": sent.changes,
        "tombstones": sent.tombstones,
        "bytes": sent.bytes,
        "seconds": sent.seconds,
        "changes_per_second": sent.per_second().round(),
        "topics": sent.topics,
    })
}

fn summary_text(args: &GenerateArgs, sent: &Sent) -> String {
    let mut text = format!(
        "{} changes and {} tombstones ({:.1} MB) in {:.1} s: {:.0} changes/s, seed {}\n",
        sent.changes,
        sent.tombstones,
        sent.bytes as f64 / 1e6,
        sent.seconds,
        sent.per_second(),
        args.seed
    );
    for (topic, records) in &sent.topics {
        text += &format!("  {records:>10}  {topic}\n");
    }
    text
}

/// A bar on a terminal, a line every few seconds elsewhere, nothing with JSON.
#[derive(Debug)]
struct ProgressLine {
    bar: Option<indicatif::ProgressBar>,
    plain: bool,
    shown: Instant,
}

impl ProgressLine {
    fn new(output: Output, events: Option<u64>) -> Self {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let bar = (output == Output::Text && terminal).then(|| match events {
            Some(events) => indicatif::ProgressBar::new(events),
            None => indicatif::ProgressBar::new_spinner(),
        });
        let template = if events.is_some() {
            "{bar:30} {pos}/{len} changes {msg} eta {eta}"
        } else {
            "{spinner} {pos} changes {msg} {elapsed}"
        };
        if let (Some(bar), Ok(style)) = (&bar, indicatif::ProgressStyle::with_template(template)) {
            bar.set_style(style);
        }
        Self { bar, plain: output == Output::Text && !terminal, shown: Instant::now() }
    }

    fn show(&mut self, sent: &Sent) {
        if let Some(bar) = &self.bar {
            bar.set_position(sent.changes);
            bar.set_message(format!("{:.0}/s", sent.per_second()));
        } else if self.plain && self.shown.elapsed() >= Duration::from_secs(5) {
            self.shown = Instant::now();
            eprintln!("{} changes, {:.0}/s", sent.changes, sent.per_second());
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a property is written key=value, for example -X security.protocol=SASL_SSL".to_owned()),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n: &f64| n.is_finite() && *n > 0.0).ok_or_else(|| "a number above 0 is needed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use rstest::rstest;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: GenerateArgs,
    }

    fn parse(line: &str) -> Result<GenerateArgs, clap::Error> {
        Cli::try_parse_from(std::iter::once("generate").chain(line.split_whitespace())).map(|c| c.args)
    }

    #[rstest]
    #[case("", 1000, Mix::LIVELY)]
    #[case("--schema bench", 0, Mix::APPEND)]
    #[case("--schema bench --mix upsert", 250_000, Mix::UPSERT)]
    #[case("--schema bench --mix upsert --keys 7", 7, Mix::UPSERT)]
    #[case("--schema inventory --schema engagement --mix append", 1000, Mix::APPEND)]
    fn the_options_left_out_fit_the_schema(#[case] line: &str, #[case] keys: u64, #[case] mix: Mix) {
        let options = parse(line).unwrap().generator_options();
        assert_eq!((options.keys, options.mix), (keys, mix));
    }

    #[rstest]
    #[case("-X novalue", "key=value")]
    #[case("--rate 0", "above 0")]
    #[case("--partitions 0", "0")]
    #[case("--schema inventry", "inventory")]
    fn a_wrong_option_says_what_is_right(#[case] line: &str, #[case] hint: &str) {
        let error = parse(line).unwrap_err().to_string();
        assert!(error.contains(hint), "{error}");
    }
}
