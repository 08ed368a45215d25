//! What a manifest says about a data file: counts, sizes and bounds, from the Parquet footer.
//!
//! Bounds may be looser than the data, never tighter: a bound that is too tight hides rows from a filtered read.

use std::collections::HashMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use iceberg::spec::{DataContentType, DataFileBuilder, DataFileFormat, Datum, PrimitiveType, Schema, Type};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;

/// Characters (of text) or bytes (of binary) kept of a bound: Iceberg's default `truncate(16)`. Longer bounds make manifests large
/// without telling files apart much better.
const BOUND_LENGTH: usize = 16;

/// How long a bound of text or binary may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bounds {
    /// Shortened, the upper one rounded up.
    Short,
    /// Exact: position delete files are matched to their data file by it.
    Exact,
}

/// NaN values per field id, counted while writing (the footer doesn't know).
#[derive(Debug, Default)]
pub(crate) struct NanCounts(HashMap<i32, u64>);

impl NanCounts {
    /// Counts the top-level float columns of `batch`, whose fields carry ids.
    pub(crate) fn count(&mut self, batch: &RecordBatch) {
        for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            let nan = match field.data_type() {
                DataType::Float32 => {
                    let a = column.as_primitive::<Float32Type>();
                    (0..a.len()).filter(|i| a.is_valid(*i) && a.value(*i).is_nan()).count()
                }
                DataType::Float64 => {
                    let a = column.as_primitive::<Float64Type>();
                    (0..a.len()).filter(|i| a.is_valid(*i) && a.value(*i).is_nan()).count()
                }
                _ => continue,
            };
            if let Some(id) = field.metadata().get(PARQUET_FIELD_ID_META_KEY).and_then(|id| id.parse().ok()) {
                *self.0.entry(id).or_default() += nan as u64;
            }
        }
    }
}

/// Everything that a Parquet file's own footer says about it; partition, spec and content other than data are the caller's.
pub(crate) fn describe(
    schema: &Schema,
    footer: &ParquetMetaData,
    path: &str,
    size_bytes: u64,
    nan: NanCounts,
    bounds: Bounds,
) -> DataFileBuilder {
    let mut sizes = HashMap::<i32, u64>::new();
    let mut values = HashMap::<i32, u64>::new();
    let mut nulls = HashMap::<i32, u64>::new();
    let mut ranges = HashMap::<i32, Option<(Datum, Datum)>>::new();
    for group in footer.row_groups() {
        for chunk in group.columns() {
            let descriptor = chunk.column_descr();
            let info = descriptor.self_type().get_basic_info();
            if !info.has_id() {
                continue;
            }
            let id = info.id();
            *sizes.entry(id).or_default() += chunk.compressed_size().max(0) as u64;
            *values.entry(id).or_default() += chunk.num_values().max(0) as u64;
            let statistics = chunk.statistics();
            let null_count = statistics.and_then(Statistics::null_count_opt);
            if let Some(n) = null_count {
                *nulls.entry(id).or_default() += n;
            }
            // Values of lists and maps have no bounds in Iceberg; an empty chunk has none to add.
            if descriptor.max_rep_level() > 0 || null_count == Some(chunk.num_values().max(0) as u64) {
                continue;
            }
            let range = schema.field_by_id(id).and_then(|f| match f.field_type.as_ref() {
                Type::Primitive(p) => range(p, statistics?),
                _ => None,
            });
            ranges
                .entry(id)
                .and_modify(|have| {
                    *have = match (have.take(), range.clone()) {
                        (Some((lo, hi)), Some((l, h))) => {
                            Some((if l < lo { l } else { lo }, if h > hi { h } else { hi }))
                        }
                        // One chunk without a range leaves the file without.
                        _ => None,
                    };
                })
                .or_insert(range);
        }
    }
    let mut lower = HashMap::new();
    let mut upper = HashMap::new();
    for (id, range) in ranges {
        let Some((lo, hi)) = range else { continue };
        let (lo, hi) = match bounds {
            Bounds::Exact => (Some(lo), Some(hi)),
            Bounds::Short => (shorten_down(lo), shorten_up(hi)),
        };
        lower.extend(lo.map(|d| (id, d)));
        upper.extend(hi.map(|d| (id, d)));
    }
    let mut builder = DataFileBuilder::default();
    builder
        .content(DataContentType::Data)
        .file_path(path.to_owned())
        .file_format(DataFileFormat::Parquet)
        .record_count(footer.file_metadata().num_rows().max(0) as u64)
        .file_size_in_bytes(size_bytes)
        .column_sizes(sizes)
        .value_counts(values)
        .null_value_counts(nulls)
        .nan_value_counts(nan.0)
        .lower_bounds(lower)
        .upper_bounds(upper)
        .split_offsets(Some(footer.row_groups().iter().filter_map(|g| g.file_offset()).collect()));
    builder
}

