//! Owns the configuration file: TOML with the options of the command line under the same names.
//!
//! Nothing is defined here: names, ranges and descriptions come from the definitions of the command line. The options
//! of a file are turned into arguments in front of those of the command line, so that one parser reads both.

use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command};
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Value};

use super::Serve;
use crate::limits::CONFIG_FILE_MAX_BYTES;

/// Columns of a comment in a printed file.
const COMMENT_COLUMNS: usize = 100;

/// Example values in the printed file, for options without a default.
const EXAMPLES: [(&str, &str); 15] = [
    ("udp", r#"["0.0.0.0:6969", "[::]:6969"]"#),
    ("http", r#"["0.0.0.0:6969", "[::]:6969"]"#),
    ("min-interval", "900"),
    ("peer-timeout", "3825"),
    ("max-memory", r#""4G""#),
    ("http-connections", "20000"),
    ("limit-connects", r#""10:100""#),
    ("limit-announces", r#""20:500""#),
    ("limit-scrapes", r#""2:50""#),
    ("limit-http-requests", r#""20:500""#),
    ("limit-http-connections", r#""10:100""#),
    ("limit-wrong-ids", r#""1:100""#),
    ("state-dir", r#""/var/lib/gyre""#),
    ("user", r#""gyre""#),
    ("admin-token-file", r#""/etc/gyre/admin-token""#),
];

/// An error in a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file can't be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something in the file is not valid.
    #[error("{}:{line}:{column}: {what}", path.display())]
    At {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The character in the line, counted from 1.
        column: usize,
        /// A description of the error.
        what: String,
    },
}

/// The options of a configuration file.
#[derive(Debug)]
pub(super) struct ConfigFile {
    path: PathBuf,
    text: String,
    settings: Vec<Setting>,
}

/// An option, and the arguments that it is turned into.
#[derive(Debug)]
struct Setting {
    name: String,
    span: Range<usize>,
    arguments: Vec<String>,
}

impl ConfigFile {
    /// Reads a file, and checks each option and each value.
    pub(super) fn read(path: &Path) -> Result<Self, FileError> {
        let failed = |source| FileError::Read { path: path.to_owned(), source };
        let length = fs::metadata(path).map_err(failed)?.len();
        if length > CONFIG_FILE_MAX_BYTES {
            let what = format!("the file has {length} bytes; at most {CONFIG_FILE_MAX_BYTES} are allowed");
            return Err(failed(io::Error::other(what)));
        }
        Self::parse(path, fs::read_to_string(path).map_err(failed)?)
    }

    fn parse(path: &Path, text: String) -> Result<Self, FileError> {
        let mut file = Self { path: path.to_owned(), text, settings: Vec::new() };
        let table = DeTable::parse(&file.text)
            .map_err(|error| file.error(error.span().unwrap_or(0..0), error.message()))?;
        let mut settings = Vec::new();
        for (key, value) in table.get_ref() {
            let name: &str = key.get_ref();
            let arguments = file.arguments_of(name, key.span(), value)?;
            settings.push(Setting { name: name.to_owned(), span: key.span(), arguments });
        }
        settings.sort_by_key(|setting| setting.span.start);
        file.settings = settings;
        Ok(file)
    }

    fn arguments_of(
        &self,
        name: &str,
        span: Range<usize>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<Vec<String>, FileError> {
        let options = options();
        let Some(option) = find(&options, name) else {
            let error = options.try_get_matches_from([format!("--{name}")]).err();
            let similar = match error.as_ref().and_then(|error| error.get(ContextKind::SuggestedArg)) {
                Some(ContextValue::String(similar)) => {
                    format!("; did you mean `{}`?", similar.trim_start_matches('-'))
                }
                _ => String::new(),
            };
            return Err(self.error(span, format!("unknown option `{name}`{similar}")));
        };
        if let ArgAction::SetTrue = option.get_action() {
            return match value.get_ref() {
                DeValue::Boolean(true) => Ok(vec![format!("--{name}")]),
                DeValue::Boolean(false) => Ok(Vec::new()),
                _ => Err(self.error(value.span(), format!("`{name}` must be true or false"))),
            };
        }
        let values: Vec<_> = match (value.get_ref(), option.get_action()) {
            (DeValue::Array(values), ArgAction::Append) => values.iter().collect(),
            (DeValue::Array(_), _) => {
                return Err(self.error(value.span(), format!("`{name}` takes a single value, not a list")));
            }
            _ => vec![value],
        };
        values.into_iter().map(|value| self.argument(&options, name, value)).collect()
    }

    /// Returns the argument for one value, if it is valid for the option.
    fn argument(
        &self,
        options: &Command,
        name: &str,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<String, FileError> {
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            DeValue::Float(number) => number.as_str().to_owned(),
            _ => {
                return Err(
                    self.error(value.span(), format!("the value of `{name}` must be a string or a number"))
                );
            }
        };
        let argument = format!("--{name}={text}");
        match options.clone().try_get_matches_from([&argument]) {
            Ok(_) => Ok(argument),
            Err(error) => Err(self.error(value.span(), reason(&error))),
        }
    }

    /// Returns the arguments for the options that the command line does not override.
    pub(super) fn arguments(&self, given: &ArgMatches) -> Result<Vec<OsString>, FileError> {
        let options = options();
        let mut arguments = Vec::new();
        for (number, setting) in self.settings.iter().enumerate() {
            let option = find(&options, &setting.name).expect("the option was found before");
            let rivals = options.get_arg_conflicts_with(option);
            let is_rival = |other: &Setting| {
                rivals.iter().any(|rival| rival.get_long() == Some(&other.name))
                    && !other.arguments.is_empty()
            };
            if let Some(other) = self.settings[..number].iter().find(|other| is_rival(other))
                && !setting.arguments.is_empty()
            {
                let what = format!("`{}` cannot be used together with `{}`", setting.name, other.name);
                return Err(self.error(setting.span.clone(), what));
            }
            let is_given =
                |option: &Arg| given.value_source(option.get_id().as_str()) == Some(ValueSource::CommandLine);
            if !is_given(option) && !rivals.into_iter().any(is_given) {
                arguments.extend(setting.arguments.iter().map(OsString::from));
            }
        }
        Ok(arguments)
    }

    /// Adds the place of an option to an error about it, if the option is in the file.
    pub(super) fn locate(&self, option: &str, what: String) -> Option<FileError> {
        let setting = self.settings.iter().find(|setting| setting.name == option)?;
        Some(self.error(setting.span.clone(), what))
    }

    fn error(&self, span: Range<usize>, what: impl Into<String>) -> FileError {
        let before = self.text.get(..span.start).unwrap_or(&self.text);
        let line = before.rsplit_once('\n').map_or(before, |(_, line)| line);
        FileError::At {
            path: self.path.clone(),
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
            what: what.into(),
        }
    }
}

/// Returns the options of `gyre serve` that can be in a file.
fn options() -> Command {
    let mut options =
        Serve::augment_args(Command::new("options").no_binary_name(true).disable_help_flag(true));
    options.build();
    options
}

fn find<'a>(options: &'a Command, name: &str) -> Option<&'a Arg> {
    options.get_arguments().find(|option| option.get_long() == Some(name) && name != "config")
}

/// Returns the message of an error in one line.
pub(super) fn reason(error: &clap::Error) -> String {
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
    first.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the text of a file with all options and their descriptions. Options that are not given are commented out.
pub(super) fn print(given: &ArgMatches) -> String {
    let options = options();
    let mut text = String::from(
        "# Options of gyre, with the same names as on the command line. Command-line options override this\n\
         # file. Options that may be given several times are lists here. Options that are commented out show\n\
         # their default, or an example if they have none.\n",
    );
    let mut heading = None;
    for option in options.get_arguments() {
        let Some(name) = option.get_long().filter(|name| find(&options, name).is_some()) else { continue };
        if option.get_help_heading() != heading {
            heading = option.get_help_heading();
            let _ = write!(text, "\n## {}\n", heading.unwrap_or_default());
        }
        text.push('\n');
        let help = option.get_long_help().or(option.get_help()).map(StyledStr::to_string);
        for line in wrap(&help.unwrap_or_default()) {
            let _ = writeln!(text, "# {line}");
        }
        let id = option.get_id().as_str();
        let values: Vec<_> =
            given.get_raw(id).into_iter().flatten().map(|raw| raw.to_string_lossy()).collect();
        let is_given = given.value_source(id).is_some_and(|source| source != ValueSource::DefaultValue);
        let value = match option.get_action() {
            ArgAction::SetTrue => given.get_flag(id).to_string(),
            ArgAction::Append if is_given => {
                Value::Array(values.iter().map(|value| literal(value)).collect()).to_string()
            }
            _ if values.is_empty() => example(option).to_owned(),
            _ => literal(&values[0]).to_string(),
        };
        let comment = if is_given { "" } else { "#" };
        let _ = writeln!(text, "{comment}{name} = {value}");
    }
    text
}

/// Returns the value to show for an option without a value.
fn example(option: &Arg) -> &'static str {
    let name = option.get_long().unwrap_or_default();
    match EXAMPLES.iter().find(|(option, _)| *option == name) {
        Some((_, value)) => value,
        None if matches!(option.get_action(), ArgAction::Append) => "[]",
        None => r#""""#,
    }
}

/// Returns a number as an integer, everything else as a string.
fn literal(value: &str) -> Value {
    value.parse::<i64>().map_or_else(|_| Value::String(value.to_owned()), Value::Integer)
}

fn wrap(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for paragraph in text.split('\n') {
        lines.push(String::new());
        for word in paragraph.split_whitespace() {
            let line = lines.last_mut().expect("a line was begun");
            if !line.is_empty() && line.len() + 1 + word.len() > COMMENT_COLUMNS {
                lines.push(word.to_owned());
                continue;
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::config::{Config, Listen};

    /// Returns the configuration of a command line and a file, or an error without the file's path.
    fn read(text: &str, line: &str) -> Result<Config, String> {
        let fail = |error: FileError| error.to_string();
        let file = ConfigFile::parse(Path::new("f"), text.to_owned()).map_err(fail)?;
        let arguments = |text: &str| text.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        let (command, line) = (arguments("gyre serve"), arguments(line));
        let (cli, names) = Cli::from_arguments(&[&command[..], &line].concat()).unwrap();
        assert_eq!(names, 2);
        let from_file = file.arguments(&cli.given).map_err(fail)?;
        let (cli, _) = Cli::from_arguments(&[command, from_file, line].concat()).unwrap();
        Ok(cli.command.serve().unwrap().config())
    }

    #[test]
    fn the_command_line_overrides_the_file_and_the_file_overrides_the_defaults() {
        let text = "udp = [\"127.0.0.1:1\", \"[::1]:2\"]\nno-http = true\nmax-peers = 7 # few\nmax-memory = \"1G\"\n\
                    min-interval = 1_0";
        let config = read(text, "").unwrap();
        assert_eq!(config.udp.addresses().len(), 2);
        assert_eq!(config.http, Listen::At(Vec::new()));
        assert_eq!((config.max_peers, config.max_memory_bytes), (7, Some(1 << 30)));
        assert_eq!((config.min_interval_secs, config.announce_interval_secs), (10, 1_800));

        let config = read(text, "--udp 127.0.0.1:3 --max-peers 8").unwrap();
        assert_eq!(
            config.udp,
            Listen::At(vec!["127.0.0.1:3".parse().unwrap()]),
            "the addresses of the file are replaced, not added to"
        );
        assert_eq!(config.max_peers, 8);
        // Options of the file that conflict with the command line are dropped.
        let config = read(text, "--no-udp --http 127.0.0.1:4").unwrap();
        assert_eq!(config.udp, Listen::At(Vec::new()));
        assert_eq!(config.http, Listen::At(vec!["127.0.0.1:4".parse().unwrap()]));
        assert_eq!(read("", "").unwrap(), Config::default());
        assert_eq!(read("no-udp = false\nudp = \"127.0.0.1:1\"", "").unwrap().udp.addresses().len(), 1);
    }

    #[test]
    fn errors_have_line_and_column() {
        for (text, expected) in [
            ("x", "f:1:2: "),
            ("max-peers = 1\n\nmax-peer = 2", "f:3:1: unknown option `max-peer`; did you mean `max-peers`?"),
            ("config = \"f\"", "f:1:1: unknown option `config`"),
            ("[udp]\nport = 1", "f:1:"),
            (
                "# \u{fc}\nudp = [\"127.0.0.1:1\", \"\u{fc}\", \"x\"]",
                "f:2:23: invalid value '\u{fc}' for '--udp",
            ),
            ("max-peers = 1\nmax-peers = 2", "f:2:1: "),
            ("max-peers = [1]", "f:1:13: `max-peers` takes a single value, not a list"),
            ("max-peers = 201", "f:1:13: invalid value '201' for '--max-peers <N>': 201 is not in 0..=200"),
            ("max-peers = true", "f:1:13: the value of `max-peers` must be a string or a number"),
            ("steering = \"rss\"", "possible values: info-hash, cpu, none"),
            ("no-udp = \"yes\"", "f:1:10: `no-udp` must be true or false"),
            ("no-udp = true\nudp = \"127.0.0.1:1\"", "f:2:1: `udp` cannot be used together with `no-udp`"),
        ] {
            let error = read(text, "").unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn reading_a_printed_file_gives_the_same_configuration() {
        let printed = |line: &str| {
            let arguments = format!("gyre config print {line}");
            let arguments: Vec<_> = arguments.split_whitespace().map(OsString::from).collect();
            Cli::from_arguments(&arguments).unwrap().0.config_file()
        };
        let text = printed("");
        assert_eq!(read(&text, "").unwrap(), Config::default());
        assert!(text.lines().all(|line| line.is_empty() || line.starts_with('#')), "{text}");
        // Each commented option can be enabled by itself; only options that exclude each other cannot be combined.
        for line in text.lines().filter_map(|line| line.strip_prefix('#')).filter(|line| line.contains(" = "))
        {
            if !line.starts_with([' ', '#']) {
                read(line, "").unwrap_or_else(|error| panic!("{line}: {error}"));
            }
        }
        let line = "--udp 127.0.0.1:1 --udp [::1]:2 --no-http --steering cpu --max-memory 2G --busy-poll 5 --gather 0 \
                    --cores 0-1";
        assert_eq!(read(&printed(line), "").unwrap(), read("", line).unwrap());
        let text = printed(line);
        assert!(text.contains("\nudp = [\"127.0.0.1:1\", \"[::1]:2\"]\n"), "{text}");
        assert!(text.contains("\nbusy-poll = 5\n") && text.contains("\ngather = 0\n"), "{text}");
        assert!(text.contains("\n#no-udp = false\n"), "{text}");
        for option in super::options().get_arguments().filter_map(Arg::get_long) {
            assert!(
                option == "config"
                    || text.contains(&format!("\n{option} = "))
                    || text.contains(&format!("\n#{option} = ")),
                "{option}"
            );
        }
    }
}
