//! Notations of environment variables: for shells, containers, units of systemd, other programs.
//!
//! Each writes values so that its reader gets them byte for byte, or fails with the name of a
//! variable whose value the notation cannot express.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use clap::ValueEnum;

use crate::cli::variables::Variables;

/// Notation of the output.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum EnvFormat {
    /// For eval in a POSIX shell
    #[default]
    Shell,
    /// For .env files: Compose, Node, shells
    Dotenv,
    /// For --env-file of docker and podman run
    Docker,
    /// For the list `env:` of a container in Kubernetes, YAML
    K8s,
    /// For a drop-in of a systemd unit
    Systemd,
    /// For Invoke-Expression in PowerShell
    Powershell,
    /// One JSON object
    Json,
}

/// A value that a notation cannot express.
#[derive(Debug, thiserror::Error)]
#[error("the value of {name} {what}, which this format cannot express")]
pub(super) struct NotExpressible {
    name: &'static str,
    what: &'static str,
}

/// Writes the variables in their order.
///
/// # Errors
/// If a value is no UTF-8 (all but `Shell`), or has a line end (`Docker`).
pub(super) fn render(format: EnvFormat, variables: &Variables) -> Result<Vec<u8>, NotExpressible> {
    if format == EnvFormat::Shell {
        return Ok(export_lines(variables));
    }
    let mut set = Vec::new();
    for (name, value) in &variables.set {
        set.push((*name, value.to_str().ok_or(NotExpressible { name, what: "is no UTF-8" })?));
    }
    let lines = |line: fn(&str, &str) -> String| set.iter().map(|(name, value)| line(name, value)).collect();
    let text: String = match format {
        EnvFormat::Shell => String::new(),
        EnvFormat::Dotenv => lines(|name, value| format!("{name}={}\n", dotenv_quote(value))),
        EnvFormat::Docker => {
            if let Some((name, _)) = set.iter().find(|(_, value)| value.contains(['\n', '\r'])) {
                return Err(NotExpressible { name, what: "has a line end" });
            }
            lines(|name, value| format!("{name}={value}\n"))
        }
        EnvFormat::K8s => lines(kubernetes_entry),
        EnvFormat::Systemd => {
            format!("[Service]\n{}", lines(|name, value| format!("Environment={}\n", systemd_quote(name, value))))
        }
        // A single quote of PowerShell is doubled, and all else is literal (about_Quoting_Rules).
        EnvFormat::Powershell => lines(|name, value| format!("$env:{name} = '{}'\n", value.replace('\'', "''"))),
        EnvFormat::Json => json(&set),
    };
    Ok(text.into_bytes())
}

/// `export` lines for a POSIX shell.
///
/// One line per variable. Bytes, since values need not be UTF-8.
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

/// Quotes a value of a `.env` file: in single quotes, which all readers take literally, or in
/// double ones if it has a single quote.
///
/// The escapes within double quotes are those that shells and Compose share.
fn dotenv_quote(value: &str) -> String {
    if !value.contains('\'') {
        return format!("'{value}'");
    }
    let mut quoted = String::from("\"");
    for char in value.chars() {
        if matches!(char, '"' | '\\' | '$' | '`') {
            quoted.push('\\');
        }
        quoted.push(char);
    }
    quoted.push('"');
    quoted
}

/// An entry of `env:`. A JSON string is one of YAML, too (YAML 1.2 §1.3).
///
/// `$(NAME)` in a value is replaced by Kubernetes, unless the dollar is doubled (EnvVar v1 core).
fn kubernetes_entry(name: &str, value: &str) -> String {
    let value = serde_json::Value::from(value.replace("$(", "$$("));
    format!("- name: {name}\n  value: {value}\n")
}

/// An assignment for `Environment=` (systemd.exec(5), systemd.syntax(7), "Quoting"): in double
/// quotes, with escapes of C, and `%` doubled, which begins a specifier otherwise.
fn systemd_quote(name: &str, value: &str) -> String {
    let mut quoted = format!("\"{name}=");
    for char in value.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            '%' => quoted.push_str("%%"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            char if char.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(char))),
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

