//! Owns the tests of responses: what a handler sets and sends, as real clients get it from a running tracker.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::get;
use crate::support::web::{Site, TempDir, builder, curl};
use bytes::Bytes;
use gyre::counters::Counter;
use gyre::error::{Code, TrackerError};
use gyre::web::cache::CacheControl;
use gyre::web::cookie::{Cookie, SameSite, time};
use gyre::web::links::Links;
use gyre::web::log::LogFormat;
use gyre::web::templates::Templates;
use gyre::web::{HttpConnection, Json};
use http::{Method, StatusCode};

type Done = Result<(), TrackerError>;

/// Returns the code of the error.
fn code<T>(result: Result<T, TrackerError>) -> Option<Code> {
    result.err().map(|error| error.code())
}

#[test]
fn a_payload_has_its_content_type_unless_another_is_set() {
    async fn page(connection: &mut HttpConnection) -> Done {
        match connection.param("kind").unwrap_or_default() {
            "str" => connection.send("é").await,
            "string" => connection.send(String::from("owned")).await,
            "cow" => connection.send(Cow::Borrowed("cow")).await,
            "slice" => connection.send(&b"\xff"[..]).await,
            "vec" => connection.send(vec![0, 1]).await,
            "bytes" => connection.send(Bytes::from_static(b"bytes")).await,
            "value" => connection.send(serde_json::json!({"a": [1, null]})).await,
            "json" => connection.send(Json(BTreeMap::from([("b", 2.5)]))).await,
            "nothing" => connection.send(()).await,
            "set" => {
                connection.set_content_type("image/svg+xml")?;
                connection.send("<svg/>").await
            }
            "extension" => {
                connection.set_content_type(".css")?;
                assert_eq!(connection.content_type(), Some("text/css; charset=utf-8"));
                connection.send("p {}").await
            }
            "removed" => {
                connection.set_content_type("text/css")?;
                assert!(connection.remove_content_type());
                assert_eq!(connection.content_type(), None);
                connection.send(vec![1]).await
            }
            _ => connection.set_content_type("no-such-extension"),
        }
    }
    let site = Site::start(builder().get("/{kind}", page));
    let (text, bytes, json) = ("text/plain; charset=utf-8", "application/octet-stream", "application/json");
    let cases: [(&str, &str, &[u8]); 12] = [
        ("/str", text, "é".as_bytes()),
        ("/string", text, b"owned"),
        ("/cow", text, b"cow"),
        ("/slice", bytes, b"\xff"),
        ("/vec", bytes, b"\0\x01"),
        ("/bytes", bytes, b"bytes"),
        ("/value", json, br#"{"a":[1,null]}"#),
        ("/json", json, br#"{"b":2.5}"#),
        ("/nothing", "", b""),
        ("/set", "image/svg+xml", b"<svg/>"),
        ("/extension", "text/css; charset=utf-8", b"p {}"),
        ("/removed", bytes, b"\x01"),
    ];
    for (path, media_type, body) in cases {
        let answer = site.get(path, &[]);
        assert_eq!((answer.status, answer.field("content-type"), &*answer.body), (200, media_type, body));
        assert_eq!(answer.field("content-length"), body.len().to_string(), "{path}");
        assert!(answer.field("date").ends_with(" GMT"));
    }
    assert_eq!(site.get("/unknown", &[]).status, 500);
}

#[test]
fn status_is_200_to_599_and_a_handler_may_send_nothing() {
    let site = builder().any("/{status}", async |connection: &mut HttpConnection| {
        assert_eq!(connection.status(), 200);
        let status = connection.param("status").and_then(|text| text.parse().ok()).unwrap_or_default();
        connection.set_status(status)?;
        assert_eq!(
            (connection.status(), connection.response().status.as_u16()),
            (status.try_into().unwrap(), status)
        );
        Ok(())
    });
    let site = Site::start(site);
    for (set, status) in [("200", 200), ("201", 201), ("418", 418), ("599", 599), ("199", 500), ("600", 500)]
    {
        assert_eq!(site.get(&format!("/{set}"), &[]).status, status);
    }
    let mut client = site.connect();
    client.send(get("/204"));
    let head = client.receive_head();
    assert_eq!((head.status, head.field("Content-Length"), head.field("Content-Type")), (204, None, None));
    assert_eq!(client.get("/200").field("Content-Length"), Some("0"), "the connection stays open");
}

#[test]
fn header_fields_are_set_added_read_and_removed() {
    async fn page(connection: &mut HttpConnection) -> Done {
        connection.set_header("X-Once", "first")?;
        connection.set_header("x-once", "second")?;
        connection.append_header("X-Twice", "one")?;
        connection.append_header("X-Twice", "two")?;
        connection.set_header("X-Gone", "1")?;
        assert!(connection.remove_header("x-gone") && !connection.remove_header("x-gone"));
        assert_eq!(connection.header("X-ONCE").unwrap(), "second");
        assert_eq!(connection.header("X-Gone"), None);
        assert_eq!(connection.response().headers.len(), 3);
        for (name, value) in [("a b", "c"), ("", "c"), ("a", "b\r\nc: d"), ("a", "é"), ("a", "\0")] {
            assert_eq!(code(connection.set_header(name, value)), Some(Code::IncorrectResponse), "{name}");
            assert_eq!(code(connection.append_header(name, value)), Some(Code::IncorrectResponse), "{name}");
        }
        for name in ["Connection", "Content-Length", "Date", "Transfer-Encoding"] {
            assert_eq!(code(connection.set_header(name, "1")), Some(Code::IncorrectResponse), "{name}");
        }
        connection.send("sent").await
    }
    let answer = Site::start(builder().get("/", page)).get("/", &[]);
    assert_eq!((answer.text(), answer.field("x-once"), answer.field("x-gone")), ("sent", "second", ""));
    assert_eq!(answer.fields("x-twice"), ["one", "two"]);
    assert_eq!(answer.fields("a"), [""; 0]);
}

#[test]
fn after_the_response_nothing_can_be_set_or_sent() {
    async fn page(connection: &mut HttpConnection) -> Done {
        assert!(!connection.sent());
        connection.send("first").await?;
        assert!(connection.sent());
        let late = Some(Code::ResponseAlreadySent);
        assert_eq!(code(connection.set_status(404)), late);
        assert_eq!(code(connection.set_header("a", "b")), late);
        assert_eq!(code(connection.set_cookie(("a", "b"))), late);
        assert_eq!(code(connection.set_cache(None)), late);
        assert_eq!(code(connection.set_links(&Links::default())), late);
        assert_eq!(code(connection.set_lang("de")), late);
        assert_eq!(code(connection.set_content_type("css")), late);
        assert_eq!(code(connection.error(404).await), late);
        assert_eq!(code(connection.redirect("/", false).await), late);
        assert_eq!(code(connection.drain("/dev/null").await), late);
        assert_eq!(code(connection.stream().await), late);
        assert_eq!(code(connection.events().await), late);
        connection.send("second").await
    }
    let site = Site::start(builder().get("/", page));
    let mut client = site.connect();
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!((response.status, &*response.text()), (200, "first"), "the connection stays open");
    }
}

#[test]
fn cookies_are_set_with_their_attributes() {
    async fn page(connection: &mut HttpConnection) -> Done {
        connection.set_cookie(("plain", "a;b é"))?;
        let theme = Cookie::build(("theme", "dark")).path("/t").domain("example.org").http_only(true);
        connection
            .set_cookie(theme.secure(true).same_site(SameSite::Strict).max_age(time::Duration::hours(1)))?;
        connection.set_cookie(Cookie::build(("gone", "")).max_age(time::Duration::ZERO))?;
        assert_eq!(code(connection.set_cookie(("a b", ""))), Some(Code::IncorrectResponse));
        connection.send("set").await
    }
    async fn show(connection: &mut HttpConnection) -> Done {
        let text = format!("{:?}", connection.cookies()?.get("plain"));
        connection.send(text).await
    }
    let site = Site::start(builder().get("/", page).get("/show", show));
    let theme = "theme=dark; HttpOnly; SameSite=Strict; Secure; Path=/t; Domain=example.org; Max-Age=3600";
    let expected = ["plain=a%3Bb%20%C3%A9", theme, "gone=; Max-Age=0"];
    assert_eq!(site.get("/", &[]).fields("set-cookie"), expected);

    let (folder, set, show) = (TempDir::new(), site.url("/"), site.url("/show"));
    let jar = folder.file("jar", b"");
    assert_eq!(curl(&["-c", &jar, &set]).text(), "set");
    assert_eq!(curl(&["-b", &jar, &show]).text(), "Some(\"a;b é\")", "curl sends the cookie back");
}

#[test]
fn cache_lang_and_links_are_set_and_read() {
    async fn page(connection: &mut HttpConnection) -> Done {
        assert_eq!((connection.cache(), connection.lang()), (None, None));
        assert_eq!(connection.links(), Links::default());
        let cache = CacheControl::new().public().max_age(Duration::from_secs(60));
        connection.set_cache(Some(&cache))?;
        connection.set_lang("de-CH")?;
        let mut links = Links::default();
        links.add("next", "/?page=2").add_with("preload", "/a.css", &[("as", "style")]);
        connection.set_links(&links)?;
        assert_eq!((connection.cache(), connection.lang()), (Some(cache), Some("de-CH")));
        assert_eq!(connection.links(), links);
        links.add("bad", "a b");
        assert_eq!(code(connection.set_links(&links)), Some(Code::IncorrectResponse));
        if connection.path() == "/none" {
            connection.set_cache(None)?;
        }
        connection.send("page").await
    }
    let site = Site::start(builder().get("/", page).get("/none", page));
    let answer = site.get("/", &[]);
    assert_eq!(answer.field("cache-control"), "public, max-age=60");
    assert_eq!(answer.field("content-language"), "de-CH");
    assert_eq!(answer.field("link"), "</?page=2>; rel=\"next\", </a.css>; rel=\"preload\"; as=\"style\"");
    assert_eq!(site.get("/none", &[]).fields("cache-control"), [""; 0]);
}

#[test]
fn redirects_have_a_status_and_a_location() {
    let site = builder()
        .get("/temporary", async |connection: &mut HttpConnection| {
            connection.redirect("/there?a=b", false).await
        })
        .get("/permanent", async |connection: &mut HttpConnection| connection.redirect("/there", true).await)
        .post("/form", async |connection: &mut HttpConnection| {
            connection.set_status(303)?;
            connection.redirect("/there", false).await
        })
        .get("/bad", async |connection: &mut HttpConnection| connection.redirect("/\r\na: b", false).await)
        .get("/there", async |connection: &mut HttpConnection| connection.send("there").await);
    let site = Site::start(site);
    for (answer, status, location) in [
        (site.get("/temporary", &[]), 302, "/there?a=b"),
        (site.get("/permanent", &[]), 301, "/there"),
        (site.post("/form", &[], ""), 303, "/there"),
        (site.get("/bad", &[]), 500, ""),
    ] {
        assert_eq!((answer.status, answer.field("location")), (status, location));
    }
    assert_eq!(curl(&["-L", &site.url("/temporary")]).text(), "there");
    assert_eq!(curl(&["-L", "-d", "a=b", &site.url("/form")]).text(), "there");
}

#[test]
fn templates_are_rendered_as_html() {
    let templates = Templates::new().add("hello.html", "<p>{{ name }}</p>").unwrap();
    let templates = templates.add("feed.xml", "<a>{{ name }}</a>").unwrap();
    let name = BTreeMap::from([("name", "<me>")]);
    let (again, other) = (name.clone(), name.clone());
    let site = builder()
        .templates(templates)
        .get("/", async move |connection: &mut HttpConnection| connection.render("hello.html", &name).await)
        .get("/feed", async move |connection: &mut HttpConnection| {
            connection.set_content_type("application/atom+xml")?;
            connection.render("feed.xml", &again).await
        })
        .get("/none", async move |connection: &mut HttpConnection| connection.render("none", &other).await);
    let site = Site::start(site);
    let (page, feed) = (site.get("/", &[]), site.get("/feed", &[]));
    assert_eq!((page.text(), page.field("content-type")), ("<p>&lt;me&gt;</p>", "text/html; charset=utf-8"));
    assert_eq!((feed.text(), feed.field("content-type")), ("<a>&lt;me&gt;</a>", "application/atom+xml"));
    assert_eq!(
        site.get("/none", &[]).told(),
        (500, "500 Internal Server Error\n"),
        "the client gets no details"
    );
}

#[test]
fn an_error_uses_its_route_or_the_general_one_or_a_line_of_text() {
    async fn fail(connection: &mut HttpConnection) -> Done {
        connection.set_header("X-Kept", "yes")?;
        connection.set_content_type("image/png")?;
        connection.set_cache(Some(&CacheControl::new().immutable()))?;
        match connection.param("how").unwrap_or_default() {
            "403" => Err(TrackerError::new(Code::AccessDenied, "secret reason")),
            status => connection.error(status.parse().unwrap()).await,
        }
    }
    let plain = Site::start(builder().get("/{how}", fail));
    for (path, expected) in [
        ("/403", (403, "403 Forbidden\n")),
        ("/404", (404, "404 Not Found\n")),
        ("/503", (503, "503 Service Unavailable\n")),
        ("/99", (500, "500 Internal Server Error\n")),
        ("/no/route", (404, "404 Not Found\n")),
    ] {
        let answer = plain.get(path, &[]);
        assert_eq!(answer.told(), expected);
        assert_eq!(answer.field("content-type"), "text/plain; charset=utf-8");
        assert_eq!(answer.field("cache-control"), "", "it belonged to the page that was not sent");
        assert_eq!(answer.field("x-kept"), if path == "/no/route" { "" } else { "yes" });
    }

    let not_found = async |connection: &mut HttpConnection| {
        assert_eq!(connection.status(), 404);
        connection.send(format!("nothing at {}", connection.path())).await
    };
    let any = async |connection: &mut HttpConnection| match connection.status().as_u16() {
        500 => connection.error(503).await,
        501 => Err(TrackerError::internal("the error route fails, too")),
        502 => Ok(()),
        status => connection.send(Json(status)).await,
    };
    let site = builder().get("/{how}", fail).error_route(Some(StatusCode::NOT_FOUND), not_found);
    let site = Site::start(site.error_route(None, any));
    for (path, expected) in [
        ("/404", (404, "nothing at /404")),
        ("/no/route", (404, "nothing at /no/route")),
        ("/403", (403, "403")),
        ("/500", (503, "503 Service Unavailable\n")),
        ("/501", (501, "501 Not Implemented\n")),
        ("/502", (502, "")),
    ] {
        assert_eq!(site.get(path, &[]).told(), expected, "{path}");
    }
    assert_eq!(site.ask("DELETE", "/403").told(), (405, "405"));
}

#[test]
fn head_options_and_wrong_methods_are_answered_for_each_route() {
    let page = async |connection: &mut HttpConnection| connection.send("a page").await;
    let site = builder().get("/", page).post("/", page).route(Method::DELETE, "/own", page).any("/any", page);
    let site = Site::start(site.route(Method::OPTIONS, "/own", page));
    let mut client = site.connect();
    client.send("HEAD / HTTP/1.1\r\nHost: tracker\r\n\r\n");
    let head = client.receive_head();
    assert_eq!((head.status, head.field("Content-Length")), (200, Some("6")));
    assert_eq!(client.get("/").text(), "a page", "the HEAD request got no body");
    assert!(curl(&["-I", &site.url("/")]).text().starts_with("HTTP/1.1 200 OK\r\n"));

    let (options, wrong) = (site.ask("OPTIONS", "/"), site.ask("DELETE", "/"));
    assert_eq!((options.told(), options.field("allow")), ((204, ""), "GET, HEAD, POST"));
    assert_eq!((wrong.status, wrong.field("allow")), (405, "GET, HEAD, POST"));
    assert_eq!(site.ask("OPTIONS", "/own").told(), (200, "a page"), "the program has its own route");
    assert_eq!(site.get("/own", &[]).status, 405);
    for method in ["GET", "PUT", "OPTIONS", "BREW"] {
        assert_eq!(site.ask(method, "/any").told(), (200, "a page"));
    }
    assert_eq!(site.ask("OPTIONS", "/none").status, 404);
}

#[test]
fn the_trackers_paths_can_not_be_overridden() {
    let page = async |connection: &mut HttpConnection| connection.send("mine").await;
    let site = Site::start(builder().any("/{*path}", page).get("/health", page));
    let mut client = site.connect();
    assert!(
        client
            .get(&crate::support::announce_path(crate::support::info_hash(1), 1, ""))
            .text()
            .starts_with('d')
    );
    assert!(
        client.get(&crate::support::scrape_path(&[crate::support::info_hash(1)])).text().starts_with('d')
    );
    assert_eq!(client.get("/health").text(), "mine");
    assert_eq!(client.get("/other").text(), "mine");
    site.tracker.await_count(&[Counter::HttpAnnounceV4], 1);
    assert_eq!(Site::start(builder().get("/", page)).get("/health", &[]).told(), (200, "ok\n"));
}

#[test]
fn bodies_are_compressed_as_the_client_prefers() {
    let long: &str = Box::leak("A line of text. ".repeat(4_096).into_boxed_str());
    let site = builder()
        .get("/long", async move |connection: &mut HttpConnection| {
            connection.set_header("ETag", "\"1\"")?;
            connection.send(long).await
        })
        .get("/short", async |connection: &mut HttpConnection| connection.send("short").await)
        .get("/done", async |connection: &mut HttpConnection| {
            connection.set_header("Content-Encoding", "br")?;
            connection.send("x".repeat(2_000)).await
        })
        .get("/bytes", async |connection: &mut HttpConnection| connection.send(vec![0; 2_000]).await);
    let site = Site::start(site);
    let head = |path: &str, accepted: &str| {
        let mut client = site.connect();
        client.request(format!("GET {path} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {accepted}\r\n\r\n"))
    };
    for (accepted, encoding) in [
        ("gzip", Some("gzip")),
        ("zstd", Some("zstd")),
        ("deflate, gzip, br, zstd", Some("zstd")),
        ("zstd;q=0.1, gzip;q=0.2", Some("gzip")),
        ("deflate", None),
        ("gzip;q=0", None),
        ("gzip;q=0, *;q=0", None),
        ("", None),
    ] {
        let response = head("/long", accepted);
        assert_eq!(response.field("Content-Encoding"), encoding, "{accepted}");
        assert_eq!(response.field("Vary"), Some("Accept-Encoding"));
        assert_eq!(response.body.len() < long.len() / 10, encoding.is_some());
        let tag = if encoding.is_some() { "W/\"1\"" } else { "\"1\"" };
        assert_eq!(response.field("ETag"), Some(tag));
    }
    for (path, encoding) in [("/short", None), ("/bytes", None), ("/done", Some("br"))] {
        let response = head(path, "gzip, zstd");
        assert_eq!((response.field("Content-Encoding"), response.field("Vary")), (encoding, None), "{path}");
    }
    // Both clients decode the body: ureq gzip, curl also zstd if it was built with it.
    let answer = site.get("/long", &[]);
    assert_eq!(answer.text(), long);
    assert_eq!(curl(&["--compressed", &site.url("/long")]).text(), long);
    let url = site.url("/long");
    let head = curl(&["-H", "Accept-Encoding: gzip", "-I", &url]).text().to_lowercase();
    assert!(head.contains("content-encoding: gzip") && head.contains("content-length: "), "{head}");
}

#[test]
fn a_handler_can_log_its_request() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let log = lines.clone();
    let format = ":method :url :status :length :ip :request[x-a] :response[x-b] :user :http-version :host";
    let format = LogFormat::parse_with(format, &["user"]).unwrap();
    let page = async move |connection: &mut HttpConnection| {
        let log = log.clone();
        let logger = Box::new(move |line: &str| log.lock().unwrap().push(line.to_owned()));
        connection.log(format.clone(), &[("user", "admin")], Some(logger));
        connection.set_header("X-B", "b")?;
        match connection.path() {
            "/error" => Err(TrackerError::new(Code::NotFound, "not found")),
            "/close" => {
                connection.close();
                Ok(())
            }
            _ => connection.send("page").await,
        }
    };
    let site = Site::start(builder().get("/{*path}", page));
    let ask = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: h:1\r\nX-A: a\"b\r\n\r\n");
        site.connect().try_request(request)
    };
    assert_eq!(ask("/page?c=d").unwrap().text(), "page");
    assert_eq!(ask("/error").unwrap().status, 404);
    assert_eq!(ask("/close"), None);
    crate::support::eventually("all requests are logged", || lines.lock().unwrap().len() == 3);
    let expected = [
        "GET /page?c=d 200 4 127.0.0.1 a\\\"b b admin 1.1 h:1",
        "GET /error 404 14 127.0.0.1 a\\\"b b admin 1.1 h:1",
        "GET /close - 0 127.0.0.1 a\\\"b b admin 1.1 h:1",
    ];
    assert_eq!(*lines.lock().unwrap(), expected);
}

