//! Where the servers are: the variables that `deploy/native/stack env` prints.

use anyhow::Context;

pub struct Servers {
    pub kafka: String,
    pub hms: String,
    pub s3: String,
    pub bucket: String,
    pub trino: String,
    /// The catalog in Trino that shows the metastore's Iceberg tables.
    pub trino_catalog: String,
}

impl Servers {
    pub fn from_env() -> Self {
        Self {
            kafka: env("FIRN_KAFKA_BOOTSTRAP", "127.0.0.1:9092"),
            hms: env("FIRN_HMS_URI", "thrift://127.0.0.1:9083"),
            s3: env("FIRN_S3_ENDPOINT", "http://127.0.0.1:9000"),
            bucket: env("FIRN_WAREHOUSE_BUCKET", "warehouse"),
            trino: env("FIRN_TRINO_URL", "http://127.0.0.1:8080"),
            trino_catalog: env("FIRN_TRINO_CATALOG", "lake"),
        }
    }
}

pub fn env(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

pub fn number(name: &str, default: u64) -> anyhow::Result<u64> {
    env(name, &default.to_string()).parse().with_context(|| format!("{name} is not a number"))
}
