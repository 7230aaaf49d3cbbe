//! Machines of a test's own: network namespaces, linked in a row, with what runs in them.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace; it lasts as long as this, and the processes and sockets in it.
pub(crate) struct Machine {
    namespace: File,
}

impl Machine {
    /// One with a loopback interface.
    #[track_caller]
    pub(crate) fn new() -> Machine {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let namespace = made.join().expect("it does not panic").unwrap_or_else(|error| {
            panic!("a network namespace cannot be made: {error}; these tests need root (CAP_SYS_ADMIN)")
        });
        let machine = Machine { namespace };
        machine.ip("link set lo up");
        machine
    }

    /// Runs something there, on a thread of its own. Sockets that it makes stay there.
    #[track_caller]
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                setns(&self.namespace, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
                work()
            });
            there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that runs there.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// A command that runs there, with this file as its hosts(5).
    pub(crate) fn command_with_hosts(&self, hosts: &Path, program: &str) -> Command {
        let mut command = self.command("unshare");
        command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]).arg(hosts).arg(program);
        command
    }

    /// Runs `ip` with these words.
    #[track_caller]
    pub(crate) fn ip(&self, words: &str) {
        let mut command = self.command("ip");
        succeed(command.args(words.split_whitespace()));
    }

    /// Loads these rules of nftables.
    #[track_caller]
    pub(crate) fn nft(&self, rules: &str) {
        let path =
            std::env::temp_dir().join(format!("lockgate-nft-{}-{}", std::process::id(), self.namespace.as_raw_fd()));
        std::fs::write(&path, rules).expect("a file can be written");
        let mut command = self.command("nft");
        succeed(command.arg("-f").arg(&path));
        std::fs::remove_file(path).ok();
    }

    /// Sets a value in `/proc/sys/net`.
    #[track_caller]
    pub(crate) fn sysctl(&self, name: &str, value: &str) {
        let path = Path::new("/proc/sys/net").join(name);
        self.run(|| std::fs::write(&path, value).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
    }

    /// Links two machines by a cable, whose ends have these addresses.
    #[track_caller]
    pub(crate) fn link(&self, here: (&str, &str), other: &Machine, there: (&str, &str)) {
        let (near, far) = (here.0, there.0);
        self.ip(&format!("link add {near} type veth peer name {far} netns {}", other.path().display()));
        for (machine, (name, addresses)) in [(self, here), (other, there)] {
            for address in addresses.split_whitespace() {
                let nodad = if address.contains(':') { "nodad" } else { "" };
                machine.ip(&format!("address add {address} dev {name} {nodad}"));
            }
            machine.ip(&format!("link set {name} up"));
        }
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd()))
    }
}

/// Runs a command to its end, which must be a good one.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{:?}: {e}: run tests/run, which installs it", command.get_program()));
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Three machines in a row: callers, the gateway, and the origin, whose way to each other is through the one between.
pub(crate) struct Row {
    pub(crate) callers: Machine,
    pub(crate) gateway: Machine,
    pub(crate) origin: Machine,
}

impl Row {
    /// Addresses of the origin's machine, of the gateway's towards the callers, and of the callers'.
    pub(crate) const ORIGIN: &str = "10.77.2.2";
    pub(crate) const ORIGIN_V6: &str = "fd77:2::2";
    pub(crate) const GATEWAY: &str = "10.77.1.1";
    pub(crate) const CALLERS: &str = "10.77.1.2";

    #[track_caller]
    pub(crate) fn new() -> Row {
        let row = Row { callers: Machine::new(), gateway: Machine::new(), origin: Machine::new() };
        row.gateway.link(("lan", "10.77.1.1/24 fd77:1::1/64"), &row.callers, ("wan", "10.77.1.2/24 fd77:1::2/64"));
        row.gateway.link(("wan", "10.77.2.1/24 fd77:2::1/64"), &row.origin, ("lan", "10.77.2.2/24 fd77:2::2/64"));
        row.callers.ip("route add default via 10.77.1.1");
        row.callers.ip("route add default via fd77:1::1");
        row.origin.ip("route add default via 10.77.2.1");
        row.origin.ip("route add default via fd77:2::1");
        row.gateway.sysctl("ipv4/ip_forward", "1");
        row.gateway.sysctl("ipv6/conf/all/forwarding", "1");
        row
    }

    /// Address of the origin's machine.
    pub(crate) fn at(port: u16) -> SocketAddr {
        SocketAddr::new(Row::ORIGIN.parse().expect("an address"), port)
    }
}
