//! Owns the session of a connection: when it is loaded and when it is stored.

use http::header::SET_COOKIE;

use super::{HttpConnection, Progress};
use crate::session::Session;
#[cfg(doc)]
use gyre_core::error::Code;
use gyre_core::error::TrackerError;

impl HttpConnection {
    /// Returns the client's session: values that the program keeps from one request to the next. The client holds only
    /// a signed id, in a cookie. The first call loads the session. Changes are stored before the head of the response
    /// is written.
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
    /// [`Code::Internal`] if the site has no sessions, [`Code::IncorrectRequest`] if the cookies are malformed, and the
    /// errors of the store.
    pub async fn session(&mut self) -> Result<&mut Session, TrackerError> {
        if self.session.is_none() {
            let site = self.site.clone();
            let sessions = site.sessions()?;
            let now = self.transport.now();
            self.session = Some(sessions.load(self.cookies()?, now).await?);
        }
        Ok(self.session.as_mut().expect("it was loaded"))
    }

    /// Stores the changes of the session. Sets its cookie if the head of the response is still open.
    pub(crate) async fn store_session(&mut self) -> Result<(), TrackerError> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let site = self.site.clone();
        let stored = site.sessions()?.store(session, self.transport.now(), self.is_https).await;
        if stored.is_err() {
            self.session = None; // otherwise the response to this error would fail, too
        }
        if let Some(cookie) = stored?
            && self.progress == Progress::Open
        {
            self.response.headers.append(SET_COOKIE, cookie);
        }
        Ok(())
    }
}
