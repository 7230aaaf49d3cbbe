//! Programs whose roots stand in a configuration of their own, and package managers, unchanged under `lockgate exec`: each
//! of their requests comes through the gateway, and what their user has set is kept.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::gateway::Dir;
use crate::support::processes::{need, python, top};
use crate::support::program::out;
use crate::support::stage::Before;
use crate::support::yard::Yard;

fn program(name: impl AsRef<OsStr>, args: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(args);
    command
}

/// A script of `tests/clients`, run by an interpreter with a base URL and a count of 3.
fn script(interpreter: &str, name: &str, base: &str) -> Command {
    let path = top().join("tests/clients").join(name);
    program(interpreter, &[path.to_str().unwrap(), base, "3"])
}

/// A program from the npm registry.
#[track_caller]
fn node_program(name: &str) -> PathBuf {
    let path = top().join("tests/clients/node/node_modules/.bin").join(name);
    need(&path, "the Node libraries of the tests");
    path
}

#[test]
fn wget_goes_through_the_gateway_with_the_settings_of_its_user() {
    let yard = Yard::new();
    let wget = |base: &str| program("wget", &["-qO-", &format!("{base}/a")]);
    let bases = [yard.plain_base(), yard.secure.url(""), yard.closed.url("")];
    for base in &bases {
        assert_eq!(yard.prints(&wget(base)), "/a", "{base}");
    }
    yard.all_came(1);
    // In the place where wget looks by itself, and in one that the user names.
    let own = yard.stage.gateway.dir.write("own.wgetrc", "header = X-Own: named");
    yard.stage.gateway.dir.write(".wgetrc", "header = X-Own: home\n");
    for (named, value) in [(None, "home"), (Some(&own), "named")] {
        for base in &bases {
            let mut command = wget(base);
            command.envs(named.map(|path| ("WGETRC", path)));
            assert_eq!(yard.prints(&command), "/a", "{base}");
        }
        assert_eq!(yard.plain.requests().last().unwrap().field("x-own"), Some(value));
        assert_eq!(yard.secure.seen().last().unwrap().all("x-own"), [value]);
    }
    yard.all_came(3);
}

#[test]
fn phps_curl_goes_through_the_gateway_with_the_settings_of_its_user() {
    let yard = Yard::new();
    yard.all_go_well(3, |base| script("php", "unchanged.php", base));
    let own = Dir::new();
    own.write("own.ini", "precision = 11\n");
    let mut command = program("php", &["-r", "echo ini_get('precision'), PHP_EOL, count(get_loaded_extensions());"]);
    let alone = out(&command.output().unwrap());
    command.env("PHP_INI_SCAN_DIR", format!(":{}", own.path().display()));
    let text = out(&yard.run(&command));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines, ["11", alone.lines().last().unwrap()], "its own folder, and the extensions of PHP's");
}

#[test]
fn perls_lwp_and_http_tiny_go_through_the_gateway() {
    Yard::new().all_go_well(6, |base| script("perl", "unchanged.pl", base));
}

