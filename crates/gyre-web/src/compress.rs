//! Owns the compression of bodies in pieces, as they are written.

use std::cell::Cell;
use std::io;

use flate2::{Compress, Compression, Crc, FlushCompress};
use zstd::stream::raw::{CParameter, Encoder, InBuffer, Operation, OutBuffer};

use crate::limits::{
    WEB_COMPRESSED_BODIES, WEB_COMPRESSED_STEP_BYTES, WEB_GZIP_LEVEL, WEB_ZSTD_LEVEL,
    WEB_ZSTD_WINDOW_LOG_BYTES,
};

/// Encoding of a compressed body (RFC 9110, section 8.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Encoding {
    /// Returns the name of the encoding in `Content-Encoding`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// Compresses one body. Output is appended to the caller's buffer. It may lag behind the input until a flush.
pub(crate) struct Compressor {
    kind: Kind,
    _count: Counted,
}

enum Kind {
    Gzip(Gzip),
    Zstd(Encoder<'static>),
}

thread_local! {
    /// Number of bodies that this worker is compressing.
    static COMPRESSED: Cell<usize> = const { Cell::new(0) };
}

/// Counts a body in [`COMPRESSED`] until it is dropped.
struct Counted;

impl Counted {
    fn new() -> Self {
        COMPRESSED.set(COMPRESSED.get() + 1);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        COMPRESSED.set(COMPRESSED.get() - 1);
    }
}

/// Returns whether this worker is compressing as many bodies as its memory allows. Further bodies are sent
/// uncompressed.
pub(crate) fn is_full() -> bool {
    COMPRESSED.get() >= WEB_COMPRESSED_BODIES
}

/// Compression into memory can only fail when memory runs out, which ends the process anyway.
const IN_MEMORY: &str = "compression into memory";

impl Compressor {
    /// Starts a body.
    pub(crate) fn new(encoding: Encoding) -> Self {
        let kind = match encoding {
            Encoding::Gzip => Kind::Gzip(Gzip::new()),
            Encoding::Zstd => {
                let mut encoder = Encoder::new(WEB_ZSTD_LEVEL).expect(IN_MEMORY);
                let window = CParameter::WindowLog(WEB_ZSTD_WINDOW_LOG_BYTES);
                encoder.set_parameter(window).expect("a window that zstd allows");
                Kind::Zstd(encoder)
            }
        };
        Self { kind, _count: Counted::new() }
    }

    /// Adds a piece of the body.
    pub(crate) fn write(&mut self, data: &[u8], out: &mut Vec<u8>) {
        match &mut self.kind {
            Kind::Gzip(gzip) => gzip.write(data, out),
            Kind::Zstd(encoder) => {
                let mut input = InBuffer::around(data);
                while input.pos() < data.len() {
                    step(out, |out| encoder.run(&mut input, out));
                }
            }
        }
    }

    /// Writes out all input so far, so that the client can decode it. Each flush costs a few bytes.
    pub(crate) fn flush(&mut self, out: &mut Vec<u8>) {
        match &mut self.kind {
            Kind::Gzip(gzip) => gzip.flush(out),
            Kind::Zstd(encoder) => while step(out, |out| encoder.flush(out)) > 0 {},
        }
    }

    /// Writes the body's end.
    pub(crate) fn finish(self, out: &mut Vec<u8>) {
        match self.kind {
            Kind::Gzip(gzip) => gzip.finish(out),
            Kind::Zstd(mut encoder) => while step(out, |out| encoder.finish(out, true)) > 0 {},
        }
    }
}

/// Deflate with the header and trailer of gzip (RFC 1952).
///
/// The gzip encoder of flate2 is not used because its flush sometimes leaves data behind: if the output is full before
/// all input is compressed, the next step only writes the pending output.
pub(crate) struct Gzip {
    deflate: Compress,
    /// Checksum and length of the input.
    crc: Crc,
    has_head: bool,
}

impl Gzip {
    /// Deflate, no file name, no time, fastest level, unknown operating system.
    const HEAD: [u8; 10] = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 4, 255];

    fn new() -> Self {
        let deflate = Compress::new(Compression::new(WEB_GZIP_LEVEL), false);
        Self { deflate, crc: Crc::new(), has_head: false }
    }

    fn write(&mut self, mut data: &[u8], out: &mut Vec<u8>) {
        self.crc.update(data);
        while !self.step(&mut data, out, FlushCompress::None) || !data.is_empty() {}
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        loop {
            self.write(&[], out); // pending output
            if self.step(&mut &[][..], out, FlushCompress::Sync) {
                return;
            }
        }
    }

