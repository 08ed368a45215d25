//! Which partitions are meant: `day >= 2026-01-01 and country = 'DE'`. Pure.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// All terms hold. Names are those of partition fields, and values as they stand in paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionFilter(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    field: String,
    is: Comparison,
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Longer ones first: they begin with the others.
const COMPARISONS: [(&str, Comparison); 7] = [
    ("!=", Comparison::NotEqual),
    ("<>", Comparison::NotEqual),
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("=", Comparison::Equal),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

impl PartitionFilter {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Also those of another one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// The first of its fields that is none of these.
    pub(super) fn unknown<'a>(&'a self, fields: &[&str]) -> Option<&'a str> {
        self.0.iter().map(|term| term.field.as_str()).find(|field| !fields.contains(field))
    }

    /// `path` as in `day=2026-01-01/country=DE`. A field that it lacks fails.
    pub(super) fn takes(&self, path: &str) -> bool {
        self.0.iter().all(|term| {
            let values = path.split('/').filter_map(|part| part.split_once('='));
            let mut of_field = values.filter(|(field, _)| *field == term.field);
            of_field.next().is_some_and(|(_, value)| term.is.holds(compare(value, &term.value)))
        })
    }
}

impl Comparison {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}

/// As numbers where both are; else as text, in which order dates stand too.
fn compare(a: &str, b: &str) -> Ordering {
    match (a.parse::<i128>(), b.parse::<i128>()) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        _ => a.cmp(b),
    }
}

impl FromStr for PartitionFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut terms = vec![];
        let mut rest = text.trim();
        while !rest.is_empty() {
            let (term, after) = term(rest)?;
            terms.push(term);
            rest = match after.split_at_checked(3) {
                None if after.is_empty() => "",
                Some((and, after)) if and.eq_ignore_ascii_case("and") && after.starts_with(char::is_whitespace) => {
                    let after = after.trim();
                    if after.is_empty() {
                        return Err(format!("`{text}` ends with `and`"));
                    }
                    after
                }
                _ => return Err(format!("`{after}`: only `and` may stand between terms")),
            };
        }
        Ok(Self(terms))
    }
}

/// The first term, and what stands behind it.
fn term(text: &str) -> Result<(Term, &str), String> {
    let wrong = || format!("`{text}` is no term such as day >= 2026-01-01 or country = 'DE'");
    let name = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.')).ok_or_else(wrong)?;
    let (field, after) = text.split_at(name);
    let after = after.trim_start();
    let (sign, is) = COMPARISONS.iter().find(|(sign, _)| after.starts_with(sign)).ok_or_else(wrong)?;
    let after = after.get(sign.len()..).unwrap_or_default().trim_start();
    let (value, after) = match after.strip_prefix('\'') {
        Some(quoted) => quoted.split_once('\'').ok_or_else(wrong)?,
        None => after.split_at(after.find(char::is_whitespace).unwrap_or(after.len())),
    };
    if field.is_empty() || value.is_empty() && !after.is_empty() {
        return Err(wrong());
    }
    Ok((Term { field: field.to_owned(), is: *is, value: value.to_owned() }, after.trim_start()))
}

impl fmt::Display for PartitionFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Term { field, is, value }) in self.0.iter().enumerate() {
            let sign = COMPARISONS.iter().find(|(_, c)| c == is).map_or("=", |(sign, _)| sign);
            write!(f, "{}{field} {sign} '{value}'", if n > 0 { " and " } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("day = 2026-01-02", true)]
    #[case("day >= 2026-01-01 AND country='DE'", true)]
    #[case("day>2026-01-02", false)]
    #[case("id_bucket < 10", true)]
    #[case("id_bucket <= 8", false)]
    #[case("country <> 'DE'", false)]
    #[case("other = 1", false)]
    fn a_filter_takes_partitions_by_their_values(#[case] filter: &str, #[case] taken: bool) {
        let filter: PartitionFilter = filter.parse().unwrap();
        assert_eq!(filter.takes("day=2026-01-02/country=DE/id_bucket=9"), taken);
        assert_eq!(filter.to_string().parse::<PartitionFilter>().unwrap(), filter);
    }

    #[rstest]
    #[case("day")]
    #[case("day = 1 or day = 2")]
    #[case("day = 1 and")]
    #[case("= 1")]
    #[case("day = '1")]
    fn what_is_no_filter_is_refused(#[case] filter: &str) {
        assert!(filter.parse::<PartitionFilter>().is_err());
    }
}
