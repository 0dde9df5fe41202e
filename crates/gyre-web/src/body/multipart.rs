//! Owns the fields of a multipart form (RFC 7578) while they come: nothing is kept but the stretch in hand.

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
    /// The fields of a form of type `multipart/form-data` (RFC 7578), which may be files, one after the other as they
    /// come. The [`limit`](Self::limit) holds for all of them together.
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
    ///                 while let Some(stretch) = field.chunk().await? {
    ///                     size += stretch.len() as u64;
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
    /// [`Code::UnsupportedMediaType`]: it is of another type, or the type doesn't say what stands between the fields.
    pub async fn multipart(self) -> Result<Multipart<'a>, TrackerError> {
        let is_form = |media: &Mime| media.type_() == MULTIPART && media.subtype() == FORM_DATA;
        let media = media_type(self.content_type)?.filter(is_form);
        let boundary = media.as_ref().and_then(|media| media.get_param(BOUNDARY));
        let boundary = boundary.filter(|text| (1..=WEB_BOUNDARY_BYTES).contains(&text.as_str().len()));
        let boundary =
            boundary.ok_or_else(|| unsupported("a form of type multipart/form-data is read here"))?;
        Ok(Multipart::new(self.incoming, self.limit, boundary.as_str()))
    }
}

/// The fields of a form, one after the other.
///
/// [`Body::multipart`](super::Body::multipart) has an example.
pub struct Multipart<'a> {
    source: Source<'a>,
    /// `None` while the next field is looked for; and for good, if that failed.
    parser: Option<multer::Multipart<'static>>,
    /// The field that was given last. What the handler left of it is read over.
    field: Option<multer::Field<'static>>,
    fields: usize,
}

impl<'a> Multipart<'a> {
    pub(super) fn new(incoming: &'a mut Incoming, limit: u64, boundary: &str) -> Self {
        let (feed, fed) = sync_channel(1);
        let parser = Some(multer::Multipart::new(Fed(fed), boundary));
        Self { source: Source { incoming, feed, limit }, parser, field: None, fields: 0 }
    }

    /// The next field. What is left of the one before is read over. `None`: there are no more, and the body is over.
    ///
    /// # Errors
    ///
    /// Those of [`Body`](super::Body); [`Code::IncorrectRequest`] also for a field without a name, for one whose head
    /// is longer than [`WEB_FIELD_HEAD_BYTES`], and for more fields than [`WEB_FORM_FIELDS`]. There are no further
    /// fields then.
    pub async fn next_field(&mut self) -> Result<Option<Field<'_>>, TrackerError> {
        if let Some(field) = &mut self.field {
            while self.source.chunk(field).await?.is_some() {}
        }
        self.field = None;
        let mut parser = self.parser.take().ok_or_else(|| broken("an earlier field is broken"))?;
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
            return Err(broken("a field has no name"));
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

/// One field of a form: a value, or a file.
pub struct Field<'a> {
    source: Source<'a>,
    field: &'a mut multer::Field<'static>,
    limit: u64,
}

impl Field<'_> {
    /// What it is called.
    pub fn name(&self) -> &str {
        self.field.name().unwrap_or_default()
    }

    /// How the client calls the file, if it is one. It can be anything: don't use it as a path.
    pub fn file_name(&self) -> Option<&str> {
        self.field.file_name()
    }

    /// Of which type it is, if the client says so, in its words.
    pub fn content_type(&self) -> Option<&str> {
        self.field.headers().get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default())
    }

    /// Reads so many bytes at most as text or bytes, [`WEB_BODY_MAX_BYTES`] if this is not called.
    pub fn limit(self, bytes: u64) -> Self {
        Self { limit: bytes, ..self }
    }

    /// The next stretch of it, as it comes; never an empty one. `None`: it is over. There is no limit but that of the
    /// whole form.
    ///
    /// # Errors
    ///
    /// Those of [`Body`](super::Body), but for the type.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, TrackerError> {
        self.source.chunk(self.field).await
    }

    /// All of its bytes that were not read yet.
    ///
    /// # Errors
    ///
    /// Those of [`Body`](super::Body), but for the type.
    pub async fn bytes(mut self) -> Result<Bytes, TrackerError> {
        let mut whole = BytesMut::new();
        while let Some(stretch) = self.chunk().await? {
            if (whole.len() + stretch.len()) as u64 > self.limit {
                let message = format!("the field is longer than {} bytes", self.limit);
                return Err(TrackerError::new(Code::ContentTooLarge, message));
            }
            whole.extend_from_slice(&stretch);
        }
        Ok(whole.freeze())
    }

    /// All of it as text, in UTF-8.
    ///
    /// # Errors
    ///
    /// Those of [`Body`](super::Body); the type is wrong if it says another charset.
    pub async fn text(self) -> Result<String, TrackerError> {
        media_type(self.content_type())?;
        utf8(&self.bytes().await?)
    }
}

/// Where the parser has its bytes from. It wants a stream that may go to another thread, which a connection's isn't;
/// so it is lent one stretch at a time, whenever it can't go on without.
struct Source<'a> {
    incoming: &'a mut Incoming,
    /// Takes one stretch; `None` is the end.
    feed: SyncSender<Option<Bytes>>,
    limit: u64,
}

impl Source<'_> {
    async fn chunk(&mut self, field: &mut multer::Field<'static>) -> Result<Option<Bytes>, TrackerError> {
        loop {
            let poll =
                |context: &mut Context<'_>| Pin::new(&mut *field).poll_next(context).map(Option::transpose);
            let stretch = self.drive(usize::MAX, poll).await?;
            if stretch.as_ref().is_none_or(|stretch| !stretch.is_empty()) {
                return Ok(stretch);
            }
        }
    }

    /// Polls the parser until it is ready, and lends it what comes, no more than a stretch beyond `most_bytes`.
    async fn drive<T>(
        &mut self,
        most_bytes: usize,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<multer::Result<T>>,
    ) -> Result<T, TrackerError> {
        let mut lent_bytes = 0;
        loop {
            if let Poll::Ready(result) = poll(&mut Context::from_waker(Waker::noop())) {
                return result.map_err(|error| super::wrong("form", &error, ""));
            }
            if lent_bytes > most_bytes {
                return Err(head_too_long());
            }
            let stretch = self.incoming.next(self.limit).await?;
            lent_bytes += stretch.as_ref().map_or(0, Bytes::len);
            // It takes all that it is lent before it asks for more; but who waits behind the end waits for ever.
            self.feed.try_send(stretch).map_err(|_| broken("it ends before its last field"))?;
        }
    }
}

/// The parser's side of [`Source`].
struct Fed(Receiver<Option<Bytes>>);

impl Stream for Fed {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.try_recv().map_or(Poll::Pending, |stretch| Poll::Ready(stretch.map(Ok)))
    }
}

fn broken(reason: &'static str) -> TrackerError {
    super::wrong("form", reason, "")
}

fn head_too_long() -> TrackerError {
    TrackerError::incorrect_request(format!("a field's head is longer than {WEB_FIELD_HEAD_BYTES} bytes"))
}

#[cfg(test)]
mod tests;
