//! Owns the queries to a tracker over HTTP.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::probe::{AnnounceAnswer, Answers, Deadline, NoAnswer, Target, peer_id};
use crate::limits::{DOCTOR_ANSWER_BYTES, DOCTOR_PEER_PORT};
use crate::types::InfoHash;
use crate::wire::answer::{AnnounceResponse, parse_scrape};
use crate::wire::http::{FieldBuffer, ResponseReader};

/// Announces a random info-hash, scrapes it, and removes the peer again.
pub(super) fn query(target: &Target, hash: InfoHash, deadline: Deadline) -> Answers {
    let announce = announce(target, hash, "started", deadline);
    let scrape = match (&announce, scrape_path(&target.path)) {
        (Ok(_), Some(path)) => Some(scrape(target, &path, hash, deadline)),
        _ => None,
    };
    if announce.is_ok() {
        let _ = self::announce(target, hash, "stopped", deadline); // removes the peer again
    }
    Answers { announce, scrape }
}

fn announce(
    target: &Target,
    hash: InfoHash,
    event: &str,
    deadline: Deadline,
) -> Result<AnnounceAnswer, NoAnswer> {
    let query = format!(
        "info_hash={}&peer_id={}&port={DOCTOR_PEER_PORT}&uploaded=0&downloaded=0&left=1&compact=1&event={event}",
        escaped(&hash.0),
        escaped(&peer_id(hash).0)
    );
    let started = deadline.now();
    let body = get(target, &with_query(&target.path, &query), deadline)?;
    let took = deadline.now().since(started);
    match AnnounceResponse::parse(&body) {
        Ok(AnnounceResponse::Accepted { interval_secs, peers, peers6 }) => {
            let peers = peers.map(|peers| peers + peers6.unwrap_or(0));
            Ok(AnnounceAnswer { took, interval_secs, peers })
        }
        Ok(AnnounceResponse::Refused(reason)) => {
            Err(NoAnswer::Because(format!("the tracker refuses: {reason}")))
        }
        Err(error) => Err(NoAnswer::Because(format!("can't parse the response: {error}"))),
    }
}

fn scrape(target: &Target, path: &str, hash: InfoHash, deadline: Deadline) -> Result<(), String> {
    let query = format!("info_hash={}", escaped(&hash.0));
    match get(target, &with_query(path, &query), deadline) {
        Ok(body) => parse_scrape(&body, hash).map(drop),
        Err(NoAnswer::Because(why)) => Err(why),
        Err(NoAnswer::Refused | NoAnswer::Unreachable) => Err("the port was closed meanwhile".into()),
    }
}

/// Returns the path of scrapes (BEP 48): `announce` at the start of the last part is replaced with `scrape`.
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

/// Sends a GET and returns the body of the response, which must have status 200.
fn get(target: &Target, path: &str, deadline: Deadline) -> Result<Vec<u8>, NoAnswer> {
    let until = deadline.next();
    let mut stream = TcpStream::connect_timeout(&target.address, deadline.left(until)?)?;
    stream.set_write_timeout(Some(deadline.left(until)?))?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: gyre-doctor\r\nConnection: close\r\n\r\n",
        target.host
    );
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        let ended = match stream
            .set_read_timeout(Some(deadline.left(until)?))
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
        if let Some(body) = body(&bytes, ended).map_err(NoAnswer::Because)? {
            return Ok(body);
        }
    }
}

/// Returns the body of a response, or `None` if it is incomplete. `ended`: the connection was closed.
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
        return Err(format!("the tracker redirects ({status}) to: {location}"));
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
            ("", "within the head"),
            ("HTTP/1.1 200", "within the head"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nde", "within the body"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nde",
                "within the body",
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
        fn any_bytes_can_be_parsed(
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
