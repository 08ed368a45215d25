//! Kafka's wire types, the classic (not "flexible") encoding: big-endian numbers, strings and arrays with a length before them.

/// A request that can't be read; the connection is closed, as Kafka does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed request: {0}")]
pub struct Malformed(pub &'static str);

/// Reads a request from front to back.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub fn i8(&mut self) -> Result<i8, Malformed> {
        self.fixed().map(i8::from_be_bytes)
    }

    pub fn i16(&mut self) -> Result<i16, Malformed> {
        self.fixed().map(i16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.fixed().map(i32::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, Malformed> {
        self.fixed().map(i64::from_be_bytes)
    }

    /// `None` where the length is -1.
    pub fn nullable_string(&mut self) -> Result<Option<&'a str>, Malformed> {
        let length = self.i16()?;
        let Ok(length) = usize::try_from(length) else { return Ok(None) };
        std::str::from_utf8(self.take(length)?).map(Some).map_err(|_| Malformed("a string is not UTF-8"))
    }

    pub fn string(&mut self) -> Result<&'a str, Malformed> {
        self.nullable_string()?.ok_or(Malformed("a string is missing"))
    }

    /// Empty where the length is -1.
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.i32()?;
        usize::try_from(length).map_or(Ok(&[]), |length| self.take(length))
    }

    /// `None` where the length is -1.
    pub fn nullable_array<T>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<Vec<T>>, Malformed> {
        let length = self.i32()?;
        let Ok(length) = usize::try_from(length) else { return Ok(None) };
        // Not reserved ahead: the length is the peer's word, the bytes are not there yet.
        let mut elements = Vec::new();
        for _ in 0..length {
            elements.push(element(self)?);
        }
        Ok(Some(elements))
    }

    pub fn array<T>(&mut self, element: impl FnMut(&mut Self) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
        Ok(self.nullable_array(element)?.unwrap_or_default())
    }
}

/// Writes a response; [`Writer::finish`] puts the length in front.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// With the response header: the request's correlation id.
    pub fn response(correlation_id: i32) -> Self {
        let mut writer = Self { bytes: vec![0; 4] };
        writer.i32(correlation_id);
        writer
    }

    pub fn i8(&mut self, value: i8) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub fn i16(&mut self, value: i16) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub fn i32(&mut self, value: i32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub fn i64(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub fn nullable_string(&mut self, value: Option<&str>) {
        match value {
            None => self.i16(-1),
            Some(text) => {
                self.i16(text.len() as i16);
                self.bytes.extend_from_slice(text.as_bytes());
            }
        }
    }

    pub fn string(&mut self, value: &str) {
        self.nullable_string(Some(value));
    }

    pub fn bytes(&mut self, value: &[u8]) {
        self.i32(value.len() as i32);
        self.bytes.extend_from_slice(value);
    }

    /// Many byte strings as one.
    pub fn joined(&mut self, parts: &[std::sync::Arc<[u8]>]) {
        self.i32(parts.iter().map(|p| p.len()).sum::<usize>() as i32);
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
    }

    pub fn array<T>(&mut self, elements: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut Self, T)) {
        let at = self.bytes.len();
        self.i32(0);
        let mut length = 0i32;
        for element in elements {
            write(self, element);
            length += 1;
        }
        // Four bytes were written at `at` above.
        self.bytes[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }

    pub fn finish(mut self) -> Vec<u8> {
        let length = (self.bytes.len() - 4) as i32;
        // `response` began with these four bytes.
        self.bytes[..4].copy_from_slice(&length.to_be_bytes());
        self.bytes
    }
}
