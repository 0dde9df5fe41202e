// Owns the texts of the page: formats of numbers, times and sizes, names of clients, descriptions of causes.

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

/** Formats a count: `12,345,678`, from a hundred million on `123M`. */
export const count = (value) => (value < 1e8 ? grouped : compact).format(value);

/** Formats a count in little space: `12.3K`. */
export const short = (value) => compact.format(value);

/** Formats a rate. Small rates keep their fraction, so that rare events do not show as 0. */
export function rate(value) {
  if (value === 0 || value >= 10) return count(value);
  return value < 0.1 ? "< 0.1" : value.toFixed(1);
}

/** Formats a share from 0 to 1. */
export function percent(part) {
  if (!Number.isFinite(part)) return "–";
  if (part > 0 && part < 0.001) return "< 0.1 %";
  return `${(100 * part).toFixed(part < 0.1 && part > 0 ? 1 : 0)} %`;
}

/** Formats a size in binary units: `416 MiB`. */
export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; value >= 1000 && unit < units.length - 1; unit++) value /= 1024;
  return `${value.toFixed(unit > 0 && value < 9.95 ? 1 : 0)} ${units[unit]}`;
}

/** Formats a time given in microseconds: `840 µs`. */
export function micros(value) {
  if (!Number.isFinite(value)) return "–";
  const [scaled, unit] = value < 1e3 ? [value, "µs"] : value < 1e6 ? [value / 1e3, "ms"] : [value / 1e6, "s"];
  return `${scaled.toFixed(scaled < 9.95 ? 1 : 0)} ${unit}`;
}

/** Formats a time given in seconds, in its two largest units: `3 d 4 h`. */
export function duration(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, length]) => seconds >= length);
  if (first < 0) return "0 s";
  let rest = Math.floor(seconds);
  const parts = units.slice(first, first + 2).map(([unit, length]) => {
    const whole = Math.floor(rest / length);
    rest -= whole * length;
    return [whole, unit];
  });
  return parts.filter(([whole], at) => at === 0 || whole > 0).map((part) => part.join(" ")).join(" ");
}

// Version digits continue after 9: A is 10.
const digit = (character) => Number.parseInt(character, 36);
const dots = (text) => Array.from(text, digit);
const trimmed = (numbers) => {
  while (numbers.length > 2 && numbers.at(-1) === 0) numbers.pop();
  return numbers.join(".");
};

// How to read the four characters of a version.
const each = (text) => trimmed(dots(text));
const three = (text) => dots(text.slice(0, 3)).join(".");
const pairs = (text) => `${Number(text.slice(0, 2))}.${text.slice(2)}`;
const transmission = (text) =>
  digit(text[0]) < 4 ? `${text[0]}.${text.slice(1, 3)}` : three(text);

// Azureus style (BEP 20), `-qB5040-`: the two letters, the client, and its version format.
const AZUREUS = {
  "7T": ["aTorrent", each], AG: ["Ares", each], AR: ["Arctic", each], AZ: ["Vuze", each], BC: ["BitComet", pairs],
  BE: ["BareTorrent", each], BI: ["BiglyBT", each], BL: ["BitLord", each], BT: ["BitTorrent", three],
  BW: ["BitTorrent Web", three], CD: ["Enhanced CTorrent", each], DE: ["Deluge", three], FD: ["Free Download Manager", each],
  FL: ["Flud", each], FW: ["FrostWire", each], GL: ["gyre-load", pairs], GT: ["anacrolix/torrent", each],
  HL: ["Halite", each], KG: ["KGet", each], KT: ["KTorrent", each], LT: ["libtorrent", each], LW: ["LimeWire", each],
  MO: ["MonoTorrent", each], PI: ["PicoTorrent", each], SD: ["Thunder", each], SP: ["BitSpirit", each],
  TL: ["Tribler", each], TR: ["Transmission", transmission], TT: ["TuoTu", each], UE: ["µTorrent Embedded", three],
  UM: ["µTorrent for Mac", three], UT: ["µTorrent", three], UW: ["µTorrent Web", three], WD: ["WebTorrent Desktop", pairs],
  WW: ["WebTorrent", pairs], XL: ["Thunder", each], lt: ["rTorrent (libTorrent)", three], qB: ["qBittorrent", three],
};

