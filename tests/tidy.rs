//! Checks the rules of the code that a compiler doesn't check: imports go one way, pure modules are pure, `unsafe`
//! stays in a few files, files and functions are short, each file has a head, texts are in plain English.

#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/words.rs"]
mod words;

use std::fs;
use std::path::{Path, PathBuf};

/// The sources of the crates. The root crate re-exports the modules of gyre-core and gyre-web.
const CRATES: [&str; 4] = ["src", "crates/gyre-core/src", "crates/gyre-web/src", "crates/gyre-load/src"];
/// The modules from the bottom to the top; each may use those below it, none beside it.
const LAYERS: [&[&str]; 18] = [
    &["types", "canary"],
    &["time", "data", "text", "keyed_hash"],
    &["limits"],
    &["owner", "connection_id", "counters", "wire", "access", "throttle"],
    &["config"],
    &["error"],
    &["swarm"],
    &["snapshot"],
    &["engine"],
    &["mesh", "web"],
    &["sys"],
    &["ring"],
    &["worker"],
    &["server"],
    &["doctor", "report", "launcher"],
    &["admin"],
    &["top"],
    &["cli"],
];
/// Modules without a clock, a source of randomness or system calls.
const PURE: [&str; 17] = [
    "types",
    "canary",
    "data",
    "text",
    "limits",
    "keyed_hash",
    "owner",
    "connection_id",
    "counters",
    "wire",
    "config",
    "access",
    "throttle",
    "error",
    "swarm",
    "engine",
    "snapshot",
];
/// Files and folders that may have unsafe code.
const MAY_BE_UNSAFE: [&str; 4] =
    ["src/ring/", "src/sys/", "crates/gyre-core/src/swarm/prefetch.rs", "crates/gyre-load/src/tcp_ring.rs"];
const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    files(folder, &["rs"])
}

/// Returns the files below a folder whose names have one of these extensions, with their text.
fn files(folder: &str, extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extensions.contains(&extension.to_str().unwrap()))
            {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    assert!(!found.is_empty(), "no files in {folder}");
    found
}

fn all_sources() -> Vec<(PathBuf, String)> {
    ["src", "crates", "tests", "benches", "examples", "fuzz/fuzz_targets"]
        .into_iter()
        .flat_map(sources)
        .collect()
}

/// Returns the sources of the crates whose modules have layers, each with its module. Crate roots are left out.
fn layered() -> Vec<(PathBuf, String, String)> {
    let mut found = Vec::new();
    for (path, text) in ["src", "crates/gyre-core/src"].into_iter().flat_map(sources) {
        let inner = path.strip_prefix("src").or_else(|_| path.strip_prefix("crates/gyre-core/src")).unwrap();
        let first = inner.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs").to_owned();
        if !["lib", "main"].contains(&module.as_str()) {
            found.push((path, text, module));
        }
    }
    found.extend(sources("crates/gyre-web/src").into_iter().map(|(path, text)| (path, text, "web".into())));
    found
}

fn layer(module: &str) -> usize {
    LAYERS.iter().position(|layer| layer.contains(&module)).unwrap_or_else(|| panic!("{module} has no layer"))
}

/// Returns the text without comments and without unit tests, which may use anything.
fn code(path: &Path, text: &str) -> String {
    if path.components().any(|part| ["tests", "tests.rs"].contains(&part.as_os_str().to_str().unwrap())) {
        return String::new();
    }
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Returns the modules in the paths from a crate's root: of `crate::a`, and each of `crate::{a, b::{c, d}}`.
fn used_modules<'a>(code: &'a str, root: &str) -> Vec<&'a str> {
    let mut used = Vec::new();
    for (at, _) in code.match_indices(root) {
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
            continue;
        }
        let rest = &code[at + root.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            used.push(name(rest));
            continue;
        };
        let (mut depth, mut is_start) = (0, true);
        for (at, c) in group.char_indices() {
            match c {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => is_start = true,
                _ if is_start && !c.is_whitespace() => {
                    used.push(name(&group[at..]));
                    is_start = false;
                }
                _ => {}
            }
        }
    }
    used
}

fn name(path: &str) -> &str {
    path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap()
}

#[test]
fn each_module_of_a_path_is_seen() {
    let code =
        "use crate::a::B; use crate::{\n    c,\n    d::{E, f},\n    g::h,\n}; x(crate::i::j()) not_crate::k";
    assert_eq!(used_modules(code, "crate::"), ["a", "c", "d", "g", "i"]);
}

