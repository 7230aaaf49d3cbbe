//! Scenario tests of the script on a real server, with a clock that the test sets.

use std::time::Duration;

use redis::{Connection, Value, cmd};

use super::arguments;
use super::server::Server;
use super::trace_params::trace_limits;
use crate::gate::store::script_call::{self, ClientId, Command, ScriptReply};
use crate::gate::store::store_conn::SCRIPT;
use crate::gate::store::{Error, PRESENCE};
use crate::locker::{
    Key, LEASE, LimitId, MAX_HORIZON, SharedKind, SlotRequest, SyncRequest, WindowParams, WindowReport,
};
use crate::time::Time;

/// One millisecond in the unit of the store's clock, µs.
const MS: u64 = 1000;
pub(super) const BEGIN: u64 = 1_795_000_000_000_000;

/// A store with a manual clock, and the settings of the gateways that call it.
pub(super) struct ScriptFixture {
    _server: Server,
    pub(super) connection: Connection,
    sha: String,
    pub(super) now: u64,
    pub(super) id: &'static str,
    pub(super) shares: Option<u32>,
    pub(super) trusts_empty: bool,
    pub(super) suspect_epoch: Option<i64>,
}

/// Content of a sync call about one window; times in milliseconds.
#[derive(Clone, Copy)]
pub(super) struct SyncArgs {
    pub(super) kind: SharedKind,
    pub(super) key: u128,
    pub(super) keyed_by: &'static str,
    pub(super) calendar: Option<&'static str>,
    pub(super) requests: u32,
    pub(super) burst: u32,
    pub(super) span: u64,
    pub(super) waiting: u64,
    pub(super) wanted: u32,
    pub(super) settled: Option<(u64, u32)>,
    pub(super) returned: u32,
    pub(super) held: Option<u32>,
    pub(super) linger: u64,
    pub(super) pause: u64,
}

/// A sync call that asks for nothing, of a limit of 4 per 100 ms.
pub(super) const BASE: SyncArgs = SyncArgs {
    kind: SharedKind::Sliding,
    key: 0,
    keyed_by: "host",
    calendar: Some("minute UTC"),
    requests: 4,
    burst: 1,
    span: 100,
    waiting: 0,
    wanted: 0,
    settled: None,
    returned: 0,
    held: None,
    linger: 0,
    pause: 0,
};

impl ScriptFixture {
    pub(super) fn new() -> ScriptFixture {
        let server = Server::start();
        let mut connection = server.connect();
        let sha = cmd("SCRIPT").arg("LOAD").arg(SCRIPT).query(&mut connection).unwrap();
        let (now, id, shares, trusts_empty, suspect_epoch) = (BEGIN, "one", None, true, None);
        ScriptFixture { _server: server, connection, sha, now, id, shares, trusts_empty, suspect_epoch }
    }

    pub(super) fn advance(&mut self, millis: u64) {
        self.now += millis * MS;
    }

    pub(super) fn call(
        &mut self,
        gateway: &str,
        command: Command,
        sync_args: Option<SyncArgs>,
    ) -> Result<ScriptReply, Error> {
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
        if let Some(sync_args) = sync_args {
            sync.windows.push(sync_args.report(began));
            let request = SlotRequest {
                group: None,
                requests: sync_args.wanted,
                prefetch: 0,
                windows: [(0, 1)].into_iter().collect(),
            };
            sync.slot_requests.extend((sync_args.wanted > 0).then_some(request));
        }
        let mut limits = trace_limits();
        limits[0].keyed_by = sync_args.map_or("", |sync_args| sync_args.keyed_by).into();
        let (keys, args) = arguments("g", &client_id, command, &sync, began, &limits);
        let reply: Value =
            cmd("EVALSHA").arg(&self.sha).arg(keys.len()).arg(keys).arg(args).query(&mut self.connection).unwrap();
        script_call::read(&reply, &sync)
    }

    /// Introduces a session (`process.number`).
    pub(super) fn hello(&mut self, gateway: &str) {
        self.call(gateway, Command::Hello, None).unwrap();
    }

    pub(super) fn sync(&mut self, gateway: &str, sync_args: SyncArgs) -> ScriptReply {
        self.call(gateway, Command::Sync, Some(sync_args)).unwrap()
    }

    /// Asks for `count` slots; returns the number that may be used within the horizon, and the time until the next, in
    /// milliseconds.
    pub(super) fn request_slots(&mut self, gateway: &str, count: u32) -> (u32, u64) {
        self.request_slots_with(gateway, count, BASE)
    }

