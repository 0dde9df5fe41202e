//! Owns the tests of multipart forms: forms of browsers are read however they are cut, and limits hold.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderValue};
use memchr::memmem;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::body::Body;
use crate::test_transport::{TestTransport, run};
use gyre_core::wire::http::Framing;

const LARGE: u64 = 1 << 30;

/// Reads a form that arrives in pieces of `cut` bytes.
fn read<T>(
    boundary: &str,
    (wire, cut): (&[u8], usize),
    limit: u64,
    reader: impl AsyncFnOnce(Multipart<'_>) -> Result<T, TrackerError>,
) -> Result<T, TrackerError> {
    let mut headers = HeaderMap::new();
    let content_type = format!("multipart/form-data; charset=utf-8; boundary=\"{boundary}\"");
    headers.insert(CONTENT_TYPE, HeaderValue::from_str(&content_type).unwrap());
    let transport = TestTransport::new(b"", wire.chunks(cut).map(<[u8]>::to_vec));
    let mut incoming = Incoming::new(transport, Framing::Length(wire.len() as u64), false);
    let result =
        run(async { reader(Body::new(&mut incoming, &headers).limit(limit).multipart().await?).await });
    assert!(result.is_err() || incoming.is_read(), "a form is read to its end");
    result
}

/// Name, file name, type, content.
type Read = (String, Option<String>, Option<String>, Vec<u8>);

async fn all(mut form: Multipart<'_>) -> Result<Vec<Read>, TrackerError> {
    let mut fields = Vec::new();
    while let Some(field) = form.next_field().await? {
        let (name, file_name) = (field.name().to_owned(), field.file_name().map(str::to_owned));
        let content_type = field.content_type().map(str::to_owned);
        fields.push((name, file_name, content_type, field.bytes().await?.to_vec()));
    }
    assert!(form.next_field().await?.is_none());
    Ok(fields)
}

async fn skim(mut form: Multipart<'_>) -> Result<usize, TrackerError> {
    let mut fields = 0;
    while form.next_field().await?.is_some() {
        fields += 1;
    }
    Ok(fields)
}

fn form(boundary: &str, fields: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut wire = Vec::new();
    for (head, content) in fields {
        wire.extend_from_slice(format!("--{boundary}\r\n{head}\r\n\r\n").as_bytes());
        wire.extend_from_slice(content);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    wire
}

fn value(name: &str, content: &[u8]) -> (String, Vec<u8>) {
    (format!("Content-Disposition: form-data; name=\"{name}\""), content.to_vec())
}

fn code<T>(result: Result<T, TrackerError>) -> Option<Code> {
    result.err().map(|error| error.code())
}

#[test]
fn forms_of_browsers_are_read_however_they_are_cut() {
    let boundary = "----WebKitFormBoundaryp7MA4YWxkTrZu0gW";
    let wire = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\nGrüße\r\n\
         --{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a b.torrent\"\r\n\
         Content-Type: application/x-bittorrent\r\n\r\nd4:infode\r\n--{boundary}x\r\n\r\n--\r\n\
         --{boundary}\r\ncontent-disposition: form-data; name=empty\r\n\r\n\r\n--{boundary}--\r\n"
    )
    .replace(&format!("--{boundary}x"), "--x");
    let expected: Vec<Read> = vec![
        ("title".into(), None, None, "Grüße".into()),
        (
            "file".into(),
            Some("a b.torrent".into()),
            Some("application/x-bittorrent".into()),
            b"d4:infode\r\n--x\r\n\r\n--".to_vec(),
        ),
        ("empty".into(), None, None, Vec::new()),
    ];
    for cut in 1..=wire.len() {
        assert_eq!(read(boundary, (wire.as_bytes(), cut), LARGE, all).as_ref(), Ok(&expected), "cut {cut}");
        assert_eq!(read(boundary, (wire.as_bytes(), cut), LARGE, skim), Ok(3));
    }
}

#[test]
fn fields_are_read_in_chunks_or_as_text() {
    let wire = form("b", &[value("a", b"Gr\xc3\xbc\xc3\x9fe"), value("c", b"\xff")]);
    let chunks = async |mut form: Multipart<'_>| {
        let mut chunks = 0;
        while let Some(mut field) = form.next_field().await? {
            while let Some(chunk) = field.chunk().await? {
                assert!(!chunk.is_empty());
                chunks += 1;
            }
            assert_eq!(field.chunk().await?, None);
        }
        Ok(chunks)
    };
    assert!(read("b", (&wire, 2), LARGE, chunks).unwrap() >= 4);
    let texts = async |mut form: Multipart<'_>| {
        let first = form.next_field().await?.unwrap().text().await?;
        assert_eq!(code(form.next_field().await?.unwrap().text().await), Some(Code::IncorrectRequest));
        assert!(form.next_field().await?.is_none());
        Ok(first)
    };
    assert_eq!(read("b", (&wire, 7), LARGE, texts), Ok("Grüße".into()));
    let files = form("b", &vec![value("a", &[b'x'; 3 * WEB_FIELD_HEAD_BYTES]); 2]);
    assert_eq!(
        read("b", (&files, 1_000), LARGE, skim),
        Ok(2),
        "the rest of a field does not count as a head"
    );
    let latin = [(format!("{}\r\nContent-Type: text/plain; charset=latin1", value("a", b"").0), Vec::new())];
    let text = async |mut form: Multipart<'_>| form.next_field().await?.unwrap().text().await;
    assert_eq!(code(read("b", (&form("b", &latin), 9), LARGE, text)), Some(Code::UnsupportedMediaType));
}

