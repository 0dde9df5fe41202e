//! Owns the checks from the outside: public URLs, their names, served address families, and the choice of the trackers
//! to query.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::Finding;
use super::interfaces::own_addresses;
use super::machine::Machine;
use super::probe::{self, Protocol, Target};
use crate::config::{Config, Listen};
use crate::limits::{DOCTOR_ADDRESSES, DOCTOR_RESOLVE_DEADLINE_MS, DOCTOR_TARGETS};
use crate::server;
use crate::types::Family;

/// A public announce URL of a tracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    protocol: Protocol,
    host: String,
    port: u16,
    path: String,
}

/// Why a text is not a valid [`PublicUrl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublicUrlError {
    /// The scheme is neither UDP nor HTTP.
    #[error("the URL must start with `udp://` or `http://`")]
    Scheme,
    /// The scheme needs TLS, which gyre leaves to a proxy.
    #[error("gyre does not support TLS; use the `http://` address behind the proxy")]
    Tls,
    /// The host is not valid.
    #[error("the host must be a name or an address (IPv6 in brackets)")]
    Host,
    /// The port is not valid, or missing.
    #[error("the port is missing, or out of range: 1 to 65535")]
    Port,
    /// White space or control characters in the path.
    #[error("the path has invalid characters")]
    Path,
}

impl FromStr for PublicUrl {
    type Err = PublicUrlError;

    /// Reads `udp://HOST:PORT[/PATH]` or `http://HOST[:PORT][/PATH]`.
    fn from_str(text: &str) -> Result<Self, PublicUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(PublicUrlError::Scheme)?;
        let (protocol, default_port) = match scheme.to_ascii_lowercase().as_str() {
            "udp" => (Protocol::Udp, None),
            "http" => (Protocol::Http, Some(80)),
            "https" => return Err(PublicUrlError::Tls),
            _ => return Err(PublicUrlError::Scheme),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (host, port) = match authority.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((host, rest))) => {
                host.parse::<Ipv6Addr>().map_err(|_| PublicUrlError::Host)?;
                (host, rest.strip_prefix(':').or(if rest.is_empty() { None } else { Some("") }))
            }
            Some(None) => return Err(PublicUrlError::Host),
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || host.len() > 253 || !host.chars().all(named) {
            return Err(PublicUrlError::Host);
        }
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0),
            None => default_port,
        };
        if path.chars().any(|c| !c.is_ascii_graphic() || c == '#') {
            return Err(PublicUrlError::Path);
        }
        let path = match path {
            "" | "/" => "/announce".to_owned(),
            query if query.starts_with('?') => format!("/announce{query}"),
            path => path.to_owned(),
        };
        Ok(Self { protocol, host: host.to_owned(), port: port.ok_or(PublicUrlError::Port)?, path })
    }
}

impl PublicUrl {
    /// Returns host and port as in a URL: an IPv6 address is in brackets.
    fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    fn target(&self, address: SocketAddr) -> Target {
        Target {
            protocol: self.protocol,
            address,
            host: self.authority(),
            path: self.path.clone(),
            public: true,
        }
    }
}

/// Queries the tracker at its local addresses and at its public URLs.
pub(super) fn query(config: &Config, urls: &[PublicUrl], machine: &Machine) -> Vec<Finding> {
    let own = own_addresses(machine);
    let mut findings = vec![families(config, &own)];
    let mut targets = Vec::new();
    for (protocol, listen) in [(Protocol::Udp, &config.udp), (Protocol::Http, &config.http)] {
        for address in listen.addresses() {
            let (finding, listens) =
                listening(protocol, listen, address, || server::probe(protocol.name(), address));
            findings.push(finding);
            targets.extend(listens.then(|| local_target(protocol, address)));
        }
    }
    let resolved: Vec<_> = urls.iter().map(|url| resolve(url.host.clone(), url.port)).collect();
    if urls.is_empty() {
        findings.push(Finding::ok("public-url", "not checked: no --public-url is given"));
    }
    let deadline = Duration::from_millis(DOCTOR_RESOLVE_DEADLINE_MS);
    let clock = crate::time::Clock::start();
    for (url, resolved) in urls.iter().zip(resolved) {
        // All names are resolved in parallel, within one time limit.
        let left = deadline.saturating_sub(clock.now().since(crate::time::Timestamp::default()));
        let late = || Err(io::Error::new(io::ErrorKind::TimedOut, "the name server does not answer"));
        let resolved = resolved.recv_timeout(left).unwrap_or_else(|_| late());
        findings.push(name(url, resolved.as_deref(), &own));
        targets.extend(chosen(&resolved.unwrap_or_default()).into_iter().map(|address| url.target(address)));
    }
    targets.sort_by_key(|target| !target.public);
    let left_out = targets.split_off(targets.len().min(DOCTOR_TARGETS));
    if !left_out.is_empty() {
        let what =
            format!("not checked: {} more addresses, after the first {DOCTOR_TARGETS}", left_out.len());
        findings.push(Finding::ok("answer", what));
    }
    findings.extend(query_all(&targets));
    findings
}

