//! The current rows of a view's topic in memory: one row a key, to be scanned as a whole.
//!
//! Rows stand in chunks of bounded size, so that a change costs the copy of one chunk at most, and small chunks are merged as they
//! come in, so that there are few.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, new_null_array};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{ArrowError, Field, Schema, SchemaRef};
use arrow_select::concat::concat_batches;
use arrow_select::filter::filter_record_batch;
use arrow_select::interleave::interleave;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use xxhash_rust::xxh3::xxh3_128;

use crate::batch::ChangeBatch;
use crate::change::Op;

/// Rows of a chunk that is not merged any more.
const CHUNK_ROWS: usize = 1 << 16;

pub(super) struct ViewRows {
    columns: SchemaRef,
    keys: Keys,
    chunks: Vec<Chunk>,
    /// Where each key's row stands; the key stands there too.
    places: HashTable<Place>,
}

/// Chunk and row.
pub(super) type Place = (u32, u32);

/// Columns by which rows are told apart.
pub(super) struct Keys {
    columns: Vec<usize>,
    converter: RowConverter,
}

impl Keys {
    /// # Errors
    /// When a column has a type that can't be compared.
    pub(super) fn new(schema: &Schema, columns: Vec<usize>) -> Result<Self, ArrowError> {
        let fields = columns.iter().map(|at| SortField::new(schema.field(*at).data_type().clone())).collect();
        Ok(Self { columns, converter: RowConverter::new(fields)? })
    }

    /// Of each row a number that is its key's alone.
    ///
    /// # Errors
    /// Never, as long as the rows keep to their schema.
    pub(super) fn hashes(&self, rows: &RecordBatch) -> Result<Vec<u128>, ArrowError> {
        let columns: Vec<_> = self.columns.iter().map(|at| Arc::clone(rows.column(*at))).collect();
        self.numbers(&columns)
    }

    fn hashes_by_name(&self, schema: &Schema, values: &RecordBatch) -> Result<Option<Vec<u128>>, ArrowError> {
        let column = |at: &usize| {
            let field = schema.field(*at);
            values.column_by_name(field.name()).filter(|column| column.data_type() == field.data_type()).cloned()
        };
        self.columns.iter().map(column).collect::<Option<Vec<_>>>().map(|columns| self.numbers(&columns)).transpose()
    }

    fn numbers(&self, columns: &[ArrayRef]) -> Result<Vec<u128>, ArrowError> {
        Ok(self.converter.convert_columns(columns)?.iter().map(|row| xxh3_128(row.as_ref())).collect())
    }
}

/// What a row's place is found by.
fn short(key: u128) -> u64 {
    key as u64
}

/// The key at a place.
fn key_at(chunks: &[Chunk], (chunk, row): Place) -> Option<u128> {
    chunks.get(chunk as usize)?.keys.get(row as usize).copied()
}

struct Chunk {
    rows: RecordBatch,
    keys: Vec<u128>,
    /// Rows that were replaced or deleted.
    dead: Vec<bool>,
    dead_rows: usize,
    /// What is left, once it was asked for.
    live: Option<RecordBatch>,
}

impl Chunk {
    fn new(rows: RecordBatch, keys: Vec<u128>) -> Self {
        Self { dead: vec![false; keys.len()], dead_rows: 0, live: None, rows, keys }
    }

    fn kill(&mut self, row: usize) {
        if let Some(dead) = self.dead.get_mut(row).filter(|dead| !**dead) {
            *dead = true;
            self.dead_rows += 1;
            self.live = None;
        }
    }

    fn live(&mut self) -> Result<&RecordBatch, ArrowError> {
        if self.dead_rows == 0 {
            return Ok(&self.rows);
        }
        if self.live.is_none() {
            let alive: BooleanArray = self.dead.iter().map(|dead| Some(!dead)).collect();
            self.live = Some(filter_record_batch(&self.rows, &alive)?);
        }
        Ok(self.live.as_ref().unwrap_or(&self.rows))
    }

    fn live_keys(&self) -> impl Iterator<Item = u128> {
        self.keys.iter().zip(&self.dead).filter(|(_, dead)| !**dead).map(|(key, _)| *key)
    }
}

