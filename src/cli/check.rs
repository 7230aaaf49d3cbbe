//! `lockgate check`: is the configuration right, and what does it mean?

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use super::settings;

pub(super) fn check(wish: Option<&Path>) -> ExitCode {
    let Some((path, settings)) = settings(wish) else {
        return ExitCode::FAILURE;
    };
    // Here alone: other commands may be run by another user than the gateway, or for one that runs already.
    settings.unusable.iter().for_each(|warning| eprintln!("{warning}"));
    let mut text = settings.meanings.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(&format!("{} is right\n", path.display()));
    // Who closed our stdout has read enough.
    std::io::stdout().lock().write_all(text.as_bytes()).ok();
    ExitCode::SUCCESS
}