#[test]
fn a_site_logs_each_request_in_the_programs_log() {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false);
    subscriber.init();
    let page = async |connection: &mut HttpConnection| connection.send("page").await;
    let hangs = async |connection: &mut HttpConnection| {
        connection.keep(Duration::from_millis(1));
        std::future::pending().await
    };
    let format = LogFormat::parse("logged :method :path :status").unwrap();
    let site = Site::start(builder().log(format).get("/page", page).get("/hangs", hangs));
    assert_eq!(site.get("/page", &[]).status, 200);
    assert_eq!(site.ask("POST", "/page").status, 405);
    assert_eq!(site.get("/none", &[]).status, 404);
    assert_eq!(site.connect().get("/b%zz").status, 404);
    assert_eq!(site.connect().try_request(get("/hangs")), None);
    let logged = || String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    for line in ["GET /page 200", "POST /page 405", "GET /none 404", "GET /hangs -"] {
        let line = format!(" INFO gyre::web: logged {line}\n");
        crate::support::eventually(&line, || logged().contains(&line));
    }
}

#[test]
fn close_ends_the_connection_after_the_response_or_without_one() {
    let site = builder()
        .get("/with", async |connection: &mut HttpConnection| {
            connection.close();
            connection.send("goodbye").await
        })
        .get("/without", async |connection: &mut HttpConnection| {
            connection.close();
            Ok(())
        });
    let site = Site::start(site);
    let mut client = site.connect();
    let response = client.get("/with");
    assert_eq!((response.text().as_str(), response.field("Connection")), ("goodbye", Some("close")));
    assert_eq!(client.rest(), b"");
    let mut client = site.connect();
    client.send(get("/without"));
    assert_eq!(client.rest(), b"");
    assert_eq!(curl(&[&site.url("/without")]).code, 52, "curl reports an empty reply");
}

