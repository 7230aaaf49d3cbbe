//! Tests of mistakes: each is reported with its place and advice.

use super::*;

/// A valid limit, to which a mistake can be added on line 4.
const LIMIT: &str = "[[limit]]\nrequests = 5\nper = \"1s\"\n";

/// An expected report: line, column, width, message, and the beginning of the advice.
type Expected<'a> = (usize, usize, usize, &'a str, &'a str);

/// Splits a file of `mistakes.txt` into its text and the reports that its lines with carets expect.
fn split(marked: &str) -> (String, Vec<Expected<'_>>) {
    let (mut text, mut reported, mut line_number) = (String::new(), Vec::new(), 0);
    for line in marked.lines() {
        let rest = line.trim_start_matches(' ');
        if !rest.starts_with('^') {
            text.push_str(line);
            text.push('\n');
            line_number += 1;
            continue;
        }
        let column = line.len() - rest.len() + 1;
        let words = rest.trim_start_matches('^');
        let (message, advice) = words.trim().split_once(" | ").unwrap();
        reported.push((line_number, column, rest.len() - words.len(), message, advice));
    }
    (text, reported)
}

#[test]
fn every_mistake_is_told_in_one_run_with_its_place_and_what_would_be_right() {
    let files: Vec<_> = include_str!("mistakes.txt").split("\n=== ").skip(1).collect();
    assert!(files.len() > 15, "only {} files were found", files.len());
    for file in files {
        let (title, marked) = file.split_once('\n').unwrap();
        let (text, reported) = split(marked);
        let reports = bad(&text);
        let found = reports.iter().map(|r| (r.line, r.column, r.width(), r.message.as_str()));
        let wanted = reported.iter().map(|(line, column, width, message, _)| (*line, *column, *width, *message));
        let (found, wanted): (Vec<_>, Vec<_>) = (found.collect(), wanted.collect());
        assert_eq!(found, wanted, "{title}\n{}", join_reports(&reports));
        for (report, (.., advice)) in reports.iter().zip(reported) {
            assert!(report.advice.starts_with(advice), "{title}: {:?} should begin with {advice:?}", report.advice);
        }
    }
}

#[test]
fn a_mistake_is_shown_with_its_line_and_a_caret() {
    let shown = join_reports(&bad("[[limit]]\nrequests = 5\nper      = 1\n"));
    let wanted = "error: `per` cannot be a whole number\n  --> proxy.toml:3:12\n   |\n 3 | per      = 1\n   |            ^ a duration in ms, s, m, h or d, such as \"250ms\" or \"1m\", from 1ms to 366d\n\n1 error";
    assert_eq!(shown, wanted);
}

#[test]
fn a_host_or_path_that_cannot_be_matched_is_told() {
    let hosts = bad(&format!("{LIMIT}match = {{ host = \"https://a.example\" }}\n"));
    assert_eq!((hosts.len(), hosts[0].line, hosts[0].column), (1, 4, 18));
    assert!(hosts[0].message.starts_with("\"https://a.example\" is not a host: "), "{}", hosts[0].message);
    let paths = bad(&format!("{LIMIT}match = {{ path = \"v2\" }}\n"));
    assert_eq!((paths.len(), paths[0].line, paths[0].column), (1, 4, 18));
    assert!(paths[0].message.starts_with("\"v2\" is not a path pattern: "), "{}", paths[0].message);
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let missing = bad("[tls]\ntrust = [\"none.pem\"]\n[access]\nusers = \"none\"\n");
    let places: Vec<_> = missing.iter().map(|r| (r.line, r.column)).collect();
    assert_eq!(places, [(2, 10), (4, 9)]);
    assert!(missing[0].message.starts_with("cannot read none.pem: "), "{}", missing[0].message);
    assert!(missing[1].message.starts_with("cannot read none: "), "{}", missing[1].message);
    assert!(missing[1].advice.contains("lockgate user add NAME"));
}

