//! Owns the preferences of a client: weighted lists such as that of its languages (RFC 9110, section 12).
//!
//! The crate `accept-language` is not used: it sorts weights as floating-point numbers and accepts `q=nan`, on which
//! some lists make it panic. It also keeps choices of weight 0, which means "not acceptable".

use std::cmp::Reverse;

use http::HeaderMap;
use http::header::{ACCEPT_LANGUAGE, HeaderName};

use crate::limits::{WEB_CHOICES_MAX, WEB_LANGUAGE_BYTES};

/// Weight of a choice without one, in thousandths.
const FULL_WEIGHT: u16 = 1_000;

/// Returns the languages that the client accepts, the preferred one first. `*` stands for any other. Each consists of
/// letters, digits and hyphens, so it is safe in a file name. Invalid ones are left out.
pub(crate) fn languages(headers: &HeaderMap) -> Vec<String> {
    let wanted = |(name, weight): &(&str, u16)| *weight > 0 && is_language(name);
    let mut choices: Vec<_> = choices(headers, &ACCEPT_LANGUAGE).filter(wanted).collect();
    choices.sort_by_key(|(_, weight)| Reverse(*weight));
    choices.into_iter().map(|(name, _)| name.to_owned()).collect()
}

fn is_language(name: &str) -> bool {
    let is_tag = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    name == "*" || (1..=WEB_LANGUAGE_BYTES).contains(&name.len()) && name.as_bytes().iter().all(is_tag)
}

/// Returns the members of a list in their order, with their weights in thousandths. Members with an invalid weight are
/// left out.
pub(crate) fn choices<'a>(
    headers: &'a HeaderMap,
    field: &HeaderName,
) -> impl Iterator<Item = (&'a str, u16)> {
    let values = headers.get_all(field).into_iter().filter_map(|value| value.to_str().ok());
    let members =
        values.flat_map(|value| value.split(',')).map(str::trim).filter(|member| !member.is_empty());
    members.take(WEB_CHOICES_MAX).filter_map(|member| {
        let (name, parameters) = member.split_once(';').unwrap_or((member, ""));
        let weights = parameters.split(';').filter_map(|parameter| parameter.trim().split_once('='));
        let mut weights = weights.filter(|(name, _)| name.eq_ignore_ascii_case("q"));
        let weight = weights.next().map_or(Some(FULL_WEIGHT), |(_, digits)| thousandths(digits))?;
        Some((name.trim_end(), weight))
    })
}

/// Parses a weight: `0` to `1`, with up to three digits after the point.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fraction: u16 = format!("{fraction:0<3}").parse().ok()?;
    match whole {
        "0" => Some(fraction),
        "1" if fraction == 0 => Some(FULL_WEIGHT),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(field: &HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(field, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn languages_come_by_preference() {
        let languages = |values: &[&str]| languages(&headers(&ACCEPT_LANGUAGE, values)).join(" ");
        assert_eq!(languages(&[]), "");
        assert_eq!(languages(&["de"]), "de");
        assert_eq!(languages(&["en-US,en;q=0.5"]), "en-US en");
        assert_eq!(languages(&["fr;q=0.2, *;q=0.1 ,de-CH-1996 ; q=0.9,,en;Q=1.000"]), "en de-CH-1996 fr *");
        assert_eq!(
            languages(&["a;q=0.5, b;q=0.5, c;q=0.51, d;q=0.5"]),
            "c a b d",
            "equal weights keep their order"
        );
        assert_eq!(languages(&["a;q=0.1", "b"]), "b a", "two fields are one list");
        assert_eq!(languages(&["a;q=0, b;q=0.000, c;q=0.001"]), "c", "a weight of 0 means not acceptable");
        assert_eq!(languages(&["a;q=nan, b;q=2, c;q=-1, d;q=0.1234, e;q=, f;q=1.001, g;q=.5, h"]), "h");
        assert_eq!(languages(&["../etc, a b, <i>, é, x"]), "", "a field that is not ASCII is ignored");
        assert_eq!(languages(&["../etc, a b, <i>, x"]), "x");
        assert_eq!(languages(&[&"a,".repeat(1_000)]).len(), 2 * WEB_CHOICES_MAX - 1);
        assert_eq!(languages(&[&"a".repeat(36), &"b".repeat(35)]), "b".repeat(35));
    }

    proptest! {
        #[test]
        fn no_list_panics(value in "[ a-z0-9;=,.*q\\-]{0,200}") {
            prop_assert!(languages(&headers(&ACCEPT_LANGUAGE, &[&value])).len() <= WEB_CHOICES_MAX);
        }
    }
}