#[test]
fn limits_are_enforced() {
    let wire = form("b", &[value("a", &[b'x'; 1_000]), value("c", b"")]);
    let length = wire.len() as u64;
    for cut in [1, 100, 2_000] {
        assert!(read("b", (&wire, cut), length, all).is_ok());
        assert_eq!(code(read("b", (&wire, cut), length - 1, all)), Some(Code::ContentTooLarge));
        let limited = async |limit, mut form: Multipart<'_>| {
            let bytes = form.next_field().await?.unwrap().limit(limit).bytes().await?;
            skim(form).await.map(|_| bytes.len())
        };
        assert_eq!(read("b", (&wire, cut), LARGE, async |form| limited(1_000, form).await), Ok(1_000));
        let refused = read("b", (&wire, cut), LARGE, async |form| limited(999, form).await);
        assert_eq!(code(refused), Some(Code::ContentTooLarge));
    }

    let many = |count| form("b", &vec![value("a", b""); count]);
    assert_eq!(read("b", (&many(WEB_FORM_FIELDS), 4_096), LARGE, skim), Ok(WEB_FORM_FIELDS));
    assert_eq!(
        code(read("b", (&many(WEB_FORM_FIELDS + 1), 4_096), LARGE, skim)),
        Some(Code::IncorrectRequest)
    );

    let headed = |bytes: usize| form("b", &[value(&"n".repeat(bytes), b"")]);
    let preceded = |bytes: usize| [vec![b'p'; bytes], headed(1)].concat();
    for cut in [1, 100, 100_000] {
        assert_eq!(read("b", (&headed(WEB_FIELD_HEAD_BYTES - 100), cut), LARGE, skim), Ok(1));
        let refused = read("b", (&headed(WEB_FIELD_HEAD_BYTES), cut), LARGE, skim);
        assert_eq!(code(refused), Some(Code::IncorrectRequest));
        if cut < WEB_FIELD_HEAD_BYTES {
            assert!(read("b", (&preceded(2 * WEB_FIELD_HEAD_BYTES), cut), LARGE, skim).is_err());
        }
    }
    let mut heads = value("a", b"").0;
    (0..100).for_each(|n| write!(heads, "\r\nX-{n}: y").unwrap());
    assert_eq!(
        code(read("b", (&form("b", &[(heads, Vec::new())]), 9), LARGE, skim)),
        Some(Code::IncorrectRequest)
    );
}

