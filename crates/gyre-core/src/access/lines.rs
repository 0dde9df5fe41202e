//! Owns what all lists have in common: an entry to a line, comments, and errors that name their place.

use std::io::{self, BufRead, Write};

use memchr::memchr;

use crate::limits::ACCESS_LINE_MAX_BYTES;

/// A list that is being read.
pub trait Entries: Default {
    /// What it becomes.
    type List;
    /// What tells one entry from another.
    type Key: PartialEq;

    /// Takes the words of a line: one at least, without comment.
    ///
    /// # Errors
    ///
    /// Which word, from 0, is wrong, and why.
    fn enter(&mut self, words: &[&[u8]]) -> Result<(), (usize, String)>;

    /// The list of all entries.
    fn finish(self) -> Self::List;

    /// What the first word of a line names, however it is written.
    fn key(word: &[u8]) -> Option<Self::Key>;
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

/// Reads a list: an entry to a line, `#` and what follows it is a comment. Says how many entries there were.
///
/// # Errors
///
/// The first line that is no entry, or why no more can be read.
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
            return Err(fail(ACCESS_LINE_MAX_BYTES + 1, "the line is too long for an entry".into()));
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

/// Copies a list without the entries of this name; returns how many those were. Comments stay.
///
/// # Errors
///
/// Why no more can be read or written.
pub fn copy_without<E: Entries>(
    mut from: impl BufRead,
    to: &mut impl Write,
    name: &E::Key,
) -> io::Result<usize> {
    let (mut text, mut left_out) = (Vec::new(), 0);
    while from.read_until(b'\n', &mut text)? > 0 {
        match words_of(&text).next().and_then(E::key) {
            Some(key) if key == *name => left_out += 1,
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
