"""Owns the tests of the live page in a real browser. Called by scripts/page-test.sh: BINARIES SCRATCH [PICTURES]"""

import sys
from pathlib import Path

from browser import Browser, eventually
from tracker import Tracker

WIDE = (1440, 900)
PHONE = (360, 740)
AA = 4.5  # the contrast that WCAG requires for small text

# The lowest contrast of a text to its background, and that text.
CONTRAST = """(() => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
  const context = canvas.getContext("2d", {willReadFrequently: true});
  const luminance = (...layers) => {
    context.clearRect(0, 0, 1, 1);
    for (const layer of layers) { context.fillStyle = layer; context.fillRect(0, 0, 1, 1); }
    const [r, g, b] = Array.from(context.getImageData(0, 0, 1, 1).data, (part) => part / 255)
      .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => element ? [...behind(element.parentElement), getComputedStyle(element).backgroundColor] : [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let worst = [21, ""];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.disabled) continue;
    const style = getComputedStyle(element);
    const layers = behind(element);
    const ink = element instanceof SVGElement ? style.fill : style.color;
    const [one, other] = [luminance(...layers), luminance(...layers, ink)].sort((one, other) => other - one);
    const contrast = (one + 0.05) / (other + 0.05);
    if (contrast < worst[0]) worst = [contrast, walker.currentNode.data];
  }
  return worst;
})()"""

# Replaces the tracker's events with those of a tracker with 256 workers.
MANY_WORKERS = """
globalThis.EventSource = class extends EventTarget {
  constructor() { super(); setInterval(() => this.tell(), 200); }
  close() {}
  async tell() {
    this.stats ??= await (await fetch("api/stats")).json();
    const stats = this.stats;
    stats.unix_ms += 1000;
    stats.uptime_secs += 1;
    const one = stats.workers[0];
    if (stats.workers.length < 256) stats.workers = Array.from({length: 256}, (_, core) => ({...structuredClone(one), core}));
    stats.workers.forEach((worker, at) => {
      worker.cpu_us += 600000 + 350000 * Math.sin(at * at);
      worker.udp.announces.v4 += 90000 + 40000 * Math.sin(at * at);
      worker.mesh_hops += 1200;
      worker.seeders = 1234567;
    });
    stats.total.udp.announces.v4 += 23456789;
    stats.total.udp.announces.v6 += 4567890;
    stats.total.udp.responses.v4 += 28024000;
    stats.total.cpu_us += 256 * 598000;
    stats.total.seeders = 316049152;
    stats.total.leechers = 98765432;
    stats.total.swarms = 123456789;
    stats.total.drops["receive-overrun"] += 12345;
    stats.total.drops["send-failed"] += 1;
    stats.total.turns.counts.forEach((_, at, counts) => counts[at] += 2 ** (10 - Math.abs(at - 5)) | 0);
    stats.total.turn_datagrams.sum += 123456;
    stats.total.turn_datagrams.counts[5] += 1000;
    stats.resident_bytes = 98.7 * 2 ** 30;
    this.dispatchEvent(new MessageEvent("stats", {data: JSON.stringify(stats)}));
  }
};
"""


def check_figures(page):
    page.until("document.querySelector('#state').innerText === 'live'")
    total = "Number(document.querySelector('#traffic tbody tr:nth-child(2) td:last-child').innerText.replaceAll(',', ''))"
    before = page.run(total)
    page.until(f"{total} > {before}")
    page.until("Number(document.querySelector('[data-figure=requests]').innerText.replaceAll(',', '')) > 100")
    page.until("document.querySelectorAll('#workers tbody tr').length > 0")
    for figure in page.run("Array.from(document.querySelectorAll('[data-figure]'), ({innerText}) => innerText)"):
        assert figure, "a tile without a figure"
    check_sane(page)
    page.until("document.querySelector('#causes').innerText.includes('without the magic number of the protocol')")
    page.until("document.querySelector('#causes').innerText.includes('the torrent is not allowed')")
    assert "deny-hashes" in page.text("#lists") and "199" in page.text("#lists"), page.text("#lists")


def check_sane(page):
    wrong = page.run("document.body.innerText.match(/NaN|undefined|Infinity|null|(^|\\s)-\\d/)?.[0]")
    assert wrong is None, f"the page contains {wrong}"


def check_charts(page):
    for chart in ["#throughput .line.udp", "#throughput .area.udp", "#throughput .line.http", "#turns .line.p99"]:
        page.until(f"document.querySelector('{chart}').getAttribute('d').split('L').length > 4")
    page.until("/[1-9].* datagrams/.test(document.querySelector('#datagrams').innerText)")
    page.until("document.querySelectorAll('#tiles path.line[d]').length === 10")
    page.until("document.querySelectorAll('#strip rect').length === document.querySelectorAll('#workers tbody tr').length")
    x, y = page.run("(({right, top}) => [right - 14, top + 60])(document.querySelector('#throughput svg').getBoundingClientRect())")
    page.point(x, y)
    page.until("document.querySelector('#throughput .cursor.shown') && document.querySelector('#throughput time').innerText")
    page.point(1, 1)
    page.until("!document.querySelector('#throughput .cursor.shown')")