    pub(super) fn request_slots_with(&mut self, gateway: &str, count: u32, sync_args: SyncArgs) -> (u32, u64) {
        let reply = self.sync(gateway, SyncArgs { wanted: count, waiting: u64::from(count), ..sync_args });
        let taken = &reply.grants[0];
        let later = taken.next_in.map_or(0, |later| u64::try_from(later.as_millis()).unwrap());
        (taken.groups.iter().map(|(_, count)| count).sum(), later)
    }

    /// Settles `count` slots at the present time.
    pub(super) fn settle_now(&mut self, gateway: &str, count: u32) {
        self.sync(gateway, SyncArgs { settled: Some((0, count)), ..BASE });
    }
}

impl SyncArgs {
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
    let mut fixture = ScriptFixture::new();
    fixture.hello("a.1");
    assert_eq!(fixture.request_slots("a.1", 9), (4, 20));
    fixture.advance(30);
    fixture.settle_now("a.1", 4);
    assert_eq!(fixture.request_slots("a.1", 9), (0, 100));
    fixture.advance(94);
    assert_eq!(fixture.request_slots("a.1", 9).0, 0);
    fixture.advance(1);
    // It opens in 5 ms and 1 µs: at the settle, the clock may have been just before its next microsecond.
    assert_eq!(fixture.request_slots("a.1", 9).0, 0);
    fixture.now += 1;
    let reply = fixture.sync("a.1", SyncArgs { wanted: 9, waiting: 9, ..BASE });
    assert_eq!(reply.grants[0].groups, [(Duration::from_millis(5), 4)]);
}

#[test]
fn what_settled_earlier_than_it_is_told_counts_from_then() {
    let mut fixture = ScriptFixture::new();
    fixture.hello("a.1");
    fixture.request_slots("a.1", 4);
    fixture.advance(60);
    fixture.sync("a.1", SyncArgs { settled: Some((40, 4)), ..BASE });
    assert_eq!(fixture.request_slots("a.1", 1), (0, 60));
}

#[test]
fn what_a_dead_gateway_held_counts_from_when_it_was_seen_last() {
    let mut fixture = ScriptFixture::new();
    let long = SyncArgs { span: 10_000, ..BASE };
    fixture.hello("a.1");
    assert_eq!(fixture.request_slots_with("a.1", 4, long).0, 4);
    for _ in 0..20 {
        // Another gateway keeps the store in use.
        fixture.advance(100);
        fixture.call("b.1", Command::Hello, None).unwrap();
    }
    let (taken, later) = fixture.request_slots_with("b.1", 1, long);
    // It counted as present for one of the two seconds that have passed.
    assert_eq!((taken, later), (0, 10_000 - 2000 + millis(PRESENCE)));
    // Requests that count when they are answered settle up to a linger later.
    let mut fixture = ScriptFixture::new();
    let late = SyncArgs { linger: 1000, ..long };
    fixture.hello("a.1");
    fixture.request_slots_with("a.1", 4, late);
    fixture.advance(2000);
    fixture.hello("b.1");
    assert_eq!(fixture.request_slots_with("b.1", 1, late), (0, 10_000 - 2000 + millis(PRESENCE) + 1000));
}

#[test]
fn a_gateway_that_comes_again_under_another_name_holds_what_it_says_and_nothing_else() {
    let mut fixture = ScriptFixture::new();
    let long = SyncArgs { span: 10_000, ..BASE };
    fixture.hello("a.1");
    assert_eq!(fixture.request_slots_with("a.1", 4, long).0, 4);
    fixture.advance(50);
    fixture.hello("a.2");
    // Of four granted slots one was sent, one is in use, and two were never used.
    fixture.sync("a.2", SyncArgs { held: Some(1), settled: Some((0, 1)), ..long });
    assert_eq!(fixture.request_slots_with("a.2", 9, long).0, 2);
    fixture.hello("b.1");
    assert_eq!(fixture.request_slots_with("b.1", 9, long).0, 0);
}

#[test]
fn whoever_was_not_heard_of_for_too_long_or_speaks_of_another_store_is_granted_nothing() {
    let mut fixture = ScriptFixture::new();
    fixture.hello("a.1");
    fixture.advance(millis(PRESENCE) + 1);
    assert!(matches!(fixture.call("a.1", Command::Sync, Some(BASE)), Err(Error::Lapsed)));
    fixture.hello("a.2");
    fixture.id = "two";
    assert!(matches!(fixture.call("a.2", Command::Sync, Some(BASE)), Err(Error::Other)));
    fixture.hello("a.3");
    fixture.id = "one";
    assert!(matches!(fixture.call("a.2", Command::Sync, Some(BASE)), Err(Error::Other)));
}

