//! Owns what is generated from the definitions of a command line: man pages and shell completions.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{CommandFactory, Subcommand};
use clap_complete::Shell;

/// Commands that write completions and man pages. `gyre` and `gyre-load` have them.
#[derive(Debug, Subcommand)]
pub enum Describe {
    /// Write shell completions for this program to standard output.
    ///
    /// For bash, save them as `~/.local/share/bash-completion/completions/NAME`, where NAME is the name of the program.
    Completions {
        /// The shell
        shell: Shell,
    },

    /// Write the man pages of this program and its commands to a directory.
    #[command(hide = true)]
    Man {
        /// The directory. It is created if it does not exist
        directory: PathBuf,
    },
}

impl Describe {
    /// Writes completions or man pages for the program with the command line `C`.
    ///
    /// # Errors
    ///
    /// The output can't be written. A closed standard output is not an error.
    pub fn run<C: CommandFactory>(&self) -> io::Result<()> {
        match self {
            Self::Completions { shell } => {
                let (mut command, mut text) = (C::command(), Vec::new());
                let name = command.get_name().to_owned();
                clap_complete::generate(*shell, &mut command, name, &mut text);
                match io::stdout().write_all(&text) {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                    done => done,
                }
            }
            Self::Man { directory } => {
                fs::create_dir_all(directory)?;
                // A man page for the command `help` is of no use.
                clap_mangen::generate_to(C::command().disable_help_subcommand(true), directory)
            }
        }
    }
}
