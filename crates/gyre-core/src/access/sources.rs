//! Owns lists of source networks.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::lines::Entries;
use crate::types::parse_network;

/// A list of networks.
#[derive(Clone, Debug)]
pub struct SourceList {
    /// First and last address of each network, sorted. No two overlap or are adjacent.
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl SourceList {
    /// Returns whether this address is in the list. An IPv4-mapped IPv6 address counts as IPv4.
    #[inline]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => is_in(&self.v4, ip.to_bits()),
            IpAddr::V6(ip) => is_in(&self.v6, ip.to_bits()),
        }
    }
}

fn is_in<N: Ord + Copy>(networks: &[(N, N)], ip: N) -> bool {
    let behind = networks.partition_point(|(first, _)| *first <= ip);
    behind > 0 && ip <= networks[behind - 1].1
}

/// Reads a list of networks. Each line has a network like `10.0.0.0/8` or `2001:db8::/32`, or a single address.
#[derive(Debug, Default)]
pub struct Sources {
    v4: Vec<Ipv4Net>,
    v6: Vec<Ipv6Net>,
}

impl Entries for Sources {
    type List = SourceList;
    type Key = IpNet;

    fn enter(&mut self, words: &[&[u8]]) -> Result<(), (usize, String)> {
        if words.len() > 1 {
            return Err((1, "only a comment may follow a network".into()));
        }
        match Self::key(words[0]) {
            Some(IpNet::V4(network)) => self.v4.push(network),
            Some(IpNet::V6(network)) => self.v6.push(network),
            None => return Err((0, "not a network like 10.0.0.0/8 or an address".into())),
        }
        Ok(())
    }

    fn finish(self) -> SourceList {
        let v4 = Ipv4Net::aggregate(&self.v4);
        let v6 = Ipv6Net::aggregate(&self.v6);
        let mut v4: Box<[_]> =
            v4.iter().map(|net| (net.network().to_bits(), net.broadcast().to_bits())).collect();
        let mut v6: Box<[_]> =
            v6.iter().map(|net| (net.network().to_bits(), net.broadcast().to_bits())).collect();
        v4.sort_unstable();
        v6.sort_unstable();
        SourceList { v4, v6 }
    }

    fn key(word: &[u8]) -> Option<IpNet> {
        std::str::from_utf8(word).ok().and_then(parse_network)
    }
}
