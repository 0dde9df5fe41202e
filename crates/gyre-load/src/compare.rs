//! Owns the tables that compare runs: medians of repeated runs, and ratios to the first group.

use std::fmt::Write;
use std::path::PathBuf;

use serde_json::Value;

use crate::options::Rate;

/// A column: heading, path in the JSON, decimal digits, and whether to show the ratio.
type Column = (&'static str, &'static str, usize, bool);

/// The columns of a table of runs, before those of [`QUALITY`].
const COLUMNS: [Column; 5] = [
    ("replies/s", "/replies_per_sec", 0, true),
    ("CPU us", "/server/cpu_us_per_reply", 3, true),
    ("user us", "/server/user_us_per_reply", 3, false),
    ("core", "/server/cpu", 2, false),
    ("MiB", "/server/resident_bytes", 1, false),
];
/// The columns of both tables.
const QUALITY: [Column; 7] = [
    ("p50 us", "/latency/p50_us", 0, false),
    ("p99 us", "/latency/p99_us", 0, false),
    ("p99.9 us", "/latency/p999_us", 0, false),
    ("lost", "/lost", 0, false),
    ("unsent", "/unsent", 0, false),
    ("errors", "/refused", 0, false),
    ("invalid", "/wrong", 0, false),
];
/// The columns of a table by rate, before and after those of [`QUALITY`]. `bench-rates.sh` writes the system calls.
const RATE_COLUMNS: ([Column; 1], [Column; 3]) = (
    [("CPU us", "/server/cpu_us_per_reply", 2, true)],
    [
        ("replies/s", "/replies_per_sec", 0, false),
        ("wake-ups", "/server/wakes_per_reply", 3, false),
        ("syscalls", "/server/syscalls_per_reply", 3, false),
    ],
);
const BYTES_PER_MIB: f64 = 1_048_576.0;

/// The runs with the same name and, in a table by rate, the same rate.
struct Group {
    name: String,
    /// Requested requests per second. `None`: not a table by rate.
    rate: Option<Rate>,
    runs: Vec<Value>,
}

impl Group {
    /// Returns the median of a figure, or the mean of the middle two.
    fn median(&self, path: &str) -> Option<f64> {
        let mut all: Vec<f64> = self.runs.iter().filter_map(|run| run.pointer(path)?.as_f64()).collect();
        all.sort_by(f64::total_cmp);
        let (low, high) = (all.get(all.len().checked_sub(1)? / 2)?, all.get(all.len() / 2)?);
        let scale = if path.ends_with("_bytes") { BYTES_PER_MIB } else { 1.0 };
        Some((low + high) / 2.0 / scale)
    }

    /// Returns the number of runs in which the generator was the bottleneck.
    fn limited(&self) -> usize {
        self.runs.iter().filter(|run| run.pointer("/generator/limits") == Some(&Value::Bool(true))).count()
    }
}

/// Returns the table of the runs, given as names and files written by `--json`. With `by_rate`, it has a row for each
/// rate and name.
pub(crate) fn table(runs: &[(String, PathBuf)], by_rate: bool) -> Result<String, String> {
    let mut named = Vec::new();
    for (name, path) in runs {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let run: Value =
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        named.push((name.clone(), run));
    }
    let groups = group(named, by_rate);
    Ok(if by_rate { write_by_rate(&groups) } else { write(&groups) })
}

/// Groups runs by name in the order of their first runs, or with `by_rate` by rate (ascending, closed loops last) and
/// then by name.
fn group(runs: Vec<(String, Value)>, by_rate: bool) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (name, run) in runs {
        let rate = by_rate.then(|| match run.pointer("/rate").and_then(Value::as_f64) {
            Some(rate) => Rate::PerSecond(rate),
            None => Rate::Max,
        });
        match groups.iter_mut().find(|group| group.name == name && group.rate == rate) {
            Some(group) => group.runs.push(run),
            None => groups.push(Group { name, rate, runs: vec![run] }),
        }
    }
    let rate = |group: &Group| match group.rate {
        Some(Rate::PerSecond(rate)) => rate,
        _ => f64::INFINITY,
    };
    groups.sort_by(|left, right| rate(left).total_cmp(&rate(right)));
    groups
}

fn write(groups: &[Group]) -> String {
    let columns = [&COLUMNS[..], &QUALITY].concat();
    let mut text = format!("{:<16} {:>4}{}\n", "median of", "runs", headings(&columns));
    for group in groups {
        let figures = figures(group, &groups[0], &columns);
        let _ = writeln!(text, "{:<16} {:>4}{figures}", group.name, group.runs.len()); // a String takes everything
    }
    text
}

