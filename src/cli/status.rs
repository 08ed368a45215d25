//! `firn status`

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;

use super::print::{self, Grid};
use super::{Code, ConfigFile, Failure, Output};
use crate::serve::ago;
use crate::serve::status::{ConsumerState, LastError, Quantiles, Snapshot, TableState};

/// How long the process may take to answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Where the process serves its status page [default: the configuration's serve.listen]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

pub(super) async fn run(args: &StatusArgs, output: Output) -> Result<(), Failure> {
    output.not_csv()?;
    let url = match &args.url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => served_at(&args.config.load()?.serve.listen)?,
    };
    let snapshot = ask(&url).await.map_err(|e| {
        let way_out = "is firn running, and is serve.listen (or --url) where it serves?";
        Failure::new(Code::Unreachable, format!("{url}/status.json: {e}; {way_out}"))
    })?;
    match output {
        Output::Json => print::json(&snapshot)?,
        _ => print::text(&shown(&snapshot, now_ms()))?,
    }
    match snapshot.not_ready() {
        reasons if reasons.is_empty() => Ok(()),
        reasons => Err(Failure::failed(reasons.join("\n"))),
    }
}

/// The URL of an address to listen at: one that means every address is asked at this machine's own.
fn served_at(listen: &str) -> Result<String, Failure> {
    let Ok(mut address) = listen.parse::<std::net::SocketAddr>() else {
        let problem = "serve.listen is empty: this firn serves no status page; set it, or name another with --url";
        return Err(Failure::usage(problem));
    };
    if address.ip().is_unspecified() {
        let loopback = if address.is_ipv4() { "127.0.0.1" } else { "::1" };
        loopback.parse().map(|ip| address.set_ip(ip)).unwrap_or_default();
    }
    Ok(format!("http://{address}"))
}

async fn ask(url: &str) -> Result<Snapshot, String> {
    let client = reqwest::Client::builder().timeout(ANSWERED_WITHIN).build().map_err(|e| super::with_causes(&e))?;
    let answer =
        client.get(format!("{url}/status.json")).send().await.map_err(|e| super::with_causes(&e.without_url()))?;
    let answer = answer.error_for_status().map_err(|e| super::with_causes(&e.without_url()))?;
    answer.json().await.map_err(|e| super::with_causes(&e.without_url()))
}

fn shown(snapshot: &Snapshot, now_ms: i64) -> String {
    let consumer = match &snapshot.consumer {
        ConsumerState::Connecting => "waiting for partitions".to_owned(),
        ConsumerState::Assigned { partitions } => format!("{partitions} partitions assigned"),
        ConsumerState::Lost { error } => format!("lost: {error}"),
    };
    let mut text = format!("firn {}, consumer: {consumer}\n", snapshot.version);
    if !snapshot.tables.is_empty() {
        let mut grid = Grid::new(["table", "state", "rows", "lag", "dead letters", "last commit"]);
        for t in &snapshot.tables {
            let commit = t.last_commit.map_or_else(String::new, |c| ago(now_ms - c.at_ms));
            let counts = [t.rows.to_string(), t.lag_records().to_string(), t.rejected.to_string()];
            grid.row([t.table.clone(), word(&t.state)].into_iter().chain(counts).chain([commit]));
        }
        text += &format!("\n{}", grid.to_text());
    }
    if snapshot.upkeep().next().is_some() {
        let mut grid = Grid::new(["kept fast", "by", "state", "last run", "which did", "next"]);
        for (table, upkeep) in snapshot.upkeep() {
            let last = upkeep.last_run_ms.map_or_else(String::new, |at| ago(now_ms - at));
            let did = upkeep.last_result.clone().unwrap_or_default();
            let next = in_time(upkeep.due_ms - now_ms);
            grid.row([table.clone(), upkeep.kind.as_str().to_owned(), upkeep.word().to_owned(), last, did, next]);
        }
        text += &format!("\n{}", grid.to_text());
    }
    if !snapshot.sinks.is_empty() {
        let mut grid = Grid::new([
            "sink",
            "state",
            "rows",
            "lag",
            "dead letters",
            "last delivery",
            "p50/p99 ms",
            "since the source",
        ]);
        for s in &snapshot.sinks {
            let delivery = s.last_delivery_ms.map_or_else(String::new, |at| ago(now_ms - at));
            let counts = [s.rows.to_string(), s.lag_records().to_string(), s.rejected.to_string()];
            let times = [delivery, quantiles(s.latency), quantiles(s.source_latency)];
            grid.row([s.sink.clone(), word(&s.state)].into_iter().chain(counts).chain(times));
        }
        text += &format!("\n{}", grid.to_text());
    }
    let tables = snapshot.tables.iter().map(|t| (&t.table, t.last_error.as_ref()));
    for (name, error) in tables.chain(snapshot.sinks.iter().map(|s| (&s.sink, s.last_error.as_ref()))) {
        if let Some(LastError { at_ms, message }) = error {
            text += &format!("\n{name}, {}: {message}\n", ago(now_ms - at_ms));
        }
    }
    for (table, upkeep) in snapshot.upkeep() {
        if let Some(LastError { at_ms, message }) = &upkeep.last_error {
            let (kind, times) = (upkeep.kind.as_str(), upkeep.failures);
            let again = if times > 1 { format!(", {times} times in a row") } else { String::new() };
            text += &format!("\n{table}, {kind}, {}{again}: {message}\n", ago(now_ms - at_ms));
        }
    }
    text
}

