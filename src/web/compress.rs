//! Owns the compression of bodies as they are written, piece by piece.
#![allow(dead_code)] // until a worker asks

use std::io::Write;
use std::mem;

use flate2::Compression;
use flate2::write::GzEncoder;
use zstd::stream::raw::{CParameter, Encoder, InBuffer, Operation, OutBuffer};

use super::negotiate::Encoding;
use crate::limits::{WEB_COMPRESSED_STEP_BYTES, WEB_GZIP_LEVEL, WEB_ZSTD_LEVEL, WEB_ZSTD_WINDOW_LOG_BYTES};

/// One body's compression. What it writes is appended to the caller's buffer; of that it writes some when it has enough
/// or is flushed.
pub(crate) enum Compressor {
    Identity,
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(Encoder<'static>),
}

/// Compression into memory fails for want of memory alone, of which a process ends anyway.
const IN_MEMORY: &str = "compression into memory";

impl Compressor {
    /// A body's start.
    pub(crate) fn new(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Identity => Self::Identity,
            Encoding::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), Compression::new(WEB_GZIP_LEVEL))),
            Encoding::Zstd => {
                let mut encoder = Encoder::new(WEB_ZSTD_LEVEL).expect(IN_MEMORY);
                let window = CParameter::WindowLog(WEB_ZSTD_WINDOW_LOG_BYTES);
                encoder.set_parameter(window).expect("a window that zstd allows");
                Self::Zstd(encoder)
            }
        }
    }

    /// Takes a piece of the body.
    pub(crate) fn write(&mut self, data: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Identity => out.extend_from_slice(data),
            Self::Gzip(encoder) => through(encoder, out, |encoder| encoder.write_all(data)),
            Self::Zstd(encoder) => {
                let mut input = InBuffer::around(data);
                while input.pos() < data.len() {
                    step(out, |out| encoder.run(&mut input, out));
                }
            }
        }
    }

    /// Writes out all that was taken so far, so that the other side can decode it: a server-sent event. It costs some
    /// bytes each time.
    pub(crate) fn flush(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::Identity => {}
            Self::Gzip(encoder) => through(encoder, out, |encoder| encoder.flush()),
            Self::Zstd(encoder) => while step(out, |out| encoder.flush(out)) > 0 {},
        }
    }

    /// Writes the body's end.
    pub(crate) fn finish(self, out: &mut Vec<u8>) {
        match self {
            Self::Identity => {}
            Self::Gzip(mut encoder) => through(&mut encoder, out, GzEncoder::try_finish),
            Self::Zstd(mut encoder) => while step(out, |out| encoder.finish(out, true)) > 0 {},
        }
    }
}

/// Lets gzip write into a buffer that is not its own.
fn through(
    encoder: &mut GzEncoder<Vec<u8>>,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut GzEncoder<Vec<u8>>) -> std::io::Result<()>,
) {
    mem::swap(encoder.get_mut(), out);
    write(encoder).expect(IN_MEMORY);
    mem::swap(encoder.get_mut(), out);
}

/// One step of zstd, behind what the buffer holds. Returns what is left to do.
fn step(out: &mut Vec<u8>, run: impl FnOnce(&mut OutBuffer<'_, Vec<u8>>) -> std::io::Result<usize>) -> usize {
    out.reserve(WEB_COMPRESSED_STEP_BYTES);
    let written = out.len();
    run(&mut OutBuffer::around_pos(out, written)).expect(IN_MEMORY)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use proptest::prelude::*;

    use super::*;

    const ALL: [Encoding; 3] = [Encoding::Identity, Encoding::Gzip, Encoding::Zstd];

    /// What comes out of the start of a body.
    fn decode(encoding: Encoding, bytes: &[u8]) -> Vec<u8> {
        let mut reader: Box<dyn Read + '_> = match encoding {
            Encoding::Identity => Box::new(bytes),
            Encoding::Gzip => Box::new(GzDecoder::new(bytes)),
            Encoding::Zstd => Box::new(zstd::stream::read::Decoder::new(bytes).unwrap()),
        };
        let (mut decoded, mut buffer) = (Vec::new(), [0; 4_096]);
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            decoded.extend_from_slice(&buffer[..count]);
        }
        decoded
    }

    #[test]
    fn text_gets_smaller_and_comes_back_whole() {
        let rows =
            |row: u32| format!("{{\"row\": {row}, \"peers\": {}}},\n", row.wrapping_mul(2_654_435_761));
        let text: String = (0..20_000).map(rows).collect();
        for encoding in ALL {
            let (mut compressor, mut out) = (Compressor::new(encoding), b"head".to_vec());
            compressor.write(text.as_bytes(), &mut out);
            compressor.finish(&mut out);
            assert_eq!(&out[..4], b"head", "what was there stays");
            assert!(decode(encoding, &out[4..]) == text.as_bytes(), "{encoding:?}");
            assert_eq!(out.len() < text.len() / 2, encoding != Encoding::Identity, "{encoding:?}");
        }
    }

    #[test]
    fn nothing_is_a_body_too() {
        for (encoding, least) in ALL.into_iter().zip([0, 18, 9]) {
            let mut out = Vec::new();
            Compressor::new(encoding).finish(&mut out);
            assert!(out.len() >= least, "{encoding:?}: {out:?}");
            assert_eq!(decode(encoding, &out), b"");
        }
        assert!(zstd::stream::decode_all(&[][..]).unwrap().is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_flushed_can_be_decoded(
            pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40_000), any::<bool>()), 0..6),
        ) {
            for encoding in ALL {
                let (mut compressor, mut out, mut written) = (Compressor::new(encoding), Vec::new(), Vec::new());
                for (piece, flush) in &pieces {
                    compressor.write(piece, &mut out);
                    written.extend_from_slice(piece);
                    if *flush {
                        compressor.flush(&mut out);
                        prop_assert!(decode(encoding, &out) == written, "{:?}, in between", encoding);
                    }
                }
                compressor.finish(&mut out);
                let whole = match encoding {
                    Encoding::Zstd => zstd::stream::decode_all(&out[..]).unwrap(),
                    _ => decode(encoding, &out),
                };
                prop_assert!(whole == written, "{:?}", encoding);
            }
        }
    }
}
