//! The protocol's messages (apache/iceberg `open-api/rest-catalog-open-api.yaml`), as far as firn speaks it. Pure.

use std::collections::HashMap;

use iceberg::spec::{Schema, SortOrder, TableMetadata, UnboundPartitionSpec};
use iceberg::{NamespaceIdent, TableCreation, TableIdent, TableRequirement, TableUpdate};
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, Deserialize)]
pub(super) struct CatalogConfig {
    #[serde(default)]
    pub(super) defaults: HashMap<String, String>,
    #[serde(default)]
    pub(super) overrides: HashMap<String, String>,
}

impl CatalogConfig {
    /// The server's defaults, under ours, under what it insists on.
    pub(super) fn over(self, own: &HashMap<String, String>) -> HashMap<String, String> {
        let mut properties = self.defaults;
        properties.extend(own.clone());
        properties.extend(self.overrides);
        properties
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Token {
    pub(super) access_token: String,
    pub(super) expires_in: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Namespaces {
    pub(super) namespaces: Vec<NamespaceIdent>,
    pub(super) next_page_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Tables {
    pub(super) identifiers: Vec<TableIdent>,
    pub(super) next_page_token: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct CreateNamespace<'a> {
    pub(super) namespace: &'a NamespaceIdent,
    pub(super) properties: HashMap<String, String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct CreateTable {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    schema: Schema,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition_spec: Option<UnboundPartitionSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_order: Option<SortOrder>,
    stage_create: bool,
    properties: HashMap<String, String>,
}

impl From<TableCreation> for CreateTable {
    fn from(creation: TableCreation) -> Self {
        let mut properties = creation.properties;
        // The protocol has no other place for it.
        properties.insert("format-version".to_owned(), (creation.format_version as u8).to_string());
        Self {
            name: creation.name,
            location: creation.location,
            schema: creation.schema,
            partition_spec: creation.partition_spec,
            write_order: creation.sort_order,
            stage_create: false,
            properties,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct LoadedTable {
    pub(super) metadata_location: Option<String>,
    pub(super) metadata: TableMetadata,
    /// For this table alone: credentials ...
    #[serde(default)]
    pub(super) config: HashMap<String, String>,
    #[serde(default)]
    pub(super) storage_credentials: Vec<StorageCredential>,
}

#[derive(Debug, Deserialize)]
pub(super) struct StorageCredential {
    pub(super) prefix: String,
    pub(super) config: HashMap<String, String>,
}

#[derive(Debug, Serialize)]
pub(super) struct CommitTable<'a> {
    pub(super) identifier: &'a TableIdent,
    pub(super) requirements: Vec<TableRequirement>,
    pub(super) updates: Vec<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct CommittedTable {
    pub(super) metadata_location: String,
    pub(super) metadata: TableMetadata,
}

/// What the server must find unchanged for `updates` made on `base`: the protocol compares parts of a table, not whole metadata, so all
/// of them are named. A table whose properties alone moved passes: two swaps of properties only don't see each other.
pub(super) fn requirements(base: &TableMetadata, own: &[TableRequirement]) -> Vec<TableRequirement> {
    let main = base.snapshot_for_ref("main").map(|s| s.snapshot_id());
    let all = [
        TableRequirement::UuidMatch { uuid: base.uuid() },
        TableRequirement::RefSnapshotIdMatch { r#ref: "main".to_owned(), snapshot_id: main },
        TableRequirement::LastAssignedFieldIdMatch { last_assigned_field_id: base.last_column_id() },
        TableRequirement::CurrentSchemaIdMatch { current_schema_id: base.current_schema_id() },
        TableRequirement::LastAssignedPartitionIdMatch { last_assigned_partition_id: base.last_partition_id() },
        TableRequirement::DefaultSpecIdMatch { default_spec_id: base.default_partition_spec_id() },
        TableRequirement::DefaultSortOrderIdMatch { default_sort_order_id: base.default_sort_order_id() },
    ];
    let mut named = own.to_vec();
    named.extend(all.into_iter().filter(|r| !own.contains(r)));
    named
}

/// The updates as sent: a new schema with the `last-column-id` that older servers insist on (Nessie 0.99; the protocol has dropped it).
///
/// # Errors
/// When an update can't be written as JSON.
pub(super) fn updates(base: &TableMetadata, updates: &[TableUpdate]) -> serde_json::Result<Vec<serde_json::Value>> {
    let mut last = base.last_column_id();
    let sent = updates.iter().map(|update| {
        let mut json = serde_json::to_value(update)?;
        if let (TableUpdate::AddSchema { schema }, Some(fields)) = (update, json.as_object_mut()) {
            last = last.max(schema.highest_field_id());
            fields.insert("last-column-id".to_owned(), last.into());
        }
        Ok(json)
    });
    sent.collect()
}

#[cfg(test)]
mod tests {
    use iceberg::spec::FormatVersion;
    use serde_json::json;

    use super::*;
    use crate::testing;

    #[test]
    fn a_creation_says_all_it_has() {
        let request = CreateTable::from(testing::creation("t", FormatVersion::V3));
        let json = serde_json::to_value(&request).unwrap();
        assert_eq!((&json["name"], &json["properties"]), (&json!("t"), &json!({"format-version": "3"})));
        assert_eq!(json["schema"]["type"], "struct");
        assert_eq!(json["schema"]["identifier-field-ids"], json!([1]));
        assert!(json.get("location").is_none());
    }

    #[test]
    fn a_swap_names_every_part_of_its_base_once() {
        let base = testing::metadata("memory://m/t");
        let own = [TableRequirement::RefSnapshotIdMatch { r#ref: "main".to_owned(), snapshot_id: None }];
        let json = serde_json::to_value(requirements(&base, &own)).unwrap();
        let types: Vec<_> = json.as_array().unwrap().iter().map(|r| r["type"].as_str().unwrap()).collect();
        let want = [
            "assert-ref-snapshot-id",
            "assert-table-uuid",
            "assert-last-assigned-field-id",
            "assert-current-schema-id",
            "assert-last-assigned-partition-id",
            "assert-default-spec-id",
            "assert-default-sort-order-id",
        ];
        assert_eq!(types, want);
        assert_eq!(json[0], json!({"type": "assert-ref-snapshot-id", "ref": "main", "snapshot-id": null}));
    }

    #[test]
    fn the_servers_defaults_yield_to_ours_and_ours_to_its_overrides() {
        let server = json!({"defaults": {"a": "server", "b": "server"}, "overrides": {"c": "server"}});
        let server: CatalogConfig = serde_json::from_value(server).unwrap();
        let own = [("b", "own"), ("c", "own")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let properties = server.over(&HashMap::from(own));
        assert_eq!((&*properties["a"], &*properties["b"], &*properties["c"]), ("server", "own", "server"));
    }

    #[test]
    fn a_new_schema_says_its_last_column() {
        let base = testing::metadata("memory://m/t");
        let sent = updates(&base, &[TableUpdate::AddSchema { schema: testing::schema() }]).unwrap();
        assert_eq!((&sent[0]["action"], &sent[0]["last-column-id"]), (&json!("add-schema"), &json!(2)));
    }
}
