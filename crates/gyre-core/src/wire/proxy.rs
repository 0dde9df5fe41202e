//! Owns the PROXY protocol, versions 1 and 2 (HAProxy's `proxy-protocol.txt`): the header by which a proxy describes
//! its client, before the client's data.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use memchr::memmem;

use crate::limits::PROXY_HEADER_MAX_BYTES;

const V1_START: &[u8] = b"PROXY ";
/// Maximum length of a version 1 header in bytes, with the line end.
const V1_MAX_BYTES: usize = 107;
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of a version 2 header before the addresses.
const V2_HEAD_BYTES: usize = 16;
/// Type of the version 2 field on TLS. Its first byte has flags.
const TYPE_SSL: u8 = 0x20;
/// The flag for a client that uses TLS.
const CLIENT_SSL: u8 = 1;

/// The start of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// No header. The client's data starts at once.
    Plain,
    /// Possibly an incomplete header.
    Partial,
    /// A header.
    Header(Header),
    /// A malformed header.
    Malformed,
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Length in bytes. The client's data follows.
    pub bytes: usize,
    /// Address of the client. `None` if the connection is the proxy's own, such as a health check, or if the proxy does
    /// not give the address.
    pub client: Option<IpAddr>,
    /// Whether the client uses TLS. Only version 2 can tell.
    pub is_tls: bool,
}

/// Parses the first bytes of a connection.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::wire::proxy::{Header, Start, read};
///
/// let start = read(b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 6969\r\nGET / HTTP/1.1\r\n");
/// let client = Some([192, 0, 2, 7].into());
/// assert_eq!(start, Start::Header(Header { bytes: 41, client, is_tls: false }));
/// ```
pub fn read(input: &[u8]) -> Start {
    let begins = |start: &[u8]| input.starts_with(start) || start.starts_with(input);
    if begins(V2_START) {
        read_v2(input)
    } else if begins(V1_START) {
        read_v1(input)
    } else {
        Start::Plain
    }
}

fn read_v1(input: &[u8]) -> Start {
    let line = &input[..input.len().min(V1_MAX_BYTES)];
    let Some(end) = memmem::find(line, b"\r\n") else {
        return if line.len() < V1_MAX_BYTES { Start::Partial } else { Start::Malformed };
    };
    let header = |client| Start::Header(Header { bytes: end + 2, client, is_tls: false });
    let Ok(text) = std::str::from_utf8(&line[..end]) else { return Start::Malformed };
    let mut words = text.split(' ').skip(1);
    let is_port = |word: Option<&str>| word.is_some_and(|port| port.parse::<u16>().is_ok());
    let family = words.next();
    let client: Option<IpAddr> = match family {
        Some("UNKNOWN") => return header(None),
        Some("TCP4") => addresses::<Ipv4Addr>(&mut words),
        Some("TCP6") => addresses::<Ipv6Addr>(&mut words),
        _ => None,
    };
    match client {
        Some(ip) if is_port(words.next()) && is_port(words.next()) && words.next().is_none() => {
            header(Some(ip.to_canonical()))
        }
        _ => Start::Malformed,
    }
}

/// Parses two addresses of a family and returns the first.
fn addresses<'a, A>(words: &mut impl Iterator<Item = &'a str>) -> Option<IpAddr>
where
    A: std::str::FromStr + Into<IpAddr>,
{
    let mut address = || words.next()?.parse::<A>().ok();
    let (client, _proxy) = (address()?, address()?);
    Some(client.into())
}

fn read_v2(input: &[u8]) -> Start {
    let Some((head, rest)) = input.split_at_checked(V2_HEAD_BYTES) else { return Start::Partial };
    let (command, family) = (head[12], head[13]);
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if command >> 4 != 2 || V2_HEAD_BYTES + length > PROXY_HEADER_MAX_BYTES {
        return Start::Malformed;
    }
    let Some(fields) = rest.get(..length) else { return Start::Partial };
    let bytes = V2_HEAD_BYTES + length;
    let (client, fields) = match (command & 0xf, family) {
        (0, _) => return Start::Header(Header { bytes, client: None, is_tls: false }), // the proxy itself
        (1, 0x11) => (fields.first_chunk::<4>().map(|ip| IpAddr::from(*ip)), fields.get(12..)),
        (1, 0x21) => (fields.first_chunk::<16>().map(|ip| IpAddr::from(*ip)), fields.get(36..)),
        // Not TCP, or a Unix socket.
        (1, _) => return Start::Header(Header { bytes, client: None, is_tls: false }),
        _ => return Start::Malformed,
    };
    match (client, fields) {
        (Some(ip), Some(fields)) => {
            Start::Header(Header { bytes, client: Some(ip.to_canonical()), is_tls: says_tls(fields) })
        }
        _ => Start::Malformed,
    }
}

