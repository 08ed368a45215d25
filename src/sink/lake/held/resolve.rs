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
    /// In the last row of the key before a source position. `last` is the last one known, which may be a newer one; else the table's
    /// history may know.
    Before {
        former: FormerKey,
        last: Option<Site>,
        delete: Delete,
    },
}

/// What the batch has of the delete that ended a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delete {
    /// That very delete, so nothing of the former key is still on its way; or there was none.
    Proven,
    /// One without a position: it may be another.
    Some,
    Missing,
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
                Earlier::Ended { former, .. } | Earlier::Former(former) => Some(former.key),
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
                    Some(Stored::Deleted) => {
                        let former = FormerKey { key, lsn: held.lsn };
                        End::Before { former, last: None, delete: Delete::Proven }
                    }
                    None => End::Nowhere,
                },
                Earlier::Ended { former, proven } => {
                    let last = live(answers, former.key).or_else(|| moved.sites.get(&former).cloned());
                    let delete = if proven || last.is_some() { Delete::Proven } else { Delete::Some };
                    match last.is_none() && former.lsn.is_none() {
                        true => End::Nowhere,
                        false => End::Before { former, last, delete },
                    }
                }
                Earlier::Former(former) => match moved.sites.get(&former) {
                    Some(site) => End::Before { former, last: Some(site.clone()), delete: Delete::Proven },
                    None => End::Before { former, last: live(answers, former.key), delete: Delete::Missing },
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
        self.ended.iter().filter_map(move |(former, ended)| {
            let end = match (ended.place, ended.earlier) {
                (Some(place), _) | (None, Earlier::Written(place)) => site(place, &path),
                (None, Earlier::Held(row)) => End::At(buried.get(&row)?.clone()),
                (None, Earlier::Ended { former, .. }) => End::At(live(answers, former.key)?),
                (None, _) => End::Nowhere,
            };
            match end {
                End::At(site) => Some((*former, site)),
                _ => None,
            }
        })
    }
}

fn live(answers: &HashMap<u128, Stored>, key: u128) -> Option<Site> {
    match answers.get(&key) {
        Some(Stored::Live(site)) => Some(site.clone()),
        Some(Stored::Deleted) | None => None,
    }
}

fn site(place: RowPlace, path: &impl Fn(u32) -> Option<Arc<str>>) -> End {
    match path(place.file) {
        Some(path) => End::At(Site { path, position: place.position }),
        None => End::Nowhere,
    }
}
