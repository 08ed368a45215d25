//! From the configuration to a catalog: the one place that knows every kind.

use std::collections::HashMap;
use std::sync::Arc;

use firn_catalog::hms::{self, HmsCatalog, HmsConfig, ThriftTransport};
use firn_catalog::rest::{RestCatalog, RestConfig};
use firn_catalog::sql::{SqlCatalog, SqlConfig};
use firn_catalog::storage::Stores;
use firn_catalog::{Catalog, Error, ErrorKind, Result};

use crate::config::{CatalogConfig, CatalogKind, CommitMode};

/// Opens the configured catalog. Nothing is asked of it yet: [`Catalog::probe`] does that.
///
/// # Errors
/// When its settings can't be used.
pub async fn open(config: &CatalogConfig) -> Result<Arc<dyn Catalog>> {
    open_on(config, stores(config)).await
}

/// The same, whose tables are stored in `stores`.
///
/// # Errors
/// As there.
pub async fn open_on(config: &CatalogConfig, stores: Stores) -> Result<Arc<dyn Catalog>> {
    // A location that can't be used is told now.
    let file_io = |warehouse: &str| stores.object_store(warehouse).map(|_| stores.file_io());
    let properties: HashMap<String, String> =
        config.properties.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    match config.kind {
        CatalogKind::Sql => {
            let warehouse = warehouse(config)?;
            let file_io = file_io(&warehouse)?;
            let sql = SqlConfig { name: config.name.clone(), uri: config.uri.as_str().to_owned(), warehouse };
            Ok(Arc::new(SqlCatalog::new(sql, file_io)))
        }
        CatalogKind::Hive => {
            let settings = hive(config)?;
            let file_io = file_io(&settings.warehouse)?;
            Ok(Arc::new(HmsCatalog::new(settings, file_io)?))
        }
        CatalogKind::Rest => {
            // The warehouse may be a name that only the server understands: stores open as locations come.
            let file_io = stores.file_io();
            let mut rest = RestConfig::new(config.uri.as_str());
            rest.warehouse = config.warehouse.clone();
            rest.properties = properties;
            Ok(Arc::new(RestCatalog::new(rest, file_io)?))
        }
    }
}

/// What the catalog's tables are stored in, for what Iceberg's own trait lacks.
pub fn stores(config: &CatalogConfig) -> Stores {
    Stores::new(config.properties.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
}

fn warehouse(config: &CatalogConfig) -> Result<String> {
    let missing = || Error::new(ErrorKind::Refused, "catalog.warehouse is missing: say where tables are made");
    config.warehouse.clone().ok_or_else(missing)
}

/// `hive.*` among the properties are firn's own words for what no other client has a name for.
fn hive(config: &CatalogConfig) -> Result<HmsConfig> {
    let mut hive = HmsConfig::new(config.uri.as_str(), warehouse(config)?);
    hive.mode = match config.commit_mode {
        CommitMode::Auto => hms::CommitMode::Auto,
        CommitMode::LockAndCompare => hms::CommitMode::LockAndCompare,
        CommitMode::Compare => hms::CommitMode::Compare,
        CommitMode::Lock => hms::CommitMode::Lock,
    };
    let wrong = |key: &str, value: &str, want: &str| {
        Error::new(ErrorKind::Refused, format!("catalog.properties \"{key}\" = \"{value}\": {want} is needed"))
    };
    for (key, value) in config.properties.iter().filter(|(key, _)| key.starts_with("hive.")) {
        let ms = || value.parse::<u64>().map_err(|_| wrong(key, value, "a number of milliseconds"));
        match key {
            "hive.transport" => {
                hive.transport = match value {
                    "buffered" => ThriftTransport::Buffered,
                    "framed" => ThriftTransport::Framed,
                    _ => return Err(wrong(key, value, "buffered or framed")),
                }
            }
            "hive.connect-timeout-ms" => hive.connect_timeout_ms = ms()?,
            "hive.call-timeout-ms" => hive.call_timeout_ms = ms()?,
            "hive.lock-timeout-ms" => hive.lock_timeout_ms = ms()?,
            "hive.lock-heartbeat-ms" => hive.lock_heartbeat_ms = ms()?,
            "hive.client-name" => hive.client_name = value.to_owned(),
            "hive.probe-database" => hive.probe_database = Some(value.to_owned()),
            _ => {
                let known = "hive.transport, hive.connect-timeout-ms, hive.call-timeout-ms, hive.lock-timeout-ms, \
                             hive.lock-heartbeat-ms, hive.client-name or hive.probe-database";
                return Err(wrong(key, value, known));
            }
        }
    }
    Ok(hive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_kind_opens_without_asking_anything() {
        // The provider that main installs: clients are made here.
        let _ = rustls::crypto::ring::default_provider().install_default();
        for (kind, uri, warehouse, want) in [
            ("sql", "sqlite:///nowhere/catalog.db", "file:///nowhere/warehouse", "sql"),
            ("sql", "postgres://u:hunter2@127.0.0.1:1/d", "s3://bucket/warehouse", "127.0.0.1"),
            ("hive", "thrift://127.0.0.1:1", "s3://bucket/warehouse", "thrift://127.0.0.1:1"),
            ("rest", "http://127.0.0.1:1", "lake", "http://127.0.0.1:1"),
        ] {
            let text = format!("type = '{kind}'\nuri = '{uri}'\nwarehouse = '{warehouse}'");
            let catalog = open(&toml::from_str(&text).unwrap()).await.unwrap();
            let described = catalog.describe();
            assert!(described.contains(want) && !described.contains("hunter2"), "{described}");
        }
    }

    #[test]
    fn hive_settings_come_through_and_a_wrong_one_is_named() {
        let config = |more: &str| -> CatalogConfig {
            let text = format!("type = 'hive'\nuri = 'thrift://h:1'\nwarehouse = 's3://b/w'\n{more}");
            toml::from_str(&text).unwrap()
        };
        let hive_of = |more: &str| hive(&config(more)).map_err(|e| e.to_string());
        let got =
            hive_of("commit_mode = 'compare'\n[properties]\n'hive.transport' = 'framed'\n'hive.call-timeout-ms' = 5");
        let got = got.unwrap();
        assert_eq!(
            (got.mode, got.transport, got.call_timeout_ms),
            (hms::CommitMode::Compare, ThriftTransport::Framed, 5)
        );
        assert!(hive_of("[properties]\n'hive.transport' = 'x'").unwrap_err().contains("buffered or framed"));
        assert!(hive_of("[properties]\n'hive.tranport' = 'x'").unwrap_err().contains("hive.transport"));
    }
}
