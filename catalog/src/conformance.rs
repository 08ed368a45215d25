//! One suite that every catalog passes.
//!
//! Knows the contract of [`Catalog`] and of [`commit()`](crate::commit()), no catalog in particular. A case panics with what is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)] // nothing here runs outside tests

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use iceberg::io::FileIO;
use iceberg::spec::{FormatVersion, NestedField, PrimitiveType, Schema, Type};
use iceberg::table::Table;
use iceberg::{NamespaceIdent, TableCreation, TableIdent, TableRequirement, TableUpdate};

use crate::testing::{self, Batch, append, live, position};
use crate::{Catalog, ErrorKind, Patience, Result};

/// Writers in the race, and batches of each.
const WRITERS: usize = 4;
const BATCHES: u64 = 10;
/// As many attempts as there are commits: with a fair catalog nobody runs out.
const PATIENCE: Patience = Patience { attempts: 100, first_wait_ms: 20, max_wait_ms: 500 };

/// Runs every case in a namespace of its own, `namespace`, which must not exist yet. Two catalogs that stand for two processes
/// may be given by `again`: the writers of the race take turns with it.
pub async fn all(catalog: Arc<dyn Catalog>, again: Arc<dyn Catalog>, namespace: &str) {
    let case = Case { catalog, again, namespace: NamespaceIdent::new(namespace.to_owned()) };
    case.catalog.probe().await.expect("the catalog answers");
    case.nothing_is_there().await;
    case.namespaces_are_made_once().await;
    case.tables_come_and_go().await;
    case.a_stale_base_is_refused().await;
    case.an_unmet_requirement_is_refused().await;
    case.properties_and_schema_move_with_the_snapshot().await;
    case.a_lost_answer_keeps_one_snapshot_id().await;
    case.concurrent_writers_lose_nothing().await;
}

struct Case {
    catalog: Arc<dyn Catalog>,
    again: Arc<dyn Catalog>,
    namespace: NamespaceIdent,
}

impl Case {
    fn ident(&self, name: &str) -> TableIdent {
        TableIdent::new(self.namespace.clone(), name.to_owned())
    }

    async fn create(&self, name: &str) -> Table {
        let creation = testing::creation(name, FormatVersion::V2);
        self.catalog.create(&self.namespace, creation).await.expect("a table can be created")
    }

    async fn nothing_is_there(&self) {
        let namespaces = self.catalog.list_namespaces().await.expect("namespaces can be listed");
        assert!(!namespaces.contains(&self.namespace), "the suite's namespace exists already");
        assert_eq!(kind(self.catalog.load(&self.ident("t")).await), ErrorKind::NotFound, "load without a namespace");
        let creation = testing::creation("t", FormatVersion::V2);
        let created = self.catalog.create(&self.namespace, creation).await;
        assert_eq!(kind(created), ErrorKind::NotFound, "create without a namespace");
    }

    async fn namespaces_are_made_once(&self) {
        for _ in 0..2 {
            self.catalog
                .ensure_namespace(&self.namespace, HashMap::new())
                .await
                .expect("a namespace can be ensured twice");
        }
        let namespaces = self.again.list_namespaces().await.expect("namespaces can be listed");
        assert_eq!(namespaces.iter().filter(|n| **n == self.namespace).count(), 1);
        assert_eq!(self.catalog.list_tables(&self.namespace).await.expect("no tables yet"), []);
    }

