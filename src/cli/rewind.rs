//! `firn rewind`: shows what it will do, asks, does it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};

use clap::{ArgGroup, Args};
use serde::Serialize;

use super::exit::{Code, Failure, of_catalog};
use super::moment::moment;
use super::print::{self, Grid};
use super::{ConfigFile, Output, rewind_sink, table};
use crate::change::Mode;
use crate::pipeline::rewind::{PreparedRewind, RewindError, Target, Wish, prepare};
use crate::position::Checkpoint;
use crate::sink::lake::{How, LakeError, Replaying, Rewound};
use crate::source::kafka::SourceError;

const EXAMPLES: &str = "\
Targets of --to:
  offset=PARTITION:OFFSET[,...]  the next offsets to read; partitions that are not named stay
  timestamp=TIME                 the first records that are not older: 2026-01-31T12:00:00Z, or a time ago such as 90s, 12h, 7d
  snapshot=ID                    where the table stood when it had this snapshot, and its rows of then
  beginning                      where Kafka's log begins
  rows                           behind the newest rows that the table has, whatever its properties say
  stored                         what its properties say, whatever its history does";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group = ArgGroup::new("target").required(true))]
pub(super) struct RewindArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// namespace.table
    #[arg(value_name = "TABLE", required_unless_present = "sink")]
    table: Option<String>,
    /// A pipeline's sink in place of a table, PIPELINE.SINK, to an offset, a timestamp or the beginning
    #[arg(long, value_name = "SINK", conflicts_with_all = ["table", "skip_lost", "new_topic", "replay", "accept_compacted"])]
    sink: Option<String>,
    /// Where it is to go back to; see below
    #[arg(long, value_name = "TARGET", value_parser = target, group = "target")]
    to: Option<Target>,
    /// Go on where Kafka's log begins, in the partitions that it has lost offsets of: these are given up and noted in the table
    #[arg(long, group = "target")]
    skip_lost: bool,
    /// Go on with a topic that was deleted and made again under the same name, from its beginning
    #[arg(long, group = "target")]
    new_topic: bool,
    /// The topic, where several feed the table
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Upsert: keep the rows and read the log over them again, also where a snapshot could be restored
    #[arg(long)]
    replay: bool,
    /// Go on although the topic is compacted: what compaction took is not read again
    #[arg(long)]
    accept_compacted: bool,
    /// Only show what would be done
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do it without asking
    #[arg(short, long)]
    yes: bool,
}

impl RewindArgs {
    fn wish(&self) -> Wish {
        let target = match &self.to {
            Some(target) => target.clone(),
            None if self.skip_lost => Target::SkipLost,
            None => Target::NewTopic,
        };
        Wish { target, replay: self.replay, accept_compacted: self.accept_compacted }
    }
}

/// What was done, or would be.
#[derive(Debug, Serialize)]
struct Shown {
    table: String,
    topic: String,
    /// take_out, restore, replay, skip_lost or new_topic.
    how: &'static str,
    /// The snapshot whose rows the table has then, where it is set back to one.
    restored_snapshot_id: Option<i64>,
    positions: Vec<Moved>,
    generation: u64,
    /// Rows taken out.
    rows: u64,
    files: usize,
    files_in_part: usize,
    /// Of other writers, undone with it.
    foreign_snapshots: usize,
    /// Until the table is here again, its rows may be older ones.
    replaying: Option<Replaying>,
    warnings: Vec<String>,
    /// The commit; `null` where nothing was done.
    snapshot_id: Option<i64>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Moved {
    topic: String,
    partition: i32,
    from: Option<i64>,
    /// `null`: from the beginning of the partition.
    to: Option<i64>,
}

pub(super) async fn run(args: &RewindArgs, output: Output) -> Result<(), Failure> {
    output.not_csv()?;
    let config = args.config.load()?;
    if let Some(sink) = &args.sink {
        let manner = rewind_sink::Manner { dry_run: args.dry_run, yes: args.yes };
        return rewind_sink::run(&config, sink, args.topic.as_deref(), &args.wish().target, &manner, output).await;
    }
    let catalog = crate::catalogs::open(&config.catalog).await?;
    // clap wants it where no sink is named.
    let ident = table::load(catalog.as_ref(), args.table.as_deref().unwrap_or_default()).await?.identifier().clone();
    let prepared = prepare(&config, catalog, &ident, args.topic.as_deref(), &args.wish()).await?;
    let outlook = shown(&prepared, &prepared.outlook);
    if args.dry_run {
        return match output {
            Output::Json => print::json(&outlook),
            _ => print::text(&text(&outlook, prepared.mode)),
        };
    }
    if output != Output::Json {
        print::text(&text(&outlook, prepared.mode))?;
    }
    if !args.yes {
        confirm(&format!("rewind {}", outlook.table))?;
    }
    let done = prepared.commit().await?;
    let done = shown(&prepared, &done);
    match (output, done.snapshot_id) {
        (Output::Json, _) => print::json(&done),
        (_, Some(id)) => {
            print::text(&format!("rewound {} in snapshot {id}, generation {}\n", done.table, done.generation))
        }
        (_, None) => Ok(()),
    }
}

pub(super) fn confirm(what: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "nothing was done: say --yes to do it without being asked, or --dry-run to look only",
        ));
    }
    eprint!("{what}? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::failed("nothing was done")),
    }
}

