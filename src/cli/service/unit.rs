//! Texts of the systemd units that `lockgate service install` writes: those of the packages, with
//! the paths of this installation.

use std::path::Path;

/// First line of a file that this command wrote. Other files are neither replaced nor removed.
pub(super) const MARK: &str =
    "# Written by `lockgate service install`, which replaces or removes this file as long as this line stands.\n";

/// Unit of the system, as packages install it.
const SYSTEM: &str = include_str!("../../../packaging/systemd/lockgate.service");
/// Unit of one user.
const USER: &str = include_str!("../../../packaging/systemd/user/lockgate.service");
/// The service's user, for systemd-sysusers(8).
const SYSUSERS: &str = include_str!("../../../packaging/systemd/sysusers.conf");
/// Command line in both units, which is replaced.
const PACKAGED_COMMAND: &str = "/usr/bin/lockgate run -c /etc/lockgate/proxy.toml";

/// Owner of the service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scope {
    /// systemd's system manager.
    System,
    /// The manager of the user that runs the command.
    User,
}

/// The unit for a program and its configuration, both with absolute paths.
pub(super) fn service(scope: Scope, program: &Path, config: &Path) -> String {
    let text = match scope {
        Scope::System => SYSTEM,
        Scope::User => USER,
    };
    // systemd replaces no variables in the path of the program (systemd.service(5), "Command lines").
    let program = quote(&program.to_string_lossy().replace('%', "%%"));
    let config = quote(&config.to_string_lossy().replace('%', "%%").replace('$', "$$"));
    format!("{MARK}{}", text.replace(PACKAGED_COMMAND, &format!("{program} run -c {config}")))
}

/// The file for systemd-sysusers.
pub(super) fn sysusers() -> String {
    format!("{MARK}{SYSUSERS}")
}

/// Quotes a word of a command line, if it needs that (systemd.syntax(7), "Quoting").
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+@:=,%$".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_units_start_this_program_with_this_file() {
        for scope in [Scope::System, Scope::User] {
            let unit = service(scope, Path::new("/opt/lock gate/100%"), Path::new("/srv/$x/\"a\".toml"));
            let starts: Vec<_> = unit.lines().filter(|line| line.starts_with("ExecStart=")).collect();
            assert_eq!(starts, [r#"ExecStart="/opt/lock gate/100%%" run -c "/srv/$$x/\"a\".toml""#]);
            assert!(!unit.contains("/usr/bin/lockgate"), "{unit}");
        }
    }
}
