//! Hours of the week in which something is not done: `"08:00-18:00"`, `"mon-fri 08:00-18:00, sat 22:00-02:00"`. UTC.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const DAY_MIN: u16 = 24 * 60;
const WEEK_MIN: u16 = 7 * DAY_MIN;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const MIN_MS: i64 = 60_000;
/// The epoch was a Thursday.
const EPOCH_MIN: i64 = 3 * DAY_MIN as i64;

/// Windows of the week, none by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuietHours {
    windows: Vec<Window>,
}

/// On each of the days, from a minute of the day on; across midnight it ends on the next day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    /// From Monday on.
    days: [bool; 7],
    from: u16,
    to: u16,
}

impl Window {
    fn minutes(self) -> u16 {
        if self.to > self.from { self.to - self.from } else { DAY_MIN - self.from + self.to }
    }

    /// The windows of a week: where each begins, in minutes from Monday on, and how long it is.
    fn of_week(self) -> impl Iterator<Item = (u16, u16)> {
        let begins = (0_u16..).zip(self.days).filter(|(_, on)| *on).map(move |(day, _)| day * DAY_MIN + self.from);
        begins.map(move |begin| (begin, self.minutes()))
    }
}

impl QuietHours {
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// When the quiet that holds at this moment ends, where it does; one window may lead into the next.
    pub fn until(&self, now_ms: i64) -> Option<i64> {
        let mut at = now_ms;
        // A week of windows that touch never ends.
        while let Some(end) = self.end(at) {
            at = end;
            if at - now_ms >= i64::from(WEEK_MIN) * MIN_MS {
                break;
            }
        }
        (at > now_ms).then_some(at)
    }

    /// When the quiet that holds at this moment began, where it did.
    pub fn since(&self, now_ms: i64) -> Option<i64> {
        let mut since = self.begin(now_ms)?;
        while now_ms - since < i64::from(WEEK_MIN) * MIN_MS {
            let Some(begin) = self.begin(since - 1) else { break };
            since = begin;
        }
        Some(since)
    }

    /// The end of the window that this moment is in.
    fn end(&self, at_ms: i64) -> Option<i64> {
        let left = self.around(at_ms).map(|(into, minutes)| minutes - into).max()?;
        Some((at_ms.div_euclid(MIN_MS) + i64::from(left)) * MIN_MS)
    }

    /// Its begin.
    fn begin(&self, at_ms: i64) -> Option<i64> {
        let into = self.around(at_ms).map(|(into, _)| into).max()?;
        Some((at_ms.div_euclid(MIN_MS) - i64::from(into)) * MIN_MS)
    }

    /// The windows that this moment is in: how many minutes after their begin, and how long they are.
    fn around(&self, at_ms: i64) -> impl Iterator<Item = (u16, u16)> {
        let minute = (at_ms.div_euclid(MIN_MS) + EPOCH_MIN).rem_euclid(i64::from(WEEK_MIN)) as u16;
        let windows = self.windows.iter().flat_map(|w| w.of_week());
        // One that began on Sunday may end on Monday.
        let into = windows.map(move |(begin, minutes)| ((minute + WEEK_MIN - begin) % WEEK_MIN, minutes));
        into.filter(|(into, minutes)| into < minutes)
    }

    /// Whether no minute of the week is left.
    pub fn is_always(&self) -> bool {
        (0..WEEK_MIN).all(|minute| self.end((i64::from(minute) - EPOCH_MIN) * MIN_MS).is_some())
    }
}

impl FromStr for QuietHours {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let windows = text.split(',').map(|part| window(part.trim())).collect::<Result<_, _>>()?;
        Ok(Self { windows })
    }
}

fn window(text: &str) -> Result<Window, String> {
    let wrong = |what: &str| {
        format!(
            "`{text}` {what}: write hours of UTC as \"08:00-18:00\", days before them as \"mon-fri 08:00-18:00\", several with commas \
             between"
        )
    };
    let (days, hours) = match text.rsplit_once(' ') {
        Some((days, hours)) => (days_of(days.trim()).ok_or_else(|| wrong("names no days of the week"))?, hours),
        None => ([true; 7], text),
    };
    let (from, to) = hours.split_once('-').ok_or_else(|| wrong("is no span of hours"))?;
    let (Some(from), Some(to)) = (minute_of(from), minute_of(to)) else { return Err(wrong("has no such time")) };
    if from == to || from == DAY_MIN {
        return Err(format!("`{text}` is empty: write a whole day as \"00:00-24:00\""));
    }
    Ok(Window { days, from, to })
}

/// `mon`, or `fri-mon`.
fn days_of(text: &str) -> Option<[bool; 7]> {
    let day = |name: &str| DAYS.iter().position(|d| d.eq_ignore_ascii_case(name));
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (day(first)?, day(last)?),
        None => (day(text)?, day(text)?),
    };
    let span = (last + 7 - first) % 7;
    Some(std::array::from_fn(|d| (d + 7 - first) % 7 <= span))
}

/// `08:00`, `24:00`.
fn minute_of(text: &str) -> Option<u16> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let two = |digits: &str| (digits.len() == 2).then(|| digits.parse::<u16>().ok())?;
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY_MIN).then_some(minute)
}

impl fmt::Display for QuietHours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, window) in self.windows.iter().enumerate() {
            if n > 0 {
                f.write_str(", ")?;
            }
            window.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |day: usize| self.days[day % 7];
        if let Some(first) = (0..7).find(|day| on(*day) && !on(day + 6)) {
            let last = (first..first + 7).take_while(|day| on(*day)).last().unwrap_or(first) % 7;
            match first == last {
                true => write!(f, "{} ", DAYS[first])?,
                false => write!(f, "{}-{} ", DAYS[first], DAYS[last])?,
            }
        }
        let (from, to) = (self.from, self.to);
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

impl<'de> Deserialize<'de> for QuietHours {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for QuietHours {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use rstest::rstest;

