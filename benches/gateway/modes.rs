//! The kinds of load: closed and open loops, idle connections, and more than a limit allows.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use super::figures::{latencies, most_in_any, percentile, possible};
use super::line::Path;
use super::poller::{Waiting, now};
use super::world::{Finished, World};

const SECOND: u64 = 1_000_000_000;

/// What every kind of load needs to know.
pub(crate) struct Load {
    /// To the gateway, or to the origin itself.
    pub(crate) path: Path,
    /// The bytes of one request.
    pub(crate) request: Vec<u8>,
    pub(crate) connections: usize,
    /// How long is measured, after `warm` seconds that are not.
    pub(crate) seconds: f64,
    pub(crate) warm: f64,
}

fn nanos(seconds: f64) -> u64 {
    (seconds * SECOND as f64) as u64
}

/// Each connection asks again as soon as it was answered.
pub(crate) fn closed(world: &mut World, load: &Load) -> io::Result<String> {
    for _ in 0..load.connections {
        let caller = world.connect(&load.path)?;
        world.ask(caller, &load.request, now())?;
    }
    let begin = now() + nanos(load.warm);
    let end = begin + nanos(load.seconds);
    let mut taken = Vec::with_capacity(1 << 20);
    let mut failed = 0;
    let mut idle_before = None;
    while let Some(finished) = world.step(end, Waiting::Sleep)? {
        if finished.ended >= begin {
            idle_before.get_or_insert(world.idle());
            if finished.status == 200 {
                taken.push(finished.ended - finished.left);
            } else {
                failed += 1;
            }
        }
        world.ask(finished.caller, &load.request, now())?;
    }
    let idle = world.idle() - idle_before.unwrap_or(0);
    let busy = 1.0 - idle as f64 / (end - begin) as f64;
    let rate = taken.len() as f64 / load.seconds;
    Ok(format!(r#"{{"rate":{rate:.1},"failed":{failed},"load_busy":{busy:.3},{}}}"#, latencies(taken)))
}

/// Asks `rate` times a second. A request that finds no free connection leaves late, and its latency
/// still runs from the moment it was meant to leave: nothing is left out because the gateway was slow.
pub(crate) fn open(world: &mut World, load: &Load, rate: f64) -> io::Result<String> {
    let mut free = Vec::new();
    for _ in 0..load.connections {
        free.push(world.connect(&load.path)?);
    }
    let gap = SECOND as f64 / rate;
    let start = now() + 10_000_000;
    let begin = start + nanos(load.warm);
    let end = begin + nanos(load.seconds);
    let mut late: VecDeque<u64> = VecDeque::new();
    let mut taken = Vec::new();
    let (mut sent, mut failed, mut open) = (0_u64, 0, 0);
    loop {
        let due = start + (sent as f64 * gap) as u64;
        let over = due >= end;
        if over && (open == 0 || now() >= end + 2 * SECOND) {
            break;
        }
        let finished = world.step(if over { end + 2 * SECOND } else { due }, Waiting::Spin)?;
        let Some(finished) = finished else {
            if !over {
                sent += 1;
                open += 1;
                match free.pop() {
                    Some(caller) => drop(world.ask(caller, &load.request, due)?),
                    None => late.push_back(due),
                }
            }
            continue;
        };
        open -= 1;
        if finished.status != 200 {
            failed += 1;
        } else if finished.meant >= begin {
            taken.push(finished.ended - finished.meant);
        }
        match late.pop_front() {
            Some(due) => drop(world.ask(finished.caller, &load.request, due)?),
            None => free.push(finished.caller),
        }
    }
    // Each latency by itself: percentiles of several short measurements are taken over all of them.
    let each: Vec<String> = taken.iter().map(u64::to_string).collect();
    Ok(format!(r#"{{"failed":{},"ns":[{}]}}"#, failed + open, each.join(",")))
}

/// One request on each connection, then nothing, until stdin ends.
pub(crate) fn idle(world: &mut World, load: &Load) -> io::Result<()> {
    for _ in 0..load.connections {
        let caller = world.connect(&load.path)?;
        world.ask(caller, &load.request, now())?;
        match world.step(now() + 5 * SECOND, Waiting::Sleep)? {
            Some(Finished { status: 200, .. }) => {}
            Some(other) => return Err(io::Error::other(format!("status {}", other.status))),
            None => return Err(io::Error::other("no answer within 5 s")),
        }
    }
    println!("ready");
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// A limit, and how it is overrun.
pub(crate) struct Offer {
    /// N of the limit.
    pub(crate) requests: usize,
    /// T of the limit, in nanoseconds.
    pub(crate) per: u64,
    /// How many times what the limit allows is offered.
    pub(crate) factor: f64,
    /// One request, 0.9 T of silence, then the rest.
    pub(crate) lone: bool,
}

impl Offer {
    /// When the `i`-th request is offered, counted from the start.
    fn moment(&self, i: usize) -> u64 {
        let gap = self.per as f64 / (self.requests as f64 * self.factor);
        match (self.lone, i) {
            (false, i) => (i as f64 * gap) as u64,
            (true, 0) => 0,
            (true, i) => (self.per as f64 * 0.9 + (i - 1) as f64 * gap) as u64,
        }
    }
}

/// Offers more than the limit allows. A moment at which no connection is free passes unused.
pub(crate) fn promise(world: &mut World, load: &Load, offer: &Offer) -> io::Result<String> {
    let mut free = Vec::new();
    for _ in 0..load.connections {
        free.push(world.connect(&load.path)?);
    }
    world.arrivals = Some(Vec::new());
    let start = now() + 10_000_000;
    let end = start + nanos(load.seconds);
    let (mut waits, mut refusals) = (Vec::new(), Vec::new());
    let (mut offered, mut failed) = (0, 0);
    loop {
        let due = start + offer.moment(offered);
        let Some(finished) = world.step(due.min(end), Waiting::Sleep)? else {
            if now() >= end {
                break;
            }
            offered += 1;
            if let Some(caller) = free.pop() {
                world.ask(caller, &load.request, due)?;
            }
            continue;
        };
        match finished.status {
            200 => waits.push(finished.ended - finished.left),
            429 => refusals.push(finished.ended - finished.left),
            _ => failed += 1,
        }
        free.push(finished.caller);
    }
    let arrivals: Vec<u64> = world.arrivals.take().unwrap_or_default().into_iter().map(|(at, _)| at).collect();
    let could = possible((0..).map(|i| start + offer.moment(i)), offer.requests, offer.per, end);
    waits.sort_unstable();
    refusals.sort_unstable();
    let ms = |sorted: &[u64]| percentile(sorted, 1.0) as f64 / 1e6;
    Ok(format!(
        r#"{{"arrived":{},"possible":{could},"most":{},"refused":{},"failed":{failed},"longest_wait_ms":{:.2},"longest_refusal_ms":{:.2}}}"#,
        arrivals.len(),
        most_in_any(&arrivals, offer.per),
        refusals.len(),
        ms(&waits),
        ms(&refusals)
    ))
}
