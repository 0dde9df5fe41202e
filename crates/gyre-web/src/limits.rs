//! Owns every bound of the web: bodies, forms, cookies, sessions, files and templates. Each is a named constant with
//! its unit in the name and its arithmetic shown.

use std::ops::RangeInclusive;

// ---- routes of a program ----

/// Default limit of a request body that a route reads whole. A longer one is answered with 413.
pub const WEB_BODY_MAX_BYTES: u64 = 1 << 20;
/// Maximum number of fields of a form, in either encoding: far more than people fill in, and quick to sort.
pub const WEB_FORM_FIELDS: usize = 1_000;
/// Maximum length of a field's head in a multipart form, and of what precedes the first field.
pub const WEB_FIELD_HEAD_BYTES: usize = 4 * 1024;
/// Maximum length of the boundary between the fields of a multipart form (RFC 2046, section 5.1.1).
pub const WEB_BOUNDARY_BYTES: usize = 70;
/// Maximum length of the reason that an error gives for an unreadable body. The reason may quote the body.
pub const WEB_REASON_CHARS: usize = 120;
/// Maximum number of bytes of a response that one write takes.
pub const WEB_WRITE_BYTES: usize = 64 * 1024;
/// Size of the buffer for input that the handler has not read yet. Further input stays in the kernel's buffer.
/// Pipelined requests are briefly held twice, so a connection takes up to about four times this.
pub const WEB_INPUT_BYTES: usize = 16 * 1024;
/// Minimum length of a body that is compressed. A shorter one would take as many packets when compressed.
pub const WEB_COMPRESS_MIN_BYTES: u64 = 1_024;
/// Number of bytes that are compressed in one step, which takes about 0.5 ms. The worker takes its turn between steps.
pub const WEB_COMPRESS_STEP_BYTES: usize = 32 * 1024;
/// Default time that a handler may run without a byte being read or written. Then its connection is closed.
pub const WEB_KEEP_MS: u64 = 30_000;
/// Minimum rate of a request body. A slower one does not count as being read. Modems were faster.
pub const WEB_READ_BYTES_PER_SECOND: u32 = 512;
/// Maximum of the time that a handler may ask for in place of [`WEB_KEEP_MS`].
pub const WEB_KEEP_MAX_MS: u64 = 3_600_000;
/// Maximum number of ranges in a request for a file. If a request has more, the whole file is sent. Media players and
/// document viewers ask for one to four; hundreds of small ones cost more than they save (RFC 9110, section 17.15).
pub const WEB_RANGES_MAX: usize = 8;
/// Maximum length of a file's decoded path below a directory: a quarter of what the kernel takes, which leaves room for
/// the targets of symbolic links.
pub const WEB_FILE_PATH_MAX_BYTES: usize = 1024;
/// Maximum number of cookies in a request. More are answered with 431. Browsers keep 50 to 180 per site and send few of
/// them.
pub const WEB_COOKIES_MAX: usize = 64;
/// Maximum length of a `Set-Cookie` value: no browser keeps a longer cookie.
pub const WEB_COOKIE_MAX_BYTES: usize = 4096;
/// Random bytes of a session id: with 160 bits, guessing one of a billion sessions takes more than a lifetime.
pub const WEB_SESSION_ID_BYTES: usize = 20;
/// Maximum size of a session's values as JSON: about as much as a cookie could hold.
pub const WEB_SESSION_MAX_BYTES: usize = 4096;
/// Default capacity of a session store in memory. At their largest these sessions take about 80 MiB.
pub const WEB_SESSIONS_MAX: usize = 20_000;
/// Minimum number of sessions in each part of a store in memory. Each part has its own lock.
pub const WEB_SESSION_PART_MIN: usize = 256;
/// Maximum number of parts of a store in memory. With this many, two workers rarely wait for the same lock.
pub const WEB_SESSION_PARTS_MAX: usize = 64;
/// Number of expired sessions that a store in memory drops for each one that it saves: more than one, so that they
/// don't pile up, and few enough that no worker waits.
pub const WEB_SESSIONS_SWEPT: usize = 2;
/// Default lifetime of a session since it was last used: a working day.
pub const DEFAULT_WEB_SESSION_LIFETIME_S: u64 = 12 * 3600;
/// Range of a session's lifetime: up to 400 days, the longest that a browser keeps a cookie.
pub const WEB_SESSION_LIFETIME_RANGE_S: RangeInclusive<u64> = 1..=400 * 24 * 3600;
/// A session that is only read gets its whole lifetime again once the lifetime divided by this has passed.
pub const WEB_SESSION_SLIDE_DIVISOR: u32 = 10;
/// Maximum number of pairs in a query string. One with more is refused. Other servers have the same limit.
pub const WEB_QUERY_PAIRS_MAX: usize = 1_000;
/// Maximum number of choices that are read from a field such as `Accept-Language`. Browsers send up to a dozen.
pub const WEB_CHOICES_MAX: usize = 32;
/// Maximum length of a language tag: the room that RFC 5646 (section 4.4.1) recommends.
pub const WEB_LANGUAGE_BYTES: usize = 35;
/// Maximum number of links that are read from `Link` fields. Pages have a handful.
pub const WEB_LINKS_MAX: usize = 64;
/// Maximum of a time in `Cache-Control`, 68 years. RFC 9111 (section 1.2.2) treats every longer time as this one.
pub const WEB_CACHE_MAX_S: u64 = 1 << 31;
/// Maximum number of bodies that a worker compresses at a time. Each takes half a MiB. Further bodies are sent
/// uncompressed.
pub const WEB_COMPRESSED_BODIES: usize = 64;
/// Level of gzip, the fastest one: it reduces a scrape in JSON to 27 % at 220 MB/s on one core. The next level reduces
/// it to 25 % at half that speed. An instance takes 312 KiB.
pub const WEB_GZIP_LEVEL: u32 = 1;
/// Level of zstd: it reduces a scrape in JSON to 19 % at 570 MB/s on one core. The next two levels are slower and
/// produce no smaller output.
pub const WEB_ZSTD_LEVEL: i32 = 1;
/// Window of zstd as a power of two: 64 KiB. An instance takes 522 KiB. With a window of 128 KiB it would take 954 KiB,
/// and bodies of usual length would not get smaller.
pub const WEB_ZSTD_WINDOW_LOG_BYTES: u32 = 16;
/// Number of bytes by which a compressor grows its output buffer at a time.
pub const WEB_COMPRESSED_STEP_BYTES: usize = 16 * 1024;
/// Maximum number of template instructions for one rendering. A table row takes about 20. The limit stops a looping
/// template after about 50 ms of its worker's time.
pub const WEB_TEMPLATE_FUEL: u64 = 1_000_000;
/// Maximum nesting depth of a template. An include counts as 10, a macro call as 4: their frames are large, and a
/// worker's stack has 2 MiB.
pub const WEB_TEMPLATE_DEPTH: usize = 200;
