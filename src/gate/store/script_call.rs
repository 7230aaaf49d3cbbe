//! Codec of script calls: writes the script's arguments and reads its reply. `script/session.lua`
//! reads them in this order.
//!
//! Order of the arguments:
//!
//! 1. Test clock, identity of the store, process, session, command.
//! 2. Suspect epoch, trust in an empty store, presence, longest horizon, lease, own horizon.
//! 3. Settings of the fallback: name, gateways, `share_for`.
//! 4. Number of windows, then for each: parameters, limit name, `key` setting, report.
//! 5. Number of slot requests, then for each: requests, prefetch, and the place and cost of each
//!    window.
//!
//! The reply is one array of integers. Durations and times are in µs. Rounding is always to the
//! strict side.

use std::time::Duration;

use redis::{Cmd, Value};

use super::{DRIFT, Error, PRESENCE};
use crate::locker::{
    LEASE, Limit, LimitId, MAX_HORIZON, SharedKind, SlotGrant, SyncRequest, WindowParams, WindowReport,
};
use crate::time::Time;

/// Wire value for no limit on the requests in flight; the script's `UNCAPPED`.
const UNCAPPED: u64 = 1_000_000_000_000;
/// Wire value for the span of a limit without a rate, in µs. Only flights of such a limit are
/// counted, but the span is part of the times for which the store keeps its keys and closes its
/// windows.
const FLIGHTS_SPAN: u64 = 1_000_000;
/// Number of slots up to which settle times are exact. Windows with more keep them in steps of the
/// span's 1024th part, which bounds their log, as in the locker.
const EXACT_UP_TO: u32 = 1024;

/// Identity and settings of this gateway, as sent with each call, and the identity of the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ClientId {
    /// Identity of the store at the time of the connect.
    pub(super) id: String,
    /// Random ID of this process.
    pub(super) process: String,
    /// Name of this gateway in the store since its last hello: `process.number`.
    pub(super) session: String,
    /// Start of the store's epoch that is not trusted because the store's clock jumped, in µs of
    /// that clock. The store starts another epoch if that one is still current.
    pub(super) suspect_epoch: Option<i64>,
    /// True if an empty store is taken for a new one.
    pub(super) trusts_empty: bool,
    /// With fallback fractions: the gateway's name, the number of gateways, and the longest use of
    /// a fraction.
    pub(super) shares: Option<(String, u32, Duration)>,
    /// Replaces the store's clock in tests, in µs of Unix time.
    pub(super) clock: Option<u64>,
}

/// Kind of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Command {
    /// Introduces the gateway under a new session name. Without reports or slot requests.
    Hello,
    /// Reports, and asks for slots.
    Sync,
    /// Reports for the last time, and leaves the group.
    Bye,
}

/// The script's reply to a call that it has executed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ScriptReply {
    /// The store's clock, in µs of Unix time.
    pub(super) now: i64,
    /// Start of the store's epoch, from which on its counts are complete, in µs of its clock; 0: an
    /// empty store was trusted.
    pub(super) epoch_start: i64,
    /// True if another gateway has other `[store]` settings of the fallback.
    pub(super) settings_mismatch: bool,
    /// Windows of limits with a configuration that differs between gateways.
    pub(super) mismatches: Vec<Mismatch>,
    /// One grant for each slot request, in their order. A grant may be empty, with the time of the
    /// next opening.
    pub(super) grants: Vec<SlotGrant>,
}

impl ScriptReply {
    /// The longest span that any gateway has for each limit with a mismatch; `sync` is the request.
    ///
    /// A mismatch that names a window beyond the request is skipped. The result goes to
    /// [`Gate::set_reported_spans`](crate::gate::Gate::set_reported_spans).
    pub(super) fn spans(&self, sync: &SyncRequest) -> Vec<(LimitId, Duration)> {
        let mismatches = self.mismatches.iter();
        mismatches.filter_map(|one| Some((sync.windows.get(one.place)?.limit, one.span))).collect()
    }
}

/// A window of a limit with a configuration that differs between gateways.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mismatch {
    /// Index of the window in the call.
    pub(super) place: usize,
    /// Settings that differ: a set of bits, as in `script/window.lua`.
    pub(super) causes: u32,
    /// The longest span that any gateway has.
    pub(super) span: Duration,
}

/// Names of the group's keys: identity and version, present sessions, the limits' `key` settings,
/// and the identity under its name in version 1.
const GROUP_KEYS: [&str; 4] = ["meta", "present", "keys", "house"];

/// Keys of a call (`KEYS`): those of the group, then two of each window (hash and log).
///
/// All have the hash tag `{group}`, so that a Cluster keeps them on one node. For group `a` and
/// limit `api`:
///
/// ```text
/// {a}:meta {a}:present {a}:keys {a}:house
/// {a}:window:api:000000000000000000000000000000ff {a}:log:api:000000000000000000000000000000ff
/// ```
pub(super) fn keys(group: &str, sync: &SyncRequest, limits: &[Limit]) -> Vec<String> {
    let mut keys: Vec<_> = GROUP_KEYS.iter().map(|part| format!("{{{group}}}:{part}")).collect();
    for report in &sync.windows {
        let name = limits.get(report.limit.0 as usize).map_or("", |limit| &*limit.name);
        for part in ["window", "log"] {
            keys.push(format!("{{{group}}}:{part}:{name}:{:032x}", report.key.0));
        }
    }
    keys
}

