//! Programs and libraries that find their proxy each in a way of its own, under `lockgate exec`: each of their requests
//! comes through the gateway, and what their user has set is kept.

use std::path::PathBuf;
use std::process::Command;

use crate::support::certs::Fault;
use crate::support::gateway::{Dir, PROGRAM};
use crate::support::processes::{self, need, python, top};
use crate::support::program::{err, out};
use crate::support::stage::{Before, counted, opens};
use crate::support::yard::Yard;
use crate::support::*;

/// Python's aiohttp, with a program that says nothing of proxies.
fn aiohttp(base: &str) -> Command {
    let mut command = python("unchanged.py");
    command.args(["aiohttp", base, "4"]);
    command
}

pub(crate) fn pinned_node() -> PathBuf {
    let node = top().join("tests/clients/node/node_modules/.bin/node");
    need(&node, "a Node that knows NODE_USE_ENV_PROXY, and its libraries,");
    node
}

pub(crate) fn node(program: impl AsRef<std::ffi::OsStr>, script: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.arg(top().join("tests/clients/node").join(script)).args(args);
    command
}

#[test]
fn aiohttp_goes_through_the_gateway_without_being_told_to() {
    let yard = Yard::new();
    yard.all_go_well(7, aiohttp);
}

#[test]
fn aiohttp_is_found_whenever_it_is_imported_and_a_session_may_say_otherwise() {
    let yard = Yard::new();
    let script = |lines: &str| {
        let mut command = Command::new(top().join(".venv/bin/python"));
        command.args(["-c", lines]).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    };
    let ask = "async def main():\n async with aiohttp.ClientSession(ARGS) as s, s.get('URL') as r: print(r.status)\n\
               asyncio.run(main())\n";
    let url = yard.plain.url("/");
    let late = format!(
        "import asyncio, sys, importlib.util\nassert 'aiohttp' not in sys.modules\n\
                        importlib.util.find_spec('aiohttp.client')\nimport aiohttp\n{ask}"
    );
    assert_eq!(yard.prints(&script(&late.replace("ARGS", "").replace("URL", &url))).trim(), "200");
    assert_eq!(yard.plain.only().field("via"), Some("1.1 lockgate"));
    // A password of ~/.netrc is sent only by a session that asks for the environment by itself.
    yard.stage.gateway.dir.write(".netrc", "machine 127.0.0.1 login ana password secret\n");
    for (args, has_password) in [("", false), ("trust_env=True", true)] {
        yard.prints(&script(&late.replace("ARGS", args).replace("URL", &url)));
        let last = yard.plain.requests().pop().unwrap();
        assert_eq!(last.field("authorization").is_some(), has_password, "{args:?}");
    }
    let output = yard.run(&script(&late.replace("ARGS", "trust_env=False").replace("URL", &url)));
    assert_eq!(out(&output).trim(), "200", "{}", err(&output));
    assert_eq!(yard.plain.requests().last().unwrap().field("via"), None, "it says that it wants none");
    assert!(err(&output).contains("no request came to the gateway"), "{}", err(&output));
}

#[test]
fn libraries_that_take_their_roots_from_certifi_trust_the_gateway() {
    let certifi = |base: &str| {
        let mut command = python("unchanged.py");
        command.args(["certifi", base, "2"]);
        command
    };
    Yard::new().all_go_well(4, certifi);
}

#[test]
fn certifi_names_its_own_roots_where_the_bundle_cannot_be_read() {
    let yard = Yard::new();
    for (set, name) in
        [("", "bundle.pem"), ("LOCKGATE_CA_BUNDLE=", "cacert.pem"), ("LOCKGATE_CA_BUNDLE=/-", "cacert.pem")]
    {
        let mut command = Command::new("env");
        command.args(Some(set).filter(|set| !set.is_empty())).arg(top().join(".venv/bin/python"));
        command.args(["-c", "import certifi; print(certifi.where())"]);
        let output = yard.run(&command);
        assert!(out(&output).trim().ends_with(name), "{set}: {}{}", out(&output), err(&output));
    }
}

#[test]
fn a_sitecustomize_of_the_users_own_runs_too() {
    let yard = Yard::new();
    let own = Dir::new();
    let script = "import sys, sitecustomize; print(sitecustomize.__file__, [p for p in sys.path if 'lockgate' in p])";
    let mut command = Command::new(top().join(".venv/bin/python"));
    command.args(["-c", script]).env("PYTHONPATH", own.path()).env("PYTHONDONTWRITEBYTECODE", "1");
    own.write("sitecustomize.py", "print('own', __name__)\n");
    let output = yard.run(&command);
    let file = own.path().join("sitecustomize.py");
    assert_eq!(out(&output), format!("own sitecustomize\n{} []\n", file.display()), "{}", err(&output));
    own.write("sitecustomize.py", "raise ValueError('broken')\n");
    let output = yard.run(&command);
    assert!(err(&output).contains("ValueError: broken"), "{}", err(&output));
    own.write("sitecustomize.py", "import no_such_module\n");
    let output = yard.run(&command);
    assert!(err(&output).contains("no_such_module"), "{}", err(&output));
    own.write("sitecustomize.py", "");
    yard.all_go_well(7, |base| {
        let mut command = aiohttp(base);
        command.env("PYTHONPATH", own.path());
        command
    });
}

