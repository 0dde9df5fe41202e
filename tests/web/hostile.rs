//! Owns the tests of routes against bad input on the wire: heads, bodies, framing, types, parameters. Each checks
//! whether the connection is closed or stays usable. `clients.rs` tests bad clients, `intrusion.rs` malicious content.

use crate::support::site::{Ends, FIELD_LIMIT, LIMIT, Stays, check, check_unharmed, post, site, typed, with};
use crate::support::{Tracker, connect, get};
use gyre::limits::{
    HTTP_BODY_SKIP_BYTES, HTTP_HEAD_MAX_BYTES, HTTP_HEADERS_MAX, WEB_CHUNK_LINE_BYTES, WEB_COOKIES_MAX,
    WEB_FIELD_HEAD_BYTES, WEB_FORM_FIELDS, WEB_QUERY_PAIRS_MAX, WEB_TRAILERS_BYTES,
};

#[test]
fn malformed_heads_end_the_connection() {
    let tracker = Tracker::listen(site());
    for head in [
        "GET /any\r\n\r\n",
        "GET  /any HTTP/1.1\r\nHost: t\r\n\r\n",
        "GET /any http/1.1\r\nHost: t\r\n\r\n",
        "GET /any HTTP/1.2\r\nHost: t\r\n\r\n",
        "GET /any HTTP/3.0\r\nHost: t\r\n\r\n",
        "GET any HTTP/1.1\r\nHost: t\r\n\r\n",
        "GET https://t/any HTTP/1.1\r\nHost: t\r\n\r\n",
        "G{T /any HTTP/1.1\r\nHost: t\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n",
        "CONNECT t:80 HTTP/1.1\r\nHost: t\r\n\r\n",
        "GET /any\0 HTTP/1.1\r\nHost: t\r\n\r\n",
        "GET /any\x01 HTTP/1.1\r\nHost: t\r\n\r\n",
        "GET /any HTTP/1.1\r\n Host: t\r\n\r\n",
        "GET /any HTTP/1.1\r\n\r\n",
        "GET /any HTTP/1.1\r\nHost: t\r\nHost: t\r\n\r\n",
        "GET /any HTTP/1.1\r\nHost: t/any\r\n\r\n",
        "GET /any HTTP/1.1\r\nHost: a@t\r\n\r\n",
        "GET /any HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET /any HTTP/1.1\r\nHost: t:port\r\n\r\n",
        "GET http://a@t/any HTTP/1.1\r\nHost: t\r\n\r\n",
        "GET http://t:port/any HTTP/1.1\r\nHost: t\r\n\r\n",
    ] {
        check(&tracker, head, 400, Ends);
    }
    for field in [
        "X : y",
        "X: a\r\n b",
        "X: a\r\n\tb",
        "X: a\rb",
        "X: a\0b",
        "X: \x7f",
        ": x",
        "X(: y",
        "\x01: y",
        "X",
    ] {
        check(&tracker, with(&format!("{field}\r\n")), 400, Ends);
    }
    check(&tracker, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, Ends);
    // RFC 9112, section 2.2: bare line feeds, and empty lines before a request, are accepted.
    check(&tracker, "\r\n\n".to_owned() + &with("").replace("\r\n", "\n"), 200, Stays);
    check(&tracker, "GET /any HTTP/1.0\r\n\r\n", 200, Ends);
    check_unharmed(&tracker);
}

#[test]
fn the_size_of_a_head_is_limited() {
    let tracker = Tracker::listen(site());
    let fields = |count: usize| (0..count).map(|at| format!("X-{at}: y\r\n")).collect::<String>();
    let long = |bytes: usize| format!("X: {}\r\n", "y".repeat(bytes));
    check(&tracker, with(&fields(HTTP_HEADERS_MAX - 1)), 200, Stays);
    check(&tracker, with(&fields(HTTP_HEADERS_MAX)), 431, Ends);
    check(&tracker, with(&long(HTTP_HEAD_MAX_BYTES - 100)), 200, Stays);
    check(&tracker, with(&long(HTTP_HEAD_MAX_BYTES)), 431, Ends);
    check(&tracker, format!("GET /{}", "a".repeat(5 * HTTP_HEAD_MAX_BYTES)), 431, Ends);
    check_unharmed(&tracker);
}

