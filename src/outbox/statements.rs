//! The SQL of an outbox: which table can be one, and what is asked of it. Pure.

use crate::config::OutboxConfig;

/// Columns of a table by schema and name; none where there is no such table.
pub(super) const COLUMNS: &str = r"
SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type,
       a.attnotnull AND EXISTS (
           SELECT FROM pg_catalog.pg_index i
           WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum AND i.indpred IS NULL
       ) AS is_unique,
       has_column_privilege(c.oid, a.attnum, 'SELECT') AS readable, has_column_privilege(c.oid, a.attnum, 'UPDATE') AS writable
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')
ORDER BY a.attnum";

/// A column as the catalog tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub name: String,
    /// As it may stand in a cast.
    pub type_name: String,
    /// Never null, and the only column of a unique index.
    pub is_unique: bool,
    pub readable: bool,
    pub writable: bool,
}

/// Those that are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    sent: Vec<String>,
    key_type: String,
}

impl Columns {
    /// # Errors
    /// The sentence for a person: what is wrong with the table, and the way out.
    pub fn fit(config: &OutboxConfig, columns: Vec<Column>) -> Result<Self, String> {
        let (schema, table) = config.table_parts();
        if columns.is_empty() {
            return Err(format!("there is no table {schema}.{table}"));
        }
        let find = |name: &str| {
            let known = || columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
            let found = columns.iter().find(|c| c.name == name);
            found.ok_or_else(|| format!("{schema}.{table} has no column {name}; there are: {}", known()))
        };
        let (key, flag) = (find(&config.key)?, find(&config.flag)?);
        if !key.is_unique {
            return Err(format!(
                "{schema}.{table}: {} does not tell rows apart: it needs NOT NULL and a unique index of its own",
                key.name
            ));
        }
        if flag.type_name != "boolean" {
            return Err(format!("{schema}.{table}: {} is {}, and has to be boolean", flag.name, flag.type_name));
        }
        let sent: Vec<&Column> = match config.columns.as_slice() {
            [] => columns.iter().filter(|c| c.name != config.flag).collect(),
            some => some.iter().map(|name| find(name)).collect::<Result<_, _>>()?,
        };
        let message_key = config.message_key.as_deref().map(find).transpose()?;
        if let Some(hidden) =
            [key, flag].into_iter().chain(message_key).chain(sent.iter().copied()).find(|c| !c.readable)
        {
            return Err(format!("{schema}.{table}: the user may not read {}: grant SELECT", hidden.name));
        }
        if !flag.writable {
            return Err(format!("{schema}.{table}: the user may not set {0}: grant UPDATE ({0})", flag.name));
        }
        Ok(Self { sent: sent.into_iter().map(|c| c.name.clone()).collect(), key_type: key.type_name.clone() })
    }
}

/// Rows up to which a backlog is counted: more are as bad, and take the database longer.
const MOST_COUNTED: u32 = 100_000;

/// What one outbox asks of its database.
#[derive(Clone, Debug)]
pub(super) struct Statements {
    /// The table of positions.
    pub make_state: String,
    /// Whether it is there and may be written; whether it may be made.
    pub state_rights: String,
    /// Of the outbox, the owner, the topic and the transactional id: the row, now the owner's.
    pub take_over: String,
    /// Of the outbox and the owner: the row, if it is the owner's.
    pub take_again: String,
    /// At most so many rows, without these keys.
    pub unsent: String,
    /// How many there are of them, up to [`MOST_COUNTED`].
    pub backlog: String,
    /// Of the outbox and the owner: topic, its id, transactional id, position.
    pub settle: String,
    /// The rows of these keys.
    pub mark: String,
    /// One of these keys whose row is not marked.
    pub unmarked: String,
}

