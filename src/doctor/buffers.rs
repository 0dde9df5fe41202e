//! Owns the checks of the kernel's socket limits: receive and send buffers, their sum, the queue of connections.

use super::machine::{Machine, ReadError, ReadResult};
use super::{Finding, parse};
use crate::config::Config;
use crate::limits::{DATAGRAM_KERNEL_BYTES, HTTP_BACKLOG, REPLY_SLOTS};
use crate::text::size;

/// From `linux/capability.h`.
const CAP_NET_ADMIN: u32 = 12;
/// `net.ipv4.udp_mem` counts pages.
const PAGE_BYTES: u64 = 4_096;

/// The input of the buffer checks.
pub(super) struct Buffers {
    rmem_max: ReadResult<u64>,
    wmem_default: ReadResult<u64>,
    udp_mem: ReadResult<String>,
    somaxconn: ReadResult<u64>,
    status: ReadResult<String>,
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

    /// Runs all checks for this number of workers.
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
            Err(error) => return Finding::unknown(CHECK, "net.core.rmem_max", error),
        };
        // gyre asks for half of it, and the kernel doubles that for its bookkeeping.
        let wanted = config.receive_buffer_bytes as u64;
        let had = most.saturating_mul(2);
        if had >= wanted {
            return Finding::ok(
                CHECK,
                format!("net.core.rmem_max allows the --receive-buffer of {}", size(wanted)),
            );
        }
        let fix = format!("`sysctl -w net.core.rmem_max={wanted}`, and the same setting in /etc/sysctl.d");
        if self.status.as_ref().is_ok_and(|status| parse::has_capability(status, CAP_NET_ADMIN)) {
            return Finding::ok(
                CHECK,
                format!(
                    "CAP_NET_ADMIN allows the --receive-buffer of {}; without it, as another user, \
                     net.core.rmem_max limits it to {}",
                    size(wanted),
                    size(had)
                ),
            );
        }
        Finding::warn(
            CHECK,
            format!(
                "net.core.rmem_max limits the receive buffer to {}, instead of the --receive-buffer of {}",
                size(had),
                size(wanted)
            ),
        )
        .costs(format!(
            "in a burst, a socket can hold about {} datagrams instead of {}; the kernel drops the others",
            had / DATAGRAM_KERNEL_BYTES,
            wanted / DATAGRAM_KERNEL_BYTES
        ))
        .fix(fix)
    }

    fn sum(&self, config: &Config, workers: usize) -> Finding {
        const CHECK: &str = "udp-memory";
        let text = match &self.udp_mem {
            Ok(text) => text,
            Err(error) => return Finding::unknown(CHECK, "net.ipv4.udp_mem", *error),
        };
        let most = text.split_whitespace().nth(2).and_then(|pages| pages.parse::<u64>().ok());
        let Some(most) = most else {
            return Finding::unknown(CHECK, "net.ipv4.udp_mem", ReadError::Malformed);
        };
        let sockets = (workers * config.udp.addresses().len()) as u64;
        let wanted = sockets.saturating_mul(config.receive_buffer_bytes as u64);
        let had = most.saturating_mul(PAGE_BYTES);
        let what = format!(
            "net.ipv4.udp_mem allows {}; {sockets} full receive buffers need {}",
            size(had),
            size(wanted)
        );
        if had >= wanted {
            return Finding::ok(CHECK, what);
        }
        let pages = wanted.div_ceil(PAGE_BYTES);
        Finding::warn(CHECK, what)
            .costs(
                "in a flood, the kernel drops datagrams of all sockets of the machine, even if their \
                 buffers have room",
            )
            .fix(format!(
                "`sysctl -w net.ipv4.udp_mem=\"{pages} {pages} {}\"`, or reduce --receive-buffer",
                pages * 2
            ))
    }

    fn send(&self) -> Finding {
        const CHECK: &str = "send-buffer";
        let wanted = REPLY_SLOTS as u64 * DATAGRAM_KERNEL_BYTES;
        match self.wmem_default {
            Ok(had) if had >= wanted => Finding::ok(
                CHECK,
                format!(
                    "net.core.wmem_default ({}) has room for the {REPLY_SLOTS} responses of a turn",
                    size(had)
                ),
            ),
            Ok(had) => Finding::warn(
                CHECK,
                format!(
                    "net.core.wmem_default is {}; the {REPLY_SLOTS} responses of a turn need {}",
                    size(had),
                    size(wanted)
                ),
            )
            .costs("if the interface is slow, responses are dropped; the statistics line counts them")
            .fix("`sysctl -w net.core.wmem_default=212992`, and the same setting in /etc/sysctl.d"),
            Err(error) => Finding::unknown(CHECK, "net.core.wmem_default", error),
        }
    }

    fn backlog(&self) -> Finding {
        const CHECK: &str = "listen-backlog";
        match self.somaxconn {
            Ok(had) if had >= HTTP_BACKLOG as u64 => {
                Finding::ok(CHECK, format!("net.core.somaxconn allows {had} pending connections"))
            }
            Ok(had) => Finding::warn(
                CHECK,
                format!("net.core.somaxconn allows {had} pending connections instead of {HTTP_BACKLOG}"),
            )
            .costs("in a burst of HTTP connections, clients wait for a second or more, or give up")
            .fix(format!(
                "`sysctl -w net.core.somaxconn={}`, and the same setting in /etc/sysctl.d",
                4 * HTTP_BACKLOG
            )),
            Err(error) => Finding::unknown(CHECK, "net.core.somaxconn", error),
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
    fn the_problem(change: impl FnOnce(&mut Buffers)) -> Finding {
        let mut buffers = healthy();
        change(&mut buffers);
        let findings = buffers.judge(&Config::default(), 4);
        let mut problems: Vec<_> = findings.into_iter().filter(|finding| finding.level > Level::Ok).collect();
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.remove(0)
    }

    #[test]
    fn healthy_buffers_pass() {
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
        let found = the_problem(|buffers| buffers.rmem_max = Ok(212_992));
        assert_eq!(found.check, "receive-buffer");
        assert!(found.fix.unwrap().contains("net.core.rmem_max=8388608"));
        let capable = Buffers { rmem_max: Ok(212_992), status: Ok("CapEff:\t1000\n".into()), ..healthy() };
        let found = capable.receive(&Config::default());
        assert!(found.level == Level::Ok && found.what.contains("as another user"), "{found:?}");
        assert_eq!(the_problem(|buffers| buffers.rmem_max = Err(ReadError::Absent)).level, Level::Warn);
    }

    #[test]
    fn the_others() {
        assert_eq!(the_problem(|buffers| buffers.udp_mem = Ok("1 2 3".into())).check, "udp-memory");
        assert_eq!(the_problem(|buffers| buffers.udp_mem = Ok("x".into())).check, "udp-memory");
        assert_eq!(the_problem(|buffers| buffers.wmem_default = Ok(4_096)).check, "send-buffer");
        assert_eq!(the_problem(|buffers| buffers.somaxconn = Ok(128)).check, "listen-backlog");
        assert_eq!(the_problem(|buffers| buffers.somaxconn = Err(ReadError::Denied)).check, "listen-backlog");
    }
}
