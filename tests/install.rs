//! Parts of the program that an installation needs: a first configuration, a service, completions, manual pages.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::gateway::{Dir, PROGRAM};
use crate::support::*;

/// Runs the program in `dir` with these lines as its input.
fn run_with(dir: &Dir, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(PROGRAM)
        .args(args)
        .current_dir(dir.path())
        .env_remove("LOCKGATE_CONFIG")
        .env("HOME", dir.path())
        .env("XDG_CONFIG_HOME", dir.path().join("config"))
        .env("PATH", format!("{}:{}", dir.path().join("bin").display(), std::env::var("PATH").unwrap()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the gateway was built");
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    child.wait_with_output().unwrap()
}

fn run(dir: &Dir, args: &[&str]) -> Output {
    run_with(dir, args, "")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn read(dir: &Dir, name: &str) -> String {
    fs::read_to_string(dir.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The lines that are neither empty nor comments.
fn settings(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn init_asks_three_questions_and_writes_a_file_that_check_explains() {
    let dir = Dir::new();
    let output = run_with(&dir, &["init"], "api.example.com\n5 per 800ms\n\n");
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(err(&output).matches('?').count(), 3, "{}", err(&output));
    let text = read(&dir, "proxy.toml");
    let expected = [
        "[listen]",
        "proxy = \"127.0.0.1:8080\"",
        "[[limit]]",
        "name = \"api.example.com\"",
        "match = { host = \"api.example.com\" }",
        "requests = 5",
        "per = \"800ms\"",
        "max_wait = \"30s\"",
        "[tls]",
        "intercept = [\"api.example.com\"]",
    ];
    assert_eq!(settings(&text), expected, "{text}");
    assert!(text.lines().filter(|line| line.starts_with("# ")).count() >= 6, "it is commented: {text}");
    let check = run(&dir, &["check"]);
    assert_eq!(check.status.code(), Some(0), "{}", err(&check));
    assert!(out(&check).contains("at most 5 in any 800 ms"), "{}", out(&check));
    assert!(!err(&check).contains("warning"), "{}", err(&check));
}

#[test]
fn init_asks_again_after_an_answer_that_cannot_be_right_and_gives_up_after_three() {
    let dir = Dir::new();
    let output = run_with(&dir, &["init", "--mode", "forward"], "ftp://x\napi.example.com\nmany\n5/s\n");
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(err(&output).contains("the scheme is ftp") && err(&output).contains("such as 5/1s"), "{}", err(&output));
    assert!(read(&dir, "proxy.toml").contains("per      = \"1s\""));
    let output = run_with(&dir, &["init", "--output", "b.toml"], "ftp://x\n\nftp://y\napi.example.com\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("--host gives it"), "{}", err(&output));
    // A script without answers is told so, instead of being kept waiting.
    let output = run(&dir, &["init", "--output", "b.toml"]);
    assert_eq!((output.status.code(), dir.path().join("b.toml").exists()), (Some(1), false), "{}", err(&output));
}

#[test]
fn init_with_flags_asks_nothing_and_its_reverse_gateway_limits_requests() {
    let (dir, origin) = (Dir::new(), Origin::start());
    let flags = ["init", "--host", &origin.url("/"), "--rate", "2/10m", "--mode", "reverse", "--listen", "127.0.0.1:0"];
    let output = run(&dir, &flags);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(!err(&output).contains('?'), "{}", err(&output));
    let text = read(&dir, "proxy.toml");
    let gateway = Gateway::start_in(dir, &text);
    let statuses = [1, 2, 3].map(|_| {
        let mut caller = gateway.caller();
        caller.send(format!("GET /a HTTP/1.1\r\nHost: {}\r\nPrefer: wait=0\r\n\r\n", gateway.addr)).answer().status
    });
    assert_eq!(statuses, [200, 200, 429]);
    assert_eq!(gateway.get(&origin.url("/").replace("127.0.0.1", "127.0.0.2")).status, 403, "only the route is served");
}

#[test]
fn init_keeps_an_existing_file_unless_it_is_forced_and_writes_to_stdout() {
    let dir = Dir::new();
    dir.write("proxy.toml", "# mine\n");
    let flags = ["init", "--host", "api.example.com", "--rate", "5/1s"];
    let output = run(&dir, &flags);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("proxy.toml exists already") && err(&output).contains("--force"), "{}", err(&output));
    assert_eq!(read(&dir, "proxy.toml"), "# mine\n");
    let printed = run(&dir, &[&flags[..], &["--output", "-"]].concat());
    assert_eq!(read(&dir, "proxy.toml"), "# mine\n");
    let output = run(&dir, &[&flags[..], &["--force"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(read(&dir, "proxy.toml"), out(&printed));
    // A folder that is missing is made.
    let output = run(&dir, &[&flags[..], &["--output", "new/folder/proxy.toml"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(read(&dir, "new/folder/proxy.toml"), out(&printed));
}

#[test]
fn every_answer_of_init_gives_a_valid_file_or_a_reason() {
    let dir = Dir::new();
    let open = ["--listen", "0.0.0.0:8080", "--allow-from", "10.0.0.0/8", "--allow-from", "::1"];
    for more in [
        &["--host", "*.example.com", "--rate", "100/minute"][..],
        &["--host", "https://api.example.com:8443/v1", "--rate", "10000/1d"],
        &["--host", "https://api.example.com/v1", "--rate", "5/2s", "--mode", "reverse"],
        &["--host", "http://api.example.com", "--rate", "007/s"],
        &["--host", "*", "--rate", "5 per 2 seconds"],
        &[&["--host", "api.example.com", "--rate", "5/h"], &open[..]].concat(),
        &[&["--host", "api.example.com", "--rate", "5/h", "--mode", "reverse"], &open[..]].concat(),
    ] {
        let output = run(&dir, &[&["init", "--force", "-o", "a.toml"], more].concat());
        assert_eq!(output.status.code(), Some(0), "{more:?}: {}", err(&output));
        let check = run(&dir, &["check", "-c", "a.toml"]);
        assert_eq!(check.status.code(), Some(0), "{more:?}: {}", err(&check));
    }
    for (more, reason) in [
        (&["--host", "*.example.com", "--rate", "5/s", "--mode", "reverse"][..], "one host"),
        (&["--host", "a b", "--rate", "5/s"], "no host"),
        (&["--host", "me@api.example.com", "--rate", "5/s"], "without user"),
        (&["--host", "api.example.com", "--rate", "5"], "such as 5/1s"),
        (&["--host", "api.example.com", "--rate", "0/s"], "requests"),
        (&["--host", "api.example.com", "--rate", "5/parsec"], "parsec"),
        (&["--host", "api.example.com", "--rate", "5/s", "--listen", "here"], "here"),
        (&["--host", "api.example.com", "--rate", "5/s", "--listen", "0.0.0.0:1"], "allow_from"),
    ] {
        let output = run(&dir, &[&["init", "-o", "b.toml"], more].concat());
        assert_eq!(output.status.code(), Some(2), "{more:?}: {}", err(&output));
        assert!(err(&output).contains(reason), "{more:?}: {}", err(&output));
        assert!(!dir.path().join("b.toml").exists());
    }
}

/// Puts a `systemctl` into the folder's `bin` that notes its arguments.
fn fake_systemctl(dir: &Dir) {
    fs::create_dir_all(dir.path().join("bin")).unwrap();
    let script = format!("#!/bin/sh\necho \"$*\" >> {}\n", dir.path().join("calls").display());
    let path = dir.write("bin/systemctl", &script);
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn service_install_writes_a_unit_of_the_user_and_uninstall_removes_it() {
    let dir = Dir::new();
    fake_systemctl(&dir);
    dir.write("proxy.toml", UNLIMITED);
    let unit = dir.path().join("config/systemd/user/lockgate.service");
    let dry = run(&dir, &["service", "install", "--user", "--now", "--dry-run"]);
    assert_eq!(dry.status.code(), Some(0), "{}", err(&dry));
    assert!(!unit.exists() && !dir.path().join("calls").exists());
    let output = run(&dir, &["service", "install", "--user", "--now"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let text = fs::read_to_string(&unit).unwrap();
    let start = format!("ExecStart={PROGRAM} run -c {}\n", dir.path().join("proxy.toml").display());
    assert!(text.contains(&start), "{text}");
    assert!(!text.lines().any(|line| line.starts_with("User=") || line.starts_with("Protect")), "{text}");
    assert_eq!(read(&dir, "calls"), "--user daemon-reload\n--user enable --now lockgate.service\n");
    for step in ["write ", "run systemctl --user daemon-reload"] {
        assert!(out(&output).contains(step) && out(&dry).contains(step), "{}", out(&output));
    }
    assert!(out(&dry).contains("    Type=notify"), "a dry run shows the text: {}", out(&dry));
    // Once more, as after an upgrade; then away with it.
    assert_eq!(run(&dir, &["service", "install", "--user"]).status.code(), Some(0));
    let output = run(&dir, &["service", "uninstall", "--user"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(!unit.exists() && dir.path().join("proxy.toml").exists());
    assert!(read(&dir, "calls").ends_with("--user disable --now lockgate.service\n--user daemon-reload\n"));
    assert_eq!(run(&dir, &["service", "uninstall", "--user"]).status.code(), Some(0), "nothing is left to do");
}

#[test]
fn service_install_leaves_units_of_others_alone() {
    let dir = Dir::new();
    fake_systemctl(&dir);
    dir.write("proxy.toml", UNLIMITED);
    fs::create_dir_all(dir.path().join("config/systemd/user")).unwrap();
    let unit = dir.write("config/systemd/user/lockgate.service", "[Unit]\n");
    for command in ["install", "uninstall"] {
        let output = run(&dir, &["service", command, "--user"]);
        assert_eq!(output.status.code(), Some(1), "{}", out(&output));
        assert!(err(&output).contains("was not written by this command"), "{}", err(&output));
        assert_eq!(fs::read_to_string(&unit).unwrap(), "[Unit]\n");
    }
    assert!(!dir.path().join("calls").exists());
    assert_eq!(run(&dir, &["service", "install", "--user", "--force"]).status.code(), Some(0));
    assert!(fs::read_to_string(&unit).unwrap().contains("Type=notify"));
    // A failure of systemd is one of the command.
    dir.write("bin/systemctl", "#!/bin/sh\nexit 3\n");
    let output = run(&dir, &["service", "install", "--user"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("systemctl --user daemon-reload failed"), "{}", err(&output));
}

#[test]
fn service_install_for_the_system_is_the_unit_of_the_packages_with_other_paths() {
    let dir = Dir::new();
    fake_systemctl(&dir);
    let root = dir.path().join("image");
    let install = ["service", "install", "--root", "image", "--program", "/usr/local/bin/lockgate"];
    let output = run(&dir, &install);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packaged = fs::read_to_string(repository.join("packaging/systemd/lockgate.service")).unwrap();
    let written = fs::read_to_string(root.join("etc/systemd/system/lockgate.service")).unwrap();
    let (mark, unit) = written.split_once('\n').unwrap();
    assert!(mark.starts_with("# Written by `lockgate service install`"), "{mark}");
    assert_eq!(unit, packaged.replace("/usr/bin/lockgate", "/usr/local/bin/lockgate"));
    let users = fs::read_to_string(root.join("etc/sysusers.d/lockgate.conf")).unwrap();
    assert!(users.contains("\nu lockgate "), "{users}");
    assert!(!dir.path().join("calls").exists(), "systemd of this system is not concerned");
    // A package's unit is not put into its own shadow.
    fs::create_dir_all(root.join("usr/lib/systemd/system")).unwrap();
    fs::write(root.join("usr/lib/systemd/system/lockgate.service"), packaged).unwrap();
    let output = run(&dir, &install);
    assert!(err(&output).contains("a package has installed"), "{}", err(&output));
    let output = run(&dir, &["service", "uninstall", "--root", "image"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(!root.join("etc/systemd/system/lockgate.service").exists());
    assert!(root.join("usr/lib/systemd/system/lockgate.service").exists());
}

#[test]
fn service_install_names_what_the_unit_cannot_reach() {
    let dir = Dir::new();
    for (args, path) in [
        (["--program", "/home/me/.cargo/bin/lockgate"], "/home/me/.cargo/bin/lockgate"),
        (["--program", "/tmp/lockgate"], "/tmp/lockgate"),
        (["-c", "/root/proxy.toml"], "/root/proxy.toml"),
    ] {
        let program = ["--program", "/usr/bin/lockgate"];
        let named = if args[0] == "-c" { [&args[..], &program].concat() } else { args.to_vec() };
        let output = run(&dir, &[&["service", "install", "--root", "image"], &named[..]].concat());
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let text = err(&output);
        assert!(text.contains(&format!("cannot reach {path}")) && text.contains("copy it to"), "{text}");
    }
    assert!(!dir.path().join("image").exists());
}

#[test]
fn bash_completes_commands_and_options() {
    let dir = Dir::new();
    for (shell, part) in
        [("bash", "complete -F _lockgate"), ("zsh", "#compdef lockgate"), ("fish", "complete -c lockgate")]
    {
        let script = run(&dir, &["completions", shell]);
        assert_eq!(script.status.code(), Some(0), "{}", err(&script));
        assert!(out(&script).contains(part), "{shell}: {}", out(&script));
        dir.write(&format!("lockgate.{shell}"), &out(&script));
    }
    let complete = |words: &str| {
        let count = words.split(' ').count() - 1;
        let script = format!(
            "source lockgate.bash; COMP_WORDS=({words} ); COMP_CWORD={count}; \
             _lockgate lockgate \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; echo \"${{COMPREPLY[*]}}\""
        );
        let output = Command::new("bash").args(["-c", &script]).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", err(&output));
        out(&output).trim().to_owned()
    };
    assert_eq!(complete("lockgate ini"), "init");
    assert_eq!(complete("lockgate init --mo"), "--mode");
    assert!(
        complete("lockgate init --mode ''").starts_with("forward reverse"),
        "{}",
        complete("lockgate init --mode ''")
    );
    assert!(complete("lockgate ''").contains(" init check demo "), "{}", complete("lockgate ''"));
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = Dir::new();
    assert_eq!(run(&dir, &["man", "pages"]).status.code(), Some(0));
    let mut names: Vec<String> = fs::read_dir(dir.path().join("pages"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    for name in ["lockgate.1", "lockgate-run.1", "lockgate-init.1", "lockgate-ca-show.1", "lockgate-service-install.1"]
    {
        assert!(names.iter().any(|other| other == name), "{names:?}");
    }
    let help = out(&run(&dir, &["--help"]));
    let commands = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    for command in commands.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()) {
        assert!(
            command == "help" || command.is_empty() || names.contains(&format!("lockgate-{command}.1")),
            "{command}: {names:?}"
        );
    }
    let page = read(&dir, "pages/lockgate.1");
    for part in [".SH FILES", ".SH SIGNALS", ".SH EXIT STATUS", "/etc/lockgate/proxy.toml", "lockgate\\-init(1)"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert_eq!(out(&run(&dir, &["man"])), page, "the same page without a folder");
    // The same version gives the same bytes.
    assert_eq!(run(&dir, &["man", "again"]).status.code(), Some(0));
    for name in &names {
        assert_eq!(read(&dir, &format!("pages/{name}")), read(&dir, &format!("again/{name}")));
    }
}
