//! Owns the format of log lines: text with tokens for values of a request and its response.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderName;

use gyre_core::error::TrackerError;

/// Provides the values of tokens.
pub trait LogRecord {
    /// Returns the value of the token `name`. For `request` and `response`, `argument` is the name of a header field.
    /// `None`: there is no value.
    fn token(&self, name: &str, argument: Option<&str>) -> Option<Cow<'_, str>>;
}

/// The tokens that every format knows.
const TOKENS: [&str; 12] = [
    "method",
    "url",
    "path",
    "status",
    "ip",
    "host",
    "user-agent",
    "referer",
    "http-version",
    "response-time",
    "length",
    "date",
];
/// The tokens that take the name of a header field in brackets.
const HEADER_TOKENS: [&str; 2] = ["request", "response"];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Token { name: String, argument: Option<String> },
}

/// A format of log lines: text with tokens, which start with a colon. Cloning is cheap.
///
/// | token | stands for |
/// |---|---|
/// | `:method` `:url` `:path` `:http-version` | the request's first line; the URL as it was sent, with its query |
/// | `:host` `:user-agent` `:referer` | header fields of the request |
/// | `:request[name]` `:response[name]` | any header field |
/// | `:ip` | the client's address |
/// | `:status` `:length` | the response's status code, if one was sent, and the number of bytes of its body |
/// | `:response-time` | milliseconds from the request's head to the end of the response |
/// | `:date` | the time of the line, as [`date`] writes it |
/// | `::` | a colon |
///
/// A missing or empty value is written as `-`. Quotes, backslashes and control characters in values are written as
/// `\"`, `\\`, `\n`, `\u{1b}`, so no client can forge a line. Put quotes around values that may contain blanks, to
/// separate them from their neighbours.
///
/// ```
/// # use gyre_web::testing as gyre;
/// # fn main() -> Result<(), gyre::error::TrackerError> {
/// use gyre::web::log::{LogFormat, LogRecord};
/// use std::borrow::Cow;
///
/// struct Request;
///
/// impl LogRecord for Request {
///     fn token(&self, name: &str, _: Option<&str>) -> Option<Cow<'_, str>> {
///         (name == "method").then_some("GET".into())
///     }
/// }
///
/// let format = LogFormat::parse_with(":method :status :user", &["user"])?;
/// assert_eq!(format.render_with(&Request, &[("user", "me")]), "GET - me");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFormat(Arc<[Part]>);

impl LogFormat {
    /// The Common Log Format.
    pub const COMMON: &str = r#":ip - - [:date] ":method :url HTTP/:http-version" :status :length"#;
    /// The Combined Log Format of Apache and others.
    pub const COMBINED: &str =
        r#":ip - - [:date] ":method :url HTTP/:http-version" :status :length ":referer" ":user-agent""#;
    /// A shorter format with the response time.
    pub const SHORT: &str = ":ip :method :url HTTP/:http-version :status :length - :response-time ms";

    /// Parses a format with the tokens above.
    ///
    /// # Errors
    ///
    /// See [`LogFormat::parse_with`].
    pub fn parse(format: &str) -> Result<Self, TrackerError> {
        Self::parse_with(format, &[])
    }

    /// Parses a format with additional tokens `own`. Their names consist of lower-case letters, digits and hyphens.
    ///
    /// # Errors
    ///
    /// [`Code::Internal`](gyre_core::error::Code::Internal) for an unknown token, or one that lacks the name of a
    /// header field.
    pub fn parse_with(format: &str, own: &[&str]) -> Result<Self, TrackerError> {
        let (mut parts, mut text) = (Vec::new(), String::new());
        let mut rest = format;
        while let Some((before, after)) = rest.split_once(':') {
            text.push_str(before);
            if let Some(after) = after.strip_prefix(':') {
                text.push(':');
                rest = after;
                continue;
            }
            let (token, after) = token_of(after, own)
                .map_err(|why| TrackerError::internal(format!("invalid log format `{format}`: {why}")))?;
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            parts.push(token);
            rest = after;
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self(parts.into()))
    }

    /// Returns the line for a record, without a line break at its end.
    pub fn render(&self, record: &dyn LogRecord) -> String {
        self.render_with(record, &[])
    }

    /// Returns the line for a record. The values of `own` override those of the record.
    pub fn render_with(&self, record: &dyn LogRecord, own: &[(&str, &str)]) -> String {
        let mut line = String::new();
        for part in self.0.iter() {
            match part {
                Part::Text(text) => line.push_str(text),
                Part::Token { name, argument } => {
                    let given =
                        own.iter().find(|(known, _)| known == name).map(|(_, value)| Cow::from(*value));
                    let value = given.or_else(|| record.token(name, argument.as_deref()));
                    escape(value.as_deref().filter(|value| !value.is_empty()).unwrap_or("-"), &mut line);
                }
            }
        }
        line
    }
}

/// Parses a token after its colon. Returns the token and the rest of the text.
fn token_of<'a>(text: &'a str, own: &[&str]) -> Result<(Part, &'a str), String> {
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let end = text.bytes().position(|byte| !is_name(byte)).unwrap_or(text.len());
    let name = text[..end].trim_end_matches('-'); // `:ip-:host`
    let after = &text[name.len()..];
    let token = |argument| Part::Token { name: name.to_owned(), argument };
    if HEADER_TOKENS.contains(&name) {
        let argument = after.strip_prefix('[').and_then(|after| after.split_once(']'));
        let header = argument.and_then(|(header, _)| HeaderName::from_bytes(header.as_bytes()).ok());
        let (Some(header), Some((_, after))) = (header, argument) else {
            return Err(format!("`:{name}` needs the name of a header field: `:{name}[date]`"));
        };
        return Ok((token(Some(header.as_str().to_owned())), after));
    }
    if TOKENS.contains(&name) || own.contains(&name) {
        Ok((token(None), after))
    } else {
        Err(format!("unknown token `:{name}`; write a colon as `::`"))
    }
}

