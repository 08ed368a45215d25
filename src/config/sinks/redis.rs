//! `[[pipelines.redis]]`

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::config::error::Problem;
use crate::config::period::Period;
use crate::config::secret::Address;
use crate::sink::redis::{Increment, OnNullKey, RedisSettings, Template, TopList, Trim, Write, WriteKind};

/// What is written into one Redis.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// The sink's name within its pipeline, in positions, metrics and commands.
    #[serde(default = "default_name")]
    pub name: String,
    /// `redis://user:password@host:6379/0`
    pub url: Address,
    /// What becomes of a write whose key has a NULL in it: `skip` or `reject`.
    #[serde(default)]
    pub on_null_key: OnNullKey,
    pub writes: Vec<WriteConfig>,
}

/// `[[pipelines.redis.writes]]`: one thing that is written for each row.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WriteConfig {
    pub kind: KindConfig,
    /// `content_summary:{content_id}`
    pub key: String,
    /// Columns; all of them where none are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Vec<String>>,
    /// Of a stream: how many entries are kept, roughly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_entries: Option<u64>,
    /// Of a stream: how long entries are kept, roughly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Period>,
    /// Of a hash: fields that are counted up.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub increments: BTreeMap<String, IncrementConfig>,
    /// Of a sorted set or a top list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// Of a sorted set or a top list: a column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
    /// Of a top list: how many decimal places of the score count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<u8>,
    /// Of a string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Of a top list: the column of the event time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Of a top list: how long an event counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Period>,
    /// How long the key stays after the last write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Period>,
}

/// What a write makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KindConfig {
    Stream,
    Hash,
    SortedSet,
    String,
    Json,
    Top,
}

/// `1`, `"column"` or `{ column = "column", scale = 2 }`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, expecting = "a whole number, a column's name, or { column = \"name\", scale = 2 }")]
pub enum IncrementConfig {
    By(i64),
    Column(String),
    Scaled { column: String, scale: u8 },
}

/// More digits than a 64-bit number has would be left with nothing before the point.
const MOST_SCALE: u8 = 15;
/// An own key for each tenth of a minute or more: a shorter window is gone before it is read.
const LEAST_WINDOW_MS: u64 = 1_000;
/// The clock that keeps a list alive ticks about once a second.
const LEAST_TTL_MS: u64 = 10_000;

fn default_name() -> String {
    "redis".to_owned()
}

impl RedisConfig {
    pub(in crate::config) fn validate(&self) -> Result<(), Problem> {
        self.settings().map(|_| ())
    }

    /// What the sink is told.
    ///
    /// # Errors
    /// Names the key that is missing, out of place or wrong.
    pub fn settings(&self) -> Result<RedisSettings, Problem> {
        if !["redis://", "rediss://", "valkey://", "valkeys://"]
            .iter()
            .any(|scheme| self.url.as_str().starts_with(scheme))
        {
            return Err(Problem::new("url", "write redis://host:6379, or rediss:// for TLS"));
        }
        if self.writes.is_empty() {
            return Err(Problem::new("writes", "nothing to write: add [[pipelines.redis.writes]]"));
        }
        let mut writes = Vec::new();
        let mut keys = BTreeSet::new();
        for (i, write) in self.writes.iter().enumerate() {
            let under = |p: Problem| p.under(&format!("writes[{i}]"));
            if !keys.insert(&write.key) {
                let problem = format!("another write has the key `{}` too: what both write must be in one", write.key);
                return Err(under(Problem::new("key", problem)));
            }
            writes.push(write.settings().map_err(under)?);
        }
        Ok(RedisSettings { url: self.url.as_str().to_owned(), on_null_key: self.on_null_key, writes })
    }
}

