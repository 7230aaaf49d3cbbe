//! Commands of the admin API for the thread that reads and writes the configuration file, and their results.

use tokio::sync::oneshot;

use crate::audit::Author;
use crate::config::edit::Edit;

/// Channel for the result of a command: the changes, one line of text for each, or the reason of a failure.
pub type CommandReply = oneshot::Sender<Result<Vec<String>, CommandError>>;

/// A command with its author.
pub struct AuthoredCommand {
    /// The client that asks for it.
    pub by: Author,
    /// The change.
    pub command: AdminCommand,
}

/// A change of the configuration that a client of the admin API asks for.
///
/// Commands run one after another; each has exactly one result.
pub enum AdminCommand {
    /// Read the file again (`POST /v1/config/reload`).
    Reload(CommandReply),
    /// Change a limit without writing the file (`PATCH /v1/limits/{name}`).
    Tune {
        /// Name of the limit.
        limit: String,
        /// Keys of the limit as in the file, with their new values.
        edits: Vec<(String, Edit)>,
        /// Channel for the result.
        reply: CommandReply,
    },
    /// Write the limits in force to the file (`POST /v1/config/save`).
    Save(CommandReply),
}

impl AdminCommand {
    /// Answers [`CommandError::ShuttingDown`].
    ///
    /// Used while the gateway drains.
    pub fn reject(self) {
        let (AdminCommand::Reload(reply) | AdminCommand::Tune { reply, .. } | AdminCommand::Save(reply)) = self;
        // The client may have closed its connection.
        reply.send(Err(CommandError::ShuttingDown)).ok();
    }
}

/// Reason of a failed command; the configuration in force is unchanged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommandError {
    /// No limit of that name is in force: 404.
    UnknownLimit,
    /// The new configuration is invalid, or the file cannot be written; a message for people: 422.
    Invalid(String),
    /// The file has changed on disk since it was read: 409.
    Conflict,
    /// The gateway is shutting down, or another process has taken over: 503.
    ShuttingDown,
}
