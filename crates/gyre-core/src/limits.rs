//! Owns every limit of the core: wire formats, table, engine, mesh, and the ranges of options. Each is a named constant
//! with its unit in the name and its arithmetic shown. The relations between them are checked at compile time.

use std::ops::RangeInclusive;

use crate::types::{PEER_V4_BYTES, PEER_V6_BYTES};

// ---- the machine ----

/// Maximum number of workers in one process. Limits the length of the steering program and the size of the mesh
/// (`MAX_WORKERS`² queues).
pub const MAX_WORKERS: usize = 256;
/// Maximum number of listen addresses for each protocol. A socket's number must fit in one byte of the ring's tags.
pub const MAX_LISTENERS: usize = 64;

// ---- UDP on the wire (BEP 15) ----

/// Bytes of a connect request, and of the head of every request.
pub const UDP_CONNECT_BYTES: usize = 16;
/// Bytes of an announce request without BEP 41 options.
pub const UDP_ANNOUNCE_BYTES: usize = 98;
/// Bytes of a connect response.
pub const UDP_CONNECT_REPLY_BYTES: usize = 16;
/// Bytes of an announce response before the peers.
pub const UDP_ANNOUNCE_REPLY_BYTES: usize = 20;
/// Bytes of a scrape or error response before the content.
pub const UDP_REPLY_HEAD_BYTES: usize = 8;
/// Bytes of one swarm's counts in a scrape response.
pub const UDP_SCRAPE_ENTRY_BYTES: usize = 12;
/// Largest UDP payload, in bytes, of one Ethernet frame over IPv4: 1,500 − 20 (IP) − 8 (UDP) = 1,472.
pub const UDP_V4_PAYLOAD_BYTES: usize = 1500 - 20 - 8;
/// Largest UDP payload, in bytes, of one Ethernet frame over IPv6: 1,500 − 40 (IP) − 8 (UDP) = 1,452.
pub const UDP_V6_PAYLOAD_BYTES: usize = 1500 - 40 - 8;
/// Maximum length of a UDP reply, in bytes.
pub const UDP_REPLY_MAX_BYTES: usize = UDP_V4_PAYLOAD_BYTES;
/// Maximum number of info-hashes in one scrape, by UDP or HTTP. BEP 15 gives "about 74" as the limit.
pub const MAX_SCRAPE_HASHES: usize = 74;
/// Maximum length of a UDP request, in bytes: a scrape of [`MAX_SCRAPE_HASHES`], 16 + 20 · 74 = 1,496. That is 24 bytes
/// more than one Ethernet frame holds, so it arrives in two fragments. An announce with options has the same maximum.
pub const UDP_REQUEST_MAX_BYTES: usize = UDP_CONNECT_BYTES + 20 * MAX_SCRAPE_HASHES;
/// Maximum number of peers in one UDP reply over IPv4: (1,472 − 20) / 6 = 242.
pub const UDP_V4_PEERS: usize = (UDP_V4_PAYLOAD_BYTES - UDP_ANNOUNCE_REPLY_BYTES) / PEER_V4_BYTES;
/// Maximum number of peers in one UDP reply over IPv6: (1,452 − 20) / 18 = 79.
pub const UDP_V6_PEERS: usize = (UDP_V6_PAYLOAD_BYTES - UDP_ANNOUNCE_REPLY_BYTES) / PEER_V6_BYTES;
/// Maximum of `--max-peers`: peers in one reply, by UDP or HTTP.
pub const MAX_PEERS: usize = 200;
/// Default of `--max-peers`, and number of peers for a request without num_want (BEP 15's default).
pub const DEFAULT_PEERS: usize = 50;
/// Maximum length of the message of an error response or failure reason, in bytes.
pub const MAX_FAILURE_BYTES: usize = 120;
/// Maximum length of the URL path in the options of an announce (BEP 41), in bytes.
pub const MAX_URL_DATA_BYTES: usize = 512;

const _: () = assert!(MAX_PEERS <= UDP_V4_PEERS);
const _: () =
    assert!(UDP_REPLY_HEAD_BYTES + MAX_SCRAPE_HASHES * UDP_SCRAPE_ENTRY_BYTES <= UDP_REPLY_MAX_BYTES);
