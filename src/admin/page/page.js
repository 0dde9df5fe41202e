// Owns what the page shows: receives the tracker's statistics each second, computes rates, and fills in the page.
// Everything that comes from the network is inserted as text, never as markup.

import { Chart, Spark, Strip } from "./chart.js";
import {
  BAD, DROPS, LIMITED, DENIED, REMOVED, bytes, client, count, duration, micros, percent, rate, short,
} from "./words.js";

const SPAN_MS = 5 * 60_000; // time span of the charts
const WINDOW = 3; // intervals that a rate is taken over: workers publish four times a second, not in step with the page
const SILENCE_MS = 5_000; // without an event for this time the connection counts as lost
const REFRESH_MS = 10_000; // refresh of swarms, clients and lists
const STRIP = 9; // number of workers from which on the strip is shown
const SWARMS = 20;
const CLIENTS = 12;

const $ = (selector) => document.querySelector(selector);
const sum = (values) => values.reduce((one, other) => one + other, 0);
const values = (object) => sum(Object.values(object));

// ---- parts of the document ----

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** Sets the text of an element if it differs. */
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Columns of tables. Each takes a cell, and returns a function that shows a value in it.
const text = (cell) => (value) => put(cell, value);
const number = (cell) => {
  cell.className = "number";
  return text(cell);
};
const mono = (cell) => {
  cell.className = "mono";
  return (value) => {
    put(cell, value);
    cell.title = value;
  };
};
const bar = (cell) => {
  const label = cell.appendChild(make("span", { className: "label" }));
  const track = cell.insertBefore(make("span", { className: "bar" }), label);
  cell.className = "wide";
  return ([value, share]) => {
    put(label, value);
    track.style.setProperty("--share", Math.max(0, Math.min(1, share || 0)));
  };
};
/** A name with a description in small type. */
const explained = (cell) => {
  const name = cell.appendChild(make("span"));
  const meaning = cell.appendChild(make("small"));
  return ([value, words]) => {
    put(name, value);
    put(meaning, words);
  };
};
/** A cause that links to the doctor's findings on it. */
const cause = (cell) => {
  const link = cell.appendChild(make("a", { href: "#doctor" }));
  const meaning = cell.appendChild(make("small"));
  link.addEventListener("click", () => doctor.ask(link.textContent));
  return ([value, words]) => {
    put(link, value);
    put(meaning, words);
    link.title = "show what the doctor found";
  };
};
/** An info-hash that a click copies. */
const hash = (cell) => {
  const button = cell.appendChild(make("button", { type: "button", className: "mono copy" }));
  cell.className = "mono";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(button.textContent);
      button.classList.add("copied");
      setTimeout(() => button.classList.remove("copied"), 1_000);
    } catch {
      getSelection().selectAllChildren(button); // browsers allow the clipboard on secure pages only
    }
  });
  return (value) => {
    put(button, value);
    button.title = `${value} (click to copy)`;
  };
};

/** The rows of a table's body. The first cell of each is its head. They are inserted before the row `last`, if given. */
class Rows {
  #kept = [];

  constructor(body, columns, last = null) {
    Object.assign(this, { body, columns, last });
  }

