//! Owns how a handler reads its request.

use std::net::IpAddr;

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Method, Uri, request::Parts};

use super::HttpConnection;
use crate::body::Body;
use crate::cookies::Cookies;
use crate::negotiate;
use crate::query::Query;
use crate::router::Params;
use gyre_core::error::TrackerError;

impl HttpConnection {
    /// Returns the request's head in the types of the `http` crate, for code that takes them.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// let is_old = connection.request().version == http::Version::HTTP_10;
    /// # Ok(())
    /// # }
    /// ```
    pub fn request(&self) -> &Parts {
        &self.request
    }

    /// Returns the method.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// let is_form = connection.method() == http::Method::POST && connection.path() == "/enter";
    /// # Ok(())
    /// # }
    /// ```
    pub fn method(&self) -> &Method {
        &self.request.method
    }

    /// Returns the path as it was sent, still percent-encoded.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// let is_page = connection.path().ends_with(".html");
    /// # Ok(())
    /// # }
    /// ```
    pub fn path(&self) -> &str {
        self.request.uri.path()
    }

    /// Returns the header fields.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// let agent = connection.headers().get("user-agent").and_then(|value| value.to_str().ok());
    /// let is_curl = agent.is_some_and(|agent| agent.starts_with("curl/"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn headers(&self) -> &HeaderMap {
        &self.request.headers
    }

    /// Returns the cookies that the client sent.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// let theme = connection.cookies()?.get("theme").unwrap_or("light");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Code::IncorrectRequest`](gyre_core::error::Code::IncorrectRequest) if they are malformed,
    /// [`Code::HeadTooLarge`](gyre_core::error::Code::HeadTooLarge) if there are too many.
    pub fn cookies(&self) -> Result<&Cookies, TrackerError> {
        if self.cookies.get().is_none() {
            let _ = self.cookies.set(Cookies::parse(&self.request.headers)?);
        }
        Ok(self.cookies.get().expect("the cookies were read"))
    }

    /// Returns the host that the request names, with its port if it has one.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// // `tracker.example:8080`, and without the port:
    /// let (host, hostname) = (connection.host(), connection.hostname());
    /// # Ok(())
    /// # }
    /// ```
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the host that the request names, without its port. An IPv6 address is in brackets.
    pub fn hostname(&self) -> &str {
        let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
        match self.host.rsplit_once(':') {
            Some((name, port)) if digits(port) => name,
            _ => &self.host,
        }
    }

    /// Returns the client's address. For a connection from a trusted proxy it is the address that the proxy names.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// if !connection.ip().is_loopback() {
    ///     return Err(TrackerError::new(gyre::error::Code::AccessDenied, "only from this machine"));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Returns the languages that the client prefers, as tags (RFC 5646), the preferred one first.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// let german = connection.langs().first().is_some_and(|tag| tag.starts_with("de"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn langs(&self) -> Vec<String> {
        negotiate::languages(&self.request.headers)
    }

    /// Returns the values of the named parts of the route's pattern, percent-decoded.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// // With the route `/files/{user}/{*path}`:
    /// for (name, value) in connection.params().iter() {
    ///     println!("{name} is {value}");
    /// }
    /// let path = connection.param("path").unwrap_or_default();
    /// # Ok(())
    /// # }
    /// ```
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Returns the value of a named part of the route's pattern.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.get(name)
    }

    pub(crate) fn set_params(&mut self, params: Params) {
        self.params = params;
    }

    /// Returns `http`, or `https` if a trusted proxy says so.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// if connection.protocol() == "http" {
    ///     let location = format!("https://{}{}", connection.host(), connection.path());
    ///     return connection.redirect(&location, true).await;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn protocol(&self) -> &'static str {
        if self.is_https { "https" } else { "http" }
    }

    /// Returns the parameters of the query string.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// let page: u32 = connection.query()?.get("page").and_then(|text| text.parse().ok()).unwrap_or(1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Code::IncorrectRequest`](gyre_core::error::Code::IncorrectRequest) if they can't be decoded or there are too
    /// many.
    pub fn query(&self) -> Result<&Query, TrackerError> {
        if self.query.get().is_none() {
            let _ = self.query.set(Query::parse(self.request.uri.query().unwrap_or_default())?);
        }
        Ok(self.query.get().expect("the query was read"))
    }

    /// Returns the request's URL in its parts: scheme, authority, path, query. An HTTP/1.0 request without a host has
    /// neither scheme nor authority.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// let url = connection.url();
    /// let canonical = format!("<{url}>; rel=\"canonical\"");
    /// # Ok(())
    /// # }
    /// ```
    pub fn url(&self) -> Uri {
        let path = self.request.uri.path_and_query().cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let scheme = if self.is_https { Scheme::HTTPS } else { Scheme::HTTP };
        let builder = Uri::builder().scheme(scheme).authority(self.host.as_str()).path_and_query(path);
        builder.build().unwrap_or_else(|_| self.request.uri.clone())
    }

    /// Returns the request's body, to be read as bytes, text, JSON or a form.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// use gyre::web::HttpConnection;
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Torrent {
    ///     name: String,
    /// }
    ///
    /// async fn enter(connection: &mut HttpConnection) -> Result<(), gyre::error::TrackerError> {
    ///     let torrent: Torrent = connection.body().limit(4_096).json().await?;
    ///     connection.send(torrent.name).await
    /// }
    /// ```
    pub fn body(&mut self) -> Body<'_> {
        Body::new(&mut self.incoming, &self.request.headers)
    }
}