    fn ms(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(&format!("{text}Z")).unwrap().timestamp_millis()
    }

    /// 2026-03-02 is a Monday.
    #[rstest]
    #[case::before("08:00-18:00", "2026-03-02T07:59:59", None)]
    #[case::within("08:00-18:00", "2026-03-02T08:00:00", Some("2026-03-02T18:00:00"))]
    #[case::its_last_minute("08:00-18:00", "2026-03-02T17:59:59", Some("2026-03-02T18:00:00"))]
    #[case::after("08:00-18:00", "2026-03-02T18:00:00", None)]
    #[case::before_midnight("22:00-02:00", "2026-03-02T23:30:00", Some("2026-03-03T02:00:00"))]
    #[case::after_midnight("22:00-02:00", "2026-03-02T01:30:00", Some("2026-03-02T02:00:00"))]
    #[case::working_day("mon-fri 08:00-18:00", "2026-03-06T12:00:00", Some("2026-03-06T18:00:00"))]
    #[case::weekend("mon-fri 08:00-18:00", "2026-03-07T12:00:00", None)]
    #[case::sunday_into_monday("sun 22:00-02:00", "2026-03-02T01:00:00", Some("2026-03-02T02:00:00"))]
    #[case::monday_into_tuesday_is_not_meant("sun 22:00-02:00", "2026-03-03T01:00:00", None)]
    #[case::around_the_week("sat-mon 10:00-11:00", "2026-03-02T10:30:00", Some("2026-03-02T11:00:00"))]
    #[case::one_leads_into_the_next("08:00-12:00, 12:00-14:00", "2026-03-02T09:00:00", Some("2026-03-02T14:00:00"))]
    #[case::the_longer_counts("08:00-12:00, 09:00-10:00", "2026-03-02T09:30:00", Some("2026-03-02T12:00:00"))]
    #[case::whole_days("sat-sun 00:00-24:00", "2026-03-07T12:00:00", Some("2026-03-09T00:00:00"))]
    #[case::never("", "2026-03-07T12:00:00", None)]
    fn hours_are_quiet(#[case] hours: &str, #[case] now: &str, #[case] until: Option<&str>) {
        let quiet: QuietHours = hours.parse().unwrap();
        assert_eq!(quiet.until(ms(now)), until.map(ms));
    }

    #[rstest]
    #[case::before("08:00-18:00", "2026-03-02T07:59:59", None)]
    #[case::its_first_minute("08:00-18:00", "2026-03-02T08:00:59", Some("2026-03-02T08:00:00"))]
    #[case::within("08:00-18:00", "2026-03-02T17:00:00", Some("2026-03-02T08:00:00"))]
    #[case::after_midnight("22:00-02:00", "2026-03-02T01:30:00", Some("2026-03-01T22:00:00"))]
    #[case::sunday_into_monday("sun 22:00-02:00", "2026-03-02T01:00:00", Some("2026-03-01T22:00:00"))]
    #[case::one_leads_into_the_next("08:00-12:00, 12:00-14:00", "2026-03-02T13:00:00", Some("2026-03-02T08:00:00"))]
    #[case::whole_days("sat-sun 00:00-24:00", "2026-03-08T12:00:00", Some("2026-03-07T00:00:00"))]
    #[case::never("", "2026-03-07T12:00:00", None)]
    fn quiet_hours_have_a_begin(#[case] hours: &str, #[case] now: &str, #[case] since: Option<&str>) {
        let quiet: QuietHours = hours.parse().unwrap();
        assert_eq!(quiet.since(ms(now)), since.map(ms));
    }

    #[test]
    fn quiet_that_never_ends_has_a_begin_somewhere() {
        let quiet: QuietHours = "00:00-24:00".parse().unwrap();
        let now = ms("2026-03-02T13:00:00");
        assert!(quiet.since(now).unwrap() <= now && quiet.until(now).unwrap() > now);
    }

    #[rstest]
    #[case("08:00-18:00")]
    #[case("mon-fri 08:00-18:00, sat 22:00-02:00")]
    #[case("sat-mon 00:00-24:00")]
    #[case("")]
    fn they_are_shown_as_they_are_written(#[case] text: &str) {
        let quiet: QuietHours = text.parse().unwrap();
        assert_eq!((quiet.to_string().as_str(), quiet.is_empty()), (text, text.is_empty()));
    }

    #[rstest]
    #[case("8-18", "has no such time")]
    #[case("08:00", "is no span of hours")]
    #[case("08:00-25:00", "has no such time")]
    #[case("08:60-09:00", "has no such time")]
    #[case("weekdays 08:00-18:00", "names no days")]
    #[case("08:00-08:00", "is empty")]
    #[case("08:00-18:00,", "is no span of hours")]
    fn others_are_named_with_the_right_form(#[case] text: &str, #[case] want: &str) {
        let e = text.parse::<QuietHours>().unwrap_err();
        assert!(e.contains(want), "{e}");
    }

    #[test]
    fn a_week_without_a_gap_is_seen() {
        let always: QuietHours = "00:00-12:00, 12:00-24:00".parse().unwrap();
        assert!(always.is_always() && always.until(0).is_some());
        assert!(!"mon-sat 00:00-24:00".parse::<QuietHours>().unwrap().is_always());
    }
}
