//! The queries, on `pg_catalog` alone: any user who may connect may ask them.

use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::{Described, DescribedColumn, Found};

/// Tables whose name, as Debezium writes it in topics, is the end of the topic's; something has to stand before it.
const TABLES: &str = r"
SELECT current_database()::text AS database, t.oid::text AS oid, t.name
FROM (SELECT c.oid, n.nspname || '.' || c.relname AS name,
             '.' || regexp_replace(n.nspname || '.' || c.relname, '[^a-zA-Z0-9._-]', '_', 'g') AS ending
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'p') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%') t
WHERE right($1, length(t.ending)) = t.ending AND length($1) > length(t.ending)";

/// The columns in their order, domains taken down to their base types.
const COLUMNS: &str = r"
WITH RECURSIVE resolved AS (
    SELECT a.attnum, a.attname, a.atttypid AS type, a.atttypmod AS modifier
    FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
    SELECT r.attnum, r.attname, t.typbasetype, CASE t.typtypmod WHEN -1 THEN r.modifier ELSE t.typtypmod END
    FROM resolved r JOIN pg_catalog.pg_type t ON t.oid = r.type AND t.typtype = 'd')
SELECT r.attname::text AS name, r.modifier, e.oid IS NOT NULL AS is_array,
       CASE WHEN coalesce(e.typtype, t.typtype) = 'b' THEN coalesce(e.typname, t.typname)::text ELSE '' END AS type_name
FROM resolved r
JOIN pg_catalog.pg_type t ON t.oid = r.type AND t.typtype <> 'd'
LEFT JOIN pg_catalog.pg_type e ON e.typarray = t.oid
ORDER BY r.attnum";

pub(super) async fn describe(
    connection: &mut PgConnection,
    topic: &str,
    database: Option<&str>,
) -> Result<Found, sqlx::Error> {
    let mut tables = sqlx::query(TABLES).bind(topic).persistent(false).fetch_all(&mut *connection).await?;
    let Some(table) = tables.pop() else {
        return Ok(Found::Nothing("the source database has no table that the topic is named after".to_owned()));
    };
    let name: String = table.try_get("name")?;
    if let Some(other) = tables.pop() {
        let other: String = other.try_get("name")?;
        return Ok(Found::Nothing(format!("the topic could be named after {name} or {other} in the source database")));
    }
    let here: String = table.try_get("database")?;
    if let Some(database) = database.filter(|database| *database != here) {
        return Ok(Found::Nothing(format!("its records are of the database {database}, and source.url names {here}")));
    }
    let oid: String = table.try_get("oid")?;
    let columns = sqlx::query(COLUMNS).bind(oid).persistent(false).fetch_all(connection).await?;
    let column = |row: &sqlx::postgres::PgRow| {
        Ok(DescribedColumn {
            name: row.try_get("name")?,
            type_name: row.try_get("type_name")?,
            modifier: row.try_get("modifier")?,
            is_array: row.try_get("is_array")?,
        })
    };
    let columns = columns.iter().map(column).collect::<Result<_, sqlx::Error>>()?;
    Ok(Found::Table(Described { name, columns }))
}
