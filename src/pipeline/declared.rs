//! Columns that the configuration declares, in a table that is there already: it is made to fit them before the first record.

use crate::change::{Column, RowSchema};
use crate::sink::lake::{LakeTable, TableColumns};

/// Adds declared columns that the table lacks, and widens those that may be widened. Answers the table's columns; `None` where there
/// is no table yet.
pub async fn agree(lake: &LakeTable, declared: &[Column]) -> Option<TableColumns> {
    let table = lake.columns()?;
    let Some(wanted) = wanted(table.rows(), declared) else { return Some(table) };
    match lake.agree(&wanted, None).await {
        Ok(table) => Some(table),
        Err(e) => {
            // Records are still read into the table as it is.
            tracing::warn!(table = %lake.spec(), "its columns are not as declared: {e}");
            Some(table)
        }
    }
}

/// The table's columns with the declared types; `None` where they are so already.
fn wanted(table: &RowSchema, declared: &[Column]) -> Option<RowSchema> {
    let mut columns = table.columns.clone();
    for column in declared {
        match columns.iter_mut().find(|c| c.name == column.name) {
            Some(have) => have.column_type = column.column_type.clone(),
            None => columns.push(column.clone()),
        }
    }
    (columns != table.columns).then_some(RowSchema { columns })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::ColumnType;

    #[test]
    fn only_what_differs_is_asked_for_and_keys_stay_keys() {
        let table = RowSchema { columns: vec![Column::key("id", ColumnType::Long), Column::new("n", ColumnType::Int)] };
        assert_eq!(wanted(&table, &[Column::new("n", ColumnType::Int), Column::new("id", ColumnType::Long)]), None);
        let wider = wanted(&table, &[Column::new("n", ColumnType::Long), Column::new("m", ColumnType::Date)]).unwrap();
        let columns = [
            Column::key("id", ColumnType::Long),
            Column::new("n", ColumnType::Long),
            Column::new("m", ColumnType::Date),
        ];
        assert_eq!(wider.columns, columns);
    }
}
