//! The tables of the made-up databases, as data: columns with their Debezium types, topics, replica identity.

use crate::change::ColumnType;

/// A database to play.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum SchemaName {
    /// A shop: customers, addresses, products, orders, order_items.
    Inventory,
    /// A media site: content, engagement_events.
    Engagement,
    /// One table of seven columns, to measure with.
    Bench,
}

impl SchemaName {
    /// In the order in which a snapshot reads them.
    pub fn tables(self) -> &'static [Table] {
        match self {
            SchemaName::Inventory => {
                &[Table::Addresses, Table::Customers, Table::OrderItems, Table::Orders, Table::Products]
            }
            SchemaName::Engagement => &[Table::Content, Table::EngagementEvents],
            SchemaName::Bench => &[Table::Events],
        }
    }

    /// The connector's `topic.prefix`.
    pub fn prefix(self) -> &'static str {
        match self {
            SchemaName::Inventory => "inventory-server",
            SchemaName::Engagement => "postgres",
            SchemaName::Bench => "bench",
        }
    }

    pub fn database(self) -> &'static str {
        match self {
            SchemaName::Inventory => "shop",
            SchemaName::Engagement => "engagement",
            SchemaName::Bench => "bench",
        }
    }

    /// The schema inside the database.
    pub fn schema(self) -> &'static str {
        match self {
            SchemaName::Inventory => "inventory",
            SchemaName::Engagement | SchemaName::Bench => "public",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    Addresses,
    Customers,
    OrderItems,
    Orders,
    Products,
    Content,
    EngagementEvents,
    /// The table of [`SchemaName::Bench`].
    Events,
}

/// What the source sends when it doesn't log old values: `before` of a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The key, and fillers for the rest.
    Default,
    /// The whole old row, with updates too.
    Full,
}

/// The source's type, by its Debezium name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Int32,
    Int64,
    Double,
    Text,
    Json,
    Uuid,
    /// numeric(precision, 2)
    Decimal(u8),
    Date,
    /// timestamp(3), in ms
    Timestamp,
    MicroTimestamp,
    ZonedTimestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    None,
    /// A serial column: Debezium tells its default as 0.
    Zero,
    /// µs since the epoch
    Zoned(i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnSpec {
    pub name: &'static str,
    pub kind: Kind,
    pub optional: bool,
    pub key: bool,
    pub default: Default,
}

/// 2024-05-01T10:00:00Z in µs: the default of customers.created_at.
pub const CREATED_AT_DEFAULT: i64 = 1_714_557_600_000_000;

const fn key(name: &'static str, kind: Kind) -> ColumnSpec {
    ColumnSpec { name, kind, optional: false, key: true, default: Default::None }
}

const fn serial(name: &'static str, kind: Kind) -> ColumnSpec {
    ColumnSpec { name, kind, optional: false, key: true, default: Default::Zero }
}

const fn required(name: &'static str, kind: Kind) -> ColumnSpec {
    ColumnSpec { name, kind, optional: false, key: false, default: Default::None }
}

const fn optional(name: &'static str, kind: Kind) -> ColumnSpec {
    ColumnSpec { name, kind, optional: true, key: false, default: Default::None }
}

const ADDRESSES: &[ColumnSpec] = &[
    serial("id", Kind::Int32),
    required("customer_id", Kind::Int32),
    required("street", Kind::Text),
    required("city", Kind::Text),
    optional("state", Kind::Text),
    optional("zip", Kind::Text),
    required("type", Kind::Text),
];
const CUSTOMERS: &[ColumnSpec] = &[
    serial("id", Kind::Int32),
    required("first_name", Kind::Text),
    required("last_name", Kind::Text),
    required("email", Kind::Text),
    ColumnSpec {
        name: "created_at",
        kind: Kind::ZonedTimestamp,
        optional: false,
        key: false,
        default: Default::Zoned(CREATED_AT_DEFAULT),
    },
];
const ORDER_ITEMS: &[ColumnSpec] = &[
    key("order_id", Kind::Int64),
    key("line_no", Kind::Int32),
    required("product_id", Kind::Int32),
    required("quantity", Kind::Int32),
    required("unit_price", Kind::Decimal(10)),
];
const ORDERS: &[ColumnSpec] = &[
    serial("id", Kind::Int64),
    required("order_number", Kind::Uuid),
    required("customer_id", Kind::Int32),
    required("status", Kind::Text),
    required("order_date", Kind::Date),
    required("total", Kind::Decimal(12)),
    required("placed_at", Kind::Timestamp),
    optional("updated_at", Kind::ZonedTimestamp),
];
const PRODUCTS: &[ColumnSpec] = &[
    serial("id", Kind::Int32),
    required("sku", Kind::Text),
    required("name", Kind::Text),
    optional("description", Kind::Text),
    optional("weight", Kind::Double),
    required("price", Kind::Decimal(10)),
    optional("attributes", Kind::Json),
];
const CONTENT: &[ColumnSpec] = &[
    key("id", Kind::Uuid),
    required("slug", Kind::Text),
    required("title", Kind::Text),
    optional("content_type", Kind::Text),
    optional("length_seconds", Kind::Int32),
    required("publish_ts", Kind::ZonedTimestamp),
];
const ENGAGEMENT_EVENTS: &[ColumnSpec] = &[
    serial("id", Kind::Int64),
    optional("content_id", Kind::Uuid),
    optional("user_id", Kind::Uuid),
    optional("event_type", Kind::Text),
    required("event_ts", Kind::ZonedTimestamp),
    optional("duration_ms", Kind::Int32),
    optional("device", Kind::Text),
    optional("raw_payload", Kind::Json),
];
const EVENTS: &[ColumnSpec] = &[
    serial("id", Kind::Int64),
    required("account", Kind::Int32),
    required("kind", Kind::Text),
    required("amount", Kind::Decimal(12)),
    required("made_at", Kind::MicroTimestamp),
    optional("updated_at", Kind::ZonedTimestamp),
    optional("note", Kind::Text),
];

impl Table {
    pub fn name(self) -> &'static str {
        match self {
            Table::Addresses => "addresses",
            Table::Customers => "customers",
            Table::OrderItems => "order_items",
            Table::Orders => "orders",
            Table::Products => "products",
            Table::Content => "content",
            Table::EngagementEvents => "engagement_events",
            Table::Events => "events",
        }
    }

    pub fn columns(self) -> &'static [ColumnSpec] {
        match self {
            Table::Addresses => ADDRESSES,
            Table::Customers => CUSTOMERS,
            Table::OrderItems => ORDER_ITEMS,
            Table::Orders => ORDERS,
            Table::Products => PRODUCTS,
            Table::Content => CONTENT,
            Table::EngagementEvents => ENGAGEMENT_EVENTS,
            Table::Events => EVENTS,
        }
    }

    pub fn schema(self) -> SchemaName {
        match self {
            Table::Addresses | Table::Customers | Table::OrderItems | Table::Orders | Table::Products => {
                SchemaName::Inventory
            }
            Table::Content | Table::EngagementEvents => SchemaName::Engagement,
            Table::Events => SchemaName::Bench,
        }
    }

    pub fn topic(self) -> String {
        format!("{}.{}.{}", self.schema().prefix(), self.schema().schema(), self.name())
    }

    pub fn replica_identity(self) -> ReplicaIdentity {
        if self == Table::Orders { ReplicaIdentity::Full } else { ReplicaIdentity::Default }
    }
}