/// Queries all trackers in parallel.
fn query_all(targets: &[Target]) -> Vec<Finding> {
    thread::scope(|scope| {
        let query = |target| move || probe::judge(target, &probe::query(target));
        let threads: Vec<_> =
            targets.iter().map(|target| thread::Builder::new().spawn_scoped(scope, query(target))).collect();
        let answers = threads.into_iter().map(|thread| match thread {
            Ok(thread) => thread.join().unwrap_or_default(),
            Err(error) => vec![
                Finding::warn("answer", format!("can't query a tracker: {error}"))
                    .costs("problems in this area go unnoticed")
                    .fix("raise the limit of threads (`ulimit -u`, TasksMax= in the systemd unit)"),
            ],
        });
        answers.flatten().collect()
    })
}

/// Returns the first addresses of each family.
fn chosen(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let of = |family| addresses.iter().copied().filter(move |address| Family::of(address.ip()) == family);
    of(Family::V4).take(DOCTOR_ADDRESSES).chain(of(Family::V6).take(DOCTOR_ADDRESSES)).collect()
}

/// Returns the target for a listening address. A wildcard address is queried over loopback.
fn local_target(protocol: Protocol, address: SocketAddr) -> Target {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let address = SocketAddr::new(ip, address.port());
    Target { protocol, address, host: address.to_string(), path: "/announce".into(), public: false }
}

/// Checks whether gyre can listen on an address, and whether something listens on it already.
fn listening(
    protocol: Protocol,
    listen: &Listen,
    address: SocketAddr,
    probe: impl FnOnce() -> io::Result<()>,
) -> (Finding, bool) {
    const CHECK: &str = "listen-address";
    let name = format!("{} {address}", protocol.name());
    if address.port() == 0 {
        return (Finding::ok(CHECK, format!("{name}: any free port")), false);
    }
    let error = match probe() {
        Ok(()) => return (Finding::ok(CHECK, format!("{name} is free")), false),
        Err(error) => error,
    };
    let finding = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            return (
                Finding::ok(CHECK, format!("something listens on {name}; this is fine if it is gyre")),
                true,
            );
        }
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) if *listen == Listen::Default && address.is_ipv6() => {
            return (
                Finding::ok(CHECK, format!("{name}: not used, because this machine has no IPv6")),
                false,
            );
        }
        Some(libc::EACCES | libc::EPERM) => Finding::fail(CHECK, format!("can't listen on {name}: {error}"))
            .fix(
                "run it as root, set AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit, or use a \
             port from 1024 on",
            ),
        Some(libc::EADDRNOTAVAIL) => Finding::fail(CHECK, format!("can't listen on {name}: {error}"))
            .fix("use an address of this machine (`ip addr` lists them)"),
        _ => Finding::fail(CHECK, format!("can't listen on {name}: {error}")).fix("use another address"),
    };
    (finding.costs("gyre does not start"), false)
}

/// Returns whether an address can be reached over the internet.
fn is_global(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(ip.is_loopback() || ip.is_link_local() || ip.is_unspecified()),
        IpAddr::V6(ip) => {
            !(ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_unique_local())
        }
    }
}

/// Checks whether both address families are served.
fn families(config: &Config, own: &[IpAddr]) -> Finding {
    const CHECK: &str = "families";
    let listens = |family| {
        let all = [&config.udp, &config.http].into_iter().filter(|listen| !listen.addresses().is_empty());
        all.map(Listen::addresses)
            .all(|addresses| addresses.iter().any(|address| Family::of(address.ip()) == family))
    };
    let has = |family| own.iter().any(|ip| is_global(ip) && Family::of(*ip) == family);
    let missing = |what: String, fix: &str, share: &str| {
        Finding::warn(CHECK, what)
            .costs(format!("clients with this address family ({share}) are not served"))
            .fix(fix)
    };
    let (v4, v6) = ("most clients", "20 to 33 % of the traffic of public trackers");
    if !listens(Family::V4) {
        return missing(
            "not every protocol listens on IPv4".into(),
            "set an IPv4 address with both --udp and --http",
            v4,
        );
    }
    if !listens(Family::V6) {
        return missing(
            "not every protocol listens on IPv6".into(),
            "set an IPv6 address with both --udp and --http",
            v6,
        );
    }
    if own.is_empty() {
        let fix = "run `gyre doctor` where /proc/net is readable";
        return Finding::warn(CHECK, "can't check the addresses of the machine")
            .costs("problems in this area go unnoticed")
            .fix(fix);
    }
    if !has(Family::V4) {
        return missing(
            "the machine has no IPv4 address".into(),
            "get an address from the provider (`ip -4 addr` lists the current ones)",
            v4,
        );
    }
    if !has(Family::V6) {
        let what = "the machine has no public IPv6 address".into();
        return missing(what, "get an address from the provider (`ip -6 addr` lists the current ones)", v6);
    }
    Finding::ok(CHECK, "gyre listens on IPv4 and IPv6, and the machine has addresses of both")
}

