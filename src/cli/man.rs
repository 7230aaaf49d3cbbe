//! `lockgate man`: prints the manual page, or writes one for each command into a folder.
//!
//! Packages call it at build time. Pages are generated from the parser, as `--help` is, and bear no
//! date, so that the same version always gives the same bytes. `lockgate(1)` also lists files,
//! variables, signals and exit codes, which no parser has.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_mangen::Man;

use super::{CliArgs, print_error};

/// Sections of `lockgate(1)` in roff, after those of the parser.
const SECTIONS: &str = r#".SH FILES
.TP
\fIproxy.toml\fR, \fIconfig/proxy.toml\fR, \fI/etc/lockgate/proxy.toml\fR
The configuration: the first of these that exists.
.TP
\fI/var/lib/lockgate\fR
Counts of limits that outlive a restart, under systemd; otherwise the folder that \fB[state] dir\fR names.
.SH ENVIRONMENT
.TP
\fBLOCKGATE_CONFIG\fR
The configuration, if no \fB\-c\fR is given.
.TP
\fBLOCKGATE_CREDENTIALS\fR
\fINAME:PASSWORD\fR for the proxy URL that \fBlockgate env\fR prints and \fBlockgate exec\fR sets.
.TP
\fBRUST_LOG\fR
Level of the log on stderr; overrides \fB[log] level\fR.
.SH SIGNALS
.TP
\fBSIGTERM\fR, \fBSIGINT\fR
Drain, then exit; a second one exits at once.
.TP
\fBSIGHUP\fR
Read the configuration again.
.TP
\fBSIGUSR2\fR
Start the program again; the new process takes over sockets, counts and waiting requests.
.SH EXIT STATUS
.TP
\fB0\fR
Success.
.TP
\fB1\fR
Failure.
.TP
\fB2\fR
Wrong usage, or an invalid configuration.
.TP
\fB130\fR, \fB143\fR
A second SIGINT or SIGTERM ended \fBlockgate run\fR before it was drained.
"#;

/// Arguments of `lockgate man`.
#[derive(Args, Debug)]
pub(super) struct ManArgs {
    /// Write one page for each command into this folder, which is created
    folder: Option<PathBuf>,
}

/// Prints `lockgate.1` to stdout, or writes all pages. Returns 0, or 1 if a page cannot be written.
pub(super) fn man(arguments: &ManArgs) -> ExitCode {
    let written = match &arguments.folder {
        Some(folder) => write_pages(folder),
        // A closed stdout (`| head`) is no error.
        None => main_page().map(|page| drop(io::stdout().lock().write_all(&page))),
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            ExitCode::FAILURE
        }
    }
}

/// A page cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
struct WriteError {
    path: PathBuf,
    source: io::Error,
}

/// Writes `lockgate.1`, `lockgate-run.1`, …, `lockgate-ca-show.1`.
///
/// # Errors
/// If the folder cannot be made, or a page cannot be written.
fn write_pages(folder: &Path) -> Result<(), WriteError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| WriteError { path, source }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    clap_mangen::generate_to(CliArgs::command(), folder).map_err(failed(folder))?;
    let path = folder.join("lockgate.1");
    fs::write(&path, main_page()?).map_err(failed(&path))
}

/// `lockgate(1)`: what the parser has, and [`SECTIONS`].
///
/// # Errors
/// None in practice: it is rendered into memory.
fn main_page() -> Result<Vec<u8>, WriteError> {
    let mut page = Vec::new();
    let rendered = Man::new(CliArgs::command().disable_help_subcommand(true)).render(&mut page);
    rendered.map_err(|source| WriteError { path: "lockgate.1".into(), source })?;
    page.extend_from_slice(SECTIONS.as_bytes());
    Ok(page)
}
