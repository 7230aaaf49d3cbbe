//! Memory of read buffers: blocks that go back to the system once they are free, and a pool of them per thread.
//!
//! glibc's allocator gives back only the end of a heap, and any small allocation that lives on there keeps all below it:
//! 2000 slow callers left 40 MB behind. A block of its own mapping leaves nothing behind.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// Size of a block, in bytes: a small response with its head arrives in one read, a large body in few.
pub const BLOCK: usize = 16 * 1024;

/// Blocks that the pool of a thread holds at first, and keeps whatever the traffic: 1 MiB.
const LEAST: usize = 64;

/// Most blocks in the pool of a thread: 16 MiB, enough for 512 requests that are under way at once.
const MOST: usize = 1024;

/// Returns of a block after which the pool gives up blocks that were not needed meanwhile.
const REVIEW: u32 = 4096;

thread_local! {
    static POOL: RefCell<BlockPool> = const { RefCell::new(BlockPool::new()) };
}

/// Free blocks of a thread, as many as its traffic takes and returns in turn.
///
/// A pool that is too small costs two system calls and four page faults for each message; one that never shrinks keeps
/// what a single crowd of slow callers has needed.
#[derive(Debug)]
struct BlockPool {
    /// Free blocks of [`BLOCK`] bytes, at most `limit`.
    free: Vec<Block>,
    /// Blocks that the pool holds at most, from [`LEAST`] to [`MOST`].
    limit: usize,
    /// True if a block was given up for want of room since the pool was last found empty.
    overflowed: bool,
    /// Least number of free blocks since the last review.
    unused: usize,
    /// Returns of a block since the last review.
    returns: u32,
}

impl BlockPool {
    const fn new() -> BlockPool {
        BlockPool { free: Vec::new(), limit: LEAST, overflowed: false, unused: 0, returns: 0 }
    }

    /// A free block, or none. Grows the pool if it has given up a block that is missed now.
    fn take(&mut self) -> Option<Block> {
        let block = self.free.pop();
        if block.is_none() && std::mem::take(&mut self.overflowed) {
            self.limit = (2 * self.limit).min(MOST);
        }
        self.unused = self.unused.min(self.free.len());
        block
    }

    fn put_back(&mut self, block: Block) {
        if self.free.len() < self.limit {
            self.free.push(block);
        } else {
            self.overflowed = true;
        }
        self.returns += 1;
        if self.returns == REVIEW {
            self.limit = (self.limit - self.unused.min(self.limit)).max(LEAST);
            self.free.truncate(self.limit);
            self.unused = self.free.len();
            self.returns = 0;
        }
    }
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
        POOL.with_borrow_mut(BlockPool::take).unwrap_or_else(|| match MmapMut::map_anon(BLOCK) {
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
        POOL.with_borrow_mut(|pool| pool.put_back(self));
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
        assert_eq!(POOL.with_borrow(|pool| pool.free.len()), 0);
    }

    /// Takes blocks until so many are out, then returns all; counts those that were mapped anew.
    fn round(pool: &mut BlockPool, blocks: usize) -> usize {
        let out: Vec<Option<Block>> = (0..blocks).map(|_| pool.take()).collect();
        let mapped = out.iter().filter(|block| block.is_none()).count();
        out.into_iter().for_each(|block| pool.put_back(block.unwrap_or_default()));
        mapped
    }

    #[test]
    fn traffic_that_takes_and_returns_many_blocks_soon_maps_none() {
        let mut pool = BlockPool::new();
        for blocks in [128, 500, 1000] {
            (0..6).for_each(|_| _ = round(&mut pool, blocks));
            assert_eq!(round(&mut pool, blocks), 0, "{blocks} blocks");
        }
    }

    #[test]
    fn a_crowd_that_comes_once_leaves_few_blocks_behind() {
        let mut pool = BlockPool::new();
        round(&mut pool, 2000);
        assert_eq!(pool.free.len(), LEAST);
    }

    #[test]
    fn blocks_that_the_traffic_needs_no_longer_are_given_up() {
        let mut pool = BlockPool::new();
        (0..8).for_each(|_| _ = round(&mut pool, MOST));
        assert_eq!(pool.free.len(), MOST);
        (0..2 * REVIEW).for_each(|_| _ = round(&mut pool, 1));
        assert!(pool.free.len() <= LEAST, "{} blocks", pool.free.len());
    }
}
