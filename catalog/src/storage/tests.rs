//! What storage promises: whole files, no overwriting, durable when closed; in memory, on disk, and on S3 where one is named.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use object_store::{ObjectStoreExt, PutMode, PutOptions};
use rstest::rstest;

use super::fault::{Effect, Fault, Gate, Op};
use super::*;

fn stores(faults: &Faults) -> Stores {
    Stores::default().with_faults(faults.clone())
}

#[rstest]
#[case::small(10)]
#[case::in_parts(20 << 20)]
#[tokio::test]
async fn a_file_is_seen_only_when_it_is_closed(#[case] bytes: usize) {
    let directory = tempfile::tempdir().unwrap();
    for location in ["memory://a/b/f".to_owned(), format!("file://{}/b/f", directory.path().display())] {
        let io = Stores::default().file_io();
        let content = Bytes::from(vec![7u8; bytes]);
        let mut writer = io.new_output(&location).unwrap().writer().await.unwrap();
        writer.write(content.slice(..bytes / 2)).await.unwrap();
        writer.write(content.slice(bytes / 2..)).await.unwrap();
        assert!(!io.exists(&location).await.unwrap());
        writer.close().await.unwrap();
        let input = io.new_input(&location).unwrap();
        assert_eq!(input.metadata().await.unwrap().size, bytes as u64);
        assert_eq!(input.read().await.unwrap(), content);
        assert_eq!(input.reader().await.unwrap().read(3..5).await.unwrap(), content.slice(3..5));
        assert_eq!(input.reader().await.unwrap().read(3..3).await.unwrap().len(), 0);
        assert!(writer.close().await.is_err());
    }
}

#[tokio::test]
async fn an_abandoned_local_upload_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let io = Stores::default().file_io();
    let mut writer = io.new_output(format!("{}/f", directory.path().display())).unwrap().writer().await.unwrap();
    writer.write(Bytes::from(vec![0u8; 20 << 20])).await.unwrap();
    drop(writer);
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if std::fs::read_dir(directory.path()).unwrap().count() == 0 {
            return;
        }
    }
    panic!("parts were left behind");
}

#[tokio::test]
async fn deletes_take_several_stores_and_missing_files() {
    let directory = tempfile::tempdir().unwrap();
    let io = Stores::default().file_io();
    let files = ["memory://a/1".to_owned(), "memory://b/2".to_owned(), format!("{}/3", directory.path().display())];
    for file in &files {
        io.new_output(file).unwrap().write("x".into()).await.unwrap();
    }
    let mut paths: Vec<String> = files.to_vec();
    paths.push("memory://a/missing".to_owned());
    paths.push(format!("{}/missing", directory.path().display()));
    io.delete_stream(futures::stream::iter(paths)).await.unwrap();
    for file in &files {
        assert!(!io.exists(file).await.unwrap());
        io.delete(file).await.unwrap();
    }
}

#[tokio::test]
async fn memory_is_shared_by_clones_alone() {
    let stores = Stores::default();
    stores.file_io().new_output("memory://a/f").unwrap().write("x".into()).await.unwrap();
    assert!(stores.clone().file_io().exists("memory://a/f").await.unwrap());
    assert!(!stores.file_io().exists("memory://b/f").await.unwrap());
    assert!(!Stores::default().file_io().exists("memory://a/f").await.unwrap());
}

#[rstest]
#[case::memory("memory://a")]
#[case::local("file")]
#[tokio::test]
async fn a_put_that_must_create_never_overwrites(#[case] root: &str) {
    let directory = tempfile::tempdir().unwrap();
    let root = if root == "file" { directory.path().display().to_string() } else { root.to_owned() };
    let (store, path) = Stores::default().object_store(&format!("{root}/d/f")).unwrap();
    let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    store.put_opts(&path, "one".into(), create()).await.unwrap();
    let e = store.put_opts(&path, "two".into(), create()).await.unwrap_err();
    assert!(matches!(e, object_store::Error::AlreadyExists { .. }));
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "one");
    assert_eq!(store.list(None).take(1).count().await, 1);
}

#[tokio::test]
async fn a_fault_hits_the_calls_it_names() {
    let faults = Faults::default();
    let io = stores(&faults).file_io();
    faults.add(Fault::on([Op::Put], Effect::Fail(ErrorKind::Denied)).path("metadata/").skip(1));
    io.new_output("memory://a/metadata/1").unwrap().write("x".into()).await.unwrap();
    io.new_output("memory://a/data/2").unwrap().write("x".into()).await.unwrap();
    let e: Error = io.new_output("memory://a/metadata/3").unwrap().write("x".into()).await.unwrap_err().into();
    assert_eq!(e.kind(), ErrorKind::Denied);
    assert!(e.to_string().contains("memory://a/metadata/3"));
    assert_eq!(faults.pending(), 0);
    io.new_output("memory://a/metadata/3").unwrap().write("x".into()).await.unwrap();
    let calls = faults.take_calls();
    assert_eq!(calls.iter().map(|c| c.hit.is_some()).collect::<Vec<_>>(), [false, false, true, false]);
    assert_eq!(calls.iter().map(|c| c.bytes).sum::<u64>(), 3);
}

#[tokio::test]
async fn a_lost_answer_is_an_error_after_the_deed() {
    let faults = Faults::default();
    let io = stores(&faults).file_io();
    faults.add(Fault::on([Op::Put], Effect::LoseAnswer));
    let e: Error = io.new_output("memory://a/f").unwrap().write("x".into()).await.unwrap_err().into();
    assert_eq!(e.kind(), ErrorKind::Unavailable);
    assert!(io.exists("memory://a/f").await.unwrap());
}

