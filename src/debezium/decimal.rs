//! Decimals: Connect's big-endian unscaled bytes and written numbers, into i128 or into text. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::fault::{Fallible, Reject, bad_value, excerpt};

/// More bytes than PostgreSQL's longest numeric (147,000 digits) needs; turning bytes into digits is quadratic, so there is a bound.
const MAX_UNSCALED_BYTES: usize = 64 * 1024;

/// PostgreSQL's largest scale. A scale makes digits out of nothing, so it needs a bound of its own.
const MAX_SCALE: u32 = 16_383;

/// The unscaled bytes behind a base64 string.
pub(super) fn unscaled(base64: &str) -> Fallible<Unscaled> {
    let mut short = [0u8; 48];
    if base64.len() <= 64
        && let Ok(len) = STANDARD.decode_slice(base64, &mut short)
    {
        return Ok(Unscaled::Short(short, len));
    }
    if base64.len() / 4 * 3 > MAX_UNSCALED_BYTES {
        return Err(too_long());
    }
    STANDARD
        .decode(base64)
        .map(Unscaled::Long)
        .map_err(|e| bad_value(format!("{:?} is no base64: {e}", excerpt(base64))))
}

#[cold]
fn too_long() -> Box<Reject> {
    bad_value(format!("a decimal of more than {MAX_UNSCALED_BYTES} bytes"))
}

/// A written number as the unscaled value of a `decimal(precision,scale)`.
pub(super) fn fit_written(text: &str, precision: u8, scale: u8) -> Fallible<i128> {
    let (value, from) = parse(text)?;
    rescale(value, from, precision, scale)
}

/// What stands for a numeric without digits.
pub(super) fn is_infinite(text: &str) -> bool {
    matches!(text, "NAN" | "NaN" | "POSITIVE_INFINITY" | "NEGATIVE_INFINITY" | "Infinity" | "-Infinity")
}

/// Big-endian two's complement.
pub(super) enum Unscaled {
    Short([u8; 48], usize),
    Long(Vec<u8>),
}

impl Unscaled {
    /// Bytes as they are.
    pub(super) fn of(bytes: &[u8]) -> Fallible<Self> {
        let mut short = [0u8; 48];
        match short.get_mut(..bytes.len()) {
            Some(into) => {
                into.copy_from_slice(bytes);
                Ok(Unscaled::Short(short, bytes.len()))
            }
            None if bytes.len() > MAX_UNSCALED_BYTES => Err(too_long()),
            None => Ok(Unscaled::Long(bytes.to_vec())),
        }
    }

    /// The number as the unscaled value of a `decimal(precision,scale)`; it comes with `from` digits after the point.
    pub(super) fn fit(&self, from: i32, precision: u8, scale: u8) -> Fallible<i128> {
        match self.to_i128() {
            Some(number) => rescale(number, from, precision, scale),
            None => Err(bad_value(format!("a number of more than 128 bits does not fit decimal({precision},{scale})"))),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Unscaled::Short(bytes, len) => bytes.get(..*len).unwrap_or_default(),
            Unscaled::Long(bytes) => bytes,
        }
    }

    /// The number, `None` where it needs more than 128 bits.
    pub(super) fn to_i128(&self) -> Option<i128> {
        let bytes = self.bytes();
        let fill = if bytes.first().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
        let spare = bytes.len().saturating_sub(16);
        let (lead, low) = bytes.split_at(spare);
        if lead.iter().any(|b| *b != fill) || (spare > 0 && low.first().is_some_and(|b| (b ^ fill) & 0x80 != 0)) {
            return None;
        }
        let mut wide = [fill; 16];
        wide[16 - low.len()..].copy_from_slice(low); // `low` has at most 16 bytes
        Some(i128::from_be_bytes(wide))
    }

    /// The number in digits with `scale` of them after the point (none before it: a negative scale adds zeros).
    pub(super) fn to_text(&self, scale: i32) -> Fallible<String> {
        if scale.unsigned_abs() > MAX_SCALE {
            return Err(bad_value(format!("a decimal of scale {scale}")));
        }
        let (negative, digits) = match self.to_i128() {
            Some(value) => (value < 0, value.unsigned_abs().to_string()),
            None => long_digits(self.bytes()),
        };
        Ok(place_point(negative, digits, scale))
    }
}

