//! The table of throughputs, and the two figures that the other sections need.

use std::fmt;

use crate::process::Usage;

pub struct Line {
    name: String,
    records: u64,
    usage: Usage,
    of_limit: Option<f64>,
}

impl Line {
    pub fn new(name: &str, records: u64, usage: Usage) -> Self {
        Self { name: name.to_owned(), records, usage, of_limit: None }
    }

    /// The ratio of the two rates, both of the same run.
    #[must_use]
    pub fn against(mut self, limit: &Usage, limit_records: u64) -> Self {
        let rate = self.records as f64 / self.usage.wall_s;
        self.of_limit = Some(rate / (limit_records as f64 / limit.wall_s));
        self
    }
}

pub fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// The smallest value that at least `share` of all are not above.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[derive(Default)]
pub struct Report(Vec<Line>);

impl Report {
    pub fn add(&mut self, line: Line) {
        eprintln!("{}", Row(&line));
        self.0.push(line);
    }
}

struct Row<'a>(&'a Line);

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { name, records, usage, of_limit } = self.0;
        let n = *records as f64;
        let ratio = of_limit.map_or_else(|| "-".to_owned(), |r| format!("{r:.2}"));
        write!(
            f,
            "| {name} | {records} | {:.1} | {:.0} | {:.0} | {ratio} | {:.0} |",
            usage.wall_s,
            n / usage.wall_s,
            n / usage.cpu_s,
            usage.peak_rss_bytes as f64 / 1048576.0
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| run | records | wall s | records/s | records/CPU-s | of LIMIT | peak RSS MiB |")?;
        writeln!(f, "|---|---:|---:|---:|---:|---:|---:|")?;
        for line in &self.0 {
            writeln!(f, "{}", Row(line))?;
        }
        Ok(())
    }
}
