//! Owns the fuzzing of access lists. A list must agree with a separate check of each line.

#![no_main]

mod cuts;

use std::io::{self, BufRead, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gyre_core::access::{
    ClientList, Clients, Entries, HashList, Hashes, ListError, SourceList, Sources, copy_without, parse_hash,
    parse_time, read,
};
use gyre_core::types::{InfoHash, PeerId, parse_network};
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;
use percent_encoding::percent_decode;

fuzz_target!(|text: &[u8]| {
    let hashes = load::<Hashes>(text);
    let clients = load::<Clients>(text);
    let sources = load::<Sources>(text);
    let lines: Vec<Vec<&[u8]>> =
        text.split(|byte| *byte == b'\n').map(words).filter(|words| !words.is_empty()).collect();
    if let Some((list, count)) = hashes {
        assert_eq!(count, lines.len());
        check_hashes(&list, &lines);
    }
    if let Some((list, count)) = clients {
        assert_eq!(count, lines.len());
        check_clients(&list, &lines);
    }
    if let Some((list, count)) = sources {
        assert_eq!(count, lines.len());
        check_sources(&list, &lines);
    }
    if let Some(hash) = lines.iter().find_map(|words| parse_hash(words[0])) {
        check_removal(text, &hash, &lines);
    }
});

fn words(line: &[u8]) -> Vec<&[u8]> {
    let entry = line.split(|byte| *byte == b'#').next().unwrap_or_default();
    entry.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect()
}

/// Reads a list, whole and in parts, which must give the same result.
fn load<E: Entries>(text: &[u8]) -> Option<(E::List, usize)> {
    let whole = read::<E>(text);
    for parts in cuts::splits(text) {
        match (&whole, read::<E>(Parts(parts.into_iter().collect::<Vec<_>>(), 0))) {
            (Ok((_, count)), Ok((_, again))) => assert_eq!(*count, again),
            (Err(error), Err(again)) => assert_eq!(error.to_string(), again.to_string()),
            _ => panic!("the result depends on how the input is split"),
        }
    }
    if let Err(ListError::Line { line, column, .. }) = &whole {
        let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
        assert!((1..=lines.len()).contains(line));
        assert!((1..=lines[line - 1].len() + 1).contains(column));
    }
    whole.ok()
}

/// A reader that returns its input in parts.
struct Parts<'a>(Vec<&'a [u8]>, usize);

impl Read for Parts<'_> {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        unreachable!("only the buffer is read")
    }
}

impl BufRead for Parts<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.0.get(self.1).is_some_and(|part| part.is_empty()) {
            self.1 += 1;
        }
        Ok(self.0.get(self.1).copied().unwrap_or_default())
    }

    fn consume(&mut self, bytes: usize) {
        if bytes > 0 {
            self.0[self.1] = &self.0[self.1][bytes..];
        }
    }
}

fn check_hashes(list: &HashList, lines: &[Vec<&[u8]>]) {
    let entries: Vec<(InfoHash, Option<u32>)> = lines
        .iter()
        .map(|words| {
            let until = words.get(1).map(|word| parse_time(word).expect("read before"));
            (parse_hash(words[0]).expect("read before"), until)
        })
        .collect();
    for (hash, until) in entries.iter().take(50) {
        let mut other = *hash;
        other.0[19] ^= 1;
        let mut far = *hash;
        far.0[0] ^= 0x80;
        let end = u64::from(until.unwrap_or(7));
        for (hash, now) in [(hash, 0), (hash, end), (hash, end.saturating_sub(1)), (&other, end), (&far, 0)] {
            let is_in = |(known, until): &(InfoHash, Option<u32>)| {
                known == hash && until.is_none_or(|until| now < u64::from(until))
            };
            assert_eq!(list.contains(hash, now), entries.iter().any(is_in), "{hash:?} at {now}");
        }
    }
    assert_eq!(list.iter().count(), list.len());
    assert!(list.iter().all(|entry| entries.contains(&entry)));
    assert!(!list.contains(&InfoHash([0x5a; 20]), 0) || !list.is_empty());
}

fn check_clients(list: &ClientList, lines: &[Vec<&[u8]>]) {
    let prefixes: Vec<Vec<u8>> = lines.iter().map(|words| percent_decode(words[0]).collect()).collect();
    for prefix in prefixes.iter().take(50) {
        for filler in [0, b'0', 0xff] {
            let mut id = [filler; 20];
            id[..prefix.len()].copy_from_slice(prefix);
            let mut shorter = id;
            shorter[prefix.len() - 1] ^= 1;
            for id in [id, shorter] {
                let expected = prefixes.iter().any(|prefix| id.starts_with(prefix));
                assert_eq!(list.contains(&PeerId(id)), expected, "{:?}", PeerId(id));
            }
        }
    }
}

fn check_sources(list: &SourceList, lines: &[Vec<&[u8]>]) {
    let networks: Vec<IpNet> = lines
        .iter()
        .map(|words| parse_network(str::from_utf8(words[0]).expect("read before")).expect("read before"))
        .collect();
    for network in networks.iter().take(50) {
        assert!(list.contains(network.network()), "{network}");
        for ip in [network.network(), network.broadcast()] {
            let (before, after) = match ip {
                IpAddr::V4(ip) => (
                    IpAddr::from(Ipv4Addr::from_bits(ip.to_bits().wrapping_sub(1))),
                    IpAddr::from(Ipv4Addr::from_bits(ip.to_bits().wrapping_add(1))),
                ),
                IpAddr::V6(ip) => (
                    IpAddr::from(Ipv6Addr::from_bits(ip.to_bits().wrapping_sub(1))),
                    IpAddr::from(Ipv6Addr::from_bits(ip.to_bits().wrapping_add(1))),
                ),
            };
            for ip in [ip, before, after].map(|ip| ip.to_canonical()) {
                let expected = networks.iter().any(|network| network.contains(&ip));
                assert_eq!(list.contains(ip), expected, "{ip}");
            }
        }
    }
}

/// A list without a hash must have all lines but those of the hash.
fn check_removal(text: &[u8], hash: &InfoHash, lines: &[Vec<&[u8]>]) {
    let mut left = Vec::new();
    let removed = copy_without::<Hashes>(text, &mut left, hash).expect("writing to memory can't fail");
    let is_it = |words: &Vec<&[u8]>| parse_hash(words[0]).as_ref() == Some(hash);
    assert_eq!(removed, lines.iter().filter(|words| is_it(words)).count());
    let kept: Vec<Vec<&[u8]>> =
        left.split(|byte| *byte == b'\n').map(words).filter(|words| !words.is_empty()).collect();
    assert!(kept.iter().eq(lines.iter().filter(|words| !is_it(words))));
}
