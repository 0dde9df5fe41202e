//! Owns every bound of the tracker: named, with its unit, its sum shown, and the relations between them checked at
//! compile time.

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

/// Datagrams that can wait in a worker's ring to be looked at.
pub const RECEIVE_BUFFERS: u16 = 256;
/// Replies that one submission carries.
pub const REPLY_SLOTS: usize = 128;
/// Entries of the submission queue: all replies, a receive for each socket, and their cancelling.
pub const SUBMISSION_ENTRIES: u32 = 512;
/// Entries of the completion queue: a completion for each receive buffer, and for each reply that fails.
pub const COMPLETION_ENTRIES: u32 = 1024;
/// Entries of the submission queue of a ring of client connections. When it is full the kernel is entered before the
/// turn ends.
pub const CLIENT_SUBMISSION_ENTRIES: u32 = 1024;
/// Datagrams taken in one turn, so that HTTP and the mesh get theirs.
pub const TURN_DATAGRAMS: usize = 128;
/// Announces that are looked ahead for together: enough to hide one's waits for memory behind the others', few enough
/// to stay in the first-level cache.
pub const LOOK_AHEAD: usize = 32;
/// Messages taken from other workers in one turn.
pub const TURN_MESSAGES: usize = 256;
/// A receive that fails so often in a row, whatever the reason, has failed for good.
pub const RECEIVE_FAILURES_MAX: u32 = 1_000;
/// Calls that one submission may take before what is left waits for the next turn.
pub const SUBMIT_TRIES: usize = 4;
/// The default of `--receive-buffer`: at 1.3 KiB of kernel memory for a small datagram, some 6,000 of them, a burst of
/// 20 ms at 300,000 a second.
pub const DEFAULT_RECEIVE_BUFFER_BYTES: usize = 8 << 20;

const _: () = assert!(RECEIVE_BUFFERS.is_power_of_two());
const _: () = assert!(REPLY_SLOTS + 3 * MAX_LISTENERS <= SUBMISSION_ENTRIES as usize);
const _: () =
    assert!(RECEIVE_BUFFERS as usize + REPLY_SLOTS + 3 * MAX_LISTENERS <= COMPLETION_ENTRIES as usize);
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
/// What the process takes beside its workers: its code, the log.
pub const PROCESS_BYTES: u64 = 4 << 20;
/// What a worker takes beside its table: receive buffers (0.45 MiB), reply slots (0.2), buckets of sources (1 if there
/// are limits), queues and boxes of the mesh, and above all the allocator's huge pages that these and the table's first
/// chunks begin to fill.
pub const WORKER_BYTES: u64 = 11 << 20;
/// The table takes so much more for moments, and the allocator more than the table knows of.
pub const TABLE_OVERHEAD_PERCENT: u64 = 10;
/// The default of `--max-memory` is the machine's memory by this.
pub const DEFAULT_MEMORY_DIVISOR: u64 = 2;

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
/// Swarms that a worker looks at in one slice of a survey: some 50 us.
pub const SURVEY_SLICE: usize = 2_048;
/// Slices of a survey that wait for whoever reads them; its worker waits beyond.
pub const SURVEY_SLICES: usize = 4;
/// Pause of a worker between two slices, for whoever asks it something.
pub const SURVEY_PAUSE_MS: u64 = 1;

// ---- the admin listener ----

/// Where it is, if nothing is said: for the machine itself alone.
pub const DEFAULT_ADMIN_ADDRESS: &str = "127.0.0.1:6970";
/// Connections to it: browsers keep up to six each.
pub const ADMIN_CONNECTIONS: usize = 128;
/// Descriptors that it needs: its connections, those that are refused, and its worker.
pub const ADMIN_DESCRIPTORS: u64 =
    (ADMIN_CONNECTIONS + HTTP_REFUSALS) as u64 + SPARE_DESCRIPTORS + WORKER_DESCRIPTORS + 2;
/// Memory of its tracker, which holds no swarms: the least that one takes.
pub const ADMIN_MEMORY_BYTES: u64 = 64 << 20;
/// Its events come so often.
pub const ADMIN_EVENT_INTERVAL_MS: u64 = 1_000;
/// Swarms that it knows to be the largest.
pub const ADMIN_LARGEST: usize = 100;
/// It looks for them so often at most, and only when it is asked ...
pub const ADMIN_SURVEY_INTERVAL_S: u64 = 5;
/// ... and for no more than one part in so many of the time.
pub const ADMIN_SURVEY_SHARE: u32 = 10;
/// Scrapes of everything that go on at a time.
pub const ADMIN_SCRAPES: usize = 2;
/// Peers of one swarm that it shows.
pub const ADMIN_PEERS_MAX: usize = 1_000;
/// What the doctor has found is not looked for again for so long.
pub const ADMIN_DOCTOR_INTERVAL_S: u64 = 10;
/// A token's length.
pub const ADMIN_TOKEN_BYTES: RangeInclusive<usize> = 16..=256;
/// A list that is put in another's place: some 200 million hashes, twice what a list may have.
pub const ADMIN_LIST_BYTES: u64 = 8 << 30;
/// Entries that are added to a list at a time: some 400,000 hashes.
pub const ADMIN_ENTRIES_BYTES: u64 = 16 << 20;

