//! Connection limits: a maximum of simultaneous connections of callers, in all and for each
//! address.
//!
//! At the total limit, connections wait in the kernel's accept queue; beyond the limit of their
//! address they are closed at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use ipnet::IpNet;

use super::prefix::Ipv6Prefix;

/// The limits, as configured in `[access]`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Settings {
    /// Maximum in all; `None`: as many as there are file descriptors for.
    pub total: Option<usize>,
    /// Maximum of one address; `None`: half of the total, and all of it for loopback.
    pub per_address: Option<usize>,
    /// Prefix length of the IPv6 blocks that count as one address.
    pub ipv6_prefix: Ipv6Prefix,
}

/// Limiter of connections, for all listeners together. One for the process; clones share it.
#[derive(Clone, Debug)]
pub struct ConnectionLimit {
    shared: Arc<SharedLimit>,
}

/// State shared by all clones of a [`ConnectionLimit`].
#[derive(Debug)]
struct SharedLimit {
    /// Number of connections for which there are file descriptors. Used if the configuration names
    /// no total.
    max_by_descriptors: usize,
    /// Locked for a few instructions at the begin and the end of a connection.
    state: Mutex<ConnCounts>,
}

/// Limits and present counts, under one lock.
#[derive(Debug)]
struct ConnCounts {
    /// Limits as configured last.
    settings: Settings,
    /// Number of open connections.
    open: usize,
    /// Connections by address block; a block without connections has no entry.
    by_block: HashMap<IpNet, BlockConns>,
    /// Tasks pending in [`ConnectionLimit::poll_capacity`].
    waiting: Vec<Waker>,
    /// Number of times that the total limit was reached.
    shortages: u64,
    /// True from reaching the total limit until half of the connections have ended.
    is_short: bool,
}

/// Connections of one address, or of one block of IPv6 addresses.
#[derive(Default, Debug)]
struct BlockConns {
    /// Number of open connections of the block.
    connections: usize,
    /// True once a rejected connection of this block was logged; later ones are only counted.
    is_logged: bool,
}

/// Token of one counted connection; dropping it releases its capacity.
#[must_use = "the connection is not counted without it"]
#[derive(Debug)]
pub struct ConnToken {
    shared: Arc<SharedLimit>,
    /// Block that it was counted under; a changed prefix length does not move it. `None`: it counts
    /// in all only, as its address is not known yet.
    block: Option<IpNet>,
}

impl ConnectionLimit {
    /// `max_by_descriptors`: number of connections for which there are file descriptors.
    pub fn new(settings: Settings, max_by_descriptors: usize) -> ConnectionLimit {
        let state = ConnCounts {
            settings,
            open: 0,
            by_block: HashMap::new(),
            waiting: Vec::new(),
            shortages: 0,
            is_short: false,
        };
        ConnectionLimit { shared: Arc::new(SharedLimit { max_by_descriptors, state: Mutex::new(state) }) }
    }

    /// Changes the limits. Open connections stay, also beyond the new limits.
    ///
    /// Waiting listeners are woken, since the new limits may leave room.
    pub fn update(&self, settings: Settings) {
        let waiting = {
            let mut state = self.shared.lock();
            state.settings = settings;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Maximum number of connections in all.
    pub fn max_total(&self) -> usize {
        self.shared.max_total(&self.shared.lock())
    }

    /// Number of times that the total limit was reached.
    pub fn shortages(&self) -> u64 {
        self.shared.lock().shortages
    }

    /// Ready if the total limit allows another connection; otherwise wakes the task when it may.
    pub fn poll_capacity(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.shared.lock();
        let total = self.shared.max_total(&state);
        if state.open < total {
            return Poll::Ready(());
        }
        if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.waiting.push(cx.waker().clone());
        }
        let is_new = !std::mem::replace(&mut state.is_short, true);
        state.shortages += u64::from(is_new);
        drop(state);
        if is_new {
            tracing::warn!(
                max_connections = total,
                "connection limit reached, accepting pauses until a connection ends"
            );
        }
        Poll::Pending
    }

    /// A token for a connection from this address; `None` if the address is at its limit. The total
    /// limit is checked by [`ConnectionLimit::poll_capacity`], before the connection is accepted.
    ///
    /// Counts the connection in all and for its block. A refusal is logged once per block, until
    /// its last connection has ended.
    pub fn try_acquire(&self, address: IpAddr) -> Option<ConnToken> {
        let mut state = self.shared.lock();
        match state.count_in_block(&self.shared, address) {
            Ok(block) => {
                state.open += 1;
                Some(ConnToken { shared: Arc::clone(&self.shared), block: Some(block) })
            }
            Err(refused) => {
                drop(state);
                refused.log(address);
                None
            }
        }
    }

    /// A token for a connection whose address is not known yet; counts it in all.
    pub fn acquire_unidentified(&self) -> ConnToken {
        self.shared.lock().open += 1;
        ConnToken { shared: Arc::clone(&self.shared), block: None }
    }
}

impl ConnToken {
    /// True once the connection counts for its address.
    pub fn is_identified(&self) -> bool {
        self.block.is_some()
    }

