//! Owns the tests of routes against malicious content: paths that lead out of a directory, values that would become
//! header fields, forged and planted sessions, malformed ranges and conditions.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;

use crate::support::{HttpClient, HttpResponse, Tracker, config, connect, get};
use gyre::Tracker as Gyre;
use gyre::error::{Code, TrackerError};
use gyre::limits::WEB_RANGES_MAX;
use gyre::server::Builder;
use gyre::web::cookie::Cookie;
use gyre::web::links::Links;
use gyre::web::session::{MemoryStore, Sessions};
use gyre::web::{Event, HttpConnection};

type Result<T = ()> = std::result::Result<T, TrackerError>;

fn builder() -> Builder {
    Gyre::builder().config(config(2))
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// A temporary directory: `root` is served, `secret` next to it is not. Removed when dropped.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Self {
        let outer = std::env::temp_dir().join(format!("gyre-{name}-{}", std::process::id()));
        fs::create_dir_all(outer.join("root/sub")).unwrap();
        fs::write(outer.join("secret"), "SECRET").unwrap();
        fs::write(outer.join("root/a.txt"), (0..100).map(|at| b'0' + at % 10).collect::<Vec<_>>()).unwrap();
        fs::write(outer.join("root/.hidden"), "SECRET").unwrap();
        fs::write(outer.join("root/sub/index.html"), "index").unwrap();
        for (target, link) in [
            ("../secret", "out"),
            ("/etc/passwd", "absolute"),
            ("..", "up"),
            ("../../secret", "sub/out"),
            ("/proc/self/root/etc/passwd", "magic"),
            ("loop", "loop"),
            ("a.txt", "inside"),
        ] {
            symlink(target, outer.join("root").join(link)).unwrap();
        }
        Self(outer)
    }

    fn serve(&self) -> Tracker {
        Tracker::listen(builder().directory("/files", self.0.join("root")))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn no_path_leaves_the_directory() {
    let files = Files::new("leave");
    let tracker = files.serve();
    let mut client = connect(&tracker);
    let secret = files.0.join("secret").display().to_string();
    for path in [
        "../secret",
        "%2e%2e/secret",
        "%2E./secret",
        ".%2e/secret",
        "..%2fsecret",
        "%2e%2e%2fsecret",
        "..%5csecret",
        "%252e%252e/secret",
        "%252e%252e%252fsecret",
        "..%252fsecret",
        "..;/secret",
        ".../secret",
        "./a.txt",
        "sub/../../secret",
        "sub/%2e%2e/%2e%2e/secret",
        "sub/../a.txt",
        "/etc/passwd",
        "//etc/passwd",
        "%2fetc%2fpasswd",
        "/%2fetc/passwd",
        "a.txt%00",
        "a.txt%00.png",
        "%00",
        "..%00/secret",
        "a.txt/",
        "a.txt/../a.txt",
        "out",
        "absolute",
        "up/secret",
        "up/root/a.txt",
        "sub/out",
        "magic",
        "loop",
        ".hidden",
        "%2ehidden",
        "sub/%2e",
        "a.txt%20",
        "a.txt.",
        "A.TXT",
        &secret,
        &percent(&secret),
        &"a/".repeat(2_000),
    ] {
        let response = client.get(&format!("/files/{path}"));
        assert_eq!((response.status, response.field("Connection")), (404, None), "{path}: {}", response.head);
        assert!(!response.text().contains("SECRET"), "{path}");
    }
    for path in ["%", "%2", "%zz/secret", "%c0%ae%c0%ae/secret", "%ff"] {
        assert_eq!(client.get(&format!("/files/{path}")).status, 400, "{path}");
    }
    for path in ["/files/..\\secret", "/files\\..\\secret", "http://t/files/../secret", "/files?/../secret"] {
        let response = connect(&tracker).get(path);
        assert!([400, 404].contains(&response.status), "{path}: {}", response.head);
    }
    // Files within the directory are found, also through a link.
    for path in ["a.txt", "inside", "%61.txt"] {
        assert_eq!(client.get(&format!("/files/{path}")).content_length(), 100, "{path}");
    }
    let moved = client.get("/files/sub?x=http://elsewhere");
    assert_eq!((moved.status, moved.field("Location")), (301, Some("/files/sub/?x=http://elsewhere")));
    assert_eq!(client.get("/files/sub/").text(), "index");
}

/// Requests the file of 100 bytes with these header fields.
fn ask(client: &mut HttpClient, fields: &str) -> HttpResponse {
    client.request(format!("GET /files/a.txt HTTP/1.1\r\nHost: t\r\n{fields}\r\n"))
}

#[test]
fn malformed_ranges_are_ignored_or_refused() {
    let files = Files::new("ranges");
    let tracker = files.serve();
    let mut client = connect(&tracker);
    for range in
        ["bytes=100-", "bytes=200-300", "bytes=-0", "bytes=99999999999999999999999-", "bytes=100-,-0"]
    {
        let response = ask(&mut client, &format!("Range: {range}\r\n"));
        assert_eq!((response.status, response.field("Content-Range")), (416, Some("bytes */100")), "{range}");
    }
    let many = (0..=WEB_RANGES_MAX).map(|at| format!("{0}-{0},", 2 * at)).collect::<String>();
    for range in [
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=,",
        "bytes=a-b",
        "bytes=5-4",
        "bytes=0-1-2",
        "bytes=0x1-2",
        "bytes=+1-2",
        "bytes 0-1",
        "items=0-1",
        "bytes=0-1;2-3",
        "bytes=0-1, x",
        &format!("bytes={many}"),
        &format!("bytes={}", "0-,".repeat(1_000)),
    ] {
        let response = ask(&mut client, &format!("Range: {range}\r\n"));
        assert_eq!((response.status, response.content_length()), (200, 100), "{range}");
    }
    for fields in [
        "Range: bytes=0-1\r\nRange: bytes=3-4\r\n",
        "Range: bytes=0-1\r\nIf-Range: \"other\"\r\n",
        "Range: bytes=0-1\r\nIf-Range: W/\"weak\"\r\n",
        "Range: bytes=0-1\r\nIf-Range: yesterday\r\n",
        "Range: bytes=0-1\r\nIf-Range: Thu, 01 Jan 1970 00:00:00 GMT\r\n",
    ] {
        assert_eq!(ask(&mut client, fields).status, 200, "{fields}");
    }
    // Ranges that overlap or touch are merged, so no byte is sent twice.
    for (range, sent) in [
        ("bytes=0-,0-,0-,-100", "bytes 0-99/100"),
        ("bytes=0-9,5-14,15-19", "bytes 0-19/100"),
        ("bytes=90-99999999999999999999999", "bytes 90-99/100"),
        ("bytes=-99999999999999999999999", "bytes 0-99/100"),
        ("BYTES = 0-1".replace(' ', "").as_str(), "bytes 0-1/100"),
        ("bytes=0-1,200-", "bytes 0-1/100"),
    ] {
        let response = ask(&mut client, &format!("Range: {range}\r\n"));
        assert_eq!((response.status, response.field("Content-Range")), (206, Some(sent)), "{range}");
    }
    let parts = ask(&mut client, "Range: bytes=1-1,1-1,0-0,50-,60-\r\n");
    assert_eq!((parts.status, parts.text().matches("Content-Range").count()), (206, 2), "{}", parts.text());
}

#[test]
fn malformed_conditions_are_ignored() {
    let files = Files::new("conditions");
    let tracker = files.serve();
    let mut client = connect(&tracker);
    let tag = ask(&mut client, "").field("ETag").expect("a tag").to_owned();
    for (status, fields) in [
        (200, "If-None-Match: junk"),
        (200, "If-None-Match: \"unterminated"),
        (200, "If-None-Match: ,,,"),
        (200, "If-None-Match: **"),
        (200, "If-Modified-Since: yesterday"),
        (200, "If-Modified-Since: Thu, 99 Jan 2999 99:99:99 GMT"),
        (200, "If-Unmodified-Since: -1"),
        (412, "If-Match: junk"),
        (412, "If-Match: \"unterminated"),
        (412, &format!("If-Match: W/{tag}")),
        (304, "If-None-Match: *"),
        (304, &format!("If-None-Match: junk{tag}\r\nIf-None-Match: {tag}")),
        (200, &format!("If-Match: \"a\", {tag}")),
    ] {
        client.send(format!("GET /files/a.txt HTTP/1.1\r\nHost: t\r\n{fields}\r\n\r\n"));
        let response = if status == 304 { client.receive_head() } else { client.receive() };
        assert_eq!(response.status, status, "{fields}");
    }
    client.send(
        b"GET /files/a.txt HTTP/1.1\r\nHost: t\r\nIf-None-Match: \"\xff\"\r\nIf-Modified-Since: \xff\r\n\r\n",
    );
    assert_eq!(client.receive().status, 200);
}

#[test]
fn malformed_preferences_are_ignored() {
    let text = "some text ".repeat(300);
    let body = text.clone();
    let tracker = Tracker::listen(builder().get("/", async move |connection: &mut HttpConnection| {
        let langs = connection.langs().join(" ");
        connection.set_header("x-langs", &langs)?;
        connection.send(body.clone()).await
    }));
    let mut client = connect(&tracker);
    let many = "x,".repeat(1_000) + "gzip";
    for (accepted, encoding) in [
        ("", None),
        ("gzip;q=nan", None),
        ("gzip;q=2", None),
        ("gzip;q=-1", None),
        ("gzip;q=", None),
        ("gzip;q=0", None),
        (";;;,,,=", None),
        ("gzip zstd", None),
        ("\"gzip\"", None),
        ("identity;q=0", None),
        ("br", None),
        (&many, None),
        ("*;q=1.0001", None),
        ("GZip ; Q=0.001", Some("gzip")),
        ("gzip;q=nan, zstd", Some("zstd")),
    ] {
        let response =
            client.request(format!("GET / HTTP/1.1\r\nHost: t\r\nAccept-Encoding: {accepted}\r\n\r\n"));
        assert_eq!((response.status, response.field("Content-Encoding")), (200, encoding), "{accepted}");
        assert_eq!(encoding.is_some(), response.text() != text, "{accepted}");
    }
    for (accepted, langs) in [
        ("", ""),
        (";q=1", ""),
        ("de;q=nan,en", "en"),
        ("../../etc/passwd,en", "en"),
        ("de;q=0,*", "*"),
        ("a_b,c d,\"e\"", ""),
        ("e\x7fn", "400"),
        ("x-y-z;q=0.1,de;q=0.11", "de x-y-z"),
    ] {
        let response = connect(&tracker)
            .request(format!("GET / HTTP/1.1\r\nHost: t\r\nAccept-Language: {accepted}\r\n\r\n"));
        match langs {
            "400" => assert_eq!(response.status, 400, "{accepted}"),
            langs => assert_eq!(response.field("X-Langs"), Some(langs), "{accepted}"),
        }
    }
    client.send(b"GET / HTTP/1.1\r\nHost: t\r\nAccept-Language: \xff\r\nAccept-Encoding: \xff\r\n\r\n");
    assert_eq!(client.receive().text(), text);
}

/// Sets the value of the query with the setter that the path names.
async fn set(connection: &mut HttpConnection) -> Result {
    let value = connection.query()?.get("value").unwrap_or_default().to_owned();
    let setter = connection.param("setter").unwrap_or_default().to_owned();
    let mut links = Links::default();
    let set = match setter.as_str() {
        "header-name" => connection.set_header(&value, "x"),
        "header-value" => connection.set_header("x-set", &value),
        "append-name" => connection.append_header(&value, "x"),
        "append-value" => connection.append_header("x-set", &value),
        "type" => connection.set_content_type(&value),
        "media-type" => connection.set_content_type(&format!("text/plain; {value}")),
        "lang" => connection.set_lang(&value),
        "cookie-name" => connection.set_cookie((value, "x")),
        "cookie-path" => connection.set_cookie(Cookie::build(("name", "x")).path(value)),
        "cookie-domain" => connection.set_cookie(Cookie::build(("name", "x")).domain(value)),
        "cookie-value" => connection.set_cookie(("name", value)),
        "link-target" => connection.set_links(links.add("next", value)),
        "link-relation" => connection.set_links(links.add(value, "/")),
        "link-attribute" => connection.set_links(links.add_with("next", "/", &[(&value, "x")])),
        "link-value" => connection.set_links(links.add_with("next", "/", &[("title", &value)])),
        "redirect" => connection.redirect(&value, false).await,
        "event-name" => connection.events().await?.send(&Event::new("x").name(value)).await,
        "event-id" => connection.events().await?.send(&Event::new("x").id(value)).await,
        other => panic!("{other}"),
    };
    assert!(
        set.as_ref().is_ok_and(|()| setter == "cookie-value")
            || set.clone().unwrap_err().code() == Code::IncorrectResponse,
        "{setter}"
    );
    set
}

#[test]
fn no_value_becomes_a_header_field() {
    let tracker = Tracker::listen(builder().get("/set/{setter}", set));
    let mut client = connect(&tracker);
    let bad = [
        "\r\nX-Evil: 1",
        "\nX-Evil: 1",
        "\rX-Evil: 1",
        "\r\n\r\nHTTP/1.1 200 OK\r\nX-Evil: 1",
        "\0",
        "a\r\n b",
    ];
    for setter in [
        "header-name",
        "header-value",
        "append-name",
        "append-value",
        "type",
        "media-type",
        "lang",
        "cookie-name",
        "cookie-path",
        "cookie-domain",
        "link-target",
        "link-relation",
        "link-attribute",
        "link-value",
        "redirect",
    ] {
        for value in bad {
            let response = client.get(&format!("/set/{setter}?value=x{}", percent(value)));
            assert_eq!(
                (response.status, response.text().as_str()),
                (500, "500 Internal Server Error\n"),
                "{setter}"
            );
            let names =
                response.head.lines().skip(1).map(|line| line.split(':').next().unwrap().to_lowercase());
            assert_eq!(names.collect::<Vec<_>>(), ["date", "content-type", "content-length"], "{setter}");
        }
    }
    for value in bad {
        let response = client.get(&format!("/set/cookie-value?value=x{}", percent(value)));
        let cookie = response.field("Set-Cookie").expect("a cookie");
        assert_eq!((response.status, response.field("X-Evil")), (200, None));
        assert!(cookie.starts_with("name=x") && !cookie.contains(' '), "{cookie}");
    }
    for name in [
        "Connection",
        "content-length",
        "Transfer-Encoding",
        "trailer",
        "TE",
        "upgrade",
        "",
        "a b",
        "a:b",
        "é",
    ] {
        let response = client.get(&format!("/set/header-name?value={}", percent(name)));
        assert_eq!(response.status, 500, "{name}");
    }
    // The head of a stream was already sent, so the stream is cut off.
    for setter in ["event-name", "event-id"] {
        let mut client = connect(&tracker);
        client.send(get(&format!("/set/{setter}?value=x{}", percent("\ndata: evil"))));
        assert_eq!(client.receive_head().status, 200);
        assert!(client.rest().is_empty(), "{setter}");
    }
}

/// A site with login and logout, and this key for its sessions.
fn accounts(key: [u8; 64]) -> Tracker {
    let sessions = Sessions::new(Arc::new(MemoryStore::new())).unwrap().key(&key);
    let builder = builder()
        .sessions(sessions)
        .get("/visit", async |connection: &mut HttpConnection| {
            connection.session().await?.insert("visited", true)?;
            connection.send(()).await
        })
        .get("/login/{name}", async |connection: &mut HttpConnection| {
            let name = connection.param("name").unwrap_or_default().to_owned();
            let session = connection.session().await?;
            session.renew();
            session.insert("user", name)?;
            connection.send(()).await
        })
        .get("/logout", async |connection: &mut HttpConnection| {
            connection.session().await?.end();
            connection.send(()).await
        })
        .get("/user", async |connection: &mut HttpConnection| {
            let user = connection.session().await?.get::<String>("user").unwrap_or_else(|| "no user".into());
            connection.send(user).await
        });
    Tracker::listen(builder)
}

/// Sends a request with this session cookie. Returns the text, and the cookie that is set.
fn visit(tracker: &Tracker, path: &str, cookie: &str) -> (String, Option<String>) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: t\r\nCookie: gyre_session={cookie}\r\n\r\n");
    let response = connect(tracker).request(request);
    assert!([200, 204].contains(&response.status), "{path} with {cookie}: {}", response.head);
    let set = response.field("Set-Cookie").and_then(|set| set.strip_prefix("gyre_session="));
    (response.text(), set.map(|set| set.split(';').next().unwrap().to_owned()))
}

