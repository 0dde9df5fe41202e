//! Owns the layout: the place of each value on a screen of any size. Pure.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Clear, Paragraph, RenderDirection, Row, Sparkline, Table};

use super::model::{Cause, Micros, Model, ORDERS, Outcome, Protocols};
use crate::limits::MAX_WORKERS;
use crate::text::size;

const HEAD_ROWS: u16 = 5;
const CHART_ROWS: u16 = 4;
/// Rows of a table before its content: title and column heads.
const TABLE_HEAD_ROWS: u16 = 2;
/// Columns of the left and right tables on a screen with 80 columns.
const COLUMNS: [u16; 2] = [42, 37];
/// Minimum number of rows of each half of the tables, if there is room for all.
const HALF_ROWS: u16 = 12;

const HELP: [&str; 17] = [
    "q, Esc, Ctrl-C   quit",
    "p                pause or resume",
    "s                change the order of swarms",
    "Up, Down         scroll the workers",
    "?                show or hide this help",
    "",
    "turn   time of a worker between two polls of its sockets:",
    "       upper bound of the median (p50) and of the 99th",
    "       percentile (p99), and mean number of datagrams of",
    "       the turns that took any",
    "hops   messages between workers",
    "drop   lost requests or responses",
    "limit  requests over a limit of their source",
    "bad    invalid requests",
    "",
    "Rates are those of the last interval. For more, see",
    "docs/operating.md",
];

/// Settings that keys change.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// Index in [`ORDERS`].
    pub(super) order: usize,
    /// The first worker to show. It is limited so that the last worker is at most at the bottom.
    pub(super) first_worker: usize,
    pub(super) help: bool,
    pub(super) paused: bool,
    /// Whether to show the keys.
    pub(super) keys: bool,
    paint: Paint,
}

impl View {
    pub(super) fn new(color: bool) -> Self {
        let paint = Paint { color };
        Self { order: 0, first_worker: 0, help: false, paused: false, keys: true, paint }
    }

    pub(super) fn next_order(&mut self) {
        self.order = (self.order + 1) % ORDERS.len();
    }
}

/// Styles, with or without colours.
#[derive(Clone, Copy, Debug)]
struct Paint {
    color: bool,
}

impl Paint {
    fn with(self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }

