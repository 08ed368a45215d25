//! What becomes of a table's columns: every pair of types under every policy. Pure, no catalog.

use iceberg::spec::{PrimitiveType, Type};
use rstest::rstest;

use super::*;
use crate::change::origin_columns;
use crate::sink::lake::schema::{from_iceberg, to_iceberg};

/// One of each kind of type, and the neighbours that a promotion leads to or not.
fn types() -> Vec<ColumnType> {
    use ColumnType as T;
    let of = |name: &str, t: T| T::Struct(vec![Column::new(name, t)]);
    let types = vec![
        T::Boolean,
        T::Int,
        T::Long,
        T::Float,
        T::Double,
        T::Decimal { precision: 9, scale: 2 },
        T::Decimal { precision: 12, scale: 2 },
        T::Decimal { precision: 12, scale: 3 },
        T::Date,
        T::Time,
        T::Timestamp,
        T::TimestampTz,
        T::String,
        T::Uuid,
        T::Binary,
        T::List(Box::new(T::Int)),
        T::List(Box::new(T::Long)),
        T::List(Box::new(T::String)),
        T::Map(Box::new(T::Float)),
        T::Map(Box::new(T::Double)),
        of("a", T::Int),
        of("a", T::Long),
        of("a", T::Date),
        T::List(Box::new(of("a", T::Int))),
        T::List(Box::new(of("A", T::Long))),
    ];
    // A kind added to `ColumnType` has to be added here: this match does not compile without it.
    let kind = |t: &T| match t {
        T::Boolean => 0,
        T::Int => 1,
        T::Long => 2,
        T::Float => 3,
        T::Double => 4,
        T::Decimal { .. } => 5,
        T::Date => 6,
        T::Time => 7,
        T::Timestamp => 8,
        T::TimestampTz => 9,
        T::String => 10,
        T::Uuid => 11,
        T::Binary => 12,
        T::List(_) => 13,
        T::Struct(_) => 14,
        T::Map(_) => 15,
    };
    let kinds: BTreeSet<i32> = types.iter().map(kind).collect();
    assert_eq!(kinds, (0..16).collect(), "one of each kind");
    types
}

/// Iceberg's promotions between those types (specification, "Schema Evolution"), and what holds what as it is. All else is a change
/// of type.
const WIDENS: [(&str, &str); 7] = [
    ("int", "long"),
    ("float", "double"),
    ("decimal(9,2)", "decimal(12,2)"),
    ("list<int>", "list<long>"),
    ("map<string, float>", "map<string, double>"),
    ("struct<a: int>", "struct<a: long>"),
    ("list<struct<a: int>>", "list<struct<A: long>>"),
];
const HOLDS: [(&str, &str); 7] = [
    ("long", "int"),
    ("double", "float"),
    ("decimal(12,2)", "decimal(9,2)"),
    ("list<long>", "list<int>"),
    ("map<string, double>", "map<string, float>"),
    ("struct<a: long>", "struct<a: int>"),
    ("list<struct<A: long>>", "list<struct<a: int>>"),
];

fn columns(columns: Vec<Column>) -> RowSchema {
    RowSchema { columns }
}

fn rules(type_change: TypeChange) -> Rules {
    Rules { mode: Mode::Append, type_change, dropped_column: DroppedColumn::Keep }
}

const DROP: Rules =
    Rules { mode: Mode::Upsert, type_change: TypeChange::NewColumn, dropped_column: DroppedColumn::Drop };

/// A table as one goes on to another.
#[derive(Clone, Debug)]
struct Standing {
    schema: Schema,
    remembered: Remembered,
    last_column_id: i32,
}

impl Standing {
    fn new(record: &RowSchema, lsn: Option<i64>, mode: Mode) -> Self {
        let schema = to_iceberg(record, mode).unwrap();
        let (remembered, last_column_id) = (first_columns(&schema, lsn), schema.highest_field_id());
        Self { schema, remembered, last_column_id }
    }

