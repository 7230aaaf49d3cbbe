//! Parameters of the limits in a call trace: constant for most calls, as in a fleet with one
//! configuration.

use std::time::Duration;

use super::Dice;
use crate::locker::{Counts, Kind, Limit, Priority, Rate, ShareBy, SharedKind, WhenFull, WindowParams};

const SECOND: u64 = 1_000_000;

/// Limits of a gateway; only their names and `key` settings matter.
pub(super) fn trace_limits() -> Vec<Limit> {
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
    (0..5).map(|number| limit(&format!("limit {number}"))).collect()
}

/// Parameters of the five limits of a trace, one of each kind. With `busy`, many slots.
pub(super) fn base_params(dice: &mut Dice, seed: u64, is_busy: bool) -> Vec<WindowParams> {
    let kinds = [SharedKind::Sliding, SharedKind::Smooth, SharedKind::Fixed, SharedKind::Calendar([0; 3])];
    let mut params = Vec::new();
    for number in 0..5 {
        let kind = kinds.get((number + seed as usize) % 5).copied().unwrap_or(SharedKind::Flights);
        let requests = if is_busy { [400, 5000][dice.below(2) as usize] } else { dice.pick(3, &[3, 5, 12, 5000]) };
        let span = if is_busy { 2_000 } else { dice.pick(4, &[400, 100, 40, 2_000, 20]) } * 1_000_000;
        params.push(WindowParams {
            kind,
            calendar: matches!(kind, SharedKind::Calendar(_)).then(|| "minute UTC".into()),
            requests: if kind == SharedKind::Flights { u32::MAX } else { requests },
            span,
            interval: span / u64::from(requests),
            burst: 1 + dice.below(3) as u32,
            in_flight: (kind == SharedKind::Flights || dice.one_in(3)).then(|| 1 + dice.below(4) as u32),
            linger: Duration::from_millis(if dice.one_in(3) { 1000 } else { 0 }),
        });
    }
    params
}

/// Parameters of a gateway whose configuration differs: mostly those of the others.
pub(super) fn gateway_params(dice: &mut Dice, base: &[WindowParams]) -> Vec<WindowParams> {
    let mut params = base.to_vec();
    for one in &mut params {
        if dice.one_in(6) {
            one.linger = Duration::from_millis(dice.below(3) * 500);
        } else if dice.one_in(20) {
            change_params(dice, one);
        }
    }
    params
}

/// Parameters of a window in one call: those of its gateway, and rarely others.
pub(super) fn call_params(dice: &mut Dice, base: &WindowParams, clock: u64) -> WindowParams {
    let mut params = base.clone();
    if dice.one_in(60) {
        change_params(dice, &mut params);
    }
    if let SharedKind::Calendar(bounds) = &mut params.kind {
        let skewed = clock - 3000 + 3000 * dice.below(3);
        let minute = i128::from(skewed / 60 / SECOND * 60 * SECOND) * 1000;
        // Sometimes the gateway's clock is off, or its periods begin at other times.
        let off = [0, 1, -1, 2, -3][if dice.one_in(12) { dice.below(5) as usize } else { 0 }];
        let minute = minute + off * 60_000_000_000;
        let shift = [30, -17][dice.below(2) as usize] * i128::from(dice.one_in(20)) * 1_000_000_000;
        *bounds = [minute + shift, minute + shift + 60_000_000_000, minute + shift + 120_000_000_000];
        if dice.one_in(25) {
            params.calendar = Some("minute Europe/Berlin".into());
        }
    }
    params
}

/// Changes one of the parameters.
fn change_params(dice: &mut Dice, params: &mut WindowParams) {
    match dice.below(7) {
        0 => params.requests = params.requests.saturating_add(1).max(2) - 2 * dice.below(2) as u32,
        1 => params.span = params.span * [1, 2, 3][dice.below(3) as usize] / 2,
        2 => params.in_flight = dice.one_in(2).then_some(2),
        3 => params.linger = Duration::from_millis(dice.below(3) * 500),
        4 => params.burst = 1 + dice.below(3) as u32,
        5 => params.interval += 5_000_000,
        _ => {
            let kinds = [SharedKind::Sliding, SharedKind::Smooth, SharedKind::Fixed, SharedKind::Flights];
            params.kind = kinds[dice.below(4) as usize];
            params.calendar = None;
        }
    }
}