#[test]
fn a_forged_id_gives_no_session() {
    let (tracker, other) = (accounts([1; 64]), accounts([2; 64]));
    let same_key = accounts([1; 64]);
    let cookie = visit(&tracker, "/login/alice", "").1.expect("a cookie");
    assert_eq!(visit(&tracker, "/user", &cookie), ("alice".into(), None));
    // The id without its signature, with a wrong one, or with changed bytes; signed with another key, or unknown to the
    // store.
    let id_start = cookie.len() - 40;
    let (signature, id) = cookie.split_at(id_start);
    let swapped = |at: usize| {
        let mut bytes = cookie.clone().into_bytes();
        bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
        String::from_utf8(bytes).unwrap()
    };
    let other_cookie = visit(&other, "/login/mallory", "").1.unwrap();
    let unknown = visit(&same_key, "/login/mallory", "").1.unwrap();
    let forged = [
        id.to_owned(),
        "0".repeat(40),
        format!("{signature}{}", "0".repeat(40)),
        other_cookie,
        unknown,
        format!("{signature}{}", id.to_uppercase()),
        signature.to_owned(),
        swapped(0),
        swapped(id_start),
        swapped(cookie.len() - 1),
        format!("{cookie}0"),
        format!(" {cookie}{cookie}"),
        "%00".into(),
        "x".repeat(4_000),
    ];
    for forged in forged {
        assert_eq!(visit(&tracker, "/user", &forged), ("no user".into(), None), "{forged}");
        let given = visit(&tracker, "/visit", &forged).1.expect("a new id");
        assert!(
            !given.contains(&forged) && !forged.contains(&given[given.len() - 40..]),
            "{forged} was accepted"
        );
        assert_eq!(visit(&tracker, "/user", &forged).0, "no user");
    }
    assert_eq!(visit(&tracker, "/user", &cookie).0, "alice");
}

#[test]
fn a_planted_session_id_is_invalid_after_login() {
    let tracker = accounts([1; 64]);
    let planted = visit(&tracker, "/visit", "").1.expect("a cookie");
    assert_eq!(visit(&tracker, "/visit", &planted).1.as_ref(), Some(&planted), "the session continues");
    let cookie = visit(&tracker, "/login/alice", &planted).1.expect("a new cookie");
    assert_ne!(cookie, planted);
    assert_eq!(visit(&tracker, "/user", &planted).0, "no user");
    assert_eq!(visit(&tracker, "/user", &cookie).0, "alice");
    let again = visit(&tracker, "/login/alice", &cookie).1.expect("another cookie");
    assert_eq!(
        (visit(&tracker, "/user", &cookie).0, visit(&tracker, "/user", &again).0),
        ("no user".into(), "alice".into())
    );
    assert_eq!(visit(&tracker, "/logout", &again).1.as_deref(), Some(""), "the cookie is removed");
    assert_eq!(visit(&tracker, "/user", &again).0, "no user", "the session stays ended");
}
