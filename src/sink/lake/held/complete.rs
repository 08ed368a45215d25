//! Makes held-back rows whole and writes them into data files of one commit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow_schema::{DataType, Schema as ArrowSchema};
use arrow_select::interleave::interleave;
use firn_catalog::surroundings;
use iceberg::io::FileIO;
use iceberg::spec::NestedFieldRef;
use iceberg::table::Table;
use roaring::RoaringBitmap;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::resolve::{End, Recipe, Site};
use super::{HeldBack, HeldPlaces};
use crate::change::origin;
use crate::memory::Kind;
use crate::sink::lake::conform::Conform;
use crate::sink::lake::cut::Cuts;
use crate::sink::lake::layout::{Layout, OriginIds};
use crate::sink::lake::live::LiveFile;
use crate::sink::lake::overlay::RowPlace;
use crate::sink::lake::stored::{self, Chosen};
use crate::sink::lake::{LakeError, Staged, StagedFile, Stager};

/// Rows without a stored version that are written at once.
const WRITE_ROWS: usize = 1 << 10;
/// Pieces of completed rows that may wait for their writer.
const PIECES_WAITING: usize = 1;

/// The completed rows, in files that no reader can see yet.
#[derive(Debug, Default)]
pub(crate) struct Completed {
    pub(crate) files: Vec<CompletedFile>,
    /// Where the rows are that a changed key's delete ended, by their number among the held rows.
    pub(crate) buried: HashMap<u32, Site>,
    /// Rows that lack nothing now.
    pub(crate) restored: u64,
    /// Rows in which a column stays null: its value is nowhere.
    pub(crate) lost: u64,
}

#[derive(Debug)]
pub(crate) struct CompletedFile {
    pub(crate) file: StagedFile,
    /// Live rows: key and position.
    pub(crate) keys: Vec<(u128, u32)>,
    pub(crate) deleted: RoaringBitmap,
}

/// Writes the rows of `recipes`, whole; `row_ids` are those of the rows that they replace, by key. The files are durable when this
/// answers.
///
/// # Errors
/// When a file can't be read or written; nothing is left behind then as far as storage lets it.
pub(crate) async fn complete(
    base: &Table,
    layout: &Arc<Layout>,
    batch: &Staged,
    recipes: &[Recipe],
    row_ids: &HashMap<u128, i64>,
) -> Result<Completed, LakeError> {
    if recipes.is_empty() {
        return Ok(Completed::default());
    }
    let rows = Rows::new(layout, &batch.held)?;
    let (pieces, mut incoming) = mpsc::channel::<(RecordBatch, Vec<u32>)>(PIECES_WAITING);
    let counted = batch.counted.memory().count(Kind::Staged);
    let mut stager = Stager::plain(Arc::clone(layout), Handle::current(), counted)?;
    let writing = tokio::task::spawn_blocking(move || {
        let mut places = vec![];
        while let Some((rows, held)) = incoming.blocking_recv() {
            let placed = |row: usize, place: RowPlace| {
                places.extend(held.get(row).map(|held| (*held, place)));
            };
            if let Err(e) = stager.append(&rows, placed) {
                stager.abandon();
                return Err(e);
            }
        }
        Ok((stager, places))
    });
    let mut counts = Counts::default();
    let fed = rows.feed(base, recipes, &pieces, &mut counts).await;
    drop(pieces);
    let written =
        surroundings::joined(writing).await.map_err(|e| LakeError::Storage(format!("completing rows: {e}")))?;
    let (stager, places) = match (fed, written) {
        (Ok(()), Ok(written)) => written,
        (Err(e), Ok((stager, _))) => {
            stager.abandon();
            return Err(e);
        }
        // The writer's own error is the cause of the feed's.
        (_, Err(e)) => return Err(e),
    };
    let closed = tokio::task::spawn_blocking(move || stager.close_plain(places));
    let closed = surroundings::joined(closed).await;
    let (files, places) = closed.map_err(|e| LakeError::Storage(format!("completing rows: {e}")))??;
    let mut done = Completed::new(files, places, &batch.held, counts);
    if let Err(e) = done.end(row_ids).await {
        for completed in done.files {
            completed.file.remove(base.file_io()).await;
        }
        return Err(e);
    }
    Ok(done)
}

#[derive(Debug, Default)]
struct Counts {
    restored: u64,
    lost: u64,
}

impl Completed {
    /// Ends the files, and waits until they are durable.
    async fn end(&mut self, row_ids: &HashMap<u128, i64>) -> Result<(), LakeError> {
        for CompletedFile { file, keys, .. } in &mut self.files {
            let ids = keys.iter().filter_map(|(key, position)| Some((*position, *row_ids.get(key)?)));
            file.end(ids.collect()).await?;
            file.release();
        }
        for completed in &mut self.files {
            completed.file.durable().await?;
        }
        Ok(())
    }

