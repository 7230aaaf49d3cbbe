//! `lockgate env`: what exec sets, for a shell; and the files that programs are pointed at.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

use crate::support::certs;
use crate::support::gateway::PROGRAM;
use crate::support::program::{Stage, counted, err, out};

/// What `lockgate env` leaves in a shell's variables, one line each.
fn evaluated(stage: &Stage, names: &[&str], before: &[(&str, &str)]) -> Vec<String> {
    let print: String = names.iter().map(|name| format!("printf '%s\\n' \"${name}\"; ")).collect();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("eval \"$({PROGRAM} env)\"; {print}")]).current_dir(stage.dir.path()).env_clear();
    shell.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", stage.dir.path()).envs(before.iter().copied());
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{}", err(&output));
    out(&output).lines().map(str::to_owned).collect()
}

#[test]
fn env_prints_what_exec_sets_and_starts_nothing() {
    let toml = format!("{}[tls]\nintercept = \"api.example\"\n", counted());
    let stage = Stage::new(&toml);
    let names = [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "NO_PROXY",
        "no_proxy",
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
        "NODE_USE_ENV_PROXY",
        "DENO_CERT",
        "AWS_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "PIP_CERT",
        "JAVA_TOOL_OPTIONS",
        "PYTHONPATH",
        "NODE_OPTIONS",
        "npm_config_cafile",
        "BUN_INSPECT_PRELOAD",
        "LOCKGATE_CA_BUNDLE",
        "SYSTEM_CERTIFICATE_PATH",
    ];
    let before = [("NO_PROXY", "it's a,b"), ("JAVA_TOOL_OPTIONS", "-Da='b c'")];
    let by_env = evaluated(&stage, &names, &before);
    assert!(stage.gateways().is_empty() && TcpStream::connect(stage.addr()).is_err());
    let print: String = names.iter().map(|name| format!("printf '%s\\n' \"${name}\"; ")).collect();
    let output = stage.shell(&print).envs(before).output().unwrap();
    assert_eq!(out(&output).lines().collect::<Vec<_>>(), by_env, "{}", err(&output));
    assert_eq!(by_env[0], format!("http://127.0.0.1:{}", stage.port));
    assert_eq!(by_env[6], format!("it's a,b,127.0.0.1:{}", stage.port));
    for path in [8, 10, 11].map(|place| &by_env[place]) {
        assert!(path.starts_with('/') && std::fs::metadata(path).is_ok_and(|file| file.is_file()), "{path}");
    }
    assert!(by_env[17].starts_with("-Da='b c' "), "{}", by_env[17]);
}

#[test]
fn the_bundles_hold_our_authority_and_what_was_believed_before() {
    let stage = Stage::new(&format!("{}[tls]\nintercept = \"api.example\"\n", counted()));
    let company = certs::Authority::new().write(stage.dir.path());
    let before = [("SSL_CERT_FILE", company.to_str().unwrap())];
    let paths = evaluated(&stage, &["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"], &before);
    let all = std::fs::read_to_string(&paths[0]).unwrap();
    let ours = std::fs::read_to_string(stage.dir.path().join("certs/lockgate-ca.pem")).unwrap();
    let body = |pem: &str| pem.lines().filter(|line| !line.starts_with('-')).collect::<String>();
    let flat = body(&all);
    assert!(flat.contains(&body(&ours)) && flat.contains(&body(&std::fs::read_to_string(&company).unwrap())));
    assert_eq!(
        std::fs::canonicalize(&paths[1]).unwrap(),
        stage.dir.path().join("certs/lockgate-ca.pem").canonicalize().unwrap()
    );
    let store = PathBuf::from(&paths[0]).with_extension("jks");
    let keytool = Command::new("keytool").args(["-list", "-storepass", "changeit", "-keystore"]).arg(store).output();
    let listed = out(&keytool.expect("the tests need Java's keytool"));
    assert!(listed.contains("lockgate, ") && listed.contains("trustedCertEntry"), "{listed}");
    assert!(listed.contains(&format!("contains {} entries", all.matches("BEGIN CERT").count())), "{listed}");
}

