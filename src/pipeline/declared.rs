//! Columns that the configuration declares, in a table that is there already: it is made to fit them before the first record.

use crate::change::{Column, RowSchema};
use crate::lineage::Lineage;
use crate::sink::lake::{LakeTable, TableColumns};

/// Adds declared columns that the table lacks, and widens those that may be widened. Answers the table's columns; `None` where there
/// is no table yet.
pub async fn agree(lake: &LakeTable, declared: &[Column]) -> Option<TableColumns> {
    let table = lake.columns()?;
    let Some(wanted) = wanted(table.rows(), table.lineage(), declared) else { return Some(table) };
    match lake.agree(&wanted, None).await {
        Ok(table) => Some(table),
        Err(e) => {
            // Records are still read into the table as it is.
            tracing::warn!(table = %lake.spec(), "its columns are not as declared: {e}");
            Some(table)
        }
    }
}

/// The table's columns with the declared types; `None` where they are so already. Later versions of a column are not asked for: they
/// are no columns of the source.
fn wanted(table: &RowSchema, lineage: &Lineage, declared: &[Column]) -> Option<RowSchema> {
    let own: Vec<Column> = table.columns.iter().filter(|c| !lineage.versions.contains_key(&c.name)).cloned().collect();
    let mut columns = own.clone();
    for column in declared {
        match columns.iter_mut().find(|c| c.name == column.name) {
            Some(have) => have.column_type = column.column_type.clone(),
            None => columns.push(column.clone()),
        }
    }
    (columns != own).then_some(RowSchema { columns })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::ColumnType;

    #[test]
    fn only_what_differs_is_asked_for_and_keys_stay_keys() {
        let version = Column::new("n__v2", ColumnType::String);
        let own = vec![Column::key("id", ColumnType::Long), Column::new("n", ColumnType::Int)];
        let table = RowSchema { columns: own.into_iter().chain([version]).collect() };
        let versions = [("n__v2".to_owned(), "n".to_owned())].into();
        let lineage = Lineage { versions, ..Lineage::default() };
        assert_eq!(
            wanted(&table, &lineage, &[Column::new("n", ColumnType::Int), Column::new("id", ColumnType::Long)]),
            None
        );
        let wider = wanted(&table, &lineage, &[Column::new("n", ColumnType::Long), Column::new("m", ColumnType::Date)])
            .unwrap();
        let columns = [
            Column::key("id", ColumnType::Long),
            Column::new("n", ColumnType::Long),
            Column::new("m", ColumnType::Date),
        ];
        assert_eq!(wider.columns, columns);
    }
}
