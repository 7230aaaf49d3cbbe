//! Output of a process under test: all that it has written so far is there when a test asks for it.
//!
//! A test sees an answer, and then looks for the line that the process wrote before it answered. A reader thread alone could
//! be late with that line; so the test that asks empties the pipe itself.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::thread;

/// One of the two outputs of a process; clones share it.
#[derive(Clone)]
pub(crate) struct Output(Arc<Mutex<Pipe>>);

struct Pipe {
    /// Reading end, which never blocks; `None` once the process has closed it, or the test.
    file: Option<File>,
    bytes: Vec<u8>,
}

impl Output {
    /// Reads the pipe from now on, so that the process never waits for room in it.
    pub(crate) fn of(pipe: OwnedFd) -> Output {
        let flags = fcntl_getfl(&pipe).expect("a descriptor has flags");
        fcntl_setfl(&pipe, flags | OFlags::NONBLOCK).expect("a pipe can be non-blocking");
        let watched = pipe.try_clone().expect("a descriptor is free");
        let output = Output(Arc::new(Mutex::new(Pipe { file: Some(File::from(pipe)), bytes: Vec::new() })));
        let reader = output.clone();
        thread(move || {
            while reader.lock().take_in() {
                match poll(&mut [PollFd::new(&watched, PollFlags::IN)], None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => panic!("the pipe cannot be watched: {error}"),
                }
            }
        });
        output
    }

    /// All that was written so far.
    pub(crate) fn text(&self) -> String {
        let mut pipe = self.lock();
        pipe.take_in();
        String::from_utf8_lossy(&pipe.bytes).into_owned()
    }

    /// The whole lines that were written so far; the last may lack its end once the process has closed the pipe.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut pipe = self.lock();
        let is_open = pipe.take_in();
        let whole = pipe.bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let end = if is_open { whole } else { pipe.bytes.len() };
        String::from_utf8_lossy(&pipe.bytes[..end]).lines().map(str::to_owned).collect()
    }

    /// Reads no more; the pipe is closed when the process next writes.
    pub(crate) fn close(&self) {
        self.lock().file = None;
    }

    fn lock(&self) -> MutexGuard<'_, Pipe> {
        self.0.lock().expect("no reader panicked")
    }
}

impl Pipe {
    /// Takes all that is in the pipe; false if no more can come.
    fn take_in(&mut self) -> bool {
        let Some(file) = &mut self.file else { return false };
        // An error means that the pipe is empty for now.
        if file.read_to_end(&mut self.bytes).is_ok() {
            self.file = None;
        }
        self.file.is_some()
    }
}
