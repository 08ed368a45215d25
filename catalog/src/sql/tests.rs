//! The SQL catalog on SQLite; on PostgreSQL where one is named in the environment.

use super::*;
use crate::conformance;
use crate::storage::Stores;

fn config(uri: String, warehouse: &std::path::Path) -> SqlConfig {
    SqlConfig { name: "suite".to_owned(), uri, warehouse: format!("file://{}", warehouse.display()) }
}

fn open(uri: &str, warehouse: &std::path::Path) -> Arc<SqlCatalog> {
    Arc::new(SqlCatalog::new(config(uri.to_owned(), warehouse), Stores::default().file_io()))
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let uri = format!("sqlite://{}/new/cat.db", directory.path().display());
    let (one, other) = (open(&uri, directory.path()), open(&uri, directory.path()));
    conformance::all(one, other, "suite").await;
}

/// Where `FIRN_PG_HOST` names a server (`FIRN_PG_PORT`, `FIRN_PG_ADMIN_USER`, `FIRN_PG_ADMIN_PASSWORD`, database `postgres`).
#[tokio::test(flavor = "multi_thread")]
async fn postgresql_conforms() {
    let env = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let Ok(host) = std::env::var("FIRN_PG_HOST") else {
        println!("skipped: FIRN_PG_HOST names no PostgreSQL server");
        return;
    };
    let (user, password) = (env("FIRN_PG_ADMIN_USER", "postgres"), env("FIRN_PG_ADMIN_PASSWORD", "postgres"));
    let uri = format!("postgresql+psycopg2://{user}:{password}@{host}:{}/postgres", env("FIRN_PG_PORT", "5432"));
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (open(&uri, directory.path()), open(&uri, directory.path()));
    let namespace = format!("suite_{}", uuid::Uuid::new_v4().simple());
    conformance::all(one.clone(), other, &namespace).await;
    for table in one.list_tables(&NamespaceIdent::new(namespace.clone())).await.unwrap() {
        Catalog::drop(&*one, &table).await.unwrap();
    }
    let sql = "DELETE FROM iceberg_namespace_properties WHERE namespace = $1";
    one.execute(sql, &[&namespace]).await.unwrap();
}

#[tokio::test]
async fn the_older_schema_is_used_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let uri = format!("sqlite://{}/v0.db", directory.path().display());
    let database = Database::open(&uri).await.unwrap();
    database.execute(&MAKE_TABLES.replace(", iceberg_type VARCHAR(5)", ""), &[]).await.unwrap();
    let (one, other) = (open(&uri, directory.path()), open(&uri, directory.path()));
    assert_eq!(one.opened().await.unwrap().schema, Schema::V0);
    conformance::all(one, other, "suite").await;
}

#[tokio::test]
async fn a_view_is_not_a_table() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = open(&format!("sqlite://{}/c.db", directory.path().display()), directory.path());
    let sql = "INSERT INTO iceberg_tables VALUES ('suite', 'db', 'v', 'somewhere', NULL, 'VIEW')";
    catalog.execute(sql, &[]).await.unwrap();
    let view = crate::testing::ident("v");
    assert_eq!(catalog.load(&view).await.unwrap_err().kind(), ErrorKind::NotIceberg);
    assert_eq!(catalog.list_tables(view.namespace()).await.unwrap(), []);
    let taken = catalog.create(view.namespace(), crate::testing::creation("v", iceberg::spec::FormatVersion::V2)).await;
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::NotIceberg);
}

#[test]
fn a_description_holds_no_password() {
    assert_eq!(describe("postgresql://u:secret@h:5433/db?sslmode=require"), "sql postgresql://h:5433/db");
    assert_eq!(describe("sqlite:///a/cat.db?mode=rwc"), "sql sqlite:///a/cat.db");
}

#[tokio::test]
async fn what_is_no_database_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("text.db");
    std::fs::write(&file, "no database at all, but long enough to be looked at as one".repeat(40)).unwrap();
    let cases = [
        (format!("sqlite://{}", file.display()), ErrorKind::Invalid),
        ("mysql://h/db".to_owned(), ErrorKind::Unsupported),
        ("sqlite:///proc/none/cat.db".to_owned(), ErrorKind::Denied),
        ("postgresql://127.0.0.1:1/db".to_owned(), ErrorKind::Unavailable),
    ];
    for (uri, kind) in cases {
        assert_eq!(open(&uri, directory.path()).probe().await.unwrap_err().kind(), kind, "{uri}");
    }
}

