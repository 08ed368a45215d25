//! `firn index verify`: a stored index against the table.

use std::path::PathBuf;
use std::sync::Arc;

use iceberg::table::Table;

use super::Upserts;
use super::catch_up::{blocking, holds, scan};
use crate::sink::lake::index::Stored;
use crate::sink::lake::layout::Layout;
use crate::sink::lake::ownership::{Owned, may_hold};
use crate::sink::lake::{LakeError, LakeTable};

/// What a stored index says of the table as it is now.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct IndexReport {
    pub folder: PathBuf,
    /// A process that runs has it: nothing was compared.
    pub in_use: bool,
    /// Kafka partitions whose rows are in it; none = it is empty, and is filled by a scan when it is needed.
    pub partitions: usize,
    /// Live rows of these partitions.
    pub rows: u64,
    /// Rows whose key it does not know.
    pub missing: u64,
    /// Rows that it has elsewhere.
    pub misplaced: u64,
    /// Rows that it has under another id (format v3).
    pub misnumbered: u64,
    /// Entries, those of dead rows included.
    pub entries: usize,
    pub bytes_on_disk: u64,
}

impl IndexReport {
    pub fn is_right(&self) -> bool {
        self.missing == 0 && self.misplaced == 0 && self.misnumbered == 0
    }
}

impl LakeTable {
    /// Brings every stored index of the table that no process has up to the table's current snapshot, as a commit would, and compares it
    /// with all live rows.
    ///
    /// # Errors
    /// When the table or an index can't be read.
    pub async fn verify_indexes(&self) -> Result<Vec<IndexReport>, LakeError> {
        let layout = self.layout().filter(|layout| !layout.key.is_empty());
        let (Some(table), Some(layout)) = (self.load().await?, layout) else {
            return Err(self.spec().settings("it has no key, and so no index: only upsert tables have one"));
        };
        let mut reports = vec![];
        for (folder, stored) in self.shared.index.stored(table.metadata().uuid(), holds(&layout))? {
            let mut report = IndexReport { folder, ..IndexReport::default() };
            match stored {
                Stored::InUse => report.in_use = true,
                Stored::Free(index) => {
                    let stamp = index.stamp().cloned().unwrap_or_default();
                    report.partitions = stamp.owned.len();
                    if !stamp.owned.is_empty() {
                        let mut upserts = Upserts::new(&self.shared);
                        upserts.restored = index.files();
                        (upserts.index, upserts.table) = (index, Some((table.metadata().uuid(), holds(&layout))));
                        upserts.own(stamp.owned, &[]);
                        upserts.verify(&table, &layout, &mut report).await?;
                    }
                }
            }
            report.bytes_on_disk = crate::sink::lake::index::bytes_in(&report.folder);
            reports.push(report);
        }
        Ok(reports)
    }
}

impl Upserts {
    async fn verify(&mut self, base: &Table, layout: &Arc<Layout>, report: &mut IndexReport) -> Result<(), LakeError> {
        self.catch_up(base, layout).await?;
        report.entries = self.index.len();
        let owned = Owned::all(&self.owned);
        let scans =
            self.live.iter().filter(|(_, file)| may_hold(file, &owned)).map(|(number, _)| (*number, owned.clone()));
        let (scans, index, remaps) = (scans.collect(), &mut self.index, &self.remaps);
        scan(base, layout, &self.live, scans, |file, rows| {
            let keys: Vec<u128> = rows.iter().map(|row| row.key).collect();
            let found = blocking(|| index.lookup(&keys))?;
            report.rows += rows.len() as u64;
            for (row, found) in rows.into_iter().zip(found) {
                let found = found.and_then(|at| remaps.follow(at));
                let right = row.in_file(file);
                match found {
                    None => report.missing += 1,
                    Some(at) if (at.file, at.position) != (right.file, right.position) => report.misplaced += 1,
                    Some(at) if at.row_id != right.row_id => report.misnumbered += 1,
                    Some(_) => {}
                }
            }
            Ok(())
        })
        .await
    }
}
