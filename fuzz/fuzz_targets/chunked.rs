//! Owns the fuzzing of chunked bodies: they are read alike however they come, and what is written is read back.

#![no_main]

mod cuts;

use gyre_core::wire::chunked::{Decoder, LAST_CHUNK, Malformed, put_chunk};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|wire: &[u8]| {
    let whole = decode(&[wire]);
    for pieces in cuts::ways(wire) {
        assert_eq!(decode(&pieces), whole);
        let mut written = Vec::new();
        pieces.iter().for_each(|piece| put_chunk(&mut written, piece));
        written.extend_from_slice(LAST_CHUNK);
        let length = written.len();
        written.extend_from_slice(wire);
        assert_eq!(decode(&[&written]), Ok((wire.to_vec(), length, true)));
    }
});

/// The data, the bytes taken, and whether that was all.
fn decode(pieces: &[&[u8]]) -> Result<(Vec<u8>, usize, bool), Malformed> {
    let (mut decoder, mut body, mut at) = (Decoder::default(), Vec::new(), 0);
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let decoded = decoder.decode(rest).inspect_err(|error| {
                assert_eq!(decoder.decode(rest), Err(*error), "an error stays one");
            })?;
            assert!(decoded.data.len() <= decoded.taken && decoded.taken <= rest.len());
            body.extend_from_slice(decoded.data);
            at += decoded.taken;
            rest = &rest[decoded.taken..];
            if decoded.done {
                return Ok((body, at, true));
            }
            if decoded.taken == 0 {
                break;
            }
        }
        assert!(rest.is_empty(), "what was lent is looked at once");
    }
    Ok((body, at, false))
}