    fn finish(mut self, out: &mut Vec<u8>) {
        while !self.step(&mut &[][..], out, FlushCompress::Finish) {}
        out.extend_from_slice(&self.crc.sum().to_le_bytes());
        out.extend_from_slice(&self.crc.amount().to_le_bytes());
    }

    /// Runs one step of deflate. Returns whether room was left in the buffer, so that no output is pending.
    fn step(&mut self, data: &mut &[u8], out: &mut Vec<u8>, flush: FlushCompress) -> bool {
        if !self.has_head {
            out.extend_from_slice(&Self::HEAD);
            self.has_head = true;
        }
        out.reserve(WEB_COMPRESSED_STEP_BYTES);
        let taken = self.deflate.total_in();
        self.deflate.compress_vec(data, out, flush).expect(IN_MEMORY);
        *data = &data[(self.deflate.total_in() - taken) as usize..];
        out.len() < out.capacity()
    }
}

/// Runs one step of zstd, which appends to the buffer. Returns zstd's hint of how much is left to do.
fn step(out: &mut Vec<u8>, run: impl FnOnce(&mut OutBuffer<'_, Vec<u8>>) -> io::Result<usize>) -> usize {
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

    const ALL: [Encoding; 2] = [Encoding::Gzip, Encoding::Zstd];

    /// Decodes the start of a body. Returns the content and whether the body is complete.
    fn decode(encoding: Encoding, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut reader: Box<dyn Read + '_> = match encoding {
            Encoding::Gzip => Box::new(GzDecoder::new(bytes)),
            Encoding::Zstd => Box::new(zstd::stream::read::Decoder::new(bytes).unwrap()),
        };
        let (mut decoded, mut buffer) = (Vec::new(), [0; 4_096]);
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return (decoded, true),
                Ok(count) => decoded.extend_from_slice(&buffer[..count]),
                Err(_) => return (decoded, false),
            }
        }
    }

    #[test]
    fn text_gets_smaller_and_can_be_decoded() {
        let rows =
            |row: u32| format!("{{\"row\": {row}, \"peers\": {}}},\n", row.wrapping_mul(2_654_435_761));
        let text: String = (0..20_000).map(rows).collect();
        for encoding in ALL {
            let (mut compressor, mut out) = (Compressor::new(encoding), b"head".to_vec());
            compressor.write(text.as_bytes(), &mut out);
            compressor.finish(&mut out);
            assert_eq!(&out[..4], b"head", "the buffer's content stays");
            assert!(decode(encoding, &out[4..]) == (text.clone().into_bytes(), true), "{encoding:?}");
            assert!(out.len() < text.len() / 2, "{encoding:?}");
        }
    }

    #[test]
    fn the_number_of_compressed_bodies_is_limited() {
        let gzip = || Compressor::new(Encoding::Gzip);
        let mut bodies: Vec<_> = (0..WEB_COMPRESSED_BODIES - 1).map(|_| gzip()).collect();
        assert!(!is_full());
        bodies.push(gzip());
        assert!(is_full());
        bodies.pop().unwrap().finish(&mut Vec::new());
        assert!(!is_full());
    }

    #[test]
    fn an_empty_body_can_be_decoded() {
        for (encoding, least) in ALL.into_iter().zip([18, 9]) {
            let mut out = Vec::new();
            Compressor::new(encoding).finish(&mut out);
            assert!(out.len() >= least, "{encoding:?}: {out:?}");
            assert_eq!(decode(encoding, &out), (Vec::new(), true));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn flushed_data_can_be_decoded(
            pieces in prop::collection::vec((0..60_000_usize, any::<u64>(), any::<bool>(), any::<bool>()), 0..6),
        ) {
            for encoding in ALL {
                let (mut compressor, mut out, mut written) = (Compressor::new(encoding), Vec::new(), Vec::new());
                for &(length, seed, random, flush) in &pieces {
                    let mut random_bytes = fastrand::Rng::with_seed(seed);
                    let piece: Vec<u8> = (0..length).map(|_| if random { random_bytes.u8(..) } else { 7 }).collect();
                    compressor.write(&piece, &mut out);
                    written.extend_from_slice(&piece);
                    if flush {
                        compressor.flush(&mut out);
                        prop_assert!(decode(encoding, &out).0 == written, "{encoding:?}, after a flush");
                    }
                }
                compressor.finish(&mut out);
                prop_assert!(decode(encoding, &out) == (written, true), "{encoding:?}");
            }
        }
    }
}
