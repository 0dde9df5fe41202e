//! Owns the file format that all lists share: one entry on each line, comments, and errors with line and column.

use std::io::{self, BufRead, Write};

use memchr::memchr;

use crate::limits::ACCESS_LINE_MAX_BYTES;

/// Collects the entries of a list file.
pub trait Entries: Default {
    /// The finished list.
    type List;
    /// Identifies an entry.
    type Key: PartialEq;

    /// Adds the entry of a line. `words` are the words of the line before a comment, at least one.
    ///
    /// # Errors
    ///
    /// The index of the wrong word, and what is wrong.
    fn enter(&mut self, words: &[&[u8]]) -> Result<(), (usize, String)>;

    /// Returns the list of all entries.
    fn finish(self) -> Self::List;

    /// Parses the first word of a line. Different notations of an entry have the same key.
    fn key(word: &[u8]) -> Option<Self::Key>;
}

/// Why a list can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The file can't be read.
    #[error(" {0}")]
    Io(#[from] io::Error),
    /// A line is invalid.
    #[error("{line}:{column}: {what}")]
    Line {
        /// The line number, from 1.
        line: usize,
        /// The byte position in the line, from 1.
        column: usize,
        /// What is wrong.
        what: String,
    },
}

/// Maximum number of words of a line that are read.
const WORDS: usize = 3;

/// Reads a list with one entry on each line. `#` starts a comment. Returns the list and the number of entries read.
///
/// # Errors
///
/// The first invalid line, or an I/O error.
pub fn read<E: Entries>(mut from: impl BufRead) -> Result<(E::List, usize), ListError> {
    let (mut entries, mut entered, mut text) = (E::default(), 0, Vec::new());
    for line in 1.. {
        text.clear();
        let fail = |column, what| ListError::Line { line, column, what };
        let most = ACCESS_LINE_MAX_BYTES as u64 + 1;
        let length = io::Read::take(&mut from, most).read_until(b'\n', &mut text)?;
        if length == 0 {
            break;
        }
        if length > ACCESS_LINE_MAX_BYTES {
            return Err(fail(ACCESS_LINE_MAX_BYTES + 1, "the line is too long".into()));
        }
        let mut words = [&b""[..]; WORDS];
        let mut count = 0;
        for word in words_of(&text).take(WORDS) {
            words[count] = word;
            count += 1;
        }
        if count > 0 {
            entered += 1;
            entries.enter(&words[..count]).map_err(|(word, what)| {
                let column = words[word].as_ptr() as usize - text.as_ptr() as usize + 1;
                fail(column, what)
            })?;
        }
    }
    Ok((entries.finish(), entered))
}

/// Copies a list without the lines whose entry has this key, and returns their number. Comment lines are kept.
///
/// # Errors
///
/// An I/O error.
pub fn copy_without<E: Entries>(
    mut from: impl BufRead,
    to: &mut impl Write,
    key: &E::Key,
) -> io::Result<usize> {
    let (mut text, mut left_out) = (Vec::new(), 0);
    while from.read_until(b'\n', &mut text)? > 0 {
        match words_of(&text).next().and_then(E::key) {
            Some(found) if found == *key => left_out += 1,
            _ => to.write_all(&text)?,
        }
        text.clear();
    }
    Ok(left_out)
}

fn words_of(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let entry = &line[..memchr(b'#', line).unwrap_or(line.len())];
    entry.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}
