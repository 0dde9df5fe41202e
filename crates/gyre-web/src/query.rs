//! Owns the parsing of query strings: pairs of names and values, as forms encode them.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use crate::limits::WEB_QUERY_PAIRS_MAX;
use gyre_core::error::TrackerError;

/// The decoded pairs of a query string, or of a form's body (application/x-www-form-urlencoded).
///
/// ```
/// # use gyre_web::testing as gyre;
/// # fn main() -> Result<(), gyre::error::TrackerError> {
/// use gyre::web::query::Query;
///
/// let query = Query::parse("tag=linux&tag=iso+images&page=2")?;
/// assert_eq!(query.get("tag"), Some("linux"));
/// assert_eq!(query.get_all("tag").collect::<Vec<_>>(), ["linux", "iso images"]);
///
/// #[derive(serde::Deserialize)]
/// struct Search {
///     tag: Vec<String>,
///     page: u32,
/// }
/// let search: Search = query.deserialize()?;
/// assert_eq!((search.tag.len(), search.page), (2, 2));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The query string as it was sent, for [`Query::deserialize`].
    text: String,
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Parses the part of a URL after the `?`. A `+` is a blank. A name without `=` has an empty value.
    ///
    /// # Errors
    ///
    /// [`Code::IncorrectRequest`](gyre_core::error::Code::IncorrectRequest) for an invalid escape, bytes that are not
    /// UTF-8, or more than [`WEB_QUERY_PAIRS_MAX`] pairs.
    pub fn parse(text: &str) -> Result<Self, TrackerError> {
        let parts = text.split('&').filter(|part| !part.is_empty());
        if parts.clone().nth(WEB_QUERY_PAIRS_MAX).is_some() {
            return Err(TrackerError::incorrect_request("the query has too many parameters"));
        }
        let decode = |part: &str| {
            let part = part.replace('+', " ");
            percent_decode(&part).map(Cow::into_owned)
        };
        let pair = |part: &str| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Some((decode(name)?, decode(value)?))
        };
        let pairs: Option<_> = parts.map(pair).collect();
        let pairs = pairs.ok_or_else(|| TrackerError::incorrect_request("the query is malformed"))?;
        Ok(Self { text: text.to_owned(), pairs })
    }

    /// Returns the first value of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.get_all(name).next()
    }

    /// Returns all values of this name, in order.
    pub fn get_all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.iter().filter(move |(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Returns all pairs, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the number of pairs.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Returns whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Converts the pairs into a type. A field that is a list takes all values of its name.
    ///
    /// # Errors
    ///
    /// [`Code::IncorrectRequest`](gyre_core::error::Code::IncorrectRequest) if a value is missing or has another type.
    pub fn deserialize<T: DeserializeOwned>(&self) -> Result<T, TrackerError> {
        serde_html_form::from_str(&self.text)
            .map_err(|error| TrackerError::incorrect_request(format!("invalid query: {error}")))
    }
}

/// Decodes percent escapes once (RFC 3986, section 2.1). `None`: a `%` lacks two hexadecimal digits, or the result is
/// not UTF-8.
pub(super) fn percent_decode(text: &str) -> Option<Cow<'_, str>> {
    let is_escape = |rest: &str| rest.len() >= 2 && rest.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit);
    if !text.split('%').skip(1).all(is_escape) {
        return None;
    }
    percent_decode_str(text).decode_utf8().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use gyre_core::error::Code;

    fn pairs(text: &str) -> Vec<(String, String)> {
        Query::parse(text).unwrap().pairs
    }

    #[test]
    fn pairs_are_decoded_like_forms() {
        let expected = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
        };
        assert_eq!(pairs(""), []);
        assert_eq!(pairs("&&"), []);
        assert_eq!(pairs("a=1&b"), expected(&[("a", "1"), ("b", "")]));
        assert_eq!(pairs("a=b=c&=&a=%2b+%C3%a9"), expected(&[("a", "b=c"), ("", ""), ("a", "+ é")]));
        assert_eq!(pairs("a%26b=%2525"), expected(&[("a&b", "%25")]));
    }

    #[test]
    fn malformed_queries_are_refused() {
        for wrong in ["a=%", "a=%1", "%zz=1", "a=%ff", "a&b=%c3%28", "a=%+1", "a=%e9%"] {
            let error = Query::parse(wrong).unwrap_err();
            assert_eq!(error.code(), Code::IncorrectRequest, "{wrong}");
        }
        assert_eq!(pairs(&"a&".repeat(WEB_QUERY_PAIRS_MAX)).len(), WEB_QUERY_PAIRS_MAX);
        assert!(Query::parse(&"a&".repeat(WEB_QUERY_PAIRS_MAX + 1)).is_err());
    }

    #[test]
    fn pairs_are_converted_into_types() {
        let query = Query::parse("id=7&id=8&name=a%20b").unwrap();
        assert_eq!((query.len(), query.is_empty(), query.get("none")), (3, false, None));
        let map: BTreeMap<String, Vec<String>> = query.deserialize().unwrap();
        assert_eq!(map["id"], ["7", "8"]);
        assert_eq!(map["name"], ["a b"]);
        let error = query.deserialize::<BTreeMap<String, Vec<u8>>>().unwrap_err();
        assert_eq!(error.code(), Code::IncorrectRequest);
    }

    proptest! {
        #[test]
        fn an_encoded_form_is_read_back(pairs in prop::collection::vec(("\\PC{0,8}", "\\PC{0,8}"), 0..8)) {
            let text = form_urlencoded::Serializer::new(String::new()).extend_pairs(&pairs).finish();
            prop_assert_eq!(Query::parse(&text).unwrap().pairs, pairs);
        }

        #[test]
        fn no_query_panics(text in "[%+&=a-f\\PC]{0,60}") {
            if let Ok(query) = Query::parse(&text) {
                let _ = query.deserialize::<BTreeMap<String, Vec<String>>>();
            }
        }
    }
}
