//! Owns how a template becomes a response.

use http::header::CONTENT_TYPE;
use serde::Serialize;

use super::HttpConnection;
#[cfg(doc)]
use gyre_core::error::Code;
use gyre_core::error::TrackerError;

impl HttpConnection {
    /// Renders a template of the site (`Builder::templates`) and sends it, as HTML unless another type is set.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// #[derive(serde::Serialize)]
    /// struct Page {
    ///     swarms: u64,
    /// }
    ///
    /// connection.render("index.html", Page { swarms: 7 }).await
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Code::Internal`] if there is no such template or it fails, and those of [`send`](Self::send).
    pub async fn render(&mut self, template: &str, context: impl Serialize) -> Result<(), TrackerError> {
        let text = self.site.templates()?.render(template, context)?;
        if !self.response.headers.contains_key(CONTENT_TYPE) {
            self.set_content_type("html")?;
        }
        self.send(text).await
    }
}
