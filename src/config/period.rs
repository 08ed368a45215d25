//! Spans of time as people write them: `"500ms"`, `"30s"`, `"10m"`, `"12h"`, `"7d"`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period {
    pub ms: u64,
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (count, unit) = text.split_at(digits);
        let factor = UNITS.iter().find(|(name, _)| *name == unit.trim_start()).map(|(_, ms)| *ms);
        let ms = factor.and_then(|factor| count.parse::<u64>().ok()?.checked_mul(factor));
        ms.map(|ms| Self { ms }).ok_or_else(|| {
            format!("`{text}` is not a span of time: write a whole number and ms, s, m, h or d, as in \"10m\"")
        })
    }
}

/// In the largest unit that leaves no rest.
impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = UNITS.iter().find(|(_, factor)| self.ms.is_multiple_of(*factor)).unwrap_or(&("ms", 1));
        write!(f, "{}{unit}", self.ms / factor)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("250ms", 250, "250ms")]
    #[case("90s", 90_000, "90s")]
    #[case("10m", 600_000, "10m")]
    #[case("120 m", 7_200_000, "2h")]
    #[case("7d", 604_800_000, "7d")]
    fn periods_are_read(#[case] text: &str, #[case] ms: u64, #[case] shown: &str) {
        let period: Period = text.parse().unwrap();
        assert_eq!((period.ms, period.to_string()), (ms, shown.to_owned()));
    }

    #[rstest]
    #[case("")]
    #[case("10")]
    #[case("m")]
    #[case("1.5h")]
    #[case("-1s")]
    #[case("999999999999999999d")]
    fn others_are_not(#[case] text: &str) {
        assert!(text.parse::<Period>().unwrap_err().contains("as in \"10m\""));
    }
}
