//! Differential test: random calls go to the script on a real server and to the model, which must reply the same.

use std::time::Duration;

use redis::{Connection, cmd};

use super::model::Model;
use super::server::Server;
use super::{Dice, arguments};
use crate::gate::store::script_call::{ClientId, Command};
use crate::gate::store::store_conn::SCRIPT;
use crate::locker::{
    Counts, Key, Kind, Limit, LimitId, Priority, Rate, ShareBy, SharedKind, SlotRequest, SyncRequest, WhenFull,
    WindowParams, WindowReport,
};
use crate::time::Time;

/// The store's clock at the start of a schedule, in µs of Unix time: a day of 2026.
const BEGIN: u64 = 1_795_000_000_000_000;
const SECOND: u64 = 1_000_000;

pub(super) fn limits() -> Vec<Limit> {
    let limit = |name: &str| Limit {
        name: name.into(),
        keyed_by: "".into(),
        rate: Some(Rate {
            requests: 1,
            per: Duration::from_secs(1),
            guard: Duration::ZERO,
            kind: Kind::Sliding,
            counts: Counts::Sent,
        }),
        in_flight: None,
        when_full: WhenFull::Wait,
        max_wait: Duration::from_secs(1),
        max_waiting: 1,
        share_by: ShareBy::Nobody,
        priority: Priority::WithinCaller,
        max_keys: 1,
        dry_run: false,
        shared: true,
    };
    (0..4).map(|number| limit(&format!("limit {number}"))).collect()
}

/// Parameters of a window: mostly the limit's own kind, sometimes another one.
fn params(dice: &mut Dice, limit: usize, clock: u64) -> WindowParams {
    let bounds = {
        let minute = i128::from(clock / 60 / SECOND * 60 * SECOND) * 1000;
        // Sometimes the gateway's clock is off, or its periods begin at other times.
        let minute = minute + dice.pick(5, &[0, 0, 0, 0, 1, -1, 2, -3]) * 60_000_000_000;
        let shift = dice.pick(4, &[0, 0, 0, 30, -17]) * 1_000_000_000;
        [minute + shift, minute + shift + 60_000_000_000, minute + shift + 120_000_000_000]
    };
    let kinds =
        [SharedKind::Sliding, SharedKind::Smooth, SharedKind::Fixed, SharedKind::Calendar(bounds), SharedKind::Flights];
    let kind = kinds[if dice.one_in(60) { dice.below(5) as usize } else { limit }];
    let requests = dice.pick(2, &[3, 5, 40, 5000]);
    let span = dice.pick(1, &[400_000_000, 20_000_000, 2_000_000_000]);
    let zones = ["minute UTC", "minute Europe/Berlin"];
    let is_calendar = matches!(kind, SharedKind::Calendar(_));
    WindowParams {
        kind,
        calendar: is_calendar.then(|| dice.pick(1, &zones).into()),
        requests: if kind == SharedKind::Flights { u32::MAX } else { requests },
        span,
        interval: span / u64::from(requests),
        burst: 1 + dice.below(2) as u32,
        in_flight: dice.one_in(3).then(|| 1 + dice.below(4) as u32),
        linger: Duration::from_millis(if dice.one_in(4) { 1000 } else { 0 }),
    }
}

fn report(dice: &mut Dice, limit: usize, began: Time, clock: u64) -> WindowReport {
    let params = params(dice, limit, clock);
    let mut settled: Vec<(Time, u32)> = Vec::new();
    for _ in 0..dice.below(4) {
        let age = Duration::from_micros(dice.below(30) * 10_000);
        settled.push((began - age, 1 + dice.below(2) as u32));
    }
    settled.sort_unstable();
    WindowReport {
        window: 0,
        generation: 0,
        limit: LimitId(limit as u32),
        key: Key(u128::from(dice.below(2))),
        params,
        is_new: dice.one_in(12),
        held: dice.below(4) as u32,
        flying: dice.below(3) as u32,
        waiting: dice.below(12),
        paused: if dice.one_in(30) { began + Duration::from_millis(dice.below(500)) } else { Time::START },
        settled,
        returned: if dice.one_in(5) { dice.below(3) as u32 } else { 0 },
        landed: dice.below(2) as u32,
    }
}

