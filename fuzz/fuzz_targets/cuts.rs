//! Owns splitting an input into parts, at positions derived from the input itself, so that the input has no extra bytes
//! for them.

use fastrand::Rng;

/// Returns several ways to split the bytes. One of them is into single bytes.
pub fn splits(bytes: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let mut rng = Rng::with_seed(crc32fast::hash(bytes).into());
    let single = bytes.chunks(1).collect();
    std::iter::once(single).chain((0..3).map(move |_| {
        let (mut rest, mut parts) = (bytes, Vec::new());
        let longest = rng.usize(1..=64);
        while !rest.is_empty() {
            let (part, left) = rest.split_at(rng.usize(1..=longest).min(rest.len()));
            parts.push(part);
            rest = left;
        }
        parts
    }))
}
