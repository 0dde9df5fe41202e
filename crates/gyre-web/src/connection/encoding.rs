//! Owns how a response body is encoded: which encoding the client gets (RFC 9110, section 12.5.3), and what the head
//! says about it.

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, VARY};

use super::HttpConnection;
use crate::compress::is_full;
use crate::limits::{WEB_COMPRESS_MIN_BYTES, WEB_COMPRESS_STEP_BYTES};
use crate::negotiate::choices;
use crate::transport::Transport;

pub(super) use crate::compress::{Compressor, Encoding};

impl HttpConnection {
    /// Returns whether a body of this length is compressed for clients that accept it. If so, tells caches with `Vary`.
    pub(super) fn varies(&mut self, length: u64) -> bool {
        let headers = &mut self.response.headers;
        let compressible =
            headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(is_compressible);
        if !compressible || length < WEB_COMPRESS_MIN_BYTES || headers.contains_key(CONTENT_ENCODING) {
            return false;
        }
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
        true
    }

    /// Chooses the encoding for a body of this length and sets the header fields that follow from it. `None`: the body
    /// is sent as it is.
    pub(super) fn negotiate(&mut self, length: u64) -> Option<Encoding> {
        if !self.varies(length) || is_full() {
            return None;
        }
        let headers = &mut self.response.headers;
        let encoding = accepted(&self.request.headers)?;
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
        // Two encodings of the same content differ byte for byte, so the entity tag becomes a weak one.
        if let Some(etag) = headers.get(ETAG).filter(|etag| !etag.as_bytes().starts_with(b"W/")) {
            let weak = [b"W/", etag.as_bytes()].concat();
            headers.insert(ETAG, HeaderValue::from_bytes(&weak).expect("a tag with a prefix is a tag"));
        }
        Some(encoding)
    }
}

/// Compresses a body in steps, with a pause for the worker between them.
pub(super) async fn compress(transport: &dyn Transport, encoding: Encoding, body: &[u8]) -> Bytes {
    let (mut compressor, mut out) = (Compressor::new(encoding), Vec::new());
    for (step, piece) in body.chunks(WEB_COMPRESS_STEP_BYTES).enumerate() {
        if step > 0 {
            transport.pause().await;
        }
        compressor.write(piece, &mut out);
    }
    compressor.finish(&mut out);
    out.into()
}

/// Returns the encoding that the client prefers; among equals the one that makes a body smallest. `None`, which is
/// identity, if the client names no preference, or accepts no encoding that is known here.
fn accepted(headers: &HeaderMap) -> Option<Encoding> {
    let weight = |names: &[&str]| {
        let named = |(name, _): &(&str, u16)| names.iter().any(|known| name.eq_ignore_ascii_case(known));
        choices(headers, &ACCEPT_ENCODING).find(named).map(|(_, weight)| weight)
    };
    let any = weight(&["*"]);
    let zstd = weight(&["zstd"]).or(any).unwrap_or(0);
    let gzip = weight(&["gzip", "x-gzip"]).or(any).unwrap_or(0);
    // If the client doesn't mention identity, it is allowed, but preferred less than what is mentioned.
    let identity = weight(&["identity"]).or(any).unwrap_or(0);
    if zstd > 0 && zstd >= gzip && zstd >= identity {
        Some(Encoding::Zstd)
    } else if gzip > 0 && gzip >= identity {
        Some(Encoding::Gzip)
    } else {
        None
    }
}

/// Returns whether a body of this type gets smaller by compression: text of any kind, and code. Pictures, films and
/// archives are compressed already.
fn is_compressible(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let Some((kind, name)) = essence.split_once('/') else { return false };
    let is_text = ["json", "javascript", "x-javascript", "xml", "wasm", "x-ndjson"].contains(&name);
    kind == "text" || kind == "application" && is_text || name.ends_with("+json") || name.ends_with("+xml")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoding(value: &str) -> Option<Encoding> {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        accepted(&HeaderMap::from_iter([(ACCEPT_ENCODING, value)]))
    }

    #[test]
    fn encodings_come_by_preference() {
        let (identity, gzip, zstd) = (None, Some(Encoding::Gzip), Some(Encoding::Zstd));
        for (value, expected) in [
            ("", identity),
            ("br, deflate", identity),
            ("gzip", gzip),
            ("gzip, deflate, br, zstd", zstd),
            ("X-GZIP", gzip),
            ("zstd;q=0.5, gzip;q=0.6", gzip),
            ("zstd;q=0.6, gzip;q=0.6", zstd),
            ("zstd;q=0, gzip;q=0.1", gzip),
            ("gzip;q=0", identity),
            ("*", zstd),
            ("*;q=0", identity),
            ("*, zstd;q=0", gzip),
            ("*;q=0.5, identity", identity),
            ("gzip;q=0.5, identity;q=0.6", identity),
            ("gzip;q=0.5, identity;q=0.5", gzip),
            ("gzip;q=0.1, identity;q=0", gzip),
            ("identity;q=0", identity),
            ("*;q=0.9, zstd;q=0.1, gzip;q=0.1", identity),
            ("gzip;q=x", identity),
        ] {
            assert_eq!(encoding(value), expected, "{value}");
        }
        assert_eq!(accepted(&HeaderMap::new()), identity);
    }

    #[test]
    fn text_is_compressible() {
        for yes in [
            "text/html; charset=utf-8",
            "text/event-stream",
            "Application/JSON",
            "application/javascript",
            "application/problem+json",
            "application/wasm",
            "image/svg+xml",
            "application/xml ;q",
        ] {
            assert!(is_compressible(yes), "{yes}");
        }
        for no in
            ["", "image/png", "video/mp4", "application/zip", "application/octet-stream", "json", "textual/a"]
        {
            assert!(!is_compressible(no), "{no}");
        }
    }

    proptest! {
        #[test]
        fn no_value_panics(value in "[ a-z0-9;=,.*q\\-]{0,200}") {
            encoding(&value);
            is_compressible(&value);
        }
    }
}
