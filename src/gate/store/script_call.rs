//! What is said to the script and what it answers, in its order; `script/session.lua` reads it so.

use std::time::Duration;

use redis::{Cmd, Value};

use super::{DRIFT, Error, PRESENCE};
use crate::locker::{
    LEASE, Limit, LimitId, MAX_HORIZON, SharedKind, SlotGrant, SyncRequest, WindowParams, WindowReport,
};
use crate::time::Time;

/// Stands for no cap on the requests under way.
const UNCAPPED: u64 = 1_000_000_000_000;
/// The span of what has none: only flights are counted.
const SPAN_OF_FLIGHTS: u64 = 1_000_000;
/// Above so many slots settle times are kept in steps of the span's 1024th part, as windows do.
const EXACT_UP_TO: u32 = 1024;

/// Who speaks, and to which store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ClientId {
    /// Which store this is, as far as is known.
    pub(super) id: String,
    /// This process, and its name since it was last introduced.
    pub(super) process: String,
    pub(super) epoch: String,
    /// The birth of the store's knowledge that is doubted.
    pub(super) suspect_epoch: Option<i64>,
    pub(super) trusts_empty: bool,
    /// The gateway's name and number of its like, and for how long it goes on when it is cut off.
    pub(super) shares: Option<(String, u32, Duration)>,
    /// Stands for the store's clock, in tests.
    pub(super) clock: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Command {
    /// The gateway is new here, or has another name.
    Hello,
    Tell,
    /// It will not be heard of again.
    Bye,
}

/// What the script answers to what it has understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ScriptReply {
    /// The store's clock, in microseconds.
    pub(super) now: i64,
    /// Since when it counts.
    pub(super) born: i64,
    /// Whether another gateway's `[store]` says something else of gateways that are cut off.
    pub(super) settings_mismatch: bool,
    /// The windows of whose limits gateways say different things.
    pub(super) mismatches: Vec<Mismatch>,
    pub(super) taken: Vec<SlotGrant>,
}

impl ScriptReply {
    /// For how long what settled counts for any gateway, of limits of which they say different things.
    pub(super) fn spans(&self, sync: &SyncRequest) -> Vec<(LimitId, Duration)> {
        let spans = self.mismatches.iter();
        spans.filter_map(|one| Some((sync.windows.get(one.place)?.limit, one.span))).collect()
    }
}

/// A window of whose limit gateways say different things.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mismatch {
    /// Its place in the exchange.
    pub(super) place: usize,
    /// In what they differ: bits, in the script's order.
    pub(super) causes: u32,
    /// The longest span that any of them says.
    pub(super) span: Duration,
}

/// Keys of a group: its identity and version, its gateways, what tells windows apart, and the identity as version 1 named it.
const GROUP_KEYS: [&str; 4] = ["meta", "present", "keys", "house"];

/// The names of the keys.
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

/// Appends all that the script is told. `began`: a moment before it is told.
pub(super) fn write(
    cmd: &mut Cmd,
    client_id: &ClientId,
    command: Command,
    sync: &SyncRequest,
    limits: &[Limit],
    began: Time,
) {
    cmd.arg(client_id.clock.map_or_else(String::new, |clock| clock.to_string()));
    cmd.arg(&client_id.id).arg(&client_id.process).arg(&client_id.epoch);
    cmd.arg(match command {
        Command::Hello => "hello",
        Command::Tell => "tell",
        Command::Bye => "bye",
    });
    cmd.arg(client_id.suspect_epoch.unwrap_or(-1)).arg(u8::from(client_id.trusts_empty));
    cmd.arg(micros(PRESENCE)).arg(micros(MAX_HORIZON)).arg(micros(LEASE)).arg(micros(sync.horizon));
    let (name, gateways, share_for) = match &client_id.shares {
        // The part is the gateway's for so long by its own clock.
        Some((name, gateways, share_for)) => (name.as_str(), *gateways, micros(*share_for + *share_for / DRIFT)),
        None => ("", 0, 0),
    };
    cmd.arg(name).arg(gateways).arg(share_for);
    cmd.arg(sync.windows.len());
    for report in &sync.windows {
        write_params(cmd, report.is_new, &report.params);
        let limit = limits.get(report.limit.0 as usize);
        cmd.arg(limit.map_or("", |limit| &*limit.name)).arg(limit.map_or("", |limit| &*limit.keyed_by));
        write_report(cmd, report, began);
    }
    cmd.arg(sync.slot_requests.len());
    for take in &sync.slot_requests {
        cmd.arg(take.requests).arg(take.prefetch).arg(take.windows.len());
        for (place, cost) in &take.windows {
            cmd.arg(place + 1).arg(*cost);
        }
    }
}