// Other styles: prefix of the peer id, the client, and how to read the version from the match.
const OTHERS = [
  [/^A2-(\d+)-(\d+)-/, "aria2", (major, minor) => `${major}.${minor}`],
  [/^TIX(\d\d)(\d\d)/, "Tixati", (major, minor) => `${Number(major)}.${minor}`],
  [/^M(\d+)-(\d+)-(\d+)/, "BitTorrent", (...numbers) => numbers.join(".")],
  [/^OP(\w{4})/, "Opera", (build) => build],
  [/^(?:XBT)(\d)(\d)(\d)/, "XBT", (...numbers) => numbers.join(".")],
];

/** Returns name and version of the client with these first eight bytes of a peer id. The version can be empty. */
export function client(id) {
  const [, letters, version] = /^-(\w\w)(\w{4})/.exec(id) ?? [];
  if (Object.hasOwn(AZUREUS, letters)) {
    const [name, read] = AZUREUS[letters];
    return { name, version: read(version) };
  }
  for (const [pattern, name, read] of OTHERS) {
    const match = pattern.exec(id);
    if (match) return { name, version: read(...match.slice(1)) };
  }
  return { name: id, version: "", unknown: true };
}

/** Causes of losses: a description, and the doctor's checks that tell more. */
export const DROPS = {
  "mesh-full": ["the queue to another worker was full", ["cores-busy", "stolen-time", "cpu-quota"]],
  "gather-full": ["too many requests were waiting for other workers", ["cores-busy", "stolen-time", "cpu-quota"]],
  "gather-late": ["another worker did not answer in time", ["cores-busy", "stolen-time", "isolation", "cpu-quota"]],
  "wait-full": ["too many requests were waiting in middleware", ["cores-busy"]],
  "wait-late": ["middleware did not finish in time", ["cores-busy"]],
  "table-full": ["the memory of --max-memory was used up; the response had no peers", ["memory", "options"]],
  "send-failed": ["the kernel did not accept a response", ["send-buffer", "conntrack-table", "udp-memory", "families"]],
  "connections": ["more connections than --http-connections", ["open-files", "listen-backlog", "options"]],
  "accept": ["a connection could not be accepted", ["open-files", "listen-backlog", "memory"]],
  "receive-overrun": [
    "a socket's receive buffer was full",
    ["receive-buffer", "udp-memory", "socket-drops", "udp-drops", "softirq-balance", "cores-busy"],
  ],
};

/** Causes of invalid requests. */
export const BAD = {
  "short": "too short for the action",
  "magic": "connect without the magic number of the protocol",
  "action": "an action that clients do not send",
  "truncated": "longer than any request",
  "source-port": "sent from port 0",
  "connection-id": "no valid connection id",
  "announce-port": "announce of port 0",
  "options": "malformed options; the request was answered",
  "http": "invalid HTTP request",
  "query": "invalid query of an announce or scrape",
};

/** Requests over a limit of their source. */
export const LIMITED = {
  "connects": "UDP connects over --limit-connects",
  "announces": "UDP announces over --limit-announces",
  "scrapes": "UDP scrapes over --limit-scrapes",
  "http-requests": "HTTP requests over --limit-http-requests; they get a 429",
  "http-connections": "HTTP connections over --limit-http-connections; they are closed",
  "banned": "from addresses that sent too many wrong connection ids",
};

/** Denied requests: value, name, description. */
export const DENIED = [
  [(numbers) => numbers.denied.torrents, "torrents", "the torrent is not allowed"],
  [(numbers) => numbers.denied.clients, "clients", "the client is not allowed"],
  [(numbers) => numbers.denied.sources, "sources", "the source address is not allowed"],
  [(numbers) => numbers.refused, "refused", "refused with an error message"],
  [(numbers) => numbers.silenced, "silenced", "ended by middleware without a response"],
];

/** Removed peers: value, name, description. */
export const REMOVED = [
  [(numbers) => numbers.removed.expired, "expired", "no announce before the timeout"],
  [(numbers) => numbers.removed.evicted, "evicted", "removed before the timeout: memory was short"],
  [(numbers) => numbers.removed.denied, "denied", "the torrent is denied now"],
];
