//! `lockgate run`: runs the gateway in the foreground.
//!
//! Prints a banner to stdout after all addresses are bound, which scripts may wait for; the access
//! log follows on stdout, all other messages go to stderr.
//!
//! ```text
//! lockgate 0.1.0, proxy.toml
//! listening on 127.0.0.1:8080
//!   api: requests to a.example: at most 5 in any second; requests beyond that wait up to 30 s
//! export HTTP_PROXY=http://127.0.0.1:8080 HTTPS_PROXY=http://127.0.0.1:8080
//! ```

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::{exec, load_settings, parent_offer, print_error, variables};
use crate::app::{self, RunOutcome, StartMode};
use crate::config::Settings;
use crate::gate::journal;
use crate::log;

/// Arguments of `lockgate run`.
#[derive(Args, Clone, Copy, Default, Debug)]
pub(super) struct RunArgs {
    /// Take over from the process that started this one (an upgrade by SIGUSR2)
    #[arg(long, hide = true)]
    take_over: bool,
}

/// Returns 0 after a graceful stop, 128 and the signal's number after a second signal, 1 if the
/// gateway cannot start or go on, 2 for an invalid configuration. Blocks until then.
pub(super) fn run(arguments: RunArgs, config_arg: Option<&Path>) -> ExitCode {
    let mode = if arguments.take_over { StartMode::TakeOver } else { StartMode::Fresh };
    let Some((path, settings)) = load_settings(config_arg) else {
        return ExitCode::from(2);
    };
    log::start(settings.log);
    let announce = |settings: &Settings| {
        // A closed stdout is no reason not to run.
        std::io::stdout().lock().write_all(banner(&path, settings).as_bytes()).ok();
        parent_offer::log(settings);
    };
    match app::run(path.clone(), settings, mode, announce) {
        Ok(RunOutcome::Drained) => ExitCode::SUCCESS,
        Ok(RunOutcome::Killed(code)) => ExitCode::from(code),
        Err(error) => {
            print_error(&error);
            if let Some(process) = state_holder(&error).filter(|process| exec::is_daemon(*process)) {
                eprintln!(
                    "lockgate: `lockgate exec` started process {process} for the programs that it runs; it exits by itself, \
                     at most a minute after the last of them"
                );
            }
            ExitCode::FAILURE
        }
    }
}

/// Id of the process that holds the state folder, if that is why the gateway cannot run.
///
/// `None` for other errors, and for a holder that is not known by a number.
fn state_holder(error: &app::Error) -> Option<u32> {
    let app::Error::State(journal::Error::Held { holder, .. }) = error else { return None };
    holder.as_ref()?.parse().ok()
}

/// Startup banner: version, listeners, limits, and the variables for programs.
///
/// Variables are left out if the port is open. Credentials are never part of the URL.
fn banner(path: &Path, settings: &Settings) -> String {
    let mut text = format!("lockgate {}, {}\n", env!("CARGO_PKG_VERSION"), path.display());
    for address in &settings.listen {
        text.push_str(&format!("listening on {address}\n"));
    }
    for address in &settings.transparent {
        text.push_str(&format!("taking redirected connections on {address}\n"));
    }
    for meaning in &settings.explanations {
        text.push_str(&format!("  {meaning}\n"));
    }
    if let Ok(url) = variables::url(settings) {
        text.push_str(&format!(
            "export HTTP_PROXY={url} HTTPS_PROXY={url}\nexport http_proxy={url} https_proxy={url}\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_says_where_what_and_how() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/proxy.toml");
        let mut settings = crate::config::read(&path).unwrap();
        settings.bound_to(&["127.0.0.1:41234".parse().unwrap(), "[::1]:8080".parse().unwrap()]);
        let text = banner(Path::new("proxy.toml"), &settings);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                &format!("lockgate {}, proxy.toml", env!("CARGO_PKG_VERSION")),
                "listening on 127.0.0.1:41234",
                "listening on [::1]:8080",
                "  example: requests to api.example.com: at most 100 in any second; requests beyond that wait up to 30 s",
                "export HTTP_PROXY=http://127.0.0.1:41234 HTTPS_PROXY=http://127.0.0.1:41234",
                "export http_proxy=http://127.0.0.1:41234 https_proxy=http://127.0.0.1:41234",
            ]
        );
    }
}