/// RFC 9112, sections 6.1 and 6.3: ambiguous framing is refused, and the bytes after it are not read.
#[test]
fn a_body_has_one_length() {
    let tracker = Tracker::listen(site());
    let post = |fields: &str, body: &str| format!("POST /raw HTTP/1.1\r\nHost: t\r\n{fields}\r\n{body}");
    for length in ["x", "-1", "+1", "0x1", "1,1", "1 1", "", "1e0", "1.0", "18446744073709551616"] {
        check(&tracker, post(&format!("Content-Length: {length}\r\n"), "a"), 400, Ends);
    }
    let (chunked, body) = ("Transfer-Encoding: chunked\r\n", "1\r\na\r\n0\r\n\r\n");
    for fields in [
        "Content-Length: 1\r\nContent-Length: 2\r\n".to_owned(),
        format!("Content-Length: 11\r\n{chunked}"),
        format!("{chunked}Content-Length: 11\r\n"),
        format!("{chunked}{chunked}"),
        "Transfer-Encoding : chunked\r\n".to_owned(),
        "Transfer-Encoding:\r\n chunked\r\n".to_owned(),
        "Transfer-Encoding: chunked\0\r\n".to_owned(),
    ] {
        check(&tracker, post(&fields, body), 400, Ends);
    }
    check(&tracker, post(chunked, body).replace("/1.1", "/1.0"), 400, Ends);
    for coding in
        ["gzip", "gzip, chunked", "chunked, gzip", "chunked, chunked", "xchunked", "\"chunked\"", ""]
    {
        check(&tracker, post(&format!("Transfer-Encoding: {coding}\r\n"), body), 501, Ends);
    }
    check(&tracker, post("Content-Length: 1\r\nContent-Length: 1\r\n", "a"), 200, Stays);
    check(&tracker, post("Transfer-Encoding: \tChunked \r\n", body), 200, Stays);
    check_unharmed(&tracker);
}

#[test]
fn malformed_chunks_end_the_connection() {
    let tracker = Tracker::listen(site());
    let chunked = |body: &[u8]| {
        let head = b"POST /raw HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";
        [head.as_slice(), body].concat()
    };
    let end = "\r\n0\r\n\r\n";
    let long = "x".repeat(WEB_CHUNK_LINE_BYTES.into());
    let trailers = "X: y\r\n".repeat(usize::from(WEB_TRAILERS_BYTES) / 5 + 1);
    for body in [
        "x\r\n",
        "-1\r\na",
        "0x1\r\na",
        "\r\n",
        " 1\r\na",
        "1 a\r\na",
        "1 \r\na",
        "1\na\n0\n\n",
        "1\r\nab\r\n",
        "2\r\na\r\n",
        "1\ra",
        "1;\0\r\na",
        "1;a\nb\r\na",
        "00000000000000001\r\na",
        "10000000000000000\r\na",
    ] {
        check(&tracker, chunked(format!("{body}{end}").as_bytes()), 400, Ends);
    }
    for body in [
        format!("1;{long}\r\na{end}"),
        format!("1;{}\r\na\r\n", "x".repeat(200)).repeat(100) + end,
        format!("0\r\n{trailers}\r\n"),
        "0\r\nX y\r\n\r\n".to_owned(),
        "0\r\n: y\r\n\r\n".to_owned(),
        "0\r\nX: y\n\n".to_owned(),
    ] {
        check(&tracker, chunked(body.as_bytes()), 400, Ends);
    }
    let mut client = connect(&tracker);
    for body in ["1;a=\"b;c\"\r\na\r\n0;x\r\n\r\n", "01\r\na\r\n000\r\nContent-Length: 99\r\nHost: u\r\n\r\n"]
    {
        assert_eq!(client.request(chunked(body.as_bytes())).text(), "a", "{body}");
    }
    check_unharmed(&tracker);
}

