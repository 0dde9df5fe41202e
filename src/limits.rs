//! Owns the bounds of the server around the core: rings, connections, the admin listener, the process, the doctor. The
//! bounds of gyre-core and gyre-web are re-exported here. Each bound is a named constant with its unit in the name and
//! its arithmetic shown. Relations between bounds are checked at compile time.

use std::ops::RangeInclusive;

pub use gyre_core::limits::{
    ACCESS_LINE_MAX_BYTES, ACCESS_LIST_MAX_ENTRIES, ACCESS_LISTS_MAX, ANNOUNCE_INTERVAL_RANGE_S, BAN_RANGE_S,
    BUCKET_LOAD, BUCKET_PEERS_MAX, BUCKET_STEP, BUSY_POLL_RANGE_US, CHOICE_DRAWS_MAX, CHOICE_STEPS_MAX,
    CLIENTS_HALF_LIFE_S, CLIENTS_MAX, CLIENTS_SAMPLE_US, CONNECTION_ID_WINDOW_RANGE_S,
    DEFAULT_ANNOUNCE_INTERVAL_S, DEFAULT_BAN_S, DEFAULT_CONNECTION_ID_WINDOW_S, DEFAULT_DENY_REASON,
    DEFAULT_GATHER_US, DEFAULT_HTTP_CONNECTIONS, DEFAULT_MIN_INTERVAL_S, DEFAULT_NETWORK_SHARE,
    DEFAULT_PEERS, DEFAULT_RECEIVE_BUFFER_BYTES, DEFAULT_SNAPSHOT_INTERVAL_S, DEFAULT_STATS_INTERVAL_S,
    EXEMPT_NETWORKS_MAX, FULL_TURN_DATAGRAMS, GATHER_DEADLINE_MS, GATHER_RANGE_US, HOUSEKEEPING_INTERVAL_MS,
    HTTP_BODY_SKIP_BYTES, HTTP_CONNECTIONS_RANGE, HTTP_HEAD_MAX_BYTES, HTTP_HEADERS_MAX, HTTP_PASSKEY_BYTES,
    INDEX_LOAD, INTERVAL_SPREAD_DIVISOR, LOOK_AHEAD, MAX_FAILURE_BYTES, MAX_GATHERS, MAX_INTERVAL_S,
    MAX_LISTENERS, MAX_MEMORY_RANGE_BYTES, MAX_PEERS, MAX_PEERS_RANGE, MAX_SCRAPE_HASHES, MAX_URL_DATA_BYTES,
    MAX_WAITING, MAX_WORKERS, MESH_INBOX_BYTES, MESH_QUEUE_MAX, MESH_QUEUE_MIN, MIN_INTERVAL_RANGE_S,
    NETWORK_SHARE_RANGE, OVERDUE_SPLITS, PEER_TIMEOUT_RANGE_S, POOLED_BOXES, PROXY_HEADER_MAX_BYTES,
    RATE_BURST_RANGE, RATE_BURST_S, RATE_REQUESTS_RANGE, RECEIVE_BUFFER_RANGE_BYTES, SHORT_SLICES,
    SNAPSHOT_BLOCK_MAX_BYTES, SNAPSHOT_INTERVAL_RANGE_S, SNAPSHOT_SLICE, STATS_INTERVAL_RANGE_S,
    SWEEP_CLEANING_COST, SWEEP_FREED_CHUNKS, SWEEP_LAP_PAUSE_MS, SWEEP_SLICES_PER_SECOND, TABLE_CHUNK_BYTES,
    TABLE_FILL_PERCENT, TABLE_MAX_BYTES, TABLE_MIN_BYTES, TABLE_RELIEF_PERCENT, THROTTLE_SETS, THROTTLE_WAYS,
    TICK_MIN_MS, TICKS_PER_TIMEOUT, TURN_BUCKETS, TURN_DATAGRAM_BUCKETS, TURN_DATAGRAMS, TURN_GATHERS,
    TURN_MESSAGES, TURN_SWEEP, UDP_ANNOUNCE_BYTES, UDP_ANNOUNCE_REPLY_BYTES, UDP_CONNECT_BYTES,
    UDP_CONNECT_REPLY_BYTES, UDP_REPLY_HEAD_BYTES, UDP_REPLY_MAX_BYTES, UDP_REQUEST_MAX_BYTES,
    UDP_SCRAPE_ENTRY_BYTES, UDP_V4_PAYLOAD_BYTES, UDP_V4_PEERS, UDP_V6_PAYLOAD_BYTES, UDP_V6_PEERS,
    WAIT_DEADLINE_MS, WEB_CHUNK_EXTENSIONS_BYTES, WEB_CHUNK_LINE_BYTES, WEB_PROXIES_MAX, WEB_TRAILERS_BYTES,
    WEB_TRUSTED_NETWORKS_MAX,
};
pub use gyre_web::limits::{
    DEFAULT_WEB_SESSION_LIFETIME_S, WEB_BODY_MAX_BYTES, WEB_BOUNDARY_BYTES, WEB_CACHE_MAX_S, WEB_CHOICES_MAX,
    WEB_COMPRESS_MIN_BYTES, WEB_COMPRESS_STEP_BYTES, WEB_COMPRESSED_BODIES, WEB_COMPRESSED_STEP_BYTES,
    WEB_COOKIE_MAX_BYTES, WEB_COOKIES_MAX, WEB_FIELD_HEAD_BYTES, WEB_FILE_PATH_MAX_BYTES, WEB_FORM_FIELDS,
    WEB_GZIP_LEVEL, WEB_INPUT_BYTES, WEB_KEEP_MAX_MS, WEB_KEEP_MS, WEB_LANGUAGE_BYTES, WEB_LINKS_MAX,
    WEB_QUERY_PAIRS_MAX, WEB_RANGES_MAX, WEB_READ_BYTES_PER_SECOND, WEB_REASON_CHARS, WEB_SESSION_ID_BYTES,
    WEB_SESSION_LIFETIME_RANGE_S, WEB_SESSION_MAX_BYTES, WEB_SESSION_PART_MIN, WEB_SESSION_PARTS_MAX,
    WEB_SESSION_SLIDE_DIVISOR, WEB_SESSIONS_MAX, WEB_SESSIONS_SWEPT, WEB_TEMPLATE_DEPTH, WEB_TEMPLATE_FUEL,
    WEB_WRITE_BYTES, WEB_ZSTD_LEVEL, WEB_ZSTD_WINDOW_LOG_BYTES,
};

