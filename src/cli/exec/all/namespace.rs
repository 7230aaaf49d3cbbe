//! Namespaces for a program under `exec --all`: a network of its own, which leads nowhere, and mounts of
//! its own.
//!
//! Root needs no more. Another user, and root in most containers, needs a user namespace beside them, in
//! which the program has its own user id and no other. Systems that refuse these name a reason here, with
//! the setting that allows them.

use std::fs;
use std::io;

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::process::{getegid, geteuid};
use rustix::thread::UnshareFlags;

/// Sockets of name services that programs ask beside DNS (nss-resolve, nscd): they would answer with
/// addresses of the network outside, which do not tell the gateway the name.
const NAME_SERVICES: [&str; 3] =
    ["/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket", "/var/run/nscd/socket"];

/// Settings that forbid user namespaces: path, value that does, and remedy.
const KNOBS: [(&str, &str, &str); 3] = [
    ("/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000 allows them"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1 allows them"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 allows them, or an AppArmor profile for lockgate with \
         the rule `userns,`",
    ),
];

/// Reason for which there are no namespaces for the program.
#[derive(Debug, thiserror::Error)]
#[error("--all needs a network namespace, and this system refuses it ({step}: {source}): {}", reason(*source))]
pub(in super::super) struct NamespaceRefused {
    /// System call or file that failed.
    step: &'static str,
    source: Errno,
}

/// Moves this process into namespaces of its own. It must have one thread.
///
/// # Errors
/// If the system refuses; nothing but a namespace without use has changed then, and the process must not
/// go on.
pub(super) fn enter() -> Result<(), NamespaceRefused> {
    let own = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    match unshare(own) {
        Err(Errno::PERM) => enter_user_namespace(own)?,
        entered => entered.map_err(|source| NamespaceRefused { step: "unshare", source })?,
    }
    // Mounts of the system still arrive here; those made here stay here.
    let down = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", down).map_err(|source| NamespaceRefused { step: "mount", source })?;
    for socket in NAME_SERVICES.into_iter().filter(|path| fs::exists(path).unwrap_or(false)) {
        mount_bind("/dev/null", socket).map_err(|source| NamespaceRefused { step: "mount", source })?;
    }
    Ok(())
}

/// Enters a user namespace, too, with the user and the group of this process.
fn enter_user_namespace(own: UnshareFlags) -> Result<(), NamespaceRefused> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    unshare(UnshareFlags::NEWUSER | own).map_err(|source| NamespaceRefused { step: "unshare", source })?;
    let write = |step: &'static str, text: String| {
        let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        fs::write(step, text).map_err(|error| NamespaceRefused { step, source: errno(error) })
    };
    // Without it a process could leave a group that it is denied something by (user_namespaces(7)).
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    write("/proc/self/gid_map", format!("{group} {group} 1"))
}

/// unshare(2) of this thread.
#[allow(
    deprecated,
    reason = "its successor is unsafe, for flags that share memory or files less; these share neither less"
)]
fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    rustix::thread::unshare(flags)
}

/// Cause of a refusal, as far as it can be read, and its remedy.
fn reason(error: Errno) -> String {
    if error == Errno::INVAL || error == Errno::NOSYS {
        return "the kernel was built without user or network namespaces (CONFIG_USER_NS, CONFIG_NET_NS)".to_owned();
    }
    for (path, forbids, remedy) in KNOBS {
        if fs::read_to_string(path).is_ok_and(|value| value.trim() == forbids) {
            let name = path.trim_start_matches("/proc/sys/").replace('/', ".");
            return format!("{name} is {forbids}; {remedy}");
        }
    }
    if error == Errno::NOSPC || error == Errno::USERS {
        return "there are as many namespaces as user.max_user_namespaces and max_net_namespaces allow".to_owned();
    }
    if is_filtered() {
        return "a seccomp filter forbids it, as that of Docker and Podman does; start the container with --cap-add \
                SYS_ADMIN, or with a seccomp profile that allows unshare and mount"
            .to_owned();
    }
    "a security policy (SELinux, AppArmor, a container's) forbids it; run the command as root, or outside the container"
        .to_owned()
}

/// True if a filter of system calls is in force for this process.
fn is_filtered() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}
