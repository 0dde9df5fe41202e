//! Owns the head of a request as handlers see it, in the types of the `http` crate.

use http::request::Parts;
use http::uri::Authority;
use http::{HeaderName, HeaderValue, Method, Request, Version, header};

use gyre_core::error::TrackerError;
use gyre_core::wire::http::{Framing, Head};

/// The head of a request for one of the site's routes, taken over from the connection's bytes.
#[derive(Debug)]
pub struct RequestHead {
    /// Method, URL and fields. Where the head is malformed, what could be read, for the error's route.
    pub(super) parts: Parts,
    /// The host that the request names.
    pub(super) host: String,
    /// What is wrong with the head, although it could be parsed.
    pub(super) malformed: Option<TrackerError>,
    /// Length of the body.
    pub(super) framing: Framing,
    /// The client waits for a 100 before it sends the body.
    pub(super) expects_continue: bool,
}

impl From<&Head<'_, '_>> for RequestHead {
    fn from(head: &Head<'_, '_>) -> Self {
        let (parts, ()) = Request::new(()).into_parts();
        let (framing, expects_continue) = (head.request.framing, head.request.expects_continue);
        let mut taken = Self { parts, host: String::new(), malformed: None, framing, expects_continue };
        taken.malformed = taken.take(head).err();
        taken
    }
}

impl RequestHead {
    fn take(&mut self, head: &Head<'_, '_>) -> Result<(), TrackerError> {
        let parts = &mut self.parts;
        let incorrect = |message: &'static str| TrackerError::incorrect_request(message);
        parts.method = Method::from_bytes(head.method.as_bytes()).map_err(|_| incorrect("invalid method"))?;
        parts.version = if head.request.http_10 { Version::HTTP_10 } else { Version::HTTP_11 };
        for (name, value) in head.fields.iter() {
            let (name, value) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value));
            let (Ok(name), Ok(value)) = (name, value) else {
                return Err(incorrect("invalid header field"));
            };
            parts.headers.append(name, value);
        }
        parts.uri = head.target.parse().map_err(|_| incorrect("invalid URL"))?;
        self.host = match (parts.uri.authority(), parts.headers.get(header::HOST)) {
            // RFC 9112, section 3.2.2: a target with an authority counts, not the Host field.
            (Some(authority), _) => {
                checked_host(authority).ok_or_else(|| incorrect("invalid host in the URL"))?
            }
            (None, Some(host)) if host.is_empty() => String::new(),
            (None, Some(host)) => {
                let authority = host.to_str().ok().and_then(|text| text.parse().ok());
                let host = authority.as_ref().and_then(checked_host);
                host.ok_or_else(|| incorrect("invalid Host field"))?
            }
            (None, None) => String::new(),
        };
        Ok(())
    }
}

/// A host and perhaps a port: no user's name, and nothing else that would make a URL of it that leads elsewhere.
fn checked_host(authority: &Authority) -> Option<String> {
    let text = authority.as_str();
    let port = text.strip_prefix(authority.host())?;
    let is_digits = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    (port.is_empty() || port.strip_prefix(':').is_some_and(is_digits)).then(|| text.to_owned())
}
