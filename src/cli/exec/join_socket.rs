//! Join socket of a gateway that exec started: an abstract Unix socket (unix(7)), for processes of
//! one user.
//!
//! Abstract names have no owner and no permissions: any process of the machine can bind or connect
//! one. So the name holds the user's id, and each end asks the kernel for the peer's
//! (`SO_PEERCRED`).
//!
//! `daemon` describes the bytes that are exchanged.

use std::fmt::Display;
use std::io;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, Uid};

use crate::net::dial;

/// The socket's name for a gateway that `owner` has started for `what`: an address, or a program.
///
/// For instance `lockgate/exec/1000/127.0.0.1:8080`.
pub(super) fn name(owner: Uid, what: impl Display) -> String {
    format!("lockgate/exec/{owner}/{what}")
}

/// Binds a name, which only one process can have at a time.
///
/// The name is free again when the last descriptor of the socket is closed.
///
/// # Errors
/// `AddrInUse` if a process has it.
pub(super) fn bind(name: &str) -> io::Result<UnixListener> {
    UnixListener::bind_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)
}

/// Connects to the process that has bound the name, which must be one of `owner`.
///
/// The peer's user is checked before a byte is sent.
///
/// # Errors
/// `ConnectionRefused` if no process has bound it, `PermissionDenied` if another user's has.
pub(super) fn connect(name: &str, owner: Uid) -> io::Result<UnixStream> {
    let stream = dial::connect_abstract(name.as_bytes())?;
    peer_pid(&stream, owner)?;
    Ok(stream)
}

/// Process id of the peer, which must be one of `owner`; for a listening socket, of the process
/// that made it.
///
/// The kernel recorded both at connect(2) or listen(2); the peer cannot change them.
///
/// # Errors
/// `PermissionDenied` if it is another user's.
pub(super) fn peer_pid(stream: &impl AsFd, owner: Uid) -> io::Result<Pid> {
    let peer = socket_peercred(stream)?;
    if peer.uid == owner {
        return Ok(peer.pid);
    }
    let message = format!("the other end is a process of user {}, and not of user {owner}", peer.uid);
    Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
}

#[cfg(test)]
mod tests {
    use rustix::process::geteuid;

    use super::*;

    #[test]
    fn each_user_has_names_of_its_own() {
        let (one, other) = (Uid::from_raw(1000), Uid::from_raw(1001));
        assert_eq!(name(one, "127.0.0.1:8080"), "lockgate/exec/1000/127.0.0.1:8080");
        assert_ne!(name(one, "127.0.0.1:8080"), name(other, "127.0.0.1:8080"));
    }

    #[test]
    fn a_name_is_one_processs_and_forgotten_with_it() {
        let name = name(geteuid(), format!("test/{}", std::process::id()));
        let first = bind(&name).unwrap();
        assert_eq!(bind(&name).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert_eq!(connect(&name, geteuid()).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        bind(&name).unwrap();
    }

    #[test]
    fn another_users_process_at_either_end_is_found_out() {
        let name = name(geteuid(), format!("test/owner/{}", std::process::id()));
        let listener = bind(&name).unwrap();
        let stranger = Uid::from_raw(geteuid().as_raw() + 1);
        assert_eq!(connect(&name, stranger).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        let called = connect(&name, geteuid()).unwrap();
        let (_refused, _) = listener.accept().unwrap();
        let (calls, _) = listener.accept().unwrap();
        assert_eq!(peer_pid(&calls, stranger).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(peer_pid(&calls, geteuid()).unwrap(), rustix::process::getpid());
        drop(called);
    }
}
