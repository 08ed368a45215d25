//! `firn query` over tables of a catalog in memory or SQLite.

use arrow_array::{Int64Array, StringArray};
use iceberg::TableCreation;
use iceberg::spec::{NestedField, PrimitiveType, Schema, Type};
use rstest::rstest;

use super::*;
use crate::batch::ChangeBatch;
use crate::change::Mode;
use crate::change::{Column, ColumnType, Op, RowSchema};
use crate::cli::Code;
use crate::config::CatalogConfig;
use crate::position::{Span, TopicPartition};
use crate::sink::lake::{LakeTable, TableSpec};

/// `inventory.orders` without rows.
async fn empty() -> Arc<dyn Catalog> {
    let catalog = firn_catalog::memory::MemoryCatalog::default();
    let namespace = NamespaceIdent::new("inventory".to_owned());
    catalog.ensure_namespace(&namespace, Default::default()).await.unwrap();
    let field = NestedField::required(1, "id", Type::Primitive(PrimitiveType::Long));
    let schema = Schema::builder().with_fields([Arc::new(field)]).build().unwrap();
    let creation = TableCreation::builder().name("orders".to_owned()).schema(schema).build();
    catalog.create(&namespace, creation).await.unwrap();
    Arc::new(catalog)
}

fn text(answer: &Answer) -> String {
    arrow_cast::pretty::pretty_format_batches(&answer.batches).unwrap().to_string()
}

#[tokio::test]
async fn tables_are_found_by_namespace_and_name() {
    let answer = query(empty().await, "SELECT count(*) AS n, max(id) FROM inventory.orders").await.unwrap();
    assert_eq!(answer.schema.field(0).name(), "n");
    assert!(text(&answer).contains("| 0 |"), "{}", text(&answer));
    for (sql, want) in [("SHOW TABLES", "orders"), ("DESCRIBE inventory.orders", "id")] {
        let shown = query(empty().await, sql).await.unwrap();
        assert!(text(&shown).contains(want), "{}", text(&shown));
    }
}

#[rstest]
#[case("SELECT * FROM inventory.ordrs", "firn table list")]
#[case("SELECT * FROM elsewhere.orders", "firn table list")]
#[case("SELECT nme FROM inventory.orders", "nme")]
#[case("SELEC 1", "SELEC")]
#[case("DROP TABLE inventory.orders", "not supported")]
#[case("INSERT INTO inventory.orders VALUES (1)", "not supported")]
#[case("CREATE TABLE a (b int)", "not supported")]
#[tokio::test]
async fn what_can_not_be_answered_is_said(#[case] sql: &str, #[case] want: &str) {
    let failure = query(empty().await, sql).await.unwrap_err();
    assert!(failure.to_string().contains(want), "{failure}");
    assert_eq!(failure.code(), Code::Failed);
}

/// Rows `1..=4`, committed; then 1 deleted and 2 changed in a second commit.
async fn upserted(catalog: Arc<dyn Catalog>) {
    let spec = TableSpec { mode: Mode::Upsert, origin_columns: false, ..TableSpec::new("inventory", "customers") };
    let table = LakeTable::open(catalog, spec, tokio::runtime::Handle::current()).await.unwrap();
    let columns =
        RowSchema { columns: vec![Column::key("id", ColumnType::Long), Column::new("name", ColumnType::String)] };
    let columns = table.ensure_schema(&columns).await.unwrap();
    let at = TopicPartition::new("s.inventory.customers", 0);
    table.own([at.clone()]);
    let mut from = 0;
    for changes in [
        vec![(1, Some("a"), Op::Read), (2, Some("b"), Op::Read), (3, Some("c"), Op::Read), (4, None, Op::Read)],
        vec![(1, None, Op::Delete), (2, Some("B"), Op::Update)],
    ] {
        let ids = Int64Array::from_iter_values(changes.iter().map(|c| c.0));
        let names = StringArray::from_iter(changes.iter().map(|c| c.1));
        let rows = RecordBatch::try_new(Arc::new(columns.arrow()), vec![Arc::new(ids), Arc::new(names)]).unwrap();
        let batch = ChangeBatch::new(rows, changes.iter().map(|c| c.2).collect());
        let next = from + changes.len() as i64;
        let span = Span::new(at.clone(), from, next);
        from = next;
        let mut stager = table.stager().unwrap();
        let staged = tokio::task::spawn_blocking(move || {
            stager.write(batch).unwrap();
            stager.close(vec![span]).unwrap()
        });
        table.commit(vec![staged.await.unwrap()]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upserted_table_in_sqlite_answers_with_its_live_rows() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().display();
    let config = format!("type = 'sql'\nuri = 'sqlite://{dir}/catalog.db'\nwarehouse = 'file://{dir}/warehouse'");
    let config: CatalogConfig = toml::from_str(&config).unwrap();
    upserted(crate::catalogs::open(&config).await.unwrap()).await;
    // Opened anew: what is asked is on disk.
    let ask = async |sql: &str| text(&query(crate::catalogs::open(&config).await.unwrap(), sql).await.unwrap());

    let counted = ask("SELECT count(*) AS n FROM inventory.customers").await;
    assert!(counted.contains("| 3 |"), "{counted}");
    let rows = ask("SELECT id, name FROM inventory.customers ORDER BY id").await;
    assert_eq!(
        rows,
        "+----+------+\n| id | name |\n+----+------+\n| 2  | B    |\n| 3  | c    |\n| 4  |      |\n+----+------+"
    );
    let filtered = ask("SELECT name FROM inventory.customers WHERE id = 2 AND name IS NOT NULL").await;
    assert!(filtered.contains("| B    |") && !filtered.contains("| b"), "{filtered}");
    let limited = ask("SELECT count(*) AS n FROM (SELECT * FROM inventory.customers LIMIT 2)").await;
    assert!(limited.contains("| 2 |"), "{limited}");
}
