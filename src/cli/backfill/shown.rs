//! How far it is: a bar on a terminal, lines elsewhere, nothing with JSON.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::Output;
use crate::pipeline::backfill::{Seen, State};

/// Lines are this far apart at least, unless something changes that counts.
const LINES: Duration = Duration::from_secs(5);

/// Shared with who tells.
#[derive(Clone)]
pub(super) struct Shown(Arc<Mutex<Line>>);

struct Line {
    bar: Option<ProgressBar>,
    plain: bool,
    at: Option<Instant>,
    state: Option<State>,
}

pub(super) fn state(state: &State) -> String {
    match state {
        State::Waiting => "waiting".to_owned(),
        State::Running => "running".to_owned(),
        State::Paused => "paused".to_owned(),
        State::Done => "done".to_owned(),
        State::Stopped => "stopped".to_owned(),
        State::Failed { why } => format!("failed: {why}"),
    }
}

impl Shown {
    pub fn new(output: Output) -> Self {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let bar = (output == Output::Text && terminal).then(|| ProgressBar::new(100));
        if let (Some(bar), Ok(style)) = (&bar, ProgressStyle::with_template("{bar:40} {pos} % {msg}")) {
            bar.set_style(style);
        }
        let plain = output == Output::Text && !terminal;
        Self(Arc::new(Mutex::new(Line { bar, plain, at: None, state: None })))
    }

    pub fn teller(&mut self) -> impl FnMut(Seen) + Send + 'static {
        let line = Arc::clone(&self.0);
        move |seen| line.lock().unwrap_or_else(PoisonError::into_inner).show(&seen)
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.0.lock().unwrap_or_else(PoisonError::into_inner).bar {
            bar.finish_and_clear();
        }
    }
}

impl Line {
    fn show(&mut self, seen: &Seen) {
        let (text, percent, new) = match seen {
            Seen::Reading(progress) => {
                let changed = self.state.as_ref() != Some(&progress.state);
                self.state = Some(progress.state.clone());
                let rows = progress.rows.map_or_else(String::new, |rows| format!(" of {rows} rows"));
                (format!("{}{rows}", state(&progress.state)), progress.percent(), changed)
            }
            Seen::Silence(silence) => {
                (format!("nothing heard of the connector for {} s", silence.as_secs()), None, false)
            }
            Seen::Storing => ("read; its last rows are on their way to the topic".to_owned(), Some(100), true),
            Seen::Delivering(behind) => {
                let behind: Vec<String> = behind.iter().map(|b| format!("{} {} records", b.sink, b.records)).collect();
                match behind.is_empty() {
                    true => ("all sinks have it".to_owned(), Some(100), true),
                    false => (format!("read; still to be delivered: {}", behind.join(", ")), Some(100), false),
                }
            }
        };
        if let Some(bar) = &self.bar {
            if let Some(percent) = percent {
                bar.set_position(percent);
            }
            bar.set_message(text);
        } else if self.plain && (new || self.at.is_none_or(|at| at.elapsed() >= LINES)) {
            self.at = Some(Instant::now());
            eprintln!("{}{text}", percent.map_or_else(String::new, |percent| format!("{percent} % ")));
        }
    }
}
