//! The columns that a SELECT can read, by the words that stand in it: what it does not name need not be kept for it.

use std::collections::BTreeSet;

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

/// Columns by name. Some of them may not be read, but none is read that is not among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// There is a `*`, or a join on whatever columns two tables share.
    All,
    /// In lower case.
    Only(BTreeSet<String>),
}

impl Named {
    /// What the text names; everything where it can't be read.
    pub fn of(sql: &str) -> Self {
        let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize() else { return Self::All };
        let mut names = BTreeSet::new();
        let mut before: Option<&Token> = None;
        for token in tokens.iter().filter(|token| !matches!(token, Token::Whitespace(_))) {
            match token {
                Token::Word(word) if word.keyword == Keyword::NATURAL => return Self::All,
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
