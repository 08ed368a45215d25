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

/// `schema.table` with each part in quotes.
fn quoted(table: &str) -> String {
    let parts: Vec<String> = table.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect();
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