// ---- a worker's ring ----

/// Received datagrams that can wait in a worker's ring.
pub const RECEIVE_BUFFERS: u16 = 256;
/// UDP responses in one submission.
pub const REPLY_SLOTS: usize = 128;
/// Buffers for received bytes of TCP connections. They are in use from a receive until the end of its turn.
pub const TCP_BUFFERS: u16 = 128;
/// Size of such a buffer: several requests of usual clients.
pub const TCP_RECEIVE_BYTES: usize = 2_048;
/// Entries of the submission queue. Those of TCP that find no room wait for the next submission.
pub const SUBMISSION_ENTRIES: u32 = 1_024;
/// Entries that are kept free for all responses by UDP, for each socket a poll, a receive and its cancellation, and the
/// doorbell.
pub const UDP_RESERVED_ENTRIES: usize = REPLY_SLOTS + 3 * MAX_LISTENERS + 1;
/// Entries of the completion queue. More completions wait in the kernel.
pub const COMPLETION_ENTRIES: u32 = 2_048;
/// Consecutive failures of a receive, for any reason, after which the ring gives up.
pub const RECEIVE_FAILURES_MAX: u32 = 1_000;
/// System calls for one submission. What is left after them waits for the next turn.
pub const SUBMIT_TRIES: usize = 4;
/// Pause between two checks whether the operations of a ring have ended.
pub const RING_DRAIN_STEP_MS: u64 = 5;

const _: () = assert!(RECEIVE_BUFFERS.is_power_of_two() && TCP_BUFFERS.is_power_of_two());
const _: () = assert!(2 * UDP_RESERVED_ENTRIES <= SUBMISSION_ENTRIES as usize);
// All completions of UDP fit: one for each buffer, each response that fails, and the end of each receive.
const _: () = assert!(RECEIVE_BUFFERS as usize + UDP_RESERVED_ENTRIES <= COMPLETION_ENTRIES as usize);

