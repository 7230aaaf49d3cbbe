//! A locker with many keys, waiters and limits, and the stopwatch of its calls.

use std::time::Duration;

use lockgate::locker::{
    Ask, AskKind, Caller, Claim, Counts, Grant, Key, Kind, Limit, LimitId, Locker, Priority, Rate, SettlePoint,
    ShareBy, SharingMode, Ticket, Unit, Verdict, WallSample, WhenFull,
};
use lockgate::time::Time;

/// The wall clock at the start, and after a step.
pub(crate) const WALL: WallSample = WallSample { at_start: 1_700_000_000_000_000_000, asleep: 0, is_set: true };

/// Number of each thing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Slots per window.
    pub(crate) slots: u32,
    /// Keys with a window, over all limits.
    pub(crate) keys: u32,
    /// Waiters: half at one window, and half at one window each.
    pub(crate) waiters: u32,
    /// Limits.
    pub(crate) limits: u32,
}

/// The present time of every event.
pub(crate) const NOW: Time = Time::from_nanos(3_600_000_000_000);

/// The key of the window with half of the waiters, of the first limit.
pub(crate) const HOT: Key = Key(1);

/// Processor time of this thread: what else the machine does is no part of a call.
pub(crate) fn busy_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A crowded locker.
pub(crate) struct Crowd {
    pub(crate) locker: Locker,
    pub(crate) sizes: Sizes,
    longest: Duration,
    calls: u32,
}

/// The limit of a number. Every tenth has calendar windows.
pub(crate) fn limit(number: u32, slots: u32, is_shared: bool) -> Limit {
    let kind = match number % 10 {
        9 if !is_shared => Kind::Calendar { unit: Unit::Hour, zone: jiff::tz::TimeZone::UTC },
        _ => Kind::Sliding,
    };
    let per = Duration::from_secs(3600);
    Limit {
        name: format!("bench {number}").into(),
        keyed_by: "caller".into(),
        rate: Some(Rate { requests: slots, per, guard: Duration::ZERO, kind, counts: Counts::Sent }),
        in_flight: None,
        when_full: WhenFull::Wait,
        max_wait: Duration::from_secs(7200),
        max_waiting: usize::MAX,
        share_by: ShareBy::Caller,
        priority: Priority::WithinCaller,
        max_keys: usize::MAX,
        dry_run: false,
        shared: is_shared,
    }
}

/// A key as the gateway makes them: 128 well mixed bits.
pub(crate) fn key(number: u32) -> Key {
    Key((u128::from(number) + 2).wrapping_mul(0x9E37_79B9_7F4A_7C15_D6E8_FEB8_6659_FD93))
}

/// An ask of a caller, with patience without end.
pub(crate) fn ask(claims: &[Claim], caller: u32) -> Ask<'_> {
    Ask { claims, caller: Caller(caller.into()), urgency: 3, max_wait: None, arrived: None, kind: AskKind::New }
}

impl Crowd {
    /// Windows and waiters of these sizes: every window has counted something, and those with waiters are full.
    pub(crate) fn new(sizes: Sizes, is_shared: bool) -> Crowd {
        let Sizes { slots, keys, waiters, limits } = sizes;
        let mut locker = Locker::new((0..limits).map(|number| limit(number, slots, is_shared)).collect());
        locker.set_wall(WALL, NOW);
        locker.set_sharing_mode(None, SharingMode::Standalone, NOW);
        let mut crowd = Crowd { locker, sizes, longest: Duration::ZERO, calls: 0 };
        crowd.fill(Claim { limit: LimitId(0), key: HOT, cost: slots });
        for number in 0..keys {
            let cost = if number < waiters / 2 { slots } else { 1 };
            crowd.fill(crowd.claim_of(number, cost));
        }
        for number in 0..waiters {
            let claim = match number % 2 {
                0 => Claim { limit: LimitId(0), key: HOT, cost: 1 },
                _ => crowd.claim_of(number / 2 % keys, 1),
            };
            assert!(crowd.wait(claim, number).is_some(), "its window is full");
        }
        crowd
    }

    /// The claim of a key, by its number.
    pub(crate) fn claim_of(&self, number: u32, cost: u32) -> Claim {
        Claim { limit: LimitId(number % self.sizes.limits), key: key(number), cost }
    }

    /// Lets a request go that has room.
    fn fill(&mut self, claim: Claim) {
        let Verdict::Go(mut grant) = self.locker.ask(&ask(&[claim], 1), NOW) else { panic!("every window is new") };
        self.locker.settle(&mut grant, SettlePoint::Sent, NOW);
    }

    /// Puts a request in the queue.
    pub(crate) fn wait(&mut self, claim: Claim, caller: u32) -> Option<Ticket> {
        // One that was in the queue before is not refused for the length of its wait.
        let kind = AskKind::Reask { retry: false };
        match self.locker.ask(&Ask { kind, ..ask(&[claim], caller % 1000) }, NOW) {
            Verdict::Wait(ticket, _) => Some(ticket),
            Verdict::Go(_) | Verdict::Sorry(_) => None,
        }
    }

    /// Makes one call, with the verdicts that it brings, and measures it.
    pub(crate) fn call<R>(&mut self, call: impl FnOnce(&mut Locker) -> R) -> R {
        let began = busy_time();
        let result = call(&mut self.locker);
        let mut grants: Vec<Grant> = Vec::new();
        while let Some((_, verdict)) = self.locker.poll_verdict() {
            if let Verdict::Go(grant) = verdict {
                grants.push(grant);
            }
        }
        self.note(busy_time() - began);
        result
    }

    /// Notes how long a call took.
    fn note(&mut self, took: Duration) {
        (self.longest, self.calls) = (self.longest.max(took), self.calls + 1);
    }

    /// Makes calls as long as the locker says that it has something to do now, as the gate's driver does.
    pub(crate) fn run_until_done(&mut self, now: Time) {
        for _ in 0..100_000 {
            if self.locker.poll_timeout().is_none_or(|at| at > now) {
                return;
            }
            self.call(|locker| locker.handle_timeout(now));
        }
        panic!("the locker is never done");
    }

    /// The longest call so far.
    pub(crate) fn longest(&self) -> Duration {
        self.longest
    }

    /// Number of calls so far.
    pub(crate) fn calls(&self) -> u32 {
        self.calls
    }
}