/// The range that the statistics prove, as the column's type; a shortened statistic is a looser range and still true.
fn range(t: &PrimitiveType, statistics: &Statistics) -> Option<(Datum, Datum)> {
    Some((datum(t, statistics.min_bytes_opt()?)?, datum(t, statistics.max_bytes_opt()?)?))
}

/// Parquet's plain bytes as Iceberg's single value: the same but for decimals, which Parquet stores little-endian when they
/// fit an integer.
fn datum(t: &PrimitiveType, bytes: &[u8]) -> Option<Datum> {
    match t {
        PrimitiveType::Decimal { precision, .. } if *precision <= 18 => {
            let mut big_endian = bytes.to_vec();
            big_endian.reverse();
            Datum::try_from_bytes(&big_endian, t.clone()).ok()
        }
        _ => Datum::try_from_bytes(bytes, t.clone()).ok(),
    }
}

fn shorten_down(d: Datum) -> Option<Datum> {
    match d.data_type() {
        PrimitiveType::String => {
            let bytes = d.to_bytes().ok()?;
            let text = std::str::from_utf8(&bytes).ok()?;
            Some(Datum::string(text.chars().take(BOUND_LENGTH).collect::<String>()))
        }
        PrimitiveType::Binary => {
            let bytes = d.to_bytes().ok()?;
            Some(Datum::binary(bytes.iter().copied().take(BOUND_LENGTH)))
        }
        _ => Some(d),
    }
}

/// `None` when nothing short is large enough.
fn shorten_up(d: Datum) -> Option<Datum> {
    match d.data_type() {
        PrimitiveType::String => {
            let bytes = d.to_bytes().ok()?;
            let text = std::str::from_utf8(&bytes).ok()?;
            if text.chars().nth(BOUND_LENGTH).is_none() {
                return Some(d);
            }
            let mut kept: Vec<char> = text.chars().take(BOUND_LENGTH).collect();
            while let Some(last) = kept.pop() {
                if let Some(next) = next_char(last) {
                    kept.push(next);
                    return Some(Datum::string(kept.into_iter().collect::<String>()));
                }
            }
            None
        }
        PrimitiveType::Binary => {
            let bytes = d.to_bytes().ok()?;
            if bytes.len() <= BOUND_LENGTH {
                return Some(d);
            }
            let mut kept: Vec<u8> = bytes.iter().copied().take(BOUND_LENGTH).collect();
            while let Some(last) = kept.pop() {
                if last < u8::MAX {
                    kept.push(last + 1);
                    return Some(Datum::binary(kept));
                }
            }
            None
        }
        _ => Some(d),
    }
}

/// The next scalar value; the surrogates in between are none.
fn next_char(c: char) -> Option<char> {
    match u32::from(c) {
        0xD7FF => Some('\u{E000}'),
        n => char::from_u32(n + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::short("abc", "abc", Some("abc"))]
    #[case::sixteen("0123456789abcdef", "0123456789abcdef", Some("0123456789abcdef"))]
    #[case::longer("0123456789abcdefg", "0123456789abcdef", Some("0123456789abcdeg"))]
    #[case::carries("0123456789abcde\u{10FFFF}x", "0123456789abcde\u{10FFFF}", Some("0123456789abcdf"))]
    #[case::surrogates("0123456789abcde\u{D7FF}x", "0123456789abcde\u{D7FF}", Some("0123456789abcde\u{E000}"))]
    #[case::nothing_larger(
        "\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}",
        "\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}",
        None
    )]
    fn a_text_bound_is_looser_never_tighter(#[case] text: &str, #[case] down: &str, #[case] up: Option<&str>) {
        assert_eq!(shorten_down(Datum::string(text)), Some(Datum::string(down)));
        assert_eq!(shorten_up(Datum::string(text)), up.map(Datum::string));
    }

    #[test]
    fn a_binary_bound_carries() {
        let mut long = vec![1; 15];
        long.extend([255, 0]);
        assert_eq!(shorten_up(Datum::binary(long)), Some(Datum::binary([vec![1; 14], vec![2]].concat())));
        assert_eq!(shorten_up(Datum::binary(vec![255; 17])), None);
    }

    #[test]
    fn decimals_of_both_layouts_read_alike() {
        let small = PrimitiveType::Decimal { precision: 9, scale: 2 };
        let large = PrimitiveType::Decimal { precision: 38, scale: 2 };
        let a = datum(&small, &(-1234i32).to_le_bytes()).unwrap();
        let b = datum(&large, &(-1234i128).to_be_bytes()).unwrap();
        assert_eq!(a.literal(), b.literal());
    }
}
