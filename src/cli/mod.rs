//! Owns the command line: each command's and option's name, help, default and range. The options of the tracker are in
//! `serve.rs`, the configuration file in `file.rs`, man pages and completions in `describe.rs`.

mod describe;
mod file;
mod serve;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
pub use describe::Describe;
use file::ConfigFile;
pub use file::FileError;
pub use serve::Serve;

use crate::doctor::PublicUrl;
use crate::launcher::LAUNCH;
#[cfg(feature = "top")]
use crate::limits::DEFAULT_ADMIN_ADDRESS;

/// A BitTorrent tracker for Linux bare metal: UDP and HTTP, one io_uring worker per core.
#[derive(Debug, Parser)]
#[command(name = "gyre", version, max_term_width = 110)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
    /// The options of the command that were given, on the command line or in the configuration file.
    #[arg(skip)]
    given: ArgMatches,
}

/// Why a command line is not valid.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// It can't be parsed, or asks for help.
    #[error("{}", file::reason(.0))]
    Usage(#[from] clap::Error),
    /// The configuration file is not valid.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Cli {
    /// Reads a command line, and the configuration file that it names. Command-line options override the file.
    ///
    /// # Errors
    ///
    /// An invalid command line, or an error in the file with its line and column.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, CliError> {
        let arguments: Vec<_> = arguments.into_iter().collect();
        let (cli, names) = Self::from_arguments(&arguments)?;
        let Ok(Some(path)) = cli.given.try_get_one::<PathBuf>("config_file") else { return Ok(cli) };
        let file = ConfigFile::read(path)?;
        let (command, line) = arguments.split_at(names);
        let (cli, _) = Self::from_arguments(&[command, &file.arguments(&cli.given)?, line].concat())?;
        if let Some(Err(error)) = cli.command.serve().map(|serve| serve.config().check())
            && let Some(error) = file.locate(error.option(), error.to_string())
        {
            return Err(error.into());
        }
        Ok(cli)
    }

    /// Parses arguments. Also returns how many of them name the program and its command; options come after these.
    fn from_arguments(arguments: &[OsString]) -> Result<(Self, usize), clap::Error> {
        let mut given = Self::command().try_get_matches_from(arguments)?;
        let cli = Self::from_arg_matches(&given)?;
        let mut names = 1;
        while let Some((_, inner)) = given.remove_subcommand() {
            (given, names) = (inner, names + 1);
        }
        Ok((Self { given, ..cli }, names))
    }

    /// Returns the text of a configuration file with all options, those that were given with their values.
    pub fn config_file(&self) -> String {
        file::print(&self.given)
    }
}

/// The commands of the program.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the tracker.
    ///
    /// Without options it serves UDP and HTTP on `0.0.0.0:6969` and `[::]:6969`, with one worker on each core that it
    /// may use. When it is ready, it writes a line with `ready` and its addresses to standard error. SIGINT or SIGTERM
    /// stop it after pending requests are finished, within 2 seconds. A second signal stops it at once. SIGHUP makes it
    /// read its options and lists again. SIGUSR2 starts the program again, which then takes over (--take-over).
    Serve(Box<Serve>),

    /// Check the machine for problems that affect a tracker, with their cost and how to fix them.
    ///
    /// It takes all options of `gyre serve` and checks the machine for a tracker with these options, whether it is
    /// running or not. It changes nothing, but briefly announces itself to each tracker that it queries. It prints one
    /// line for each finding: `ok`, `warn` (performance suffers, or something can't be checked) or `FAIL` (gyre does
    /// not start, or loses requests), followed by the cost and the fix. It takes a few seconds, at most 10. Run it as
    /// root to check everything.
    ///
    /// The exit status is 0 without problems, 1 with warnings, 2 with failures, and 64 if the options are not valid.
    Doctor(Box<Doctor>),

    /// Show a running tracker in the terminal: its activity each second, by protocol, worker, swarm and client.
    ///
    /// It reads from the tracker's admin listener (`gyre serve --admin`). Press `q` to quit and `?` for the other keys.
    /// If standard output is not a terminal, it behaves as with --once.
    ///
    /// The exit status is 1 if the tracker does not answer at first. After that it keeps retrying.
    #[cfg(feature = "top")]
    Top(Top),

    /// Write or check a configuration file.
    #[command(subcommand)]
    Config(ConfigCommand),

    /// Wait for an order and start `gyre` with these arguments. Used by `gyre serve`, which can't start programs
    /// itself.
    #[command(name = LAUNCH, hide = true)]
    Launch {
        /// The arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },

    /// Completions and man pages.
    #[command(flatten)]
    Describe(Describe),
}

