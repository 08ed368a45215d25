//! Alerts that cool down, and statistics of what came before.

use arrow_array::{Int32Array, StringArray};

use super::*;
use crate::change::{Op, origin};

fn rules(text: &str) -> Arc<Rules> {
    let pipeline = format!("name = \"p\"\nsql = \"SELECT 1\"\n{text}\n[[sources]]\ntopic = \"s.public.orders\"");
    Arc::new(Rules::of(&toml::from_str(&pipeline).unwrap()))
}

/// Rows of an alert about a product, by offset.
fn alerts(rows: &[(i64, &str)]) -> (RecordBatch, Vec<RowOrigin>) {
    let products: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.1)));
    let origins = rows.iter().map(|r| RowOrigin::new(r.0, Op::Update)).collect();
    (RecordBatch::try_from_iter([("product", products)]).unwrap(), origins)
}

/// The offsets of those that go out, where a change at offset n was committed at `times[n]`.
fn passing(state: &mut State, rows: &[(i64, &str)], times: &[i64]) -> Vec<i64> {
    let (rows, origins) = alerts(rows);
    let passed = state.pass(&rows, &origins, |offset| times.get(offset as usize).copied()).unwrap();
    assert_eq!(passed.rows.num_rows(), passed.origins.len());
    assert_eq!(passed.held_back, origins.len() - passed.origins.len());
    passed.origins.iter().map(|o| o.offset).collect()
}

const COOL: &str = "alert = { key = [\"product\"], cool_down = \"10s\" }";

#[test]
fn of_alerts_with_one_key_the_first_goes_out_and_the_others_once_it_has_cooled_down() {
    let mut state = State::trial(&rules(COOL));
    let times = [0, 1_000, 9_999, 10_000, 12_000, 5_000, 20_000];
    let rows: Vec<(i64, &str)> = (0..7).map(|o| (o, "a")).collect();
    // An earlier time comes late, and is soon all the same.
    assert_eq!(passing(&mut state, &rows, &times), [0, 3, 6]);
    assert_eq!(passing(&mut state, &[(6, "b"), (9, "a")], &times), [6, 9], "another key; one of no time");
}

#[test]
fn it_is_the_same_whatever_the_batches_and_after_a_restart() {
    let rules = rules(COOL);
    let times: Vec<i64> = (0..200).map(|o| o * 700 % 60_000).collect();
    let all: Vec<(i64, String)> = (0..200).map(|o| (o, format!("k{}", o % 5))).collect();
    let all: Vec<(i64, &str)> = all.iter().map(|(o, k)| (*o, k.as_str())).collect();
    let whole = passing(&mut State::trial(&rules), &all, &times);
    assert!(whole.len() > 10 && whole.len() < 100, "{}", whole.len());
    let (mut state, mut out, mut stored) = (State::trial(&rules), Vec::new(), BTreeMap::new());
    for (n, batch) in all.chunks(7).enumerate() {
        if n % 3 == 1 {
            // It is read, and given up before the sink was told.
            passing(&mut state, batch, &times);
            state.undo();
        }
        out.extend(passing(&mut state, batch, &times));
        for step in state.keeping().steps {
            stored.insert(step.key, step.value);
        }
        state.settle();
        assert!(state.keeping().steps.is_empty());
        if n % 4 == 2 {
            state = State::trial(&rules);
            stored.iter().for_each(|(key, value)| state.load(key, value.as_deref()));
        }
    }
    assert_eq!(out, whole);
}

const SPEND: &str =
    "running = [{ name = \"spend\", key = \"after.customer\", value = \"after.amount\", max_keys = 2 }]";

/// Changes of `(partition, offset, op, customer, amount)` as a table.
fn orders(rows: &[(i32, i64, &str, &str, Option<i64>)]) -> RecordBatch {
    let fields =
        Fields::from(vec![Field::new("customer", DataType::Utf8, true), Field::new("amount", DataType::Int64, true)]);
    let customers: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.3)));
    let amounts: ArrayRef = Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.4)));
    let after = StructArray::try_new(fields, vec![customers, amounts], None).unwrap();
    let columns: [(&str, ArrayRef); 4] = [
        ("op", Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.2)))),
        ("after", Arc::new(after)),
        (origin::PARTITION, Arc::new(Int32Array::from_iter_values(rows.iter().map(|r| r.0)))),
        (origin::OFFSET, Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1)))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

#[test]
fn a_row_sees_what_came_before_it_in_its_partition() {
    let rules = rules(SPEND);
    let (mut one, mut two) = (State::trial(&rules), State::trial(&rules));
    let table = orders(&[
        (0, 0, "c", "ann", Some(10)),
        (0, 1, "c", "ann", Some(20)),
        (1, 0, "c", "ann", Some(99)),
        (0, 2, "u", "ann", Some(1_000)),
        (0, 3, "r", "ann", None),
        (0, 4, "c", "ann", Some(30)),
        (0, 5, "c", "bob", Some(1)),
        (0, 6, "c", "cy", Some(1)),
        (0, 7, "c", "ann", Some(1)),
    ]);
    let mut states = BTreeMap::from([(0, &mut one), (1, &mut two)]);
    let with = with_statistics(&rules, "orders", &table, &mut states).unwrap();
    assert_eq!(with.schema(), rules.columns("orders", &table.schema()).unwrap(), "as the SELECT was planned");
    let spend = with.column_by_name("spend").unwrap().as_struct();
    let counts = spend.column(0).as_primitive::<arrow_array::types::Int64Type>().values().to_vec();
    // An update doesn't count, nor does no amount; of two keys at most, ann is the one that was written longest ago.
    assert_eq!(counts, [0, 1, 0, 2, 2, 2, 0, 0, 0]);
    let mean = spend.column(1).as_primitive::<arrow_array::types::Float64Type>();
    assert!(mean.is_null(0) && mean.value(3) == 15.0);
    let stddev = spend.column(2).as_primitive::<arrow_array::types::Float64Type>();
    assert!(stddev.is_null(1) && (stddev.value(3) - 50_f64.sqrt()).abs() < 1e-12);
    assert_eq!((one.take_forgotten(), one.take_forgotten(), one.len()), (2, 0, 2));
    let other = with_statistics(&rules, "elsewhere", &table, &mut BTreeMap::new()).unwrap();
    assert_eq!(other, table, "another source has none");
}

#[test]
fn what_can_not_be_counted_is_said_when_the_select_is_planned() {
    let table = orders(&[]);
    let unfit = |text: &str| rules(text).columns("orders", &table.schema()).unwrap_err();
    assert!(unfit(&SPEND.replace("customer", "client")).contains("orders has no column after.client"));
    assert!(unfit(&SPEND.replace("after.amount", "after.customer")).contains("is no number"));
    let (rows, _) = alerts(&[]);
    assert!(rules(COOL).check(&rows.schema(), false).unwrap_err().contains("GROUP BY"));
    assert!(rules(&COOL.replace("product", "price")).check(&rows.schema(), true).unwrap_err().contains("`price`"));
    assert_eq!(rules(COOL).check(&rows.schema(), true), Ok(()));
}
