//! Read buffers and pools of buffers per thread. An idle connection holds no buffer.
//!
//! A server with many connections has few that are busy at one moment. Blocks therefore belong to
//! the thread: a connection takes one for a message, and returns it when it is idle. The
//! pools need no lock.

use std::cell::RefCell;

pub use super::block::BLOCK;
use super::block::Block;
use super::head::MAX_HEAD;

/// Most write buffers in the pool of a thread: 1 MiB.
const POOL_SIZE: usize = 64;

thread_local! {
    /// Free write buffers, at most [`POOL_SIZE`], of up to twice [`BLOCK`] bytes each.
    static WRITE_POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Queue of bytes: filled at its end, consumed at its start.
///
/// Has no block at first, [`BLOCK`] bytes from the first [`Buffer::room`] on, and [`MAX_HEAD`]
/// bytes while a head is longer than a block; more only after [`Buffer::allow`]. The bytes lie in one
/// piece, so parsers need no copy.
#[derive(Debug, Default)]
pub struct Buffer {
    /// Memory of the queue; empty before use.
    block: Block,
    /// Position of the first waiting byte.
    start: usize,
    /// Position behind the last waiting byte; `start <= end <= block.len()`.
    end: usize,
    /// Number of bytes that the block may have beyond [`MAX_HEAD`].
    extra: usize,
}

impl Buffer {
    /// Lets the queue grow to `most` bytes, for heads that may be longer than [`MAX_HEAD`].
    pub fn allow(&mut self, most: usize) {
        self.extra = most.saturating_sub(MAX_HEAD);
    }

    /// Bytes that were read and not consumed yet.
    pub fn bytes(&self) -> &[u8] {
        &self.block[self.start..self.end]
    }

    /// True if no bytes wait to be consumed.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Drops the first `count` bytes.
    ///
    /// An empty queue starts over at the front of its block, so that room is not lost.
    pub fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.end - self.start, "no more can be consumed than was read");
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Free space to read into; empty only if [`MAX_HEAD`] bytes, or as many as are allowed, wait already.
    ///
    /// Makes room in this order: moves the bytes to the front, then grows. Bytes written into it
    /// count only after [`Buffer::filled`].
    pub fn room(&mut self) -> &mut [u8] {
        if self.block.is_empty() {
            self.block = Block::take();
        }
        if self.end == self.block.len() {
            if self.start > 0 {
                self.block.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            } else if self.block.len() < MAX_HEAD + self.extra {
                let size = if self.block.len() < MAX_HEAD { MAX_HEAD } else { MAX_HEAD + self.extra };
                let mut larger = Block::zeroed(size);
                larger[..self.end].copy_from_slice(self.bytes());
                self.block = larger;
            }
        }
        &mut self.block[self.end..]
    }

    /// Counts `count` bytes of [`Buffer::room`] as read.
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.block.len());
    }

    /// Returns an empty buffer's block to the pool.
    ///
    /// No effect while bytes wait. A block that has grown is freed, and not kept.
    pub fn release(&mut self) {
        if !self.is_empty() || self.block.is_empty() {
            return;
        }
        (self.start, self.end) = (0, 0);
        std::mem::take(&mut self.block).put_back();
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        (self.start, self.end) = (0, 0);
        self.release();
    }
}

/// Takes an empty write buffer from the pool.
pub(super) fn take_write_buffer() -> Vec<u8> {
    WRITE_POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(BLOCK))
}

/// Returns a write buffer to the pool.
///
/// Frees a buffer of more than twice [`BLOCK`], which one large head or chunk has left behind, and
/// any buffer beyond [`POOL_SIZE`].
pub(super) fn return_write_buffer(mut out: Vec<u8>) {
    if out.capacity() == 0 || out.capacity() > 2 * BLOCK || WRITE_POOL.try_with(|_| ()).is_err() {
        return;
    }
    out.clear();
    WRITE_POOL.with_borrow_mut(|outs| {
        if outs.len() < POOL_SIZE {
            outs.push(out);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_the_order_they_went_in() {
        let mut buffer = Buffer::default();
        buffer.room()[..3].copy_from_slice(b"abc");
        buffer.filled(3);
        buffer.consume(1);
        buffer.room()[..2].copy_from_slice(b"de");
        buffer.filled(2);
        assert_eq!(buffer.bytes(), b"bcde");
        buffer.consume(4);
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_full_buffer_first_moves_up_then_grows_to_the_largest_head_and_no_further() {
        let mut buffer = Buffer::default();
        let room = buffer.room().len();
        buffer.filled(room);
        buffer.consume(room - 1);
        assert_eq!(buffer.room().len(), room - 1);
        let room = buffer.room().len();
        buffer.filled(room);
        assert_eq!(buffer.room().len(), MAX_HEAD - BLOCK);
        let room = buffer.room().len();
        buffer.filled(room);
        assert!(buffer.room().is_empty());
    }

    #[test]
    fn a_buffer_grows_beyond_the_largest_head_only_if_it_may() {
        let mut buffer = Buffer::default();
        buffer.allow(MAX_HEAD + 100);
        let mut size = 0;
        loop {
            let room = buffer.room().len();
            if room == 0 {
                break;
            }
            buffer.filled(room);
            size += room;
        }
        assert_eq!(size, MAX_HEAD + 100);
        buffer.consume(size);
        buffer.allow(10);
        buffer.release();
        for _ in 0..2 {
            let room = buffer.room().len();
            buffer.filled(room);
        }
        assert_eq!((buffer.bytes().len(), buffer.room().len()), (MAX_HEAD, 0));
    }

    #[test]
    fn an_empty_buffer_can_give_its_block_away() {
        let mut buffer = Buffer::default();
        buffer.room();
        buffer.release();
        assert!(buffer.block.is_empty());
        assert!(!buffer.room().is_empty());
    }
}