// ---- gyre top ----

/// `--interval`: seconds between two readings.
pub const TOP_INTERVAL_RANGE_S: RangeInclusive<u64> = 1..=3_600;
/// Its default.
pub const DEFAULT_TOP_INTERVAL_S: u32 = 1;
/// Readings that the charts go back: five minutes of the default interval.
pub const TOP_HISTORY: usize = 300;
/// An answer with figures is waited for so long ...
pub const TOP_STATS_TIMEOUT_S: u64 = 5;
/// ... and one that all swarms are looked through for.
pub const TOP_SURVEY_TIMEOUT_S: u64 = 60;

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
/// What a connection's read buffer holds at first and when idle: an announce with the headers of usual clients, which
/// are 300 to 550 bytes. With the task (0.9 KiB) and its entries in lists an idle connection takes 2 KiB.
pub const HTTP_READ_BYTES: usize = 640;
/// Header fields of a request; past it: 431.
pub const HTTP_HEADERS_MAX: usize = 64;
/// The longest body of a request that is read over (no route here takes one); past it: 413.
pub const HTTP_BODY_SKIP_BYTES: u64 = 16 * 1024;
/// Replies to pipelined requests are collected up to so many bytes before they are written.
pub const HTTP_WRITE_BATCH_BYTES: usize = 16 * 1024;
/// A reply buffer that grew larger is freed, not pooled: a whole batch and one more reply fit.
pub const HTTP_POOLED_BUFFER_BYTES: usize = 64 * 1024;
/// Reply buffers that a worker keeps for reuse.
pub const HTTP_POOLED_BUFFERS: usize = 64;
/// What the kernel takes of a reply beyond what is on its way to the client: more waits here until the client has taken
/// some of that. Without this bound a client that reads nothing would have it hold up to 4 MiB (`tcp_wmem`).
pub const HTTP_UNSENT_BYTES: u32 = 64 * 1024;
/// The default of `--http-connections`: connections open at a time, of all workers together.
pub const DEFAULT_HTTP_CONNECTIONS: usize = 20_000;
/// The longest passkey in a path.
pub const HTTP_PASSKEY_BYTES: usize = 64;
/// A client gets so long from the first byte of a request to its last; then 408.
pub const HTTP_HEAD_DEADLINE_MS: u64 = 10_000;
/// A connection may idle so long between requests; then it is closed.
pub const HTTP_IDLE_DEADLINE_MS: u64 = 60_000;
/// A client gets so long to take its reply.
pub const HTTP_WRITE_DEADLINE_MS: u64 = 10_000;
/// After an error that closes a connection what the client still sends is read over for so long, and ...
pub const HTTP_LINGER_DEADLINE_MS: u64 = 1_000;
/// ... up to so many bytes, so that it sees the error instead of a reset.
pub const HTTP_LINGER_BYTES: usize = 64 * 1024;
/// Connections that wait to be accepted, for each worker and address.
pub const HTTP_BACKLOG: i32 = 1024;
/// Connections of a worker beyond its limit that are being told so (503) at a time, fewer where descriptors are few;
/// more are closed without a word.
pub const HTTP_REFUSALS: usize = 64;
/// Connections wait in the kernel for those that make room for them, which are gone in a moment; looked at so often.
pub const HTTP_ROOM_PAUSE_MS: u64 = 1;
/// Entries of the runtime's submission queue; its completion queue has twice as many.
pub const RUNTIME_RING_ENTRIES: u32 = 1024;
/// Pause after a failed accept (no descriptors, no memory).
pub const HTTP_ACCEPT_PAUSE_MS: u64 = 50;
/// Connections whose deadlines are looked at in one turn.
pub const TURN_CONNECTIONS: usize = 512;
/// The time in which all connections' deadlines are looked at once.
pub const HTTP_REAP_INTERVAL_MS: u64 = 500;

