//! The runtimes that serve connections: one per core, each with connections of its own to the origins.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker, ready};
use std::thread;

use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::runtime;
use crate::net::connection_limit::{ConnToken, ConnectionLimit};
use crate::net::drain::{ConnGuard, Drain};
use crate::net::listen::Listener;
use crate::net::listener_stats::{ListenerStats, RejectReason};
use crate::proxy::metrics::Metrics;
use crate::proxy::task_pool::{NewTask, TaskPool};
use crate::proxy::{CurrentSnapshot, Server, Shared, Worker};

/// How many tasks that serve nobody each runtime keeps for the next connections, some 5 KiB each. To make one anew takes
/// 2 of the 100 µs that a short connection does.
const MOST_IDLE: usize = 64;

/// The runtimes that serve connections. The first is the one that accepts them.
pub(super) struct Crew {
    mates: Vec<Mate>,
    drain: Drain,
    limit: ConnectionLimit,
    current: Arc<CurrentSnapshot>,
    metrics: Arc<Metrics>,
    /// Whether the log has said that addresses come to which nothing is served.
    told_not_allowed: Cell<bool>,
}

/// One runtime, as the others see it.
struct Mate {
    connections: Arc<AtomicUsize>,
    way: Way,
}

/// How a connection gets to a runtime.
enum Way {
    /// It is here already.
    Here(Rc<Desk>),
    /// To a thread of its own. Unbounded, because there are never more connections than descriptors.
    There(mpsc::UnboundedSender<Arrival>),
}

/// A connection on its way to its runtime.
struct Arrival {
    stream: TcpStream,
    peer: SocketAddr,
    listener: SocketAddr,
    counted: Counted,
    present: ConnGuard,
    place: ConnToken,
}

/// One connection in a runtime's count.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Mate {
    fn new(way: Way) -> Mate {
        Mate { connections: Arc::default(), way }
    }

    fn count(&self) -> Counted {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(&self.connections))
    }
}

