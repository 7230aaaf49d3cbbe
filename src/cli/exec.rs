//! `lockgate exec`: runs a program that uses the gateway, and starts a per-user gateway if none
//! runs.
//!
//! The program replaces this process (execve(2)): same process id, descriptors and terminal. So
//! signals, exit codes and job control are the program's own. A gateway that was started for it is
//! a daemon, not a child of it: it ends with the last program that was started to use it.
//!
//! Steps: read the configuration, find a gateway at its address or start one (`discover`), set the
//! variables that `lockgate env` prints, and execute. A gateway that runs already may have another
//! configuration; differences that matter are printed, or end exec (`mismatch`). A process beside the
//! program says at its end if no request came to the gateway (`watcher`).
//!
//! With `--all` the program runs in a network namespace that leads to the gateway alone (`all`).
//!
//! Exit codes are the program's own; before it runs: 2 for an invalid configuration, 1 if there is
//! no gateway, 126 or 127 if the program cannot be executed.

mod all;
mod daemon;
mod discover;
mod join_socket;
mod mismatch;
mod probe;
mod watcher;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use clap::{Args, ValueEnum};

use self::discover::FoundGateway;
use self::watcher::{Watched, Watcher};
use super::variables::variables;
use super::{load_settings, print_error};

/// Variable that names a log file for a gateway that was started for a program; its access log goes
/// there too.
///
/// Without it, such a gateway writes warnings alone, to the terminal if there is one.
const LOG_FILE_VARIABLE: &str = "LOCKGATE_EXEC_LOG";
/// Exit code for a program that does not exist (POSIX XCU §2.8.2).
const NOT_FOUND: u8 = 127;
/// Exit code for one that cannot be executed (same section).
const NOT_EXECUTABLE: u8 = 126;

#[derive(Args, Debug)]
pub(super) struct ExecArgs {
    /// Send every connection of the program through the gateway, also if it reads no proxy variable
    #[arg(long)]
    all: bool,
    /// Role of this process in the start of a daemon
    #[arg(long, hide = true, value_enum)]
    role: Option<Role>,
    /// The program and its arguments
    #[arg(required_unless_present = "role", trailing_var_arg = true, value_name = "CMD")]
    program: Vec<OsString>,
}

/// Processes between exec and the gateway's daemon.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    /// Starts the gateway and exits, so that the gateway is not a child of the program: a program
    /// that waits for all of its children would wait forever.
    Starter,
    /// The gateway. Its stdin is the join socket.
    Gateway,
    /// Starts the watcher and exits, for the same reason.
    WatcherStarter,
    /// Waits for the end of the program.
    Watcher,
    /// Starts the relay and exits, for the same reason.
    RelayStarter,
    /// Passes connections of the program on to the gateway.
    Relay,
}

/// Without `--role` it does what the user asked for; the roles are for processes that it starts
/// itself.
pub(super) fn exec(arguments: ExecArgs, config_arg: Option<&Path>) -> ExitCode {
    if let Some(Role::Starter | Role::WatcherStarter | Role::RelayStarter) = arguments.role {
        // Files that the program has open besides (the lock of a job, a pipe) would stay open as long as the process
        // that is started now. The program itself keeps them.
        close_fds::set_fds_cloexec(3, &[]);
    }
    match arguments.role {
        Some(Role::Starter) => discover::run_starter(config_arg),
        Some(Role::Gateway) => daemon::run(config_arg),
        Some(Role::WatcherStarter) => watcher::run_starter(&arguments.program),
        Some(Role::Watcher) => watcher::run(&arguments.program),
        Some(Role::RelayStarter) => all::relay::run_starter(&arguments.program),
        Some(Role::Relay) => all::relay::run(&arguments.program),
        None => execute(&arguments, config_arg),
    }
}

/// True if a process is a gateway that exec started for programs, by its command line; false if
/// that cannot be read.
///
/// Reads `/proc/PID/cmdline`, and compares the words after the program's name with `exec --role
/// gateway`.
pub(super) fn is_daemon(process: u32) -> bool {
    let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).skip(1).take(3).collect();
    words == [&b"exec"[..], b"--role", b"gateway"]
}