#[test]
fn bodies_have_a_limit() {
    let tracker = Tracker::listen(site());
    let body = |bytes: u64| "a".repeat(bytes as usize);
    let announced = |bytes: u64| format!("POST /raw HTTP/1.1\r\nHost: t\r\nContent-Length: {bytes}\r\n\r\n");
    check(&tracker, post("/raw", "", body(LIMIT)), 200, Stays);
    check(&tracker, post("/raw", "", body(LIMIT + 1)), 413, Stays);
    check(&tracker, post("/raw", "", body(HTTP_BODY_SKIP_BYTES)), 413, Stays);
    check(&tracker, post("/raw", "", body(HTTP_BODY_SKIP_BYTES + 1)), 413, Ends);
    check(&tracker, announced(u64::MAX), 413, Ends);
    check(&tracker, announced(u64::MAX).replace("/raw", "/any"), 200, Ends);
    let chunks = |data: &str| {
        let head = "POST /raw HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunk = format!("{:x}\r\n{data}\r\n", data.len());
        head.to_owned() + &chunk + &chunk + "0\r\n\r\n"
    };
    check(&tracker, chunks(&body(LIMIT / 2)), 200, Stays);
    check(&tracker, chunks(&body(LIMIT / 2 + 1)), 413, Ends);
    check(&tracker, chunks("a").replace("/raw", "/any"), 200, Ends);
    check(&tracker, chunks("a").replace("/raw", "/nothing"), 404, Ends);
    check_unharmed(&tracker);
}

#[test]
fn content_must_match_its_type() {
    let tracker = Tracker::listen(site());
    let (json, urlencoded) = ("application/json", "application/x-www-form-urlencoded");
    for media_type in ["text/plain", "json", "", "/", "application/json; charset=latin1", urlencoded] {
        check(&tracker, typed("/json", media_type, "{}"), 415, Stays);
    }
    let binary =
        [b"POST /json HTTP/1.1\r\nHost: t\r\nContent-Type: \xff\r\nContent-Length: 2\r\n\r\n{}".as_slice()];
    check(&tracker, binary.concat(), 415, Stays);
    check(&tracker, post("/json", "", "{}"), 415, Stays);
    check(&tracker, typed("/form", json, "a=b"), 415, Stays);
    check(&tracker, typed("/json", json, "{}"), 200, Stays);
    let deep = "[".repeat(100_000);
    for body in ["", "{", "nul", "{}{}", "{\"a\":1,}", "\"\\ud800\"", "1e999999", &deep] {
        check(&tracker, typed("/json", json, body), 400, Stays);
    }
    check(&tracker, typed("/json", json, b"\"\xff\""), 400, Stays);
    let many = "a&".repeat(WEB_FORM_FIELDS);
    for body in ["a=%", "a=%4", "a=%zz", "a=%ff", "%=a", "a=%c3", &many] {
        check(&tracker, typed("/form", urlencoded, body), 400, Stays);
    }
    check(&tracker, typed("/form", urlencoded, b"a=\xff"), 400, Stays);
    check(&tracker, typed("/form", urlencoded, "a=%00&&=&a"), 200, Stays);
    check_unharmed(&tracker);
}

