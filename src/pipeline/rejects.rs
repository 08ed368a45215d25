//! The rejected records of a worker's open part: letters, and the keys that their table is to watch.

use std::sync::Arc;

use super::keys::KeyReader;
use crate::change::RowSchema;
use crate::debezium::{DecodeOptions, Registered};
use crate::record::{Record, Rejected};
use crate::sink::lake::letters::MetLetter;

/// Collects rejected records.
#[derive(Debug, Default)]
pub struct Rejects {
    letters: Vec<Rejected>,
    bytes: usize,
    /// Not yet told to the stager.
    met: Vec<MetLetter>,
    keys: Option<KeyReader>,
}

impl Rejects {
    /// Takes a letter that stands behind `before_row` rows of the decoder's. `table` are the columns of the table, where it exists;
    /// `schema` tells writer schemas by id.
    pub fn push(
        &mut self,
        letter: Rejected,
        before_row: usize,
        table: Option<&RowSchema>,
        options: impl FnOnce() -> DecodeOptions,
        schema: &dyn Fn(i32) -> Option<Arc<Registered>>,
    ) {
        if let (Some(table), Some(key)) = (table, &letter.key) {
            let reader = self.keys.get_or_insert_with(|| KeyReader::new(options()));
            let (topic, partition) = (letter.origin.at.topic.as_str(), letter.origin.at.partition);
            let record = Record { topic, partition, offset: letter.origin.offset, key: Some(key), ..Record::default() };
            if let Some(key) = reader.read(table, &record, schema) {
                self.met.push(MetLetter { origin: letter.origin.clone(), before_row, key });
            }
        }
        self.bytes += bytes_of(&letter);
        self.letters.push(letter);
    }

    /// Keys are read by other options from here on.
    pub fn forget_keys(&mut self) {
        self.keys = None;
    }

    /// Memory held, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn letters(&self) -> &[Rejected] {
        &self.letters
    }

    /// Those since the last call, among the rows that the decoder gives up now.
    pub fn take_met(&mut self) -> Vec<MetLetter> {
        std::mem::take(&mut self.met)
    }

    /// All letters; none are left.
    pub fn take_letters(&mut self) -> Vec<Rejected> {
        self.bytes = 0;
        self.met.clear();
        std::mem::take(&mut self.letters)
    }
}

/// What a letter holds, also a tiny one; with the key that is kept of it.
fn bytes_of(letter: &Rejected) -> usize {
    let len = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
    let headers: usize = letter.headers.iter().map(|(k, v)| size_of::<(String, Vec<u8>)>() + k.len() + v.len()).sum();
    let texts = letter.detail.len() + letter.origin.at.topic.len() + letter.topic_id.as_ref().map_or(0, String::len);
    size_of::<Rejected>() + size_of::<MetLetter>() + texts + 2 * len(&letter.key) + len(&letter.value) + headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Column, ColumnType, Mode};
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;

    fn rejects(mode: Mode, key: Option<&[u8]>) -> Vec<MetLetter> {
        let table =
            RowSchema { columns: vec![Column::key("id", ColumnType::Long), Column::new("v", ColumnType::String)] };
        let letter = Rejected {
            origin: "t/0@5".parse().unwrap(),
            topic_id: None,
            timestamp_ms: None,
            rejected_ms: 0,
            reason: "not_json",
            detail: String::new(),
            schema_id: None,
            key: key.map(<[u8]>::to_vec),
            value: Some(b"{".to_vec()),
            headers: vec![],
        };
        let mut rejects = Rejects::default();
        rejects.push(letter, 3, Some(&table), || DecodeOptions { mode, ..DecodeOptions::default() }, &|_| None);
        assert_eq!(rejects.letters().len(), 1);
        assert!(rejects.bytes() > size_of::<Rejected>(), "the record itself has a few bytes only");
        rejects.take_met()
    }

    #[test]
    fn the_key_of_a_bad_value_is_read_where_it_can_be() {
        let [met] = rejects(Mode::Upsert, Some(br#"{"id":7}"#)).try_into().unwrap();
        assert_eq!((met.origin.offset, met.before_row), (5, 3));
        assert_eq!(met.key.column(0).as_primitive::<Int64Type>().value(0), 7);
        assert!(rejects(Mode::Upsert, Some(b"{")).is_empty(), "no key");
        assert!(rejects(Mode::Upsert, Some(br#"{"other":7}"#)).is_empty(), "another key");
        assert!(rejects(Mode::Upsert, None).is_empty());
        assert!(rejects(Mode::Append, Some(br#"{"id":7}"#)).is_empty(), "an append table watches no keys");
    }
}