/// Returns whether a field after the addresses says that the client uses TLS.
fn says_tls(mut fields: &[u8]) -> bool {
    while let [kind, high, low, rest @ ..] = fields {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((value, behind)) = rest.split_at_checked(length) else { return false };
        if *kind == TYPE_SSL {
            return value.first().is_some_and(|flags| flags & CLIENT_SSL != 0);
        }
        fields = behind;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v2(command: u8, family: u8, fields: &[u8]) -> Vec<u8> {
        let length = (fields.len() as u16).to_be_bytes();
        [V2_START, &[0x20 | command, family], &length, fields].concat()
    }

    fn header(bytes: usize, client: &str, is_tls: bool) -> Start {
        Start::Header(Header { bytes, client: client.parse().ok(), is_tls })
    }

    #[test]
    fn version_1_headers_are_parsed() {
        let read = |line: &str| read(format!("{line}\r\nGET").as_bytes());
        for (line, client) in [
            ("PROXY TCP4 192.0.2.7 10.0.0.1 4711 80", "192.0.2.7"),
            ("PROXY TCP6 2001:db8::7 ::1 1 65535", "2001:db8::7"),
            ("PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2", "192.0.2.7"),
            ("PROXY UNKNOWN", ""),
            ("PROXY UNKNOWN whatever it says", ""),
        ] {
            assert_eq!(read(line), header(line.len() + 2, client, false), "{line}");
        }
        for line in [
            "PROXY TCP4 192.0.2.7 10.0.0.1 4711",
            "PROXY TCP4 192.0.2.7 10.0.0.1 4711 80 1",
            "PROXY TCP4 192.0.2.7 10.0.0.1 4711 65536",
            "PROXY TCP4 ::1 ::1 1 2",
            "PROXY TCP4  192.0.2.7 10.0.0.1 1 2",
            "PROXY UDP4 192.0.2.7 10.0.0.1 1 2",
            "PROXY ",
        ] {
            assert_eq!(read(line), Start::Malformed, "{line}");
        }
        assert_eq!(super::read(&[b"PROXY UNKNOWN ", &[b'x'; 100][..]].concat()), Start::Malformed);
    }

    #[test]
    fn version_2_headers_are_parsed() {
        let v4 = [&[192, 0, 2, 7, 10, 0, 0, 1][..], &[1, 2, 3, 4]].concat();
        assert_eq!(read(&v2(1, 0x11, &v4)), header(28, "192.0.2.7", false));
        let tls = [&v4[..], &[4, 0, 2, 0, 0], &[TYPE_SSL, 0, 5, CLIENT_SSL, 0, 0, 0, 0]].concat();
        assert_eq!(read(&v2(1, 0x11, &tls)), header(41, "192.0.2.7", true));
        let clear = [&v4[..], &[TYPE_SSL, 0, 5, 0, 0, 0, 0, 0]].concat();
        assert_eq!(read(&v2(1, 0x11, &clear)), header(36, "192.0.2.7", false));
        let broken = [&v4[..], &[4, 0, 9, 0]].concat();
        assert_eq!(read(&v2(1, 0x11, &broken)), header(32, "192.0.2.7", false));
        let v6 = [&Ipv6Addr::LOCALHOST.octets()[..], &[0; 20]].concat();
        assert_eq!(read(&v2(1, 0x21, &v6)), header(52, "::1", false));
        assert_eq!(read(&v2(0, 0, &[])), header(16, "", false));
        assert_eq!(read(&v2(1, 0x31, &[0; 216])), header(232, "", false));
        assert_eq!(read(&v2(1, 0x11, &v4[..11])), Start::Malformed);
        assert_eq!(read(&v2(2, 0x11, &v4)), Start::Malformed);
        assert_eq!(read(&v2(1, 0x11, &[0; PROXY_HEADER_MAX_BYTES])), Start::Malformed);
        let mut version = v2(1, 0x11, &v4);
        version[12] = 0x11;
        assert_eq!(read(&version), Start::Malformed);
    }

    #[test]
    fn data_of_a_client_is_not_a_header() {
        for input in ["GET / HTTP/1.1\r\n", "POST ", "PRI * HTTP/2.0\r\n", "\r\nGET", "PROXYGET", "\n"] {
            assert_eq!(read(input.as_bytes()), Start::Plain, "{input}");
        }
    }

    proptest! {
        #[test]
        fn a_header_is_partial_until_it_is_complete(cut in 0..52_usize, version_2: bool) {
            let v6 = [&Ipv6Addr::LOCALHOST.octets()[..], &[0; 20]].concat();
            let whole = if version_2 { v2(1, 0x21, &v6) } else { b"PROXY TCP6 ::1 ::2 1 2\r\n".to_vec() };
            let cut = cut.min(whole.len());
            let expected = if cut < whole.len() { Start::Partial } else { header(whole.len(), "::1", false) };
            prop_assert_eq!(read(&whole[..cut]), expected);
        }

        #[test]
        fn junk_does_not_panic(start in 0..3_usize, junk: Vec<u8>) {
            let input = [[b"".as_slice(), V1_START, V2_START][start], &junk].concat();
            if let Start::Header(header) = read(&input) {
                prop_assert!(header.bytes <= input.len());
            }
        }
    }
}
