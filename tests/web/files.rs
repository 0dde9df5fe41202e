//! Owns the tests of files as responses: whole files, ranges, conditions, compression, directories; and of sites that
//! can't start.

use std::fs;
use std::path::Path;

use crate::support::HttpResponse;
use crate::support::web::{Site, TempDir, builder, curl};
use gyre::error::{ServerError, TrackerError};
use gyre::web::HttpConnection;
use gyre::web::cache::CacheControl;

const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz";
const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// A long text.
fn long() -> String {
    "A line of a file.\n".repeat(10_000)
}

/// A site with files: `/file/...` sends one, `/typed` sends one with a set type, `/files/...` is a directory.
struct Files {
    folder: TempDir,
    site: Site,
}

impl Files {
    #[track_caller]
    fn serve() -> Self {
        let folder = TempDir::new();
        let letters = folder.file("letters.txt", LETTERS.as_bytes());
        let time = httpdate::parse_http_date(MODIFIED).unwrap();
        fs::File::open(&letters).unwrap().set_modified(time).unwrap();
        folder.file("long.html", long().as_bytes());
        folder.file("empty.css", b"");
        folder.file("large.bin", &(0..5_000_000_u32).map(|number| (number % 251) as u8).collect::<Vec<_>>());
        folder.file(".hidden", b"secret");
        for (name, text) in [("a b", "é"), ("ü", "index of ü")] {
            fs::create_dir(folder.path().join(name)).unwrap();
            folder.file(&format!("{name}/index.html"), text.as_bytes());
        }
        let root = folder.path().to_owned();
        let file = async move |connection: &mut HttpConnection| {
            let path = root.join(connection.param("name").unwrap_or_default());
            connection.drain(path).await
        };
        let typed = async move |connection: &mut HttpConnection| {
            connection.set_content_type("application/x-letters")?;
            connection.set_cache(Some(&CacheControl::new().no_cache()))?;
            connection.drain(&letters).await
        };
        let site =
            builder().any("/file/{name}", file).get("/typed", typed).directory("/files/", folder.path());
        Self { site: Site::start(site), folder }
    }

