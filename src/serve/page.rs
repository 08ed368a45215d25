//! The status page: one plain table, no script, loads itself anew.

use std::fmt::Write;

use super::status::{ConsumerState, LastError, Quantiles, SinkStatus, Snapshot, TableState, TableStatus, Upkeep};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#1d2733;\
background:#fff}h1{font-size:1.3rem}table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem .6rem;\
border-bottom:1px solid #d8dee6;vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\
.bad{color:#b3261e}.dim{color:#66758a}@media(prefers-color-scheme:dark){body{background:#12171d;color:#dfe6ee}\
th,td{border-color:#2b3540}.bad{color:#ff8a80}.dim{color:#93a1b3}}";

pub(super) fn render(snapshot: &Snapshot, now_ms: i64) -> String {
    let mut out = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <meta http-equiv=refresh content=5><title>firn</title><style>{STYLE}</style><h1>firn {}</h1>",
        snapshot.version
    );
    let consumer = match &snapshot.consumer {
        ConsumerState::Connecting => "waiting for partitions".to_owned(),
        ConsumerState::Assigned { partitions } => format!("{partitions} partitions assigned"),
        ConsumerState::Lost { error } => format!("<span class=bad>lost: {}</span>", escape(error)),
    };
    // Writing to a String does not fail.
    let _ = write!(
        out,
        "<p>Consumer: {consumer} · <a href=/metrics>metrics</a> · <a href=/status.json>json</a> · <a href=/readyz>ready</a></p>\
         <table><tr><th>table<th>topic<th>mode<th>state<th class=n>rows<th class=n>lag<th class=n>dead letters<th>last \
         commit<th>positions</tr>"
    );
    for table in &snapshot.tables {
        row(&mut out, table, now_ms);
    }
    out.push_str("</table>");
    if snapshot.upkeep().next().is_some() {
        out.push_str("<table><tr><th>kept fast<th>by<th>state<th>last run<th>which did</tr>");
        snapshot.upkeep().for_each(|(table, upkeep)| upkeep_row(&mut out, table, upkeep, now_ms));
        out.push_str("</table>");
    }
    if !snapshot.sinks.is_empty() {
        out.push_str(
            "<table><tr><th>sink<th>state<th class=n>rows<th class=n>lag<th class=n>dead letters<th>last \
             delivery<th>latency p50 / p99<th>since the source<th>positions</tr>",
        );
        snapshot.sinks.iter().for_each(|sink| sink_row(&mut out, sink, now_ms));
        out.push_str("</table>");
    }
    if snapshot.tables.is_empty() && snapshot.sinks.is_empty() {
        out.push_str("<p class=dim>No table yet: none of the configured topics has brought a record.</p>");
    }
    out.push_str("</html>\n");
    out
}

fn state_cell(state: &TableState, last_error: Option<&LastError>, now_ms: i64) -> String {
    let state = match state {
        TableState::Starting => "starting".to_owned(),
        TableState::Running => "running".to_owned(),
        TableState::Stopped { reason } => format!("<span class=bad>stopped: {}</span>", escape(reason)),
    };
    let error = last_error.map_or_else(String::new, |e| {
        format!("<br><span class=dim>{}: {}</span>", ago(now_ms - e.at_ms), escape(&e.message))
    });
    state + &error
}

fn upkeep_row(out: &mut String, table: &str, upkeep: &Upkeep, now_ms: i64) {
    let error = upkeep.last_error.as_ref().map_or_else(String::new, |e| {
        format!("<br><span class=dim>{}: {}</span>", ago(now_ms - e.at_ms), escape(&e.message))
    });
    let _ = write!(
        out,
        "<tr><td>{}<td>{}<td>{}{error}<td>{}<td>{}</tr>",
        escape(table),
        upkeep.kind.as_str(),
        upkeep.word(),
        upkeep.last_run_ms.map_or_else(|| "<span class=dim>none yet</span>".to_owned(), |at| ago(now_ms - at)),
        escape(upkeep.last_result.as_deref().unwrap_or_default()),
    );
}

fn sink_row(out: &mut String, s: &SinkStatus, now_ms: i64) {
    let state = state_cell(&s.state, s.last_error.as_ref(), now_ms);
    let delivery =
        s.last_delivery_ms.map_or_else(|| "<span class=dim>none yet</span>".to_owned(), |at| ago(now_ms - at));
    let positions: Vec<String> =
        s.partitions.iter().map(|(at, p)| format!("{}: {} of {}", escape(at), p.committed, p.end)).collect();
    let _ = write!(
        out,
        "<tr><td>{}<td>{state}<td class=n>{}<td class=n>{}<td class=n>{}<td>{delivery}<td>{}<td>{}<td>{}</tr>",
        escape(&s.sink),
        s.rows,
        s.lag_records(),
        s.rejected,
        quantiles(s.latency),
        quantiles(s.source_latency),
        positions.join("<br>"),
    );
}

fn quantiles(of: Option<Quantiles>) -> String {
    of.map_or_else(String::new, |q| format!("{} / {} ms", q.p50_ms, q.p99_ms))
}

fn row(out: &mut String, t: &TableStatus, now_ms: i64) {
    let state = state_cell(&t.state, t.last_error.as_ref(), now_ms);
    let commit = t.last_commit.map_or_else(
        || "<span class=dim>none yet</span>".to_owned(),
        |c| {
            format!(
                "{}, {} rows in {:.2} s<br><span class=dim>{}</span>",
                ago(now_ms - c.at_ms),
                c.rows,
                c.seconds,
                c.snapshot_id
            )
        },
    );
    let positions: Vec<String> =
        t.partitions.iter().map(|(p, s)| format!("{p}: {} of {}", s.committed, s.end)).collect();
    let _ = write!(
        out,
        "<tr><td>{}<td>{}<td>{}<td>{state}<td class=n>{}<td class=n>{}<td class=n>{}<td>{commit}<td>{}</tr>",
        escape(&t.table),
        escape(&t.topic),
        escape(&t.mode),
        t.rows,
        t.lag_records(),
        t.rejected,
        positions.join("<br>"),
    );
}

/// For people: how long something is past.
pub fn ago(ms: i64) -> String {
    match ms / 1000 {
        s if s < 0 => "now".to_owned(),
        s @ 0..120 => format!("{s} s ago"),
        s @ 120..7200 => format!("{} min ago", s / 60),
        s => format!("{} h ago", s / 3600),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