fn sync(dice: &mut Dice, began: Time, clock: u64) -> SyncRequest {
    let horizon = Duration::from_millis(5 + dice.below(3) * 20);
    let mut sync = SyncRequest { horizon, ..SyncRequest::default() };
    for limit in 0..4 {
        if dice.one_in(2) {
            sync.windows.push(report(dice, limit, began, clock));
        }
    }
    let count = sync.windows.len() as u64;
    for _ in 0..if count > 0 { dice.below(3) } else { 0 } {
        let mut request =
            SlotRequest { group: None, requests: dice.below(8) as u32, prefetch: 0, windows: Default::default() };
        let from = dice.below(count) as usize;
        for place in from..if dice.one_in(3) { count as usize } else { from + 1 } {
            let is_flights = sync.windows[place].params.kind == SharedKind::Flights;
            request.windows.push((place, if is_flights { 0 } else { 1 + (dice.below(8) / 6) as u32 }));
        }
        if request.windows.len() == 1 && dice.one_in(3) {
            request.prefetch = dice.below(30) as u32;
        }
        sync.slot_requests.push(request);
    }
    sync
}

fn call(connection: &mut Connection, sha: &str, keys: &[String], args: &[String]) -> Vec<i64> {
    cmd("EVALSHA").arg(sha).arg(keys.len()).arg(keys).arg(args).query(connection).unwrap()
}

/// Runs one schedule of random calls by three gateways.
fn run(connection: &mut Connection, sha: &str, seed: u64) {
    let mut dice = Dice(seed);
    let limits = limits();
    let (mut model, mut clock) = (Model::default(), BEGIN + dice.below(60 * SECOND));
    let group = format!("group-{seed}");
    // Fallback settings of each gateway; mostly the same ones.
    let settings = |dice: &mut Dice| {
        let (parts, lasts) = (dice.pick(1, &[3, 2, 4]), dice.pick(1, &[2, 1, 5]));
        (!seed.is_multiple_of(2) && !dice.one_in(8)).then_some((parts, Duration::from_secs(lasts)))
    };
    // The limits of each gateway, which may get another `key`.
    let mut limits = [(); 3].map(|()| limits.clone());
    let mut shares = [(); 3].map(|()| settings(&mut dice));
    let mut store = 0;
    let mut sessions = [0_u64; 3];
    for step in 0..120 {
        clock += dice.pick(3, &[1_000, 5_000, 20_000, 400_000, 3_000_000]) + dice.below(2);
        if dice.one_in(40) {
            clock -= dice.below(50_000);
        }
        store += u64::from(dice.one_in(50));
        let gateway = dice.below(3) as usize;
        let command = match dice.below(30) {
            0 | 1 => Command::Hello,
            2 => Command::Bye,
            _ if sessions[gateway] == 0 => Command::Hello,
            _ => Command::Sync,
        };
        sessions[gateway] += u64::from(command == Command::Hello);
        if command == Command::Hello && dice.one_in(8) {
            shares[gateway] = settings(&mut dice);
        }
        if dice.one_in(40) {
            limits[gateway][dice.below(4) as usize].keyed_by =
                ["", "host", "caller: other"][dice.below(3) as usize].into();
        }
        let process = format!("process{gateway}");
        let client_id = ClientId {
            id: format!("store {store}"),
            session: format!("{process}.{}", sessions[gateway]),
            process,
            suspect_epoch: dice.one_in(40).then_some(model.epoch_start()),
            trusts_empty: seed.is_multiple_of(3),
            shares: shares[gateway].map(|(parts, lasts)| (format!("gateway {gateway}"), parts, lasts)),
            clock: Some(clock),
        };
        let began = Time::from_nanos(clock * 1000);
        let sync = if command == Command::Hello { SyncRequest::default() } else { sync(&mut dice, began, clock) };
        let (keys, args) = arguments(&group, &client_id, command, &sync, began, &limits[gateway]);
        let expected = model.call(&keys, &args);
        let answered = call(connection, sha, &keys, &args);
        assert_eq!(answered, expected, "seed {seed}, step {step}: {command:?} {client_id:?} {sync:?}");
    }
}

#[test]
fn the_script_does_what_the_model_does() {
    let server = Server::start();
    let mut connection = server.connect();
    let sha: String = cmd("SCRIPT").arg("LOAD").arg(SCRIPT).query(&mut connection).unwrap();
    for seed in 0..150 {
        run(&mut connection, &sha, seed);
    }
}
