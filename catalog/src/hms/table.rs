//! What the metastore is told about an Iceberg table: parameters, columns, formats. Pure; as Java's `HiveCatalog` writes them, since Java,
//! Hive and Trino read them.

use std::collections::BTreeMap;

use iceberg::spec::{PrimitiveType, SnapshotRef, TableMetadata, Type};
use serde::Serialize;

pub(super) const TABLE_TYPE: &str = "table_type";
pub(super) const METADATA_LOCATION: &str = "metadata_location";
const PREVIOUS_METADATA_LOCATION: &str = "previous_metadata_location";
/// Table property that lets Hive itself query the table.
const ENGINE_HIVE_ENABLED: &str = "engine.hive.enabled";
/// Table property by which all writers agree to do without the lock.
pub(super) const LOCK_ENABLED: &str = "engine.hive.lock-enabled";

/// Longest value of one parameter, in bytes: what Java allows (`iceberg.hive.table-property-max-size`). A longer one is left out, readers
/// take it from the metadata file; larger, and a metastore database refuses the whole swap.
const PARAMETER_MAX_BYTES: usize = 32_672;

/// What to write over a stored table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableEntry {
    /// `None` removes.
    pub(super) parameters: BTreeMap<String, Option<String>>,
    pub(super) columns: Vec<Column>,
    pub(super) location: String,
    pub(super) format: Format,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) hive_type: String,
    pub(super) comment: Option<String>,
}

/// Java class names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) input: &'static str,
    pub(super) output: &'static str,
    pub(super) serde: &'static str,
}

/// For a table that Hive itself doesn't query: any that its classpath has.
pub(super) const FILES: Format = Format {
    input: "org.apache.hadoop.mapred.FileInputFormat",
    output: "org.apache.hadoop.mapred.FileOutputFormat",
    serde: "org.apache.hadoop.hive.serde2.lazy.LazySimpleSerDe",
};

const HIVE_ENGINE: Format = Format {
    input: "org.apache.iceberg.mr.hive.HiveIcebergInputFormat",
    output: "org.apache.iceberg.mr.hive.HiveIcebergOutputFormat",
    serde: "org.apache.iceberg.mr.hive.HiveIcebergSerDe",
};

/// The metadata that is replaced, and where it lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Previous<'a> {
    pub(super) metadata: &'a TableMetadata,
    pub(super) location: &'a str,
}

/// What to write for `metadata`, stored at `metadata_location`.
pub(super) fn entry(metadata: &TableMetadata, metadata_location: &str, previous: Option<Previous<'_>>) -> TableEntry {
    let for_hive = is_on(metadata, ENGINE_HIVE_ENABLED);
    let mut p = BTreeMap::new();
    // First the table's own properties, then ours: a property can't forge a metadata location.
    let gone = previous.iter().flat_map(|p| p.metadata.properties().keys());
    p.extend(gone.map(|key| (parameter_of(key).to_owned(), None)));
    p.extend(metadata.properties().iter().map(|(k, v)| (parameter_of(k).to_owned(), sized(v.clone()))));

    let mut set = |key: &str, value: Option<String>| p.insert(key.to_owned(), value);
    set("EXTERNAL", Some("TRUE".to_owned()));
    set(TABLE_TYPE, Some("ICEBERG".to_owned()));
    set(METADATA_LOCATION, Some(metadata_location.to_owned()));
    set(PREVIOUS_METADATA_LOCATION, previous.map(|p| p.location.to_owned()));
    set("uuid", Some(metadata.uuid().to_string()));
    set("storage_handler", for_hive.then(|| "org.apache.iceberg.mr.hive.HiveIcebergStorageHandler".to_owned()));
    set("current-schema", json(metadata.current_schema().as_ref()));
    let spec = metadata.default_partition_spec();
    set("default-partition-spec", if spec.is_unpartitioned() { None } else { json(spec.as_ref()) });
    let order = metadata.default_sort_order();
    set("default-sort-order", if order.is_unsorted() { None } else { json(order.as_ref()) });
    p.extend(snapshot_parameters(metadata));

    TableEntry {
        parameters: p,
        columns: columns(metadata),
        location: metadata.location().to_owned(),
        format: if for_hive { HIVE_ENGINE } else { FILES },
    }
}

/// Whether all writers of this table do without the metastore's lock.
pub(super) fn lock_disabled(metadata: &TableMetadata) -> bool {
    metadata.properties().get(LOCK_ENABLED).is_some_and(|v| v.eq_ignore_ascii_case("false"))
}

fn is_on(metadata: &TableMetadata, property: &str) -> bool {
    metadata.properties().get(property).is_some_and(|v| v.eq_ignore_ascii_case("true"))
}

