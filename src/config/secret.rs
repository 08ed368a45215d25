//! Values that are never printed: which keys hold secrets, and the types that mask them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// Stands in for a secret wherever a configuration is printed.
pub const MASK: &str = "***";

/// Whether the value under `key` (the last part of its path) is a secret, by the words in the key.
pub fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let words: Vec<&str> = key.split(['.', '-', '_']).collect();
    let names_a_secret = words.iter().any(|w| {
        matches!(
            *w,
            "password" | "passwd" | "secret" | "token" | "credential" | "credentials" | "passphrase" | "authorization"
        )
    }) || key == "ssl.key.pem"
        || key.ends_with("basic.auth.user.info");
    // `sasl.oauthbearer.token.endpoint.url`, `token-refresh-enabled`, `ssl.key.location` say something about a secret only.
    let about_one = matches!(
        words.last().copied(),
        Some("url" | "uri" | "endpoint" | "location" | "enabled" | "ms" | "id" | "type" | "path" | "scope")
    );
    names_a_secret && !about_one
}

/// The password part of `scheme://user:password@host`, where there is one.
pub fn password_in(address: &str) -> Option<&str> {
    let (_, rest) = address.split_once("://")?;
    let authority = rest.split(['/', '?']).next()?;
    let (user_info, _) = authority.rsplit_once('@')?;
    user_info.split_once(':').map(|(_, password)| password).filter(|p| !p.is_empty())
}

/// The address without its password, for logs and `firn config show`.
pub fn mask_password(address: &str) -> String {
    match password_in(address) {
        Some(password) => address.replacen(&format!(":{password}@"), &format!(":{MASK}@"), 1),
        None => address.to_owned(),
    }
}

/// The address without password, path and query: the token of a webhook is in its path.
pub fn mask_path(address: &str) -> String {
    let masked = mask_password(address);
    let host = masked.find("://").map_or(0, |at| at + 3);
    match masked[host..].find(['/', '?']) {
        Some(at) if masked[host + at..].len() > 1 => format!("{}/{MASK}", &masked[..host + at]),
        _ => masked,
    }
}

/// A URI that may hold a password: prints without it.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Address(String);

impl Address {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// With the password, for the client alone.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask_password(&self.0))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", mask_password(&self.0))
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A value that is always a secret: prints as `***`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// For the client alone.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

/// Properties handed through to a client under their own names. Secrets among them print as `***`.
///
/// Values may be written as strings, whole numbers or booleans; clients get text.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(BTreeMap<String, String>);

impl Properties {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.insert(key.into(), value.into());
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn masked(&self) -> BTreeMap<&str, String> {
        self.iter().map(|(k, v)| (k, if is_secret(k) { MASK.to_owned() } else { mask_password(v) })).collect()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Properties {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        Self(iter.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.masked().fmt(f)
    }
}

impl Serialize for Properties {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.masked().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Properties {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "a string, a whole number or a boolean; dotted keys need quotes: \"s3.endpoint\" = ..."
        )]
        enum Scalar {
            Text(String),
            Number(i64),
            Switch(bool),
        }
        let raw = BTreeMap::<String, Scalar>::deserialize(deserializer)?;
        let text = |s| match s {
            Scalar::Text(t) => t,
            Scalar::Number(n) => n.to_string(),
            Scalar::Switch(b) => b.to_string(),
        };
        Ok(Self(raw.into_iter().map(|(k, v)| (k, text(v))).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("sasl.password", true)]
    #[case("ssl.key.password", true)]
    #[case("ssl.key.pem", true)]
    #[case("s3.secret-access-key", true)]
    #[case("s3.session-token", true)]
    #[case("token", true)]
    #[case("header.Authorization", true)]
    #[case("credential", true)]
    #[case("sasl.oauthbearer.client.secret", true)]
    #[case("s3.access-key-id", false)]
    #[case("sasl.username", false)]
    #[case("ssl.key.location", false)]
    #[case("sasl.oauthbearer.token.endpoint.url", false)]
    #[case("token-refresh-enabled", false)]
    fn secrets_are_known_by_their_key(#[case] key: &str, #[case] secret: bool) {
        assert_eq!(is_secret(key), secret, "{key}");
    }

    #[rstest]
    #[case("postgres://firn:pw@db:5432/lake", "postgres://firn:***@db:5432/lake")]
    #[case("postgres://firn:p:w@x@db/lake", "postgres://firn:***@db/lake")]
    #[case("postgres://firn@db/lake", "postgres://firn@db/lake")]
    #[case("thrift://hms:9083", "thrift://hms:9083")]
    #[case("sqlite:///a/b.db", "sqlite:///a/b.db")]
    fn an_address_prints_without_its_password(#[case] address: &str, #[case] want: &str) {
        assert_eq!(Address::new(address).to_string(), want);
        assert_eq!(format!("{:?}", Address::new(address)), format!("{want:?}"));
        assert_eq!(Address::new(address).as_str(), address);
    }

    #[rstest]
    #[case("https://u:pw@hooks/services/T0/B0/xyz?k=v", "https://u:***@hooks/***")]
    #[case("https://hooks?token=x", "https://hooks/***")]
    #[case("http://hooks:8099/", "http://hooks:8099/")]
    #[case("http://hooks", "http://hooks")]
    fn a_receiver_prints_without_its_path(#[case] address: &str, #[case] want: &str) {
        assert_eq!(mask_path(address), want);
    }

    #[test]
    fn properties_print_without_secrets_but_hand_them_through() {
        let p: Properties = [("sasl.password", "hunter2"), ("sasl.username", "firn")].into_iter().collect();
        assert!(!format!("{p:?}").contains("hunter2"));
        assert!(!toml::to_string(&p).unwrap().contains("hunter2"));
        assert_eq!(p.get("sasl.password"), Some("hunter2"));
    }
}