impl Statements {
    pub fn new(config: &OutboxConfig, columns: &Columns) -> Self {
        let (schema, table) = config.table_parts();
        let state = format!("{}._firn_outbox", quoted(schema));
        let table = format!("{}.{}", quoted(schema), quoted(table));
        let (key, flag) = (quoted(&config.key), quoted(&config.flag));
        let message_key = quoted(config.message_key.as_ref().unwrap_or(&config.key));
        let sent: Vec<String> = columns.sent.iter().map(|name| format!("t.{}", quoted(name))).collect();
        let keys = |n: u8| format!("${n}::text[]::{}[]", columns.key_type);
        let row = "topic, topic_id, transactional_id, next::text AS next";
        Self {
            make_state: format!(
                "CREATE TABLE {state} (name text PRIMARY KEY, owner text NOT NULL, topic text NOT NULL, topic_id text, \
                 transactional_id text NOT NULL, next jsonb, updated_at timestamptz NOT NULL DEFAULT now())"
            ),
            state_rights: format!(
                "SELECT coalesce(has_table_privilege(to_regclass({0}), 'SELECT') AND has_table_privilege(to_regclass({0}), 'INSERT') \
                 AND has_table_privilege(to_regclass({0}), 'UPDATE'), false), \
                 to_regclass({0}) IS NULL AND has_schema_privilege({1}, 'CREATE')",
                literal(&state),
                literal(schema)
            ),
            take_over: format!(
                "INSERT INTO {state} (name, owner, topic, transactional_id) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, updated_at = now() RETURNING {row}"
            ),
            take_again: format!("UPDATE {state} SET updated_at = now() WHERE name = $1 AND owner = $2 RETURNING {row}"),
            unsent: format!(
                "SELECT t.{key}::text, t.{message_key}::text, (SELECT row_to_json(v) FROM (SELECT {}) v)::text FROM {table} t \
                 WHERE t.{flag} IS NOT TRUE AND NOT t.{key} = ANY({}) ORDER BY t.{key} LIMIT $1",
                sent.join(", "),
                keys(2)
            ),
            backlog: format!(
                "SELECT count(*) FROM (SELECT 1 FROM {table} t WHERE t.{flag} IS NOT TRUE AND NOT t.{key} = ANY({}) \
                 LIMIT {MOST_COUNTED}) counted",
                keys(1)
            ),
            settle: format!(
                "UPDATE {state} SET topic = $3, topic_id = $4, transactional_id = $5, next = $6::jsonb, updated_at = now() \
                 WHERE name = $1 AND owner = $2"
            ),
            mark: format!("UPDATE {table} SET {flag} = true WHERE {key} = ANY({}) AND {flag} IS NOT TRUE", keys(1)),
            unmarked: format!(
                "SELECT {key}::text FROM {table} WHERE {key} = ANY({}) AND {flag} IS NOT TRUE LIMIT 1",
                keys(1)
            ),
        }
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn config(more: &str) -> OutboxConfig {
        let text = format!("name = 'o'\ntable = 'app.user_login'\nflag = 'sent'\ntopic = 't'\n{more}");
        toml::from_str(&text).unwrap()
    }

    fn table() -> Vec<Column> {
        let column = |name: &str, type_name: &str| Column {
            name: name.to_owned(),
            type_name: type_name.to_owned(),
            is_unique: name == "id",
            readable: name != "secret",
            writable: name == "sent",
        };
        vec![column("id", "bigint"), column("na\"me", "text"), column("sent", "boolean")]
    }

    #[test]
    fn all_columns_but_the_flag_are_sent_and_keys_are_compared_as_their_type() {
        let config = config("");
        let sql = Statements::new(&config, &Columns::fit(&config, table()).unwrap());
        assert!(sql.unsent.contains(r#"SELECT t."id", t."na""me") v"#), "{}", sql.unsent);
        assert!(sql.mark.contains(r#""id" = ANY($1::text[]::bigint[])"#), "{}", sql.mark);
    }

    #[rstest]
    #[case("key = 'no'", "has no column no; there are: id, na\"me, sent")]
    #[case("key = 'na\"me'", "does not tell rows apart")]
    #[case("flag = 'id'\nkey = 'sent'", "does not tell rows apart")]
    #[case("columns = ['id', 'x']", "has no column x")]
    #[case("message_key = 'y'", "has no column y")]
    fn a_table_that_can_be_no_outbox_is_told_why(#[case] more: &str, #[case] want: &str) {
        let text = "name = 'o'\ntable = 'app.user_login'\ntopic = 't'\n";
        let more = if more.contains("flag") { more.to_owned() } else { format!("flag = 'sent'\n{more}") };
        let config: OutboxConfig = toml::from_str(&format!("{text}{more}")).unwrap();
        let said = Columns::fit(&config, table()).unwrap_err();
        assert!(said.contains(want), "{said}");
    }

    #[test]
    fn rights_that_are_missing_are_named() {
        let mut columns = table();
        columns[2].writable = false;
        assert!(Columns::fit(&config(""), columns).unwrap_err().contains("grant UPDATE (sent)"));
        let mut columns = table();
        columns[1].readable = false;
        assert!(Columns::fit(&config(""), columns).unwrap_err().contains("grant SELECT"));
        assert!(Columns::fit(&config(""), Vec::new()).unwrap_err().contains("no table app.user_login"));
    }
}
