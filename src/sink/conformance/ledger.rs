//! A ledger in memory, as several processes share it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use crate::position::TopicPartition;
use crate::sink::SinkError;
use crate::sink::ledger::{Entry, Ledger, Message};

/// What is stored, whoever asks.
#[derive(Clone, Debug, Default)]
pub struct Books(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    owners: HashMap<TopicPartition, u64>,
    entries: HashMap<TopicPartition, Entry>,
    /// Every entry that was ever stored, in order.
    history: Vec<Entry>,
    messages: Vec<Message>,
    owner: u64,
    failing: u32,
}

impl Books {
    /// The ledger as a new process has it.
    pub fn open(&self) -> Box<dyn Ledger> {
        Box::new(Opened { books: self.clone(), taken: HashMap::new() })
    }

    /// The next so many commits are not done.
    pub fn fail(&self, commits: u32) {
        self.0.lock().unwrap().failing = commits;
    }

    /// As if a person, or the brokers, had set it.
    pub fn set(&self, at: &TopicPartition, entry: Option<Entry>) {
        let entries = &mut self.0.lock().unwrap().entries;
        match entry {
            Some(entry) => drop(entries.insert(at.clone(), entry)),
            None => drop(entries.remove(at)),
        }
    }

    pub fn entry(&self, at: &TopicPartition) -> Option<Entry> {
        self.0.lock().unwrap().entries.get(at).cloned()
    }

    pub fn history(&self) -> Vec<Entry> {
        self.0.lock().unwrap().history.clone()
    }

    pub fn messages(&self) -> Vec<Message> {
        self.0.lock().unwrap().messages.clone()
    }
}

struct Opened {
    books: Books,
    taken: HashMap<TopicPartition, u64>,
}

#[async_trait]
impl Ledger for Opened {
    async fn take_over(&mut self, at: &TopicPartition) -> Result<Option<Entry>, SinkError> {
        let mut books = self.books.0.lock().unwrap();
        books.owner += 1;
        let owner = books.owner;
        books.owners.insert(at.clone(), owner);
        self.taken.insert(at.clone(), owner);
        Ok(books.entries.get(at).cloned())
    }

    async fn commit(&mut self, at: &TopicPartition, entry: &Entry, messages: &[Message]) -> Result<(), SinkError> {
        let mut books = self.books.0.lock().unwrap();
        if books.owners.get(at) != self.taken.get(at) {
            return Err(SinkError::Moved(format!("{at}: fenced")));
        }
        if books.failing > 0 {
            books.failing -= 1;
            return Err(SinkError::Unavailable("the brokers are away".to_owned()));
        }
        books.entries.insert(at.clone(), entry.clone());
        books.history.push(entry.clone());
        books.messages.extend_from_slice(messages);
        Ok(())
    }
}
