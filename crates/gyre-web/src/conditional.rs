//! Owns the conditions that a request can set on the state of what it is for (RFC 9110, section 13).

use std::iter;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use http::{HeaderMap, HeaderName, Method};
use memchr::memchr;

/// What a representation is told from its other states by (RFC 9110, section 8.8).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Validators {
    /// The entity tag as it stands in the field: with its quotes, and the `W/` of a weak one.
    pub etag: Option<String>,
    /// When it was last changed.
    pub modified: Option<SystemTime>,
}

impl Validators {
    /// The value of `Last-Modified`. There is none for a time that can't be told in HTTP: before 1970, or after 9999.
    pub(crate) fn last_modified(&self) -> Option<String> {
        Some(httpdate::fmt_http_date(self.modified_second()?))
    }

    /// The change, with the precision of an HTTP-date.
    pub(crate) fn modified_second(&self) -> Option<SystemTime> {
        const YEAR_10000_S: u64 = 253_402_300_800;
        let since = self.modified?.duration_since(UNIX_EPOCH).ok()?.as_secs();
        (since < YEAR_10000_S).then(|| UNIX_EPOCH + Duration::from_secs(since))
    }

    /// Whether this tag and ours are the same, and neither is weak (RFC 9110, section 8.8.3.2).
    pub(crate) fn matches_strongly(&self, tag: &[u8]) -> bool {
        tag.starts_with(b"\"") && self.etag.as_ref().is_some_and(|own| own.as_bytes() == tag)
    }

    /// The same, where a weak tag is as good.
    fn matches_weakly(&self, tag: &[u8]) -> bool {
        fn opaque(tag: &[u8]) -> &[u8] {
            tag.strip_prefix(b"W/").unwrap_or(tag)
        }
        self.etag.as_ref().is_some_and(|own| opaque(own.as_bytes()) == opaque(tag))
    }
}

/// What follows from a request's conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precondition {
    /// Answer as if there were none.
    Proceed,
    /// 304: the client has it already.
    NotModified,
    /// 412: it is not in the state that the request is for.
    Failed,
}

/// Judges a request's conditions on something that exists, in the order of RFC 9110, section 13.2.2. (`If-Range`, the
/// last of them, goes with the range.) A date that is none is no condition; a list of tags ends at what is no tag.
pub(crate) fn evaluate(method: &Method, headers: &HeaderMap, validators: &Validators) -> Precondition {
    // Section 13.2.1: methods that neither select nor change a representation know no conditions.
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

/// Whether the field is `*`, or has a tag that matches.
fn lists(headers: &HeaderMap, name: HeaderName, matches: impl Fn(&[u8]) -> bool) -> bool {
    let mut fields = headers.get_all(name).iter().map(|value| value.as_bytes().trim_ascii());
    fields.any(|field| field == b"*" || tags(field).any(&matches))
}

/// The entity tags of a list, each as it stands.
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

/// The date of a field that has one, and there once.
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
        // Half a second later than the field can say.
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
    fn tags_are_compared_as_their_field_asks() {
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
        // A tag of ours that is weak never matches strongly, not even itself.
        assert_eq!(judge(&Method::GET, &[(IF_MATCH, "W/\"a\"")], "W/\"a\""), Failed);
        assert_eq!(judge(&Method::GET, &[(IF_NONE_MATCH, "\"a\"")], "W/\"a\""), NotModified);
        // Several fields are one list.
        assert_eq!(get(&[(IF_NONE_MATCH, "\"b\""), (IF_NONE_MATCH, "\"a\"")]), NotModified);
    }

    #[test]
    fn dates_are_compared_by_the_second() {
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
    fn tags_go_before_dates_and_failure_before_not_modified() {
        assert_eq!(get(&[(IF_MATCH, "\"a\""), (IF_UNMODIFIED_SINCE, BEFORE)]), Proceed);
        assert_eq!(get(&[(IF_NONE_MATCH, "\"b\""), (IF_MODIFIED_SINCE, AFTER)]), Proceed);
        assert_eq!(get(&[(IF_MATCH, "\"b\""), (IF_NONE_MATCH, "\"a\"")]), Failed);
        assert_eq!(get(&[(IF_UNMODIFIED_SINCE, BEFORE), (IF_NONE_MATCH, "\"a\"")]), Failed);
    }

    #[test]
    fn only_reading_is_spared() {
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
    fn what_has_no_validators_matches_nothing_but_a_star() {
        let headers = |name, value| HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
        let none = Validators::default();
        assert_eq!(evaluate(&Method::GET, &headers(IF_MATCH, "\"a\""), &none), Failed);
        assert_eq!(evaluate(&Method::GET, &headers(IF_MATCH, "*"), &none), Proceed);
        assert_eq!(evaluate(&Method::GET, &headers(IF_NONE_MATCH, "\"a\""), &none), Proceed);
        assert_eq!(evaluate(&Method::GET, &headers(IF_MODIFIED_SINCE, AFTER), &none), Proceed);
        assert_eq!(evaluate(&Method::GET, &headers(IF_UNMODIFIED_SINCE, BEFORE), &none), Proceed);
    }

    #[test]
    fn times_out_of_reach_are_not_told() {
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
            // What is found is within the list, whole; and a list of our own tag alone has it.
            for tag in tags(list.as_bytes()) {
                prop_assert!(list.as_bytes().windows(tag.len()).any(|part| part == tag));
                prop_assert_eq!(tags(tag).collect::<Vec<_>>(), [tag]);
            }
            prop_assert_eq!(tags(own.as_bytes()).collect::<Vec<_>>(), [own.as_bytes()]);
            prop_assert_eq!(judge(&Method::GET, &[(IF_NONE_MATCH, &own)], &own), NotModified);
        }
    }
}
