//! `[maintain.policy]`, `[maintain.budget]`, and `maintain` of a table: what `firn run` does to keep tables fast, and what it may cost.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::Problem;
use super::period::Period;
use super::quiet::QuietHours;

/// Shorter, and the catalog is busy with looks.
const LEAST_EVERY: Period = Period { ms: 1_000 };
/// Longer is a mistake: nobody waits for it.
const MOST_EVERY: Period = Period { ms: 366 * 86_400_000 };
/// What is younger may belong to a commit under way.
const LEAST_ORPHAN_AGE: Period = Period { ms: 86_400_000 };
/// A group's row groups, read and written, don't fit into less.
const LEAST_MEMORY_BYTES: u64 = 64 << 20;

/// How often: a span of time, or `"off"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Every(pub Option<Period>);

impl<'de> Deserialize<'de> for Every {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "off" {
            return Ok(Self(None));
        }
        let period: Period =
            text.parse().map_err(|e| serde::de::Error::custom(format!("{e}; \"off\" turns it off")))?;
        Ok(Self(Some(period)))
    }
}

impl Serialize for Every {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(period) => period.fmt(f),
            None => f.write_str("off"),
        }
    }
}

/// `[maintain.policy]`, and what comes out of it and a table's own settings.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    pub enabled: bool,
    pub compact_every: Every,
    pub manifests_every: Every,
    pub expire_every: Every,
    pub orphans_every: Every,
    /// Small files of one partition from which they are rewritten.
    pub small_files: usize,
    /// Share of deleted rows from which a file is rewritten.
    pub delete_ratio: f64,
    /// Manifests beyond what the target size asks for.
    pub many_manifests: u64,
    /// Else the table's properties say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_older_than: Option<Period>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain_last: Option<u64>,
    pub orphans_older_than: Period,
    pub quiet_hours: QuietHours,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        let every = |ms| Every(Some(Period { ms }));
        Self {
            enabled: false,
            compact_every: every(600_000),
            manifests_every: every(3_600_000),
            expire_every: every(3_600_000),
            // Two tables at one location can't be told apart: who turns it on has looked.
            orphans_every: Every(None),
            small_files: 5,
            delete_ratio: 0.3,
            many_manifests: 32,
            expire_older_than: None,
            retain_last: None,
            orphans_older_than: Period { ms: 3 * 86_400_000 },
            quiet_hours: QuietHours::default(),
        }
    }
}

/// What one table does differently.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyRule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compact_every: Option<Every>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifests_every: Option<Every>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_every: Option<Every>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orphans_every: Option<Every>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub small_files: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delete_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub many_manifests: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_older_than: Option<Period>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain_last: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orphans_older_than: Option<Period>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiet_hours: Option<QuietHours>,
}

impl PolicyConfig {
    /// With what a table does differently.
    #[must_use]
    pub fn with(&self, rule: &PolicyRule) -> Self {
        Self {
            enabled: rule.enabled.unwrap_or(self.enabled),
            compact_every: rule.compact_every.unwrap_or(self.compact_every),
            manifests_every: rule.manifests_every.unwrap_or(self.manifests_every),
            expire_every: rule.expire_every.unwrap_or(self.expire_every),
            orphans_every: rule.orphans_every.unwrap_or(self.orphans_every),
            small_files: rule.small_files.unwrap_or(self.small_files),
            delete_ratio: rule.delete_ratio.unwrap_or(self.delete_ratio),
            many_manifests: rule.many_manifests.unwrap_or(self.many_manifests),
            expire_older_than: rule.expire_older_than.or(self.expire_older_than),
            retain_last: rule.retain_last.or(self.retain_last),
            orphans_older_than: rule.orphans_older_than.unwrap_or(self.orphans_older_than),
            quiet_hours: rule.quiet_hours.clone().unwrap_or_else(|| self.quiet_hours.clone()),
        }
    }

    pub(super) fn validate(&self) -> Result<(), Problem> {
        let intervals = [
            ("compact_every", self.compact_every),
            ("manifests_every", self.manifests_every),
            ("expire_every", self.expire_every),
            ("orphans_every", self.orphans_every),
        ];
        for (field, every) in intervals {
            if let Some(period) = every.0.filter(|p| !(LEAST_EVERY..=MOST_EVERY).contains(p)) {
                let text = format!("{period} is not between {LEAST_EVERY} and {MOST_EVERY}; \"off\" turns it off");
                return Err(Problem::new(field, text));
            }
        }
        if self.small_files < 2 {
            let text = format!("{} is below 2: one file alone has nothing to be joined with", self.small_files);
            return Err(Problem::new("small_files", text));
        }
        if !(self.delete_ratio > 0.0 && self.delete_ratio <= 1.0) {
            let text = format!("{} is not a share above 0, up to 1", self.delete_ratio);
            return Err(Problem::new("delete_ratio", text));
        }
        if self.retain_last == Some(0) {
            return Err(Problem::new("retain_last", "0 is below 1, the least: the current snapshot stays"));
        }
        if self.orphans_older_than < LEAST_ORPHAN_AGE {
            let text = format!(
                "{} is below {LEAST_ORPHAN_AGE}, the least: files of a commit that is under way would go",
                self.orphans_older_than
            );
            return Err(Problem::new("orphans_older_than", text));
        }
        if self.quiet_hours.is_always() {
            let text = "leaves no minute of the week: nothing would ever be done; enabled = false says that";
            return Err(Problem::new("quiet_hours", text));
        }
        Ok(())
    }
}

