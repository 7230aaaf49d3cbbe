//! Fuzz targets of the files that an operator writes: `proxy.toml` and the users file.

use std::path::Path;

use super::report::SourceText;
use super::{Report, Settings, parse, users};

/// Folder of relative paths, which does not exist.
const FOLDER: &str = "/nonexistent/lockgate-fuzz";

/// Settings that name files or the network of this machine: a random path may lead to a device.
const FILES: [&str; 10] =
    ["users", "cert", "key", "trust", "ca_dir", "dir", "password_file", "intercept", "file", "\\"];

/// Users file: every user of a valid file has a name and a hash of the documented form, is found on a line of the
/// file, and is found once; each line of a bad file has at most one report, which shows no password.
pub fn users_file(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let lines: Vec<&str> = text.lines().collect();
    match users::parse("users".to_owned(), &text) {
        Ok(found) => {
            assert!(!found.is_empty());
            let mut written = String::new();
            for (at, (name, hash)) in found.iter().enumerate() {
                assert!(users::is_name(name) && hash.len() == 60, "{name:?}");
                let named = lines.iter().filter(|line| {
                    let line = line.strip_prefix('\u{feff}').unwrap_or(line);
                    users::name_on(line) == Some(name)
                });
                assert_eq!(named.count(), 1, "{name:?} is not on one line");
                assert!(found[..at].iter().all(|(earlier, _)| earlier != name));
                written.push_str(&format!("{name}:{hash}\n"));
            }
            let again = users::parse("users".to_owned(), &written);
            assert!(matches!(again, Ok(again) if again == found), "what is written is not read back");
        }
        Err(reports) => {
            assert!(!reports.is_empty() && reports.len() <= lines.len().max(1));
            check_places(&reports, &text);
            // A password that a name contains tells nothing.
            let names =
                |line: &&str| line.split_once(':').map_or(format!("{line}\n"), |(name, _)| format!("{name}:***\n"));
            let without: String = lines.iter().map(names).collect();
            for report in &reports {
                let shown = report.to_string();
                let hidden = lines.iter().filter_map(|line| line.split_once(':')).map(|(_, rest)| rest.trim());
                // Reports show U+FFFD for control characters, so that only ASCII tells a password from others; and
                // carets below a line, so that those tell none.
                let is_ascii = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_graphic());
                let is_telling =
                    |rest: &str| rest.len() > 20 && is_ascii(rest) && rest.bytes().any(|byte| byte != b'^');
                let secrets = hidden.filter(|rest| is_telling(rest) && !without.contains(rest));
                assert!(secrets.into_iter().all(|secret| !shown.contains(secret)), "a password is shown");
            }
        }
    }
}

/// `proxy.toml`: either mistakes, each at a place of the file, or settings whose limits are valid; and the same ones
/// if it is read again.
pub fn proxy_toml(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if FILES.iter().any(|word| text.contains(word)) {
        return;
    }
    let read = || parse(&SourceText::new("proxy.toml".to_owned(), text.clone().into_owned()), Path::new(FOLDER));
    match (read(), read()) {
        (Ok(settings), Ok(again)) => {
            check_settings(&settings);
            assert_eq!(settings.gate.limits, again.gate.limits);
            check_places(&settings.warnings, &text);
        }
        (Err(reports), Err(again)) => {
            assert!(!reports.is_empty());
            assert_eq!(reports, again);
            check_places(&reports, &text);
        }
        (_, _) => panic!("the same file is read in two ways"),
    }
}

/// Checks what each part of the gateway takes for granted.
fn check_settings(settings: &Settings) {
    let limits = &settings.gate.limits;
    assert_eq!(
        (limits.len(), settings.explanations.len()),
        (settings.proxy.rules.len(), limits.len() + settings.proxy.timeouts.overrides.len())
    );
    for (at, limit) in limits.iter().enumerate() {
        assert!(limits[..at].iter().all(|earlier| earlier.name != limit.name), "two limits are named {}", limit.name);
        assert!(limit.rate.is_some() || limit.in_flight.is_some(), "{} limits nothing", limit.name);
        assert!(limit.in_flight != Some(0) && limit.max_keys > 0);
        if let Some(rate) = &limit.rate {
            assert!(rate.requests > 0 && !rate.per.is_zero(), "{}: {rate:?}", limit.name);
        }
    }
    assert!(!settings.listen.is_empty());
    // The locker takes the limits as they are.
    drop(crate::locker::Locker::new(limits.clone()));
}

/// Checks that each report is at a place of the text and can be shown.
fn check_places(reports: &[Report], text: &str) {
    for report in reports {
        assert!(report.line >= 1 && report.line <= text.lines().count().max(1) + 1, "{report:?}");
        assert!(report.column >= 1 && !report.message.is_empty());
        assert!(!report.to_string().is_empty());
    }
}
