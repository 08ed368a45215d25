//! From a writer's schema and a table to a plan: for each field, in the order of the bytes, which column takes it and how.

use super::super::connect::DOCUMENT;
use super::super::object::Member;
use super::super::reader::{BytesForm, DecimalForm, Reader};
use super::super::time::{Unit, Zone};
use super::schema::{Kind, NodeId, Optional, Schema};

/// How a record of the writer becomes a row, or a struct in one.
#[derive(Clone, Debug)]
pub(in super::super) struct ImagePlan {
    /// One for each field of the writer.
    pub(super) places: Vec<Place>,
    /// Whether its columns are those of the row.
    pub(super) is_row: bool,
}

/// Where a field's value goes.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Nowhere(NodeId),
    Column { name: String, column: usize, key: bool, node: NodeId, step: Step },
}

/// How a value is read.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub optional: Option<Optional>,
    pub read: Read,
}

/// One value's way into one column: [`Reader`] and the value's own form put together.
#[derive(Clone, Debug)]
pub(super) enum Read {
    Boolean,
    /// An integer, 0 or 1, as a boolean.
    IntegerBoolean,
    /// Into an int or a long column.
    Integer,
    IntegerDouble,
    Float,
    FloatDouble,
    Double,
    Days,
    Time(Unit),
    Timestamp(Unit),
    Text(Text),
    DateText(Text),
    TimeText(Text),
    TimestampText(Text, Zone),
    Uuid(Text),
    Binary(Blob),
    /// Bytes that the source's connector wrote as a text.
    BinaryText(Text, BytesForm),
    Decimal {
        from: Decimal,
        precision: u8,
        scale: u8,
    },
    /// Written out, with this many digits after the point.
    DecimalText(Blob, i32),
    VariableText(Variable),
    List(Box<Step>),
    Struct(ImagePlan),
    Map(Box<Step>),
    /// A map as an array of entries.
    Pairs {
        /// Where keys may be null; none may be here.
        optional: Option<Optional>,
        key: Text,
        value: Box<Step>,
    },
    /// The text of its JSON.
    Json(NodeId),
}

#[derive(Clone, Debug)]
pub(super) enum Text {
    Written,
    Symbols(Vec<String>),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Blob {
    Counted,
    Fixed(usize),
}

#[derive(Clone, Debug)]
pub(super) enum Decimal {
    Unscaled(Blob, i32),
    Variable(Variable),
    Integer,
    Double,
    Text(Text),
}

/// The fields of a `VariableScaleDecimal`.
#[derive(Clone, Debug)]
pub(super) struct Variable(pub Vec<VariablePart>);

#[derive(Clone, Debug)]
pub(super) enum VariablePart {
    Scale,
    Value(Blob),
    Nothing(NodeId),
}

impl ImagePlan {
    /// For the writer's record `id`, whose fields `members` take; or for a document's text, which the member of that name takes.
    ///
    /// # Errors
    /// The sentence that says which field cannot be read.
    pub(super) fn of_row(schema: &Schema, id: NodeId, members: &[Member]) -> Result<Self, String> {
        let document = members.iter().find(|m| m.name == DOCUMENT).filter(|_| text(schema.kind(id)).is_some());
        let places = match document {
            Some(member) => vec![place(schema, id, member)?],
            None => Self::new(schema, id, members)?.places,
        };
        Ok(Self { places, is_row: true })
    }

    /// For a writer whose data are one value `node`, without a name.
    ///
    /// # Errors
    /// The sentence that says why it cannot be read.
    pub(super) fn of_value(schema: &Schema, node: NodeId, member: &Member) -> Result<Self, String> {
        Ok(Self { places: vec![place(schema, node, member)?], is_row: true })
    }

