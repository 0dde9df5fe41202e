// Owns the words of the page: how numbers, times and sizes are written, what clients are called, what causes mean.

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

/** A count: `12,345,678`, and from a hundred millions on `123M`. */
export const count = (value) => (value < 1e8 ? grouped : compact).format(value);

/** A count where there is little room: `12.3K`. */
export const short = (value) => compact.format(value);

/** A rate: small ones with their fraction, so that one in a while is not none. */
export function rate(value) {
  if (value === 0 || value >= 10) return count(value);
  return value < 0.1 ? "< 0.1" : value.toFixed(1);
}

/** A part of one. */
export function percent(part) {
  if (!Number.isFinite(part)) return "–";
  if (part > 0 && part < 0.001) return "< 0.1 %";
  return `${(100 * part).toFixed(part < 0.1 && part > 0 ? 1 : 0)} %`;
}

/** A size in binary units: `416 MiB`. */
export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; value >= 1000 && unit < units.length - 1; unit++) value /= 1024;
  return `${value.toFixed(unit > 0 && value < 9.95 ? 1 : 0)} ${units[unit]}`;
}

/** A time in microseconds: `840 µs`. */
export function micros(value) {
  if (!Number.isFinite(value)) return "–";
  const [scaled, unit] = value < 1e3 ? [value, "µs"] : value < 1e6 ? [value / 1e3, "ms"] : [value / 1e6, "s"];
  return `${scaled.toFixed(scaled < 9.95 ? 1 : 0)} ${unit}`;
}

/** A time in seconds, by its two largest units: `3 d 4 h`. */
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

// Digits of versions go on after 9: A is 10.
const digit = (character) => Number.parseInt(character, 36);
const dots = (text) => Array.from(text, digit);
const trimmed = (numbers) => {
  while (numbers.length > 2 && numbers.at(-1) === 0) numbers.pop();
  return numbers.join(".");
};

// How the four characters of a version are read.
const each = (text) => trimmed(dots(text));
const three = (text) => dots(text.slice(0, 3)).join(".");
const pairs = (text) => `${Number(text.slice(0, 2))}.${text.slice(2)}`;
const transmission = (text) =>
  digit(text[0]) < 4 ? `${text[0]}.${text.slice(1, 3)}` : three(text);

// Azureus's convention (BEP 20), `-qB5040-`: the two letters, and how the version is written.
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

// Others: how the peer id begins, the name, and how the version is read of what matched.
const OTHERS = [
  [/^A2-(\d+)-(\d+)-/, "aria2", (major, minor) => `${major}.${minor}`],
  [/^TIX(\d\d)(\d\d)/, "Tixati", (major, minor) => `${Number(major)}.${minor}`],
  [/^M(\d+)-(\d+)-(\d+)/, "BitTorrent", (...numbers) => numbers.join(".")],
  [/^OP(\w{4})/, "Opera", (build) => build],
  [/^(?:XBT)(\d)(\d)(\d)/, "XBT", (...numbers) => numbers.join(".")],
];

/** The client behind the first eight bytes of a peer id: its name, and its version if that is written there. */
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

/** What is lost, by its cause: what happened, and the doctor's checks that say more. */
export const DROPS = {
  "mesh-full": ["the queue to another worker was full", ["cores-busy", "stolen-time", "cpu-quota"]],
  "gather-full": ["too many requests waited for other workers", ["cores-busy", "stolen-time", "cpu-quota"]],
  "gather-late": ["another worker did not answer in time", ["cores-busy", "stolen-time", "isolation", "cpu-quota"]],
  "wait-full": ["too many requests waited in middleware", ["cores-busy"]],
  "wait-late": ["middleware did not come to an end in time", ["cores-busy"]],
  "table-full": ["the memory of --max-memory was used up; answered without peers", ["memory", "options"]],
  "send-failed": ["the kernel did not take a response", ["send-buffer", "conntrack-table", "udp-memory", "families"]],
  "connections": ["more connections than --http-connections", ["open-files", "listen-backlog", "options"]],
  "accept": ["a connection could not be accepted", ["open-files", "listen-backlog", "memory"]],
  "receive-overrun": [
    "a socket's receive buffer was full",
    ["receive-buffer", "udp-memory", "socket-drops", "udp-drops", "softirq-balance", "cores-busy"],
  ],
};

/** What is wrong with requests that are none. */
export const BAD = {
  "short": "shorter than their kind needs",
  "magic": "connects without the protocol's magic",
  "action": "an action that no client sends",
  "truncated": "longer than any request",
  "source-port": "sent from port 0",
  "connection-id": "no valid connection id",
  "announce-port": "announces of port 0",
  "options": "malformed options; answered all the same",
  "http": "no HTTP",
  "query": "a wrong query",
};

/** What sources asked for that are over a limit. */
export const LIMITED = {
  "connects": "UDP connects beyond --limit-connects",
  "announces": "UDP announces beyond --limit-announces",
  "scrapes": "UDP scrapes beyond --limit-scrapes",
  "http-requests": "HTTP requests beyond --limit-http-requests; they get a 429",
  "http-connections": "HTTP connections beyond --limit-http-connections; they are closed",
  "banned": "of addresses that sent too many wrong connection ids",
};

/** Who is turned away, and who is taken out: where in the figures, the name, what it means. */
export const TURNED_AWAY = [
  [(numbers) => numbers.denied.torrents, "torrents", "torrents that are not served"],
  [(numbers) => numbers.denied.clients, "clients", "clients that are not allowed"],
  [(numbers) => numbers.denied.sources, "sources", "addresses that are not allowed"],
  [(numbers) => numbers.refused, "refused", "told so, in the tracker's own words"],
  [(numbers) => numbers.silenced, "silenced", "ended by middleware without an answer"],
];

export const TAKEN_OUT = [
  [(numbers) => numbers.removed.expired, "expired", "did not announce again"],
  [(numbers) => numbers.removed.evicted, "evicted", "before their time: memory was short"],
  [(numbers) => numbers.removed.denied, "denied", "their torrent is not served any more"],
];