def check_tables(page):
    page.until("document.querySelectorAll('#swarms tbody tr').length === 20")
    assert page.run("/^[0-9a-f]{40}$/.test(document.querySelector('#swarms .copy').innerText)")
    for by in ["downloaded", "seeders"]:
        page.click(f"#by [value={by}] + span")
        page.until(f"document.querySelector('#swarms').dataset.by === '{by}'")


def check_clients(page):
    # The figures come from a sample, so some clients appear late.
    for words in ["qBittorrent", "5.0.4 (", "Transmission", "2.94", "aria2", "1.37", "<b>x</b>"]:
        page.until(f"document.querySelector('#clients').textContent.includes('{words}')")
    assert page.run("document.querySelector('#clients b') === null"), "a client's name was interpreted as markup"


def check_doctor(page):
    assert not page.run("document.querySelector('#findings li')"), "there are findings before the doctor has run"
    page.click("#examine")
    page.until("document.querySelectorAll('#findings li, #well li').length > 20")
    assert "checks ok" in page.text("#doctor-hint"), page.text("#doctor-hint")


def check_shape(page, name):
    for scheme in ["light", "dark"]:
        page.prefer(scheme)
        contrast, text = page.run(CONTRAST)
        assert contrast >= AA, f"{name}, {scheme}: the contrast of {text!r} is {contrast:.2f}"
    # Not innerWidth: a phone zooms out if the page is too wide.
    width, room = page.run("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert width <= room, f"{name}: the page is {width} px wide, but the window only {room} px"


def check_restart(page, tracker):
    tracker.stop()
    page.until("document.querySelector('#state').innerText === 'connection lost, retrying'")
    page.until("document.querySelector('main.lost')")
    page.run("document.dispatchEvent(new Event('visibilitychange'))")  # the user returns to the page
    check_sane(page)
    tracker.start()
    page.until("document.querySelector('#state').innerText === 'live' && !document.querySelector('main.lost')")
    page.until("Number(document.querySelector('[data-figure=requests]').innerText.replaceAll(',', '')) > 100")
    page.until("document.querySelector('#throughput .line.udp').getAttribute('d').split('M').length > 2")  # a gap
    check_sane(page)


def check_many_workers(browser, url, picture):
    page = browser.open(url, MANY_WORKERS)
    page.resize(*WIDE)
    page.until("document.querySelectorAll('#workers tbody tr').length === 256")
    page.until("document.querySelector('#throughput .line.udp').getAttribute('d').split('L').length > 40")
    height = page.run("document.querySelector('#workers').closest('.panel').offsetHeight")
    assert height < 520, f"the workers take {height} px"
    check_sane(page)
    check_shape(page, "many workers")
    page.click("#causes a")
    page.until("document.activeElement.id === 'doctor'")
    page.prefer("light")
    picture(page, "many")
    page.resize(*PHONE, mobile=True)
    check_shape(page, "many workers on a phone")
    picture(page, "many-phone")
    check_clean(page, url)


def check_clean(page, url):
    elsewhere = [request for request in page.requests if not request.startswith((url, "data:", "about:"))]
    assert not elsewhere, f"requests to other servers: {elsewhere}"
    assert not page.errors, f"errors: {page.errors}"


def check_all(tracker, browser, picture):
    tracker.load()
    page = browser.open(tracker.url)
    page.resize(*WIDE)
    check_figures(page)
    check_charts(page)
    check_tables(page)
    check_clients(page)
    check_doctor(page)
    page.until("/^\\d+ s ago$/.test(document.querySelector('[data-figure=snapshot]').innerText)")
    check_sane(page)
    for name, size, scheme in [("light", WIDE, "light"), ("dark", WIDE, "dark"), ("phone", PHONE, "dark")]:
        page.resize(*size, scale=2 if size == PHONE else 1, mobile=size == PHONE)
        check_shape(page, name)
        page.prefer(scheme)
        picture(page, name)
    page.resize(*WIDE)
    check_restart(page, tracker)
    picture(page, "restarted")
    check_clean(page, tracker.url)
    check_many_workers(browser, tracker.url, picture)


def main(binaries, scratch, pictures=None):
    def picture(page, name):
        if pictures:
            page.picture(Path(pictures) / f"{name}.png")

    tracker = Tracker(binaries, scratch)
    try:
        browser = Browser(scratch)
        try:
            check_all(tracker, browser, picture)
        finally:
            browser.close()
    finally:
        tracker.close()


main(*sys.argv[1:])
