//! LIMIT of a compaction: the same rows read and written with parquet-rs, when nothing has to be right. No deletes, no table, no record of
//! where rows went.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

/// As many as firn rewrites groups at once by itself.
pub const THREADS: usize = 2;
/// What firn makes of its default of 256 MiB, and of rows that are not wide.
const ROW_GROUP_BYTES: usize = 16 << 20;
const ROW_GROUP_ROWS: usize = 128 << 10;
const BATCH_ROWS: usize = 8 << 10;

/// Rewrites the files that `list` names, a line each, into one of each thread in `dir`; answers the rows written.
pub fn run(list: &Path, dir: &Path) -> anyhow::Result<u64> {
    let files: Vec<PathBuf> = std::fs::read_to_string(list)?.lines().map(PathBuf::from).collect();
    let shares: Vec<_> = files.chunks(files.len().div_ceil(THREADS).max(1)).map(<[PathBuf]>::to_vec).collect();
    let threads: Vec<_> = (0..)
        .zip(shares)
        .map(|(thread, files)| {
            let to = dir.join(format!("plain-{thread}.parquet"));
            std::thread::spawn(move || rewrite(&files, &to))
        })
        .collect();
    let mut rows = 0;
    for thread in threads {
        rows += thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    }
    Ok(rows)
}

fn rewrite(files: &[PathBuf], to: &Path) -> anyhow::Result<u64> {
    let open = |path: &PathBuf| -> anyhow::Result<_> {
        Ok(ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.with_batch_size(BATCH_ROWS))
    };
    let schema = open(files.first().context("no files")?)?.schema().clone();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .build();
    let mut writer = ArrowWriter::try_new(File::create(to)?, schema, Some(properties))?;
    let mut rows = 0;
    for path in files {
        for batch in open(path)?.build()? {
            let batch = batch?;
            rows += batch.num_rows() as u64;
            writer.write(&batch)?;
        }
    }
    writer.close()?;
    Ok(rows)
}
