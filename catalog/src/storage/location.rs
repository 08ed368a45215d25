//! What a location string names: scheme, bucket, path. Pure.

use object_store::path::Path;

use super::bad_location;
use crate::{Error, ErrorKind, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    S3,
    File,
    Memory,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub scheme: Scheme,
    /// Empty for files.
    pub bucket: String,
    pub path: Path,
}

impl Location {
    pub fn parse(location: &str) -> Result<Self> {
        let (scheme, rest) = match location.split_once("://") {
            Some(("s3" | "s3a" | "s3n", rest)) => (Scheme::S3, rest),
            Some(("memory", rest)) => (Scheme::Memory, rest),
            Some(("file", rest)) => (Scheme::File, rest),
            Some((other, _)) => {
                let text =
                    format!("location {location:?}: scheme {other:?} is not supported; use s3, s3a, file or memory");
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
            // Hive and Java write file:/path
            None => (Scheme::File, location.strip_prefix("file:").unwrap_or(location)),
        };
        if scheme == Scheme::File {
            if !rest.starts_with('/') {
                return Err(bad_location(location, "a local path must be absolute"));
            }
            // the file system doesn't tell a//b from a/b
            let segments: Vec<&str> = rest.split('/').filter(|s| !s.is_empty()).collect();
            return Ok(Self { scheme, bucket: String::new(), path: path(location, &segments.join("/"))? });
        }
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(bad_location(location, "it names no bucket"));
        }
        Ok(Self { scheme, bucket: bucket.to_owned(), path: path(location, key)? })
    }

    /// Equal for the locations that one store holds.
    pub fn store_key(&self) -> String {
        format!("{:?}/{}", self.scheme, self.bucket)
    }
}

/// What lies in the same store as one location, whichever way it is written.
#[derive(Clone, Debug)]
pub(crate) struct Locator {
    /// With the scheme and bucket as the location has them; ends with a slash.
    root: String,
    of: Location,
}

impl Locator {
    /// # Errors
    /// For a location that can't be used.
    pub fn of(location: &str) -> Result<Self> {
        let of = Location::parse(location)?;
        let root = match of.scheme {
            Scheme::File => match location.split_once(':') {
                Some(("file", rest)) if rest.starts_with("//") => "file:///".to_owned(),
                Some(("file", _)) => "file:/".to_owned(),
                _ => "/".to_owned(),
            },
            Scheme::S3 | Scheme::Memory => {
                let scheme = location.split_once("://").map_or("s3", |(scheme, _)| scheme);
                format!("{scheme}://{}/", of.bucket)
            }
        };
        Ok(Self { root, of })
    }

    /// Whether the location is all of its store.
    pub fn is_root(&self) -> bool {
        self.of.path.as_ref().is_empty()
    }

    /// The path in the store; `None` for what lies in another one.
    ///
    /// # Errors
    /// For what can't be compared, as a key with two slashes in a row.
    pub fn path_of(&self, location: &str) -> Result<Option<Path>> {
        match Location::parse(location) {
            Ok(parsed) => Ok((parsed.store_key() == self.of.store_key()).then_some(parsed.path)),
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The other way round.
    pub fn location_of(&self, path: &Path) -> String {
        format!("{}{path}", self.root)
    }
}

/// Taken as it stands: percent signs in a key are the key's own (Iceberg escapes partition values before they get here).
fn path(location: &str, key: &str) -> Result<Path> {
    Path::parse(key).map_err(|e| bad_location(location, e))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::s3("s3://b/a/f.parquet", Scheme::S3, "b", "a/f.parquet")]
    #[case::s3a_is_s3("s3a://b/a", Scheme::S3, "b", "a")]
    #[case::s3n_is_s3("s3n://b/a", Scheme::S3, "b", "a")]
    #[case::bucket_alone("s3://b", Scheme::S3, "b", "")]
    #[case::escapes_stay("s3://b/p=a%2Fb/x y", Scheme::S3, "b", "p=a%2Fb/x y")]
    #[case::file("file:///tmp/a", Scheme::File, "", "tmp/a")]
    #[case::file_as_hive_writes_it("file:/tmp/a", Scheme::File, "", "tmp/a")]
    #[case::plain_path("/tmp//a/", Scheme::File, "", "tmp/a")]
    #[case::memory("memory://one/a", Scheme::Memory, "one", "a")]
    fn a_location_names_store_and_path(
        #[case] text: &str,
        #[case] scheme: Scheme,
        #[case] bucket: &str,
        #[case] path: &str,
    ) {
        let location = Location::parse(text).unwrap();
        assert_eq!((location.scheme, location.bucket.as_str(), location.path.as_ref()), (scheme, bucket, path));
    }

    #[rstest]
    #[case::s3("s3a://b/wh/t", "s3://b/wh/t/f", Some("s3a://b/wh/t/f"))]
    #[case::another_bucket("s3://b/wh/t", "s3://c/wh/t/f", None)]
    #[case::another_store("s3://b/wh/t", "gs://b/wh/t/f", None)]
    #[case::file("file:/wh/t", "/wh//t/f", Some("file:/wh/t/f"))]
    #[case::plain_path("/wh/t", "file:///wh/t/f", Some("/wh/t/f"))]
    fn what_lies_in_one_store_is_known_however_it_is_written(
        #[case] of: &str,
        #[case] other: &str,
        #[case] as_listed: Option<&str>,
    ) {
        let locator = Locator::of(of).unwrap();
        let path = locator.path_of(other).unwrap();
        assert_eq!(path.map(|path| locator.location_of(&path)).as_deref(), as_listed);
    }

    #[rstest]
    #[case::other_scheme("gs://b/a", ErrorKind::Unsupported, "gs")]
    #[case::relative("wh/a", ErrorKind::Refused, "absolute")]
    #[case::no_bucket("s3:///a", ErrorKind::Refused, "bucket")]
    #[case::climbs_out("s3://b/../a", ErrorKind::Refused, "..")]
    fn an_unusable_location_says_why(#[case] text: &str, #[case] kind: ErrorKind, #[case] word: &str) {
        let e = Location::parse(text).unwrap_err();
        assert_eq!(e.kind(), kind);
        assert!(e.to_string().contains(word) && e.to_string().contains(text), "{e}");
    }
}