    /// Sends a request with these fields on a new connection. Returns the response without decoding its body.
    #[track_caller]
    fn ask(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> HttpResponse {
        let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let mut client = self.site.connect();
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        let mut response = client.receive_head();
        client.send("GET /none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        response.body = client.rest();
        let next =
            response.body.windows(12).position(|bytes| bytes == b"HTTP/1.1 404").expect("the next one");
        response.body.truncate(next);
        response
    }

    #[track_caller]
    fn get(&self, path: &str, fields: &[(&str, &str)]) -> HttpResponse {
        self.ask("GET", path, fields)
    }
}

#[test]
fn a_file_is_sent_with_its_type_and_validators() {
    let files = Files::serve();
    for path in ["/file/letters.txt", "/files/letters.txt"] {
        let response = files.get(path, &[]);
        assert_eq!((response.status, &*response.text()), (200, LETTERS));
        assert_eq!(response.field("Content-Type"), Some("text/plain; charset=utf-8"));
        assert_eq!(response.field("Content-Length"), Some("26"));
        assert_eq!(response.field("Last-Modified"), Some(MODIFIED));
        assert_eq!(response.field("Accept-Ranges"), Some("bytes"));
        let tag = response.field("ETag").unwrap();
        assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    }
    let typed = files.get("/typed", &[]);
    assert_eq!((&*typed.text(), typed.field("Content-Type")), (LETTERS, Some("application/x-letters")));
    assert_eq!(typed.field("Cache-Control"), Some("no-cache"));
    let empty = files.get("/file/empty.css", &[]);
    assert_eq!((empty.status, empty.field("Content-Length"), &*empty.body), (200, Some("0"), &b""[..]));
    assert_eq!(empty.field("Content-Type"), Some("text/css; charset=utf-8"));
    let large = files.site.get("/file/large.bin", &[]);
    assert!(large.body == fs::read(files.folder.path().join("large.bin")).unwrap());
    for missing in ["/file/none", "/file/a%20b", "/file/none%2Fnone"] {
        assert_eq!(files.site.get(missing, &[]).told(), (404, "404 Not Found\n"), "{missing}");
    }
}

#[test]
fn ranges_of_a_file_are_sent() {
    let files = Files::serve();
    let tag = files.get("/file/letters.txt", &[]).field("ETag").unwrap().to_owned();
    for (range, content_range, body) in [
        ("bytes=0-4", "bytes 0-4/26", "abcde"),
        ("bytes=23-", "bytes 23-25/26", "xyz"),
        ("bytes=-2", "bytes 24-25/26", "yz"),
        ("bytes=20-99", "bytes 20-25/26", "uvwxyz"),
        ("bytes=-99", "bytes 0-25/26", LETTERS),
    ] {
        for fields in [&[("Range", range)][..], &[("Range", range), ("If-Range", &tag)]] {
            let part = files.get("/file/letters.txt", fields);
            assert_eq!((part.status, part.field("Content-Range")), (206, Some(content_range)));
            assert_eq!((&*part.text(), part.content_length()), (body, body.len()));
            assert_eq!(part.field("Content-Type"), Some("text/plain; charset=utf-8"));
            assert_eq!(part.field("ETag"), Some(&*tag));
        }
        let stale = [("Range", range), ("If-Range", "\"another\"")];
        assert_eq!(files.get("/file/letters.txt", &stale).text(), LETTERS);
    }
    for ignored in ["bytes=4-2", "bytes=x", "letters=0-1", "bytes=0-1,4-2"] {
        let whole = files.get("/file/letters.txt", &[("Range", ignored)]);
        assert_eq!((whole.status, &*whole.text()), (200, LETTERS), "{ignored}");
    }
    let beyond = files.get("/file/letters.txt", &[("Range", "bytes=26-")]);
    assert_eq!((beyond.status, beyond.field("Content-Range")), (416, Some("bytes */26")));
    assert_eq!(beyond.text(), "416 Range Not Satisfiable\n");
    assert_eq!(files.ask("POST", "/file/letters.txt", &[("Range", "bytes=0-4")]).text(), LETTERS);

    let parts = files.get("/file/letters.txt", &[("Range", "bytes=0-1, -1")]);
    let media_type = parts.field("Content-Type").unwrap();
    let boundary = media_type.strip_prefix("multipart/byteranges; boundary=").expect("a boundary");
    let head = format!("\r\n--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Range: bytes");
    let body = format!("{head} 0-1/26\r\n\r\nab{head} 25-25/26\r\n\r\nz\r\n--{boundary}--\r\n");
    assert_eq!((parts.status, parts.text(), parts.content_length()), (206, body.clone(), body.len()));
}

#[test]
fn conditions_give_304_or_412() {
    let files = Files::serve();
    let tag = files.get("/file/letters.txt", &[]).field("ETag").unwrap().to_owned();
    let (before, after) = ("Sun, 06 Nov 1994 08:49:36 GMT", "Sun, 06 Nov 1994 08:49:38 GMT");
    for (field, value, status) in [
        ("If-None-Match", &*tag, 304),
        ("If-None-Match", &format!("\"x\", W/{tag}"), 304),
        ("If-None-Match", "\"x\"", 200),
        ("If-Modified-Since", MODIFIED, 304),
        ("If-Modified-Since", before, 200),
        ("If-Match", &tag, 200),
        ("If-Match", "\"x\"", 412),
        ("If-Unmodified-Since", after, 200),
        ("If-Unmodified-Since", before, 412),
    ] {
        for method in ["GET", "HEAD"] {
            let response = files.ask(method, "/file/letters.txt", &[(field, value)]);
            assert_eq!(response.status, status, "{method} {field}: {value}");
            if status == 304 {
                assert_eq!(response.field("ETag"), Some(&*tag));
                assert_eq!(response.field("Last-Modified"), Some(MODIFIED));
                assert_eq!(response.body, b"");
                assert!(!response.head.to_lowercase().contains("\r\ncontent-"), "{}", response.head);
            }
        }
    }
    assert_eq!(files.ask("PUT", "/file/letters.txt", &[("If-None-Match", "*")]).status, 412);
    let both = [("If-None-Match", &*tag), ("Range", "bytes=0-1")];
    assert_eq!(files.get("/file/letters.txt", &both).status, 304, "the condition overrides the range");
    assert_eq!(files.get("/typed", &[("If-None-Match", &tag)]).field("Cache-Control"), Some("no-cache"));
}

#[test]
fn conditions_do_not_apply_to_the_file_of_an_error() {
    let folder = TempDir::new();
    let page = folder.file("404.html", b"nothing here");
    let not_found = async move |connection: &mut HttpConnection| connection.drain(&page).await;
    let site = Site::start(builder().get("/", not_found.clone()).error_route(None, not_found));
    let tag = site.get("/", &[]).field("etag").to_owned();
    for condition in [("If-None-Match", &*tag), ("If-Match", "\"other\""), ("If-Modified-Since", MODIFIED)] {
        assert_eq!(site.get("/none", &[condition]).told(), (404, "nothing here"), "{condition:?}");
    }
    assert_eq!(site.get("/", &[("If-None-Match", &tag)]).status, 304);
}

#[test]
fn a_compressed_file_has_a_weak_tag() {
    let (files, gzip) = (Files::serve(), ("Accept-Encoding", "gzip"));
    let plain = files.get("/file/long.html", &[]);
    let packed = files.get("/file/long.html", &[gzip]);
    assert_eq!((plain.text(), plain.field("Content-Encoding")), (long(), None));
    assert_eq!((packed.status, packed.field("Content-Encoding")), (200, Some("gzip")));
    assert_eq!(files.site.get("/file/long.html", &[]).text(), long(), "ureq decodes it");
    let (tag, weak) = (plain.field("ETag").unwrap(), packed.field("ETag").unwrap());
    assert_eq!(weak, format!("W/{tag}"));
    assert_eq!(packed.field("Accept-Ranges"), None);
    let again = files.get("/file/long.html", &[gzip, ("If-None-Match", weak)]);
    assert_eq!((again.status, again.field("ETag"), again.field("Content-Encoding")), (304, Some(weak), None));
    let part = files.get("/file/long.html", &[gzip, ("Range", "bytes=2-5")]);
    assert_eq!(
        (&*part.text(), part.field("Content-Encoding"), part.field("ETag")),
        ("line", None, Some(tag))
    );
    let resumed = files.get("/file/long.html", &[("Range", "bytes=2-5"), ("If-Range", weak)]);
    assert_eq!(resumed.status, 200, "a weak tag does not match If-Range");
    for response in [&plain, &packed, &again, &part] {
        assert_eq!(response.field("Vary"), Some("Accept-Encoding"), "{}", response.head);
    }
}

#[test]
fn a_head_request_gets_no_bytes_of_the_file() {
    let files = Files::serve();
    let head = files.ask("HEAD", "/file/letters.txt", &[("Range", "bytes=0-1")]);
    assert_eq!((head.status, head.content_length(), &*head.body), (200, 26, &b""[..]));
    let packed = files.ask("HEAD", "/files/long.html", &[("Accept-Encoding", "zstd")]);
    assert_eq!(
        (packed.status, packed.field("Content-Encoding"), &*packed.body),
        (200, Some("zstd"), &b""[..])
    );
    assert_eq!(packed.field("Transfer-Encoding"), Some("chunked"));
    assert_eq!(files.ask("HEAD", "/file/none", &[]).status, 404);
}

#[test]
fn curl_downloads_resumes_and_revalidates_files() {
    let files = Files::serve();
    let (url, large) = (files.site.url("/files/letters.txt"), files.site.url("/files/large.bin"));
    assert_eq!(curl(&["-r", "2-4", &url]).text(), "cde");
    let head = curl(&["-I", &url]);
    assert!(head.text().contains("Content-Length: 26\r\n") && head.text().ends_with("\r\n\r\n"));
    assert_eq!(curl(&["-z", MODIFIED, "-w", "%{http_code}", &url]).text(), "304");
    assert_eq!(curl(&["--compressed", &files.site.url("/files/long.html")]).text(), long());
    let whole = fs::read(files.folder.path().join("large.bin")).unwrap();
    let begun = files.folder.file("begun", &whole[..3_000_000]);
    assert_eq!(curl(&["-C", "-", "-o", &begun, &large]).code, 0);
    assert!(fs::read(&begun).unwrap() == whole, "the download was resumed");
    assert!(curl(&["-0", &large]).out == whole, "HTTP/1.0");
}

#[test]
fn a_directory_serves_its_files_and_no_others() {
    let files = Files::serve();
    for (path, body) in
        [("/files/a%20b/", "é"), ("/files/a%20b/index.html", "é"), ("/files/%C3%BC/", "index of ü")]
    {
        let page = files.site.get(path, &[]);
        assert_eq!((page.told(), page.field("content-type")), ((200, body), "text/html; charset=utf-8"));
    }
    for (path, location) in [
        ("/files/a%20b?c=d", "/files/a%20b/?c=d"),
        ("/files/%C3%BC", "/files/%C3%BC/"),
        ("/files/ü?ü", "/files/%C3%BC/?%C3%BC"),
    ] {
        let response = files.get(path, &[]);
        assert_eq!((response.status, response.field("Location")), (301, Some(location)), "{path}");
    }
    let name = files.folder.path().file_name().unwrap().to_str().unwrap();
    for path in [
        "/files/",
        "/files/.hidden",
        "/files/none",
        "/files/letters.txt/",
        &format!("/files/../{name}/letters.txt"),
        "/files/%2e%2e/etc/passwd",
        "/files/a%20b/..%2fletters.txt",
        "/files//etc/passwd",
    ] {
        assert_eq!(files.get(path, &[]).status, 404, "{path}");
    }
    assert_eq!(files.get("/files/%zz", &[]).status, 400);
    let posted = files.ask("POST", "/files/letters.txt", &[]);
    assert_eq!((posted.status, posted.field("Allow")), (405, Some("GET, HEAD")));
}

#[test]
fn the_program_may_send_any_file() {
    let folder = TempDir::new();
    let hidden = folder.file(".hidden", b"the program's choice");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&hidden, &link).unwrap();
    let site = Site::start(
        builder()
            .get("/", async move |connection: &mut HttpConnection| connection.drain(Path::new(&link)).await),
    );
    assert_eq!(site.get("/", &[]).text(), "the program's choice");
}

#[test]
fn invalid_sites_are_refused_at_the_start() {
    async fn page(connection: &mut HttpConnection) -> Result<(), TrackerError> {
        connection.send("page").await
    }
    let error_of = |builder: gyre::server::Builder| match builder.listen() {
        Err(error @ (ServerError::Route(_) | ServerError::Directory { .. })) => error.to_string(),
        other => panic!("{:?}", other.err()),
    };
    assert!(error_of(builder().get("no-slash", page)).contains("`no-slash`"));
    assert!(error_of(builder().get("/{*rest}/more", page)).contains("`/{*rest}/more`"));
    assert!(error_of(builder().get("/{a}", page).get("/{b}", page)).contains("`/{b}` conflicts with `/{a}`"));
    assert!(error_of(builder().directory("/", "/no/such/directory")).contains("/no/such/directory"));
    let first = builder().get("first", page).directory("/", "/no/such/directory");
    assert!(error_of(first).contains("`first`"), "the first error is reported");
    Site::start(builder().get("/{a}", page).post("/{b}", page).any("/{c}", page));
}
