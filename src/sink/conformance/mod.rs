//! What every sink promises, as one suite that each of them runs against its real server.
//!
//! | case | property |
//! |---|---|
//! | fresh, resume | a sink that knows nothing says so; another process goes on where the last one stood |
//! | replay | the same delivery again, after a lost answer, adds nothing |
//! | stale writer | who was taken over from writes nothing any more |
//! | first writer | where only positions fence, of two at one position the first one writes, and the other goes on behind it |
//! | crash | the connection is cut before and after each step of a delivery: what comes next makes it whole, once |
//! | gather | what was taken in and not committed is not there, and is delivered anew; one commit does all of it |
//! | together | of deliveries of several partitions each is done or not by itself, and cut off anywhere all become whole, once |
//! | gap | a delivery that begins elsewhere is refused |
//! | poison row | the refusal names exactly the rows; the others then go |
//! | rewind | what was delivered once is delivered again, by the new generation alone |

pub mod ledger;
mod proxy;

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::SchemaRef;
use async_trait::async_trait;

use self::proxy::{Cut, Proxy};
use super::keeping::Keeping;
use super::{Delivery, Gathered, RowOrigin, Sink, SinkError, Standing};
use crate::change::{Column, ColumnType, Op};
use crate::position::{Span, TopicPartition};

/// One empty place (a table, a stream) in a sink's server. Dropped with all that was made for it by [`Place::remove`].
#[async_trait]
pub trait Place: Send + Sync {
    /// The server's `host:port`.
    fn server(&self) -> String;

    /// The sink as a new process has it, that reaches the server at this `host:port`; not prepared.
    async fn open(&self, server: &str) -> Box<dyn Sink>;

    /// Where a proxy has to listen, if the server itself tells its clients where to go on: there, then.
    fn gate(&self) -> Option<String> {
        None
    }

    /// The `id` of every row that the place holds, doubles included, in any order.
    async fn held(&self) -> Vec<i64>;

    /// Whether a row whose `digits` are other letters is refused.
    fn refuses_poison(&self) -> bool;

    /// What the refusal of such a row has to name.
    fn poison_is(&self) -> &'static str {
        "digits"
    }

    /// Whether a row that comes again takes the place of the one that is there, and no double can be seen.
    fn overwrites(&self) -> bool {
        false
    }

    /// Whether nothing but the positions tells who goes on: who was taken over may still be the first to write, and the other is told.
    fn fences_by_position(&self) -> bool {
        false
    }

    /// Whether the sink takes deliveries of several partitions at a time, so that they may be cut off together.
    fn takes_several(&self) -> bool {
        false
    }

    async fn remove(&self);
}

/// `id` is the row's own number, `at` lies in one of three days, `digits` is a number as text.
pub fn columns() -> SchemaRef {
    let column = |name: &str, column_type| Column { name: name.to_owned(), column_type, key: name == "id" };
    let columns =
        [column("id", ColumnType::Long), column("at", ColumnType::TimestampTz), column("digits", ColumnType::String)];
    Arc::new(arrow_schema::Schema::new(columns.iter().map(Column::arrow).collect::<Vec<_>>()))
}

/// What a row has for `digits` that a sink refuses.
pub const NO_DIGITS: &str = "no digits at all";

pub fn at(partition: i32) -> TopicPartition {
    TopicPartition::new("server.public.events", partition)
}

/// A row for each offset, but for every seventh: the filter took it. The days alternate.
fn delivery(partition: i32, from: i64, next: i64) -> Delivery {
    with_digits(partition, from, next, |id| id.to_string())
}

fn with_digits(partition: i32, from: i64, next: i64, digits: impl Fn(i64) -> String) -> Delivery {
    let offsets: Vec<i64> = (from..next).filter(|o| o % 7 != 6).collect();
    let ids: Vec<i64> = offsets.iter().map(|o| id(partition, *o)).collect();
    let day = 86_400_000_000;
    let columns_of_rows: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids.clone())),
        Arc::new(
            TimestampMicrosecondArray::from_iter_values(offsets.iter().map(|o| 20_000 * day + o % 3 * day + o))
                .with_timezone("+00:00"),
        ),
        Arc::new(StringArray::from_iter_values(ids.iter().map(|id| digits(*id)))),
    ];
    Delivery {
        span: Span { topic_id: Some("topic-id".to_owned()), ..Span::new(at(partition), from, next) },
        rows: RecordBatch::try_new(columns(), columns_of_rows).unwrap(),
        keeping: Keeping::default(),
        origins: Some(offsets.iter().map(|o| RowOrigin::new(*o, Op::Create)).collect()),
    }
}

