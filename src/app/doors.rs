//! The addresses that are listened on: opened, and changed without losing a connection.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;

use super::Error;
use super::crew::Crew;
use super::listen_error::ListenError;
use crate::net::listen::Listener;
use crate::net::listener_stats::ListenerStats;

/// Every address that is listened on.
pub(super) struct Doors {
    open: RefCell<Vec<Door>>,
    /// Sockets that listen already, and what address was asked for each.
    inherited: RefCell<Vec<(SocketAddr, TcpListener)>>,
    /// Where a door is told of that closed by itself. A fault of the gateway's.
    faults: mpsc::UnboundedSender<Error>,
}

/// An address that is listened on.
struct Door {
    /// What the file asks for: port 0 is any.
    asked: SocketAddr,
    bound: SocketAddr,
    socket: TcpListener,
    /// Closes it.
    close: oneshot::Sender<Waiting>,
}

/// What becomes of those whose handshake is over when a door is closed: to the callers they are connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Waiting {
    /// They are let in: nobody else would.
    LetIn,
    /// Another process listens on the same socket.
    Stay,
}

/// Doors for another reading of the file: those that are new are bound, and let nobody in yet.
pub(super) struct Planned(Vec<Plan>);

enum Plan {
    /// The door that is open at this address stays.
    Keep(SocketAddr),
    Open(Closed),
}

/// A door that is ready to be opened.
struct Closed {
    asked: SocketAddr,
    listener: Listener,
    socket: TcpListener,
}

impl Planned {
    /// The addresses in the order of the file, with the ports that the system chose.
    pub(super) fn bound(&self) -> Vec<SocketAddr> {
        let bound = |plan: &Plan| match plan {
            Plan::Keep(bound) => *bound,
            Plan::Open(closed) => closed.listener.local_addr(),
        };
        self.0.iter().map(bound).collect()
    }
}

impl Doors {
    /// None is open yet; those that are asked for need not be bound if they are inherited. `faults` is told of doors that
    /// close by themselves.
    pub(super) fn new(inherited: Vec<(SocketAddr, TcpListener)>, faults: mpsc::UnboundedSender<Error>) -> Doors {
        Doors { open: RefCell::default(), inherited: RefCell::new(inherited), faults }
    }

