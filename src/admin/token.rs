//! Owns the token that requests need to change something: where it is stored, and how it is compared.

use std::fs::{self, OpenOptions};
use std::hint::black_box;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::ServerError;
use crate::limits::ADMIN_TOKEN_BYTES;
use crate::sys;

/// File name of the token in the state directory.
const FILE: &str = "admin-token";

/// The admin token.
pub struct Token(String);

impl Token {
    /// Reads the token from this file, or from the one in the state directory, which is created if it does not exist.
    ///
    /// # Errors
    ///
    /// The file can't be read, or does not hold a token of 16 to 256 visible ASCII characters.
    pub fn find(file: Option<&Path>, state_dir: Option<&Path>) -> Result<Option<Self>, ServerError> {
        if let Some(file) = file {
            return Self::read(file).map(Some);
        }
        let Some(path) = state_dir.map(|directory| directory.join(FILE)) else { return Ok(None) };
        if !path.exists() {
            let random: [u8; 20] = sys::random()
                .map_err(|source| ServerError::System { what: "can't get random numbers", source })?;
            let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
            let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path);
            file.and_then(|mut file| writeln!(file, "{text}")).map_err(|source| failed(&path, source))?;
        }
        Self::read(&path).map(Some)
    }

    fn read(path: &Path) -> Result<Self, ServerError> {
        let text = fs::read_to_string(path).map_err(|source| failed(path, source))?;
        let token = text.trim();
        let is_token =
            ADMIN_TOKEN_BYTES.contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
        let wrong =
            || failed(path, io::Error::other("not a token; it must be 16 to 256 visible ASCII characters"));
        if is_token { Ok(Self(token.to_owned())) } else { Err(wrong()) }
    }

    /// Returns whether `given` is the token. The time depends only on the length of `given`.
    pub fn is(&self, given: &str) -> bool {
        let (token, given) = (self.0.as_bytes(), given.as_bytes());
        let differs =
            token.iter().zip(given).fold(0, |differs, (one, other)| black_box(differs | (one ^ other)));
        token.len() == given.len() && differs == 0
    }
}

fn failed(path: &Path, source: io::Error) -> ServerError {
    ServerError::Token { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_itself_is_accepted() {
        let token = Token("0123456789abcdef".to_owned());
        assert!(token.is("0123456789abcdef"));
        for other in ["", "0", "0123456789abcdeg", "1123456789abcdef", "0123456789abcdef0", "0123456789abcde"]
        {
            assert!(!token.is(other), "{other}");
        }
    }
}
