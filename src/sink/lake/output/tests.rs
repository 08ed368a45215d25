//! In memory; the suite once more on a real metastore and object store, where `FIRN_HMS_URI` and `FIRN_S3_ENDPOINT` name them.

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use firn_catalog::memory::MemoryCatalog;
use firn_catalog::storage::fault::{Effect, Fault, Faults, Op as Call};
use firn_catalog::{ErrorKind, Patience};
use futures::TryStreamExt;
use iceberg::TableIdent;

use super::*;
use crate::change::{Mode, Op};
use crate::sink::conformance;
use crate::sink::keeping::Keeping;
use crate::sink::{RefusedRow, RowOrigin};

const PACE: Pace = Pace { interval: Duration::from_secs(3600), rows: 1_000_000, bytes: 1 << 30 };

fn spec(name: &str, mode: Mode, key: &[&str]) -> TableSpec {
    let key = key.iter().map(|k| (*k).to_owned()).collect();
    TableSpec { mode, key, keys_roam: true, ..TableSpec::new("gold", name) }
}

fn sink(catalog: Arc<dyn Catalog>, spec: TableSpec) -> LakeSink {
    let patience = Patience { attempts: 2, ..Patience::default() };
    LakeSink::new(spec, PACE, catalog, Shared::default(), Handle::current()).with_patience(patience)
}

/// All rows, as text, in any order.
async fn rows(catalog: &dyn Catalog, name: &str) -> Vec<RecordBatch> {
    match catalog.load(&TableIdent::from_strs(["gold", name]).unwrap()).await {
        Ok(table) => table.scan().build().unwrap().to_arrow().await.unwrap().try_collect().await.unwrap(),
        Err(e) if e.kind() == ErrorKind::NotFound => vec![],
        Err(e) => panic!("{e}"),
    }
}

async fn longs(catalog: &dyn Catalog, name: &str, column: &str) -> Vec<i64> {
    let batches = rows(catalog, name).await;
    let values = batches.iter().map(|b| b.column_by_name(column).unwrap().as_primitive::<Int64Type>().clone());
    let mut all: Vec<i64> = values.flat_map(|v| v.values().to_vec()).collect();
    all.sort_unstable();
    all
}

/// A table of its own in a catalog that is reached by `server`, if it is reached by any.
struct Tables<F> {
    name: String,
    mode: Mode,
    server: String,
    open: F,
}

#[async_trait]
impl<F: Fn(&str) -> Arc<dyn Catalog> + Send + Sync> conformance::Place for Tables<F> {
    fn server(&self) -> String {
        self.server.clone()
    }

    async fn open(&self, server: &str) -> Box<dyn Sink> {
        let key: &[&str] = if self.mode == Mode::Upsert { &["id"] } else { &[] };
        Box::new(sink((self.open)(server), spec(&self.name, self.mode, key)))
    }

    async fn held(&self) -> Vec<i64> {
        longs((self.open)(&self.server).as_ref(), &self.name, "id").await
    }

    fn refuses_poison(&self) -> bool {
        false
    }

    fn overwrites(&self) -> bool {
        true
    }

    fn fences_by_position(&self) -> bool {
        true
    }

