//! Which records have a row in a table already, by the rows' origin columns.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_schema::DataType;
use firn_catalog::{ManifestCache, live};
use iceberg::spec::{DataFile, PrimitiveLiteral};
use iceberg::table::Table;

use crate::change::origin;
use crate::position::TopicPartition;
use crate::record::Origin;
use crate::sink::lake::LakeError;
use crate::sink::lake::layout::Layout;
use crate::sink::lake::scan::{WantedColumn, read_columns};

/// Those of `origins` that a row of a live data file came from. A row that was deleted since counts too: it was here.
pub(super) async fn present(
    table: &Table,
    layout: &Layout,
    origins: &[Origin],
    manifests: &ManifestCache,
) -> Result<Vec<Origin>, LakeError> {
    let field = |name: &str, data_type: DataType| {
        layout.schema.field_by_name(name).map(|f| WantedColumn { id: f.id, name: f.name.clone(), data_type })
    };
    let (Some(topic), Some(partition), Some(offset)) = (
        field(origin::TOPIC, DataType::Utf8),
        field(origin::PARTITION, DataType::Int32),
        field(origin::OFFSET, DataType::Int64),
    ) else {
        return Ok(vec![]);
    };
    let mut wanted = BTreeMap::<&TopicPartition, BTreeSet<i64>>::new();
    for o in origins {
        wanted.entry(&o.at).or_default().insert(o.offset);
    }
    let offset_id = offset.id;
    let columns = [topic, partition, offset];
    let files = live::files(table, table.metadata().current_snapshot_id(), manifests).await?;
    let mut found = BTreeSet::new();
    for entry in &files.data {
        if !wanted.values().any(|offsets| may_hold(&entry.file, offset_id, offsets)) {
            continue;
        }
        read_columns(table.file_io(), entry.file.file_path(), &columns, |arrays, rows| {
            let [topics, partitions, offsets] = arrays else { return Ok(()) };
            let (topics, partitions) = (topics.as_string::<i32>(), partitions.as_primitive::<Int32Type>());
            let offsets = offsets.as_primitive::<Int64Type>();
            for row in (0..rows).filter(|r| topics.is_valid(*r) && partitions.is_valid(*r) && offsets.is_valid(*r)) {
                let offset = offsets.value(row);
                // Offsets are rare, topics are all the same: the cheap question first.
                if wanted.values().any(|all| all.contains(&offset)) {
                    let at = TopicPartition::new(topics.value(row), partitions.value(row));
                    if wanted.get(&at).is_some_and(|all| all.contains(&offset)) {
                        found.insert(Origin { at, offset });
                    }
                }
            }
            Ok(())
        })
        .await?;
    }
    Ok(found.into_iter().collect())
}

/// By the bounds of the offset column; without bounds any row may be in it.
fn may_hold(file: &DataFile, offset_id: i32, offsets: &BTreeSet<i64>) -> bool {
    let bound = |bounds: &std::collections::HashMap<i32, iceberg::spec::Datum>| match bounds.get(&offset_id)?.literal()
    {
        PrimitiveLiteral::Long(offset) => Some(*offset),
        _ => None,
    };
    match (bound(file.lower_bounds()), bound(file.upper_bounds())) {
        (Some(low), Some(high)) if low <= high => offsets.range(low..=high).next().is_some(),
        _ => true,
    }
}
