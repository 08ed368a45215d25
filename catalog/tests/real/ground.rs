//! What the tests stand on: a warehouse, a namespace of their own, a table to commit to, writers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use firn_catalog::storage::file_io;
use firn_catalog::{Catalog, ErrorKind};
use iceberg::io::FileIO;
use iceberg::spec::{NestedField, PrimitiveType, Schema, Type};
use iceberg::table::Table;
use iceberg::{NamespaceIdent, TableCreation, TableIdent, TableUpdate};
use uuid::Uuid;

/// A variable's value; else says that the test is skipped.
pub fn wanted(name: &str) -> Option<String> {
    let value = std::env::var(name).ok().filter(|v| !v.is_empty());
    if value.is_none() {
        println!("skipped: {name} is not set");
    }
    value
}

/// The warehouse's location and how to reach it: in the bucket of the environment, else a local folder.
pub fn warehouse() -> (String, FileIO) {
    let name = format!("firn-real-{}", Uuid::new_v4().simple());
    let var = |name: &str| std::env::var(name).ok();
    let (location, properties) = match var("FIRN_S3_ENDPOINT") {
        Some(endpoint) => {
            let properties = [
                ("s3.endpoint", Some(endpoint)),
                ("s3.access-key-id", var("FIRN_S3_ACCESS_KEY")),
                ("s3.secret-access-key", var("FIRN_S3_SECRET_KEY")),
                ("s3.region", var("FIRN_S3_REGION")),
                ("s3.path-style-access", Some("true".to_owned())),
            ];
            let bucket = var("FIRN_WAREHOUSE_BUCKET").expect("FIRN_WAREHOUSE_BUCKET goes with FIRN_S3_ENDPOINT");
            let properties = properties.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?)));
            (format!("s3://{bucket}/{name}"), properties.collect())
        }
        None => {
            let folder = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            (format!("file://{}", folder.display()), HashMap::new())
        }
    };
    let file_io = file_io(&location, &properties).unwrap();
    (location, file_io)
}

pub fn namespace() -> NamespaceIdent {
    NamespaceIdent::new(format!("firn_{}", Uuid::new_v4().simple()))
}

pub fn schema() -> Schema {
    let id = NestedField::required(1, "id", Type::Primitive(PrimitiveType::Long)).into();
    let v = NestedField::optional(2, "v", Type::Primitive(PrimitiveType::String)).into();
    Schema::builder().with_fields([id, v]).build().unwrap()
}

pub fn creation(name: &str) -> TableCreation {
    TableCreation::builder().name(name.to_owned()).schema(schema()).build()
}

/// A new table in a new namespace.
pub async fn table(catalog: &dyn Catalog) -> Table {
    let namespace = namespace();
    catalog.ensure_namespace(&namespace, HashMap::new()).await.unwrap();
    catalog.create(&namespace, creation("t")).await.unwrap()
}

pub fn set(key: &str, value: &str) -> Vec<TableUpdate> {
    vec![TableUpdate::SetProperties { updates: HashMap::from([(key.to_owned(), value.to_owned())]) }]
}

pub fn has(table: &Table, key: &str) -> bool {
    table.metadata().properties().contains_key(key)
}

/// Sets a property by swaps until it is there: as a writer must, it looks whether an earlier try landed before it tries again. Answers the
/// number of tries.
pub async fn land(catalog: &dyn Catalog, table: &TableIdent, key: &str) -> usize {
    for tries in 1..500 {
        let base = catalog.load(table).await.unwrap();
        if has(&base, key) {
            return tries;
        }
        match catalog.swap(&base, &[], &set(key, "1")).await {
            Ok(after) => {
                assert!(has(&after, key));
                return tries;
            }
            Err(e) if matches!(e.kind(), ErrorKind::Conflict | ErrorKind::OutcomeUnknown | ErrorKind::Unavailable) => {
                let jitter = u64::from(Uuid::new_v4().as_bytes()[0]) / 4;
                tokio::time::sleep(Duration::from_millis(jitter)).await;
            }
            Err(e) => panic!("{e}"),
        }
    }
    panic!("{key} did not land in 500 tries");
}

/// Writers at once, each with its own catalog; afterwards every property must be there. Answers the number of tries.
pub async fn race(catalogs: Vec<Arc<dyn Catalog>>, table: &TableIdent, commits: usize) -> usize {
    let writers = catalogs.iter().enumerate().map(|(w, catalog)| {
        let (catalog, table) = (Arc::clone(catalog), table.clone());
        tokio::spawn(async move {
            let mut tries = 0;
            for n in 0..commits {
                tries += land(catalog.as_ref(), &table, &format!("w{w}.{n}")).await;
            }
            tries
        })
    });
    let mut tries = 0;
    for writer in writers.collect::<Vec<_>>() {
        tries += writer.await.unwrap();
    }
    let end = catalogs[0].load(table).await.unwrap();
    for w in 0..catalogs.len() {
        for n in 0..commits {
            assert!(has(&end, &format!("w{w}.{n}")), "commit {n} of writer {w} is lost");
        }
    }
    tries
}
