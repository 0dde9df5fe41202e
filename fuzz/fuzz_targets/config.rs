//! Owns the fuzzing of the file of options: what is wrong has a place in the file, and what is right is printed as a
//! file that says the same.

#![no_main]

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::{env, fs, process};

use gyre::cli::{Cli, CliError, Command, FileError};
use libfuzzer_sys::fuzz_target;

static FILE: LazyLock<PathBuf> =
    LazyLock::new(|| env::temp_dir().join(format!("gyre-fuzz-config-{}.toml", process::id())));

fuzz_target!(|text: &[u8]| {
    match read(text) {
        Ok(cli) => {
            let printed = cli.config_file();
            let again = read(printed.as_bytes()).expect("what is printed is read");
            assert_eq!(serve(&again).config(), serve(&cli).config());
            assert_eq!(again.config_file(), printed);
        }
        Err(CliError::File(FileError::At { line, column, what, .. })) => {
            let text = str::from_utf8(text).expect("it was read as text");
            let lines: Vec<&str> = text.split('\n').collect();
            assert!((1..=lines.len()).contains(&line), "line {line}: {what}");
            assert!((1..=lines[line - 1].chars().count() + 1).contains(&column), "column {column}: {what}");
            assert!(!what.is_empty());
        }
        Err(CliError::File(FileError::Read { .. })) => assert!(str::from_utf8(text).is_err()),
        Err(CliError::Usage(error)) => panic!("{error}"),
    }
});

fn read(text: &[u8]) -> Result<Cli, CliError> {
    fs::write(&*FILE, text).expect("the file of the fuzzing can be written");
    let cli = Cli::read(
        ["gyre", "config", "print", "--config"]
            .map(OsString::from)
            .into_iter()
            .chain([FILE.as_os_str().to_owned()]),
    );
    let _ = fs::remove_file(&*FILE);
    cli
}

fn serve(cli: &Cli) -> &gyre::cli::Serve {
    match &cli.command {
        Command::Config(gyre::cli::ConfigCommand::Print(serve)) => serve,
        _ => unreachable!("it was asked for"),
    }
}
