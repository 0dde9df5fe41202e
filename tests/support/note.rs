//! Owns what the tests of middleware note and ask: a tracker with one, what it has seen, and `ureq` as the client by
//! HTTP.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use gyre::Tracker as Gyre;
use gyre::engine::middleware::Middleware;
use gyre::types::Family;

use super::{Tracker, config};

pub(crate) fn tracker(middleware: impl Middleware + Send) -> Tracker {
    Tracker::listen(Gyre::builder().config(config(2)).middleware(middleware))
}

/// Status and text of a response.
#[track_caller]
pub(crate) fn fetch(to: SocketAddr, path: &str, fields: &[(&str, &str)]) -> (u16, String) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let request = agent.get(format!("http://{to}{path}"));
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let mut response = request.call().expect("a response");
    let body = response.body_mut().read_to_vec().expect("a body");
    (response.status().as_u16(), String::from_utf8_lossy(&body).into_owned())
}

#[track_caller]
pub(crate) fn http(tracker: &Tracker, path: &str) -> String {
    let (status, text) = fetch(tracker.http(Family::V4), path, &[]);
    assert_eq!(status, 200, "{text}");
    text
}

/// What a middleware has noted.
pub(crate) struct Log<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Log<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn push(&self, entry: T) {
        self.0.lock().unwrap().push(entry);
    }

    pub(crate) fn take(&self) -> Vec<T> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}