fn write_params(cmd: &mut Cmd, is_new: bool, params: &WindowParams) {
    let (kind, bounds) = match params.kind {
        SharedKind::Flights => ("none", [0; 3]),
        SharedKind::Sliding => ("sliding", [0; 3]),
        SharedKind::Fixed => ("fixed", [0; 3]),
        SharedKind::Smooth => ("smooth", [0; 3]),
        SharedKind::Calendar(bounds) => ("calendar", bounds.map(|at| i64::try_from(at / 1000).unwrap_or(i64::MAX))),
    };
    let span = if params.kind == SharedKind::Flights { SPAN_OF_FLIGHTS } else { params.span.div_ceil(1000) };
    let quantum = if params.requests > EXACT_UP_TO { span.div_ceil(u64::from(EXACT_UP_TO)) } else { 1 };
    cmd.arg(u8::from(is_new)).arg(kind).arg(params.requests).arg(span).arg(quantum);
    let (interval, burst) = if params.kind == SharedKind::Smooth { (params.interval, params.burst) } else { (0, 0) };
    cmd.arg(interval.div_ceil(1000)).arg(burst);
    cmd.arg(params.in_flight.map_or(UNCAPPED, u64::from)).arg(micros(params.linger));
    for bound in bounds {
        cmd.arg(bound);
    }
    // The script writes the terms in one text, parted by colons.
    cmd.arg(params.calendar.as_deref().unwrap_or_default().replace(':', " "));
}

fn write_report(cmd: &mut Cmd, report: &WindowReport, began: Time) {
    cmd.arg(report.held).arg(report.flying).arg(report.waiting);
    // Rounded so that it holds back longer: pauses up, ages down.
    cmd.arg(u64::try_from(report.paused.since(began).as_nanos().div_ceil(1000)).unwrap_or(u64::MAX));
    cmd.arg(report.returned).arg(report.landed).arg(report.settled.len());
    for (at, count) in &report.settled {
        cmd.arg(micros(began.since(*at))).arg(*count);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Understands the script's answer.
///
/// # Errors
/// What it has not done, and why; or that it is none of its answers.
pub(super) fn read(value: &Value, sync: &SyncRequest) -> Result<ScriptReply, Error> {
    let foreign = || Error::Refused("what none of our script's answers is".to_owned());
    let numbers: Vec<i64> = redis::from_redis_value_ref(value).map_err(|_| foreign())?;
    let mut numbers = numbers.into_iter();
    let mut next = || numbers.next().ok_or_else(foreign);
    match next()? {
        0 => {}
        1 => return Err(Error::Lapsed),
        2 => return Err(Error::Other),
        3 => return Err(Error::TooMany),
        4 => return Err(Error::OtherVersion),
        _ => return Err(foreign()),
    }
    let wait = |micros: i64| Duration::from_micros(u64::try_from(micros).unwrap_or(0));
    let (now, born, settings_mismatch) = (next()?, next()?, next()? == 1);
    let mut mismatches = Vec::new();
    for _ in 0..next()? {
        let place = usize::try_from(next()? - 1).map_err(|_| foreign())?;
        let causes = u32::try_from(next()?).map_err(|_| foreign())?;
        mismatches.push(Mismatch { place, causes, span: wait(next()?) });
    }
    let mut taken = Vec::with_capacity(sync.slot_requests.len());
    let count = |number: i64| u32::try_from(number).map_err(|_| foreign());
    for take in &sync.slot_requests {
        let groups = (0..next()?).map(|_| Ok((wait(next()?), count(next()?)?))).collect::<Result<_, Error>>()?;
        let (ahead, later) = (count(next()?)?, next()?);
        let shut = take.windows.iter().map(|_| Ok(wait(next()?))).collect::<Result<_, Error>>()?;
        taken.push(SlotGrant {
            groups,
            prefetch: ahead,
            next_in: (later != 0).then(|| wait(later.abs())),
            opens_then: later > 0,
            blocked_for: shut,
        });
    }
    Ok(ScriptReply { now, born, settings_mismatch, mismatches, taken })
}
