//! Owns the tests of requests: what a handler reads of a request that a real client sends to a running tracker.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use crate::support::web::{Answer, Site, TempDir, agent, builder, curl};
use crate::support::{HttpClient, config, get};
use gyre::config::Config;
use gyre::counters::Counter;
use gyre::error::{Code, TrackerError};
use gyre::limits::{HTTP_BODY_SKIP_BYTES, WEB_BODY_MAX_BYTES};
use gyre::time::Timestamp;
use gyre::types::Family;
use gyre::web::session::{
    MemoryStore, SessionId, SessionStore, Sessions, StoreFuture, StoredSession, Values,
};
use gyre::web::{HttpConnection, Json};
use http::{Method, StatusCode};

/// A site whose handler sends the text that `describe` returns for a request, at any path and by any method.
fn describing(
    describe: impl Fn(&HttpConnection) -> Result<String, TrackerError> + Send + Sync + 'static,
) -> Site {
    let describe = Arc::new(describe);
    let handler = async move |connection: &mut HttpConnection| {
        let text = describe(connection)?;
        connection.send(text).await
    };
    let handler = Arc::new(handler);
    let second = handler.clone();
    let site = builder()
        .any("/", async move |connection: &mut HttpConnection| handler(connection).await)
        .any("/{*path}", async move |connection: &mut HttpConnection| second(connection).await);
    Site::start(site)
}

#[test]
fn cookies_are_read_decoded_and_in_order() {
    let site = describing(|connection| {
        let cookies = connection.cookies()?;
        let all: Vec<_> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        Ok(format!("{} {:?} {}", cookies.len(), cookies.get("b"), all.join("|")))
    });
    let cookie = [("Cookie", "a=1; b=%C3%A9%20x"), ("Cookie", "b=2")];
    assert_eq!(site.get("/", &cookie).told(), (200, "3 Some(\"é x\") a=1|b=é x|b=2"));
    assert_eq!(site.get("/", &[]).told(), (200, "0 None "));
    assert_eq!(site.get("/", &[("Cookie", "a")]).status, 400);
    assert_eq!(site.get("/", &[("Cookie", &"a=1;".repeat(65))]).status, 431);
}

#[test]
fn data_of_a_handler_reaches_the_error_route() {
    struct User(u32);
    let handler = async |connection: &mut HttpConnection| {
        connection.data_mut().insert(User(6));
        connection.data_mut().get_mut::<User>().expect("a user").0 += 1;
        Err(TrackerError::new(Code::AccessDenied, "not for you"))
    };
    let refused = async |connection: &mut HttpConnection| {
        let user = connection.data().get::<User>().map(|user| user.0);
        let error = connection.data().get::<TrackerError>().map(ToString::to_string);
        connection.send(format!("{user:?} {error:?}")).await
    };
    let site = Site::start(builder().get("/", handler).error_route(Some(StatusCode::FORBIDDEN), refused));
    for _ in 0..2 {
        assert_eq!(site.get("/", &[]).told(), (403, "Some(7) Some(\"not for you\")"));
    }
}

#[test]
fn header_names_match_in_any_case() {
    let site = describing(|connection| {
        let tags: Vec<_> =
            connection.headers().get_all("x-TAG").iter().map(http::HeaderValue::as_bytes).collect();
        Ok(format!("{:?}", tags.join(&b'|').escape_ascii().to_string()))
    });
    let answer = site.get("/", &[("X-Tag", "one"), ("x-tag", "two, three")]);
    assert_eq!(answer.told(), (200, "\"one|two, three\""));
}