const _: () = assert!(UDP_REPLY_HEAD_BYTES + MAX_FAILURE_BYTES <= UDP_REPLY_MAX_BYTES);
// A client with an unverified address gets no more bytes than it sent.
const _: () = assert!(UDP_CONNECT_REPLY_BYTES <= UDP_CONNECT_BYTES);

// ---- a worker's datagrams ----

/// Maximum number of datagrams handled in one turn, so that HTTP and the mesh are not starved.
pub const TURN_DATAGRAMS: usize = 128;
/// Datagrams of a turn from which on it counts as full: more are likely to wait already. Linux ends a receive after
/// 33 (`MULTISHOT_MAX_RETRY`).
pub const FULL_TURN_DATAGRAMS: usize = 32;
/// Maximum number of announces prefetched together. Enough of them hide each other's memory latency, and they still fit
/// in the L1 cache.
pub const LOOK_AHEAD: usize = 32;
/// Maximum number of messages from other workers handled in one turn.
pub const TURN_MESSAGES: usize = 256;
/// Default of `--receive-buffer`, in bytes. A small datagram takes 1.3 KiB of kernel memory, so the buffer holds about
/// 6,000 of them: a burst of 20 ms at 300,000 datagrams a second.
pub const DEFAULT_RECEIVE_BUFFER_BYTES: usize = 8 << 20;

const _: () = assert!(MAX_LISTENERS <= u8::MAX as usize);

// ---- the table ----

/// Bytes of swarm records, of index lines or of peer addresses in a chunk, the unit in which the table allocates and
/// frees memory. The marks and peer ids of the addresses come on top. The allocator wastes nothing at this size.
pub const TABLE_CHUNK_BYTES: usize = 16 * 1024;
/// Average number of swarms in an index line, which has 12 slots. Lines not yet split hold up to twice as many swarms
/// as split ones, and some of them overflow into the spill table.
pub const INDEX_LOAD: usize = 8;
/// Average number of peers in a bucket of a large set, and the maximum in a set of one bucket. One or two buckets are
/// enough for a reply, and a linear search of a bucket is fast.
pub const BUCKET_LOAD: usize = 48;
/// Difference between consecutive block sizes, in peers.
pub const BUCKET_STEP: usize = 4;
/// Maximum number of peers in a bucket. A bucket not yet split has up to `2 * BUCKET_LOAD` = 96 peers on average, with
/// a standard deviation of 10: the maximum is six deviations above that.
pub const BUCKET_PEERS_MAX: usize = 160;
/// Maximum number of buckets that one announce splits when splits are overdue.
pub const OVERDUE_SPLITS: usize = 8;
/// Maximum number of random draws for the first peer of a reply. Each draw succeeds with a probability of about one
/// half, except in a set that was large a moment ago and is now almost empty.
pub const CHOICE_DRAWS_MAX: usize = 32;
/// Maximum number of steps between buckets for one reply. Two or three buckets have enough peers unless almost all
/// peers have expired.
pub const CHOICE_STEPS_MAX: u32 = 2048;
/// Ticks in a peer's timeout. The time of an announce is stored in ticks.
pub const TICKS_PER_TIMEOUT: u8 = 100;
/// Minimum length of a tick, in milliseconds. A short timeout has fewer ticks.
pub const TICK_MIN_MS: u64 = 1_000;
/// Cost of cleaning, moving or merging a bucket or swarm in the sweep. Looking at one costs 1.
pub const SWEEP_CLEANING_COST: usize = 16;
/// Maximum number of chunks that one sweep slice frees, and of index lines that it merges.
pub const SWEEP_FREED_CHUNKS: usize = 16;
/// Percentage of the memory limit at which the sweep starts to evict the oldest peers.
pub const TABLE_FILL_PERCENT: usize = 90;
/// Percentage of the memory limit at which the sweep stops evicting.
pub const TABLE_RELIEF_PERCENT: usize = 80;
/// Maximum size of one worker's table, in bytes. Its pools number their chunks with 20 bits.
pub const TABLE_MAX_BYTES: usize = 15 << 30;
/// Minimum share of `--max-memory` for each worker's table, in bytes: enough for one chunk of most block sizes.
pub const TABLE_MIN_BYTES: u64 = 4 << 20;