/// Starts to resolve a name. A name server that never answers blocks only this thread.
fn resolve(host: String, port: u16) -> mpsc::Receiver<io::Result<Vec<SocketAddr>>> {
    let (sender, receiver) = mpsc::channel();
    let resolve = move || {
        let resolved = (host.as_str(), port).to_socket_addrs();
        let unique = resolved.map(|addresses| addresses.collect::<BTreeSet<_>>().into_iter().collect());
        let _ = sender.send(unique);
    };
    // If the thread can't be started, the sender is dropped, which counts as no answer.
    let _ = thread::Builder::new().name("gyre-doctor-dns".into()).spawn(resolve);
    receiver
}

/// Checks the addresses of a URL's name.
fn name(url: &PublicUrl, resolved: Result<&[SocketAddr], &io::Error>, own: &[IpAddr]) -> Finding {
    const CHECK: &str = "public-url";
    let host = &url.host;
    let addresses = match resolved {
        Ok(addresses) if !addresses.is_empty() => addresses,
        Ok(_) => return unresolved(host, "the name has no address"),
        Err(error) => return unresolved(host, &error.to_string()),
    };
    let list = |family| {
        let of = addresses.iter().map(SocketAddr::ip).filter(|ip| Family::of(*ip) == family);
        let list = of.map(|ip| ip.to_string()).collect::<Vec<_>>().join(", ");
        if list.is_empty() { "none".to_owned() } else { list }
    };
    let here = addresses.iter().filter(|address| own.contains(&address.ip())).count();
    let here = match here {
        0 => "none of them belongs to this machine (NAT, a proxy, or another machine)".to_owned(),
        all if all == addresses.len() => "all of them belong to this machine".to_owned(),
        some => format!("{some} of {} belong to this machine", addresses.len()),
    };
    let (v4, v6) = (list(Family::V4), list(Family::V6));
    let what = format!("{host} has the addresses A {v4} and AAAA {v6}; {here}");
    let literal = host.parse::<IpAddr>().is_ok();
    let fix = |record: &str| match literal {
        true => "use a name with both records instead of an address".to_owned(),
        false => format!("add an {record} record for {host} to its zone (`dig {host} {record}` shows it)"),
    };
    match (v4.as_str(), v6.as_str()) {
        ("none", _) => Finding::warn(CHECK, what)
            .costs("clients with IPv4 only, which are most clients, are not served")
            .fix(fix("A")),
        (_, "none") => Finding::warn(CHECK, what)
            .costs("clients with IPv6 (20 to 33 % of the traffic of public trackers) are not served over it")
            .fix(fix("AAAA")),
        _ => Finding::ok(CHECK, what),
    }
}

