//! The checkpoint folder of a Spark Structured Streaming query: up to where its last finished batch has read Kafka.
//!
//! `offsets/N` is written before batch N: a version, a line about the batch, then a line for each source, for Kafka
//! `{"topic":{"0":123}}` with the next offset of each partition. `commits/N` is written once batch N is done.

use std::collections::BTreeMap;
use std::path::Path;

/// Of topics and partitions the next offset.
pub(super) type Offsets = BTreeMap<String, BTreeMap<i32, i64>>;

/// What a checkpoint folder tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SparkCheckpoint {
    /// The last batch that was done.
    pub batch: u64,
    pub offsets: Offsets,
    /// A batch that was begun and not done: its rows may be in the table.
    pub begun: Option<u64>,
}

/// # Errors
/// The sentence for a person.
pub(super) fn read(folder: &Path) -> Result<SparkCheckpoint, String> {
    let none =
        |what: &str| format!("{}: {what}: it is no checkpoint of a query that has done a batch", folder.display());
    let batch = last(&folder.join("commits"))?.ok_or_else(|| none("no batch in commits"))?;
    let file = folder.join("offsets").join(batch.to_string());
    let text = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    let offsets = parse(&text).map_err(|e| format!("{}: {e}", file.display()))?;
    let begun = last(&folder.join("offsets"))?.filter(|begun| *begun > batch);
    Ok(SparkCheckpoint { batch, offsets, begun })
}

/// The highest number that a file of the folder is called.
fn last(folder: &Path) -> Result<Option<u64>, String> {
    let failed = |e| format!("{}: {e}", folder.display());
    let mut last = None;
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        last = last.max(name.to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    Ok(last)
}

fn parse(text: &str) -> Result<Offsets, String> {
    let mut lines = text.lines();
    match lines.next() {
        Some("v1") => {}
        other => return Err(format!("version {} is not v1", other.unwrap_or("nothing"))),
    }
    let mut all = Offsets::new();
    // The second line is about the batch; a source that has brought nothing yet is a dash.
    for line in lines.skip(1).filter(|line| !line.trim().is_empty() && line.trim() != "-") {
        let of_source = serde_json::from_str::<BTreeMap<String, BTreeMap<i32, i64>>>(line)
            .map_err(|e| format!("`{line}` holds no offsets of Kafka: {e}"))?;
        for (topic, partitions) in of_source {
            if all.insert(topic.clone(), partitions).is_some() {
                return Err(format!("two sources read {topic}"));
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: &str =
        r#"{"batchWatermarkMs":0,"batchTimestampMs":1700000000000,"conf":{"spark.sql.shuffle.partitions":"200"}}"#;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        folder
    }

    #[test]
    fn the_last_batch_that_was_done_counts() {
        let offsets = |n: i64| format!("v1\n{BATCH}\n{{\"a.b.c\":{{\"0\":{n},\"10\":7}}}}\n-\n{{\"d\":{{\"0\":1}}}}");
        let files = folder(&[
            ("offsets/9", &offsets(90)),
            ("offsets/10", &offsets(100)),
            ("offsets/11", &offsets(110)),
            ("offsets/.11.crc", "x"),
            ("commits/9", "v1\n{}"),
            ("commits/10", "v1\n{}"),
        ]);
        let read = read(files.path()).unwrap();
        assert_eq!((read.batch, read.begun), (10, Some(11)));
        assert_eq!(read.offsets["a.b.c"], [(0, 100), (10, 7)].into());
        assert_eq!(read.offsets["d"], [(0, 1)].into());
    }

    #[test]
    fn what_is_no_checkpoint_is_named() {
        let nothing = folder(&[("offsets/0", "v1"), ("commits/.0.crc", "")]);
        assert!(read(nothing.path()).unwrap_err().contains("no checkpoint of a query that has done a batch"));
        let files = folder(&[("offsets/0", "v1\n{}\n{\"logOffset\":3}"), ("commits/0", "v1")]);
        assert!(read(files.path()).unwrap_err().contains("no offsets of Kafka"));
        let newer = folder(&[("offsets/0", "v2\n{}"), ("commits/0", "v1")]);
        assert!(read(newer.path()).unwrap_err().contains("version v2 is not v1"));
        assert!(read(Path::new("/nowhere")).unwrap_err().contains("/nowhere/commits"));
    }
}
