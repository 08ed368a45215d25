//! What is wrong with a configuration, where it stands, and the nearest right name.

use std::path::PathBuf;

/// A configuration that can't be used. The message says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("can't read {}: {source}; name the file with --config or write one with `firn config init`", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// TOML syntax, an unknown key, a value of the wrong type, a field that fails its own check.
    #[error("{}:{line}: {message}", path.display())]
    At { path: PathBuf, line: usize, message: String },
    /// Two topics that the naming rule sends to one table.
    #[error(
        "`{first}` and `{second}` both map to table {table}: give one of them a name of its own under [[lake.tables]] or [[pipelines.lake]]"
    )]
    Collision { table: String, first: String, second: String },
}

/// A field that fails its own check, before file and line are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Relative to the struct that found it, e.g. `workers`; parents put themselves in front with [`Problem::under`].
    pub field: String,
    pub message: String,
}

impl Problem {
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }

    #[must_use]
    pub fn under(self, parent: &str) -> Self {
        let field = if self.field.is_empty() { parent.to_owned() } else { format!("{parent}.{}", self.field) };
        Self { field, message: self.message }
    }
}

/// The candidate that a mistyped `word` most likely meant, `None` where nothing comes near.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |s: &str| s.to_lowercase().replace(['-', '.'], "_");
    let word = plain(word);
    candidates
        .into_iter()
        .map(|c| (likeness(&word, &plain(c)), c))
        // Below 0.8 the suggestion confuses more than it helps; a dropped or swapped letter scores above 0.9.
        .filter(|(score, _)| *score >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, c)| c)
}

/// 0 to 1. One slip of the finger is near however short the word is, which Jaro-Winkler does not see.
fn likeness(word: &str, candidate: &str) -> f64 {
    let one_slip = candidate.len() > 2 && strsim::osa_distance(word, candidate) == 1;
    strsim::jaro_winkler(word, candidate).max(if one_slip { 0.9 } else { 0.0 })
}

/// Turns serde's wording into firn's: the key, the nearest right name, or the whole list where nothing is near.
///
/// serde's messages have two forms: ``unknown field `x`, expected one of `a`, `b` `` and ``unknown variant ...`` likewise.
pub(super) fn friendly(message: &str) -> String {
    for (start, noun) in [("unknown field `", "key"), ("unknown variant `", "value")] {
        let Some(rest) = message.strip_prefix(start) else { continue };
        let mut names = rest.split('`').step_by(2);
        let Some(wrong) = names.next() else { continue };
        let right: Vec<&str> = rest.split('`').skip(2).step_by(2).collect();
        return match nearest(wrong, right.iter().copied()) {
            Some(name) => format!("unknown {noun} `{wrong}`, did you mean `{name}`?"),
            None => format!("unknown {noun} `{wrong}`, there are: {}", right.join(", ")),
        };
    }
    message.strip_prefix("missing field `").and_then(|m| m.strip_suffix('`')).map_or_else(
        || message.lines().collect::<Vec<_>>().join(" "),
        |name| format!("`{name}` is missing and has no default"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("unknown field `gruop`, expected one of `group`, `start`", "unknown key `gruop`, did you mean `group`?")]
    #[case("unknown field `zzz`, expected `group` or `start`", "unknown key `zzz`, there are: group, start")]
    #[case(
        "unknown variant `upserts`, expected `append` or `upsert`",
        "unknown value `upserts`, did you mean `upsert`?"
    )]
    #[case("missing field `uri`", "`uri` is missing and has no default")]
    fn messages_name_the_nearest_right_name(#[case] serde: &str, #[case] want: &str) {
        assert_eq!(friendly(serde), want);
    }
}