#[test]
fn what_is_wrong_in_other_files_is_told_with_their_names() {
    let folder = folder("other-files");
    std::fs::write(folder.join("bad-users"), "ana\n\nbo:secret\n").unwrap();
    std::fs::write(folder.join("empty.pem"), "nothing\n").unwrap();
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(folder.join("broken.pem"), broken).unwrap();
    let text = "[access]\nusers = \"bad-users\"\n[tls]\ntrust = [\"empty.pem\", \"internal-ca.pem\", \"broken.pem\"]\n";
    let reports = parse_in(&folder, text).unwrap_err();
    let shown = |name: &str| folder.join(name).display().to_string();
    let reported: Vec<_> = reports.iter().map(|r| (r.file.clone(), r.line, r.column)).collect();
    let users = shown("bad-users");
    assert_eq!(
        reported,
        [("proxy.toml".to_owned(), 4, 10), ("proxy.toml".to_owned(), 4, 42), (users.clone(), 1, 1), (users, 3, 1)]
    );
    assert_eq!(reports[0].message, format!("{} holds no certificate", shown("empty.pem")));
    assert!(
        reports[1].message.starts_with(&format!("{} holds no certificate that can be trusted", shown("broken.pem")))
    );
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn an_empty_file_is_told_what_the_smallest_useful_one_is() {
    for text in ["", "\n\n", "# nothing\n"] {
        let reports = bad(text);
        assert_eq!((reports.len(), reports[0].line, reports[0].column), (1, 1, 1));
        let example = reports[0].advice.split_once("is\n").unwrap().1;
        assert_eq!(good(example).gate.limits.len(), 1, "what it advises is right");
    }
}

#[test]
fn a_file_without_limits_is_allowed_but_hardly_meant() {
    let settings = good("[log]\n");
    assert_eq!(settings.warnings.len(), 1);
    assert_eq!(settings.warnings[0].message, "there is no [[limit]], so everything goes at once");
    assert!(good(LIMIT).warnings.is_empty());
}

#[test]
fn a_file_that_is_not_utf_8_is_told_where() {
    let folder = folder("utf8");
    let path = folder.join("proxy.toml");
    std::fs::write(&path, b"[[limit]]\nname = \"\xff\"\n").unwrap();
    let Err(Error::Invalid(reports)) = read(&path) else { panic!("it is accepted") };
    assert_eq!((reports[0].line, reports[0].column), (2, 9));
    assert!(matches!(read(&folder.join("none.toml")), Err(Error::Read { .. })));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_a_limit_cannot_be_counted_per() {
    let wrong = [
        "ip",
        "path[0]",
        "path[01]",
        "path[65]",
        "path[-1]",
        "path[]",
        "path[1",
        "header:",
        "header:a b",
        "query:",
        "cookie:a",
    ];
    for part in wrong {
        let reports = bad(&format!("{LIMIT}key = [\"host\", \"{part}\"]\n"));
        assert_eq!((reports.len(), reports[0].line, reports[0].column), (1, 4, 16), "{part}");
        assert_eq!(reports[0].message, format!("`key` cannot be {part:?}"));
        let right = "\"host\", \"caller\", \"method\", \"path[1]\", \"header:NAME\" or \"query:NAME\"";
        assert_eq!(reports[0].advice, right);
    }
}

#[test]
fn what_a_route_cannot_lead_to() {
    let wrong = "api.example ftp://a.example http:// http://u@a.example http://u:p@a.example http://a.example/?q http://[::1]x \
        http://a.example/#f http://a.example:0 http://a.example:99999 http://a.example:+80 http://[::1 \
        http://[1.2.3.4] http://a..b http://0x7f.1 http://a.example?q http://a.example/* http://\u{e4}.example http://a%20b";
    for to in wrong.split_whitespace() {
        let reports = bad(&format!("[[route]]\nhost = \"g.example\"\nto = \"{to}\"\n"));
        assert_eq!((reports.len(), reports[0].line, reports[0].column), (1, 3, 6), "{to}");
        assert!(reports[0].advice.starts_with("an http, https or h2c URL"));
    }
}

#[test]
fn a_gateway_for_everybody_is_allowed_with_a_warning() {
    let text =
        "[[limit]]\nin_flight = 1\n[listen]\nproxy = \"[::]:80\"\n[access]\nallow_from = [\"10.0.0.0/8\", \"::/0\"]\n";
    let warnings = good(text).warnings;
    let reported: Vec<_> = warnings.iter().map(|w| (w.severity, w.line, w.column, w.message.as_str())).collect();
    assert_eq!(reported, [(Severity::Warning, 6, 29, "callers from all addresses may use this gateway")]);
}

#[test]
fn an_allowed_address_that_stays_denied_is_told() {
    let warnings = good(
        "[[limit]]\nin_flight = 1\n[access]\ndeny_addresses = \"10.1.0.0/16\"\n\
         allow_addresses = [\"10.0.0.0/8\", \"10.1.2.0/24\", \"169.254.0.0/24\", \"169.254.169.254\", \"fe80::/64\"]\n",
    )
    .warnings;
    let reported: Vec<_> = warnings.iter().map(|w| (w.severity, w.line, w.column, w.message.as_str())).collect();
    let wanted = [
        (Severity::Warning, 5, 34, "10.1.2.0/24 stays denied: `deny_addresses` has 10.1.0.0/16"),
        (Severity::Warning, 5, 49, "169.254.0.0/24 stays denied: metadata services of clouds are there"),
        (Severity::Warning, 5, 86, "fe80::/64 stays denied: metadata services of clouds are there"),
    ];
    assert_eq!(reported, wanted);
}

#[test]
fn a_wildcard_for_hosts_of_a_private_network_is_told_that_it_opens_none() {
    let read = |listen: &str, access: &str| {
        let hosts =
            "\"*.api.example\", \"*.corp.internal\", \"*.prod.svc.cluster.local:80\", \"db.internal\", \"*.notlocal\"";
        let limit = format!("[[limit]]\nin_flight = 1\nmatch = {{ host = [{hosts}] }}\n");
        good(&format!("{limit}[listen]\nproxy = \"{listen}:80\"\n[access]\nallow_from = \"10.0.0.0/8\"\n{access}"))
            .warnings
    };
    let warnings = read("0.0.0.0", "");
    let reported: Vec<_> = warnings.iter().map(|w| (w.severity, w.line, w.column)).collect();
    assert_eq!(reported, [(Severity::Warning, 3, 36), (Severity::Warning, 3, 55)]);
    assert!(warnings[0].message.starts_with("a wildcard does not open private addresses"), "{}", warnings[0].message);
    assert!(read("127.0.0.1", "").is_empty(), "on loopback only, all addresses are open");
    assert!(read("0.0.0.0", "allow_addresses = \"10.0.0.0/8\"\n").is_empty());
}

#[test]
fn a_shared_limit_that_has_no_part_when_the_store_is_lost_is_said_to_have_none() {
    let reported = |limit: &str, timeouts: &str| {
        let store = "[store]\nurl = \"redis://10.0.0.5\"\nif_store_is_lost = \"share\"\ngateways = 2\nname = \"a\"\n";
        let text =
            format!("[[limit]]\nrequests = 9\nper = \"1s\"\nshared = true\n{limit}\n{store}[timeouts]\n{timeouts}\n");
        good(&text).warnings.into_iter().map(|warning| warning.message).collect::<Vec<_>>()
    };
    assert!(reported("", "").is_empty());
    let answered = "counts = \"answered\"";
    let warnings = reported(answered, "");
    assert!(
        matches!(&warnings[..], [one] if one.contains("any time up to its response, so it has no shares")),
        "{warnings:?}"
    );
    assert!(reported(answered, "request = \"1m\"").is_empty());
    let warnings = reported("in_flight = 3", "request = \"1m\"");
    assert!(matches!(&warnings[..], [one] if one.contains("its responses may take any time")), "{warnings:?}");
}
