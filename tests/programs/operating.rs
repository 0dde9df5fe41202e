//! Owns the tests of the operation of the program `gyre`: its configuration file, reload, restart.

use std::process::{Command, Output};

use crate::support::process::{ANYWHERE, GYRE, Program};
use crate::support::web::TempDir;
use crate::support::{UdpClient, announcement, eventually, eventually_equal, info_hash};
use rustix::process::Signal;

fn gyre(arguments: &[&str]) -> Output {
    Command::new(GYRE).args(arguments).output().expect("the program")
}

fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("a text")
}

/// Returns the standard error of a program that ended with this exit status.
fn stderr(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stderr.clone()).expect("a text")
}

#[test]
fn the_printed_file_is_accepted() {
    let directory = TempDir::new();
    let options = ["--udp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--cores", "auto", "--max-peers", "7"];
    let text = stdout(&gyre(&[&["config", "print"][..], &options].concat()));
    let file = directory.file("gyre.toml", text.as_bytes());
    assert_eq!(stdout(&gyre(&["config", "check", &file])), "");
    // The options of the file can be printed again, and the command line overrides them.
    assert_eq!(stdout(&gyre(&["config", "print", "--config", &file])), text);
    let changed = stdout(&gyre(&["config", "print", "--config", &file, "--max-peers", "8", "--no-udp"]));
    assert!(changed.contains("\nmax-peers = 8\n") && changed.contains("\nno-udp = true\n"), "{changed}");
    assert!(changed.contains("\n#udp = "), "{changed}");

    let program = Program::serve(&format!("--config {file}"));
    let mut client = UdpClient::connected(program.ready().0);
    for port in 1..=9 {
        client.announce(announcement(info_hash(1), port));
    }
    assert_eq!(client.announce(announcement(info_hash(1), 1)).peers.len(), 7);
}

#[test]
fn errors_in_a_file_have_line_and_column() {
    let directory = TempDir::new();
    for (text, place) in [
        ("# options\nmax-peers = 201\n", ":2:13: "),
        ("max-peers = 1\nnonsense = 2\n", ":2:1: unknown option `nonsense`"),
        ("announce-interval = 100\nmin-interval = 101\n", ":2:1: --min-interval 101 is longer"),
        ("max-peers = ", ":1:13: "),
    ] {
        let file = directory.file("gyre.toml", text.as_bytes());
        let expected = format!("gyre: error: {file}{place}");
        for arguments in [
            &["config", "check", &file][..],
            &["serve", "--config", &file],
            &["config", "print", "--config", &file],
        ] {
            let said = stderr(&gyre(arguments), 1);
            assert!(said.starts_with(&expected) && said.lines().count() == 1, "{arguments:?}: {said}");
        }
        assert!(stderr(&gyre(&["doctor", "--config", &file]), 64).starts_with(&expected));
    }
    let missing = format!("{}/missing.toml", directory.path().display());
    assert!(stderr(&gyre(&["config", "check", &missing]), 1).contains("missing.toml: No such file"));
    let here = directory.path().to_str().unwrap();
    assert!(stderr(&gyre(&["config", "check", here]), 1).contains("directory"));
}

#[test]
fn a_signal_reloads_the_file() {
    let directory = TempDir::new();
    let list = directory.file("deny", format!("{:?}", info_hash(1)).as_bytes());
    let anywhere = "udp = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n";
    let write = |text: &str| directory.file("gyre.toml", format!("{anywhere}{text}").as_bytes());
    let file = write("max-peers = 9");
    let program = Program::serve(&format!("--config {file} --stats-interval 0"));
    let mut client = UdpClient::connected(program.ready().0);
    for port in 1..=9 {
        client.announce(announcement(info_hash(2), port));
    }
    write(&format!("max-peers = 3\nbusy-poll = 7\ngather = 8\ndeny-hashes = \"{list}\""));
    program.signal(Signal::HUP);
    assert!(program.find_line("reloaded").is_some());
    assert!(program.find_line("--busy-poll has changed; a restart is required").is_some());
    assert!(program.find_line("--gather has changed; a restart is required").is_some());
    eventually_equal("fewer peers", &3, || client.announce(announcement(info_hash(2), 1)).peers.len());
    let request = client.announce_request(announcement(info_hash(1), 1));
    eventually("a list", || client.exchange(&request)[..4] == [0, 0, 0, 3]);

    // An error changes nothing.
    write("max-peers = 5\nmax-memory = \"much\"");
    program.signal(Signal::HUP);
    let said = program.find_line("reload failed").expect("a line of the log");
    assert!(said.contains("gyre.toml:4:14: invalid value 'much'"), "{said}");
    write("max-peers = 5\ndeny-hashes = \"/nonexistent/list\"");
    program.signal(Signal::HUP);
    let said = program.find_line("reload failed").expect("a line of the log");
    assert!(said.contains("/nonexistent/list: No such file"), "{said}");
    assert_eq!(client.announce(announcement(info_hash(2), 1)).peers.len(), 3);
    assert_eq!(client.exchange(&request)[..4], [0, 0, 0, 3]);
}

#[test]
fn swarms_survive_a_stop_and_a_kill() {
    let directory = TempDir::new();
    let state = directory.path().join("state");
    let options =
        format!("{ANYWHERE} --stats-interval 0 --snapshot-interval 1 --state-dir {}", state.display());
    let peers = |program: &Program| {
        let mut client = UdpClient::connected(program.ready().0);
        client.announce(announcement(info_hash(1), 99)).peers.len()
    };
    let program = Program::serve(&options);
    assert_eq!(peers(&program), 0);
    program.signal(Signal::TERM);
    program.ends_with(0);

    // The tracker ended after the last announce, so the last snapshot has it.
    let program = Program::serve(&options);
    assert!(program.find_line("1 peers from").is_some());
    let mut client = UdpClient::connected(program.ready().0);
    for port in 1..=5 {
        client.announce(announcement(info_hash(1), port));
    }
    let written = || {
        let files = std::fs::read_dir(state.join("snapshot")).into_iter().flatten().flatten();
        files.filter_map(|file| Some(file.metadata().ok()?.len())).sum::<u64>()
    };
    let before = written();
    eventually("a snapshot of more", || written() >= before + 5 * 8);
    drop(program); // kills the process
    assert_eq!(peers(&Program::serve(&options)), 5);
}

#[test]
fn man_pages_and_completions_have_each_option() {
    let directory = TempDir::new();
    let pages = directory.path().join("pages");
    assert_eq!(stdout(&gyre(&["man", pages.to_str().unwrap()])), "");
    let page = std::fs::read_to_string(pages.join("gyre-serve.1")).unwrap().replace('\\', "");
    let completions = stdout(&gyre(&["completions", "bash"]));
    let help = stdout(&gyre(&["serve", "--help"]));
    let options: Vec<_> = help.split([' ', '\n']).filter(|word| word.starts_with("--")).collect();
    assert!(options.len() > 20, "{help}");
    for option in options.iter().map(|word| word.trim_end_matches(|c: char| !c.is_alphanumeric())) {
        assert!(page.contains(option) && completions.contains(option), "{option}");
    }
    assert!(pages.join("gyre-config-check.1").exists() && !pages.join("gyre-man.1").exists());
}
