//! Owns the head of a request as handlers see it, in the types of the `http` crate.

use http::request::Parts;
use http::uri::Authority;
use http::{HeaderName, HeaderValue, Method, Request, Version, header};

use gyre_core::error::TrackerError;
use gyre_core::limits::HTTP_HEADERS_MAX;

/// Reads a head that the worker has found to be one: the request, the host that it names, and what is wrong with it
/// after all. What could be read is there all the same, for the error's route.
pub(super) fn parse(head: &[u8]) -> (Parts, String, Option<TrackerError>) {
    let (mut parts, ()) = Request::new(()).into_parts();
    let mut host = String::new();
    let malformed = read(head, &mut parts, &mut host).err();
    (parts, host, malformed)
}

fn read(head: &[u8], parts: &mut Parts, host: &mut String) -> Result<(), TrackerError> {
    let mut headers = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let incorrect = |message: &'static str| TrackerError::incorrect_request(message);
    request.parse(head).map_err(|_| incorrect("the head is malformed"))?;
    let method = request.method.unwrap_or_default();
    parts.method = Method::from_bytes(method.as_bytes()).map_err(|_| incorrect("the method is none"))?;
    parts.version = if request.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    for field in request.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(incorrect("a header field is malformed"));
        };
        parts.headers.append(name, value);
    }
    parts.uri = request.path.unwrap_or_default().parse().map_err(|_| incorrect("the URL is malformed"))?;
    *host = match (parts.uri.authority(), parts.headers.get(header::HOST)) {
        // RFC 9112, section 3.2.2: a target with an authority counts, not the Host field.
        (Some(authority), _) => checked_host(authority).ok_or_else(|| incorrect("the URL names no host"))?,
        (None, Some(host)) if host.is_empty() => String::new(),
        (None, Some(host)) => {
            let authority = host.to_str().ok().and_then(|text| text.parse().ok());
            let host = authority.as_ref().and_then(checked_host);
            host.ok_or_else(|| incorrect("the Host field names no host"))?
        }
        (None, None) => String::new(),
    };
    Ok(())
}

/// A host and perhaps a port: no user's name, and nothing else that would make a URL of it that leads elsewhere.
fn checked_host(authority: &Authority) -> Option<String> {
    let text = authority.as_str();
    let port = text.strip_prefix(authority.host())?;
    let is_digits = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    (port.is_empty() || port.strip_prefix(':').is_some_and(is_digits)).then(|| text.to_owned())
}