// ---- the table ----

/// Memory of the process without its workers: code, log.
pub const PROCESS_BYTES: u64 = 4 << 20;
/// Memory of a worker without its table: receive buffers (0.45 MiB), reply slots (0.2), rate limits of sources (1, if
/// there are limits), queues and boxes of the mesh, and above all the allocator's huge pages, which these and the
/// first chunks of the table only partly fill.
pub const WORKER_BYTES: u64 = 11 << 20;
/// Memory beyond the table's own count: what it needs for short moments, and the allocator's overhead.
pub const TABLE_OVERHEAD_PERCENT: u64 = 10;
/// The default of `--max-memory` is the machine's memory divided by this.
pub const DEFAULT_MEMORY_DIVISOR: u64 = 2;

// ---- surveys of all swarms ----

/// Swarms that a worker reads in one slice of a survey: some 50 us.
pub const SURVEY_SLICE: usize = 2_048;
/// Slices of a survey that wait to be read. When all are in use the worker waits.
pub const SURVEY_SLICES: usize = 4;
/// Pause of a worker between two slices, in which it serves requests.
pub const SURVEY_PAUSE_MS: u64 = 1;

// ---- the admin listener ----

/// Default address of the admin listener: reachable from the machine itself only.
pub const DEFAULT_ADMIN_ADDRESS: &str = "127.0.0.1:6970";
/// Connections to the admin listener. A browser keeps up to six.
pub const ADMIN_CONNECTIONS: usize = 128;
/// Descriptors of the admin listener: its connections, the refused ones, and its worker.
pub const ADMIN_DESCRIPTORS: u64 =
    (ADMIN_CONNECTIONS + HTTP_REFUSALS) as u64 + SPARE_DESCRIPTORS + WORKER_DESCRIPTORS + 2;
/// Memory limit of the admin listener's tracker, which holds no swarms: the smallest possible one.
pub const ADMIN_MEMORY_BYTES: u64 = 64 << 20;
/// Interval of the events that the admin listener sends.
pub const ADMIN_EVENT_INTERVAL_MS: u64 = 1_000;
/// Number of the largest swarms that a survey finds.
pub const ADMIN_LARGEST: usize = 100;
/// Minimum interval between two surveys. A survey runs only on request.
pub const ADMIN_SURVEY_INTERVAL_S: u64 = 5;
/// Divisor: surveys take at most one part in this number of the time.
pub const ADMIN_SURVEY_SHARE: u32 = 10;
/// Concurrent scrapes of all swarms.
pub const ADMIN_SCRAPES: usize = 2;
/// Peers of one swarm in a response.
pub const ADMIN_PEERS_MAX: usize = 1_000;
/// Time for which the doctor's findings are reused.
pub const ADMIN_DOCTOR_INTERVAL_S: u64 = 10;
/// Length of a token.
pub const ADMIN_TOKEN_BYTES: RangeInclusive<usize> = 16..=256;
/// Length of a list that replaces another: some 200 million hashes, twice what a list may have.
pub const ADMIN_LIST_BYTES: u64 = 8 << 30;
/// Length of the entries that one request adds to a list: some 400,000 hashes.
pub const ADMIN_ENTRIES_BYTES: u64 = 16 << 20;

// ---- gyre top ----

/// Range of `--interval`, the time between two readings.
pub const TOP_INTERVAL_RANGE_S: RangeInclusive<u64> = 1..=3_600;
/// Default of `--interval`.
pub const DEFAULT_TOP_INTERVAL_S: u32 = 1;
/// Readings in the charts: five minutes at the default interval.
pub const TOP_HISTORY: usize = 300;
/// Timeout of a response with figures.
pub const TOP_STATS_TIMEOUT_S: u64 = 5;
/// Timeout of a response that needs a survey of all swarms.
pub const TOP_SURVEY_TIMEOUT_S: u64 = 60;

// ---- HTTP ----

