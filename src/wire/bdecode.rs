//! Owns the reading of bencode (BEP 3), strictly, as a client that trusts no tracker: sorted keys, no leading zeros,
//! nothing behind the end. It borrows from what it reads.

use thiserror::Error;

/// Lists and dictionaries within each other, at most; a tracker's answer has three.
const DEPTH_MAX: usize = 8;

/// A bencoded value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// `i42e`
    Int(i64),
    /// `4:spam`
    Bytes(&'a [u8]),
    /// `l...e`
    List(Vec<Value<'a>>),
    /// `d...e`, its keys in ascending order.
    Dict(Vec<(&'a [u8], Value<'a>)>),
}

/// Why bytes are no bencode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BencodeError {
    /// It ends too early.
    #[error("it ends in the middle")]
    Short,
    /// A byte that begins nothing.
    #[error("a byte that begins no value")]
    Kind,
    /// A number with a leading zero, without digits, or beyond 64 bits.
    #[error("a number that is none")]
    Number,
    /// Keys that are not in ascending order, or twice the same.
    #[error("keys that are not sorted")]
    Order,
    /// More than eight lists and dictionaries within each other.
    #[error("too deep")]
    Depth,
    /// Something follows.
    #[error("something follows its end")]
    Trailing,
}

impl<'a> Value<'a> {
    /// Reads one value, which must be all there is.
    ///
    /// # Errors
    ///
    /// [`BencodeError`]: what is wrong with it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BencodeError> {
        let mut reader = Reader { rest: bytes };
        let value = reader.value(DEPTH_MAX)?;
        if reader.rest.is_empty() { Ok(value) } else { Err(BencodeError::Trailing) }
    }

    /// A dictionary's entry; `None` if there is no such key or this is no dictionary.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        let Self::Dict(entries) = self else { return None };
        entries.iter().find(|(name, _)| *name == key.as_bytes()).map(|(_, value)| value)
    }

    /// The number that this is.
    pub fn int(&self) -> Option<i64> {
        if let Self::Int(number) = self { Some(*number) } else { None }
    }

    /// The bytes that this is.
    pub fn bytes(&self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<Value<'a>, BencodeError> {
        match self.rest.first().ok_or(BencodeError::Short)? {
            b'i' => {
                self.rest = &self.rest[1..];
                self.int().map(Value::Int)
            }
            b'0'..=b'9' => self.bytes().map(Value::Bytes),
            b'l' => {
                self.rest = &self.rest[1..];
                let depth = depth.checked_sub(1).ok_or(BencodeError::Depth)?;
                let mut items = Vec::new();
                while !self.ends()? {
                    items.push(self.value(depth)?);
                }
                Ok(Value::List(items))
            }
            b'd' => {
                self.rest = &self.rest[1..];
                let depth = depth.checked_sub(1).ok_or(BencodeError::Depth)?;
                let mut entries: Vec<(&[u8], Value<'_>)> = Vec::new();
                while !self.ends()? {
                    let key = self.bytes()?;
                    if entries.last().is_some_and(|(last, _)| *last >= key) {
                        return Err(BencodeError::Order);
                    }
                    entries.push((key, self.value(depth)?));
                }
                Ok(Value::Dict(entries))
            }
            _ => Err(BencodeError::Kind),
        }
    }

    /// Takes the end of a list or dictionary, if it is there.
    fn ends(&mut self) -> Result<bool, BencodeError> {
        let ends = *self.rest.first().ok_or(BencodeError::Short)? == b'e';
        self.rest = &self.rest[usize::from(ends)..];
        Ok(ends)
    }

    fn int(&mut self) -> Result<i64, BencodeError> {
        let end = self.rest.iter().position(|byte| *byte == b'e').ok_or(BencodeError::Short)?;
        let (text, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        let digits = text.strip_prefix(b"-").unwrap_or(text);
        let canonical = matches!(digits, [b'0'] | [b'1'..=b'9', ..]) && text != b"-0";
        let text = str::from_utf8(text).ok().filter(|_| canonical).ok_or(BencodeError::Number)?;
        text.parse().map_err(|_| BencodeError::Number)
    }

    fn bytes(&mut self) -> Result<&'a [u8], BencodeError> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (length, rest) = self.rest.split_at(digits);
        if !matches!(length, [b'0'] | [b'1'..=b'9', ..]) {
            return Err(if self.rest.is_empty() { BencodeError::Short } else { BencodeError::Number });
        }
        let length = str::from_utf8(length).ok().and_then(|length| length.parse::<usize>().ok());
        let length = length.ok_or(BencodeError::Number)?;
        match rest.split_first() {
            None => Err(BencodeError::Short),
            Some((b':', rest)) if rest.len() >= length => {
                let (bytes, rest) = rest.split_at(length);
                self.rest = rest;
                Ok(bytes)
            }
            Some((b':', _)) => Err(BencodeError::Short),
            Some(_) => Err(BencodeError::Number),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_read() {
        let value = Value::parse(b"d8:completei3e4:listli-1e0:e5:peers6:abcdefe").unwrap();
        assert_eq!(value.get("complete").and_then(Value::int), Some(3));
        assert_eq!(value.get("peers").and_then(Value::bytes), Some(&b"abcdef"[..]));
        assert_eq!(value.get("list"), Some(&Value::List(vec![Value::Int(-1), Value::Bytes(b"")])));
        assert_eq!(value.get("interval"), None);
        assert_eq!(Value::parse(b"i-9223372036854775808e"), Ok(Value::Int(i64::MIN)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        use BencodeError::*;
        let cases: [(&[u8], BencodeError); 20] = [
            (b"", Short),
            (b"x", Kind),
            (b"e", Kind),
            (b"i12", Short),
            (b"ie", Number),
            (b"i-e", Number),
            (b"i-0e", Number),
            (b"i03e", Number),
            (b"i+3e", Number),
            (b"i9223372036854775808e", Number),
            (b"3:ab", Short),
            (b"3", Short),
            (b"03:abc", Number),
            (b"3abc", Number),
            (b"99999999999999999999:", Number),
            (b"l", Short),
            (b"d1:bi1e1:ai1ee", Order),
            (b"d1:ai1e1:ai1ee", Order),
            (b"di1ei1ee", Number),
            (b"i1ei1e", Trailing),
        ];
        for (bytes, error) in cases {
            assert_eq!(Value::parse(bytes), Err(error), "{}", bytes.escape_ascii());
        }
        assert!(Value::parse(b"llllllllleeeeeeeee").is_err_and(|error| error == Depth));
        assert!(Value::parse(b"lllllllleeeeeeee").is_ok());
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(prop_oneof![Just(b'd'), Just(b'l'), Just(b'i'),
            Just(b'e'), Just(b':'), b'0'..=b'9', any::<u8>()], 0..60)) {
            let _ = Value::parse(&bytes);
        }
    }
}