#[test]
fn host_hostname_and_url_are_those_of_the_request() {
    let site = describing(|connection| {
        Ok(format!("{} {} {}", connection.host(), connection.hostname(), connection.url()))
    });
    let describe = |request: &str| site.connect().request(request).text();
    for (target, host, expected) in [
        ("/a?b=1", "Example.org", "Example.org Example.org http://Example.org/a?b=1"),
        ("/a", "example.org:8080", "example.org:8080 example.org http://example.org:8080/a"),
        ("/", "[::1]", "[::1] [::1] http://[::1]/"),
        ("/", "[::1]:80", "[::1]:80 [::1] http://[::1]:80/"),
        (
            "http://in.the.target:1/x?y",
            "elsewhere",
            "in.the.target:1 in.the.target http://in.the.target:1/x?y",
        ),
    ] {
        assert_eq!(describe(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")), expected);
    }
    assert_eq!(describe("GET /a HTTP/1.0\r\n\r\n"), "  /a");
    for host in ["user@example.org", "a b", "a/b", "a?b"] {
        let response = site.connect().request(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(response.status, 400, "{host}");
    }
}

#[test]
fn only_a_trusted_proxy_sets_ip_and_protocol() {
    let start = |trusted: &[&str]| {
        let trusted_proxies = trusted.iter().map(|network| network.parse().unwrap()).collect();
        let config = Config { trusted_proxies, ..config(1) };
        let handler = async |connection: &mut HttpConnection| {
            let text = format!("{} {}", connection.ip(), connection.protocol());
            connection.send(text).await
        };
        Site::start(builder().config(config).get("/", handler))
    };
    let proxied = [("X-Forwarded-For", "203.0.113.9, 192.0.2.7"), ("X-Forwarded-Proto", "https")];
    let standard = [("Forwarded", "for=\"[2001:db8::7]:4711\";proto=https")];
    let site = start(&["127.0.0.0/8"]);
    assert_eq!(site.get("/", &[]).text(), "127.0.0.1 http");
    assert_eq!(site.get("/", &proxied).text(), "192.0.2.7 https");
    assert_eq!(site.get("/", &standard).text(), "2001:db8::7 https");
    let site = start(&["198.51.100.0/24"]);
    assert_eq!(site.get("/", &proxied).text(), "127.0.0.1 http");
    assert_eq!(site.get("/", &standard).text(), "127.0.0.1 http");
    assert_eq!(HttpClient::connect(site.tracker.http(Family::V6)).get("/").text(), "::1 http");
}

#[test]
fn langs_are_sorted_by_preference() {
    let site = describing(|connection| Ok(connection.langs().join(" ")));
    let wanted = "en;q=0.5, de-CH, fr;q=0, *;q=0.1, de;q=0.9";
    assert_eq!(site.get("/", &[("Accept-Language", wanted)]).text(), "de-CH de en *");
    assert_eq!(site.get("/", &[]).text(), "");
}

#[test]
fn method_path_and_request_are_as_they_were_sent() {
    let site = describing(|connection| {
        let request = connection.request();
        Ok(format!("{} {} {} {:?}", connection.method(), connection.path(), request.uri, request.version))
    });
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"] {
        let expected = format!("{method} /a%2Fb/%C3%A9 /a%2Fb/%C3%A9?c=d HTTP/1.1");
        assert_eq!(site.ask(method, "/a%2Fb/%C3%A9?c=d").told(), (200, &expected[..]));
    }
    let response = site.connect().request("GET /old HTTP/1.0\r\n\r\n");
    assert_eq!(response.text(), "GET /old /old HTTP/1.0");
}

#[test]
fn params_are_the_named_parts_of_the_pattern() {
    async fn show(connection: &mut HttpConnection) -> Result<(), TrackerError> {
        let params: Vec<_> =
            connection.params().iter().map(|(name, value)| format!("{name}={value}")).collect();
        let id = connection.param("id").map(str::to_owned);
        connection.send(format!("{} {id:?} {}", params.len(), params.join(" "))).await
    }
    let site = builder()
        .get("/", show)
        .get("/swarm/{id}", show)
        .get("/swarm/all", async |connection: &mut HttpConnection| connection.send("all").await)
        .get("/{kind}/{id}/peers", show)
        .get("/files/{*path}", show)
        .route(Method::PUT, "/swarm/{other}", show);
    let site = Site::start(site);
    for (path, expected) in [
        ("/", "0 None "),
        ("/swarm/7", "1 Some(\"7\") id=7"),
        ("/swarm/a%2Fb%20%C3%A9+", "1 Some(\"a/b é+\") id=a/b é+"),
        ("/swarm/all", "all"),
        ("/kind/of/peers", "2 Some(\"of\") kind=kind id=of"),
        ("/files/a/b%2520/", "1 None path=a/b%20/"),
    ] {
        assert_eq!(site.get(path, &[]).told(), (200, expected), "{path}");
    }
    assert_eq!(site.ask("PUT", "/swarm/7").told(), (200, "1 None other=7"));
    for (path, status) in [("/swarm/%zz", 400), ("/swarm/%ff", 400), ("/files/", 404), ("/swarm/7/8", 404)] {
        let response = site.connect().get(path);
        assert_eq!(response.status, status, "{path}");
    }
}

#[test]
fn query_gives_one_value_all_values_or_a_type() {
    #[derive(serde::Deserialize)]
    struct Search {
        tag: Vec<String>,
        page: u32,
    }
    let site = describing(|connection| {
        let query = connection.query()?;
        let all: Vec<_> = query.get_all("tag").collect();
        let search: Search = query.deserialize()?;
        Ok(format!("{:?} {all:?} {} {}", query.get("tag"), search.tag.len(), search.page + 1))
    });
    let answer = site.get("/?tag=a+b&page=41&tag=%26&none", &[]);
    assert_eq!(answer.told(), (200, "Some(\"a b\") [\"a b\", \"&\"] 2 42"));
    assert_eq!(site.get("/?tag=a&page=x", &[]).status, 400, "the value has another type");
    assert_eq!(site.get("/?tag=%ff&page=1", &[]).status, 400, "not UTF-8");
}

#[test]
fn counters_are_those_of_the_tracker() {
    let site = describing(|connection| {
        let connects: u64 =
            connection.counters().iter().map(|worker| worker.get(Counter::UdpConnectV4)).sum();
        Ok(format!("{} {connects}", connection.counters().len()))
    });
    assert_eq!(site.get("/", &[]).text(), "1 0");
    crate::support::UdpClient::connected(site.tracker.udp(Family::V4));
    crate::support::eventually("the connect is counted", || site.get("/", &[]).text() == "1 1");
}

/// A site that counts the visits of a client and logs it in and out.
fn sessions() -> gyre::server::Builder {
    async fn visits(connection: &mut HttpConnection) -> Result<(), TrackerError> {
        let visits = connection.session().await?.get::<u32>("visits").unwrap_or(0) + 1;
        connection.session().await?.insert("visits", visits)?;
        connection.send(visits.to_string()).await
    }
    async fn show(connection: &mut HttpConnection) -> Result<(), TrackerError> {
        let visits = connection.session().await?.get::<u32>("visits");
        connection.send(format!("{visits:?}")).await
    }
    async fn login(connection: &mut HttpConnection) -> Result<(), TrackerError> {
        connection.session().await?.renew();
        connection.send("in").await
    }
    async fn logout(connection: &mut HttpConnection) -> Result<(), TrackerError> {
        connection.session().await?.end();
        connection.send("out").await
    }
    async fn late(connection: &mut HttpConnection) -> Result<(), TrackerError> {
        connection.send("sent").await?;
        connection.session().await?.insert("visits", 100)
    }
    builder()
        .get("/visits", visits)
        .get("/show", show)
        .get("/login", login)
        .get("/logout", logout)
        .get("/late", late)
}

#[test]
fn a_session_is_kept_between_requests() {
    let store = Arc::new(MemoryStore::new());
    let site = Site::start(sessions().sessions(Sessions::new(store.clone()).unwrap().cookie_name("sid")));
    let get = |client: &ureq::Agent, path: &str| Answer::of(client.get(site.url(path)).call());
    let (one, other) = (agent(), agent());
    assert_eq!(get(&one, "/show").text(), "None");
    assert!(store.is_empty(), "reading creates no session");
    let first = get(&one, "/visits");
    assert_eq!(first.text(), "1");
    let cookie = first.field("set-cookie");
    assert!(
        cookie.starts_with("sid=") && cookie.ends_with("; HttpOnly; SameSite=Lax; Path=/; Max-Age=43200")
    );
    assert_eq!(get(&one, "/visits").text(), "2");
    assert_eq!(get(&other, "/visits").text(), "1", "another client has its own session");
    assert_eq!(store.len(), 2);

    let stolen = cookie.split(';').next().unwrap().to_owned();
    assert_eq!(site.get("/show", &[("Cookie", &stolen)]).text(), "Some(2)");
    assert_eq!(get(&one, "/login").text(), "in");
    assert_eq!(site.get("/show", &[("Cookie", &stolen)]).text(), "None", "the old id is invalid");
    assert_eq!(get(&one, "/show").text(), "Some(2)");
    let forged = stolen.replacen("sid=", "sid=x", 1);
    assert_eq!(site.get("/show", &[("Cookie", &forged)]).text(), "None");

    let out = get(&one, "/logout");
    assert!(out.field("set-cookie").contains("Max-Age=0"), "{}", out.field("set-cookie"));
    assert_eq!(get(&one, "/show").text(), "None");
    assert_eq!(store.len(), 1);
}

/// A store whose calls fail.
struct Broken;

fn broken<T: 'static>() -> StoreFuture<'static, T> {
    Box::pin(ready(Err(TrackerError::new(Code::Unavailable, "unavailable"))))
}

impl SessionStore for Broken {
    fn load(&self, _: SessionId, _: Timestamp) -> StoreFuture<'_, Option<StoredSession>> {
        broken()
    }

    fn save(&self, _: SessionId, _: Values, _: Timestamp, _: Duration) -> StoreFuture<'_, ()> {
        broken()
    }

    fn replace(&self, _: SessionId, _: Values, _: Timestamp, _: Duration) -> StoreFuture<'_, bool> {
        broken()
    }

    fn remove(&self, _: SessionId) -> StoreFuture<'_, ()> {
        broken()
    }
}