const _: () = assert!(HTTP_READ_BYTES <= HTTP_HEAD_MAX_BYTES);
// The largest reply: MAX_PEERS entries of an uncompact list, the longest being
// `d2:ip39:` + 39 + `7:peer id20:` + 20 + `4:porti65535ee` = 8 + 39 + 12 + 20 + 14 = 93 bytes, and 512 for the rest.
const _: () = assert!(HTTP_WRITE_BATCH_BYTES + MAX_PEERS * 93 + 512 <= HTTP_POOLED_BUFFER_BYTES);

// ---- the web: routes beside the tracker's ----

/// The longest body that a route reads whole, unless it says otherwise; past it: 413.
pub const WEB_BODY_MAX_BYTES: u64 = 1 << 20;
/// The line that a chunk of a body starts with, without its end: a size, of 16 digits at most, and an extension, which
/// nobody uses. More than this is there to keep us busy.
pub const WEB_CHUNK_LINE_BYTES: u16 = 256;
/// Extensions of all chunks of a body: so much framing is no body any more.
pub const WEB_CHUNK_EXTENSIONS_BYTES: u16 = 16 * 1024;
/// Trailers of a chunked body, which are read over: half of what a head may have.
pub const WEB_TRAILERS_BYTES: u16 = 4 * 1024;
/// Fields of a form, in either encoding: far more than people fill in, few enough to be sorted in no time.
pub const WEB_FORM_FIELDS: usize = 1_000;
/// The head of a field in a multipart form, and what comes before the first: its names and some to spare.
pub const WEB_FIELD_HEAD_BYTES: usize = 4 * 1024;
/// The longest boundary between the fields of a multipart form (RFC 2046, section 5.1.1).
pub const WEB_BOUNDARY_BYTES: usize = 70;
/// What is told of why a body's content isn't what a route reads: a line, however much of the body it would cite.
pub const WEB_REASON_CHARS: usize = 120;
/// A response of a route is written by pieces of so many bytes.
pub const WEB_WRITE_BYTES: usize = 64 * 1024;
/// What comes while a handler has not read its body yet waits here; more stays in the kernel's buffer. Requests that
/// are pipelined behind it are held twice for a moment: a connection takes up to some four times this.
pub const WEB_INPUT_BYTES: usize = 16 * 1024;
/// A body shorter than this is sent as it is: compressed it would fit the same packets.
pub const WEB_COMPRESS_MIN_BYTES: u64 = 1_024;
/// A body is compressed by steps of so many bytes, some 0.5 ms each, between which the worker has its turns.
pub const WEB_COMPRESS_STEP_BYTES: usize = 32 * 1024;
/// A handler may go on for so long without a byte being read or written; then its connection is closed.
pub const WEB_KEEP_MS: u64 = 30_000;
/// A body that comes more slowly than this does not count as being read. Modems were faster.
pub const WEB_READ_BYTES_PER_SECOND: u32 = 512;
/// It may ask for more, but for no more than this.
pub const WEB_KEEP_MAX_MS: u64 = 3_600_000;
/// Ranges that one request asks a file for, at most; to one with more the whole file is sent. Players and readers of
/// documents ask for one to four; hundreds of small ones cost more than they save (RFC 9110, section 17.15).
pub const WEB_RANGES_MAX: usize = 8;
/// The longest path of a file below a directory, decoded: a quarter of what the kernel takes, which leaves room for the
/// targets of symbolic links.
pub const WEB_FILE_PATH_MAX_BYTES: usize = 1024;
/// Cookies of one request, at most; past it: 431. Browsers keep 50 to 180 of a site, and send few of them.
pub const WEB_COOKIES_MAX: usize = 64;
/// The longest `Set-Cookie` that is sent: no browser keeps a cookie that is longer.
pub const WEB_COOKIE_MAX_BYTES: usize = 4096;
/// Random bytes of a session's id: 160 bits, so that nobody finds one of a billion sessions in a lifetime.
pub const WEB_SESSION_ID_BYTES: usize = 20;
/// What one session holds, as JSON: about as much as a cookie could.
pub const WEB_SESSION_MAX_BYTES: usize = 4096;
/// Sessions that a store in memory keeps unless it is told otherwise: at their largest they take some 80 MiB.
pub const WEB_SESSIONS_MAX: usize = 20_000;
/// A store in memory is split into parts, each under a lock of its own, of at least so many sessions ...
pub const WEB_SESSION_PART_MIN: usize = 256;
/// ... but into no more parts than this, which workers rarely meet in.
pub const WEB_SESSION_PARTS_MAX: usize = 64;
/// Sessions past their end that a store in memory drops for each one that is saved: more than come, so that they don't
/// pile up, and few enough that nobody waits.
pub const WEB_SESSIONS_SWEPT: usize = 2;
/// The default lifetime of a session since it was last used: a working day.
pub const DEFAULT_WEB_SESSION_LIFETIME_S: u64 = 12 * 3600;
/// The lifetime of a session, in seconds: up to 400 days, past which no browser keeps a cookie.
pub const WEB_SESSION_LIFETIME_RANGE_S: RangeInclusive<u64> = 1..=400 * 24 * 3600;
/// A session that is only read is written again, with its whole lifetime before it, when this part of it has passed.
pub const WEB_SESSION_SLIDE_DIVISOR: u32 = 10;
/// Pairs that are read of a query string; with more it is refused. Forms of other servers end at as many.
pub const WEB_QUERY_PAIRS_MAX: usize = 1_000;
/// Choices that are read of a field such as Accept-Language; browsers send up to a dozen.
pub const WEB_CHOICES_MAX: usize = 32;
/// The longest name of a language that is read: what RFC 5646 (section 4.4.1) advises to leave room for.
pub const WEB_LANGUAGE_BYTES: usize = 35;
/// Links that are read of the header. Pages name a handful.
pub const WEB_LINKS_MAX: usize = 64;
/// The longest time that Cache-Control names: what RFC 9111 (section 1.2.2) takes all longer ones for, 68 years.
pub const WEB_CACHE_MAX_S: u64 = 1 << 31;
/// Bodies that a worker compresses at a time, of half a MiB each; more are sent as they are.
pub const WEB_COMPRESSED_BODIES: usize = 64;
/// The level of gzip, which is the fastest: of a scrape as JSON it leaves 27 % at 220 MB/s of one core. The next one
/// leaves 25 % at half that speed. An instance takes 312 KiB.
pub const WEB_GZIP_LEVEL: u32 = 1;
/// The level of zstd: of the same it leaves 19 % at 570 MB/s. The next two are slower and no smaller.
pub const WEB_ZSTD_LEVEL: i32 = 1;
/// The window of zstd, as a power of two: 64 KiB. An instance takes 522 KiB. With 128 KiB it would take 954 KiB, and
/// make nothing of usual length smaller.
pub const WEB_ZSTD_WINDOW_LOG_BYTES: u32 = 16;
/// What a compressor makes room for at a time, in the buffer that it writes into.
pub const WEB_COMPRESSED_STEP_BYTES: usize = 16 * 1024;
/// Instructions of a template that one rendering may take: rows of a table take some 20 each. It keeps a template that
/// loops from holding its worker for longer than some 50 ms.
pub const WEB_TEMPLATE_FUEL: u64 = 1_000_000;
/// How deep a template may nest. An include counts 10, a macro's call 4: their frames are large, and a worker's stack
/// has 2 MiB.
pub const WEB_TEMPLATE_DEPTH: usize = 200;
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
/// Pause of a worker between two slices, for whoever asks it something.
pub const SNAPSHOT_PAUSE_MS: u64 = 1;
/// A block of a file is shorter, or it is none: a slice of IPv6 peers, each of a swarm of its own.
pub const SNAPSHOT_BLOCK_MAX_BYTES: usize = (SNAPSHOT_SLICE + BUCKET_PEERS_MAX) * (26 + 24);
/// Seconds between two snapshots; 0 for none but the last.
pub const SNAPSHOT_INTERVAL_RANGE_S: RangeInclusive<u64> = 0..=86_400;
/// The same, if nothing is said.
pub const DEFAULT_SNAPSHOT_INTERVAL_S: u32 = 300;
/// Slices of a snapshot that wait to be entered into a worker's table at the start.
pub const LOAD_BATCHES: usize = 64;
/// A snapshot that takes longer has failed.
pub const SNAPSHOT_DEADLINE_S: u64 = 600;

