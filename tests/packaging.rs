//! Files of packages: scripts, metadata, units and workflows agree with each other and with the program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::certs::{Authority, Fault};
use crate::support::gateway::{Dir, PROGRAM};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs a program and returns its output; it must succeed.
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("the tests need {command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The lines of a section of Cargo.toml.
fn section<'a>(manifest: &'a str, heading: &str) -> &'a str {
    let rest = manifest.split(&format!("\n{heading}\n")).nth(1).unwrap_or_else(|| panic!("no {heading}"));
    rest.split("\n[package.").next().unwrap().split("\n[lints").next().unwrap()
}

#[test]
fn the_package_is_made_of_files_that_exist_or_that_the_build_makes() {
    let manifest = read("Cargo.toml");
    let assets: Vec<&str> = section(&manifest, "[package.metadata.deb]")
        .lines()
        .filter_map(|line| line.strip_prefix("    [\"")?.split('"').next())
        .collect();
    assert!(assets.len() >= 12, "{assets:?}");
    let build = read("packaging/build");
    for asset in assets {
        if let Some(made) = asset.strip_prefix("target/packaging/") {
            let made = made.trim_end_matches("/*.1");
            assert!(build.contains(&format!("\"$out/{made}\"")), "packaging/build makes no {made}");
        } else if let Some((folder, ending)) = asset.split_once("*.") {
            let mut entries = fs::read_dir(repository().join(folder)).unwrap();
            assert!(entries.any(|e| e.unwrap().path().extension().is_some_and(|e| e == ending)), "{asset}");
        } else if asset != "target/release/lockgate" {
            assert!(repository().join(asset).is_file(), "{asset}");
        }
    }
}

#[test]
fn scripts_of_packages_are_ones_that_shells_read() {
    for script in ["postinst", "prerm", "postrm"] {
        let path = repository().join("packaging/deb").join(script);
        succeed(Command::new("sh").arg("-n").arg(&path));
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o111, 0o111, "{script} is not executable");
    }
    for script in ["packaging/build", "packaging/test"] {
        succeed(Command::new("bash").arg("-n").arg(repository().join(script)));
        let usage = Command::new(repository().join(script)).arg("no-such").output().unwrap();
        assert!(!usage.status.success() && String::from_utf8_lossy(&usage.stderr).contains(script), "{usage:?}");
    }
    succeed(Command::new("sh").arg("-n").arg(repository().join("packaging/tests/in_debian.sh")));
}

