//! Which topics are read, and what their tables are called. One stated mapping, since Hive and Trino fold case and know no
//! dots or hyphens in names: upper case becomes lower case, every other character outside `[a-z0-9_]` becomes `_`.
//!
//! | topic | prefix | database | schema | table |
//! |---|---|---|---|---|
//! | `server.inventory.orders` | `server` | `inventory` | `inventory` | `orders` |
//! | `server.db1.dbo.orders` | `server` | `db1` | `dbo` | `orders` |
//! | `a.b.db1.dbo.orders` | `a.b` | `db1` | `dbo` | `orders` |
//! | `server.orders` | `server` | `server` | `server` | `orders` |
//! | `orders` | `default` | `default` | `default` | `orders` |

use regex::Regex;

/// Lower case, and `_` for what a table name can't hold.
pub fn fold(name: &str) -> String {
    name.chars()
        .map(|c| match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9' | '_') => c,
            _ => '_',
        })
        .collect()
}

/// The parts of a Debezium topic name. See the table at the top of the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicParts<'a> {
    pub topic: &'a str,
    pub prefix: &'a str,
    pub database: &'a str,
    pub schema: &'a str,
    pub table: &'a str,
}

impl<'a> TopicParts<'a> {
    pub fn of(topic: &'a str) -> Self {
        // The namespace that Hive and Trino have from the start.
        const NONE: &str = "default";
        let Some((before, table)) = topic.rsplit_once('.') else {
            return Self { topic, prefix: NONE, database: NONE, schema: NONE, table: topic };
        };
        let Some((before, schema)) = before.rsplit_once('.') else {
            return Self { topic, prefix: before, database: before, schema: before, table };
        };
        match before.rsplit_once('.') {
            None => Self { topic, prefix: before, database: schema, schema, table },
            Some((prefix, database)) => Self { topic, prefix, database, schema, table },
        }
    }
}

/// The placeholders of a name template.
pub const PLACEHOLDERS: [&str; 5] = ["topic", "prefix", "database", "schema", "table"];

/// Fills a template such as `{schema}` or `raw_{table}` and folds the result.
pub fn render(template: &str, parts: &TopicParts<'_>) -> String {
    let mut name = template.to_owned();
    for (placeholder, value) in
        PLACEHOLDERS.iter().zip([parts.topic, parts.prefix, parts.database, parts.schema, parts.table])
    {
        name = name.replace(&format!("{{{placeholder}}}"), value);
    }
    fold(&name)
}

/// # Errors
/// The sentence for a person, when a placeholder is unknown or a letter can't stand in a name.
pub fn check_template(template: &str) -> Result<(), String> {
    let mut literal = template.to_owned();
    for placeholder in PLACEHOLDERS {
        literal = literal.replace(&format!("{{{placeholder}}}"), "x");
    }
    if literal.is_empty() {
        return Err("must not be empty".to_owned());
    }
    match literal.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '.' | '-')) {
        None => Ok(()),
        Some('{' | '}') => {
            Err(format!("`{template}` has an unknown placeholder, there are: {{{}}}", PLACEHOLDERS.join("}, {")))
        }
        Some(c) => Err(format!("`{template}` holds `{c}`, which can't stand in a table name")),
    }
}

/// A topic name, where `*` stands for any characters and `?` for one.
#[derive(Clone, Debug)]
pub struct Glob {
    text: String,
    regex: Regex,
}

impl Glob {
    /// # Errors
    /// The sentence for a person, when the text holds what no topic name can hold.
    pub fn new(text: &str) -> Result<Self, String> {
        let wrong = |c: &char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-' | '*' | '?');
        if text.is_empty() {
            return Err("a topic must not be empty".to_owned());
        }
        if let Some(c) = text.chars().find(wrong) {
            return Err(format!(
                "`{text}` holds `{c}`: a topic is letters, digits, `.`, `_`, `-`, with `*` and `?` as wildcards"
            ));
        }
        let pattern = text.replace('.', r"\.").replace('*', ".*").replace('?', ".");
        let regex = whole(&pattern)?;
        Ok(Self { text: text.to_owned(), regex })
    }

    /// A pattern never takes Kafka's own topics (`__consumer_offsets` ...); an exact name may.
    pub fn matches(&self, topic: &str) -> bool {
        if self.is_exact() { self.text == topic } else { !topic.starts_with("__") && self.regex.is_match(topic) }
    }

    pub fn is_exact(&self) -> bool {
        !self.text.contains(['*', '?'])
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// A regular expression that has to match the whole topic name.
pub(super) fn whole(pattern: &str) -> Result<Regex, String> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(|e| {
        // The last line of a syntax error is its reason; the others draw the pattern.
        let text = e.to_string();
        format!("`{pattern}` is not a regular expression: {}", text.lines().last().unwrap_or_default())
    })
}

/// The compiled selection of topics.
#[derive(Clone, Debug)]
pub struct Selection {
    globs: Vec<Glob>,
    regex: Option<Regex>,
}

impl Selection {
    pub(super) fn new(globs: Vec<Glob>, regex: Option<Regex>) -> Self {
        Self { globs, regex }
    }

    pub fn matches(&self, topic: &str) -> bool {
        self.globs.iter().any(|g| g.matches(topic))
            || (!topic.starts_with("__") && self.regex.as_ref().is_some_and(|r| r.is_match(topic)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("inventory-server.inventory.Order-Items", "{schema}", "inventory")]
    #[case("inventory-server.inventory.Order-Items", "{table}", "order_items")]
    #[case("inventory-server.inventory.orders", "{prefix}_{schema}", "inventory_server_inventory")]
    #[case("inventory-server.inventory.orders", "{topic}", "inventory_server_inventory_orders")]
    #[case("srv.db1.dbo.T$1", "{database}__{schema}", "db1__dbo")]
    #[case("a.b.db1.dbo.t", "{prefix}", "a_b")]
    #[case("srv.t", "{schema}.{table}", "srv_t")]
    #[case("orders", "{schema}", "default")]
    #[case("orders", "Raw-{table}", "raw_orders")]
    fn a_name_is_one_stated_mapping_of_the_topic(#[case] topic: &str, #[case] template: &str, #[case] want: &str) {
        check_template(template).unwrap();
        assert_eq!(render(template, &TopicParts::of(topic)), want);
    }

    #[rstest]
    #[case("{tabel}", "there are: {topic}, {prefix}")]
    #[case("a b", "`a b` holds ` `")]
    #[case("", "empty")]
    fn a_wrong_template_says_so(#[case] template: &str, #[case] want: &str) {
        let message = check_template(template).unwrap_err();
        assert!(message.contains(want), "{message}");
    }

    #[rstest]
    #[case("a.b.*", "a.b.c", true)]
    #[case("a.b.*", "a.b.c.d", true)]
    #[case("a.b.*", "axb.c", false)]
    #[case("a.b.?", "a.b.cd", false)]
    #[case("*", "__consumer_offsets", false)]
    #[case("__consumer_offsets", "__consumer_offsets", true)]
    #[case("a.b", "a.b", true)]
    #[case("a.b", "a.bc", false)]
    fn globs(#[case] glob: &str, #[case] topic: &str, #[case] want: bool) {
        assert_eq!(Glob::new(glob).unwrap().matches(topic), want);
    }
}
