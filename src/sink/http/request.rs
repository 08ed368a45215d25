//! What is sent: keys, bodies, signatures.

use std::fmt::Write as _;

use super::piece::{Piece, Row};
use super::settings::Body;
use crate::position::TopicPartition;
use crate::sink::note::Note;

/// One POST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// `Idempotency-Key`: the same for the same range, and for no other.
    pub key: String,
    /// Of [`Delivery::rows`](crate::sink::Delivery::rows).
    pub rows: Vec<usize>,
    pub body: Vec<u8>,
}

/// What all keys of one partition begin with.
pub(super) fn prefix(sink: &str, note: &Note, at: &TopicPartition) -> String {
    let topic_id = note.topic_id.as_deref().unwrap_or("0");
    plain(&format!("{sink}-{}-{}-{topic_id}-{}", note.generation, at.topic, at.partition))
}

/// The requests of one lane, to be sent one after another; `alone`: one for each row.
pub(super) fn requests(prefix: &str, piece: &Piece, lane: usize, alone: bool, body: Body) -> Vec<Request> {
    let rows = piece.lanes.get(lane).map_or(&[][..], Vec::as_slice);
    if alone {
        let one = |row: &Row| {
            let (from, next) = row.offset.map_or((piece.from, piece.next), |offset| (offset, offset + 1));
            request(format!("{prefix}-{from}-{next}-{}", row.nth), std::slice::from_ref(row), body)
        };
        return rows.iter().map(one).collect();
    }
    if rows.is_empty() {
        return Vec::new();
    }
    let range = format!("{prefix}-{}-{}", piece.from, piece.next);
    let key = match piece.lanes.len() {
        1 => range,
        lanes => format!("{range}-{lane}of{lanes}"),
    };
    vec![request(key, rows, body)]
}

fn request(key: String, rows: &[Row], body: Body) -> Request {
    let between: &[u8] = if body == Body::Lines { b"\n" } else { b"," };
    let json: Vec<&[u8]> = rows.iter().map(|row| row.json.as_slice()).collect();
    let mut text = json.join(between);
    match body {
        Body::Array => {
            text.insert(0, b'[');
            text.push(b']');
        }
        Body::Lines => text.push(b'\n'),
        Body::Object => {}
    }
    Request { key, rows: rows.iter().map(|row| row.row).collect(), body: text }
}

/// As a header can hold it: another letter becomes its number.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_ascii_graphic() => out.push(c),
            c => {
                let _ = write!(out, "%{:x}", u32::from(c));
            }
        }
    }
    out
}

/// `X-Firn-Signature`: the receiver makes the same from the raw body and the secret that both know, and compares; a time long past is
/// a recording.
pub(super) fn signature(secret: &str, unix_s: u64, body: &[u8]) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let mut signed = ring::hmac::Context::with_key(&key);
    signed.update(format!("{unix_s}.").as_bytes());
    signed.update(body);
    let mut out = format!("t={unix_s},v1=");
    for byte in signed.sign().as_ref() {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(offset: Option<i64>, nth: usize, json: &str) -> Row {
        Row { row: nth, offset, nth, json: json.as_bytes().to_vec() }
    }

    fn shown(requests: Vec<Request>) -> Vec<(String, String)> {
        requests.into_iter().map(|r| (r.key, String::from_utf8(r.body).unwrap())).collect()
    }

    #[test]
    fn keys_name_the_range_and_bodies_are_what_was_chosen() {
        let note = Note { generation: 2, topic_id: Some("id".to_owned()), begun: None, kept: 0 };
        let prefix = prefix("firn.p.http ü", &note, &TopicPartition::new("a.b", 3));
        assert_eq!(prefix, "firn.p.http%20%fc-2-a.b-id-3");
        let rows = vec![row(Some(5), 0, "{1}"), row(Some(5), 1, "{2}"), row(Some(8), 0, "{3}")];
        let mut piece = Piece { from: 4, next: 9, lanes: vec![rows] };
        let of = |piece: &Piece, lane, alone, body| shown(requests("p", piece, lane, alone, body));
        let pair = |key: &str, body: &str| (key.to_owned(), body.to_owned());
        assert_eq!(of(&piece, 0, false, Body::Array), [pair("p-4-9", "[{1},{2},{3}]")]);
        assert_eq!(of(&piece, 0, false, Body::Lines), [pair("p-4-9", "{1}\n{2}\n{3}\n")]);
        let alone = [pair("p-5-6-0", "{1}"), pair("p-5-6-1", "{2}"), pair("p-8-9-0", "{3}")];
        assert_eq!(of(&piece, 0, true, Body::Object), alone);
        piece.lanes.push(vec![row(None, 4, "{4}")]);
        assert_eq!(of(&piece, 1, false, Body::Array), [pair("p-4-9-1of2", "[{4}]")]);
        assert_eq!(of(&piece, 1, true, Body::Array), [pair("p-4-9-4", "[{4}]")]);
        piece.lanes.push(vec![]);
        assert_eq!(of(&piece, 2, false, Body::Array), []);
    }

    #[test]
    fn a_signature_is_what_openssl_makes_of_the_same() {
        // printf '1700000000.[{"id":1}]' | openssl dgst -sha256 -hmac whsec
        assert_eq!(
            signature("whsec", 1_700_000_000, b"[{\"id\":1}]"),
            "t=1700000000,v1=ee22cfdac9ba028b4a986703abc4bea42ca1542708237017aee1230450a2e706"
        );
    }
}
