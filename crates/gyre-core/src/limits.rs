//! Owns every bound of the core: the wire, the table, the engine, the mesh, and the options. Each is named, with its
//! unit in the name and its sum shown. The relations between them are checked at compile time.

use std::ops::RangeInclusive;

use crate::types::{PEER_V4_BYTES, PEER_V6_BYTES};

// ---- the machine ----

/// Workers of one process. Bounds the length of the steering program and the mesh (`MAX_WORKERS`² queues).
pub const MAX_WORKERS: usize = 256;
/// Addresses to listen on, of each protocol. A socket's number must fit a byte of the ring's tags.
pub const MAX_LISTENERS: usize = 64;

// ---- UDP on the wire (BEP 15) ----

/// Bytes of a connect request, and of the head that each request starts with.
pub const UDP_CONNECT_BYTES: usize = 16;
/// Bytes of an announce request without options (BEP 41).
pub const UDP_ANNOUNCE_BYTES: usize = 98;
/// Bytes of a connect response.
pub const UDP_CONNECT_REPLY_BYTES: usize = 16;
/// Bytes of an announce response before its peers.
pub const UDP_ANNOUNCE_REPLY_BYTES: usize = 20;
/// Bytes of a scrape or error response before its content.
pub const UDP_REPLY_HEAD_BYTES: usize = 8;
/// Bytes of one swarm's counts in a scrape response.
pub const UDP_SCRAPE_ENTRY_BYTES: usize = 12;
/// The largest UDP payload that crosses an Ethernet in one frame over IPv4: 1,500 − 20 (IP) − 8 (UDP).
pub const UDP_V4_PAYLOAD_BYTES: usize = 1500 - 20 - 8;
/// The same over IPv6: 1,500 − 40 (IP) − 8 (UDP).
pub const UDP_V6_PAYLOAD_BYTES: usize = 1500 - 40 - 8;
/// The longest reply that we send.
pub const UDP_REPLY_MAX_BYTES: usize = UDP_V4_PAYLOAD_BYTES;
/// Info-hashes answered in one scrape, by UDP or HTTP: what BEP 15 names as the limit ("about 74").
pub const MAX_SCRAPE_HASHES: usize = 74;
/// The longest request that is read: a scrape of [`MAX_SCRAPE_HASHES`], which is 24 bytes more than one Ethernet
/// frame and so comes in two fragments, or an announce with as many bytes of options.
pub const UDP_REQUEST_MAX_BYTES: usize = UDP_CONNECT_BYTES + 20 * MAX_SCRAPE_HASHES;
/// Peers in one UDP reply over IPv4: (1,472 − 20) / 6 = 242.
pub const UDP_V4_PEERS: usize = (UDP_V4_PAYLOAD_BYTES - UDP_ANNOUNCE_REPLY_BYTES) / PEER_V4_BYTES;
/// Peers in one UDP reply over IPv6: (1,452 − 20) / 18 = 79.
pub const UDP_V6_PEERS: usize = (UDP_V6_PAYLOAD_BYTES - UDP_ANNOUNCE_REPLY_BYTES) / PEER_V6_BYTES;
/// The upper end of `--max-peers`: the peers in one reply, by UDP or HTTP.
pub const MAX_PEERS: usize = 200;
/// The default of `--max-peers`, and of a request that does not say how many it wants (BEP 15's default).
pub const DEFAULT_PEERS: usize = 50;
/// The longest message of an error response or failure reason.
pub const MAX_FAILURE_BYTES: usize = 120;
/// The longest URL path that is joined from an announce's options (BEP 41).
pub const MAX_URL_DATA_BYTES: usize = 512;

const _: () = assert!(MAX_PEERS <= UDP_V4_PEERS);
const _: () =
    assert!(UDP_REPLY_HEAD_BYTES + MAX_SCRAPE_HASHES * UDP_SCRAPE_ENTRY_BYTES <= UDP_REPLY_MAX_BYTES);
const _: () = assert!(UDP_REPLY_HEAD_BYTES + MAX_FAILURE_BYTES <= UDP_REPLY_MAX_BYTES);
// A client that has not proven its address gets no more bytes than it sent.
const _: () = assert!(UDP_CONNECT_REPLY_BYTES <= UDP_CONNECT_BYTES);

// ---- a worker's UDP ring ----

