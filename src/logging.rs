//! Logs on stderr, as text or as one JSON object a line. Standard output belongs to what a command answers.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::TryInitError;

use crate::config::{LogConfig, LogFormat};

/// A library that logs as an error what is told to its caller, who tells it better. A configured directive for it goes first.
const QUIET: &str = "volo=off,volo_thrift=off";

/// Installs the process's subscriber.
///
/// # Errors
/// When one is installed already.
pub fn init(config: &LogConfig) -> Result<(), TryInitError> {
    use tracing_subscriber::util::SubscriberInitExt;
    subscriber(config, std::io::stderr, std::io::stderr().is_terminal()).try_init()
}

fn subscriber<W>(config: &LogConfig, writer: W, color: bool) -> Box<dyn tracing::Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // The configuration has checked the filter; a wrong one from the command line falls back to info.
    let filter = EnvFilter::try_new(format!("{QUIET},{}", config.filter)).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(color);
    match config.format {
        LogFormat::Text => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn json_logs_are_one_object_a_line_with_the_fields_at_the_top() {
        let captured = Captured::default();
        let writer = captured.clone();
        let config = LogConfig { format: LogFormat::Json, filter: "info".to_owned() };
        tracing::subscriber::with_default(subscriber(&config, move || writer.clone(), false), || {
            tracing::info!(table = "a.t", rows = 3, "committed");
            tracing::debug!("not at this level");
        });
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!((&line["table"], &line["rows"], &line["message"]), (&"a.t".into(), &3.into(), &"committed".into()));
    }
}
