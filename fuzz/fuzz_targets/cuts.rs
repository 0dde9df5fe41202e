//! Owns how inputs are cut: at places drawn from the input itself, so that it stays as it comes from a wire.

use fastrand::Rng;

/// Several ways to cut these bytes, among them into single ones.
pub fn ways(bytes: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let mut rng = Rng::with_seed(crc32fast::hash(bytes).into());
    let single = bytes.chunks(1).collect();
    std::iter::once(single).chain((0..3).map(move |_| {
        let (mut rest, mut pieces) = (bytes, Vec::new());
        let longest = rng.usize(1..=64);
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(rng.usize(1..=longest).min(rest.len()));
            pieces.push(piece);
            rest = behind;
        }
        pieces
    }))
}