/// Datagrams taken in one turn, so that HTTP and the mesh get theirs.
pub const TURN_DATAGRAMS: usize = 128;
/// Announces that are looked ahead for together: enough to hide one's waits for memory behind the others', few enough
/// to stay in the first-level cache.
pub const LOOK_AHEAD: usize = 32;
/// Messages taken from other workers in one turn.
pub const TURN_MESSAGES: usize = 256;
/// The default of `--receive-buffer`: at 1.3 KiB of kernel memory for a small datagram, some 6,000 of them, a burst of
/// 20 ms at 300,000 a second.
pub const DEFAULT_RECEIVE_BUFFER_BYTES: usize = 8 << 20;

const _: () = assert!(MAX_LISTENERS <= u8::MAX as usize);

// ---- the table ----

/// The table's memory comes and goes by chunks of so many bytes, a size of which the allocator wastes nothing: of
/// records, of lines of the index, or of addresses (and then as many marks, and ids where they are wanted).
pub const TABLE_CHUNK_BYTES: usize = 16 * 1024;
/// Swarms in a line of the index, on average. There is room for 12; of the lines that are still to be split, which have
/// up to twice as many as those that are, some spill over.
pub const INDEX_LOAD: usize = 8;
/// Peers in a bucket of a large set, on average, and most in a set of one bucket: enough that a reply comes from one or
/// two of them, few enough to be searched one by one.
pub const BUCKET_LOAD: usize = 48;
/// Blocks for buckets come in sizes of so many peers more each.
pub const BUCKET_STEP: usize = 4;
/// Peers in a bucket, at most. One that is still to be split has up to `2 * BUCKET_LOAD` = 96 on average, with a
/// standard deviation of 10, and is six of these away from this.
pub const BUCKET_PEERS_MAX: usize = 160;
/// Buckets that one announce splits at most, when splits are overdue.
pub const OVERDUE_SPLITS: usize = 8;
/// Draws for the first peer of a reply, each with a chance of about a half. A set that was large a moment ago and has
/// hardly anybody left would take more of them.
pub const CHOICE_DRAWS_MAX: usize = 32;
/// Steps from bucket to bucket for one reply. Two or three have enough peers, unless nearly all of them are over.
pub const CHOICE_STEPS_MAX: u32 = 2048;
/// A peer's time is kept in ticks, of which its timeout has so many ...
pub const TICKS_PER_TIMEOUT: u8 = 100;
/// ... or, if it is short, fewer of at least this length.
pub const TICK_MIN_MS: u64 = 1_000;
/// What cleaning, moving or merging a bucket or a swarm costs the sweep, when a look at one costs 1.
pub const SWEEP_CLEANING_COST: usize = 16;
/// Chunks that one slice of the sweep gives back to the allocator, and lines of the index that it merges.
pub const SWEEP_FREED_CHUNKS: usize = 16;
/// New peers that make the table exceed this part of its memory make the oldest go ...
pub const TABLE_FILL_PERCENT: usize = 90;
/// ... until it is down to this one.
pub const TABLE_RELIEF_PERCENT: usize = 80;
/// The most that one worker's table takes. Its pools number their chunks with 20 bits.
pub const TABLE_MAX_BYTES: usize = 15 << 30;
/// What `--max-memory` must leave for each worker's table: a chunk for most sizes of blocks.
pub const TABLE_MIN_BYTES: u64 = 4 << 20;

const _: () = assert!(3 * BUCKET_LOAD < BUCKET_PEERS_MAX && BUCKET_PEERS_MAX <= u8::MAX as usize);
const _: () = assert!(TABLE_MAX_BYTES / TABLE_CHUNK_BYTES < 1 << 20);
// A mark is a byte: of its 256 values a peer lives through some, and the sweep has the time of the others to find it.
const _: () = assert!(2 * (TICKS_PER_TIMEOUT as usize) < 256);

// ---- what one source may ask for ----

/// Places for buckets of sources that a worker has: so many sets ...
pub const THROTTLE_SETS: usize = 16 * 1024;
/// ... of so many, which are a line of the cache: 1 MiB in all, or 65,536 buckets of 16 bytes.
pub const THROTTLE_WAYS: usize = 4;
/// Requests in a rate.
pub const RATE_REQUESTS_RANGE: RangeInclusive<u32> = 1..=1_000_000;
/// Requests at once.
pub const RATE_BURST_RANGE: RangeInclusive<u32> = 1..=1_000_000;
/// A rate that doesn't say how many there may be at once allows what so many seconds bring.
pub const RATE_BURST_S: u32 = 10;
/// The default of `--limit-networks`: a block of 256 addresses that has hosts at every sixteenth.
pub const DEFAULT_NETWORK_SHARE: u32 = 16;
/// `--limit-networks`.
pub const NETWORK_SHARE_RANGE: RangeInclusive<u64> = 0..=65_536;
/// The default of `--ban-time`.
pub const DEFAULT_BAN_S: u32 = 120;
/// `--ban-time`, in seconds: up to a day.
pub const BAN_RANGE_S: RangeInclusive<u64> = 1..=24 * 3600;
/// Networks of `--limit-exempt`: each is compared with the address of each request over a limit.
pub const EXEMPT_NETWORKS_MAX: usize = 256;