/// Delivers, and has it done.
async fn deliver(sink: &mut Box<dyn Sink>, delivery: &Delivery) -> Result<(), SinkError> {
    sink.deliver(delivery).await?;
    sink.commit().await
}

/// Delivers of several partitions, as many at a time as the sink takes, and has it done.
async fn deliver_each(sink: &mut Box<dyn Sink>, deliveries: &[Delivery]) -> Vec<Result<(), SinkError>> {
    let mut results = Vec::new();
    while results.len() < deliveries.len() {
        let some = sink.deliver_some(&deliveries[results.len()..]).await;
        assert!(!some.is_empty());
        results.extend(some);
    }
    let committed = sink.commit().await;
    results.into_iter().map(|result| result.and(committed.clone())).collect()
}

fn id(partition: i32, offset: i64) -> i64 {
    i64::from(partition) * 1_000_000 + offset
}

/// The ids of `[from, next)`.
fn ids(partition: i32, from: i64, next: i64) -> Vec<i64> {
    (from..next).filter(|o| o % 7 != 6).map(|o| id(partition, o)).collect()
}

async fn holds(place: &impl Place, mut want: Vec<i64>, when: &str) {
    let mut held = place.held().await;
    held.sort_unstable();
    want.sort_unstable();
    assert_eq!(held, want, "{when}");
}

/// A process that starts: the sink, prepared, with where it stands in partition 0.
async fn start(place: &impl Place, server: &str) -> (Box<dyn Sink>, Option<Standing>) {
    let mut sink = place.open(server).await;
    sink.prepare(&columns()).await.unwrap();
    let mut standing = sink.take_over(&[at(0)]).await.unwrap();
    assert_eq!(standing.len(), 1);
    (sink, standing.remove(0))
}

/// A process that starts after another, and has delivered again what the other one left open. With the next offset.
async fn resume(place: &impl Place) -> (Box<dyn Sink>, i64) {
    let (mut sink, standing) = start(place, &place.server()).await;
    let Some(standing) = standing else { return (sink, 0) };
    assert_eq!(standing.topic_id.as_deref(), Some("topic-id"));
    if let Some(until) = standing.until {
        deliver(&mut sink, &delivery(0, standing.next, until)).await.unwrap();
    }
    (sink, standing.until.unwrap_or(standing.next))
}

/// Runs every case, each on a place of its own; `name` tells the places apart.
pub async fn all<P: Place>(fresh: impl Fn(&str) -> P) {
    all_but_crash(&fresh).await;
    for cut in [Cut::Request, Cut::Answer] {
        for partitions in [1, 2] {
            for turn in 0.. {
                let place = fresh(&format!("crash_{cut:?}_{turn}_{partitions}").to_lowercase());
                let is_tried = partitions == 1 || place.takes_several();
                let went_through = !is_tried || crash(&place, partitions, cut, turn).await;
                place.remove().await;
                if !is_tried {
                    break;
                }
                if went_through {
                    assert!(turn > 0, "a delivery asks the server something");
                    break;
                }
            }
        }
    }
}

/// Every case that needs no server whose connection could be cut.
pub async fn all_but_crash<P: Place>(fresh: impl Fn(&str) -> P) {
    let place = fresh("resume");
    fresh_and_resume(&place).await;
    place.remove().await;
    let place = fresh("replay");
    replay(&place).await;
    place.remove().await;
    let place = fresh("stale");
    stale_writer(&place).await;
    place.remove().await;
    let place = fresh("first");
    if place.fences_by_position() {
        first_writer(&place).await;
    }
    place.remove().await;
    let place = fresh("together");
    together(&place).await;
    place.remove().await;
    let place = fresh("gap");
    gap(&place).await;
    place.remove().await;
    let place = fresh("poison");
    if place.refuses_poison() {
        poison_row(&place).await;
    }
    place.remove().await;
    let place = fresh("rewind");
    rewind(&place).await;
    place.remove().await;
    let place = fresh("gather");
    gather(&place).await;
    place.remove().await;
}

