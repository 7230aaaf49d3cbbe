//! What the script does in the cases that matter, one by one, on a real server whose clock the test moves.

use std::time::Duration;

use redis::{Connection, Value, cmd};

use super::arguments;
use super::differential::limits;
use super::server::Server;
use crate::gate::store::script_call::{self, ClientId, Command, ScriptReply};
use crate::gate::store::store_conn::SCRIPT;
use crate::gate::store::{Error, PRESENCE};
use crate::locker::{
    Key, LEASE, LimitId, MAX_HORIZON, SharedKind, SlotRequest, SyncRequest, WindowParams, WindowReport,
};
use crate::time::Time;

/// Milliseconds of the store's clock, in microseconds.
const MS: u64 = 1000;
pub(super) const BEGIN: u64 = 1_795_000_000_000_000;

/// A store, its clock, and what gateways say to it.
pub(super) struct Stage {
    _server: Server,
    pub(super) connection: Connection,
    sha: String,
    pub(super) now: u64,
    pub(super) id: &'static str,
    pub(super) shares: Option<u32>,
    pub(super) trusts_empty: bool,
    pub(super) suspect_epoch: Option<i64>,
}

/// What one gateway says of the one window.
#[derive(Clone, Copy)]
pub(super) struct Says {
    pub(super) kind: SharedKind,
    pub(super) key: u128,
    pub(super) keyed: &'static str,
    pub(super) calendar: Option<&'static str>,
    pub(super) requests: u32,
    pub(super) burst: u32,
    pub(super) span: u64,
    pub(super) waiting: u64,
    pub(super) takes: u32,
    pub(super) settled: Option<(u64, u32)>,
    pub(super) returned: u32,
    pub(super) held: Option<u32>,
    pub(super) linger: u64,
    pub(super) pause: u64,
}

/// Asks for nothing, of a limit of 4 per 100 ms.
pub(super) const SAYS: Says = Says {
    kind: SharedKind::Sliding,
    key: 0,
    keyed: "host",
    calendar: Some("minute UTC"),
    requests: 4,
    burst: 1,
    span: 100,
    waiting: 0,
    takes: 0,
    settled: None,
    returned: 0,
    held: None,
    linger: 0,
    pause: 0,
};

impl Stage {
    pub(super) fn new() -> Stage {
        let server = Server::start();
        let mut connection = server.connect();
        let sha = cmd("SCRIPT").arg("LOAD").arg(SCRIPT).query(&mut connection).unwrap();
        let (now, id, shares, trusts_empty, suspect_epoch) = (BEGIN, "one", None, true, None);
        Stage { _server: server, connection, sha, now, id, shares, trusts_empty, suspect_epoch }
    }

    pub(super) fn pass(&mut self, millis: u64) {
        self.now += millis * MS;
    }

    pub(super) fn say(&mut self, gateway: &str, command: Command, says: Option<Says>) -> Result<ScriptReply, Error> {
        let client_id = ClientId {
            id: self.id.to_owned(),
            process: gateway.split('.').next().unwrap().to_owned(),
            session: gateway.to_owned(),
            suspect_epoch: self.suspect_epoch,
            trusts_empty: self.trusts_empty,
            shares: self
                .shares
                .map(|count| (gateway.split('.').next().unwrap().to_owned(), count, Duration::from_secs(60))),
            clock: Some(self.now),
        };
        let began = Time::from_nanos(self.now * 1000);
        let mut sync = SyncRequest { horizon: Duration::from_millis(5), ..SyncRequest::default() };
        if let Some(says) = says {
            sync.windows.push(says.report(began));
            let take =
                SlotRequest { group: None, requests: says.takes, prefetch: 0, windows: [(0, 1)].into_iter().collect() };
            sync.slot_requests.extend((says.takes > 0).then_some(take));
        }
        let mut limits = limits();
        limits[0].keyed_by = says.map_or("", |says| says.keyed).into();
        let (keys, args) = arguments("g", &client_id, command, &sync, began, &limits);
        let called: Value =
            cmd("EVALSHA").arg(&self.sha).arg(keys.len()).arg(keys).arg(args).query(&mut self.connection).unwrap();
        script_call::read(&called, &sync)
    }

    /// A gateway that is new here.
    pub(super) fn hello(&mut self, gateway: &str) {
        self.say(gateway, Command::Hello, None).unwrap();
    }

    pub(super) fn tell(&mut self, gateway: &str, says: Says) -> ScriptReply {
        self.say(gateway, Command::Sync, Some(says)).unwrap()
    }

    /// How many of so many requests may go, now or within the horizon; and in how many milliseconds the next.
    pub(super) fn take(&mut self, gateway: &str, count: u32) -> (u32, u64) {
        self.take_of(gateway, count, SAYS)
    }