    /// The rows that `cuts` takes from each file. If that can't be told, the files go.
    pub(crate) async fn late(
        &self,
        io: &FileIO,
        origin: Option<OriginIds>,
        cuts: &Cuts,
    ) -> Result<Vec<RoaringBitmap>, LakeError> {
        // Where the order of files tells what goes, held rows went when they were told.
        let first = u32::MAX - self.files.len() as u32;
        let candidates = self.files.iter().zip(first..).map(|(completed, number)| {
            let file = &completed.file;
            LiveFile::of(&file.data_file, file.spec_id, origin).candidate(number)
        });
        match cuts.of_batch(io, origin, candidates).await {
            Ok(mut late) => Ok((first..u32::MAX).map(|number| late.remove(&number).unwrap_or_default()).collect()),
            Err(e) => {
                for completed in &self.files {
                    let _ = io.delete(&completed.file.path).await;
                }
                Err(e)
            }
        }
    }

    fn new(files: Vec<StagedFile>, places: HeldPlaces, held: &HeldBack, counts: Counts) -> Self {
        let mut done = Self { restored: counts.restored, lost: counts.lost, ..Self::default() };
        let mut by_number: BTreeMap<u32, CompletedFile> = files
            .into_iter()
            .map(|file| (file.number, CompletedFile { file, keys: vec![], deleted: RoaringBitmap::new() }))
            .collect();
        for (row, place) in places {
            let Some(file) = by_number.get_mut(&place.file) else { continue };
            match held.rows.get(row as usize) {
                Some(_) if held.buried.contains(&row) => {
                    file.deleted.insert(place.position);
                    let site = Site { path: file.file.path.as_str().into(), position: place.position };
                    done.buried.insert(row, site);
                }
                Some(held) => file.keys.push((held.key, place.position)),
                None => {}
            }
        }
        done.files = by_number.into_values().collect();
        done
    }
}

/// The held rows in the columns of the layout under which they are written.
struct Rows<'a> {
    layout: &'a Arc<Layout>,
    held: &'a HeldBack,
    batches: Vec<RecordBatch>,
    fields: &'a [NestedFieldRef],
}

