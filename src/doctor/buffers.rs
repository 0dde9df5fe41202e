//! Owns the judgement on the kernel's limits of sockets: receive and send buffers, their sum, the queue of connections.

use super::machine::{Machine, Seen, Unread};
use super::{Finding, parse};
use crate::config::Config;
use crate::limits::{DATAGRAM_KERNEL_BYTES, HTTP_BACKLOG, REPLY_SLOTS};
use crate::text::size;

/// Of `linux/capability.h`.
const CAP_NET_ADMIN: u32 = 12;
/// `net.ipv4.udp_mem` counts pages.
const PAGE_BYTES: u64 = 4_096;

/// What the checks of buffers look at.
pub(super) struct Buffers {
    rmem_max: Seen<u64>,
    wmem_default: Seen<u64>,
    udp_mem: Seen<String>,
    somaxconn: Seen<u64>,
    status: Seen<String>,
}

impl Buffers {
    pub(super) fn read(machine: &Machine) -> Self {
        Self {
            rmem_max: machine.number("/proc/sys/net/core/rmem_max"),
            wmem_default: machine.number("/proc/sys/net/core/wmem_default"),
            udp_mem: machine.line("/proc/sys/net/ipv4/udp_mem"),
            somaxconn: machine.number("/proc/sys/net/core/somaxconn"),
            status: machine.text("/proc/self/status"),
        }
    }

    /// Judges all of it, for so many workers.
    pub(super) fn judge(&self, config: &Config, workers: usize) -> Vec<Finding> {
        let mut findings = Vec::new();
        if !config.udp.addresses().is_empty() {
            findings.extend([self.receive(config), self.sum(config, workers), self.send()]);
        }
        if !config.http.addresses().is_empty() {
            findings.push(self.backlog());
        }
        findings
    }

    fn receive(&self, config: &Config) -> Finding {
        const CHECK: &str = "receive-buffer";
        let most = match self.rmem_max {
            Ok(most) => most,
            Err(unread) => return Finding::unknown(CHECK, "net.core.rmem_max", unread),
        };
        // What is asked for is half of it, which the kernel doubles for its bookkeeping.
        let wanted = config.receive_buffer_bytes as u64;
        let had = most.saturating_mul(2);
        if had >= wanted {
            return Finding::ok(
                CHECK,
                format!("net.core.rmem_max allows the {} of --receive-buffer", size(wanted)),
            );
        }
        let fix = format!("`sysctl -w net.core.rmem_max={wanted}`, and the same in /etc/sysctl.d");
        if self.status.as_ref().is_ok_and(|status| parse::has_capability(status, CAP_NET_ADMIN)) {
            return Finding::ok(
                CHECK,
                format!(
                    "CAP_NET_ADMIN has the {} of --receive-buffer; without it, as another user, it would be {} by \
                     net.core.rmem_max",
                    size(wanted),
                    size(had)
                ),
            );
        }
        Finding::warn(
            CHECK,
            format!("net.core.rmem_max allows {} of the {} of --receive-buffer", size(had), size(wanted)),
        )
        .costs(format!(
            "of a burst a socket holds some {} datagrams instead of {}, the kernel drops the rest",
            had / DATAGRAM_KERNEL_BYTES,
            wanted / DATAGRAM_KERNEL_BYTES
        ))
        .fix(fix)
    }

    fn sum(&self, config: &Config, workers: usize) -> Finding {
        const CHECK: &str = "udp-memory";
        let text = match &self.udp_mem {
            Ok(text) => text,
            Err(unread) => return Finding::unknown(CHECK, "net.ipv4.udp_mem", *unread),
        };
        let most = text.split_whitespace().nth(2).and_then(|pages| pages.parse::<u64>().ok());
        let Some(most) = most else { return Finding::unknown(CHECK, "net.ipv4.udp_mem", Unread::Garbled) };
        let sockets = (workers * config.udp.addresses().len()) as u64;
        let wanted = sockets.saturating_mul(config.receive_buffer_bytes as u64);
        let had = most.saturating_mul(PAGE_BYTES);
        let what = format!(
            "net.ipv4.udp_mem allows {}, the {sockets} receive buffers full take {}",
            size(had),
            size(wanted)
        );
        if had >= wanted {
            return Finding::ok(CHECK, what);
        }
        let pages = wanted.div_ceil(PAGE_BYTES);
        Finding::warn(CHECK, what)
            .costs("in a flood the kernel drops datagrams of all sockets of the machine, though buffers have room")
            .fix(format!(
                "`sysctl -w net.ipv4.udp_mem=\"{pages} {pages} {}\"`, or a smaller --receive-buffer",
                pages * 2
            ))
    }