// ---- the process ----

/// How often the process looks whether lists have changed or a snapshot is due.
pub const CONTROL_INTERVAL_MS: u64 = 1_000;
/// Commands to the thread that does.
pub const CONTROL_COMMANDS: usize = 16;
/// Orders to a worker that wait until its next turn.
pub const WORKER_ORDERS: usize = 16;

/// A file of options is shorter, or it is no such file.
pub const CONFIG_FILE_MAX_BYTES: u64 = 1 << 20;

/// Descriptors in one message of a tracker to the one that takes over: what the kernel allows (`SCM_MAX_FD`).
pub const HANDOVER_DESCRIPTORS: usize = 253;
/// Bytes of such a message, beside its descriptors.
pub const HANDOVER_MESSAGE_BYTES: usize = 1024;
/// Who connects to take over says so in so long, and whoever does nothing is in the way of others for no longer.
pub const HANDOVER_HELLO_MS: u64 = 1_000;
/// An answer that needs nothing but attention: workers look for orders four times a second.
pub const HANDOVER_ANSWER_MS: u64 = 5_000;
/// Who has got the sockets is to have read its lists after so long, and to be asked for the swarms.
pub const HANDOVER_PREPARE_S: u64 = 60;
/// What happens to whole tables, writing or reading them, may take so long, on either side.
pub const HANDOVER_TABLES_S: u64 = SNAPSHOT_DEADLINE_S + 60;

