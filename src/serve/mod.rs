//! What a running process shows: a status page, the same as JSON, Prometheus metrics, health.
//!
//! | path | answer |
//! |---|---|
//! | `/` | status page: tables, positions, lag, last commit, errors |
//! | `/status.json` | the same for programs |
//! | `/metrics` | Prometheus text, see docs/metrics.md |
//! | `/healthz` | 200 while the process can answer |
//! | `/readyz` | 200 when the consumer has its partitions and no table is stopped, else 503 and why |
//!
//! Reads [`Status`], which the pipeline writes. Knows nothing of how records are read or committed.

pub mod metrics;
mod page;
pub mod status;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use page::ago;
pub use status::{ConsumerState, LastCommit, LastError, PartitionStatus, Status, TableState, TableStatus};

/// The address can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address}: {source}; set serve.listen to a free address, or to \"\" to do without")]
pub struct ListenError {
    pub address: SocketAddr,
    source: std::io::Error,
}

impl ListenError {
    /// Why, in the system's words.
    pub fn reason(&self) -> String {
        self.source.to_string()
    }
}

/// A bound server that has not begun to answer.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// # Errors
    /// When the address is taken or not this machine's.
    pub async fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let failed = |source| ListenError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// With the port that was really taken, where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` turns true.
    ///
    /// # Errors
    /// When the listener breaks.
    pub async fn run(
        self,
        status: Arc<Status>,
        metrics: PrometheusHandle,
        shutdown: watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        self.answer(router(status, metrics), shutdown).await
    }

    /// The same with metrics and health alone, for a process that has no tables.
    ///
    /// # Errors
    /// When the listener breaks.
    pub async fn run_metrics(self, metrics: PrometheusHandle, shutdown: watch::Receiver<bool>) -> std::io::Result<()> {
        let status = Arc::default();
        let shown = Router::new().route("/metrics", get(metrics_text)).route("/healthz", get(async || "ok\n"));
        self.answer(shown.with_state(Shown { status, metrics }), shutdown).await
    }

    async fn answer(self, shown: Router, mut shutdown: watch::Receiver<bool>) -> std::io::Result<()> {
        let stop = async move {
            // An error means that the sender is gone, which is the end as well.
            let _ = shutdown.wait_for(|stop| *stop).await;
        };
        axum::serve(self.listener, shown).with_graceful_shutdown(stop).await
    }
}

#[derive(Clone)]
struct Shown {
    status: Arc<Status>,
    metrics: PrometheusHandle,
}

fn router(status: Arc<Status>, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/", get(status_page))
        .route("/status.json", get(status_json))
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(Shown { status, metrics })
}

async fn status_page(State(shown): State<Shown>) -> Html<String> {
    Html(page::render(&shown.status.snapshot(), now_ms()))
}

async fn status_json(State(shown): State<Shown>) -> Response {
    match serde_json::to_string(&shown.status.snapshot()) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

async fn metrics_text(State(shown): State<Shown>) -> Response {
    // Without upkeep the histograms' raw samples would grow for as long as nobody scrapes.
    shown.metrics.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], shown.metrics.render()).into_response()
}

async fn ready(State(shown): State<Shown>) -> (StatusCode, String) {
    match shown.status.not_ready() {
        reasons if reasons.is_empty() => (StatusCode::OK, "ready\n".to_owned()),
        reasons => (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
    }
}

/// The page's ages are for people; nothing is decided by this clock.
fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(address: SocketAddr, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("http://{address}{path}")).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    #[tokio::test]
    async fn the_server_shows_what_the_pipeline_wrote_and_stops_when_told() {
        // reqwest's TLS wants a provider even for plain http.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let status = Arc::new(Status::default());
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = server.address();
        let taken = Server::bind(address).await.unwrap_err().to_string();
        assert!(taken.contains("set serve.listen"), "{taken}");
        let (stop, stopped) = watch::channel(false);
        let handle = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle();
        let running = tokio::spawn(server.run(status.clone(), handle, stopped));

        assert_eq!(get(address, "/healthz").await, (200, "ok\n".to_owned()));
        let (code, reason) = get(address, "/readyz").await;
        assert!(code == 503 && reason.contains("consumer"), "{reason}");

        // Trouble goes by with the next sign of life, and what was before it counts again.
        let ready = async || get(address, "/readyz").await.0;
        status.lost("a broker is away".to_owned());
        status.found();
        assert_eq!(ready().await, 503, "there are no partitions yet");
        status.set_consumer(ConsumerState::Assigned { partitions: 2 });
        for trouble in ["a broker is away", "another one"] {
            status.lost(trouble.to_owned());
            assert!(get(address, "/readyz").await.1.contains(trouble));
        }
        status.found();
        status.update("s.a.t", |t| t.table = "a.t".to_owned());
        assert_eq!(get(address, "/readyz").await.0, 200);
        status.update("s.a.t", |t| t.state = TableState::Stopped { reason: "<too many bad records>".to_owned() });
        let (code, reason) = get(address, "/readyz").await;
        assert!(code == 503 && reason.contains("a.t: <too many bad records>"), "{reason}");

        let (code, page) = get(address, "/").await;
        assert!(code == 200 && page.contains("&lt;too many bad records&gt;"), "{page}");
        let json: serde_json::Value = serde_json::from_str(&get(address, "/status.json").await.1).unwrap();
        assert_eq!(json["tables"][0]["table"], "a.t");
        assert_eq!(get(address, "/metrics").await.0, 200);

        stop.send(true).unwrap();
        running.await.unwrap().unwrap();
    }
}
