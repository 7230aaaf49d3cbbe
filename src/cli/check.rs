//! `lockgate check`: validates the configuration, and explains its limits.
//!
//! Output: one sentence for each limit, one about tunnels if they count as requests, then
//! `proxy.toml is valid`. Reports go to stderr. Nothing is started, bound or created, so it may run
//! beside a gateway and in a build.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use super::load_settings;

/// Returns 0 if the configuration is valid, also with warnings; 2 otherwise.
pub(super) fn check(config_arg: Option<&Path>) -> ExitCode {
    let Some((path, settings)) = load_settings(config_arg) else {
        return ExitCode::from(2);
    };
    // Only in this command: others may be run by another user than the gateway's, or for a gateway that runs already.
    settings.unusable.iter().for_each(|warning| eprintln!("{warning}"));
    let mut text = String::new();
    for line in settings.explanations.iter().chain(&settings.counted_tunnels) {
        text.push_str(line);
        text.push('\n');
    }
    text.push_str(&format!("{} is valid\n", path.display()));
    // A closed stdout (`| head`) is no error.
    std::io::stdout().lock().write_all(text.as_bytes()).ok();
    ExitCode::SUCCESS
}
