//! Listener errors: the address, the key of the file that names it, and a remedy.

use std::io;
use std::net::SocketAddr;

/// The first port that every user may listen on (`net.ipv4.ip_unprivileged_port_start`, ip(7)).
const FIRST_UNPRIVILEGED: u16 = 1024;

/// Failure to bind an address.
#[derive(Debug, thiserror::Error)]
#[error("{why}; {key} names this address: {}", remedy(*address, why.kind()))]
pub struct ListenError {
    /// The key of the configuration, with its section.
    pub key: &'static str,
    /// The address as configured.
    pub address: SocketAddr,
    /// The error of the system, with the address.
    pub why: io::Error,
}

/// Returns advice for operators.
///
/// Cases: in use, a port below 1024, a security policy, an address of no interface.
fn remedy(address: SocketAddr, kind: io::ErrorKind) -> String {
    if kind == io::ErrorKind::AddrInUse {
        let port = address.port();
        return format!(
            "`ss -ltnp sport = :{port}` shows the program that has it; stop that one or write another port"
        );
    }
    if kind == io::ErrorKind::PermissionDenied && address.port() < FIRST_UNPRIVILEGED {
        return format!(
            "ports below {FIRST_UNPRIVILEGED} need CAP_NET_BIND_SERVICE (AmbientCapabilities= in a systemd unit, or \
             `setcap cap_net_bind_service=+ep` on the program); grant it, or write a port from {FIRST_UNPRIVILEGED} on"
        );
    }
    if kind == io::ErrorKind::PermissionDenied {
        let policy = "a security policy of this machine (SELinux, AppArmor, seccomp) forbids it";
        return format!("{policy}; allow it, or write another port");
    }
    if kind == io::ErrorKind::AddrNotAvailable {
        let missing = "no interface of this machine has it (`ip address` lists those that there are)";
        return format!("{missing}; write one of those, or 0.0.0.0 or [::] for all");
    }
    "write another address".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_its_remedy_and_the_key_is_named() {
        let told = |address: &str, kind: io::ErrorKind| {
            let why = io::Error::new(kind, format!("cannot listen on {address}: no"));
            ListenError { key: "[admin] listen", address: address.parse().unwrap(), why }.to_string()
        };
        for (address, kind, remedy) in [
            ("127.0.0.1:8080", io::ErrorKind::AddrInUse, "ss -ltnp sport = :8080"),
            ("127.0.0.1:80", io::ErrorKind::PermissionDenied, "CAP_NET_BIND_SERVICE"),
            ("127.0.0.1:8080", io::ErrorKind::PermissionDenied, "SELinux"),
            ("192.0.2.1:80", io::ErrorKind::AddrNotAvailable, "no interface of this machine has it"),
        ] {
            let told = told(address, kind);
            assert!(told.starts_with(&format!("cannot listen on {address}: no; [admin] listen names this")), "{told}");
            assert!(told.contains(remedy), "{told}");
        }
    }
}
