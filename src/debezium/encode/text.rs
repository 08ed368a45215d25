//! Values as Debezium writes them in texts: the inverse of `time` and `decimal`. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::debezium::time::DAY_US;

/// Digits that fit a limb of 32 bits with what is carried.
const DIGITS_AT_ONCE: usize = 9;

/// `2024-02-29`, years before 1 and beyond 9999 with their sign, as Java's ISO texts.
pub(super) fn date(days: i64) -> String {
    let (year, month, day) = civil_from_days(days);
    match year {
        0..=9999 => format!("{year:04}-{month:02}-{day:02}"),
        ..0 => format!("-{:04}-{month:02}-{day:02}", -year),
        _ => format!("+{year}-{month:02}-{day:02}"),
    }
}

/// `10:34:56.123456`, the fraction with at least so many digits and no zeros behind these.
pub(super) fn time(us: i64, digits: usize) -> String {
    let (seconds, fraction) = (us.div_euclid(1_000_000), format!("{:06}", us.rem_euclid(1_000_000)));
    let kept = fraction.trim_end_matches('0').len().max(digits);
    let point = if kept > 0 { "." } else { "" };
    let fraction = fraction.get(..kept).unwrap_or(&fraction);
    format!("{:02}:{:02}:{:02}{point}{fraction}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// `2024-02-29T10:34:56.123456`, as [`time`].
pub(super) fn timestamp(us: i64, digits: usize) -> String {
    format!("{}T{}", date(us.div_euclid(DAY_US)), time(us.rem_euclid(DAY_US), digits))
}

/// The inverse of `days_from_civil`.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * shifted + 2) / 5 + 1, (shifted + 2) % 12 + 1);
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// Base64 of the shortest two's complement, big-endian, as Java's `BigInteger.toByteArray`.
pub(super) fn unscaled(value: i128) -> String {
    STANDARD.encode(shortest(&value.to_be_bytes()))
}

/// The unscaled value of a written number with `scale` digits after the point; `None` where it is no such number.
pub(super) fn unscaled_text(text: &str, scale: i32) -> Option<String> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mut digits = format!("{whole}{fraction}");
    let missing = i64::from(scale) - fraction.len() as i64;
    match usize::try_from(missing) {
        Ok(missing) => digits.extend(std::iter::repeat_n('0', missing)),
        Err(_) => {
            let beyond = usize::try_from(missing.unsigned_abs()).ok()?;
            let kept = digits.len().saturating_sub(beyond);
            let cut = digits.split_off(kept);
            if cut.bytes().any(|b| b != b'0') {
                return None;
            }
        }
    }
    let is_number = !whole.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| STANDARD.encode(bytes_of(negative, &digits)))
}

/// Scale and unscaled value of a written number.
pub(super) fn variable(text: &str) -> Option<(i32, String)> {
    let scale = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    let scale = i32::try_from(scale).ok()?;
    Some((scale, unscaled_text(text, scale)?))
}

/// Two's complement, big-endian, of a number of any length.
fn bytes_of(negative: bool, digits: &str) -> Vec<u8> {
    // The lowest limb first.
    let mut limbs: Vec<u32> = Vec::new();
    for chunk in digits.as_bytes().chunks(DIGITS_AT_ONCE) {
        let value = chunk.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
        let (factor, mut carry) = (10_u64.pow(chunk.len() as u32), value);
        for limb in &mut limbs {
            let product = u64::from(*limb) * factor + carry;
            (*limb, carry) = (product as u32, product >> 32);
        }
        if carry > 0 {
            limbs.push(carry as u32);
        }
    }
    let mut bytes = vec![0];
    bytes.extend(limbs.iter().rev().flat_map(|limb| limb.to_be_bytes()));
    if negative {
        let mut carry = true;
        for byte in bytes.iter_mut().rev() {
            (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
        }
    }
    shortest(&bytes).to_vec()
}

/// Without bytes that only repeat the sign.
fn shortest(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    while let [first, second, ..] = rest
        && (*first == 0 && second & 0x80 == 0 || *first == 0xff && second & 0x80 != 0)
    {
        rest = rest.get(1..).unwrap_or_default();
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debezium::{decimal, time as parse};
    use rstest::rstest;

    #[rstest]
    #[case(0, "1970-01-01")]
    #[case(-719_162, "0001-01-01")]
    #[case(-719_163, "0000-12-31")]
    #[case(19_782, "2024-02-29")]
    #[case(2_932_897, "+10000-01-01")]
    #[case(-2_440_588, "-4713-11-24")]
    fn days_are_written_as_java_does_and_read_again(#[case] days: i64, #[case] text: &str) {
        assert_eq!(date(days), text);
        assert_eq!(parse::parse_date(text).map(i64::from), Ok(days));
    }

    #[test]
    fn every_day_and_moment_comes_back() {
        for days in (-2_440_588..3_000_000).step_by(97) {
            assert_eq!(parse::parse_date(&date(days)).map(i64::from), Ok(days));
        }
        for us in [0, 1, -1, 999_999, 1_709_202_896_123_450, -62_135_596_800_000_001] {
            let text = format!("{}Z", timestamp(us, 0));
            assert_eq!(parse::parse_timestamp(&text, parse::Zone::Applied), Ok(us), "{text}");
        }
        let written = [time(0, 0), time(45_296_120_000, 0), time(45_296_120_000, 3), time(1, 6)];
        assert_eq!(written, ["00:00:00", "12:34:56.12", "12:34:56.120", "00:00:00.000001"]);
    }

    #[rstest]
    #[case("0", 0)]
    #[case("-0.01", 2)]
    #[case("127", 0)]
    #[case("128", 0)]
    #[case("-128", 0)]
    #[case("-129", 0)]
    #[case("1200", -2)]
    #[case("123456789012345678901234567890123456789012345678901234567890.123456789", 9)]
    #[case("-340282366920938463463374607431768211456", 0)]
    #[case("170141183460469231731687303715884105728", 0)]
    fn numbers_of_any_length_come_back(#[case] text: &str, #[case] scale: i32) {
        let base64 = unscaled_text(text, scale).unwrap();
        assert_eq!(decimal::unscaled(&base64).unwrap().to_text(scale).unwrap(), text);
        if let Ok(value) = text.parse::<i128>()
            && scale == 0
        {
            assert_eq!(unscaled(value), base64, "the shortest, by both ways");
        }
    }

    #[test]
    fn what_is_no_number_of_the_scale_is_refused() {
        assert_eq!(unscaled_text("1.05", 1), None);
        assert_eq!(unscaled_text("NaN", 1), None);
        assert_eq!(unscaled_text("", 1), None);
        assert_eq!(variable("1.50").unwrap().0, 2);
    }
}
