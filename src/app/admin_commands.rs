//! Admin commands: reload the file, tune a limit, save the configuration in force to the file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::reload::changes::AppliedChanges;
use super::reload::{Reloader, SettingsSource};
use crate::admin::{AdminCommand, AuthoredCommand, CommandError};
use crate::audit::{self, Author};
use crate::config;
use crate::config::edit::{Edit, edit_limit};
use crate::log::error_chain;

impl Reloader {
    /// Runs a command of the admin API, and sends its result back.
    pub(super) async fn handle(self: Rc<Self>, AuthoredCommand { by, command }: AuthoredCommand) {
        // The client may have closed its connection; the result is dropped then.
        match command {
            AdminCommand::Reload(reply) => {
                drop(reply.send(Rc::clone(&self).reload_and_log(by).await.map_err(CommandError::Invalid)));
            }
            AdminCommand::Tune { limit, edits, reply } => drop(reply.send(self.tune(&limit, &edits, &by).await)),
            AdminCommand::Save(reply) => drop(reply.send(self.save(&by).await)),
        }
    }

    /// Changes keys of a limit, as if the file had these values; the file stays as it is. Returns a
    /// line for each change.
    ///
    /// # Errors
    /// `UnknownLimit`, `Invalid` if the edited text is no valid configuration, `ShuttingDown` after
    /// a hand-over.
    async fn tune(&self, limit: &str, edits: &[(String, Edit)], by: &Author) -> Result<Vec<String>, CommandError> {
        let mut in_force = self.in_force.lock().await;
        let settings = in_force.as_ref().ok_or(CommandError::ShuttingDown)?;
        let number =
            settings.gate.limits.iter().position(|known| *known.name == *limit).ok_or(CommandError::UnknownLimit)?;
        let text =
            edit_limit(&settings.text, number, edits).map_err(|error| CommandError::Invalid(error.to_string()))?;
        let path = self.path().to_owned();
        let settings = spawn_blocking(move || config::read_text(&path, text)).await;
        let invalid = |error: &dyn std::error::Error| CommandError::Invalid(error_chain(error));
        let settings = settings.map_err(|error| invalid(&error))?.map_err(|error| invalid(&error))?;
        let applied = self.apply(&mut in_force, settings, by, SettingsSource::Tuning).await;
        let AppliedChanges { lines, .. } = applied.map_err(|error| invalid(&error))?;
        lines.iter().for_each(|line| tracing::info!("{line}"));
        let edits: Vec<String> = edits.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        tracing::info!(limit, edits = %edits.join(", "), "tuned");
        Ok(lines)
    }

    /// Writes the configuration in force to the file, unless the file has changed since it was
    /// read.
    ///
    /// # Errors
    /// `Conflict` if the file was changed on disk, `Invalid` if it cannot be written,
    /// `ShuttingDown` after a hand-over.
    async fn save(&self, by: &Author) -> Result<Vec<String>, CommandError> {
        let in_force = self.in_force.lock().await;
        let text = Arc::clone(&in_force.as_ref().ok_or(CommandError::ShuttingDown)?.text);
        let (path, before, after) = (self.path().to_owned(), Arc::clone(&self.on_disk.borrow()), Arc::clone(&text));
        let saved = spawn_blocking(move || replace_text(&path, &before, &after)).await;
        match saved {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => return Err(CommandError::Conflict),
            Ok(Err(error)) => return Err(CommandError::Invalid(format!("{}: {error}", self.path().display()))),
            Err(error) => return Err(CommandError::Invalid(error.to_string())),
        }
        *self.on_disk.borrow_mut() = text;
        tracing::info!(file = %self.path().display(), "saved");
        audit::changed(by, "save", Some(&format!("file {}", self.path().display())));
        Ok(vec![format!("{} is saved", self.path().display())])
    }
}

/// Replaces the text of a file atomically: readers see `before` or `after`, nothing in between.
///
/// Writes a file beside it, with the same permissions, syncs that, and renames it.
///
/// # Errors
/// `InvalidData` if the file has another text than `before`.
fn replace_text(path: &Path, before: &str, after: &str) -> io::Result<()> {
    // Replaces the target of a symbolic link, not the link.
    let path = fs::canonicalize(path)?;
    if fs::read(&path)? != before.as_bytes() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if before == after {
        return Ok(());
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let written = (|| {
        let mut file = File::create(&new)?;
        file.set_permissions(fs::metadata(&path)?.permissions())?;
        file.write_all(after.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)
    })();
    if written.is_err() {
        // A half-written file is of no use.
        fs::remove_file(&new).ok();
    }
    written
}
