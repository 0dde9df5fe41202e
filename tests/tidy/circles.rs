//! Checks that the files of a folder don't import each other in circles.

use std::collections::{BTreeMap, BTreeSet};

use super::{CRATES, code, name, sources};

/// Imports that are allowed although they close a circle: the importing module, the imported one, and the reason.
const ALLOWED: [(&str, &str, &str); 5] = [
    ("src/worker/answer", "src/worker/http", "an exchange borrows the connection that its request came on"),
    ("src/doctor/probe_http", "src/doctor/probe", "the probe calls it, and it uses the types of the probe"),
    (
        "crates/gyre-web/src/site",
        "crates/gyre-web/src/connection",
        "handlers get a connection, which reads its site",
    ),
    (
        "crates/gyre-load/src/check",
        "crates/gyre-load/src/measure",
        "the errors of replies are kept with their tally",
    ),
    (
        "crates/gyre-load/src/watch",
        "crates/gyre-load/src/report",
        "the timeline's points are part of the report",
    ),
];

/// The path of a module in its crate. The root's is empty.
type ModulePath = Vec<String>;

/// A module that is a file.
#[derive(Default)]
struct Module {
    code: String,
    /// The names that it imports, with their paths. Modules below it can use them as if they were its own.
    imported: BTreeMap<String, ModulePath>,
}

/// Returns the modules of a crate by their paths, without unit tests.
fn modules(folder: &str) -> BTreeMap<ModulePath, Module> {
    let mut modules: BTreeMap<ModulePath, Module> = BTreeMap::new();
    for (file, text) in sources(folder) {
        let code = code(&file, &text);
        let inner = file.strip_prefix(folder).unwrap().with_extension("");
        let mut path: ModulePath = inner.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        path.pop_if(|last| ["lib", "main", "mod"].contains(&last.as_str()));
        modules.entry(path).or_default().code += &code;
    }
    read_imports(&mut modules);
    modules
}

/// Reads the `use` declarations of the modules.
fn read_imports(modules: &mut BTreeMap<ModulePath, Module>) {
    let known: BTreeSet<ModulePath> = modules.keys().cloned().collect();
    for (path, module) in modules {
        for (at, _) in module.code.match_indices("use ") {
            if !module.code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
                let mut found = Vec::new();
                read_tree(&module.code[at + "use ".len()..], &[], &mut found);
                for (used, name) in found {
                    let below: ModulePath = [path.as_slice(), &[used[0].to_owned()]].concat();
                    let from = if known.contains(&below) { ["self"].as_slice() } else { &[] };
                    if let Some(used) = absolute(&[from, &used].concat(), path) {
                        module.imported.insert(name.to_owned(), used);
                    }
                }
            }
        }
    }
}