fn unresolved(host: &str, why: &str) -> Finding {
    Finding::fail("public-url", format!("can't resolve {host}: {why}"))
        .costs("clients can't find the tracker")
        .fix(format!("check the name servers with `dig {host} A` and `dig {host} AAAA`"))
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn urls() {
        let url = |text: &str| text.parse::<PublicUrl>();
        let parts = |text: &str| url(text).map(|url| (url.authority(), url.path)).unwrap();
        assert_eq!(
            parts("udp://tracker.example:6969/announce"),
            ("tracker.example:6969".into(), "/announce".into())
        );
        assert_eq!(parts("UDP://[::1]:6969"), ("[::1]:6969".into(), "/announce".into()));
        assert_eq!(parts("http://a.example"), ("a.example:80".into(), "/announce".into()));
        assert_eq!(parts("http://a.example/?key=1"), ("a.example:80".into(), "/?key=1".into()));
        assert_eq!(parts("http://a.example?key=1"), ("a.example:80".into(), "/announce?key=1".into()));
        assert_eq!(
            parts("http://[2001:db8::1]/x/announce"),
            ("[2001:db8::1]:80".into(), "/x/announce".into())
        );
        for (text, error) in [
            ("tracker.example:6969", PublicUrlError::Scheme),
            ("wss://a:1", PublicUrlError::Scheme),
            ("https://a/announce", PublicUrlError::Tls),
            ("udp://a", PublicUrlError::Port),
            ("udp://a:0", PublicUrlError::Port),
            ("udp://a:65536", PublicUrlError::Port),
            ("udp://[::1]x", PublicUrlError::Port),
            ("udp://:1", PublicUrlError::Host),
            ("udp://user@a:1", PublicUrlError::Host),
            ("udp://[a]:1", PublicUrlError::Host),
            ("udp://[::1", PublicUrlError::Host),
            ("http://a b/", PublicUrlError::Host),
            ("http://a/\r\nX: y", PublicUrlError::Path),
            ("http://a/ b", PublicUrlError::Path),
        ] {
            assert_eq!(url(text), Err(error), "{text}");
        }
    }

    #[test]
    fn names_with_one_and_with_both_families() {
        let url: PublicUrl = "udp://tracker.example:6969".parse().unwrap();
        let own: [IpAddr; 1] = ["192.0.2.1".parse().unwrap()];
        let find = |addresses: &[&str]| {
            let addresses: Vec<SocketAddr> =
                addresses.iter().map(|address| address.parse().unwrap()).collect();
            name(&url, Ok(&addresses), &own)
        };
        let both = find(&["192.0.2.1:1", "[2001:db8::1]:1"]);
        assert!(both.level == Level::Ok && both.what.contains("1 of 2 belong to this machine"), "{both:?}");
        let four = find(&["192.0.2.1:1"]);
        assert!(four.level == Level::Warn && four.fix.as_ref().unwrap().contains("AAAA"), "{four:?}");
        let six = find(&["[2001:db8::1]:1"]);
        assert!(six.level == Level::Warn && six.what.contains("none of them"), "{six:?}");
        assert_eq!(find(&[]).level, Level::Fail);
        assert_eq!(name(&url, Err(&io::ErrorKind::TimedOut.into()), &own).level, Level::Fail);
        let many: Vec<SocketAddr> = (0..9).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
        assert_eq!(chosen(&many).len(), DOCTOR_ADDRESSES);
        assert!(resolve("127.0.0.1".into(), 7).recv().unwrap().unwrap() == ["127.0.0.1:7".parse().unwrap()]);
    }

    #[test]
    fn served_families() {
        let ips = |list: &[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        let both = ips(&["127.0.0.1", "192.0.2.1", "::1", "2001:db8::1"]);
        let level = |config: &Config, own: &[IpAddr]| families(config, own).level;
        let default = Config::default();
        assert_eq!(level(&default, &both), Level::Ok);
        assert_eq!(level(&default, &ips(&["192.0.2.1", "fe80::1", "fd00::1", "::1"])), Level::Warn);
        assert_eq!(level(&default, &ips(&["127.0.0.1", "2001:db8::1"])), Level::Warn);
        assert_eq!(level(&default, &[]), Level::Warn);
        let at = |list: &[&str]| Listen::At(list.iter().map(|address| address.parse().unwrap()).collect());
        assert_eq!(level(&Config { udp: at(&["0.0.0.0:1"]), ..default.clone() }, &both), Level::Warn);
        assert_eq!(level(&Config { udp: at(&["[::]:1"]), ..default.clone() }, &both), Level::Warn);
        assert_eq!(level(&Config { udp: at(&[]), ..default }, &both), Level::Ok, "HTTP only");
    }

    #[test]
    fn listening_on_free_and_unavailable_addresses() {
        let address: SocketAddr = "[::]:80".parse().unwrap();
        let judge = |listen: &Listen, errno: i32| {
            let error = Err(io::Error::from_raw_os_error(errno));
            let (finding, listens) = listening(Protocol::Udp, listen, address, || error);
            (finding.level, listens)
        };
        let at = Listen::At(vec![address]);
        assert_eq!(judge(&at, libc::EADDRINUSE), (Level::Ok, true));
        assert_eq!(judge(&at, libc::EADDRNOTAVAIL), (Level::Fail, false));
        assert_eq!(judge(&Listen::Default, libc::EADDRNOTAVAIL), (Level::Ok, false));
        assert_eq!(judge(&at, libc::EACCES), (Level::Fail, false));
        let free = listening(Protocol::Udp, &at, address, || Ok(()));
        assert!(free.0.level == Level::Ok && !free.1);
        let target = local_target(Protocol::Http, address);
        assert_eq!((target.host.as_str(), target.public), ("[::1]:80", false));
    }
}