#[test]
fn a_store_that_may_have_forgotten_something_is_closed_until_that_no_longer_counts() {
    let closed = millis(MAX_HORIZON + LEASE) + 100;
    let mut fixture = ScriptFixture::new();
    fixture.trusts_empty = false;
    fixture.hello("a.1");
    assert_eq!(fixture.request_slots("a.1", 9), (0, closed));
    fixture.advance(closed - 6);
    fixture.call("a.1", Command::Sync, None).unwrap();
    assert_eq!(fixture.request_slots("a.1", 9), (0, 6));
    fixture.advance(1);
    assert_eq!(fixture.request_slots("a.1", 9).0, 4);
    // Another store has taken its place.
    fixture.id = "two";
    fixture.hello("a.2");
    assert_eq!(fixture.request_slots("a.2", 9), (0, closed));
    fixture.advance(closed);
    assert_eq!(fixture.request_slots("a.2", 9).0, 4);
    // A gateway has noticed a jump of the store's clock.
    let epoch_start = fixture.sync("a.2", BASE).epoch_start;
    fixture.suspect_epoch = Some(epoch_start);
    fixture.hello("a.3");
    fixture.suspect_epoch = None;
    assert_eq!(fixture.request_slots("a.3", 9), (0, closed));
    // The suspect epoch is over: a second gateway that suspects it changes nothing.
    fixture.advance(closed);
    fixture.suspect_epoch = Some(epoch_start);
    fixture.hello("b.1");
    assert_eq!(fixture.request_slots("b.1", 9).0, 4);
}

#[test]
fn a_clock_that_was_set_back_opens_nothing() {
    let mut fixture = ScriptFixture::new();
    fixture.hello("a.1");
    fixture.request_slots("a.1", 4);
    fixture.settle_now("a.1", 4);
    fixture.now -= 5000 * MS;
    assert_eq!(fixture.request_slots("a.1", 1), (0, 100));
}

#[test]
fn a_longer_span_counts_what_a_shorter_one_has_forgotten() {
    let mut fixture = ScriptFixture::new();
    fixture.hello("a.1");
    fixture.request_slots("a.1", 4);
    fixture.settle_now("a.1", 4);
    fixture.advance(100);
    fixture.sync("a.1", BASE);
    let long = SyncArgs { span: 500, ..BASE };
    assert_eq!(fixture.request_slots_with("a.1", 1, long), (0, 400));
}

#[test]
fn the_strictest_holds_of_what_gateways_say_that_are_there() {
    let mut fixture = ScriptFixture::new();
    fixture.hello("a.1");
    fixture.hello("b.1");
    fixture.sync("a.1", SyncArgs { requests: 2, ..BASE });
    let reply = fixture.sync("b.1", SyncArgs { requests: 8, wanted: 8, waiting: 8, ..BASE });
    assert_eq!((reply.grants[0].groups[0].1, reply.mismatches[0].causes), (2, 1));
    fixture.advance(millis(PRESENCE) / 2 + 1);
    fixture.call("b.1", Command::Sync, None).unwrap();
    fixture.advance(millis(PRESENCE) / 2 + 1);
    assert_eq!(fixture.request_slots_with("b.1", 8, SyncArgs { requests: 8, ..BASE }).0, 6, "the other one is gone");
}

#[test]
fn a_calendar_window_opens_with_the_stores_own_clock() {
    let mut fixture = ScriptFixture::new();
    let minute = |number: i128| (i128::from(BEGIN / 1000 / 60_000) + number) * 60_000_000_000;
    let daily = SyncArgs { kind: SharedKind::Calendar([minute(0), minute(1), minute(2)]), span: 60_000, ..BASE };
    let left = 60_000 - BEGIN / 1000 % 60_000;
    fixture.hello("a.1");
    assert_eq!(fixture.request_slots_with("a.1", 9, daily), (4, 20));
    fixture.sync("a.1", SyncArgs { settled: Some((0, 4)), ..daily });
    assert_eq!(fixture.request_slots_with("a.1", 9, daily), (0, left));
    fixture.advance(left - 1);
    fixture.hello("a.2");
    let reply = fixture.sync("a.2", SyncArgs { wanted: 9, waiting: 9, ..daily });
    assert_eq!(reply.grants[0].groups, [(Duration::from_millis(1), 4)]);
}