/// Reads a path, or a tree of them as in `a::{b, c::{self, d as e}}`. Adds each path with the name that it gets in a
/// `use`. Returns the rest of the text.
fn read_tree<'a>(text: &'a str, start: &[&'a str], found: &mut Vec<(Vec<&'a str>, &'a str)>) -> &'a str {
    let mut rest = text.trim_start();
    if let Some(group) = rest.strip_prefix('{') {
        rest = group.trim_start();
        while !rest.is_empty() && !rest.starts_with('}') {
            let after = read_tree(rest, start, found).trim_start();
            let after = after.strip_prefix(',').unwrap_or(after).trim_start();
            if after.len() == rest.len() {
                break; // not a tree
            }
            rest = after;
        }
        return rest.strip_prefix('}').unwrap_or(rest);
    }
    let segment = name(rest);
    rest = &rest[segment.len()..];
    let path =
        if segment == "self" && !start.is_empty() { start.to_vec() } else { [start, &[segment]].concat() };
    if let Some(next) = rest.strip_prefix("::")
        && next.starts_with(|c: char| c.is_alphabetic() || "_{".contains(c))
    {
        return read_tree(next, &path, found);
    }
    let alias = rest.trim_start().strip_prefix("as ").map(|after| name(after.trim_start()));
    if let Some(alias) = alias {
        rest = &rest[rest.find(alias).unwrap() + alias.len()..];
    }
    let own = *path.last().unwrap();
    found.push((path, alias.unwrap_or(own)));
    rest
}

/// Returns the path from the root of the crate, or `None` if it leads elsewhere.
fn absolute(path: &[&str], module: &[String]) -> Option<ModulePath> {
    let (first, rest) = path.split_first()?;
    let mut base = match *first {
        "crate" => Vec::new(),
        "self" => module.to_vec(),
        "super" => module[..module.len().checked_sub(1)?].to_vec(),
        _ => return None,
    };
    let ups = rest.iter().take_while(|segment| **segment == "super").count();
    base.truncate(base.len().saturating_sub(ups));
    base.extend(rest[ups..].iter().map(|segment| (*segment).to_owned()));
    Some(base)
}

/// Returns the modules that a path leads through, past re-exports, to the one that defines the item.
fn modules_on(path: &[String], modules: &BTreeMap<ModulePath, Module>) -> Vec<ModulePath> {
    let (mut path, mut at, mut met) = (path.to_vec(), 0, vec![Vec::new()]);
    while at < path.len() {
        let (here, below) = (&path[..at], &path[..=at]);
        if modules.contains_key(below) {
            met.push(below.to_vec());
            at += 1;
            continue;
        }
        let Some(target) = modules.get(here).and_then(|module| module.imported.get(&path[at])) else { break };
        if met.len() > 20 {
            break; // names that are re-exported in a circle
        }
        (path, at) = ([target.as_slice(), &path[at + 1..]].concat(), 0);
    }
    met
}

/// Returns which module of a folder imports which, by folder.
fn imports(modules: &BTreeMap<ModulePath, Module>) -> BTreeMap<ModulePath, BTreeSet<(String, String)>> {
    let mut folders: BTreeMap<ModulePath, BTreeSet<(String, String)>> = BTreeMap::new();
    for (from, module) in modules {
        let code = &module.code;
        for (at, _) in ["crate::", "super::", "self::"].iter().flat_map(|root| code.match_indices(root)) {
            if code[..at].ends_with(|before: char| before.is_alphanumeric() || "_:".contains(before)) {
                continue;
            }
            let mut found = Vec::new();
            read_tree(&code[at..], &[], &mut found);
            let used = found.iter().filter_map(|(path, _)| absolute(path, from));
            for to in used.flat_map(|path| modules_on(&path, modules)) {
                let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
                if let (Some(user), Some(used)) = (from.get(common), to.get(common)) {
                    folders.entry(from[..common].to_vec()).or_default().insert((user.clone(), used.clone()));
                }
            }
        }
    }
    folders
}

/// Returns a circle, if there is one, as the names on it.
fn circle(imports: &BTreeSet<(String, String)>) -> Option<Vec<String>> {
    // Remove imports of modules that import nothing, until only circles and the ways to them are left.
    let mut left = imports.clone();
    loop {
        let users: BTreeSet<String> = left.iter().map(|(user, _)| user.clone()).collect();
        let before = left.len();
        left.retain(|(_, used)| users.contains(used));
        if left.len() == before {
            break;
        }
    }
    let mut way = vec![left.first()?.0.clone()];
    loop {
        let (_, next) = left.iter().find(|(user, _)| user == way.last().unwrap())?;
        if let Some(start) = way.iter().position(|met| met == next) {
            way.push(next.clone());
            return Some(way.split_off(start));
        }
        way.push(next.clone());
    }
}

#[test]
fn each_path_of_a_tree_is_read() {
    let mut found = Vec::new();
    let rest = read_tree("crate::a::{self, b::C, d::{E as F,\n g},\n}; rest", &[], &mut found);
    assert_eq!(rest, "; rest");
    assert_eq!(
        found,
        [
            (vec!["crate", "a"], "a"),
            (vec!["crate", "a", "b", "C"], "C"),
            (vec!["crate", "a", "d", "E"], "F"),
            (vec!["crate", "a", "d", "g"], "g"),
        ]
    );
    found.clear();
    read_tree("super::super::a::b(&c)", &[], &mut found);
    assert_eq!(absolute(&found[0].0, &["x".into(), "y".into(), "z".into()]).unwrap(), ["x", "a", "b"]);
}

#[test]
fn a_circle_is_found_past_a_re_export() {
    let module = |code: &str| Module { code: code.into(), ..Module::default() };
    let path = |path: &str| path.split_terminator('/').map(str::to_owned).collect::<ModulePath>();
    let mut modules = BTreeMap::from([
        (path("f"), module("pub use b::{Other, Hidden as Thing};")),
        (path("f/a"), module("use super::{Own, Thing};")),
        (path("f/b"), module("use crate::f::c;")),
        (path("f/c"), module("")),
        (path("f/c/d"), module("fn x() { super::super::a::y() }")),
        (path("f/e"), module("use super::a;")),
    ]);
    read_imports(&mut modules);
    let mut imports = imports(&modules).remove(&path("f")).unwrap();
    assert_eq!(circle(&imports).unwrap(), ["a", "b", "c", "a"]);
    imports.remove(&("c".into(), "a".into()));
    assert_eq!(circle(&imports), None);
}

/// No file of a folder may import another file that imports it, directly or through others; a subfolder counts as one
/// file. All may use what the folder's main file (`mod.rs`, `lib.rs`) defines, but a name that the main file imports
/// counts as an import of the file that defines it.
#[test]
fn files_of_a_folder_import_each_other_one_way() {
    let (mut circles, mut needed) = (Vec::new(), Vec::new());
    for folder in CRATES {
        for (path, mut imports) in imports(&modules(folder)) {
            let folder = [&[folder.to_owned()], path.as_slice()].concat().join("/");
            let mut allowed = Vec::new();
            imports.retain(|(user, used)| {
                let import = (format!("{folder}/{user}"), format!("{folder}/{used}"));
                let number =
                    ALLOWED.iter().position(|(user, used, _)| (*user, *used) == (&import.0, &import.1));
                allowed.extend(number.map(|number| (number, (user.clone(), used.clone()))));
                number.is_none()
            });
            while let Some(circle) = circle(&imports) {
                circles.push(format!("{folder}: {}", circle.join(" -> ")));
                imports.remove(&(circle[0].clone(), circle[1].clone()));
            }
            for (number, import) in allowed {
                imports.insert(import.clone());
                needed.extend(circle(&imports).map(|_| number));
                imports.remove(&import);
            }
        }
    }
    assert!(circles.is_empty(), "imports in circles:\n{}", circles.join("\n"));
    for (number, (user, used, _)) in ALLOWED.iter().enumerate() {
        assert!(needed.contains(&number), "remove {user} -> {used} from ALLOWED: it closes no circle");
    }
}
