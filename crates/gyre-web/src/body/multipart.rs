//! Owns the fields of a multipart form (RFC 7578) as they arrive. Only the current chunk is held in memory.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use http::header::CONTENT_TYPE;
use mime_guess::Mime;
use mime_guess::mime::{BOUNDARY, FORM_DATA, MULTIPART};

use super::{Body, Incoming, media_type, too_many_fields, unsupported, utf8};
use crate::limits::{WEB_BODY_MAX_BYTES, WEB_BOUNDARY_BYTES, WEB_FIELD_HEAD_BYTES, WEB_FORM_FIELDS};
use gyre_core::error::{Code, TrackerError};

impl<'a> Body<'a> {
    /// Reads the fields of a form of type `multipart/form-data` (RFC 7578) one after the other as they arrive. Fields
    /// may be files. The [`limit`](Self::limit) applies to all of them together.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::body::Body};
    /// async fn upload(body: Body<'_>) -> Result<(String, u64), TrackerError> {
    ///     let (mut title, mut size) = (String::new(), 0);
    ///     let mut form = body.limit(1 << 30).multipart().await?;
    ///     while let Some(mut field) = form.next_field().await? {
    ///         match field.name() {
    ///             "title" => title = field.limit(100).text().await?,
    ///             "file" => {
    ///                 while let Some(chunk) = field.chunk().await? {
    ///                     size += chunk.len() as u64;
    ///                 }
    ///             }
    ///             _ => {}
    ///         }
    ///     }
    ///     Ok((title, size))
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Code::UnsupportedMediaType`]: the content type is another, or its boundary is missing or invalid.
    pub async fn multipart(self) -> Result<Multipart<'a>, TrackerError> {
        let is_form = |media: &Mime| media.type_() == MULTIPART && media.subtype() == FORM_DATA;
        let media = media_type(self.content_type)?.filter(is_form);
        let boundary = media.as_ref().and_then(|media| media.get_param(BOUNDARY));
        let boundary = boundary.filter(|text| (1..=WEB_BOUNDARY_BYTES).contains(&text.as_str().len()));
        let boundary = boundary
            .ok_or_else(|| unsupported("the content type must be multipart/form-data with a boundary"))?;
        Ok(Multipart::new(self.incoming, self.limit, boundary.as_str()))
    }
}

/// A form whose fields are read one after the other.
///
/// [`Body::multipart`](super::Body::multipart) has an example.
pub struct Multipart<'a> {
    source: Source<'a>,
    /// `None` while the next field is being parsed, and after an error.
    parser: Option<multer::Multipart<'static>>,
    /// The field that was returned last. What the handler did not read of it is skipped.
    field: Option<multer::Field<'static>>,
    /// Number of fields so far.
    fields: usize,
}

impl<'a> Multipart<'a> {
    pub(super) fn new(incoming: &'a mut Incoming, limit: u64, boundary: &str) -> Self {
        let (feed, fed) = sync_channel(1);
        let parser = Some(multer::Multipart::new(Fed(fed), boundary));
        Self { source: Source { incoming, feed, limit }, parser, field: None, fields: 0 }
    }

    /// Returns the next field. The unread rest of the previous one is skipped. `None`: the form has ended.
    ///
    /// # Errors
    ///
    /// Those of [`Body`](super::Body); [`Code::IncorrectRequest`] also for a field without a name, for a field's head
    /// longer than [`WEB_FIELD_HEAD_BYTES`], and for more fields than [`WEB_FORM_FIELDS`]. After an error every call
    /// fails.
    pub async fn next_field(&mut self) -> Result<Option<Field<'_>>, TrackerError> {
        if let Some(field) = &mut self.field {
            while self.source.chunk(field).await?.is_some() {}
        }
        self.field = None;
        let mut parser = self.parser.take().ok_or_else(|| malformed_form("an earlier field is malformed"))?;
        let found =
            self.source.drive(WEB_FIELD_HEAD_BYTES, |context| parser.poll_next_field(context)).await?;
        let Some(found) = found else {
            while self.source.incoming.next(self.source.limit).await?.is_some() {}
            self.parser = Some(parser);
            return Ok(None);
        };
        self.fields += 1;
        if self.fields > WEB_FORM_FIELDS {
            return Err(too_many_fields());
        }
        let head_bytes: usize =
            found.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if head_bytes > WEB_FIELD_HEAD_BYTES {
            return Err(head_too_long());
        }
        if found.name().is_none() {
            return Err(malformed_form("a field has no name"));
        }
        self.parser = Some(parser);
        let source = Source {
            incoming: self.source.incoming,
            feed: self.source.feed.clone(),
            limit: self.source.limit,
        };
        Ok(Some(Field { source, field: self.field.insert(found), limit: WEB_BODY_MAX_BYTES }))
    }
}

/// A field of a form: a value or a file.
pub struct Field<'a> {
    source: Source<'a>,
    field: &'a mut multer::Field<'static>,
    limit: u64,
}

impl Field<'_> {
    /// Returns the field's name.
    pub fn name(&self) -> &str {
        self.field.name().unwrap_or_default()
    }

    /// Returns the name that the client gave the file, if the field is one. It may be any text: don't use it as a path.
    pub fn file_name(&self) -> Option<&str> {
        self.field.file_name()
    }

    /// Returns the content type that the client gave, if any.
    pub fn content_type(&self) -> Option<&str> {
        self.field.headers().get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default())
    }

    /// Sets the maximum length for [`bytes`](Self::bytes) and [`text`](Self::text). Default: [`WEB_BODY_MAX_BYTES`].
    pub fn limit(self, bytes: u64) -> Self {
        Self { limit: bytes, ..self }
    }

    /// Returns the next chunk as it arrives; it is never empty. `None`: the field has ended. Only the limit of the
    /// whole form applies.
    ///
    /// # Errors
    ///
    /// Those of [`Body`](super::Body), except for the content type.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, TrackerError> {
        self.source.chunk(self.field).await
    }

    /// Reads the rest of its bytes.
    ///
    /// # Errors
    ///
    /// Those of [`Body`](super::Body), except for the content type.
    pub async fn bytes(mut self) -> Result<Bytes, TrackerError> {
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if (whole.len() + chunk.len()) as u64 > self.limit {
                let message = format!("the field is longer than {} bytes", self.limit);
                return Err(TrackerError::new(Code::ContentTooLarge, message));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// Reads the rest of it as UTF-8 text.
    ///
    /// # Errors
    ///
    /// Those of [`Body`](super::Body). A content type with a charset other than UTF-8 is refused.
    pub async fn text(self) -> Result<String, TrackerError> {
        media_type(self.content_type())?;
        utf8(&self.bytes().await?)
    }
}

/// Feeds the parser. The parser requires a stream that is [`Send`], which a connection is not. So it gets one chunk at
/// a time through a channel, whenever it needs input.
struct Source<'a> {
    incoming: &'a mut Incoming,
    /// Takes one chunk; `None` is the end.
    feed: SyncSender<Option<Bytes>>,
    limit: u64,
}

impl Source<'_> {
    async fn chunk(&mut self, field: &mut multer::Field<'static>) -> Result<Option<Bytes>, TrackerError> {
        loop {
            let poll =
                |context: &mut Context<'_>| Pin::new(&mut *field).poll_next(context).map(Option::transpose);
            let chunk = self.drive(usize::MAX, poll).await?;
            if chunk.as_ref().is_none_or(|chunk| !chunk.is_empty()) {
                return Ok(chunk);
            }
        }
    }

    /// Polls the parser until it is ready and feeds it what arrives, at most one chunk beyond `most_bytes`.
    async fn drive<T>(
        &mut self,
        most_bytes: usize,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<multer::Result<T>>,
    ) -> Result<T, TrackerError> {
        let mut fed_bytes = 0;
        loop {
            if let Poll::Ready(result) = poll(&mut Context::from_waker(Waker::noop())) {
                return result.map_err(|error| super::malformed("form", &error, ""));
            }
            if fed_bytes > most_bytes {
                return Err(head_too_long());
            }
            let chunk = self.incoming.next(self.limit).await?;
            fed_bytes += chunk.as_ref().map_or(0, Bytes::len);
            // The parser takes each chunk before it asks for more. If the channel is full, the parser has had the end
            // of the body and still waits.
            self.feed.try_send(chunk).map_err(|_| malformed_form("it ends before its last field"))?;
        }
    }
}

/// The parser's side of [`Source`].
struct Fed(Receiver<Option<Bytes>>);

impl Stream for Fed {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.try_recv().map_or(Poll::Pending, |chunk| Poll::Ready(chunk.map(Ok)))
    }
}

fn malformed_form(reason: &'static str) -> TrackerError {
    super::malformed("form", reason, "")
}

fn head_too_long() -> TrackerError {
    TrackerError::incorrect_request(format!("a field's head is longer than {WEB_FIELD_HEAD_BYTES} bytes"))
}

#[cfg(test)]
mod tests;
