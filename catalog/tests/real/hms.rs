//! Hive Metastore.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use firn_catalog::hms::{CommitMode, HmsCatalog, HmsConfig};
use firn_catalog::{Catalog, ErrorKind};
use iceberg::spec::{ListType, MapType, NestedField, PrimitiveType, Schema, StructType, Type};
use iceberg::{NamespaceIdent, TableCreation, TableIdent, TableUpdate};
use rstest::rstest;

use crate::ground::{creation, has, land, namespace, race, set, table, wanted, warehouse};
use crate::proxy::{Proxy, Spoil};

const ALTER: &str = "alter_table_with_environment_context";

fn config(uri: &str, warehouse: &str, mode: CommitMode) -> HmsConfig {
    HmsConfig { mode, ..HmsConfig::new(uri, warehouse) }
}

/// A catalog on the metastore of the environment, or a skip line.
fn catalog(mode: CommitMode) -> Option<HmsCatalog> {
    let uri = wanted("FIRN_HMS_URI")?;
    let (warehouse, file_io) = warehouse();
    Some(HmsCatalog::new(config(&uri, &warehouse, mode), file_io).unwrap())
}

/// The same behind a proxy.
async fn behind_proxy(mode: CommitMode, change: impl FnOnce(&mut HmsConfig)) -> Option<(HmsCatalog, Proxy)> {
    let uri = wanted("FIRN_HMS_URI")?;
    let proxy = Proxy::start(uri.trim_start_matches("thrift://")).await;
    let (warehouse, file_io) = warehouse();
    let mut config = config(&format!("thrift://127.0.0.1:{}", proxy.port), &warehouse, mode);
    change(&mut config);
    Some((HmsCatalog::new(config, file_io).unwrap(), proxy))
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_and_tables_come_and_go() {
    let Some(catalog) = catalog(CommitMode::Auto) else { return };
    let ns = namespace();
    assert_eq!(catalog.list_tables(&ns).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(catalog.create(&ns, creation("t")).await.unwrap_err().kind(), ErrorKind::NotFound);
    catalog
        .ensure_namespace(&ns, HashMap::from([("comment".into(), "a test".into()), ("k".into(), "v".into())]))
        .await
        .unwrap();
    catalog.ensure_namespace(&ns, HashMap::new()).await.unwrap();
    assert!(catalog.list_namespaces().await.unwrap().contains(&ns));
    assert!(catalog.list_tables(&ns).await.unwrap().is_empty());

    let id = TableIdent::new(ns.clone(), "t".into());
    assert_eq!(catalog.load(&id).await.unwrap_err().kind(), ErrorKind::NotFound);
    let made = catalog.create(&ns, creation("t")).await.unwrap();
    assert!(
        made.metadata().location().ends_with(&format!("/{}.db/t", ns.to_url_string())),
        "{}",
        made.metadata().location()
    );
    assert_eq!(catalog.create(&ns, creation("t")).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let loaded = catalog.load(&id).await.unwrap();
    assert_eq!((loaded.metadata_location(), loaded.metadata()), (made.metadata_location(), made.metadata()));
    assert_eq!(catalog.list_tables(&ns).await.unwrap(), std::slice::from_ref(&id));
    catalog.drop(&id).await.unwrap();
    assert_eq!(catalog.load(&id).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(catalog.drop(&id).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(catalog.file_io().exists(made.metadata_location().unwrap()).await.unwrap(), "the files stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_is_accepted_at_creation_and_by_a_later_schema() {
    let Some(catalog) = catalog(CommitMode::Auto) else { return };
    let p = Type::Primitive;
    let mut types: Vec<Type> = [
        PrimitiveType::Boolean,
        PrimitiveType::Int,
        PrimitiveType::Long,
        PrimitiveType::Float,
        PrimitiveType::Double,
        PrimitiveType::Decimal { precision: 38, scale: 10 },
        PrimitiveType::Date,
        PrimitiveType::Time,
        PrimitiveType::Timestamp,
        PrimitiveType::Timestamptz,
        PrimitiveType::String,
        PrimitiveType::Uuid,
        PrimitiveType::Fixed(7),
        PrimitiveType::Binary,
    ]
    .map(p)
    .into();
    types.push(Type::List(ListType::new(NestedField::list_element(101, p(PrimitiveType::Timestamptz), false).into())));
    types.push(Type::Map(MapType::new(
        NestedField::map_key_element(102, p(PrimitiveType::String)).into(),
        NestedField::map_value_element(103, p(PrimitiveType::Decimal { precision: 9, scale: 2 }), false).into(),
    )));
    types.push(Type::Struct(StructType::new(vec![NestedField::optional(104, "a b", p(PrimitiveType::Time)).into()])));
    let field = |(i, t): (usize, &Type)| {
        NestedField::optional(i32::try_from(i).unwrap() + 1, format!("c{i}"), t.clone()).into()
    };
    let schema = Schema::builder().with_fields(types.iter().enumerate().map(field)).build().unwrap();
    let ns = namespace();
    catalog.ensure_namespace(&ns, HashMap::new()).await.unwrap();
    let made = catalog.create(&ns, TableCreation::builder().name("t".into()).schema(schema).build()).await.unwrap();

    // The other way round: every column changes its type by position.
    let schema = Schema::builder().with_fields(types.iter().enumerate().rev().map(field)).build().unwrap();
    let updates = [TableUpdate::AddSchema { schema }, TableUpdate::SetCurrentSchema { schema_id: -1 }];
    catalog.swap(&made, &[], &updates).await.unwrap();
    let loaded = catalog.load(made.identifier()).await.unwrap();
    assert_eq!(loaded.metadata().current_schema().as_struct().fields()[0].name, "c16");
}

#[rstest]
#[case(CommitMode::Auto)]
#[case(CommitMode::LockAndCompare)]
#[case(CommitMode::Compare)]
#[case(CommitMode::Lock)]
#[tokio::test(flavor = "multi_thread")]
async fn four_writers_lose_nothing(#[case] mode: CommitMode) {
    let Some(first) = catalog(mode) else { return };
    let id = table(&first).await.identifier().clone();
    let uri = wanted("FIRN_HMS_URI").unwrap();
    let mut catalogs: Vec<Arc<dyn Catalog>> = Vec::new();
    for _ in 0..4 {
        // The table is there already: the warehouse of these doesn't matter.
        catalogs.push(Arc::new(HmsCatalog::new(config(&uri, "file:///tmp", mode), first.file_io().clone()).unwrap()));
    }
    let start = Instant::now();
    let tries = race(catalogs, &id, 10).await;
    println!("{mode:?}: 40 commits by 4 writers in {:?}, {tries} tries", start.elapsed());
}

#[rstest]
#[case(CommitMode::LockAndCompare)]
#[case(CommitMode::Compare)]
#[case(CommitMode::Lock)]
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_swap_is_refused(#[case] mode: CommitMode) {
    let Some(catalog) = catalog(mode) else { return };
    let base = table(&catalog).await;
    let moved = catalog.swap(&base, &[], &set("first", "1")).await.unwrap();
    let e = catalog.swap(&base, &[], &set("second", "1")).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Conflict, "{e}");
    let loaded = catalog.load(base.identifier()).await.unwrap();
    assert_eq!(loaded.metadata_location(), moved.metadata_location());
    catalog.swap(&loaded, &[], &set("second", "1")).await.unwrap();
}

#[rstest]
#[case(CommitMode::Auto)]
#[case(CommitMode::LockAndCompare)]
#[case(CommitMode::Compare)]
#[case(CommitMode::Lock)]
#[tokio::test(flavor = "multi_thread")]
async fn the_probe_proves_the_comparison_and_leaves_nothing(#[case] mode: CommitMode) {
    let Some(catalog) = catalog(mode) else { return };
    catalog.probe().await.unwrap();
    catalog.probe().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_probe_database_is_used_and_kept() {
    let Some((catalog, _proxy)) =
        behind_proxy(CommitMode::Compare, |c| c.probe_database = Some("firn_given".into())).await
    else {
        return;
    };
    let ns = NamespaceIdent::new("firn_given".into());
    catalog.ensure_namespace(&ns, HashMap::new()).await.unwrap();
    catalog.probe().await.unwrap();
    assert!(catalog.list_namespaces().await.unwrap().contains(&ns));
}

/// As a metastore before HIVE-26882 does.
#[tokio::test(flavor = "multi_thread")]
async fn a_metastore_that_ignores_the_expected_value_is_found_out() {
    for (mode, kind) in [
        (CommitMode::Compare, Some(ErrorKind::Unsupported)),
        (CommitMode::LockAndCompare, Some(ErrorKind::Unsupported)),
        (CommitMode::Auto, None),
    ] {
        let Some((catalog, proxy)) = behind_proxy(mode, |_| ()).await else { return };
        proxy.spoil(Spoil::Misspell, "expected_parameter_key");
        let e = catalog.probe().await.err();
        assert_eq!(e.as_ref().map(|e| e.kind()), kind, "{mode:?}: {e:?}");
        if mode == CommitMode::Auto {
            // By the lock alone, then.
            let id = table(&catalog).await.identifier().clone();
            land(&catalog, &id, "a").await;
        }
    }
}

#[rstest]
#[case::compare(CommitMode::Compare)]
#[case::lock_and_compare(CommitMode::LockAndCompare)]
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_unknown_and_the_table_tells(#[case] mode: CommitMode) {
    let Some((catalog, proxy)) = behind_proxy(mode, |_| ()).await else { return };
    let base = table(&catalog).await;
    catalog.probe().await.unwrap();

    proxy.spoil(Spoil::Answer, ALTER);
    let e = catalog.swap(&base, &[], &set("landed", "1")).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::OutcomeUnknown, "{e}");
    proxy.spoil(Spoil::Nothing, "");
    let after = catalog.load(base.identifier()).await.unwrap();
    assert!(has(&after, "landed"));

    proxy.spoil(Spoil::Call, ALTER);
    let e = catalog.swap(&after, &[], &set("lost", "1")).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::OutcomeUnknown, "{e}");
    proxy.spoil(Spoil::Nothing, "");
    assert!(!has(&catalog.load(base.identifier()).await.unwrap(), "lost"));
    assert_eq!(land(&catalog, base.identifier(), "lost").await, 1, "no lock is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_whose_answer_was_lost_is_looked_up() {
    let Some((catalog, proxy)) = behind_proxy(CommitMode::Auto, |_| ()).await else { return };
    let ns = namespace();
    catalog.ensure_namespace(&ns, HashMap::new()).await.unwrap();
    proxy.spoil(Spoil::Answer, "create_table");
    catalog.create(&ns, creation("t")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_whose_answer_was_lost_is_found_again() {
    let Some((catalog, proxy)) = behind_proxy(CommitMode::LockAndCompare, |c| c.lock_timeout_ms = 5_000).await else {
        return;
    };
    let base = table(&catalog).await;
    // The method's name with its length in front: "unlock" and "show_locks" must get through.
    proxy.spoil(Spoil::Answer, "\0\0\0\u{4}lock");
    catalog.swap(&base, &[], &set("a", "1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_writer_is_told_who_holds_the_lock_and_a_cancelled_one_lets_go() {
    let Some((holder, proxy)) = behind_proxy(CommitMode::LockAndCompare, |c| c.client_name = "holder".into()).await
    else {
        return;
    };
    let base = table(&holder).await;
    let uri = wanted("FIRN_HMS_URI").unwrap();
    let short = HmsConfig { lock_timeout_ms: 700, ..config(&uri, "file:///tmp", CommitMode::LockAndCompare) };
    let waiter = HmsCatalog::new(short, holder.file_io().clone()).unwrap();

    proxy.spoil(Spoil::Hold, ALTER);
    let held = tokio::spawn({
        let base = base.clone();
        async move { holder.swap(&base, &[], &set("held", "1")).await }
    });
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    let e = waiter.swap(&base, &[], &set("waited", "1")).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
    assert!(e.to_string().contains("held by holder@"), "{e}");

    held.abort();
    tokio::time::sleep(Duration::from_millis(500)).await;
    waiter.swap(&base, &[], &set("waited", "1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_kind_of_table_is_not_touched() {
    let Some((catalog, proxy)) = behind_proxy(CommitMode::Auto, |_| ()).await else { return };
    let ns = namespace();
    catalog.ensure_namespace(&ns, HashMap::new()).await.unwrap();
    // As another engine's table: without the word that says Iceberg.
    proxy.spoil(Spoil::Misspell, "ICEBERG");
    // Its creation is believed: only what is read later tells.
    catalog.create(&ns, creation("t")).await.unwrap();
    proxy.spoil(Spoil::Nothing, "");
    let id = TableIdent::new(ns.clone(), "t".into());
    assert_eq!(catalog.load(&id).await.unwrap_err().kind(), ErrorKind::NotIceberg);
    assert_eq!(catalog.drop(&id).await.unwrap_err().kind(), ErrorKind::NotIceberg);
    assert_eq!(catalog.create(&ns, creation("t")).await.unwrap_err().kind(), ErrorKind::NotIceberg);
    assert!(catalog.list_tables(&ns).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_may_do_without_the_lock() {
    let Some((catalog, proxy)) = behind_proxy(CommitMode::Auto, |_| ()).await else { return };
    let id = table(&catalog).await.identifier().clone();
    land(&catalog, &id, "with").await;
    let base = catalog.load(&id).await.unwrap();
    let base = catalog.swap(&base, &[], &set("engine.hive.lock-enabled", "false")).await.unwrap();
    proxy.spoil(Spoil::Call, "\0\0\0\u{4}lock");
    let base = catalog.swap(&base, &[], &set("without", "1")).await.unwrap();
    let base = catalog.swap(&base, &[], &set("engine.hive.lock-enabled", "true")).await.unwrap();
    assert_eq!(catalog.swap(&base, &[], &set("with again", "1")).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_unavailable_and_another_host_takes_over() {
    let Some(uri) = wanted("FIRN_HMS_URI") else { return };
    let (warehouse, file_io) = warehouse();
    let nobody =
        HmsCatalog::new(config("thrift://127.0.0.1:1", &warehouse, CommitMode::Auto), file_io.clone()).unwrap();
    let e = nobody.probe().await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable);
    assert!(e.to_string().contains("127.0.0.1:1"), "{e}");
    let two =
        HmsCatalog::new(config(&format!("thrift://127.0.0.1:1,{uri}"), &warehouse, CommitMode::Auto), file_io).unwrap();
    let base = table(&two).await;
    let e = nobody.swap(&base, &[], &set("a", "1")).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
    two.swap(&base, &[], &set("a", "1")).await.unwrap();
}

/// Not run with the others, whose metastore it would take away: `--ignored`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts the metastore anew"]
async fn a_restarted_metastore_is_found_again() {
    let (Some(catalog), Some(restart)) = (catalog(CommitMode::Auto), wanted("FIRN_HMS_RESTART")) else { return };
    let id = table(&catalog).await.identifier().clone();
    for n in 0..3 {
        // Several connections in the pool when it goes.
        let base = catalog.load(&id).await.unwrap();
        let loads = (0..6).map(|_| catalog.load(&id));
        futures::future::try_join_all(loads).await.unwrap();
        let status = tokio::process::Command::new("sh").args(["-c", &restart]).status().await.unwrap();
        assert!(status.success());
        catalog.swap(&base, &[], &set(&format!("straight {n}"), "1")).await.unwrap();
        assert_eq!(land(&catalog, &id, &format!("after {n}")).await, 1);
    }
}

/// Prints what one commit costs: the whole swap, metadata file included.
#[rstest]
#[case(CommitMode::LockAndCompare)]
#[case(CommitMode::Compare)]
#[case(CommitMode::Lock)]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn commit_latency(#[case] mode: CommitMode) {
    let Some(catalog) = catalog(mode) else { return };
    let mut base = table(&catalog).await;
    catalog.probe().await.unwrap();
    let mut took = Vec::new();
    for n in 0..120 {
        let start = Instant::now();
        base = catalog.swap(&base, &[], &set("n", &n.to_string())).await.unwrap();
        if n >= 20 {
            took.push(start.elapsed());
        }
    }
    took.sort();
    println!(
        "{mode:?}: p50 {:?}, p90 {:?}, p99 {:?}, max {:?} over {}",
        took[49],
        took[89],
        took[98],
        took[99],
        took.len()
    );
}

#[cfg(feature = "conformance")]
#[rstest]
#[case(CommitMode::LockAndCompare)]
#[case(CommitMode::Compare)]
#[case(CommitMode::Lock)]
#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes(#[case] mode: CommitMode) {
    let Some(uri) = wanted("FIRN_HMS_URI") else { return };
    let (warehouse, file_io) = warehouse();
    let catalog = || Arc::new(HmsCatalog::new(config(&uri, &warehouse, mode), file_io.clone()).unwrap());
    firn_catalog::conformance::all(catalog(), catalog(), &namespace().to_url_string()).await;
}