    fn title(self) -> Style {
        self.with(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    fn label(self) -> Style {
        self.with(Color::Gray)
    }

    fn value(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn alarm(self) -> Style {
        self.with(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn old(self) -> Style {
        self.with(Color::DarkGray).add_modifier(Modifier::DIM)
    }
}

/// Returns the rows of a screen with room for all workers.
pub(super) fn full_height(model: &Model) -> u16 {
    HEAD_ROWS + CHART_ROWS + 2 * upper_rows(model).max(HALF_ROWS) + 1
}

fn upper_rows(model: &Model) -> u16 {
    TABLE_HEAD_ROWS + model.last.stats.workers.len().max(model.causes.len()).clamp(1, MAX_WORKERS) as u16
}

/// Draws the whole screen.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, view: &mut View) {
    let rows = [
        Constraint::Length(HEAD_ROWS),
        Constraint::Length(CHART_ROWS),
        Constraint::Fill(1),
        Constraint::Length(1),
    ];
    let [head, charts, tables, status] = Layout::vertical(rows).areas(frame.area());
    let upper = upper_rows(model).min(tables.height / 2);
    let [upper, lower] = Layout::vertical([Constraint::Length(upper), Constraint::Fill(1)]).areas(tables);
    let [workers, causes] = beside(upper);
    let [swarms, clients] = beside(lower);

    frame.render_widget(Paragraph::new(head_lines(model, view.paint)), head);
    draw_charts(frame, charts, model, view.paint);
    draw_workers(frame, workers, model, view);
    draw_causes(frame, causes, &model.causes, view.paint);
    draw_swarms(frame, swarms, model, view);
    draw_clients(frame, clients, model, view.paint);
    if model.lost.is_some() {
        let old = Rect { height: frame.area().height.saturating_sub(1), ..frame.area() };
        frame.buffer_mut().set_style(old, view.paint.old());
    }
    frame.render_widget(status_line(model, view), status);
    if view.help {
        draw_help(frame, view.paint);
    }
}

fn beside(area: Rect) -> [Rect; 2] {
    Layout::horizontal(COLUMNS.map(Constraint::Fill)).spacing(1).areas(area)
}

/// Formats labels with their values as a line.
fn figures(paint: Paint, parts: &[(&str, String)]) -> Line<'static> {
    let spans = parts.iter().flat_map(|(label, value)| {
        [Span::styled(format!("{label} "), paint.label()), Span::styled(format!("{value}  "), paint.value())]
    });
    Line::from_iter(spans)
}

fn head_lines(model: &Model, paint: Paint) -> Vec<Line<'static>> {
    let (stats, total) = (&model.last.stats, &model.last.stats.total);
    let rates = model.rates.clone().unwrap_or_default();
    let both =
        |Protocols { udp, http }| format!("{} (udp {}, http {})", short(udp + http), short(udp), short(http));
    let datagrams = rates.datagrams.map_or("-".to_owned(), short);
    let turn = format!("p50 {}, p99 {}, {datagrams} datagrams", micros(rates.p50), micros(rates.p99));
    let memory = format!("{} (swarms {})", size(stats.resident_bytes), size(total.table_bytes));
    let restarts = if model.restarts > 0 { format!(", restarts: {}", model.restarts) } else { String::new() };
    let snapshot = stats.snapshot.map_or("none".to_owned(), |written| {
        let ago = (stats.unix_ms / 1_000).saturating_sub(written.unix_secs);
        format!("{} ago, {} in {} ms", duration(ago), size(written.bytes), written.took_ms)
    });
    let mut snapshots = figures(paint, &[("last snapshot", snapshot)]);
    if stats.failed_snapshots > 0 {
        snapshots.push_span(Span::styled(format!("failed: {}  ", stats.failed_snapshots), paint.alarm()));
    }
    let lag = format!("{:.1} s", total.sweep_lag_ms as f64 / 1_000.0);
    snapshots.spans.extend(figures(paint, &[("sweep lag", lag)]).spans);
    vec![
        Line::from_iter([
            Span::styled(format!("gyre {}  ", stats.version), paint.title()),
            Span::styled(format!("{}  ", model.address), paint.value()),
            Span::styled(format!("up {}{restarts}", duration(stats.uptime_secs)), paint.label()),
        ]),
        figures(paint, &[("requests/s", both(rates.requests)), ("responses/s", both(rates.responses))]),
        figures(paint, &[("turn", turn), ("memory", memory)]),
        figures(
            paint,
            &[
                ("swarms", short(total.swarms as f64)),
                ("seeders", short(total.seeders as f64)),
                ("leechers", short(total.leechers as f64)),
                ("v6", short(total.v6_peers as f64)),
                ("connections", short(total.connections as f64)),
                ("done/s", short(rates.completed)),
            ],
        ),
        snapshots,
    ]
}

/// A block with a title in its top border.
fn titled(paint: Paint, title: impl Into<String>) -> Block<'static> {
    Block::new()
        .borders(Borders::TOP)
        .border_style(paint.label())
        .title(Span::styled(title.into(), paint.title()))
}

fn draw_charts(frame: &mut Frame<'_>, area: Rect, model: &Model, paint: Paint) {
    let history = |area: Rect, of| model.history(area.width.into(), of);
    let [udp, http] = beside(area);
    for (name, area, history, color) in [
        ("udp", udp, history(udp, |requests| requests.udp), Color::Green),
        ("http", http, history(http, |requests| requests.http), Color::Yellow),
    ] {
        let peak = history.iter().flatten().copied().fold(0.0, f64::max);
        let title = format!("{name}/s, max {}", short(peak));
        let block = titled(paint, title);
        let span = Line::styled(format!("last {}", duration(model.history_secs())), paint.label());
        let bars: Vec<Option<u64>> =
            history.iter().map(|rate| rate.map(|rate| rate.round() as u64)).collect();
        let chart = Sparkline::default()
            .block(block.title(span.right_aligned()))
            .data(bars)
            .direction(RenderDirection::RightToLeft)
            .style(paint.with(color));
        frame.render_widget(chart, area);
    }
}

/// A table with right-aligned columns of these widths. The first column is left-aligned and takes the remaining width.
fn table(
    paint: Paint,
    title: String,
    heads: &[&str],
    widths: &[u16],
    rows: Vec<Row<'static>>,
) -> Table<'static> {
    let heads = heads.iter().enumerate().map(|(at, head)| cell(at, (*head).to_owned()));
    let others = widths.iter().map(|width| Constraint::Length(*width));
    Table::new(rows, std::iter::once(Constraint::Fill(1)).chain(others))
        .header(Row::new(heads).style(paint.label()))
        .block(titled(paint, title))
}

/// A cell for a column.
fn cell(column: usize, text: String) -> Cell<'static> {
    let line = Line::from(text);
    Cell::from(if column == 0 { line } else { line.right_aligned() })
}

fn row(cells: impl IntoIterator<Item = String>) -> Row<'static> {
    Row::new(cells.into_iter().enumerate().map(|(at, text)| cell(at, text)))
}

fn draw_workers(frame: &mut Frame<'_>, area: Rect, model: &Model, view: &mut View) {
    let workers = &model.last.stats.workers;
    let visible = usize::from(area.height.saturating_sub(TABLE_HEAD_ROWS));
    view.first_worker = view.first_worker.min(workers.len().saturating_sub(visible));
    let rates = model.rates.clone().unwrap_or_default().workers;
    let rows = workers.iter().enumerate().skip(view.first_worker).take(visible).map(|(number, worker)| {
        let rates = rates.get(number).copied().unwrap_or_default();
        let numbers = &worker.numbers;
        row([
            worker.core.map_or("-".to_owned(), |core| core.to_string()),
            short(rates.cpu * 100.0),
            short(rates.requests),
            short(rates.hops),
            short(numbers.swarms as f64),
            short((numbers.seeders + numbers.leechers) as f64),
        ])
    });
    let mut title = "workers".to_owned();
    if (1..workers.len()).contains(&visible) {
        title += &format!(" {}-{} of {}", view.first_worker + 1, view.first_worker + visible, workers.len());
    }
    let heads = ["core", "CPU %", "req/s", "hops/s", "swarms", "peers"];
    frame.render_widget(table(view.paint, title, &heads, &[5, 6, 6, 6, 6], rows.collect()), area);
}

