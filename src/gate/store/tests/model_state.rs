//! State of the model in the form of the script's keys, so that both can be compared, and the
//! instants at which the state changes without a call.

use super::model::{Model, VERSION};
use super::model_params::LimitParams;
use super::model_window::GatewayShare;

/// Content of one key: the entries of a log in their order, else `field=value` in order.
pub(super) type KeyContent = Vec<String>;

/// Times before an opening at which a slot may be granted in tests, in µs.
pub(super) const HORIZONS: [i64; 3] = [5_000, 25_000, 45_000];

impl Model {
    /// Content of the group's four keys, in the order of `KEYS`.
    pub(super) fn group_content(&self) -> [KeyContent; 4] {
        let mut meta: KeyContent = Vec::new();
        if let Some(id) = &self.id {
            let version = self.other_version.as_deref().unwrap_or(VERSION);
            meta.extend([format!("id={id}"), format!("v={version}")]);
            meta.extend([format!("born={}", self.epoch_start), format!("last={}", self.last)]);
        }
        for (name, one) in &self.named {
            meta.push(format!("g:{name}={}:{}:{}:{}", one.till, one.since, one.lasts, one.parts));
        }
        let present = self.present.iter().map(|(session, till)| format!("{session}={till}"));
        let keyings = self.keyings.iter().map(|(limit, (since, session, keyed_by))| {
            let since = *since;
            format!("{limit}={since}:{session}:{keyed_by}")
        });
        let house = self.first_version.iter().map(|version| format!("v={version}"));
        let mut content = [meta, present.collect(), keyings.collect(), house.collect()];
        content.iter_mut().for_each(|lines| lines.sort_unstable());
        content
    }

    /// Content of a window's hash and of its log.
    pub(super) fn window_content(&self, key: &str) -> [KeyContent; 2] {
        let Some(window) = self.windows.get(key) else { return [Vec::new(), Vec::new()] };
        let mut fields = vec![
            format!("b={}", self.epoch_start),
            format!("k={}", window.kind),
            format!("t={}", window.span),
            format!("n={}", window.settled),
            format!("x={}", window.floor),
            format!("a={}", window.began),
            format!("o={}", window.over),
            format!("m={}", window.mark),
            format!("p={}", window.paused),
        ];
        if window.kind == "calendar" {
            fields.push(format!("c={}:{}:{}", window.period.start, window.period.end, window.period.calendar));
        }
        fields.extend(window.free_since.map(|since| format!("s={since}")));
        for (session, share) in &window.shares {
            fields.extend(share_fields(session, share));
        }
        fields.sort_unstable();
        [fields, window.log.iter().map(|(at, count)| format!("{at}:{count}")).collect()]
    }

    /// Least time for which a window must be kept after a call at `now`, in µs.
    pub(super) fn needed_for(&self, key: &str) -> i64 {
        let Some(window) = self.windows.get(key) else { return 0 };
        let counted = if window.kind == "calendar" { window.period.end } else { self.last + window.span };
        // A window in use is reported again by then.
        let in_use = window.shares.values().any(|share| share.held + share.flying > 0);
        let reported = self.last + if in_use { 180_000_000 } else { 0 };
        counted.max(window.floor).max(window.paused).max(reported) - self.last
    }

    /// Instants at which the state of this window changes without a call, in µs; the next expiry
    /// several times.
    pub(super) fn window_instants(&self, key: &str) -> Vec<i64> {
        let Some(window) = self.windows.get(key) else { return Vec::new() };
        let next_expiry = match window.kind.as_str() {
            "fixed" => window.began + window.span,
            "calendar" => window.period.end,
            _ => window.log.first().map_or(window.floor, |(at, _)| at + window.span),
        };
        let mut instants = vec![next_expiry; 8];
        instants.extend([window.floor, window.paused, window.mark, window.over, window.period.start]);
        let openings: Vec<i64> =
            window.log.iter().take(20).map(|(at, _)| at + window.span).chain(instants.clone()).collect();
        for opening in openings {
            let quarter = window.span / 4;
            instants.extend(HORIZONS.iter().map(|horizon| opening - horizon.min(&quarter)));
            instants.push(opening);
        }
        instants.extend(window.free_since.iter().flat_map(|since| HORIZONS.iter().map(move |each| since + 2 * each)));
        instants
    }

    /// Instants at which a session, a fraction or an epoch ends, in µs.
    pub(super) fn session_instants(&self, lease: i64) -> Vec<i64> {
        let mut spans = vec![0];
        for window in self.windows.values() {
            let linger = window.shares.values().filter_map(|share| share.params.as_ref()).map(|params| params.linger);
            spans.push(window.span + linger.max().unwrap_or(0));
        }
        let mut instants: Vec<i64> = self.present.values().flat_map(|till| [*till, till + 1_000_000]).collect();
        for one in self.named.values() {
            let unused = if one.till > 1 { one.till + one.lasts + lease } else { 0 };
            instants.push(one.till);
            instants.extend(spans.iter().flat_map(|span| [unused + span, one.since + span]));
        }
        let longest = self.named.values().map(|one| one.lasts).max().unwrap_or(0);
        instants.extend(spans.iter().map(|span| self.epoch_start + longest + lease + span));
        instants
    }
}

/// Fields of one gateway in a window's hash; those that are 0 are absent.
fn share_fields(session: &str, share: &GatewayShare) -> Vec<String> {
    let counts = [("u", share.held), ("f", share.flying), ("q", share.waiting)];
    let present = counts.into_iter().filter(|(_, value)| *value > 0);
    let mut fields: Vec<String> = present.map(|(prefix, value)| format!("{prefix}:{session}={value}")).collect();
    if share.credit != 0.0 {
        fields.push(credit_field(session, share.credit));
    }
    fields.extend(share.params.as_ref().map(|params| format!("r:{session}={}", params_text(params))));
    fields
}

/// The field of a credit, with all its bits.
pub(super) fn credit_field(session: &str, credit: f64) -> String {
    format!("d:{session}={:016x}", credit.to_bits())
}

fn params_text(params: &LimitParams) -> String {
    if let Some(text) = &params.unreadable {
        return text.clone();
    }
    format!(
        "{}:{}:{}:{}:{}:{}:{}:{}",
        params.requests,
        params.span,
        params.in_flight,
        params.kind,
        params.interval,
        params.burst,
        params.linger,
        params.calendar
    )
}
