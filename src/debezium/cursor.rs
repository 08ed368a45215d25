//! A JSON cursor: one pass over a text, no tree, strict grammar. Knows nothing of Debezium or Arrow.

use super::fault::{Fallible, bad_value, excerpt, not_json};

/// How deep a value may nest: deeper ones are refused, so no input can grow a stack.
const MAX_DEPTH: u32 = 64;

/// A place in a JSON text.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

/// A string as it stands between its quotes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a> {
    pub raw: &'a str,
    /// Whether `raw` holds backslashes, i.e. differs from the string it means.
    pub escaped: bool,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// The text from `from` up to here.
    pub(super) fn since(&self, from: usize) -> &'a str {
        self.text.get(from..self.at).unwrap_or_default()
    }

    #[inline]
    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    /// The byte here, 0 at the end of the text (a NUL is no JSON outside strings either).
    #[inline]
    fn byte(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    /// The next byte that is not white space, 0 at the end.
    #[inline]
    pub(super) fn peek(&mut self) -> u8 {
        loop {
            let byte = self.byte();
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return byte;
            }
            self.at += 1;
        }
    }

    /// Steps over `pattern` if the text goes on with exactly these bytes.
    #[inline]
    pub(super) fn eat(&mut self, pattern: &[u8]) -> bool {
        let found = self.rest().starts_with(pattern);
        if found {
            self.at += pattern.len();
        }
        found
    }

    #[inline]
    pub(super) fn expect(&mut self, byte: u8) -> Fallible<()> {
        if self.peek() == byte {
            self.at += 1;
            Ok(())
        } else {
            Err(self.unexpected(&format!("'{}'", byte as char)))
        }
    }

    /// Nothing but white space may follow.
    pub(super) fn end(&mut self) -> Fallible<()> {
        if self.peek() == 0 && self.at >= self.text.len() { Ok(()) } else { Err(self.unexpected("the end")) }
    }

    #[cold]
    fn unexpected(&self, wanted: &str) -> Box<super::fault::Reject> {
        match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            Some(found) => not_json(format!("expected {wanted} at byte {}, found {found:?}", self.at)),
            None => not_json(format!("expected {wanted} at byte {}, found the end", self.at)),
        }
    }

    /// A value of another kind than wanted stands here.
    #[cold]
    pub(super) fn mismatch(&mut self, wanted: &str) -> Box<super::fault::Reject> {
        let from = {
            self.peek();
            self.at
        };
        match self.skip() {
            Ok(()) => bad_value(format!("expected {wanted}, found {}", excerpt(self.since(from)))),
            Err(fault) => fault,
        }
    }

    /// Steps over `null` if it stands here.
    #[inline]
    pub(super) fn null(&mut self) -> Fallible<bool> {
        if self.peek() != b'n' {
            return Ok(false);
        }
        self.literal(b"null")?;
        Ok(true)
    }

    #[inline]
    fn literal(&mut self, word: &'static [u8]) -> Fallible<()> {
        if self.eat(word) { Ok(()) } else { Err(self.unexpected("a value")) }
    }

    pub(super) fn boolean(&mut self) -> Fallible<bool> {
        match self.peek() {
            b't' => self.literal(b"true").map(|()| true),
            b'f' => self.literal(b"false").map(|()| false),
            _ => Err(self.mismatch("a boolean")),
        }
    }

    /// Opens an object; false if it is empty, and then it is closed already.
    #[inline]
    pub(super) fn open_object(&mut self) -> Fallible<bool> {
        self.open(b'{', b'}', "an object")
    }

    #[inline]
    pub(super) fn open_array(&mut self) -> Fallible<bool> {
        self.open(b'[', b']', "an array")
    }

    #[inline]
    fn open(&mut self, open: u8, close: u8, what: &str) -> Fallible<bool> {
        if self.peek() != open {
            return Err(self.mismatch(what));
        }
        self.at += 1;
        let empty = self.peek() == close;
        self.at += usize::from(empty);
        Ok(!empty)
    }

    /// After a member: true if another follows, false if `close` stood here.
    #[inline]
    pub(super) fn more(&mut self, close: u8) -> Fallible<bool> {
        let byte = self.peek();
        if byte == b',' {
            self.at += 1;
            Ok(true)
        } else if byte == close {
            self.at += 1;
            Ok(false)
        } else {
            Err(self.unexpected(&format!("',' or '{}'", close as char)))
        }
    }

    /// A member's name and its colon.
    #[inline]
    pub(super) fn name(&mut self) -> Fallible<Text<'a>> {
        if self.peek() != b'"' {
            return Err(self.unexpected("a field name"));
        }
        let name = self.scan_string()?;
        self.expect(b':')?;
        Ok(name)
    }

    #[inline]
    pub(super) fn string(&mut self) -> Fallible<Text<'a>> {
        if self.peek() != b'"' {
            return Err(self.mismatch("a string"));
        }
        self.scan_string()
    }

    /// Reads from the opening quote here to past the closing one.
    #[inline]
    fn scan_string(&mut self) -> Fallible<Text<'a>> {
        let bytes = self.text.as_bytes();
        let from = self.at + 1;
        let mut at = from;
        let mut escaped = false;
        loop {
            at = plain_end(bytes, at);
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    at = match bytes.get(at + 1) {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => at + 2,
                        Some(b'u')
                            if bytes.get(at + 2..at + 6).is_some_and(|h| h.iter().all(u8::is_ascii_hexdigit)) =>
                        {
                            at + 6
                        }
                        _ => return Err(not_json(format!("bad escape in the string at byte {}", self.at))),
                    };
                }
                Some(_) => return Err(not_json(format!("control character in the string at byte {}", self.at))),
                None => return Err(not_json(format!("the string at byte {} has no end", self.at))),
            }
        }
        self.at = at + 1;
        Ok(Text { raw: self.text.get(from..at).unwrap_or_default(), escaped })
    }

    /// A number as it is written.
    pub(super) fn number(&mut self) -> Fallible<&'a str> {
        if !matches!(self.peek(), b'-' | b'0'..=b'9') {
            return Err(self.mismatch("a number"));
        }
        let from = self.at;
        self.skip_number()?;
        Ok(self.since(from))
    }

    fn skip_number(&mut self) -> Fallible<()> {
        self.at += usize::from(self.byte() == b'-');
        match self.byte() {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.skip_digits(),
            _ => return Err(self.unexpected("a digit")),
        }
        if self.byte() == b'.' {
            self.at += 1;
            self.require_digits()?;
        }
        if matches!(self.byte(), b'e' | b'E') {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), b'+' | b'-'));
            self.require_digits()?;
        }
        Ok(())
    }

    #[inline]
    fn skip_digits(&mut self) {
        while self.byte().is_ascii_digit() {
            self.at += 1;
        }
    }

    fn require_digits(&mut self) -> Fallible<()> {
        if !self.byte().is_ascii_digit() {
            return Err(self.unexpected("a digit"));
        }
        self.skip_digits();
        Ok(())
    }

    /// A whole number within i64.
    #[inline]
    pub(super) fn integer(&mut self) -> Fallible<i64> {
        let start = self.peek();
        let from = self.at;
        let negative = start == b'-';
        self.at += usize::from(negative);
        let digits_from = self.at;
        let mut magnitude = 0u64;
        loop {
            let digit = self.byte().wrapping_sub(b'0');
            if digit > 9 {
                break;
            }
            magnitude = magnitude.wrapping_mul(10).wrapping_add(u64::from(digit));
            self.at += 1;
        }
        let digits = self.at - digits_from;
        let plain = digits > 0
            && !(digits > 1 && self.text.as_bytes().get(digits_from) == Some(&b'0'))
            && !matches!(self.byte(), b'.' | b'e' | b'E');
        if !plain {
            self.at = from;
            return Err(self.mismatch("an integer"));
        }
        // 18 digits cannot have wrapped; more are rare enough to be read twice.
        if digits <= 18 {
            let value = magnitude as i64;
            return Ok(if negative { -value } else { value });
        }
        let text = self.since(from);
        text.parse().map_err(|_| bad_value(format!("{} does not fit 64 bits", excerpt(text))))
    }

    /// Steps over one value of any kind, checking its grammar.
    pub(super) fn skip(&mut self) -> Fallible<()> {
        // One bit a level, 1 for an object: MAX_DEPTH levels fit.
        let (mut objects, mut depth) = (0u64, 0u32);
        loop {
            match self.peek() {
                b'"' => {
                    self.scan_string()?;
                }
                b'-' | b'0'..=b'9' => self.skip_number()?,
                b'n' => self.literal(b"null")?,
                b't' => self.literal(b"true")?,
                b'f' => self.literal(b"false")?,
                open @ (b'{' | b'[') => {
                    let object = open == b'{';
                    if if object { self.open_object()? } else { self.open_array()? } {
                        if depth == MAX_DEPTH {
                            return Err(not_json(format!("nested deeper than {MAX_DEPTH} levels at byte {}", self.at)));
                        }
                        objects = objects << 1 | u64::from(object);
                        depth += 1;
                        if object {
                            self.name()?;
                        }
                        continue;
                    }
                }
                _ => return Err(self.unexpected("a value")),
            }
            loop {
                if depth == 0 {
                    return Ok(());
                }
                let object = objects & 1 == 1;
                if self.more(if object { b'}' } else { b']' })? {
                    if object {
                        self.name()?;
                    }
                    break;
                }
                objects >>= 1;
                depth -= 1;
            }
        }
    }

    /// One value of any kind as it is written.
    pub(super) fn raw(&mut self) -> Fallible<&'a str> {
        self.peek();
        let from = self.at;
        self.skip()?;
        Ok(self.since(from))
    }
}