#[test]
fn a_connection_serves_sequential_and_pipelined_requests() {
    let page = async |connection: &mut HttpConnection| {
        let body = connection.body().text().await?;
        connection.send(format!("{} {} {body}", connection.method(), connection.path())).await
    };
    let fails = async |_: &mut HttpConnection| Err(TrackerError::internal("the handler fails"));
    let site = Site::start(builder().any("/{number}", page).get("/fails/{how}", fails));
    let mut client = site.connect();
    let post = "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    let announce = get(&crate::support::announce_path(crate::support::info_hash(1), 1, ""));
    let head = "HEAD /4 HTTP/1.1\r\nHost: a\r\n\r\n";
    let last = "GET /5 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    client.send([&get("/1"), post, &announce, &get("/fails/now"), &get("/none/x"), head, last].concat());
    assert_eq!(client.receive().text(), "GET /1 ");
    assert_eq!(client.receive().text(), "POST /2 body");
    assert!(client.receive().text().starts_with('d'));
    assert_eq!(client.receive().status, 500);
    assert_eq!(client.receive().status, 404);
    assert_eq!(client.receive_head().content_length(), 8);
    let response = client.receive();
    assert_eq!((response.text().as_str(), response.field("Connection")), ("GET /5 ", Some("close")));
    assert_eq!(client.rest(), b"");

    let mut client = site.connect();
    let old = "GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    assert_eq!(client.request(old).field("Connection"), Some("keep-alive"));
    assert_eq!(client.request("GET /1 HTTP/1.0\r\n\r\n").field("Connection"), Some("close"));
    assert_eq!(client.rest(), b"");

    let (first, second) = (site.url("/1"), site.url("/2"));
    let answer = curl(&[&first, &second, "-w", "%{num_connects} "]);
    assert_eq!(answer.text(), "GET /1 1 GET /2 0 ", "curl uses one connection for both");
}
