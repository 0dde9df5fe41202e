//! Owns what is made of a command line's definitions: the man pages and the completions for shells.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{CommandFactory, Subcommand};
use clap_complete::Shell;

/// The commands by which a program describes itself; `gyre` and `gyre-load` have them.
#[derive(Debug, Subcommand)]
pub enum Describe {
    /// Write a shell's completions for this program to standard output.
    ///
    /// For bash, as an example, to `~/.local/share/bash-completion/completions/NAME`, NAME being the program's.
    Completions {
        /// The shell
        shell: Shell,
    },

    /// Write the man pages of this program and its commands to a directory.
    #[command(hide = true)]
    Man {
        /// The directory, which is made if it isn't there
        directory: PathBuf,
    },
}

impl Describe {
    /// Writes what is asked for, about the program of this command line.
    ///
    /// # Errors
    ///
    /// What can't be written. That nobody reads standard output any more is none.
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
                // A page on how help is got is for nobody.
                clap_mangen::generate_to(C::command().disable_help_subcommand(true), directory)
            }
        }
    }
}
