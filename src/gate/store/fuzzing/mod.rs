//! Fuzz target of the store's replies: values of RESP, as the script returns them.

use std::time::Duration;

use redis::Value;
use smallvec::SmallVec;

use super::script_call::{ScriptReply, read};
use crate::locker::{Key, LimitId};
use crate::locker::{SharedKind, SlotRequest, SyncRequest, WindowParams, WindowReport};
use crate::time::Time;

/// Reply of the script: any value is an error or a reply with one grant for each slot request, and a reply that is
/// written by the documented form is read back unchanged. The first two bytes are the numbers of windows and slot
/// requests; the rest is the reply in RESP, or its integers as text if it is none.
pub fn store_reply(input: &[u8]) {
    let [windows, requests, reply @ ..] = input else { return };
    let sync = request(usize::from(windows % 4), usize::from(requests % 4));
    let value = redis::parse_redis_value(reply).unwrap_or_else(|_| integers(reply));
    let Ok(reply) = read(&value, &sync) else { return };
    assert_eq!(reply.grants.len(), sync.slot_requests.len());
    for (grant, request) in reply.grants.iter().zip(&sync.slot_requests) {
        assert_eq!(grant.blocked_for.len(), request.windows.len());
        assert!(!grant.opens_then || grant.next_in.is_some());
    }
    assert!(reply.spans(&sync).len() <= reply.mismatches.len());
    let again = read(&Value::Array(written(&reply).into_iter().map(Value::Int).collect()), &sync);
    assert!(matches!(&again, Ok(again) if *again == reply), "{again:?} of {reply:?}");
}

/// Integers of a text, separated by blanks.
fn integers(text: &[u8]) -> Value {
    let words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let number = |word: &[u8]| std::str::from_utf8(word).ok().and_then(|word| word.parse().ok());
    Value::Array(words.map(|word| number(word).map_or(Value::Nil, Value::Int)).collect())
}

/// The reply in the form that the script writes.
fn written(reply: &ScriptReply) -> Vec<i64> {
    let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    let mut numbers = vec![0, reply.now, reply.epoch_start, i64::from(reply.settings_mismatch)];
    numbers.push(i64::try_from(reply.mismatches.len()).unwrap_or(i64::MAX));
    for mismatch in &reply.mismatches {
        let place = i64::try_from(mismatch.place).unwrap_or(i64::MAX - 1) + 1;
        numbers.extend([place, i64::from(mismatch.causes), micros(mismatch.span)]);
    }
    for grant in &reply.grants {
        numbers.push(i64::try_from(grant.groups.len()).unwrap_or(i64::MAX));
        for (wait, count) in &grant.groups {
            numbers.extend([micros(*wait), i64::from(*count)]);
        }
        let next_in = grant.next_in.and_then(|next_in| u64::try_from(next_in.as_micros()).ok()).unwrap_or(0);
        let signed =
            if grant.opens_then { 0_i64.wrapping_add_unsigned(next_in) } else { 0_i64.wrapping_sub_unsigned(next_in) };
        numbers.extend([i64::from(grant.prefetch), signed]);
        numbers.extend(grant.blocked_for.iter().map(|wait| micros(*wait)));
    }
    numbers
}

/// Request with this number of windows, and slot requests that use 0, 1, 2, … of them.
fn request(windows: usize, slot_requests: usize) -> SyncRequest {
    let params = WindowParams {
        kind: SharedKind::Sliding,
        calendar: None,
        requests: 5,
        span: 1_000_000_000,
        interval: 0,
        burst: 0,
        in_flight: None,
        linger: Duration::ZERO,
    };
    let report = |window| WindowReport {
        window,
        generation: 0,
        limit: LimitId(0),
        key: Key(0),
        params: params.clone(),
        is_new: true,
        held: 0,
        flying: 0,
        waiting: 1,
        paused: Time::START,
        settled: Vec::new(),
        returned: 0,
        landed: 0,
    };
    let slot_request = |at: usize| {
        let used: SmallVec<[(usize, u32); 2]> = (0..at.min(windows)).map(|place| (place, 1)).collect();
        SlotRequest { group: None, requests: 3, prefetch: 1, windows: used }
    };
    SyncRequest {
        renew_id: false,
        horizon: Duration::from_secs(1),
        windows: (0..windows).filter_map(|window| u32::try_from(window).ok()).map(report).collect(),
        slot_requests: (0..slot_requests).map(slot_request).collect(),
    }
}
