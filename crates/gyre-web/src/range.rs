//! Owns range requests: which bytes of a representation a request asks for (RFC 9110, section 14).

use std::ops::RangeInclusive;

use http::header::{IF_RANGE, RANGE};
use http::{HeaderMap, HeaderName};

use crate::conditional::Validators;
use crate::limits::WEB_RANGES_MAX;

/// The bytes to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ranges {
    /// 200: all bytes.
    Whole,
    /// 206: 1 to [`WEB_RANGES_MAX`] ranges, in the order of the request. None overlaps or touches another.
    Parts(Vec<RangeInclusive<u64>>),
    /// 416: no requested byte exists.
    Unsatisfiable,
}

/// Evaluates `Range` and `If-Range` of a GET for a representation of `length` bytes.
///
/// A `Range` that is malformed, has too many ranges, or whose `If-Range` does not match, is ignored. The response is
/// then the whole representation, which every client must handle (RFC 9110, section 14.2).
pub(crate) fn requested(headers: &HeaderMap, length: u64, validators: &Validators) -> Ranges {
    let asked = single(headers, RANGE).and_then(specs);
    match asked {
        Some(asked) if holds(headers, validators) => satisfiable(&asked, length),
        _ => Ranges::Whole,
    }
}

/// One range of a `Range` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spec {
    /// From one byte to another or to the end.
    From(u64, Option<u64>),
    /// This number of bytes at the end.
    Last(u64),
}

impl Spec {
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        match (first, last) {
            ("", last) => number(last).map(Self::Last),
            (first, "") => Some(Self::From(number(first)?, None)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From(first, Some(last)))
            }
        }
    }

    /// Returns the range of bytes in a representation of `length` bytes. `None`: it has none of them.
    fn resolve(self, length: u64) -> Option<RangeInclusive<u64>> {
        let end = length.checked_sub(1)?;
        match self {
            Self::From(first, last) => (first <= end).then(|| first..=last.unwrap_or(end).min(end)),
            Self::Last(count) => (count > 0).then(|| length.saturating_sub(count)..=end),
        }
    }
}

