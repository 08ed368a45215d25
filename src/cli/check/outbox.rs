//! The outboxes: their tables, the rights on them, their topics.

use super::report::Finding;
use crate::config::Config;
use crate::outbox::{self, Error};

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for outbox in &config.outbox {
        let subject = format!("outbox {}", outbox.name);
        findings.push(match outbox::probe(config, outbox).await {
            Ok(said) => Finding::ok(subject, said),
            Err(e) => {
                let todo = match &e {
                    Error::Settings(_) | Error::Refused(_) => "correct url under [[outbox]], or source.url",
                    Error::Database(_) => "check that PostgreSQL runs, and the url",
                    Error::Table(_) => "correct table, key, flag and columns under [[outbox]], or the rights",
                    _ => "check [kafka]",
                };
                Finding::fail(subject, e.to_string(), todo)
            }
        });
    }
    findings
}