fn draw_causes(frame: &mut Frame<'_>, area: Rect, causes: &[Cause], paint: Paint) {
    let rows = causes.iter().map(|cause| {
        let (outcome, color) = match cause.outcome {
            Outcome::Dropped => ("drop", Color::Red),
            Outcome::Limited => ("limit", Color::Yellow),
            Outcome::Bad => ("bad", Color::Yellow),
        };
        let cells = [format!("{outcome} {}", cause.name), short(cause.rate), short(cause.total as f64)];
        // Causes that are still counting stand out from those that have stopped.
        row(cells).style(if cause.rate > 0.0 {
            paint.with(color).add_modifier(Modifier::BOLD)
        } else {
            paint.label()
        })
    });
    let title = if causes.is_empty() { "none dropped, limited or bad" } else { "dropped, limited, bad" };
    let table = table(paint, title.to_owned(), &["cause", "rate/s", "total"], &[8, 7], rows.collect());
    frame.render_widget(table, area);
}

fn draw_swarms(frame: &mut Frame<'_>, area: Rect, model: &Model, view: &View) {
    let widths = [7, 8, 10];
    let others: u16 = widths.iter().map(|width| width + 1).sum();
    let room = usize::from(area.width.saturating_sub(others));
    let rows = model.swarms[view.order].iter().map(|swarm| {
        row([
            shortened(&swarm.info_hash, room),
            short(swarm.seeders.into()),
            short(swarm.leechers.into()),
            short(swarm.downloaded.into()),
        ])
    });
    let title = format!("largest swarms by {}", ORDERS[view.order]);
    let heads = ["info-hash", "seeders", "leechers", "downloaded"];
    frame.render_widget(table(view.paint, title, &heads, &widths, rows.collect()), area);
}

fn draw_clients(frame: &mut Frame<'_>, area: Rect, model: &Model, paint: Paint) {
    let rows = model.client_words().map(|(words, share)| row([words, format!("{:.1} %", share * 100.0)]));
    frame.render_widget(table(paint, "clients".to_owned(), &["", "share"], &[7], rows.collect()), area);
}

fn status_line(model: &Model, view: &View) -> Line<'static> {
    let keys = if view.keys { "q quit  ? help  s order of swarms  p pause  Up, Down workers" } else { "" };
    match &model.lost {
        Some((secs, why)) => {
            let words = format!(" no answer for {}, retrying: {why} ", duration(*secs));
            Line::styled(words, view.paint.alarm().add_modifier(Modifier::REVERSED))
        }
        None if view.paused => {
            let pause = Span::styled(" paused ", view.paint.value().add_modifier(Modifier::REVERSED));
            Line::from_iter([pause, Span::styled("  p resume  q quit  ? help", view.paint.label())])
        }
        None => Line::styled(keys, view.paint.label()),
    }
}

fn draw_help(frame: &mut Frame<'_>, paint: Paint) {
    let columns = HELP.iter().map(|line| line.len()).max().unwrap_or_default() as u16 + 4;
    let (width, height) = (Constraint::Length(columns), Constraint::Length(HELP.len() as u16 + 2));
    let area = frame.area().centered(width, height);
    let block = Block::bordered().title(Span::styled(" gyre top ", paint.title()));
    let lines: Vec<Line<'_>> = HELP.iter().map(|line| Line::from(format!(" {line}"))).collect();
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// Shortens a text to a number of columns.
fn shortened(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

/// Formats a number in at most six columns. Only 0 is shown as 0.
fn short(number: f64) -> String {
    if number < 9.95 && number.fract() != 0.0 {
        return format!("{:.1}", number.max(0.1));
    }
    // A number that would be rounded up to 1000 of a unit is shown in the next unit.
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let found = units.iter().find(|(unit, _)| number >= 9_999.5 && number >= 0.9995 * unit);
    found.map_or(format!("{number:.0}"), |(unit, letter)| {
        let number = number / unit;
        let decimals = if number < 9.995 { 2 } else { usize::from(number < 99.95) };
        format!("{number:.decimals$}{letter}")
    })
}

/// Formats seconds as days, hours, minutes and seconds.
fn duration(secs: u64) -> String {
    let (days, hours, minutes) = (secs / 86_400, secs / 3_600 % 24, secs / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{secs} s"),
        (0, 0, _) => format!("{minutes} min {} s", secs % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

fn micros(bound: Option<Micros>) -> String {
    let text = |us: u64| if us < 1_000 { format!("{us} us") } else { format!("{} ms", us / 1_000) };
    match bound {
        None => "-".to_owned(),
        Some(Micros::Below(us)) => format!("<{}", text(us)),
        Some(Micros::AtLeast(us)) => format!(">={}", text(us)),
    }
}

#[cfg(test)]
mod tests;
