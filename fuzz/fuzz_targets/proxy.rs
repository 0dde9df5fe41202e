//! Owns the fuzzing of the PROXY protocol. The result for the start of a connection must not change with the bytes that
//! follow, and must be known once the header is complete.

#![no_main]

use std::net::IpAddr;

use gyre_core::limits::PROXY_HEADER_MAX_BYTES;
use gyre_core::wire::proxy::{Header, Start, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let whole = read(input);
    if whole == Start::Partial {
        assert!(input.len() < PROXY_HEADER_MAX_BYTES, "a partial header has a maximum length");
    }
    let mut known = None;
    for come in 0..=input.len().min(2 * PROXY_HEADER_MAX_BYTES) {
        let start = read(&input[..come]);
        if let Some(known) = known {
            assert_eq!(start, known, "the result has changed");
        } else if start != Start::Partial {
            if let Start::Header(header) = start {
                assert_eq!(header.bytes, come, "the header is recognised too late");
                assert_eq!(header.client, header.client.map(|ip: IpAddr| ip.to_canonical()));
            }
            known = Some(start);
        }
    }
    write(input);
});

/// Writes headers as proxies do, which must be parsed.
fn write(bytes: &[u8]) {
    let Some((octets, rest)) = bytes.split_first_chunk::<16>() else { return };
    let v6 = IpAddr::from(*octets);
    let v4 = IpAddr::from([octets[0], octets[1], octets[2], octets[3]]);
    for (ip, family, name) in [(v4, 0x11_u8, "TCP4"), (v6, 0x21, "TCP6")] {
        let client = Some(ip.to_canonical());
        let line = format!("PROXY {name} {ip} {ip} 65535 0\r\n");
        let text = [line.as_bytes(), rest].concat();
        assert_eq!(read(&text), Start::Header(Header { bytes: line.len(), client, is_tls: false }));

        let mut fields = match ip {
            IpAddr::V4(ip) => [ip.octets(), [0; 4], [1; 4]].concat(),
            IpAddr::V6(ip) => [&ip.octets()[..], &[0; 16], &[1; 4]].concat(),
        };
        let ssl = rest.first().is_some_and(|byte| byte & 1 == 1);
        fields.extend_from_slice(&[0x20, 0, 5, u8::from(ssl), 0, 0, 0, 0]);
        fields.extend_from_slice(&rest[..rest.len().min(200)]);
        let start = b"\r\n\r\n\0\r\nQUIT\n\x21";
        let length = (fields.len() as u16).to_be_bytes();
        let header = [&start[..], &[family], &length[..], &fields].concat();
        let expected = Header { bytes: header.len(), client, is_tls: ssl };
        assert_eq!(read(&[&header, rest].concat()), Start::Header(expected));
    }
}
