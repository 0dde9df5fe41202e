//! Owns the names of clients, by the prefix of their peer ids (BEP 20).

/// Azureus style: `-`, two letters, four characters of version, `-`.
const AZUREUS: [(&str, &str); 28] = [
    ("AZ", "Vuze"),
    ("BC", "BitComet"),
    ("BI", "BiglyBT"),
    ("BT", "BitTorrent"),
    ("DE", "Deluge"),
    ("FD", "Free Download Manager"),
    ("FL", "Folx"),
    ("FW", "FrostWire"),
    ("HL", "Halite"),
    ("KT", "KTorrent"),
    ("LT", "libtorrent"),
    ("LW", "LimeWire"),
    ("PI", "PicoTorrent"),
    ("SD", "Thunder"),
    ("SZ", "Shareaza"),
    ("TL", "Tribler"),
    ("TR", "Transmission"),
    ("TX", "Tixati"),
    ("UE", "µTorrent Embedded"),
    ("UM", "µTorrent for Mac"),
    ("UT", "µTorrent"),
    ("UW", "µTorrent Web"),
    ("WD", "WebTorrent Desktop"),
    ("WW", "WebTorrent"),
    ("XL", "Xunlei"),
    ("lt", "rTorrent"),
    ("qB", "qBittorrent"),
    ("st", "SharkTorrent"),
];
/// Other styles.
const OTHERS: [(&str, &str); 6] = [
    ("A2-", "aria2"),
    ("M4-", "BitTorrent"),
    ("M6-", "BitTorrent"),
    ("M7-", "BitTorrent"),
    ("TIX", "Tixati"),
    ("OP", "Opera"),
];

/// Returns the name of the client with this start of a peer id, if it is known.
pub(super) fn name(id: &str) -> Option<&'static str> {
    let named = |(prefix, _): &&(&str, &str), id: &str| id.starts_with(prefix);
    let found = match id.strip_prefix('-') {
        Some(rest) => AZUREUS.iter().find(|entry| named(entry, rest)),
        None => OTHERS.iter().find(|entry| named(entry, id)),
    };
    found.map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn clients_are_recognized_by_their_peer_ids() {
        assert_eq!(name("-qB4630-"), Some("qBittorrent"));
        assert_eq!(name("-lt0D80-"), Some("rTorrent"));
        assert_eq!(name("-LT2080-"), Some("libtorrent"));
        assert_eq!(name("A2-1-36-"), Some("aria2"));
        assert_eq!(name("-A2-1-36"), None);
        assert_eq!(name("qB4630"), None);
        assert_eq!(name(""), None);
    }
}