    async fn remove(&self) {
        let ident = TableIdent::from_strs(["gold", &self.name]).unwrap();
        let _ = Catalog::drop((self.open)(&self.server).as_ref(), &ident).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_in_memory_conforms() {
    for mode in [Mode::Append, Mode::Upsert] {
        conformance::all_but_crash(|name| {
            let catalog = MemoryCatalog::default();
            let open = move |_: &str| Arc::new(catalog.clone()) as Arc<dyn Catalog>;
            Tables { name: name.to_owned(), mode, server: String::new(), open }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_a_hive_metastore_conforms() {
    let env = |name: &str| std::env::var(name);
    let (Ok(hms), Ok(s3)) = (env("FIRN_HMS_URI"), env("FIRN_S3_ENDPOINT")) else {
        eprintln!("skipped: FIRN_HMS_URI and FIRN_S3_ENDPOINT name no metastore and object store");
        return;
    };
    let or = |name: &str, default: &str| env(name).unwrap_or_else(|_| default.to_owned());
    let (user, secret) = (or("FIRN_S3_ACCESS_KEY", "firn-dev"), or("FIRN_S3_SECRET_KEY", "firn-dev-secret"));
    let (bucket, region) = (or("FIRN_WAREHOUSE_BUCKET", "warehouse"), or("FIRN_S3_REGION", "us-east-1"));
    let open = move |server: &str| {
        let settings = format!(
            "type = 'hive'\nuri = 'thrift://{server}'\nwarehouse = 's3://{bucket}/lake-sink'\n[properties]\n's3.endpoint' = '{s3}'\n\
             's3.region' = '{region}'\n's3.access-key-id' = '{user}'\n's3.secret-access-key' = '{secret}'\n\
             's3.path-style-access' = 'true'\n'hive.connect-timeout-ms' = 2000\n'hive.call-timeout-ms' = 5000"
        );
        let config = toml::from_str(&settings).unwrap();
        futures::executor::block_on(crate::catalogs::open(&config)).unwrap()
    };
    let server = hms.trim_start_matches("thrift://").to_owned();
    let run = uuid::Uuid::new_v4().simple().to_string();
    conformance::all(|name| Tables {
        name: format!("sink_{name}_{run}"),
        mode: Mode::Append,
        server: server.clone(),
        open: open.clone(),
    })
    .await;
}

fn at(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

/// Rows of id and note, each a change of its own.
fn delivery(partition: i32, from: i64, rows: &[(Option<i64>, &str, Op)]) -> Delivery {
    let columns: [(&str, ArrayRef); 2] = [
        ("id", Arc::new(rows.iter().map(|r| r.0).collect::<Int64Array>())),
        ("note", Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.1)))),
    ];
    Delivery {
        span: Span::new(at(partition), from, from + rows.len() as i64),
        rows: RecordBatch::try_from_iter_with_nullable(columns.map(|(n, c)| (n, c, true))).unwrap(),
        origins: Some(rows.iter().zip(from..).map(|(r, offset)| RowOrigin::new(offset, r.2)).collect()),
        keeping: Keeping::default(),
    }
}

async fn started(catalog: &MemoryCatalog, spec: TableSpec) -> LakeSink {
    let mut sink = sink(Arc::new(catalog.clone()), spec);
    sink.prepare(&delivery(0, 0, &[]).rows.schema()).await.unwrap();
    sink.take_over(&[at(0), at(1)]).await.unwrap();
    sink
}

async fn done(sink: &mut LakeSink, delivery: &Delivery) -> Result<(), SinkError> {
    sink.deliver(delivery).await?;
    sink.commit().await
}

async fn notes(catalog: &MemoryCatalog, name: &str) -> Vec<(i64, String)> {
    let mut all = Vec::new();
    for batch in rows(catalog, name).await {
        let ids = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().clone();
        let notes = batch.column_by_name("note").unwrap().as_string::<i32>().clone();
        all.extend((0..batch.num_rows()).map(|i| (ids.value(i), notes.value(i).to_owned())));
    }
    all.sort_unstable();
    all
}

fn shown(rows: &[(i64, &str)]) -> Vec<(i64, String)> {
    rows.iter().map(|(id, note)| (*id, (*note).to_owned())).collect()
}

/// Where the SELECT chooses the key, two processes may have rows of one.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_rows_come_from_several_partitions_has_one_row() {
    let catalog = MemoryCatalog::default();
    let of = || spec("roaming", Mode::Upsert, &["id"]);
    let (mut one, mut other) = (started(&catalog, of()).await, started(&catalog, of()).await);
    done(&mut one, &delivery(0, 0, &[(Some(1), "a", Op::Create), (Some(2), "a", Op::Create)])).await.unwrap();
    done(&mut other, &delivery(1, 0, &[(Some(1), "b", Op::Update), (Some(3), "b", Op::Create)])).await.unwrap();
    done(&mut one, &delivery(0, 2, &[(Some(3), "c", Op::Update)])).await.unwrap();
    done(&mut other, &delivery(1, 2, &[(Some(2), "gone", Op::Delete)])).await.unwrap();
    assert_eq!(notes(&catalog, "roaming").await, shown(&[(1, "b"), (3, "c")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_refused_is_named_and_the_others_go() {
    let catalog = MemoryCatalog::default();
    let mut sink = started(&catalog, spec("poison", Mode::Upsert, &["id"])).await;
    let rows = [(Some(1), "a", Op::Create), (None, "b", Op::Create), (Some(3), "c", Op::Create)];
    let refused = sink.deliver(&delivery(0, 0, &rows)).await.unwrap_err();
    assert!(
        matches!(&refused, SinkError::Refused(r) if matches!(&r[..], [RefusedRow { row: 1, detail }] if detail.contains("`id`")))
    );
    let rest = Delivery { span: Span::new(at(0), 0, 3), ..delivery(0, 0, &[rows[0], rows[2]]) };
    done(&mut sink, &rest).await.unwrap();
    assert_eq!(notes(&catalog, "poison").await, shown(&[(1, "a"), (3, "c")]));
    assert_eq!(sink.take_over(&[at(0)]).await.unwrap()[0].as_ref().unwrap().next, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_added_and_a_type_that_does_not_fit_says_the_way_out() {
    let catalog = MemoryCatalog::default();
    let mut sink = started(&catalog, spec("columns", Mode::Append, &[])).await;
    done(&mut sink, &delivery(0, 0, &[(Some(1), "a", Op::Create)])).await.unwrap();
    let mut wider = delivery(0, 1, &[(Some(2), "b", Op::Create)]);
    let more: ArrayRef = Arc::new(Int64Array::from(vec![7]));
    let names = ["id", "note", "more"].into_iter();
    let columns: Vec<_> =
        names.zip(wider.rows.columns().iter().cloned().chain([more])).map(|(n, c)| (n, c, true)).collect();
    wider.rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    sink.prepare(&wider.rows.schema()).await.unwrap();
    done(&mut sink, &wider).await.unwrap();
    assert_eq!(longs(&catalog, "columns", "id").await, [1, 2]);
    assert_eq!(longs(&catalog, "columns", "_firn_offset").await, [0, 1]);

    let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let other = RecordBatch::try_from_iter_with_nullable([("id", text, true)]).unwrap();
    let SinkError::Stopped(why) = sink.prepare(&other.schema()).await.unwrap_err() else { panic!("not stopped") };
    assert!(why.contains("column id") && why.contains("CAST"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_done_once() {
    for effect in [Effect::LoseAnswer, Effect::Fail(ErrorKind::Unavailable), Effect::FailAfter(ErrorKind::Conflict)] {
        let faults = Faults::default();
        let catalog = MemoryCatalog::new(faults.clone());
        let mut sink = started(&catalog, spec("once", Mode::Append, &[])).await;
        sink.deliver(&delivery(0, 0, &[(Some(1), "a", Op::Create)])).await.unwrap();
        faults.add(Fault::on([Call::Swap], effect.clone()).times(3));
        let mut tries = 0;
        while let Err(e) = sink.commit().await {
            assert!(matches!(e, SinkError::Unavailable(_)), "{effect:?}: {e:?}");
            assert_eq!(sink.gathered(), Gathered::Due);
            tries += 1;
            assert!(tries < 10, "{effect:?}");
        }
        done(&mut sink, &delivery(0, 1, &[(Some(2), "b", Op::Create)])).await.unwrap();
        assert_eq!(notes(&catalog, "once").await, shown(&[(1, "a"), (2, "b")]), "{effect:?}");
    }
}

/// What was taken in before is gone with it: nobody may take it for done.
#[tokio::test(flavor = "multi_thread")]
async fn what_storage_lost_is_read_again() {
    let faults = Faults::default();
    let catalog = MemoryCatalog::new(faults.clone());
    let mut sink = started(&catalog, spec("lost", Mode::Append, &[])).await;
    sink.deliver(&delivery(0, 0, &[(Some(1), "a", Op::Create)])).await.unwrap();
    sink.deliver(&delivery(1, 0, &[(Some(2), "b", Op::Create)])).await.unwrap();
    faults.add(Fault::on([Call::Put, Call::PutPart], Effect::Fail(ErrorKind::Denied)).times(100));
    sink.commit().await.unwrap_err();
    faults.clear();
    assert!(matches!(sink.commit().await, Err(SinkError::Moved(_))));
    let next = delivery(0, 1, &[(Some(3), "c", Op::Create)]);
    assert!(matches!(sink.deliver(&next).await, Err(SinkError::Moved(_))));
    sink.forget().await;
    assert!(matches!(sink.deliver(&next).await, Err(SinkError::Moved(_)) | Ok(())));
    sink.forget().await;
    assert_eq!(sink.take_over(&[at(0), at(1)]).await.unwrap(), [None, None]);
    for delivery in [delivery(0, 0, &[(Some(1), "a", Op::Create)]), delivery(1, 0, &[(Some(2), "b", Op::Create)])] {
        sink.deliver(&delivery).await.unwrap();
    }
    sink.commit().await.unwrap();
    assert_eq!(notes(&catalog, "lost").await, shown(&[(1, "a"), (2, "b")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_time_when_the_first_of_its_bounds_is_reached() {
    let catalog = MemoryCatalog::default();
    let of = |pace| LakeSink { pace, ..sink(Arc::new(catalog.clone()), spec("pace", Mode::Append, &[])) };
    for (pace, due) in [
        (PACE, Gathered::Some),
        (Pace { rows: 1, ..PACE }, Gathered::Due),
        (Pace { bytes: 1, ..PACE }, Gathered::Due),
        (Pace { interval: Duration::ZERO, ..PACE }, Gathered::Due),
    ] {
        let mut sink = of(pace);
        sink.prepare(&delivery(0, 0, &[]).rows.schema()).await.unwrap();
        sink.take_over(&[at(0)]).await.unwrap();
        assert_eq!(sink.gathered(), Gathered::Nothing);
        sink.deliver(&delivery(0, 0, &[])).await.unwrap();
        assert_eq!(sink.gathered(), Gathered::Some, "a position alone can wait");
        sink.deliver(&delivery(0, 0, &[(Some(1), "a", Op::Create)])).await.unwrap();
        assert_eq!(sink.gathered(), due, "{pace:?}");
    }
}

/// A partition that begins at its end does so where it was when it was taken over first.
#[tokio::test(flavor = "multi_thread")]
async fn it_begins_where_it_was_told_until_the_table_knows() {
    let catalog = MemoryCatalog::default();
    let mut sink = started(&catalog, spec("begun", Mode::Append, &[])).await;
    sink.begin(&at(0), 100).await.unwrap();
    let stands = async |sink: &mut LakeSink| -> Vec<Option<i64>> {
        sink.take_over(&[at(0), at(1)]).await.unwrap().into_iter().map(|s| s.map(|s| s.next)).collect()
    };
    assert_eq!(stands(&mut sink).await, [Some(100), None]);
    let row = delivery(0, 100, &[(Some(1), "a", Op::Create)]);
    sink.deliver(&row).await.unwrap();
    sink.forget().await;
    assert_eq!(stands(&mut sink).await, [Some(100), None], "what was gathered is read again");
    done(&mut sink, &row).await.unwrap();
    assert_eq!(stands(&mut sink).await, [Some(101), None]);
}

/// Partitions that a new topic has beyond the old one's are none of the table's either.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_with_more_partitions_stops_the_sink_with_the_way_out() {
    let catalog = MemoryCatalog::default();
    let mut sink = started(&catalog, spec("anew", Mode::Append, &[])).await;
    let of = |topic_id: &str, partition: i32| {
        let mut row = delivery(partition, 0, &[(Some(1), "a", Op::Create)]);
        row.span.topic_id = Some(topic_id.to_owned());
        row
    };
    done(&mut sink, &of("first", 0)).await.unwrap();
    sink.take_over(&[at(1)]).await.unwrap();
    let told = sink.deliver(&of("second", 1)).await;
    assert!(matches!(&told, Err(SinkError::Stopped(why)) if why.contains("made anew")), "{told:?}");
}
