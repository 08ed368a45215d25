//! Changes arrive, some of which lack values: what is written, what is held back, and where the version before it is.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, Int64Array, RecordBatch, UInt32Array};
use arrow_select::take::take_record_batch;

use super::{Earlier, Ended, FormerKey, HeldBack, HeldBatch, HeldRow};
use crate::batch::ChangeBatch;
use crate::change::{Op, origin};
use crate::sink::lake::LakeError;
use crate::sink::lake::conform::{conform, find};
use crate::sink::lake::keys::KeyHasher;
use crate::sink::lake::layout::Layout;
use crate::sink::lake::overlay::{KeyState, Overlay, RowPlace};

/// Changes on their way in.
pub(crate) struct Arriving<'a> {
    pub(crate) layout: &'a Arc<Layout>,
    /// In the table's columns.
    pub(crate) rows: &'a RecordBatch,
    pub(crate) keys: &'a [u128],
    /// As they came.
    pub(crate) changes: &'a ChangeBatch,
}

/// What is to be written of them.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) keep: Vec<bool>,
    /// Rows, ascending, that are written deleted: with the key whose changing ended them, without one the marks of such deletes.
    pub(crate) deleted: Vec<(u32, Option<FormerKey>)>,
}

/// A row that lacks values, as it came.
struct Lacking {
    columns: Arc<[i32]>,
    former: Option<u128>,
}

impl HeldBack {
    /// Takes in the changes in their order, as [`Overlay::arrive`] does where nothing is lacking.
    ///
    /// # Errors
    /// When the former keys are not of the table's key columns.
    pub(crate) fn arrive(
        &mut self,
        overlay: &mut Overlay,
        hasher: &mut KeyHasher,
        arriving: &Arriving<'_>,
    ) -> Result<Kept, LakeError> {
        let Arriving { layout, rows, keys, changes } = *arriving;
        let former = former_keys(layout, hasher, changes.former_keys.as_ref())?;
        let ids = FieldIds::new(layout, changes);
        let lsn = rows.column_by_name(origin::SOURCE_LSN).and_then(|c| c.as_primitive_opt::<Int64Type>());
        let lsn_of = |row: usize| lsn.filter(|c| c.is_valid(row)).map(|c: &Int64Array| c.value(row));
        let mut unavailable = changes.unavailable.iter().peekable();
        let mut rekeyed = changes.rekeyed.iter().copied().peekable();
        let mut known = vec![];
        let mut kept = Kept { keep: vec![true; keys.len()], deleted: vec![] };
        let mut copies = Copies { batch: self.batches.len() as u32, rows: vec![] };
        for (row, key) in keys.iter().enumerate() {
            let lacks = unavailable.next_if(|u| u.row as usize == row).map(|u| Lacking {
                columns: ids.of(&u.columns, &mut known),
                former: u.former_key.and_then(|i| former.get(i as usize).copied()),
            });
            let is_rekeyed = rekeyed.next_if(|r| *r as usize == row).is_some();
            let before = overlay.state(*key);
            let lsn = lsn_of(row);
            let state = if changes.ops.get(row) == Some(&Op::Delete) {
                kept.keep[row] = false;
                if is_rekeyed {
                    self.end(FormerKey { key: *key, lsn }, before, &mut copies, &mut kept);
                    if lsn.is_some() {
                        kept.keep[row] = true;
                        kept.deleted.push((row as u32, None));
                    }
                }
                KeyState::Deleted
            } else if let Some(lacks) = lacks.filter(|l| !l.columns.is_empty()) {
                kept.keep[row] = false;
                let earlier = self.earlier(*key, lsn, &lacks, before, &mut copies);
                KeyState::Held(self.hold(*key, row as u32, lacks.columns, earlier, lsn, &mut copies))
            } else {
                KeyState::Arriving(row as u32)
            };
            match overlay.put(*key, state) {
                Some(KeyState::Arriving(earlier)) if !kept.deleted.iter().any(|(e, _)| *e == earlier) => {
                    if let Some(keep) = kept.keep.get_mut(earlier as usize) {
                        *keep = false;
                    }
                }
                Some(KeyState::At(place)) => overlay.supersede(place),
                _ => {}
            }
        }
        kept.deleted.sort_unstable_by_key(|(row, _)| *row);
        if !copies.rows.is_empty() {
            let rows = take_record_batch(rows, &UInt32Array::from(copies.rows))?;
            self.bytes += rows.get_array_memory_size();
            self.batches.push(HeldBatch { layout: Arc::clone(layout), rows });
        }
        Ok(kept)
    }

    /// A row that is written deleted stands at `place`; it is the one that the changing of a key ended, or the mark of that.
    pub(crate) fn deleted_at(&mut self, former: Option<FormerKey>, place: RowPlace) {
        self.needed_files.insert(place.file);
        if let Some(ended) = former.and_then(|former| self.ended.get_mut(&former)) {
            ended.place = Some(place);
        }
    }

