//! Times on the command line.

/// A time or a time ago, as ms since the epoch.
pub(super) fn moment(text: &str) -> Result<i64, String> {
    if let Ok(at) = chrono::DateTime::parse_from_rfc3339(text) {
        return Ok(at.timestamp_millis());
    }
    let unit_ms = match text.chars().last() {
        Some('s') => 1_000,
        Some('m') => 60_000,
        Some('h') => 3_600_000,
        Some('d') => 86_400_000,
        _ => 0,
    };
    let number = text.get(..text.len().saturating_sub(1)).and_then(|n| n.parse::<i64>().ok()).filter(|n| *n >= 0);
    match number.filter(|_| unit_ms > 0).and_then(|n| n.checked_mul(unit_ms)) {
        Some(ago_ms) => Ok(chrono::Utc::now().timestamp_millis() - ago_ms),
        None => Err("neither a time (2026-01-31T12:00:00Z) nor a time ago (90s, 30m, 12h, 7d)".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_a_time_ago() {
        assert_eq!(moment("1970-01-01T00:00:01+00:00"), Ok(1_000));
        let now = chrono::Utc::now().timestamp_millis();
        for (text, ago_ms) in [("90s", 90_000), ("30m", 1_800_000), ("12h", 43_200_000), ("7d", 604_800_000)] {
            assert!((moment(text).unwrap() - (now - ago_ms)).abs() < 5_000, "{text}");
        }
        for wrong in ["", "d", "7", "-7d", "7w", "yesterday", "é"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }
}
