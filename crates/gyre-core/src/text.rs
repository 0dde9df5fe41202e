//! Owns text for people: sizes in readable units, and foreign text made safe to print.

/// Formats a number of bytes with a binary unit: exactly, or rounded down with at least two digits.
pub fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fits = |bits: i32| bytes >> bits >= 10 || bytes != 0 && bytes.trailing_zeros() as i32 >= bits;
    let found = units.iter().find(|(bits, _)| fits(*bits));
    found.map_or(format!("{bytes} B"), |(bits, unit)| format!("{} {unit}", bytes >> bits))
}

/// Replaces control characters, so that foreign text (thread names, responses of trackers, peer ids) can't control the
/// terminal.
///
/// ```
/// # use gyre_core as gyre;
/// assert_eq!(gyre::text::printable("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
/// ```
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit_and_at_least_two_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1_500, "1500 B"),
            (8 << 20, "8 MiB"),
            (720_896, "704 KiB"),
            (24_000_000_000, "22 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
