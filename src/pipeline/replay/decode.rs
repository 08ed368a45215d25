//! Letters through the pipeline's decoder.

use std::cell::RefCell;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;

use crate::batch::ChangeBatch;
use crate::change::{Mode, Op, RowSchema, origin};
use crate::debezium::{DecodeOptions, Decoder, Pushed, reason};
use crate::letter::Letter;
use crate::lineage::Asker;
use crate::pipeline::declared;
use crate::pipeline::keys::KeyReader;
use crate::pipeline::told::{Told, ask, push};
use crate::record::Record;
use crate::sink::lake::{LakeError, LakeTable, Stager, TableColumns};

/// What there is to know of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The hash of its key, in an upsert table.
    pub key: Option<u128>,
    /// Where its change stands in the source's log, where the source tells and rows say so.
    pub lsn: Option<i64>,
    /// Whether a snapshot read it.
    pub read: bool,
}

/// What a letter's record is today.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Today {
    Row(Row),
    /// No row, e.g. a heartbeat.
    Nothing(String),
    Rejected {
        reason: String,
        detail: String,
    },
}

/// Looks at one record after the other; the table's columns are made to fit where they must.
pub struct Reader<'a> {
    lake: &'a LakeTable,
    decoder: Decoder,
    mode: Mode,
    told: Told<'a>,
}

impl<'a> Reader<'a> {
    /// # Errors
    /// When the table's columns contradict the configuration.
    pub async fn new(lake: &'a LakeTable, options: &DecodeOptions, told: Told<'a>) -> Result<Self, String> {
        let mut decoder = Decoder::new(options.clone());
        if let Some(table) = declared::agree(lake, &options.declared).await {
            decoder.set_table(table.rows(), table.lineage())?;
        }
        Ok(Self { lake, decoder, mode: options.mode, told })
    }

    /// # Errors
    /// When the catalog can't be reached.
    pub async fn look(&mut self, record: &Record<'_>) -> Result<Today, String> {
        let rejected = |reason: &str, detail: String| Ok(Today::Rejected { reason: reason.to_owned(), detail });
        let mut pushed = push(&mut self.decoder, record, self.told)?;
        if let Pushed::NeedsSchema(schema) = &pushed {
            let asker = Asker { origin: record.origin(), lsn: self.decoder.asking_lsn() };
            match self.lake.agree(schema, Some(&asker)).await {
                Ok(table) => match self.decoder.set_table(table.rows(), table.lineage()) {
                    Ok(()) => pushed = push(&mut self.decoder, record, self.told)?,
                    Err(why) => return rejected("incompatible_schema", why),
                },
                Err(e) if e.is_transient() => return Err(e.to_string()),
                Err(e) => return rejected("incompatible_schema", e.to_string()),
            }
        }
        match pushed {
            Pushed::Row(op) => {
                let batch = self.decoder.finish();
                let row = Row { key: None, lsn: lsn_of(&batch), read: op == Op::Read };
                match (self.mode, key_of(&mut self.lake.stager().map_err(text)?, &batch)) {
                    (Mode::Append, _) => Ok(Today::Row(row)),
                    (Mode::Upsert, key @ Some(_)) => Ok(Today::Row(Row { key, ..row })),
                    (Mode::Upsert, None) => {
                        rejected("incompatible_schema", "the row's columns are not the table's".to_owned())
                    }
                }
            }
            Pushed::Skipped(kind) => Ok(Today::Nothing(kind.as_str().to_owned())),
            Pushed::Truncate(_) => rejected(
                "truncate",
                "a TRUNCATE of the source table, too late to be applied: delete the rows from before it by hand"
                    .to_owned(),
            ),
            Pushed::Rejected(reject) => rejected(reject.reason, reject.detail),
            Pushed::NeedsSchema(_) | Pushed::NeedsWriterSchema(_) | Pushed::NeedsSource { .. } => rejected(
                "incompatible_schema",
                "the record's schema does not fit the table's columns even after the table was brought up to date"
                    .to_owned(),
            ),
        }
    }
}

/// The rows of letters that are rows today, in their order; `None` where one of them is none any more.
///
/// # Errors
/// When the table's columns contradict the configuration.
pub async fn rows(
    lake: &LakeTable,
    options: &DecodeOptions,
    told: Told<'_>,
    letters: &[&Letter],
) -> Result<Option<ChangeBatch>, String> {
    let Reader { mut decoder, .. } = Reader::new(lake, options, told).await?;
    for letter in letters {
        if !matches!(push(&mut decoder, &letter.record(), told)?, Pushed::Row(_)) {
            return Ok(None);
        }
    }
    Ok(Some(decoder.finish()))
}

fn lsn_of(batch: &ChangeBatch) -> Option<i64> {
    let lsn = batch.rows.column_by_name(origin::SOURCE_LSN)?.as_primitive_opt::<Int64Type>()?;
    lsn.iter().next().flatten()
}

fn key_of(stager: &mut Stager, batch: &ChangeBatch) -> Option<u128> {
    match stager.key_hashes(&batch.rows).ok()?[..] {
        [key] => Some(key),
        _ => None,
    }
}

/// The keys of records of the log.
pub struct LogKeys<'a> {
    table: &'a RowSchema,
    keys: KeyReader,
    decoder: Decoder,
    stager: Stager,
    told: Told<'a>,
}

impl<'a> LogKeys<'a> {
    /// # Errors
    /// When the table's columns contradict the configuration.
    pub fn new(
        lake: &LakeTable,
        table: &'a TableColumns,
        options: &DecodeOptions,
        told: Told<'a>,
    ) -> Result<Self, String> {
        let mut decoder = Decoder::new(options.clone());
        decoder.set_table(table.rows(), table.lineage())?;
        Ok(Self {
            table: table.rows(),
            keys: KeyReader::new(options.clone()),
            decoder,
            stager: lake.stager().map_err(text)?,
            told,
        })
    }

    /// What the record changes: from its key alone where that tells, else from the whole record.
    ///
    /// # Errors
    /// When the registry does not tell a schema that it was written with: two keys of one row may have schemas of different ids, so
    /// their bytes tell nothing.
    pub fn changes(&mut self, record: &Record<'_>) -> Result<Changes, String> {
        let told = self.told;
        let of_key = |key: Option<u128>| key.map_or(Changes::Untold, Changes::Key);
        let away = RefCell::new(None);
        let schema = |id| ask(told.schemas, id).map_err(|why| away.replace(Some(why))).ok();
        let rows = self.keys.read(self.table, record, &schema);
        if let Some(why) = away.into_inner() {
            return Err(why);
        }
        if let Some(rows) = rows {
            return Ok(of_key(self.stager.key_hashes(&rows).ok().and_then(|hashes| hashes.first().copied())));
        }
        Ok(match push(&mut self.decoder, record, told)? {
            Pushed::Row(_) => of_key(key_of(&mut self.stager, &self.decoder.finish())),
            Pushed::Truncate(_) => Changes::Everything,
            Pushed::Rejected(reject) if reject.reason == reason::UNKNOWN_SCHEMA_ID => {
                return Err(format!("record {}: {}", record.origin(), reject.detail));
            }
            _ => Changes::Untold,
        })
    }
}

/// What a record of the log changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changes {
    /// The row of this key, by its hash.
    Key(u128),
    /// The source table was emptied.
    Everything,
    /// It is no row, or can't be read now.
    Untold,
}

fn text(e: LakeError) -> String {
    e.to_string()
}
