//! Owns what the tests of a site share: a tracker with routes, and the clients that a real user has: ureq and curl.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

use gyre::Tracker as Gyre;
use gyre::admin::{self, AdminConfig};
use gyre::config::Config;
use gyre::engine::middleware::Middleware;
use gyre::server::Builder;
use gyre::types::Family;
use ureq::http::{Request, Response};
use ureq::{AsSendBody, Body, RequestBuilder};

use super::{DEADLINE, HttpClient, Tracker, config};

/// A tracker of one worker, to which routes are added.
pub(crate) fn builder() -> Builder {
    Gyre::builder().config(config(1))
}

/// A site that is served, and its address.
pub(crate) struct Site {
    pub(crate) tracker: Tracker,
    agent: ureq::Agent,
}

impl Site {
    #[track_caller]
    pub(crate) fn start<M: Middleware + Send>(builder: Builder<M>) -> Self {
        Self { tracker: Tracker::listen(builder), agent: agent() }
    }

    /// The admin listener of a tracker.
    #[track_caller]
    pub(crate) fn admin(of: &Tracker, config: &Config, token_file: Option<PathBuf>) -> Self {
        let admin = AdminConfig { address: ([127, 0, 0, 1], 0).into(), token_file };
        let started = admin::bind(&admin, &mut gyre::server::Inherited::default())
            .and_then(|bound| bound.start(&of.0, config));
        Self { tracker: Tracker(started.unwrap_or_else(|error| panic!("{error}"))), agent: agent() }
    }

    /// Where something is, by IPv4.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.tracker.http(Family::V4))
    }

    /// A connection of its own, on which every byte is the test's.
    #[track_caller]
    pub(crate) fn connect(&self) -> HttpClient {
        HttpClient::connect(self.tracker.http(Family::V4))
    }

    /// What ureq gets, with these header fields.
    #[track_caller]
    pub(crate) fn get(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let request = self.agent.get(self.url(path));
        Answer::of(with(request, fields).call())
    }

    /// What ureq gets when it sends a body.
    #[track_caller]
    pub(crate) fn post(&self, path: &str, fields: &[(&str, &str)], body: impl AsSendBody) -> Answer {
        let request = self.agent.post(self.url(path));
        Answer::of(with(request, fields).send(body))
    }

    /// What ureq gets for a method of any name.
    #[track_caller]
    pub(crate) fn ask(&self, method: &str, path: &str) -> Answer {
        self.ask_with(method, path, &[], ())
    }

    /// The same with header fields and a body.
    #[track_caller]
    pub(crate) fn ask_with(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: impl AsSendBody,
    ) -> Answer {
        let request = Request::builder().method(method).uri(self.url(path));
        let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        Answer::of(self.agent.run(request.body(body).expect("a request")))
    }
}

/// A client of its own, with its cookies: it takes any status and follows no redirection.
pub(crate) fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .allow_non_standard_methods(true)
        .proxy(None)
        .timeout_global(Some(DEADLINE));
    config.build().new_agent()
}

fn with<B>(request: RequestBuilder<B>, fields: &[(&str, &str)]) -> RequestBuilder<B> {
    fields.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}

/// What ureq got, decoded.
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: Response<()>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub(crate) fn of(result: Result<Response<Body>, ureq::Error>) -> Self {
        let (head, mut body) = result.expect("a response").into_parts();
        let body = body.read_to_vec().expect("a body to its end");
        Self { status: head.status.as_u16(), head: Response::from_parts(head, ()), body }
    }

    /// The values of a header field.
    pub(crate) fn fields(&self, name: &str) -> Vec<&str> {
        let values = self.head.headers().get_all(name).iter();
        values.map(|value| value.to_str().expect("ASCII")).collect()
    }

    /// The value of a header field, of which there is one at most; empty if there is none.
    #[track_caller]
    pub(crate) fn field(&self, name: &str) -> &str {
        let values = self.fields(name);
        assert!(values.len() <= 1, "{name}: {values:?}");
        values.first().copied().unwrap_or_default()
    }

    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.body).expect("text")
    }

    /// The status and the body.
    pub(crate) fn told(&self) -> (u16, &str) {
        (self.status, self.text())
    }
}

/// What became of a run of the program curl.
#[derive(Debug)]
pub(crate) struct Curled {
    /// Its exit code: 0, or an error of its manual's.
    pub(crate) code: i32,
    pub(crate) out: Vec<u8>,
}

impl Curled {
    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.out).expect("text")
    }
}

fn curl_command(args: &[&str]) -> Command {
    let mut curl = Command::new("curl");
    let seconds = DEADLINE.as_secs().to_string();
    curl.args(["-q", "--silent", "--noproxy", "*", "--max-time", &seconds]).args(args);
    curl
}

/// Runs curl to its end.
#[track_caller]
pub(crate) fn curl(args: &[&str]) -> Curled {
    let ran = curl_command(args).stdin(Stdio::null()).output().expect("the program curl");
    Curled { code: ran.status.code().expect("no signal"), out: ran.stdout }
}

/// A curl that is still running.
pub(crate) struct Curling {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Curling {
    #[track_caller]
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut child = curl_command(args).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("curl");
        let out = BufReader::new(child.stdout.take().expect("its output"));
        Self { child, out }
    }

    /// The next line of what it writes, without its end; `None` when it writes no more.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let bytes = self.out.read_line(&mut line).expect("text");
        (bytes > 0).then(|| line.trim_end().to_owned())
    }

    /// Its exit code, when it has ended by itself.
    pub(crate) fn end(mut self) -> i32 {
        self.child.wait().expect("an end").code().expect("no signal")
    }

    /// The user presses Ctrl-C.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("a process");
        self.child.wait().expect("an end");
    }
}

/// A directory for a test's files; removed at the end.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    #[track_caller]
    pub(crate) fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("gyre-web-{}-{number}", process::id()));
        fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file, all at once for whoever watches it; returns its path.
    #[track_caller]
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> String {
        let (path, new) = (self.0.join(name), self.0.join("new"));
        fs::write(&new, bytes).and_then(|()| fs::rename(&new, &path)).expect("a file");
        path.into_os_string().into_string().expect("a path in UTF-8")
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
