//! Records of a source that drops a column, out of the order of its log: as partitions read at different speeds bring them.

use rstest::rstest;

use super::*;
use crate::change::{Column, origin_columns};
use crate::lineage::Lineage;

struct Altered {
    records: Vec<Captured>,
    /// Of each record its place in the source's log.
    lsn: Vec<i64>,
    decoder: Decoder,
}

impl Altered {
    fn new(records: Vec<Captured>) -> Self {
        let records = of_topic(records, ".evolving");
        let plain = decode(Mode::Upsert, &records);
        let lsn = plain.rows.iter().map(|row| match row.get("_firn_source_lsn") {
            Cell::Int(lsn) => *lsn as i64,
            other => panic!("{other:?}"),
        });
        let lsn = lsn.take(8).collect();
        let options = DecodeOptions { mode: Mode::Upsert, origin_columns: true, ..DecodeOptions::default() };
        Self { records, lsn, decoder: Decoder::new(options) }
    }

    fn table(&mut self, columns: &[&str], lineage: Lineage) {
        use ColumnType as T;
        let typed = columns.iter().map(|name| Column::new(*name, if *name == "n" { T::Long } else { T::String }));
        let columns = [Column::key("id", T::Int)].into_iter().chain(typed).chain(origin_columns());
        self.decoder.set_table(&RowSchema { columns: columns.collect() }, &lineage).unwrap();
    }

    fn push(&mut self, at: usize) -> Pushed {
        push(&mut self.decoder, &self.records[at])
    }

    fn rows(&mut self) -> Vec<Row> {
        let batch = self.decoder.finish();
        rows_of(&batch.rows, &batch.ops)
    }
}

#[rstest]
#[case::json(fixture("types_default_schemas_true"))]
#[case::avro(super::avro::captured("types"))]
fn only_a_newer_record_tells_of_a_drop_and_older_ones_are_read_without_the_column(#[case] records: Vec<Captured>) {
    let mut t = Altered::new(records);
    let lineage =
        Lineage { drops: true, newest: Some(t.lsn[3]), droppable: ["old_col".to_owned()].into(), ..Lineage::default() };
    // Record 4 is the first without old_col. While newer rows are in the table it tells nothing.
    t.table(&["n", "old_col", "v", "added"], Lineage { newest: Some(t.lsn[4]), ..lineage.clone() });
    assert!(matches!(t.push(4), Pushed::Row(_)));
    assert_eq!(t.rows().len(), 1);
    t.table(&["n", "old_col", "v", "added"], lineage);
    assert!(matches!(t.push(2), Pushed::Row(_)) && matches!(t.push(3), Pushed::Row(_)));
    assert!(matches!(t.push(4), Pushed::NeedsSchema(_)), "it is newer than the table, and without the column");
    assert_eq!(t.decoder.asking_lsn(), Some(t.lsn[4]));
    assert_eq!(t.rows().len(), 2, "and left no trace in the rows");

    // The answer: it is gone. Older records name it still.
    let dropped = [("old_col".to_owned(), t.lsn[4])];
    let lineage = Lineage { drops: true, newest: Some(t.lsn[4]), dropped: dropped.into(), ..Lineage::default() };
    t.table(&["n", "v", "added"], lineage.clone());
    assert!(matches!(t.push(4), Pushed::Row(_)) && matches!(t.push(3), Pushed::Row(_)));
    assert_eq!(t.rows()[1].get("v"), &text("v1"));
    // Another column of that name: theirs are not its values.
    t.table(&["n", "v", "added", "old_col"], lineage.clone());
    assert!(matches!(t.push(3), Pushed::Row(_)));
    assert_eq!(t.rows()[0].get("old_col"), &Cell::Null);
    // A newer record with a column that the table lacks asks for it, though an older one of the same writer did not need to.
    t.table(&["n", "v"], Lineage { newest: Some(t.lsn[4]), ..lineage });
    assert!(matches!(t.push(4), Pushed::NeedsSchema(_)));
}

#[rstest]
#[case::json(fixture("types_default_schemas_true"))]
#[case::avro(super::avro::captured("types"))]
fn a_value_goes_to_the_version_of_its_column_that_has_its_type(#[case] records: Vec<Captured>) {
    let mut t = Altered::new(records);
    use ColumnType as T;
    let versions = [("v__v2".to_owned(), "v".to_owned())];
    let lineage = Lineage { versions: versions.into(), ..Lineage::default() };
    let columns = [
        Column::key("id", T::Int),
        Column::new("n", T::Int),
        Column::new("old_col", T::String),
        Column::new("v", T::Date),
        Column::new("v__v2", T::String),
    ];
    let table = RowSchema { columns: columns.into_iter().chain(origin_columns()).collect() };
    t.decoder.set_table(&table, &lineage).unwrap();
    assert!(matches!(t.push(1), Pushed::Row(_)));
    let rows = t.rows();
    assert_eq!((rows[0].get("v"), rows[0].get("v__v2")), (&Cell::Null, &text("v")));
}