/// Appends the arguments of a call (`ARGV`). `began`: a time before it is sent, from which ages are
/// measured.
///
/// Places of windows count from 1, as in Lua.
pub(super) fn write(
    cmd: &mut Cmd,
    client_id: &ClientId,
    command: Command,
    sync: &SyncRequest,
    limits: &[Limit],
    began: Time,
) {
    cmd.arg(client_id.clock.map_or_else(String::new, |clock| clock.to_string()));
    cmd.arg(&client_id.id).arg(&client_id.process).arg(&client_id.session);
    cmd.arg(match command {
        Command::Hello => "hello",
        Command::Sync => "sync",
        Command::Bye => "bye",
    });
    cmd.arg(client_id.suspect_epoch.unwrap_or(-1)).arg(u8::from(client_id.trusts_empty));
    cmd.arg(micros(PRESENCE)).arg(micros(MAX_HORIZON)).arg(micros(LEASE)).arg(micros(sync.horizon));
    let (name, gateways, share_for) = match &client_id.shares {
        // The gateway measures `share_for` by its own clock: the store adds the drift.
        Some((name, gateways, share_for)) => (name.as_str(), *gateways, micros(*share_for + *share_for / DRIFT)),
        None => ("", 0, 0),
    };
    cmd.arg(name).arg(gateways).arg(share_for);
    cmd.arg(sync.windows.len());
    for report in &sync.windows {
        write_params(cmd, report);
        let limit = limits.get(report.limit.0 as usize);
        cmd.arg(limit.map_or("", |limit| &*limit.name)).arg(limit.map_or("", |limit| &*limit.keyed_by));
        write_report(cmd, report, began);
    }
    cmd.arg(sync.slot_requests.len());
    for request in &sync.slot_requests {
        cmd.arg(request.requests).arg(request.prefetch).arg(request.windows.len());
        for (place, cost) in &request.windows {
            cmd.arg(place + 1).arg(*cost);
        }
    }
}

/// Appends the parameters of a window; durations in µs, rounded up.
///
/// Parameters that a kind does not use are 0.
fn write_params(cmd: &mut Cmd, report: &WindowReport) {
    let params: &WindowParams = &report.params;
    let (kind, bounds) = match params.kind {
        SharedKind::Flights => ("none", [0; 3]),
        SharedKind::Sliding => ("sliding", [0; 3]),
        SharedKind::Fixed => ("fixed", [0; 3]),
        SharedKind::Smooth => ("smooth", [0; 3]),
        SharedKind::Calendar(bounds) => ("calendar", bounds.map(|at| i64::try_from(at / 1000).unwrap_or(i64::MAX))),
    };
    let span = if params.kind == SharedKind::Flights { FLIGHTS_SPAN } else { params.span.div_ceil(1000) };
    let quantum = if params.requests > EXACT_UP_TO { span.div_ceil(u64::from(EXACT_UP_TO)) } else { 1 };
    cmd.arg(u8::from(report.is_new)).arg(kind).arg(params.requests).arg(span).arg(quantum);
    let (interval, burst) = if params.kind == SharedKind::Smooth { (params.interval, params.burst) } else { (0, 0) };
    cmd.arg(interval.div_ceil(1000)).arg(burst);
    cmd.arg(params.in_flight.map_or(UNCAPPED, u64::from)).arg(micros(params.linger));
    for bound in bounds {
        cmd.arg(bound);
    }
    // The script stores all parameters in one text, separated by colons.
    cmd.arg(params.calendar.as_deref().unwrap_or_default().replace(':', " "));
}

/// Appends the counts of a window and its settles, each with its age in µs.
fn write_report(cmd: &mut Cmd, report: &WindowReport, began: Time) {
    cmd.arg(report.held).arg(report.flying).arg(report.waiting);
    // Rounded to the strict side: pauses up, ages down.
    cmd.arg(u64::try_from(report.paused.since(began).as_nanos().div_ceil(1000)).unwrap_or(u64::MAX));
    cmd.arg(report.returned).arg(report.landed).arg(report.settled.len());
    for (at, count) in &report.settled {
        cmd.arg(micros(began.since(*at))).arg(*count);
    }
}