/// Executes the program; returns only if that fails.
///
/// Returns the exit code of the failure: see the module.
fn execute(arguments: &ExecArgs, config_arg: Option<&Path>) -> ExitCode {
    let Some((path, mut settings)) = load_settings(config_arg) else {
        return ExitCode::from(2);
    };
    if arguments.all
        && let Err(error) = all::check(&settings)
    {
        print_error(&error);
        return ExitCode::FAILURE;
    }
    let gateway = match discover::find_or_start(&settings, &path) {
        Ok(gateway) => gateway,
        Err(error) => {
            print_error(&error);
            return ExitCode::FAILURE;
        }
    };
    settings.bound_to(&[gateway.address]);
    let variables = match variables(&settings, &|name| std::env::var_os(name)) {
        Ok(variables) => variables,
        Err(error) => {
            print_error(&error);
            return ExitCode::FAILURE;
        }
    };
    let differences = match mismatch::check(&settings, &path, &gateway) {
        Ok(notes) => notes,
        Err(error) => {
            print_error(&error);
            return ExitCode::FAILURE;
        }
    };
    variables.notes.iter().chain(&differences).for_each(|note| eprintln!("lockgate: {note}"));
    let Some((name, words)) = arguments.program.split_first() else {
        return ExitCode::from(2);
    };
    let watcher = start_watcher(&gateway, name);
    if arguments.all
        && let Err(error) = all::confine(gateway.address)
    {
        if let Some(watcher) = watcher {
            watcher.cancel();
        }
        print_error(&error);
        return ExitCode::FAILURE;
    }
    let error = Command::new(name).args(words).envs(variables.set).exec();
    if let Some(watcher) = watcher {
        watcher.cancel();
    }
    eprintln!("lockgate: cannot run {}: {error}", name.display());
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE })
}

/// Starts the watcher of the program that this process becomes.
///
/// `None` if the gateway does not say how many requests it has received, or the system lacks what
/// the watcher needs: the program runs all the same.
fn start_watcher(gateway: &FoundGateway, program: &OsStr) -> Option<Watcher> {
    let received = gateway.about.as_ref()?.received?;
    let watched = Watched { gateway: gateway.address, received, join_name: gateway.join_name.as_deref(), program };
    Watcher::start(&watched).ok()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{CliArgs, CliCommand};

    /// The program's words, and the configuration.
    fn parsed(line: &[&str]) -> Result<(Vec<String>, Option<String>), clap::Error> {
        let arguments = CliArgs::try_parse_from([&["lockgate", "exec"], line].concat())?;
        let config = arguments.config.map(|path| path.display().to_string());
        let Some(CliCommand::Exec(exec)) = arguments.command else { panic!("{line:?}") };
        Ok((exec.program.into_iter().map(|word| word.into_string().unwrap()).collect(), config))
    }

    #[test]
    fn all_behind_the_programs_name_is_the_programs() {
        for (line, program, config) in [
            (&["--", "a", "-c", "x", "--", "-v"][..], &["a", "-c", "x", "--", "-v"][..], None),
            (&["a", "-c", "x", "--version", "--", "b"], &["a", "-c", "x", "--version", "--", "b"], None),
            (&["-c", "f", "--", "a", "-c", "x"], &["a", "-c", "x"], Some("f")),
            (&["-c", "f", "a", "--help"], &["a", "--help"], Some("f")),
            (&["--", "-a"], &["-a"], None),
        ] {
            let (gateway, file) = parsed(line).unwrap();
            assert_eq!(gateway, program, "{line:?}");
            assert_eq!(file.as_deref(), config, "{line:?}");
        }
    }

    #[test]
    fn without_a_program_it_is_wrong_usage() {
        for line in [&[][..], &["--"], &["-c", "f"], &["--no-such", "a"]] {
            assert_eq!(parsed(line).unwrap_err().exit_code(), 2, "{line:?}");
        }
    }
}
