//! Column types as text, as Iceberg writes them: `long`, `decimal(10,2)`, `list<string>`, `struct<a: int, b: string>`.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::change::{Column, ColumnType};
use crate::config::error::nearest;

/// How a column's values are written, where neither the record nor the column's type tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Integers of a time, timestamp or timestamptz column count milliseconds.
    Ms,
    /// Microseconds: what they count unless declared.
    Us,
    /// Nanoseconds.
    Ns,
    /// Strings of a decimal column are written numbers, also where base64 could be meant.
    Text,
    /// Strings of a binary column are hexadecimal digits, not base64.
    Hex,
}

/// The types without parameters, under Iceberg's names.
const PLAIN: [(&str, ColumnType); 13] = [
    ("boolean", ColumnType::Boolean),
    ("int", ColumnType::Int),
    ("long", ColumnType::Long),
    ("float", ColumnType::Float),
    ("double", ColumnType::Double),
    ("date", ColumnType::Date),
    ("time", ColumnType::Time),
    ("timestamp", ColumnType::Timestamp),
    ("timestamptz", ColumnType::TimestampTz),
    ("string", ColumnType::String),
    ("uuid", ColumnType::Uuid),
    ("binary", ColumnType::Binary),
    ("bytes", ColumnType::Binary),
];

/// Names that people bring from SQL engines.
const KNOWN_ELSEWHERE: [(&str, &str); 10] = [
    ("bigint", "long"),
    ("integer", "int"),
    ("smallint", "int"),
    ("bool", "boolean"),
    ("real", "float"),
    ("varchar", "string"),
    ("text", "string"),
    ("varbinary", "binary"),
    ("numeric", "decimal(precision,scale)"),
    ("array", "list<type>"),
];

/// A type text that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColumnTypeError {
    #[error("unknown type `{name}`{hint}")]
    Unknown { name: String, hint: String },
    #[error("type `{text}` breaks off at `{rest}`, expected {expected}")]
    Syntax { text: String, rest: String, expected: &'static str },
    #[error("decimal({precision},{scale}) does not exist: precision is 1 to 38, scale at most the precision")]
    Decimal { precision: u8, scale: u8 },
    #[error("map keys are strings: map<string, type>")]
    MapKey,
}

impl FromStr for ColumnType {
    type Err = ColumnTypeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parser = Parser { text, rest: text.trim_start() };
        let parsed = parser.column_type()?;
        if parser.rest.is_empty() { Ok(parsed) } else { Err(parser.expected("nothing more")) }
    }
}

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn expected(&self, expected: &'static str) -> ColumnTypeError {
        ColumnTypeError::Syntax { text: self.text.to_owned(), rest: self.rest.to_owned(), expected }
    }

    fn eat(&mut self, token: &'static str) -> Result<(), ColumnTypeError> {
        let rest = self.rest.strip_prefix(token).ok_or_else(|| self.expected(token))?;
        self.rest = rest.trim_start();
        Ok(())
    }

    fn word(&mut self) -> &'a str {
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        word
    }

    fn number(&mut self) -> Result<u8, ColumnTypeError> {
        let before = self.rest;
        self.word().parse().map_err(|_| {
            self.rest = before;
            self.expected("a number")
        })
    }

    fn column_type(&mut self) -> Result<ColumnType, ColumnTypeError> {
        let name = self.word();
        match name.to_ascii_lowercase().as_str() {
            "decimal" => {
                self.eat("(")?;
                let precision = self.number()?;
                self.eat(",")?;
                let scale = self.number()?;
                self.eat(")")?;
                if !(1..=38).contains(&precision) || scale > precision {
                    return Err(ColumnTypeError::Decimal { precision, scale });
                }
                Ok(ColumnType::Decimal { precision, scale })
            }
            "list" => {
                self.eat("<")?;
                let element = self.column_type()?;
                self.eat(">")?;
                Ok(ColumnType::List(Box::new(element)))
            }
            "map" => {
                self.eat("<")?;
                if self.column_type()? != ColumnType::String {
                    return Err(ColumnTypeError::MapKey);
                }
                self.eat(",")?;
                let value = self.column_type()?;
                self.eat(">")?;
                Ok(ColumnType::Map(Box::new(value)))
            }
            "struct" => {
                self.eat("<")?;
                let mut columns = Vec::new();
                loop {
                    let name = self.word();
                    if name.is_empty() {
                        return Err(self.expected("a field name"));
                    }
                    self.eat(":")?;
                    columns.push(Column::new(name, self.column_type()?));
                    if self.eat(",").is_err() {
                        break;
                    }
                }
                self.eat(">")?;
                Ok(ColumnType::Struct(columns))
            }
            lower => PLAIN.iter().find(|(n, _)| *n == lower).map(|(_, t)| t.clone()).ok_or_else(|| unknown(name)),
        }
    }
}