/// Sign and digits of a number of any length.
fn long_digits(bytes: &[u8]) -> (bool, String) {
    const CHUNK: u64 = 1_000_000_000_000_000_000;
    let negative = bytes.first().is_some_and(|b| b & 0x80 != 0);
    // The magnitude as 32-bit limbs, the highest first.
    let mut magnitude: Vec<u8> = if negative { bytes.iter().map(|b| !b).collect() } else { bytes.to_vec() };
    if negative {
        for byte in magnitude.iter_mut().rev() {
            let (sum, carry) = byte.overflowing_add(1);
            *byte = sum;
            if !carry {
                break;
            }
        }
        if magnitude.iter().all(|b| *b == 0) {
            magnitude.insert(0, 1); // the one magnitude that needs a byte more than its negative
        }
    }
    let pad = (4 - magnitude.len() % 4) % 4;
    magnitude.splice(0..0, std::iter::repeat_n(0, pad));
    let mut limbs: Vec<u64> =
        magnitude.chunks(4).map(|c| c.iter().fold(0u64, |sum, b| sum << 8 | u64::from(*b))).collect();
    let mut chunks = Vec::new();
    while limbs.iter().any(|l| *l != 0) {
        let mut remainder = 0u128;
        for limb in &mut limbs {
            let part = remainder << 32 | u128::from(*limb);
            *limb = (part / u128::from(CHUNK)) as u64; // below 2^32: the remainder is below CHUNK
            remainder = part % u128::from(CHUNK);
        }
        chunks.push(remainder as u64);
        let zeros = limbs.iter().take_while(|l| **l == 0).count();
        limbs.drain(..zeros);
    }
    let mut digits = chunks.pop().unwrap_or(0).to_string();
    for chunk in chunks.iter().rev() {
        digits.push_str(&format!("{chunk:018}"));
    }
    (negative, digits)
}

pub(super) fn place_point(negative: bool, mut digits: String, scale: i32) -> String {
    if scale < 0 {
        if digits != "0" {
            digits.extend(std::iter::repeat_n('0', scale.unsigned_abs() as usize));
        }
    } else {
        let scale = scale as usize;
        if digits.len() <= scale {
            digits.insert_str(0, &"0".repeat(scale + 1 - digits.len()));
        }
        if scale > 0 {
            digits.insert(digits.len() - scale, '.');
        }
    }
    if negative {
        digits.insert(0, '-');
    }
    digits
}

/// `value` of `from` digits after the point as a number of `scale` digits after it, where that loses nothing and stays within
/// `precision`.
fn rescale(value: i128, from: i32, precision: u8, scale: u8) -> Fallible<i128> {
    let shift = i32::from(scale).saturating_sub(from);
    let scaled = if value == 0 {
        Some(0)
    } else if shift >= 0 {
        power_of_ten(shift as u32).and_then(|p| value.checked_mul(p))
    } else {
        power_of_ten(shift.unsigned_abs()).filter(|p| value % p == 0).map(|p| value / p)
    };
    scaled
        .filter(|v| power_of_ten(u32::from(precision)).is_none_or(|limit| v.unsigned_abs() < limit.unsigned_abs()))
        .ok_or_else(|| bad_value(format!("{} does not fit decimal({precision},{scale})", place_digits(value, from))))
}

fn place_digits(value: i128, scale: i32) -> String {
    place_point(value < 0, value.unsigned_abs().to_string(), scale.clamp(-100, 100))
}

/// `None` above 10^38, the last power within i128.
fn power_of_ten(exponent: u32) -> Option<i128> {
    10i128.checked_pow(exponent)
}

/// A written number, `-12.50` or `1.25e3`, as unscaled value and scale.
fn parse(text: &str) -> Fallible<(i128, i32)> {
    parts(text).ok_or_else(|| bad_value(format!("{:?} is no decimal of at most 38 digits", excerpt(text))))
}