/// Replies to pipelined requests are collected up to this size before they are written.
pub const HTTP_WRITE_BATCH_BYTES: usize = 16 * 1024;
/// A reply buffer that grew larger is freed, not pooled. A whole batch and one more reply fit.
pub const HTTP_POOLED_BUFFER_BYTES: usize = 64 * 1024;
/// Reply buffers that a worker keeps for reuse.
pub const HTTP_POOLED_BUFFERS: usize = 64;
/// Bytes of a reply that the kernel buffers before it sends them. The rest waits in the process until the client has
/// read some. Without this bound a client that reads nothing would make the kernel hold up to 4 MiB (`tcp_wmem`).
pub const HTTP_UNSENT_BYTES: u32 = 64 * 1024;
/// Time from the first byte of a request to its last; then the response is 408.
pub const HTTP_HEAD_DEADLINE_MS: u64 = 10_000;
/// Time for which a connection may be idle between requests; then it is closed.
pub const HTTP_IDLE_DEADLINE_MS: u64 = 60_000;
/// Time in which a client must read its reply.
pub const HTTP_WRITE_DEADLINE_MS: u64 = 10_000;
/// After an error that closes a connection, what the client still sends is discarded for this time, so that the client
/// sees the error instead of a reset.
pub const HTTP_LINGER_DEADLINE_MS: u64 = 1_000;
/// Bytes that are discarded after such an error.
pub const HTTP_LINGER_BYTES: usize = 64 * 1024;
/// Connections that wait to be accepted, for each worker and address.
pub const HTTP_BACKLOG: i32 = 1024;
/// Connections beyond a worker's limit that get a 503 at the same time, fewer where descriptors are scarce. Any more
/// are closed without a response.
pub const HTTP_REFUSALS: usize = 64;
/// Entries of the runtime's submission queue. Its completion queue has twice as many.
pub const RUNTIME_RING_ENTRIES: u32 = 256;
/// Pause after a failed accept (no descriptors, no memory).
pub const HTTP_ACCEPT_PAUSE_MS: u64 = 50;
/// Connections whose deadlines are checked in one turn.
pub const TURN_CONNECTIONS: usize = 512;
/// Time in which the deadlines of all connections are checked once.
pub const HTTP_REAP_INTERVAL_MS: u64 = 500;

// The largest reply: MAX_PEERS entries of an uncompact list, the longest being
// `d2:ip39:` + 39 + `7:peer id20:` + 20 + `4:porti65535ee` = 8 + 39 + 12 + 20 + 14 = 93 bytes, and 512 for the rest.
const _: () = assert!(HTTP_WRITE_BATCH_BYTES + MAX_PEERS * 93 + 512 <= HTTP_POOLED_BUFFER_BYTES);

// ---- snapshots ----

/// Pause of a worker between two slices, in which it serves requests.
pub const SNAPSHOT_PAUSE_MS: u64 = 1;
/// Slices of a snapshot that wait to be loaded into a worker's table at the start.
pub const LOAD_BATCHES: usize = 64;
/// Timeout of a snapshot.
pub const SNAPSHOT_DEADLINE_S: u64 = 600;

// ---- the process ----

/// Interval at which the control thread checks for changed lists and due snapshots.
pub const CONTROL_INTERVAL_MS: u64 = 1_000;
/// Commands that wait for the control thread.
pub const CONTROL_COMMANDS: usize = 16;
/// Orders to a worker that wait until its next turn.
pub const WORKER_ORDERS: usize = 16;
/// Maximum length of a configuration file.
pub const CONFIG_FILE_MAX_BYTES: u64 = 1 << 20;
/// Descriptors in one message of a tracker to its successor: the kernel's limit (`SCM_MAX_FD`).
pub const HANDOVER_DESCRIPTORS: usize = 253;
/// Bytes of such a message, without its descriptors.
pub const HANDOVER_MESSAGE_BYTES: usize = 1024;
/// Time in which a successor must send its first message after it connects. A silent one then makes way for others.
pub const HANDOVER_HELLO_MS: u64 = 1_000;
/// Timeout of an answer that needs no work. Workers look for orders four times a second.
pub const HANDOVER_ANSWER_MS: u64 = 5_000;
/// Time for a successor that has the sockets to read its lists and ask for the swarms.
pub const HANDOVER_PREPARE_S: u64 = 60;
/// Timeout of steps that write or read whole tables, on either side.
pub const HANDOVER_TABLES_S: u64 = SNAPSHOT_DEADLINE_S + 60;
/// Descriptors of the process without its workers: standard streams, the signal pipe, and some to spare.
pub const SPARE_DESCRIPTORS: u64 = 16;
/// Twice the bytes that the kernel counts as locked for a worker's two rings (256 KiB were seen on 6.18). The limit is
/// raised to this before a process started as root becomes another user's.
pub const WORKER_LOCKED_BYTES: u64 = 512 << 10;
/// Locked bytes of other processes of that user: the default limit of a process.
pub const LOCKED_BYTES: u64 = 8 << 20;
/// Descriptors of one worker without its sockets: two rings, an epoll, its waker, a doorbell, a notifier.
pub const WORKER_DESCRIPTORS: u64 = 8;
/// Time for which binding a port in use is retried. The kernel frees the sockets of a killed process's rings some 40 ms
/// after its end.
pub const BIND_PATIENCE_MS: u64 = 500;
/// Pause between two attempts.
pub const BIND_RETRY_MS: u64 = 10;
/// Time for requests in flight to finish after a signal.
pub const SHUTDOWN_GRACE_MS: u64 = 1_500;

