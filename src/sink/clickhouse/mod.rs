//! One table in ClickHouse, by stored intents.
