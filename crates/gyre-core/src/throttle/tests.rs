//! Owns the tests of the limits for each source.

use super::*;

const KEY: [u8; 16] = [7; 16];

fn rate(text: &str) -> Option<Rate> {
    Some(text.parse().unwrap())
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_micros(millis * 1_000)
}

fn v4(bits: u32) -> IpAddr {
    IpAddr::V4(bits.into())
}

fn v6(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Returns how many of `announces` announces at this time are permitted.
fn permitted(throttle: &mut Throttle, millis: u64, ip: IpAddr, announces: u32) -> u32 {
    let permits = |_: &u32| throttle.permits(at(millis), Limited::Announce, ip);
    (0..announces).filter(permits).count() as u32
}

fn throttle(announces: &str, network_share: u32) -> Throttle {
    let limits = SourceLimits { announces: rate(announces), network_share, ..SourceLimits::default() };
    Throttle::new(&limits, KEY)
}

#[test]
fn after_a_burst_only_the_rate_is_permitted() {
    let mut throttle = throttle("10/s:5", 0);
    let ip = v4(1);
    assert_eq!(permitted(&mut throttle, 5_000, ip, 100), 5);
    assert_eq!(permitted(&mut throttle, 5_099, ip, 100), 0);
    assert_eq!(permitted(&mut throttle, 5_100, ip, 100), 1);
    assert_eq!(permitted(&mut throttle, 5_350, ip, 100), 2); // half of the third token remains
    assert_eq!(permitted(&mut throttle, 5_400, ip, 100), 1);
    assert_eq!(permitted(&mut throttle, 90_000, ip, 100), 5); // a longer wait gives no more
    // An hour at a hundred times the rate.
    let sum: u32 = (0..3_600_000).map(|milli| permitted(&mut throttle, 1_000_000 + milli, ip, 1)).sum();
    assert!((36_000..=36_005).contains(&sum), "{sum}");
}

#[test]
fn each_source_and_kind_of_request_has_its_own_bucket() {
    let mut limits = SourceLimits { announces: rate("1/h:3"), ..SourceLimits::default() };
    limits.scrapes = rate("1/h:2");
    let mut throttle = Throttle::new(&limits, KEY);
    for ip in [v4(0x0a00_0001), v4(0x0b00_0001), v6("2001:db8::1"), v6("2001:db9::1")] {
        assert_eq!(permitted(&mut throttle, 0, ip, 10), 3, "{ip}");
        let scrapes = (0..10).filter(|_| throttle.permits(at(0), Limited::Scrape, ip)).count();
        assert_eq!(scrapes, 2, "{ip}");
        assert!(
            (0..1_000).all(|_| throttle.permits(at(0), Limited::Connect, ip)),
            "connects are not limited"
        );
    }
    // One /64 is one source; the next is another.
    assert_eq!(permitted(&mut throttle, 0, v6("2001:db8::ffff:1"), 10), 0);
    assert_eq!(permitted(&mut throttle, 0, v6("2001:db8:0:1::1"), 10), 3);
}

#[test]
fn a_network_has_the_limit_of_several_addresses() {
    for (first, other) in [(0x0a00_0000, v4(0x0a00_0100)), (0xc612_0000, v4(0xc612_0100))] {
        let mut throttle = throttle("1/h:10", 4);
        let sum: u32 = (0..256).map(|host| permitted(&mut throttle, 0, v4(first + host), 100)).sum();
        assert_eq!(sum, 40);
        assert_eq!(permitted(&mut throttle, 0, other, 100), 10);
    }
    let mut throttle = throttle("1/h:10", 4);
    let host = |subnet: u32| v6(&format!("2001:db8:7:{subnet:x}::1"));
    assert_eq!((0..1_000).map(|subnet| permitted(&mut throttle, 0, host(subnet), 100)).sum::<u32>(), 40);
    assert_eq!(permitted(&mut throttle, 0, v6("2001:db8:8::1"), 100), 10);
}

#[test]
fn exempt_networks_have_no_limit() {
    let limits = SourceLimits {
        announces: rate("1/h:1"),
        wrong_ids: rate("1/h:1"),
        exempt: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        ..SourceLimits::default()
    };
    let mut throttle = Throttle::new(&limits, KEY);
    for (ip, announces) in
        [(v4(0x0aff_0000), 50), (v6("2001:db8:1::"), 50), (v4(0x0b00_0000), 1), (v6("2001:db9::"), 1)]
    {
        assert_eq!(permitted(&mut throttle, 0, ip, 50), announces, "{ip}");
        let banned = (0..50).any(|_| throttle.note_wrong_id(at(0), ip));
        assert_eq!((banned, throttle.bans(at(0), ip)), (announces == 1, announces == 1), "{ip}");
    }
}

#[test]
fn too_many_wrong_ids_ban_the_source_for_a_time() {
    let limits = SourceLimits { wrong_ids: rate("1/m:10"), ban_secs: 30, ..SourceLimits::default() };
    let mut throttle = Throttle::new(&limits, KEY);
    let (bad, good) = (v4(1), v4(2));
    let wrong = (0..20).map(|_| throttle.note_wrong_id(at(1_000), bad)).position(|banned| banned);
    assert_eq!(wrong, Some(10));
    assert!(throttle.bans(at(1_000), bad) && throttle.bans(at(30_999), bad));
    assert!(!throttle.bans(at(1_000), good) && !throttle.bans(at(31_000), bad));
    // Wrong ids after the ban add to those before it.
    assert!(throttle.note_wrong_id(at(31_000), bad) && throttle.bans(at(60_999), bad));
    assert!(!throttle.note_wrong_id(at(3_600_000), bad) && !throttle.bans(at(3_600_000), bad));
}

#[test]
fn a_flood_of_sources_does_not_evict_a_heavy_source() {
    let mut throttle = throttle("1/m:20", 0);
    let heavy = v4(u32::MAX);
    let mut sum = permitted(&mut throttle, 0, heavy, 1_000);
    let sources = 4 * (THROTTLE_SETS * THROTTLE_WAYS) as u32;
    for source in 0..sources {
        assert_eq!(
            permitted(&mut throttle, 0, v4(source), 1),
            1,
            "the first request of a source is permitted"
        );
        if source % 1_000 == 0 {
            sum += permitted(&mut throttle, 0, heavy, 10);
        }
    }
    assert_eq!(sum, 20);
}

#[test]
fn new_limits_apply_at_once_and_keep_used_tokens() {
    let mut throttle = throttle("1/h:10", 0);
    assert_eq!(permitted(&mut throttle, 0, v4(1), 100), 10);
    let limits = SourceLimits { announces: rate("1/s:5"), ..SourceLimits::default() };
    throttle.set_limits(&limits);
    assert_eq!(permitted(&mut throttle, 1, v4(1), 100), 0);
    assert_eq!(permitted(&mut throttle, 1, v4(2), 100), 5);
    throttle.set_limits(&SourceLimits::default());
    assert_eq!(permitted(&mut throttle, 1, v4(1), 100), 100);
}

#[test]
fn the_highest_rates_do_not_overflow() {
    let mut throttle = throttle("1000000/s:1000000", 65_536);
    assert_eq!(permitted(&mut throttle, u64::from(u32::MAX), v4(1), 1_000_000), 1_000_000);
    let mut slow = self::throttle("1/h:1000000", 0);
    assert_eq!(permitted(&mut slow, u64::from(u32::MAX), v4(1), 1_000_100), 1_000_000);
}

#[test]
fn rates_are_parsed_and_formatted() {
    for (text, written) in [
        ("1", "1/s:10"),
        ("30/m", "30/m:5"),
        ("1/h", "1/h:1"),
        ("7/m:3", "7/m:3"),
        ("1000000", "1000000/s:1000000"),
    ] {
        let rate: Rate = text.parse().unwrap();
        assert_eq!(rate.to_string(), written);
        assert_eq!(written.parse(), Ok(rate));
    }
    for text in
        ["", "0", "-1", "1000001", "1/d", "1/", "/s", "1:", "1:0", "1:1000001", "1/s:5:5", "1.5", " 1", "+ 1"]
    {
        assert_eq!(text.parse::<Rate>(), Err(INVALID_RATE), "{text:?}");
    }
}