fn shown(prepared: &PreparedRewind, rewound: &Rewound) -> Shown {
    Shown {
        table: prepared.table.clone(),
        topic: prepared.topic.clone(),
        how: prepared.how().as_str(),
        restored_snapshot_id: match prepared.how() {
            How::Restore { snapshot_id } => Some(*snapshot_id),
            _ => None,
        },
        positions: moved(&rewound.before, &rewound.after),
        generation: rewound.after.generation,
        rows: rewound.removal.rows,
        files: rewound.removal.files,
        files_in_part: rewound.removal.files_in_part,
        foreign_snapshots: rewound.foreign_snapshots,
        replaying: rewound.replaying.clone(),
        warnings: prepared.warnings.clone(),
        snapshot_id: rewound.snapshot_id,
    }
}

/// Every partition that is known before or after.
fn moved(before: &Checkpoint, after: &Checkpoint) -> Vec<Moved> {
    let of = |c: &Checkpoint| -> BTreeMap<(String, i32), i64> {
        let of_topic = c.topics.iter().flat_map(|(topic, t)| t.partitions.iter().map(move |(p, at)| ((topic, p), at)));
        of_topic.map(|((topic, p), at)| ((topic.clone(), *p), at.next)).collect()
    };
    let (before, after) = (of(before), of(after));
    let all: BTreeSet<&(String, i32)> = before.keys().chain(after.keys()).collect();
    let moved = all.into_iter().map(|at| Moved {
        topic: at.0.clone(),
        partition: at.1,
        from: before.get(at).copied(),
        to: after.get(at).copied(),
    });
    moved.collect()
}

fn text(shown: &Shown, mode: Mode) -> String {
    let rows = match shown.how {
        "take_out" if shown.rows == 0 => "no row goes".to_owned(),
        "restore" => format!(
            "its rows become those of snapshot {}",
            shown.restored_snapshot_id.map_or_else(String::new, |id| id.to_string())
        ),
        "take_out" => format!("{} rows go ({} files whole, {} in part)", shown.rows, shown.files, shown.files_in_part),
        "new_topic" if mode == Mode::Append => format!("all its {} rows of the topic go", shown.rows),
        _ => "its rows stay".to_owned(),
    };
    let mut out = format!("{} ({}): {rows}; generation {}\n", shown.table, mode.as_str(), shown.generation);
    if shown.replaying.is_some() {
        out += "until it is where it stands now, its rows may be older ones (firn.replaying)\n";
    }
    if shown.foreign_snapshots > 0 {
        out += &format!("{} snapshots of other writers are undone with it\n", shown.foreign_snapshots);
    }
    let mut grid = Grid::new(["partition", "stands at", "goes to"]);
    let at = |next: Option<i64>, none: &str| next.map_or_else(|| none.to_owned(), |next| next.to_string());
    for m in &shown.positions {
        grid.row([format!("{}/{}", m.topic, m.partition), at(m.from, "nowhere"), at(m.to, "its beginning")]);
    }
    out += &grid.to_text();
    for warning in &shown.warnings {
        out += &format!("warning: {warning}\n");
    }
    out
}

/// What follows `--to`.
fn target(text: &str) -> Result<Target, String> {
    let (word, value) = text.split_once('=').map_or((text, None), |(word, value)| (word, Some(value)));
    match (word, value) {
        ("beginning", None) => Ok(Target::Beginning),
        ("rows", None) => Ok(Target::Rows),
        ("stored", None) => Ok(Target::Stored),
        ("snapshot", Some(id)) => {
            id.parse().map(Target::Snapshot).map_err(|_| format!("`{id}` is not a snapshot's id"))
        }
        ("timestamp", Some(time)) => moment(time).map(Target::Timestamp),
        ("offset", Some(list)) => offsets(list).map(Target::Offsets),
        _ => Err("one of offset=PARTITION:OFFSET, timestamp=TIME, snapshot=ID, beginning, rows, stored".to_owned()),
    }
}

pub(super) fn offsets(list: &str) -> Result<BTreeMap<i32, i64>, String> {
    let mut offsets = BTreeMap::new();
    for one in list.split(',') {
        let parsed = one.split_once(':').and_then(|(partition, offset)| {
            let (partition, offset) = (partition.trim().parse::<i32>().ok()?, offset.trim().parse::<i64>().ok()?);
            (partition >= 0 && offset >= 0).then_some((partition, offset))
        });
        let Some((partition, offset)) = parsed else {
            return Err(format!("`{one}` is not PARTITION:OFFSET, e.g. 0:1500,1:900"));
        };
        if offsets.insert(partition, offset).is_some() {
            return Err(format!("partition {partition} is named twice"));
        }
    }
    Ok(offsets)
}

impl From<RewindError> for Failure {
    fn from(e: RewindError) -> Self {
        let code = match &e {
            RewindError::Lake(LakeError::Catalog(c)) | RewindError::Undecided(c) => of_catalog(c),
            RewindError::Source(SourceError::Unreachable { .. }) => Code::Unreachable,
            _ => Code::Failed,
        };
        Self::from_error(code, &e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_wrong_ones_named() {
        assert_eq!(target("beginning"), Ok(Target::Beginning));
        assert_eq!(target("snapshot=42"), Ok(Target::Snapshot(42)));
        assert_eq!(target("timestamp=1970-01-01T00:00:01Z"), Ok(Target::Timestamp(1000)));
        assert_eq!(target("offset=0:5,2:0"), Ok(Target::Offsets([(0, 5), (2, 0)].into())));
        for (wrong, says) in [
            ("earliest", "one of offset="),
            ("beginning=0", "one of offset="),
            ("snapshot=x", "not a snapshot"),
            ("timestamp=soon", "neither a time"),
            ("offset=5", "PARTITION:OFFSET"),
            ("offset=0:-1", "PARTITION:OFFSET"),
            ("offset=0:1,0:2", "named twice"),
        ] {
            let e = target(wrong).unwrap_err();
            assert!(e.contains(says), "{wrong}: {e}");
        }
    }
}
