//! Text of a first `proxy.toml`, with comments, made from three answers.

use std::path::Path;

use crate::config::edit::quoted;

/// Folder of the systemd service's own files; `/etc` is read-only for it.
const STATE_FOLDER: &str = "/var/lib/lockgate";

/// Requests that the limit allows in a time, as the file writes them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RateText {
    /// A whole number; `_` may separate digits.
    pub(super) requests: String,
    /// A duration, such as `800ms`.
    pub(super) per: String,
}

/// The service that the limit is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Service {
    /// Host pattern of the limit, with a port if that is not the scheme's own.
    pub(super) host: String,
    /// URL of the service, with a slash at the end.
    pub(super) url: String,
}

/// Way in which callers reach the gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Mode {
    /// By HTTP_PROXY and HTTPS_PROXY
    Forward,
    /// By a base URL that leads to the gateway
    Reverse,
}

/// All that the file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Draft {
    pub(super) service: Service,
    pub(super) rate: RateText,
    pub(super) mode: Mode,
    /// Listening address.
    pub(super) listen: String,
    /// Address ranges of callers; empty: the default, this machine.
    pub(super) allow_from: Vec<String>,
    /// The file lies below `/etc`, so the service cannot write beside it.
    pub(super) is_below_etc: bool,
}

impl Draft {
    /// The whole file.
    pub(super) fn text(&self) -> String {
        let sections = [self.listen_section(), self.limit_section(), self.mode_section(), self.access_section()];
        let sections: Vec<String> = sections.into_iter().filter(|section| !section.is_empty()).collect();
        format!("{HEAD}\n{}\n{ADMIN}", sections.join("\n"))
    }

    /// Commands that come next, in words; `path`: the file that was written.
    pub(super) fn next_step(&self, path: &Path) -> String {
        let start = match self.is_below_etc {
            true => "lockgate service install --now, or systemctl reload lockgate".to_owned(),
            false => format!("lockgate run -c {}", path.display()),
        };
        match self.mode {
            Mode::Reverse => format!("{start}, and http://{}/ in place of {}", self.listen, self.service.url),
            Mode::Forward if !self.is_below_etc => {
                format!("{start}, and lockgate exec -c {} -- PROGRAM", path.display())
            }
            Mode::Forward if !self.is_intercepted() => format!("{start}; for programs, lockgate env --proxy URL"),
            Mode::Forward => format!(
                "{start}; for programs, lockgate env --proxy URL --ca-bundle FILE, where FILE has the usual roots and \
                 {STATE_FOLDER}/certs/lockgate-ca.pem, which root can read"
            ),
        }
    }

    /// True if the gateway opens the tunnels to the service.
    fn is_intercepted(&self) -> bool {
        self.mode == Mode::Forward && self.service.url.starts_with("https:")
    }

    fn listen_section(&self) -> String {
        let comment = match self.mode {
            Mode::Forward => "# Programs' HTTP_PROXY and HTTPS_PROXY: `lockgate exec -- PROGRAM` sets them.",
            Mode::Reverse => "# Programs call this address instead of the service.",
        };
        format!("[listen]\n{comment}\nproxy = {}\n", quoted(&self.listen))
    }

    fn limit_section(&self) -> String {
        let RateText { requests, per } = &self.rate;
        format!(
            "# In no span of `per` are more than `requests` sent; what comes beyond that waits in line.\n\
             [[limit]]\n\
             name     = {}\n\
             match    = {{ host = {} }}\n\
             requests = {requests}\n\
             per      = {}\n\
             # The longest wait. A request that would wait longer is refused at once, with the time to come back.\n\
             max_wait = \"30s\"\n",
            quoted(&self.limit_name()),
            quoted(&self.service.host),
            quoted(per)
        )
    }

