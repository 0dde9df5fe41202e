//! Checks that comments, strings and names are in plain English: phrases that readers stumble over do not come back.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{files, root};

/// Phrases that readers stumble over, each with what to write instead. A phrase with a capital letter is searched for
/// with exactly this case, the others in any case.
const PHRASES: [(&str, &str); 42] = [
    ("is none", NOT_VALID),
    ("are none", NOT_VALID),
    ("was none", NOT_VALID),
    ("were none", NOT_VALID),
    ("or it is no", NOT_VALID),
    ("it is no such", NOT_VALID),
    ("none but", "`only`"),
    ("so many", AMOUNT),
    ("so much", AMOUNT),
    ("so few", AMOUNT),
    ("so long", AMOUNT),
    ("so often", AMOUNT),
    ("whoever", SUBJECT),
    ("whosoever", SUBJECT),
    ("whomever", SUBJECT),
    ("whom", SUBJECT),
    ("somebody", SUBJECT),
    ("anybody", SUBJECT),
    ("nobody", SUBJECT),
    ("Who", SUBJECT),
    ("who is told", "`where the result is sent`, `the receiver`"),
    ("what it is told", "`commands from ...`, `the message`"),
    ("The same of", SAME),
    ("The same for", SAME),
    ("The same with", SAME),
    ("The same, but", SAME),
    ("isn't ours", OWNER),
    ("is not ours", OWNER),
    ("aren't ours", OWNER),
    ("are not ours", OWNER),
    ("goes before it", "`overrides it`"),
    ("go before it", "`override it`"),
    ("goes before what", "`overrides`"),
    ("is to be", MUST),
    ("are to be", MUST),
    ("was to be", MUST),
    ("were to be", MUST),
    ("for want of", "`because there is no ...`, `without`"),
    ("amiss", "`wrong`, `a problem with`"),
    ("sees to it", "`makes sure`"),
    ("see to it", "`make sure`"),
    ("lest", "`so that ... not`"),
];
const NOT_VALID: &str = "what is wrong: `invalid method`, `not a number`, `missing`";
const AMOUNT: &str = "the amount: `count swarms`, `at most N`, `after this timeout`, `as long as`";
const SUBJECT: &str = "the subject: `the client`, `the caller`, `no client`, `another process`";
const SAME: &str = "the thing again: `Like [foo], but for HTTP.`";
const OWNER: &str = "`not available`, or the owner";
const MUST: &str = "`must`, `will`, or the present tense";
/// Contexts in which a phrase is plain English. A phrase alone in quotes is allowed too: it is a name, or an example.
const ALLOWED: [&str; 15] = [
    "there is none",
    "there are none",
    "there was none",
    "there were none",
    "so many that",
    "so much that",
    "so few that",
    "so long that",
    "so often that",
    "so long as",
    // The user.
    "user nobody",
    "-u nobody",
    "nobody:",
    ":nobody",
    "=nobody",
];
/// Names that say nothing to a reader. Names of the field are better.
const NAMES: [&str; 11] = [
    "Asked",
    "Bequest",
    "Birth",
    "Crew",
    "Estate",
    "Fickle",
    "Mind",
    "Witness",
    "bequest",
    "look_who_guards",
    "mourner",
];
/// Files with text for readers, beside the sources.
const PAGES: [&str; 4] = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"];

/// Text for readers. Line breaks separate parts that don't belong together; other white space is a single space.
#[derive(Default)]
struct Prose {
    text: String,
    /// The line of each byte of the text.
    lines: Vec<usize>,
    /// Identifiers of the code, with their lines.
    names: Vec<(String, usize)>,
}

impl Prose {
    fn of(path: &Path, text: &str) -> Self {
        match path.extension().is_some_and(|extension| extension == "rs") {
            true => Self::of_rust(text),
            false => Self::of_lines(text),
        }
    }

