//! Owns what asks the tracker: the address of its admin listener, and the threads that read from it.

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
use super::model::{News, ORDERS, Reading};
use crate::admin::stats::Stats;
use crate::limits::{ADMIN_LARGEST, ADMIN_SURVEY_INTERVAL_S, TOP_STATS_TIMEOUT_S, TOP_SURVEY_TIMEOUT_S};
use crate::text::printable;
use crate::time::Clock;

/// Where an admin listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `http://HOST[:PORT][/PATH]`, without a `/` at the end.
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
                return Err("no TLS is spoken: name the `http://` address behind the proxy".into());
            }
            Some(_) => return Err("it starts with neither `http://` nor an address".into()),
        }
        let uri: Uri = format!("http://{rest}").parse().map_err(|error| format!("{error}"))?;
        let (host, authority) =
            (uri.host().unwrap_or_default(), uri.authority().map_or("", |it| it.as_str()));
        if host.is_empty() {
            return Err("the host is missing".into());
        }
        if uri.port_u16().is_none() && (scheme.is_none() || authority != host) {
            return Err("the port is missing, or none: ADDR:PORT or http://HOST[:PORT]".into());
        }
        Ok(Self { url: format!("http://{authority}{}", uri.path().trim_end_matches('/')) })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// Asks one admin listener.
#[derive(Clone, Debug)]
pub(super) struct Source {
    target: Target,
    agent: Agent,
    clock: Clock,
}

impl Source {
    pub(super) fn new(target: &Target) -> Self {
        // The listener is where its address says, and behind no proxy of the environment.
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
                    TopError::Stranger { target, why: printable(&error.to_string()) }
                }
                ureq::Error::Io(error) => TopError::Silent { target, why: error.to_string() },
                _ => TopError::Silent { target, why: printable(&error.to_string()) },
            }
        })
    }

    /// The figures as of now.
    pub(super) fn stats(&self) -> Result<News, TopError> {
        let stats: Stats = self.get("/api/stats", TOP_STATS_TIMEOUT_S)?;
        Ok(News::Stats(Box::new(Reading { at: self.clock.now(), stats })))
    }

    /// The largest swarms, by each order.
    pub(super) fn swarms(&self) -> Result<News, TopError> {
        let mut swarms: [Vec<_>; ORDERS.len()] = Default::default();
        for (swarms, by) in swarms.iter_mut().zip(ORDERS) {
            *swarms =
                self.get(&format!("/api/swarms?by={by}&limit={ADMIN_LARGEST}"), TOP_SURVEY_TIMEOUT_S)?;
        }
        Ok(News::Swarms(swarms))
    }

    /// Who announces.
    pub(super) fn clients(&self) -> Result<News, TopError> {
        self.get("/api/clients", TOP_SURVEY_TIMEOUT_S).map(News::Clients)
    }

    /// Asks once in each interval, and less often for what is more to look for, until nobody hears it any more.
    pub(super) fn watch(self, interval: Duration, to: &SyncSender<News>) -> io::Result<()> {
        let surveyor = self.clone();
        let (news, surveys) = (to.clone(), to.clone());
        thread::Builder::new().name("gyre-top-stats".into()).spawn(move || {
            loop {
                thread::sleep(interval);
                let lost = |error: TopError| News::Lost { at: self.clock.now(), why: error.why() };
                if news.send(self.stats().unwrap_or_else(lost)).is_err() {
                    return;
                }
            }
        })?;
        let pause = interval.max(Duration::from_secs(ADMIN_SURVEY_INTERVAL_S));
        thread::Builder::new().name("gyre-top-swarms".into()).spawn(move || {
            loop {
                // If one fails, the figures do too, or the tracker is busy and has what it had before.
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
    fn what_is_no_target_is_refused() {
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
