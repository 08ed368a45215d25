//! What a table remembers of its source's columns, in a property that is set in the same swap as the schema.
//!
//! By field ids: another writer may rename a column, its id stays.

use std::collections::{BTreeMap, BTreeSet};

use iceberg::spec::{Schema, TableMetadata};
use serde::{Deserialize, Serialize};

use crate::change::origin;
use crate::lineage::{DroppedColumn, Lineage};
use crate::sink::lake::LakeError;

/// Table property: see [`Remembered`], in JSON.
pub const COLUMNS: &str = "firn.columns";

/// What the lineage of a table's columns is made of. Without it (a table of others) nothing is remembered, and nothing is dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remembered {
    /// See [`Lineage::newest`]. Rows count only while the source's drops are followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lsn: Option<i64>,
    /// Columns that came from the source. Others (somebody's notes) are none of its business when it drops columns.
    #[serde(default)]
    pub(crate) source: BTreeSet<i32>,
    /// Columns for later types of a source column, and its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) versions: BTreeMap<i32, String>,
    /// See [`Lineage::dropped`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) dropped: BTreeMap<String, i64>,
}

impl Remembered {
    /// # Errors
    /// When the property can't be read.
    pub(crate) fn of(table: &str, metadata: &TableMetadata) -> Result<Self, LakeError> {
        let Some(json) = metadata.properties().get(COLUMNS) else { return Ok(Self::default()) };
        serde_json::from_str(json).map_err(|e| LakeError::Unclear {
            table: table.to_owned(),
            message: format!("the property {COLUMNS} can't be read ({e}): it may be of a newer version; it has {json}"),
        })
    }

    /// The property after a commit of rows that stand up to `newest` in the source's log; `None` where it stays as it is.
    pub(crate) fn with_rows_up_to(
        table: &str,
        metadata: &TableMetadata,
        newest: Option<i64>,
    ) -> Result<Option<String>, LakeError> {
        let mut remembered = Self::of(table, metadata)?;
        if newest <= remembered.lsn {
            return Ok(None);
        }
        remembered.lsn = newest;
        Ok(Some(remembered.to_json()))
    }

    pub(crate) fn to_json(&self) -> String {
        // A map with number keys and plain values: always JSON.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The same by the names that the columns have in `schema`.
    pub(crate) fn lineage(&self, schema: &Schema, fixed: &BTreeSet<i32>, policy: DroppedColumn) -> Lineage {
        let fields = schema.as_struct().fields();
        let drops = policy == DroppedColumn::Drop;
        let named = |id: &i32| fields.iter().find(|f| f.id == *id).map(|f| f.name.clone());
        let versions = self.versions.iter().filter_map(|(id, of)| Some((named(id)?, of.clone()))).collect();
        // Without the source's positions in its rows nobody knows what is in the table.
        let ordered = self.lsn.is_some() && schema.field_by_name(origin::SOURCE_LSN).is_some();
        let droppable = self.source.iter().filter(|id| drops && ordered && !fixed.contains(id));
        let droppable = droppable.filter_map(named).collect();
        Lineage { drops, newest: self.lsn, versions, droppable, dropped: self.dropped.clone() }
    }
}

/// Columns that can't be dropped: keys, and what a partition spec or the sort order is made of.
pub(crate) fn fixed(metadata: &TableMetadata) -> BTreeSet<i32> {
    let identifiers = metadata.current_schema().identifier_field_ids();
    let specs = metadata.partition_specs_iter().flat_map(|spec| spec.fields()).map(|f| f.source_id);
    let orders = metadata.sort_orders_iter().flat_map(|order| &order.fields).map(|f| f.source_id);
    identifiers.chain(specs).chain(orders).collect()
}