impl Crew {
    /// As many runtimes as there are cores for us, each ready to serve.
    pub(super) fn start(proxy: &Arc<CurrentSnapshot>, shared: &Shared) -> io::Result<Crew> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let mut mates = vec![Mate::new(Way::Here(Desk::new(Worker::new(proxy))))];
        for index in 1..cores {
            mates.push(Mate::new(Way::There(spawn_worker(index, Arc::clone(proxy))?)));
        }
        tracing::debug!(runtimes = cores, "runtimes started");
        let current = Arc::clone(proxy);
        let (drain, limit, metrics) = (shared.drain.clone(), shared.connections.clone(), Arc::clone(&shared.metrics));
        Ok(Crew { mates, drain, limit, current, metrics, told_not_allowed: Cell::default() })
    }

    /// A listener whose connections it will be given.
    pub(super) fn entrance(&self, address: SocketAddr) -> Arc<ListenerStats> {
        self.drain.add_listener(address)
    }

    /// Frees descriptors that callers need more: those of idle connections to origins, of all runtimes.
    pub(super) fn relief(&self) -> impl Fn() + Send + 'static {
        let metrics = Arc::clone(&self.metrics);
        move || _ = metrics.close_idle()
    }

    /// The next connection of a listener, once there is room for one more.
    ///
    /// # Cancel safety
    /// Cancel safe: no connection is lost.
    pub(super) async fn next(&self, listener: &mut Listener) -> (TcpStream, SocketAddr) {
        let mut accepting = pin!(listener.accept());
        poll_fn(|cx| {
            ready!(self.limit.poll_capacity(cx));
            accepting.as_mut().poll(cx)
        })
        .await
    }

    /// One of the connections that wait at a listener, if there is one and room for it.
    pub(super) fn next_waiting(&self, listener: &mut Listener) -> Option<(TcpStream, SocketAddr)> {
        let room = self.limit.poll_capacity(&mut Context::from_waker(Waker::noop()));
        if room.is_ready() { listener.try_accept() } else { None }
    }

    /// Serves a connection, or closes it at once if nothing is served to its address, or no more: not a byte of it is read
    /// then.
    pub(super) fn let_in(&self, stream: TcpStream, peer: SocketAddr, by: &Arc<ListenerStats>) {
        if !self.current.snapshot().may_connect_from(peer.ip()) {
            by.count_rejected(RejectReason::NotAllowed);
            // The first may be a mistake in the file; all further ones would let strangers write the log.
            if self.told_not_allowed.replace(true) {
                tracing::debug!(%peer, listener = %by.address, "closed: its address is not in [access] allow_from");
            } else {
                tracing::warn!(%peer, listener = %by.address, "closed: its address is not in [access] allow_from; further ones are counted");
            }
            return;
        }
        match self.limit.try_acquire(peer.ip()) {
            Some(place) => self.hand_over(stream, peer, place, by),
            None => by.count_rejected(RejectReason::TooMany),
        }
    }

    /// Gives a connection to the runtime that has the fewest; the first, where no thread must be
    /// woken, if it has no more than the others.
    fn hand_over(&self, stream: TcpStream, peer: SocketAddr, place: ConnToken, by: &Arc<ListenerStats>) {
        let fewest = self.mates.iter().min_by_key(|mate| mate.connections.load(Ordering::Relaxed));
        let Some(mate) = fewest else { return };
        let (counted, present) = (mate.count(), self.drain.conn_guard_by(by));
        let arrival = Arrival { stream, peer, listener: by.address, counted, present, place };
        match &mate.way {
            Way::Here(desk) => desk.take_in(arrival),
            Way::There(way) => {
                if way.send(arrival).is_err() {
                    tracing::error!("a runtime is gone, and its connections with it");
                    // It counts as full from here on.
                    mate.connections.store(usize::MAX / 2, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Starts a thread with a runtime of its own, and returns when it is ready.
fn spawn_worker(index: usize, proxy: Arc<CurrentSnapshot>) -> io::Result<mpsc::UnboundedSender<Arrival>> {
    let (way, arrivals) = mpsc::unbounded_channel();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let work = move || match runtime() {
        Ok(runtime) => {
            // Whoever waits for it has given up if this fails, and then the channel is closed too.
            ready.send(Ok(())).ok();
            runtime.block_on(work(proxy, arrivals));
            runtime.shutdown_background();
        }
        Err(error) => drop(ready.send(Err(error))),
    };
    thread::Builder::new().name(format!("worker-{index}")).spawn(work)?;
    is_ready.recv().map_err(io::Error::other)??;
    Ok(way)
}

/// Serves what arrives until the crew is gone.
async fn work(proxy: Arc<CurrentSnapshot>, mut arrivals: mpsc::UnboundedReceiver<Arrival>) {
    let desk = Desk::new(Worker::new(&proxy));
    while let Some(arrival) = arrivals.recv().await {
        desk.take_in(arrival);
    }
    desk.hands.end();
}

/// Where a runtime's connections arrive.
struct Desk {
    worker: Worker,
    hands: TaskPool<Arrival>,
}

impl Desk {
    fn new(worker: Worker) -> Rc<Desk> {
        Rc::new(Desk { worker, hands: TaskPool::new(MOST_IDLE) })
    }

    fn take_in(self: &Rc<Self>, arrival: Arrival) {
        if let Some(hired) = self.hands.submit(arrival) {
            spawn_local(Box::pin(attend(Rc::clone(self), hired)));
        }
    }
}

/// Adopts connections and serves each to its end, one after the other.
async fn attend(desk: Rc<Desk>, who: NewTask) {
    let mut server = Server::new(desk.worker.clone());
    while let Some(arrival) = poll_fn(|cx| desk.hands.poll_take(who, cx)).await {
        let Arrival { stream, peer, listener, counted, present, place } = arrival;
        match tokio::net::TcpStream::from_std(stream) {
            Ok(stream) => server.serve(stream, peer, listener).await,
            Err(error) => tracing::warn!(%error, "a connection could not be adopted"),
        }
        drop((counted, present, place));
    }
}
