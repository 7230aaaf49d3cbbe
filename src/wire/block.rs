//! Memory of read buffers: blocks that go back to the system once they are free, and a pool of them per thread.
//!
//! glibc's allocator gives back only the end of a heap, and any small allocation that lives on there keeps all below it:
//! 2000 slow callers left 40 MB behind. A block of its own mapping leaves nothing behind.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// Size of a block, in bytes: a small response with its head arrives in one read, a large body in few.
pub const BLOCK: usize = 16 * 1024;

/// Most blocks in the pool of a thread: 1 MiB. Blocks are held for the time of a message, so that a busy thread takes and
/// returns fewer in turn.
const POOL_SIZE: usize = 64;

thread_local! {
    /// Free blocks of [`BLOCK`] bytes, at most [`POOL_SIZE`].
    static POOL: RefCell<Vec<Block>> = const { RefCell::new(Vec::new()) };
}

/// Bytes in one piece; none at first.
#[derive(Debug)]
pub(super) enum Block {
    /// A mapping of its own.
    Mapped(MmapMut),
    /// Memory of the allocator: no bytes, more than [`BLOCK`] of them, or what a system gives that has no mapping left.
    Allocated(Box<[u8]>),
}

impl Block {
    /// Takes a block of [`BLOCK`] bytes from the pool of this thread. Their values are those of earlier use.
    pub(super) fn take() -> Block {
        POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| match MmapMut::map_anon(BLOCK) {
            Ok(mapping) => Block::Mapped(mapping),
            Err(_) => Block::zeroed(BLOCK),
        })
    }

    /// A block of so many bytes that no pool takes.
    pub(super) fn zeroed(size: usize) -> Block {
        Block::Allocated(vec![0; size].into_boxed_slice())
    }

    /// Returns a block to the pool of this thread, which keeps it if its size is [`BLOCK`] and there is room.
    pub(super) fn put_back(self) {
        // A thread that ends has no pool any more; the block is freed then.
        if self.len() != BLOCK || POOL.try_with(|_| ()).is_err() {
            return;
        }
        POOL.with_borrow_mut(|blocks| {
            if blocks.len() < POOL_SIZE {
                blocks.push(self);
            }
        });
    }
}

impl Default for Block {
    fn default() -> Block {
        Block::Allocated(Box::default())
    }
}

impl Deref for Block {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Block::Mapped(mapping) => mapping,
            Block::Allocated(bytes) => bytes,
        }
    }
}

impl DerefMut for Block {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Block::Mapped(mapping) => mapping,
            Block::Allocated(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_was_put_back_is_taken_again() {
        let mut block = Block::take();
        block[..4].copy_from_slice(b"mark");
        block.put_back();
        assert_eq!(&Block::take()[..4], b"mark");
    }

    #[test]
    fn a_block_of_another_size_is_not_kept() {
        Block::zeroed(2 * BLOCK).put_back();
        Block::default().put_back();
        assert_eq!(POOL.with_borrow(Vec::len), 0);
    }
}
