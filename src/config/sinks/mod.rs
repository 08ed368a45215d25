//! `[[pipelines.clickhouse]]`, `[[pipelines.redis]]`, `[[pipelines.lake]]`, `[[pipelines.http]]`, `[[pipelines.log]]`: where a pipeline's rows go. A
//! struct a kind, each in its own file.

pub mod clickhouse;
pub mod http;
pub mod lake;
pub mod log;
pub mod redis;
pub mod topic;

pub use clickhouse::{ClickHouseConfig, ClickHouseEngine};
pub use http::HttpConfig;
pub use lake::LakeSinkConfig;
pub use log::{LogLevel, LogSinkConfig};
pub use redis::RedisConfig;
pub use topic::TopicConfig;