    fn base(&self) -> Base<'_> {
        Base {
            table: "s.t",
            schema: &self.schema,
            last_column_id: self.last_column_id,
            remembered: self.remembered.clone(),
            fixed: self.schema.identifier_field_ids().collect(),
        }
    }

    fn try_take(&mut self, record: &RowSchema, lsn: Option<i64>, rules: Rules) -> Result<Vec<String>, LakeError> {
        let Some(evolved) = evolve(&self.base(), record, lsn, rules)? else { return Ok(vec![]) };
        self.last_column_id = self.last_column_id.max(evolved.schema.highest_field_id());
        (self.schema, self.remembered) = (evolved.schema, evolved.remembered);
        Ok(evolved.changes.iter().map(ToString::to_string).collect())
    }

    fn take(&mut self, record: &RowSchema, lsn: i64, rules: Rules) -> Vec<String> {
        self.try_take(record, Some(lsn), rules).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let names = self.schema.as_struct().fields().iter().map(|f| f.name.clone());
        names.filter(|name| !name.starts_with(origin::PREFIX)).collect()
    }

    fn id(&self, name: &str) -> i32 {
        self.schema.field_by_name(name).unwrap().id
    }
}

/// id, and others of type string, with the origin columns.
fn named(names: &[&str]) -> RowSchema {
    typed(names.iter().map(|name| Column::new(*name, ColumnType::String)).collect())
}

fn typed(others: Vec<Column>) -> RowSchema {
    columns([Column::key("id", ColumnType::Long)].into_iter().chain(others).chain(origin_columns()).collect())
}

#[test]
fn every_pair_of_types_under_every_policy() {
    for have in types() {
        for want in types() {
            for policy in [TypeChange::Stop, TypeChange::NewColumn, TypeChange::DeadLetters] {
                let mut table = Standing::new(&columns(vec![Column::new("c", have.clone())]), None, Mode::Append);
                let (h, w) = (have.to_string(), want.to_string());
                let got = table.try_take(&columns(vec![Column::new("c", want.clone())]), None, rules(policy));
                let pair = (h.as_str(), w.as_str());
                let kin = have == want || HOLDS.contains(&pair) || WIDENS.contains(&pair);
                assert_eq!(have.is_kin(&want), kin, "{h} and {w}");
                if have == want || HOLDS.contains(&pair) {
                    assert_eq!(got.unwrap(), [""; 0], "{h} holds {w}");
                } else if WIDENS.contains(&pair) {
                    // A nested name stays as the table has it.
                    assert_eq!(got.unwrap(), [format!("widened c from {h} to {}", w.replace('A', "a"))]);
                    assert_eq!(table.id("c"), 1, "the id stays");
                } else if policy == TypeChange::NewColumn {
                    assert_eq!(got.unwrap(), [format!("added c__v2 {w} for c, which was {h}")]);
                    assert_eq!(from_type(&table.schema.field_by_name("c").unwrap().field_type), Some(have.clone()));
                    assert_eq!(from_type(&table.schema.field_by_name("c__v2").unwrap().field_type), Some(want.clone()));
                    // Both kinds of records fit from now on, in whatever order they come.
                    for t in [&have, &want, &have] {
                        let record = columns(vec![Column::new("c", t.clone())]);
                        assert_eq!(table.try_take(&record, None, rules(policy)).unwrap(), [""; 0], "{h} {w}: {t}");
                    }
                } else {
                    let e = got.unwrap_err();
                    assert!(matches!(e, LakeError::Incompatible { .. }), "{e}");
                    assert!(e.to_string().contains("column c") && e.to_string().contains(&w), "{e}");
                }
            }
        }
    }
}

#[test]
fn what_fits_needs_no_commit() {
    let record = named(&["a", "b"]);
    let table = Standing::new(&record, None, Mode::Upsert);
    assert_eq!(evolve(&table.base(), &record, Some(1), DROP).unwrap(), None);
}

