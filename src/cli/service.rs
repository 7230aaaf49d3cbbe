//! `lockgate service`: installs and removes the gateway as a service of systemd.
//!
//! For programs that came without a package (a tarball, `cargo install`). Steps of `install`: check
//! that the unit can reach program and configuration, write the unit (and the service's user, for
//! systemd-sysusers), and let systemd read them. Each step is printed; `--dry-run` only prints.
//! Files that this command did not write are left alone.

mod unit;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use clap::{Args, Subcommand};

use self::unit::{MARK, Scope};
use super::{find_config, print_error};

/// Name of the unit.
const UNIT: &str = "lockgate.service";
/// Configuration of the system's service, if none is named.
const SYSTEM_CONFIG: &str = "/etc/lockgate/proxy.toml";
/// Folders that `ProtectHome=` and `PrivateTmp=` of the unit hide.
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];
/// Folders of units that packages install.
const PACKAGED: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];

#[derive(Subcommand, Debug)]
pub(super) enum ServiceCommand {
    /// Write the unit, and let systemd read it
    Install {
        #[command(flatten)]
        place: PlaceArgs,
        /// Enable and start it, too
        #[arg(long)]
        now: bool,
        /// The program that the unit starts [default: this one]
        #[arg(long, value_name = "FILE")]
        program: Option<PathBuf>,
    },
    /// Stop the service and remove its unit; configuration, counts and user stay
    Uninstall {
        #[command(flatten)]
        place: PlaceArgs,
    },
}

/// Arguments of both commands.
#[derive(Args, Debug)]
pub(super) struct PlaceArgs {
    /// A service of the user that runs this, without root
    #[arg(long)]
    user: bool,
    /// Write below this folder, for an image of another system; calls no systemctl
    #[arg(long, value_name = "DIR", conflicts_with = "user")]
    root: Option<PathBuf>,
    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,
    /// Replace or remove files that this command did not write
    #[arg(long)]
    force: bool,
}

/// Reason why the service was not installed or removed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(
        "the service cannot reach {}: its unit hides {folder}; {advice}, or use --user", path.display()
    )]
    Hidden { path: PathBuf, folder: &'static str, advice: &'static str },
    #[error("{} was not written by this command and is kept; --force overrides that", .0.display())]
    NotOurs(PathBuf),
    #[error("a package has installed {}; `systemctl enable --now lockgate` starts it, --force installs another", .0.display())]
    Packaged(PathBuf),
    #[error("the path of this program is unknown; name it by --program")]
    Program(#[source] io::Error),
    #[error("no folder for units of this user: neither XDG_CONFIG_HOME nor HOME is an absolute path")]
    NoHome,
    #[error("cannot change {}; a service of the system needs root", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{command} cannot be run")]
    Run { command: String, source: io::Error },
    #[error("{command} failed: {status}")]
    Failed { command: String, status: ExitStatus },
    #[error(transparent)]
    NoConfig(#[from] super::ConfigNotFound),
}

/// State of the service after the installation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum After {
    /// As before: a new unit is neither enabled nor started.
    Unchanged,
    /// `--now`: enabled and started.
    Started,
}

/// Treatment of the steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Execution {
    /// Each is printed and performed.
    Real,
    /// `--dry-run`: each is printed, with the text of a file.
    Dry,
}

/// One change of the system.
#[derive(PartialEq, Eq, Debug)]
enum Step {
    /// A file, with its text.
    Write(PathBuf, String),
    Remove(PathBuf),
    /// A command line.
    Run(Vec<String>),
}