#[test]
fn websockets_of_aiohttp_go_through_the_gateway() {
    let before = Before::new();
    let (cert, key) = before.authority.issue(Fault::None).write(before.dir.path(), "socket");
    let mut server = python("websocket_server.py");
    server.arg(cert).arg(key);
    let server = processes::Server::start(server);
    let toml = format!("[listen]\nproxy = \"127.0.0.1:{}\"\n\n", free_port())
        + &counted(1000, "1s", "")
        + &opens(&["localhost"], &[server.port], &before.trust);
    let stage = before.gateway_with(&toml);
    let mut command = Command::new(PROGRAM);
    let client = python("unchanged.py");
    command.args(["exec", "-c"]).arg(stage.gateway.dir.path().join("proxy.toml")).arg("--").arg(client.get_program());
    command.args(client.get_args()).args(["aiohttp-websocket", &format!("wss://{}", server.name()), "5"]);
    assert_eq!(processes::finish(processes::start(command)).trim(), "well");
    let name = server.name();
    let carried = || stage.gateway.lines().iter().filter(|line| line.contains(&name) && line.contains("GET ")).count();
    eventually("it is one line of the log", || carried() == 1);
}

#[test]
fn node_goes_through_the_gateway_with_every_agent_and_in_every_version() {
    for program in [PathBuf::from("node"), pinned_node()] {
        let yard = Yard::new();
        // fetch: 5 + 2; requests: 4 kinds of 5, and 2.
        yard.all_go_well(29, |base| node(&program, "unchanged.mjs", &[base, "5"]));
    }
}

#[test]
fn options_of_nodes_user_are_kept() {
    let yard = Yard::new();
    yard.stage.gateway.dir.write("own file.cjs", "console.log('own', process.execArgv.length)\n");
    let mut command = Command::new("node");
    command.args(["-e", "console.log(process.env.NODE_OPTIONS.match(/--require/g).length)"]);
    command.env("NODE_OPTIONS", "--no-warnings --require \"./own file.cjs\"");
    let output = yard.run(&command);
    assert_eq!(out(&output), "own 2\n2\n", "{}", err(&output));
}

#[test]
fn axios_is_sent_to_the_gateway_once() {
    let yard = Yard::new();
    for no_proxy in [None, Some("corp.example")] {
        for base in [yard.plain_base(), yard.secure.url(""), yard.closed.url("")] {
            let mut command = node(pinned_node(), "library.mjs", &["axios", &format!("{base}/a")]);
            command.envs(no_proxy.map(|list| ("NO_PROXY", list)));
            assert_eq!(yard.prints(&command).trim(), "200 /a", "{base} {no_proxy:?}");
        }
    }
    yard.all_came(2);
}

#[test]
fn libraries_of_node_go_through_the_gateway() {
    let libraries = ["got", "node-fetch", "undici"];
    let yard = Yard::new();
    for library in libraries {
        for base in [yard.plain_base(), yard.secure.url(""), yard.closed.url("")] {
            let command = node(pinned_node(), "library.mjs", &[library, &format!("{base}/a")]);
            assert_eq!(yard.prints(&command).trim(), "200 /a", "{library} {base}");
        }
    }
    yard.all_came(libraries.len());
}

#[test]
fn bun_and_deno_go_through_the_gateway() {
    for (name, args) in [("bun", &["run"][..]), ("deno", &["run", "--allow-all"])] {
        let program = top().join("tests/clients/node/node_modules/.bin").join(name);
        need(&program, "the Node libraries of the tests");
        let yard = Yard::new();
        // fetch: 3 + 2; requests: 4 kinds of 3, and 2.
        yard.all_go_well(19, |base| {
            let mut command = Command::new(&program);
            command.args(args).arg(top().join("tests/clients/node/unchanged.mjs")).args([base, "3"]);
            command
        });
    }
}

#[test]
fn a_tunnel_that_the_gateway_refuses_is_an_error_that_says_so() {
    let yard = Yard::new();
    let script = "require('https').get(process.argv[1]).on('error', e => console.log(e.code, e.message))";
    let mut command = Command::new("node");
    command.args(["-e", script, "https://localhost:1/"]);
    let text = yard.prints(&command);
    assert!(text.starts_with("ERR_PROXY_TUNNEL ") && text.contains("403"), "{text}");
}

#[test]
fn a_password_beyond_ascii_is_right_in_either_encoding() {
    let hash = bcrypt::hash("pässwörd", 4).unwrap();
    let yard = Yard::with("users = \"users\"\n", &[("users", &format!("zoë:{hash}\n"))]);
    let ask = |program: &str| {
        let mut command = Command::new(top().join(".venv/bin/python"));
        command.args(["-c", program, &yard.plain.url("/")]);
        command
    };
    // requests sends ISO-8859-1, httpx UTF-8, curl what the URL says.
    let requests = ask("import requests, sys; print(requests.get(sys.argv[1]).status_code)");
    let httpx = ask("import httpx, sys; print(httpx.get(sys.argv[1]).status_code)");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", &yard.plain.url("/")]);
    let mut old_node = node("node", "unchanged.mjs", &[&yard.plain_base(), "1"]);
    let utf_8 = "zoë:pässwörd".as_bytes();
    let latin_1 = b"zo\xeb:p\xe4ssw\xf6rd";
    for mut command in [requests, httpx, curl] {
        for credentials in [utf_8, latin_1] {
            let credentials = std::os::unix::ffi::OsStrExt::from_bytes(credentials);
            command.env::<_, &std::ffi::OsStr>("LOCKGATE_CREDENTIALS", credentials);
            assert_eq!(yard.prints(&command).trim(), "200", "{command:?}");
        }
    }
    old_node.env("LOCKGATE_CREDENTIALS", "zoë:pässwörd");
    assert_eq!(yard.prints(&old_node).trim(), "well");
}
