//! Owns the tests of bodies: what each reader accepts, what it refuses, and its error messages.

use std::collections::BTreeMap;

use http::HeaderValue;
use proptest::collection::vec;
use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::test_transport::{TestTransport, run};
use gyre_core::wire::http::Framing;

/// Reads a body of this content type. Sends no type if it is empty.
fn read<T>(
    content_type: &[u8],
    bytes: &[u8],
    reader: impl AsyncFnOnce(Body<'_>) -> Result<T, TrackerError>,
) -> Result<T, TrackerError> {
    let mut headers = HeaderMap::new();
    if !content_type.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_bytes(content_type).unwrap());
    }
    let (arrived, rest) = bytes.split_at(bytes.len() / 2);
    let transport = TestTransport::new(arrived, [rest.to_vec()]);
    let mut incoming = Incoming::new(transport, Framing::Length(bytes.len() as u64), false);
    run(reader(Body::new(&mut incoming, &headers)))
}

async fn raw(body: Body<'_>) -> Result<Bytes, TrackerError> {
    body.raw().await
}

async fn text(body: Body<'_>) -> Result<String, TrackerError> {
    body.text().await
}

async fn json<T: DeserializeOwned>(body: Body<'_>) -> Result<T, TrackerError> {
    body.json().await
}

async fn form<T: DeserializeOwned>(body: Body<'_>) -> Result<T, TrackerError> {
    body.form().await
}

fn code<T>(result: Result<T, TrackerError>) -> Option<Code> {
    result.err().map(|error| error.code())
}

#[derive(Debug, Deserialize, PartialEq)]
struct Search {
    words: String,
    #[serde(default)]
    category: Vec<u32>,
}

fn search(words: &str, category: &[u32]) -> Search {
    Search { words: words.into(), category: category.into() }
}

const FORM: &[u8] = b"application/x-www-form-urlencoded";
const JSON_TYPE: &[u8] = b"application/json";

#[test]
fn a_body_is_read_whole_or_in_chunks_within_its_limit() {
    assert_eq!(read(b"", b"a body", raw).unwrap(), "a body");
    assert_eq!(read(b"", b"", raw).unwrap(), "");
    assert_eq!(read(b"", b"a body", async |body| body.limit(6).raw().await).unwrap(), "a body");
    assert_eq!(
        code(read(b"", b"a body", async |body| body.limit(5).raw().await)),
        Some(Code::ContentTooLarge)
    );
    let large = vec![b'x'; WEB_BODY_MAX_BYTES as usize + 1];
    assert_eq!(code(read(b"", &large, raw)), Some(Code::ContentTooLarge));
    assert_eq!(read(b"", &large[1..], raw).unwrap().len() as u64, WEB_BODY_MAX_BYTES);
    let chunks = read(b"", b"a body", async |mut body| {
        let mut chunks = Vec::new();
        while let Some(chunk) = body.next().await? {
            chunks.push(chunk);
        }
        Ok(chunks)
    });
    assert_eq!(chunks.unwrap(), ["a b", "ody"]);
}

#[test]
fn text_is_utf8_and_its_charset_must_not_differ() {
    let gruss = "Grüße".as_bytes();
    for content_type in [
        "",
        "text/plain",
        "text/plain; charset=UTF-8",
        "text/html;charset=\"utf-8\"",
        "a/b; charset=us-ascii",
    ] {
        assert_eq!(read(content_type.as_bytes(), gruss, text).unwrap(), "Grüße", "{content_type}");
    }
    for content_type in [b"text/plain; charset=latin1".as_slice(), b"text", b"\xe4/b", b"a/b; charset="] {
        assert_eq!(code(read(content_type, gruss, text)), Some(Code::UnsupportedMediaType));
    }
    assert_eq!(code(read(b"text/plain", b"Gr\xfc\xdfe", text)), Some(Code::IncorrectRequest));
}

#[test]
fn json_needs_its_content_type() {
    let bytes = br#"{"words": "a b", "category": [1, 2]}"#;
    for content_type in
        [JSON_TYPE, b"Application/JSON;charset=utf-8", b"application/problem+json", b"text/x+json"]
    {
        assert_eq!(read(content_type, bytes, json::<Search>).unwrap(), search("a b", &[1, 2]));
    }
    for content_type in [b"".as_slice(), b"text/json", b"text/plain", FORM, b"application/jsonp", b"json"] {
        assert_eq!(code(read(content_type, bytes, json::<Search>)), Some(Code::UnsupportedMediaType));
    }
}