    /// The host, with a dash for each character that a name may not have.
    fn limit_name(&self) -> String {
        let fits = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '-' };
        let name: String = self.service.host.trim_start_matches(['*', '.']).chars().map(fits).take(64).collect();
        if name.is_empty() { "all".to_owned() } else { name }
    }

    /// Interception for a forward proxy, a route for a reverse one. Nothing for a service without
    /// TLS, whose requests a proxy sees anyway.
    fn mode_section(&self) -> String {
        match self.mode {
            Mode::Reverse => format!(
                "[[route]]\npath = \"/\"\nto   = {}\n\n[access]\n# Only the route is served.\nunlisted_hosts = \"deny\"\n{}",
                quoted(&self.service.url),
                self.allow_from_line()
            ),
            Mode::Forward if self.is_intercepted() => {
                let host = self.service.host.split(':').next().unwrap_or_default();
                let folder = if self.is_below_etc {
                    format!(
                        "# The service may write there; programs need a copy of its lockgate-ca.pem.\nca_dir    = \"{STATE_FOLDER}/certs\"\n"
                    )
                } else {
                    String::new()
                };
                format!(
                    "[tls]\n# Open the HTTPS tunnels to this host, or a limit sees none of the requests in them. Programs must trust\n\
                     # the gateway's own authority: `lockgate exec -- PROGRAM` arranges that.\nintercept = [{}]\n{folder}",
                    quoted(host)
                )
            }
            Mode::Forward => String::new(),
        }
    }

    /// `[access]` of a forward proxy, if anything is to be said there.
    fn access_section(&self) -> String {
        let port = self.service.host.split_once(':').map(|(_, port)| port);
        let tunnels = match port {
            Some(port) if self.service.url.starts_with("https:") && port != "443" => {
                format!("# Ports to which tunnels may lead.\nconnect_ports = [443, {port}]\n")
            }
            _ => String::new(),
        };
        let lines = format!("{tunnels}{}", self.allow_from_line());
        if self.mode == Mode::Reverse || lines.is_empty() { String::new() } else { format!("[access]\n{lines}") }
    }

    fn allow_from_line(&self) -> String {
        if self.allow_from.is_empty() {
            return String::new();
        }
        let ranges: Vec<String> = self.allow_from.iter().map(|range| quoted(range)).collect();
        format!("# Addresses that callers may come from.\nallow_from = [{}]\n", ranges.join(", "))
    }
}

/// First lines of the file.
const HEAD: &str = "\
# lockgate configuration, written by `lockgate init`.
# `lockgate check` reports mistakes in it and explains its limits; docs/limits.md and docs/operating.md have all keys.
# A running gateway reads it again on SIGHUP (`systemctl reload lockgate`).
";

/// Last lines: settings that are often added next; none is needed.
const ADMIN: &str = "\
# Dashboard at /, metrics at /metrics, health at /healthz.
#[admin]
#listen = \"127.0.0.1:8081\"
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_below_etc_has_the_authority_where_the_service_may_write() {
        let service = Service { host: "*.example.com:8443".into(), url: "https://*.example.com:8443/".into() };
        let rate = RateText { requests: "5".into(), per: "1s".into() };
        let mut draft = Draft {
            service,
            rate,
            mode: Mode::Forward,
            listen: "127.0.0.1:8080".into(),
            allow_from: Vec::new(),
            is_below_etc: true,
        };
        let text = draft.text();
        for line in [
            "ca_dir    = \"/var/lib/lockgate/certs\"",
            "intercept = [\"*.example.com\"]",
            "connect_ports = [443, 8443]",
            "name     = \"example.com-8443\"",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}: {text}");
        }
        draft.is_below_etc = false;
        assert!(!draft.text().contains("ca_dir"));
    }

    #[test]
    fn next_comes_what_works_where_the_file_lies() {
        let service = |url: &str| Service { host: "example.com".into(), url: url.into() };
        let rate = RateText { requests: "5".into(), per: "1s".into() };
        let (listen, allow_from) = ("127.0.0.1:8080".to_owned(), Vec::new());
        let mut draft = Draft {
            service: service("https://example.com/"),
            rate,
            mode: Mode::Forward,
            listen,
            allow_from,
            is_below_etc: true,
        };
        let next = |draft: &Draft| draft.next_step(Path::new("/etc/lockgate/proxy.toml"));
        let service_starts = "lockgate service install --now, or systemctl reload lockgate";
        let https = next(&draft);
        assert!(
            https.starts_with(&format!("{service_starts}; for programs, lockgate env --proxy URL --ca-bundle ")),
            "{https}"
        );
        assert!(https.contains("/var/lib/lockgate/certs/lockgate-ca.pem"), "{https}");
        draft.service = service("http://example.com/");
        assert_eq!(next(&draft), format!("{service_starts}; for programs, lockgate env --proxy URL"));
        draft.mode = Mode::Reverse;
        let base = "and http://127.0.0.1:8080/ in place of http://example.com/";
        assert_eq!(next(&draft), format!("{service_starts}, {base}"));
        draft.is_below_etc = false;
        assert_eq!(next(&draft), format!("lockgate run -c /etc/lockgate/proxy.toml, {base}"));
    }
}
