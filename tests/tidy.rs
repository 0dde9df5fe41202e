//! The house rules that a compiler doesn't check: each file says what it owns, imports go one way, files and functions
//! stay short, `unsafe` stays where it belongs.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules from the bottom to the top; each may use those below it, none beside it.
const LAYERS: [&[&str]; 15] = [
    &["types", "canary"],
    &["limits", "time", "data", "text", "keyed_hash"],
    &["owner", "connection_id", "counters", "wire", "access", "throttle"],
    &["config"],
    &["error"],
    &["sys"],
    &["swarm"],
    &["engine", "snapshot"],
    &["mesh", "ring", "web"],
    &["worker"],
    &["server"],
    &["doctor", "report", "launcher"],
    &["admin"],
    &["top"],
    &["cli"],
];
/// Modules that know no clock, no randomness and no system call.
const PURE: [&str; 14] = [
    "types",
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
    "swarm",
    "engine",
    "snapshot",
];
const MAY_BE_UNSAFE: [&str; 2] = ["ring", "sys"];
const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

fn all_sources() -> Vec<(PathBuf, String)> {
    ["src", "tests", "benches", "examples", "fuzz/fuzz_targets"].into_iter().flat_map(sources).collect()
}

/// The top-level module of a file under `src`; `None` for the crate's roots.
fn module(path: &Path) -> Option<String> {
    let inner = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let first = inner.components().next().unwrap().as_os_str().to_str().unwrap();
    let name = first.trim_end_matches(".rs");
    // A program of its own sees the library from outside.
    (!["lib", "main", "bin"].contains(&name)).then(|| name.to_owned())
}

fn layer(module: &str) -> usize {
    LAYERS.iter().position(|layer| layer.contains(&module)).unwrap_or_else(|| panic!("{module} has no layer"))
}

/// The text without its unit tests, which may use anything, and without comments.
fn code(path: &Path, text: &str) -> String {
    if path.file_name().is_some_and(|name| name.to_str().unwrap().contains("tests")) {
        return String::new();
    }
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn imports_go_one_way() {
    for (path, text) in sources("src") {
        let Some(module) = module(&path) else { continue };
        let code = code(&path, &text);
        for used in code.split("crate::").skip(1) {
            let name: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let allowed = name == module || name.is_empty() || layer(&name) < layer(&module);
            assert!(allowed, "{} uses crate::{name}, which is not below it", path.display());
        }
    }
}

#[test]
fn pure_modules_are_pure() {
    for (path, text) in sources("src") {
        let Some(module) = module(&path) else { continue };
        if PURE.contains(&module.as_str()) {
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
    for (path, text) in sources("src") {
        let allowed = module(&path).is_some_and(|module| MAY_BE_UNSAFE.contains(&module.as_str()));
        let has = code(&path, &text).contains("allow(unsafe_code)");
        assert!(allowed || !has, "{} allows unsafe code", path.display());
    }
}

#[test]
fn each_file_says_what_it_owns_and_stays_short() {
    for (path, text) in all_sources() {
        assert!(text.starts_with("//! "), "{} has no head", path.display());
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES, "{} has {lines} lines", path.display());
        assert!(
            text.lines().all(|line| line.chars().count() <= 120),
            "{} has a line over 120 columns",
            path.display()
        );
    }
}

#[test]
fn functions_stay_short() {
    for (path, text) in all_sources() {
        let mut open: Option<(usize, String)> = None;
        for (number, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let starts =
                ["fn ", "pub fn ", "pub(super) fn ", "pub(crate) fn ", "async fn ", "pub(super) async fn "];
            match &open {
                None if starts.iter().any(|start| line.trim_start().starts_with(start))
                    && !line.ends_with(';') =>
                {
                    open = Some((number, format!("{}}}", " ".repeat(indent))));
                }
                Some((start, end)) if line == end => {
                    let lines = number + 1 - start;
                    assert!(lines <= FUNCTION_LINES, "{}:{}: {lines} lines", path.display(), start + 1);
                    open = None;
                }
                _ => {}
            }
        }
    }
}