impl<'a> Rows<'a> {
    fn new(layout: &'a Arc<Layout>, held: &'a HeldBack) -> Result<Self, LakeError> {
        let batches = held
            .batches
            .iter()
            .map(|batch| match Arc::ptr_eq(&batch.layout, layout) {
                true => Ok(batch.rows.clone()),
                false => Conform::new(&layout.table, Arc::clone(&layout.arrow)).apply(&batch.rows),
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { layout, held, batches, fields: layout.schema.as_struct().fields() })
    }

    /// Hands the rows on, file by file of those that hold their values, each read once.
    async fn feed(
        &self,
        base: &Table,
        recipes: &[Recipe],
        to: &mpsc::Sender<(RecordBatch, Vec<u32>)>,
        counts: &mut Counts,
    ) -> Result<(), LakeError> {
        let mut by_file: BTreeMap<&str, BTreeMap<u32, Vec<&Recipe>>> = BTreeMap::new();
        let mut alone: Vec<&Recipe> = vec![];
        for recipe in recipes {
            match &recipe.end {
                End::At(site) if !recipe.rest.is_empty() => {
                    by_file.entry(&site.path).or_default().entry(site.position).or_default().push(recipe);
                }
                _ => alone.push(recipe),
            }
        }
        for (path, rows) in by_file {
            if !base.file_io().exists(path).await? {
                // Compacted away, and its last snapshot expired.
                alone.extend(rows.into_values().flatten());
                continue;
            }
            let marker = self.fields.iter().find(|f| f.name == origin::UNAVAILABLE).map(|f| f.id);
            let needs = |id: i32| Some(id) == marker || rows.values().flatten().any(|r| r.rest.contains(&id));
            let wanted: Vec<usize> = (0..self.fields.len()).filter(|i| needs(self.fields[*i].id)).collect();
            let types: ArrowSchema = self.layout.arrow.project(&wanted)?;
            let nullable = types.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>();
            let fields: Vec<NestedFieldRef> = wanted.iter().map(|i| Arc::clone(&self.fields[*i])).collect();
            let positions: RoaringBitmap = rows.keys().copied().collect();
            let mut stored = stored::open(
                base.file_io(),
                path,
                Chosen::At(&positions),
                &fields,
                &Arc::new(ArrowSchema::new(nullable)),
            )
            .await?;
            let mut rows = rows.into_values();
            while let Some(piece) = stored.next().await? {
                let of_piece: Vec<(&Recipe, Option<usize>)> = (0..piece.num_rows())
                    .flat_map(|at| rows.next().unwrap_or_default().into_iter().map(move |r| (r, Some(at))))
                    .collect();
                self.send(&of_piece, Some((&piece, &fields)), to, counts).await?;
            }
            // A file that is shorter than its manifest says has them not.
            alone.extend(rows.flatten());
        }
        for some in alone.chunks(WRITE_ROWS) {
            let rows: Vec<(&Recipe, Option<usize>)> = some.iter().map(|r| (*r, None)).collect();
            self.send(&rows, None, to, counts).await?;
        }
        Ok(())
    }

    async fn send(
        &self,
        rows: &[(&Recipe, Option<usize>)],
        stored: Option<(&RecordBatch, &[NestedFieldRef])>,
        to: &mpsc::Sender<(RecordBatch, Vec<u32>)>,
        counts: &mut Counts,
    ) -> Result<(), LakeError> {
        let whole = self.whole(rows, stored, counts)?;
        let held = rows.iter().filter_map(|(recipe, _)| recipe.versions.first().copied()).collect();
        to.send((whole, held)).await.map_err(|_| LakeError::Storage("the writer of completed rows ended".to_owned()))
    }

    /// The completed rows: each column from the newest version that has it, then from the stored row, else null and named.
    fn whole(
        &self,
        rows: &[(&Recipe, Option<usize>)],
        stored: Option<(&RecordBatch, &[NestedFieldRef])>,
        counts: &mut Counts,
    ) -> Result<RecordBatch, LakeError> {
        let stored_column = |id: i32| {
            let (batch, fields) = stored?;
            Some(batch.column(fields.iter().position(|f| f.id == id)?))
        };
        let marker = self.fields.iter().find(|f| f.name == origin::UNAVAILABLE).map(|f| f.id);
        let lost: Vec<Vec<&str>> = rows
            .iter()
            .map(|(recipe, at)| {
                let named = marker.and_then(stored_column).zip(*at).map(|(column, at)| names(column, at));
                let is_lost = |name: &str| at.is_none() || named.as_ref().is_some_and(|n| n.iter().any(|n| n == name));
                let rest = self.fields.iter().filter(|f| recipe.rest.contains(&f.id)).map(|f| f.name.as_str());
                rest.filter(|name| is_lost(name)).collect()
            })
            .collect();
        counts.lost += lost.iter().filter(|l| !l.is_empty()).count() as u64;
        counts.restored += lost.iter().filter(|l| l.is_empty()).count() as u64;
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.fields.len());
        for (i, field) in self.fields.iter().enumerate() {
            if Some(field.id) == marker {
                columns.push(marks(self.layout.arrow.field(i).data_type(), &lost));
                continue;
            }
            let null = new_null_array(self.layout.arrow.field(i).data_type(), 1);
            let stored = stored_column(field.id);
            let mut sources: Vec<&dyn Array> = self.batches.iter().map(|b| b.column(i).as_ref()).collect();
            let (of_stored, of_null) = (sources.len(), sources.len() + 1);
            sources.push(stored.map_or(null.as_ref(), |s| s.as_ref()));
            sources.push(null.as_ref());
            let source = |(recipe, at): &(&Recipe, Option<usize>)| {
                let versions = recipe.versions.iter().filter_map(|v| self.held.rows.get(*v as usize));
                let has = |held: &&super::HeldRow| !held.lacking.contains(&field.id);
                match (versions.clone().find(has), at.filter(|_| stored.is_some())) {
                    (Some(held), _) => (held.batch as usize, held.row as usize),
                    (None, Some(at)) => (of_stored, at),
                    (None, None) => (of_null, 0),
                }
            };
            let indices: Vec<(usize, usize)> = rows.iter().map(source).collect();
            columns.push(interleave(&sources, &indices)?);
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.layout.arrow), columns)?)
    }
}

/// The names in a row of the column of unavailable ones.
fn names(column: &ArrayRef, at: usize) -> Vec<String> {
    match column.as_list_opt::<i32>().filter(|list| list.is_valid(at)).map(|list| list.value(at)) {
        Some(names) if *names.data_type() == DataType::Utf8 => {
            names.as_string::<i32>().iter().flatten().map(str::to_owned).collect()
        }
        _ => vec![],
    }
}

fn marks(data_type: &DataType, lost: &[Vec<&str>]) -> ArrayRef {
    let DataType::List(element) = data_type else { return new_null_array(data_type, lost.len()) };
    let mut list = ListBuilder::new(StringBuilder::new()).with_field(Arc::clone(element));
    for names in lost {
        names.iter().for_each(|name| list.values().append_value(name));
        list.append(!names.is_empty());
    }
    Arc::new(list.finish())
}
