//! A network between the gateway and an origin that delays what is sent, each part as the test says.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::thread;

/// The relay's way of one part towards the origin: by its connection's number and its own on that connection.
type Delay = dyn Fn(usize, usize) -> Duration + Send + Sync;

/// Listens for as long as the test runs.
pub(crate) struct Relay {
    pub(crate) addr: SocketAddr,
}

impl Relay {
    pub(crate) fn start(to: SocketAddr, delay: impl Fn(usize, usize) -> Duration + Send + Sync + 'static) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let delay: Arc<Delay> = Arc::new(delay);
        thread(move || {
            for (number, caller) in listener.incoming().map_while(Result::ok).enumerate() {
                let Ok(origin) = TcpStream::connect(to) else { return };
                let delay = Arc::clone(&delay);
                let (from, into) = (caller.try_clone(), origin.try_clone());
                let (from, into) = (from.expect("a descriptor is free"), into.expect("a descriptor is free"));
                thread(move || pass(caller, origin, |part| std::thread::sleep(delay(number, part))));
                thread(move || pass(into, from, |_| {}));
            }
        });
        Relay { addr }
    }
}

fn pass(mut from: TcpStream, mut into: TcpStream, hold: impl Fn(usize)) {
    into.set_nodelay(true).ok();
    let mut bytes = vec![0; 64 << 10];
    for part in 0.. {
        let Ok(count @ 1..) = from.read(&mut bytes) else { break };
        hold(part);
        if into.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    into.shutdown(Shutdown::Write).ok();
}
