//! Owns every bound of the server around the core: rings, connections, the admin listener, the process, the doctor.
//! Those of the core and of the web stand beside them under the same path. Each is named, with its unit in the name and
//! its sum shown. The relations between them are checked at compile time.

use std::ops::RangeInclusive;

pub use gyre_core::limits::{
    ACCESS_LINE_MAX_BYTES, ACCESS_LIST_MAX_ENTRIES, ACCESS_LISTS_MAX, ANNOUNCE_INTERVAL_RANGE_S, BAN_RANGE_S,
    BUCKET_LOAD, BUCKET_PEERS_MAX, BUCKET_STEP, BUSY_POLL_RANGE_US, CHOICE_DRAWS_MAX, CHOICE_STEPS_MAX,
    CLIENTS_HALF_LIFE_S, CLIENTS_MAX, CLIENTS_SAMPLE_US, CONNECTION_ID_WINDOW_RANGE_S,
    DEFAULT_ANNOUNCE_INTERVAL_S, DEFAULT_BAN_S, DEFAULT_CONNECTION_ID_WINDOW_S, DEFAULT_DENY_REASON,
    DEFAULT_HTTP_CONNECTIONS, DEFAULT_MIN_INTERVAL_S, DEFAULT_NETWORK_SHARE, DEFAULT_PEERS,
    DEFAULT_RECEIVE_BUFFER_BYTES, DEFAULT_SNAPSHOT_INTERVAL_S, DEFAULT_STATS_INTERVAL_S, EXEMPT_NETWORKS_MAX,
    GATHER_DEADLINE_MS, HOUSEKEEPING_INTERVAL_MS, HTTP_BODY_SKIP_BYTES, HTTP_CONNECTIONS_RANGE,
    HTTP_HEAD_MAX_BYTES, HTTP_HEADERS_MAX, HTTP_PASSKEY_BYTES, INDEX_LOAD, INTERVAL_SPREAD_DIVISOR,
    LOOK_AHEAD, MAX_FAILURE_BYTES, MAX_GATHERS, MAX_INTERVAL_S, MAX_LISTENERS, MAX_MEMORY_RANGE_BYTES,
    MAX_PEERS, MAX_PEERS_RANGE, MAX_SCRAPE_HASHES, MAX_URL_DATA_BYTES, MAX_WAITING, MAX_WORKERS,
    MESH_INBOX_BYTES, MESH_QUEUE_MAX, MESH_QUEUE_MIN, MIN_INTERVAL_RANGE_S, NETWORK_SHARE_RANGE,
    OVERDUE_SPLITS, PEER_TIMEOUT_RANGE_S, POOLED_BOXES, PROXY_HEADER_MAX_BYTES, RATE_BURST_RANGE,
    RATE_BURST_S, RATE_REQUESTS_RANGE, RECEIVE_BUFFER_RANGE_BYTES, SHORT_SLICES, SNAPSHOT_BLOCK_MAX_BYTES,
    SNAPSHOT_INTERVAL_RANGE_S, SNAPSHOT_SLICE, STATS_INTERVAL_RANGE_S, SWEEP_CLEANING_COST,
    SWEEP_FREED_CHUNKS, SWEEP_SLICES_PER_SECOND, TABLE_CHUNK_BYTES, TABLE_FILL_PERCENT, TABLE_MAX_BYTES,
    TABLE_MIN_BYTES, TABLE_RELIEF_PERCENT, THROTTLE_SETS, THROTTLE_WAYS, TICK_MIN_MS, TICKS_PER_TIMEOUT,
    TURN_BUCKETS, TURN_DATAGRAMS, TURN_GATHERS, TURN_MESSAGES, TURN_SWEEP, UDP_ANNOUNCE_BYTES,
    UDP_ANNOUNCE_REPLY_BYTES, UDP_CONNECT_BYTES, UDP_CONNECT_REPLY_BYTES, UDP_REPLY_HEAD_BYTES,
    UDP_REPLY_MAX_BYTES, UDP_REQUEST_MAX_BYTES, UDP_SCRAPE_ENTRY_BYTES, UDP_V4_PAYLOAD_BYTES, UDP_V4_PEERS,
    UDP_V6_PAYLOAD_BYTES, UDP_V6_PEERS, WAIT_DEADLINE_MS, WEB_CHUNK_EXTENSIONS_BYTES, WEB_CHUNK_LINE_BYTES,
    WEB_PROXIES_MAX, WEB_TRAILERS_BYTES, WEB_TRUSTED_NETWORKS_MAX,
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

// ---- a worker's UDP ring ----

/// Datagrams that can wait in a worker's ring to be looked at.
pub const RECEIVE_BUFFERS: u16 = 256;
/// Replies that one submission carries.
pub const REPLY_SLOTS: usize = 128;
/// Entries of the submission queue: all replies, a receive for each socket, and their cancelling.
pub const SUBMISSION_ENTRIES: u32 = 512;
/// Entries of the completion queue: a completion for each receive buffer, and for each reply that fails.
pub const COMPLETION_ENTRIES: u32 = 1024;
/// A receive that fails so often in a row, whatever the reason, has failed for good.
pub const RECEIVE_FAILURES_MAX: u32 = 1_000;
/// Calls that one submission may take before what is left waits for the next turn.
pub const SUBMIT_TRIES: usize = 4;

const _: () = assert!(RECEIVE_BUFFERS.is_power_of_two());
const _: () = assert!(REPLY_SLOTS + 3 * MAX_LISTENERS <= SUBMISSION_ENTRIES as usize);
const _: () =
    assert!(RECEIVE_BUFFERS as usize + REPLY_SLOTS + 3 * MAX_LISTENERS <= COMPLETION_ENTRIES as usize);

// ---- the table ----

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

// ---- what operators look at ----

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

// ---- HTTP ----

/// What a connection's read buffer holds at first and when idle: an announce with the headers of usual clients, which
/// are 300 to 550 bytes. With the task (0.9 KiB) and its entries in lists an idle connection takes 2 KiB.
pub const HTTP_READ_BYTES: usize = 640;
/// Replies to pipelined requests are collected up to so many bytes before they are written.
pub const HTTP_WRITE_BATCH_BYTES: usize = 16 * 1024;
/// A reply buffer that grew larger is freed, not pooled: a whole batch and one more reply fit.
pub const HTTP_POOLED_BUFFER_BYTES: usize = 64 * 1024;
/// Reply buffers that a worker keeps for reuse.
pub const HTTP_POOLED_BUFFERS: usize = 64;
/// What the kernel takes of a reply beyond what is on its way to the client: more waits here until the client has taken
/// some of that. Without this bound a client that reads nothing would have it hold up to 4 MiB (`tcp_wmem`).
pub const HTTP_UNSENT_BYTES: u32 = 64 * 1024;
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

// ---- snapshots ----

/// Pause of a worker between two slices, for whoever asks it something.
pub const SNAPSHOT_PAUSE_MS: u64 = 1;
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