/// Writes a table by rate. Ratios are to the first group of the same rate. Columns without any figure are left out.
fn write_by_rate(groups: &[Group]) -> String {
    let has_figure = |(_, path, ..): &Column| groups.iter().any(|group| group.median(path).is_some());
    let (first, last) = RATE_COLUMNS;
    let columns: Vec<Column> = first.into_iter().chain(QUALITY).chain(last).filter(has_figure).collect();
    let mut text = format!("{:>10} {:<20}{}\n", "requests/s", "median of", headings(&columns));
    for group in groups {
        let first = groups.iter().find(|first| first.rate == group.rate).unwrap_or(group);
        let rate = match group.rate {
            Some(Rate::PerSecond(rate)) => rate.to_string(),
            _ => "full".to_owned(),
        };
        let figures = figures(group, first, &columns);
        let _ = writeln!(text, "{rate:>10} {:<20}{figures}", group.name); // a String takes everything
    }
    text
}

fn headings(columns: &[Column]) -> String {
    let heading = |(heading, _, _, has_ratio): &Column| {
        format!(" {heading:>10}{}", if *has_ratio { "  ratio" } else { "" })
    };
    columns.iter().map(heading).collect()
}

/// Returns a group's figures, with ratios to those of `first`.
fn figures(group: &Group, first: &Group, columns: &[Column]) -> String {
    let mut text = String::new();
    for &(_, path, digits, has_ratio) in columns {
        let own = group.median(path);
        text += &own.map_or(format!(" {:>10}", "-"), |own| format!(" {own:>10.digits$}"));
        if has_ratio {
            let first = first.median(path).filter(|first| *first > 0.0);
            let ratio = own.zip(first).map(|(own, first)| own / first);
            text += &ratio.map_or(format!(" {:>6}", "-"), |ratio| format!(" {ratio:>6.3}"));
        }
    }
    match group.limited() {
        0 => text,
        limited => format!("{text}  (generator-bound in {limited})"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_shows_medians_and_ratios() {
        let run = |rate: f64, bytes: u64| {
            let (server, generator) = (json!({ "resident_bytes": bytes }), json!({ "limits": rate > 350.0 }));
            json!({ "replies_per_sec": rate, "server": server, "generator": generator })
        };
        let floor = [run(300.0, 1 << 20), run(100.0, 3 << 20), run(200.0, 2 << 20)];
        let gyre = [run(100.0, 0), run(400.0, 0)];
        let named = floor.map(|run| ("floor", run)).into_iter().chain(gyre.map(|run| ("gyre", run)));
        let groups = group(named.map(|(name, run)| (name.to_owned(), run)).collect(), false);
        assert_eq!(groups[0].median("/replies_per_sec"), Some(200.0));
        assert_eq!(groups[0].median("/server/resident_bytes"), Some(2.0));
        assert_eq!(groups[1].median("/replies_per_sec"), Some(250.0));
        assert_eq!(groups[1].median("/latency/p50_us"), None);
        let table = write(&groups);
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1][..5], ["floor", "3", "200", "1.000", "-"]);
        assert_eq!(lines[2][..5], ["gyre", "2", "250", "1.250", "-"]);
        assert!(table.ends_with("(generator-bound in 1)\n"), "{table}");
    }

    #[test]
    fn ratios_by_rate_are_to_the_first_of_the_same_rate() {
        let run = |name: &str, rate: Option<f64>, cpu: f64| {
            let server = json!({ "cpu_us_per_reply": cpu });
            (name.to_owned(), json!({ "rate": rate, "server": server, "lost": 0 }))
        };
        let syscalls = json!({ "rate": 1000, "server": { "syscalls_per_reply": 2.5 } });
        let runs = vec![
            run("floor", None, 4.0),
            run("gyre", None, 5.0),
            run("floor", Some(1e3), 20.0),
            run("gyre", Some(1e3), 30.0),
            run("gyre", Some(1e3), 10.0),
            run("gyre", Some(1e3), 40.0),
            ("gyre".to_owned(), syscalls),
        ];
        let table = write_by_rate(&group(runs, true));
        let lines: Vec<String> =
            table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let expected = [
            "requests/s median of CPU us ratio lost syscalls",
            "1000 floor 20.00 1.000 0 -",
            "1000 gyre 30.00 1.500 0 2.500",
            "full floor 4.00 1.000 0 -",
            "full gyre 5.00 1.250 0 -",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_missing_file_is_named_in_the_error() {
        let error = table(&[("x".into(), "/nowhere/x.json".into())], false).unwrap_err();
        assert!(error.starts_with("/nowhere/x.json:"), "{error}");
    }
}