    /// The sockets of all doors, and what address was asked for each.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub(super) fn sockets(&self) -> io::Result<Vec<(SocketAddr, TcpListener)>> {
        self.open.borrow().iter().map(|door| Ok((door.asked, door.socket.try_clone()?))).collect()
    }

    /// Binds what these addresses, which `[listen] proxy` names, need beside what is open.
    ///
    /// # Errors
    /// Names the address that cannot be had; nothing has changed then.
    pub(super) fn plan(&self, asked: &[SocketAddr]) -> Result<Planned, ListenError> {
        let open = self.open.borrow();
        let mut before: Vec<&Door> = open.iter().collect();
        let mut known = |asked: &SocketAddr| {
            let at = before.iter().position(|door| door.asked == *asked)?;
            Some(before.swap_remove(at).bound)
        };
        let known: Vec<_> = asked.iter().map(&mut known).collect();
        // What is left goes, and may stand in the way of what comes.
        let rivals = |asked: SocketAddr| {
            let rival = |door: &&&Door| asked.port() != 0 && door.bound.port() == asked.port();
            before.iter().filter(rival).map(|door| &door.socket).collect::<Vec<_>>()
        };
        let plan = |(asked, known): (&SocketAddr, Option<SocketAddr>)| {
            if let Some(bound) = known {
                return Ok(Plan::Keep(bound));
            }
            let bound = match self.take_inherited(*asked) {
                Some(socket) => Listener::from_socket(socket),
                None => Listener::bind_replacing(*asked, &rivals(*asked)),
            };
            let bound = bound.and_then(|listener| Ok((listener.try_clone_socket()?, listener)));
            let (socket, listener) =
                bound.map_err(|why| ListenError { key: "[listen] proxy", address: *asked, why })?;
            Ok(Plan::Open(Closed { asked: *asked, listener, socket }))
        };
        Ok(Planned(asked.iter().zip(known).map(plan).collect::<Result<_, _>>()?))
    }

    /// A socket at this address, which `key` names, that is no door: the one that is inherited, or a new one.
    ///
    /// # Errors
    /// Names the address that cannot be had.
    pub(super) fn bind(&self, asked: SocketAddr, key: &'static str) -> Result<(SocketAddr, TcpListener), ListenError> {
        let socket = match self.take_inherited(asked) {
            Some(socket) => Ok(socket),
            None => Listener::bind(asked).and_then(|listener| listener.try_clone_socket()),
        };
        Ok((asked, socket.map_err(|why| ListenError { key, address: asked, why })?))
    }

    fn take_inherited(&self, asked: SocketAddr) -> Option<TcpListener> {
        let mut inherited = self.inherited.borrow_mut();
        let at = inherited.iter().position(|(known, _)| *known == asked)?;
        Some(inherited.swap_remove(at).1)
    }

    /// Opens what is new, then closes what is gone. Who comes in is handed to the crew.
    pub(super) fn change(&self, planned: Planned, crew: &Rc<Crew>) {
        let mut open = self.open.borrow_mut();
        let mut before = std::mem::take(&mut *open);
        for plan in planned.0 {
            match plan {
                Plan::Open(closed) => open.push(self.open_door(closed, crew)),
                Plan::Keep(bound) => {
                    let at = before.iter().position(|door| door.bound == bound);
                    open.extend(at.map(|at| before.swap_remove(at)));
                }
            }
        }
        for gone in before {
            tracing::info!(address = %gone.bound, "no longer listening");
            gone.close(Waiting::LetIn);
        }
        for (asked, _socket) in self.inherited.borrow_mut().drain(..) {
            tracing::warn!(address = %asked, "a socket was inherited that [listen] does not name, and is closed");
        }
    }

    /// Closes all of them, once those have been let in who are waiting.
    pub(super) fn close(&self) {
        self.open.borrow_mut().drain(..).for_each(|door| door.close(Waiting::LetIn));
    }

    /// Leaves all of them to another process that has their sockets.
    pub(super) fn leave(&self) {
        self.open.borrow_mut().drain(..).for_each(|door| door.close(Waiting::Stay));
    }

    fn open_door(&self, closed: Closed, crew: &Rc<Crew>) -> Door {
        let Closed { asked, mut listener, socket } = closed;
        let bound = listener.local_addr();
        tracing::info!(address = %bound, "listening");
        let (close, closing) = oneshot::channel();
        let (crew, alarm) = (Rc::clone(crew), Alarm { faults: Some(self.faults.clone()), bound });
        let entrance = crew.entrance(bound);
        listener.set_on_exhausted(crew.relief());
        spawn_local(async move {
            if accept(&mut listener, &crew, &entrance, closing).await == Waiting::LetIn {
                while let Some((stream, peer)) = crew.next_waiting(&mut listener) {
                    crew.let_in(stream, peer, &entrance);
                }
            }
            entrance.mark_closed();
            alarm.disarm();
        });
        Door { asked, bound, socket, close }
    }
}

impl Door {
    fn close(self, waiting: Waiting) {
        // A door that is gone already needs no closing.
        self.close.send(waiting).ok();
    }
}

/// Hands on connections until the door is closed.
async fn accept(
    listener: &mut Listener,
    crew: &Crew,
    entrance: &Arc<ListenerStats>,
    mut closing: oneshot::Receiver<Waiting>,
) -> Waiting {
    loop {
        tokio::select! {
            biased;
            waiting = &mut closing => return waiting.unwrap_or(Waiting::LetIn),
            (stream, peer) = crew.next(listener) => crew.let_in(stream, peer, entrance),
        }
    }
}

/// Rings when it is dropped by a panic.
struct Alarm {
    faults: Option<mpsc::UnboundedSender<Error>>,
    bound: SocketAddr,
}

impl Alarm {
    fn disarm(mut self) {
        self.faults = None;
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // Nobody hears it when the gateway ends.
        if let Some(faults) = self.faults.take() {
            faults.send(Error::Accept(self.bound)).ok();
        }
    }
}