/// Returns 0, 2 without a configuration for a user's service, 1 for all other errors.
pub(super) fn service(command: ServiceCommand, config_arg: Option<&Path>) -> ExitCode {
    let (place, steps, hint) = match command {
        ServiceCommand::Install { place, now, program } => {
            let after = if now { After::Started } else { After::Unchanged };
            let hint = install_hint(&place, after);
            let steps = install(&place, after, program, config_arg);
            (place, steps, hint)
        }
        ServiceCommand::Uninstall { place } => {
            let steps = uninstall(&place);
            (place, steps, "configuration, counts and the service's user are kept".to_owned())
        }
    };
    let execution = if place.dry_run { Execution::Dry } else { Execution::Real };
    match steps.and_then(|steps| steps.iter().try_for_each(|step| perform(step, execution))) {
        Ok(()) => {
            print_line(&hint);
            ExitCode::SUCCESS
        }
        Err(error) => {
            print_error(&error);
            if matches!(error, Error::NoConfig(_)) { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// Steps that install the unit.
///
/// # Errors
/// If the unit could not reach its files, or another unit is there.
fn install(
    place: &PlaceArgs,
    after: After,
    program: Option<PathBuf>,
    config_arg: Option<&Path>,
) -> Result<Vec<Step>, Error> {
    let scope = place.scope();
    let program = match program {
        Some(program) => std::path::absolute(program),
        None => std::env::current_exe(),
    };
    let program = program.map_err(Error::Program)?;
    let config = match (scope, config_arg) {
        (Scope::System, None) => SYSTEM_CONFIG.into(),
        (_, config_arg) => find_config(config_arg)?,
    };
    let config = std::path::absolute(config).map_err(Error::Program)?;
    if scope == Scope::System {
        check_reach(&program, "copy it to /usr/local/bin and run it there")?;
        check_reach(&config, "copy it to /etc/lockgate")?;
        let packaged = PACKAGED.map(|folder| place.below_root(folder).join(UNIT));
        if let Some(unit) = packaged.into_iter().find(|unit| !place.force && unit.exists()) {
            return Err(Error::Packaged(unit));
        }
    }
    let path = place.unit_path()?;
    let mut steps = vec![Step::Write(path, unit::service(scope, &program, &config))];
    if scope == Scope::System {
        steps.push(Step::Write(place.sysusers_path(), unit::sysusers()));
    }
    check_ours(place, &steps)?;
    if place.root.is_none() {
        if scope == Scope::System {
            steps.push(Step::Run(vec!["systemd-sysusers".into(), place.sysusers_path().display().to_string()]));
        }
        steps.push(place.systemctl(&["daemon-reload"]));
        if after == After::Started {
            steps.push(place.systemctl(&["enable", "--now", UNIT]));
        }
    }
    Ok(steps)
}

/// Steps that remove the unit; none if there is no unit.
///
/// # Errors
/// If the files are not of this command.
fn uninstall(place: &PlaceArgs) -> Result<Vec<Step>, Error> {
    let mut files = vec![place.unit_path()?];
    if place.scope() == Scope::System {
        files.push(place.sysusers_path());
    }
    let removals: Vec<Step> = files.into_iter().filter(|path| path.exists()).map(Step::Remove).collect();
    check_ours(place, &removals)?;
    if place.root.is_some() || removals.is_empty() {
        return Ok(removals);
    }
    let mut steps = vec![place.systemctl(&["disable", "--now", UNIT])];
    steps.extend(removals);
    steps.push(place.systemctl(&["daemon-reload"]));
    Ok(steps)
}

/// # Errors
/// `Hidden` if the unit's sandbox hides the path.
fn check_reach(path: &Path, advice: &'static str) -> Result<(), Error> {
    match HIDDEN.into_iter().find(|folder| path.starts_with(folder)) {
        Some(folder) => Err(Error::Hidden { path: path.to_owned(), folder, advice }),
        None => Ok(()),
    }
}

/// # Errors
/// `NotOurs` if a file of the steps exists without our mark; never with `--force`.
fn check_ours(place: &PlaceArgs, steps: &[Step]) -> Result<(), Error> {
    if place.force {
        return Ok(());
    }
    for step in steps {
        let (Step::Write(path, _) | Step::Remove(path)) = step else { continue };
        match fs::read(path) {
            Ok(text) if text.starts_with(MARK.as_bytes()) => {}
            Ok(_) => return Err(Error::NotOurs(path.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::File { path: path.clone(), source }),
        }
    }
    Ok(())
}

/// Prints a step, and performs it unless the run is dry.
///
/// # Errors
/// `File`, `Run`, `Failed`.
fn perform(step: &Step, execution: Execution) -> Result<(), Error> {
    print_line(&describe(step, execution));
    if execution == Execution::Dry {
        return Ok(());
    }
    match step {
        Step::Write(path, text) => {
            let failed = |source| Error::File { path: path.clone(), source };
            fs::create_dir_all(path.parent().unwrap_or(path)).map_err(failed)?;
            fs::write(path, text).map_err(failed)
        }
        Step::Remove(path) => fs::remove_file(path).map_err(|source| Error::File { path: path.clone(), source }),
        Step::Run(words) => run(words),
    }
}

/// A line that names the step; in a dry run, with the text of a file below it.
fn describe(step: &Step, execution: Execution) -> String {
    match step {
        Step::Write(path, text) if execution == Execution::Dry => {
            let lines: Vec<String> = text.lines().map(|line| format!("    {line}").trim_end().to_owned()).collect();
            format!("write {}\n{}\n", path.display(), lines.join("\n"))
        }
        Step::Write(path, _) => format!("write {}", path.display()),
        Step::Remove(path) => format!("remove {}", path.display()),
        Step::Run(words) => format!("run {}", words.join(" ")),
    }
}

/// # Errors
/// `Run` if the program is missing, `Failed` if it fails.
fn run(words: &[String]) -> Result<(), Error> {
    let command = words.join(" ");
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    match Command::new(program).args(arguments).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::Failed { command, status }),
        Err(source) => Err(Error::Run { command, source }),
    }
}

/// Prints to stdout; a closed one is no error.
fn print_line(line: &str) {
    writeln!(io::stdout().lock(), "{line}").ok();
}

/// The next step, for the user.
fn install_hint(place: &PlaceArgs, after: After) -> String {
    if place.root.is_some() {
        return format!(
            "the system below that folder reads them at its next start; enable it there: systemctl enable {UNIT}"
        );
    }
    let user = if place.user { " --user" } else { "" };
    let linger = if place.user { "; `loginctl enable-linger` keeps it running after a logout" } else { "" };
    match after {
        After::Started => format!("reload after a change of the file: systemctl{user} reload lockgate{linger}"),
        After::Unchanged => format!("start it: systemctl{user} enable --now lockgate{linger}"),
    }
}

impl PlaceArgs {
    fn scope(&self) -> Scope {
        if self.user { Scope::User } else { Scope::System }
    }

    /// An absolute path of the system, below `--root` if that is given.
    fn below_root(&self, path: &str) -> PathBuf {
        match &self.root {
            Some(root) => root.join(path.trim_start_matches('/')),
            None => path.into(),
        }
    }

    fn sysusers_path(&self) -> PathBuf {
        self.below_root("/etc/sysusers.d/lockgate.conf")
    }

    /// Path of the unit (systemd.unit(5), "Unit file load path").
    ///
    /// # Errors
    /// `NoHome`.
    fn unit_path(&self) -> Result<PathBuf, Error> {
        if !self.user {
            return Ok(self.below_root("/etc/systemd/system").join(UNIT));
        }
        let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
        let folder = std::env::var_os("XDG_CONFIG_HOME").and_then(absolute);
        let folder = folder.or_else(|| Some(std::env::var_os("HOME").and_then(absolute)?.join(".config")));
        Ok(folder.ok_or(Error::NoHome)?.join("systemd/user").join(UNIT))
    }

    fn systemctl(&self, arguments: &[&str]) -> Step {
        let user = self.user.then_some("--user");
        let words = ["systemctl"].into_iter().chain(user).chain(arguments.iter().copied());
        Step::Run(words.map(str::to_owned).collect())
    }
}
