//! Writing JSON and Debezium's encodings by hand into one buffer: the generator must outrun what it tests.

const HEX: &[u8; 16] = b"0123456789abcdef";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub fn int(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    uint(out, value.unsigned_abs());
}

pub fn uint(out: &mut Vec<u8>, value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        // `at` stays in 0..20: a u64 has at most 20 decimal digits.
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Exactly `width` digits, zeros in front.
fn padded(out: &mut Vec<u8>, value: u64, width: u32) {
    let mut unit = 10u64.pow(width.saturating_sub(1));
    while unit > 0 {
        out.push(b'0' + (value / unit % 10) as u8);
        unit /= 10;
    }
}

/// A quoted string, escaped as Jackson does: only what JSON demands, everything else as UTF-8.
pub fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escaped(out, text);
    out.push(b'"');
}

/// The inside of a quoted string.
pub fn escaped(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut plain = 0;
    for (i, b) in bytes.iter().enumerate() {
        let short = match b {
            b'"' => b'"',
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0..0x20 => b'u',
            _ => continue,
        };
        out.extend_from_slice(&bytes[plain..i]);
        out.extend_from_slice(&[b'\\', short]);
        if short == b'u' {
            out.extend_from_slice(&[b'0', b'0', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
        }
        plain = i + 1;
    }
    out.extend_from_slice(&bytes[plain..]);
}

/// Java's Double.toString for the ordinary range: at least one digit after the point.
pub fn double(out: &mut Vec<u8>, value: f64) {
    use std::io::Write;
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{value:?}");
}

/// Connect's Decimal in JSON: the unscaled value, big-endian two's complement of least length, in base64.
pub fn decimal(out: &mut Vec<u8>, unscaled: i64) {
    let bytes = unscaled.to_be_bytes();
    let mut from = 0;
    while from < 7 && (bytes[from] == 0 && bytes[from + 1] < 0x80 || bytes[from] == 0xff && bytes[from + 1] >= 0x80) {
        from += 1;
    }
    out.push(b'"');
    for chunk in bytes[from..].chunks(3) {
        let n = chunk.iter().fold(0u32, |n, b| (n << 8) | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            out.push(if i <= chunk.len() { BASE64[(n >> (18 - 6 * i) & 63) as usize] } else { b'=' });
        }
    }
    out.push(b'"');
}

/// 8-4-4-4-12, without quotes.
pub fn uuid(out: &mut Vec<u8>, value: u128) {
    for (i, b) in value.to_be_bytes().iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        out.extend_from_slice(&[HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
    }
}

/// Debezium's ZonedTimestamp of a column with microseconds: `2024-05-01T10:00:00.000000Z`, without quotes. `micros` is since
/// the epoch, from 1970 on.
pub fn zoned(out: &mut Vec<u8>, micros: i64) {
    let (days, in_day) = (micros.div_euclid(86_400_000_000), micros.rem_euclid(86_400_000_000) as u64);
    let (year, month, day) = civil(days);
    padded(out, year as u64, 4);
    out.push(b'-');
    padded(out, month, 2);
    out.push(b'-');
    padded(out, day, 2);
    out.push(b'T');
    let seconds = in_day / 1_000_000;
    padded(out, seconds / 3600, 2);
    out.push(b':');
    padded(out, seconds / 60 % 60, 2);
    out.push(b':');
    padded(out, seconds % 60, 2);
    out.push(b'.');
    padded(out, in_day % 1_000_000, 6);
    out.push(b'Z');
}

/// Days since the epoch as year, month, day of the Gregorian calendar.
pub fn civil(days: i64) -> (i64, u64, u64) {
    // Years begin in March here, so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u64;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 } as u64;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use rstest::rstest;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[rstest]
    #[case(12_999, "Msc=")]
    #[case(8950, "IvY=")]
    #[case(1, "AQ==")]
    #[case(0, "AA==")]
    #[case(25_998, "ZY4=")]
    fn decimals_are_encoded_as_in_captured_records(#[case] unscaled: i64, #[case] want: &str) {
        assert_eq!(text(|o| decimal(o, unscaled)), format!("\"{want}\""));
    }

    #[test]
    fn decimals_of_every_length_and_sign_read_back() {
        for value in
            (0..63).flat_map(|b| [1i64 << b, (1 << b) - 1, -(1 << b), -(1 << b) - 1]).chain([i64::MIN, i64::MAX])
        {
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(text(|o| decimal(o, value)).trim_matches('"'))
                .unwrap();
            let sign = if bytes[0] >= 0x80 { -1i128 } else { 0 };
            assert_eq!(bytes.iter().fold(sign, |n, b| (n << 8) | i128::from(*b)), i128::from(value));
            let redundant =
                bytes.len() > 1 && (bytes[0] == 0 && bytes[1] < 0x80 || bytes[0] == 0xff && bytes[1] >= 0x80);
            assert!(!redundant, "{value} is longer than needed");
        }
    }

    #[test]
    fn a_string_reads_back_through_another_json_library() {
        let wild = "quote \" slash \\ tab\t line\n return\r null\0 unit\u{1f} żółć 東京 😀";
        assert_eq!(serde_json::from_str::<String>(&text(|o| string(o, wild))).unwrap(), wild);
    }

    #[test]
    fn times_agree_with_chrono() {
        for i in 0..5000i64 {
            let micros = i * 3_155_692_597_411 / 7;
            let want =
                chrono::DateTime::from_timestamp_micros(micros).unwrap().format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
            assert_eq!(text(|o| zoned(o, micros)), want);
        }
    }

    #[rstest]
    #[case(0)]
    #[case(i64::MIN)]
    #[case(i64::MAX)]
    #[case(-105)]
    fn integers_are_whole(#[case] value: i64) {
        assert_eq!(text(|o| int(o, value)), value.to_string());
    }
}
