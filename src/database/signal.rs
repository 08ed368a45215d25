//! Rows of the table that a connector takes signals from. Its three columns may have any names.

use sqlx::postgres::PgConnection;

pub(super) async fn insert(
    connection: &mut PgConnection,
    table: &str,
    id: &str,
    kind: &str,
    data: &str,
) -> Result<(), sqlx::Error> {
    let statement = format!("INSERT INTO {} VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", quoted(table));
    sqlx::query(&statement).bind(id).bind(kind).bind(data).persistent(false).execute(connection).await?;
    Ok(())
}

/// The ids of the table's rows that begin so, in their order.
pub(super) async fn ids(connection: &mut PgConnection, table: &str, begin: &str) -> Result<Vec<String>, sqlx::Error> {
    let mut columns = sqlx::query_scalar::<_, String>(
        "SELECT attname::text FROM pg_catalog.pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped \
         ORDER BY attnum LIMIT 1",
    )
    .bind(quoted(table))
    .persistent(false)
    .fetch_all(&mut *connection)
    .await?;
    let Some(id) = columns.pop().map(|name| quoted_name(&name)) else { return Ok(Vec::new()) };
    let statement = format!("SELECT {id}::text FROM {} WHERE starts_with({id}::text, $1) ORDER BY 1", quoted(table));
    sqlx::query_scalar(&statement).bind(begin).persistent(false).fetch_all(connection).await
}

fn quoted_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `schema.table` with each part in quotes.
fn quoted(table: &str) -> String {
    let parts: Vec<String> = table.split('.').map(quoted_name).collect();
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_named_exactly() {
        assert_eq!(quoted("debezium.signal"), r#""debezium"."signal""#);
        assert_eq!(quoted(r#"a"b.C"#), r#""a""b"."C""#);
    }
}
