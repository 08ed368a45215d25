//! What the index and the listing say about rows that were held back.

use std::collections::HashMap;
use std::sync::Arc;

use iceberg::table::Table;

use super::Upserts;
use crate::sink::lake::held::{Completed, FormerKey, Site, Stored, complete, look_back};
use crate::sink::lake::index::Location;
use crate::sink::lake::{LakeError, Staged};

impl Upserts {
    /// Makes the batch's held-back rows whole, as this base has their values. Answers too where the rows stand that its deletes of
    /// changed keys end. `row_ids` are
    /// those of the rows that they replace, by key.
    pub(super) async fn complete(
        &mut self,
        base: &Table,
        batch: &Staged,
        row_ids: &HashMap<u128, i64>,
    ) -> Result<(Completed, Vec<(FormerKey, Site)>), LakeError> {
        let (false, Some(layout), Some(overlay)) = (batch.held.is_empty(), batch.widest_layout(), &batch.overlay)
        else {
            return Ok(Default::default());
        };
        let paths: HashMap<u32, Arc<str>> = batch.files.iter().map(|f| (f.number, f.path.as_str().into())).collect();
        let path = |number: u32| paths.get(&number).cloned();
        let answers = self.stored(base, &batch.held.questions()).await?;
        let mut recipes = batch.held.recipes(overlay, &answers, &self.moved, path);
        let others = self.owned.len() > 1;
        let awaited = look_back(base, layout, &self.manifests, &mut recipes, others).await?;
        self.awaited.check(&awaited, &layout.table)?;
        let completed = complete(base, layout, batch, &recipes, row_ids).await?;
        let moved = batch.held.sites_of_ended(&answers, &completed.buried, path).collect();
        Ok((completed, moved))
    }

    /// What the base has of these keys.
    async fn stored(&mut self, base: &Table, keys: &[u128]) -> Result<HashMap<u128, Stored>, LakeError> {
        let hits = self.locate(keys)?;
        let hits: Vec<(u128, Location)> = keys
            .iter()
            .zip(hits)
            .filter_map(|(key, at)| Some((*key, at.filter(|at| self.live.contains_key(&at.file))?)))
            .collect();
        self.load_deleted(base, hits.iter().map(|(_, at)| at.file)).await?;
        let stored = hits.into_iter().filter_map(|(key, at)| {
            let path = self.live.get(&at.file)?.path.as_str().into();
            let gone = self.deleted.get(at.file).contains(at.position);
            Some((key, if gone { Stored::Deleted } else { Stored::Live(Site { path, position: at.position }) }))
        });
        Ok(stored.collect())
    }
}
