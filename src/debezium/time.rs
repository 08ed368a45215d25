//! Dates and times: Debezium's units and ISO 8601 texts into days and µs. Pure; no clock, no time zone data.

use super::fault::{Fallible, bad_value, excerpt};

pub(super) const DAY_US: i64 = 86_400_000_000;

/// What one step of an integer time means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Millis,
    Micros,
    Nanos,
}

impl Unit {
    /// `None` where µs do not fit. Of nanoseconds the digits below a µs are cut off, towards the past.
    #[inline]
    pub(super) fn to_micros(self, value: i64) -> Option<i64> {
        match self {
            Unit::Millis => value.checked_mul(1000),
            Unit::Micros => Some(value),
            Unit::Nanos => Some(value.div_euclid(1000)),
        }
    }
}

/// Which way a value is infinite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Past,
    Future,
}

impl End {
    /// The first day of the year 1, or the last of the year 9999: what every engine can show.
    pub(super) fn days(self) -> i32 {
        match self {
            End::Past => -719_162,
            End::Future => 2_932_896,
        }
    }

    /// The first or the last µs of these days.
    pub(super) fn micros(self) -> i64 {
        match self {
            End::Past => i64::from(self.days()) * DAY_US,
            End::Future => (i64::from(self.days()) + 1) * DAY_US - 1,
        }
    }
}

/// A value, or the end of time that stands in its place.
pub(super) type Finite<T> = Result<T, End>;

/// PostgreSQL's `infinity` and `-infinity` among integer timestamps: as i64's ends, and as the dates that the JDBC driver puts in
/// their place (the same digits stand for ms or µs, by mode).
#[inline]
fn infinite_timestamp(value: i64) -> Option<End> {
    match value {
        i64::MAX | 9_223_372_036_825_200_000 => Some(End::Future),
        i64::MIN | -9_223_372_036_832_400_000 => Some(End::Past),
        _ => None,
    }
}

/// The same among days: as streamed, and as a snapshot over JDBC reads them.
#[inline]
fn infinite_date(days: i64) -> Option<End> {
    match days {
        2_146_033_979 | -622_191_234 => Some(End::Future),
        -2_147_472_691 | -625_821_272 => Some(End::Past),
        _ => None,
    }
}

/// The same among texts: timestamps, dates as streamed, dates as a snapshot over JDBC reads them.
fn infinite_text(text: &str) -> Option<End> {
    match text {
        "infinity" | "+292278994-08-16T23:00:00Z" | "+5877611-06-21Z" | "+292278994-08-16Z" => Some(End::Future),
        "-infinity" | "-292275055-05-16T23:00:00Z" | "-5877611-06-22Z" | "+292269055-12-02Z" => Some(End::Past),
        _ => None,
    }
}

/// PostgreSQL's calendar, the widest of all sources': from 24 November 4714 BC to the end of 5874897. What seems to lie outside is a
/// number that overflowed on its way.
const CALENDAR_DAYS: std::ops::RangeInclusive<i64> = -2_440_588..=2_145_042_905;

/// Days since the epoch.
#[inline]
pub(super) fn date(days: i64) -> Fallible<Finite<i32>> {
    if let Some(end) = infinite_date(days) {
        return Ok(Err(end));
    }
    match i32::try_from(days) {
        Ok(day) if CALENDAR_DAYS.contains(&days) => Ok(Ok(day)),
        _ => Err(bad_value(format!("{days} days since 1970 are no date of any source: they overflowed on their way"))),
    }
}

/// What `parse` makes of a text that is not infinite.
pub(super) fn finite<T>(text: &str, parse: impl Fn(&str) -> Fallible<T>) -> Fallible<Finite<T>> {
    match infinite_text(text) {
        Some(end) => Ok(Err(end)),
        None => parse(text).map(Ok),
    }
}