/// `[maintain.budget]`: what all maintenance of the process may take together.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetConfig {
    /// Cores, on average over a second.
    pub cpu: f64,
    /// Beside `memory.budget_bytes`.
    pub memory_bytes: u64,
    /// Read and written; 0 = no bound.
    pub bytes_per_second: u64,
    /// Groups of files rewritten at once.
    pub parallel: usize,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self { cpu: 0.5, memory_bytes: 128 << 20, bytes_per_second: 0, parallel: 1 }
    }
}

impl BudgetConfig {
    pub(super) fn validate(&self) -> Result<(), Problem> {
        if !(0.01..=1024.0).contains(&self.cpu) {
            return Err(Problem::new("cpu", format!("{} is not between 0.01 and 1024 cores", self.cpu)));
        }
        if self.memory_bytes < LEAST_MEMORY_BYTES {
            let text = format!("{} is below {LEAST_MEMORY_BYTES} (64 MiB), the least", self.memory_bytes);
            return Err(Problem::new("memory_bytes", text));
        }
        if (1..64 << 10).contains(&self.bytes_per_second) {
            let text = format!("{} is below 65536, the least; 0 means no bound", self.bytes_per_second);
            return Err(Problem::new("bytes_per_second", text));
        }
        if !(1..=64).contains(&self.parallel) {
            return Err(Problem::new("parallel", format!("{} is not between 1 and 64", self.parallel)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("compact_every = '500ms'", "compact_every", "is not between 1s and 366d; \"off\"")]
    #[case("small_files = 1", "small_files", "below 2")]
    #[case("delete_ratio = 0.0", "delete_ratio", "share above 0")]
    #[case("delete_ratio = 1.5", "delete_ratio", "share above 0")]
    #[case("retain_last = 0", "retain_last", "below 1")]
    #[case("orphans_older_than = '12h'", "orphans_older_than", "is below 1d")]
    #[case("quiet_hours = '00:00-24:00'", "quiet_hours", "no minute of the week")]
    fn wrong_values_are_named_with_what_is_right(#[case] text: &str, #[case] field: &str, #[case] want: &str) {
        let config: PolicyConfig = toml::from_str(text).unwrap();
        let problem = config.validate().unwrap_err();
        assert!(problem.field == field && problem.message.contains(want), "{problem:?}");
    }

    #[rstest]
    #[case("cpu = 0.0", "cpu", "between 0.01")]
    #[case("cpu = nan", "cpu", "between 0.01")]
    #[case("memory_bytes = 1_000_000", "memory_bytes", "64 MiB")]
    #[case("bytes_per_second = 10", "bytes_per_second", "0 means no bound")]
    #[case("parallel = 0", "parallel", "between 1 and 64")]
    fn so_are_those_of_the_budget(#[case] text: &str, #[case] field: &str, #[case] want: &str) {
        let config: BudgetConfig = toml::from_str(text).unwrap();
        let problem = config.validate().unwrap_err();
        assert!(problem.field == field && problem.message.contains(want), "{problem:?}");
    }

    #[rstest]
    #[case("compact_every = 'often'", "\"off\" turns it off")]
    #[case("quiet_hours = '8-18'", "08:00-18:00")]
    #[case("quiet_hour = ''", "quiet_hours")]
    fn what_can_not_be_read_says_the_form(#[case] text: &str, #[case] want: &str) {
        let e = toml::from_str::<PolicyConfig>(text).unwrap_err().to_string();
        assert!(e.contains(want), "{e}");
    }

    #[test]
    fn a_table_says_what_it_does_differently_and_the_rest_stays() {
        let all: PolicyConfig = toml::from_str("enabled = true\nsmall_files = 9\nexpire_older_than = '2d'").unwrap();
        let rule: PolicyRule = toml::from_str("compact_every = 'off'\nquiet_hours = 'sat 10:00-11:00'").unwrap();
        let table = all.with(&rule);
        let want =
            PolicyConfig { compact_every: Every(None), quiet_hours: "sat 10:00-11:00".parse().unwrap(), ..all.clone() };
        assert_eq!(table, want);
        assert_eq!(
            toml::from_str::<PolicyConfig>(&toml::to_string(&table).unwrap()).unwrap(),
            table,
            "it is shown as it is read"
        );
    }
}
