//! `lockgate exec`: a program that uses the gateway, and a gateway for it if none runs.
//!
//! exec puts the program in its own place: same process, same descriptors, same terminal. So signals, exit codes and job
//! control are the program's own, and there is nothing to pass on. A gateway that was started for it is no child of
//! it: it runs apart, and ends with the last program that was started to use it.

mod find;
mod join_socket;
mod mismatch;
mod stay;

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use clap::{Args, ValueEnum};

use super::variables::variables;
use super::{complain, settings};

/// A file for all that a gateway says that was started for a program, its access log too.
const LOG: &str = "LOCKGATE_EXEC_LOG";
/// What shells return for a program that is not there, and for one that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// What this process is to be for a gateway that runs apart
    #[arg(long, hide = true, value_enum)]
    part: Option<Part>,
    /// The program, and its arguments
    #[arg(required_unless_present = "part", trailing_var_arg = true, value_name = "CMD")]
    program: Vec<OsString>,
}

/// The processes between exec and a gateway that runs apart.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    /// It starts the gateway and ends, so that the gateway is no child of the program: a program that waits for all of
    /// its children would wait for ever.
    Starter,
    /// The gateway. Its stdin is the socket that programs join it by.
    Gateway,
}

pub(super) fn exec(arguments: Arguments, wish: Option<&Path>) -> ExitCode {
    match arguments.part {
        Some(Part::Starter) => find::start(wish),
        Some(Part::Gateway) => stay::run(wish),
        None => run(&arguments.program, wish),
    }
}

/// Whether a process is a gateway that exec started for programs, by its command line; `false` if that cannot be read.
pub(super) fn is_gateway(process: u32) -> bool {
    let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).skip(1).take(3).collect();
    words == [&b"exec"[..], b"--part", b"gateway"]
}

/// Runs the program; returns only if that fails.
fn run(program: &[OsString], wish: Option<&Path>) -> ExitCode {
    let Some((path, mut settings)) = settings(wish) else {
        return ExitCode::from(2);
    };
    let found = match find::gateway(&settings, &path) {
        Ok(found) => found,
        Err(error) => {
            complain(&error);
            return ExitCode::FAILURE;
        }
    };
    settings.bound_to(&[found.address]);
    let variables = match variables(&settings, &|name| std::env::var_os(name)) {
        Ok(variables) => variables,
        Err(error) => {
            complain(&error);
            return ExitCode::FAILURE;
        }
    };
    let differs = found.about.map(|about| mismatch::notes(&settings, &path, found.address, &about));
    variables.notes.iter().chain(differs.iter().flatten()).for_each(|note| eprintln!("lockgate: {note}"));
    let Some((name, arguments)) = program.split_first() else {
        return ExitCode::from(2);
    };
    let error = Command::new(name).args(arguments).envs(variables.set).exec();
    eprintln!("lockgate: cannot run {}: {error}", name.display());
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Arguments, Command};

    /// What is run, and with which configuration.
    fn parsed(line: &[&str]) -> Result<(Vec<String>, Option<String>), clap::Error> {
        let arguments = Arguments::try_parse_from([&["lockgate", "exec"], line].concat())?;
        let config = arguments.config.map(|path| path.display().to_string());
        let Some(Command::Exec(exec)) = arguments.command else { panic!("{line:?}") };
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
            let (found, file) = parsed(line).unwrap();
            assert_eq!(found, program, "{line:?}");
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
