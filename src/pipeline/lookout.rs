//! Notices that a person rewound a table, or that it was rolled back, also while nothing comes for it that a commit would be refused for, and while it is stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::tables::{TableHandle, Tables};

/// A table that committed, or was looked at, within this is not looked at: a commit tells of a rewind itself.
const QUIET_MS: u64 = 5_000;
/// At most one look within this, of all tables: a thousand quiet tables load the catalog no more than one busy table does.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// What is known of a table's generation, and since when.
#[derive(Debug)]
pub struct Heard {
    generation: AtomicU64,
    at_ms: AtomicU64,
}

impl Heard {
    pub fn new(generation: u64, now_ms: u64) -> Self {
        Self { generation: AtomicU64::new(generation), at_ms: AtomicU64::new(now_ms) }
    }

    /// Of this generation. Answers whether that is news.
    fn of(&self, generation: u64, now_ms: u64) -> bool {
        self.something(now_ms);
        self.generation.fetch_max(generation, Ordering::AcqRel) < generation
    }

    /// No news.
    pub fn something(&self, now_ms: u64) {
        self.at_ms.store(now_ms, Ordering::Release);
    }

    pub fn quiet_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.at_ms.load(Ordering::Acquire))
    }
}

/// Looks how often the table was set back; if there is news, lets all its workers go on from where it stands.
pub async fn look(table: &TableHandle) {
    match table.lake.generation().await {
        Ok(generation) => {
            if table.heard.of(generation, table.now_ms()) {
                tracing::warn!(table = %table.name, generation, "rewound by a person, or rolled back: going on from the table");
                table.go_on(&format!("the table was rewound or rolled back (generation {generation})"));
            }
        }
        Err(e) => {
            tracing::debug!(table = %table.name, "whether it was rewound can't be seen: {e}");
            table.heard.something(table.now_ms());
        }
    }
}

/// Runs until it is aborted.
pub async fn run(tables: Arc<Tables>) {
    loop {
        tokio::time::sleep(BETWEEN_LOOKS).await;
        if let Some(table) = tables.quietest()
            && table.heard.quiet_ms(table.now_ms()) >= QUIET_MS
        {
            look(&table).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_news_once_and_any_word_breaks_the_quiet() {
        let heard = Heard::new(2, 100);
        assert!(!heard.of(2, 200) && !heard.of(1, 300), "older metadata is no news");
        assert!(heard.of(3, 400) && !heard.of(3, 500));
        assert_eq!(heard.quiet_ms(600), 100);
        heard.something(900);
        assert_eq!(heard.quiet_ms(600), 0);
    }
}
