//! Owns what replaces `encoding.rs` in a build without the feature `compression`: every body is sent as it is.

use bytes::Bytes;

use super::HttpConnection;
use crate::transport::Transport;

/// No encoding exists.
#[derive(Clone, Copy)]
pub(super) enum Encoding {}

/// No compressor exists.
pub(super) enum Compressor {}

impl HttpConnection {
    pub(super) fn varies(&mut self, _length: u64) -> bool {
        false
    }

    pub(super) fn negotiate(&mut self, _length: u64) -> Option<Encoding> {
        None
    }
}

pub(super) async fn compress(_: &dyn Transport, encoding: Encoding, _: &[u8]) -> Bytes {
    match encoding {}
}

impl Compressor {
    pub(super) fn new(encoding: Encoding) -> Self {
        match encoding {}
    }

    pub(super) fn write(&mut self, _: &[u8], _: &mut Vec<u8>) {
        match *self {}
    }

    pub(super) fn flush(&mut self, _: &mut Vec<u8>) {
        match *self {}
    }

    pub(super) fn finish(self, _: &mut Vec<u8>) {
        match self {}
    }
}