#[test]
fn the_first_configuration_of_the_package_is_valid_and_its_unit_can_use_it() {
    let dir = Dir::new();
    dir.write("proxy.toml", &read("packaging/deb/proxy.toml"));
    let output = Command::new(PROGRAM).args(["check", "-c"]).arg(dir.path().join("proxy.toml")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.starts_with("warning: there is no [[limit]]") && text.matches("warning").count() == 1, "{text}");
    // Its examples are valid, too, as soon as they are no comments any more.
    let live: String = read("packaging/deb/proxy.toml")
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest)
                if rest.starts_with('[')
                    || rest.split_once(' ').is_some_and(|(_, r)| r.trim_start().starts_with("= ")) =>
            {
                format!("{rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(live.contains("\n[[limit]]\n") && live.contains("\nintercept = "), "{live}");
    dir.write("live.toml", &live);
    succeed(Command::new(PROGRAM).args(["check", "-c"]).arg(dir.path().join("live.toml")));
    let unit = read("packaging/systemd/lockgate.service");
    for line in ["StateDirectory=lockgate", "User=lockgate", "Type=notify", "NotifyAccess=all", "ProtectSystem=strict"]
    {
        assert!(unit.lines().any(|other| other == line), "{line}");
    }
    assert!(live.contains("ca_dir = \"/var/lib/lockgate/"), "the folder that the unit may write");
    assert!(read("packaging/systemd/sysusers.conf").contains("\nu lockgate "), "the user that the unit names");
}

#[test]
fn cargo_binstall_and_homebrew_ask_for_the_archives_that_are_built() {
    let (manifest, build) = (read("Cargo.toml"), read("packaging/build"));
    assert!(build.contains("name=lockgate-$version-$target\n") && build.contains("\"$out/$name.tar.gz\""));
    let url = "pkg-url = \"{ repo }/releases/download/v{ version }/lockgate-{ version }-{ target }.tar.gz\"\n";
    assert!(section(&manifest, "[package.metadata.binstall]").contains(url));
    let version = env!("CARGO_PKG_VERSION");
    let formula = read("packaging/homebrew/lockgate.rb.in")
        .replace("@VERSION@", version)
        .replace("@REPOSITORY@", "https://git.example/lockgate")
        .replace("@SHA256_X86_64@", &"0".repeat(64))
        .replace("@SHA256_AARCH64@", &"1".repeat(64));
    assert!(!formula.contains('@'), "something was not filled in");
    let workflow = read(".github/workflows/release.yml");
    for processor in ["x86_64", "aarch64"] {
        let target = format!("{processor}-unknown-linux-musl");
        assert!(workflow.contains(&target), "the release builds no {target}");
        let archive =
            format!("https://git.example/lockgate/releases/download/v{version}/lockgate-{version}-{target}.tar.gz");
        assert!(formula.contains(&archive), "{formula}");
        let glibc = section(&manifest, &format!("[package.metadata.binstall.overrides.{processor}-unknown-linux-gnu]"));
        assert!(glibc.contains(&format!("/lockgate-{{ version }}-{target}.tar.gz\"")), "{glibc}");
    }
    let dir = Dir::new();
    let path = dir.write("lockgate.rb", &formula);
    assert_eq!(succeed(Command::new("ruby").arg("-c").arg(path)).trim(), "Syntax OK");
}

#[test]
fn workflows_are_complete_and_call_scripts_that_exist() {
    let check = r#"
import pathlib, re, sys, yaml
root = pathlib.Path(sys.argv[1])
for path in sorted((root / ".github/workflows").glob("*.yml")):
    jobs = yaml.safe_load(path.read_text())["jobs"]
    for name, job in jobs.items():
        needs = job.get("needs", [])
        for other in [needs] if isinstance(needs, str) else needs:
            assert other in jobs, f"{path.name}: {name} needs {other}"
        assert "timeout-minutes" in job and "runs-on" in job, f"{path.name}: {name}"
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step), f"{path.name}: {name}: {step}"
            for script in re.findall(r"(?:^|\s)(\.ci/\w+|packaging/\w+) ?(\w*)", step.get("run", "")):
                text = (root / script[0]).read_text()
                assert not script[1] or re.search(rf"\b{script[1]}\b", text), f"{script} in {path.name}"
    print(path.name, len(jobs))
"#;
    let python = repository().join(".venv/bin/python");
    let output = succeed(Command::new(python).args(["-c", check]).arg(repository()));
    assert_eq!(output, "ci.yml 1\nrelease.yml 10\n");
}

