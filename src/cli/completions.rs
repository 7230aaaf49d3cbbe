//! `lockgate completions`: prints a completion script for a shell.
//!
//! The script is generated from the parser itself, so it has every command and option of this
//! version. Packages install it; users of `cargo install` put it where their shell looks:
//!
//! ```text
//! lockgate completions bash > ~/.local/share/bash-completion/completions/lockgate
//! lockgate completions zsh  > ~/.zfunc/_lockgate
//! lockgate completions fish > ~/.config/fish/completions/lockgate.fish
//! ```

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::CliArgs;

/// Arguments of `lockgate completions`.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct CompletionsArgs {
    /// The shell that will read the script
    shell: Shell,
}

/// Prints the script to stdout. Returns 0.
pub(super) fn completions(arguments: CompletionsArgs) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut CliArgs::command(), "lockgate", &mut script);
    // A closed stdout (`| head`) is no error.
    std::io::stdout().lock().write_all(&script).ok();
    ExitCode::SUCCESS
}
