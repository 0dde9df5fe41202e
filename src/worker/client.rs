//! Owns the source of a request: the other end of its connection or, through a trusted proxy, the client that the
//! proxy names.

use std::net::IpAddr;

use super::Trusted;
use crate::wire::forwarded::{Protocol, client_ip, protocol};
use crate::wire::http::Head;

/// The other end of a connection: a client or a proxy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) ip: IpAddr,
    /// It is a client that uses TLS to a proxy that speaks the PROXY protocol.
    pub(super) is_https: bool,
    /// Number of the listener that accepted the connection.
    pub(super) listener: usize,
}

/// The client that a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    pub(super) ip: IpAddr,
    pub(super) is_https: bool,
}

impl Peer {
    /// Whether it is a proxy that may name its clients.
    pub(super) fn is_trusted(&self, proxies: &[Trusted]) -> bool {
        self.trusts(proxies, self.ip)
    }

    /// Returns the client of a request.
    pub(super) fn client(&self, proxies: &[Trusted], head: &Head<'_, '_>) -> Client {
        let Self { ip, is_https, .. } = *self;
        if !self.is_trusted(proxies) {
            return Client { ip, is_https };
        }
        let is_trusted = |ip| self.trusts(proxies, ip);
        let protocol = protocol(ip, head.proxy_fields(), is_trusted);
        Client {
            ip: client_ip(ip, head.proxy_fields(), is_trusted),
            is_https: protocol.map_or(is_https, |protocol| protocol == Protocol::Https),
        }
    }

    fn trusts(&self, proxies: &[Trusted], ip: IpAddr) -> bool {
        let here = |only: Option<usize>| only.is_none_or(|only| only == self.listener);
        proxies.iter().any(|proxy| here(proxy.listener) && proxy.network.contains(&ip))
    }
}
