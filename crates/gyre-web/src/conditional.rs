//! Owns conditional requests: conditions on the current state of a representation (RFC 9110, section 13).

use std::iter;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use http::{HeaderMap, HeaderName, Method};
use memchr::memchr;

/// The validators of a representation, which tell its states apart (RFC 9110, section 8.8).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Validators {
    /// The entity tag as in the field: with its quotes, and the `W/` of a weak one.
    pub etag: Option<String>,
    /// Time of the last modification.
    pub modified: Option<SystemTime>,
}

impl Validators {
    /// Returns the value of `Last-Modified`. `None`: the time is unknown, or before 1970 or after 9999, which HTTP
    /// can't express.
    pub(crate) fn last_modified(&self) -> Option<String> {
        Some(httpdate::fmt_http_date(self.modified_second()?))
    }

    /// Returns the time of the last modification, to the second, as in an HTTP date.
    pub(crate) fn modified_second(&self) -> Option<SystemTime> {
        const YEAR_10000_S: u64 = 253_402_300_800;
        let since = self.modified?.duration_since(UNIX_EPOCH).ok()?.as_secs();
        (since < YEAR_10000_S).then(|| UNIX_EPOCH + Duration::from_secs(since))
    }

    /// Strong comparison: whether a tag equals this one, and neither is weak (RFC 9110, section 8.8.3.2).
    pub(crate) fn matches_strongly(&self, tag: &[u8]) -> bool {
        tag.starts_with(b"\"") && self.etag.as_ref().is_some_and(|own| own.as_bytes() == tag)
    }

    /// Weak comparison: whether a tag equals this one, apart from `W/`.
    fn matches_weakly(&self, tag: &[u8]) -> bool {
        fn opaque(tag: &[u8]) -> &[u8] {
            tag.strip_prefix(b"W/").unwrap_or(tag)
        }
        self.etag.as_ref().is_some_and(|own| opaque(own.as_bytes()) == opaque(tag))
    }
}

/// The result of a request's conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precondition {
    /// The request is answered as without conditions.
    Proceed,
    /// 304: the client already has the current state.
    NotModified,
    /// 412: the current state is not the one that the request requires.
    Failed,
}

/// Evaluates the conditions of a request for an existing resource, in the order of RFC 9110, section 13.2.2. (The last
/// one, `If-Range`, is evaluated with the range.) A malformed date is ignored. A list of tags ends at a malformed one.
pub(crate) fn evaluate(method: &Method, headers: &HeaderMap, validators: &Validators) -> Precondition {
    // Section 13.2.1: conditions do not apply to methods that neither select nor change a representation.
    if [Method::CONNECT, Method::OPTIONS, Method::TRACE].contains(method) {
        return Precondition::Proceed;
    }
    let reads = [Method::GET, Method::HEAD].contains(method);
    let modified = validators.modified_second();
    let changed_after = |name: HeaderName| Some(modified? > date(headers, name)?);
    if headers.contains_key(IF_MATCH) {
        if !lists(headers, IF_MATCH, |tag| validators.matches_strongly(tag)) {
            return Precondition::Failed;
        }
    } else if changed_after(IF_UNMODIFIED_SINCE) == Some(true) {
        return Precondition::Failed;
    }
    if headers.contains_key(IF_NONE_MATCH) {
        if lists(headers, IF_NONE_MATCH, |tag| validators.matches_weakly(tag)) {
            return if reads { Precondition::NotModified } else { Precondition::Failed };
        }
    } else if reads && changed_after(IF_MODIFIED_SINCE) == Some(false) {
        return Precondition::NotModified;
    }
    Precondition::Proceed
}

/// Returns whether the field is `*` or lists a tag that matches.
fn lists(headers: &HeaderMap, name: HeaderName, matches: impl Fn(&[u8]) -> bool) -> bool {
    let mut fields = headers.get_all(name).iter().map(|value| value.as_bytes().trim_ascii());
    fields.any(|field| field == b"*" || tags(field).any(&matches))
}

/// Returns the entity tags of a list, with their quotes.
fn tags(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = list;
    iter::from_fn(move || {
        let blanks = rest.iter().take_while(|byte| b" \t,".contains(byte)).count();
        rest = &rest[blanks..];
        let opaque = rest.strip_prefix(b"W/").unwrap_or(rest).strip_prefix(b"\"")?;
        let end = rest.len() - opaque.len() + memchr(b'"', opaque)? + 1;
        let (tag, after) = rest.split_at(end);
        rest = after;
        Some(tag)
    })
}

