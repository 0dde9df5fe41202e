//! Owns the swarms' part of the API: the largest swarms, one swarm, all swarms, and the clients that announce.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::kept::Kept;
use super::{Done, Watched, no_store, send_json};
use crate::access::parse_hash;
use crate::engine::clients::CLIENT_BYTES;
use crate::error::{Code, TrackerError};
use crate::limits::{
    ADMIN_LARGEST, ADMIN_PEERS_MAX, ADMIN_SCRAPES, ADMIN_SURVEY_INTERVAL_S, ADMIN_SURVEY_SHARE,
};
use crate::server::{Busy, Handle};
use crate::types::{InfoHash, SwarmCounts};
use crate::web::HttpConnection;
use crate::wire::bencode;

/// State of the requests that walk over all swarms.
pub(super) struct Surveys {
    /// The result of the last search for the largest swarms.
    largest: Kept<Largest>,
    /// Limits the number of simultaneous full scrapes.
    scrapes: Semaphore,
}

impl Default for Surveys {
    fn default() -> Self {
        Self { largest: Kept::default(), scrapes: Semaphore::new(ADMIN_SCRAPES) }
    }
}

/// What swarms are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SortKey {
    #[default]
    Peers,
    Seeders,
    Leechers,
    Downloaded,
}

impl SortKey {
    const ALL: [Self; 4] = [Self::Peers, Self::Seeders, Self::Leechers, Self::Downloaded];

    fn of(self, counts: &SwarmCounts) -> u32 {
        match self {
            Self::Peers => counts.seeders.saturating_add(counts.leechers),
            Self::Seeders => counts.seeders,
            Self::Leechers => counts.leechers,
            Self::Downloaded => counts.downloaded,
        }
    }
}

/// A swarm, as the API shows it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Swarm {
    pub(crate) info_hash: String,
    pub(crate) seeders: u32,
    pub(crate) leechers: u32,
    pub(crate) downloaded: u32,
}

impl Swarm {
    fn new(info_hash: &InfoHash, counts: &SwarmCounts) -> Self {
        let SwarmCounts { seeders, leechers, downloaded } = *counts;
        Self { info_hash: format!("{info_hash:?}"), seeders, leechers, downloaded }
    }
}

/// The largest swarms for each sort key.
struct Largest([Vec<Swarm>; SortKey::ALL.len()]);

impl Largest {
    async fn survey(handle: &Handle) -> Result<Self, Busy> {
        // The smallest of the kept swarms is on top.
        let mut kept: [BinaryHeap<Reverse<(u32, InfoHash, SwarmCounts)>>; SortKey::ALL.len()] =
            Default::default();
        let mut survey = handle.survey();
        while let Some(slice) = survey.next().await? {
            for (heap, by) in kept.iter_mut().zip(SortKey::ALL) {
                for (info_hash, counts) in &slice {
                    let value = by.of(counts);
                    if heap.len() == ADMIN_LARGEST {
                        if heap.peek().is_some_and(|Reverse((least, ..))| value <= *least) {
                            continue;
                        }
                        heap.pop();
                    }
                    heap.push(Reverse((value, *info_hash, *counts)));
                }
            }
        }
        Ok(Self(kept.map(|heap| {
            let mut swarms: Vec<_> = heap.into_sorted_vec();
            swarms.dedup_by_key(|Reverse((_, info_hash, _))| *info_hash); // a survey can return a swarm twice
            swarms.iter().map(|Reverse((_, info_hash, counts))| Swarm::new(info_hash, counts)).collect()
        })))
    }
}

#[derive(Deserialize)]
struct LargestQuery {
    #[serde(default)]
    by: SortKey,
    limit: Option<usize>,
}

/// `GET /api/swarms?by=peers&limit=20`: the largest swarms. The result can be some seconds old.
pub(super) async fn largest(watched: &Watched, connection: &mut HttpConnection) -> Done {
    let query: LargestQuery = connection.query()?.deserialize()?;
    let limit = query.limit.unwrap_or(20).min(ADMIN_LARGEST);
    let survey = async { Largest::survey(&watched.handle).await.map(Arc::new).map_err(unavailable) };
    // The longer a survey takes, the longer its result is kept.
    let holds =
        |took: Duration| (took * ADMIN_SURVEY_SHARE).max(Duration::from_secs(ADMIN_SURVEY_INTERVAL_S));
    let largest = watched.surveys.largest.get(survey, holds).await?;
    let shown = &largest.0[query.by as usize];
    send_json(connection, &shown[..shown.len().min(limit)].to_vec()).await
}