#[test]
fn json_errors_name_line_and_column_and_stay_short() {
    for (bytes, message) in [
        ("{\n  \"words\": nothing}", "at line 2 column 13: expected ident"),
        ("", "at line 1 column 0: EOF while parsing a value"),
        ("{}", "at line 1 column 2: missing field `words`"),
        ("{\"words\": \"\"} x", "at line 1 column 15: trailing characters"),
    ] {
        let error = read(JSON_TYPE, bytes.as_bytes(), json::<Search>).unwrap_err();
        assert_eq!(error.code(), Code::IncorrectRequest);
        assert_eq!(error.message(), format!("malformed JSON {message}"));
    }
    let long = format!("{{\"words\": \"\", \"category\": \"{}\"}}", "ü\\n".repeat(1_000));
    let error = read(JSON_TYPE, long.as_bytes(), json::<Search>).unwrap_err();
    assert!(error.message().chars().count() < 2 * WEB_REASON_CHARS, "{error}");
    assert!(error.message().contains("line 1 column 4028: invalid type: string"), "{error}");
    let deep = "[".repeat(100_000);
    let error = read(JSON_TYPE, deep.as_bytes(), json::<serde_json::Value>).unwrap_err();
    assert!(error.message().contains("recursion limit"), "{error}");
    // The message quotes a name without its line breaks.
    let two_lines = read(JSON_TYPE, br#"{"a\r\nb": 1}"#, json::<NoFields>).unwrap_err();
    assert!(two_lines.message().contains("`a  b`"), "{two_lines}");
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoFields {}

#[test]
fn repeated_form_fields_are_lists() {
    let search_form = |bytes: &[u8]| read(FORM, bytes, form::<Search>);
    assert_eq!(search_form(b"words=a+b%2bc&category=1&category=2&x=").unwrap(), search("a b+c", &[1, 2]));
    assert_eq!(search_form(b"words=Gr%C3%BC%c3%9fe").unwrap(), search("Grüße", &[]));
    assert_eq!(search_form("words=Grüße".as_bytes()).unwrap(), search("Grüße", &[]));
    for bytes in [
        b"category=1".as_slice(),
        b"words=a&category=x",
        b"words=%",
        b"words=%4",
        b"words=%4g",
        b"words=%%41",
        b"words=%c3",
        b"words=\xff",
        b"words%c3=%bc",
    ] {
        assert_eq!(code(search_form(bytes)), Some(Code::IncorrectRequest), "{}", bytes.escape_ascii());
    }
    for content_type in [b"".as_slice(), JSON_TYPE, b"application/x-www-form-urlencoded; charset=latin1"] {
        let result = read(content_type, b"words=", form::<Search>);
        assert_eq!(code(result), Some(Code::UnsupportedMediaType));
    }
    let fields = |count| read(FORM, "a=b&".repeat(count).as_bytes(), form::<Vec<(String, String)>>);
    assert_eq!(fields(WEB_FORM_FIELDS - 1).unwrap().len(), WEB_FORM_FIELDS - 1);
    assert_eq!(code(fields(WEB_FORM_FIELDS)), Some(Code::IncorrectRequest));
}

#[test]
fn a_body_of_another_type_is_not_read() {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    let transport = TestTransport::new(b"", []);
    let mut incoming = Incoming::new(transport.clone(), Framing::Length(9), true);
    assert!(run(Body::new(&mut incoming, &headers).json::<Search>()).is_err());
    assert!(run(Body::new(&mut incoming, &headers).form::<Search>()).is_err());
    #[cfg(feature = "multipart")]
    assert!(run(Body::new(&mut incoming, &headers).multipart()).is_err());
    assert_eq!(transport.written(), b"", "no 100 Continue");
}

proptest! {
    #[test]
    fn any_form_is_read_back(fields: BTreeMap<String, String>) {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(&fields).finish();
        let read: BTreeMap<String, String> = read(FORM, body.as_bytes(), form).unwrap();
        prop_assert_eq!(read, fields);
    }

    #[test]
    fn no_junk_panics(
        content_type in prop_oneof![
            "(application|text|multipart)/(json|form-data|x-www-form-urlencoded|a\\+json)(;? ?[a-z\"=; -]{0,9}){0,3}",
            "[ -~\u{e4}]{0,40}",
        ],
        body in prop_oneof![vec(any::<u8>(), 0..200), "[]\\[{}\":,0-9eE.%&=+ a-f-]{0,40}".prop_map(Vec::from)],
    ) {
        let content_type = content_type.as_bytes();
        let _ = read(content_type, &body, text);
        let _ = read(content_type, &body, json::<serde_json::Value>);
        let _ = read(content_type, &body, form::<Vec<(String, String)>>);
        #[cfg(feature = "multipart")]
        let _ = read(content_type, &body, async |body| body.multipart().await?.next_field().await.map(drop));
    }
}
