//! The command line: what it checks, what it prints, how it ends.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use crate::support::gateway::{Dir, PROGRAM};
use crate::support::*;

fn run(dir: &Dir, args: &[&str]) -> Output {
    Command::new(PROGRAM)
        .args(args)
        .current_dir(dir.path())
        .env_remove("LOCKGATE_CONFIG")
        .stdin(Stdio::null())
        .output()
        .expect("the gateway was built")
}

fn all_of(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

const MISTAKES: &str = "[listen]
proxy = \"nowhere\"

[[limit]]
name     = \"a\"
requests = 0
per      = \"8 parsecs\"
windw    = \"sliding\"
counts   = \"guessed\"
max_wait = true
";

#[test]
fn a_check_names_every_mistake_with_its_place() {
    let dir = Dir::new();
    dir.write("proxy.toml", MISTAKES);
    let output = run(&dir, &["check", "-c", "proxy.toml"]);
    let text = all_of(&output);
    for (line, column, shown) in
        [(2, 9, "nowhere"), (6, 12, "= 0"), (7, 12, "parsecs"), (8, 1, "windw"), (9, 12, "guessed"), (10, 12, "= true")]
    {
        assert!(text.contains(&format!("proxy.toml:{line}:{column}")), "line {line}, column {column}: {text}");
        assert!(text.contains(shown), "the line itself is shown: {text}");
    }
    assert!(text.contains("`window`"), "it says what would be right: {text}");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_gateway_with_a_bad_file_does_not_start() {
    let dir = Dir::new();
    dir.write("proxy.toml", MISTAKES);
    let output = run(&dir, &["run", "-c", "proxy.toml"]);
    assert_eq!(output.status.code(), Some(2), "{}", all_of(&output));
    assert!(all_of(&output).contains("proxy.toml:7:12"));
    for command in ["run", "check"] {
        let output = run(&dir, &[command, "-c", "missing.toml"]);
        assert_eq!(output.status.code(), Some(2), "{}", all_of(&output));
        assert!(all_of(&output).contains("missing.toml"));
    }
}

#[test]
fn a_file_that_is_no_toml_is_shown_where_it_breaks() {
    let dir = Dir::new();
    dir.write("proxy.toml", "[[limit]]\nname = \"a\nrequests = 1\n");
    let output = run(&dir, &["check", "-c", "proxy.toml"]);
    assert!(all_of(&output).contains("proxy.toml:2:"), "{}", all_of(&output));
    assert!(!output.status.success());
}

#[test]
fn a_report_prints_no_control_characters_of_the_file() {
    let dir = Dir::new();
    for text in [
        "requests = \x1b[31mX\n",
        "[[limit]]\nname = \"a\x1b[31mb\"\n",
        "[[limit]]\n\"x\\u001b[31m\" = 1\n",
        "[\x1b[31m]\n",
    ] {
        dir.write("proxy.toml", text);
        let output = run(&dir, &["check", "-c", "proxy.toml"]);
        let shown = all_of(&output);
        assert_eq!(output.status.code(), Some(2), "{shown:?}");
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
    }
}

#[test]
fn a_wrong_file_is_2_for_every_command_that_reads_it() {
    let dir = Dir::new();
    dir.write("proxy.toml", "requests = \n");
    for args in [&["check"][..], &["run"], &["env"], &["exec", "--", "true"], &["ca", "show"], &["top"]] {
        for file in ["proxy.toml", "absent.toml"] {
            let output = run(&dir, &[args[..1].to_vec(), vec!["-c", file], args[1..].to_vec()].concat());
            assert_eq!(output.status.code(), Some(2), "{args:?} {file}: {}", all_of(&output));
        }
    }
}

#[test]
fn a_check_says_in_a_sentence_what_a_limit_means() {
    let dir = Dir::new();
    dir.write("proxy.toml", "[[limit]]\nmatch = { host = \"api.partner.example\" }\nrequests = 5\nper = \"800ms\"\n");
    let output = run(&dir, &["check"]);
    let text = all_of(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for part in ["5", "800", "https requests to api.partner.example: only their tunnels are counted"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_command_whose_output_nobody_reads_ends_as_if_it_were_read() {
    let dir = Dir::new();
    let listen = "[listen]\nproxy = \"127.0.0.1:8080\"\ntransparent = \"127.0.0.1:8079\"\n";
    dir.write("proxy.toml", &format!("{listen}{UNLIMITED}"));
    for command in [&["nft"][..], &["check"], &["env", "--proxy", "http://gate:8080"], &["demo"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut program = Command::new(PROGRAM);
        program.args(command).current_dir(dir.path()).env_remove("LOCKGATE_CONFIG").stdout(writer);
        let output = program.stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{command:?}: {}", all_of(&output));
    }
}

#[test]
fn a_check_sees_two_listeners_on_one_address() {
    let dir = Dir::new();
    dir.write("proxy.toml", &format!("{UNLIMITED}[admin]\nlisten = \"127.0.0.1:8080\"\n"));
    let output = run(&dir, &["check"]);
    let text = all_of(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("[listen] proxy has by default 127.0.0.1:8080 already"), "{text}");
}

/// Runs as a user that is not root and may not write `dir`; `None` if there is no way to be one.
fn run_as_nobody(dir: &Dir, args: &[&str]) -> Option<Output> {
    let mut command = Command::new(PROGRAM);
    command.args(args).current_dir(dir.path()).env_remove("LOCKGATE_CONFIG").stdin(Stdio::null());
    if rustix::process::geteuid().is_root() {
        // The user `nobody` of most systems.
        command.uid(65534).gid(65534);
    }
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o555)).unwrap();
    let output = command.output();
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    // The program may lie where only root gets.
    output.ok().filter(|output| output.status.code() != Some(127))
}

#[test]
fn a_check_warns_of_folders_that_cannot_be_written_and_no_other_command_does() {
    let dir = Dir::new();
    let intercept = "[tls]\nintercept = [\"elsewhere.example\"]\nca_dir = \"authority\"\n";
    dir.write("proxy.toml", &format!("{UNLIMITED}{intercept}"));
    let Some(output) = run_as_nobody(&dir, &["check"]) else { return };
    let text = all_of(&output);
    assert_eq!(output.status.code(), Some(0), "it may be another user's gateway: {text}");
    for folder in ["the state folder state needs", "no authority is in authority, and this user cannot make one"] {
        assert!(text.contains(folder), "{text}");
    }
    assert_eq!(text.matches("warning: ").count(), 2, "{text}");
    let Some(output) = run_as_nobody(&dir, &["env"]) else { return };
    assert!(!all_of(&output).contains("the state folder"), "{}", all_of(&output));
    // What the gateway's own user is told: the cause once, and what would be right.
    let Some(output) = run_as_nobody(&dir, &["run"]) else { return };
    let text = all_of(&output);
    assert_eq!((output.status.code(), text.matches("Permission denied").count()), (Some(1), 1), "{text}");
    let unusable = format!("the state folder {} cannot be used", dir.path().join("state").display());
    assert!(text.contains(&unusable) && text.contains("[state] dir"), "{text}");
}

#[test]
fn an_open_proxy_does_not_start() {
    let dir = Dir::new();
    dir.write("proxy.toml", &format!("[listen]\nproxy = \"0.0.0.0:0\"\n\n{UNLIMITED}"));
    let output = run(&dir, &["run"]);
    assert_eq!(output.status.code(), Some(2), "{}", all_of(&output));
    assert!(all_of(&output).contains("allow_from"), "{}", all_of(&output));
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    let dir = Dir::new();
    for args in [["--no-such"].as_slice(), &["no-such"], &["user"], &["check", "extra"]] {
        let output = run(&dir, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", all_of(&output));
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    for args in [["--help"].as_slice(), &["--version"], &["check", "--help"]] {
        let output = run(&dir, args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", all_of(&output));
        assert!(!output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn an_address_that_is_taken_is_a_failure_that_names_it() {
    let dir = Dir::new();
    let taken = Origin::start();
    dir.write("proxy.toml", &format!("[listen]\nproxy = \"{}\"\n\n{UNLIMITED}", taken.authority()));
    let output = run(&dir, &["run"]);
    assert_eq!(output.status.code(), Some(1), "{}", all_of(&output));
    assert!(all_of(&output).contains(&taken.authority()), "{}", all_of(&output));
}

#[test]
fn the_file_is_found_in_its_usual_places_in_order() {
    let dir = Dir::new();
    let means = |limit: &str| format!("[[limit]]\nname = \"{limit}\"\nrequests = 5\nper = \"1s\"\n");
    let check = |env: Option<&str>, args: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.arg("check").args(args).current_dir(dir.path()).env_remove("LOCKGATE_CONFIG");
        if let Some(path) = env {
            command.env("LOCKGATE_CONFIG", path);
        }
        all_of(&command.output().expect("the gateway was built"))
    };
    std::fs::create_dir(dir.path().join("config")).unwrap();
    dir.write("config/proxy.toml", &means("in-config"));
    assert!(check(None, &[]).contains("in-config"));
    dir.write("proxy.toml", &means("in-place"));
    assert!(check(None, &[]).contains("in-place"));
    dir.write("by-env.toml", &means("by-env"));
    assert!(check(Some("by-env.toml"), &[]).contains("by-env"));
    dir.write("by-flag.toml", &means("by-flag"));
    assert!(check(Some("by-env.toml"), &["-c", "by-flag.toml"]).contains("by-flag"));
}

#[test]
fn a_running_gateway_says_what_to_export() {
    let gateway = Gateway::start(UNLIMITED);
    let all = gateway.lines().join("\n").to_ascii_lowercase();
    assert!(all.contains(&format!("http_proxy=http://{}", gateway.addr)), "{all}");
}

#[test]
fn an_added_user_may_pass() {
    let dir = Dir::new();
    let toml = format!("{UNLIMITED}[access]\nusers = \"users\"\n");
    dir.write("proxy.toml", &format!("[listen]\nproxy = \"127.0.0.1:0\"\n\n{toml}"));
    add_user(&dir, "me", "pass word");
    add_user(&dir, "you", "other");
    let origin = Origin::start();
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(dir.path().join("users")).unwrap());
    assert_eq!(mode & 0o077, 0, "nobody else may read it: {mode:o}");
    let text = std::fs::read_to_string(dir.path().join("users")).unwrap();
    assert!(text.contains("me:$2") && text.contains("you:$2") && !text.contains("pass word"), "{text}");
    let gateway = Gateway::start_in(dir, &toml);
    for (name, password, status) in [("me", "pass word", 200), ("you", "other", 200), ("me", "other", 407)] {
        let answer = gateway.exchange(format!(
            "GET {} HTTP/1.1\r\nHost: a\r\nProxy-Authorization: {}\r\nConnection: close\r\n\r\n",
            origin.url("/"),
            basic(name, password)
        ));
        assert_eq!(answer.status, status, "{name} with {password}");
    }
}

/// Adds a user as a script does: the password on standard input.
fn add_user(dir: &Dir, name: &str, password: &str) {
    use std::io::Write as _;
    let mut child = Command::new(PROGRAM)
        .args(["user", "add", name])
        .current_dir(dir.path())
        .env_remove("LOCKGATE_CONFIG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the gateway was built");
    let mut stdin = child.stdin.take().unwrap();
    // Once more for whoever asks twice.
    stdin.write_all(format!("{password}\n{password}\n").as_bytes()).ok();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", all_of(&output));
    assert!(!all_of(&output).contains(password), "the password is not shown");
}

#[test]
fn a_limit_that_counts_nothing_is_told_of_at_a_check_a_start_and_a_reload() {
    let toml = limit(9, "1s", "").replace("127.0.0.1\"] }", "api.example\"], path = \"/v2/**\" }");
    let told = "this limit counts no https requests to api.example";
    let dir = Dir::new();
    dir.write("proxy.toml", &toml);
    let output = run(&dir, &["check", "-c", "proxy.toml"]);
    let text = all_of(&output);
    assert!(output.status.success() && text.contains("proxy.toml is valid"), "{text}");
    assert!(text.contains(&format!("warning: {told}")) && text.contains("--> proxy.toml:3:19"), "{text}");
    assert!(text.contains("add intercept = [\"api.example\"] to [tls]"), "{text}");
    let gateway = Gateway::start(&toml);
    eventually("it is told at the start", || gateway.stderr().contains(told));
    assert!(gateway.reload(&toml.replace("9", "8")));
    eventually("and at a reload", || gateway.stderr().matches(told).count() == 2);
    let opened = "[tls]\nintercept = [\"api.example\"]\n";
    assert!(gateway.reload(&(toml + opened)));
    assert_eq!(gateway.stderr().matches(told).count(), 2, "{}", gateway.stderr());
}

#[test]
fn a_demo_shows_that_the_sixth_of_seven_requests_waits_and_leaves_nothing() {
    let dir = Dir::new();
    std::fs::create_dir(dir.path().join("tmp")).unwrap();
    dir.write("tmp/here", "");
    let command = Command::new(PROGRAM)
        .arg("demo")
        .current_dir(dir.path())
        .env("TMPDIR", dir.path().join("tmp"))
        .stdin(Stdio::null())
        .output();
    let output = command.expect("the gateway was built");
    let text = all_of(&output);
    assert!(output.status.success(), "{text}");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .filter(|row: &Vec<_>| row.get(1) == Some(&"200"))
        .collect();
    assert_eq!(rows.len(), 7, "{text}");
    let arrived = |row: usize| rows[row][2].parse::<f64>().unwrap();
    assert!(arrived(5) >= 1.0 && arrived(5) > arrived(4), "{text}");
    assert!(text.contains("Most arrivals in any second: 5. The limit is 5."), "{text}");
    let left: Vec<_> =
        std::fs::read_dir(dir.path().join("tmp")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["here"]);
}
