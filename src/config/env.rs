//! `${NAME}`, `${NAME:-default}` and `${file:/path}` in values, and the `.env` file beside the configuration.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Where a placeholder's value was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    Environment,
    #[serde(rename = ".env")]
    DotEnv,
    /// The variable is not set, or empty: the default that stands behind its name.
    Default,
    File,
}

/// A placeholder of a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The variable, or the file's path.
    pub name: String,
    pub place: Place,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Environment => write!(f, "{} of the environment", self.name),
            Place::DotEnv => write!(f, "{} of .env", self.name),
            Place::Default => write!(f, "the default, as {} is not set", self.name),
            Place::File => write!(f, "file {}", self.name),
        }
    }
}

/// Where placeholders are looked up. The process environment wins over the `.env` file.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    /// The process environment.
    pub env: HashMap<String, String>,
    /// From `.env`.
    pub dotenv: HashMap<String, String>,
    /// What relative `${file:...}` paths start from.
    pub dir: PathBuf,
}

impl Lookup {
    /// The process environment and the `.env` file in `dir`, if there is one.
    ///
    /// # Errors
    /// When `.env` is there but can't be read.
    pub fn of_process(dir: &Path) -> std::io::Result<Self> {
        let dotenv = match std::fs::read_to_string(dir.join(".env")) {
            Ok(text) => parse_dotenv(&text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => HashMap::new(),
            Err(e) => return Err(e),
        };
        // Names and values that aren't Unicode can't be named in a TOML file.
        let env =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect();
        Ok(Self { env, dotenv, dir: dir.to_owned() })
    }

    fn variable(&self, name: &str) -> Option<(&str, Place)> {
        let of_process = self.env.get(name).map(|value| (value, Place::Environment));
        let of_file = || self.dotenv.get(name).map(|value| (value, Place::DotEnv));
        of_process.or_else(of_file).map(|(value, place)| (value.as_str(), place))
    }

    /// Replaces every placeholder in `text`, and says where each got its value. `$${` stands for a literal `${`.
    ///
    /// # Errors
    /// The sentence for a person: which variable is not set, which file can't be read.
    pub fn interpolate(&self, text: &str) -> Result<(String, Vec<Origin>), String> {
        let mut out = String::with_capacity(text.len());
        let mut origins = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, after) = rest.split_at(at);
            let inside = after.get(2..).unwrap_or_default();
            if let Some(escaped) = before.strip_suffix('$') {
                out.push_str(escaped);
                out.push_str("${");
                rest = inside;
                continue;
            }
            out.push_str(before);
            let Some((name, tail)) = inside.split_once('}') else {
                return Err(format!("`{text}` has a `${{` without its `}}`"));
            };
            let (value, origin) = self.resolve(name)?;
            out.push_str(&value);
            origins.push(origin);
            rest = tail;
        }
        out.push_str(rest);
        Ok((out, origins))
    }

    fn resolve(&self, name: &str) -> Result<(String, Origin), String> {
        if let Some(path) = name.strip_prefix("file:") {
            let path = self.dir.join(path);
            let text = std::fs::read_to_string(&path).map_err(|e| format!("can't read {}: {e}", path.display()))?;
            let origin = Origin { name: path.display().to_string(), place: Place::File };
            return Ok((text.trim_end_matches(['\n', '\r']).to_owned(), origin));
        }
        let (name, default) = match name.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (name, None),
        };
        let (value, place) = self
            .variable(name)
            .filter(|(value, _)| default.is_none() || !value.is_empty())
            .or(default.map(|default| (default, Place::Default)))
            .ok_or_else(|| {
                format!(
                    "environment variable {name} is not set, and {} does not set it either; `${{{name}:-text}}` gives it a default",
                    self.dir.join(".env").display()
                )
            })?;
        Ok((value.to_owned(), Origin { name: name.to_owned(), place }))
    }
}

/// Whether the value comes wholly or partly from the environment or a file: the way secrets have to come.
pub fn has_placeholder(text: &str) -> bool {
    text.match_indices("${").any(|(at, _)| !text.get(..at).is_some_and(|b| b.ends_with('$')))
}

/// `NAME=value` lines; `#` comments, an `export ` in front and quotes around the value are allowed.
fn parse_dotenv(text: &str) -> HashMap<String, String> {
    let unquote = |v: &str| {
        for quote in ['"', '\''] {
            if let Some(inner) = v.strip_prefix(quote).and_then(|v| v.strip_suffix(quote)) {
                return inner.to_owned();
            }
        }
        v.split(" #").next().unwrap_or(v).trim_end().to_owned()
    };
    text.lines()
        .map(str::trim)
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| l.strip_prefix("export ").unwrap_or(l).split_once('='))
        .map(|(k, v)| (k.trim().to_owned(), unquote(v.trim())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn lookup() -> Lookup {
        Lookup {
            env: [("A", "one"), ("EMPTY", "")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            dotenv: parse_dotenv("# c\nA=other\nexport B='two # 2'\nC = \"three\" \nD=four # note\n"),
            dir: PathBuf::from("/nowhere"),
        }
    }

    #[rstest]
    #[case("plain", Ok("plain"))]
    #[case("${A}", Ok("one"))]
    #[case("<${A}|${B}|${C}|${D}>", Ok("<one|two # 2|three|four>"))]
    #[case("${NONE:-x:y}", Ok("x:y"))]
    #[case("${EMPTY:-x}", Ok("x"))]
    #[case("${EMPTY}", Ok(""))]
    #[case("$${A} $A", Ok("${A} $A"))]
    #[case("${NONE}", Err("NONE is not set"))]
    #[case("${A", Err("without its"))]
    #[case("${file:pw}", Err("/nowhere/pw"))]
    fn placeholders(#[case] text: &str, #[case] want: Result<&str, &str>) {
        match (lookup().interpolate(text), want) {
            (Ok((got, _)), Ok(want)) => assert_eq!(got, want),
            (Err(got), Err(want)) => assert!(got.contains(want), "{got}"),
            (got, want) => panic!("{got:?} instead of {want:?}"),
        }
    }

    #[test]
    fn each_placeholder_says_where_its_value_was_found() {
        let (_, origins) = lookup().interpolate("${A}${B}${NONE:-x}${EMPTY:-y}").unwrap();
        let said: Vec<String> = origins.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "A of the environment",
                "B of .env",
                "the default, as NONE is not set",
                "the default, as EMPTY is not set"
            ]
        );
    }

    #[test]
    fn a_file_gives_its_text_without_the_last_line_break() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pw"), "s3cret\n").unwrap();
        let lookup = Lookup { dir: dir.path().to_owned(), ..Lookup::default() };
        let (text, origins) = lookup.interpolate("${file:pw}").unwrap();
        assert_eq!((text.as_str(), origins[0].place), ("s3cret", Place::File));
    }
}
