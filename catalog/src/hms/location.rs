//! Where new databases and tables are put. Pure.

/// The folder of a new database.
pub(super) fn database(warehouse: &str, database: &str) -> String {
    format!("{}/{database}.db", trimmed(warehouse))
}

/// The folder of a new table: in its database's, unless that one lies in another kind of storage than the warehouse (a metastore gives
/// `default` a folder of its own machine).
pub(super) fn table(warehouse: &str, database_name: &str, database_location: Option<&str>, table: &str) -> String {
    match database_location.map(trimmed).filter(|l| storage(l) == storage(warehouse)) {
        // Java prints file locations with one slash.
        Some(location) => match location.strip_prefix("file:/") {
            Some(path) => format!("file:///{}/{table}", path.trim_start_matches('/')),
            None => format!("{location}/{table}"),
        },
        None => format!("{}/{table}", database(warehouse, database_name)),
    }
}

/// `s3`, `s3a` and `s3n` name one storage; a plain path is a file.
fn storage(location: &str) -> &str {
    match location.split_once(':') {
        Some(("s3" | "s3a" | "s3n", _)) => "s3",
        Some((scheme, _)) => scheme,
        None => "file",
    }
}

fn trimmed(location: &str) -> &str {
    location.trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    #[rstest]
    #[case("s3://b/wh/", Some("s3://b/wh/d.db"), "s3://b/wh/d.db/t")]
    #[case("s3://b/wh", Some("s3a://other/d/"), "s3a://other/d/t")]
    #[case("s3://b/wh", Some("file:/opt/hive/warehouse"), "s3://b/wh/d.db/t")]
    #[case("s3://b/wh", None, "s3://b/wh/d.db/t")]
    #[case("file:///wh", Some("file:/wh/d.db"), "file:///wh/d.db/t")]
    #[case("/wh", Some("file:/wh/d.db"), "file:///wh/d.db/t")]
    fn a_table_goes_to_its_database_unless_that_lies_elsewhere(
        #[case] warehouse: &str,
        #[case] db: Option<&str>,
        #[case] want: &str,
    ) {
        assert_eq!(super::table(warehouse, "d", db, "t"), want);
    }
}