async fn fresh_and_resume(place: &impl Place) {
    let mut sink = place.open(&place.server()).await;
    sink.prepare(&columns()).await.unwrap();
    assert_eq!(sink.take_over(&[at(0), at(1)]).await.unwrap(), [None, None], "nothing was ever delivered");
    holds(place, vec![], "at first").await;
    deliver(&mut sink, &delivery(0, 0, 10)).await.unwrap();
    deliver(&mut sink, &delivery(1, 100, 110)).await.unwrap();
    deliver(&mut sink, &delivery(0, 10, 13)).await.unwrap();
    // The filter took every row: the position moves.
    deliver(&mut sink, &delivery(0, 13, 14)).await.unwrap();
    let want = [ids(0, 0, 14), ids(1, 100, 110)].concat();
    holds(place, want.clone(), "after three deliveries").await;
    drop(sink);

    let (mut sink, next) = resume(place).await;
    assert_eq!(next, 14, "another process goes on where the last one stood");
    holds(place, want, "after the resume").await;
    sink.prepare(&columns()).await.unwrap();
    deliver(&mut sink, &delivery(0, 14, 20)).await.unwrap();
    holds(place, [ids(0, 0, 20), ids(1, 100, 110)].concat(), "going on").await;
}

async fn replay(place: &impl Place) {
    let (mut sink, _) = start(place, &place.server()).await;
    for _ in 0..2 {
        let again = deliver(&mut sink, &delivery(0, 0, 10)).await;
        assert!(matches!(again, Ok(()) | Err(SinkError::Moved(_))), "{again:?}");
        holds(place, ids(0, 0, 10), "the same delivery again").await;
    }
    deliver(&mut sink, &delivery(0, 10, 20)).await.unwrap();
    holds(place, ids(0, 0, 20), "the next one").await;
}

async fn stale_writer(place: &impl Place) {
    let (mut old, _) = start(place, &place.server()).await;
    deliver(&mut old, &delivery(0, 0, 10)).await.unwrap();
    let (mut new, next) = resume(place).await;
    assert_eq!(next, 10);
    if !place.fences_by_position() {
        let late = deliver(&mut old, &delivery(0, 10, 15)).await;
        assert!(matches!(late, Err(SinkError::Moved(_))), "taken over, though nothing came since: {late:?}");
    }
    deliver(&mut new, &delivery(0, 10, 20)).await.unwrap();
    for (from, next) in [(10, 15), (10, 20), (0, 10), (20, 30)] {
        let late = deliver(&mut old, &delivery(0, from, next)).await;
        assert!(matches!(late, Err(SinkError::Moved(_))), "{from}..{next}: {late:?}");
    }
    holds(place, ids(0, 0, 20), "after the late deliveries").await;
    deliver(&mut new, &delivery(0, 20, 30)).await.unwrap();
    holds(place, ids(0, 0, 30), "the newer one goes on").await;
    let (_, next) = resume(place).await;
    assert_eq!(next, 30);
}

async fn first_writer(place: &impl Place) {
    let (mut old, _) = start(place, &place.server()).await;
    deliver(&mut old, &delivery(0, 0, 10)).await.unwrap();
    let (mut new, next) = resume(place).await;
    assert_eq!(next, 10);
    deliver(&mut old, &delivery(0, 10, 15)).await.unwrap();
    let late = deliver(&mut new, &delivery(0, 10, 20)).await;
    assert!(matches!(late, Err(SinkError::Moved(_))), "the other was first: {late:?}");
    holds(place, ids(0, 0, 15), "never both").await;
    new.forget().await;
    assert_eq!(new.take_over(&[at(0)]).await.unwrap().remove(0).unwrap().next, 15);
    deliver(&mut new, &delivery(0, 15, 20)).await.unwrap();
    holds(place, ids(0, 0, 20), "going on from there").await;
}

