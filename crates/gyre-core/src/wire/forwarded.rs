//! Owns what proxies say of the client that they speak for: Forwarded (RFC 7239), X-Forwarded-For, X-Forwarded-Proto
//! and X-Real-IP.
//!
//! Each proxy adds to the end of a list whom it got the request from. So a list is read from its end, for as long as
//! the address there is one of a trusted proxy: what stands before the first other address is that client's own claim.
//!
//! A proxy writes one kind of field and lets the others through as the client sent them, and which kind it writes can't
//! be seen. So all kinds that name a client have to name the same one. If they don't, nobody is believed.

use std::net::IpAddr;

use crate::limits::WEB_PROXIES_MAX;

const FORWARDED: &str = "forwarded";
const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
const REAL_IP: &str = "x-real-ip";

/// How the client reached the first of the proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// In the clear.
    Http,
    /// By TLS.
    Https,
}

/// The address of the client. `peer` is the other end of the connection, `fields` the names and values of the request's
/// header fields in order: all of them, or those that [`Head::proxy_fields`](super::http::Head::proxy_fields) returns.
///
/// - The peer is not trusted: it is the client.
/// - Otherwise the client is the last address of the list that is not trusted, or the first of all if each is.
/// - What is no address (`unknown`, `_hidden`) ends the list: the client is the address behind it, or the peer.
/// - Forwarded, X-Forwarded-For and X-Real-IP name different clients: it is the peer.
///
/// Several fields of one name are one list. At most [`WEB_PROXIES_MAX`] addresses of a list are looked at. IPv4
/// addresses are IPv4, even if they come as IPv6 (`::ffff:192.0.2.1`).
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::wire::forwarded::client_ip;
/// use std::net::{IpAddr, Ipv4Addr};
///
/// let proxy = IpAddr::from(Ipv4Addr::LOCALHOST);
/// let fields = [("x-forwarded-for", b"10.1.1.1, 192.0.2.7".as_slice())];
/// let client = client_ip(proxy, fields.into_iter(), |ip| ip.is_loopback());
/// assert_eq!(client, IpAddr::from([192, 0, 2, 7]), "what it said of itself does not count");
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

/// How the client that [`client_ip`] finds reached the first proxy: what the proxy says that names it. `None`: nobody
/// trusted says it, or not all say the same.
///
/// X-Forwarded-Proto has a value for each of X-Forwarded-For, or one for all.
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

/// What all of these are.
fn agreed<T: PartialEq>(mut values: impl Iterator<Item = T>) -> Option<T> {
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
}

/// Where following a list back ends.
struct Hop {
    ip: IpAddr,
    /// Whose entry names it, counted from the list's end. An entry that is no address may still name a protocol.
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

/// What one proxy says in Forwarded.
struct Element {
    node: Option<IpAddr>,
    protocol: Option<Protocol>,
}

/// The elements of Forwarded, from the end.
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

/// The entries of a list of addresses, from the end.
fn addresses<'a>(
    fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    name: &str,
) -> impl Iterator<Item = Option<IpAddr>> {
    from_the_end(fields, name).map(address)
}

/// The entries of a list that fields of this name are, from the end, as far as it is read.
///
/// It is cut at each comma, even between quotes: no address has one, and a client could otherwise open quotes that
/// take in what its proxy adds.
fn from_the_end<'a>(
    fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    name: &str,
) -> impl Iterator<Item = &'a str> {
    let named = fields.filter(|(known, _)| known.eq_ignore_ascii_case(name));
    let values: Vec<&[u8]> = named.map(|(_, value)| value).collect();
    let entries = values.into_iter().rev().flat_map(|value| value.rsplit(|&byte| byte == b','));
    // Other bytes than those of ASCII are in no address.
    let texts = entries.map(|entry| str::from_utf8(entry).map_or("?", str::trim));
    texts.filter(|text| !text.is_empty()).take(WEB_PROXIES_MAX)
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// Reads `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
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
