//! Owns what all lists have in common: an entry to a line, comments, and errors that name their place.

use std::io::{self, BufRead};

use memchr::memchr;

use crate::limits::ACCESS_LINE_MAX_BYTES;

/// A list that is being read.
pub trait Entries: Default {
    /// What it becomes.
    type List;

    /// Takes the words of a line: one at least, without comment.
    ///
    /// # Errors
    ///
    /// Which word, from 0, is wrong, and why.
    fn enter(&mut self, words: &[&[u8]]) -> Result<(), (usize, String)>;

    /// The list of all entries.
    fn finish(self) -> Self::List;
}

/// Why a list can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The file can't be.
    #[error(" {0}")]
    Io(#[from] io::Error),
    /// A line is no entry.
    #[error("{line}:{column}: {what}")]
    Line {
        /// The line, from 1.
        line: usize,
        /// The byte in the line, from 1.
        column: usize,
        /// What is wrong.
        what: String,
    },
}

/// Words of a line, at most.
const WORDS: usize = 3;

/// Reads a list: an entry to a line, `#` and what follows it is a comment.
///
/// # Errors
///
/// The first line that is no entry, or why no more can be read.
pub fn read<E: Entries>(mut from: impl BufRead) -> Result<E::List, ListError> {
    let (mut entries, mut text) = (E::default(), Vec::new());
    for line in 1.. {
        text.clear();
        let fail = |column, what| ListError::Line { line, column, what };
        let most = ACCESS_LINE_MAX_BYTES as u64 + 1;
        let length = io::Read::take(&mut from, most).read_until(b'\n', &mut text)?;
        if length == 0 {
            break;
        }
        if length > ACCESS_LINE_MAX_BYTES {
            return Err(fail(ACCESS_LINE_MAX_BYTES + 1, "the line is too long for an entry".into()));
        }
        let entry = &text[..memchr(b'#', &text).unwrap_or(text.len())];
        let mut words = [&b""[..]; WORDS];
        let mut count = 0;
        for word in entry.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).take(WORDS) {
            words[count] = word;
            count += 1;
        }
        if count > 0 {
            entries.enter(&words[..count]).map_err(|(word, what)| {
                let column = words[word].as_ptr() as usize - text.as_ptr() as usize + 1;
                fail(column, what)
            })?;
        }
    }
    Ok(entries.finish())
}