/// What to do with a configuration file.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Write a configuration file with all options and their descriptions to standard output.
    ///
    /// Options given here are set to their values. The others are commented out, with their defaults.
    Print(Box<Serve>),

    /// Check a configuration file.
    ///
    /// The exit status is 0 if a tracker can run with it. Otherwise the error is printed with line and column, and the
    /// exit status is 1.
    Check {
        /// The file
        file: PathBuf,
    },
}

impl Command {
    /// Returns the options of the tracker, if the command has any.
    fn serve(&self) -> Option<&Serve> {
        match self {
            Self::Serve(serve) | Self::Config(ConfigCommand::Print(serve)) => Some(serve),
            Self::Doctor(doctor) => Some(&doctor.serve),
            Self::Config(ConfigCommand::Check { .. }) | Self::Launch { .. } | Self::Describe(_) => None,
            #[cfg(feature = "top")]
            Self::Top(_) => None,
        }
    }
}

/// The options of `gyre doctor`.
#[derive(Args, Clone, Debug)]
pub struct Doctor {
    /// Public announce URL of the tracker: `udp://HOST:PORT[/PATH]` or `http://HOST[:PORT][/PATH]`. Its name is
    /// resolved, and the tracker is queried over IPv4 and IPv6, like the checkers of public tracker lists do. May be
    /// given several times [default: none, only the addresses of --udp and --http are queried]
    #[arg(long, value_name = "URL", help_heading = "Doctor")]
    pub public_url: Vec<PublicUrl>,

    /// Write JSON to standard output: an object with the worst `level` and the `findings`. Each has `check`, `level`,
    /// `what`, `cost` and `fix` (null if there is none)
    #[arg(long, help_heading = "Doctor")]
    pub json: bool,

    /// The options of the tracker.
    #[command(flatten)]
    pub serve: Serve,
}

/// The options of `gyre top`.
#[cfg(feature = "top")]
#[derive(Args, Clone, Debug)]
#[command(allow_negative_numbers = true)]
pub struct Top {
    /// Address of the admin listener: `ADDR:PORT`, or `http://HOST[:PORT][/PATH]` if it is behind a proxy
    #[arg(value_name = "ADDR:PORT|URL", default_value = DEFAULT_ADMIN_ADDRESS)]
    pub target: crate::top::Target,

    /// Seconds between two readings. Range: 1 to 3600
    #[arg(long, value_name = "S", default_value_t = crate::limits::DEFAULT_TOP_INTERVAL_S)]
    #[arg(value_parser = serve::number(crate::limits::TOP_INTERVAL_RANGE_S))]
    pub interval: u32,

