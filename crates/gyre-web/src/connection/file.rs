//! Owns how a file becomes a response: preconditions, ranges, and reading its bytes through the transport.

use std::fmt::Write;
use std::ops::RangeInclusive;
use std::path::Path;

use http::header::{
    ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LAST_MODIFIED,
};
use http::{Method, StatusCode};

use super::send::Length;
use super::{HttpConnection, Progress};
use crate::conditional::{Precondition, evaluate};
use crate::files::{FoundFile, open_file};
use crate::limits::WEB_WRITE_BYTES;
use crate::range::{Ranges, requested};
use crate::transport::FileReader;
use gyre_core::error::{Code, TrackerError};

impl HttpConnection {
    /// Sends a file: all of it, the requested ranges (RFC 9110, section 14), or 304 if the client's copy is current
    /// (section 13). The content type follows from the file's name unless another is set. The file is read through the
    /// worker's ring.
    ///
    /// The path must be the program's choice. Serve paths that clients choose with `Builder::directory`, which they
    /// can't leave.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// connection.set_content_type("application/x-bittorrent")?;
    /// connection.drain("/srv/torrents/debian.torrent").await
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Code::NotFound`] if the file does not exist or is not a regular file; [`Code::ResponseAlreadySent`];
    /// [`Code::ConnectionClosed`] if the client has closed the connection.
    pub async fn drain(&mut self, path: impl AsRef<Path>) -> Result<(), TrackerError> {
        self.check_open()?;
        let found = open_file(path.as_ref()).await?;
        self.send_file(found).await
    }

    /// Sends an open file.
    pub(crate) async fn send_file(&mut self, found: FoundFile) -> Result<(), TrackerError> {
        let FoundFile { file, length, validators, content_type } = found;
        let set = |headers: &mut http::HeaderMap, name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        if !self.response.headers.contains_key(CONTENT_TYPE) {
            set(&mut self.response.headers, CONTENT_TYPE, &content_type);
        }
        if let Some(etag) = &validators.etag {
            set(&mut self.response.headers, ETAG, etag);
        }
        if let Some(modified) = validators.last_modified() {
            set(&mut self.response.headers, LAST_MODIFIED, &modified);
        }
        // Conditions apply to the requested resource, not to a file that is sent with an error (RFC 9110, section
        // 13.2.1).
        let precondition = match self.response.status.is_success() {
            true => evaluate(&self.request.method, &self.request.headers, &validators),
            false => Precondition::Proceed,
        };
        match precondition {
            Precondition::Proceed => {}
            Precondition::NotModified => {
                self.negotiate(length); // the 304 has the tag of the response that would be sent
                self.set_status(304)?;
                return self.send(()).await;
            }
            Precondition::Failed => {
                return Err(TrackerError::new(Code::PreconditionFailed, "the file has changed"));
            }
        }
        set(&mut self.response.headers, ACCEPT_RANGES, "bytes");
        let ranges = match self.request.method {
            Method::GET if self.response.status == StatusCode::OK => {
                requested(&self.request.headers, length, &validators)
            }
            _ => Ranges::Whole,
        };
        let file = Reader { file: self.transport.open(file) };
        let sent = match ranges {
            Ranges::Whole => self.send_whole(&file, length).await,
            Ranges::Unsatisfiable => {
                set(&mut self.response.headers, CONTENT_RANGE, &format!("bytes */{length}"));
                Err(TrackerError::new(Code::RangeNotSatisfiable, "the range is outside the file"))
            }
            Ranges::Parts(parts) => {
                self.varies(length);
                match &parts[..] {
                    [part] => self.send_part(&file, part, length).await,
                    _ => self.send_parts(&file, &parts, length).await,
                }
            }
        };
        let closed = file.file.close().await;
        sent.and(closed.map_err(TrackerError::internal))
    }

    async fn send_whole(&mut self, file: &Reader, length: u64) -> Result<(), TrackerError> {
        match self.negotiate(length) {
            None => {
                let out = self.begin(Length::Bytes(length)).await?;
                self.end_with(file, out, 0..=length.wrapping_sub(1), length).await
            }
            encoding @ Some(_) => {
                self.response.headers.remove(ACCEPT_RANGES);
                let mut stream = self.start(encoding).await?;
                let mut buffer = Vec::with_capacity(WEB_WRITE_BYTES);
                let mut from = if stream.has_body() { 0 } else { length };
                while from < length {
                    buffer = file.read(buffer, from, length - from).await?;
                    stream.write(&buffer).await?;
                    from += buffer.len() as u64;
                }
                stream.finish().await
            }
        }
    }

    /// Sends one range: a 206 with its bytes (RFC 9110, section 15.3.7.1).
    async fn send_part(
        &mut self,
        file: &Reader,
        part: &RangeInclusive<u64>,
        length: u64,
    ) -> Result<(), TrackerError> {
        self.response.status = StatusCode::PARTIAL_CONTENT;
        let value = HeaderValue::from_str(&content_range(part, length)).expect("digits");
        self.response.headers.insert(CONTENT_RANGE, value);
        let bytes = part.end() - part.start() + 1;
        let out = self.begin(Length::Bytes(bytes)).await?;
        self.end_with(file, out, part.clone(), bytes).await
    }

    /// Sends several ranges, each with its own head (RFC 9110, section 15.3.7.2).
    async fn send_parts(
        &mut self,
        file: &Reader,
        parts: &[RangeInclusive<u64>],
        length: u64,
    ) -> Result<(), TrackerError> {
        self.response.status = StatusCode::PARTIAL_CONTENT;
        let random: [u8; 12] = crate::random().map_err(TrackerError::internal)?;
        let boundary = random.iter().fold(String::from("gyre"), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        let value =
            HeaderValue::from_str(&format!("multipart/byteranges; boundary={boundary}")).expect("ASCII");
        let inner = self.response.headers.insert(CONTENT_TYPE, value);
        let inner =
            inner.map_or_else(String::new, |value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let heads: Vec<String> = parts
            .iter()
            .map(|part| {
                let range = content_range(part, length);
                format!("\r\n--{boundary}\r\nContent-Type: {inner}\r\nContent-Range: {range}\r\n\r\n")
            })
            .collect();
        let tail = format!("\r\n--{boundary}--\r\n");
        let bytes: u64 = parts
            .iter()
            .zip(&heads)
            .map(|(part, head)| part.end() - part.start() + 1 + head.len() as u64)
            .sum();
        let mut out = self.begin(Length::Bytes(bytes + tail.len() as u64)).await?;
        for (part, head) in parts.iter().zip(&heads) {
            out.extend_from_slice(head.as_bytes());
            out = self.write_range(file, out, part.clone()).await?;
        }
        out.extend_from_slice(tail.as_bytes());
        self.sent_bytes = bytes + tail.len() as u64;
        self.write(out).await?;
        self.progress = Progress::Sent;
        Ok(())
    }

    /// Writes the head and a range of the file, which end the response.
    async fn end_with(
        &mut self,
        file: &Reader,
        out: Vec<u8>,
        range: RangeInclusive<u64>,
        bytes: u64,
    ) -> Result<(), TrackerError> {
        let rest = match bytes > 0 && self.has_body() {
            true => {
                self.sent_bytes = bytes;
                self.write_range(file, out, range).await?
            }
            false => out,
        };
        if !rest.is_empty() {
            self.write(rest).await?;
        }
        self.progress = Progress::Sent;
        Ok(())
    }

    /// Writes the content of the buffer and a range of the file.
    async fn write_range(
        &mut self,
        file: &Reader,
        mut out: Vec<u8>,
        range: RangeInclusive<u64>,
    ) -> Result<Vec<u8>, TrackerError> {
        let (mut from, end) = (*range.start(), range.end() + 1);
        let mut buffer = Vec::with_capacity(WEB_WRITE_BYTES);
        while from < end {
            buffer = file.read(buffer, from, end - from).await?;
            from += buffer.len() as u64;
            out.extend_from_slice(&buffer);
            out = self.write(out).await?;
        }
        Ok(out)
    }
}

fn content_range(part: &RangeInclusive<u64>, length: u64) -> String {
    format!("bytes {}-{}/{length}", part.start(), part.end())
}

/// A file, read through the transport.
struct Reader {
    file: Box<dyn FileReader>,
}

impl Reader {
    /// Reads 1 to `most` bytes into the buffer, in place of its content.
    async fn read(&self, buffer: Vec<u8>, from: u64, most: u64) -> Result<Vec<u8>, TrackerError> {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(WEB_WRITE_BYTES);
        let (result, buffer) = self.file.read_at(buffer, from, most).await;
        match result {
            Ok(1..) => Ok(buffer),
            Ok(_) => Err(TrackerError::internal("the file was truncated while it was sent")),
            Err(error) => Err(TrackerError::internal(error)),
        }
    }
}
