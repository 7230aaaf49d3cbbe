//! `lockgate check`: validates the configuration, and explains its limits.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use super::load_settings;

pub(super) fn check(config_arg: Option<&Path>) -> ExitCode {
    let Some((path, settings)) = load_settings(config_arg) else {
        return ExitCode::from(2);
    };
    // Only in this command: others may be run by another user than the gateway's, or for a gateway that runs already.
    settings.unusable.iter().for_each(|warning| eprintln!("{warning}"));
    let mut text = settings.explanations.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(&format!("{} is valid\n", path.display()));
    // A closed stdout (`| head`) is no error.
    std::io::stdout().lock().write_all(text.as_bytes()).ok();
    ExitCode::SUCCESS
}
