//! The summary of a snapshot: what was done, and totals that are carried on, never invented.

use std::collections::HashMap;

use iceberg::spec::{Operation, Summary};

use crate::RowDelta;
use crate::commit::Plan;

const TOTALS: [(&str, &str, &str); 6] = [
    ("total-data-files", "added-data-files", "deleted-data-files"),
    ("total-delete-files", "added-delete-files", "removed-delete-files"),
    ("total-records", "added-records", "deleted-records"),
    ("total-files-size", "added-files-size", "removed-files-size"),
    ("total-position-deletes", "added-position-deletes", "removed-position-deletes"),
    ("total-equality-deletes", "added-equality-deletes", "removed-equality-deletes"),
];

/// `counted` are the files' metrics; they win over what the plan says under the same names.
pub(super) fn summary(plan: &Plan, counted: HashMap<String, String>, parent: Option<&Summary>) -> Summary {
    let mut properties = plan.summary.clone();
    properties.extend(counted);
    for (total, added, removed) in TOTALS {
        let before = parent.map_or(Some(0), |p| number(&p.additional_properties, total));
        let change = number(&properties, added).unwrap_or(0) - number(&properties, removed).unwrap_or(0);
        // below zero the parent's total was wrong already
        match before.map(|n| n + change).filter(|n| *n >= 0) {
            Some(n) => properties.insert(total.to_owned(), n.to_string()),
            None => properties.remove(total),
        };
    }
    let operation = plan.operation.clone().unwrap_or_else(|| operation(&plan.delta));
    Summary { operation, additional_properties: properties }
}

fn number(properties: &HashMap<String, String>, name: &str) -> Option<i64> {
    properties.get(name)?.parse().ok()
}

/// As Java's `BaseRowDelta` names it.
fn operation(delta: &RowDelta) -> Operation {
    let deletes = !delta.delete_files.is_empty() || !delta.removed.is_empty();
    match (!delta.data_files.is_empty(), deletes) {
        (_, false) => Operation::Append,
        (false, true) => Operation::Delete,
        (true, true) => Operation::Overwrite,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[rstest]
    #[case::first(None, Some("3"))]
    #[case::carried(Some(map(&[("total-records", "4")])), Some("7"))]
    #[case::unknown_stays_unknown(Some(map(&[])), None)]
    #[case::wrong_is_dropped(Some(map(&[("total-records", "-9")])), None)]
    fn totals_are_carried_on_and_never_invented(
        #[case] parent: Option<HashMap<String, String>>,
        #[case] expected: Option<&str>,
    ) {
        let parent = parent.map(|p| Summary { operation: Operation::Append, additional_properties: p });
        let made = summary(&Plan::default(), map(&[("added-records", "3")]), parent.as_ref());
        assert_eq!(made.additional_properties.get("total-records").map(String::as_str), expected);
    }
}
