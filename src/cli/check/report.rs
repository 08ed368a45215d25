//! What `firn check` found: one line a finding, with what to do.

use std::fmt::Write;

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    /// firn runs, but somebody should know.
    Warn,
    /// firn would stop or lose its way.
    Fail,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub verdict: Verdict,
    /// What was looked at, e.g. `topic server.inventory.orders`.
    pub subject: String,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub todo: Option<String>,
}

impl Finding {
    pub fn ok(subject: impl Into<String>, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, subject: subject.into(), found: found.into(), todo: None }
    }

    pub fn warn(subject: impl Into<String>, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, subject: subject.into(), found: found.into(), todo: Some(todo.into()) }
    }

    pub fn fail(subject: impl Into<String>, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, ..Self::warn(subject, found, todo) }
    }
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    pub findings: Vec<Finding>,
}

impl Report {
    pub fn count(&self, verdict: Verdict) -> usize {
        self.findings.iter().filter(|f| f.verdict == verdict).count()
    }

    pub fn to_text(&self) -> String {
        let width = self.findings.iter().map(|f| f.subject.chars().count()).max().unwrap_or(0);
        let mut out = String::new();
        for f in &self.findings {
            // Writing to a String does not fail.
            let _ = writeln!(out, "{}", line(f, width));
            if let Some(todo) = &f.todo {
                let _ = writeln!(out, "      -> {todo}");
            }
        }
        let _ = writeln!(
            out,
            "\nok: {}, warn: {}, FAIL: {}",
            self.count(Verdict::Ok),
            self.count(Verdict::Warn),
            self.count(Verdict::Fail)
        );
        out
    }
}

fn line(finding: &Finding, width: usize) -> String {
    let word = match finding.verdict {
        Verdict::Ok => "ok",
        Verdict::Warn => "warn",
        Verdict::Fail => "FAIL",
    };
    format!("{word:<6}{:<width$}  {}", finding.subject, finding.found)
}
