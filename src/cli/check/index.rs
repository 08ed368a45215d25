//! The folder of the key indexes.

use super::report::Finding;
use crate::config::Config;

/// Writes and removes a file there; a folder that was not there before is not there afterwards.
pub(super) fn check(config: &Config) -> Option<Finding> {
    let dir = &config.index.dir;
    if dir.as_os_str().is_empty() {
        return None;
    }
    let was_there = dir.exists();
    let probe = dir.join("firn-check");
    let tried = std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(&probe, []))
        .and_then(|()| std::fs::remove_file(&probe));
    if !was_there {
        let _ = std::fs::remove_dir(dir);
    }
    let subject = format!("index {}", dir.display());
    Some(match tried {
        Ok(()) => Finding::ok(subject, "can be written"),
        Err(e) => {
            Finding::fail(subject, e.to_string(), "set index.dir to a folder on a local disk that firn may write to")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;
    use crate::config::env::Lookup;

    #[test]
    fn a_folder_that_cannot_be_written_fails_and_none_is_left_behind() {
        let folder = tempfile::TempDir::new().unwrap();
        let text = "[kafka]\nbootstrap_servers = \"k:9092\"\ngroup = \"g\"\n[catalog]\ntype = \"sql\"\nuri = \"sqlite::memory:\"\n\
                    warehouse = \"w\"\n[lake]\ntopics = [\"t\"]\n";
        let lookup = Lookup::of_process(folder.path()).unwrap();
        let mut config = Config::parse(text, &folder.path().join("firn.toml"), &lookup).unwrap();
        assert_eq!(check(&config).unwrap().verdict, Verdict::Ok);
        assert!(!config.index.dir.exists());
        std::fs::write(folder.path().join("file"), []).unwrap();
        config.index.dir = folder.path().join("file/index");
        assert_eq!(check(&config).unwrap().verdict, Verdict::Fail);
        config.index.dir = "".into();
        assert!(check(&config).is_none());
    }
}
