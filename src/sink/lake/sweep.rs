//! Rows that a snapshot of the source did not find again: counted, shown, taken out.

use arrow_cast::display::{ArrayFormatter, FormatOptions};

use crate::sink::lake::cut::{Cuts, Sweep};
use crate::sink::lake::layout::Layout;
use crate::sink::lake::scan::{WantedColumn, read_columns};
use crate::sink::lake::{CommitFailure, Committed, LakeError, LakeTable, deletes, live};

/// Live rows that a sweep would take out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ghosts {
    pub rows: u64,
    /// Keys of some of them: `id=7`.
    pub keys: Vec<String>,
}

impl LakeTable {
    /// What [`LakeTable::sweep`] would take out now, with at most so many keys.
    ///
    /// # Errors
    /// When the table can't be read.
    pub async fn ghosts(&self, sweep: &Sweep, most_keys: usize) -> Result<Ghosts, LakeError> {
        let Some(table) = self.load().await? else { return Ok(Ghosts::default()) };
        let layout = Layout::of(&table, self.spec(), &[])?;
        let io = table.file_io();
        let files = live::list(&table, &layout.table, layout.origin_ids(), &self.shared.manifests).await?;
        let candidates = files.iter().zip(0..).map(|(file, number)| file.candidate(number));
        let cut = Cuts::of_sweep(sweep).of_table(io, layout.origin_ids(), candidates).await?;
        let mut ghosts = Ghosts::default();
        for (number, rows) in cut {
            let Some(file) = files.get(number as usize) else { continue };
            let deleted = deletes::read(io, &[(file.path.as_str(), file.deletes.as_slice())]).await?;
            let rows = rows - deleted.get(&file.path).cloned().unwrap_or_default();
            ghosts.rows += rows.len();
            let wanted: Vec<u32> = rows.iter().take(most_keys.saturating_sub(ghosts.keys.len())).collect();
            if !wanted.is_empty() {
                ghosts.keys.extend(keys(&layout, io, &file.path, &wanted).await?);
            }
        }
        Ok(ghosts)
    }

    /// Takes them out, in a commit like any other.
    ///
    /// # Errors
    /// `Stale` when the table does not stand where the sweep needs it; see [`CommitFailure`].
    pub async fn sweep(&self, sweep: Sweep) -> Result<Committed, CommitFailure> {
        let mut staged = self.stager().and_then(|stager| stager.close(vec![])).map_err(CommitFailure::Failed)?;
        staged.events.sweep = Some(sweep);
        self.commit(vec![staged]).await
    }
}

/// The keys of these rows of a file, as text.
async fn keys(layout: &Layout, io: &iceberg::io::FileIO, path: &str, wanted: &[u32]) -> Result<Vec<String>, LakeError> {
    let fields = layout.schema.as_struct().fields();
    let columns: Vec<WantedColumn> = layout
        .key
        .iter()
        .map(|i| WantedColumn {
            id: fields[*i].id,
            name: fields[*i].name.clone(),
            data_type: layout.arrow.field(*i).data_type().clone(),
        })
        .collect();
    let mut keys = vec![];
    let mut first = 0u32;
    read_columns(io, path, &columns, |arrays, rows| {
        let options = FormatOptions::default();
        let shown = arrays.iter().map(|a| ArrayFormatter::try_new(a, &options)).collect::<Result<Vec<_>, _>>()?;
        for row in wanted.iter().filter(|row| (first..first + rows as u32).contains(row)) {
            let at = (row - first) as usize;
            let parts = columns.iter().zip(&shown).map(|(c, value)| format!("{}={}", c.name, value.value(at)));
            keys.push(parts.collect::<Vec<_>>().join(", "));
        }
        first += rows as u32;
        Ok(())
    })
    .await?;
    Ok(keys)
}