const _: () = assert!(3 * BUCKET_LOAD < BUCKET_PEERS_MAX && BUCKET_PEERS_MAX <= u8::MAX as usize);
const _: () = assert!(TABLE_MAX_BYTES / TABLE_CHUNK_BYTES < 1 << 20);
// A mark is a byte with 256 values. A live peer uses `TICKS_PER_TIMEOUT` of them; the others are the time in which the
// sweep must find an expired peer.
const _: () = assert!(2 * (TICKS_PER_TIMEOUT as usize) < 256);

// ---- limits for each source ----

/// Number of sets in a worker's table of token buckets.
pub const THROTTLE_SETS: usize = 16 * 1024;
/// Token buckets in a set, which is one cache line: 16,384 · 4 = 65,536 buckets of 16 bytes, 1 MiB in all.
pub const THROTTLE_WAYS: usize = 4;
/// Range of the number of requests in a rate.
pub const RATE_REQUESTS_RANGE: RangeInclusive<u32> = 1..=1_000_000;
/// Range of the burst of a rate, in requests.
pub const RATE_BURST_RANGE: RangeInclusive<u32> = 1..=1_000_000;
/// Default burst of a rate: the requests of this many seconds.
pub const RATE_BURST_S: u32 = 10;
/// Default of `--limit-networks`, the limit of a network as a multiple of that of an address: a block of 256 addresses
/// with a host at every sixteenth.
pub const DEFAULT_NETWORK_SHARE: u32 = 16;
/// Range of `--limit-networks`.
pub const NETWORK_SHARE_RANGE: RangeInclusive<u64> = 0..=65_536;
/// Default of `--ban-time`, in seconds.
pub const DEFAULT_BAN_S: u32 = 120;
/// Range of `--ban-time`, in seconds: up to a day.
pub const BAN_RANGE_S: RangeInclusive<u64> = 1..=24 * 3600;
/// Maximum number of networks of `--limit-exempt`. Each request over a limit is compared with all of them.
pub const EXEMPT_NETWORKS_MAX: usize = 256;

const _: () = assert!(THROTTLE_SETS.is_power_of_two() && THROTTLE_WAYS * 16 == 64);

// ---- the mesh ----

/// Memory of all queues to one worker, in bytes. The senders share it.
pub const MESH_INBOX_BYTES: usize = 1 << 20;
/// Minimum capacity of a queue between two workers, in messages, with any number of workers.
pub const MESH_QUEUE_MIN: usize = 16;
/// Maximum capacity of a queue between two workers, in messages.
pub const MESH_QUEUE_MAX: usize = 1024;

// ---- responses gathered from several workers ----

/// Maximum number of requests on one worker that wait for other workers. Beyond it, UDP requests are dropped and HTTP
/// requests get 503.
pub const MAX_GATHERS: usize = 4096;
/// Maximum time that a request waits for other workers, in milliseconds.
pub const GATHER_DEADLINE_MS: u64 = 1_000;
/// Maximum number of overdue requests given up in one turn.
pub const TURN_GATHERS: usize = 16;
/// Maximum number of message boxes of each kind that are kept for reuse. The rest are freed.
pub const POOLED_BOXES: usize = 64;

// ---- middleware ----

/// Maximum number of requests on one worker that wait in async middleware. Each takes a task of about 2 KiB. Beyond it,
/// UDP requests are dropped and HTTP requests get 503.
pub const MAX_WAITING: usize = 4096;
/// Maximum time that middleware may hold a request, in milliseconds. A client repeats a request after 15 seconds
/// (BEP 15).
pub const WAIT_DEADLINE_MS: u64 = 10_000;

// ---- statistics for operators ----

