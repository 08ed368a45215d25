//! Schema blocks seen lately, found again by their bytes: a record's block is compared, not parsed.

use super::connect::{Block, parse_block};
use super::cursor::Cursor;
use super::fault::{Fallible, not_json};
use super::fitted::Fitted;
use super::object::ObjectReader;

/// Blocks kept. One topic needs one, two around a schema change; a table fed by many topics needs one for each.
const MAX_BLOCKS: usize = 32;

const SCHEMA: &[u8] = b"{\"schema\":";
const PAYLOAD: &[u8] = b",\"payload\":";

/// The blocks of values, or of keys.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// The latest first.
    known: Vec<KnownBlock>,
}

/// A schema block and how its rows are read.
#[derive(Debug)]
pub(super) struct KnownBlock {
    topic: String,
    text: String,
    pub block: Block,
    pub fitted: Fitted<ObjectReader>,
}

/// A message taken apart: the payload and whether its block is at hand (as the latest in [`Blocks`]).
#[derive(Clone, Debug)]
pub(super) struct Message<'a> {
    pub payload: Cursor<'a>,
    pub has_block: bool,
    /// The payload stands in an object that is still to be closed.
    open: bool,
}

impl Message<'_> {
    /// After the payload was read: nothing else may follow.
    pub(super) fn end(&self, mut cursor: Cursor<'_>) -> Fallible<()> {
        if self.open {
            cursor.expect(b'}')?;
        }
        cursor.end()
    }
}

impl Blocks {
    pub(super) fn latest(&mut self) -> Option<&mut KnownBlock> {
        self.known.first_mut()
    }

    /// Takes a message apart: `{"schema":…,"payload":…}` or a bare payload.
    ///
    /// # Errors
    /// `not_json`; `bad_schema` when the block is no Connect schema.
    pub(super) fn open<'a>(&mut self, topic: &str, bytes: &'a [u8]) -> Fallible<Message<'a>> {
        if let Some(rest) = bytes.strip_prefix(SCHEMA)
            && let Some(rest) = self.recognise(topic, rest)
        {
            // The block's own bytes were checked when it was first seen.
            let mut payload = Cursor::new(utf8(rest)?);
            payload.eat(PAYLOAD);
            return Ok(Message { payload, has_block: true, open: true });
        }
        let text = utf8(bytes)?;
        match wrapped(text)? {
            Some((schema, payload)) => {
                let has_block = match schema {
                    Some(block) => {
                        self.learn(topic, block)?;
                        true
                    }
                    None => false,
                };
                Ok(Message { payload: Cursor::new(payload), has_block, open: false })
            }
            None => Ok(Message { payload: Cursor::new(text), has_block: false, open: false }),
        }
    }

    /// If `bytes` begin with a known block and go on with the payload: what follows the block.
    #[inline]
    fn recognise<'a>(&mut self, topic: &str, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let at = self.known.iter().position(|known| {
            bytes.strip_prefix(known.text.as_bytes()).is_some_and(|rest| rest.starts_with(PAYLOAD))
                && known.topic == topic
        })?;
        self.make_latest(at);
        bytes.get(self.known.first()?.text.len()..)
    }

    #[inline]
    fn make_latest(&mut self, at: usize) {
        if at > 0 {
            self.known[..=at].rotate_right(1); // `at` is the index of an entry
        }
    }

    fn learn(&mut self, topic: &str, text: &str) -> Fallible<()> {
        if let Some(at) = self.known.iter().position(|known| known.text == text && known.topic == topic) {
            self.make_latest(at);
            return Ok(());
        }
        let block = parse_block(text)?;
        self.known.truncate(MAX_BLOCKS - 1);
        self.known
            .insert(0, KnownBlock { topic: topic.to_owned(), text: text.to_owned(), block, fitted: Fitted::default() });
        Ok(())
    }
}

fn utf8(bytes: &[u8]) -> Fallible<&str> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| match std::str::from_utf8(bytes) {
        Err(e) => not_json(format!("no UTF-8 at byte {}", e.valid_up_to())),
        Ok(_) => not_json("no UTF-8"),
    })
}

/// Schema (`None` for null) and payload, if the object has these members and no others.
pub(super) fn wrapped(text: &str) -> Fallible<Option<(Option<&str>, &str)>> {
    let mut cursor = Cursor::new(text);
    let (mut schema, mut payload) = (None, None);
    if cursor.peek() != b'{' || !cursor.open_object()? {
        return Ok(None);
    }
    loop {
        match cursor.name()?.raw {
            "schema" if schema.is_none() => schema = Some(cursor.raw()?),
            "payload" if payload.is_none() => payload = Some(cursor.raw()?),
            _ => return Ok(None),
        }
        if !cursor.more(b'}')? {
            break;
        }
    }
    cursor.end()?;
    Ok(payload.map(|payload| (schema.filter(|s| *s != "null"), payload)))
}
