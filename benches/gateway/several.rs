//! Several gateways with one limit: each is offered more than all of them together may let go.

use std::io;

use super::figures::{most_in_any, percentile};
use super::line::Path;
use super::modes::{Load, Offer};
use super::poller::{Waiting, now};
use super::world::World;

const SECOND: f64 = 1e9;

/// Offers each gateway `factor` times the limit. What came to the origin is told by gateway, and what came in the first
/// `warm` seconds only counts for the promise.
pub(crate) fn several(world: &mut World, paths: &[Path], load: &Load, offer: &Offer) -> io::Result<String> {
    let mut homes = Vec::new();
    let mut free: Vec<Vec<usize>> = Vec::new();
    for (gateway, path) in paths.iter().enumerate() {
        let mut here = Vec::new();
        for _ in 0..load.connections {
            here.push(world.connect(path)?);
            homes.push(gateway);
        }
        free.push(here);
    }
    let requests: Vec<Vec<u8>> = (0..paths.len()).map(request).collect();
    world.arrivals = Some(Vec::new());
    let gap = offer.per as f64 / (offer.requests as f64 * offer.factor * paths.len() as f64);
    let start = now() + 10_000_000;
    let end = start + (load.seconds * SECOND) as u64;
    let (mut offered, mut failed, mut refused) = (0_usize, 0, 0);
    loop {
        let due = start + (offered as f64 * gap) as u64;
        let Some(finished) = world.step(due.min(end), Waiting::Sleep)? else {
            if now() >= end {
                break;
            }
            let gateway = offered % paths.len();
            offered += 1;
            if let Some(caller) = free[gateway].pop() {
                world.ask(caller, &requests[gateway], due)?;
            }
            continue;
        };
        match finished.status {
            200 => {}
            429 | 503 => refused += 1,
            _ => failed += 1,
        }
        free[homes[finished.caller]].push(finished.caller);
    }
    let arrivals = world.arrivals.take().unwrap_or_default();
    let all: Vec<u64> = arrivals.iter().map(|(at, _)| *at).collect();
    let from = start + (load.warm * SECOND) as u64;
    let mut by_gateway = vec![0_usize; paths.len()];
    for (_, gateway) in arrivals.iter().filter(|(at, _)| *at >= from) {
        by_gateway[usize::from(*gateway)] += 1;
    }
    let could = (end - from) as f64 / offer.per as f64 * offer.requests as f64;
    let used = by_gateway.iter().sum::<usize>() as f64 / could;
    // A slot opens a span after it was taken before; who waits for it comes so much later.
    let waited = all.windows(offer.requests + 1).filter(|pair| pair[0] >= from);
    let mut late: Vec<u64> = waited.map(|pair| (pair[offer.requests] - pair[0]).saturating_sub(offer.per)).collect();
    late.sort_unstable();
    let us = |share| percentile(&late, share) as f64 / 1e3;
    Ok(format!(
        r#"{{"arrived":{},"by_gateway":{by_gateway:?},"most":{},"used":{used:.4},"late_p50_us":{:.0},"late_p99_us":{:.0},"refused":{refused},"failed":{failed}}}"#,
        all.len(),
        most_in_any(&all, offer.per),
        us(0.5),
        us(0.99)
    ))
}

/// What is asked at a gateway; the origin knows it by its path.
fn request(gateway: usize) -> Vec<u8> {
    format!("GET /{gateway} HTTP/1.1\r\nHost: bench.localhost\r\nUser-Agent: load\r\nAccept: */*\r\n\r\n").into_bytes()
}
