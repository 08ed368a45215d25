//! The source database: whether it answers, and which of the selected topics are named after a table of it.

use super::report::Finding;
use crate::config::Config;
use crate::database::{Database, DatabaseError, Found};
use crate::source::kafka::inspect::Cluster;

/// Topics that are named one by one; of more the number has to do.
const NAMED: usize = 5;

pub(super) async fn check(config: &Config, cluster: &Cluster) -> Vec<Finding> {
    let Some(url) = config.source.url.as_ref() else { return Vec::new() };
    let subject = format!("source {url}");
    let failed = |e: &DatabaseError| {
        let todo = match e {
            DatabaseError::Settings(_) => "correct source.url: postgres://user:password@host:port/database",
            DatabaseError::Unavailable(_) => {
                "check source.url and that PostgreSQL runs; tables without a schema wait for it"
            }
            DatabaseError::Refused(_) => "firn needs to connect, and to read pg_catalog as any user may",
        };
        vec![Finding::fail(subject.clone(), e.to_string(), todo)]
    };
    let database = match Database::new(url.as_str()) {
        Ok(database) => database,
        Err(e) => return failed(&e),
    };
    if let Err(e) = database.probe().await {
        return failed(&e);
    }
    let (mut found, mut without) = (0, Vec::new());
    for topic in cluster.topics.keys().filter(|topic| config.selects(topic)) {
        match database.describe(topic, None).await {
            Ok(Found::Table(_)) => found += 1,
            Ok(Found::Nothing(_)) => without.push(topic.as_str()),
            Err(e) => return failed(&e),
        }
    }
    vec![judge(subject, found, &without)]
}

/// `found`: topics that it has a table for. `without`: the others.
fn judge(subject: String, found: usize, without: &[&str]) -> Finding {
    if without.is_empty() {
        return Finding::ok(subject, format!("answers; topics that are named after a table of it: {found}"));
    }
    let names = match without {
        few if few.len() <= NAMED => few.join(", "),
        many => format!("{} topics", many.len()),
    };
    Finding::warn(
        subject,
        format!("answers, and has no table that these are named after: {names}"),
        "fine where their records carry schemas, or are no rows; else declare the columns, or the values tell the types",
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn topics_without_a_table_are_named() {
        let said = |found, without: &[&str]| judge("source x".to_owned(), found, without);
        assert_eq!(said(2, &[]).verdict, Verdict::Ok);
        let few = said(1, &["p.a.b", "p.a.c"]);
        assert_eq!((few.verdict, few.found.ends_with("p.a.b, p.a.c")), (Verdict::Warn, true));
        assert!(said(1, &["t"; 9]).found.ends_with("9 topics"));
    }

    #[tokio::test]
    async fn a_database_that_is_away_is_named_with_what_to_do() {
        let text = "[kafka]\nbootstrap_servers = 'k:1'\n[catalog]\ntype = 'sql'\nuri = 'sqlite:x'\nwarehouse = 'w'\n\
                    [source]\nurl = 'postgres://firn@127.0.0.1:1/shop'\n[lake]\ntopics = ['a']";
        let lookup = crate::config::env::Lookup::default();
        let config = Config::parse(text, std::path::Path::new("firn.toml"), &lookup).unwrap();
        let findings = check(&config, &Cluster::default()).await;
        assert_eq!((findings.len(), findings[0].verdict), (1, Verdict::Fail));
        assert!(findings[0].subject == "source postgres://firn@127.0.0.1:1/shop", "{findings:?}");
        assert!(findings[0].todo.as_ref().unwrap().contains("source.url"));
    }
}
