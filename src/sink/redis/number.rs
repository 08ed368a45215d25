//! A column's value as a whole number of small units: sums of these are exact.

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_schema::DataType;

/// Whether [`units`] can read the type.
pub(super) fn is_number(kind: &DataType) -> bool {
    kind.is_integer()
        || matches!(kind, DataType::Float32 | DataType::Float64 | DataType::Decimal128(_, _) | DataType::Null)
}

/// A value that is not null, in units of 10^-`scale`, rounded half away from zero; at most `limit` in either direction.
///
/// # Errors
/// Why not, as the end of a sentence about the value.
pub(super) fn units(array: &dyn Array, row: usize, scale: u8, limit: i64) -> Result<i64, String> {
    let within = |v: Option<i128>| {
        let v = v.and_then(|v| i64::try_from(v).ok()).filter(|v| v.unsigned_abs() <= limit.unsigned_abs());
        v.ok_or_else(|| format!("is beyond {limit} in units of 10^-{scale}"))
    };
    match array.data_type() {
        DataType::Float32 => from_float(f64::from(array.as_primitive::<Float32Type>().value(row)), scale, limit),
        DataType::Float64 => from_float(array.as_primitive::<Float64Type>().value(row), scale, limit),
        DataType::Decimal128(_, have) => {
            within(rescale(array.as_primitive::<Decimal128Type>().value(row), *have, scale))
        }
        _ => within(integer(array, row).and_then(|v| rescale(v, 0, scale))),
    }
}

fn integer(array: &dyn Array, row: usize) -> Option<i128> {
    Some(match array.data_type() {
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row).into(),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(row).into(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(row).into(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(row).into(),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(row).into(),
        _ => return None,
    })
}

/// From units of 10^-`have` to units of 10^-`want`.
fn rescale(v: i128, have: i8, want: u8) -> Option<i128> {
    let shift = i32::from(want) - i32::from(have);
    let power = 10_i128.checked_pow(shift.unsigned_abs());
    if shift >= 0 {
        return v.checked_mul(power?);
    }
    // A power beyond all values leaves nothing of any.
    let Some(power) = power else { return Some(0) };
    let (whole, rest) = (v / power, v % power);
    Some(if rest.unsigned_abs() >= power.unsigned_abs().div_ceil(2) { whole + v.signum() } else { whole })
}

fn from_float(v: f64, scale: u8, limit: i64) -> Result<i64, String> {
    if v.is_nan() {
        return Err("is not a number".to_owned());
    }
    let units = (v * 10_f64.powi(i32::from(scale))).round();
    if units.abs() > limit as f64 {
        return Err(format!("is beyond {limit} in units of 10^-{scale}"));
    }
    Ok(units as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, Decimal128Array, Float64Array, Int64Array, UInt64Array};
    use rstest::rstest;
    use std::sync::Arc;

    fn decimal(v: i128, scale: i8) -> ArrayRef {
        Arc::new(Decimal128Array::from(vec![v]).with_precision_and_scale(38, scale).unwrap())
    }

    #[rstest]
    #[case(Arc::new(Int64Array::from(vec![-7])), 0, Ok(-7))]
    #[case(Arc::new(Int64Array::from(vec![7])), 2, Ok(700))]
    #[case(Arc::new(Float64Array::from(vec![12.34])), 2, Ok(1234))]
    #[case(Arc::new(Float64Array::from(vec![66.67])), 2, Ok(6667))]
    #[case(Arc::new(Float64Array::from(vec![-0.005])), 2, Ok(-1))]
    #[case(decimal(12345, 3), 2, Ok(1235))]
    #[case(decimal(-12345, 3), 2, Ok(-1235))]
    #[case(decimal(12344, 3), 2, Ok(1234))]
    #[case(decimal(5, 38), 0, Ok(0))]
    #[case(decimal(12, 1), 2, Ok(120))]
    #[case(decimal(7, -2), 0, Ok(700))]
    #[case(Arc::new(Float64Array::from(vec![f64::NAN])), 0, Err("is not a number"))]
    #[case(Arc::new(Float64Array::from(vec![f64::INFINITY])), 0, Err("is beyond 1000000 in units of 10^-0"))]
    #[case(Arc::new(Int64Array::from(vec![10_001])), 2, Err("is beyond 1000000 in units of 10^-2"))]
    #[case(Arc::new(UInt64Array::from(vec![u64::MAX])), 2, Err("is beyond 1000000 in units of 10^-2"))]
    #[case(decimal(i128::MAX, 0), 2, Err("is beyond 1000000 in units of 10^-2"))]
    fn values_become_whole_units(#[case] array: ArrayRef, #[case] scale: u8, #[case] want: Result<i64, &str>) {
        assert_eq!(units(&array, 0, scale, 1_000_000), want.map_err(str::to_owned));
    }
}