/// Where the run of characters that stand for themselves ends: at a quote, a backslash, a control character or the end.
#[inline]
fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let quote = word ^ (ONES * b'"' as u64);
        let backslash = word ^ (ONES * b'\\' as u64);
        // The lowest flagged byte is exact: borrows only spread upwards.
        let stops = (quote.wrapping_sub(ONES) & !quote
            | backslash.wrapping_sub(ONES) & !backslash
            | word.wrapping_sub(ONES * 0x20) & !word)
            & HIGHS;
        if stops != 0 {
            return at + (stops.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(&byte) = bytes.get(at) {
        if byte == b'"' || byte == b'\\' || byte < 0x20 {
            break;
        }
        at += 1;
    }
    at
}

impl<'a> Text<'a> {
    /// Adds the string that this text means.
    #[inline]
    pub(super) fn append_to(&self, out: &mut Vec<u8>) -> Fallible<()> {
        if self.escaped {
            self.unescape_to(out)
        } else {
            out.extend_from_slice(self.raw.as_bytes());
            Ok(())
        }
    }

    /// The string that this text means; `scratch` holds it where it had to be unescaped.
    #[inline]
    pub(super) fn decoded<'s>(&self, scratch: &'s mut Vec<u8>) -> Fallible<&'s str>
    where
        'a: 's,
    {
        if !self.escaped {
            return Ok(self.raw);
        }
        scratch.clear();
        self.unescape_to(scratch)?;
        std::str::from_utf8(scratch).map_err(|e| not_json(e.to_string()))
    }

    #[inline(never)]
    fn unescape_to(&self, out: &mut Vec<u8>) -> Fallible<()> {
        let mut rest = self.raw;
        while let Some(at) = rest.find('\\') {
            out.extend_from_slice(&rest.as_bytes()[..at]); // `find` answers an index within
            let (code, after) = escape(&rest[at..]).ok_or_else(|| not_json("half a surrogate pair in a string"))?;
            out.extend_from_slice(code.encode_utf8(&mut [0; 4]).as_bytes());
            rest = after;
        }
        out.extend_from_slice(rest.as_bytes());
        Ok(())
    }
}

