//! Debezium's connectors, as Kafka Connect's REST API tells them: settings that make values wrong before firn sees them.

use std::collections::BTreeMap;

use super::report::Finding;
use crate::cli::with_causes;
use crate::config::Config;
use crate::connect::{Connector, connectors};

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let Some(url) = config.connect.url.as_ref() else { return Vec::new() };
    let subject = format!("connect {url}");
    match connectors(url).await {
        Ok(connectors) => judge(&subject, &connectors),
        Err(e) => vec![Finding::fail(subject, with_causes(&e), "check connect.url and that Kafka Connect runs")],
    }
}

/// A NULL in a column with a DEFAULT is sent as the DEFAULT, unless converter and transform are told not to.
fn judge(subject: &str, connectors: &BTreeMap<String, Connector>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut looked_at = 0;
    for (name, Connector { config, .. }) in connectors {
        if !config.get("connector.class").is_some_and(|class| class.starts_with("io.debezium.connector.")) {
            continue;
        }
        looked_at += 1;
        let subject = format!("connector {name}");
        let kept = |key: &str| config.get(key).is_some_and(|value| value == "false");
        let found = "sends the DEFAULT of a column in place of a NULL";
        let converter = config.get("value.converter").map_or("", String::as_str);
        if converter.is_empty() {
            findings.push(Finding::warn(
                &subject,
                "takes its value converter from the worker, whose settings Connect does not tell",
                "make sure that the worker has value.converter.replace.null.with.default=false",
            ));
        } else if !converter.ends_with(".JsonConverter") {
            if config.get("value.converter.ignore.default.for.nullables").is_none_or(|value| value != "true") {
                findings.push(Finding::warn(
                    &subject,
                    format!("may send the DEFAULT of a column in place of a NULL: {converter}"),
                    "see whether the converter has a setting for it (Confluent's: ignore.default.for.nullables=true)",
                ));
            }
        } else if !kept("value.converter.replace.null.with.default") {
            findings.push(Finding::warn(&subject, found, "set value.converter.replace.null.with.default=false"));
        }
        for transform in config.get("transforms").into_iter().flat_map(|names| names.split(',')).map(str::trim) {
            let flattens = config
                .get(&format!("transforms.{transform}.type"))
                .is_some_and(|class| class.ends_with(".ExtractNewRecordState"));
            let setting = format!("transforms.{transform}.replace.null.with.default");
            if flattens && !kept(&setting) {
                findings.push(Finding::warn(&subject, found, format!("set {setting}=false")));
            }
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(subject, format!("answers; Debezium connectors that keep NULLs: {looked_at}")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;
    use rstest::rstest;

    const JSON: &str = r#""value.converter":"org.apache.kafka.connect.json.JsonConverter""#;
    const KEPT: &str = r#""value.converter.replace.null.with.default":"false""#;
    const UNWRAP: &str =
        r#""transforms":"a, unwrap","transforms.unwrap.type":"io.debezium.transforms.ExtractNewRecordState""#;

    fn connector(config: &str) -> Connector {
        Connector { config: serde_json::from_str(config).unwrap(), states: vec![] }
    }

    #[rstest]
    #[case::json_as_shipped(format!("{JSON},{KEPT}"), None)]
    #[case::json(JSON.to_owned(), Some("set value.converter.replace.null.with.default=false"))]
    #[case::json_replaced(format!("{JSON},{}", KEPT.replace("false", "true")), Some("set value.converter"))]
    #[case::of_the_worker(r#""a":"b""#.to_owned(), Some("the worker has"))]
    #[case::flattened(format!("{JSON},{KEPT},{UNWRAP}"), Some("set transforms.unwrap.replace.null.with.default=false"))]
    #[case::avro(r#""value.converter":"io.confluent.connect.avro.AvroConverter""#.to_owned(), Some("ignore.default"))]
    fn a_connector_that_replaces_nulls_is_named(#[case] settings: String, #[case] want: Option<&str>) {
        let class = r#""connector.class":"io.debezium.connector.postgresql.PostgresConnector""#;
        let shop = connector(&format!("{{{class},{settings}}}"));
        let other = connector(r#"{"connector.class":"org.example.Sink"}"#);
        let findings = judge("connect", &[("shop".to_owned(), shop), ("other".to_owned(), other)].into());
        assert_eq!(findings.len(), 1);
        match want {
            None => assert_eq!(findings[0].verdict, Verdict::Ok),
            Some(todo) => {
                assert_eq!((findings[0].verdict, findings[0].subject.as_str()), (Verdict::Warn, "connector shop"));
                assert!(findings[0].todo.as_ref().unwrap().contains(todo), "{findings:?}");
            }
        }
    }

    #[test]
    fn the_shipped_connectors_keep_nulls() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/connect");
        let shipped = |name: &str| {
            let config = std::fs::read_to_string(folder.join(format!("{name}-connector.json"))).unwrap();
            (name.to_owned(), connector(&config))
        };
        let findings = judge("connect", &["engagement", "inventory"].map(shipped).into());
        assert_eq!(findings[0].verdict, Verdict::Ok, "{findings:?}");
    }
}