impl ViewRows {
    /// For rows of these columns, told apart by those at `keys`.
    ///
    /// # Errors
    /// When a key column has a type that can't be compared.
    pub(super) fn new(columns: SchemaRef, keys: Vec<usize>) -> Result<Self, ArrowError> {
        Ok(Self { keys: Keys::new(&columns, keys)?, columns, chunks: Vec::new(), places: HashTable::new() })
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn columns(&self) -> &SchemaRef {
        &self.columns
    }

    /// Bytes of memory, about.
    pub(super) fn bytes(&self) -> usize {
        let chunk = |c: &Chunk| {
            c.rows.get_array_memory_size()
                + c.live.as_ref().map_or(0, RecordBatch::get_array_memory_size)
                + c.keys.len() * 17
        };
        self.chunks.iter().map(chunk).sum::<usize>() + self.places.allocation_size()
    }

    /// The rows as they are now.
    ///
    /// # Errors
    /// Never, as long as batches keep to their schema.
    pub(super) fn scan(&mut self) -> Result<Vec<RecordBatch>, ArrowError> {
        self.chunks.iter_mut().map(|chunk| chunk.live().cloned()).collect()
    }

    /// The numbers of keys whose columns, called as the table's, are these; `None` where they are not all of the key's, or of other types.
    ///
    /// # Errors
    /// Never: the columns are of the right types.
    pub(super) fn key_hashes(&self, values: &RecordBatch) -> Result<Option<Vec<u128>>, ArrowError> {
        self.keys.hashes_by_name(&self.columns, values)
    }

    /// As [`Keys::hashes`].
    ///
    /// # Errors
    /// Never, as long as the rows keep to their schema.
    pub(super) fn hashes(&self, rows: &RecordBatch) -> Result<Vec<u128>, ArrowError> {
        self.keys.hashes(rows)
    }

    /// The row of a key; its place is good until the next change.
    pub(super) fn find(&self, key: u128) -> Option<Place> {
        self.places.find(short(key), |place| key_at(&self.chunks, *place) == Some(key)).copied()
    }

    /// The rows of these keys, of each once.
    ///
    /// # Errors
    /// Never, as long as batches keep to their schema.
    pub(super) fn rows_of(&self, keys: impl Iterator<Item = u128>) -> Result<RecordBatch, ArrowError> {
        let places: BTreeSet<Place> = keys.filter_map(|key| self.find(key)).collect();
        let picks: Vec<(usize, usize)> =
            places.into_iter().map(|(chunk, row)| (chunk as usize, row as usize)).collect();
        let column = |at: usize| {
            let chunks: Vec<&dyn Array> = self.chunks.iter().map(|chunk| chunk.rows.column(at).as_ref()).collect();
            interleave(&chunks, &picks)
        };
        if picks.is_empty() {
            return Ok(RecordBatch::new_empty(Arc::clone(&self.columns)));
        }
        let columns = (0..self.columns.fields().len()).map(column).collect::<Result<Vec<_>, _>>()?;
        RecordBatch::try_new(Arc::clone(&self.columns), columns)
    }

    /// The rows that there are, with their keys.
    pub(super) fn live(&self) -> impl Iterator<Item = (u128, &RecordBatch, usize)> {
        self.chunks.iter().flat_map(|chunk| {
            let rows = chunk.keys.iter().zip(&chunk.dead).enumerate();
            rows.filter(|(_, (_, dead))| !**dead).map(move |(row, (key, _))| (*key, &chunk.rows, row))
        })
    }

    /// The number in a column of whole numbers or times.
    pub(super) fn number(&self, (chunk, row): Place, column: &str) -> Option<i64> {
        let rows = &self.chunks.get(chunk as usize)?.rows;
        let (column, row) = (rows.column_by_name(column)?, row as usize);
        let numbers = column.as_primitive_opt::<Int64Type>().map(|c| c.values());
        let numbers = numbers.or_else(|| column.as_primitive_opt::<TimestampMicrosecondType>().map(|c| c.values()))?;
        column.is_valid(row).then(|| numbers.get(row).copied()).flatten()
    }

    /// All rows, dead ones too, by chunk.
    pub(super) fn chunks(&self) -> Vec<&RecordBatch> {
        self.chunks.iter().map(|chunk| &chunk.rows).collect()
    }

    /// Takes the row of a key out. No other changes its place.
    pub(super) fn remove(&mut self, key: u128) {
        if let Some((chunk, row)) = self.displace(key)
            && let Some(chunk) = self.chunks.get_mut(chunk as usize)
        {
            chunk.kill(row as usize);
        }
    }

    /// Forgets where the row of a key stands.
    fn displace(&mut self, key: u128) -> Option<Place> {
        let Self { chunks, places, .. } = self;
        let entry = places.find_entry(short(key), |place| key_at(chunks, *place) == Some(key));
        entry.ok().map(|entry| entry.remove().0)
    }

    /// Notes where the row of a key stands; where it stood before.
    fn replace(&mut self, key: u128, place: Place) -> Option<Place> {
        let Self { chunks, places, .. } = self;
        let is_it = |place: &Place| key_at(chunks, *place) == Some(key);
        let hash = |place: &Place| key_at(chunks, *place).map_or(0, short);
        match places.entry(short(key), is_it, hash) {
            Entry::Occupied(mut entry) => Some(std::mem::replace(entry.get_mut(), place)),
            Entry::Vacant(entry) => {
                entry.insert(place);
                None
            }
        }
    }

    /// Takes out the rows that are to go.
    ///
    /// # Errors
    /// Never, as long as batches keep to their schema.
    pub(super) fn take_out(&mut self, goes: impl Fn(&RecordBatch, usize) -> bool) -> Result<(), ArrowError> {
        let gone: Vec<u128> = self.live().filter(|(_, rows, row)| goes(rows, *row)).map(|(key, ..)| key).collect();
        gone.into_iter().for_each(|key| self.remove(key));
        self.merge()
    }

    /// Rows of former columns under these; columns that they lack are null.
    ///
    /// # Errors
    /// When a column's type has changed into one that its values can't have.
    pub(super) fn widened(&self, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let column = |field: &Arc<Field>| match rows.column_by_name(field.name()) {
            Some(column) => arrow_cast::cast(column, field.data_type()),
            None => Ok(new_null_array(field.data_type(), rows.num_rows())),
        };
        let columns = self.columns.fields().iter().map(column).collect::<Result<Vec<_>, _>>()?;
        RecordBatch::try_new(Arc::clone(&self.columns), columns)
    }

    /// Takes changes, in their order.
    ///
    /// # Errors
    /// Never, as long as batches keep to their schema.
    pub(super) fn apply(&mut self, batch: &ChangeBatch) -> Result<(), ArrowError> {
        let keys = self.hashes(&batch.rows)?;
        self.put(&batch.rows, keys, |row| batch.ops.get(row) == Some(&Op::Delete))
    }

    /// Takes rows under these keys, in their order; where one is a delete, the key has none.
    ///
    /// # Errors
    /// Never, as long as batches keep to their schema.
    pub(super) fn put(
        &mut self,
        rows: &RecordBatch,
        keys: Vec<u128>,
        is_delete: impl Fn(usize) -> bool,
    ) -> Result<(), ArrowError> {
        let number = self.chunks.len() as u32;
        let rows = RecordBatch::try_new(Arc::clone(&self.columns), rows.columns().to_vec())?;
        self.chunks.push(Chunk::new(rows, keys.clone()));
        for (row, key) in keys.into_iter().enumerate() {
            let place = (number, row as u32);
            let dead = match is_delete(row) {
                true => [Some(place), self.displace(key)],
                false => [self.replace(key, place), None],
            };
            for (chunk, row) in dead.into_iter().flatten() {
                if let Some(chunk) = self.chunks.get_mut(chunk as usize) {
                    chunk.kill(row as usize);
                }
            }
        }
        self.merge()
    }

    /// Merges the last chunks while one is not smaller than the one before it, and drops what is dead in those that are mostly so.
    fn merge(&mut self) -> Result<(), ArrowError> {
        while let [.., a, b] = &self.chunks[..]
            && a.keys.len() + b.keys.len() <= CHUNK_ROWS
            && b.keys.len() * 2 >= a.keys.len()
        {
            let at = self.chunks.len() - 2;
            let merged = self.joined(at)?;
            let rows = self.renumber(at, at, 0);
            self.renumber(at + 1, at, rows);
            self.chunks.truncate(at);
            self.chunks.push(merged);
        }
        for at in 0..self.chunks.len() {
            if self.chunks.get(at).is_some_and(|c| c.dead_rows * 2 > c.keys.len()) {
                self.renumber(at, at, 0);
                let Some(chunk) = self.chunks.get_mut(at) else { continue };
                *chunk = Chunk::new(chunk.live()?.clone(), chunk.live_keys().collect());
            }
        }
        Ok(())
    }

    /// The rows of the chunks from `at` on in one.
    fn joined(&mut self, at: usize) -> Result<Chunk, ArrowError> {
        let chunks = self.chunks.get_mut(at..).unwrap_or_default();
        let keys = chunks.iter().flat_map(Chunk::live_keys).collect();
        let rows = chunks.iter_mut().map(|c| c.live().cloned()).collect::<Result<Vec<_>, _>>()?;
        Ok(Chunk::new(concat_batches(&self.columns, &rows)?, keys))
    }

    /// Notes that the rows that are left of a chunk will stand in the chunk `to` from `row` on; answers the row after them. They move down only,
    /// so none is taken for one that has moved already.
    fn renumber(&mut self, at: usize, to: usize, mut row: u32) -> u32 {
        let Self { chunks, places, .. } = self;
        let Some(chunk) = chunks.get(at) else { return row };
        for (number, (key, dead)) in (0..).zip(chunk.keys.iter().zip(&chunk.dead)) {
            if *dead {
                continue;
            }
            let stood = (at as u32, number);
            if let Some(place) = places.find_mut(short(*key), |place| *place == stood) {
                *place = (to as u32, row);
            }
            row += 1;
        }
        row
    }
}

impl std::fmt::Debug for ViewRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ViewRows")
            .field("rows", &self.len())
            .field("chunks", &self.chunks.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_array::{Int64Array, StringArray};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn batch(changes: &[(i64, Option<String>)]) -> ChangeBatch {
        let rows = RecordBatch::try_from_iter([
            ("id", Arc::new(Int64Array::from_iter_values(changes.iter().map(|c| c.0))) as ArrayRef),
            ("v", Arc::new(StringArray::from_iter_values(changes.iter().map(|c| c.1.clone().unwrap_or_default())))),
        ]);
        let op = |c: &(i64, Option<String>)| if c.1.is_some() { Op::Update } else { Op::Delete };
        ChangeBatch::new(rows.unwrap(), changes.iter().map(op).collect())
    }

    #[test]
    fn it_equals_a_map_whatever_comes() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut view = ViewRows::new(batch(&[]).rows.schema(), vec![0]).unwrap();
        let mut model = BTreeMap::new();
        for round in 0..400 {
            let n = rng.random_range(1..40);
            let changes: Vec<(i64, Option<String>)> = (0..n)
                .map(|i| (rng.random_range(0..300), rng.random_bool(0.8).then(|| format!("{round}-{i}"))))
                .collect();
            for (id, v) in &changes {
                match v {
                    Some(v) => model.insert(*id, v.clone()),
                    None => model.remove(id),
                };
            }
            view.apply(&batch(&changes)).unwrap();
            let mut seen = BTreeMap::new();
            for rows in view.scan().unwrap() {
                let ids = rows.column(0).as_primitive::<Int64Type>().values().to_vec();
                for (i, id) in ids.into_iter().enumerate() {
                    assert!(
                        seen.insert(id, rows.column(1).as_string::<i32>().value(i).to_owned()).is_none(),
                        "{id} twice"
                    );
                }
            }
            assert_eq!((&seen, view.len()), (&model, model.len()), "round {round}");
        }
        assert!(view.chunks.len() < 20, "{} chunks", view.chunks.len());
    }
}