async fn gather(place: &impl Place) {
    let (mut sink, _) = start(place, &place.server()).await;
    sink.deliver(&delivery(0, 0, 10)).await.unwrap();
    if sink.gathered() == Gathered::Nothing {
        holds(place, ids(0, 0, 10), "done at once").await;
        return;
    }
    sink.deliver(&delivery(0, 10, 20)).await.unwrap();
    sink.deliver(&delivery(1, 5, 9)).await.unwrap_err();
    holds(place, vec![], "nothing before the commit").await;
    drop(sink);

    let (mut sink, next) = resume(place).await;
    assert_eq!(next, 0, "a process that ends leaves nothing of it");
    assert_eq!(sink.take_over(&[at(1)]).await.unwrap(), [None]);
    sink.deliver(&delivery(0, 0, 10)).await.unwrap();
    sink.deliver(&delivery(1, 5, 9)).await.unwrap();
    sink.forget().await;
    assert_eq!((sink.gathered(), sink.commit().await), (Gathered::Nothing, Ok(())));
    holds(place, vec![], "forgotten").await;
    for (partition, from, next) in [(0, 0, 7), (1, 5, 9), (0, 7, 10)] {
        sink.deliver(&delivery(partition, from, next)).await.unwrap();
    }
    sink.commit().await.unwrap();
    assert_eq!(sink.gathered(), Gathered::Nothing);
    holds(place, [ids(0, 0, 10), ids(1, 5, 9)].concat(), "one commit").await;
    let (_, next) = resume(place).await;
    assert_eq!(next, 10);
}

async fn together(place: &impl Place) {
    let mut sink = place.open(&place.server()).await;
    sink.prepare(&columns()).await.unwrap();
    sink.take_over(&[at(0), at(1)]).await.unwrap();
    for _ in 0..2 {
        for again in deliver_each(&mut sink, &[delivery(0, 0, 10), delivery(1, 100, 110)]).await {
            assert!(matches!(again, Ok(()) | Err(SinkError::Moved(_))), "{again:?}");
        }
        holds(place, [ids(0, 0, 10), ids(1, 100, 110)].concat(), "two partitions at once").await;
    }
    if place.fences_by_position() {
        return;
    }
    let mut other = place.open(&place.server()).await;
    other.prepare(&columns()).await.unwrap();
    other.take_over(&[at(1)]).await.unwrap();
    let next = [delivery(1, 110, 120), delivery(0, 10, 20)];
    let done: Vec<bool> = deliver_each(&mut sink, &next).await.iter().map(Result::is_ok).collect();
    assert_eq!(done, [false, true], "another process has taken one over");
    let standing = sink.take_over(&[at(1)]).await.unwrap().remove(0).unwrap();
    if let Some(until) = standing.until {
        deliver(&mut sink, &delivery(1, standing.next, until)).await.unwrap();
    }
    // The filter took every row of the first one.
    let last = [delivery(0, 20, 21), delivery(1, 110, 120)];
    assert_eq!(deliver_each(&mut sink, &last).await, [Ok(()), Ok(())]);
    deliver(&mut sink, &delivery(0, 21, 30)).await.unwrap();
    holds(place, [ids(0, 0, 30), ids(1, 100, 120)].concat(), "each partition for itself").await;
}

async fn gap(place: &impl Place) {
    let (mut sink, _) = start(place, &place.server()).await;
    deliver(&mut sink, &delivery(0, 0, 10)).await.unwrap();
    for (from, next) in [(12, 20), (5, 12), (5, 8)] {
        let elsewhere = deliver(&mut sink, &delivery(0, from, next)).await;
        assert!(matches!(elsewhere, Err(SinkError::Moved(_))), "{from}..{next}: {elsewhere:?}");
    }
    holds(place, ids(0, 0, 10), "after deliveries that begin elsewhere").await;
    let (mut sink, next) = resume(place).await;
    assert_eq!(next, 10);
    deliver(&mut sink, &delivery(0, 10, 20)).await.unwrap();
    holds(place, ids(0, 0, 20), "going on").await;
}

async fn poison_row(place: &impl Place) {
    let (mut sink, _) = start(place, &place.server()).await;
    deliver(&mut sink, &delivery(0, 0, 10)).await.unwrap();
    let poisoned = with_digits(0, 10, 30, |id| if id % 10 == 4 { NO_DIGITS.to_owned() } else { id.to_string() });
    let poison: Vec<usize> =
        ids(0, 10, 30).iter().enumerate().filter(|(_, id)| *id % 10 == 4).map(|(i, _)| i).collect();
    assert_eq!(poison.len(), 2);
    let SinkError::Refused(rows) = deliver(&mut sink, &poisoned).await.unwrap_err() else { panic!("not refused") };
    assert_eq!(rows.iter().map(|r| r.row).collect::<Vec<_>>(), poison);
    assert!(rows.iter().all(|r| r.detail.contains(place.poison_is())), "the trouble is named: {rows:?}");
    holds(place, ids(0, 0, 10), "nothing was done").await;

    let keep: arrow_array::BooleanArray = (0..poisoned.rows.num_rows()).map(|i| Some(!poison.contains(&i))).collect();
    let mut rest = poisoned;
    rest.rows = arrow_select::filter::filter_record_batch(&rest.rows, &keep).unwrap();
    rest.origins =
        rest.origins.map(|o| o.into_iter().enumerate().filter(|(i, _)| !poison.contains(i)).map(|(_, o)| o).collect());
    deliver(&mut sink, &rest).await.unwrap();
    let want = ids(0, 0, 30).into_iter().filter(|id| *id < 10 || id % 10 != 4).collect();
    holds(place, want, "the rest went").await;
}