fn word(state: &TableState) -> String {
    match state {
        TableState::Starting => "starting",
        TableState::Running => "running",
        TableState::Stopped { .. } => "stopped",
    }
    .to_owned()
}

fn in_time(ms: i64) -> String {
    match ms / 1000 {
        s if s <= 0 => "now".to_owned(),
        s @ 1..120 => format!("in {s} s"),
        s @ 120..7200 => format!("in {} min", s / 60),
        s => format!("in {} h", s / 3600),
    }
}

fn quantiles(of: Option<Quantiles>) -> String {
    of.map_or_else(String::new, |q| format!("{}/{}", q.p50_ms, q.p99_ms))
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maintain::policy::Kind;
    use crate::serve::Status;
    use crate::serve::status::{PartitionStatus, Upkeep, UpkeepState};

    #[test]
    fn an_address_to_listen_at_is_asked_on_this_machine() {
        assert_eq!(served_at("0.0.0.0:8088").unwrap(), "http://127.0.0.1:8088");
        assert_eq!(served_at("[::]:8088").unwrap(), "http://[::1]:8088");
        assert_eq!(served_at("10.1.2.3:80").unwrap(), "http://10.1.2.3:80");
        assert_eq!(served_at("").unwrap_err().code(), Code::Usage);
    }

    #[test]
    fn tables_and_sinks_are_shown_with_what_is_wrong() {
        let status = Status::default();
        status.set_consumer(ConsumerState::Assigned { partitions: 3 });
        status.update("s.shop.orders", |t| t.table = "shop.orders".to_owned());
        status.update_sink("enriched.redis", |s| {
            (s.rows, s.latency) = (70, Some(Quantiles { p50_ms: 12, p99_ms: 140 }));
            s.partitions.insert("t/0".to_owned(), PartitionStatus { committed: 5, end: 9 });
            s.last_error = Some(LastError { at_ms: 1_000, message: "refused".to_owned() });
            s.state = TableState::Stopped { reason: "wrong password".to_owned() };
        });
        let text = shown(&status.snapshot(), 31_000);
        assert!(text.contains("3 partitions assigned") && text.contains("shop.orders"), "{text}");
        let line = text.lines().find(|l| l.starts_with("enriched.redis")).unwrap();
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells, ["enriched.redis", "stopped", "70", "4", "0", "12/140"], "{text}");
        assert!(text.contains("enriched.redis, 30 s ago: refused"), "{text}");
        assert_eq!(status.snapshot().not_ready(), ["enriched.redis: wrong password"]);
    }

    #[test]
    fn what_is_done_to_tables_is_shown_with_what_is_wrong() {
        let status = Status::default();
        let failed = LastError { at_ms: 1_000, message: "no permission".to_owned() };
        status.update("s.shop.orders", |t| {
            t.table = "shop.orders".to_owned();
            let done = Some("9 files became 1".to_owned());
            t.maintenance = vec![
                Upkeep { due_ms: 91_000, last_run_ms: Some(21_000), last_result: done, ..Upkeep::new(Kind::Compact) },
                Upkeep { state: UpkeepState::Quiet, ..Upkeep::new(Kind::Manifests) },
                Upkeep { failures: 3, last_error: Some(failed), ..Upkeep::new(Kind::Expire) },
            ];
        });
        let text = shown(&status.snapshot(), 31_000);
        let line = |kind: &str| {
            text.lines().find(|l| l.contains(kind)).map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
        };
        assert_eq!(
            line(" compact").unwrap(),
            "shop.orders compact waiting 10 s ago 9 files became 1 in 60 s",
            "{text}"
        );
        assert_eq!(line(" manifests").unwrap(), "shop.orders manifests quiet hours now", "{text}");
        assert_eq!(line(" expire").unwrap(), "shop.orders expire failing now", "{text}");
        assert!(text.contains("shop.orders, expire, 30 s ago, 3 times in a row: no permission"), "{text}");
    }
}
