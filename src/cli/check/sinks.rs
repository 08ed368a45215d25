//! The sinks of pipelines.

use super::report::Finding;
use crate::config::Config;
use crate::pipeline::probe_sinks;
use crate::sink::SinkError;

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let probed = probe_sinks(config).await.into_iter();
    let finding = |(sink, answer): (String, Result<String, SinkError>)| {
        let subject = format!("sink {sink}");
        match answer {
            Ok(said) => Finding::ok(subject, said),
            Err(e @ SinkError::Unavailable(_)) => {
                Finding::fail(subject, e.to_string(), "check the sink's url, and that the server runs")
            }
            Err(e) => {
                Finding::fail(subject, e.to_string(), "correct the sink's keys under [[pipelines]], or its rights")
            }
        }
    };
    probed.map(finding).collect()
}
