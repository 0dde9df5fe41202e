//! Owns what the site does with a connection after its handler: sending an error, and ending the request.

use http::header::{ALLOW, HeaderValue};

use super::{HttpConnection, Progress};
use crate::site::Served;
use gyre_core::error::TrackerError;

impl HttpConnection {
    /// Sets the `Allow` field.
    pub(crate) fn allow(&mut self, methods: &str) {
        let value = HeaderValue::from_str(methods).expect("methods are tokens");
        self.response.headers.insert(ALLOW, value);
    }

    /// What the worker must do with the connection.
    pub(crate) fn served(&self) -> Served {
        Served {
            keep_alive: self.keep_alive && self.progress == Progress::Sent,
            skip_bytes: self.incoming.unread().unwrap_or(0),
        }
    }

    /// Has the connection closed after the response.
    pub(crate) fn end_after_response(&mut self) {
        self.keep_alive = false;
    }

    /// Returns whether the handler has called [`close`](Self::close), so that the site sends no response in its place.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Answers with an error that a handler returned. The error route finds it in [`data`](Self::data).
    pub(crate) async fn fail(&mut self, error: TrackerError) -> Result<(), TrackerError> {
        if error.code().is_fault() {
            tracing::warn!(target: "gyre::web", "{} {}: {error}", self.request.method, self.path());
        }
        let status = error.code().status().as_u16();
        self.data.insert(error);
        self.error(status).await
    }
}
