//! Command line: argument parser, subcommands, exit codes.
//!
//! Exit codes: 0, 1 (failure), 2 (wrong usage, or an invalid configuration).
//!
//! Each subcommand is a file with one function that takes its arguments and returns the exit code.
//! It prints results to stdout, and errors, warnings and notes to stderr. The doc comments of the
//! argument types are the text of `--help`.
//!
//! The configuration is found in this order: `-c FILE`, `$LOCKGATE_CONFIG`, `proxy.toml`,
//! `config/proxy.toml`, `/etc/lockgate/proxy.toml`.

mod admin_endpoint;
mod ca_command;
mod certified_name;
mod check;
mod completions;
mod demo;
mod env;
mod exec;
mod fetch;
mod init;
mod man;
mod nft;
mod parent_offer;
mod run;
mod service;
mod top;
mod user;
mod variables;

use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config;
use crate::log::error_chain;

/// Paths that are tried for the configuration if none is given, in this order.
const DEFAULT_PATHS: [&str; 3] = ["proxy.toml", "config/proxy.toml", "/etc/lockgate/proxy.toml"];

/// HTTP proxy that keeps callers within the rate limits of the services they call.
#[derive(Parser, Debug)]
#[command(name = "lockgate", version, max_term_width = 100)]
struct CliArgs {
    /// The configuration [default: $LOCKGATE_CONFIG, proxy.toml, config/proxy.toml or /etc/lockgate/proxy.toml]
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<CliCommand>,
}

#[derive(Subcommand, Debug)]
enum CliCommand {
    /// Run the gateway (the default)
    Run(run::RunArgs),
    /// Write a first configuration, by three questions or by flags
    Init(init::InitArgs),
    /// Check the configuration, and explain each limit in a sentence
    Check,
    /// Show a limit at work: an origin that records arrivals, and seven requests, of which the sixth waits
    Demo,
    /// Print the environment variables for programs that use the gateway: eval "$(lockgate env)"
    Env(env::EnvArgs),
    /// Run a program that uses the gateway; start a gateway if none runs
    Exec(exec::ExecArgs),
    /// Print rules of nftables that redirect connections to the gateway: lockgate nft | nft -f -
    Nft(nft::NftArgs),
    /// Show the limits of a running gateway, live
    Top(top::TopArgs),
    /// Manage the certificate authority for intercepted hosts
    Ca {
        #[command(subcommand)]
        command: ca_command::CaCommand,
    },
    /// Manage the users file
    User {
        #[command(subcommand)]
        command: user::UserCommand,
    },
    /// Install the gateway as a service of systemd, or remove it
    Service {
        #[command(subcommand)]
        command: service::ServiceCommand,
    },
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Print the manual page, or write one for each command into a folder
    Man(man::ManArgs),
}

/// Runs lockgate with the arguments of the process. Returns its exit code.
///
/// Without a subcommand it is `lockgate run`. Wrong usage, `--help` and `--version` end the process
/// within the parser.
pub fn main() -> ExitCode {
    let arguments = CliArgs::parse();
    let config_arg = arguments.config.as_deref();
    match arguments.command.unwrap_or(CliCommand::Run(run::RunArgs::default())) {
        CliCommand::Run(arguments) => run::run(arguments, config_arg),
        CliCommand::Init(arguments) => init::init(&arguments),
        CliCommand::Check => check::check(config_arg),
        CliCommand::Demo => demo::demo(),
        CliCommand::Env(arguments) => env::env(&arguments, config_arg),
        CliCommand::Exec(arguments) => exec::exec(arguments, config_arg),
        CliCommand::Nft(arguments) => nft::nft(&arguments, config_arg),
        CliCommand::Top(arguments) => top::top(&arguments, config_arg),
        CliCommand::Ca { command } => ca_command::ca(command, config_arg),
        CliCommand::User { command } => user::user(command, config_arg),
        CliCommand::Service { command } => service::service(command, config_arg),
        CliCommand::Completions(arguments) => completions::completions(arguments),
        CliCommand::Man(arguments) => man::man(&arguments),
    }
}