/// Time of day in µs. 24:00:00 and MySQL's times beyond a day have no place in Iceberg's time.
#[inline]
pub(super) fn time_of_day(value: i64, unit: Unit) -> Fallible<i64> {
    unit.to_micros(value).filter(|us| (0..DAY_US).contains(us)).ok_or_else(|| {
        bad_value(format!("time {value} ({unit:?}) lies outside a day: declare the column as long to keep it"))
    })
}

/// PostgreSQL's last timestamps, of the year 294276, come as negative counts of µs: they overflowed.
const EARLIEST_US: i64 = *CALENDAR_DAYS.start() * DAY_US;

/// µs since the epoch.
#[inline]
pub(super) fn timestamp(value: i64, unit: Unit) -> Fallible<Finite<i64>> {
    if let Some(end) = infinite_timestamp(value) {
        return Ok(Err(end));
    }
    match unit.to_micros(value) {
        Some(us) if us >= EARLIEST_US => Ok(Ok(us)),
        Some(_) => {
            Err(bad_value(format!("timestamp {value} ({unit:?}) lies before 4714 BC: it overflowed on its way")))
        }
        None => Err(bad_value(format!("timestamp {value} ({unit:?}) does not fit µs"))),
    }
}

/// Whether a text must, may or must not say its zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zone {
    /// An instant: the zone is needed and applied.
    Applied,
    /// A local time: `Z` (Debezium's isostring mode appends it) is read over. Any other zone says that it is none.
    Ignored,
}

/// `2024-02-29T10:34:56.123456Z` in µs since the epoch.
pub(super) fn parse_timestamp(text: &str, zone: Zone) -> Fallible<i64> {
    iso_timestamp(text.as_bytes(), zone).ok_or_else(|| {
        let zoned = if zone == Zone::Applied { " with a zone" } else { " without an offset" };
        bad_value(format!("{:?} is no timestamp{zoned} within range", excerpt(text)))
    })
}

/// `2024-02-29`, also `2024-02-29Z`, in days since the epoch.
pub(super) fn parse_date(text: &str) -> Fallible<i32> {
    iso_date(text.as_bytes())
        .and_then(|(days, rest)| matches!(rest, b"" | b"Z").then_some(days))
        .and_then(|days| i32::try_from(days).ok())
        .ok_or_else(|| bad_value(format!("{:?} is no date within range", excerpt(text))))
}

/// `10:34:56.123456`, also `10:34:56Z`, in µs since midnight.
pub(super) fn parse_time(text: &str) -> Fallible<i64> {
    iso_time(text.as_bytes())
        .and_then(|(us, rest)| matches!(iso_zone(rest)?, None | Some(0)).then_some(us))
        .ok_or_else(|| bad_value(format!("{:?} is no time of day without an offset", excerpt(text))))
}

fn iso_timestamp(text: &[u8], zone: Zone) -> Option<i64> {
    let (days, rest) = iso_date(text)?;
    let (us, rest) = match rest.split_first()? {
        (b'T' | b' ', rest) => iso_time(rest)?,
        _ => return None,
    };
    let offset_s = match (iso_zone(rest)?, zone) {
        (Some(offset), Zone::Applied) => offset,
        (None | Some(0), Zone::Ignored) => 0,
        (None, Zone::Applied) | (Some(_), Zone::Ignored) => return None,
    };
    days.checked_mul(DAY_US)?.checked_add(us)?.checked_sub(offset_s * 1_000_000)
}

/// Days, and what follows the date.
fn iso_date(text: &[u8]) -> Option<(i64, &[u8])> {
    let (negative, signed, text) = match text.first()? {
        b'-' => (true, true, text.get(1..)?),
        b'+' => (false, true, text.get(1..)?),
        _ => (false, false, text),
    };
    let year_len = text.iter().position(|b| *b == b'-').filter(|n| (4..=if signed { 9 } else { 4 }).contains(n))?;
    let year = number(text.get(..year_len)?)?;
    let [b'-', m1, m2, b'-', d1, d2, rest @ ..] = text.get(year_len..)? else { return None };
    let (month, day) = (number(&[*m1, *m2])?, number(&[*d1, *d2])?);
    let year = if negative { -year } else { year };
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    Some((days_from_civil(year, month, day), rest))
}

