//! Names of hosts, and the addresses that stand for them in the namespace of a program.
//!
//! The program is told an address of its own for each name that it asks for, and connects to that. So the
//! gateway is told the name, and not an address that many names may share, or that another resolver would
//! not find: no server name and no Host must be believed. The addresses are of the range for benchmarks
//! (RFC 2544), which no public server has.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// First address that stands for a name. Those before it are left for the namespace itself.
const FIRST: u32 = Ipv4Addr::new(198, 18, 1, 0).to_bits();

/// Most names. With one more, the one that was asked for first is forgotten, and its address stands for
/// the new one: by then it is long out of every program's cache.
const MOST: u32 = 100_000;

/// Table of names and addresses.
#[derive(Default)]
pub(super) struct Names {
    by_name: HashMap<Arc<str>, u32>,
    /// Names by the number of their address, from [`FIRST`] on.
    by_number: Vec<Arc<str>>,
    /// Number of the name that is forgotten next, once all are taken.
    oldest: u32,
}

impl Names {
    /// Address that stands for a name, which is in lower case and has no final dot.
    pub(super) fn address_of(&mut self, name: &str) -> Ipv4Addr {
        let number = match self.by_name.get(name) {
            Some(number) => *number,
            None => self.add(Arc::from(name)),
        };
        Ipv4Addr::from_bits(FIRST + number)
    }

    /// Name that an address stands for.
    pub(super) fn name_of(&self, address: IpAddr) -> Option<Arc<str>> {
        let IpAddr::V4(address) = address else { return None };
        let number = address.to_bits().checked_sub(FIRST)?;
        self.by_number.get(usize::try_from(number).ok()?).map(Arc::clone)
    }

    fn add(&mut self, name: Arc<str>) -> u32 {
        let next = u32::try_from(self.by_number.len()).ok().filter(|next| *next < MOST);
        let number = match next {
            Some(next) => {
                self.by_number.push(Arc::clone(&name));
                next
            }
            None => {
                let number = self.oldest;
                self.oldest = (number + 1) % MOST;
                let before = std::mem::replace(&mut self.by_number[number as usize], Arc::clone(&name));
                self.by_name.remove(&before);
                number
            }
        };
        self.by_name.insert(name, number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_one_address_and_the_oldest_gives_its_own_away() {
        let mut names = Names::default();
        let first = names.address_of("a.example");
        assert_eq!(first, Ipv4Addr::new(198, 18, 1, 0));
        assert_eq!(names.address_of("b.example"), Ipv4Addr::new(198, 18, 1, 1));
        assert_eq!(names.address_of("a.example"), first);
        assert_eq!(names.name_of(first.into()).as_deref(), Some("a.example"));
        for n in 0..MOST - 2 {
            names.address_of(&n.to_string());
        }
        assert_eq!(names.address_of("a.example"), first, "there was room for it");
        assert_eq!(names.address_of("one.more"), first);
        assert_eq!(names.name_of(first.into()).as_deref(), Some("one.more"));
        assert_ne!(names.address_of("a.example"), first);
        let last = Ipv4Addr::from_bits(FIRST + MOST - 1);
        assert!(u32::from(last) < u32::from(Ipv4Addr::new(198, 20, 0, 0)), "{last} is of the range");
        for other in ["198.18.0.1", "198.17.255.255", "203.0.113.1", "::1"] {
            assert_eq!(names.name_of(other.parse().unwrap()), None, "{other}");
        }
    }
}
