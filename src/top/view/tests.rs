//! Owns the tests of the layout, on small and large screens.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;

use super::super::model::{Reading, Update};
use super::super::to_text;
use super::*;
use crate::admin::stats::{Families, Numbers, Snapshot, Stats, TurnDatagrams, TurnTimes, Worker};
use crate::admin::swarms::{Client, Swarm};
use crate::time::Timestamp;

fn numbers(announces: u64) -> Numbers {
    let mut numbers = Numbers::default();
    numbers.udp.announces = Families { v4: announces, v6: 0 };
    numbers.udp.responses = numbers.udp.announces;
    numbers.cpu_us = announces * 10;
    numbers.swarms = 70;
    numbers.seeders = 30;
    numbers.leechers = 40;
    numbers
}

/// Statistics of a tracker with this number of workers that has answered this number of announces.
fn stats(workers: usize, announces: u64) -> Stats {
    let worker = |core| Worker { core: Some(core), numbers: numbers(announces / workers as u64) };
    let mut total = numbers(announces);
    total.drops.insert("mesh-full".into(), announces / 10);
    total.bad.insert("connection-id".into(), 7);
    total.turns = TurnTimes { sum_us: 0, counts: vec![0, 0, 0, 0, 0, announces, 0] };
    total.turn_datagrams = TurnDatagrams { sum: 3 * announces, counts: vec![0, 0, announces, 0] };
    Stats {
        version: "1.2.3".into(),
        unix_ms: 1_000_300_000,
        uptime_secs: 90_000 + announces,
        resident_bytes: 24 << 20,
        snapshot: Some(Snapshot {
            unix_secs: 1_000_000,
            took_ms: 40,
            bytes: 12 << 20,
            longest_slice_us: 300,
        }),
        failed_snapshots: 0,
        total,
        workers: (0..workers).map(worker).collect(),
    }
}

fn reading(secs: u64, stats: Stats) -> Update {
    Update::Stats(Box::new(Reading { at: Timestamp::from_secs(secs), stats }))
}

fn model(workers: usize) -> Model {
    let mut model = Model::new("http://127.0.0.1:6970");
    model.apply(reading(10, stats(workers, 1_000)));
    model.apply(reading(12, stats(workers, 3_000)));
    let swarm =
        |digit: &str| Swarm { info_hash: digit.repeat(40), seeders: 5, leechers: 12_345, downloaded: 2 };
    model.apply(Update::Swarms(["a", "b", "c", "d"].map(|digit| vec![swarm(digit)])));
    let client = |id: &str, share| Client { id: id.into(), share };
    model.apply(Update::Clients(vec![client("-qB4630-", 0.75), client("?\u{1b}[2J", 0.25)]));
    model
}

fn screen(width: u16, height: u16, model: &Model, view: &mut View) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, view)).unwrap().buffer.clone()
}

fn lines(width: u16, height: u16, model: &Model, view: &mut View) -> Vec<String> {
    to_text(&screen(width, height, model, view)).lines().map(str::to_owned).collect()
}

/// Returns the lines from the one that begins with these words (after a border, if there is one).
#[track_caller]
fn from<'a>(lines: &'a [String], words: &str) -> &'a [String] {
    let at = lines.iter().position(|line| line.trim_start_matches('─').contains(words));
    &lines[at.unwrap_or_else(|| panic!("no {words:?} in {lines:#?}"))..]
}

#[track_caller]
fn assert_words(line: &str, words: &[&str]) {
    let mut rest = line;
    for word in words {
        let Some((_, behind)) = rest.split_once(word) else { panic!("{words:?} in this order in {line:?}") };
        rest = behind;
    }
}