impl WriteConfig {
    fn settings(&self) -> Result<Write, Problem> {
        self.check_places()?;
        let key = template("key", &self.key)?;
        let ttl_ms = self.ttl.map(|ttl| ttl.ms);
        if ttl_ms.is_some_and(|ms| ms < LEAST_TTL_MS) {
            return Err(Problem::new("ttl", "must be at least \"10s\""));
        }
        let kind = match self.kind {
            KindConfig::Stream => WriteKind::Stream { fields: self.fields.clone(), trim: self.trim()? },
            KindConfig::Hash => WriteKind::Hash { fields: self.fields.clone(), increments: self.increments()?, ttl_ms },
            KindConfig::SortedSet => WriteKind::SortedSet {
                member: template("member", needed("member", &self.member)?)?,
                score: needed("score", &self.score)?.clone(),
            },
            KindConfig::String => WriteKind::Text { value: template("value", needed("value", &self.value)?)?, ttl_ms },
            KindConfig::Json => WriteKind::Json { fields: self.fields.clone(), ttl_ms },
            KindConfig::Top => {
                let window_ms = needed("window", &self.window)?.ms;
                if !(LEAST_WINDOW_MS..=31 * 86_400_000).contains(&window_ms) {
                    return Err(Problem::new("window", "is not between \"1s\" and \"31d\""));
                }
                WriteKind::Top(TopList {
                    member: template("member", needed("member", &self.member)?)?,
                    score: needed("score", &self.score)?.clone(),
                    scale: scale("scale", self.scale.unwrap_or(2))?,
                    time: needed("time", &self.time)?.clone(),
                    window_ms,
                    ttl_ms: ttl_ms.unwrap_or(window_ms.max(LEAST_TTL_MS)),
                })
            }
        };
        Ok(Write { key, kind })
    }

    /// A key that the kind has no use for is a mistake.
    fn check_places(&self) -> Result<(), Problem> {
        use KindConfig as K;
        let places: [(&str, bool, &[K]); 10] = [
            ("fields", self.fields.is_some(), &[K::Stream, K::Hash, K::Json]),
            ("max_entries", self.max_entries.is_some(), &[K::Stream]),
            ("max_age", self.max_age.is_some(), &[K::Stream]),
            ("increments", !self.increments.is_empty(), &[K::Hash]),
            ("member", self.member.is_some(), &[K::SortedSet, K::Top]),
            ("score", self.score.is_some(), &[K::SortedSet, K::Top]),
            ("scale", self.scale.is_some(), &[K::Top]),
            ("value", self.value.is_some(), &[K::String]),
            ("time", self.time.is_some(), &[K::Top]),
            ("window", self.window.is_some(), &[K::Top]),
        ];
        let misplaced = places.iter().find(|(_, given, kinds)| *given && !kinds.contains(&self.kind));
        if let Some((name, _, _)) = misplaced {
            return Err(Problem::new(*name, "is not for this kind of write"));
        }
        match self.ttl.is_some() && matches!(self.kind, K::Stream | K::SortedSet) {
            true => Err(Problem::new("ttl", "is not for this kind of write")),
            false => Ok(()),
        }
    }

    fn trim(&self) -> Result<Option<Trim>, Problem> {
        match (self.max_entries, self.max_age) {
            (Some(_), Some(_)) => Err(Problem::new("max_age", "give max_entries or max_age, not both")),
            (Some(0), None) => Err(Problem::new("max_entries", "must be at least 1")),
            (Some(entries), None) => Ok(Some(Trim::Entries(entries))),
            (None, Some(age)) => Ok(Some(Trim::AgeMs(age.ms))),
            (None, None) => Ok(None),
        }
    }

    fn increments(&self) -> Result<BTreeMap<String, Increment>, Problem> {
        let one = |(field, by): (&String, &IncrementConfig)| {
            let under = |p: Problem| p.under(&format!("increments.{field}"));
            if self.fields.as_ref().is_some_and(|fields| fields.contains(field)) {
                return Err(under(Problem::new("", "`fields` has it too: a field is set or counted up")));
            }
            Ok((
                field.clone(),
                match by {
                    IncrementConfig::By(amount) => Increment::By(*amount),
                    IncrementConfig::Column(column) => Increment::Column { column: column.clone(), scale: 0 },
                    IncrementConfig::Scaled { column, scale: places } => {
                        Increment::Column { column: column.clone(), scale: scale("scale", *places).map_err(under)? }
                    }
                },
            ))
        };
        self.increments.iter().map(one).collect()
    }
}

fn template(field: &str, text: &str) -> Result<Template, Problem> {
    text.parse::<Template>().map_err(|e| Problem::new(field, e.to_string()))
}

fn needed<'a, T>(field: &str, value: &'a Option<T>) -> Result<&'a T, Problem> {
    value.as_ref().ok_or_else(|| Problem::new(field, "is missing, and this kind of write needs it"))
}