const _: () = assert!(THROTTLE_SETS.is_power_of_two() && THROTTLE_WAYS * 16 == 64);

// ---- the mesh ----

/// Memory of the queues that lead to one worker; shared out among all that send to it.
pub const MESH_INBOX_BYTES: usize = 1 << 20;
/// Messages that a queue between two workers holds at least, however many workers there are ...
pub const MESH_QUEUE_MIN: usize = 16;
/// ... and at most, however few.
pub const MESH_QUEUE_MAX: usize = 1024;

// ---- answers gathered from several workers ----

/// Requests of one worker that can wait for the others at a time. Past it UDP drops and HTTP gives 503.
pub const MAX_GATHERS: usize = 4096;
/// How long such a request waits.
pub const GATHER_DEADLINE_MS: u64 = 1_000;
/// Waits given up in one turn.
pub const TURN_GATHERS: usize = 16;
/// Boxes of each kind that messages travel in, kept for reuse; more are freed.
pub const POOLED_BOXES: usize = 64;

// ---- middleware ----

/// Requests of one worker that async middleware can wait with at a time: each takes its task, some 2 KiB. Past it UDP
/// drops and HTTP gives 503.
pub const MAX_WAITING: usize = 4096;
/// How long middleware may wait with a request; a client asks again after 15 seconds (BEP 15).
pub const WAIT_DEADLINE_MS: u64 = 10_000;

// ---- what operators look at ----

/// Clients that a worker tells apart: there are some twenty that are used much, each in several versions.
pub const CLIENTS_MAX: usize = 64;
/// Microseconds between two announces whose client is noted: a thousand samples a second say enough.
pub const CLIENTS_SAMPLE_US: u64 = 1_000;
/// Seconds after which the client of an announce counts half.
pub const CLIENTS_HALF_LIFE_S: u64 = 60;
/// How long turns took is counted by powers of two of microseconds, up to 0.5 s and beyond.
pub const TURN_BUCKETS: usize = 20;

// ---- the sweep and other housekeeping ----

/// What a slice of the sweep, one a turn, may cost, when a look at a swarm or bucket costs 1: some 10 to 20 us.
pub const TURN_SWEEP: usize = 512;
/// Slices in a turn while memory is short: room for some 120 peers, nearly as many as a turn can bring.
pub const SHORT_SLICES: usize = 4;
/// Turns a second that do a slice of the sweep, at most; more would only find what was looked at a moment ago.
pub const SWEEP_SLICES_PER_SECOND: u64 = 400;
/// How often an idle worker wakes to look after deadlines, the sweep and its published counters.
pub const HOUSEKEEPING_INTERVAL_MS: u64 = 250;

// ---- HTTP ----

/// The longest request head that is read; past it: 431.
pub const HTTP_HEAD_MAX_BYTES: usize = 8 * 1024;
/// Header fields of a request; past it: 431.
pub const HTTP_HEADERS_MAX: usize = 64;
/// The longest body of a request that is read over (no route here takes one); past it: 413.
pub const HTTP_BODY_SKIP_BYTES: u64 = 16 * 1024;
/// The default of `--http-connections`: connections open at a time, of all workers together.
pub const DEFAULT_HTTP_CONNECTIONS: usize = 20_000;
/// The longest passkey in a path.
pub const HTTP_PASSKEY_BYTES: usize = 64;

// ---- the web: routes beside the tracker's ----

/// The line that a chunk of a body starts with, without its end: a size, of 16 digits at most, and an extension, which
/// nobody uses. More than this is there to keep us busy.
pub const WEB_CHUNK_LINE_BYTES: u16 = 256;
/// Extensions of all chunks of a body: so much framing is no body any more.
pub const WEB_CHUNK_EXTENSIONS_BYTES: u16 = 16 * 1024;
/// Trailers of a chunked body, which are read over: half of what a head may have.
pub const WEB_TRAILERS_BYTES: u16 = 4 * 1024;
/// Proxies that a request is followed back through.
pub const WEB_PROXIES_MAX: usize = 16;
/// A header of the PROXY protocol, version 2: addresses take 52 bytes of it, a certificate's name or a cookie of the
/// proxy's the rest.
pub const PROXY_HEADER_MAX_BYTES: usize = 1_024;
/// Networks of `--trusted-proxy`: each is compared with the address of each connection.
pub const WEB_TRUSTED_NETWORKS_MAX: usize = 256;

