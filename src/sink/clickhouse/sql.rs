//! Names and values in statements.

/// A name in backticks.
pub(super) fn name(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// A text in quotes.
pub(super) fn text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// The names in an expression: words outside of quotes, those in backticks included. Functions are among them.
pub(super) fn words(expression: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut chars = expression.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                while let Some(c) = chars.next() {
                    match c {
                        '\\' => {
                            chars.next();
                        }
                        '\'' => break,
                        _ => {}
                    }
                }
            }
            '`' | '"' => words.push(chars.by_ref().take_while(|end| *end != c).collect()),
            c if c.is_alphanumeric() || c == '_' => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
                    word.push(c);
                }
                words.push(word);
            }
            _ => {}
        }
    }
    words
}

/// What stands between the commas of the outermost level.
pub(super) fn split_at_commas(list: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut begin, mut quote) = (Vec::new(), 0_i32, 0, None);
    for (i, c) in list.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '`' | '"') => quote = Some(c),
            (None, '(' | '[') => depth += 1,
            (None, ')' | ']') => depth -= 1,
            (None, ',') if depth == 0 => {
                parts.push(list[begin..i].trim());
                begin = i + 1;
            }
            _ => {}
        }
    }
    parts.push(list[begin..].trim());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_are_quoted() {
        assert_eq!(name("a`b"), "`a\\`b`");
        assert_eq!(text("it's \\"), "'it\\'s \\\\'");
    }

    #[test]
    fn words_are_found_outside_of_texts() {
        assert_eq!(words("toDate(event_ts, 'UTC it\\'s') + `a b`"), ["toDate", "event_ts", "a b"]);
    }

    #[test]
    fn commas_within_brackets_do_not_split() {
        assert_eq!(split_at_commas("toDate(a, 'x,y'), b , [1, 2]"), ["toDate(a, 'x,y')", "b", "[1, 2]"]);
    }
}