#[test]
fn a_struct_grows_and_a_list_in_it_widens() {
    let pos = |fields: Vec<Column>| columns(vec![Column::new("pos", ColumnType::Struct(fields))]);
    let list = |t: ColumnType| Column::new("l", ColumnType::List(Box::new(t)));
    let mut table = Standing::new(&pos(vec![list(ColumnType::Int)]), None, Mode::Append);
    let wider = pos(vec![list(ColumnType::Long), Column::new("z", ColumnType::String)]);
    let changes = table.try_take(&wider, None, rules(TypeChange::Stop)).unwrap();
    assert_eq!(changes, ["widened pos from struct<l: list<int>> to struct<l: list<long>, z: string>"]);
    assert_eq!(from_iceberg(&table.schema), wider);
    let Type::Struct(s) = table.schema.field_by_name("pos").unwrap().field_type.as_ref() else { panic!() };
    assert_eq!(s.fields()[1].id, 4, "an id of its own, behind the list's element");
}

#[test]
fn a_new_column_gets_an_id_never_used_before() {
    let mut table = Standing::new(&named(&[]), None, Mode::Upsert);
    table.last_column_id = 17;
    let record = columns(vec![Column::key("ID", ColumnType::Long), Column::new("b", ColumnType::String)]);
    table.take(&record, 1, DROP);
    assert_eq!(table.id("b"), 18);
    assert!(table.schema.field_by_name("id").unwrap().required, "the key keeps its name and stays required");
}

#[test]
fn a_required_column_that_records_lack_may_be_null_from_then_on() {
    let schema = Schema::builder()
        .with_fields([Arc::new(NestedField::required(1, "old", Type::Primitive(PrimitiveType::Int)))])
        .build()
        .unwrap();
    let mut table = Standing { schema, remembered: Remembered::default(), last_column_id: 1 };
    assert_eq!(table.take(&RowSchema::default(), 1, DROP), ["relaxed old: may be null"]);
    assert!(!table.schema.field_by_name("old").unwrap().required);
}

#[rstest]
#[case::top(columns(vec![Column::new("Name", ColumnType::Int), Column::new("name", ColumnType::Int)]))]
#[case::nested(columns(vec![Column::new(
    "s",
    ColumnType::List(Box::new(ColumnType::Struct(vec![
        Column::new("Name", ColumnType::Int),
        Column::new("name", ColumnType::Int),
    ]))),
)]))]
fn columns_that_differ_in_case_only_are_refused_by_both_names(#[case] record: RowSchema) {
    let table = Standing::new(&named(&[]), None, Mode::Append);
    let e = evolve(&table.base(), &record, None, rules(TypeChange::NewColumn)).unwrap_err().to_string();
    assert!(e.contains("columns Name and name"), "{e}");
}

#[test]
fn a_third_type_and_a_source_column_of_that_very_name_get_columns_of_their_own() {
    let of = |t: ColumnType| columns(vec![Column::new("c", t)]);
    let rules = rules(TypeChange::NewColumn);
    let mut table = Standing::new(&of(ColumnType::Int), None, Mode::Append);
    table.take(&of(ColumnType::String), 1, rules);
    assert_eq!(table.take(&of(ColumnType::Date), 2, rules), ["added c__v3 date for c, which was int"]);
    assert_eq!(table.take(&of(ColumnType::Long), 3, rules), ["widened c from int to long"], "back in the first");
    let literal = columns(vec![Column::new("c", ColumnType::Date), Column::new("c__v2", ColumnType::String)]);
    assert_eq!(table.take(&literal, 4, rules), ["added c__v2__v2 string"]);
    assert_eq!(table.names(), ["c", "c__v2", "c__v3", "c__v2__v2"]);
    assert_eq!(table.take(&literal, 5, rules), [""; 0], "and each is found again");
    let lineage = table.remembered.lineage(&table.schema, &BTreeSet::new(), DroppedColumn::Keep);
    assert_eq!(lineage.source_of("c__v3"), "c");
    assert_eq!(lineage.source_of("c__v2__v2"), "c__v2");
}

#[test]
fn a_key_never_gets_a_second_version() {
    let mut table = Standing::new(&named(&["a"]), Some(1), Mode::Upsert);
    let other = columns(vec![Column::key("id", ColumnType::String), Column::new("a", ColumnType::String)]);
    assert!(matches!(table.try_take(&other, Some(2), DROP), Err(LakeError::Incompatible { .. })));
}