    /// Takes everything but the marks of comments.
    fn of_lines(text: &str) -> Self {
        let mut prose = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim_start().trim_start_matches(['#', '/']);
            line.chars().for_each(|c| prose.push(c, number));
            prose.push(if line.is_empty() { '\n' } else { ' ' }, number);
        }
        prose
    }

    /// Takes comments, strings, and the names of functions with spaces for underscores.
    fn of_rust(text: &str) -> Self {
        let mut prose = Self::default();
        let (mut rest, mut line, mut is_function) = (text, 1, false);
        while let Some(c) = rest.chars().next() {
            let word = rest.split(|c| !is_word(c)).next().unwrap();
            let hashes = rest[word.len()..].split(|c| c != '#').next().unwrap();
            let quote = word.len() + hashes.len();
            let length = if rest.starts_with("//") {
                let comment = rest.split('\n').next().unwrap();
                comment.trim_start_matches(['/', '!']).chars().for_each(|c| prose.push(c, line));
                comment.len()
            } else if ["r", "br"].contains(&word) && rest[quote..].starts_with('"') {
                let content = rest[quote + 1..].split(&format!("\"{hashes}")).next().unwrap();
                prose.push_part(&format!("\"{content}\""), line);
                quote + 1 + content.len() + 1 + hashes.len()
            } else if !word.is_empty() {
                let name = if is_function && !word.starts_with("is_none") { word } else { "" };
                prose.push_part(&name.replace('_', " "), line);
                prose.names.push((word.to_owned(), line));
                is_function = word == "fn";
                word.len()
            } else if c == '"' {
                let length = string_length(rest);
                prose.push_part(&rest[..length].replace("\\\n", " ").replace('\\', "|"), line);
                length
            } else if let Some(escape) = rest.strip_prefix("'\\") {
                2 + escape[1..].find('\'').expect("the end of a character") + 2
            } else if c == '\'' && rest.chars().nth(2) == Some('\'') {
                1 + rest.chars().nth(1).map_or(0, char::len_utf8) + 1
            } else {
                prose.push(if c.is_whitespace() { ' ' } else { '\n' }, line);
                c.len_utf8()
            };
            line += rest[..length].matches('\n').count();
            rest = &rest[length..];
        }
        prose
    }

    /// Adds text that doesn't belong to its neighbours.
    fn push_part(&mut self, text: &str, mut line: usize) {
        self.push('\n', line);
        for c in text.chars() {
            self.push(if c == '\n' { ' ' } else { c }, line);
            line += usize::from(c == '\n');
        }
        self.push('\n', line);
    }

    fn push(&mut self, c: char, line: usize) {
        let last = self.text.chars().next_back().unwrap_or('\n');
        if c.is_whitespace() && (last == '\n' || last == ' ' && c != '\n') {
            return;
        }
        if c == '\n' && last == ' ' {
            self.text.pop();
            self.lines.pop();
        }
        self.text.push(if c.is_whitespace() && c != '\n' { ' ' } else { c });
        self.lines.resize(self.text.len(), line);
    }

    /// Returns the lines with this phrase, except where it is part of an allowed one.
    fn find(&self, phrase: &str) -> Vec<usize> {
        let lower = self.text.to_ascii_lowercase();
        let text = if phrase.contains(|c: char| c.is_ascii_uppercase()) { &self.text } else { &lower };
        let is_allowed = |at: usize| {
            let contexts = ALLOWED.iter().filter_map(|context| Some((context, context.find(phrase)?)));
            contexts.into_iter().any(|(context, start)| {
                at.checked_sub(start)
                    .and_then(|at| lower.get(at..))
                    .is_some_and(|text| text.starts_with(context))
            })
        };
        let is_part = |c: char| is_word(c) || c == '-';
        let is_whole = |at: usize| {
            let (before, after) = (&text[..at], &text[at + phrase.len()..]);
            let is_quoted =
                ["\"", "`", "'"].iter().any(|mark| before.ends_with(mark) && after.starts_with(mark));
            !before.ends_with(is_part) && !after.starts_with(is_part) && !is_quoted
        };
        // A name of a constant, or Python's `None`.
        let is_code = |at: usize| {
            let found = &self.text[at..at + phrase.len()];
            !found.contains(|c: char| c.is_ascii_lowercase()) || found.contains("None")
        };
        let found = text.match_indices(phrase).map(|(at, _)| at);
        found
            .filter(|at| is_whole(*at) && !is_allowed(*at) && !is_code(*at))
            .map(|at| self.lines[at])
            .collect()
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Returns the length of the string literal that `text` starts with.
fn string_length(text: &str) -> usize {
    let mut is_escaped = true; // so that the first quote does not count
    let end = text.bytes().position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 1)
}

/// Returns all files with text for readers.
fn pages() -> Vec<(PathBuf, String)> {
    let kinds = ["rs", "md", "sh", "py", "html", "js", "json", "yml", "conf"];
    let folders =
        ["src", "crates", "tests", "benches", "examples", "fuzz/fuzz_targets", "docs", "scripts", "tuning"];
    let pages =
        PAGES.into_iter().filter_map(|name| Some((name.into(), fs::read_to_string(root().join(name)).ok()?)));
    folders.into_iter().flat_map(|folder| files(folder, &kinds)).chain(pages).collect()
}

#[test]
fn phrases_are_found_in_comments_strings_and_names() {
    let code = r##"
        //! The method
        //! is none.
        fn who_is_none_at_all(x: Option<&'static str>) -> bool {
            let c = ['"', '\'', '\\', 'x'];
            x.is_none() && so_long(Asked) // there is none
        }
        const TEXT: &str = "it waits so\n long, so \
            long";
        const RAW: &str = r#"a " so long"#;
        const USER: &str = "nobody"; // nobody answers, or {NOBODY}, or --no-nobody
    "##;
    let prose = Prose::of_rust(code);
    assert_eq!(prose.find("is none"), [3, 4]);
    assert_eq!(prose.find("so long"), [8, 10]);
    assert_eq!(prose.find("nobody"), [11]);
    assert!(prose.names.contains(&("Asked".to_owned(), 6)));
    let page = Prose::of_lines("# Whom?\n\nit has\n# so many that so\n# many\n\nso\n\nmany\n");
    assert_eq!((page.find("whom"), page.find("so many")), (vec![1], vec![4]));
}

#[test]
fn words_are_plain_english() {
    let mut found = Vec::new();
    for (path, text) in pages() {
        if path.ends_with("tests/tidy/words.rs") {
            continue; // has the phrases
        }
        let (prose, path) = (Prose::of(&path, &text), path.display());
        for (phrase, instead) in PHRASES {
            let hits = prose.find(phrase).into_iter();
            found.extend(hits.map(|line| format!("{path}:{line}: `{phrase}`: write {instead}")));
        }
        let names = prose.names.iter().filter(|(name, _)| NAMES.contains(&name.as_str()));
        found.extend(names.map(|(name, line)| format!("{path}:{line}: `{name}`: use a term of the field")));
    }
    assert!(found.is_empty(), "{} phrases are hard to read:\n{}", found.len(), found.join("\n"));
}
