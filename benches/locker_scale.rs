//! The longest that the locker is busy in one call, with a million windows: when the store of shared limits is lost and
//! found, and when writing begins and ends. Nothing is let go meanwhile, so this is what requests of other limits may wait.
//!
//! `cargo bench --bench locker_scale`, in a minute and with half a gigabyte.

use std::time::Duration;

use lockgate::gate::clock::Clock;
use lockgate::locker::{
    Ask, AskKind, Caller, Claim, Counts, JournalRecord, JournalStart, Key, Kind, Limit, LimitId, Locker, Priority,
    Rate, SettlePoint, ShareBy, SharingMode, SlotGrant, SyncTrigger, Verdict, WhenFull, WriteToken,
};
use lockgate::time::Time;

const WINDOWS: u32 = 1_000_000;

fn limit(number: u32, shared: bool) -> Limit {
    let per = Duration::from_secs(3600);
    Limit {
        name: format!("bench {number}").into(),
        keyed_by: "".into(),
        rate: Some(Rate { requests: 1000, per, guard: Duration::ZERO, kind: Kind::Sliding, counts: Counts::Sent }),
        in_flight: None,
        when_full: WhenFull::Refuse,
        max_wait: Duration::from_secs(30),
        max_waiting: 1000,
        share_by: ShareBy::Caller,
        priority: Priority::WithinCaller,
        max_keys: usize::MAX,
        dry_run: false,
        shared,
    }
}

/// A locker with a million windows, of so many limits, each of which has counted something.
fn crowded(limits: u32, shared: bool, now: Time) -> Locker {
    let mut locker = Locker::new((0..limits).map(|number| limit(number, shared)).collect());
    locker.set_sharing_mode(None, SharingMode::Standalone, now);
    for number in 0..WINDOWS {
        let key = Key(u128::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15_D6E8_FEB8_6659_FD93));
        let claims = [Claim { limit: LimitId(number % limits), key, cost: 1 }];
        let ask =
            Ask { claims: &claims, caller: Caller(1), urgency: 3, max_wait: None, arrived: None, kind: AskKind::New };
        let Verdict::Go(mut grant) = locker.ask(&ask, now) else { panic!("every window is new") };
        locker.settle(&mut grant, SettlePoint::Sent, now);
    }
    locker
}

/// How long calls take: the longest, and all together.
struct Busy {
    clock: Clock,
    longest: Duration,
    all: Duration,
    calls: u32,
}

impl Busy {
    fn new() -> Busy {
        Busy { clock: Clock::start(), longest: Duration::ZERO, all: Duration::ZERO, calls: 0 }
    }

    fn call<R>(&mut self, call: impl FnOnce() -> R) -> R {
        let began = self.clock.now();
        let result = call();
        let took = self.clock.now().since(began);
        (self.longest, self.all, self.calls) = (self.longest.max(took), self.all + took, self.calls + 1);
        result
    }

    fn report(&self, what: &str) {
        println!("  {what}: {:.3?} at most in one call, {:.1?} in {} calls", self.longest, self.all, self.calls);
    }
}

fn store(limits: u32, now: Time) {
    let mut locker = crowded(limits, true, now);
    let (mut lost, mut found, mut told) = (Busy::new(), Busy::new(), Busy::new());
    lost.call(|| locker.close_sharing(now));
    lost.report("the store is lost");
    found.call(|| locker.open_sharing(now));
    found.report("the store is found");
    // What each of its windows has counted; the first hundred calls are as good as all.
    while locker.has_sync() && told.calls < 100 {
        let exchange = told.call(|| locker.take_sync(SyncTrigger::Due, now));
        let answers = vec![SlotGrant::default(); exchange.slot_requests.len()];
        locker.sync_answered(&exchange, &answers, now, now, now);
    }
    told.report("the store is told");
}

fn disk(limits: u32, now: Time) {
    let mut locker = crowded(limits, false, now);
    let (mut fails, mut begins, mut named, mut written) = (Busy::new(), Busy::new(), Busy::new(), Busy::new());
    begins.call(|| locker.begin_persisting(JournalStart::CatchUp, now));
    begins.report("the disk takes something again");
    while locker.has_records() {
        let records = named.call(|| locker.poll_records(512, now));
        let pages: Vec<WriteToken> = records.iter().filter_map(page).collect();
        written.call(|| locker.records_written(pages, now));
    }
    named.report("what is to be written is named");
    written.report("it is written");
    fails.call(|| locker.end_persisting(now));
    fails.report("the disk fails");
}

fn page(record: &JournalRecord) -> Option<WriteToken> {
    match record {
        JournalRecord::Window(_, written) => Some(*written),
        JournalRecord::Limits | JournalRecord::Dropped(..) => None,
    }
}

fn main() {
    let now = Time::from_nanos(3_600_000_000_000);
    for limits in [1, 60, 200] {
        println!("{WINDOWS} windows of {limits} limits");
        store(limits, now);
        disk(limits, now);
    }
}