    /// Counts a connection for its address, which has become known. False if the address is at its
    /// limit, which is logged as by [`ConnectionLimit::try_acquire`]; the connection must end then.
    ///
    /// The first address counts.
    pub fn identify(&mut self, address: IpAddr) -> bool {
        if self.block.is_none() {
            let counted = self.shared.lock().count_in_block(&self.shared, address);
            match counted {
                Ok(block) => self.block = Some(block),
                Err(refused) => refused.log(address),
            }
        }
        self.block.is_some()
    }
}

/// Refusal of a connection, as its address is at its limit.
struct AddressFull {
    /// The limit of the address.
    most: usize,
    /// True for the first one of its block.
    is_new: bool,
}

impl AddressFull {
    /// Logs the first refusal of a block.
    fn log(self, address: IpAddr) {
        if self.is_new {
            let max_connections_per_address = self.most;
            tracing::warn!(%address, max_connections_per_address, "connection closed, its address is at its connection limit; further ones are only counted");
        }
    }
}

impl ConnCounts {
    /// Counts a connection for the block of its address, which is returned.
    fn count_in_block(&mut self, shared: &SharedLimit, address: IpAddr) -> Result<IpNet, AddressFull> {
        let block = self.settings.ipv6_prefix.block(address);
        let most = self.settings.max_per_address(shared.max_total(self), address);
        let held = self.by_block.entry(block).or_default();
        if held.connections < most {
            held.connections += 1;
            return Ok(block);
        }
        Err(AddressFull { most, is_new: !std::mem::replace(&mut held.is_logged, true) })
    }
}

impl Settings {
    /// Maximum for one address, given the total.
    ///
    /// Half of the total (rounded up) leaves room for others, whatever one address does; callers
    /// behind one NAT share it.
    fn max_per_address(&self, total: usize, address: IpAddr) -> usize {
        match self.per_address {
            Some(most) => most,
            // All programs of this machine share the loopback address.
            None if address.to_canonical().is_loopback() => total,
            None => total.div_ceil(2),
        }
    }
}

impl SharedLimit {
    /// Maximum in all: the configured one, or what the descriptors allow.
    fn max_total(&self, state: &ConnCounts) -> usize {
        state.settings.total.unwrap_or(self.max_by_descriptors)
    }

    fn lock(&self) -> MutexGuard<'_, ConnCounts> {
        // No change can panic half way: the counts are valid also in a poisoned lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnToken {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.shared.lock();
            state.open -= 1;
            // At the limit every connection that ends admits another one. The shortage is over only when half of them have
            // ended.
            state.is_short &= state.open > self.shared.max_total(&state) / 2;
            if let Some(block) = self.block
                && let Entry::Occupied(mut held) = state.by_block.entry(block)
            {
                held.get_mut().connections -= 1;
                if held.get().connections == 0 {
                    held.remove();
                }
            }
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(total: usize, per_address: Option<usize>) -> ConnectionLimit {
        ConnectionLimit::new(Settings { total: Some(total), per_address, ..Settings::default() }, 1)
    }

    fn take(limit: &ConnectionLimit, address: &str) -> Option<ConnToken> {
        limit.try_acquire(address.parse().unwrap())
    }