    /// Write one frame to standard output as text, after one interval
    #[arg(long)]
    pub once: bool,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Config, Cores, Listen, Lists, Steering};
    use crate::throttle::SourceLimits;

    fn config(options: &str) -> Result<Config, clap::Error> {
        let arguments = ["gyre", "serve"].into_iter().chain(options.split_whitespace());
        Cli::try_parse_from(arguments).map(|cli| match cli.command {
            Command::Serve(serve) => serve.config(),
            other => unreachable!("{other:?} was not asked for"),
        })
    }

    #[test]
    fn the_doctor_takes_the_options_of_serve() {
        let options = "--udp 127.0.0.1:7000 --no-http --cores 1 --receive-buffer 65536 --max-memory 1G";
        let urls = "--json --public-url udp://a.example:6969 --public-url http://[::1]/announce";
        let arguments = format!("gyre doctor {urls} {options}");
        let cli = Cli::try_parse_from(arguments.split(' ')).unwrap();
        let Command::Doctor(doctor) = cli.command else { panic!("not the command doctor") };
        assert_eq!(doctor.serve.config(), config(options).unwrap());
        assert_eq!((doctor.public_url.len(), doctor.json), (2, true));
        let error = Cli::try_parse_from(["gyre", "doctor", "--public-url", "https://a"]).unwrap_err();
        assert!(error.to_string().contains("--public-url") && error.to_string().contains("TLS"), "{error}");
    }

    #[test]
    fn the_definitions_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn without_options_the_configuration_is_the_default() {
        assert_eq!(config("").unwrap(), Config::default());
        assert_eq!(Config::default().check(), Ok(()));
    }

    #[test]
    fn options_reach_the_configuration() {
        let parsed = config(
            "--udp 127.0.0.1:0 --udp [::1]:7000 --no-http --cores 0-1,3 --steering none --announce-interval 120 \
             --max-peers 30 --busy-poll 50 --gather 300 --http-connections 9 --receive-buffer 65536 --stats-interval 0 \
             --connection-id-window 60 --max-memory 1G --trusted-proxy 10.0.0.0/8 --trusted-proxy ::1 \
             --allow-hashes a --allow-hashes b --deny-hashes c --allow-clients d --deny-clients e --allow-sources f \
             --deny-sources g --deny-reason no --state-dir h --snapshot-interval 60 --limit-connects 1 \
             --limit-announces 2/m --limit-scrapes 3/h:9 --limit-http-requests 4:4 --limit-http-connections 5/s:5 \
             --limit-wrong-ids 6/m:6 --limit-networks 7 --ban-time 8 --limit-exempt 10.0.0.0/8 --limit-exempt ::1",
        );
        let rate = |text: &str| Some(text.parse().unwrap());
        let expected = Config {
            udp: Listen::At(vec!["127.0.0.1:0".parse().unwrap(), "[::1]:7000".parse().unwrap()]),
            http: Listen::At(vec![]),
            cores: Cores::List(vec![0, 1, 3]),
            steering: Steering::None,
            announce_interval_secs: 120,
            min_interval_secs: 60,
            peer_timeout_secs: 254,
            max_peers: 30,
            max_memory_bytes: Some(1 << 30),
            connection_id_window_secs: 60,
            busy_poll: Duration::from_micros(50),
            gather: Duration::from_micros(300),
            http_connections: Some(9),
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
            lists: Lists {
                allow_hashes: vec!["a".into(), "b".into()],
                deny_hashes: vec!["c".into()],
                allow_clients: vec!["d".into()],
                deny_clients: vec!["e".into()],
                allow_sources: vec!["f".into()],
                deny_sources: vec!["g".into()],
                torrent_reason: "no".into(),
            },
            source_limits: SourceLimits {
                connects: rate("1/s:10"),
                announces: rate("2/m:1"),
                scrapes: rate("3/h:9"),
                http_requests: rate("4/s:4"),
                http_connections: rate("5/s:5"),
                wrong_ids: rate("6/m:6"),
                network_share: 7,
                ban_secs: 8,
                exempt: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
            },
            state_dir: Some("h".into()),
            snapshot_interval_secs: 60,
            receive_buffer_bytes: 65_536,
            stats_interval_secs: 0,
        };
        assert_eq!(parsed.unwrap(), expected);
        assert_eq!(config("--announce-interval 1").unwrap().check(), Ok(()));
        for (given, bytes) in
            [("16M", 16 << 20), ("16777216", 16 << 20), ("20000K", 20_000 << 10), ("1024T", 1 << 50)]
        {
            assert_eq!(config(&format!("--max-memory {given}")).unwrap().max_memory_bytes, Some(bytes));
        }
        assert_eq!(config("--announce-interval 604800").unwrap().check(), Ok(()));
    }

    #[test]
    fn errors_of_invalid_values_name_the_option() {
        for options in [
            "--udp 6969",
            "--udp localhost:1",
            "--cores 3-1",
            "--cores x",
            "--steering rss",
            "--announce-interval 0",
            "--announce-interval 604801",
            "--max-peers 201",
            "--busy-poll 1000001",
            "--gather 2001",
            "--gather -1",
            "--http-connections 0",
            "--receive-buffer 1",
            "--connection-id-window 9",
            "--max-memory 5X",
            "--max-memory 1M",
            "--max-memory 1025T",
            "--max-memory -1",
            "--min-interval -1",
            "--peer-timeout 0",
            "--trusted-proxy 10.0.0.0/33",
            "--trusted-proxy proxy.example",
            "--limit-announces 0",
            "--limit-http-requests 5/d",
            "--limit-exempt here",
            "--limit-networks 65537",
            "--ban-time 0",
            "--log =x",
            "--udp 127.0.0.1:1 --no-udp",
        ] {
            let error = config(options).unwrap_err().to_string();
            assert!(error.contains(options.split(' ').next().unwrap()), "{options}: {error}");
        }
    }
}
