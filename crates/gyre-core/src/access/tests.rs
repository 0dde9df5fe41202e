//! Owns the tests of the lists: parsing, membership, and the decision to deny.

use std::collections::HashMap;
use std::fmt::Write;

use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_800_000_000;

fn hash(number: u64) -> InfoHash {
    let mut random = fastrand::Rng::with_seed(number);
    InfoHash(std::array::from_fn(|_| random.u8(..)))
}

fn list<E: Entries>(text: &str) -> E::List {
    read::<E>(text.as_bytes()).unwrap_or_else(|error| panic!("{text:?}: {error}")).0
}

fn refused<E: Entries<List: std::fmt::Debug>>(text: &str) -> String {
    read::<E>(text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn hashes_are_parsed_in_hexadecimal_and_base_32() {
    let expected =
        InfoHash(*b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\xfd\xfe\xff\x7f");
    for text in [
        "000102030405060708090a0b0c0d0e0ffdfeff7f",
        "000102030405060708090A0B0C0D0E0FFDFEFF7F",
        "AAAQEAYEAUDAOCAJBIFQYDIOB7675737",
    ] {
        assert_eq!(parse_hash(text.as_bytes()), Some(expected), "{text}");
    }
    // The test vector of RFC 4648, four times.
    assert_eq!(parse_hash(b"MZXW6YTBMZXW6YTBmzxw6ytbMZXW6YTB").unwrap().0, *b"foobafoobafoobafooba");
    for wrong in ["", "00", &"0".repeat(39), &"g".repeat(40), &"1".repeat(32), &"\u{e9}".repeat(20)] {
        assert_eq!(parse_hash(wrong.as_bytes()), None, "{wrong}");
    }
}

#[test]
fn times_are_parsed_in_each_format() {
    assert_eq!(parse_time(b"1800000000"), Some(1_800_000_000));
    assert_eq!(parse_time(b"2027-01-15"), Some(1_799_971_200));
    assert_eq!(parse_time(b"2027-01-15T08:00:00Z"), Some(1_800_000_000));
    assert_eq!(parse_time(b"0"), Some(0));
    for wrong in
        ["4294967295", "4294967296", "soon", "2027-02-30", "2200-01-01", "2027-01-15T08:00", "\u{ff}"]
    {
        assert_eq!(parse_time(wrong.as_bytes()), None, "{wrong}");
    }
}

#[test]
fn a_list_may_have_comments_blank_lines_and_any_line_end() {
    let text = format!(
        "# a comment\r\n\n  {:?}\t# the first\r\n{:?} 1800000000#expires\n{:?}",
        hash(1),
        hash(2),
        hash(3)
    );
    let list = list::<Hashes>(&text);
    assert_eq!(list.len(), 3);
    for number in 1..=3 {
        assert!(list.contains(&hash(number), NOW - 1));
    }
    assert!(!list.contains(&hash(2), NOW) && list.contains(&hash(1), NOW) && !list.contains(&hash(4), NOW));
    let ends: HashMap<_, _> = list.iter().collect();
    let empty = self::list::<Hashes>("# nothing\n");
    assert!(empty.is_empty() && !empty.contains(&hash(1), NOW));
    assert_eq!((ends[&hash(1)], ends[&hash(2)]), (None, Some(1_800_000_000)));
}

#[test]
fn the_later_expiry_of_duplicate_entries_counts() {
    let text = format!("{0:?} 1800000001\n{0:?} 1799999999\n{1:?} 1\n{1:?}\n", hash(1), hash(2));
    let list = list::<Hashes>(&text);
    assert_eq!(list.len(), 2);
    assert!(list.contains(&hash(1), NOW) && !list.contains(&hash(1), NOW + 1));
    assert!(list.contains(&hash(2), u64::MAX));
}

#[test]
fn errors_name_the_line_and_column() {
    let good = format!("{:?}", hash(1));
    for (text, expected) in [
        ("\n  nonsense".to_owned(), "2:3: not an info-hash"),
        (format!("{good}\n{good}0"), "2:1: not an info-hash"),
        (format!("{good} tomorrow"), "1:42: not a time"),
        (format!("{good} 2027-01-01 ever"), "1:53: only a comment"),
        (format!("#{}", "x".repeat(2_000)), "1:1025: the line is too long"),
    ] {
        let error = refused::<Hashes>(&text);
        assert!(error.starts_with(expected), "{error}");
    }
    assert!(refused::<Clients>("-TR\n-qB 3").starts_with("2:5: only a comment"));
    assert!(refused::<Clients>("123456789012345678901").starts_with("1:1: 21 bytes"));
    assert!(refused::<Clients>("-%5").starts_with("1:1: `%` needs two"));
    assert!(refused::<Sources>("10.0.0.0/8\n10.0.0.0/33").starts_with("2:1: not a network"));
    assert!(refused::<Sources>("::1 x").starts_with("1:5: only a comment"));
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::PermissionDenied.into())
        }
    }
    assert!(matches!(read::<Hashes>(std::io::BufReader::new(Broken)), Err(ListError::Io(_))));
}

