//! `lockgate user`: who may use the gateway.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use super::{complain, find};
use crate::config::{self, users};

/// How much work a guess is: 2^10 rounds, some 50 ms. The gateway remembers who has proved to be who,
/// so it costs that once.
const COST: u32 = 10;

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Add a line to the users file; the password is read from the terminal, or from a pipe
    Add {
        /// Who it is
        name: String,
        /// The users file [default: as the configuration says]
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Give a new password to a user that is there already
        #[arg(long)]
        replace: bool,
    },
}

/// Why there is no new user.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0:?} cannot be a user's name: it is empty, or holds a colon, a control character, or spaces around it")]
    Name(String),
    #[error("{} has a user named {name:?} already; --replace gives a new password", path.display())]
    Taken { name: String, path: PathBuf },
    #[error("{} names no users file; add\n\n    [access]\n    users = \"users\"", .0.display())]
    NoFile(PathBuf),
    #[error("the passwords differ")]
    Differ,
    #[error("the password is empty, or holds control characters")]
    Password,
    #[error("the password is longer than bcrypt can tell apart, 71 bytes")]
    TooLong,
    #[error("the password cannot be hashed")]
    Hash(#[source] bcrypt::BcryptError),
    #[error("the password cannot be read")]
    Input(#[source] io::Error),
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    NotFound(#[from] super::NotFound),
}

/// What becomes of a user that is there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Existing {
    Refuse,
    Replace,
}

pub(super) fn user(command: Command, wish: Option<&Path>) -> ExitCode {
    let Command::Add { name, file, replace } = command;
    let existing = if replace { Existing::Replace } else { Existing::Refuse };
    match add(&name, file, existing, wish) {
        Ok(path) => {
            let done = format!("{name} is in {}; a gateway that runs knows it after a restart\n", path.display());
            // It is done, whether anybody reads so or not.
            io::stdout().lock().write_all(done.as_bytes()).ok();
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&error);
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

fn add(name: &str, file: Option<PathBuf>, existing: Existing, wish: Option<&Path>) -> Result<PathBuf, Error> {
    if !users::is_name(name) {
        return Err(Error::Name(name.to_owned()));
    }
    let path = match file {
        Some(path) => path,
        None => {
            let config = find(wish)?;
            config::users_file(&config)?.ok_or(Error::NoFile(config))?
        }
    };
    // Asked before the password is, and again when the file is ours alone.
    with_line(&path, name, "", existing)?;
    let password = if io::stdin().is_terminal() { ask()? } else { read(io::stdin().lock())? };
    let line = format!("{name}:{}", hash(&password)?);
    put(&path, name, &line, existing)?;
    Ok(path)
}

fn ask() -> Result<String, Error> {
    let password = rpassword::prompt_password("Password: ").map_err(Error::Input)?;
    let again = rpassword::prompt_password("Again: ").map_err(Error::Input)?;
    if password == again { Ok(password) } else { Err(Error::Differ) }
}

/// The first line of what is piped in.
fn read(mut input: impl io::BufRead) -> Result<String, Error> {
    let mut line = String::new();
    input.read_line(&mut line).map_err(Error::Input)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

fn hash(password: &str) -> Result<String, Error> {
    if password.is_empty() || password.contains(char::is_control) {
        return Err(Error::Password);
    }
    match bcrypt::non_truncating_hash_with_result(password, COST) {
        // The prefix that htpasswd writes and every reader of its files knows.
        Ok(parts) => Ok(parts.format_for_version(bcrypt::Version::TwoY)),
        Err(bcrypt::BcryptError::Truncation(_)) => Err(Error::TooLong),
        Err(error) => Err(Error::Hash(error)),
    }
}

/// The text of the file with this line in it.
fn with_line(path: &Path, name: &str, line: &str, existing: Existing) -> Result<String, Error> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
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

/// Puts the line into the file: all of it or nothing, whatever happens meanwhile.
fn put(path: &Path, name: &str, line: &str, existing: Existing) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    // A link stays a link, and what it leads to is replaced.
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Two who add at the same time take turns: the lock is the folder's, for the file gets replaced.
    let folder_file = File::open(folder).map_err(failed)?;
    folder_file.lock().map_err(failed)?;
    let text = with_line(&target, name, line, existing)?;
    let file_name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let new = folder.join(format!(".{file_name}.new"));
    write_new(&new, &target, &text).map_err(failed)?;
    std::fs::rename(&new, &target).map_err(failed)?;
    folder_file.sync_all().map_err(failed)
}

/// Writes a file that only its owner can read, and that belongs to whom the old one belonged to.
fn write_new(new: &Path, old: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(new)?;
    // One that was left behind by a crash may have other rights.
    file.set_permissions(Permissions::from_mode(0o600))?;
    if let Ok(old) = old.metadata() {
        let owner = file.metadata()?;
        if (owner.uid(), owner.gid()) != (old.uid(), old.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of the test's own.
    fn folder(test: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("lockgate-user-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_user_is_added_to_a_file_that_only_its_owner_reads() {
        let folder = folder("add");
        let path = folder.join("users");
        put(&path, "ana", "ana:1", Existing::Refuse).unwrap();
        put(&path, "bo", "bo:2", Existing::Refuse).unwrap();
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
        let refused = put(&path, "ana", "ana:3", Existing::Refuse);
        assert!(matches!(refused, Err(Error::Taken { .. })), "{refused:?}");
        put(&path, "ana", "ana:3", Existing::Replace).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "# team\nbo:2\nana:3\n");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = folder("link");
        let (real, link) = (folder.join("real"), folder.join("users"));
        std::fs::write(&real, "").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        put(&link, "ana", "ana:1", Existing::Refuse).unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&real).unwrap(), "ana:1\n");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_password_comes_from_the_first_line_of_a_pipe() {
        assert_eq!(read(&b"secret\r\nmore\n"[..]).unwrap(), "secret");
        assert_eq!(read(&b" secret "[..]).unwrap(), " secret ");
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