    /// The delete of a changed key: remembers the row that it ended. The tombstone behind it ends nothing where the delete came in
    /// the same batch, and may end nothing where it did not.
    fn end(&mut self, former: FormerKey, before: Option<KeyState>, copies: &mut Copies, kept: &mut Kept) {
        let key = former.key;
        let (earlier, place) = match before {
            None => (Earlier::Ended { former, proven: former.lsn.is_some() }, None),
            Some(KeyState::At(place)) => {
                self.needed_files.insert(place.file);
                (Earlier::Written(place), Some(place))
            }
            Some(KeyState::Held(row)) => {
                self.buried.insert(row);
                (Earlier::Held(row), None)
            }
            Some(KeyState::Arriving(row)) => {
                kept.deleted.push((row, Some(former)));
                (Earlier::Held(self.hold(key, row, Arc::default(), Earlier::Nowhere, None, copies)), None)
            }
            Some(KeyState::Deleted) => return,
        };
        self.ended.insert(former, Ended { earlier, place });
    }

    /// The version before a row that lacks values.
    fn earlier(
        &mut self,
        key: u128,
        lsn: Option<i64>,
        lacks: &Lacking,
        before: Option<KeyState>,
        copies: &mut Copies,
    ) -> Earlier {
        let earlier = match (lacks.former, before) {
            // The row of a former key, whatever stood under the new one before.
            (Some(former), _) => match self.ended(FormerKey { key: former, lsn }) {
                Some(earlier) => earlier,
                None => return Earlier::Former(FormerKey { key: former, lsn }),
            },
            (None, None) => return Earlier::Stored(key),
            (None, Some(KeyState::Deleted)) => return Earlier::Nowhere,
            (None, Some(KeyState::At(place))) => return Earlier::Written(place),
            (None, Some(KeyState::Held(row))) => Earlier::Held(row),
            (None, Some(KeyState::Arriving(row))) => {
                return Earlier::Held(self.hold(key, row, Arc::default(), Earlier::Nowhere, None, copies));
            }
        };
        // One that lacks the same has nothing to give: a chain of updates stays short.
        match earlier {
            Earlier::Held(row) => match self.rows.get(row as usize) {
                Some(held) if !held.lacking.is_empty() && lacks.columns.iter().all(|c| held.lacking.contains(c)) => {
                    held.earlier
                }
                _ => earlier,
            },
            earlier => earlier,
        }
    }

    /// The row that the delete of this former key ended, if that delete is in the batch. One without a position may be it.
    pub(super) fn ended(&self, former: FormerKey) -> Option<Earlier> {
        let bare = FormerKey { lsn: None, ..former };
        let ended = self.ended.get(&former).or_else(|| self.ended.get(&bare))?;
        Some(match ended.earlier {
            Earlier::Ended { proven, .. } => Earlier::Ended { former, proven },
            earlier => earlier,
        })
    }

    fn hold(
        &mut self,
        key: u128,
        row: u32,
        lacking: Arc<[i32]>,
        earlier: Earlier,
        lsn: Option<i64>,
        copies: &mut Copies,
    ) -> u32 {
        let number = self.count();
        let at = copies.rows.len() as u32;
        copies.rows.push(row);
        self.rows.push(HeldRow { key, batch: copies.batch, row: at, lacking, earlier, lsn });
        number
    }
}

/// Rows to be copied out of the arriving ones.
struct Copies {
    /// What they will be a batch of.
    batch: u32,
    rows: Vec<u32>,
}

/// From the columns of the changes to the table's field ids.
struct FieldIds(Vec<Option<i32>>);

impl FieldIds {
    fn new(layout: &Layout, changes: &ChangeBatch) -> Self {
        let fields = layout.schema.as_struct().fields();
        let schema = changes.rows.schema();
        let id = |name: &str| Some(fields.get(find(layout.arrow.fields(), name)?)?.id);
        Self(schema.fields().iter().map(|f| id(f.name())).collect())
    }

    /// Rows mostly lack the same columns: `known` are the sets so far.
    fn of(&self, columns: &[u32], known: &mut Vec<Arc<[i32]>>) -> Arc<[i32]> {
        let mut ids: Vec<i32> = columns.iter().filter_map(|c| self.0.get(*c as usize).copied().flatten()).collect();
        ids.sort_unstable();
        if let Some(same) = known.iter().find(|k| ***k == *ids) {
            return Arc::clone(same);
        }
        let ids: Arc<[i32]> = ids.into();
        known.push(Arc::clone(&ids));
        ids
    }
}

fn former_keys(layout: &Layout, hasher: &mut KeyHasher, keys: Option<&RecordBatch>) -> Result<Vec<u128>, LakeError> {
    let Some(keys) = keys else { return Ok(vec![]) };
    let mut columns = vec![];
    for field in layout.key.iter().map(|i| layout.arrow.field(*i)) {
        let at = find(keys.schema_ref().fields(), field.name()).ok_or_else(|| LakeError::Batch {
            table: layout.table.clone(),
            message: format!("a former key comes without the key column {}", field.name()),
        })?;
        columns.push(conform(keys.column(at), field.data_type())?);
    }
    let mut hashes = vec![];
    hasher.hash(&columns, &mut hashes)?;
    Ok(hashes)
}
