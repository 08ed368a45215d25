//! `firn dead-letters list|show|replay|discard`: records that could not become rows, and their way into the tables after all.

mod print;

use clap::{Args, Subcommand, ValueEnum};

use super::moment::moment;
use super::{Code, ConfigFile, Failure, Output};
use crate::letter::{Choice, LetterId, Status};
use crate::pipeline::replay::Letterbox;
use crate::record::Origin;
use crate::sink::lake::letters::Contents;

#[derive(Debug, Subcommand)]
pub(super) enum DeadLetterCommand {
    /// Letters, oldest record of each partition first
    List(ListArgs),
    /// One letter, whole
    Show(ShowArgs),
    /// Decode pending letters again and put their rows into the tables
    Replay(ChosenArgs),
    /// Close pending letters without a row
    Discard(ChosenArgs),
}

/// Which letters.
#[derive(Debug, Args)]
struct ChoiceArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Meant for this table, namespace.table
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// Rejected for this reason, e.g. bad_value
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Rejected at this time or later: 2026-01-31T12:00:00Z, or a time ago such as 90s, 30m, 12h, 7d
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<i64>,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    choice: ChoiceArgs,
    /// In this state
    #[arg(long, value_enum, default_value_t, value_name = "STATUS")]
    status: Wanted,
    /// At most so many
    #[arg(short = 'n', long, default_value_t = 100, value_name = "N")]
    limit: usize,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    choice: ChoiceArgs,
    /// topic/partition@offset, as `list` prints it
    #[arg(value_name = "ORIGIN")]
    origin: Origin,
}

#[derive(Debug, Args)]
pub(super) struct ChosenArgs {
    #[command(flatten)]
    choice: ChoiceArgs,
    /// At most so many, the oldest records first
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<usize>,
    /// Only these, as topic/partition@offset
    #[arg(value_name = "ORIGIN")]
    origins: Vec<Origin>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Wanted {
    #[default]
    Pending,
    Replayed,
    Superseded,
    Discarded,
    All,
}

impl Wanted {
    fn status(self) -> Option<Status> {
        match self {
            Wanted::Pending => Some(Status::Pending),
            Wanted::Replayed => Some(Status::Replayed),
            Wanted::Superseded => Some(Status::Superseded),
            Wanted::Discarded => Some(Status::Discarded),
            Wanted::All => None,
        }
    }
}

impl ChoiceArgs {
    fn choice(&self, origins: Vec<Origin>, status: Option<Status>) -> Choice {
        Choice { target: self.table.clone(), reason: self.reason.clone(), since_ms: self.since, origins, status }
    }

    async fn open(&self) -> Result<Letterbox, Failure> {
        Ok(Letterbox::open(self.config.load()?).await?)
    }

    fn is_empty(&self) -> bool {
        self.table.is_none() && self.reason.is_none() && self.since.is_none()
    }
}

impl ChosenArgs {
    /// The pending letters that were chosen.
    ///
    /// # Errors
    /// When they can't be read, or one that was named is not there.
    async fn ids(&self, letters: &Letterbox) -> Result<Vec<LetterId>, Failure> {
        let all = letters.read(&self.choice.choice(self.origins.clone(), None), Contents::Outside).await?;
        if let Some(origin) = self.origins.iter().find(|o| all.iter().all(|l| l.origin != **o)) {
            return Err(Failure::failed(format!(
                "there is no dead letter {origin}; `firn dead-letters list` shows what is there"
            )));
        }
        let pending = all.iter().filter(|l| l.status == Status::Pending);
        Ok(pending.map(|l| l.id()).take(self.limit.unwrap_or(usize::MAX)).collect())
    }
}

pub(super) async fn run(command: &DeadLetterCommand, output: Output) -> Result<(), Failure> {
    match command {
        DeadLetterCommand::List(args) => {
            let choice = args.choice.choice(vec![], args.status.status());
            let mut letters = args.choice.open().await?.read(&choice, Contents::Outside).await?;
            letters.truncate(args.limit);
            print::list(&letters, output)
        }
        DeadLetterCommand::Show(args) => {
            let choice = args.choice.choice(vec![args.origin.clone()], None);
            let letters = args.choice.open().await?.read(&choice, Contents::Whole).await?;
            if letters.is_empty() {
                let message = format!(
                    "there is no dead letter {}; `firn dead-letters list --status all` shows what is there",
                    args.origin
                );
                return Err(Failure::failed(message));
            }
            print::whole(&letters, output)
        }
        DeadLetterCommand::Replay(args) => {
            let letters = args.choice.open().await?;
            let ids = args.ids(&letters).await?;
            let outcomes = letters.replay(ids).await?;
            print::outcomes(&outcomes, output)?;
            match outcomes.iter().filter(|o| o.status == Status::Pending).count() {
                0 => Ok(()),
                left => Err(Failure::new(Code::Failed, format!("{left} of {} letters stay pending", outcomes.len()))),
            }
        }
        DeadLetterCommand::Discard(args) => {
            if args.choice.is_empty() && args.origins.is_empty() && args.limit.is_none() {
                let message = "say which letters to discard: by ORIGIN, --table, --reason, --since or --limit";
                return Err(Failure::usage(message));
            }
            let letters = args.choice.open().await?;
            let ids = args.ids(&letters).await?;
            print::outcomes(&letters.discard(&ids, "by hand").await?, output)
        }
    }
}
