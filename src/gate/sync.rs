//! Synchronisation of the files with wake-ups: `thread_signal`, `timer` and `wait_slots`.
//!
//! A test compiles these files a second time, with types of the same names that let it choose the
//! order of the threads' steps (`tests/interleavings.rs`).

pub(super) use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
pub(super) use std::thread;