    fn send(&self) -> Finding {
        const CHECK: &str = "send-buffer";
        let wanted = REPLY_SLOTS as u64 * DATAGRAM_KERNEL_BYTES;
        match self.wmem_default {
            Ok(had) if had >= wanted => Finding::ok(
                CHECK,
                format!("net.core.wmem_default ({}) holds a turn's {REPLY_SLOTS} replies", size(had)),
            ),
            Ok(had) => Finding::warn(
                CHECK,
                format!(
                    "net.core.wmem_default is {}, a turn's {REPLY_SLOTS} replies take {}",
                    size(had),
                    size(wanted)
                ),
            )
            .costs("when the interface is slow replies are dropped; the line of statistics counts them")
            .fix("`sysctl -w net.core.wmem_default=212992`, and the same in /etc/sysctl.d"),
            Err(unread) => Finding::unknown(CHECK, "net.core.wmem_default", unread),
        }
    }

    fn backlog(&self) -> Finding {
        const CHECK: &str = "listen-backlog";
        match self.somaxconn {
            Ok(had) if had >= HTTP_BACKLOG as u64 => {
                Finding::ok(CHECK, format!("net.core.somaxconn allows {had} connections to wait"))
            }
            Ok(had) => Finding::warn(
                CHECK,
                format!("net.core.somaxconn allows {had} connections to wait, not {HTTP_BACKLOG}"),
            )
            .costs("in a burst of HTTP connections clients wait a second and more, or give up")
            .fix(format!(
                "`sysctl -w net.core.somaxconn={}`, and the same in /etc/sysctl.d",
                4 * HTTP_BACKLOG
            )),
            Err(unread) => Finding::unknown(CHECK, "net.core.somaxconn", unread),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use crate::config::Listen;

    fn healthy() -> Buffers {
        Buffers {
            rmem_max: Ok(4 << 20),
            wmem_default: Ok(212_992),
            udp_mem: Ok("300000\t400000\t600000".into()),
            somaxconn: Ok(4_096),
            status: Ok("CapEff:\t0000000000000000\n".into()),
        }
    }

    #[track_caller]
    fn ill(change: impl FnOnce(&mut Buffers)) -> Finding {
        let mut buffers = healthy();
        change(&mut buffers);
        let findings = buffers.judge(&Config::default(), 4);
        let mut ill: Vec<_> = findings.into_iter().filter(|finding| finding.level > Level::Ok).collect();
        assert_eq!(ill.len(), 1, "{ill:?}");
        ill.remove(0)
    }

    #[test]
    fn healthy_buffers_are_well() {
        let findings = healthy().judge(&Config::default(), 4);
        assert!(
            findings.len() == 4 && findings.iter().all(|finding| finding.level == Level::Ok),
            "{findings:?}"
        );
        let neither = Config { udp: Listen::At(vec![]), http: Listen::At(vec![]), ..Config::default() };
        assert_eq!(healthy().judge(&neither, 4), []);
    }

    #[test]
    fn receive_buffers() {
        let found = ill(|buffers| buffers.rmem_max = Ok(212_992));
        assert_eq!(found.check, "receive-buffer");
        assert!(found.fix.unwrap().contains("net.core.rmem_max=8388608"));
        let capable = Buffers { rmem_max: Ok(212_992), status: Ok("CapEff:\t1000\n".into()), ..healthy() };
        let found = capable.receive(&Config::default());
        assert!(found.level == Level::Ok && found.what.contains("as another user"), "{found:?}");
        assert_eq!(ill(|buffers| buffers.rmem_max = Err(Unread::Absent)).level, Level::Warn);
    }

    #[test]
    fn the_others() {
        assert_eq!(ill(|buffers| buffers.udp_mem = Ok("1 2 3".into())).check, "udp-memory");
        assert_eq!(ill(|buffers| buffers.udp_mem = Ok("x".into())).check, "udp-memory");
        assert_eq!(ill(|buffers| buffers.wmem_default = Ok(4_096)).check, "send-buffer");
        assert_eq!(ill(|buffers| buffers.somaxconn = Ok(128)).check, "listen-backlog");
        assert_eq!(ill(|buffers| buffers.somaxconn = Err(Unread::Denied)).check, "listen-backlog");
    }
}
