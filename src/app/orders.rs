//! What operators order: the file read again, a limit tuned, the file written.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::causes;
use super::reload::Reloader;
use crate::admin::{AdminCommand, CommandError};
use crate::config;
use crate::config::edit::{Edit, edit_limit};

impl Reloader {
    /// Does what an operator asks for.
    pub(super) async fn obey(self: Rc<Self>, order: AdminCommand) {
        // Whoever asked may have hung up.
        match order {
            AdminCommand::Reload(reply) => {
                drop(reply.send(Rc::clone(&self).reload_aloud().await.map_err(CommandError::Invalid)));
            }
            AdminCommand::Tune { limit, edits, reply } => drop(reply.send(self.tune(&limit, &edits).await)),
            AdminCommand::Save(reply) => drop(reply.send(self.save().await)),
        }
    }

    /// Puts these values of a limit in force, as if the file said so; the file does not change.
    async fn tune(&self, limit: &str, wishes: &[(String, Edit)]) -> Result<Vec<String>, CommandError> {
        let mut place = self.in_force.lock().await;
        let in_force = place.as_ref().ok_or(CommandError::ShuttingDown)?;
        let number =
            in_force.gate.limits.iter().position(|known| *known.name == *limit).ok_or(CommandError::UnknownLimit)?;
        let text =
            edit_limit(&in_force.text, number, wishes).map_err(|error| CommandError::Invalid(error.to_string()))?;
        let path = self.path().to_owned();
        let settings = spawn_blocking(move || config::read_text(&path, text)).await;
        let wrong = |error: &dyn std::error::Error| CommandError::Invalid(causes(error));
        let settings = settings.map_err(|error| wrong(&error))?.map_err(|error| wrong(&error))?;
        let lines = self.put_in_force(&mut place, settings).await.map_err(|error| wrong(&error))?;
        lines.iter().for_each(|line| tracing::info!("{line}"));
        tracing::info!(limit, ?wishes, "tuned");
        Ok(lines)
    }

    /// Writes what is in force to the file, which must say what it said when it was read.
    async fn save(&self) -> Result<Vec<String>, CommandError> {
        let place = self.in_force.lock().await;
        let text = Arc::clone(&place.as_ref().ok_or(CommandError::ShuttingDown)?.text);
        let (path, before, after) = (self.path().to_owned(), Arc::clone(&self.on_disk.borrow()), Arc::clone(&text));
        let saved = spawn_blocking(move || write(&path, &before, &after)).await;
        match saved {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => return Err(CommandError::Conflict),
            Ok(Err(error)) => return Err(CommandError::Invalid(format!("{}: {error}", self.path().display()))),
            Err(error) => return Err(CommandError::Invalid(error.to_string())),
        }
        *self.on_disk.borrow_mut() = text;
        tracing::info!(file = %self.path().display(), "saved");
        Ok(vec![format!("{} is saved", self.path().display())])
    }
}

/// Puts one text in the place of another: whoever reads the file sees one or the other.
///
/// # Errors
/// `InvalidData` if the file says something else than `before`.
fn write(path: &Path, before: &str, after: &str) -> io::Result<()> {
    // A link stays a link.
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
        // It is of no use to anybody.
        fs::remove_file(&new).ok();
    }
    written
}
