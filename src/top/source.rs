//! Owns the queries to the tracker: the address of its admin listener, and the threads that read from it.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Duration;

use http::Uri;
use serde::de::DeserializeOwned;
use ureq::Agent;

use super::TopError;
use super::model::{ORDERS, Reading, Update};
use crate::admin::stats::Stats;
use crate::limits::{ADMIN_LARGEST, ADMIN_SURVEY_INTERVAL_S, TOP_STATS_TIMEOUT_S, TOP_SURVEY_TIMEOUT_S};
use crate::text::printable;
use crate::time::Clock;

/// The address of an admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `http://HOST[:PORT][/PATH]`, without a trailing `/`.
    url: String,
}

impl FromStr for Target {
    type Err = String;

    /// Reads `http://HOST[:PORT][/PATH]` or `HOST:PORT`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) =
            text.split_once("://").map_or((None, text), |(scheme, rest)| (Some(scheme), rest));
        match scheme.map(str::to_ascii_lowercase).as_deref() {
            None | Some("http") => {}
            Some("https") => {
                return Err("TLS is not supported; use the `http://` address behind the proxy".into());
            }
            Some(_) => return Err("it must be ADDR:PORT or start with `http://`".into()),
        }
        let uri: Uri = format!("http://{rest}").parse().map_err(|error| format!("{error}"))?;
        let (host, authority) =
            (uri.host().unwrap_or_default(), uri.authority().map_or("", |it| it.as_str()));
        if host.is_empty() {
            return Err("the host is missing".into());
        }
        if uri.port_u16().is_none() && (scheme.is_none() || authority != host) {
            return Err("the port is missing or not valid; use ADDR:PORT or http://HOST[:PORT]".into());
        }
        Ok(Self { url: format!("http://{authority}{}", uri.path().trim_end_matches('/')) })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// A client of one admin listener.
#[derive(Clone, Debug)]
pub(super) struct Source {
    target: Target,
    agent: Agent,
    clock: Clock,
}

impl Source {
    pub(super) fn new(target: &Target) -> Self {
        // The listener is reached directly, without a proxy from the environment.
        let agent = Agent::config_builder().proxy(None).build().new_agent();
        Self { target: target.clone(), agent, clock: Clock::start() }
    }

    fn get<T: DeserializeOwned>(&self, path: &str, timeout_secs: u64) -> Result<T, TopError> {
        let timeout = Some(Duration::from_secs(timeout_secs));
        let request =
            self.agent.get(format!("{}{path}", self.target)).config().timeout_global(timeout).build();
        let read = request.call().and_then(|mut response| response.body_mut().read_json());
        read.map_err(|error| {
            let target = self.target.clone();
            match error {
                ureq::Error::StatusCode(_) | ureq::Error::Json(_) | ureq::Error::Protocol(_) => {
                    TopError::WrongAnswer { target, why: printable(&error.to_string()) }
                }
                ureq::Error::Io(error) => TopError::NoAnswer { target, why: error.to_string() },
                _ => TopError::NoAnswer { target, why: printable(&error.to_string()) },
            }
        })
    }

    /// Reads the current statistics.
    pub(super) fn stats(&self) -> Result<Update, TopError> {
        let stats: Stats = self.get("/api/stats", TOP_STATS_TIMEOUT_S)?;
        Ok(Update::Stats(Box::new(Reading { at: self.clock.now(), stats })))
    }

    /// Reads the largest swarms in each order.
    pub(super) fn swarms(&self) -> Result<Update, TopError> {
        let mut swarms: [Vec<_>; ORDERS.len()] = Default::default();
        for (swarms, by) in swarms.iter_mut().zip(ORDERS) {
            *swarms =
                self.get(&format!("/api/swarms?by={by}&limit={ADMIN_LARGEST}"), TOP_SURVEY_TIMEOUT_S)?;
        }
        Ok(Update::Swarms(swarms))
    }

    /// Reads the clients.
    pub(super) fn clients(&self) -> Result<Update, TopError> {
        self.get("/api/clients", TOP_SURVEY_TIMEOUT_S).map(Update::Clients)
    }

    /// Queries the tracker once in each interval, and less often for swarms and clients, until the receiver is dropped.
    pub(super) fn watch(self, interval: Duration, to: &SyncSender<Update>) -> io::Result<()> {
        let surveyor = self.clone();
        let (updates, surveys) = (to.clone(), to.clone());
        thread::Builder::new().name("gyre-top-stats".into()).spawn(move || {
            loop {
                thread::sleep(interval);
                let lost = |error: TopError| Update::Lost { at: self.clock.now(), why: error.why() };
                if updates.send(self.stats().unwrap_or_else(lost)).is_err() {
                    return;
                }
            }
        })?;
        let pause = interval.max(Duration::from_secs(ADMIN_SURVEY_INTERVAL_S));
        thread::Builder::new().name("gyre-top-swarms".into()).spawn(move || {
            loop {
                // If a query fails, that of the statistics fails too, or the tracker is busy. The old values stay.
                for found in [surveyor.swarms(), surveyor.clients()].into_iter().flatten() {
                    if surveys.send(found).is_err() {
                        return;
                    }
                }
                thread::sleep(pause);
            }
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_urls_or_addresses() {
        for (text, url) in [
            ("127.0.0.1:6970", "http://127.0.0.1:6970"),
            ("[::1]:6970", "http://[::1]:6970"),
            ("tracker.example:80", "http://tracker.example:80"),
            ("http://tracker.example", "http://tracker.example"),
            ("HTTP://tracker.example:81/gyre/", "http://tracker.example:81/gyre"),
        ] {
            assert_eq!(text.parse::<Target>().map(|target| target.to_string()), Ok(url.to_owned()), "{text}");
        }
    }

    #[test]
    fn invalid_targets_are_rejected() {
        for text in [
            "",
            "6970",
            "tracker.example",
            "https://a:1",
            "udp://a:1",
            "http://",
            ":6970",
            "a b:1",
            "a:99999",
            "http://a:99999",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
        assert!("https://a:1".parse::<Target>().unwrap_err().contains("TLS"));
    }
}