/// Maximum number of client programs that a worker counts separately. About twenty are common, each in several
/// versions.
pub const CLIENTS_MAX: usize = 64;
/// Minimum time between two samples of the clients of announces, in microseconds: 1,000 samples a second are enough.
pub const CLIENTS_SAMPLE_US: u64 = 1_000;
/// Half-life of a sample in the client statistics, in seconds.
pub const CLIENTS_HALF_LIFE_S: u64 = 60;
/// Buckets of the turn duration histogram: powers of two in microseconds, up to 0.5 s. One more counts longer turns.
pub const TURN_BUCKETS: usize = 20;
/// Buckets of the histogram of the datagrams of a turn: powers of two, up to a full turn. One more would count larger
/// turns.
pub const TURN_DATAGRAM_BUCKETS: usize = TURN_DATAGRAMS.ilog2() as usize + 1;

// ---- the sweep and other housekeeping ----

/// Maximum cost of a sweep slice, of which there is one a turn: about 10 to 20 us. Looking at a swarm or bucket costs
/// 1.
pub const TURN_SWEEP: usize = 512;
/// Sweep slices in a turn while memory is short. They make room for about 120 peers, almost as many as a turn can add.
pub const SHORT_SLICES: usize = 4;
/// Maximum number of turns a second with a sweep slice. More would only revisit what was just swept.
pub const SWEEP_SLICES_PER_SECOND: u64 = 400;
/// Pause between two laps of the sweep, in milliseconds. Peers expire by ticks of a second or more, so a lap right
/// after another would find little.
pub const SWEEP_LAP_PAUSE_MS: u64 = 1_000;
/// Interval, in milliseconds, at which an idle worker wakes for deadlines, the sweep and its published counters.
pub const HOUSEKEEPING_INTERVAL_MS: u64 = 250;

// ---- HTTP ----

/// Maximum length of a request head, in bytes. A longer one gets 431.
pub const HTTP_HEAD_MAX_BYTES: usize = 8 * 1024;
/// Maximum number of header fields of a request. More get 431.
pub const HTTP_HEADERS_MAX: usize = 64;
/// Maximum length, in bytes, of a request body that is skipped because the tracker's routes take none. A longer one
/// gets 413.
pub const HTTP_BODY_SKIP_BYTES: u64 = 16 * 1024;
/// Default of `--http-connections`: open connections of all workers together.
pub const DEFAULT_HTTP_CONNECTIONS: usize = 20_000;
/// Maximum length of a passkey in a path, in bytes.
pub const HTTP_PASSKEY_BYTES: usize = 64;

// ---- web routes, proxies ----

/// Maximum length, in bytes, of the first line of a body chunk, without its line end. It holds a size of up to 16
/// digits and an extension, which is not used. Longer lines only waste the server's time.
pub const WEB_CHUNK_LINE_BYTES: u16 = 256;
/// Maximum length of the extensions of all chunks of a body, in bytes.
pub const WEB_CHUNK_EXTENSIONS_BYTES: u16 = 16 * 1024;
/// Maximum length of the trailers of a chunked body, in bytes. They are skipped. Half of [`HTTP_HEAD_MAX_BYTES`].
pub const WEB_TRAILERS_BYTES: u16 = 4 * 1024;
/// Maximum number of proxies in a chain that are followed back to the client.
pub const WEB_PROXIES_MAX: usize = 16;
/// Maximum length of a PROXY protocol header, version 2, in bytes. The addresses take 52 bytes. The rest is for fields
/// such as a certificate's name or the proxy's cookie.
pub const PROXY_HEADER_MAX_BYTES: usize = 1_024;
/// Maximum number of networks of `--trusted-proxy`. The address of each connection is compared with all of them.
pub const WEB_TRUSTED_NETWORKS_MAX: usize = 256;

// ---- access lists ----

/// Maximum number of files for each kind of access list. An announce is looked up in all of them.
pub const ACCESS_LISTS_MAX: usize = 16;
/// Default of `--deny-reason`: the failure reason for a denied torrent.
pub const DEFAULT_DENY_REASON: &str = "torrent is not registered with this tracker";
/// Maximum length of a line in an access list, in bytes. A hash, a time and a comment are shorter.
pub const ACCESS_LINE_MAX_BYTES: usize = 1_024;
/// Maximum number of info-hashes in a list: 2 GB, twenty times the torrents of the largest public index.
pub const ACCESS_LIST_MAX_ENTRIES: usize = 100_000_000;