#[test]
fn everything_has_its_place_on_small_and_large_screens() {
    for (width, height) in [(80, 24), (160, 50)] {
        let lines = lines(width, height, &model(2), &mut View::new(true));
        assert_words(&lines[0], &["gyre 1.2.3", "http://127.0.0.1:6970", "up 1 d 1 h"]);
        assert_words(
            &lines[1],
            &["requests/s 1000 (udp 1000, http 0)", "responses/s 1000 (udp 1000, http 0)"],
        );
        assert_words(&lines[2], &["turn p50 <32 us, p99 <32 us, 3 datagrams  memory 24 MiB (swarms 0 B)"]);
        assert_words(&lines[3], &["swarms 70", "seeders 30", "leechers 40", "connections 0", "done/s 0"]);
        assert_words(&lines[4], &["last snapshot 5 min 0 s ago, 12 MiB in 40 ms", "sweep lag 0.0 s"]);
        assert_words(&lines[5], &["udp/s, max 1000", "last 2 s", "http/s, max 0"]);
        assert_words(&lines[9], &["workers", "dropped, limited, bad"]);
        assert_words(&lines[10], &["core", "CPU %", "req/s", "hops/s", "swarms", "peers", "cause", "total"]);
        assert_words(&lines[11], &["0", "0.5", "500", "0", "70", "70", "drop mesh-full", "100", "300"]);
        assert_words(&lines[12], &["1", "0.5", "500", "0", "70", "70", "bad connection-id", "0", "7"]);
        let swarms = from(&lines, "largest swarms by peers");
        assert_words(&swarms[0], &["clients"]);
        assert_words(&swarms[1], &["info-hash", "seeders", "leechers", "downloaded", "share"]);
        assert_words(&swarms[2], &["aaaa", "5", "12.3k", "2", "qBittorrent -qB4630-", "75.0 %"]);
        assert_words(&swarms[3], &["25.0 %"]);
        assert_words(lines.last().unwrap(), &["q quit", "? help"]);
        assert_eq!(lines.len(), usize::from(height));
    }
}

#[test]
fn hashes_are_not_shortened_if_there_is_room() {
    let wide = lines(160, 50, &model(1), &mut View::new(true));
    assert_words(&from(&wide, "info-hash")[1], &[&"a".repeat(40)]);
    let narrow = lines(80, 24, &model(1), &mut View::new(true));
    assert_words(&from(&narrow, "info-hash")[1], &["aaaaaaaa…"]);
}

#[test]
fn every_screen_size_can_be_drawn() {
    for (width, height) in (1..90).map(|width| (width, width / 3 + 1)).chain([(1, 50), (200, 1), (300, 3)]) {
        for help in [false, true] {
            let mut view = View::new(true);
            view.help = help;
            screen(width, height, &model(3), &mut view);
            screen(width, height, &Model::default(), &mut view);
        }
    }
}

#[test]
fn workers_are_scrolled_up_to_the_last_one() {
    let (model, mut view) = (model(64), View::new(true));
    assert_words(&from(&lines(80, 24, &model, &mut view), "workers")[0], &["workers 1-5 of 64"]);
    view.first_worker = 3;
    let scrolled = lines(80, 24, &model, &mut view);
    assert_words(&from(&scrolled, "workers")[0], &["workers 4-8 of 64"]);
    assert!(from(&scrolled, "CPU %")[1].starts_with("3 "), "{scrolled:#?}");
    view.first_worker = 1_000;
    lines(80, 24, &model, &mut view);
    assert_eq!(view.first_worker, 59, "one step up is visible");
    assert_words(&from(&lines(100, full_height(&model), &model, &mut view), "workers")[64 + 1], &["63"]);
}

#[test]
fn the_order_of_swarms_cycles() {
    let (model, mut view) = (model(1), View::new(true));
    for (order, digit) in
        [("peers", "aa"), ("seeders", "bb"), ("leechers", "cc"), ("downloaded", "dd"), ("peers", "aa")]
    {
        let lines = lines(80, 24, &model, &mut view);
        let swarms = from(&lines, "largest swarms by ");
        assert_words(&swarms[0], &[order]);
        assert_words(&swarms[2], &[digit]);
        view.next_order();
    }
}

