//! Owns the tests of the live page that need no browser: its files are served, load nothing else, and have a text for
//! every cause. `scripts/page-test.sh` tests it in a real browser.

use std::collections::BTreeSet;

use crate::support::web::Site;
use crate::support::{Tracker, config};
use gyre::counters::{BAD, DROPS};

const PARTS: [(&str, &str); 5] = [
    ("/", "text/html; charset=utf-8"),
    ("/page.css", "text/css; charset=utf-8"),
    ("/page.js", "text/javascript; charset=utf-8"),
    ("/chart.js", "text/javascript; charset=utf-8"),
    ("/words.js", "text/javascript; charset=utf-8"),
];

fn start() -> (Tracker, Site) {
    let config = config(1);
    let tracker = Tracker::start(&config);
    let admin = Site::admin(&tracker, &config, None);
    (tracker, admin)
}

/// Returns the texts between two markers.
fn between<'a>(text: &'a str, begin: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(begin).skip(1).map(move |rest| rest.split(end).next().expect("a part"))
}

#[test]
fn files_have_their_media_types_and_a_strict_policy() {
    let (_tracker, admin) = start();
    for (path, media_type) in PARTS {
        let answer = admin.get(path, &[]);
        assert_eq!((answer.status, answer.field("content-type")), (200, media_type), "{path}");
        assert_eq!(answer.field("x-content-type-options"), "nosniff", "{path}");
        let policy: BTreeSet<_> = answer.field("content-security-policy").split("; ").collect();
        let expected = [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self' data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ];
        assert_eq!(policy, BTreeSet::from(expected), "{path}");
    }
}

#[test]
fn a_file_that_the_browser_has_is_not_sent_again() {
    let (_tracker, admin) = start();
    let tags = PARTS.map(|(path, _)| {
        let tag = admin.get(path, &[]).field("etag").to_owned();
        let again = admin.get(path, &[("if-none-match", &tag)]);
        assert_eq!((again.status, again.body.len(), again.field("etag")), (304, 0, &*tag), "{path}");
        assert_eq!(again.field("cache-control"), "no-cache", "{path}: another version has another page");
        assert_eq!(admin.get(path, &[("if-none-match", "\"another\"")]).status, 200, "{path}");
        tag
    });
    assert_eq!(BTreeSet::from(tags).len(), PARTS.len(), "each file has its own tag");
}

#[test]
fn the_page_uses_no_other_host_and_inserts_no_markup() {
    let (_tracker, admin) = start();
    for (path, _) in PARTS {
        let text = admin.get(path, &[]).text().replace("http://www.w3.org/2000/svg", ""); // a namespace, not an address
        let elsewhere = ["://", "\"//", "'//", "(//"];
        let markup =
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"];
        let inline = ["<style", "style=\"", " onclick", " onload", "javascript:"];
        for word in elsewhere.iter().chain(&markup).chain(&inline) {
            assert!(!text.contains(word), "{path} has {word}");
        }
        assert!(between(&text, "<script", ">").all(|script| script.contains("src=")), "{path}");
    }
}

#[test]
fn files_and_elements_that_the_page_refers_to_exist() {
    let (_tracker, admin) = start();
    let page = admin.get("/", &[]).text().to_owned();
    let script = admin.get("/page.js", &[]).text().to_owned();
    let linked = between(&page, "href=\"", "\"").chain(between(&page, "src=\"", "\""));
    let imported = between(&script, "from \"./", "\"");
    let paths: BTreeSet<_> = linked.chain(imported).filter(|path| !path.starts_with("data:")).collect();
    assert!(
        paths.is_superset(&BTreeSet::from(["page.css", "page.js", "chart.js", "words.js", "metrics"])),
        "{paths:?}"
    );
    for path in paths {
        assert_eq!(admin.get(&format!("/{path}"), &[]).status, 200, "{path}");
    }
    let ids: BTreeSet<_> = between(&page, " id=\"", "\"").collect();
    for id in between(&script, "$(\"#", "\"").filter_map(|selector| selector.split(' ').next()) {
        assert!(ids.contains(id), "the script looks for #{id}");
    }
}

#[test]
fn every_cause_is_explained_and_the_doctor_knows_the_checks() {
    let (_tracker, admin) = start();
    let words = admin.get("/words.js", &[]).text().to_owned();
    let table =
        |name: &str| between(&words, &format!("export const {name} = {{"), "};").next().unwrap().to_owned();
    let (drops, bad) = (table("DROPS"), table("BAD"));
    for (table, causes) in [(&drops, &DROPS), (&bad, &BAD)] {
        let explained: BTreeSet<_> = table
            .lines()
            .filter_map(|line| line.strip_prefix("  \"")?.split_once("\":"))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(explained, causes.iter().map(|(name, _)| *name).collect());
    }
    let checks = include_str!("../../docs/doctor.md");
    // The list of checks in each cause.
    let lists = drops.split('[').filter_map(|part| part.starts_with('"').then(|| part.split_once(']'))?);
    let named: BTreeSet<_> = lists.flat_map(|(list, _)| list.split('"').skip(1).step_by(2)).collect();
    assert!(named.contains("cores-busy"), "{named:?}");
    for check in named {
        assert!(checks.contains(&format!("`{check}`")), "the doctor has no check {check}");
    }
}