/// An oracle that is not our own reader: `PyIceberg` in the Python that `FIRN_PYTHON` names.
#[tokio::test(flavor = "multi_thread")]
async fn pyiceberg_reads_and_appends_to_what_was_committed() {
    let Ok(python) = std::env::var("FIRN_PYTHON") else {
        println!("skipped: FIRN_PYTHON names no Python with pyiceberg[sql-sqlite,pyarrow]");
        return;
    };
    let call = |what: serde_json::Value| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/sql/oracle.py");
        let done = std::process::Command::new(&python).arg(script).arg(what.to_string()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().display().to_string();
    let catalog = open(&format!("sqlite://{root}/cat.db"), directory.path());
    crate::testing::create(&*catalog, "t", iceberg::spec::FormatVersion::V2).await;

    let written = |mut file: crate::SpecFile, path: &str| {
        let size = std::fs::metadata(path).unwrap().len();
        file.file = crate::testing::with_size(&file.file, size);
        file
    };
    let data = |n: u64| {
        let path = format!("{root}/d{n}.parquet");
        let ids: Vec<u64> = (0..4).map(|i| n * 4 + i).collect();
        let values: Vec<String> = ids.iter().map(|id| format!("v{id}")).collect();
        call(serde_json::json!({"do": "data", "path": path, "ids": ids, "values": values}));
        written(crate::testing::data_file(&path, 4), &path)
    };
    let deletes = |n: u64, of: u64, positions: &[u64]| {
        let (path, of) = (format!("{root}/x{n}.parquet"), format!("{root}/d{of}.parquet"));
        call(serde_json::json!({"do": "position_deletes", "path": path, "data_file": of, "positions": positions}));
        written(crate::testing::position_deletes(&path, positions.len() as u64, &of), &path)
    };
    let key = |name: &str| crate::testing::key(&format!("{root}/{name}.parquet"));
    let deltas = [
        crate::RowDelta { data_files: vec![data(0), data(1)], ..Default::default() },
        crate::RowDelta { data_files: vec![data(2)], delete_files: vec![deletes(0, 0, &[1])], ..Default::default() },
        crate::RowDelta {
            delete_files: vec![deletes(1, 0, &[1, 3])],
            removed: [key("x0")].into(),
            ..Default::default()
        },
        crate::RowDelta { data_files: vec![data(3)], removed: [key("d1")].into(), ..Default::default() },
        crate::RowDelta { delete_files: vec![deletes(2, 3, &[0])], ..Default::default() },
    ];
    for (n, delta) in deltas.into_iter().enumerate() {
        let mut batch = crate::testing::Batch::new("w", n as u64, delta);
        batch.plan.retention = crate::Retention {
            max_snapshots: 3,
            merge_manifests_above: 2,
            max_metadata_files: 3,
            ..crate::Retention::default()
        };
        let committed = batch.commit(&*catalog, &crate::testing::ident("t")).await.unwrap();
        committed.cleanup.run().await.unwrap();
    }

    let uri = format!("sqlite:///{root}/cat.db");
    let seen =
        call(serde_json::json!({"do": "scan", "uri": uri, "warehouse": format!("file://{root}"), "table": "db.t"}));
    let seen: serde_json::Value = serde_json::from_str(&seen).unwrap();
    let ids = [0, 2, 8, 9, 10, 11, 13, 14, 15];
    let values: Vec<String> = ids.iter().map(|id| format!("v{id}")).collect();
    assert_eq!(seen["ids"], serde_json::json!(ids));
    assert_eq!(seen["values"], serde_json::json!(values));
    assert_eq!(seen["delete_files"], 2);

    // PyIceberg's append is seen, and committed on top of
    let mut after =
        crate::testing::Batch::new("w", 5, crate::RowDelta { data_files: vec![data(4)], ..Default::default() });
    let table = after.commit(&*catalog, &crate::testing::ident("t")).await.unwrap().table;
    let live = crate::live::files(&table, table.metadata().current_snapshot_id(), &crate::ManifestCache::new(0))
        .await
        .unwrap();
    assert_eq!((live.data.len(), live.position_deletes.len()), (5, 2));
}
