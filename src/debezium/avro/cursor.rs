//! Avro's binary encoding: one pass over a datum's bytes. Knows no schema.

use super::super::fault::{Fallible, Reject, reason, reject};

/// A varint of 64 bits has at most this many bytes.
const MAX_VARINT: usize = 10;

/// A place in a datum.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    /// Items that arrays and maps may still have. An item has a byte at least (those that have none, records without fields, are not
    /// worth an endless loop), so a datum cannot have more than bytes.
    items: usize,
}

/// A block of an array or a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub items: usize,
    /// How long it is, where the writer said so.
    pub bytes: Option<usize>,
}

#[cold]
pub(super) fn not_avro(detail: impl Into<String>) -> Box<Reject> {
    reject(reason::NOT_AVRO, detail)
}

#[cold]
fn cut_short() -> Box<Reject> {
    not_avro("the datum ends in the middle of a value")
}

impl<'a> Cursor<'a> {
    pub(super) fn new(datum: &'a [u8]) -> Self {
        Self { rest: datum, items: datum.len() }
    }

    /// A zigzag varint.
    #[inline]
    pub(super) fn long(&mut self) -> Fallible<i64> {
        let mut value = 0u64;
        for (at, byte) in self.rest.iter().take(MAX_VARINT).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                if at == MAX_VARINT - 1 && *byte > 1 {
                    break;
                }
                self.rest = self.rest.get(at + 1..).unwrap_or_default();
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(if self.rest.len() < MAX_VARINT { cut_short() } else { not_avro("a number of more than 64 bits") })
    }

    /// A length, of something that must still be there.
    #[inline]
    fn length(&mut self) -> Fallible<usize> {
        let length = self.long()?;
        match usize::try_from(length) {
            Ok(n) if n <= self.rest.len() => Ok(n),
            _ => Err(not_avro(format!("a length of {length} bytes where {} are left", self.rest.len()))),
        }
    }

    /// The next `len` bytes.
    #[inline]
    pub(super) fn fixed(&mut self, len: usize) -> Fallible<&'a [u8]> {
        let Some((bytes, rest)) = self.rest.split_at_checked(len) else { return Err(cut_short()) };
        self.rest = rest;
        Ok(bytes)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Fallible<[u8; N]> {
        let Some((bytes, rest)) = self.rest.split_first_chunk::<N>() else { return Err(cut_short()) };
        self.rest = rest;
        Ok(*bytes)
    }

    #[inline]
    pub(super) fn bytes(&mut self) -> Fallible<&'a [u8]> {
        let length = self.length()?;
        self.fixed(length)
    }

    #[inline]
    pub(super) fn text(&mut self) -> Fallible<&'a str> {
        let bytes = self.bytes()?;
        simdutf8::basic::from_utf8(bytes).map_err(|_| not_avro("a string is no UTF-8"))
    }

    #[inline]
    pub(super) fn int(&mut self) -> Fallible<i32> {
        let value = self.long()?;
        i32::try_from(value).map_err(|_| not_avro(format!("{value} is no int of 32 bits")))
    }

    #[inline]
    pub(super) fn boolean(&mut self) -> Fallible<bool> {
        match self.array::<1>()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(not_avro(format!("byte {other} is no boolean"))),
        }
    }

    #[inline]
    pub(super) fn float(&mut self) -> Fallible<f32> {
        self.array().map(f32::from_le_bytes)
    }

    #[inline]
    pub(super) fn double(&mut self) -> Fallible<f64> {
        self.array().map(f64::from_le_bytes)
    }

    /// The number of a union's branch, an enum's symbol.
    #[inline]
    pub(super) fn index(&mut self, of: usize) -> Fallible<usize> {
        let index = self.long()?;
        usize::try_from(index)
            .ok()
            .filter(|i| *i < of)
            .ok_or_else(|| not_avro(format!("branch or symbol {index} where the writer's schema has {of}")))
    }

    /// The next block of an array or a map; one without items is the end.
    #[inline]
    pub(super) fn block(&mut self) -> Fallible<Block> {
        let count = self.long()?;
        let bytes = if count < 0 { Some(self.length()?) } else { None };
        match usize::try_from(count.unsigned_abs()).ok().and_then(|n| Some((n, self.items.checked_sub(n)?))) {
            Some((items, left)) => {
                self.items = left;
                Ok(Block { items, bytes })
            }
            None => Err(not_avro(format!("a block of {} items, more than the datum has bytes", count.unsigned_abs()))),
        }
    }

    /// After the datum: nothing else may follow.
    pub(super) fn end(&self) -> Fallible<()> {
        match self.rest.len() {
            0 => Ok(()),
            n => Err(not_avro(format!("{n} bytes follow the datum: it was written with another schema"))),
        }
    }
}

/// Calls `item` for each item of an array or a map.
pub(super) fn items<'a>(
    cursor: &mut Cursor<'a>,
    mut item: impl FnMut(&mut Cursor<'a>) -> Fallible<()>,
) -> Fallible<()> {
    loop {
        let block = cursor.block()?;
        if block.items == 0 {
            return Ok(());
        }
        let left = cursor.rest.len();
        for _ in 0..block.items {
            item(cursor)?;
        }
        if block.bytes.is_some_and(|bytes| bytes != left - cursor.rest.len()) {
            return Err(not_avro("a block of another length than it says"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(&[0], Some(0))]
    #[case(&[1], Some(-1))]
    #[case(&[2], Some(1))]
    #[case(&[0x80, 1], Some(64))]
    #[case(&[0xff; 1], None)]
    #[case(&[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], Some(i64::MAX))]
    #[case(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], Some(i64::MIN))]
    #[case(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], None)]
    #[case(&[0x80; 11], None)]
    #[case(&[], None)]
    fn numbers_are_zigzag_varints(#[case] bytes: &[u8], #[case] want: Option<i64>) {
        assert_eq!(Cursor::new(bytes).long().ok(), want);
    }

    #[test]
    fn what_is_claimed_must_be_there() {
        assert!(Cursor::new(&[0x80, 0x80, 0x80, 0x80, 0x10, b'a']).bytes().is_err());
        assert!(Cursor::new(&[1]).bytes().is_err());
        assert!(Cursor::new(&[6, b'a', b'b']).text().is_err());
        assert!(Cursor::new(&[2, 0xff]).text().is_err());
        assert!(Cursor::new(&[2]).boolean().is_err());
        assert!(Cursor::new(&[0; 7]).double().is_err());
        assert!(Cursor::new(&[0x80, 0x80, 0x80, 0x80, 0x10]).int().is_err());
        assert!(Cursor::new(&[4]).index(2).is_err());
        assert!(Cursor::new(&[1]).index(2).is_err());
        assert_eq!(Cursor::new(&[2]).index(2).unwrap(), 1);
    }

    #[test]
    fn blocks_have_no_more_items_than_the_datum_has_bytes() {
        assert_eq!(Cursor::new(&[4, 0, 0]).block().unwrap(), Block { items: 2, bytes: None });
        assert_eq!(Cursor::new(&[3, 4, 0, 0]).block().unwrap(), Block { items: 2, bytes: Some(2) });
        assert!(Cursor::new(&[3, 6, 0, 0]).block().is_err(), "longer than what is left");
        assert!(Cursor::new(&[8, 0, 0]).block().is_err());
        let least = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0];
        assert!(Cursor::new(&least).block().is_err());
        let mut again = Cursor::new(&[4, 4, 0]);
        assert!(again.block().is_ok() && again.block().is_err(), "the bound is for all blocks together");
    }
}