/// An object with the variables in their order, one a line.
fn json(set: &[(&str, &str)]) -> String {
    let members: Vec<String> = set
        .iter()
        .map(|(name, value)| format!("  {}: {}", serde_json::Value::from(*name), serde_json::Value::from(*value)))
        .collect();
    format!("{{\n{}\n}}\n", members.join(",\n"))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use std::process::Command;

    use super::*;

    const VALUES: [&str; 12] = [
        "",
        "plain",
        "a b",
        "it's",
        "$HOME `id` $(id) \\ \" !",
        "a\nb\n",
        "-n",
        "~",
        "*",
        "\u{e4}",
        "100%",
        "a\tb # c",
    ];

    fn one(value: &str) -> Variables {
        Variables { set: vec![("NAME", value.into())], notes: Vec::new() }
    }

    fn text(format: EnvFormat, value: &str) -> String {
        String::from_utf8(render(format, &one(value)).unwrap()).unwrap()
    }

    /// The value that a shell has after it has read the text.
    fn by_shell(text: Vec<u8>) -> String {
        let mut script = text;
        script.extend_from_slice(b"\nprintf %s. \"$NAME\"");
        let shell = Command::new("sh").arg("-c").arg(OsString::from_vec(script)).output().unwrap();
        String::from_utf8(shell.stdout).unwrap()
    }

    #[test]
    fn a_shell_takes_each_value_as_it_is() {
        for value in VALUES {
            assert_eq!(by_shell(text(EnvFormat::Shell, value).into()), format!("{value}."));
            assert_eq!(by_shell(text(EnvFormat::Dotenv, value).into()), format!("{value}."), "a .env file");
        }
    }

    #[test]
    fn what_needs_no_quotes_has_none() {
        let url = "http://127.0.0.1:8080";
        assert_eq!(text(EnvFormat::Shell, url), format!("export NAME={url}\n"));
        assert_eq!(text(EnvFormat::Docker, url), format!("NAME={url}\n"));
    }

    #[test]
    fn readers_of_json_and_yaml_get_each_value() {
        for value in VALUES {
            let json: serde_json::Value = serde_json::from_str(&text(EnvFormat::Json, value)).unwrap();
            assert_eq!(json, serde_json::json!({ "NAME": value }));
            let entry = text(EnvFormat::K8s, value);
            let scalar = entry.strip_prefix("- name: NAME\n  value: ").unwrap();
            let scalar: String = serde_json::from_str(scalar).unwrap();
            assert_eq!(scalar.replace("$$(", "$("), value);
        }
        assert_eq!(text(EnvFormat::K8s, "$(A) $$"), "- name: NAME\n  value: \"$$(A) $$\"\n");
    }

    #[test]
    fn systemd_and_powershell_read_the_value_back() {
        assert_eq!(
            text(EnvFormat::Systemd, "a b%\"\\\n$x\u{1}"),
            "[Service]\nEnvironment=\"NAME=a b%%\\\"\\\\\\n$x\\x01\"\n"
        );
        assert_eq!(text(EnvFormat::Powershell, "it's $x"), "$env:NAME = 'it''s $x'\n");
    }

    #[test]
    fn a_value_that_a_notation_cannot_express_is_named() {
        let error = render(EnvFormat::Docker, &one("a\nb")).unwrap_err();
        assert_eq!(error.to_string(), "the value of NAME has a line end, which this format cannot express");
        let bytes = Variables { set: vec![("NAME", OsString::from_vec(vec![0xff]))], notes: Vec::new() };
        assert!(render(EnvFormat::Json, &bytes).unwrap_err().to_string().contains("is no UTF-8"));
        assert_eq!(render(EnvFormat::Shell, &bytes).unwrap(), b"export NAME='\xff'\n");
    }
}
