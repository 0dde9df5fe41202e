//! Owns the table that compares runs: medians of repeated runs, and ratios to the first group.

use std::fmt::Write;
use std::path::PathBuf;

use serde_json::Value;

/// The columns of the table: heading, path in the JSON, decimal digits, and whether to show the ratio.
const COLUMNS: [(&str, &str, usize, bool); 12] = [
    ("replies/s", "/replies_per_sec", 0, true),
    ("CPU us", "/server/cpu_us_per_reply", 3, true),
    ("user us", "/server/user_us_per_reply", 3, false),
    ("core", "/server/cpu", 2, false),
    ("MiB", "/server/resident_bytes", 1, false),
    ("p50 us", "/latency/p50_us", 0, false),
    ("p99 us", "/latency/p99_us", 0, false),
    ("p99.9 us", "/latency/p999_us", 0, false),
    ("lost", "/lost", 0, false),
    ("unsent", "/unsent", 0, false),
    ("errors", "/refused", 0, false),
    ("invalid", "/wrong", 0, false),
];
const BYTES_PER_MIB: f64 = 1_048_576.0;

/// The runs with the same name.
struct Group {
    name: String,
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

/// Returns the table of the runs, given as names and files written by `--json`.
pub(crate) fn table(runs: &[(String, PathBuf)]) -> Result<String, String> {
    let mut groups: Vec<Group> = Vec::new();
    for (name, path) in runs {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let run: Value =
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        match groups.iter_mut().find(|group| group.name == *name) {
            Some(group) => group.runs.push(run),
            None => groups.push(Group { name: name.clone(), runs: vec![run] }),
        }
    }
    Ok(write(&groups))
}

fn write(groups: &[Group]) -> String {
    let mut text = String::new();
    let mut put = |part: String| {
        let _ = write!(text, "{part}"); // a String takes everything
    };
    put(format!("{:<16} {:>4}", "median of", "runs"));
    for (heading, _, _, has_ratio) in COLUMNS {
        put(format!(" {heading:>10}{}", if has_ratio { "  ratio" } else { "" }));
    }
    put("\n".to_owned());
    for group in groups {
        put(format!("{:<16} {:>4}", group.name, group.runs.len()));
        for (_, path, digits, has_ratio) in COLUMNS {
            let (own, first) = (group.median(path), groups[0].median(path));
            put(own.map_or(format!(" {:>10}", "-"), |own| format!(" {own:>10.digits$}")));
            if has_ratio {
                let ratio = own.zip(first).filter(|(_, first)| *first > 0.0).map(|(own, first)| own / first);
                put(ratio.map_or(format!(" {:>6}", "-"), |ratio| format!(" {ratio:>6.3}")));
            }
        }
        let limited = group.limited();
        put(if limited > 0 { format!("  (generator-bound in {limited})\n") } else { "\n".to_owned() });
    }
    text
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
        let groups = [
            Group {
                name: "floor".into(),
                runs: vec![run(300.0, 1 << 20), run(100.0, 3 << 20), run(200.0, 2 << 20)],
            },
            Group { name: "gyre".into(), runs: vec![run(100.0, 0), run(400.0, 0)] },
        ];
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
    fn a_missing_file_is_named_in_the_error() {
        let error = table(&[("x".into(), "/nowhere/x.json".into())]).unwrap_err();
        assert!(error.starts_with("/nowhere/x.json:"), "{error}");
    }
}
