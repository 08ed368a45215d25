//! What a person sees while the demo runs: two bars on a terminal, plain lines elsewhere, nothing for scripts. On standard error, so that
//! standard output holds the answer alone.

use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Between two plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    Bars,
    Lines,
    Silent,
}

#[derive(Debug)]
pub struct Show {
    voice: Voice,
    bars: MultiProgress,
    sent: ProgressBar,
    committed: ProgressBar,
    told: Instant,
}

impl Show {
    pub fn new(voice: Voice, events: u64) -> Self {
        let bars = MultiProgress::new();
        let bar = |name: &'static str| {
            let bar = if voice == Voice::Bars { bars.add(ProgressBar::new(events)) } else { ProgressBar::hidden() };
            if let Ok(style) = ProgressStyle::with_template("{prefix:>10} {bar:40} {pos:>9}/{len} {per_sec}") {
                bar.set_style(style);
            }
            bar.with_prefix(name)
        };
        let (sent, committed) = (bar("generated"), bar("committed"));
        Self { voice, bars, sent, committed, told: Instant::now() }
    }

    /// Something happened.
    pub fn say(&self, line: &str) {
        match self.voice {
            Voice::Silent => {}
            Voice::Lines => eprintln!("{line}"),
            // A bar that can't be drawn is no reason to stop.
            Voice::Bars => drop(self.bars.println(line)),
        }
    }

    /// Records generated and records that the tables' checkpoints cover.
    pub fn progress(&mut self, sent: u64, committed: u64, total: u64) {
        self.sent.set_length(total);
        self.sent.set_position(sent);
        self.committed.set_length(total);
        self.committed.set_position(committed);
        if self.voice == Voice::Lines && self.told.elapsed() >= PLAIN_EVERY {
            self.told = Instant::now();
            eprintln!("{sent} records generated, {committed} committed");
        }
    }

    pub fn finish(&self) {
        self.sent.finish_and_clear();
        self.committed.finish_and_clear();
    }
}