    pub(super) fn take_of(&mut self, gateway: &str, count: u32, says: Says) -> (u32, u64) {
        let answer = self.tell(gateway, Says { takes: count, waiting: u64::from(count), ..says });
        let taken = &answer.grants[0];
        let later = taken.next_in.map_or(0, |later| u64::try_from(later.as_millis()).unwrap());
        (taken.groups.iter().map(|(_, count)| count).sum(), later)
    }

    /// So many requests were sent just now.
    pub(super) fn sent(&mut self, gateway: &str, count: u32) {
        self.tell(gateway, Says { settled: Some((0, count)), ..SAYS });
    }
}

impl Says {
    fn report(&self, began: Time) -> WindowReport {
        let millis = Duration::from_millis;
        WindowReport {
            window: 0,
            generation: 0,
            limit: LimitId(0),
            key: Key(self.key),
            params: WindowParams {
                kind: self.kind,
                calendar: self.calendar.filter(|_| matches!(self.kind, SharedKind::Calendar(_))).map(Into::into),
                requests: self.requests,
                span: self.span * 1_000_000,
                interval: self.span * 1_000_000 / u64::from(self.requests),
                burst: self.burst,
                in_flight: None,
                linger: millis(self.linger),
            },
            is_new: self.held.is_some(),
            held: self.held.unwrap_or(0),
            flying: 0,
            waiting: self.waiting,
            paused: began + millis(self.pause),
            settled: self.settled.iter().map(|(age, count)| (began - millis(*age), *count)).collect(),
            returned: self.returned,
            landed: 0,
        }
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

#[test]
fn a_slot_is_busy_until_a_span_after_it_settled_and_may_be_taken_a_horizon_before() {
    let mut stage = Stage::new();
    stage.hello("a.1");
    assert_eq!(stage.take("a.1", 9), (4, 20));
    stage.pass(30);
    stage.sent("a.1", 4);
    assert_eq!(stage.take("a.1", 9), (0, 100));
    stage.pass(94);
    assert_eq!(stage.take("a.1", 9).0, 0);
    stage.pass(1);
    // It opens 5 ms and a microsecond from here: the clock may have been just before its next microsecond.
    assert_eq!(stage.take("a.1", 9).0, 0);
    stage.now += 1;
    let answer = stage.tell("a.1", Says { takes: 9, waiting: 9, ..SAYS });
    assert_eq!(answer.grants[0].groups, [(Duration::from_millis(5), 4)]);
}

#[test]
fn what_settled_earlier_than_it_is_told_counts_from_then() {
    let mut stage = Stage::new();
    stage.hello("a.1");
    stage.take("a.1", 4);
    stage.pass(60);
    stage.tell("a.1", Says { settled: Some((40, 4)), ..SAYS });
    assert_eq!(stage.take("a.1", 1), (0, 60));
}

#[test]
fn what_a_dead_gateway_held_counts_from_when_it_was_seen_last() {
    let mut stage = Stage::new();
    let long = Says { span: 10_000, ..SAYS };
    stage.hello("a.1");
    assert_eq!(stage.take_of("a.1", 4, long).0, 4);
    for _ in 0..20 {
        // Another one is there, so that the store goes on.
        stage.pass(100);
        stage.say("b.1", Command::Hello, None).unwrap();
    }
    let (taken, later) = stage.take_of("b.1", 1, long);
    // It counts as there for its presence after it was heard of: a second of the two that have passed.
    assert_eq!((taken, later), (0, 10_000 - 2000 + millis(PRESENCE)));
    // What counts when it is answered may come a while later still.
    let mut stage = Stage::new();
    let late = Says { linger: 1000, ..long };
    stage.hello("a.1");
    stage.take_of("a.1", 4, late);
    stage.pass(2000);
    stage.hello("b.1");
    assert_eq!(stage.take_of("b.1", 1, late), (0, 10_000 - 2000 + millis(PRESENCE) + 1000));
}

#[test]
fn a_gateway_that_comes_again_under_another_name_holds_what_it_says_and_nothing_else() {
    let mut stage = Stage::new();
    let long = Says { span: 10_000, ..SAYS };
    stage.hello("a.1");
    assert_eq!(stage.take_of("a.1", 4, long).0, 4);
    stage.pass(50);
    stage.hello("a.2");
    // Of four that it was granted it has sent one, and one is still under way; two were never used.
    stage.tell("a.2", Says { held: Some(1), settled: Some((0, 1)), ..long });
    assert_eq!(stage.take_of("a.2", 9, long).0, 2);
    stage.hello("b.1");
    assert_eq!(stage.take_of("b.1", 9, long).0, 0);
}

#[test]
fn whoever_was_not_heard_of_for_too_long_or_speaks_of_another_store_is_granted_nothing() {
    let mut stage = Stage::new();
    stage.hello("a.1");
    stage.pass(millis(PRESENCE) + 1);
    assert!(matches!(stage.say("a.1", Command::Sync, Some(SAYS)), Err(Error::Lapsed)));
    stage.hello("a.2");
    stage.id = "two";
    assert!(matches!(stage.say("a.2", Command::Sync, Some(SAYS)), Err(Error::Other)));
    stage.hello("a.3");
    stage.id = "one";
    assert!(matches!(stage.say("a.2", Command::Sync, Some(SAYS)), Err(Error::Other)));
}

#[test]
fn a_store_that_may_have_forgotten_something_is_closed_until_that_no_longer_counts() {
    let closed = millis(MAX_HORIZON + LEASE) + 100;
    let mut stage = Stage::new();
    stage.trusts_empty = false;
    stage.hello("a.1");
    assert_eq!(stage.take("a.1", 9), (0, closed));
    stage.pass(closed - 6);
    stage.say("a.1", Command::Sync, None).unwrap();
    assert_eq!(stage.take("a.1", 9), (0, 6));
    stage.pass(1);
    assert_eq!(stage.take("a.1", 9).0, 4);
    // Another one has taken its place.
    stage.id = "two";
    stage.hello("a.2");
    assert_eq!(stage.take("a.2", 9), (0, closed));
    stage.pass(closed);
    assert_eq!(stage.take("a.2", 9).0, 4);
    // Somebody saw its clock jump.
    let epoch_start = stage.tell("a.2", SAYS).epoch_start;
    stage.suspect_epoch = Some(epoch_start);
    stage.hello("a.3");
    stage.suspect_epoch = None;
    assert_eq!(stage.take("a.3", 9), (0, closed));
    // What was doubted is known by now: the doubt of another one changes nothing.
    stage.pass(closed);
    stage.suspect_epoch = Some(epoch_start);
    stage.hello("b.1");
    assert_eq!(stage.take("b.1", 9).0, 4);
}

#[test]
fn a_clock_that_was_set_back_opens_nothing() {
    let mut stage = Stage::new();
    stage.hello("a.1");
    stage.take("a.1", 4);
    stage.sent("a.1", 4);
    stage.now -= 5000 * MS;
    assert_eq!(stage.take("a.1", 1), (0, 100));
}

#[test]
fn a_longer_span_counts_what_a_shorter_one_has_forgotten() {
    let mut stage = Stage::new();
    stage.hello("a.1");
    stage.take("a.1", 4);
    stage.sent("a.1", 4);
    stage.pass(100);
    stage.tell("a.1", SAYS);
    let long = Says { span: 500, ..SAYS };
    assert_eq!(stage.take_of("a.1", 1, long), (0, 400));
}

#[test]
fn the_strictest_holds_of_what_gateways_say_that_are_there() {
    let mut stage = Stage::new();
    stage.hello("a.1");
    stage.hello("b.1");
    stage.tell("a.1", Says { requests: 2, ..SAYS });
    let answer = stage.tell("b.1", Says { requests: 8, takes: 8, waiting: 8, ..SAYS });
    assert_eq!((answer.grants[0].groups[0].1, answer.mismatches[0].causes), (2, 1));
    stage.pass(millis(PRESENCE) / 2 + 1);
    stage.say("b.1", Command::Sync, None).unwrap();
    stage.pass(millis(PRESENCE) / 2 + 1);
    assert_eq!(stage.take_of("b.1", 8, Says { requests: 8, ..SAYS }).0, 6, "the other one is gone");
}

#[test]
fn a_calendar_window_opens_with_the_stores_own_clock() {
    let mut stage = Stage::new();
    let minute = |number: i128| (i128::from(BEGIN / 1000 / 60_000) + number) * 60_000_000_000;
    let daily = Says { kind: SharedKind::Calendar([minute(0), minute(1), minute(2)]), span: 60_000, ..SAYS };
    let left = 60_000 - BEGIN / 1000 % 60_000;
    stage.hello("a.1");
    assert_eq!(stage.take_of("a.1", 9, daily), (4, 20));
    stage.tell("a.1", Says { settled: Some((0, 4)), ..daily });
    assert_eq!(stage.take_of("a.1", 9, daily), (0, left));
    stage.pass(left - 1);
    stage.hello("a.2");
    let answer = stage.tell("a.2", Says { takes: 9, waiting: 9, ..daily });
    assert_eq!(answer.grants[0].groups, [(Duration::from_millis(1), 4)]);
}