#[test]
fn every_root_lies_where_openssl_looks_for_it() {
    let stage = Stage::new(&format!("{}[tls]\nintercept = \"api.example\"\n", counted()));
    // A name with all that is made alike before it is hashed: letters, spaces, several values at one place.
    let odd = stage.dir.path().join("odd.pem");
    let key =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/dev/null"];
    let mut openssl = Command::new("openssl");
    openssl.args(key).args(["-utf8", "-subj", "/C=DE/O=  Two  Spaces and \u{c4}PFEL /OU=b+CN=A"]).arg("-out").arg(&odd);
    let made = openssl.output().expect("the tests need openssl");
    assert!(made.status.success(), "{}", err(&made));
    let folder = evaluated(&stage, &["REQUESTS_CA_BUNDLE"], &[("SSL_CERT_FILE", odd.to_str().unwrap())]).remove(0);
    let names = |folder: &std::path::Path| -> std::collections::BTreeSet<String> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        entries.filter(|name| !name.ends_with(".pem")).collect()
    };
    let ours = names(folder.as_ref());
    let copies = stage.dir.path().join("copies");
    std::fs::create_dir(&copies).unwrap();
    for name in &ours {
        let copy = copies.join(format!("{}.pem", name.replace('.', "-")));
        std::fs::copy(std::path::Path::new(&folder).join(name), copy).unwrap();
    }
    let rehashed = Command::new("openssl").arg("rehash").arg(&copies).output().unwrap();
    assert!(rehashed.status.success(), "{}", err(&rehashed));
    assert_eq!(ours, names(&copies));
    assert!(ours.len() > 1);
}

/// What `lockgate env` prints with these arguments, in an environment with nothing but these variables.
fn printed(stage: &Stage, args: &[&str], before: &[(&str, &str)]) -> String {
    let mut command = Command::new(PROGRAM);
    command.arg("env").args(args).current_dir(stage.dir.path()).env_clear().env("HOME", stage.dir.path());
    let output = command.envs(before.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", err(&output));
    out(&output)
}

#[test]
fn each_format_gives_its_reader_what_a_shell_gets() {
    let toml = format!("{}[tls]\nintercept = \"api.example\"\n", counted());
    let stage = Stage::new(&toml);
    let before = [("NO_PROXY", "it's $HOME,100%,\u{e4}"), ("JAVA_TOOL_OPTIONS", "-Da='b \"c\\'")];
    let names = ["HTTP_PROXY", "NO_PROXY", "JAVA_TOOL_OPTIONS", "SSL_CERT_FILE", "PYTHONPATH", "NODE_OPTIONS"];
    let expected = evaluated(&stage, &names, &before);
    let by = |format: &str| printed(&stage, &["--format", format], &before);
    let json: serde_json::Value = serde_json::from_str(&by("json")).unwrap();
    let list = |value: &dyn Fn(&str) -> String| names.map(value).to_vec();
    assert_eq!(list(&|name| json[name].as_str().unwrap().to_owned()), expected, "json");
    // Docker takes all behind the first `=`.
    let docker = by("docker");
    let line = |text: &str, begin: String| text.lines().find_map(|line| line.strip_prefix(&begin)).unwrap().to_owned();
    assert_eq!(list(&|name| line(&docker, format!("{name}="))), expected, "docker");
    // A single quote is doubled in PowerShell, and all else is as it is.
    let powershell = by("powershell");
    let unquoted = |name: &str| {
        let quoted = line(&powershell, format!("$env:{name} = '"));
        quoted.strip_suffix('\'').unwrap().replace("\'\'", "'")
    };
    assert_eq!(list(&unquoted), expected, "powershell");
    // A shell reads .env files, too.
    stage.dir.write(".env", &by("dotenv"));
    let print: String = names.iter().map(|name| format!("printf '%s\\n' \"${name}\"; ")).collect();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!(". ./.env; {print}")]).current_dir(stage.dir.path());
    assert_eq!(out(&shell.output().unwrap()).lines().collect::<Vec<_>>(), expected, "dotenv");
    let read = "import json, re, sys, yaml\n\
        entries = {entry['name']: entry['value'] for entry in yaml.safe_load(sys.stdin)}\n\
        print(json.dumps({name: value.replace('$$(', '$(') for name, value in entries.items()}))";
    let mut python = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.venv/bin/python"));
    stage.dir.write("env.yaml", &by("k8s"));
    let file = std::fs::File::open(stage.dir.path().join("env.yaml")).unwrap();
    let output = python.args(["-c", read]).stdin(file).output().unwrap();
    assert!(output.status.success(), "{}", err(&output));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out(&output)).unwrap(), json, "k8s");
    let systemd = by("systemd");
    assert!(systemd.starts_with("[Service]\nEnvironment=\"HTTP_PROXY=http://127.0.0.1:"), "{systemd}");
    assert!(systemd.contains("NO_PROXY=it's $HOME,100%%,\u{e4},"), "{systemd}");
}

