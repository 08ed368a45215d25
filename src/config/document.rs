//! From TOML text to a typed value: placeholders filled in, secrets kept out of the file, every error with its line.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::env::{Lookup, Origin, has_placeholder};
use super::error::{Problem, friendly};
use super::secret::{is_secret, password_in};

/// A problem with its line (from 1).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AtLine {
    pub line: usize,
    pub message: String,
}

/// Where each key stands in the text, so that checks made after parsing can name a line.
#[derive(Debug, Default)]
pub(super) struct Lines(BTreeMap<String, usize>);

impl Lines {
    /// The line of the field or of its nearest parent that is in the text.
    pub fn locate(&self, problem: Problem) -> AtLine {
        let mut path = problem.field.as_str();
        let line = loop {
            if let Some(line) = self.0.get(path) {
                break *line;
            }
            match path.rfind(['.', '[']) {
                Some(at) => path = path.get(..at).unwrap_or_default(),
                None => break 1,
            }
        };
        AtLine { line, message: format!("{}: {}", problem.field, problem.message) }
    }
}

/// Where values came from that the text does not hold itself, by their keys.
pub(super) type Origins = BTreeMap<String, Vec<Origin>>;

/// # Errors
/// On TOML syntax, an unset variable, a secret written literally, an unknown key or a value of the wrong type.
pub(super) fn read<T: DeserializeOwned>(text: &str, lookup: &Lookup) -> Result<(T, Lines, Origins), AtLine> {
    let line_at = |offset: usize| text.get(..offset).map_or(1, |before| before.matches('\n').count() + 1);
    let located = |e: &toml::de::Error| AtLine {
        line: e.span().map_or(1, |span| line_at(span.start)),
        message: friendly(e.message()),
    };
    let mut document = DeTable::parse(text).map_err(|e| located(&e))?;
    let mut walk = Walk { lookup, line_at: &line_at, lines: Lines::default(), origins: Origins::new() };
    walk.table("", document.get_mut())?;
    let Walk { lines, origins, .. } = walk;
    let typed = T::deserialize(toml::Deserializer::from(document)).map_err(|e| located(&e))?;
    Ok((typed, lines, origins))
}

/// Whether a key is a name of a table's or a column's there: a column may be called `password`.
fn names_columns(path: &str) -> bool {
    let of_columns = || path.contains(".columns.") || path.contains(".encodings.");
    path.starts_with("lake.") || path.starts_with("pipelines[") && of_columns()
}

struct Walk<'a> {
    lookup: &'a Lookup,
    line_at: &'a dyn Fn(usize) -> usize,
    lines: Lines,
    origins: Origins,
}

impl Walk<'_> {
    fn table(&mut self, path: &str, table: &mut DeTable<'_>) -> Result<(), AtLine> {
        for (key, value) in table.iter_mut() {
            let line = (self.line_at)(key.span().start);
            let name = key.get_ref().as_ref();
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            self.lines.0.insert(path.clone(), line);
            self.value(&path, name, value)?;
        }
        Ok(())
    }

    fn value(&mut self, path: &str, key: &str, value: &mut Spanned<DeValue<'_>>) -> Result<(), AtLine> {
        let line = (self.line_at)(value.span().start);
        match value.get_mut() {
            DeValue::Table(table) => self.table(path, table),
            DeValue::Array(items) => {
                for (i, item) in items.iter_mut().enumerate() {
                    let path = format!("{path}[{i}]");
                    self.lines.0.insert(path.clone(), (self.line_at)(item.span().start));
                    self.value(&path, key, item)?;
                }
                Ok(())
            }
            DeValue::String(text) => {
                let at = |message: String| AtLine { line, message: format!("{path}: {message}") };
                let secret = is_secret(key) && !names_columns(path) && !text.is_empty();
                let literal_password = password_in(text).is_some_and(|p| !has_placeholder(p));
                if (secret && !has_placeholder(text)) || literal_password {
                    return Err(at("a secret must not stand in this file: write \"${NAME}\" and set NAME in the \
                         environment or in .env, or write \"${file:/path}\""
                        .to_owned()));
                }
                if has_placeholder(text) || text.contains("$${") {
                    let (value, origins) = self.lookup.interpolate(text).map_err(at)?;
                    *text = value.into();
                    if !origins.is_empty() {
                        self.origins.insert(path.to_owned(), origins);
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