/// Returns the date of a field that occurs once.
fn date(headers: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    httpdate::parse_http_date(value.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Precondition::{Failed, NotModified, Proceed};
    use http::HeaderValue;
    use proptest::prelude::*;

    const CHANGED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn validators(etag: &str) -> Validators {
        // Half a second more than the field can express.
        let modified = httpdate::parse_http_date(CHANGED).unwrap() + Duration::from_millis(500);
        Validators { etag: Some(etag.into()), modified: Some(modified) }
    }

    fn judge(method: &Method, fields: &[(HeaderName, &str)], etag: &str) -> Precondition {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        evaluate(method, &headers, &validators(etag))
    }

    fn get(fields: &[(HeaderName, &str)]) -> Precondition {
        judge(&Method::GET, fields, "\"a\"")
    }

    #[test]
    fn each_field_compares_tags_in_its_way() {
        for (list, strong, weak) in [
            ("\"a\"", true, true),
            ("W/\"a\"", false, true),
            ("\"b\"", false, false),
            ("\"b\", \"a\"", true, true),
            (" ,\"b,\" ,, W/\"c\",\"a\",", true, true),
            ("*", true, true),
            ("a", false, false),
            ("\"a", false, false),
            ("b, \"a\"", false, false),
            ("w/\"a\"", false, false),
            ("", false, false),
        ] {
            assert_eq!(get(&[(IF_MATCH, list)]), if strong { Proceed } else { Failed }, "{list}");
            assert_eq!(get(&[(IF_NONE_MATCH, list)]), if weak { NotModified } else { Proceed }, "{list}");
        }
        // In a strong comparison a weak tag never matches, not even itself.
        assert_eq!(judge(&Method::GET, &[(IF_MATCH, "W/\"a\"")], "W/\"a\""), Failed);
        assert_eq!(judge(&Method::GET, &[(IF_NONE_MATCH, "\"a\"")], "W/\"a\""), NotModified);
        // Several fields form one list.
        assert_eq!(get(&[(IF_NONE_MATCH, "\"b\""), (IF_NONE_MATCH, "\"a\"")]), NotModified);
    }

    #[test]
    fn dates_are_compared_to_the_second() {
        for (date, unmodified, modified) in [
            (BEFORE, Failed, Proceed),
            (CHANGED, Proceed, NotModified),
            (AFTER, Proceed, NotModified),
            ("yesterday", Proceed, Proceed),
        ] {
            assert_eq!(get(&[(IF_UNMODIFIED_SINCE, date)]), unmodified, "{date}");
            assert_eq!(get(&[(IF_MODIFIED_SINCE, date)]), modified, "{date}");
        }
        assert_eq!(get(&[(IF_MODIFIED_SINCE, AFTER), (IF_MODIFIED_SINCE, BEFORE)]), Proceed);
    }

    #[test]
    fn tags_override_dates_and_412_overrides_304() {
        assert_eq!(get(&[(IF_MATCH, "\"a\""), (IF_UNMODIFIED_SINCE, BEFORE)]), Proceed);
        assert_eq!(get(&[(IF_NONE_MATCH, "\"b\""), (IF_MODIFIED_SINCE, AFTER)]), Proceed);
        assert_eq!(get(&[(IF_MATCH, "\"b\""), (IF_NONE_MATCH, "\"a\"")]), Failed);
        assert_eq!(get(&[(IF_UNMODIFIED_SINCE, BEFORE), (IF_NONE_MATCH, "\"a\"")]), Failed);
    }

    #[test]
    fn only_get_and_head_give_304() {
        let matches = [(IF_NONE_MATCH, "*")];
        let since = [(IF_MODIFIED_SINCE, AFTER)];
        for (method, by_tag, by_date) in [
            (Method::HEAD, NotModified, NotModified),
            (Method::PUT, Failed, Proceed),
            (Method::OPTIONS, Proceed, Proceed),
        ] {
            assert_eq!(judge(&method, &matches, "\"a\""), by_tag, "{method}");
            assert_eq!(judge(&method, &since, "\"a\""), by_date, "{method}");
        }
    }

    #[test]
    fn without_validators_only_a_star_matches() {
        let headers = |name, value| HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
        let none = Validators::default();
        assert_eq!(evaluate(&Method::GET, &headers(IF_MATCH, "\"a\""), &none), Failed);
        assert_eq!(evaluate(&Method::GET, &headers(IF_MATCH, "*"), &none), Proceed);
        assert_eq!(evaluate(&Method::GET, &headers(IF_NONE_MATCH, "\"a\""), &none), Proceed);
        assert_eq!(evaluate(&Method::GET, &headers(IF_MODIFIED_SINCE, AFTER), &none), Proceed);
        assert_eq!(evaluate(&Method::GET, &headers(IF_UNMODIFIED_SINCE, BEFORE), &none), Proceed);
    }

    #[test]
    fn times_out_of_range_have_no_last_modified() {
        assert_eq!(validators("").last_modified().unwrap(), CHANGED);
        for modified in
            [UNIX_EPOCH - Duration::from_secs(1), UNIX_EPOCH + Duration::from_secs(253_402_300_800)]
        {
            assert_eq!(Validators { etag: None, modified: Some(modified) }.last_modified(), None);
        }
    }

    proptest! {
        #[test]
        fn any_list_is_read(list in "[\"W/*, a\\x80]{0,24}", own in "(W/)?\"[a,/]{0,3}\"") {
            // Each tag stands in the list as a whole. A list of just the representation's tag contains it.
            for tag in tags(list.as_bytes()) {
                prop_assert!(list.as_bytes().windows(tag.len()).any(|part| part == tag));
                prop_assert_eq!(tags(tag).collect::<Vec<_>>(), [tag]);
            }
            prop_assert_eq!(tags(own.as_bytes()).collect::<Vec<_>>(), [own.as_bytes()]);
            prop_assert_eq!(judge(&Method::GET, &[(IF_NONE_MATCH, &own)], &own), NotModified);
        }
    }
}