#[test]
fn a_session_that_can_not_be_stored_is_an_error() {
    let site = Site::start(sessions().sessions(Sessions::new(Arc::new(Broken)).unwrap()));
    assert_eq!(site.get("/show", &[]).told(), (200, "None"));
    assert_eq!(site.get("/visits", &[]).told(), (503, "503 Service Unavailable\n"));
    assert_eq!(site.get("/late", &[]).told(), (200, "sent"));
}

#[test]
fn a_change_after_the_response_is_stored_without_a_cookie() {
    let store = Arc::new(MemoryStore::new());
    let site = Site::start(sessions().sessions(Sessions::new(store.clone()).unwrap()));
    let client = agent();
    let get = |path: &str| Answer::of(client.get(site.url(path)).call());
    assert_eq!(get("/visits").text(), "1");
    let late = get("/late");
    assert_eq!((late.text(), late.field("set-cookie")), ("sent", ""));
    assert_eq!(get("/show").text(), "Some(100)");
    assert_eq!(site.connect().get("/late").field("Set-Cookie"), None, "a new session would need a cookie");
}

#[test]
fn sessions_are_secure_over_https_and_need_a_store() {
    let trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    let config = Config { trusted_proxies, ..config(1) };
    let kept = Sessions::new(Arc::new(MemoryStore::new())).unwrap();
    let site = Site::start(sessions().config(config).sessions(kept));
    let https = [("X-Forwarded-For", "192.0.2.7"), ("X-Forwarded-Proto", "https")];
    assert!(site.get("/visits", &https).field("set-cookie").contains("; Secure"));
    assert!(!site.get("/visits", &[]).field("set-cookie").contains("; Secure"));
    assert_eq!(Site::start(sessions()).get("/visits", &[]).told(), (500, "500 Internal Server Error\n"));
}

