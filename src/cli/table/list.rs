//! `firn table list`

use firn_catalog::Catalog;
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::super::print::Grid;
use super::super::{Failure, Output};
use super::utc;
use crate::sink::lake::{MODE, Size};

/// Tables loaded at once: enough to hide the store's latency, few enough for a metastore that serves others.
const LOADS_IN_FLIGHT: usize = 8;

#[derive(Debug, Serialize)]
struct Listed {
    table: String,
    mode: Option<String>,
    #[serde(flatten)]
    size: Size,
    last_commit_ms: Option<i64>,
    /// Why the table can't be read.
    error: Option<String>,
}

pub(super) async fn run(catalog: &dyn Catalog, output: Output) -> Result<(), Failure> {
    let names = super::names(catalog).await?;
    let listed: Vec<Listed> = futures::stream::iter(names)
        .map(async |ident| {
            let table = ident.to_string();
            Ok::<_, Failure>(match catalog.load(&ident).await {
                Ok(loaded) => {
                    let metadata = loaded.metadata();
                    Listed {
                        table,
                        mode: metadata.properties().get(MODE).cloned(),
                        size: Size::of(metadata),
                        last_commit_ms: metadata.current_snapshot().map(|s| s.timestamp_ms()),
                        error: None,
                    }
                }
                // One broken table must not hide the others.
                Err(e) => Listed {
                    table,
                    mode: None,
                    size: Size::default(),
                    last_commit_ms: None,
                    error: Some(e.to_string()),
                },
            })
        })
        .buffered(LOADS_IN_FLIGHT)
        .try_collect()
        .await?;
    let mut grid = Grid::new(["table", "mode", "rows", "files", "bytes", "last commit"]);
    for t in &listed {
        let number = |n: Option<u64>| n.map_or_else(String::new, |n| n.to_string());
        let last = t.error.clone().unwrap_or_else(|| t.last_commit_ms.map_or_else(String::new, utc));
        grid.row([
            t.table.clone(),
            t.mode.clone().unwrap_or_default(),
            number(t.size.rows),
            number(t.size.data_files),
            number(t.size.bytes),
            last,
        ]);
    }
    grid.print(output, &listed)
}