    fn has_capacity(limit: &ConnectionLimit) -> bool {
        limit.poll_capacity(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn an_address_has_its_bound_and_is_forgotten_with_its_last_connection() {
        let limit = limit(100, Some(2));
        let held = [take(&limit, "192.0.2.1").unwrap(), take(&limit, "::ffff:192.0.2.1").unwrap()];
        assert!(take(&limit, "192.0.2.1").is_none());
        let other = take(&limit, "192.0.2.2").unwrap();
        drop(held);
        assert!(take(&limit, "192.0.2.1").is_some());
        drop(other);
        assert!(limit.shared.lock().by_block.is_empty() && limit.shared.lock().open == 0);
    }

    #[test]
    fn a_connection_counts_in_all_before_its_address_is_known_and_for_that_from_then_on() {
        let limit = limit(3, Some(1));
        let mut unknown: Vec<_> = (0..3).map(|_| limit.acquire_unidentified()).collect();
        assert!(!has_capacity(&limit) && !unknown[0].is_identified());
        assert!(unknown[0].identify("192.0.2.1".parse().unwrap()) && unknown[0].is_identified());
        assert!(take(&limit, "192.0.2.1").is_none(), "it counts");
        assert!(!unknown[1].identify("192.0.2.1".parse().unwrap()) && !unknown[1].is_identified());
        assert!(unknown[1].identify("192.0.2.2".parse().unwrap()));
        assert!(unknown[1].identify("192.0.2.9".parse().unwrap()), "the first address counts");
        assert!(take(&limit, "192.0.2.9").is_some());
        drop(unknown);
        assert!(limit.shared.lock().by_block.is_empty() && limit.shared.lock().open == 0);
    }

    #[test]
    fn of_ipv6_all_addresses_of_a_network_are_one() {
        let limit = limit(100, Some(1));
        let _held = take(&limit, "2001:db8:0:1::1").unwrap();
        assert!(take(&limit, "2001:db8:0:1:ffff::2").is_none());
        let other = take(&limit, "2001:db8:0:2::1");
        assert!(other.is_some());
        // A token is released in the block that it was counted in, whatever the settings are now.
        limit.update(Settings { total: Some(100), per_address: Some(1), ipv6_prefix: Ipv6Prefix(48) });
        drop(other);
        assert_eq!(limit.shared.lock().by_block.len(), 1);
        let _wide = take(&limit, "2001:db8:0:2::1").unwrap();
        assert!(take(&limit, "2001:db8:0:3::1").is_none());
    }

    #[test]
    fn without_a_bound_of_its_own_one_address_leaves_half_to_others_and_loopback_has_all() {
        let limit = limit(5, None);
        let held: Vec<_> = std::iter::from_fn(|| take(&limit, "192.0.2.1")).collect();
        assert_eq!(held.len(), 3);
        drop(held);
        for loopback in ["127.0.0.1", "::1"] {
            assert_eq!((0..9).map_while(|_| take(&limit, loopback)).collect::<Vec<_>>().len(), 5, "{loopback}");
        }
        assert_eq!(limit.shortages(), 0, "no connection had to wait");
    }

    #[test]
    fn those_who_wait_are_woken_when_one_ends_and_when_there_may_be_more() {
        let limit = limit(1, None);
        let held = take(&limit, "127.0.0.1").unwrap();
        assert!(!has_capacity(&limit));
        limit.update(Settings { total: Some(2), ..Settings::default() });
        assert!(has_capacity(&limit));
        let second = take(&limit, "127.0.0.1").unwrap();
        assert!(!has_capacity(&limit));
        limit.update(Settings::default());
        assert_eq!(limit.max_total(), 1);
        drop(held);
        assert!(!has_capacity(&limit), "those that are there stay");
        drop(second);
        assert!(has_capacity(&limit));
    }

    #[test]
    fn a_shortage_is_over_when_half_is_free() {
        let limit = limit(4, None);
        let mut held: Vec<_> = (0..4).map(|_| take(&limit, "127.0.0.1").unwrap()).collect();
        for _ in 0..3 {
            assert!(!has_capacity(&limit));
            drop(held.pop());
            assert!(has_capacity(&limit));
            held.extend(take(&limit, "127.0.0.1"));
        }
        assert!(!has_capacity(&limit) && limit.shortages() == 1, "at the edge it is one");
        held.truncate(2);
        held.extend((0..2).map(|_| take(&limit, "127.0.0.1").unwrap()));
        assert!(!has_capacity(&limit) && limit.shortages() == 2);
    }
}
