//! Owns every bound of the web: bodies, forms, cookies, sessions, files and templates. Each is named, with its unit in the
//! name and its sum shown.

use std::ops::RangeInclusive;

// ---- the web: routes beside the tracker's ----

/// The longest body that a route reads whole, unless it says otherwise; past it: 413.
pub const WEB_BODY_MAX_BYTES: u64 = 1 << 20;
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
