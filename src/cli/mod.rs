//! STARTS: what the command line asks for.
//!
//! Exit codes: 0, 1 (failure), 2 (wrong usage, or a configuration that nothing can run with).

mod ca;
mod check;
mod demo;
mod env;
mod exec;
mod fetch;
mod run;
mod top;
mod user;
mod variables;

use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config;

/// Where the configuration is looked for if nobody names it.
const PLACES: [&str; 3] = ["proxy.toml", "config/proxy.toml", "/etc/lockgate/proxy.toml"];

/// Stands between callers and a resource that allows only so many requests in a time.
#[derive(Parser, Debug)]
#[command(name = "lockgate", version, max_term_width = 100)]
struct Arguments {
    /// The configuration [default: $LOCKGATE_CONFIG, proxy.toml, config/proxy.toml or /etc/lockgate/proxy.toml]
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the gateway (the default)
    Run(run::Arguments),
    /// Check the configuration, and say what each limit means
    Check,
    /// Show a limit at work: an origin that stamps arrivals, seven requests, the sixth waits
    Demo,
    /// Print what lets programs use the gateway: eval "$(lockgate env)"
    Env,
    /// Run a program that uses the gateway; one is started for it if none runs
    Exec(exec::Arguments),
    /// See at a glance what the limits of a running gateway hold
    Top(top::Arguments),
    /// The authority that vouches for the gateway where it opens tunnels
    Ca {
        #[command(subcommand)]
        command: ca::Command,
    },
    /// Manage who may use the gateway
    User {
        #[command(subcommand)]
        command: user::Command,
    },
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let wish = arguments.config.as_deref();
    match arguments.command.unwrap_or(Command::Run(run::Arguments::default())) {
        Command::Run(arguments) => run::run(arguments, wish),
        Command::Check => check::check(wish),
        Command::Demo => demo::demo(),
        Command::Env => env::env(wish),
        Command::Exec(arguments) => exec::exec(arguments, wish),
        Command::Top(arguments) => top::top(arguments, wish),
        Command::Ca { command } => ca::ca(command, wish),
        Command::User { command } => user::user(command, wish),
    }
}

/// The configuration file: as wished, or the first that there is.
fn find(wish: Option<&Path>) -> Result<PathBuf, NotFound> {
    find_in(wish, std::env::var_os("LOCKGATE_CONFIG"), &PLACES.map(Path::new))
}

/// There is no configuration anywhere.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no configuration: neither {}; name one with -c, or begin with these lines in proxy.toml

    [[limit]]
    match    = {{ host = \"api.example.com\" }}
    requests = 5
    per      = \"1s\"",
    PLACES.join(" nor ")
)]
struct NotFound;

fn find_in(wish: Option<&Path>, variable: Option<OsString>, places: &[&Path]) -> Result<PathBuf, NotFound> {
    if let Some(path) = wish {
        return Ok(path.to_owned());
    }
    // A variable that is set to nothing is one that was meant to be unset.
    if let Some(path) = variable.filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    places.iter().find(|path| path.exists()).map(|path| (*path).to_owned()).ok_or(NotFound)
}

/// Finds, reads and checks the configuration; says on stderr what is wrong with it.
fn settings(wish: Option<&Path>) -> Option<(PathBuf, config::Settings)> {
    let path = match find(wish) {
        Ok(path) => path,
        Err(error) => {
            complain(&error);
            return None;
        }
    };
    match config::read(&path) {
        Ok(settings) => {
            settings.warnings.iter().for_each(|warning| eprintln!("{warning}"));
            Some((path, settings))
        }
        // Each report begins with a word of its own.
        Err(config::Error::Invalid(reports)) => {
            eprintln!("{}", config::Error::Invalid(reports));
            None
        }
        Err(error @ config::Error::Read { .. }) => {
            complain(&error);
            None
        }
    }
}

/// Says on stderr what went wrong, and why.
fn complain(error: &dyn Error) {
    let mut text = format!("lockgate: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_configuration_may_be_named_before_and_after_the_command() {
        for line in [
            &["lockgate", "-c", "a.toml"][..],
            &["lockgate", "check", "-c", "a.toml"],
            &["lockgate", "-c", "a.toml", "user", "add", "ana"],
        ] {
            let arguments = Arguments::try_parse_from(line).unwrap();
            assert_eq!(arguments.config, Some(PathBuf::from("a.toml")), "{line:?}");
        }
    }

    #[test]
    fn what_is_named_is_taken_before_what_is_found() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let (none, there) = (Path::new("no-such-file"), manifest.as_path());
        let find = |wish, variable: &str, places: &[&Path]| find_in(wish, Some(variable.into()), places).ok();
        assert_eq!(find(Some(Path::new("a")), "b", &[there]), Some("a".into()));
        assert_eq!(find(None, "b", &[there]), Some("b".into()), "even if it is not there: an error is due then");
        assert_eq!(find(None, "", &[none, there]), Some(there.into()));
        assert_eq!(find(None, "", &[none]), None);
    }

    #[test]
    fn who_has_no_configuration_is_told_where_it_was_looked_for() {
        let text = NotFound.to_string();
        assert!(text.contains("neither proxy.toml nor config/proxy.toml nor /etc/lockgate/proxy.toml"), "{text}");
        assert!(text.contains("[[limit]]"), "{text}");
    }
}