/// µs since midnight, and what follows.
fn iso_time(text: &[u8]) -> Option<(i64, &[u8])> {
    let [h1, h2, b':', m1, m2, rest @ ..] = text else { return None };
    let (hour, minute) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
    let (second, mut rest) = match rest {
        [b':', s1, s2, rest @ ..] => (number(&[*s1, *s2])?, rest),
        _ => (0, rest),
    };
    let mut us = 0;
    if let [b'.', fraction @ ..] = rest {
        let len = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
        if !(1..=12).contains(&len) {
            return None;
        }
        let (digits, after) = fraction.split_at(len);
        us = number(digits.get(..len.min(6))?)? * 10i64.pow(6 - len.min(6) as u32);
        rest = after;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some((((hour * 60 + minute) * 60 + second) * 1_000_000 + us, rest))
}

/// Seconds east of UTC; `Some(None)` where no zone is given.
fn iso_zone(text: &[u8]) -> Option<Option<i64>> {
    let (sign, rest) = match text {
        b"" => return Some(None),
        b"Z" => return Some(Some(0)),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hour, minute, second) = match rest {
        [h1, h2] => ([*h1, *h2], *b"00", *b"00"),
        [h1, h2, b':', m1, m2] | [h1, h2, m1, m2] => ([*h1, *h2], [*m1, *m2], *b"00"),
        [h1, h2, b':', m1, m2, b':', s1, s2] => ([*h1, *h2], [*m1, *m2], [*s1, *s2]),
        _ => return None,
    };
    let (hour, minute, second) = (number(&hour)?, number(&minute)?, number(&second)?);
    (hour < 24 && minute < 60 && second < 60).then_some(Some(sign * ((hour * 60 + minute) * 60 + second)))
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |sum, b| b.is_ascii_digit().then(|| sum * 10 + i64::from(b - b'0')))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar. Years begin in March here, so that a leap day ends one.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("2024-02-29T10:34:56.123456Z", Some(1_709_202_896_123_456))]
    #[case("1970-01-01T00:00:00Z", Some(0))]
    #[case("1969-12-31T23:59:59.999999Z", Some(-1))]
    #[case("2024-02-29T12:34:56+02:00", Some(1_709_202_896_000_000))]
    #[case("-0043-03-15T12:00:00.000000Z", Some(-63_517_780_800_000_000))]
    #[case("+12345-06-07T08:09:10.111213Z", Some(327_416_976_550_111_213))]
    #[case::beyond_i64_since_1970("+294276-12-31T23:59:59.999999Z", None)]
    #[case("1582-10-14T00:00:00.000000Z", Some(-12_219_379_200_000_000))]
    #[case("2024-02-29T10:34:56.123456789Z", Some(1_709_202_896_123_456))]
    #[case("2023-02-29T10:34:56Z", None)]
    #[case("2024-02-29T10:34:56", None)]
    #[case("2024-02-29T24:00:00Z", None)]
    #[case("2024-13-01T00:00:00Z", None)]
    #[case("2024-02-29", None)]
    #[case("+999999999-01-01T00:00:00Z", None)]
    #[case("2024-02-29T10:34:56Zx", None)]
    #[case("", None)]
    fn instants_are_read(#[case] text: &str, #[case] want: Option<i64>) {
        assert_eq!(parse_timestamp(text, Zone::Applied).ok(), want);
    }

    #[rstest]
    #[case("2024-02-29T10:34:56", true)]
    #[case("2024-02-29T10:34:56Z", true)]
    #[case("2024-02-29T10:34:56+00:00", true)]
    #[case("2024-02-29T10:34:56+02:00", false)]
    #[case("2024-02-29T10:34:56-00:30", false)]
    fn a_local_time_has_no_offset(#[case] text: &str, #[case] is_local: bool) {
        assert_eq!(parse_timestamp(text, Zone::Ignored).ok(), is_local.then_some(1_709_202_896_000_000));
        let time = text.trim_start_matches("2024-02-29T");
        assert_eq!(parse_time(time).ok(), is_local.then_some(38_096_000_000));
    }

    #[test]
    fn dates_agree_with_chrono_over_eight_thousand_years() {
        let mut day = chrono::NaiveDate::from_ymd_opt(-999, 1, 1).unwrap();
        while let Some(next) = day.checked_add_days(chrono::Days::new(13)).filter(|d| *d < chrono::NaiveDate::MAX) {
            if next.to_string().starts_with('+') {
                break;
            }
            let want = next.signed_duration_since(chrono::NaiveDate::from_ymd_opt(1970, 1, 1).unwrap()).num_days();
            assert_eq!(i64::from(parse_date(&next.to_string()).unwrap()), want, "{next}");
            day = next;
        }
    }

    #[rstest]
    #[case::as_it_begins(-210_866_803_200_000_000, Unit::Micros, Some(-210_866_803_200_000_000))]
    #[case::a_microsecond_before(-210_866_803_200_000_001, Unit::Micros, None)]
    #[case::postgresql_294276_12_31(-9_223_372_036_853_775_810, Unit::Micros, None)]
    #[case(-62_135_596_800_000, Unit::Millis, Some(-62_135_596_800_000_000))]
    #[case(9_224_318_015_999_999, Unit::Millis, None)]
    #[case(-1, Unit::Nanos, Some(-1))]
    fn a_timestamp_lies_within_the_sources_calendar(#[case] value: i64, #[case] unit: Unit, #[case] want: Option<i64>) {
        assert_eq!(timestamp(value, unit).ok(), want.map(Ok));
    }

    #[rstest]
    #[case::streamed("+5877611-06-21Z", Some(End::Future))]
    #[case::streamed("-5877611-06-22Z", Some(End::Past))]
    #[case::from_a_snapshot("+292278994-08-16Z", Some(End::Future))]
    #[case::from_a_snapshot("+292269055-12-02Z", Some(End::Past))]
    #[case::the_last_date("+5874897-12-31Z", None)]
    fn infinite_dates_of_isostring_mode_are_known(#[case] text: &str, #[case] want: Option<End>) {
        assert_eq!(infinite_text(text), want);
    }

    #[rstest]
    #[case::first("-4713-11-24", -1)]
    #[case::last("+5874897-12-31", 1)]
    fn the_calendar_ends_where_postgresqls_does(#[case] text: &str, #[case] outward: i64) {
        let day = parse_date(text).unwrap();
        assert_eq!(date(day.into()).unwrap(), Ok(day));
        assert!(date(i64::from(day) + outward).is_err());
    }

    #[rstest]
    #[case("00:00:00", Some(0))]
    #[case("23:59:59.999999", Some(DAY_US - 1))]
    #[case("12:34Z", Some(45_240_000_000))]
    #[case("04:41:12.131415+00", Some(16_872_131_415))]
    #[case::no_local_time("04:41:12.131415+02", None)]
    #[case("24:00:00Z", None)]
    #[case("1:2:3", None)]
    fn times_of_day_are_read(#[case] text: &str, #[case] want: Option<i64>) {
        assert_eq!(parse_time(text).ok(), want);
    }

    #[rstest]
    #[case(86_399_999, Unit::Millis, Some(86_399_999_000))]
    #[case(86_400_000_000, Unit::Micros, None)]
    #[case(-1, Unit::Micros, None)]
    #[case(1_999, Unit::Nanos, Some(1))]
    fn a_time_lies_within_a_day(#[case] value: i64, #[case] unit: Unit, #[case] want: Option<i64>) {
        assert_eq!(time_of_day(value, unit).ok(), want);
    }
}
