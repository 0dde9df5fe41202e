//! Owns the `Link` field: how a response is related to other resources (RFC 8288).

use std::fmt::Write;

use http::header::LINK;
use http::{HeaderMap, HeaderValue};

use crate::limits::WEB_LINKS_MAX;
use gyre_core::error::{Code, TrackerError};

/// A link.
///
/// ```
/// # use gyre_web::testing as gyre;
/// use gyre::web::links::Links;
///
/// let mut links = Links::default();
/// links.add_with("preload", "/style.css", &[("as", "style")]);
/// let link = links.iter().next().unwrap();
/// assert_eq!((link.rel(), link.target()), ("preload", "/style.css"));
/// assert_eq!(link.attributes().next(), Some(("as", "style")));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    rel: String,
    target: String,
    attributes: Vec<(String, String)>,
}

impl Link {
    /// Returns the relation of the target to the response, such as `next` or `preload`. Several are separated by
    /// blanks.
    pub fn rel(&self) -> &str {
        &self.rel
    }

    /// Returns the target: an absolute or relative URL.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Returns the other attributes, such as `as` with `style`, or `type` with `text/css`.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn write(&self, text: &mut String) -> Option<()> {
        let is_token =
            |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let is_url = |target: &str| target.bytes().all(|b| b.is_ascii_graphic() && !b"<>\"\\".contains(&b));
        let is_quotable =
            |value: &str| value.bytes().all(|b| (b' '..=b'~').contains(&b) && !b"<>\"\\".contains(&b));
        if !is_url(&self.target) || self.rel.trim().is_empty() || !is_quotable(&self.rel) {
            return None;
        }
        // Writing to a string does not fail.
        let _ = write!(text, "<{}>; rel=\"{}\"", self.target, self.rel);
        for (name, value) in self.attributes() {
            if !is_token(name) || !is_quotable(value) {
                return None;
            }
            let _ = write!(text, "; {name}=\"{value}\"");
        }
        Some(())
    }
}

/// The links of a response.
///
/// ```
/// # use gyre_web::testing as gyre;
/// # fn main() -> Result<(), gyre::error::TrackerError> {
/// use gyre::web::links::Links;
///
/// let mut links = Links::default();
/// links.add("next", "/torrents?page=3").add_with("preload", "/style.css", &[("as", "style")]);
/// let header = "</torrents?page=3>; rel=\"next\", </style.css>; rel=\"preload\"; as=\"style\"";
/// assert_eq!(links.to_value()?, header);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links(Vec<Link>);

impl Links {
    /// Adds a link to `target` with the relation `rel`.
    pub fn add(&mut self, rel: impl Into<String>, target: impl Into<String>) -> &mut Self {
        self.add_with(rel, target, &[])
    }

    /// Adds a link with attributes.
    pub fn add_with(
        &mut self,
        rel: impl Into<String>,
        target: impl Into<String>,
        attributes: &[(&str, &str)],
    ) -> &mut Self {
        let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.0.push(Link { rel: rel.into(), target: target.into(), attributes: attributes.collect() });
        self
    }

    /// Returns the links, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.0.iter()
    }

    /// Returns the value of the header field.
    ///
    /// # Errors
    ///
    /// [`Code::IncorrectResponse`] if a target, relation or attribute has a character that would end it (`<`, `>`, `"`,
    /// `\`), a control character, or a non-ASCII character, which URLs have percent-encoded; or if a relation is empty.
    pub fn to_value(&self) -> Result<HeaderValue, TrackerError> {
        let mut text = String::new();
        for link in &self.0 {
            text.push_str(if text.is_empty() { "" } else { ", " });
            if link.write(&mut text).is_none() {
                let what = format!("invalid link: target {:?}, relation {:?}", link.target, link.rel);
                return Err(TrackerError::new(Code::IncorrectResponse, what));
            }
        }
        HeaderValue::from_str(&text).map_err(TrackerError::internal)
    }

    /// Reads the links of all `Link` fields, at most [`WEB_LINKS_MAX`]. A malformed link ends the reading of its field.
    pub fn parse(headers: &HeaderMap) -> Self {
        let values = headers.get_all(LINK).into_iter().filter_map(|value| value.to_str().ok());
        Self(values.flat_map(LinksOf).take(WEB_LINKS_MAX).collect())
    }
}

/// Iterates over the links of one field. Holds the unread rest.
struct LinksOf<'a>(&'a str);