// ---- the doctor ----

/// Maximum number of bytes that `gyre doctor` reads of one file. Every file it reads is shorter, except a table of
/// connections.
pub const DOCTOR_FILE_BYTES: u64 = 4 << 20;
/// Processes, threads or other entries that it reads of one directory.
pub const DOCTOR_TASKS: usize = 20_000;
/// Timeout of an external command (`nft`, `iptables-save`).
pub const DOCTOR_COMMAND_DEADLINE_MS: u64 = 1_500;
/// Time between the two readings of the counters.
pub const DOCTOR_SAMPLE_MS: u64 = 1_000;
/// Timeout of resolving the name in `--public-url`.
pub const DOCTOR_RESOLVE_DEADLINE_MS: u64 = 2_500;
/// Timeout of one answer of a tracker. Checkers of public lists wait for about as long.
pub const DOCTOR_ANSWER_DEADLINE_MS: u64 = 2_000;
/// Time for all requests to one address together. All addresses are probed at once.
pub const DOCTOR_PROBE_DEADLINE_MS: u64 = 5_000;
/// Time after which an unanswered UDP request is sent again.
pub const DOCTOR_RETRY_MS: u64 = 700;
/// Maximum length of an HTTP response that the doctor reads.
pub const DOCTOR_ANSWER_BYTES: usize = 64 * 1024;
/// Addresses of one family that are probed for one name.
pub const DOCTOR_ADDRESSES: usize = 2;
/// Names and addresses that are probed in total.
pub const DOCTOR_TARGETS: usize = 32;
/// Announce intervals that lists of public trackers accept.
pub const CHECKERS_INTERVAL_RANGE_S: RangeInclusive<u32> = 300..=10_800;
/// Peers that a reply for a random info-hash may have: the requesting peer. Any other is made up or foreign.
pub const CHECKERS_PEERS_MAX: usize = 1;
/// Port that the doctor announces. Nothing listens there, and the announce is withdrawn after a moment.
pub const DOCTOR_PEER_PORT: u16 = 6_881;
/// Memory that the rings of one worker share with the kernel: 2 × 64 bytes of submissions and 4 × 16 bytes of
/// completions for each requested entry, in two rings, and some pages for their heads.
pub const WORKER_RING_BYTES: u64 =
    (SUBMISSION_ENTRIES as u64 + RUNTIME_RING_ENTRIES as u64) * (2 * 64 + 4 * 16) + 16 * 4_096;
/// Kernel memory of one small datagram in a socket's buffer: a block for its head and one for its data.
pub const DATAGRAM_KERNEL_BYTES: u64 = 1_280;

// Resolving, probing and judging must be done within ten seconds.
const _: () = assert!(
    DOCTOR_RESOLVE_DEADLINE_MS + DOCTOR_PROBE_DEADLINE_MS + DOCTOR_COMMAND_DEADLINE_MS < 10_000
        && DOCTOR_SAMPLE_MS + 3 * DOCTOR_COMMAND_DEADLINE_MS < 10_000
);
