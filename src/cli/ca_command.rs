//! `lockgate ca`: shows and rotates the certificate authority for intercepted hosts.
//!
//! The authority signs certificates for the hosts of `[tls] intercept`, and programs must trust it.
//! All commands read the configuration for `ca_dir` and `intercept` alone, so they work while other
//! files that it names are missing.
//!
//! `show` prints:
//!
//! ```text
//! subject      CN=...
//! valid        2026-01-01T00:00:00Z to 2036-01-01T00:00:00Z
//! SHA-256      AB:CD:...
//! signs for    api.example.com
//! certificate  /etc/lockgate/certs/...
//! key          /etc/lockgate/certs/...
//! ```

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use jiff::Timestamp;

use super::{find_config, print_error};
use crate::config;
use crate::gate::clock::Clock;
use crate::tls::ca::{self, CertSummary, Settings};

#[derive(Subcommand, Clone, Copy, Debug)]
pub(super) enum CaCommand {
    /// Show its subject, validity, fingerprint and the hosts that it may sign for
    Show,
    /// Print the path of its certificate, which programs must trust
    Path,
    /// Make a new one: after `intercept` has changed, or the key was lost
    Rotate,
}

/// Reason why there is nothing to show.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// Exit code 1: the configuration is valid, and needs no authority.
    #[error(
        "nothing is intercepted, so there is no authority; name the hosts whose requests should be counted:

    [tls]
    intercept = [\"api.example.com\"]"
    )]
    NoIntercept,
    /// Its files are missing, invalid or unreadable, or cannot be written. Exit code 1.
    #[error(transparent)]
    Authority(#[from] ca::Error),
    /// The configuration cannot be read, or is invalid. Exit code 2.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// No configuration was found. Exit code 2.
    #[error(transparent)]
    NotFound(#[from] super::ConfigNotFound),
}

/// Runs a command: prints its text to stdout, or the error to stderr. Returns 0, 1 or 2 (see the
/// variants of `Error`).
pub(super) fn ca(command: CaCommand, config_arg: Option<&Path>) -> ExitCode {
    match execute(command, config_arg, Clock::start().wall_unix_nanos()) {
        Ok(text) => {
            // A closed stdout (`| head`) is no error.
            std::io::stdout().lock().write_all(text.as_bytes()).ok();
            ExitCode::SUCCESS
        }
        // Each report begins with its own severity.
        Err(Error::Config(error @ config::Error::Invalid(_))) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
        Err(error) => {
            print_error(&error);
            match error {
                Error::NoIntercept | Error::Authority(_) => ExitCode::FAILURE,
                Error::Config(_) | Error::NotFound(_) => ExitCode::from(2),
            }
        }
    }
}

/// Returns the text for stdout. `wall_unix_nanos`: the present time, in nanoseconds of Unix time,
/// for the validity of certificates.
///
/// # Errors
/// `NoIntercept` if there is no authority, and none is needed; the others as their variants say.
fn execute(command: CaCommand, config_arg: Option<&Path>, wall_unix_nanos: i128) -> Result<String, Error> {
    let settings = config::authority(&find_config(config_arg)?)?;
    match command {
        CaCommand::Show => Ok(show(&open_or_make(&settings, wall_unix_nanos)?, &settings)),
        CaCommand::Path => {
            open_or_make(&settings, wall_unix_nanos)?;
            Ok(format!("{}\n", absolute(ca::certificate_path(&settings.dir)).display()))
        }
        CaCommand::Rotate if settings.covers.is_empty() => Err(Error::NoIntercept),
        CaCommand::Rotate => {
            let summary = ca::rotate(&settings, wall_unix_nanos)?;
            Ok(show(&summary, &settings) + &rotation_notes(&settings))
        }
    }
}

/// Summary of the authority's certificate; makes the authority if a host is intercepted and there is none.
///
/// # Errors
/// `NoIntercept` if no host is intercepted and there is no authority; `Authority` if its files
/// cannot be used or made.
fn open_or_make(settings: &Settings, wall_unix_nanos: i128) -> Result<CertSummary, Error> {
    if settings.covers.is_empty() {
        return ca::inspect(settings, wall_unix_nanos)?.ok_or(Error::NoIntercept);
    }
    match ca::open_or_create(settings, wall_unix_nanos) {
        // The key is readable by the gateway's user alone, the certificate by all users.
        Err(error) if error.fault.is_denied() => Ok(ca::inspect_certificate(&settings.dir)?),
        made => Ok(made?),
    }
}

/// Lines of a label and a value, for people; scripts use `lockgate ca path`.
fn show(summary: &CertSummary, settings: &Settings) -> String {
    let fingerprint: Vec<_> = summary.fingerprint.iter().map(|byte| format!("{byte:02X}")).collect();
    let mut text = String::new();
    for (label, value) in [
        ("subject", summary.subject.clone()),
        ("valid", format!("{} to {}", format_time(summary.not_before), format_time(summary.not_after))),
        ("SHA-256", fingerprint.join(":")),
        ("signs for", summary.scope.to_string()),
        ("certificate", absolute(ca::certificate_path(&settings.dir)).display().to_string()),
        ("key", absolute(ca::key_path(&settings.dir)).display().to_string()),
    ] {
        text.push_str(&format!("{label:<12} {value}\n"));
    }
    if settings.covers.is_empty() {
        text.push_str("\nNothing is intercepted at present: [tls] intercept is empty.\n");
    }
    text
}

/// Notes on the restarts that a new authority needs.
fn rotation_notes(settings: &Settings) -> String {
    let old = ca::old_certificate_path(&settings.dir);
    let mut text = "\nThis is a new authority. Running gateways use the old one until they are restarted;
programs must be given the new certificate (`lockgate exec` does so when it starts them).\n"
        .to_owned();
    if old.exists() {
        text.push_str(&format!(
            "The old certificate is kept as {}, so that both can be trusted until then.\n",
            absolute(old).display()
        ));
    }
    text
}

/// RFC 3339, or "the end of time" beyond year 9999.
///
/// For instance `2026-01-01T00:00:00Z`.
fn format_time(unix_seconds: i64) -> String {
    Timestamp::from_second(unix_seconds).map_or_else(|_| "the end of time".to_owned(), |moment| moment.to_string())
}

/// An absolute path, so that it is right from any folder.
///
/// The path as given if the working directory is unknown.
fn absolute(path: PathBuf) -> PathBuf {
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

        fn run(&self, command: CaCommand) -> Result<String, Error> {
            execute(command, Some(&self.0.join("proxy.toml")), NOW)
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
        assert_eq!(folder.run(CaCommand::Path).unwrap(), "D/certs/lockgate-ca.pem\n");
        let text = folder.run(CaCommand::Show).unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.split_at(13)).collect();
        let says = |what: &str| lines.iter().find(|(key, _)| key.trim_end() == what).unwrap().1;
        assert!(says("subject").contains("lockgate CA ("), "{text}");
        assert_eq!(says("valid"), "2026-05-27T20:26:40Z to 2036-05-25T20:26:40Z");
        assert_eq!((says("SHA-256").len(), says("SHA-256").matches(':').count()), (95, 31));
        assert_eq!(says("signs for"), "a.example, 192.0.2.1, and what is below this name");
        assert_eq!((says("certificate"), says("key")), ("D/certs/lockgate-ca.pem", "D/certs/lockgate-ca.key"));
        assert_eq!(folder.run(CaCommand::Show).unwrap(), text, "it is kept");
    }

    #[test]
    fn a_rotated_authority_covers_what_is_named_now() {
        let folder = Folder::new("rotate", "[tls]\nintercept = \"a.example\"\n");
        let first = folder.run(CaCommand::Rotate).unwrap();
        assert!(first.contains("restarted") && !first.contains("ca-old"), "{first}");
        std::fs::write(folder.0.join("proxy.toml"), "[tls]\nintercept = \"b.example\"\n").unwrap();
        let told = folder.run(CaCommand::Show).unwrap_err().to_string();
        assert!(told.contains("may not vouch for b.example") && told.contains("lockgate ca rotate"), "{told}");
        let second = folder.run(CaCommand::Rotate).unwrap();
        assert!(second.contains("The old certificate is kept as D/certs/lockgate-ca-old.pem"), "{second}");
        assert!(folder.run(CaCommand::Show).unwrap().contains("b.example, and what is below this name"));
    }

    #[test]
    fn where_nothing_is_intercepted_no_authority_is_made() {
        let folder = Folder::new("nothing", "[log]\n");
        for command in [CaCommand::Show, CaCommand::Path, CaCommand::Rotate] {
            let told = folder.run(command).unwrap_err().to_string();
            assert!(told.starts_with("nothing is intercepted") && told.contains("intercept = ["), "{told}");
        }
        assert!(!folder.0.join("certs").exists());
        std::fs::write(folder.0.join("proxy.toml"), "[tls]\nintercept = \"a.example\"\n").unwrap();
        folder.run(CaCommand::Show).unwrap();
        std::fs::write(folder.0.join("proxy.toml"), "[log]\n").unwrap();
        assert!(folder.run(CaCommand::Show).unwrap().contains("Nothing is intercepted at present"));
        assert!(folder.run(CaCommand::Path).is_ok() && folder.run(CaCommand::Rotate).is_err());
    }
}