    async fn tables_come_and_go(&self) {
        let ident = self.ident("come_and_go");
        assert_eq!(kind(self.catalog.load(&ident).await), ErrorKind::NotFound, "load");
        assert_eq!(kind((*self.catalog).drop(&ident).await), ErrorKind::NotFound, "drop");
        let properties = HashMap::from([("owner.note".to_owned(), "kept".to_owned())]);
        let creation =
            TableCreation::builder().name(ident.name().to_owned()).schema(testing::schema()).properties(properties);
        let created = self.catalog.create(&self.namespace, creation.build()).await.expect("a table can be created");
        let loaded = self.again.load(&ident).await.expect("a created table can be loaded");
        assert_eq!(loaded.identifier(), &ident);
        assert_eq!(loaded.metadata().uuid(), created.metadata().uuid());
        assert_eq!(loaded.metadata().properties().get("owner.note").map(String::as_str), Some("kept"));
        assert_eq!(loaded.metadata().current_schema().as_struct(), testing::schema().as_struct());
        let creation = testing::creation(ident.name(), FormatVersion::V2);
        assert_eq!(kind(self.again.create(&self.namespace, creation).await), ErrorKind::AlreadyExists, "create twice");
        assert_eq!(self.catalog.list_tables(&self.namespace).await.expect("tables can be listed"), vec![ident.clone()]);
        let metadata = loaded.metadata_location().expect("a loaded table has a metadata file").to_owned();
        (*self.catalog).drop(&ident).await.expect("a table can be dropped");
        assert_eq!(kind(self.again.load(&ident).await), ErrorKind::NotFound, "load after drop");
        assert!(self.catalog.file_io().exists(&metadata).await.expect("storage answers"), "drop must keep the files");
    }

    async fn a_stale_base_is_refused(&self) {
        let base = self.create("stale").await;
        let set = |value: &str| {
            let updates = HashMap::from([("winner".to_owned(), value.to_owned())]);
            [TableUpdate::SetProperties { updates }]
        };
        let first =
            Batch::new("w", 0, append("d/1")).commit(&*self.catalog, base.identifier()).await.expect("a commit lands");
        assert_ne!(first.table.metadata_location(), base.metadata_location());
        let location = |table: &Table| table.metadata_location().expect("a table has a metadata file").to_owned();
        let moved = self.again.load_unless_at(base.identifier(), &location(&base)).await.expect("it can be loaded");
        assert_eq!(moved.as_ref().map(location), Some(location(&first.table)), "loaded since it moved");
        let unmoved = self.again.load_unless_at(base.identifier(), &location(&first.table)).await;
        assert!(unmoved.expect("the catalog answers").is_none(), "it has not moved since");
        // as a commit sends it: with the head it stands on
        let requirement = TableRequirement::RefSnapshotIdMatch {
            r#ref: "main".to_owned(),
            snapshot_id: base.metadata().current_snapshot_id(),
        };
        assert_eq!(
            kind(self.again.swap(&base, &[requirement], &set("stale")).await),
            ErrorKind::Conflict,
            "swap on a stale base"
        );
        let table = self.catalog.load(base.identifier()).await.expect("the table is there");
        assert_eq!(table.metadata().properties().get("winner"), None, "the refused swap must leave no trace");
        let swapped = self.again.swap(&table, &[], &set("fresh")).await.expect("a fresh base is taken");
        let table = self.catalog.load(base.identifier()).await.expect("the table is there");
        assert_eq!(table.metadata().properties().get("winner").map(String::as_str), Some("fresh"));
        assert_eq!(table.metadata_location(), swapped.metadata_location(), "swap answers the table as it is then");
    }

    async fn an_unmet_requirement_is_refused(&self) {
        let base = self.create("requirement").await;
        let unmet = TableRequirement::LastAssignedFieldIdMatch { last_assigned_field_id: 77 };
        let updates = [TableUpdate::SetProperties { updates: HashMap::from([("a".to_owned(), "b".to_owned())]) }];
        assert_eq!(kind(self.catalog.swap(&base, &[unmet], &updates).await), ErrorKind::Conflict);
        let table = self.catalog.load(base.identifier()).await.expect("the table is there");
        assert_eq!(table.metadata().properties().get("a"), None);
    }

    async fn properties_and_schema_move_with_the_snapshot(&self) {
        let base = self.create("together").await;
        let mut fields = base.metadata().current_schema().as_struct().fields().to_vec();
        fields.push(NestedField::optional(3, "added", Type::Primitive(PrimitiveType::Int)).into());
        let schema = Schema::builder().with_fields(fields).with_identifier_field_ids([1]).build().expect("a schema");
        let mut batch = Batch::new("w", 0, append("d/1"));
        batch.plan.updates = vec![TableUpdate::AddSchema { schema }, TableUpdate::SetCurrentSchema { schema_id: -1 }];
        let committed = batch.commit(&*self.catalog, base.identifier()).await.expect("a commit lands");
        let seen = self.again.load(base.identifier()).await.expect("the table is there");
        for table in [committed.table, seen] {
            assert_eq!(table.metadata().current_snapshot_id(), Some(batch.snapshot_id));
            assert_eq!(position(&table, "w"), 1);
            assert_eq!(table.metadata().current_schema().field_id_by_name("added"), Some(3));
            assert_eq!(live(&table).await, ["d/1"]);
        }
    }

