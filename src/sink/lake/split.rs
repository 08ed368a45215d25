//! Which partition each row belongs to.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_row::{RowConverter, SortField};
use iceberg::arrow::{PartitionValueCalculator, arrow_struct_to_literal};
use iceberg::spec::{Literal, PartitionSpec, Schema, Struct};

use crate::sink::lake::LakeError;

/// Rows of one partition in one batch.
#[derive(Debug)]
pub(crate) struct Group {
    /// Tells partitions apart; empty when the table has none.
    pub(crate) key: Box<[u8]>,
    pub(crate) partition: Struct,
    /// Ascending; `None` means all rows.
    pub(crate) rows: Option<Vec<u32>>,
}

/// Splits batches by a partition spec.
pub(crate) struct Splitter(Option<Partitioned>);

struct Partitioned {
    values: PartitionValueCalculator,
    converter: RowConverter,
}

impl Splitter {
    pub(crate) fn new(spec: &PartitionSpec, schema: &Schema) -> Result<Self, LakeError> {
        if spec.is_unpartitioned() {
            return Ok(Self(None));
        }
        let values = PartitionValueCalculator::try_new(spec, schema)?;
        let converter = RowConverter::new(vec![SortField::new(values.partition_arrow_type().clone())])?;
        Ok(Self(Some(Partitioned { values, converter })))
    }

    /// For each row of `batch` (whose columns are the table's) what tells its partition, and orders by it; `None` when the table has none.
    pub(crate) fn keys(&self, batch: &RecordBatch) -> Result<Option<ArrayRef>, LakeError> {
        let Some(Partitioned { values, converter }) = &self.0 else { return Ok(None) };
        let encoded = converter.convert_columns(&[values.calculate(batch)?])?;
        Ok(Some(Arc::new(encoded.try_into_binary()?)))
    }

    /// The groups of `batch` (whose columns are the table's), in the order of their first rows.
    pub(crate) fn split(&self, batch: &RecordBatch) -> Result<Vec<Group>, LakeError> {
        let Some(Partitioned { values, converter }) = &self.0 else {
            return Ok(vec![Group { key: Box::default(), partition: Struct::empty(), rows: None }]);
        };
        let tuples = values.calculate(batch)?;
        let encoded = converter.convert_columns(&[Arc::clone(&tuples)])?;
        let mut groups: Vec<(usize, Vec<u32>)> = vec![];
        let mut known = hashbrown::HashMap::<&[u8], usize>::new();
        let mut last: Option<(&[u8], usize)> = None;
        for (i, row) in encoded.iter().enumerate() {
            let bytes = row.data();
            let group = match last {
                // Neighbours mostly share their partition.
                Some((before, group)) if before == bytes => group,
                _ => *known.entry(bytes).or_insert_with(|| {
                    groups.push((i, vec![]));
                    groups.len() - 1
                }),
            };
            last = Some((bytes, group));
            groups[group].1.push(i as u32);
        }
        let whole = groups.len() == 1;
        groups
            .into_iter()
            .map(|(first, members)| {
                Ok(Group {
                    key: encoded.row(first).data().into(),
                    partition: tuple(&tuples, first, values)?,
                    rows: (!whole).then_some(members),
                })
            })
            .collect()
    }
}

fn tuple(tuples: &ArrayRef, row: usize, values: &PartitionValueCalculator) -> Result<Struct, LakeError> {
    match arrow_struct_to_literal(&tuples.slice(row, 1), values.partition_type())?.pop() {
        Some(Some(Literal::Struct(tuple))) => Ok(tuple),
        other => Err(LakeError::Storage(format!("a partition tuple read as {other:?}"))),
    }
}

impl std::fmt::Debug for Splitter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Splitter").field("partitioned", &self.0.is_some()).finish()
    }
}