#[test]
fn apt_goes_through_the_gateway_with_the_settings_of_its_user() {
    // Under root, apt loads as another user, which must be able to read the roots.
    let yard = Yard::begin(Before::in_dir(Dir::public()), "");
    let dir = yard.dir().to_owned();
    for folder in ["lists/partial", "cache/archives/partial"] {
        std::fs::create_dir_all(dir.join(folder)).unwrap();
    }
    yard.run(&program("true", &[]));
    std::fs::set_permissions(dir.join("ca"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let own = yard.stage.gateway.dir.write("own.conf", "Acquire::http::User-Agent \"own/1\";");
    yard.all_are_asked(|base| {
        let list =
            yard.stage.gateway.dir.write("sources.list", &format!("deb [trusted=yes] {base}/debian stable main\n"));
        let mut command = program("apt-get", &["-o", "Acquire::Retries=0", "-o", "Dir::Etc::SourceParts=/dev/null"]);
        for (key, path) in [
            ("Dir::Etc::SourceList", list),
            ("Dir::State::Lists", dir.join("lists")),
            ("Dir::Cache", dir.join("cache")),
        ] {
            command.arg("-o").arg(format!("{key}={}", path.display()));
        }
        command.arg("update").env("APT_CONFIG", &own);
        command
    });
    assert!(yard.plain.requests().iter().all(|one| one.field("user-agent") == Some("own/1")));
    assert!(yard.secure.seen().iter().all(|one| one.all("user-agent") == ["own/1"]));
}

#[test]
fn pip_goes_through_the_gateway() {
    Yard::new().all_are_asked(|base| {
        let index = format!("{base}/simple");
        let args = ["-m", "pip", "download", "--no-cache-dir", "--retries=0", "--index-url", &index, "nothing"];
        program(top().join(".venv/bin/python"), &args)
    });
}

#[test]
fn uv_goes_through_the_gateway() {
    let uv: PathBuf = top().join(".venv/bin/uv");
    need(&uv, "the Python libraries of the tests");
    Yard::new().all_are_asked(|base| {
        program(
            &uv,
            &["pip", "install", "--no-cache", "--target=out", "--index-url", &format!("{base}/simple"), "nothing"],
        )
    });
}

#[test]
fn boto3_goes_through_the_gateway() {
    Yard::new().all_are_asked(|base| {
        let mut command = python("unchanged_s3.py");
        command.arg(base);
        command
    });
}

#[test]
fn npm_goes_through_the_gateway_also_with_a_cafile_of_its_own() {
    let yard = Yard::new();
    // As on many machines: roots that know nothing of the gateway, here of the closed origin.
    yard.stage.gateway.dir.write(".npmrc", &format!("cafile = {}\n", yard.trust.display()));
    yard.all_are_asked(|base| {
        let mut command = program("npm", &["view", "nothing", "--fetch-retries=0", "--registry", &format!("{base}/")]);
        command.env("SSL_CERT_FILE", "/dev/null").env("NODE_EXTRA_CA_CERTS", "/dev/null");
        command
    });
}

#[test]
fn yarn_goes_through_the_gateway() {
    let yard = Yard::new();
    yard.stage.gateway.dir.write("package.json", "{}");
    yard.all_are_asked(|base| {
        let mut command = program(node_program("yarn"), &["npm", "info", "nothing"]);
        command.env("YARN_NPM_REGISTRY_SERVER", base).env("YARN_UNSAFE_HTTP_WHITELIST", "localhost");
        command.env("YARN_ENABLE_TELEMETRY", "0").env("YARN_HTTP_RETRY", "0");
        command
    });
}

#[test]
fn pnpm_goes_through_the_gateway() {
    let yard = Yard::new();
    yard.stage.gateway.dir.write("package.json", "{}");
    yard.all_are_asked(|base| {
        program(node_program("pnpm"), &["add", "nothing", "--fetch-retries=0", "--registry", &format!("{base}/")])
    });
}

#[test]
fn cargo_goes_through_the_gateway() {
    let yard = Yard::new();
    let write = |name: &str, text: &str| yard.stage.gateway.dir.write(name, text);
    for folder in ["src", ".cargo"] {
        std::fs::create_dir_all(yard.dir().join(folder)).unwrap();
    }
    write("src/lib.rs", "");
    let head = "[package]\nname = \"a\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
    write("Cargo.toml", &format!("{head}[dependencies]\nnothing = {{ version = \"1\", registry = \"here\" }}\n"));
    yard.all_are_asked(|base| {
        write(".cargo/config.toml", &format!("[registries.here]\nindex = \"sparse+{base}/\"\n[net]\nretry = 0\n"));
        let mut command = program(env!("CARGO"), &["fetch"]);
        // Under another HOME, rustup would know no toolchain.
        command.env("CARGO_HOME", yard.dir().join("home"));
        command.env("RUSTC", Path::new(env!("CARGO")).with_file_name("rustc"));
        command
    });
}