fn parts(text: &str) -> Option<(i128, i32)> {
    let (number, exponent) = match text.find(['e', 'E']) {
        Some(at) => (text.get(..at)?, text.get(at + 1..)?.parse::<i32>().ok().filter(|e| e.unsigned_abs() < 1000)?),
        None => (text, 0),
    };
    let (negative, number) = match number.as_bytes().first()? {
        b'-' => (true, number.get(1..)?),
        b'+' => (false, number.get(1..)?),
        _ => (false, number),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut value = 0i128;
    for byte in whole.bytes().chain(fraction.bytes()) {
        let digit = byte.is_ascii_digit().then(|| i128::from(byte - b'0'))?;
        value = value.checked_mul(10)?.checked_add(digit)?;
    }
    Some((if negative { -value } else { value }, i32::try_from(fraction.len()).ok()? - exponent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("tmn9Lg==", 2, "-12345678.90", Some(-1234567890))]
    #[case("AQ==", 2, "0.01", Some(1))]
    #[case("/w==", 18, "-0.000000000000000001", Some(-1))]
    #[case("/h3A", 2, "-1234.56", Some(-123456))]
    #[case(
        "SztMqFqGxHoJiiI//////w==",
        0,
        "99999999999999999999999999999999999999",
        Some(99999999999999999999999999999999999999)
    )]
    #[case("AA==", 0, "0", Some(0))]
    #[case("", 2, "0.00", Some(0))]
    #[case("BQ==", -3, "5000", Some(5))]
    #[case("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=", 0, "1", Some(1))]
    fn unscaled_bytes_become_the_number(
        #[case] base64: &str,
        #[case] scale: i32,
        #[case] text: &str,
        #[case] number: Option<i128>,
    ) {
        let bytes = unscaled(base64).unwrap();
        assert_eq!(bytes.to_text(scale).unwrap(), text);
        assert_eq!(bytes.to_i128(), number);
    }

    #[test]
    fn numbers_beyond_128_bits_keep_all_digits() {
        let bytes = unscaled("BJRK1Gr+0KdSVwbSkp5PBMavJCjhKuGYKK45gRU=").unwrap();
        assert_eq!(bytes.to_i128(), None);
        assert_eq!(bytes.to_text(9).unwrap(), "123456789012345678901234567890123456789012345678901234567890.123456789");
        // -2^128 and 2^127: one beyond what i128 holds.
        let mut low = vec![0xff];
        low.extend([0; 16]);
        assert_eq!(Unscaled::Long(low).to_text(0).unwrap(), "-340282366920938463463374607431768211456");
        let mut high = vec![0, 0x80];
        high.extend([0; 15]);
        assert_eq!(Unscaled::Long(high).to_text(0).unwrap(), "170141183460469231731687303715884105728");
        let mut least = vec![0x80];
        least.extend([0; 16]);
        assert_eq!(Unscaled::Long(least).to_text(0).unwrap(), "-43556142965880123323311949751266331066368");
    }

    #[rstest]
    #[case(150, 2, 10, 2, Some(150))]
    #[case(150, 2, 10, 4, Some(15000))]
    #[case(150, 2, 10, 1, Some(15))]
    #[case(151, 2, 10, 1, None)]
    #[case(9_999_999_999, 2, 10, 2, Some(9_999_999_999))]
    #[case(10_000_000_000, 2, 10, 2, None)]
    #[case(i128::MIN, 0, 38, 0, None)]
    #[case(1, -40, 38, 0, None)]
    #[case(1, i32::MIN, 38, 0, None)]
    #[case(1, i32::MAX, 38, 0, None)]
    #[case(0, -400, 38, 0, Some(0))]
    fn rescaling_loses_nothing_or_fails(
        #[case] value: i128,
        #[case] from: i32,
        #[case] precision: u8,
        #[case] scale: u8,
        #[case] want: Option<i128>,
    ) {
        assert_eq!(rescale(value, from, precision, scale).ok(), want);
    }

    #[rstest]
    #[case("-12.50", Some((-1250, 2)))]
    #[case("1.25e3", Some((125, -1)))]
    #[case("7", Some((7, 0)))]
    #[case(".5", Some((5, 1)))]
    #[case("NAN", None)]
    #[case("1.2.3", None)]
    #[case("", None)]
    #[case("-", None)]
    #[case("999999999999999999999999999999999999999999", None)]
    fn written_numbers_are_exact(#[case] text: &str, #[case] want: Option<(i128, i32)>) {
        assert_eq!(parse(text).ok(), want);
    }
}
