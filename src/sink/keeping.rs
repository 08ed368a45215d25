//! What a pipeline keeps from change to change, stored with the positions of sinks that have a ledger.

use std::collections::BTreeMap;

use super::ledger::Message;

/// What the changes of one delivery did to what is kept of their partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keeping {
    /// The compacted topic, and the partition of it.
    pub topic: String,
    pub partition: i32,
    /// What all keys of this source partition begin with.
    pub prefix: String,
    /// In the order of the changes.
    pub steps: Vec<Step>,
}

/// What one change did to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Of the change.
    pub offset: i64,
    pub key: String,
    /// `None` where it is forgotten.
    pub value: Option<String>,
}

/// What a ledger has stored of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// What was kept in another one counts no more: from before a rewind, or before the sink's offsets were gone.
    pub generation: u64,
    /// How many transactions stored something: the last one has to be seen before what is stored is whole.
    pub transactions: u64,
}

impl Keeping {
    /// The key of the message that counts the transactions.
    pub fn count_key(prefix: &str) -> String {
        format!("{prefix}#")
    }

    /// What is stored once the sink has `[from, next)`: of each key the last value, and that it is the transaction of this number. Nothing
    /// where nothing was done.
    pub(crate) fn messages(&self, from: i64, next: i64, number: u64) -> Vec<Message> {
        let steps = self.steps.iter().filter(|step| (from..next).contains(&step.offset));
        let last: BTreeMap<&str, Option<&str>> = steps.map(|step| (step.key.as_str(), step.value.as_deref())).collect();
        if last.is_empty() {
            return Vec::new();
        }
        let message = |key: String, value: Option<&str>| Message {
            topic: self.topic.clone(),
            partition: Some(self.partition),
            key: Some(key.into_bytes()),
            value: value.map(|value| value.as_bytes().to_vec()),
            headers: Vec::new(),
        };
        let mut messages: Vec<Message> =
            last.into_iter().map(|(key, value)| message(format!("{}{key}", self.prefix), value)).collect();
        messages.push(message(Self::count_key(&self.prefix), Some(&number.to_string())));
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_key_the_last_value_below_the_position_is_stored() {
        let step = |offset: i64, key: &str, value: Option<&str>| Step {
            offset,
            key: key.to_owned(),
            value: value.map(str::to_owned),
        };
        let steps = vec![step(3, "a", Some("1")), step(4, "b", Some("1")), step(4, "a", Some("2")), step(5, "b", None)];
        let keeping = Keeping { topic: "state".to_owned(), partition: 7, prefix: "p/".to_owned(), steps };
        let shown = |from, next| {
            let messages = keeping.messages(from, next, 9).into_iter();
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
            messages.map(|m| (text(m.key.unwrap()), m.value.map(text))).collect::<Vec<_>>()
        };
        let pair = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));
        assert_eq!(shown(0, 5), [pair("p/a", Some("2")), pair("p/b", Some("1")), pair("p/#", Some("9"))]);
        assert_eq!(shown(5, 9), [pair("p/b", None), pair("p/#", Some("9"))]);
        assert_eq!(shown(6, 9), []);
        assert!(keeping.messages(0, 9, 1).iter().all(|m| m.topic == "state" && m.partition == Some(7)));
    }
}
