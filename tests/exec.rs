//! `lockgate exec`: programs that use the gateway without a change, and a gateway that is there for them.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

use rustix::process::{Signal, kill_process, kill_process_group};

use crate::support::gateway::{Dir, PROGRAM};
use crate::support::program::{Program, Stage, counted, err, out};
use crate::support::*;

/// Asks the origin through the gateway, and prints the status.
fn curl(origin: &Origin) -> String {
    format!("curl -sS -o /dev/null -w '%{{http_code}}' {}", origin.url("/"))
}

#[test]
fn the_programs_end_is_the_end_of_exec() {
    let stage = Stage::at(0, &counted());
    for code in [0, 1, 7, 255] {
        let output = stage.shell(&format!("exit {code}")).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", err(&output));
    }
    let output = stage.shell("kill -TERM $$").output().unwrap();
    assert_eq!(output.status.signal(), Some(15), "as if there were no exec; shells call it 143");
    let output = stage.command(&[]).args(["exec", "sh", "-c", "exit 3"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "the two dashes may be left out");
}

#[test]
fn a_program_that_cannot_be_run_is_told_apart() {
    let stage = Stage::at(0, &counted());
    let file = stage.dir.write("no-program", "just text\n");
    for (program, code) in
        [("no-such-program", 127), ("./neither/this", 127), (file.to_str().unwrap(), 126), ("/", 126)]
    {
        let output = stage.exec(&[program, "--flag"]).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{program}: {}", err(&output));
        assert!(err(&output).contains(&format!("cannot run {program}: ")), "{}", err(&output));
        assert!(output.stdout.is_empty());
    }
    for args in [&["exec"][..], &["exec", "--"], &["exec", "--no-such", "true"]] {
        let output = stage.command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", err(&output));
    }
    let output = stage.command(&["exec", "-c", "missing.toml", "--", "echo", "run"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", err(&output));
    assert!(output.stdout.is_empty() && err(&output).contains("missing.toml"), "{}", err(&output));
}

#[test]
fn what_the_program_reads_and_writes_is_its_own() {
    let stage = Stage::at(0, &counted());
    let mut child = stage.shell("cat; echo complaint >&2").stdin(Stdio::piped()).spawn().unwrap();
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let mut stdin = child.stdin.take().unwrap();
    let sent = bytes.clone();
    let sender = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let output = child.wait_with_output().unwrap();
    sender.join().unwrap();
    assert!(output.stdout == bytes, "{} bytes came back", output.stdout.len());
    assert!(err(&output).starts_with("complaint\nlockgate: no request came"), "{}", err(&output));
    assert_eq!(err(&output).lines().count(), 2);
}

#[test]
fn a_program_that_made_no_request_is_told_of_at_its_end() {
    let origin = Origin::start();
    let quiet = |stage: &Stage, script: &str| {
        let output = stage.shell(script).output().unwrap();
        err(&output)
    };
    let running = |port| Gateway::start(&format!("[listen]\nproxy = \"127.0.0.1:{port}\"\n\n{}", counted()));
    let port = free_port();
    let gateway = running(port);
    for stage in [Stage::new(&counted()), Stage::at(0, &counted()), Stage::at(port, &counted())] {
        for script in ["true", "exit 3", "kill -KILL $$"] {
            let told = quiet(&stage, script);
            assert!(told.starts_with("lockgate: no request came to the gateway at 127.0.0.1:"), "{script}: {told}");
            assert!(told.contains(" while env ran: ") && told.lines().count() == 1, "{script}: {told}");
        }
        assert_eq!(quiet(&stage, &curl(&origin)), "", "one that was answered");
        assert_eq!(quiet(&stage, "curl -sS -o /dev/null http://127.0.0.1:1/"), "", "one that was not");
        assert_eq!(quiet(&stage, "curl -sS -o /dev/null https://127.0.0.1:1/ 2>/dev/null"), "", "a tunnel");
        let output = stage.exec(&["no-such-program"]).output().unwrap();
        assert!(err(&output).contains("cannot run") && !err(&output).contains("no request"), "{}", err(&output));
    }
    drop(gateway);
}

#[test]
fn a_gateway_is_started_for_a_program_and_ends_with_it() {
    let (stage, origin) = (Stage::new(&counted()), Origin::start());
    let program = stage.waiting();
    assert_eq!(program.proxy, format!("http://127.0.0.1:{}", stage.port));
    assert_eq!(stage.gateways().len(), 1);
    let (text, status) = program.then(&curl(&origin));
    assert_eq!((text.as_str(), status.code()), ("200", Some(0)));
    assert!(origin.requests()[0].all("via").any(|via| via.contains("lockgate")), "it went through us");
    stage.no_gateway_is_left();
}

#[test]
fn who_starts_a_gateway_beside_one_of_exec_is_told_that_it_ends_by_itself() {
    let stage = Stage::new(&counted());
    let program = stage.waiting();
    let output = stage.command(&["run"]).output().unwrap();
    let told = err(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("is in use by another gateway"), "{told}");
    let pid = told.split_once("(process ").unwrap().1.split(')').next().unwrap();
    assert!(told.contains(&format!("`lockgate exec` started process {pid} for the programs that it runs")), "{told}");
    program.then("true");
    stage.no_gateway_is_left();
}

#[test]
fn a_program_may_have_a_gateway_on_any_free_port() {
    let (stage, origin) = (Stage::at(0, &counted()), Origin::start());
    let (one, other) = (stage.waiting(), stage.waiting());
    assert_ne!(one.proxy, other.proxy);
    for program in [one, other] {
        assert_eq!(program.then(&curl(&origin)).0, "200");
    }
    eventually("both gateways end", || stage.gateways().is_empty());
}

#[test]
fn a_gateway_that_runs_is_used_and_none_is_started() {
    let toml = limit(1, "1h", "max_wait = \"0s\"");
    let (port, origin) = (free_port(), Origin::start());
    let listen = format!("[listen]\nproxy = \"127.0.0.1:{port}\"\n\n{toml}");
    let gateway = Gateway::start(&listen);
    let stage = Stage::at(port, &toml);
    let program = stage.waiting();
    assert!(stage.gateways().is_empty());
    assert_eq!(program.then(&curl(&origin)).0, "200", "to look for a gateway takes no slot");
    let output = stage.shell(&curl(&origin)).output().unwrap();
    assert_eq!(out(&output), "429", "the limit is the gateway's: {}", err(&output));
    assert_eq!(gateway.get(&origin.url("/")).status, 429, "it runs still");
}

#[test]
fn a_gateway_that_asks_for_a_password_is_known_and_given_one() {
    let (port, origin) = (free_port(), Origin::start());
    let toml = format!("{}[access]\nusers = \"users\"\n", counted());
    let stage = Stage::at(port, &toml);
    let mut add = stage.command(&["user", "add", "ana"]).stdin(Stdio::piped()).spawn().unwrap();
    add.stdin.take().unwrap().write_all("p@ss:word\np@ss:word\n".as_bytes()).unwrap();
    assert!(add.wait().unwrap().success());
    let dir = Dir::new();
    std::fs::copy(stage.dir.path().join("users"), dir.path().join("users")).unwrap();
    let _gateway = Gateway::start_in(dir, &format!("[listen]\nproxy = \"127.0.0.1:{port}\"\n\n{toml}"));
    let output = stage.shell(&curl(&origin)).env("LOCKGATE_CREDENTIALS", "ana:p@ss:word").output().unwrap();
    assert_eq!((out(&output), err(&output)), ("200".to_owned(), String::new()));
    let output = stage.shell(&curl(&origin)).output().unwrap();
    assert_eq!(out(&output), "407");
    assert!(err(&output).contains("LOCKGATE_CREDENTIALS"), "{}", err(&output));
    assert!(stage.gateways().is_empty());
}

#[test]
fn a_port_that_a_stranger_has_is_named() {
    let stranger = Origin::start();
    let stage = Stage::at(stranger.port(), &counted());
    let output = stage.exec(&["echo", "run"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    assert!(output.stdout.is_empty(), "a program that would go past the gateway is not run");
    assert!(err(&output).contains(&format!("{} is in use", stranger.authority())), "{}", err(&output));
    // One that takes connections and says nothing is no gateway either; here it hangs up at once.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stage = Stage::at(deaf.local_addr().unwrap().port(), &counted());
    thread(move || deaf.incoming().for_each(drop));
    let output = stage.exec(&["echo", "run"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    assert!(err(&output).contains("cannot listen on") && output.stdout.is_empty(), "{}", err(&output));
}

#[test]
fn a_killed_program_leaves_no_gateway_behind() {
    let stage = Stage::new(&counted());
    let mut program = stage.waiting();
    assert_eq!(stage.gateways().len(), 1);
    kill_process(program.pid(), Signal::KILL).unwrap();
    assert_eq!(program.child.wait().unwrap().signal(), Some(9));
    stage.no_gateway_is_left();
}

#[test]
fn signals_reach_the_program_once_and_leave_the_gateway_alone() {
    let (stage, origin) = (Stage::new(&counted()), Origin::start());
    for (signal, name) in [
        (Signal::INT, "INT"),
        (Signal::TERM, "TERM"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::WINCH, "WINCH"),
    ] {
        let script = format!(
            "trap 'echo caught; {}; exit 5' {name}; echo begun $HTTP_PROXY; while :; do read line; done",
            curl(&origin)
        );
        let mut program = Program::start(stage.shell(&script).stdin(Stdio::piped()).process_group(0));
        // As a terminal does it: to the whole group.
        kill_process_group(program.pid(), signal).unwrap();
        let mut text = String::new();
        program.out.read_to_string(&mut text).unwrap();
        assert_eq!(text, "caught\n200", "{name}");
        assert_eq!(program.child.wait().unwrap().code(), Some(5), "{name}");
    }
}

#[test]
fn programs_that_start_at_one_time_share_a_gateway_until_the_last_ends() {
    let (stage, origin) = (std::sync::Arc::new(Stage::new(&counted())), Origin::start());
    let starts = (0..8).map(|_| {
        let stage = std::sync::Arc::clone(&stage);
        thread(move || stage.waiting())
    });
    let starts: Vec<_> = starts.collect();
    let mut programs: Vec<Program> = starts.into_iter().map(|start| start.join().unwrap()).collect();
    let gateway = stage.gateways();
    assert_eq!(gateway.len(), 1);
    while let Some(program) = programs.pop() {
        assert_eq!(program.then(&curl(&origin)).0, "200", "{} are left", programs.len());
    }
    stage.no_gateway_is_left();
    // The next program finds the port free at once.
    for _ in 0..5 {
        let output = stage.shell(&curl(&origin)).output().unwrap();
        assert_eq!((out(&output), err(&output)), ("200".to_owned(), String::new()));
    }
    stage.no_gateway_is_left();
}

#[test]
fn a_program_that_is_run_again_and_again_is_held_back_like_one() {
    let (stage, origin) = (Stage::new(&limit(2, "60s", "when_full = \"refuse\"")), Origin::start());
    let run = || out(&stage.shell(&curl(&origin)).output().unwrap());
    assert_eq!([run(), run(), run()], ["200", "200", "429"]);
    // Who changes the rules need not wait for the old gateway's end, and what that one has counted counts on.
    let toml = std::fs::read_to_string(stage.dir.path().join("proxy.toml")).unwrap();
    stage.dir.write("proxy.toml", &toml.replace("requests = 2", "requests = 3"));
    assert_eq!([run(), run()], ["200", "429"]);
}

#[test]
fn who_reads_a_programs_output_waits_for_the_program_alone() {
    let stage = Stage::new(&counted());
    let first = stage.shell("echo done").output().unwrap();
    assert_eq!(out(&first), "done\n");
    let mut starter = stage.waiting();
    let other = stage.waiting();
    drop(starter.child.stdin.take());
    let mut rest = String::new();
    // It ends though the gateway that was started with it runs on for the other.
    starter.child.stderr.take().unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!(stage.gateways().len(), 1);
    drop(other);
    stage.no_gateway_is_left();
}

#[test]
fn a_lock_of_a_job_is_free_when_its_program_has_ended() {
    let stage = Stage::new(&counted());
    let lock = stage.dir.path().join("job.lock");
    let locked = |words: &[&str]| {
        let mut flock = Command::new("flock");
        flock.arg("-n").arg(&lock).args(words).current_dir(stage.dir.path()).env("HOME", stage.dir.path());
        flock
    };
    let mut job = locked(&[PROGRAM, "exec", "--", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
    eventually("its gateway", || stage.gateways().len() == 1);
    let other = stage.waiting();
    drop(job.stdin.take());
    assert!(job.wait().unwrap().success());
    assert!(locked(&["true"]).status().unwrap().success(), "the gateway runs on for the other program");
    assert_eq!(stage.gateways().len(), 1);
    drop(other);
    stage.no_gateway_is_left();
}

#[test]
fn the_gateway_is_no_child_of_the_program() {
    let stage = Stage::new(&counted());
    let output =
        stage.shell("read -r children < /proc/$$/task/$$/children; echo \"children: $children\"").output().unwrap();
    assert_eq!(out(&output), "children: \n", "one that waits for all of its children would wait for ever");
}

#[test]
fn a_gateway_that_cannot_start_says_why() {
    let toml = format!("{}[tls]\nintercept = \"a.example\"\nca_dir = \"proxy.toml/certs\"\n", counted());
    let stage = Stage::new(&toml);
    let output = stage.exec(&["echo", "run"]).output().unwrap();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{:?}", output.status);
    assert!(output.stdout.is_empty() && err(&output).contains("proxy.toml/certs"), "{}", err(&output));
    assert!(stage.gateways().is_empty());
}

#[test]
fn what_the_gateway_says_goes_to_a_file_if_one_is_named() {
    let (stage, origin) = (Stage::new(&counted()), Origin::start());
    let output = stage.shell(&curl(&origin)).env("LOCKGATE_EXEC_LOG", "exec.log").output().unwrap();
    assert_eq!((out(&output), err(&output)), ("200".to_owned(), String::new()));
    stage.no_gateway_is_left();
    let text = std::fs::read_to_string(stage.dir.path().join("exec.log")).unwrap();
    assert!(text.contains(&origin.authority()), "the access log: {text}");
    assert!(text.contains("the last program has ended"), "the messages: {text}");
}

#[test]
fn a_gateway_that_leaves_tunnels_closed_is_not_used_and_another_authority_is_told_of() {
    let port = free_port();
    let opens = |hosts: &str| {
        format!("{}[tls]\nintercept = {hosts}\n\n", limit(9, "1s", "").replace("\"]", "\", \"*.api.example\"]"))
    };
    let told = |running: &str, ours: &str, credentials: &str| {
        let stage = Stage::at(port, ours);
        let dir = Dir::new();
        // Another gateway, with an authority of its own or with this one's.
        std::fs::write(dir.path().join("users"), users(&stage)).unwrap();
        let running = running.replace("SAME", &stage.dir.path().join("certs").display().to_string());
        let gateway = Gateway::start_in(dir, &format!("[listen]\nproxy = \"127.0.0.1:{port}\"\n\n{running}"));
        let output = stage.exec(&["echo", "run"]).env("LOCKGATE_CREDENTIALS", credentials).output().unwrap();
        drop(gateway);
        let is_closed = err(&output).contains("does not intercept");
        let expected = if is_closed { ("", Some(1)) } else { ("run", Some(0)) };
        assert_eq!((out(&output).trim(), output.status.code()), expected, "{}", err(&output));
        err(&output)
    };
    let here = opens("[\"127.0.0.1\", \"*.api.example\"]");
    let same = |toml: &str| toml.replace("[tls]\n", "[tls]\nca_dir = \"SAME\"\n");
    let closed = told(&limit(9, "1s", ""), &here, "");
    let expected = format!("the gateway at 127.0.0.1:{port} does not intercept 127.0.0.1, *.api.example");
    assert!(closed.contains(&expected) && closed.contains("proxy.toml"), "{closed}");
    let part = told(&opens("[\"*.api.example\", \"other.example\"]"), &here, "");
    assert!(part.contains("does not intercept 127.0.0.1, which"), "{part}");
    let other = told(&here, &here, "");
    assert!(other.contains("another authority") && !other.contains("does not intercept"), "{other}");
    // A gateway that wants a password, and lets no other host be called.
    let strict = here.clone() + "[access]\nusers = \"users\"\nunlisted_hosts = \"deny\"\n";
    let refused = told(&strict.replace("[tls]\n", "[tls]\nca_dir = \"other\"\n"), &here, "ana:secret");
    assert!(refused.contains("another authority"), "{refused}");
    for quiet in [same(&here), same(&opens("[\"*\"]"))] {
        let quiet = told(&quiet, &here, "");
        assert!(!quiet.contains("the gateway at 127.0.0.1 does") && !quiet.contains("authority"), "{quiet}");
    }
    let nothing = told(&limit(9, "1s", ""), &limit(9, "1s", ""), "");
    assert!(nothing.lines().count() == 1 && nothing.contains("no request"), "it expects nothing: {nothing}");
}

#[test]
fn a_gateway_that_other_programs_keep_with_an_earlier_file_is_not_used_if_it_leaves_tunnels_closed() {
    let stage = Stage::new(&counted());
    let program = stage.waiting();
    let toml = std::fs::read_to_string(stage.dir.path().join("proxy.toml")).unwrap();
    stage.dir.write("proxy.toml", &format!("{toml}[tls]\nintercept = \"api.example\"\n"));
    let output = stage.exec(&["echo", "run"]).output().unwrap();
    assert_eq!((out(&output).as_str(), output.status.code()), ("", Some(1)), "{}", err(&output));
    assert!(err(&output).contains("does not intercept api.example, which"), "{}", err(&output));
    program.then("true");
    stage.no_gateway_is_left();
    let output = stage.exec(&["echo", "run"]).output().unwrap();
    assert_eq!(out(&output), "run\n", "a new one is started with the new file: {}", err(&output));
}

#[test]
fn a_server_at_the_address_gets_no_password_unless_it_asks_for_one() {
    let origin = Origin::scripted(|_, link| {
        // As a gateway answers that has no description of itself.
        link.send("HTTP/1.1 200 OK\r\nVia: 1.1 lockgate\r\nContent-Length: 0\r\n\r\n");
        Next::Close
    });
    let stage = Stage::at(origin.port(), &counted());
    let output = stage.exec(&["echo", "run"]).env("LOCKGATE_CREDENTIALS", "ana:secret").output().unwrap();
    assert_eq!(out(&output).trim(), "run", "{}", err(&output));
    let asked = origin.requests();
    let field = |request: &Request| request.field("proxy-authorization").map(str::to_owned);
    assert_eq!(asked.iter().map(field).collect::<Vec<_>>(), [None], "asked once, and without the password");
}

/// A users file with `ana` and the password `secret`.
fn users(stage: &Stage) -> String {
    let dir = Dir::new();
    let path = dir.path().join("proxy.toml");
    std::fs::write(&path, limit(1, "1s", "") + "[access]\nusers = \"users\"\n").unwrap();
    let mut add =
        stage.command(&["user", "add", "ana", "-c", path.to_str().unwrap()]).stdin(Stdio::piped()).spawn().unwrap();
    add.stdin.take().unwrap().write_all(b"secret\nsecret\n").unwrap();
    assert!(add.wait().unwrap().success());
    std::fs::read_to_string(dir.path().join("users")).unwrap()
}