#[test]
fn imports_go_one_way() {
    for (path, text, module) in layered() {
        let code = code(&path, &text);
        let own = if module == "web" { Vec::new() } else { used_modules(&code, "crate::") };
        let others = ["gyre_core::", "gyre_web::"].into_iter().flat_map(|root| used_modules(&code, root));
        for name in own.into_iter().chain(others) {
            let is_module = LAYERS.iter().any(|layer| layer.contains(&name));
            let is_root = ["limits", "error"].contains(&module.as_str()); // the root's re-export the core's
            let allowed = name == module || is_root || !is_module || layer(name) < layer(&module);
            assert!(allowed, "{} uses {name}, which is not in a lower layer", path.display());
        }
    }
}

#[test]
fn crates_know_only_those_below() {
    for (folder, others) in [
        ("crates/gyre-core/src", ["gyre_web::", "gyre::", "tokio", "io_uring"].as_slice()),
        ("crates/gyre-web/src", &["gyre::", "tokio_uring", "io_uring", "TcpStream", "UdpSocket"]),
    ] {
        for (path, text) in sources(folder) {
            let code = code(&path, &text);
            for other in others {
                let uses = code.match_indices(other).any(|(at, _)| {
                    // In a string it is the target of a log filter.
                    !code[..at].ends_with(|before: char| before.is_alphanumeric() || "_\"".contains(before))
                });
                assert!(!uses, "{} uses {other}", path.display());
            }
        }
    }
}

#[test]
fn pure_modules_are_pure() {
    for (path, text, module) in layered() {
        if PURE.contains(&module.as_str()) && path.starts_with("crates/gyre-core") {
            let code = code(&path, &text);
            for impure in [
                "std::time::Instant",
                "SystemTime",
                "std::fs",
                "std::thread",
                "UdpSocket",
                "Tcp",
                "libc::",
                "rustix",
                "getrandom",
                "tokio",
                "tracing",
                "Rng::new()",
                "std::env",
            ] {
                assert!(!code.contains(impure), "{} is pure, but uses {impure}", path.display());
            }
        }
    }
}

#[test]
fn unsafe_stays_where_it_belongs() {
    for (path, text) in CRATES.into_iter().flat_map(sources) {
        let allowed = MAY_BE_UNSAFE.iter().any(|start| path.to_str().unwrap().starts_with(start));
        let has = code(&path, &text).contains("allow(unsafe_code)");
        assert!(allowed || !has, "{} allows unsafe code", path.display());
    }
}

#[test]
fn each_file_says_what_it_owns_and_stays_short() {
    for (path, text) in all_sources() {
        assert!(text.starts_with("//! "), "{} does not begin with a `//!` comment", path.display());
        let lines = text.lines().count();
        assert!(
            lines <= FILE_LINES,
            "{} has {lines} lines, at most {FILE_LINES} are allowed",
            path.display()
        );
        assert!(
            text.lines().all(|line| line.chars().count() <= 120),
            "{} has a line over 120 columns",
            path.display()
        );
    }
}

/// Short unit tests are in `mod tests { ... }` at the end of their file, long ones in `<module>/tests.rs`.
#[test]
fn unit_tests_are_in_one_of_two_places() {
    for (path, text) in CRATES.into_iter().flat_map(sources) {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(
            !name.ends_with("_tests.rs"),
            "{} must be tests.rs in the folder of its module",
            path.display()
        );
        assert!(!text.contains("#[path"), "{} has a #[path] attribute", path.display());
    }
}

/// Returns whether a line starts a function, with or without `pub`, `const`, `async`, `unsafe` and `extern`.
fn starts_function(line: &str) -> bool {
    let mut words = line.split_whitespace().skip_while(|word| {
        ["pub", "const", "async", "unsafe", "extern", "\"C\""].contains(word) || word.starts_with("pub(")
    });
    let mut first = words.next();
    if first.is_some_and(|word| word.ends_with(')') && !word.contains('(')) {
        first = words.next(); // the end of `pub(in path)`
    }
    first == Some("fn")
}

#[test]
fn functions_stay_short() {
    for (line, starts) in [
        ("pub(super) const fn a() {", true),
        ("    pub async fn b(", true),
        ("pub(in crate::x) fn c()", true),
        ("unsafe extern \"C\" fn d() {", true),
        ("// fn e() {", false),
        ("let f = |fn_name| {", false),
    ] {
        assert_eq!(starts_function(line), starts, "{line}");
    }
    for (path, text) in all_sources() {
        let mut open: Option<(usize, String)> = None;
        for (number, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            match &open {
                None if starts_function(line) && !line.ends_with(';') && !line.ends_with('}') => {
                    open = Some((number, format!("{}}}", " ".repeat(indent))));
                }
                Some((start, end)) if line == end => {
                    let lines = number + 1 - start;
                    assert!(
                        lines <= FUNCTION_LINES,
                        "{}:{}: a function of {lines} lines",
                        path.display(),
                        start + 1
                    );
                    open = None;
                }
                _ => {}
            }
        }
    }
}