#[test]
fn node_reads_a_dotenv_file() {
    let stage = Stage::new(&counted());
    let before = [("NO_PROXY", "a b,$HOME,#x,100%")];
    stage.dir.write(".env", &printed(&stage, &["--format", "dotenv"], &before));
    let names = ["HTTP_PROXY", "NO_PROXY", "JAVA_TOOL_OPTIONS"];
    let script = format!("for (const name of {names:?}) console.log(process.env[name])");
    let mut node = Command::new("node");
    node.args(["--env-file=.env", "-e", &script]).current_dir(stage.dir.path()).env_clear();
    let output = node.env("PATH", std::env::var_os("PATH").unwrap()).output().expect("the tests need node");
    assert!(output.status.success(), "{}", err(&output));
    assert_eq!(out(&output).lines().collect::<Vec<_>>(), evaluated(&stage, &names, &before));
}

#[test]
fn programs_elsewhere_get_the_url_that_is_named_and_no_file_of_this_machine() {
    let stage = Stage::new(&format!("{}[tls]\nintercept = \"api.example\"\n", counted()));
    let before = [("NO_PROXY", ".svc,api.example,10.0.0.0/8"), ("LOCKGATE_CREDENTIALS", "ana:p@ss")];
    let proxy = "http://lockgate.prod.svc:8080/";
    let text = printed(&stage, &["--format", "json", "--proxy", proxy], &before);
    let set: std::collections::BTreeMap<String, String> = serde_json::from_str(&text).unwrap();
    assert_eq!(set["HTTPS_PROXY"], "http://ana:p%40ss@lockgate.prod.svc:8080");
    assert_eq!(set["ALL_PROXY"], "socks5h://ana:p%40ss@lockgate.prod.svc:8080");
    assert_eq!(set["no_proxy"], ".svc,10.0.0.0/8,lockgate.prod.svc:8080", "a host that is counted is left out");
    assert!(set["JAVA_TOOL_OPTIONS"].contains("-Dhttps.proxyHost=lockgate.prod.svc -Dhttps.proxyPort=8080"), "{text}");
    let here = stage.dir.path().display().to_string();
    assert!(!text.contains(&here) && !set.contains_key("SSL_CERT_FILE") && !set.contains_key("PYTHONPATH"), "{text}");
    assert!(!stage.dir.path().join("certs").exists(), "no authority is made for it");
    let bundle = ["--format", "json", "--proxy", "https://[fd00::1]", "--ca-bundle", "/ca/bundle.pem"];
    let set: std::collections::BTreeMap<String, String> = serde_json::from_str(&printed(&stage, &bundle, &[])).unwrap();
    assert_eq!(set["HTTP_PROXY"], "https://[fd00::1]:443");
    for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"] {
        assert_eq!(set[name], "/ca/bundle.pem");
    }
    assert_eq!(set["NO_PROXY"], "fd00::1", "this machine is counted, so it is no exception");
    for (args, reason) in [
        (&["--proxy", "lockgate:8080"][..], "write http://HOST:PORT"),
        (&["--proxy", "http://me:pw@lockgate:8080"], "LOCKGATE_CREDENTIALS"),
        (&["--proxy", "http://lockgate/path"], "no path"),
        (&["--ca-bundle", "/x"], "--proxy"),
        (&["--format", "xml"], "powershell"),
    ] {
        let output = Command::new(PROGRAM).arg("env").args(args).current_dir(stage.dir.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(err(&output).contains(reason), "{args:?}: {}", err(&output));
    }
}