fn unknown(name: &str) -> ColumnTypeError {
    let lower = name.to_ascii_lowercase();
    let elsewhere = KNOWN_ELSEWHERE.iter().find(|(n, _)| *n == lower).map(|(_, right)| *right);
    let names = PLAIN.iter().map(|(n, _)| *n).chain(["decimal", "list", "map", "struct"]);
    let hint = match elsewhere.or_else(|| nearest(name, names.clone())) {
        Some(right) => format!(", did you mean `{right}`?"),
        None => format!(", there are: {}", names.collect::<Vec<_>>().join(", ")),
    };
    ColumnTypeError::Unknown { name: name.to_owned(), hint }
}

/// `{ id = "long", name = "string" }`, in the order in which it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeclaredColumns(pub Vec<(String, ColumnType)>);

impl<'de> Deserialize<'de> for DeclaredColumns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = DeclaredColumns;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("columns as in { id = \"long\", name = \"string\" }")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<DeclaredColumns, A::Error> {
                let mut columns = Vec::new();
                while let Some((name, text)) = map.next_entry::<String, String>()? {
                    let parsed = text.parse().map_err(|e| serde::de::Error::custom(format!("column {name}: {e}")))?;
                    columns.push((name, parsed));
                }
                Ok(DeclaredColumns(columns))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

impl Serialize for DeclaredColumns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, column_type)| (name, column_type.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("long")]
    #[case("timestamptz")]
    #[case("decimal(10,2)")]
    #[case("list<map<string, double>>")]
    #[case("struct<a: int, b: list<string>, c: struct<d: uuid>>")]
    fn a_type_reads_back_as_it_prints(#[case] text: &str) {
        assert_eq!(text.parse::<ColumnType>().unwrap().to_string(), text);
    }

    #[rstest]
    #[case(" Decimal( 10 , 2 ) ", ColumnType::Decimal { precision: 10, scale: 2 })]
    #[case("bytes", ColumnType::Binary)]
    #[case("list< STRING >", ColumnType::List(Box::new(ColumnType::String)))]
    fn case_and_blanks_do_not_matter(#[case] text: &str, #[case] want: ColumnType) {
        assert_eq!(text.parse::<ColumnType>().unwrap(), want);
    }

    #[rstest]
    #[case("timestamp_tz", "did you mean `timestamptz`?")]
    #[case("bigint", "did you mean `long`?")]
    #[case("qqq", "there are: boolean, int")]
    #[case("decimal(39,2)", "precision is 1 to 38")]
    #[case("decimal(x,2)", "expected a number")]
    #[case("list<int", "expected >")]
    #[case("int int", "expected nothing more")]
    #[case("map<int, string>", "map keys are strings")]
    #[case("struct<>", "expected a field name")]
    fn a_wrong_type_says_what_is_wrong(#[case] text: &str, #[case] want: &str) {
        let message = text.parse::<ColumnType>().unwrap_err().to_string();
        assert!(message.contains(want), "{message}");
    }
}
