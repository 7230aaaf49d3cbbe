//! `lockgate user`: edits the users file (htpasswd format, bcrypt).
//!
//! Steps of `add`: check the name, find the file, look for the user, read the password, hash it,
//! and replace the file under a lock on its folder. The password never appears in arguments, which
//! other users could read in the list of processes.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use super::{find_config, print_error};
use crate::config::{self, users};

/// bcrypt's cost: 2^10 rounds, some 50 ms for a guess. The gateway caches credentials that were
/// right, so a caller pays once.
const COST: u32 = 10;

#[derive(Subcommand, Debug)]
pub(super) enum UserCommand {
    /// Add a line to the users file; the password is read from the terminal, or from a pipe
    Add {
        /// The user's name
        name: String,
        /// The users file [default: `[access] users` of the configuration]
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Replace the password of an existing user
        #[arg(long)]
        replace: bool,
    },
}

/// Reason why the user was not added.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// See `users::is_name` for the rule.
    #[error("{0:?} cannot be a user's name: it is empty, or holds a colon, a control character, or spaces around it")]
    Name(String),
    /// Only without `--replace`.
    #[error("{} has a user named {name:?} already; --replace gives a new password", path.display())]
    Taken { name: String, path: PathBuf },
    /// The path is that of the configuration.
    #[error("{} names no users file; add\n\n    [access]\n    users = \"users\"", .0.display())]
    NoFile(PathBuf),
    /// The second input at the terminal is not the first.
    #[error("the passwords differ")]
    Differ,
    /// Such passwords are mistakes of the input, or cannot be typed again.
    #[error("the password is empty, or holds control characters")]
    Password,
    /// bcrypt ignores what follows; a longer password would be cut silently.
    #[error("the password is longer than bcrypt can tell apart, 71 bytes")]
    TooLong,
    /// Any other error of bcrypt.
    #[error("the password cannot be hashed")]
    Hash(#[source] bcrypt::BcryptError),
    /// The terminal or pipe failed.
    #[error("the password cannot be read")]
    Input(#[source] io::Error),
    /// The file or its folder cannot be read, locked, written or renamed.
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// The configuration is needed to find the users file, and cannot be read.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// As `Config`: there is none.
    #[error(transparent)]
    NotFound(#[from] super::ConfigNotFound),
}

/// Treatment of a user that exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Existing {
    /// The default.
    Refuse,
    /// `--replace`: the line gets a new hash and moves to the end of the file.
    Replace,
}

/// Returns 0, 2 for wrong usage or configuration, 1 for all other errors.
pub(super) fn user(command: UserCommand, config_arg: Option<&Path>) -> ExitCode {
    let UserCommand::Add { name, file, replace } = command;
    let existing = if replace { Existing::Replace } else { Existing::Refuse };
    match add(&name, file, existing, config_arg) {
        Ok(path) => {
            let done = format!("{name} is in {}; a running gateway reads it on SIGHUP\n", path.display());
            // A closed stdout is no error: the user was added.
            io::stdout().lock().write_all(done.as_bytes()).ok();
            ExitCode::SUCCESS
        }
        Err(error) => {
            print_error(&error);
            match error {
                Error::Name(_) | Error::NoFile(_) | Error::Config(_) | Error::NotFound(_) => ExitCode::from(2),
                Error::Taken { .. }
                | Error::Differ
                | Error::Password
                | Error::TooLong
                | Error::Hash(_)
                | Error::Input(_)
                | Error::Write { .. } => ExitCode::FAILURE,
            }
        }
    }
}

/// Returns the path of the users file that was written.
///
/// # Errors
/// See `Error`.
fn add(name: &str, file: Option<PathBuf>, existing: Existing, config_arg: Option<&Path>) -> Result<PathBuf, Error> {
    if !users::is_name(name) {
        return Err(Error::Name(name.to_owned()));
    }
    let path = match file {
        Some(path) => path,
        None => {
            let config = find_config(config_arg)?;
            config::users_file(&config)?.ok_or(Error::NoFile(config))?
        }
    };
    // Before the prompt for a password; checked again under the file's lock.
    text_with_line(&path, name, "", existing)?;
    let password = if io::stdin().is_terminal() { prompt_password()? } else { read_password(io::stdin().lock())? };
    let line = format!("{name}:{}", hash(&password)?);
    write_line(&path, name, &line, existing)?;
    Ok(path)
}

/// Asks twice, without echo.
///
/// # Errors
/// `Differ`, or `Input`.
fn prompt_password() -> Result<String, Error> {
    let password = rpassword::prompt_password("Password: ").map_err(Error::Input)?;
    let again = rpassword::prompt_password("Again: ").map_err(Error::Input)?;
    if password == again { Ok(password) } else { Err(Error::Differ) }
}

/// The first line of what is piped in.
///
/// Without the end of its line.
///
/// # Errors
/// `Input`.
fn read_password(mut input: impl io::BufRead) -> Result<String, Error> {
    let mut line = String::new();
    input.read_line(&mut line).map_err(Error::Input)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// Returns a hash of 60 characters, such as `$2y$10$...`.
///
/// # Errors
/// `Password`, `TooLong` or `Hash`.
fn hash(password: &str) -> Result<String, Error> {
    if password.is_empty() || password.contains(char::is_control) {
        return Err(Error::Password);
    }
    match bcrypt::non_truncating_hash_with_result(password, COST) {
        // `$2y$`, the prefix of htpasswd, which every reader of such files knows.
        Ok(parts) => Ok(parts.format_for_version(bcrypt::Version::TwoY)),
        Err(bcrypt::BcryptError::Truncation(_)) => Err(Error::TooLong),
        Err(error) => Err(Error::Hash(error)),
    }
}

/// The text of the file, with `line` in place of the user's old one.
///
/// A file that does not exist counts as empty. The new line is the last one.
///
/// # Errors
/// `Write` if the file cannot be read, `Taken` if the user exists and may not be replaced.
fn text_with_line(path: &Path, name: &str, line: &str, existing: Existing) -> Result<String, Error> {
    let text = match std::fs::read_to_string(path) {
        // A byte order mark may stand on the first line alone, and lines move.
        Ok(text) => text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(source) => {
            return Err(Error::Write { path: path.to_owned(), source });
        }
    };
    let is_old = |line: &&str| users::name_on(line) == Some(name);
    if existing == Existing::Refuse && text.lines().any(|line| is_old(&line)) {
        return Err(Error::Taken { name: name.to_owned(), path: path.to_owned() });
    }
    let kept = text.lines().filter(|line| !is_old(line)).map(|line| format!("{line}\n"));
    Ok(kept.chain([format!("{line}\n")]).collect())
}

/// Writes the user's line into the file atomically: a crash leaves the old file or the new one.
///
/// # Errors
/// `Write`, or `Taken` if another process has added the user meanwhile.
fn write_line(path: &Path, name: &str, line: &str, existing: Existing) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    // A symbolic link stays; its target is replaced.
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Serializes concurrent edits. The folder is locked, because the file is replaced.
    let folder_file = File::open(folder).map_err(failed)?;
    folder_file.lock().map_err(failed)?;
    let text = text_with_line(&target, name, line, existing)?;
    let file_name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let new = folder.join(format!(".{file_name}.new"));
    write_private(&new, &target, &text).map_err(failed)?;
    std::fs::rename(&new, &target).map_err(failed)?;
    folder_file.sync_all().map_err(failed)
}

/// Writes a file with the mode and the owner of the old one: the gateway's user may read it by its group. A new file
/// has mode 0600.
///
/// Synced before it returns, so that the rename never exposes an empty file.
///
/// # Errors
/// Of the file system; a process that is not root cannot give a file to another owner.
fn write_private(new: &Path, old: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(new)?;
    // A file that a crash left behind may have another mode.
    file.set_permissions(Permissions::from_mode(0o600))?;
    if let Ok(old) = old.metadata() {
        let owner = file.metadata()?;
        if (owner.uid(), owner.gid()) != (old.uid(), old.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        // Set after the owner: a change of that may take rights away.
        file.set_permissions(Permissions::from_mode(old.mode() & 0o777))?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A temporary folder for one test.
    fn folder(test: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("lockgate-user-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_user_is_added_to_a_file_that_only_its_owner_reads() {
        let folder = folder("add");
        let path = folder.join("users");
        write_line(&path, "ana", "ana:1", Existing::Refuse).unwrap();
        write_line(&path, "bo", "bo:2", Existing::Refuse).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "ana:1\nbo:2\n");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing is left beside it");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_user_that_is_there_already_is_replaced_only_if_that_is_wished() {
        let folder = folder("replace");
        let path = folder.join("users");
        std::fs::write(&path, "# team\nana:1\nbo:2").unwrap();
        let refused = write_line(&path, "ana", "ana:3", Existing::Refuse);
        assert!(matches!(refused, Err(Error::Taken { .. })), "{refused:?}");
        write_line(&path, "ana", "ana:3", Existing::Replace).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "# team\nbo:2\nana:3\n");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_that_others_read_stays_as_it_is() {
        let folder = folder("mode");
        let path = folder.join("users");
        std::fs::write(&path, "\u{feff}ana:1\n").unwrap();
        for mode in [0o640, 0o644, 0o600] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            write_line(&path, "ana", "ana:2", Existing::Replace).unwrap();
            assert_eq!(path.metadata().unwrap().mode() & 0o777, mode, "its service may read it by its group");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "ana:2\n", "without a byte order mark, and once");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = folder("link");
        let (real, link) = (folder.join("real"), folder.join("users"));
        std::fs::write(&real, "").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        write_line(&link, "ana", "ana:1", Existing::Refuse).unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&real).unwrap(), "ana:1\n");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_password_comes_from_the_first_line_of_a_pipe() {
        assert_eq!(read_password(&b"secret\r\nmore\n"[..]).unwrap(), "secret");
        assert_eq!(read_password(&b" secret "[..]).unwrap(), " secret ");
    }

    #[test]
    fn a_hash_is_one_that_the_gateway_takes() {
        let hash = hash("secret").unwrap();
        assert!(hash.starts_with("$2y$10$"), "{hash}");
        assert!(bcrypt::verify("secret", &hash).unwrap());
        let folder = folder("hash");
        std::fs::write(folder.join("users"), format!("ana:{hash}\n")).unwrap();
        std::fs::write(folder.join("proxy.toml"), "[access]\nusers = \"users\"\n").unwrap();
        let settings = config::read(&folder.join("proxy.toml")).unwrap();
        assert_eq!(settings.proxy.access.users, Some(vec![("ana".to_owned(), hash)]));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_password_that_cannot_be_told_apart_is_refused() {
        assert!(matches!(hash(""), Err(Error::Password)));
        assert!(matches!(hash("a\0b"), Err(Error::Password)));
        assert!(matches!(hash(&"x".repeat(72)), Err(Error::TooLong)));
    }

    #[test]
    fn a_name_that_basic_credentials_cannot_carry_is_refused() {
        for name in ["", "a:b", " a", "#a", "a\n"] {
            let refused = add(name, Some("users".into()), Existing::Refuse, None);
            assert!(matches!(refused, Err(Error::Name(_))), "{name:?}");
        }
    }
}