fn escape(value: &str, line: &mut String) {
    for character in value.chars() {
        // The last two are Unicode line breaks.
        if character.is_control() || matches!(character, '"' | '\\' | '\u{2028}' | '\u{2029}') {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
}

/// Formats a time as in the Common Log Format: `10/Oct/2000:13:55:36 +0000`, always in UTC.
///
/// ```
/// # use gyre_web::testing as gyre;
/// use std::time::{Duration, UNIX_EPOCH};
///
/// let moment = UNIX_EPOCH + Duration::from_secs(971_186_136);
/// assert_eq!(gyre::web::log::date(moment), "10/Oct/2000:13:55:36 +0000");
/// ```
pub fn date(moment: SystemTime) -> String {
    // Times before 1970 and after 9999 are clamped: the HTTP format that is used here has no others.
    let last = Duration::from_secs(253_402_300_799);
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().min(last);
    // `Tue, 10 Oct 2000 13:55:36 GMT`
    let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + since);
    let (day, month, year, time) = (&date[5..7], &date[8..11], &date[12..16], &date[17..25]);
    format!("{day}/{month}/{year}:{time} +0000")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Record(&'static [(&'static str, &'static str)]);

    impl LogRecord for Record {
        fn token(&self, name: &str, argument: Option<&str>) -> Option<Cow<'_, str>> {
            let wanted = argument.map_or(name.to_owned(), |argument| format!("{name}[{argument}]"));
            self.0.iter().find(|(known, _)| *known == wanted).map(|(_, value)| (*value).into())
        }
    }

    const RECORD: Record = Record(&[
        ("ip", "2001:db8::1"),
        ("date", "10/Oct/2000:13:55:36 +0000"),
        ("method", "GET"),
        ("url", "/a?b=\"c\""),
        ("path", "/a"),
        ("http-version", "1.1"),
        ("status", "200"),
        ("length", "12"),
        ("response-time", "0.123"),
        ("user-agent", "evil\r\n127.0.0.1 - - \u{1b}[2J\u{85}\u{2028}é\\"),
        ("referer", ""),
        ("request[accept]", "*/*"),
        ("response[x-id]", "7"),
    ]);

    fn render(format: &str) -> String {
        LogFormat::parse(format).unwrap().render(&RECORD)
    }

    #[test]
    fn tokens_are_replaced() {
        assert_eq!(
            render(LogFormat::COMBINED),
            "2001:db8::1 - - [10/Oct/2000:13:55:36 +0000] \"GET /a?b=\\\"c\\\" HTTP/1.1\" 200 12 \"-\" \
             \"evil\\r\\n127.0.0.1 - - \\u{1b}[2J\\u{85}\\u{2028}é\\\\\""
        );
        assert!(render(LogFormat::COMBINED).starts_with(&render(LogFormat::COMMON)));
        assert_eq!(render(LogFormat::SHORT), "2001:db8::1 GET /a?b=\\\"c\\\" HTTP/1.1 200 12 - 0.123 ms");
        assert_eq!(render("::a:::path::\n::"), ":a:/a:\n:", "text stays as it is");
        assert_eq!(render(":request[Accept]:response[x-id]:response[none]:host"), "*/*7--");
        assert_eq!(render(":status-:status--[:length]"), "200-200--[12]");
        assert_eq!(render(""), "");
    }

    #[test]
    fn unknown_tokens_are_named() {
        for (format, what) in [
            (":nothing", "`:nothing`"),
            ("a :", "`:`"),
            (": ", "`::`"),
            (":Method", "`:`"),
            (":statuscode", "`:statuscode`"),
            (":request", "`:request[date]`"),
            (":request[", "`:request[date]`"),
            (":response[]", "`:response[date]`"),
            (":response[a b]", "`:response[date]`"),
        ] {
            let error = LogFormat::parse(format).unwrap_err();
            assert!(error.message().contains(what), "{error}");
            assert!(error.message().contains(format), "{error}");
        }
    }

    #[test]
    fn own_tokens_are_known() {
        let format = LogFormat::parse_with(":user-id :ip", &["user-id", "ip"]).unwrap();
        assert_eq!(format.render(&RECORD), "- 2001:db8::1");
        assert_eq!(format.render_with(&RECORD, &[("user-id", "a\nb"), ("ip", "me")]), "a\\nb me");
    }

    #[test]
    fn dates_out_of_range_are_clamped() {
        let at = |secs| date(SystemTime::UNIX_EPOCH + Duration::from_secs(secs));
        assert_eq!(at(0), "01/Jan/1970:00:00:00 +0000");
        assert_eq!(at(951_827_696), "29/Feb/2000:12:34:56 +0000");
        assert_eq!(at(1 << 40), "31/Dec/9999:23:59:59 +0000");
        assert_eq!(date(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), at(0));
    }

    proptest! {
        #[test]
        fn no_format_panics(format in "[:a-z\\[\\]\\- é]{0,40}") {
            let _ = LogFormat::parse(&format).map(|format| format.render(&RECORD));
        }

        #[test]
        fn no_value_breaks_a_line(value in any::<String>()) {
            let format = LogFormat::parse_with("\":own\"", &["own"]).unwrap();
            let line = format.render_with(&RECORD, &[("own", &value)]);
            prop_assert!(!line.chars().any(char::is_control));
            let inner = line[1..line.len() - 1].replace("\\\\", "").replace("\\\"", "");
            prop_assert!(!inner.contains('"'));
        }
    }
}
