//! The events that concern many keys, waiters or limits at once.

use std::time::Duration;

use lockgate::locker::{
    CallerScan, Claim, JournalRecord, JournalStart, Limit, LimitId, SettlePoint, SlotGrant, StatsScan, SyncTrigger,
    Verdict, WallSample, WriteToken,
};
use lockgate::time::Time;

use crate::crowd::{Crowd, HOT, NOW, Sizes, WALL, ask, busy_time, limit};

/// An event, and the calls that it makes.
pub(crate) struct Event {
    /// Name of its column.
    pub(crate) name: &'static str,
    /// True if all limits are shared.
    pub(crate) is_shared: bool,
    /// Makes its calls.
    pub(crate) run: fn(&mut Crowd),
}

const fn local(name: &'static str, run: fn(&mut Crowd)) -> Event {
    Event { name, is_shared: false, run }
}

const fn shared(name: &'static str, run: fn(&mut Crowd)) -> Event {
    Event { name, is_shared: true, run }
}

/// All events.
pub(crate) const EVENTS: [Event; 16] = [
    local("opening", opening),
    local("deadlines", deadlines),
    local("N raised", |crowd| reload(crowd, |known| with_slots(known, 2))),
    local("N lowered", |crowd| {
        reload(crowd, |known| Limit { rate: known.rate.clone().map(|rate| halved(&rate)), ..known })
    }),
    local("wait changed", |crowd| reload(crowd, |known| Limit { max_wait: known.max_wait / 2, ..known })),
    local("rekeyed", |crowd| reload(crowd, |known| Limit { keyed_by: "host".into(), ..known })),
    local("limits changed", limits_changed),
    local("hold, release", hold),
    local("disk lost", disk_lost),
    local("disk found", disk_found),
    shared("store lost", store_lost),
    shared("store found", store_found),
    local("clock step", clock_step),
    local("statistics", statistics),
    local("limit detail", detail),
    local("queued asks", |crowd| drop(crowd.call(|locker| locker.queued_asks()))),
];

/// Nanoseconds of an ask and its settle at a window with room, on average, in a locker of these sizes.
pub(crate) fn decision(sizes: Sizes) -> f64 {
    let mut crowd = Crowd::new(sizes, false);
    let rounds = 200_000_u32;
    let began = busy_time();
    let mut went = 0;
    for round in 0..rounds {
        let claims = [crowd.claim_of(sizes.waiters / 2 + round.wrapping_mul(7919) % (sizes.keys / 4).max(1), 1)];
        if let Verdict::Go(mut grant) = crowd.locker.ask(&ask(&claims, sizes.waiters + round), NOW) {
            crowd.locker.settle(&mut grant, SettlePoint::Sent, NOW);
            went += 1;
        }
        if went > sizes.keys / 4 {
            break;
        }
    }
    (busy_time() - began).as_secs_f64() * 1e9 / f64::from(went.max(1))
}

/// All slots of all windows open at one moment.
fn opening(crowd: &mut Crowd) {
    let later = NOW + Duration::from_secs(3600);
    crowd.call(|locker| locker.handle_timeout(later));
    crowd.run_until_done(later);
}

/// The deadlines of all waiters come at one moment, at which all windows are paused.
fn deadlines(crowd: &mut Crowd) {
    let mut at = NOW + Duration::from_secs(3000);
    for _ in 0..2 {
        // A pause is an hour at most.
        pause_all(crowd, at);
        at = at + Duration::from_secs(3000);
    }
    let later = NOW + Duration::from_secs(7201);
    crowd.call(|locker| locker.handle_timeout(later));
    crowd.run_until_done(later);
}

/// Pauses every window with waiters, unmeasured.
fn pause_all(crowd: &mut Crowd, now: Time) {
    let until = now + Duration::from_secs(3600);
    crowd.locker.pause(LimitId(0), HOT, until, now);
    for number in 0..crowd.sizes.waiters / 2 {
        let Claim { limit, key, .. } = crowd.claim_of(number % crowd.sizes.keys, 1);
        crowd.locker.pause(limit, key, until, now);
    }
}

