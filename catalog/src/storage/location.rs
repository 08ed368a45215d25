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
            Some(("s3" | "s3a", rest)) => (Scheme::S3, rest),
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