// ---- access lists ----

/// Files of one kind of lists: an announce is looked up in each.
pub const ACCESS_LISTS_MAX: usize = 16;
/// What a client is told of a torrent that is denied, if nothing else is said.
pub const DEFAULT_DENY_REASON: &str = "torrent is not registered with this tracker";
/// A line of a list is shorter: a hash, a time and a comment are.
pub const ACCESS_LINE_MAX_BYTES: usize = 1_024;
/// Hashes of a list: 2 GB of them, twenty times the torrents of the largest public index.
pub const ACCESS_LIST_MAX_ENTRIES: usize = 100_000_000;

// ---- snapshots ----

/// Pieces (swarms and peers) of the table that a worker writes at a time, and what is left of a bucket: a fifth of a
/// millisecond if each is a miss of the caches.
pub const SNAPSHOT_SLICE: usize = 2_048;
/// A block of a file is shorter, or it is none: a slice of IPv6 peers, each of a swarm of its own.
pub const SNAPSHOT_BLOCK_MAX_BYTES: usize = (SNAPSHOT_SLICE + BUCKET_PEERS_MAX) * (26 + 24);
/// Seconds between two snapshots; 0 for none but the last.
pub const SNAPSHOT_INTERVAL_RANGE_S: RangeInclusive<u64> = 0..=86_400;
/// The same, if nothing is said.
pub const DEFAULT_SNAPSHOT_INTERVAL_S: u32 = 300;

// ---- intervals, in seconds ----

/// The default of `--announce-interval`.
pub const DEFAULT_ANNOUNCE_INTERVAL_S: u32 = 1_800;
/// The default of `--min-interval`.
pub const DEFAULT_MIN_INTERVAL_S: u32 = 900;
/// The interval in a reply is up to a sixteenth longer than asked for, by chance, so that clients don't fall into step.
pub const INTERVAL_SPREAD_DIVISOR: u32 = 16;
/// The default of `--connection-id-window` (BEP 15: an id is good for two minutes).
pub const DEFAULT_CONNECTION_ID_WINDOW_S: u32 = 120;
/// The default of `--stats-interval`.
pub const DEFAULT_STATS_INTERVAL_S: u32 = 10;

// ---- what options may be, by the command line and by the library ----

/// The longest interval: a week.
pub const MAX_INTERVAL_S: u32 = 7 * 24 * 3600;
/// `--announce-interval`, in seconds.
pub const ANNOUNCE_INTERVAL_RANGE_S: RangeInclusive<u64> = 1..=MAX_INTERVAL_S as u64;
/// `--min-interval`, in seconds.
pub const MIN_INTERVAL_RANGE_S: RangeInclusive<u64> = 0..=MAX_INTERVAL_S as u64;
/// `--peer-timeout`, in seconds: up to four weeks, so that there is one for each interval.
pub const PEER_TIMEOUT_RANGE_S: RangeInclusive<u64> = 1..=4 * MAX_INTERVAL_S as u64;
/// `--max-peers`.
pub const MAX_PEERS_RANGE: RangeInclusive<u64> = 0..=MAX_PEERS as u64;
/// `--max-memory`, in bytes: 16 MiB to 1 PiB.
pub const MAX_MEMORY_RANGE_BYTES: RangeInclusive<u64> = 16 << 20..=1 << 50;
/// `--connection-id-window`, in seconds.
pub const CONNECTION_ID_WINDOW_RANGE_S: RangeInclusive<u64> = 10..=3_600;
/// `--busy-poll`, in microseconds.
pub const BUSY_POLL_RANGE_US: RangeInclusive<u64> = 0..=1_000_000;
/// `--http-connections`.
pub const HTTP_CONNECTIONS_RANGE: RangeInclusive<u64> = 1..=10_000_000;
/// `--receive-buffer`, in bytes.
pub const RECEIVE_BUFFER_RANGE_BYTES: RangeInclusive<u64> = 4_096..=1 << 30;
/// `--stats-interval`, in seconds.
pub const STATS_INTERVAL_RANGE_S: RangeInclusive<u64> = 0..=MAX_INTERVAL_S as u64;