#[derive(Deserialize)]
struct PeersQuery {
    peers: Option<usize>,
}

#[derive(Serialize)]
struct SwarmWithPeers {
    #[serde(flatten)]
    swarm: Swarm,
    /// Number of the worker that owns it.
    worker: u16,
    peers: Vec<Peer>,
}

#[derive(Serialize)]
struct Peer {
    address: String,
    seeder: bool,
    /// Seconds since its last announce.
    age_secs: u32,
}

/// `GET /api/swarms/{info_hash}?peers=50`
pub(super) async fn one(watched: &Watched, connection: &mut HttpConnection) -> Done {
    let wrong = || {
        TrackerError::incorrect_request("invalid info-hash: it must be 40 hexadecimal or 32 base32 digits")
    };
    let text = connection.param("info_hash").unwrap_or_default();
    let info_hash = parse_hash(text.as_bytes()).ok_or_else(wrong)?;
    let query: PeersQuery = connection.query()?.deserialize()?;
    let peers = query.peers.unwrap_or(50).min(ADMIN_PEERS_MAX);
    let state = watched.handle.swarm(info_hash, peers).await.map_err(unavailable)?;
    if state.counts == SwarmCounts::default() {
        return Err(TrackerError::new(Code::NotFound, "there is no such swarm"));
    }
    let peers = state.peers.iter().map(|peer| Peer {
        address: peer.addr.unpack().to_string(),
        seeder: peer.seeder,
        age_secs: peer.age_secs,
    });
    let swarm = Swarm::new(&info_hash, &state.counts);
    send_json(connection, &SwarmWithPeers { swarm, worker: state.worker.0, peers: peers.collect() }).await
}

/// Output format of a full scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// The response to a scrape without info-hashes (BEP 48), but not sorted.
    #[default]
    Bencode,
    /// SwarmWithPeers JSON object in each line.
    Ndjson,
}

#[derive(Deserialize)]
struct ScrapeQuery {
    #[serde(default)]
    format: Format,
}

/// `GET /api/full-scrape?format=bencode`: all swarms, in no particular order.
pub(super) async fn scrape(watched: &Watched, connection: &mut HttpConnection) -> Done {
    let ScrapeQuery { format } = connection.query()?.deserialize()?;
    let Ok(_turn) = watched.surveys.scrapes.try_acquire() else {
        let words = "too many full scrapes are running; try again later";
        return Err(TrackerError::new(Code::Unavailable, words));
    };
    let (media_type, begin, end): (_, &[u8], &[u8]) = match format {
        Format::Bencode => ("text/plain; charset=iso-8859-1", bencode::SCRAPE_BEGIN, bencode::SCRAPE_END),
        Format::Ndjson => ("application/x-ndjson", b"", b""),
    };
    connection.set_content_type(media_type)?;
    no_store(connection)?;
    let mut survey = watched.handle.survey();
    let mut response = connection.stream().await?;
    let mut out = begin.to_vec();
    while let Some(slice) = survey.next().await.map_err(unavailable)? {
        for (info_hash, counts) in &slice {
            match format {
                Format::Bencode => bencode::put_scrape_entry(&mut out, info_hash, counts),
                Format::Ndjson => {
                    serde_json::to_writer(&mut out, &Swarm::new(info_hash, counts))
                        .map_err(TrackerError::internal)?;
                    out.push(b'\n');
                }
            }
        }
        response.write(&out).await?;
        out.clear();
    }
    out.extend_from_slice(end);
    response.write(&out).await?;
    response.finish().await
}

/// A client and its share of the announces of the last minutes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Client {
    /// The first bytes of its peer ids.
    pub(crate) id: String,
    pub(crate) share: f64,
}

/// `GET /api/clients`
pub(super) async fn clients(watched: &Watched, connection: &mut HttpConnection) -> Done {
    let met = watched.handle.clients().await.map_err(unavailable)?;
    let mut by_id: BTreeMap<[u8; CLIENT_BYTES], u64> = BTreeMap::new();
    met.iter().for_each(|(id, count)| *by_id.entry(*id).or_default() += u64::from(*count));
    let all: u64 = by_id.values().sum();
    let client = |(id, count): (&[u8; CLIENT_BYTES], &u64)| Client {
        id: id.escape_ascii().to_string(),
        share: *count as f64 / all as f64,
    };
    let mut clients: Vec<_> = by_id.iter().map(client).collect();
    clients.sort_by(|one, other| other.share.total_cmp(&one.share));
    send_json(connection, &clients).await
}

fn unavailable(busy: Busy) -> TrackerError {
    TrackerError::new(Code::Unavailable, busy.to_string())
}
