//! The longest time for which one call holds the locker, and the cost of a decision, as keys, waiters, limits and slots
//! per window grow tenfold each: at every event that concerns many of them at once.
//!
//! All requests wait for the lock while a call runs, so that the longest call is what an event costs a request that has
//! nothing to do with it. A row in which a column grows with the first four names a cost that depends on what the event
//! does not change.
//!
//! `cargo bench --bench locker_scale`: some minutes, and a gigabyte for the largest row. `-- largest` measures that row only.

mod crowd;
mod events;

use std::time::Duration;

use crowd::{Crowd, Sizes};
use events::{EVENTS, Event};

/// The row that the others differ from in one size.
const BASE: Sizes = Sizes { slots: 100, keys: 10_000, waiters: 1_000, limits: 10 };

/// All sizes at their largest.
const LARGEST: Sizes = Sizes { slots: 10_000, keys: 1_000_000, waiters: 100_000, limits: 1_000 };

/// The rows of the table, in groups: in each, one size grows.
fn rows() -> Vec<Vec<Sizes>> {
    vec![
        [10, 100, 1_000, 10_000, 100_000].map(|slots| Sizes { slots, ..BASE }).to_vec(),
        [1_000, 10_000, 100_000, 1_000_000].map(|keys| Sizes { keys, ..BASE }).to_vec(),
        [100, 1_000, 10_000, 100_000].map(|waiters| Sizes { waiters, ..BASE }).to_vec(),
        [10, 100, 1_000].map(|limits| Sizes { limits, ..BASE }).to_vec(),
        vec![LARGEST],
    ]
}

fn main() {
    let only_largest = std::env::args().any(|argument| argument == "largest");
    println!("longest call in microseconds of processor time (number of calls in brackets)\n");
    print!("{:>8} {:>9} {:>8} {:>7} {:>11}", "slots", "keys", "waiters", "limits", "decision ns");
    EVENTS.iter().for_each(|event| print!(" {:>16}", event.name));
    println!();
    for group in rows() {
        for sizes in group.into_iter().filter(|sizes| !only_largest || *sizes == LARGEST) {
            let Sizes { slots, keys, waiters, limits } = sizes;
            print!("{slots:>8} {keys:>9} {waiters:>8} {limits:>7} {:>11.0}", events::decision(sizes));
            EVENTS.iter().for_each(|event| print!(" {:>16}", measure(event, sizes)));
            println!();
        }
        println!();
    }
}

/// The longest of three runs' shortest: what the machine does besides adds to a call, and takes nothing away.
fn measure(event: &Event, sizes: Sizes) -> String {
    let runs = (0..3).map(|_| {
        let mut crowd = Crowd::new(sizes, event.is_shared);
        (event.run)(&mut crowd);
        (crowd.longest(), crowd.calls())
    });
    let (longest, calls) = runs.min().unwrap_or((Duration::ZERO, 0));
    format!("{:.0} ({calls})", longest.as_secs_f64() * 1e6)
}
