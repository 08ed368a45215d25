//! The demo's directory: configuration, catalog, warehouse, the writer's log. Made anew by each demo.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::DemoError;

/// Says that a demo made the directory and the next one may replace its content.
const MARKER: &str = ".firn-demo";
/// The namespace of the tables.
pub const NAMESPACE: &str = "demo";

#[derive(Clone, Debug)]
pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// Empties and makes the directory.
    ///
    /// # Errors
    /// When it holds something that no demo made, or can't be written.
    pub fn create(path: &Path) -> Result<Self, DemoError> {
        let failed = |source: io::Error| DemoError::Directory { path: path.display().to_string(), source };
        fs::create_dir_all(path).map_err(failed)?;
        let root = path.canonicalize().map_err(failed)?;
        let space = Self { root };
        let empty = fs::read_dir(&space.root).map_err(failed)?.next().is_none();
        if !empty && !space.root.join(MARKER).exists() {
            return Err(DemoError::ForeignDirectory { path: path.display().to_string() });
        }
        // Only what a demo makes, by name: whatever else somebody put there stays.
        for file in ["catalog.db", "catalog.db-wal", "catalog.db-shm", "firn.toml", "writer.log"] {
            absent_is_fine(fs::remove_file(space.root.join(file))).map_err(failed)?;
        }
        absent_is_fine(fs::remove_dir_all(space.warehouse())).map_err(failed)?;
        fs::create_dir(space.warehouse()).map_err(failed)?;
        fs::write(space.root.join(MARKER), "made by firn demo; the next demo replaces what is in here\n")
            .map_err(failed)?;
        Ok(space)
    }

    pub fn config_file(&self) -> PathBuf {
        self.root.join("firn.toml")
    }

    pub fn catalog_file(&self) -> PathBuf {
        self.root.join("catalog.db")
    }

    pub fn warehouse(&self) -> PathBuf {
        self.root.join("warehouse")
    }

    pub fn log_file(&self) -> PathBuf {
        self.root.join("writer.log")
    }

    /// Writes `firn.toml`; events that only ever grow are appended, the other tables kept equal to the source.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write_config(&self, bootstrap_servers: &str) -> Result<(), DemoError> {
        let quoted = |text: String| toml::Value::String(text).to_string();
        let text = format!(
            r#"# Made by firn demo. The broker lives only as long as the demo; the tables stay.
[kafka]
bootstrap_servers = "{bootstrap_servers}"
group = "firn-demo"
[kafka.properties]
# A killed process holds its partitions this long.
"session.timeout.ms" = "6000"
"heartbeat.interval.ms" = "1000"

[catalog]
type = "sql"
uri = {uri}
name = "demo"
warehouse = {warehouse}

[lake]
topics = ["inventory-server.inventory.*", "postgres.public.*"]
mode = "upsert"
namespace = "{NAMESPACE}"
table = "{{table}}"
commit_interval_ms = 1000

[[lake.tables]]
topic = "postgres.public.engagement_events"
mode = "append"

[serve]
listen = "127.0.0.1:0"
"#,
            uri = quoted(format!("sqlite://{}", self.catalog_file().display())),
            warehouse = quoted(format!("file://{}", self.warehouse().display())),
        );
        let path = self.config_file();
        fs::write(&path, text).map_err(|source| DemoError::Directory { path: path.display().to_string(), source })
    }

    /// The last lines of the writer's log.
    pub fn last_words(&self) -> String {
        let log = fs::read(self.log_file()).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(15)).map(|l| format!("  {l}\n")).collect()
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_demo_replaces_what_the_first_made_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let space = Workspace::create(&dir.path().join("new/demo")).unwrap();
        space.write_config("127.0.0.1:1").unwrap();
        fs::write(space.warehouse().join("old.parquet"), "x").unwrap();
        fs::write(space.root.join("notes.txt"), "mine").unwrap();
        let again = Workspace::create(&space.root).unwrap();
        assert!(!again.config_file().exists() && !again.warehouse().join("old.parquet").exists());
        assert!(again.root.join("notes.txt").exists());
    }

    #[test]
    fn a_directory_that_no_demo_made_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("catalog.db"), "precious").unwrap();
        assert!(matches!(Workspace::create(dir.path()), Err(DemoError::ForeignDirectory { .. })));
        assert_eq!(fs::read_to_string(dir.path().join("catalog.db")).unwrap(), "precious");
    }

    #[test]
    fn the_configuration_is_one_that_firn_takes() {
        let dir = tempfile::tempdir().unwrap();
        let space = Workspace::create(dir.path()).unwrap();
        space.write_config("127.0.0.1:19092").unwrap();
        let config = crate::config::Config::load(&space.config_file()).unwrap();
        assert_eq!(config.kafka.group, "firn-demo");
    }
}