/// Whole microseconds, rounded down; saturates at `u64::MAX`.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Reads the script's reply to `sync`: an array of integers.
///
/// | first integer | meaning |
/// |---|---|
/// | 0 | executed; the rest follows |
/// | 1 | [`Error::Lapsed`] |
/// | 2 | [`Error::Other`] |
/// | 3 | [`Error::TooMany`] |
/// | 4 | [`Error::OtherVersion`] |
///
/// After a 0 come the store's clock, the epoch, the mismatches, and for each slot request of `sync`
/// its grant.
///
/// # Errors
/// The reason for which the script did nothing; [`Error::Refused`] if the reply has another form.
pub(super) fn read(value: &Value, sync: &SyncRequest) -> Result<ScriptReply, Error> {
    let malformed = || Error::Refused("unexpected reply to the script".to_owned());
    let numbers: Vec<i64> = redis::from_redis_value_ref(value).map_err(|_| malformed())?;
    let mut numbers = numbers.into_iter();
    let mut next = || numbers.next().ok_or_else(malformed);
    match next()? {
        0 => {}
        1 => return Err(Error::Lapsed),
        2 => return Err(Error::Other),
        3 => return Err(Error::TooMany),
        4 => return Err(Error::OtherVersion),
        _ => return Err(malformed()),
    }
    let duration = |micros: i64| Duration::from_micros(u64::try_from(micros).unwrap_or(0));
    let (now, epoch_start, settings_mismatch) = (next()?, next()?, next()? == 1);
    let mut mismatches = Vec::new();
    for _ in 0..next()? {
        let place = next()?.checked_sub(1).and_then(|place| usize::try_from(place).ok()).ok_or_else(malformed)?;
        let causes = u32::try_from(next()?).map_err(|_| malformed())?;
        mismatches.push(Mismatch { place, causes, span: duration(next()?) });
    }
    let mut grants = Vec::with_capacity(sync.slot_requests.len());
    let count = |number: i64| u32::try_from(number).map_err(|_| malformed());
    for request in &sync.slot_requests {
        let groups = (0..next()?).map(|_| Ok((duration(next()?), count(next()?)?))).collect::<Result<_, Error>>()?;
        let (prefetch, next_in) = (count(next()?)?, next()?);
        let blocked_for = request.windows.iter().map(|_| Ok(duration(next()?))).collect::<Result<_, Error>>()?;
        grants.push(SlotGrant {
            groups,
            prefetch,
            // Negative: the time of the next opening is unknown, and this is when to ask again.
            next_in: (next_in != 0).then(|| Duration::from_micros(next_in.unsigned_abs())),
            opens_then: next_in > 0,
            blocked_for,
        });
    }
    Ok(ScriptReply { now, epoch_start, settings_mismatch, mismatches, grants })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locker::{Key, SlotRequest};

    fn reply(numbers: &[i64]) -> Result<ScriptReply, Error> {
        let one = SlotRequest { group: None, requests: 1, prefetch: 0, windows: smallvec::smallvec![] };
        let sync = SyncRequest { slot_requests: vec![one], ..SyncRequest::default() };
        read(&Value::Array(numbers.iter().copied().map(Value::Int).collect()), &sync)
    }

    #[test]
    fn a_number_that_the_script_never_writes_is_refused_or_cut() {
        let place = |place| reply(&[0, 1, 1, 0, 1, place, 0, 0, 0, 0, 0]);
        assert!(matches!(place(0), Err(Error::Refused(_))), "places count from 1");
        assert!(matches!(place(i64::MIN), Err(Error::Refused(_))));
        assert_eq!(place(1).unwrap().mismatches[0].place, 0);
        let opening = |next_in| reply(&[0, 1, 1, 0, 0, 0, 0, next_in]).unwrap().grants.remove(0);
        assert_eq!(opening(-7).next_in, Some(Duration::from_micros(7)));
        let least = opening(i64::MIN);
        assert_eq!((least.next_in, least.opens_then), (Some(Duration::from_micros(1 << 63)), false));
    }

    #[test]
    fn an_opening_is_known_or_when_to_ask_again_or_neither() {
        let opening = |next_in| {
            let grant = reply(&[0, 1, 1, 0, 0, 0, 0, next_in]).unwrap().grants.remove(0);
            (grant.next_in, grant.opens_then)
        };
        assert_eq!(opening(7), (Some(Duration::from_micros(7)), true));
        assert_eq!(opening(-7), (Some(Duration::from_micros(7)), false));
        assert_eq!(opening(0), (None, false));
    }

    /// The step of settle times that the script is given for a limit of so many slots a second, in µs.
    fn step(requests: u32) -> String {
        let params = WindowParams {
            kind: SharedKind::Sliding,
            calendar: None,
            requests,
            span: 1_000_000_000,
            interval: 0,
            burst: 1,
            in_flight: None,
            linger: Duration::ZERO,
        };
        let report = WindowReport {
            window: 0,
            generation: 0,
            limit: LimitId(0),
            key: Key::WHOLE,
            params,
            is_new: true,
            held: 0,
            flying: 0,
            waiting: 0,
            paused: Time::START,
            settled: Vec::new(),
            returned: 0,
            landed: 0,
        };
        let mut cmd = Cmd::new();
        write_params(&mut cmd, &report);
        match cmd.args_iter().nth(4) {
            Some(redis::Arg::Simple(step)) => String::from_utf8_lossy(step).into_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn settle_times_of_large_limits_are_rounded_as_in_the_gateway() {
        assert_eq!([1, 1024, 1025].map(step), ["1", "1", "977"], "a 1024th of a second, rounded up");
    }
}
