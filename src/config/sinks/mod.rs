//! `[[pipelines.clickhouse]]`, `[[pipelines.redis]]`: where a pipeline's rows go. A struct a kind, each in its own file.

pub mod clickhouse;
pub mod redis;

pub use clickhouse::{ClickHouseConfig, ClickHouseEngine};
pub use redis::RedisConfig;