/// Path of the configuration file: `-c`, else `$LOCKGATE_CONFIG`, else the first of [`DEFAULT_PATHS`] that exists.
///
/// The file of `-c` or of the variable need not exist: reading it gives the better message.
///
/// # Errors
/// If neither is given and none of the default paths exists.
fn find_config(config_arg: Option<&Path>) -> Result<PathBuf, ConfigNotFound> {
    find_config_in(config_arg, std::env::var_os("LOCKGATE_CONFIG"), &DEFAULT_PATHS.map(Path::new))
}

/// No configuration file was found.
///
/// Its message lists the paths, and shows the smallest file that would do.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no configuration: neither {}; name one with -c, or begin with these lines in proxy.toml

    [[limit]]
    match    = {{ host = \"api.example.com\" }}
    requests = 5
    per      = \"1s\"",
    DEFAULT_PATHS.join(" nor ")
)]
struct ConfigNotFound;

/// Separate from [`find_config`] for tests: takes the variable's value and the paths as arguments.
fn find_config_in(
    config_arg: Option<&Path>,
    variable: Option<OsString>,
    paths: &[&Path],
) -> Result<PathBuf, ConfigNotFound> {
    if let Some(path) = config_arg {
        return Ok(path.to_owned());
    }
    // An empty variable counts as unset.
    if let Some(path) = variable.filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    paths.iter().find(|path| path.exists()).map(|path| (*path).to_owned()).ok_or(ConfigNotFound)
}

/// Finds, reads and checks the configuration. Prints warnings and mistakes to stderr; `None` if it is invalid.
///
/// A warning leaves the settings usable.
fn load_settings(config_arg: Option<&Path>) -> Option<(PathBuf, config::Settings)> {
    let path = match find_config(config_arg) {
        Ok(path) => path,
        Err(error) => {
            print_error(&error);
            return None;
        }
    };
    match config::read(&path) {
        Ok(settings) => {
            settings.warnings.iter().for_each(|warning| eprintln!("{warning}"));
            Some((path, settings))
        }
        // Each report begins with its own severity.
        Err(config::Error::Invalid(reports)) => {
            eprintln!("{}", config::Error::Invalid(reports));
            None
        }
        Err(error @ config::Error::Read { .. }) => {
            print_error(&error);
            None
        }
    }
}

/// Prints an error and its causes to stderr, in one line.
///
/// For instance `lockgate: cannot read proxy.toml: No such file or directory (os error 2)`.
fn print_error(error: &dyn Error) {
    eprintln!("lockgate: {}", error_chain(error));
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        CliArgs::command().debug_assert();
    }

    #[test]
    fn the_configuration_may_be_named_before_and_after_the_command() {
        for line in [
            &["lockgate", "-c", "a.toml"][..],
            &["lockgate", "check", "-c", "a.toml"],
            &["lockgate", "-c", "a.toml", "user", "add", "ana"],
        ] {
            let arguments = CliArgs::try_parse_from(line).unwrap();
            assert_eq!(arguments.config, Some(PathBuf::from("a.toml")), "{line:?}");
        }
    }

    #[test]
    fn what_is_named_is_taken_before_what_is_found() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let (none, there) = (Path::new("no-such-file"), manifest.as_path());
        let find = |given, variable: &str, paths: &[&Path]| find_config_in(given, Some(variable.into()), paths).ok();
        assert_eq!(find(Some(Path::new("a")), "b", &[there]), Some("a".into()));
        assert_eq!(find(None, "b", &[there]), Some("b".into()), "even if it is not there: an error is due then");
        assert_eq!(find(None, "", &[none, there]), Some(there.into()));
        assert_eq!(find(None, "", &[none]), None);
    }

    #[test]
    fn who_has_no_configuration_is_told_where_it_was_looked_for() {
        let text = ConfigNotFound.to_string();
        assert!(text.contains("neither proxy.toml nor config/proxy.toml nor /etc/lockgate/proxy.toml"), "{text}");
        assert!(text.contains("[[limit]]"), "{text}");
    }
}