/// Returns the head of a POST and the start of its body.
fn post(path: &str, fields: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: tracker\r\n{fields}\r\n\r\n{body}")
}

/// A site that reads bodies in each form.
fn bodies() -> Site {
    #[derive(serde::Deserialize)]
    struct Form {
        words: String,
        #[serde(default)]
        category: Vec<u32>,
    }
    async fn form(connection: &mut HttpConnection) -> Result<(), TrackerError> {
        let Form { words, category } = connection.body().form().await?;
        connection.send(format!("{words} {category:?}")).await
    }
    async fn json(connection: &mut HttpConnection) -> Result<(), TrackerError> {
        let value: Vec<u32> = connection.body().json().await?;
        connection.send(Json(value.iter().sum::<u32>())).await
    }
    async fn multipart(connection: &mut HttpConnection) -> Result<(), TrackerError> {
        let mut text = String::new();
        let mut form = connection.body().limit(1 << 20).multipart().await?;
        while let Some(field) = form.next_field().await? {
            text += &format!("{}|{:?}|{:?}|", field.name(), field.file_name(), field.content_type());
            match field.name() {
                "skipped" => text += "skipped\n",
                _ => text += &format!("{}\n", field.limit(10_000).bytes().await?.len()),
            }
        }
        connection.send(text).await
    }
    async fn sum(connection: &mut HttpConnection) -> Result<(), TrackerError> {
        let (mut body, mut bytes, mut sum) = (connection.body().limit(8 << 20), 0, 0_u64);
        while let Some(chunk) = body.next().await? {
            assert!(!chunk.is_empty());
            bytes += chunk.len();
            sum += chunk.iter().map(|&byte| u64::from(byte)).sum::<u64>();
        }
        connection.send(format!("{bytes} {sum}")).await
    }
    let raw = async |connection: &mut HttpConnection| {
        let body = connection.body().raw().await?;
        connection.send(body.len().to_string()).await
    };
    let text = async |connection: &mut HttpConnection| {
        let text = connection.body().limit(10).text().await?;
        connection.send(format!("{text:?}")).await
    };
    let unread = async |connection: &mut HttpConnection| connection.send("unread").await;
    let site = builder().post("/form", form).post("/json", json).post("/multipart", multipart);
    Site::start(site.post("/raw", raw).post("/text", text).any("/sum", sum).post("/unread", unread))
}

