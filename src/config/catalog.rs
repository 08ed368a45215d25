//! `[catalog]`: where tables are registered and where their files are.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::Problem;
use super::secret::{Address, Properties};

/// `[catalog]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogConfig {
    #[serde(rename = "type")]
    pub kind: CatalogKind,
    /// `sqlite:///path/catalog.db` or `postgres://...`, `thrift://host:9083`, `https://host/...`
    pub uri: Address,
    /// The catalog's own name: in a SQL catalog the key of its rows.
    #[serde(default = "default_name")]
    pub name: String,
    /// Below which new tables are made: `s3://bucket/path`, `file:///path`, or a directory. A REST catalog may choose itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warehouse: Option<String>,
    /// How a swap in the Hive Metastore is made safe.
    #[serde(default)]
    pub commit_mode: CommitMode,
    /// Under PyIceberg's names: s3.endpoint, s3.region, token, credential ...
    #[serde(default)]
    pub properties: Properties,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CatalogKind {
    Sql,
    Hive,
    Rest,
}

/// What guards a commit to the Hive Metastore against other writers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommitMode {
    /// Lock and compare, or what the table's own properties and the metastore's abilities call for.
    #[default]
    Auto,
    LockAndCompare,
    /// Compare alone: safe only when every writer of the table compares.
    Compare,
    /// Lock alone: for metastores that can't compare; not safe against a pause longer than the lock's time-out.
    Lock,
}

fn default_name() -> String {
    "firn".to_owned()
}

/// What pipelines without a lake keep their dead letters in.
const EMBEDDED: &str = "sqlite:firn.db?mode=rwc";

impl Default for CatalogConfig {
    fn default() -> Self {
        Self {
            kind: CatalogKind::Sql,
            uri: Address::new(EMBEDDED),
            name: default_name(),
            warehouse: Some("firn-lake".to_owned()),
            commit_mode: CommitMode::default(),
            properties: Properties::default(),
        }
    }
}

impl CatalogConfig {
    /// Whether the section is missing.
    pub(super) fn is_embedded(&self) -> bool {
        self.uri.as_str() == EMBEDDED
    }

    pub(super) fn validate(&self) -> Result<(), Problem> {
        let uri = self.uri.as_str();
        let schemes: &[&str] = match self.kind {
            CatalogKind::Sql => &["sqlite:", "postgres://", "postgresql://", "postgresql+"],
            CatalogKind::Hive => &["thrift://"],
            CatalogKind::Rest => &["http://", "https://"],
        };
        if !schemes.iter().any(|s| uri.starts_with(s)) {
            return Err(Problem::new("uri", format!("`{}` does not begin with {}", self.uri, schemes.join(" or "))));
        }
        if self.name.is_empty() {
            return Err(Problem::new("name", "must not be empty"));
        }
        if self.warehouse.as_ref().is_none_or(String::is_empty) && self.kind != CatalogKind::Rest {
            return Err(Problem::new(
                "warehouse",
                "is missing: say where tables are made, as in \"s3://bucket/warehouse\"",
            ));
        }
        if let Some(warehouse) = &self.warehouse
            && self.kind != CatalogKind::Rest
            && let Some((scheme, _)) = warehouse.split_once("://")
            && !matches!(scheme, "s3" | "s3a" | "s3n" | "file" | "memory")
        {
            return Err(Problem::new(
                "warehouse",
                format!("firn can't store under {scheme}://, only s3:// and file://"),
            ));
        }
        if self.commit_mode != CommitMode::Auto && self.kind != CatalogKind::Hive {
            return Err(Problem::new(
                "commit_mode",
                "applies to type = \"hive\" only; other catalogs compare by themselves",
            ));
        }
        Ok(())
    }

    /// Local paths start from the configuration's directory, so that every command works from anywhere.
    pub(super) fn resolve_paths(&mut self, dir: &Path) {
        if let Some(warehouse) = &mut self.warehouse
            && !warehouse.contains("://")
            && self.kind != CatalogKind::Rest
        {
            *warehouse = format!("file://{}", absolute(dir, warehouse));
        }
        if let Some(rest) = self.uri.as_str().strip_prefix("sqlite:") {
            let rest = rest.strip_prefix("//").unwrap_or(rest);
            let (path, query) = rest.split_once('?').map_or((rest, None), |(p, q)| (p, Some(q)));
            if !path.is_empty() && path != ":memory:" {
                let query = query.map_or_else(String::new, |q| format!("?{q}"));
                self.uri = Address::new(format!("sqlite://{}{query}", absolute(dir, path)));
            }
        }
    }
}

fn absolute(dir: &Path, path: &str) -> String {
    let joined = dir.join(path);
    // Only an empty path makes `absolute` fail.
    std::path::absolute(&joined).unwrap_or(joined).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("sqlite:cat.db", "sqlite:///etc/firn/cat.db")]
    #[case("sqlite://cat.db?mode=rwc", "sqlite:///etc/firn/cat.db?mode=rwc")]
    #[case("sqlite:///var/cat.db", "sqlite:///var/cat.db")]
    #[case("sqlite::memory:", "sqlite::memory:")]
    #[case("postgres://h/d", "postgres://h/d")]
    fn local_catalogs_start_from_the_files_directory(#[case] uri: &str, #[case] want: &str) {
        let mut c: CatalogConfig =
            toml::from_str(&format!("type = \"sql\"\nuri = \"{uri}\"\nwarehouse = \"lake\"")).unwrap();
        c.resolve_paths(Path::new("/etc/firn"));
        assert_eq!(c.uri.as_str(), want);
        assert_eq!(c.warehouse.as_deref(), Some("file:///etc/firn/lake"));
    }
}
