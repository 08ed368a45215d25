//! The columns that a SELECT can read, by the words that stand in it: what it does not name need not be kept for it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{TableFactor, Visit, Visitor};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

/// Columns by name. Some of them may not be read, but none is read that is not among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// There is a `*`, a DISTINCT ON (whose `*` looks like a product), a join on whatever columns two tables share, or a table whose
    /// columns are named anew by their places.
    All,
    /// In lower case.
    Only(BTreeSet<String>),
}

impl Named {
    /// What the text names; everything where it can't be read.
    pub fn of(sql: &str) -> Self {
        let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize() else { return Self::All };
        let Ok(statements) = Parser::parse_sql(&GenericDialect {}, sql) else { return Self::All };
        if statements.visit(&mut NamedAnew).is_break() {
            return Self::All;
        }
        let mut names = BTreeSet::new();
        let mut before: Option<&Token> = None;
        for token in tokens.iter().filter(|token| !matches!(token, Token::Whitespace(_))) {
            match token {
                Token::Word(word) if word.keyword == Keyword::NATURAL => return Self::All,
                Token::Word(word) if word.keyword == Keyword::ON && before.is_some_and(is_distinct) => {
                    return Self::All;
                }
                Token::Word(word) => {
                    names.insert(word.value.to_lowercase());
                }
                Token::Mul if !before.is_some_and(is_factor) => return Self::All,
                _ => {}
            }
            before = Some(token);
        }
        Self::Only(names)
    }

    pub fn has(&self, column: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(&column.to_lowercase()),
        }
    }
}

/// Finds a table whose alias names its columns too: `content AS c(a, b)`.
struct NamedAnew;

impl Visitor for NamedAnew {
    type Break = ();

    fn pre_visit_table_factor(&mut self, table: &TableFactor) -> ControlFlow<()> {
        match table {
            TableFactor::Table { alias: Some(alias), .. }
            | TableFactor::Derived { alias: Some(alias), .. }
            | TableFactor::NestedJoin { alias: Some(alias), .. }
                if !alias.columns.is_empty() =>
            {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

fn is_distinct(token: &Token) -> bool {
    matches!(token, Token::Word(word) if word.keyword == Keyword::DISTINCT)
}

/// Whether a `*` behind it multiplies, or stands in `count(*)`.
fn is_factor(token: &Token) -> bool {
    match token {
        Token::Word(word) => !matches!(word.keyword, Keyword::SELECT | Keyword::DISTINCT | Keyword::ALL),
        Token::Number(..) | Token::SingleQuotedString(_) | Token::RParen | Token::RBracket | Token::LParen => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::every_column("SELECT * FROM c")]
    #[case::of_one_table("SELECT e.id, c.* FROM e JOIN c USING (id)")]
    #[case::behind_a_comma("SELECT 1, * FROM c")]
    #[case::without_doubles("SELECT DISTINCT * FROM c")]
    #[case::the_first_of_each("SELECT DISTINCT ON (c.id) * FROM c")]
    #[case::by_their_places("SELECT e.id, c.b FROM e JOIN content AS c(a, b) ON e.id = c.a")]
    #[case::by_their_places_within("SELECT e.id FROM e WHERE e.id IN (SELECT d.b FROM c AS d(a, b))")]
    #[case::by_their_places_before("WITH j AS (SELECT d.b FROM c AS d(a, b)) SELECT j.b FROM j")]
    #[case::whatever_they_share("SELECT title FROM e NATURAL JOIN c")]
    #[case::no_sql("SELECT 'open")]
    fn all_columns_are_kept(#[case] sql: &str) {
        assert_eq!(Named::of(sql), Named::All);
    }

    #[test]
    fn what_is_not_named_is_not_kept() {
        let sql = "SELECT e.after.id, c.\"Title\" AS t, count(*), 2 * c.length * (1) * 3 -- slug\n \
                   FROM e LEFT JOIN c ON e.ID = c.id AND c._firn_since <= 1 WHERE c.kind = 'size'";
        let named = Named::of(sql);
        for column in ["id", "Title", "length", "kind", "_firn_since"] {
            assert!(named.has(column), "{column}");
        }
        for column in ["slug", "size", "_firn_topic", "_firn_offset"] {
            assert!(!named.has(column), "{column}");
        }
    }
}
