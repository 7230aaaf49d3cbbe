//! A RESP proxy between gateways and stores: it connects to another store behind its callers' backs, and may edit INFO.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use super::{free_port, thread};

/// Listens for as long as the test runs.
pub(crate) struct Middleman {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    /// The store that it asks.
    store: AtomicU16,
    /// Fields of INFO that it leaves out.
    hidden: Vec<String>,
    /// Held while one command goes to the store and its answer comes back.
    busy: Mutex<()>,
}

impl Middleman {
    #[track_caller]
    pub(crate) fn to(store: u16, hidden: &[&str]) -> Middleman {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        let hidden = hidden.iter().map(|field| (*field).to_owned()).collect();
        let shared = Arc::new(Shared { store: AtomicU16::new(store), hidden, busy: Mutex::new(()) });
        let lines = Arc::clone(&shared);
        thread(move || {
            for caller in listener.incoming().map_while(Result::ok) {
                let lines = Arc::clone(&lines);
                thread(move || lines.serve(caller));
            }
        });
        Middleman { port, shared }
    }

    /// From here on every command goes to this store; no caller is told.
    pub(crate) fn turn_to(&self, store: u16) {
        let _between_two = self.shared.busy.lock().expect("no test panicked in it");
        self.shared.store.store(store, Ordering::SeqCst);
    }
}

impl Shared {
    /// Serves one caller until it or the store hangs up.
    fn serve(&self, mut caller: TcpStream) -> Option<()> {
        let mut commands = BufReader::new(caller.try_clone().ok()?);
        let mut known = None;
        loop {
            let command = read_value(&mut commands)?;
            let _busy = self.busy.lock().expect("no test panicked in it");
            let store = self.store.load(Ordering::SeqCst);
            if known.as_ref().is_none_or(|(port, _)| *port != store) {
                known = Some((store, TcpStream::connect(("127.0.0.1", store)).ok()?));
            }
            let (_, line) = known.as_mut()?;
            line.write_all(&command).ok()?;
            let mut answer = read_value(&mut BufReader::new(line))?;
            if command.windows(6).any(|word| word == b"\r\nINFO") {
                answer = self.without_hidden(&answer);
            }
            caller.write_all(&answer).ok()?;
        }
    }

    /// An answer to INFO without the fields that are hidden.
    fn without_hidden(&self, answer: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(answer);
        let text = text.split_once("\r\n").map_or("", |(_length, text)| text.trim_end());
        let is_shown = |line: &&str| !self.hidden.iter().any(|field| line.starts_with(&format!("{field}:")));
        let text: Vec<&str> = text.lines().filter(is_shown).collect();
        let text = text.join("\r\n");
        format!("${}\r\n{text}\r\n", text.len()).into_bytes()
    }
}

/// One RESP value, as it is on the wire.
fn read_value(from: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut value = Vec::new();
    from.read_until(b'\n', &mut value).ok().filter(|count| *count > 0)?;
    let count = std::str::from_utf8(value.get(1..)?).ok()?.trim_end().parse::<usize>();
    match (value[0], count) {
        (b'*', Ok(count)) => {
            for _ in 0..count {
                value.extend(read_value(from)?);
            }
        }
        (b'$', Ok(count)) => {
            let start = value.len();
            value.resize(start + count + 2, 0);
            from.read_exact(&mut value[start..]).ok()?;
        }
        _ => {}
    }
    Some(value)
}