    async fn a_lost_answer_keeps_one_snapshot_id(&self) {
        let base = self.create("lost_answer").await;
        let lossy = LosesAnswers(self.catalog.clone());
        let mut batch = Batch::new("w", 0, append("d/1"));
        let committed = batch.commit(&lossy, base.identifier()).await.expect("it is found on the fresh base");
        assert_eq!((committed.snapshot_id, committed.attempts), (batch.snapshot_id, 1));
        let table = self.again.load(base.identifier()).await.expect("the table is there");
        assert_eq!(table.metadata().snapshots().map(|s| s.snapshot_id()).collect::<Vec<_>>(), [batch.snapshot_id]);
    }

    async fn concurrent_writers_lose_nothing(&self) {
        let ident = self.create("race").await.identifier().clone();
        let writers = (0..WRITERS).map(|w| {
            let catalog = if w % 2 == 0 { self.catalog.clone() } else { self.again.clone() };
            let ident = ident.clone();
            tokio::spawn(async move {
                let mut ids = Vec::new();
                for n in 0..BATCHES {
                    let mut batch = Batch::new(&format!("w{w}"), n, append(&format!("d/{w}-{n}")));
                    ids.push(batch.snapshot_id);
                    batch.commit_with(&*catalog, &ident, PATIENCE).await.expect("every batch lands");
                }
                ids
            })
        });
        let ids = futures::future::try_join_all(writers).await.expect("no writer panics");
        let table = self.catalog.load(&ident).await.expect("the table is there");
        let snapshots: HashSet<i64> = table.metadata().snapshots().map(|s| s.snapshot_id()).collect();
        assert_eq!(snapshots, ids.into_iter().flatten().collect());
        let mut expected: Vec<String> =
            (0..WRITERS).flat_map(|w| (0..BATCHES).map(move |n| format!("d/{w}-{n}"))).collect();
        expected.sort();
        assert_eq!(live(&table).await, expected);
        for w in 0..WRITERS {
            assert_eq!(position(&table, &format!("w{w}")), BATCHES, "a position was overwritten");
        }
    }
}

fn kind<T>(answer: Result<T>) -> ErrorKind {
    match answer {
        Ok(_) => panic!("it must be refused"),
        Err(e) => e.kind(),
    }
}

/// Swaps, and never says so.
#[derive(Debug)]
struct LosesAnswers(Arc<dyn Catalog>);

#[async_trait]
impl Catalog for LosesAnswers {
    fn describe(&self) -> String {
        self.0.describe()
    }

    fn file_io(&self) -> &FileIO {
        self.0.file_io()
    }

    async fn probe(&self) -> Result<()> {
        self.0.probe().await
    }

    async fn list_namespaces(&self) -> Result<Vec<NamespaceIdent>> {
        self.0.list_namespaces().await
    }

    async fn ensure_namespace(&self, namespace: &NamespaceIdent, properties: HashMap<String, String>) -> Result<()> {
        self.0.ensure_namespace(namespace, properties).await
    }

    async fn list_tables(&self, namespace: &NamespaceIdent) -> Result<Vec<TableIdent>> {
        self.0.list_tables(namespace).await
    }

    async fn load(&self, table: &TableIdent) -> Result<Table> {
        self.0.load(table).await
    }

    async fn load_unless_at(&self, table: &TableIdent, known: &str) -> Result<Option<Table>> {
        self.0.load_unless_at(table, known).await
    }

    async fn create(&self, namespace: &NamespaceIdent, creation: TableCreation) -> Result<Table> {
        self.0.create(namespace, creation).await
    }

    async fn drop(&self, table: &TableIdent) -> Result<()> {
        (*self.0).drop(table).await
    }

    async fn swap(&self, base: &Table, requirements: &[TableRequirement], updates: &[TableUpdate]) -> Result<Table> {
        self.0.swap(base, requirements, updates).await?;
        Err(crate::Error::new(ErrorKind::OutcomeUnknown, "injected loss of the answer"))
    }
}
