//! `lockgate env`: prints environment variables for programs that use the gateway, for `eval "$(lockgate env)"`.
//!
//! Lines for stdout, quoted for a POSIX shell; notes for the user go to stderr, where `eval` does
//! not read them:
//!
//! ```text
//! export HTTP_PROXY=http://127.0.0.1:8080
//! export NO_PROXY=localhost,127.0.0.1,::1
//! ```

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use super::variables::{Variables, variables};
use super::{load_settings, print_error};

/// Returns 0; 2 if the configuration is invalid; 1 if it names port 0, or the certificate bundles
/// cannot be written.
pub(super) fn env(config_arg: Option<&Path>) -> ExitCode {
    let Some((_, settings)) = load_settings(config_arg) else {
        return ExitCode::from(2);
    };
    match variables(&settings, &|name| std::env::var_os(name)) {
        Ok(variables) => {
            variables.notes.iter().for_each(|note| eprintln!("lockgate: {note}"));
            std::io::stdout().lock().write_all(&export_lines(&variables)).ok();
            ExitCode::SUCCESS
        }
        Err(error) => {
            print_error(&error);
            ExitCode::FAILURE
        }
    }
}

/// `export` lines for a POSIX shell.
///
/// One line per variable, in the order of [`Variables::set`]. Bytes, since values need not be
/// UTF-8.
fn export_lines(variables: &Variables) -> Vec<u8> {
    let mut text = Vec::new();
    for (name, value) in &variables.set {
        text.extend_from_slice(format!("export {name}=").as_bytes());
        text.extend_from_slice(&shell_quote(value));
        text.push(b'\n');
    }
    text
}

/// Quotes a word for a POSIX shell (XCU §2.2.2), if it needs that.
///
/// Quotes are single ones; one within the word becomes `'\''`.
fn shell_quote(value: &OsStr) -> Vec<u8> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_./:@%+,=-".contains(byte);
    if value.as_bytes().iter().all(plain) {
        return value.as_bytes().to_vec();
    }
    let mut quoted = vec![b'\''];
    for byte in value.as_bytes() {
        match byte {
            b'\'' => quoted.extend_from_slice(b"'\\''"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_takes_each_value_as_it_is() {
        for value in ["", "plain", "a b", "it's", "$HOME `id` $(id) \\ \" !", "a\nb\n", "-n", "~", "*", "\u{e4}"] {
            let variables = Variables { set: vec![("NAME", value.into())], notes: Vec::new() };
            let mut script = export_lines(&variables);
            script.extend_from_slice(b"printf %s. \"$NAME\"");
            let shell = Command::new("sh").arg("-c").arg(OsString::from_vec(script)).output().unwrap();
            assert_eq!(String::from_utf8(shell.stdout).unwrap(), format!("{value}."));
        }
    }

    #[test]
    fn what_needs_no_quotes_has_none() {
        let url = "http://127.0.0.1:8080";
        let variables = Variables { set: vec![("HTTP_PROXY", url.into())], notes: Vec::new() };
        assert_eq!(export_lines(&variables), format!("export HTTP_PROXY={url}\n").into_bytes());
    }
}
