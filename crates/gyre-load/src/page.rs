//! Owns the HTML report: one self-contained file with its plots.

use std::fmt::Write;

use hdrhistogram::Histogram;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;

use crate::report::{Report, TimelinePoint};

const WIDTH: u32 = 860;
const HEIGHT: u32 = 340;
/// Number of points in the plot of latencies.
const LATENCY_POINTS: u32 = 200;
/// The plot of latencies ends at the quantile that one in this number of requests exceeds, or earlier if there were
/// fewer requests.
const RAREST: f64 = 100_000.0;
const BLUE: RGBColor = RGBColor(0x1f, 0x5f, 0xbf);
const ORANGE: RGBColor = RGBColor(0xd9, 0x6c, 0x06);
const RED: RGBColor = RGBColor(0xc0, 0x1c, 0x28);

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222;\
    background:#fff}table{border-collapse:collapse;width:100%}td,th{padding:.3em .6em;text-align:right;\
    border-bottom:1px solid #ddd;font-variant-numeric:tabular-nums}td:first-child,th:first-child{text-align:left}\
    pre{background:#f5f5f5;padding:1em;overflow-x:auto}svg{max-width:100%;height:auto}.wrong{color:#c01c28}";

/// Returns the HTML report of a run.
pub(crate) fn page(report: &Report) -> String {
    let mut html = String::new();
    let mut put = |part: std::fmt::Arguments<'_>| {
        let _ = html.write_fmt(part); // a String takes everything
    };
    let title = format!("gyre-load: {} {}", report.protocol, report.target);
    put(format_args!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n<h1>{}</h1>\n",
        escape(&title),
        escape(&title)
    ));
    put(format_args!(
        "<p>{}</p>\n<p><code>gyre-load {}</code></p>\n",
        escape(&report.machine),
        escape(&report.command)
    ));
    if !report.passed() {
        put(format_args!(
            "<p class=\"wrong\">{} of {} replies were invalid.</p>\n",
            report.wrong, report.replies
        ));
    }
    put(format_args!(
        "<table><tr><th>kind<th>requests/s<th>replies/s<th>lost<th>p50 us<th>p90 us<th>p99 us<th>p99.9 us\
         <th>max us</tr>\n"
    ));
    let all = ("all", report.requests as f64 / report.duration_secs, report.replies_per_sec);
    let kinds = report
        .kinds
        .iter()
        .map(|kind| (kind.kind, kind.requests_per_sec, kind.replies_per_sec, kind.lost, kind.latency));
    for (name, requests, replies, lost, latency) in
        kinds.chain([(all.0, all.1, all.2, report.lost, report.latency)])
    {
        put(format_args!(
            "<tr><td>{name}<td>{requests:.0}<td>{replies:.0}<td>{lost}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>\n",
            latency.p50_us, latency.p90_us, latency.p99_us, latency.p999_us, latency.max_us
        ));
    }
    put(format_args!("</table>\n<h2>Latency by percentile</h2>\n{}\n", latency_plot(&report.histogram)));
    put(format_args!("<h2>Throughput over time</h2>\n{}\n", throughput_plot(&report.timeline)));
    put(format_args!("<h2>All figures</h2>\n<pre>{}</pre>\n</body></html>\n", escape(&report.table())));
    html
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// An axis of percentiles on which each further nine has the same length.
#[derive(Clone, Copy)]
struct PercentileAxis {
    max: f64,
}

impl PercentileAxis {
    /// Returns the quantile at a position on the axis.
    fn quantile(at: f64) -> f64 {
        1.0 - 10_f64.powf(-at)
    }
}

impl Ranged for PercentileAxis {
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        limit.0 + (f64::from(limit.1 - limit.0) * value / self.max) as i32
    }

    fn key_points<Hint: plotters::coord::ranged1d::KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        // The minimum, the median, and each nine.
        [0.0, 2_f64.log10()].into_iter().chain((1..=self.max as u32).map(f64::from)).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        0.0..self.max
    }
}

impl ValueFormatter<f64> for PercentileAxis {
    fn format_ext(&self, value: &f64) -> String {
        let percent = 100.0 * Self::quantile(*value);
        format!("{}", (percent * 1e6).round() / 1e6)
    }
}

fn latency_plot(histogram: &Histogram<u64>) -> String {
    if histogram.is_empty() {
        return "<p>There were no replies.</p>".to_owned();
    }
    let nines = (histogram.len() as f64).clamp(10.0, RAREST).log10();
    let at = |point: u32| nines * f64::from(point) / f64::from(LATENCY_POINTS);
    let latency = |at: f64| (histogram.value_at_quantile(PercentileAxis::quantile(at)) as f64).max(1.0);
    let (low, high) = (latency(0.0), latency(nines) * 1.3);
    draw(|area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(PercentileAxis { max: nines }, (low..high).log_scale())?;
        chart
            .configure_mesh()
            .x_desc("percentile of the requests")
            .y_desc("microseconds")
            .y_label_formatter(&|micros| format!("{micros:.0}"))
            .draw()?;
        chart.draw_series(LineSeries::new(
            (0..=LATENCY_POINTS).map(|point| (at(point), latency(at(point)))),
            BLUE.stroke_width(2),
        ))?;
        Ok(())
    })
}

fn throughput_plot(timeline: &[TimelinePoint]) -> String {
    let Some(last) = timeline.last() else { return "<p>The run was too short.</p>".to_owned() };
    let high =
        timeline.iter().map(|point| point.requests_per_sec.max(point.replies_per_sec)).fold(1.0, f64::max);
    draw(|area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..last.at_secs, 0.0..high * 1.1)?;
        chart
            .configure_mesh()
            .x_desc("seconds")
            .y_desc("per second")
            .y_label_formatter(&|rate| format!("{rate:.0}"))
            .draw()?;
        let line = |of: fn(&TimelinePoint) -> f64, color: RGBColor| {
            LineSeries::new(
                timeline.iter().map(move |point| (point.at_secs, of(point))),
                color.stroke_width(2),
            )
        };
        let legend =
            |color: RGBColor| move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2));
        chart
            .draw_series(line(|point| point.requests_per_sec, ORANGE))?
            .label("requests")
            .legend(legend(ORANGE));
        chart.draw_series(line(|point| point.replies_per_sec, BLUE))?.label("replies").legend(legend(BLUE));
        let lost = timeline.iter().filter(|point| point.lost > 0);
        chart
            .draw_series(lost.map(|point| Circle::new((point.at_secs, 0.0), 4, RED.filled())))?
            .label("requests lost")
            .legend(legend(RED));
        chart.configure_series_labels().background_style(WHITE).border_style(BLACK.mix(0.2)).draw()?;
        Ok(())
    })
}

/// An area to draw on.
type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Draws a plot as SVG.
fn draw(plot: impl FnOnce(&Area<'_>) -> Result<(), Box<dyn std::error::Error>>) -> String {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
    let drawn = plot(&area).and_then(|()| Ok(area.present()?));
    drop(area);
    match drawn {
        Ok(()) => svg,
        Err(error) => format!("<p>The plot could not be drawn: {}</p>", escape(&error.to_string())),
    }
}
