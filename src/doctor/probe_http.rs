//! Owns asking a tracker by HTTP.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::probe::{Asked, Patience, Silence, Target, Told, peer_id};
use crate::limits::{DOCTOR_ANSWER_BYTES, DOCTOR_PEER_PORT};
use crate::types::InfoHash;
use crate::wire::answer::{Announced, scraped};
use crate::wire::http::{FieldBuffer, ResponseReader};

/// Announces to a swarm that no peer is in, and leaves it again.
pub(super) fn ask(target: &Target, hash: InfoHash, patience: Patience) -> Asked {
    let announce = announce(target, hash, "started", patience);
    let scrape = match (&announce, scrape_path(&target.path)) {
        (Ok(_), Some(path)) => Some(scrape(target, &path, hash, patience)),
        _ => None,
    };
    if announce.is_ok() {
        let _ = self::announce(target, hash, "stopped", patience); // leaves nothing behind
    }
    Asked { announce, scrape }
}

fn announce(target: &Target, hash: InfoHash, event: &str, patience: Patience) -> Result<Told, Silence> {
    let query = format!(
        "info_hash={}&peer_id={}&port={DOCTOR_PEER_PORT}&uploaded=0&downloaded=0&left=1&compact=1&event={event}",
        escaped(&hash.0),
        escaped(&peer_id(hash).0)
    );
    let started = patience.now();
    let body = get(target, &with_query(&target.path, &query), patience)?;
    let took = patience.now().since(started);
    match Announced::parse(&body) {
        Ok(Announced::Taken { interval_secs, peers, peers6 }) => {
            let peers = peers.map(|peers| peers + peers6.unwrap_or(0));
            Ok(Told { took, interval_secs, peers })
        }
        Ok(Announced::Refused(reason)) => Err(Silence::Because(format!("it refuses: {reason}"))),
        Err(error) => Err(Silence::Because(format!("its response can't be read: {error}"))),
    }
}

fn scrape(target: &Target, path: &str, hash: InfoHash, patience: Patience) -> Result<(), String> {
    let query = format!("info_hash={}", escaped(&hash.0));
    match get(target, &with_query(path, &query), patience) {
        Ok(body) => scraped(&body, hash).map(drop),
        Err(Silence::Because(why)) => Err(why),
        Err(Silence::Refused | Silence::Unreachable) => Err("the port has closed meanwhile".into()),
    }
}

/// Returns the path of scrapes (BEP 48): `announce` at the start of the last part becomes `scrape`.
fn scrape_path(path: &str) -> Option<String> {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let (folder, last) = path.rsplit_once('/')?;
    let rest = last.strip_prefix("announce")?;
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    Some(format!("{folder}/scrape{rest}{query}"))
}

fn with_query(path: &str, query: &str) -> String {
    let join = if path.contains('?') { '&' } else { '?' };
    format!("{path}{join}{query}")
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02X}")).collect()
}

/// Sends a GET request and returns the body of the response, whose status must be 200.
fn get(target: &Target, path: &str, patience: Patience) -> Result<Vec<u8>, Silence> {
    let until = patience.next();
    let mut stream = TcpStream::connect_timeout(&target.address, patience.left(until)?)?;
    stream.set_write_timeout(Some(patience.left(until)?))?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: gyre-doctor\r\nConnection: close\r\n\r\n",
        target.host
    );
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        let ended = match stream
            .set_read_timeout(Some(patience.left(until)?))
            .and_then(|()| stream.read(&mut buffer))
        {
            Ok(length) => {
                bytes.extend_from_slice(&buffer[..length]);
                length == 0
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !bytes.is_empty() => true,
            Err(error) => return Err(error.into()),
        };
        if let Some(body) = body(&bytes, ended).map_err(Silence::Because)? {
            return Ok(body);
        }
    }
}

/// Returns the body of a response, if all of it is there. `ended`: the connection was closed behind the bytes.
///
/// # Errors
///
/// The response is invalid or incomplete, or its status is not 200.
fn body(bytes: &[u8], ended: bool) -> Result<Option<Vec<u8>>, String> {
    let reader = ResponseReader { max_bytes: DOCTOR_ANSWER_BYTES, to_head: false };
    let mut buffer = FieldBuffer::new();
    let head = reader.read_head(bytes, ended, &mut buffer).map_err(|error| error.to_string())?;
    let Some(head) = head else { return Ok(None) };
    let status = head.status;
    if (300..400).contains(&status) {
        let location = String::from_utf8_lossy(head.fields.get("location").unwrap_or_default());
        return Err(format!("it redirects ({status}) to {location}"));
    }
    if status != 200 {
        return Err(format!("the status is {status}"));
    }
    let body = reader.read_body(&head, bytes, ended).map_err(|error| error.to_string())?;
    Ok(body.map(|body| body.data.into_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths() {
        assert_eq!(scrape_path("/announce").as_deref(), Some("/scrape"));
        assert_eq!(scrape_path("/key/announce.php?a=b/c").as_deref(), Some("/key/scrape.php?a=b/c"));
        assert_eq!(scrape_path("/a"), None);
        assert_eq!(with_query("/announce", "x=1"), "/announce?x=1");
        assert_eq!(with_query("/announce?key=2", "x=1"), "/announce?key=2&x=1");
        assert_eq!(escaped(&[0, 0xAB]), "%00%AB");
    }

    #[test]
    fn bodies_of_every_kind() {
        let whole = |text: &str| body(text.as_bytes(), true);
        let some = |text: &str| Ok(Some(text.as_bytes().to_vec()));
        assert_eq!(whole("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\ndex"), some("de"));
        assert_eq!(whole("HTTP/1.0 200 OK\r\n\r\nde"), some("de"));
        assert_eq!(
            whole("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nd\r\n1;x\r\ne\r\n0\r\n\r\n"),
            some("de")
        );
        for (part, why) in [
            ("", "within its head"),
            ("HTTP/1.1 200", "within its head"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nde", "within its body"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nde",
                "within its body",
            ),
        ] {
            assert_eq!(body(part.as_bytes(), false), Ok(None), "{part}");
            assert!(whole(part).unwrap_err().contains(why), "{part}");
        }
        assert!(whole("HTTP/1.1 301 X\r\nLocation: https://a/\r\n\r\n").unwrap_err().contains("https://a/"));
        assert!(whole("HTTP/1.1 502 X\r\n\r\n").unwrap_err().contains("502"));
        assert!(whole("SSH-2.0\r\n").unwrap_err().contains("not HTTP"));
        assert!(whole("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(
            noise in proptest::collection::vec(any::<u8>(), 0..80),
            chunks in "[0-9a-f\r\n;]{0,60}",
        ) {
            let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            for rest in [noise.as_slice(), chunks.as_bytes()] {
                let _ = body(rest, true);
                let _ = body(&[head, rest].concat(), true);
            }
        }
    }
}