fn scale(field: &str, places: u8) -> Result<u8, Problem> {
    match places <= MOST_SCALE {
        true => Ok(places),
        false => Err(Problem::new(field, format!("{places} is not between 0 and {MOST_SCALE}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn settings(writes: &str) -> Result<RedisSettings, String> {
        let text = format!("url = \"redis://r\"\n{writes}");
        let config: RedisConfig = toml::from_str(&text).map_err(|e| e.message().to_owned())?;
        // What is printed reads as the same.
        let printed = toml::to_string(&config).unwrap();
        assert_eq!(toml::to_string(&toml::from_str::<RedisConfig>(&printed).unwrap()).unwrap(), printed);
        config.settings().map_err(|p| format!("{}: {}", p.field, p.message))
    }

    #[test]
    fn every_kind_is_read() {
        let read = settings(
            r#"
            on_null_key = "reject"
            [[writes]]
            kind = "stream"
            key = "enriched_events:{content_type}"
            max_entries = 100000
            [[writes]]
            kind = "hash"
            key = "content_summary:{content_id}"
            fields = ["content_title"]
            increments = { events = 1, ms = "duration_ms", percent = { column = "engagement_percent", scale = 2 } }
            ttl = "7d"
            [[writes]]
            kind = "top"
            key = "top_engaging_content:{content_type}"
            member = "{content_id}"
            score = "engagement_percent"
            time = "event_ts"
            window = "10m"
            [[writes]]
            kind = "sorted_set"
            key = "newest"
            member = "{content_id}"
            score = "n"
            [[writes]]
            kind = "string"
            key = "s:{content_id}"
            value = "{title}"
            [[writes]]
            kind = "json"
            key = "j:{content_id}"
            "#,
        );
        let read = read.unwrap();
        assert_eq!(read.on_null_key, OnNullKey::Reject);
        let kinds: Vec<&str> = read.writes.iter().map(|w| w.kind.name()).collect();
        assert_eq!(kinds, ["stream", "hash", "top", "sorted_set", "string", "json"]);
        let increments = BTreeMap::from([
            ("events".to_owned(), Increment::By(1)),
            ("ms".to_owned(), Increment::Column { column: "duration_ms".into(), scale: 0 }),
            ("percent".to_owned(), Increment::Column { column: "engagement_percent".into(), scale: 2 }),
        ]);
        let fields = Some(vec!["content_title".to_owned()]);
        assert_eq!(read.writes[1].kind, WriteKind::Hash { fields, increments, ttl_ms: Some(604_800_000) });
        let WriteKind::Top(list) = &read.writes[2].kind else { panic!("{read:?}") };
        assert_eq!((list.window_ms, list.ttl_ms, list.scale), (600_000, 600_000, 2));
    }

    #[rstest]
    #[case("writes = []", "writes: nothing to write")]
    #[case("[[writes]]\nkind = \"list\"\nkey = \"k\"", "unknown variant `list`")]
    #[case("[[writes]]\nkind = \"stream\"\nkey = \"k{\"", "writes[0].key: `k{` has a `{` without its partner")]
    #[case("[[writes]]\nkind = \"stream\"\nkey = \"k\"\nwindow = \"1m\"", "writes[0].window: is not for this kind")]
    #[case("[[writes]]\nkind = \"stream\"\nkey = \"k\"\nttl = \"1m\"", "writes[0].ttl: is not for this kind")]
    #[case("[[writes]]\nkind = \"stream\"\nkey = \"k\"\nmax_age = \"1m\"\nmax_entries = 5", "writes[0].max_age: give")]
    #[case("[[writes]]\nkind = \"stream\"\nkey = \"k\"\nmax_age = \"1 minute\"", "`1 minute` is not a span of time")]
    #[case("[[writes]]\nkind = \"string\"\nkey = \"k\"", "writes[0].value: is missing")]
    #[case("[[writes]]\nkind = \"json\"\nkey = \"k\"\nttl = \"1s\"", "writes[0].ttl: must be at least")]
    #[case(
        "[[writes]]\nkind = \"json\"\nkey = \"k\"\n[[writes]]\nkind = \"hash\"\nkey = \"k\"",
        "writes[1].key: another write"
    )]
    #[case(
        "[[writes]]\nkind = \"hash\"\nkey = \"k\"\nfields = [\"n\"]\nincrements = { n = 1 }",
        "writes[0].increments.n: `fields` has it too"
    )]
    #[case(
        "[[writes]]\nkind = \"hash\"\nkey = \"k\"\nincrements = { n = { column = \"n\", scale = 16 } }",
        "writes[0].increments.n.scale: 16 is not between"
    )]
    #[case(
        "[[writes]]\nkind = \"hash\"\nkey = \"k\"\nincrements = { n = 1.5 }",
        "a whole number, a column's name, or { column"
    )]
    fn mistakes_are_named(#[case] writes: &str, #[case] want: &str) {
        let got = settings(writes).unwrap_err();
        assert!(got.contains(want), "{got}");
    }
}