#[test]
fn a_body_is_read_up_to_a_limit() {
    let site = bodies();
    let most = vec![7; WEB_BODY_MAX_BYTES as usize];
    assert_eq!(site.post("/raw", &[], &most[..]).told(), (200, "1048576"));
    let more = format!("Content-Length: {}", WEB_BODY_MAX_BYTES + 1);
    assert_eq!(site.connect().request(post("/raw", &more, "")).status, 413);
    assert_eq!(site.post("/raw", &[], "").told(), (200, "0"), "an empty body");
    assert_eq!(site.post("/sum", &[], &most[..]).told(), (200, "1048576 7340032"));
    assert_eq!(site.get("/sum", &[]).told(), (200, "0 0"), "without a body");
}

#[test]
fn a_body_is_read_as_text() {
    let site = bodies();
    assert_eq!(site.post("/text", &[], "0123456\u{e9}\n").told(), (200, "\"0123456é\\n\""));
    assert_eq!(site.post("/text", &[], "0123456789").status, 200, "the maximum length");
    assert_eq!(site.post("/text", &[], "01234567890").status, 413);
    assert_eq!(site.post("/text", &[], &b"\xff"[..]).status, 400);
    let latin = [("Content-Type", "text/plain; charset=iso-8859-1")];
    assert_eq!(site.post("/text", &latin, "a").status, 415);
}

#[test]
fn a_body_is_read_as_json() {
    let site = bodies();
    let sum = agent().post(site.url("/json")).send_json([1, 2, 39]);
    assert_eq!(sum.unwrap().body_mut().read_json::<u32>().unwrap(), 42);
    let json = [("Content-Type", "application/vnd.sum+json; charset=utf-8")];
    assert_eq!(site.post("/json", &json, "[1, 2, 40]").told(), (200, "43"));
    assert_eq!(site.post("/json", &[("Content-Type", "text/plain")], "[1]").status, 415);
    assert_eq!(site.post("/json", &json, "[1, ").status, 400);
    assert_eq!(site.post("/json", &json, "{}").status, 400);
}

#[test]
fn a_body_is_read_as_a_form() {
    let site = bodies();
    let sent = agent().post(site.url("/form")).send_form([("words", "a b&é"), ("category", "1")]);
    assert_eq!(Answer::of(sent).told(), (200, "a b&é [1]"));
    let url = site.url("/form");
    let args = [&url, "-d", "category=1", "-d", "category=2", "--data-urlencode", "words=x+y z"];
    assert_eq!(curl(&args).text(), "x+y z [1, 2]");
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    for wrong in ["category=1", "words=a&category=b", "words=%zz"] {
        assert_eq!(site.post("/form", &form, wrong).status, 400, "{wrong}");
    }
    assert_eq!(site.post("/form", &[("Content-Type", "text/plain")], "words=a").status, 415);
}

#[test]
fn a_body_is_read_as_a_multipart_form() {
    use ureq::unversioned::multipart::{Form, Part};
    let site = bodies();
    let file = Part::bytes(&[0; 5_000]).file_name("é.bin").mime_str("image/png").unwrap();
    let form = Form::new().text("title", "a b").part("file", file);
    let sent = Answer::of(agent().post(site.url("/multipart")).send(form));
    let expected = "title|None|None|3\nfile|Some(\"é.bin\")|Some(\"image/png\")|5000\n";
    assert_eq!(sent.told(), (200, expected));

    let folder = TempDir::new();
    let path = folder.file("a.txt", &[b'x'; 9_000]);
    let (url, file) = (site.url("/multipart"), format!("skipped=@{path}"));
    let sent = curl(&[&url, "-F", "title=two words", "-F", &file, "-F", "last=;type=text/x"]);
    let expected = "title|None|None|9\nskipped|Some(\"a.txt\")|Some(\"text/plain\")|skipped\n\
                last|None|Some(\"text/x\")|0\n";
    assert_eq!(sent.text(), expected);
    let long = format!("title=<{}", folder.file("long", &[b'x'; 10_001]));
    let status = ["-o", "/dev/null", "-w", "%{http_code}"];
    assert_eq!(curl(&[&[&*url, "-F", &long], &status[..]].concat()).text(), "413", "the limit of a field");
    let whole = format!("skipped=@{}", folder.file("huge", &vec![b'x'; 1 << 20]));
    let expect = ["-F", &whole, "-H", "Expect: 100-continue"];
    assert_eq!(curl(&[&[&*url], &expect[..], &status[..]].concat()).text(), "413", "the limit of the form");
    assert_eq!(site.post("/multipart", &[("Content-Type", "multipart/form-data")], "").status, 415);
}

