//! Owns the paths of the tracker: the resource that a path names, and the passkey of a private tracker in it.

use crate::limits::HTTP_PASSKEY_BYTES;

/// The resource that a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// `/announce`, `/:passkey/announce`
    Announce {
        /// The passkey, if the path has one.
        passkey: Option<&'a str>,
    },
    /// `/scrape`, `/:passkey/scrape`
    Scrape {
        /// The passkey, if the path has one.
        passkey: Option<&'a str>,
    },
    /// `/health`: the health check of the worker.
    Health,
    /// Any other path.
    NotFound,
}

impl<'a> Route<'a> {
    /// Parses a path.
    pub fn of(path: &'a str) -> Self {
        let Some(path) = path.strip_prefix('/') else {
            return Self::NotFound;
        };
        let (passkey, action) = match path.split_once('/') {
            None => (None, path),
            Some((passkey, action)) if is_passkey(passkey) => (Some(passkey), action),
            Some(_) => return Self::NotFound,
        };
        match action {
            "announce" => Self::Announce { passkey },
            "scrape" => Self::Scrape { passkey },
            "health" if passkey.is_none() => Self::Health,
            _ => Self::NotFound,
        }
    }
}

/// Returns the passkey of an announce or scrape path, if it has one.
pub(super) fn passkey(path: &str) -> Option<&str> {
    match Route::of(path) {
        Route::Announce { passkey } | Route::Scrape { passkey } => passkey,
        Route::Health | Route::NotFound => None,
    }
}

/// Returns whether a text is a valid passkey: 1 to [`HTTP_PASSKEY_BYTES`] letters, digits, `-` and `_`.
pub(super) fn is_passkey(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=HTTP_PASSKEY_BYTES).contains(&text.len()) && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_names_its_route() {
        assert_eq!(Route::of("/announce"), Route::Announce { passkey: None });
        assert_eq!(Route::of("/scrape"), Route::Scrape { passkey: None });
        assert_eq!(Route::of("/0a-B_9/announce"), Route::Announce { passkey: Some("0a-B_9") });
        assert_eq!(Route::of("/0aB9/scrape"), Route::Scrape { passkey: Some("0aB9") });
        assert_eq!(Route::of("/health"), Route::Health);
        let long = format!("/{}/announce", "x".repeat(HTTP_PASSKEY_BYTES + 1));
        for unknown in [
            "",
            "/",
            "//announce",
            "/announce/",
            "/a/b/announce",
            "/k%20/announce",
            "/key/health",
            "announce",
            "/../announce",
            &long,
        ] {
            assert_eq!(Route::of(unknown), Route::NotFound, "{unknown}");
        }
    }
}