#[test]
fn multipart_forms_are_limited() {
    let tracker = Tracker::listen(site());
    let part = |head: &str, body: &str| format!("--b\r\n{head}\r\n\r\n{body}\r\n");
    let named = |body: &str| part("Content-Disposition: form-data; name=\"a\"", body);
    let multipart = "multipart/form-data; boundary=b";
    for media_type in [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/mixed; boundary=b",
        "text/plain; boundary=b",
        &format!("multipart/form-data; boundary={}", "b".repeat(71)),
    ] {
        check(&tracker, typed("/multipart", media_type, named("x") + "--b--\r\n"), 415, Stays);
    }
    for (status, body) in [
        (200, named("x") + "--b--\r\n"),
        (200, named(&"x".repeat(FIELD_LIMIT as usize)) + "--b--"),
        (413, named(&"x".repeat(FIELD_LIMIT as usize + 1)) + "--b--"),
        (200, named("").repeat(WEB_FORM_FIELDS) + "--b--"),
        (400, named("").repeat(WEB_FORM_FIELDS + 1) + "--b--"),
        (400, named("x")),
        (400, String::new()),
        (400, "junk".repeat(100)),
        (400, "--c\r\n\r\n--c--".to_owned()),
        (400, "--b".to_owned()),
        (400, "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n".to_owned()),
        (400, part("Content-Disposition: form-data", "x") + "--b--"),
        (400, part("X: y", "x") + "--b--"),
        (400, part(&format!("X: {}", "y".repeat(2 * WEB_FIELD_HEAD_BYTES)), "x") + "--b--"),
        (400, part("no field at all", "x") + "--b--"),
    ] {
        check(&tracker, typed("/multipart", multipart, &body), status, Stays);
    }
    // A part without end is refused at the form's limit.
    let mut client = connect(&tracker);
    client.send(typed("/multipart", multipart, "").strip_suffix(b"Content-Length: 0\r\n\r\n").unwrap());
    client.send("Transfer-Encoding: chunked\r\n\r\n");
    let endless = format!("--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n{}", "x".repeat(1_000));
    client.send(format!("{:x}\r\n{endless}\r\n", endless.len()));
    assert_eq!(client.receive().status, 413);
    assert!(client.rest().is_empty());
    check_unharmed(&tracker);
}

#[test]
fn malformed_parameters_leave_the_connection_usable() {
    let tracker = Tracker::listen(site());
    let pairs = |count: usize| (0..count).map(|_| "a&").collect::<String>();
    for (path, status) in [
        ("/query?a=%", 400),
        ("/query?a=%2", 400),
        ("/query?%zz", 400),
        ("/query?a=%ff", 400),
        ("/query?a=%c3%28", 400),
        ("/query?&&&=&==", 200),
        ("/query?a=%00%0d%0a", 200),
        (&format!("/query?{}", pairs(WEB_QUERY_PAIRS_MAX)), 200),
        (&format!("/query?{}", pairs(WEB_QUERY_PAIRS_MAX + 1)), 400),
        ("/name/%", 400),
        ("/name/%f", 400),
        ("/name/%ff", 400),
        ("/name/%c0%ae", 400),
        ("/name/%00", 200),
        ("/name/a%2fb", 200),
        ("/name/a/b", 404),
        ("/name/", 404),
        ("//any", 404),
        ("/any/", 404),
        ("/any%", 404),
        ("/%61ny", 404),
        ("/./any", 404),
    ] {
        check(&tracker, get(path), status, Stays);
    }
    check(&tracker, get("/query").replace("GET", "POST"), 405, Stays);
    check(&tracker, get("/query").replace("GET", "get"), 405, Stays);
    check_unharmed(&tracker);
}

#[test]
fn malformed_cookies_are_refused() {
    let tracker = Tracker::listen(site());
    let request =
        |cookie: &[u8]| [b"GET /cookies HTTP/1.1\r\nHost: t\r\nCookie: ", cookie, b"\r\n\r\n"].concat();
    let cookies = |count: usize| "a=b; ".repeat(count).into_bytes();
    for cookie in
        [b"=x".as_slice(), b"name", b"a=\xff", b"a=%ff", b"a=\tb", b"\xff=a", b"a=b; =", b"a=\xc2\x85"]
    {
        check(&tracker, request(cookie), 400, Stays);
    }
    for cookie in [b"".as_slice(), b";;; ;", b"a=", b"a=%", b"a=b=c", b"a=\"", &cookies(WEB_COOKIES_MAX)] {
        check(&tracker, request(cookie), 200, Stays);
    }
    check(&tracker, request(&cookies(WEB_COOKIES_MAX + 1)), 431, Stays);
    check(&tracker, request(&[b"a=", "b".repeat(HTTP_HEAD_MAX_BYTES).as_bytes()].concat()), 431, Ends);
    check_unharmed(&tracker);
}