// ---- snapshots ----

/// Entries (swarms and peers) that a worker writes to a snapshot at a time, rounded up to a whole bucket. This takes
/// 0.2 ms if each entry is a cache miss.
pub const SNAPSHOT_SLICE: usize = 2_048;
/// Maximum payload of a snapshot block, in bytes: a slice of IPv6 peers, each in a different swarm, with 26 bytes for
/// the swarm and 24 for the peer.
pub const SNAPSHOT_BLOCK_MAX_BYTES: usize = (SNAPSHOT_SLICE + BUCKET_PEERS_MAX) * (26 + 24);
/// Range of `--snapshot-interval`, in seconds. 0: only when the tracker stops.
pub const SNAPSHOT_INTERVAL_RANGE_S: RangeInclusive<u64> = 0..=86_400;
/// Default of `--snapshot-interval`, in seconds.
pub const DEFAULT_SNAPSHOT_INTERVAL_S: u32 = 300;

// ---- intervals, in seconds ----

/// Default of `--announce-interval`, in seconds.
pub const DEFAULT_ANNOUNCE_INTERVAL_S: u32 = 1_800;
/// Default of `--min-interval`, in seconds.
pub const DEFAULT_MIN_INTERVAL_S: u32 = 900;
/// The interval in a reply is randomly extended by up to 1 / 16, so that clients do not announce in step.
pub const INTERVAL_SPREAD_DIVISOR: u32 = 16;
/// Default of `--connection-id-window`, in seconds. In BEP 15 an id is valid for two minutes.
pub const DEFAULT_CONNECTION_ID_WINDOW_S: u32 = 120;
/// Default of `--stats-interval`, in seconds.
pub const DEFAULT_STATS_INTERVAL_S: u32 = 10;
/// Default of `--gather`, in microseconds.
pub const DEFAULT_GATHER_US: u32 = 200;

// ---- ranges of options, on the command line and in the library ----

/// Maximum announce interval, in seconds: a week.
pub const MAX_INTERVAL_S: u32 = 7 * 24 * 3600;
/// Range of `--announce-interval`, in seconds.
pub const ANNOUNCE_INTERVAL_RANGE_S: RangeInclusive<u64> = 1..=MAX_INTERVAL_S as u64;
/// Range of `--min-interval`, in seconds.
pub const MIN_INTERVAL_RANGE_S: RangeInclusive<u64> = 0..=MAX_INTERVAL_S as u64;
/// Range of `--peer-timeout`, in seconds: up to four weeks, so that every announce interval has a valid timeout.
pub const PEER_TIMEOUT_RANGE_S: RangeInclusive<u64> = 1..=4 * MAX_INTERVAL_S as u64;
/// Range of `--max-peers`.
pub const MAX_PEERS_RANGE: RangeInclusive<u64> = 0..=MAX_PEERS as u64;
/// Range of `--max-memory`, in bytes: 16 MiB to 1 PiB.
pub const MAX_MEMORY_RANGE_BYTES: RangeInclusive<u64> = 16 << 20..=1 << 50;
/// Range of `--connection-id-window`, in seconds.
pub const CONNECTION_ID_WINDOW_RANGE_S: RangeInclusive<u64> = 10..=3_600;
/// Range of `--busy-poll`, in microseconds.
pub const BUSY_POLL_RANGE_US: RangeInclusive<u64> = 0..=1_000_000;
/// Range of `--gather`, in microseconds.
pub const GATHER_RANGE_US: RangeInclusive<u64> = 0..=2_000;
/// Range of `--http-connections`.
pub const HTTP_CONNECTIONS_RANGE: RangeInclusive<u64> = 1..=10_000_000;
/// Range of `--receive-buffer`, in bytes.
pub const RECEIVE_BUFFER_RANGE_BYTES: RangeInclusive<u64> = 4_096..=1 << 30;
/// Range of `--stats-interval`, in seconds.
pub const STATS_INTERVAL_RANGE_S: RangeInclusive<u64> = 0..=MAX_INTERVAL_S as u64;