#[test]
fn curl_uploads_in_chunks_and_with_100_continue() {
    let (site, folder) = (bodies(), TempDir::new());
    let path = folder.file("upload", &vec![3; 3_000_000]);
    let url = site.url("/sum");
    let expected = "3000000 9000000";
    assert_eq!(curl(&["-T", &path, &url]).text(), expected, "curl expects a 100 by default");
    assert_eq!(curl(&["-T", &path, "-H", "Transfer-Encoding: chunked", &url]).text(), expected);
    let args = ["-T", &path, "-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue", &url];
    assert_eq!(curl(&args).text(), expected);
    assert_eq!(curl(&["-0", "-T", &path, &url]).text(), expected, "HTTP/1.0");
}

#[test]
fn an_expected_100_is_sent_when_the_body_is_read() {
    let site = bodies();
    let mut client = site.connect();
    client.send(post("/raw", "Content-Length: 4\r\nExpect: 100-continue", ""));
    assert_eq!(client.receive_head().head, "HTTP/1.1 100 Continue");
    assert_eq!(client.request("body").text(), "4");
    client.send(post("/raw", "Content-Length: 4\r\nExpect: 100-Continue", "body"));
    assert_eq!(client.receive().text(), "4", "the body has already arrived");

    for (path, length, status) in [("/unread", 4, 200), ("/text", 11, 413), ("/none", 4, 404)] {
        let mut client = site.connect();
        let fields = format!("Content-Length: {length}\r\nExpect: 100-continue");
        let response = client.request(post(path, &fields, ""));
        assert_eq!(response.status, status, "the response comes at once");
        assert_eq!(response.field("Connection"), Some("close"), "the client may send the body or not");
        assert_eq!(client.rest(), b"");
    }
}

#[test]
fn an_http_1_0_client_gets_no_100() {
    let site = bodies();
    let mut client = site.connect();
    let head = "POST /unread HTTP/1.0\r\nContent-Length: 4\r\nConnection: keep-alive\r\n";
    let response = client.request(format!("{head}Expect: 100-continue\r\n\r\n"));
    assert_eq!(response.field("Connection"), Some("keep-alive"), "the client will send the body");
    client.send("body");
    assert_eq!(client.get("/none").status, 404);
}

#[test]
fn an_unread_body_is_skipped_or_closes_the_connection() {
    let site = bodies();
    let mut client = site.connect();
    let most = "x".repeat(HTTP_BODY_SKIP_BYTES as usize);
    let length = |body: &str| format!("Content-Length: {}", body.len());
    let response = client.request(post("/unread", &length(&most), &most));
    assert_eq!((response.text().as_str(), response.field("Connection")), ("unread", None));
    assert_eq!(client.get("/sum").text(), "0 0", "the body is not taken for a request");

    let more = format!("{most}x");
    let chunked = "Transfer-Encoding: chunked";
    for request in [post("/unread", &length(&more), &more), post("/unread", chunked, "1\r\nx\r\n0\r\n\r\n")] {
        let mut client = site.connect();
        let response = client.request(request);
        assert_eq!((response.text().as_str(), response.field("Connection")), ("unread", Some("close")));
        client.send(get("/sum"));
        assert_eq!(client.rest(), b"", "the body is not taken for a request");
    }
    let mut client = site.connect();
    let response = client.request(post("/text", &length(&most), &most));
    assert_eq!((response.status, response.field("Connection")), (413, None));
    assert_eq!(client.get("/sum").status, 200, "an error does not close the connection either");
}