#[test]
fn links_between_documents_lead_to_files() {
    let mut documents: Vec<PathBuf> = vec![repository().join("README.md"), repository().join("packaging/README.md")];
    documents.extend(fs::read_dir(repository().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    let mut seen = 0;
    for document in documents.iter().filter(|path| path.extension().is_some_and(|e| e == "md")) {
        let text = fs::read_to_string(document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            if file.is_empty() || file.contains(':') || file.contains(' ') {
                continue;
            }
            let path = document.parent().unwrap().join(file);
            assert!(path.exists(), "{}: {link}", document.display());
            seen += 1;
        }
    }
    assert!(seen > 50, "only {seen} links were found");
}

/// Checks every pod of a rendered chart, and prints the `proxy.toml` in it.
const READ_CHART: &str = r#"
import sys, yaml
resources = [resource for resource in yaml.safe_load_all(open(sys.argv[1])) if resource]
kinds = {}
for resource in resources:
    kinds.setdefault(resource["kind"], []).append(resource)
for workload in kinds.get("StatefulSet", []) + kinds.get("Deployment", []):
    pod = workload["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert all(labels[key] == value for key, value in workload["spec"]["selector"]["matchLabels"].items()), labels
    context = pod["spec"]["securityContext"]
    assert context["runAsNonRoot"] and context["seccompProfile"]["type"] == "RuntimeDefault", context
    assert pod["spec"]["automountServiceAccountToken"] is False
    volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
    volumes |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
    for container in pod["spec"]["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] and context["capabilities"] == {"drop": ["ALL"]}, context
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, volumes
        if container["name"] == "lockgate":
            assert pod["spec"]["securityContext"]["runAsUser"] == pod["spec"]["securityContext"]["fsGroup"] == 65532
            assert container["volumeMounts"][-1] and "/state" in [mount["mountPath"] for mount in container["volumeMounts"]]
ports = {port["name"] for workload in kinds.get("StatefulSet", []) + kinds.get("Deployment", [])
         for container in workload["spec"]["template"]["spec"]["containers"] for port in container["ports"]}
for service in kinds["Service"]:
    assert all(port.get("targetPort", port["name"]) in ports for port in service["spec"]["ports"]), service["spec"]
for monitor in kinds.get("ServiceMonitor", []):
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    found = [service for service in kinds["Service"] if wanted <= service["metadata"]["labels"].items()]
    assert [port["name"] for service in found for port in service["spec"]["ports"]] == [monitor["spec"]["endpoints"][0]["port"]]
for bundle in kinds.get("Bundle", []):
    assert bundle["spec"]["sources"][0] == {"useDefaultCAs": True} and "inLine" in bundle["spec"]["sources"][1]
(config,) = [map["data"]["proxy.toml"] for map in kinds["ConfigMap"] if "proxy.toml" in map["data"]]
scheme = "HTTPS" if "admin-tls" in config else "HTTP"
for workload in kinds.get("StatefulSet", []) + kinds.get("Deployment", []):
    for container in workload["spec"]["template"]["spec"]["containers"]:
        probes = [container[probe]["httpGet"] for probe in ("readinessProbe", "livenessProbe") if "httpGet" in container[probe]] \
            if container["name"] == "lockgate" else []
        assert all(probe.get("scheme", "HTTP") == scheme for probe in probes), probes
for monitor in kinds.get("ServiceMonitor", []):
    assert monitor["spec"]["endpoints"][0].get("scheme", "http").upper() == scheme, monitor
print(config, end="")
"#;

#[test]
fn what_the_chart_renders_is_current_and_its_gateways_accept_their_configuration() {
    let folder = "packaging/tests/chart";
    let names: Vec<String> = fs::read_dir(repository().join(folder))
        .unwrap()
        .filter_map(|entry| {
            entry.unwrap().file_name().into_string().unwrap().strip_suffix(".values.yaml").map(str::to_owned)
        })
        .collect();
    assert!(names.len() >= 3, "{names:?}");
    for name in names {
        let rendered = repository().join(folder).join(format!("{name}.yaml"));
        let chart = "packaging/chart";
        let sum = format!(
            "cat {chart}/Chart.yaml {chart}/values.yaml {chart}/templates/* {folder}/{name}.values.yaml | sha256sum | cut -c1-32"
        );
        let sum = succeed(Command::new("bash").args(["-c", &sum]).env("LC_ALL", "C").current_dir(repository()));
        let text = fs::read_to_string(&rendered).unwrap();
        assert!(
            text.starts_with(&format!("# Rendered by packaging/build chart from {sum}")),
            "{name}: the chart has changed: packaging/build chart"
        );
        let config =
            succeed(Command::new(repository().join(".venv/bin/python")).args(["-c", READ_CHART]).arg(&rendered));
        let dir = Dir::new();
        for secret in ["operators", "store", "authority", "admin-tls"] {
            fs::create_dir(dir.path().join(secret)).unwrap();
        }
        let (cert, key) = Authority::new().issue(Fault::None).write(&dir.path().join("admin-tls"), "tls");
        fs::rename(cert, dir.path().join("admin-tls/tls.crt")).unwrap();
        assert_eq!(key, dir.path().join("admin-tls/tls.key"));
        dir.write("operators/operators", &format!("operator:$2a$10${}\n", "a".repeat(53)));
        dir.write("store/password", "secret\n");
        fs::set_permissions(dir.path().join("store/password"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        let here = format!("{}/", dir.path().display());
        dir.write("proxy.toml", &config.replace("/etc/lockgate-", &here).replace("\"/state\"", "\"state\""));
        let check = Command::new(PROGRAM).args(["check", "-c"]).arg(dir.path().join("proxy.toml")).output().unwrap();
        let told = String::from_utf8_lossy(&check.stderr);
        assert!(check.status.success() && !told.contains("warning: the limit"), "{name}: {told}");
    }
    let chart = read("packaging/chart/Chart.yaml");
    assert!(chart.contains(&format!("\nappVersion: {}\n", env!("CARGO_PKG_VERSION"))), "{chart}");
}

#[test]
fn the_image_writes_where_its_configuration_says_and_nowhere_else() {
    let (file, build) = (read("packaging/Containerfile"), read("packaging/build"));
    assert!(file.contains("\nFROM scratch\n") && file.contains("\nUSER 65532:65532\n"), "{file}");
    assert!(file.contains("\nENV STATE_DIRECTORY=/state\n") && file.contains("\nVOLUME /state\n"), "{file}");
    assert!(file.contains("RUN packaging/build root ") && build.contains("\nroot() {\n"), "{file}");
    assert!(read("packaging/container/passwd").starts_with("nonroot:x:65532:65532:"));
    let dir = Dir::new();
    dir.write("proxy.toml", &read("packaging/container/proxy.toml"));
    let mut check = Command::new(PROGRAM);
    check.args(["check", "-c"]).arg(dir.path().join("proxy.toml")).env("STATE_DIRECTORY", dir.path());
    let output = check.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.starts_with("warning: there is no [[limit]]"), "{text}");
}
