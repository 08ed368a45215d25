//! Which version of a row has the values that a held-back row lacks. Pure: what the table holds comes in as answers.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::{Earlier, FormerKey, HeldBack};
use crate::sink::lake::overlay::{Overlay, RowPlace};

/// Former keys remembered with the place of their last row. A key is looked for right after it was changed, so few are enough; the
/// history of the table answers for the others.
const MOVED_KEYS: usize = 64 << 10;

/// A row of a data file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Site {
    pub(crate) path: Arc<str>,
    pub(crate) position: u32,
}

/// What the index says of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    Live(Site),
    /// Its row was deleted by another writer.
    Deleted,
}

/// Where the rows stand that deletes of changed keys ended lately: they are no longer in the index.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    sites: HashMap<FormerKey, Site>,
    order: VecDeque<FormerKey>,
}

impl Moved {
    pub(crate) fn insert(&mut self, former: FormerKey, site: Site) {
        if self.sites.insert(former, site).is_none() {
            self.order.push_back(former);
        }
        if self.order.len() > MOVED_KEYS
            && let Some(oldest) = self.order.pop_front()
        {
            self.sites.remove(&oldest);
        }
    }
}

/// Where the values are that the held rows themselves don't have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    Nowhere,
    At(Site),
    /// In the row that the delete of a changed key ended, known to the table's history at best; `live` is a row that has the key now.
    Ended {
        former: FormerKey,
        live: Option<Site>,
    },
    /// In a row that another writer deleted: the last one of the key before a source position.
    Removed(FormerKey),
}

/// How a row becomes whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recipe {
    /// Held rows: the row itself, then its earlier versions. A column is taken from the first that has it.
    pub(super) versions: Vec<u32>,
    /// Field ids of the columns that none of them has, ascending.
    pub(super) rest: Vec<i32>,
    pub(super) end: End,
}

impl HeldBack {
    /// The keys whose rows in the table may be needed.
    pub(crate) fn questions(&self) -> Vec<u128> {
        let of_rows = self.rows.iter().map(|row| row.earlier);
        let all = of_rows.chain(self.ended.values().map(|ended| ended.earlier));
        let keys: BTreeSet<u128> = all
            .filter_map(|earlier| match earlier {
                Earlier::Stored(key) => Some(key),
                Earlier::Former(former) => Some(former.key),
                _ => None,
            })
            .collect();
        keys.into_iter().collect()
    }

    /// How each row that is to be written becomes whole. `path` tells the batch's files.
    pub(crate) fn recipes(
        &self,
        overlay: &Overlay,
        answers: &HashMap<u128, Stored>,
        moved: &Moved,
        path: impl Fn(u32) -> Option<Arc<str>>,
    ) -> Vec<Recipe> {
        self.to_write(overlay).into_iter().map(|row| self.recipe(row, answers, moved, &path)).collect()
    }

    fn recipe(
        &self,
        row: u32,
        answers: &HashMap<u128, Stored>,
        moved: &Moved,
        path: &impl Fn(u32) -> Option<Arc<str>>,
    ) -> Recipe {
        let mut recipe = Recipe { versions: vec![], rest: vec![], end: End::Nowhere };
        let mut at = row;
        // Each version is older than the one before; the bound only guards against a circle.
        while recipe.versions.len() <= self.rows.len()
            && let Some(held) = self.rows.get(at as usize)
        {
            recipe.rest = match recipe.versions.is_empty() {
                true => held.lacking.to_vec(),
                false => recipe.rest.into_iter().filter(|id| held.lacking.contains(id)).collect(),
            };
            recipe.versions.push(at);
            if recipe.rest.is_empty() {
                break;
            }
            let earlier = match held.earlier {
                Earlier::Former(former) => self.ended(former).unwrap_or(held.earlier),
                earlier => earlier,
            };
            recipe.end = match earlier {
                Earlier::Held(next) => {
                    at = next;
                    continue;
                }
                Earlier::Nowhere => End::Nowhere,
                Earlier::Written(place) => site(place, path),
                Earlier::Stored(key) => match answers.get(&key) {
                    Some(Stored::Live(site)) => End::At(site.clone()),
                    Some(Stored::Deleted) => End::Removed(FormerKey { key, lsn: held.lsn }),
                    None => End::Nowhere,
                },
                Earlier::Former(former) => match (moved.sites.get(&former), answers.get(&former.key)) {
                    (Some(site), _) => End::At(site.clone()),
                    (None, Some(Stored::Live(site))) => End::Ended { former, live: Some(site.clone()) },
                    (None, None | Some(Stored::Deleted)) => End::Ended { former, live: None },
                },
            };
            break;
        }
        recipe
    }

    /// Where the rows are that the batch's deletes of changed keys end; `buried` tells the places of held ones.
    pub(crate) fn sites_of_ended<'a>(
        &'a self,
        answers: &'a HashMap<u128, Stored>,
        buried: &'a HashMap<u32, Site>,
        path: impl Fn(u32) -> Option<Arc<str>> + 'a,
    ) -> impl Iterator<Item = (FormerKey, Site)> + 'a {
        self.ended.iter().filter_map(move |(key, ended)| {
            let end = match (ended.place, ended.earlier) {
                (Some(place), _) | (None, Earlier::Written(place)) => site(place, &path),
                (None, Earlier::Held(row)) => End::At(buried.get(&row)?.clone()),
                (None, Earlier::Stored(key)) => match answers.get(&key)? {
                    Stored::Live(site) => End::At(site.clone()),
                    Stored::Deleted => End::Nowhere,
                },
                (None, _) => End::Nowhere,
            };
            match end {
                End::At(site) => Some((FormerKey { key: *key, lsn: ended.lsn }, site)),
                _ => None,
            }
        })
    }
}

fn site(place: RowPlace, path: &impl Fn(u32) -> Option<Arc<str>>) -> End {
    match path(place.file) {
        Some(path) => End::At(Site { path, position: place.position }),
        None => End::Nowhere,
    }
}
