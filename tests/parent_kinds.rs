//! Parents that speak SOCKS5 or TLS, and the one that the environment names.

use std::process::Command;
use std::sync::Arc;

use crate::parents::{login, parent};
use crate::support::certs::{Authority, Fault};
use crate::support::gateway::{Dir, PROGRAM};
use crate::support::parent::Parent;
use crate::support::*;

#[test]
fn socks_parents_get_names_or_addresses_by_their_scheme() {
    let origin = Origin::start();
    for (scheme, target) in [("socks5h", "name"), ("socks5", "address 127.0.0.1")] {
        let proxy = Parent::socks(None, 0);
        let toml = UNLIMITED.to_owned() + &parent(&["localhost"], &[proxy.url(scheme)], "");
        let gateway = Gateway::start(&toml);
        let url = format!("http://localhost:{}/x", origin.port());
        assert_eq!(gateway.get(&url).text(), "/x");
        let asked = proxy.heads();
        assert!(asked.last().is_some_and(|last| last.starts_with(target)), "{asked:?}");
    }
    let proxy = Parent::socks(None, 0);
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &parent(&["*"], &[proxy.url("socks5h")], "")));
    assert_eq!(gateway.get(&format!("http://nowhere.example:{}/y", origin.port())).text(), "/y");
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &parent(&["*"], &[proxy.url("socks5")], "")));
    check_ours(&gateway.get("http://nowhere.invalid/"), 502, "dns_error");
}

#[test]
fn a_socks_parent_may_want_a_login_and_may_refuse() {
    let origin = Origin::start();
    let url = format!("http://nowhere.example:{}/x", origin.port());
    let proxy = Parent::socks(Some(("ana", "secret")), 0);
    for (password, status) in [("secret", 200), ("wrong", 502)] {
        let dir = Dir::new();
        let more = login(&dir, password);
        let toml = UNLIMITED.to_owned() + &parent(&["*"], &[proxy.url("socks5h")], more);
        let answer = Gateway::start_in(dir, &toml).get(&url);
        assert_eq!(answer.status, status, "{}", answer.text());
        assert!(status == 200 || answer.text().contains("password_file"), "{}", answer.text());
    }
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &parent(&["*"], &[proxy.url("socks5h")], "")));
    check_ours(&gateway.get(&url), 502, "proxy_configuration_error");
    let refusing = Parent::socks(None, 2);
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &parent(&["*"], &[refusing.url("socks5h")], "")));
    let answer = gateway.get(&url);
    check_ours(&answer, 502, "connection_refused");
    assert!(answer.text().contains("connection not allowed"), "{}", answer.text());
}

#[test]
fn a_parent_with_tls_must_prove_its_name() {
    let (dir, authority) = (Dir::new(), Authority::new());
    let trust = authority.write(dir.path()).display().to_string();
    let answer = |request: &Request, link: &mut Link<'_>| {
        link.read_body();
        link.answer(200, &request.target)
    };
    let proxy = Origin::scripted_tls(authority.server_config(Fault::None), answer);
    let other = Origin::scripted_tls(Authority::named("other").server_config(Fault::None), answer);
    let url = |origin: &Origin| format!("https://localhost:{}", origin.port());
    let toml = format!("{UNLIMITED}[tls]\ntrust = [{trust:?}]\n\n{}", parent(&["*"], &[url(&proxy)], ""));
    let gateway = Gateway::start_in(dir, &toml);
    assert_eq!(gateway.get("http://a.example/x").text(), "http://a.example/x");
    let toml = format!("{UNLIMITED}[tls]\ntrust = [{trust:?}]\n\n{}", parent(&["*"], &[url(&other)], ""));
    assert!(gateway.reload(&toml));
    let refused = gateway.get("http://a.example/");
    check_ours(&refused, 503, "destination_unavailable");
    assert!(refused.text().contains("certificate"), "{}", refused.text());
}

/// Log of a gateway that was started with these variables, once it has answered.
fn log_with(variables: &[(&str, String)], toml: &str) -> String {
    let dir = Dir::new();
    dir.write("proxy.toml", toml);
    let mut command = Command::new(PROGRAM);
    command.args(["run", "-c", "proxy.toml"]).envs(variables.iter().map(|(name, value)| (*name, value)));
    let gateway = Gateway::start_by(&mut command, Arc::new(dir));
    gateway.complains("listening");
    assert_eq!(gateway.get(&Origin::start().url("/direct")).text(), "/direct", "no variable is followed");
    gateway.stderr()
}

#[test]
fn the_proxy_of_the_environment_is_offered_and_never_followed() {
    let dead = DeadPort::new();
    let port = free_port();
    let toml = format!("{UNLIMITED}[listen]\nproxy = \"127.0.0.1:{port}\"\n\n");
    let proxy = format!("http://ana:secret@127.0.0.1:{}", dead.port());
    let variables = [("HTTP_PROXY", proxy.clone()), ("NO_PROXY", ".corp.example".to_owned())];
    let log = log_with(&variables, &toml);
    let lines = format!(
        "[[parent]]\nmatch = {{ host = \"*\" }}\nexcept = [\"*.corp.example\"]\nproxy = \"http://127.0.0.1:{}\"",
        dead.port()
    );
    assert!(log.contains(&lines) && !log.contains("secret"), "{log}");
    let own = [("HTTP_PROXY", format!("http://127.0.0.1:{port}")), ("https_proxy", format!("http://localhost:{port}"))];
    assert!(!log_with(&own, &toml).contains("[[parent]]"), "as under `lockgate exec` of this gateway");
    let written = toml + &parent(&["a.example"], &[format!("http://127.0.0.1:{}", dead.port())], "");
    assert!(!log_with(&variables, &written).contains("names a proxy"), "the file says it already");
}
