//! The service of locks: opened, closed while another process takes over, and opened again if none does.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::Error;
use crate::config;
use crate::gate::clock::Clock;
use crate::locks::{self, LockService};

/// Where locks are given.
pub(super) struct Counter {
    /// For a process that takes over.
    pub(super) socket: Rc<(SocketAddr, TcpListener)>,
    settings: locks::LockSettings,
    clock: Clock,
    /// Where it is told that the service does not go on.
    faults: mpsc::UnboundedSender<Error>,
    service: RefCell<Option<LockService>>,
}

impl Counter {
    /// Opens it; whoever had it before has closed it.
    pub(super) fn open(
        socket: (SocketAddr, TcpListener),
        settings: &config::Locks,
        clock: Clock,
        faults: mpsc::UnboundedSender<Error>,
    ) -> io::Result<Counter> {
        let config::Locks { users, allow_from, dir, listen: _ } = settings.clone();
        let settings = locks::LockSettings { users, allow_from, dir };
        let counter = Counter { socket: Rc::new(socket), settings, clock, faults, service: RefCell::default() };
        counter.open_again()?;
        tracing::info!(address = %counter.socket.1.local_addr()?, "lock service listening");
        Ok(counter)
    }

    /// Opens it after [`Counter::close`].
    pub(super) fn open_again(&self) -> io::Result<()> {
        let faults = self.faults.clone();
        // Nobody hears it when the gateway ends.
        let failed = move |why| drop(faults.send(Error::LockService(why)));
        let service = locks::open(self.socket.1.try_clone()?, self.settings.clone(), self.clock, failed)?;
        *self.service.borrow_mut() = Some(service);
        Ok(())
    }

    /// Gives no more locks: who waits is told so, and who holds one is in the register.
    pub(super) async fn close(&self) {
        let service = self.service.borrow_mut().take();
        if let Some(service) = service {
            // Dropping it waits for its thread.
            spawn_blocking(move || drop(service)).await.ok();
        }
    }
}
