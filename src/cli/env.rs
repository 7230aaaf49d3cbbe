//! `lockgate env`: prints environment variables for programs that use the gateway.
//!
//! Variables go to stdout, by default as lines for `eval "$(lockgate env)"`; notes for the user go
//! to stderr, where `eval` does not read them:
//!
//! ```text
//! export HTTP_PROXY=http://127.0.0.1:8080
//! export NO_PROXY=localhost,127.0.0.1,::1
//! ```
//!
//! `--format` writes them for other readers, `--proxy` for programs on other machines.

mod format;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use self::format::{EnvFormat, render};
use super::variables::{RemoteProxy, Variables, remote_variables, variables};
use super::{load_settings, print_error};
use crate::config::Settings;

/// Arguments of `lockgate env`.
#[derive(Args, Debug)]
pub(super) struct EnvArgs {
    /// The notation of the output
    #[arg(long, value_enum, default_value_t)]
    format: EnvFormat,
    /// URL of the gateway for programs on other machines or in containers, such as http://lockgate:8080; files of this
    /// machine are left out then
    #[arg(long, value_name = "URL")]
    proxy: Option<RemoteProxy>,
    /// Path, where the programs run, of a PEM file with all roots and the gateway's own
    #[arg(long, value_name = "FILE", requires = "proxy")]
    ca_bundle: Option<PathBuf>,
}

/// Returns 0; 2 if the configuration is invalid; 1 if it names port 0, the certificate bundles
/// cannot be written, or the format cannot express a value.
pub(super) fn env(arguments: &EnvArgs, config_arg: Option<&Path>) -> ExitCode {
    let Some((_, settings)) = load_settings(config_arg) else {
        return ExitCode::from(2);
    };
    let variables = match find(arguments, &settings) {
        Ok(variables) => variables,
        Err(error) => {
            print_error(&error);
            return ExitCode::FAILURE;
        }
    };
    variables.notes.iter().for_each(|note| eprintln!("lockgate: {note}"));
    match render(arguments.format, &variables) {
        Ok(text) => {
            std::io::stdout().lock().write_all(&text).ok();
            ExitCode::SUCCESS
        }
        Err(error) => {
            print_error(&error);
            ExitCode::FAILURE
        }
    }
}

/// The variables for programs on this machine, or for those elsewhere.
///
/// # Errors
/// As [`variables`].
fn find(arguments: &EnvArgs, settings: &Settings) -> Result<Variables, super::variables::Error> {
    let env = |name: &str| std::env::var_os(name);
    match &arguments.proxy {
        Some(proxy) => Ok(remote_variables(settings, proxy, arguments.ca_bundle.as_deref(), &env)),
        None => variables(settings, &env),
    }
}