    fn new(schema: &Schema, id: NodeId, members: &[Member]) -> Result<Self, String> {
        let fields = schema.fields(id).ok_or("the image is no record")?;
        let places = fields.iter().map(|field| match members.iter().find(|m| m.name == field.name) {
            Some(member) => place(schema, field.node, member),
            None => Ok(Place::Nowhere(field.node)),
        });
        Ok(Self { places: places.collect::<Result<_, String>>()?, is_row: false })
    }
}

/// How the value `node` goes to a member's column.
fn place(schema: &Schema, node: NodeId, member: &Member) -> Result<Place, String> {
    let step = step(schema, node, &member.reader).map_err(|why| format!("column {}: {why}", member.name))?;
    let (name, column, key) = (member.name.clone(), member.column, member.key);
    Ok(Place::Column { name, column, key, node, step })
}

fn step(schema: &Schema, id: NodeId, reader: &Reader) -> Result<Step, String> {
    let (optional, id) = schema.optional(id);
    let kind = schema.kind(id);
    let read = read(schema, id, kind, reader)?.ok_or_else(|| format!("{} values cannot be read so", name(kind)))?;
    Ok(Step { optional, read })
}

/// `None` where the reader is not for values of this kind.
fn read(schema: &Schema, id: NodeId, kind: &Kind, reader: &Reader) -> Result<Option<Read>, String> {
    let integer = matches!(kind, Kind::Int | Kind::Long);
    Ok(match reader {
        Reader::AnyText => Some(Read::Json(id)),
        Reader::Boolean => matches!(kind, Kind::Boolean).then_some(Read::Boolean),
        Reader::AnyBoolean if integer => Some(Read::IntegerBoolean),
        Reader::AnyBoolean => matches!(kind, Kind::Boolean).then_some(Read::Boolean),
        Reader::Int | Reader::Long => integer.then_some(Read::Integer),
        Reader::Float => matches!(kind, Kind::Float).then_some(Read::Float),
        Reader::FloatAsDouble => matches!(kind, Kind::Float).then_some(Read::FloatDouble),
        Reader::Double if integer => Some(Read::IntegerDouble),
        Reader::Double => matches!(kind, Kind::Double).then_some(Read::Double),
        Reader::Days => integer.then_some(Read::Days),
        Reader::Time(unit) => integer.then_some(Read::Time(*unit)),
        Reader::Timestamp(unit) => integer.then_some(Read::Timestamp(*unit)),
        Reader::Text => text(kind).map(Read::Text),
        Reader::DateText => text(kind).map(Read::DateText),
        Reader::TimeText => text(kind).map(Read::TimeText),
        Reader::TimestampText(zone) => text(kind).map(|text| Read::TimestampText(text, *zone)),
        Reader::Uuid => text(kind).map(Read::Uuid),
        Reader::Binary(form) => match blob(kind) {
            Some(blob) => Some(Read::Binary(blob)),
            None => text(kind).map(|text| Read::BinaryText(text, *form)),
        },
        Reader::Decimal { from, precision, scale } => {
            decimal(schema, id, kind, *from).map(|from| Read::Decimal { from, precision: *precision, scale: *scale })
        }
        Reader::DecimalText(scale) => blob(kind).map(|blob| Read::DecimalText(blob, *scale)),
        Reader::VariableDecimalText => variable(schema, id).map(Read::VariableText),
        Reader::List(reader) => match kind {
            Kind::Array(items) => Some(Read::List(Box::new(step(schema, *items, reader)?))),
            _ => None,
        },
        Reader::Map(reader) => match kind {
            Kind::Map(values) => Some(Read::Map(Box::new(step(schema, *values, reader)?))),
            Kind::Pairs(entry) => match schema.fields(*entry) {
                Some([key, value]) => {
                    let (optional, key) = schema.optional(key.node);
                    let Some(key) = text(schema.kind(key)) else { return Ok(None) };
                    Some(Read::Pairs { optional, key, value: Box::new(step(schema, value.node, reader)?) })
                }
                _ => None,
            },
            _ => None,
        },
        Reader::Struct(object) => {
            let Some(fields) = schema.fields(id) else { return Ok(None) };
            let member = |name: &String| {
                let (column, reader) = object.member(name)?;
                Some(Member { name: name.clone(), column, key: false, reader: reader.clone() })
            };
            let members: Vec<Member> = fields.iter().filter_map(|f| member(&f.name)).collect();
            Some(Read::Struct(ImagePlan::new(schema, id, &members)?))
        }
        // These decide by the value, for records without a schema.
        Reader::AnyDate | Reader::AnyTime(_) | Reader::AnyTimestamp(..) | Reader::AnyDecimalText(_) => None,
    })
}

fn text(kind: &Kind) -> Option<Text> {
    match kind {
        Kind::Text => Some(Text::Written),
        Kind::Enum(symbols) => Some(Text::Symbols(symbols.clone())),
        _ => None,
    }
}

fn blob(kind: &Kind) -> Option<Blob> {
    match kind {
        Kind::Bytes => Some(Blob::Counted),
        Kind::Fixed(len) => Some(Blob::Fixed(*len)),
        _ => None,
    }
}

fn decimal(schema: &Schema, id: NodeId, kind: &Kind, from: DecimalForm) -> Option<Decimal> {
    match (from, kind) {
        (DecimalForm::Unscaled(have), kind) => blob(kind).map(|blob| Decimal::Unscaled(blob, have)),
        (DecimalForm::Variable, _) => variable(schema, id).map(Decimal::Variable),
        (DecimalForm::Written, Kind::Int | Kind::Long) => Some(Decimal::Integer),
        (DecimalForm::Written, Kind::Double) => Some(Decimal::Double),
        (DecimalForm::Written, kind) => text(kind).map(Decimal::Text),
        (DecimalForm::Any(_), _) => None,
    }
}

fn variable(schema: &Schema, id: NodeId) -> Option<Variable> {
    let part = |field: &super::schema::Field| {
        let kind = schema.kind(field.node);
        match (field.name.as_str(), kind, blob(kind)) {
            ("scale", Kind::Int | Kind::Long, _) => VariablePart::Scale,
            ("value", _, Some(blob)) => VariablePart::Value(blob),
            _ => VariablePart::Nothing(field.node),
        }
    };
    Some(Variable(schema.fields(id)?.iter().map(part).collect()))
}

fn name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Null => "null",
        Kind::Boolean => "boolean",
        Kind::Int => "int",
        Kind::Long => "long",
        Kind::Float => "float",
        Kind::Double => "double",
        Kind::Bytes => "bytes",
        Kind::Text => "string",
        Kind::Fixed(_) => "fixed",
        Kind::Enum(_) => "enum",
        Kind::Array(_) => "array",
        Kind::Pairs(_) | Kind::Map(_) => "map",
        Kind::Union(_) => "union",
        Kind::Record(_) => "record",
    }
}
