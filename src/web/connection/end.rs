//! Owns what the site does with a connection around its handler: what is sent in its stead, and what is left to do.

use http::header::{ALLOW, HeaderValue};

use super::{HttpConnection, Progress};
use crate::error::{Code, TrackerError};
use crate::web::site::Served;

impl HttpConnection {
    pub(in crate::web) fn allow(&mut self, methods: &str) {
        let value = HeaderValue::from_str(methods).expect("methods are tokens");
        self.response.headers.insert(ALLOW, value);
    }

    /// What is left to do with the connection.
    pub(in crate::web) fn served(&self) -> Served {
        Served {
            keep_alive: self.keep_alive && self.progress == Progress::Sent,
            skip_bytes: self.incoming.unread().unwrap_or(0),
        }
    }

    /// The connection is closed after the response.
    pub(in crate::web) fn end_after_response(&mut self) {
        self.keep_alive = false;
    }

    /// Whether the handler wants no response to be sent in its stead.
    pub(in crate::web) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Answers with an error that a handler returned; the error's route finds it among the connection's data.
    pub(in crate::web) async fn fail(&mut self, error: TrackerError) -> Result<(), TrackerError> {
        if matches!(error.code(), Code::Internal | Code::ResponseAlreadySent | Code::IncorrectResponse) {
            tracing::warn!(target: "gyre::web", "{} {}: {error}", self.request.method, self.path());
        }
        let status = error.code().status().as_u16();
        self.data.insert(error);
        self.error(status).await
    }
}