async fn rewind(place: &impl Place) {
    let (mut old, _) = start(place, &place.server()).await;
    deliver(&mut old, &delivery(0, 0, 10)).await.unwrap();
    let mut person = place.open(&place.server()).await;
    person.prepare(&columns()).await.unwrap();
    person.rewind(&[(at(0), 5), (at(1), 3)]).await.unwrap();
    let late = deliver(&mut old, &delivery(0, 10, 20)).await;
    assert!(matches!(late, Err(SinkError::Moved(_))), "{late:?}");

    let mut sink = place.open(&place.server()).await;
    sink.prepare(&columns()).await.unwrap();
    let standing: Vec<_> = sink.take_over(&[at(0), at(1)]).await.unwrap().into_iter().map(Option::unwrap).collect();
    assert_eq!(standing.iter().map(|s| (s.next, s.until)).collect::<Vec<_>>(), [(5, None), (3, None)]);
    deliver(&mut sink, &delivery(0, 5, 10)).await.unwrap();
    deliver(&mut sink, &delivery(0, 10, 20)).await.unwrap();
    let want = if place.overwrites() { ids(0, 0, 20) } else { [ids(0, 0, 10), ids(0, 5, 20)].concat() };
    holds(place, want, "what was delivered once is delivered again").await;
}

/// Whether the deliveries of so many partitions were done before it came to that turn.
async fn crash(place: &impl Place, partitions: i32, cut: Cut, turn: usize) -> bool {
    let all: Vec<TopicPartition> = (0..partitions).map(at).collect();
    let deliveries = |from, next| (0..partitions).map(|p| delivery(p, from, next)).collect::<Vec<_>>();
    let proxy = Proxy::start(&place.server(), place.gate().as_deref()).await;
    let mut sink = place.open(proxy.address()).await;
    sink.prepare(&columns()).await.unwrap();
    sink.take_over(&all).await.unwrap();
    deliver_each(&mut sink, &deliveries(0, 10)).await.into_iter().for_each(Result::unwrap);
    proxy.cut_at(cut, turn);
    let delivered = deliver_each(&mut sink, &deliveries(10, 20)).await;
    let went_through = !proxy.has_cut();
    for delivered in &delivered {
        match delivered {
            // A client may ask again by itself.
            Ok(()) => {}
            Err(SinkError::Unavailable(_)) if !went_through => {}
            Err(e) => panic!("{cut:?} at {turn}: {e:?}"),
        }
    }
    drop((sink, proxy));

    let when = format!("{cut:?} at {turn}");
    let mut sink = place.open(&place.server()).await;
    sink.prepare(&columns()).await.unwrap();
    let standings = sink.take_over(&all).await.unwrap();
    let mut nexts = Vec::new();
    for (p, (standing, delivered)) in (0..).zip(standings.into_iter().zip(&delivered)) {
        let standing = standing.unwrap();
        if let Some(until) = standing.until {
            deliver(&mut sink, &delivery(p, standing.next, until)).await.unwrap();
        }
        let next = standing.until.unwrap_or(standing.next);
        assert!(next == 20 || next == 10 && delivered.is_err(), "{when}: {p} goes on at {next}");
        nexts.push(next);
    }
    let held = (0..).zip(&nexts).flat_map(|(p, next)| ids(p, 0, *next)).collect();
    holds(place, held, &when).await;
    let last: Vec<Delivery> = (0..).zip(nexts).map(|(p, next)| delivery(p, next, 30)).collect();
    deliver_each(&mut sink, &last).await.into_iter().for_each(Result::unwrap);
    holds(place, (0..partitions).flat_map(|p| ids(p, 0, 30)).collect(), &when).await;
    went_through
}