#[test]
fn clients_are_recognised_by_the_prefix_of_the_peer_id() {
    let list = list::<Clients>("-XL\n-XL0012 # covered by -XL\n%2dSD\n\u{20ac}%20x\nM\n");
    let is_in = |id: &str| {
        let mut bytes = [b'0'; 20];
        bytes[..id.len()].copy_from_slice(id.as_bytes());
        list.contains(&PeerId(bytes))
    };
    for id in ["-XL0012-", "-XL9", "-SD", "\u{20ac} x", "M7-9-2--"] {
        assert!(is_in(id), "{id}");
    }
    for id in ["-XM", "-XK", "-SC", "\u{20ac}x", "-TR3000-", "", "N", "L"] {
        assert!(!is_in(id), "{id}");
    }
}

#[test]
fn a_source_list_contains_the_addresses_of_its_networks() {
    let list = list::<Sources>(
        "10.1.0.0/16\n10.0.0.0/16\n192.0.2.7\n2001:db8::/32\n::ffff:198.51.100.1\n10.1.2.0/24\n::ffff:203.0.113.0/120",
    );
    let is_in = |ip: &str| list.contains(ip.parse().unwrap());
    for ip in [
        "10.0.0.0",
        "10.1.255.255",
        "192.0.2.7",
        "2001:db8:ffff::1",
        "198.51.100.1",
        "::ffff:10.0.0.1",
        "203.0.113.9",
        "::ffff:203.0.113.9",
    ] {
        assert!(is_in(ip), "{ip}");
    }
    for ip in [
        "9.255.255.255",
        "10.2.0.0",
        "192.0.2.6",
        "192.0.2.8",
        "2001:db7:ffff::",
        "2001:db9::",
        "::1",
        "0.0.0.0",
    ] {
        assert!(!is_in(ip), "{ip}");
    }
    let all = self::list::<Sources>("0.0.0.0/0\n::/0");
    assert!(all.contains("255.255.255.255".parse().unwrap()) && all.contains("::".parse().unwrap()));
}

#[test]
fn deny_lists_take_precedence_over_allow_lists() {
    let lists = |numbers: &[u64]| {
        let text: String = numbers.iter().fold(String::new(), |mut text, number| {
            writeln!(text, "{:?}", hash(*number)).unwrap();
            text
        });
        Arc::new(list::<Hashes>(&text))
    };
    let mut access = Access::default();
    let now = Timestamp::default();
    let id = PeerId([b'x'; 20]);
    assert!(access.is_open());
    assert_eq!(access.check_announce(now, &hash(1), &id), None);
    access.hashes.deny = vec![lists(&[1, 2])];
    let denied = |access: &Access| {
        (1..=4).filter(|number| access.check_announce(now, &hash(*number), &id).is_some()).collect::<Vec<_>>()
    };
    assert_eq!(denied(&access), [1, 2]);
    access.hashes.allow = vec![lists(&[2, 3]), lists(&[4])];
    assert_eq!(denied(&access), [1, 2]);
    access.hashes.allow.pop();
    assert_eq!(denied(&access), [1, 2, 4]);
    assert!(!access.is_open());
    access.hashes = Rule { allow: vec![lists(&[])], deny: vec![] };
    assert_eq!(denied(&access), [1, 2, 3, 4], "an empty allow list denies everything");

    let mut access = Access::default();
    access.clients.deny = vec![Arc::new(list::<Clients>("xx"))];
    assert_eq!(access.check_announce(now, &hash(1), &id), Some(Denied::Client));
    assert_eq!(access.check_announce(now, &hash(1), &PeerId([b'y'; 20])), None);
    access.sources.allow = vec![Arc::new(list::<Sources>("127.0.0.0/8"))];
    assert!(access.permits_source("127.1.2.3".parse().unwrap()));
    assert!(!access.permits_source("126.1.2.3".parse().unwrap()));
}

#[test]
fn entries_expire_by_the_wall_clock() {
    let mut access = Access { started_unix_secs: NOW, ..Access::default() };
    access.hashes.allow = vec![Arc::new(list::<Hashes>(&format!("{:?} {}", hash(1), NOW + 60)))];
    assert!(access.permits_torrent(Timestamp::from_secs(59), &hash(1)));
    assert!(!access.permits_torrent(Timestamp::from_secs(60), &hash(1)));
}

proptest! {
    /// Hashes that share their first bytes, as an attacker may choose them, are found too.
    #[test]
    fn a_list_contains_exactly_the_entries_added(
        entries in proptest::collection::vec((0..40_u8, 0..3_u8, proptest::option::of(0..100_u32)), 0..200),
        now in 0..100_u64,
    ) {
        let hash = |(last, head): (u8, u8)| {
            let mut bytes = [head * 100; 20];
            bytes[19] = last;
            InfoHash(bytes)
        };
        let (mut hashes, mut model) = (Hashes::default(), HashMap::new());
        for (last, head, until) in entries {
            hashes.add(hash((last, head)), until);
            let end = until.map_or(u64::MAX, u64::from);
            model.entry((last, head)).and_modify(|known: &mut u64| *known = end.max(*known)).or_insert(end);
        }
        let list = hashes.finish();
        prop_assert_eq!(list.len(), model.len());
        for last in 0..40 {
            for head in 0..3 {
                let expected = model.get(&(last, head)).is_some_and(|end| now < *end);
                prop_assert_eq!(list.contains(&hash((last, head)), now), expected);
            }
        }
    }

    #[test]
    fn no_text_panics(text in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read::<Hashes>(&text[..]);
        let _ = read::<Clients>(&text[..]);
        let _ = read::<Sources>(&text[..]);
    }
}
