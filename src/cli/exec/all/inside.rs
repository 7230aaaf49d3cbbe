//! Network inside the namespace of a program: one interface, to which every address belongs, so that each
//! connection arrives here.
//!
//! - All addresses are local (`ip route add local 0.0.0.0/0 dev lo`), so packets to any of them come to
//!   the hook `prerouting`.
//! - TPROXY hands connections over TCP to one listener, and keeps their destination. Connections to
//!   loopback go to a server in the namespace if one listens there, and else to the gateway as well.
//! - Queries of DNS, to whichever server, are redirected to one socket.
//! - Packets of other protocols find no server, and are refused at once: QUIC falls back to TCP.
//!
//! The sockets are used by the relay, outside: a socket belongs to the namespace in which it was made.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::thread::{
    CapabilitySet, capabilities, clear_ambient_capability_set, configure_capability_in_ambient_set, set_capabilities,
};
use socket2::SockRef;

/// Address of the namespace's own, from which its connections come. Of the range for benchmarks (RFC
/// 2544), which no public server has.
///
/// A library leaves addresses of IPv4 out where the machine has none but loopback (`AI_ADDRCONFIG`).
pub(super) const OWN: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// Folders of system programs that are not in every user's `PATH`.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Reason for which the namespace has no network.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum Error {
    #[error("--all needs the program `{program}`; install the package {package}")]
    Missing { program: &'static str, package: &'static str },
    #[error("the network for --all cannot be set up: `{program}` says: {said}{hint}")]
    Failed { program: &'static str, said: String, hint: &'static str },
    #[error("the network for --all cannot be set up")]
    System(#[from] io::Error),
}

/// Sockets in the namespace.
pub(super) struct Sockets {
    /// Listeners that take connections to any address; one for each family.
    pub(super) tcp: Vec<TcpListener>,
    /// Sockets that take queries of DNS; one for each family.
    pub(super) udp: Vec<UdpSocket>,
}

/// Sets the network of this process's namespace up.
///
/// # Errors
/// If a program is missing, or the kernel lacks a part.
pub(super) fn set_up() -> Result<Sockets, Error> {
    // Programs of a user other than root lose them at their start, unless they are ambient (capabilities(7)).
    keep_for_children(CapabilitySet::NET_ADMIN)?;
    let made = make();
    clear_ambient_capability_set().map_err(io::Error::from)?;
    made
}

fn make() -> Result<Sockets, Error> {
    let hint = "";
    run(
        &IP,
        &["-batch", "-"],
        &format!("link set lo up\naddress add {OWN}/32 dev lo\nroute add local 0.0.0.0/0 dev lo src {OWN}\n"),
        hint,
    )?;
    // Fails where the kernel has no IPv6: then no program has.
    let has_six = run(&IP, &["-6", "-batch", "-"], "route add local ::/0 dev lo\n", hint).is_ok();
    let loopback = [Some(Ipv4Addr::LOCALHOST.into()), has_six.then_some(Ipv6Addr::LOCALHOST.into())];
    let mut sockets = Sockets { tcp: Vec::new(), udp: Vec::new() };
    for ip in loopback.into_iter().flatten() {
        let listener = TcpListener::bind(SocketAddr::new(ip, 0))?;
        SockRef::from(&listener).set_ip_transparent_v4(true)?;
        sockets.tcp.push(listener);
        sockets.udp.push(UdpSocket::bind(SocketAddr::new(ip, 0))?);
    }
    let hint = " (the kernel needs nf_tables with CONFIG_NFT_TPROXY, CONFIG_NFT_SOCKET and CONFIG_NFT_REDIR)";
    run(&NFT, &["-f", "-"], &rules(&sockets)?, hint)?;
    Ok(sockets)
}

/// Rules of nftables.
fn rules(sockets: &Sockets) -> io::Result<String> {
    let (mut taken, mut led, mut names) = (String::new(), String::new(), String::new());
    for (listener, server) in sockets.tcp.iter().zip(&sockets.udp) {
        let (listener, server) = (listener.local_addr()?, server.local_addr()?);
        let (family, word, own) = if listener.is_ipv4() {
            ("ipv4", "ip", format!("{{ 127.0.0.0/8, {OWN} }}"))
        } else {
            ("ipv6", "ip6", "::1".to_owned())
        };
        taken += &format!("\t\t{word} daddr {own} meta l4proto tcp socket wildcard {{ 0, 1 }} accept\n");
        led += &format!("\t\tmeta nfproto {family} meta l4proto tcp tproxy {word} to {listener} accept\n");
        names += &format!("\t\tmeta nfproto {family} udp dport 53 redirect to :{}\n", server.port());
    }
    Ok(format!(
        "table inet lockgate {{\n\
         \tchain prerouting {{\n\t\ttype filter hook prerouting priority -150; policy accept;\n{taken}{led}\t}}\n\
         \tchain output {{\n\t\ttype nat hook output priority -100; policy accept;\n{names}\t}}\n}}\n"
    ))
}

/// A program of the system, and the package that has it.
struct SystemProgram {
    name: &'static str,
    package: &'static str,
}

const IP: SystemProgram = SystemProgram { name: "ip", package: "iproute2 (iproute on Fedora)" };
const NFT: SystemProgram = SystemProgram { name: "nft", package: "nftables" };

impl SystemProgram {
    /// Its path; `None` if it is in no folder of `PATH`, nor where system programs are.
    fn find(&self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(SYSTEM_FOLDERS.into_iter().map(PathBuf::from));
        folders.map(|folder| folder.join(self.name)).find(|path| path.is_file())
    }
}

/// Runs a program with this input.
///
/// # Errors
/// If it is missing, or does not succeed; the error has what it says. `hint`: a likely cause.
fn run(program: &SystemProgram, arguments: &[&str], input: &str, hint: &'static str) -> Result<(), Error> {
    let path: PathBuf = program.find().ok_or(Error::Missing { program: program.name, package: program.package })?;
    let mut child = start(&path, arguments)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read it says why.
        stdin.write_all(input.as_bytes()).ok();
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(Error::Failed { program: program.name, said, hint })
}

fn start(path: &Path, arguments: &[&str]) -> io::Result<std::process::Child> {
    let mut command = Command::new(path);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn()
}

/// Lets programs that this process starts have a capability that it has itself.
fn keep_for_children(capability: CapabilitySet) -> io::Result<()> {
    let mut sets = capabilities(None)?;
    sets.inheritable |= capability;
    set_capabilities(None, sets)?;
    Ok(configure_capability_in_ambient_set(capability, true)?)
}