#[test]
fn without_an_answer_the_last_values_are_shown_in_grey() {
    let mut model = model(2);
    let why = "it does not answer: \u{1b}[31mConnection refused".to_owned();
    model.apply(Update::Lost { at: Timestamp::from_secs(17), why });
    for color in [true, false] {
        let mut view = View::new(color);
        let lines = lines(80, 24, &model, &mut view);
        assert_words(&lines[1], &["requests/s 1000"]);
        assert_words(&lines[23], &["no answer for 5 s, retrying", "Connection refused"]);
        let screen = screen(80, 24, &model, &mut view);
        assert!(screen[(0, 1)].modifier.contains(Modifier::DIM));
        assert!(!screen[(1, 23)].modifier.contains(Modifier::DIM));
    }
    model.apply(reading(20, stats(2, 3_000)));
    assert!(!screen(80, 24, &model, &mut View::new(true))[(0, 1)].modifier.contains(Modifier::DIM));
}

#[test]
fn without_colour_no_colour_is_used() {
    let colors = |color| {
        let screen = screen(80, 24, &model(2), &mut View::new(color));
        screen.content.iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
    };
    assert_eq!(colors(false), 0);
    assert!(colors(true) > 0);
}

#[test]
fn control_characters_from_the_network_are_replaced() {
    let mut model = model(1);
    let mut bad = stats(1, 5_000);
    bad.version = "1\u{1b}]0;x\u{7}".into();
    bad.total.drops.insert("a\nb\u{9b}".into(), 1);
    model.apply(reading(14, bad));
    let hash = Swarm { info_hash: "\u{1b}[2J".into(), ..Swarm::default() };
    model.apply(Update::Swarms(std::array::from_fn(|_| vec![hash.clone()])));
    let screen = screen(160, 50, &model, &mut View::new(true));
    assert!(!screen.content.iter().any(|cell| cell.symbol().contains(char::is_control)));
    let text = to_text(&screen);
    for words in ["gyre 1\u{fffd}]0;x", "a\u{fffd}b\u{fffd}", "?\u{fffd}[2J", "\n\u{fffd}[2J"] {
        assert!(text.contains(words), "{words:?} in {text}");
    }
}

#[test]
fn pause_and_help_are_shown() {
    let mut view = View::new(true);
    view.paused = true;
    assert_words(&lines(80, 24, &model(1), &mut view)[23], &["paused", "p resume"]);
    view.help = true;
    let lines = lines(80, 24, &model(1), &mut view);
    assert_words(&from(&lines, "gyre top")[1], &["q, Esc, Ctrl-C", "quit"]);
    from(&lines, "docs/operating.md");
}

#[test]
fn numbers_are_short_and_only_0_is_shown_as_0() {
    for (number, text) in [
        (0.0, "0"),
        (0.001, "0.1"),
        (0.5, "0.5"),
        (3.0, "3"),
        (9.94, "9.9"),
        (9.96, "10"),
        (9_999.0, "9999"),
        (9_999.9, "10.0k"),
        (12_345.0, "12.3k"),
        (99_960.0, "100k"),
        (999_400.0, "999k"),
        (999_600.0, "1.00M"),
        (1_234_567.0, "1.23M"),
        (5e9, "5.00G"),
        (5e15, "5000T"),
    ] {
        assert_eq!(short(number), text, "{number}");
    }
}

#[test]
fn times_have_two_units() {
    for (secs, text) in [(0, "0 s"), (61, "1 min 1 s"), (3_660, "1 h 1 min"), (90_000, "1 d 1 h")] {
        assert_eq!(duration(secs), text);
    }
    assert_eq!(micros(Some(Micros::Below(1 << 10))), "<1 ms");
    assert_eq!(micros(Some(Micros::AtLeast(1 << 19))), ">=524 ms");
    assert_eq!(micros(None), "-");
}
