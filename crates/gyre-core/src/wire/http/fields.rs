//! Owns the header fields of a head that was read, and what several of them have in common.

use std::mem::MaybeUninit;

use crate::limits::HTTP_HEADERS_MAX;

/// Room for the header fields of one head, at most [`HTTP_HEADERS_MAX`]. It is not initialised, so making one is free.
#[derive(Debug)]
pub struct FieldBuffer<'a>(pub(super) [MaybeUninit<httparse::Header<'a>>; HTTP_HEADERS_MAX]);

impl FieldBuffer<'_> {
    /// Returns an empty buffer.
    pub const fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; HTTP_HEADERS_MAX])
    }
}

impl Default for FieldBuffer<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// The header fields of a head, in order. They lie in a [`FieldBuffer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields<'f, 'a>(pub(super) &'f [httparse::Header<'a>]);

impl<'f, 'a> Fields<'f, 'a> {
    /// Returns the names and values.
    pub fn iter(self) -> impl ExactSizeIterator<Item = (&'a str, &'a [u8])> + Clone + use<'f, 'a> {
        self.0.iter().map(|field| (field.name, field.value))
    }

    /// Returns the value of the first field of this name, in any case, without the white space around it.
    pub fn get(self, name: &str) -> Option<&'a [u8]> {
        let field = self.0.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
        Some(field.value.trim_ascii())
    }
}

/// What the Connection fields of a head say (RFC 9110, section 7.6.1).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ConnectionOptions {
    close: bool,
    keep_alive: bool,
}

impl ConnectionOptions {
    /// Adds the options of one field.
    pub(super) fn add(&mut self, value: &[u8]) {
        for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    /// Whether the connection stays open: HTTP/1.0 must ask for it (RFC 9112, section 9.3).
    pub(super) fn keep_alive(self, http_10: bool) -> bool {
        !self.close && (!http_10 || self.keep_alive)
    }
}

/// Adds a Content-Length field to what earlier ones said. `None`: it is not a number, or differs from them, which
/// nothing can recover from (RFC 9112, section 6.3).
pub(super) fn add_content_length(known: &mut Option<u64>, value: &[u8]) -> Option<()> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = str::from_utf8(value).ok().filter(|_| digits)?;
    let length: u64 = text.parse().ok()?;
    known.replace(length).is_none_or(|other| other == length).then_some(())
}