/// Descriptors of the process beside its workers': standard streams, the signals' pipe, and some to spare.
pub const SPARE_DESCRIPTORS: u64 = 16;
/// Bytes that the kernel counts as locked for each worker's two rings, twice over (256 KiB were seen, on 6.18). The
/// limit is raised to that before root's process becomes another user's.
pub const WORKER_LOCKED_BYTES: u64 = 512 << 10;
/// The same for other processes of that user: what a process may lock by default.
pub const LOCKED_BYTES: u64 = 8 << 20;
/// Descriptors of one worker beside its sockets: two rings, an epoll, its waker, a doorbell.
pub const WORKER_DESCRIPTORS: u64 = 8;
/// A port in use is tried again for so long: the kernel frees the sockets of a killed process's rings some 40 ms after
/// its end.
pub const BIND_PATIENCE_MS: u64 = 500;
/// Pause between two tries.
pub const BIND_RETRY_MS: u64 = 10;
/// After a signal what is in flight gets so long to finish.
pub const SHUTDOWN_GRACE_MS: u64 = 1_500;

// ---- the doctor ----

/// What `gyre doctor` reads of one file, at most: more than any it looks at has, but for a table of connections.
pub const DOCTOR_FILE_BYTES: u64 = 4 << 20;
/// Processes, threads or other entries of one directory that it looks at.
pub const DOCTOR_TASKS: usize = 20_000;
/// A command that it asks (`nft`, `iptables-save`) gets so long.
pub const DOCTOR_COMMAND_DEADLINE_MS: u64 = 1_500;
/// How far its two readings of the counters lie apart.
pub const DOCTOR_SAMPLE_MS: u64 = 1_000;
/// A name of `--public-url` must be resolved in so long.
pub const DOCTOR_RESOLVE_DEADLINE_MS: u64 = 2_500;
/// A tracker gets so long for one answer. Checkers of public lists wait for about as long.
pub const DOCTOR_ANSWER_DEADLINE_MS: u64 = 2_000;
/// All requests to one address together get so long; all addresses are asked at once.
pub const DOCTOR_PROBE_DEADLINE_MS: u64 = 5_000;
/// A request by UDP that was not answered is sent again after so long.
pub const DOCTOR_RETRY_MS: u64 = 700;
/// The longest answer to an HTTP request that it reads.
pub const DOCTOR_ANSWER_BYTES: usize = 64 * 1024;
/// Addresses of one family that one name is asked at.
pub const DOCTOR_ADDRESSES: usize = 2;
/// Names and addresses that are asked, in all.
pub const DOCTOR_TARGETS: usize = 32;
/// Lists of public trackers take an announce interval in this range, in seconds.
pub const CHECKERS_INTERVAL_RANGE_S: RangeInclusive<u32> = 300..=10_800;
/// Peers that a reply for a random info-hash may have: the one who asks. More are made up, or another's.
pub const CHECKERS_PEERS_MAX: usize = 1;
/// The port that the doctor announces. Nothing listens there, and nobody is told of it for longer than a moment.
pub const DOCTOR_PEER_PORT: u16 = 6_881;
/// Memory that the rings of one worker have in common with the kernel: submissions 2 × 64 bytes and completions
/// 4 × 16 bytes for each of the entries asked for, in two rings, and some pages for their heads.
pub const WORKER_RING_BYTES: u64 =
    (SUBMISSION_ENTRIES as u64 + RUNTIME_RING_ENTRIES as u64) * (2 * 64 + 4 * 16) + 16 * 4_096;
/// Kernel memory of one small datagram in a socket's buffer: a block for its head, one for its data.
pub const DATAGRAM_KERNEL_BYTES: u64 = 1_280;

// Resolving, asking and judging must be over in ten seconds.
const _: () = assert!(
    DOCTOR_RESOLVE_DEADLINE_MS + DOCTOR_PROBE_DEADLINE_MS + DOCTOR_COMMAND_DEADLINE_MS < 10_000
        && DOCTOR_SAMPLE_MS + 3 * DOCTOR_COMMAND_DEADLINE_MS < 10_000
);

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
