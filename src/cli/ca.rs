//! `lockgate ca`: the authority that vouches for us in opened tunnels.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use jiff::Timestamp;

use super::{complain, find};
use crate::config;
use crate::gate::clock::Clock;
use crate::tls::ca::{self, Authority, Portrait, Settings};

#[derive(Subcommand, Clone, Copy, Debug)]
pub(super) enum Command {
    /// Tell whose it is, how long it is valid, and which hosts it may vouch for
    Show,
    /// Print the path of its certificate, which programs must believe
    Path,
    /// Make a new one: when `intercept` names other hosts, or the key was lost
    Rotate,
}

/// Why there is nothing to tell.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(
        "nothing is intercepted, so there is no authority; name the hosts whose requests are to be counted:

    [tls]
    intercept = [\"api.example.com\"]"
    )]
    Nothing,
    #[error(transparent)]
    Authority(#[from] ca::Error),
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    NotFound(#[from] super::NotFound),
}

pub(super) fn ca(command: Command, wish: Option<&Path>) -> ExitCode {
    match carry_out(command, wish, Clock::start().wall_unix_nanos()) {
        Ok(text) => {
            // Who closed our stdout has read enough.
            std::io::stdout().lock().write_all(text.as_bytes()).ok();
            ExitCode::SUCCESS
        }
        // Each report begins with a word of its own.
        Err(Error::Config(error @ config::Error::Invalid(_))) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
        Err(error) => {
            complain(&error);
            match error {
                Error::Nothing | Error::Authority(_) => ExitCode::FAILURE,
                Error::Config(_) | Error::NotFound(_) => ExitCode::from(2),
            }
        }
    }
}

fn carry_out(command: Command, wish: Option<&Path>, wall_unix_nanos: i128) -> Result<String, Error> {
    let settings = config::authority(&find(wish)?)?;
    match command {
        Command::Show => Ok(show(&there(&settings, wall_unix_nanos)?, &settings)),
        Command::Path => {
            there(&settings, wall_unix_nanos)?;
            Ok(format!("{}\n", full(Authority::path(&settings.dir)).display()))
        }
        Command::Rotate if settings.covers.is_empty() => Err(Error::Nothing),
        Command::Rotate => {
            let portrait = ca::rotate(&settings, wall_unix_nanos)?;
            Ok(show(&portrait, &settings) + &afterwards(&settings))
        }
    }
}

/// The authority, made if a host is intercepted.
fn there(settings: &Settings, wall_unix_nanos: i128) -> Result<Portrait, Error> {
    if settings.covers.is_empty() {
        return ca::look(settings, wall_unix_nanos)?.ok_or(Error::Nothing);
    }
    match ca::make(settings, wall_unix_nanos) {
        // The gateway's user alone may see the key; what the certificate says is for everybody.
        Err(error) if error.fault.is_denied() => Ok(ca::look_at_certificate(&settings.dir)?),
        made => Ok(made?),
    }
}

fn show(portrait: &Portrait, settings: &Settings) -> String {
    let fingerprint: Vec<_> = portrait.fingerprint.iter().map(|byte| format!("{byte:02X}")).collect();
    let mut text = String::new();
    for (what, says) in [
        ("subject", portrait.subject.clone()),
        ("valid", format!("{} to {}", moment(portrait.not_before), moment(portrait.not_after))),
        ("SHA-256", fingerprint.join(":")),
        ("vouches for", portrait.scope.to_string()),
        ("certificate", full(Authority::path(&settings.dir)).display().to_string()),
        ("key", full(Authority::key_path(&settings.dir)).display().to_string()),
    ] {
        text.push_str(&format!("{what:<12} {says}\n"));
    }
    if settings.covers.is_empty() {
        text.push_str("\nNothing is intercepted at present: [tls] intercept is empty.\n");
    }
    text
}

/// What must happen when there is a new authority.
fn afterwards(settings: &Settings) -> String {
    let old = Authority::old_path(&settings.dir);
    let mut text =
        "\nThis is a new authority. Gateways that run show certificates of the old one until they are restarted;
programs must be given the new certificate (`lockgate exec` does so when it starts them).\n"
            .to_owned();
    if old.exists() {
        text.push_str(&format!(
            "The old certificate is kept as {}, so that both can be believed until then.\n",
            full(old).display()
        ));
    }
    text
}

fn moment(unix_seconds: i64) -> String {
    Timestamp::from_second(unix_seconds).map_or_else(|_| "the end of time".to_owned(), |moment| moment.to_string())
}

/// The path that is right from any folder.
fn full(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i128 = 1_780_000_000_000_000_000;

    /// A folder with this `proxy.toml`.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str, text: &str) -> Folder {
            let folder = std::env::temp_dir().join(format!("lockgate-cli-ca-{}-{test}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("proxy.toml"), text).unwrap();
            Folder(folder)
        }

        fn run(&self, command: Command) -> Result<String, Error> {
            carry_out(command, Some(&self.0.join("proxy.toml")), NOW)
                .map(|text| text.replace(&self.0.display().to_string(), "D"))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }

    #[test]
    fn the_authority_is_made_and_told_about() {
        let folder = Folder::new("show", "[tls]\nintercept = [\"a.example\", \"192.0.2.1\"]\n");
        assert_eq!(folder.run(Command::Path).unwrap(), "D/certs/lockgate-ca.pem\n");
        let text = folder.run(Command::Show).unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.split_at(13)).collect();
        let says = |what: &str| lines.iter().find(|(key, _)| key.trim_end() == what).unwrap().1;
        assert!(says("subject").contains("lockgate CA ("), "{text}");
        assert_eq!(says("valid"), "2026-05-27T20:26:40Z to 2036-05-25T20:26:40Z");
        assert_eq!((says("SHA-256").len(), says("SHA-256").matches(':').count()), (95, 31));
        assert_eq!(says("vouches for"), "a.example, 192.0.2.1, and what is below this name");
        assert_eq!((says("certificate"), says("key")), ("D/certs/lockgate-ca.pem", "D/certs/lockgate-ca.key"));
        assert_eq!(folder.run(Command::Show).unwrap(), text, "it is kept");
    }

    #[test]
    fn a_rotated_authority_covers_what_is_named_now() {
        let folder = Folder::new("rotate", "[tls]\nintercept = \"a.example\"\n");
        let first = folder.run(Command::Rotate).unwrap();
        assert!(first.contains("restarted") && !first.contains("ca-old"), "{first}");
        std::fs::write(folder.0.join("proxy.toml"), "[tls]\nintercept = \"b.example\"\n").unwrap();
        let told = folder.run(Command::Show).unwrap_err().to_string();
        assert!(told.contains("may not vouch for b.example") && told.contains("lockgate ca rotate"), "{told}");
        let second = folder.run(Command::Rotate).unwrap();
        assert!(second.contains("The old certificate is kept as D/certs/lockgate-ca-old.pem"), "{second}");
        assert!(folder.run(Command::Show).unwrap().contains("b.example, and what is below this name"));
    }

    #[test]
    fn where_nothing_is_intercepted_no_authority_is_made() {
        let folder = Folder::new("nothing", "[log]\n");
        for command in [Command::Show, Command::Path, Command::Rotate] {
            let told = folder.run(command).unwrap_err().to_string();
            assert!(told.starts_with("nothing is intercepted") && told.contains("intercept = ["), "{told}");
        }
        assert!(!folder.0.join("certs").exists());
        std::fs::write(folder.0.join("proxy.toml"), "[tls]\nintercept = \"a.example\"\n").unwrap();
        folder.run(Command::Show).unwrap();
        std::fs::write(folder.0.join("proxy.toml"), "[log]\n").unwrap();
        assert!(folder.run(Command::Show).unwrap().contains("Nothing is intercepted at present"));
        assert!(folder.run(Command::Path).is_ok() && folder.run(Command::Rotate).is_err());
    }
}