fn with_slots(known: Limit, factor: u32) -> Limit {
    let mut rate = known.rate.clone();
    if let Some(rate) = &mut rate {
        rate.requests *= factor;
    }
    Limit { rate, ..known }
}

fn halved(rate: &lockgate::locker::Rate) -> lockgate::locker::Rate {
    lockgate::locker::Rate { requests: (rate.requests / 2).max(1), ..rate.clone() }
}

/// Every limit changes.
fn reload(crowd: &mut Crowd, change: fn(Limit) -> Limit) {
    let limits: Vec<Limit> = (0..crowd.sizes.limits).map(|id| change(limit(id, crowd.sizes.slots, false))).collect();
    crowd.call(|locker| locker.reload(limits, Duration::from_secs(60), NOW));
    crowd.run_until_done(NOW);
}

/// Half of the limits are removed, and as many are new.
fn limits_changed(crowd: &mut Crowd) {
    let Sizes { limits, slots, .. } = crowd.sizes;
    let limits: Vec<Limit> = (limits / 2..limits + limits / 2).map(|id| limit(id, slots, false)).collect();
    crowd.call(|locker| locker.reload(limits, Duration::from_secs(60), NOW));
    crowd.run_until_done(NOW);
}

/// All slots open while the locker is held.
fn hold(crowd: &mut Crowd) {
    crowd.call(|locker| locker.hold());
    let later = NOW + Duration::from_secs(3600);
    crowd.call(|locker| locker.handle_timeout(later));
    crowd.run_until_done(later);
    crowd.call(|locker| locker.release(later));
    crowd.run_until_done(later);
}

fn disk_lost(crowd: &mut Crowd) {
    crowd.locker.begin_persisting(JournalStart::Fresh, NOW);
    crowd.call(|locker| locker.end_persisting(NOW));
    crowd.run_until_done(NOW);
}

fn disk_found(crowd: &mut Crowd) {
    crowd.call(|locker| locker.begin_persisting(JournalStart::CatchUp, NOW));
    crowd.run_until_done(NOW);
    while crowd.locker.has_records() {
        let records = crowd.call(|locker| locker.poll_records(512, NOW));
        let pages: Vec<WriteToken> = records.iter().filter_map(page).collect();
        crowd.call(|locker| locker.records_written(pages, NOW));
    }
    crowd.run_until_done(NOW);
}

fn page(record: &JournalRecord) -> Option<WriteToken> {
    match record {
        JournalRecord::Window(_, written) => Some(*written),
        JournalRecord::Limits | JournalRecord::Dropped(..) => None,
    }
}

fn store_lost(crowd: &mut Crowd) {
    crowd.locker.open_sharing(NOW);
    crowd.call(|locker| locker.close_sharing(NOW));
    crowd.run_until_done(NOW);
}

fn store_found(crowd: &mut Crowd) {
    crowd.call(|locker| locker.open_sharing(NOW));
    crowd.run_until_done(NOW);
    // The first hundred calls are as good as all.
    for _ in 0..100 {
        if !crowd.locker.has_sync() {
            break;
        }
        let sync = crowd.call(|locker| locker.take_sync(SyncTrigger::Due, NOW));
        let answers = vec![SlotGrant::default(); sync.slot_requests.len()];
        crowd.call(|locker| locker.sync_answered(&sync, &answers, NOW, NOW, NOW));
    }
}

/// The wall clock is set two hours ahead.
fn clock_step(crowd: &mut Crowd) {
    let ahead = WallSample { at_start: WALL.at_start + 7_200_000_000_000, ..WALL };
    crowd.call(|locker| locker.set_wall(ahead, NOW));
    crowd.run_until_done(NOW);
}

/// An operator looks at one limit.
fn detail(crowd: &mut Crowd) {
    let mut scan = CallerScan::of(LimitId(0));
    while crowd.call(|locker| locker.scan_callers(&mut scan)) {}
    crowd.call(|locker| locker.limit_detail(LimitId(0), Some(HOT), NOW));
}

fn statistics(crowd: &mut Crowd) {
    let mut scan = StatsScan::default();
    while crowd.call(|locker| locker.scan_stats(&mut scan, NOW)) {}
    crowd.call(|locker| locker.finish_stats(scan, NOW));
}