impl Kind {
    /// What the column must become in the lake.
    pub fn column_type(self) -> ColumnType {
        match self {
            Kind::Int32 => ColumnType::Int,
            Kind::Int64 => ColumnType::Long,
            Kind::Double => ColumnType::Double,
            Kind::Text | Kind::Json => ColumnType::String,
            Kind::Uuid => ColumnType::Uuid,
            Kind::Decimal(precision) => ColumnType::Decimal { precision, scale: 2 },
            Kind::Date => ColumnType::Date,
            Kind::Timestamp | Kind::MicroTimestamp => ColumnType::Timestamp,
            Kind::ZonedTimestamp => ColumnType::TimestampTz,
        }
    }

    /// Connect's type, and the semantic type with its parameters where there is one.
    pub fn connect(self) -> (&'static str, Option<&'static str>) {
        match self {
            Kind::Int32 => ("int32", None),
            Kind::Int64 => ("int64", None),
            Kind::Double => ("double", None),
            Kind::Text => ("string", None),
            Kind::Json => ("string", Some("io.debezium.data.Json")),
            Kind::Uuid => ("string", Some("io.debezium.data.Uuid")),
            Kind::Decimal(_) => ("bytes", Some("org.apache.kafka.connect.data.Decimal")),
            Kind::Date => ("int32", Some("io.debezium.time.Date")),
            Kind::Timestamp => ("int64", Some("io.debezium.time.Timestamp")),
            Kind::MicroTimestamp => ("int64", Some("io.debezium.time.MicroTimestamp")),
            Kind::ZonedTimestamp => ("string", Some("io.debezium.time.ZonedTimestamp")),
        }
    }

    /// PostgreSQL's name of the type, as Debezium tells it.
    pub fn postgres(self) -> &'static str {
        match self {
            Kind::Int32 => "INT4",
            Kind::Int64 => "INT8",
            Kind::Double => "FLOAT8",
            Kind::Text => "TEXT",
            Kind::Json => "JSONB",
            Kind::Uuid => "UUID",
            Kind::Decimal(_) => "NUMERIC",
            Kind::Date => "DATE",
            Kind::Timestamp | Kind::MicroTimestamp => "TIMESTAMP",
            Kind::ZonedTimestamp => "TIMESTAMPTZ",
        }
    }
}