#[test]
fn a_malformed_form_fails_again_and_again() {
    for wire in [
        "",
        "--",
        "--b",
        "--c\r\n",
        "--b\r\n",
        "--bc\r\n\r\n",
        "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n",
        "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n",
        "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nx\r\n",
        "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nx\r\n--b",
        "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nx\r\n--b\r\n",
        "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nx\r\n--bc\r\n\r\n",
        "--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        "--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--\r\n",
        "--b\r\nContent Type\r\n\r\nx\r\n--b--\r\n",
    ] {
        for cut in [1, 5, 1_000] {
            let failed = read("b", (wire.as_bytes(), cut), LARGE, async |mut form| {
                loop {
                    match form.next_field().await {
                        Ok(Some(_)) => {}
                        Ok(None) => return Ok(()),
                        Err(error) => {
                            assert_eq!(code(form.next_field().await), Some(error.code()));
                            return Err(error);
                        }
                    }
                }
            });
            assert_eq!(code(failed), Some(Code::IncorrectRequest), "{wire:?} cut {cut}");
        }
    }
}

#[test]
fn a_form_needs_a_boundary() {
    let open = |content_type: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap());
        let mut incoming = Incoming::new(TestTransport::new(b"", []), Framing::Length(9), false);
        code(run(Body::new(&mut incoming, &headers).multipart()))
    };
    let with = |bytes: usize| format!("multipart/form-data; boundary={}", "b".repeat(bytes));
    assert_eq!(
        (open(&with(1)), open(&with(70)), open("Multipart/Form-Data; Boundary=\"a b\"")),
        (None, None, None)
    );
    for content_type in
        ["multipart/form-data", &with(0), &with(71), "multipart/mixed; boundary=b", "text/plain; boundary=b"]
    {
        assert_eq!(open(content_type), Some(Code::UnsupportedMediaType), "{content_type}");
    }
}

proptest! {
    #[test]
    fn any_fields_are_read_back_with_any_boundary(
        boundary in "[A-Za-z0-9'()+_,./:=?-]{1,70}",
        fields in vec((
            "[^\"\\\\\\p{Cc}]{1,20}",
            proptest::option::of("[^\"\\\\\\p{Cc}]{0,20}"),
            vec((any::<prop::sample::Index>(), vec(any::<u8>(), 0..40)), 0..5),
        ), 0..5),
        cut in 1..200_usize,
    ) {
        let delimiter = format!("\r\n--{boundary}");
        let (mut expected, mut sent) = (Vec::<Read>::new(), Vec::new());
        for (name, file_name, pieces) in fields {
            // Starts of the delimiter, with bytes between them.
            let mut content = Vec::new();
            for (index, bytes) in pieces {
                content.extend_from_slice(&delimiter.as_bytes()[..index.index(delimiter.len())]);
                content.extend_from_slice(&bytes);
            }
            let ended = [content.as_slice(), delimiter.as_bytes()].concat();
            prop_assume!(memmem::find(&ended, delimiter.as_bytes()) == Some(content.len()));
            let (mut head, _) = value(&name, b"");
            if let Some(file_name) = &file_name {
                write!(head, "; filename=\"{file_name}\"").unwrap();
            }
            sent.push((head, content.clone()));
            expected.push((name, file_name, None, content));
        }
        let wire = form(&boundary, &sent);
        prop_assert_eq!(read(&boundary, (&wire, cut), wire.len() as u64, all), Ok(expected));
    }

    #[test]
    fn junk_never_panics_nor_exceeds_the_limit(
        pieces in vec(prop_oneof![
            Just(b"--b".to_vec()), Just(b"\r\n--b\r\n".to_vec()), Just(b"\r\n--b--".to_vec()),
            Just(b"\r\n\r\n".to_vec()), Just(b"Content-Disposition: form-data; name=\"".to_vec()),
            Just(b"\"\\\"".to_vec()), Just(b"=; filename".to_vec()), vec(any::<u8>(), 0..10),
        ], 0..30),
        cut in 1..60_usize,
        limit in 0..300_u64,
    ) {
        let wire = pieces.concat();
        if let Ok(fields) = read("b", (&wire, cut), limit, all) {
            prop_assert!(fields.iter().map(|field| field.3.len() as u64).sum::<u64>() <= limit);
        }
        let _ = read("b", (&wire, cut), LARGE, skim);
    }
}