#[tokio::test]
async fn a_bulk_delete_that_broke_off_is_done_file_by_file() {
    let faults = Faults::default();
    let io = stores(&faults).file_io();
    let files = ["memory://a/1", "memory://a/2", "memory://a/3"].map(str::to_owned);
    for file in &files {
        io.new_output(file).unwrap().write("x".into()).await.unwrap();
    }
    faults.add(Fault::on([Op::Delete], Effect::Fail(ErrorKind::Unavailable)).times(2));
    io.delete_stream(futures::stream::iter(files.clone())).await.unwrap();
    for file in &files {
        assert!(!io.exists(file).await.unwrap());
    }
    io.new_output(&files[0]).unwrap().write("x".into()).await.unwrap();
    faults.add(Fault::on([Op::Delete], Effect::Fail(ErrorKind::Denied)).times(9));
    let e: Error = io.delete_stream(futures::stream::iter(files)).await.unwrap_err().into();
    assert_eq!(e.kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn a_held_call_goes_on_when_the_gate_opens() {
    let faults = Faults::default();
    let io = stores(&faults).file_io();
    let gate = Gate::default();
    faults.add(Fault::on([Op::Put], Effect::Hold(gate.clone())));
    let write = tokio::spawn({
        let io = io.clone();
        async move { io.new_output("memory://a/f").unwrap().write("x".into()).await }
    });
    while faults.pending() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(!io.exists("memory://a/f").await.unwrap());
    gate.open();
    write.await.unwrap().unwrap();
    assert!(io.exists("memory://a/f").await.unwrap());
}

#[tokio::test]
async fn an_unreachable_store_says_so_in_time() {
    let properties = HashMap::from([
        ("s3.endpoint".to_owned(), "http://127.0.0.1:1".to_owned()),
        ("s3.access-key-id".to_owned(), "key-in-test".to_owned()),
        ("s3.secret-access-key".to_owned(), "secret-in-test".to_owned()),
    ]);
    let io = file_io("s3a://bucket/wh", &properties).unwrap();
    assert!(!format!("{io:?}").contains("secret-in-test"), "Debug must not print secrets");
    let e: Error = io.new_input("s3a://bucket/wh/f").unwrap().read().await.unwrap_err().into();
    assert_eq!(e.kind(), ErrorKind::Unavailable);
    assert!(e.to_string().contains("http://127.0.0.1:1") && e.to_string().contains("s3a://bucket/wh/f"), "{e}");
}

/// Where `FIRN_S3_ENDPOINT` names a server (`FIRN_S3_ACCESS_KEY`, `FIRN_S3_SECRET_KEY`, `FIRN_WAREHOUSE_BUCKET`).
#[tokio::test]
async fn s3_stores_parts_creates_once_deletes_in_bulk_and_explains_itself() {
    let Ok(endpoint) = std::env::var("FIRN_S3_ENDPOINT") else {
        println!("skipped: FIRN_S3_ENDPOINT names no S3 server");
        return;
    };
    let env = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let properties = |secret: String| {
        HashMap::from([
            ("s3.endpoint".to_owned(), endpoint.clone()),
            ("s3.access-key-id".to_owned(), env("FIRN_S3_ACCESS_KEY", "firn-dev")),
            ("s3.secret-access-key".to_owned(), secret),
        ])
    };
    let bucket = env("FIRN_WAREHOUSE_BUCKET", "warehouse");
    let stores = Stores::new(properties(env("FIRN_S3_SECRET_KEY", "firn-dev-secret")));
    let root = format!("s3://{bucket}/storage-test-{}", uuid::Uuid::new_v4());
    let io = stores.file_io();

    let content = Bytes::from((0..20u32 << 20).map(|i| (i % 251) as u8).collect::<Vec<u8>>());
    let large = format!("{root}/p=a%2Fb/large file");
    let mut writer = io.new_output(&large).unwrap().writer().await.unwrap();
    for part in content.chunks(3 << 20) {
        writer.write(Bytes::copy_from_slice(part)).await.unwrap();
    }
    assert!(!io.exists(&large).await.unwrap());
    writer.close().await.unwrap();
    let as_s3a = large.replacen("s3://", "s3a://", 1);
    assert_eq!(io.new_input(&as_s3a).unwrap().read().await.unwrap(), content);
    let range = (9 << 20) - 5..(9 << 20) + 5u64;
    let part = io.new_input(&large).unwrap().reader().await.unwrap().read(range.clone()).await.unwrap();
    assert_eq!(part, content.slice(range.start as usize..range.end as usize));

    let (store, path) = stores.object_store(&format!("{root}/once")).unwrap();
    let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    store.put_opts(&path, "one".into(), create()).await.unwrap();
    let again = store.put_opts(&path, "two".into(), create()).await.unwrap_err();
    assert!(matches!(again, object_store::Error::AlreadyExists { .. }), "{again}");

    let paths = vec![large.clone(), format!("{root}/once"), format!("{root}/missing")];
    io.delete_stream(futures::stream::iter(paths)).await.unwrap();
    assert!(!io.exists(&large).await.unwrap());
    io.delete(&large).await.unwrap();

    let kind = |e: iceberg::Error| Error::from(e).kind();
    let denied = file_io(&root, &properties("wrong".to_owned())).unwrap();
    assert_eq!(kind(denied.new_input(&large).unwrap().read().await.unwrap_err()), ErrorKind::Denied);
    let nowhere = io.new_output("s3://no-such-bucket-here/f").unwrap();
    assert_eq!(kind(nowhere.write("x".into()).await.unwrap_err()), ErrorKind::Refused);
    assert_eq!(kind(io.new_input(&large).unwrap().read().await.unwrap_err()), ErrorKind::Invalid);
}
