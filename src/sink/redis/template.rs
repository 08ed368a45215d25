//! Keys, members and values with the row's values in them: `content_summary:{content_id}`.

use std::fmt;
use std::str::FromStr;

/// Text with `{column}` in it; `{{` and `}}` stand for one brace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Literal(String),
    Column(String),
}

impl Template {
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A template that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("must not be empty")]
    Empty,
    #[error("`{text}` has a `{brace}` without its partner: write `{brace}{brace}` for the character itself")]
    Unpaired { text: String, brace: char },
    #[error("`{text}` has `{{}}` without a column's name in it")]
    Nameless { text: String },
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let unpaired = |brace| TemplateError::Unpaired { text: text.to_owned(), brace };
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            literal.push_str(before);
            if let Some(after) = brace.strip_prefix("{{").or_else(|| brace.strip_prefix("}}")) {
                literal.push_str(&brace[..1]);
                rest = after;
                continue;
            }
            let inside = brace.strip_prefix('{').ok_or_else(|| unpaired('}'))?;
            let (name, after) = inside.split_once('}').ok_or_else(|| unpaired('{'))?;
            if name.contains('{') {
                return Err(unpaired('{'));
            }
            if name.is_empty() {
                return Err(TemplateError::Nameless { text: text.to_owned() });
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(Part::Column(name.to_owned()));
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        if parts.is_empty() {
            return Err(TemplateError::Empty);
        }
        Ok(Self { text: text.to_owned(), parts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn literal(text: &str) -> Part {
        Part::Literal(text.to_owned())
    }

    fn column(name: &str) -> Part {
        Part::Column(name.to_owned())
    }

    #[rstest]
    #[case("plain", vec![literal("plain")])]
    #[case("content:{id}", vec![literal("content:"), column("id")])]
    #[case("{a}{b}:x", vec![column("a"), column("b"), literal(":x")])]
    #[case("{{{a}}}", vec![literal("{"), column("a"), literal("}")])]
    #[case("a}}b", vec![literal("a}b")])]
    fn parts_are_told_apart(#[case] text: &str, #[case] want: Vec<Part>) {
        let template: Template = text.parse().unwrap();
        assert_eq!(template.parts(), want);
        assert_eq!(template.to_string(), text);
    }

    #[rstest]
    #[case("", TemplateError::Empty)]
    #[case("a{b", TemplateError::Unpaired { text: "a{b".into(), brace: '{' })]
    #[case("a}b", TemplateError::Unpaired { text: "a}b".into(), brace: '}' })]
    #[case("{a{b}", TemplateError::Unpaired { text: "{a{b}".into(), brace: '{' })]
    #[case("{}", TemplateError::Nameless { text: "{}".into() })]
    fn broken_ones_are_refused(#[case] text: &str, #[case] want: TemplateError) {
        assert_eq!(text.parse::<Template>(), Err(want));
    }
}
