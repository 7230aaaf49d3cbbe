//! Lock service handle: opens the service, closes it while another process takes over, and reopens it if none does.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::Error;
use crate::config;
use crate::gate::clock::Clock;
use crate::locks::{self, LockService};
use crate::tls::listener_tls::ListenerTls;

/// The lock service of this process, with all that is needed to reopen it.
pub(super) struct LockServiceHandle {
    /// The configured address and a duplicate of the socket, for a process that takes over.
    pub(super) socket: Rc<(SocketAddr, TcpListener)>,
    /// Those of the start; a reload does not change them.
    settings: locks::LockSettings,
    /// Its certificate, which a reload replaces.
    tls: Arc<ListenerTls>,
    /// Shared with the proxy's gate.
    clock: Clock,
    /// Channel for [`Error::LockService`], if the service fails.
    failed: mpsc::UnboundedSender<Error>,
    /// `None`: closed.
    service: RefCell<Option<LockService>>,
}

impl LockServiceHandle {
    /// Opens the service. No other process may have it open.
    ///
    /// # Errors
    /// If the register cannot be read or written, or the system gives no thread.
    pub(super) fn open(
        socket: (SocketAddr, TcpListener),
        settings: &config::Locks,
        tls: Arc<ListenerTls>,
        clock: Clock,
        failed: mpsc::UnboundedSender<Error>,
    ) -> io::Result<LockServiceHandle> {
        let config::Locks { users, allow_from, dir, listen: _, tls: _ } = settings.clone();
        let settings = locks::LockSettings { users, allow_from, dir };
        let handle =
            LockServiceHandle { socket: Rc::new(socket), settings, tls, clock, failed, service: RefCell::default() };
        handle.reopen()?;
        tracing::info!(address = %handle.socket.1.local_addr()?, "lock service listening");
        Ok(handle)
    }

    /// Opens the service again after [`LockServiceHandle::close`].
    ///
    /// # Errors
    /// As [`LockServiceHandle::open`].
    pub(super) fn reopen(&self) -> io::Result<()> {
        let failed = self.failed.clone();
        // The receiver is gone while the gateway exits.
        let on_failure = move |why| drop(failed.send(Error::LockService(why)));
        let service = locks::open(
            self.socket.1.try_clone()?,
            self.settings.clone(),
            Arc::clone(&self.tls),
            self.clock,
            on_failure,
        )?;
        *self.service.borrow_mut() = Some(service);
        Ok(())
    }

    /// Closes the service: grants no more locks and refuses waiting requests. Held locks stay in the register.
    pub(super) async fn close(&self) {
        let service = self.service.borrow_mut().take();
        if let Some(service) = service {
            // Dropping the service waits for its thread.
            spawn_blocking(move || drop(service)).await.ok();
        }
    }
}
