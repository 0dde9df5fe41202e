//! Owns the output of findings: as text, and as JSON.

use serde::Serialize;

use super::{Finding, Level, worst};
use crate::text::printable;

/// Width of the column with the names of the checks.
const NAME_COLUMNS: usize = 16;

/// Formats findings as text: one line for each, with cost and fix below it, and a last line with their numbers.
pub fn to_text(findings: &[Finding], color: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        let (word, paint) = match finding.level {
            Level::Ok => ("ok  ", "\x1b[32m"),
            Level::Warn => ("warn", "\x1b[33m"),
            Level::Fail => ("FAIL", "\x1b[31m"),
        };
        let word = if color { format!("{paint}{word}\x1b[0m") } else { word.to_owned() };
        text += &format!("{word}  {:NAME_COLUMNS$} {}\n", finding.check, printable(&finding.what));
        for (name, more) in [("cost", &finding.cost), ("fix", &finding.fix)] {
            if let Some(more) = more {
                text += &format!("      {:NAME_COLUMNS$}   {name}: {}\n", "", printable(more));
            }
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    text + &format!(
        "{}: {} ok, {}, {}\n",
        plural(findings.len(), "finding"),
        count(Level::Ok),
        plural(count(Level::Warn), "warning"),
        plural(count(Level::Fail), "failure")
    )
}

/// Formats findings as JSON: an object with the worst `level` and the `findings`.
pub fn to_json(findings: &[Finding]) -> String {
    #[derive(Serialize)]
    struct Report<'a> {
        level: Level,
        findings: &'a [Finding],
    }
    let report = Report { level: worst(findings), findings };
    serde_json::to_string_pretty(&report).expect("strings are always JSON") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::ok("kernel", "Linux 6.12"),
            Finding::warn("smt", "a\u{1b}[2Jb").costs("half").fix("`x`"),
        ]
    }

    #[test]
    fn text_is_aligned_and_harmless() {
        let expected = "\
ok    kernel           Linux 6.12
warn  smt              a\u{fffd}[2Jb
                         cost: half
                         fix: `x`
2 findings: 1 ok, 1 warning, 0 failures
";
        assert_eq!(to_text(&findings(), false), expected);
        assert!(to_text(&findings(), true).contains("\x1b[33mwarn\x1b[0m  smt"));
    }

    #[test]
    fn json_has_all_of_it() {
        let json: serde_json::Value = serde_json::from_str(&to_json(&findings())).unwrap();
        assert_eq!(json["level"], "warn");
        assert_eq!(
            json["findings"][0],
            serde_json::json!({
                "check": "kernel", "level": "ok", "what": "Linux 6.12", "cost": null, "fix": null,
            })
        );
        assert_eq!(json["findings"][1]["what"], "a\u{1b}[2Jb");
        let none: serde_json::Value = serde_json::from_str(&to_json(&[])).unwrap();
        assert_eq!(none["level"], "ok");
    }
}
