//! Owns the session of a connection's client: when it is loaded and when it is stored.

use http::header::SET_COOKIE;

use super::{HttpConnection, Progress};
use crate::session::Session;
#[cfg(doc)]
use gyre_core::error::Code;
use gyre_core::error::TrackerError;

impl HttpConnection {
    /// The client's session: what the program keeps about it from one request to the next, itself, while the client has
    /// no more than a signed id in a cookie. Loaded at the first call; what is changed in it is stored before the
    /// response's head is written.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// let session = connection.session().await?;
    /// let visits = session.get::<u64>("visits").unwrap_or(0) + 1;
    /// session.insert("visits", visits)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Code::Internal`] if the site has no sessions, [`Code::IncorrectRequest`] if the cookies can't be read, and
    /// those of the store.
    pub async fn session(&mut self) -> Result<&mut Session, TrackerError> {
        if self.session.is_none() {
            let site = self.site.clone();
            let sessions = site.sessions()?;
            let now = self.transport.now();
            self.session = Some(sessions.load(self.cookies()?, now).await?);
        }
        Ok(self.session.as_mut().expect("it was loaded"))
    }

    /// Stores what the handler changed of the session, and tells the client of it while the head is still open.
    pub(crate) async fn store_session(&mut self) -> Result<(), TrackerError> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let site = self.site.clone();
        let stored = site.sessions()?.store(session, self.transport.now(), self.is_https).await;
        if stored.is_err() {
            self.session = None; // or the response that tells of it would fail by it, too
        }
        if let Some(cookie) = stored?
            && self.progress == Progress::Open
        {
            self.response.headers.append(SET_COOKIE, cookie);
        }
        Ok(())
    }
}