/// Parses a number. One that exceeds 64 bits becomes the largest 64-bit number.
fn number(digits: &str) -> Option<u64> {
    let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// Parses a `Range` in bytes. `None`: it is malformed, in another unit, or has too many ranges.
fn specs(range: &str) -> Option<Vec<Spec>> {
    let (unit, set) = range.split_once('=')?;
    let elements = || set.split(',').map(|element| element.trim_matches([' ', '\t']));
    let elements = || elements().filter(|element| !element.is_empty());
    let is_valid = unit.eq_ignore_ascii_case("bytes") && (1..=WEB_RANGES_MAX).contains(&elements().count());
    is_valid.then(|| elements().map(Spec::parse).collect())?
}

/// Returns whether `If-Range` is missing or names the current state: by a strong tag, or by its date to the second. (A
/// client may only send a date that is a strong validator: RFC 9110, section 13.1.5.)
fn holds(headers: &HeaderMap, validators: &Validators) -> bool {
    if !headers.contains_key(IF_RANGE) {
        return true;
    }
    let Some(condition) = single(headers, IF_RANGE) else { return false };
    validators.matches_strongly(condition.as_bytes())
        || httpdate::parse_http_date(condition).is_ok_and(|date| validators.modified_second() == Some(date))
}

/// Returns the value of a field that occurs once.
fn single(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    value.to_str().ok().map(|value| value.trim_matches([' ', '\t']))
}

fn satisfiable(asked: &[Spec], length: u64) -> Ranges {
    let mut parts: Vec<RangeInclusive<u64>> = Vec::new();
    for mut part in asked.iter().filter_map(|spec| spec.resolve(length)) {
        // It is merged with the parts that it overlaps or touches, at the place of the first of these.
        let mut place = parts.len();
        while let Some(at) = parts.iter().position(|other| adjoin(other, &part)) {
            let other = parts.remove(at);
            part = *part.start().min(other.start())..=*part.end().max(other.end());
            place = place.min(at);
        }
        parts.insert(place, part);
    }
    match parts.is_empty() {
        false => Ranges::Parts(parts),
        // The last bytes of an empty representation are the whole of it, for which there is no range.
        true if length == 0 && asked.iter().any(|spec| matches!(spec, Spec::Last(1..))) => Ranges::Whole,
        true => Ranges::Unsatisfiable,
    }
}

/// Returns whether two ranges overlap or touch.
fn adjoin(one: &RangeInclusive<u64>, other: &RangeInclusive<u64>) -> bool {
    *one.start() <= other.end().saturating_add(1) && *other.start() <= one.end().saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::time::{Duration, UNIX_EPOCH};

    fn ranges(range: &str, length: u64) -> Ranges {
        let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_str(range).unwrap())]);
        requested(&headers, length, &Validators::default())
    }

    #[test]
    fn ranges_of_the_rfc_are_read() {
        for (range, expected) in [
            ("bytes=0-499", vec![0..=499]),
            ("bytes=500-999", vec![500..=999]),
            ("bytes=-500", vec![9_500..=9_999]),
            ("bytes=9500-", vec![9_500..=9_999]),
            ("bytes=0-0,-1", vec![0..=0, 9_999..=9_999]),
            ("bytes= 0-999, 4500-5499, -1000", vec![0..=999, 4_500..=5_499, 9_000..=9_999]),
            ("bytes=500-600,601-999", vec![500..=999]),
            ("bytes=500-700,601-999", vec![500..=999]),
            ("Bytes=5-99999999999999999999999", vec![5..=9_999]),
            ("bytes=-99999999999999999999999", vec![0..=9_999]),
            ("bytes=20000-,7-8", vec![7..=8]),
            ("bytes=8-9,,0-1,2-7,", vec![0..=9]),
        ] {
            assert_eq!(ranges(range, 10_000), Ranges::Parts(expected), "{range}");
        }
    }

    #[test]
    fn a_malformed_or_excessive_range_gives_the_whole() {
        for range in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=5",
            "bytes=5-4",
            "bytes=a-",
            "bytes=+1-2",
            "bytes=1-2-3",
            "bytes=1 - 2",
            "lines=1-2",
            "bytes =1-2",
            "bytes=0-1,x",
            "bytes=--1",
            "bytes=١-٢",
        ] {
            let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_bytes(range.as_bytes()).unwrap())]);
            assert_eq!(requested(&headers, 100, &Validators::default()), Ranges::Whole, "{range}");
        }
        let many = |count| format!("bytes={}", vec!["0-0"; count].join(","));
        assert_eq!(ranges(&many(WEB_RANGES_MAX), 100), Ranges::Parts(vec![0..=0]));
        assert_eq!(ranges(&many(WEB_RANGES_MAX + 1), 100), Ranges::Whole);
        let mut twice = HeaderMap::from_iter([(RANGE, HeaderValue::from_static("bytes=0-1"))]);
        twice.append(RANGE, HeaderValue::from_static("bytes=0-1"));
        assert_eq!(requested(&twice, 100, &Validators::default()), Ranges::Whole);
    }

    #[test]
    fn a_range_without_bytes_is_unsatisfiable() {
        for (range, length) in [("bytes=100-", 100), ("bytes=-0", 100), ("bytes=0-", 0), ("bytes=-0", 0)] {
            assert_eq!(ranges(range, length), Ranges::Unsatisfiable, "{range} of {length}");
        }
        assert_eq!(ranges("bytes=-1", 0), Ranges::Whole);
        let end = u64::MAX - 1;
        assert_eq!(
            ranges("bytes=99999999999999999999-,0-99999999999999999999", u64::MAX),
            Ranges::Parts(vec![0..=end])
        );
    }

    #[test]
    fn a_range_for_another_state_is_ignored() {
        let modified = Some(UNIX_EPOCH + Duration::from_millis(784_111_777_500));
        for (etag, condition, holds) in [
            ("\"a\"", "\"a\"", true),
            ("\"a\"", "\"b\"", false),
            ("W/\"a\"", "W/\"a\"", false),
            ("\"a\"", "W/\"a\"", false),
            ("\"a\"", "Sun, 06 Nov 1994 08:49:37 GMT", true),
            ("\"a\"", "Sun, 06 Nov 1994 08:49:38 GMT", false),
            ("\"a\"", "Sun, 06 Nov 1994 08:49:36 GMT", false),
            ("\"a\"", "\"a\", \"b\"", false),
            ("\"a\"", "", false),
        ] {
            let mut headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_static("bytes=1-2"))]);
            headers.insert(IF_RANGE, HeaderValue::from_str(condition).unwrap());
            let expected = if holds { Ranges::Parts(vec![1..=2]) } else { Ranges::Whole };
            let validators = Validators { etag: Some(etag.into()), modified };
            assert_eq!(requested(&headers, 9, &validators), expected, "{condition} of {etag}");
        }
    }

    fn spec() -> impl Strategy<Value = Spec> {
        let number = || 0..40_u64;
        prop_oneof![
            (number(), number()).prop_map(|(a, b)| Spec::From(a.min(b), Some(a.max(b)))),
            number().prop_map(|first| Spec::From(first, None)),
            number().prop_map(Spec::Last),
        ]
    }

    proptest! {
        #[test]
        fn parts_are_the_bytes_asked_for(
            specs in prop::collection::vec(spec(), 1..=WEB_RANGES_MAX), length in 1..36_u64,
        ) {
            let text: Vec<String> = specs.iter().map(|spec| match spec {
                Spec::From(first, last) => format!("{first}-{}", last.map_or(String::new(), |last| last.to_string())),
                Spec::Last(count) => format!("-{count}"),
            }).collect();
            // Byte by byte, as section 14.1.2 defines it.
            let bytes_of = |spec: &Spec| -> BTreeSet<u64> {
                (0..length).filter(|&byte| match *spec {
                    Spec::From(first, last) => byte >= first && last.is_none_or(|last| byte <= last),
                    Spec::Last(count) => byte + count >= length,
                }).collect()
            };
            let asked: Vec<BTreeSet<u64>> = specs.iter().map(bytes_of).filter(|bytes| !bytes.is_empty()).collect();
            match ranges(&format!("bytes={}", text.join(", ")), length) {
                Ranges::Whole => prop_assert!(false, "the range is valid"),
                Ranges::Unsatisfiable => prop_assert!(asked.is_empty()),
                Ranges::Parts(parts) => {
                    let union: BTreeSet<u64> = asked.iter().flatten().copied().collect();
                    let sent: Vec<u64> = parts.iter().cloned().flatten().collect();
                    prop_assert_eq!(sent.len(), union.len(), "a byte is sent twice");
                    prop_assert_eq!(&sent.iter().copied().collect::<BTreeSet<_>>(), &union);
                    for part in &parts {
                        prop_assert!(!union.contains(&(part.end() + 1)), "{:?} ends next to another", part);
                    }
                    let first_asked = |part: &RangeInclusive<u64>| {
                        asked.iter().position(|bytes| bytes.iter().any(|byte| part.contains(byte)))
                    };
                    prop_assert!(parts.is_sorted_by_key(first_asked), "out of order");
                }
            }
        }

        #[test]
        fn any_range_is_within_bounds(range in "(bytes=)?[0-9, -]{0,64}|[ -~]{0,20}", length: u64) {
            if let Ranges::Parts(parts) = ranges(&range, length) {
                prop_assert!((1..=WEB_RANGES_MAX).contains(&parts.len()));
                prop_assert!(parts.iter().all(|part| part.start() <= part.end() && *part.end() < length));
            }
        }
    }
}