  show(rows) {
    while (this.#kept.length > rows.length) this.#kept.pop().row.remove();
    while (this.#kept.length < rows.length) this.#kept.push(this.#add());
    rows.forEach((values, at) => values.forEach((value, column) => this.#kept[at].set[column](value)));
  }

  #add() {
    const row = this.body.insertBefore(make("tr"), this.last);
    const set = this.columns.map((column, at) => {
      const cell = row.appendChild(at === 0 ? make("th", { scope: "row" }) : make("td"));
      return column(cell);
    });
    return { row, set };
  }
}

const rows = (table, columns) => new Rows($(`${table} tbody`), columns);

// ---- values computed from the statistics ----

const both = ({ v4, v6 }) => v4 + v6;
const udp = (numbers) => both(numbers.udp.connects) + both(numbers.udp.announces) + both(numbers.udp.scrapes);
const http = (numbers) => both(numbers.http.announces) + both(numbers.http.scrapes) + numbers.http.others;
const requests = (numbers) => udp(numbers) + http(numbers);
const responses = (numbers) => both(numbers.udp.responses) + both(numbers.http.responses);
const peers = (numbers) => numbers.seeders + numbers.leechers;

/** Returns a quantile of the turn times in microseconds. Bucket n holds the turns from 2^(n-1) to 2^n microseconds. */
function quantile(counts, part) {
  let rest = part * sum(counts);
  if (rest === 0) return null;
  const at = counts.findIndex((count) => (rest -= count) <= 0);
  const [from, to] = [at === 0 ? 0 : 2 ** (at - 1), 2 ** at];
  return to + ((to - from) * rest) / counts[at];
}

/** Two readings of one run of the tracker. */
class Interval {
  constructor(before, now) {
    Object.assign(this, { before, now, seconds: (now.unix_ms - before.unix_ms) / 1000 });
  }

  /** Returns the increase per second of a value; at least 0. */
  rate(of, worker) {
    const [before, now] =
      worker === undefined ? [this.before.total, this.now.total] : [this.before.workers[worker], this.now.workers[worker]];
    return Math.max(0, of(now) - of(before)) / this.seconds;
  }

  /** Returns the increase of each bucket of a histogram. */
  counts(name) {
    const before = this.before.total[name].counts;
    return this.now.total[name].counts.map((count, at) => Math.max(0, count - before[at]));
  }

  /** Returns the mean number of datagrams of the turns that took any; 0 if there were none. */
  datagrams() {
    const turns = sum(this.counts("turn_datagrams"));
    return turns && (this.rate(({ turn_datagrams }) => turn_datagrams.sum) * this.seconds) / turns;
  }
}

/** The last readings, and the chart points of the last minutes. */
class History {
  #readings = [];
  points = [];

  /** Adds a reading. Returns the interval that it ends, or null after a start of the tracker. */
  take(stats) {
    const last = this.#readings.at(-1);
    if (last && (stats.uptime_secs < last.uptime_secs || stats.workers.length !== last.workers.length)) {
      this.#readings = []; // the tracker restarted, its counters start from zero
      this.interrupt();
    } else if (last && stats.unix_ms <= last.unix_ms) {
      this.#readings = []; // its clock was set back
      this.points = [];
    }
    this.#readings.push(stats);
    if (this.#readings.length > WINDOW + 1) this.#readings.shift();
    if (this.#readings.length < 2) return null;
    const interval = new Interval(this.#readings[0], stats);
    this.points.push(point(interval));
    this.points = this.points.filter(({ at }) => at > stats.unix_ms - SPAN_MS - 2_000);
    return interval;
  }

  /** Makes a gap in the lines. */
  interrupt() {
    if (this.points.length > 0) this.points.push({ at: this.points.at(-1).at });
  }
}

function point(interval) {
  const { total, unix_ms, resident_bytes } = interval.now;
  const turns = interval.counts("turns");
  return {
    at: unix_ms,
    udp: interval.rate(udp),
    http: interval.rate(http),
    requests: interval.rate(requests),
    responses: interval.rate(responses),
    lost: interval.rate(({ drops }) => values(drops)),
    cpu: interval.rate(({ cpu_us }) => cpu_us) / 1e6,
    p50: quantile(turns, 0.5),
    p99: quantile(turns, 0.99),
    datagrams: interval.datagrams(),
    connections: total.connections,
    swarms: total.swarms,
    seeders: total.seeders,
    leechers: total.leechers,
    memory: resident_bytes,
  };
}

// ---- the tiles and charts ----

const figures = Object.fromEntries(
  Array.from(document.querySelectorAll("[data-figure]"), (element) => [element.dataset.figure, element]),
);
const sparks = Array.from(document.querySelectorAll("[data-spark]"), (element) => [
  element.dataset.spark,
  new Spark(element),
]);
const throughput = new Chart($("#throughput"), {
  name: "Requests per second",
  series: [{ key: "udp", name: "UDP", area: true }, { key: "http", name: "HTTP" }],
  format: rate,
  tick: short,
});
const turnTimes = new Chart($("#turns"), {
  name: "Turn time",
  series: [{ key: "p99", name: "p99", area: true }, { key: "p50", name: "p50" }],
  format: micros,
  tick: (value) => micros(value).replace(".0", ""),
  log: true,
});

function showTiles(stats, now) {
  const { total, snapshot, failed_snapshots: failed, unix_ms: at } = stats;
  const texts = {
    "requests": rate(now.requests),
    "requests-note": `UDP ${percent(now.udp / now.requests)}`,
    "responses": rate(now.responses),
    "responses-note": `${percent(now.responses / now.requests)} of requests`,
    "p99": micros(now.p99 ?? NaN),
    "p99-note": `p50 ${micros(now.p50 ?? NaN)}`,
    "cpu": percent(now.cpu / stats.workers.length),
    "cpu-note": stats.workers.length > 1 ? `mean of ${stats.workers.length} workers` : "one worker",
    "lost": rate(now.lost),
    "lost-note": `${count(values(total.drops))} in total`,
    "connections": count(total.connections),
    "connections-note": `HTTP ${rate(now.http)}/s`,
    "swarms": count(total.swarms),
    "swarms-note": `${count(total.completed)} downloads`,
    "seeders": count(total.seeders),
    "seeders-note": `${percent(total.seeders / peers(total))} of peers`,
    "leechers": count(total.leechers),
    "leechers-note": `${percent(total.v6_peers / peers(total))} of peers are IPv6`,
    "memory": bytes(stats.resident_bytes),
    "memory-note": `table ${bytes(total.table_bytes)}`,
    "snapshot": snapshot ? `${duration(at / 1000 - snapshot.unix_secs)} ago` : "none",
    "snapshot-note": snapshot ? `${bytes(snapshot.bytes)} in ${micros(1000 * snapshot.took_ms)}` : "since the start",
    "uptime": duration(stats.uptime_secs),
    "uptime-note": `since ${new Date(at - 1000 * stats.uptime_secs).toLocaleString("sv-SE").slice(0, 16)}`,
  };
  if (failed > 0) texts["snapshot-note"] = `${count(failed)} failed`;
  for (const [name, words] of Object.entries(texts)) put(figures[name], words);
  figures["lost"].classList.toggle("bad", now.lost > 0);
  figures["snapshot-note"].classList.toggle("bad", failed > 0);
}

function showCharts(stats, points) {
  const { unix_ms: now } = stats;
  const minutes = Math.ceil((now - points[0].at) / 60_000); // less than SPAN_MS at first
  const span = Math.min(SPAN_MS, Math.max(1, minutes) * 60_000);
  throughput.show(points, now, span);
  turnTimes.show(points, now, span);
  const { datagrams } = points.at(-1);
  put($("#datagrams"), datagrams > 0 ? `, ${rate(datagrams)} datagrams on average` : "");
  for (const [key, spark] of sparks) spark.show(points, key, now, span);
}

// ---- the tables of figures ----

const workers = rows("#workers", [number, number, bar, bar, number, number]);
const strip = new Strip($("#strip"));

function showWorkers({ workers: all }, interval) {
  const shares = all.map((_, worker) => interval.rate(({ cpu_us }) => cpu_us, worker) / 1e6);
  const rates = all.map((_, worker) => interval.rate(requests, worker));
  const most = Math.max(1, ...rates);
  workers.show(all.map((numbers, worker) => [
    String(worker),
    numbers.core === null ? "any" : String(numbers.core),
    [percent(shares[worker]), shares[worker]],
    [rate(rates[worker]), rates[worker] / most],
    rate(interval.rate(({ mesh_hops }) => mesh_hops, worker)),
    count(peers(numbers)),
  ]));
  strip.element.toggleAttribute("hidden", all.length < STRIP);
  strip.show(shares.map((share, worker) => ({ share, words: `worker ${worker}: ${percent(share)}` })));
  const sorted = shares.toSorted((one, other) => one - other);
  const middle = sorted[Math.floor(sorted.length / 2)];
  const busiest = shares.indexOf(sorted.at(-1));
  const words = `busiest: worker ${busiest} at ${percent(sorted.at(-1))}, median ${percent(middle)}, minimum ${percent(sorted[0])}`;
  put($("#balance"), all.length > 1 ? words : "");
}

const KINDS = [
  ["UDP connect", ({ udp }) => udp.connects],
  ["UDP announce", ({ udp }) => udp.announces],
  ["UDP scrape", ({ udp }) => udp.scrapes],
  ["HTTP announce", ({ http }) => http.announces],
  ["HTTP scrape", ({ http }) => http.scrapes],
  ["HTTP other", ({ http }) => ({ v4: http.others, v6: NaN })],
  ["UDP responses", ({ udp }) => udp.responses],
  ["HTTP responses", ({ http }) => http.responses],
];
const traffic = rows("#traffic", [text, number, number, number]);

function showTraffic({ total }, interval) {
  traffic.show(KINDS.map(([name, of]) => {
    const all = (numbers) => of(numbers).v4 + (of(numbers).v6 || 0);
    return [name, rate(interval.rate(all)), percent(of(total).v6 / all(total)), count(all(total))];
  }));
}

// Groups of causes: title, column type, and the causes (value, name, description).
const named = (group, words) =>
  Object.entries(words).map(([name, meaning]) => [(numbers) => numbers[group][name] ?? 0, name, [meaning].flat()[0]]);
const CAUSES = [
  ["Lost", cause, named("drops", DROPS)],
  ["Invalid requests", explained, named("bad", BAD)],
  ["Over a limit", explained, named("limited", LIMITED)],
  ["Denied or refused", explained, DENIED],
  ["Peers removed", explained, REMOVED],
].map(([title, column, causes]) => {
  const head = make("tr", {}, make("th", { scope: "rowgroup", colSpan: 3, textContent: title }));
  const none = make("td", { colSpan: 3, className: "hint" });
  const last = make("tr", {}, none);
  const body = $("#causes").appendChild(make("tbody", {}, head, last));
  return { causes, none, last, shown: new Rows(body, [column, number, number], last) };
});

function showCauses({ total }, interval) {
  for (const { causes, none, last, shown } of CAUSES) {
    const met = causes.filter(([of]) => of(total) > 0);
    shown.show(met.map(([of, name, meaning]) => [[name, meaning], rate(interval.rate(of)), count(of(total))]));
    const others = causes.filter(([of]) => of(total) === 0).map(([, name]) => name);
    put(none, `zero: ${others.join(", ")}`);
    last.hidden = others.length === 0;
  }
}

// ---- data that is fetched at intervals ----

async function ask(path) {
  const response = await fetch(path, { headers: { accept: "application/json" } });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error ?? response.statusText);
  return answer;
}

const swarms = rows("#swarms", [hash, bar, number, number, number]);

async function showSwarms() {
  const by = $("#by input:checked").value;
  const largest = await ask(`api/swarms?by=${by}&limit=${SWARMS}`);
  if (by !== $("#by input:checked").value) return; // the selection has changed meanwhile
  const most = Math.max(...largest.map(peers));
  swarms.show(largest.map((swarm) => [
    swarm.info_hash,
    [count(peers(swarm)), peers(swarm) / most],
    count(swarm.seeders),
    count(swarm.leechers),
    count(swarm.downloaded),
  ]));
  $("#swarms").dataset.by = by;
  return largest.length;
}

const clients = rows("#clients", [explained, bar]);

async function showClients() {
  const groups = new Map();
  for (const { id, share } of await ask("api/clients")) {
    const { name, version, unknown } = client(id);
    const group = groups.get(name) ?? { name: unknown ? `“${name}”` : name, share: 0, versions: [] };
    group.share += share;
    if (version) group.versions.push([version, share]);
    groups.set(name, group);
  }
  const sorted = [...groups.values()].sort((one, other) => other.share - one.share);
  const others = sorted.splice(CLIENTS);
  if (others.length > 0) {
    sorted.push({ name: `${others.length} more`, share: sum(others.map(({ share }) => share)), versions: [] });
  }
  const written = (versions, whole) => {
    const first = versions.slice(0, 3).map(([version, share]) =>
      versions.length > 1 ? `${version} (${percent(share / whole)})` : version);
    return first.concat(versions.length > 3 ? `${versions.length - 3} more` : []).join(", ");
  };
  clients.show(sorted.map(({ name, share, versions }) =>
    [[name, written(versions, share)], [percent(share), share / sorted[0].share]]));
  return sorted.length;
}

const lists = rows("#lists", [text, mono, number]);

async function showLists() {
  const all = await ask("api/lists");
  lists.show(all.map(({ name, file, entries, own }) => [name, own ? `${file} (own)` : file, count(entries)]));
  return all.length;
}

/** Returns a function that refreshes a table, or shows its hint while it is empty. */
function refresh(name, show) {
  const hint = $(`#${name}-hint`);
  const empty = hint.textContent;
  return async () => {
    try {
      const length = await show();
      if (length === undefined) return;
      $(`#${name}`).hidden = length === 0;
      hint.hidden = length > 0;
      put(hint, empty);
    } catch (error) {
      hint.hidden = false;
      put(hint, `can't load: ${error.message}`);
    }
  };
}

const refreshSwarms = refresh("swarms", showSwarms);
const refreshed = [refreshSwarms, refresh("clients", showClients), refresh("lists", showLists)];
$("#by").addEventListener("change", refreshSwarms);

function refreshAll() {
  if (!document.hidden && feed.isLive) refreshed.forEach((one) => one());
}

// ---- the doctor ----

const doctor = {
  findings: [],
  about: null, // the selected cause

  /** Shows the findings about this cause first. */
  ask(cause) {
    this.about = cause;
    this.show();
    $("#doctor").focus();
  },

  async examine() {
    const button = $("#examine");
    const hint = $("#doctor-hint");
    button.disabled = true;
    put(hint, "checking; this takes some seconds …");
    try {
      const { findings } = await ask("api/doctor");
      this.findings = findings;
      const of = (level) => findings.filter((finding) => finding.level === level).length;
      const time = new Date().toLocaleTimeString("en-GB");
      put(hint, `At ${time}: ${of("fail")} failed, ${of("warn")} warnings, ${of("ok")} checks ok.`);
    } catch (error) {
      put(hint, `The check failed: ${error.message}`);
    }
    button.disabled = false;
    this.show();
  },

  show() {
    const concerned = DROPS[this.about]?.[1] ?? [];
    const order = { fail: 0, warn: 1, ok: 2 };
    const weight = ({ check, level }) => order[level] - (concerned.includes(check) ? 3 : 0);
    const sorted = this.findings.toSorted((one, other) => weight(one) - weight(other));
    const items = (findings) => findings.map((finding) => this.item(finding, concerned.includes(finding.check)));
    const isShown = ({ check, level }) => level !== "ok" || concerned.includes(check);
    $("#findings").replaceChildren(...items(sorted.filter(isShown)));
    const well = sorted.filter((finding) => !isShown(finding));
    $("#well").hidden = well.length === 0;
    put($("#well summary"), `${well.length} checks ok`);
    $("#well ul").replaceChildren(...items(well));
    if (this.about && this.findings.length === 0) {
      put($("#doctor-hint"), `Check the machine to find the cause of ${this.about}. Related checks: ${concerned.join(", ")}.`);
    }
  },

  item({ check, level, what, cost, fix }, concerned) {
    const item = make("li", { className: level });
    item.append(make("b", { textContent: level }), make("code", { textContent: check }));
    if (concerned) item.append(make("em", { textContent: `possible cause of ${this.about}` }));
    item.append(make("p", { textContent: what }));
    if (cost) item.append(make("p", { className: "hint", textContent: `cost: ${cost}` }));
    if (fix) {
      // Text between backticks is a command or setting.
      const parts = fix.split("`").map((part, at) => (at % 2 ? make("code", { textContent: part }) : part));
      item.append(make("p", {}, "fix: ", ...parts));
    }
    return item;
  },
};

$("#examine").addEventListener("click", () => doctor.examine());

// ---- the events ----

const history = new History();
let latest = null; // the last reading, the interval that it ends, and its chart point

function show() {
  if (!latest || document.hidden) return;
  const [stats, interval, now] = latest;
  put($("#about"), `${stats.version} on ${location.host}`);
  showTiles(stats, now);
  showCharts(stats, history.points);
  showWorkers(stats, interval);
  showTraffic(stats, interval);
  showCauses(stats, interval);
}

/** The stream of events. Browsers reconnect after some errors only; after the others this does. */
const feed = {
  source: null,
  heard: performance.now(),
  isLive: false,

  open() {
    this.source?.close();
    this.heard = performance.now();
    this.source = new EventSource("api/events");
    this.source.addEventListener("stats", ({ data }) => this.take(JSON.parse(data)));
    this.source.addEventListener("error", () => this.lose());
  },

  take(stats) {
    this.heard = performance.now();
    const interval = history.take(stats);
    if (!interval) return; // a rate needs two readings
    latest = [stats, interval, history.points.at(-1)];
    show();
    if (!this.isLive) {
      this.say(true, "live");
      refreshAll();
    }
  },

  lose() {
    if (this.isLive) history.interrupt();
    this.say(false, "connection lost, retrying");
  },

  watch() {
    if (performance.now() - this.heard < SILENCE_MS) return;
    this.lose();
    this.open();
  },

  say(isLive, words) {
    this.isLive = isLive;
    put($("#state"), words);
    $("#state").className = isLive ? "live" : "lost";
    $("main").classList.toggle("lost", !isLive);
  },
};

feed.open();
setInterval(() => feed.watch(), 1_000);
setInterval(refreshAll, REFRESH_MS);
document.addEventListener("visibilitychange", () => {
  show();
  refreshAll();
});