/// Hive has its own name for one of Iceberg's properties.
fn parameter_of(property: &str) -> &str {
    if property == "gc.enabled" { "external.table.purge" } else { property }
}

/// Statistics that Hive's and other planners read without opening the metadata.
fn snapshot_parameters(metadata: &TableMetadata) -> impl Iterator<Item = (String, Option<String>)> {
    let snapshot = metadata.current_snapshot();
    let total = |key: &str| snapshot.and_then(|s| s.summary().additional_properties.get(key).cloned());
    [
        ("numFiles", total("total-data-files")),
        ("numRows", total("total-records")),
        ("totalSize", total("total-files-size")),
        ("snapshot-count", Some(metadata.snapshots().len().to_string())),
        ("current-snapshot-id", snapshot.map(|s| s.snapshot_id().to_string())),
        ("current-snapshot-timestamp-ms", snapshot.map(|s| s.timestamp_ms().to_string())),
        ("current-snapshot-summary", snapshot.and_then(summary)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
}

fn summary(snapshot: &SnapshotRef) -> Option<String> {
    json(&snapshot.summary().additional_properties)
}

fn json(value: &impl Serialize) -> Option<String> {
    serde_json::to_string(value).ok().and_then(sized)
}

fn sized(value: String) -> Option<String> {
    (value.len() <= PARAMETER_MAX_BYTES).then_some(value)
}

fn columns(metadata: &TableMetadata) -> Vec<Column> {
    let fields = metadata.current_schema().as_struct().fields();
    fields
        .iter()
        .map(|f| Column { name: f.name.clone(), hive_type: hive_type(&f.field_type), comment: f.doc.clone() })
        .collect()
}

/// Hive's name for an Iceberg type; where Hive has none, for the one that its Iceberg reader shows instead.
fn hive_type(iceberg: &Type) -> String {
    match iceberg {
        Type::Primitive(p) => primitive(p),
        Type::List(l) => format!("array<{}>", hive_type(&l.element_field.field_type)),
        Type::Map(m) => format!("map<{},{}>", hive_type(&m.key_field.field_type), hive_type(&m.value_field.field_type)),
        Type::Struct(s) => {
            let fields: Vec<_> =
                s.fields().iter().map(|f| format!("{}:{}", f.name, hive_type(&f.field_type))).collect();
            format!("struct<{}>", fields.join(","))
        }
    }
}

fn primitive(p: &PrimitiveType) -> String {
    match p {
        PrimitiveType::Boolean => "boolean",
        PrimitiveType::Int => "int",
        PrimitiveType::Long => "bigint",
        PrimitiveType::Float => "float",
        PrimitiveType::Double => "double",
        PrimitiveType::Decimal { precision, scale } => return format!("decimal({precision},{scale})"),
        PrimitiveType::Date => "date",
        PrimitiveType::Timestamp | PrimitiveType::TimestampNs => "timestamp",
        PrimitiveType::Timestamptz | PrimitiveType::TimestamptzNs => "timestamp with local time zone",
        PrimitiveType::Time | PrimitiveType::String | PrimitiveType::Uuid => "string",
        PrimitiveType::Fixed(_) | PrimitiveType::Binary => "binary",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use iceberg::TableCreation;
    use iceberg::spec::{ListType, MapType, NestedField, Schema, StructType, TableMetadataBuilder};
    use rstest::rstest;

    use super::*;

    fn p(t: PrimitiveType) -> Type {
        Type::Primitive(t)
    }
    fn optional(id: i32, name: &str, t: Type) -> iceberg::spec::NestedFieldRef {
        NestedField::optional(id, name, t).into()
    }
    fn metadata(properties: &[(&str, &str)]) -> TableMetadata {
        let schema = Schema::builder()
            .with_fields([
                NestedField::required(1, "id", p(PrimitiveType::Long)).with_doc("the key").into(),
                optional(2, "at", p(PrimitiveType::Timestamptz)),
            ])
            .build()
            .unwrap();
        let properties = properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let creation = TableCreation::builder()
            .name("t".into())
            .schema(schema)
            .location("s3://b/t".into())
            .properties(properties.collect::<HashMap<_, _>>());
        TableMetadataBuilder::from_table_creation(creation.build()).unwrap().build().unwrap().metadata
    }
    fn value<'a>(entry: &'a TableEntry, key: &str) -> Option<&'a str> {
        entry.parameters.get(key).and_then(|v| v.as_deref())
    }

    #[rstest]
    #[case(p(PrimitiveType::Boolean), "boolean")]
    #[case(p(PrimitiveType::Int), "int")]
    #[case(p(PrimitiveType::Long), "bigint")]
    #[case(p(PrimitiveType::Float), "float")]
    #[case(p(PrimitiveType::Double), "double")]
    #[case(p(PrimitiveType::Decimal { precision: 38, scale: 9 }), "decimal(38,9)")]
    #[case(p(PrimitiveType::Date), "date")]
    #[case(p(PrimitiveType::Time), "string")]
    #[case(p(PrimitiveType::Timestamp), "timestamp")]
    #[case(p(PrimitiveType::TimestampNs), "timestamp")]
    #[case(p(PrimitiveType::Timestamptz), "timestamp with local time zone")]
    #[case(p(PrimitiveType::TimestamptzNs), "timestamp with local time zone")]
    #[case(p(PrimitiveType::String), "string")]
    #[case(p(PrimitiveType::Uuid), "string")]
    #[case(p(PrimitiveType::Fixed(16)), "binary")]
    #[case(p(PrimitiveType::Binary), "binary")]
    #[case(Type::List(ListType::new(optional(2, "element", p(PrimitiveType::Int)))), "array<int>")]
    #[case(
        Type::Map(MapType::new(
            optional(2, "key", p(PrimitiveType::String)),
            optional(3, "value", p(PrimitiveType::Long))
        )),
        "map<string,bigint>"
    )]
    #[case(
        Type::Struct(StructType::new(vec![optional(2, "a", p(PrimitiveType::Int)), optional(3, "b", p(PrimitiveType::Uuid))])),
        "struct<a:int,b:string>"
    )]
    fn each_iceberg_type_has_a_hive_name(#[case] iceberg: Type, #[case] hive: &str) {
        assert_eq!(hive_type(&iceberg), hive);
    }

    #[test]
    fn a_new_table_is_told_as_java_tells_it() {
        let entry = entry(&metadata(&[("a", "b"), ("gc.enabled", "true")]), "s3://b/t/metadata/0.json", None);
        assert_eq!(value(&entry, "EXTERNAL"), Some("TRUE"));
        assert_eq!(value(&entry, TABLE_TYPE), Some("ICEBERG"));
        assert_eq!(value(&entry, METADATA_LOCATION), Some("s3://b/t/metadata/0.json"));
        assert_eq!(value(&entry, PREVIOUS_METADATA_LOCATION), None);
        assert_eq!((value(&entry, "a"), value(&entry, "external.table.purge")), (Some("b"), Some("true")));
        assert_eq!(value(&entry, "storage_handler"), None);
        assert_eq!(value(&entry, "snapshot-count"), Some("0"));
        assert!(value(&entry, "current-schema").unwrap().contains("\"the key\""));
        assert_eq!(entry.columns[0].comment.as_deref(), Some("the key"));
        assert_eq!(entry.columns[1].hive_type, "timestamp with local time zone");
        assert_eq!((entry.location.as_str(), entry.format), ("s3://b/t", FILES));
    }

    #[test]
    fn a_property_that_went_away_goes_away_and_none_forges_a_location() {
        let base = metadata(&[("gone", "1"), ("kept", "1")]);
        let next =
            metadata(&[("kept", "2"), (METADATA_LOCATION, "forged"), ("long", &"x".repeat(PARAMETER_MAX_BYTES + 1))]);
        let entry = entry(&next, "1.json", Some(Previous { metadata: &base, location: "0.json" }));
        assert_eq!(entry.parameters.get("gone"), Some(&None));
        assert_eq!(value(&entry, "kept"), Some("2"));
        assert_eq!(value(&entry, METADATA_LOCATION), Some("1.json"));
        assert_eq!(value(&entry, PREVIOUS_METADATA_LOCATION), Some("0.json"));
        assert_eq!(entry.parameters.get("long"), Some(&None), "too long for a parameter: left out");
    }

    #[test]
    fn hive_itself_reads_only_tables_that_say_so() {
        let entry = entry(&metadata(&[(ENGINE_HIVE_ENABLED, "TRUE")]), "0.json", None);
        assert_eq!(entry.format, HIVE_ENGINE);
        assert!(value(&entry, "storage_handler").unwrap().ends_with("HiveIcebergStorageHandler"));
    }

    #[rstest]
    #[case(&[], false)]
    #[case(&[(LOCK_ENABLED, "true")], false)]
    #[case(&[(LOCK_ENABLED, "False")], true)]
    fn the_lock_is_off_only_when_the_table_says_so(#[case] properties: &[(&str, &str)], #[case] off: bool) {
        assert_eq!(lock_disabled(&metadata(properties)), off);
    }
}
