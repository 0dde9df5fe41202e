//! Owns the header fields by which proxies describe the client: Forwarded (RFC 7239), X-Forwarded-For,
//! X-Forwarded-Proto and X-Real-IP.
//!
//! Each proxy appends the address from which it received the request to a list. A list is therefore read from its end,
//! while the addresses there belong to trusted proxies. The first other address is the client. The entries before it
//! were sent by the client and prove nothing.
//!
//! A proxy writes one kind of field and passes the others on as the client sent them. The tracker can't know which kind
//! the proxy writes. Therefore all kinds that name a client must name the same one. Otherwise none of them is used.

use std::net::IpAddr;

use crate::limits::WEB_PROXIES_MAX;

const FORWARDED: &str = "forwarded";
const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
const REAL_IP: &str = "x-real-ip";

/// The protocol between the client and the first proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

/// Returns the address of the client. `peer` is the other end of the connection. `fields` are the names and values of
/// the request's header fields in order: all of them, or those that
/// [`Head::proxy_fields`](super::http::Head::proxy_fields) returns.
///
/// - If the peer is not trusted, it is the client.
/// - Otherwise the client is the last address in the list that is not trusted, or the first address if all are trusted.
/// - An entry that is not an address (`unknown`, `_hidden`) ends the search: the client is the address after it, or the
///   peer.
/// - If Forwarded, X-Forwarded-For and X-Real-IP name different clients, the result is the peer.
///
/// Several fields with the same name form one list. At most [`WEB_PROXIES_MAX`] addresses of a list are read.
/// IPv4-mapped IPv6 addresses (`::ffff:192.0.2.1`) count as IPv4.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::wire::forwarded::client_ip;
/// use std::net::{IpAddr, Ipv4Addr};
///
/// let proxy = IpAddr::from(Ipv4Addr::LOCALHOST);
/// let fields = [("x-forwarded-for", b"10.1.1.1, 192.0.2.7".as_slice())];
/// let client = client_ip(proxy, fields.into_iter(), |ip| ip.is_loopback());
/// assert_eq!(client, IpAddr::from([192, 0, 2, 7]), "the client's own claim is ignored");
/// ```
pub fn client_ip<'a>(
    peer: IpAddr,
    fields: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_trusted(peer) {
        return peer;
    }
    let forwarded = Hop::find(peer, elements(fields.clone()).map(|element| element.node), &is_trusted);
    let listed = Hop::find(peer, addresses(fields.clone(), FORWARDED_FOR), &is_trusted);
    let single = Hop::find(peer, addresses(fields, REAL_IP).take(1), &is_trusted);
    let named = [forwarded.ip, listed.ip, single.ip];
    let clients = named.into_iter().filter(|ip| !is_trusted(*ip));
    match agreed(clients.clone()) {
        Some(client) => client,
        None if clients.count() > 0 => peer,
        None => named.into_iter().find(|ip| *ip != peer).unwrap_or(peer),
    }
}

/// Returns the protocol between the client that [`client_ip`] finds and the first proxy, as given by the proxy that
/// names the client. `None` if no trusted proxy gives the protocol, or if the fields contradict each other.
///
/// X-Forwarded-Proto has one value for each entry of X-Forwarded-For, or one for all.
pub fn protocol<'a>(
    peer: IpAddr,
    fields: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Option<Protocol> {
    let peer = peer.to_canonical();
    if !is_trusted(peer) {
        return None;
    }
    let forwarded = Hop::find(peer, elements(fields.clone()).map(|element| element.node), &is_trusted);
    let listed = Hop::find(peer, addresses(fields.clone(), FORWARDED_FOR), &is_trusted);
    let element = elements(fields.clone()).nth(forwarded.at).and_then(|element| element.protocol);
    let value = from_the_end(fields, FORWARDED_PROTO).take(listed.at + 1).last().and_then(Protocol::parse);
    agreed(element.into_iter().chain(value))
}

/// Whether fields of this name, in any case, are read here. Its length is 9, 15 or 17.
pub(super) fn is_read(name: &str) -> bool {
    [FORWARDED, FORWARDED_FOR, FORWARDED_PROTO, REAL_IP].iter().any(|known| name.eq_ignore_ascii_case(known))
}

impl Protocol {
    fn parse(text: &str) -> Option<Self> {
        match text {
            _ if text.eq_ignore_ascii_case("https") => Some(Self::Https),
            _ if text.eq_ignore_ascii_case("http") => Some(Self::Http),
            _ => None,
        }
    }
}

/// Returns the common value, or `None` if there are no values or they differ.
fn agreed<T: PartialEq>(mut values: impl Iterator<Item = T>) -> Option<T> {
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
}

/// The entry at which the search through a list ends.
struct Hop {
    ip: IpAddr,
    /// Index of the entry from the end of the list. An entry without an address may still have a protocol.
    at: usize,
}

impl Hop {
    fn find(
        peer: IpAddr,
        nodes: impl Iterator<Item = Option<IpAddr>>,
        is_trusted: &impl Fn(IpAddr) -> bool,
    ) -> Self {
        let mut hop = Self { ip: peer, at: 0 };
        for (at, node) in nodes.take(WEB_PROXIES_MAX).enumerate() {
            hop.at = at;
            let Some(ip) = node else { break };
            hop.ip = ip;
            if !is_trusted(ip) {
                break;
            }
        }
        hop
    }
}

/// An element of Forwarded, written by one proxy.
struct Element {
    node: Option<IpAddr>,
    protocol: Option<Protocol>,
}

/// Iterates over the elements of Forwarded, from the end.
fn elements<'a>(fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> impl Iterator<Item = Element> {
    from_the_end(fields, FORWARDED).map(|element| {
        let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
        let value = |name: &str| {
            let named = |(known, _): &(&str, &str)| known.trim().eq_ignore_ascii_case(name);
            pairs.clone().find(named).map(|(_, value)| unquoted(value.trim()))
        };
        Element { node: value("for").and_then(address), protocol: value("proto").and_then(Protocol::parse) }
    })
}

/// Iterates over the entries of a list of addresses, from the end.
fn addresses<'a>(
    fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    name: &str,
) -> impl Iterator<Item = Option<IpAddr>> {
    from_the_end(fields, name).map(address)
}

/// Iterates over the list entries in all fields with this name, from the end, up to [`WEB_PROXIES_MAX`].
///
/// The list is split at each comma, even within quotes. Addresses contain no commas, and otherwise a client could open
/// a quote that includes the entry its proxy appends.
fn from_the_end<'a>(
    fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    name: &str,
) -> impl Iterator<Item = &'a str> {
    let named = fields.filter(|(known, _)| known.eq_ignore_ascii_case(name));
    let values: Vec<&[u8]> = named.map(|(_, value)| value).collect();
    let entries = values.into_iter().rev().flat_map(|value| value.rsplit(|&byte| byte == b','));
    // An address has no bytes outside ASCII.
    let texts = entries.map(|entry| str::from_utf8(entry).map_or("?", str::trim));
    texts.filter(|text| !text.is_empty()).take(WEB_PROXIES_MAX)
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// Parses `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((inner, port)) if port.is_empty() || port.starts_with(':') => inner,
        Some(_) => return None,
        None => text.split_once(':').filter(|(_, port)| !port.contains(':')).map_or(text, |(ip, _)| ip),
    };
    bare.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests;
