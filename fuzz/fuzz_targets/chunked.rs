//! Owns the fuzzing of chunked bodies. The result must not depend on how the input is split, and a written body must be
//! read back.

#![no_main]

mod cuts;

use gyre_core::wire::chunked::{Decoder, LAST_CHUNK, Malformed, put_chunk};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|wire: &[u8]| {
    let whole = decode(&[wire]);
    for parts in cuts::splits(wire) {
        assert_eq!(decode(&parts), whole);
        let mut written = Vec::new();
        parts.iter().for_each(|part| put_chunk(&mut written, part));
        written.extend_from_slice(LAST_CHUNK);
        let length = written.len();
        written.extend_from_slice(wire);
        assert_eq!(decode(&[&written]), Ok((wire.to_vec(), length, true)));
    }
});

/// Returns the data, the bytes consumed, and whether the body ended.
fn decode(parts: &[&[u8]]) -> Result<(Vec<u8>, usize, bool), Malformed> {
    let (mut decoder, mut body, mut at) = (Decoder::default(), Vec::new(), 0);
    for part in parts {
        let mut rest = *part;
        loop {
            let decoded = decoder.decode(rest).inspect_err(|error| {
                assert_eq!(decoder.decode(rest), Err(*error), "an error repeats");
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
        assert!(rest.is_empty(), "all input is consumed at once");
    }
    Ok((body, at, false))
}