#[test]
fn a_dropped_column_stays_unless_it_was_to_go() {
    let mut table = Standing::new(&named(&["a", "b"]), Some(1), Mode::Upsert);
    let keep = Rules { dropped_column: DroppedColumn::Keep, ..DROP };
    assert_eq!(table.take(&named(&["a"]), 2, keep), [""; 0]);
    assert_eq!(table.take(&named(&["a"]), 2, DROP), ["dropped b"]);
    assert_eq!(table.names(), ["id", "a"]);
}

#[test]
fn only_a_newer_record_drops_and_only_what_the_source_had() {
    let mut table = Standing::new(&named(&["a"]), Some(10), Mode::Upsert);
    assert_eq!(table.take(&named(&["a", "b"]), 20, DROP), ["added b string"]);
    // Another partition is behind: it does not know b yet.
    assert_eq!(table.take(&named(&["a"]), 15, DROP), [""; 0]);
    assert_eq!(table.take(&named(&["a"]), 20, DROP), [""; 0]);
    // Nor does one that rows in the table are newer than: they may have b.
    table.remembered.lsn = Some(25);
    assert_eq!(table.take(&named(&["a"]), 25, DROP), [""; 0]);
    let unknown = evolve(&table.base(), &named(&["a"]), None, DROP).unwrap();
    assert_eq!(unknown, None, "without a place in the log nothing tells");
    // Somebody's own column, and a key that the records call by another name.
    let mut fields = table.schema.as_struct().fields().to_vec();
    fields.push(Arc::new(NestedField::optional(29, "note", Type::Primitive(PrimitiveType::String))));
    table.schema = Schema::builder().with_fields(fields).with_identifier_field_ids([1]).build().unwrap();
    table.last_column_id = 29;
    assert_eq!(table.take(&named(&["a"]), 26, DROP), ["dropped b"]);
    assert_eq!(table.names(), ["id", "a", "note"]);
    assert_eq!(table.take(&columns(origin_columns()), 27, DROP).last().unwrap(), "dropped a");
    assert!(table.names().contains(&"id".to_owned()), "what is fixed stays");
}

#[test]
fn a_column_that_was_dropped_and_comes_back_is_another_one() {
    let mut table = Standing::new(&named(&["a", "b"]), Some(10), Mode::Upsert);
    let old_id = table.id("b");
    table.take(&named(&["a"]), 20, DROP);
    // Older than the drop, from a slower partition: it does not bring the column back.
    assert_eq!(table.take(&named(&["a", "b"]), 15, DROP), [""; 0]);
    assert_eq!(table.take(&named(&["a", "b"]), 30, DROP), ["added b string"]);
    assert!(table.id("b") > old_id);
    // Nor does an older one with another type make a version of the new one.
    let dated = typed(vec![Column::new("b", ColumnType::Date)]);
    assert_eq!(table.take(&dated, 15, DROP), [""; 0]);
    let lineage = table.remembered.lineage(&table.schema, &BTreeSet::new(), DroppedColumn::Drop);
    assert_eq!((lineage.valid_from("b", true), lineage.valid_from("z", false)), (Some(20), Some(30)));
}

#[test]
fn all_versions_of_a_column_go_together() {
    let mut table = Standing::new(&named(&["a"]), Some(10), Mode::Upsert);
    let dated = typed(vec![Column::new("a", ColumnType::Date)]);
    table.take(&dated, 20, DROP);
    assert_eq!(table.names(), ["id", "a", "a__v2"]);
    assert_eq!(table.take(&named(&[]), 30, DROP), ["dropped a", "dropped a__v2"]);
    assert!(table.remembered.versions.is_empty());
    assert_eq!(table.take(&dated, 40, DROP), ["added a date"], "its versions are forgotten");
}

#[test]
fn what_is_remembered_reads_as_it_was_written() {
    let mut table = Standing::new(&named(&["a", "b"]), Some(10), Mode::Upsert);
    let dated = typed(vec![Column::new("a", ColumnType::Date)]);
    table.take(&dated, 20, DROP);
    let json = table.remembered.to_json();
    assert_eq!(json, r#"{"lsn":20,"source":[1,2,10],"versions":{"10":"a"},"dropped":{"b":20}}"#);
    assert_eq!(serde_json::from_str::<Remembered>(&json).unwrap(), table.remembered);
}