impl Iterator for LinksOf<'_> {
    type Item = Link;

    fn next(&mut self) -> Option<Link> {
        let start = self.0.trim_start_matches([' ', '\t', ',']).strip_prefix('<')?;
        let (target, mut rest) = start.split_once('>')?;
        let mut link = Link { rel: String::new(), target: target.to_owned(), attributes: Vec::new() };
        loop {
            rest = rest.trim_start();
            let Some(parameter) = rest.strip_prefix(';') else { break };
            let (name, value, after) = parameter_of(parameter)?;
            rest = after;
            // The first of several relations applies (RFC 8288, section 3.3).
            match name.as_str() {
                "" => {}
                "rel" if link.rel.is_empty() => link.rel = value,
                "rel" => {}
                _ => link.attributes.push((name, value)),
            }
        }
        self.0 = rest;
        Some(link)
    }
}

/// Parses a parameter. Returns its name, its value and the rest. `None`: a quoted value has no end.
fn parameter_of(text: &str) -> Option<(String, String, &str)> {
    let end = text.find(['=', ';', ',']).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let name = name.trim().to_ascii_lowercase();
    let Some(value) = rest.strip_prefix('=') else { return Some((name, String::new(), rest)) };
    let value = value.trim_start();
    let Some(quoted) = value.strip_prefix('"') else {
        let (value, rest) = value.split_at(value.find([';', ',']).unwrap_or(value.len()));
        return Some((name, value.trim_end().to_owned(), rest));
    };
    let (mut unquoted, mut characters) = (String::new(), quoted.char_indices());
    loop {
        match characters.next()? {
            (at, '"') => return Some((name, unquoted, &quoted[at + 1..])),
            (_, '\\') => unquoted.push(characters.next()?.1),
            (_, character) => unquoted.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(fields: &[&str]) -> Links {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(LINK, HeaderValue::from_str(field).unwrap());
        }
        Links::parse(&headers)
    }

    #[test]
    fn links_in_any_notation_are_read() {
        let mut expected = Links::default();
        expected
            .add("next last", "http://a/b,c;d?e=1")
            .add_with("preload", "/x", &[("as", "style"), ("title", "a\", <b>; c=\\"), ("crossorigin", "")])
            .add("", "");
        let read = parse(&[
            "<http://a/b,c;d?e=1>;rel=\"next last\" ; rel=prev,, </x> ;\tAS = style; Rel=preload ; \
             title=\"a\\\", <b>; c=\\\\\"; crossorigin;",
            "<>",
        ]);
        assert_eq!(read, expected);
        assert_eq!(parse(&["<a>; rel=b x <c>; rel=d, <e>; rel=f"]).0.len(), 2);
        for (broken, links) in
            [("", 0), ("a", 0), ("<a", 0), ("<a>; rel=\"b", 0), ("<a> b, <c>", 1), ("<a>; b=\"\\", 0)]
        {
            assert_eq!(parse(&[broken]).0.len(), links, "{broken}");
        }
        assert_eq!(parse(&[&"<a>,".repeat(200)]).0.len(), WEB_LINKS_MAX);
    }

    #[test]
    fn characters_that_would_end_a_link_are_refused() {
        for (rel, target) in [
            ("next", "/a>b"),
            ("next", "/a<b"),
            ("next", "/a\r\nSet-Cookie: b"),
            ("next", "/a b"),
            ("next", "/é"),
            ("next", "/a\"b"),
            ("ne\"xt", "/"),
            ("ne\nxt", "/"),
            ("next\\", "/"),
            ("", "/"),
            (" ", "/"),
        ] {
            let mut links = Links::default();
            links.add("prev", "/").add(rel, target);
            let error = links.to_value().unwrap_err();
            assert_eq!(error.code(), Code::IncorrectResponse, "{rel:?} {target:?}");
        }
        for attribute in [("", "a"), ("a b", "c"), ("a", "\""), ("a", "\r")] {
            assert!(
                Links::default().add_with("next", "/", &[attribute]).to_value().is_err(),
                "{attribute:?}"
            );
        }
        assert_eq!(Links::default().to_value().unwrap(), "");
    }

    proptest! {
        #[test]
        fn written_links_are_read_back(
            links in prop::collection::vec(("[a-z]{1,8}( [a-z]{1,8})?", "\\PC{0,12}", "[ -~]{0,9}"), 0..5),
        ) {
            let mut written = Links::default();
            for (rel, target, title) in &links {
                written.add_with(rel, target, &[("title", title)]);
            }
            if let Ok(value) = written.to_value() {
                prop_assert_eq!(parse(&[value.to_str().unwrap()]), written);
            }
        }

        #[test]
        fn no_field_panics(field in "[<>;=,\"\\\\ a-c]{0,40}") {
            parse(&[&field]);
        }
    }
}