/// The character that the escape at the start of `text` means, and what follows it.
fn escape(text: &str) -> Option<(char, &str)> {
    let hex4 = |from: usize| u32::from_str_radix(text.get(from..from + 4)?, 16).ok();
    let simple = match text.as_bytes().get(1)? {
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let first = hex4(2)?;
            if !(0xd800..0xdc00).contains(&first) {
                return Some((char::from_u32(first)?, text.get(6..)?));
            }
            let second = text.get(6..8).filter(|s| *s == "\\u").and_then(|_| hex4(8))?;
            let low = second.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
            return Some((char::from_u32(0x10000 + ((first - 0xd800) << 10) + low)?, text.get(12..)?));
        }
        other => char::from(*other),
    };
    Some((simple, text.get(2..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("0", Ok(0))]
    #[case("-1", Ok(-1))]
    #[case("9223372036854775807", Ok(i64::MAX))]
    #[case("-9223372036854775808", Ok(i64::MIN))]
    #[case("9223372036854775808", Err("bad_value"))]
    #[case("99999999999999999999999999", Err("bad_value"))]
    #[case("1.0", Err("bad_value"))]
    #[case("1e3", Err("bad_value"))]
    #[case("\"1\"", Err("bad_value"))]
    #[case("01", Err("bad_value"))]
    #[case("-", Err("not_json"))]
    #[case("", Err("not_json"))]
    #[case("x", Err("not_json"))]
    fn an_integer_is_whole_and_fits(#[case] text: &str, #[case] want: Result<i64, &str>) {
        let mut cursor = Cursor::new(text);
        assert_eq!(cursor.integer().map_err(|e| e.reason), want);
    }

    #[test]
    fn skipping_agrees_with_serde_json_on_what_is_json() {
        let texts = [
            "null",
            "true",
            "tru",
            "[]",
            "[1,]",
            "[1 2]",
            "{}",
            "{\"a\":1}",
            "{\"a\"}",
            "{\"a\":1,}",
            "{1:2}",
            "\"a\\u00e9\"",
            "\"a\\x\"",
            "\"a",
            "-0.5e+10",
            "1.",
            ".5",
            "01",
            "-",
            "1e",
            "[[[{\"a\":[{}]}]]]",
            "[1}",
            "{\"a\":1]",
            " [ 1 , \"x\\\"y\" ] ",
            "\"\u{1}\"",
            "",
            "{\"a\":{\"b\":[true,false,null]}} x",
            "\"12345678\\",
            "\"1234567\u{7f}é\"",
        ];
        for text in texts {
            let mut cursor = Cursor::new(text);
            let ours = cursor.skip().and_then(|()| cursor.end()).is_ok();
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
            assert_eq!(ours, theirs, "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = |n: usize| "[".repeat(n) + "1" + &"]".repeat(n);
        assert!(Cursor::new(&deep(64)).skip().is_ok());
        assert_eq!(Cursor::new(&deep(65)).skip().unwrap_err().reason, "not_json");
        assert!(Cursor::new(&"[".repeat(1_000_000)).skip().is_err());
    }

    #[rstest]
    #[case(r#""plain""#)]
    #[case(r#""a\"b\\c\/d\b\f\n\r\t""#)]
    #[case(r#""\u00fc\ud83e\udd80 \u0000""#)]
    #[case(r#""é\u0061🦀""#)]
    #[case(r#""\ud83e""#)]
    #[case(r#""\ud83ex""#)]
    #[case(r#""\ud83e\u0061""#)]
    #[case(r#""\udd80""#)]
    fn strings_mean_what_serde_json_reads(#[case] text: &str) {
        let mut scratch = Vec::new();
        let got = Cursor::new(text).string().and_then(|t| t.decoded(&mut scratch).map(str::to_owned)).ok();
        assert_eq!(got, serde_json::from_str::<String>(text).ok());
    }
}
