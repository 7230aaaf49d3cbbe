//! ZeroMQ listener of this process, with its socket for a process that takes over.

use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::Error;
use crate::proxy::{CurrentSnapshot, Shared};
use crate::zmq::{self, ZmqListener};

/// The listener, and a duplicate of its socket.
pub(super) struct ZmqService {
    /// The configured address, and the socket.
    pub(super) socket: Rc<(SocketAddr, TcpListener)>,
    listener: ZmqListener,
}

impl ZmqService {
    /// Opens the listener; it accepts nothing yet. `failed` gets [`Error::ZmqListener`] if it panics.
    ///
    /// # Errors
    /// [`Error::Runtime`] if the system gives no thread.
    pub(super) fn open(
        socket: (SocketAddr, TcpListener),
        shared: &Shared,
        current: &Arc<CurrentSnapshot>,
        failed: mpsc::UnboundedSender<Error>,
    ) -> Result<ZmqService, Error> {
        let duplicate = socket.1.try_clone().map_err(Error::Socket)?;
        // The receiver is gone while the gateway exits.
        let on_failure = move || drop(failed.send(Error::ZmqListener));
        let listener = zmq::open(duplicate, shared.clone(), Arc::clone(current), on_failure).map_err(Error::Runtime)?;
        Ok(ZmqService { socket: Rc::new(socket), listener })
    }

    /// Begins to accept peers.
    pub(super) fn accept(&self) {
        let address = self.socket.1.local_addr().unwrap_or(self.socket.0);
        tracing::info!(%address, "ZeroMQ listening");
        self.listener.accept();
    }

    /// Stops accepting; peers in the kernel's queue are served.
    pub(super) fn close(&self) {
        self.listener.close();
    }

    /// Stops accepting; peers in the kernel's queue are left to the process that took over.
    pub(super) fn release(&self) {
        self.listener.release();
    }
}
