//! Owns the values that can be sent as a body, and the default content type of each.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;

use gyre_core::error::TrackerError;

/// A value that [`HttpConnection::send`](super::HttpConnection::send) takes: text, bytes, JSON or nothing.
///
/// ```
/// # use gyre_web::testing as gyre;
/// use gyre::error::TrackerError;
/// use gyre::web::Payload;
///
/// struct Csv(Vec<[u32; 2]>);
///
/// impl Payload for Csv {
///     const TYPE: Option<&'static str> = Some("text/csv; charset=utf-8");
///
///     fn into_body(self) -> Result<bytes::Bytes, TrackerError> {
///         Ok(self.0.iter().map(|[a, b]| format!("{a},{b}\n")).collect::<String>().into())
///     }
/// }
/// ```
pub trait Payload {
    /// The content type, unless another is set. `None`: no content type.
    const TYPE: Option<&'static str>;

    /// Converts the value into the bytes to send.
    ///
    /// # Errors
    ///
    /// [`Code::Internal`](gyre_core::error::Code::Internal) if the conversion fails.
    fn into_body(self) -> Result<Bytes, TrackerError>;
}

const TEXT: Option<&str> = Some("text/plain; charset=utf-8");
const BYTES: Option<&str> = Some("application/octet-stream");
const JSON: Option<&str> = Some("application/json");

impl Payload for () {
    const TYPE: Option<&'static str> = None;

    fn into_body(self) -> Result<Bytes, TrackerError> {
        Ok(Bytes::new())
    }
}

macro_rules! payload {
    ($type:ty, $media:expr, $this:ident => $bytes:expr) => {
        impl Payload for $type {
            const TYPE: Option<&'static str> = $media;

            fn into_body(self) -> Result<Bytes, TrackerError> {
                let $this = self;
                Ok($bytes)
            }
        }
    };
}

payload!(&str, TEXT, text => Bytes::copy_from_slice(text.as_bytes()));
payload!(String, TEXT, text => text.into());
payload!(Cow<'_, str>, TEXT, text => text.into_owned().into());
payload!(&[u8], BYTES, bytes => Bytes::copy_from_slice(bytes));
payload!(Vec<u8>, BYTES, bytes => bytes.into());
payload!(Bytes, BYTES, bytes => bytes);
payload!(serde_json::Value, JSON, value => value.to_string().into());

/// Sends a value as JSON with serde.
///
/// ```
/// # use gyre_web::testing as gyre;
/// use gyre::web::{HttpConnection, Json};
///
/// #[derive(serde::Serialize)]
/// struct Health {
///     healthy: bool,
/// }
///
/// async fn health(connection: &mut HttpConnection) -> Result<(), gyre::error::TrackerError> {
///     connection.send(Json(Health { healthy: true })).await
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: Serialize> Payload for Json<T> {
    const TYPE: Option<&'static str> = JSON;

    fn into_body(self) -> Result<Bytes, TrackerError> {
        serde_json::to_vec(&self.0).map(Bytes::from).map_err(TrackerError::internal)
    }
}
