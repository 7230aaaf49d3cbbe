//! Window packs: the compact disk format of many windows at once, which a start reads and a stop writes.
//!
//! A pack is a sequence of entries, one for each window:
//!
//! | part | encoding |
//! |---|---|
//! | key | 16 bytes, little-endian |
//! | length of the rest | varint |
//! | flags of the optional parts | one byte |
//! | log | number of its entries, then time and slots of each |
//! | late slots | as the log, if there are any |
//! | open slots | varint, if there are any |
//! | theoretical arrival time | time, if there is one |
//! | end of the pause | time, if there is one |
//!
//! A varint is LEB128. A time is a varint of the zigzag code of the nanoseconds since the *origin*
//! of all packs, so that a recent time takes few bytes. Flights are left out: they end with the
//! process.

use super::boot_time::TimeMapping;
use crate::locker::{Key, LimitId, WindowRecord};
use crate::time::Time;

/// Flag of late slots.
const LATE: u8 = 1;
/// Flag of open slots.
const OPEN: u8 = 2;
/// Flag of a theoretical arrival time.
const TAT: u8 = 4;
/// Flag of a pause.
const PAUSED: u8 = 8;

/// Bytes of a key.
const KEY: usize = 16;

/// Encoded window: one entry of a pack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'p> {
    /// Key of the window.
    pub(super) key: u128,
    /// Everything behind the length.
    body: &'p [u8],
    /// The whole entry.
    bytes: &'p [u8],
}

/// Entries of a pack, in order. `Err` at the first that is damaged, and then no more.
pub(super) struct Entries<'p> {
    /// Bytes that are not read yet.
    rest: &'p [u8],
}

/// The bytes are no pack.
#[derive(Debug)]
pub(super) struct NoPack;

/// Appends a window to a pack. `origin`: zero of the times.
pub(super) fn append(pack: &mut Vec<u8>, window: &WindowRecord, origin: Time) {
    pack.extend_from_slice(&window.key.0.to_le_bytes());
    let start = pack.len();
    // Nearly all windows are shorter than 128 bytes, whose length is one byte; others are moved.
    pack.push(0);
    append_body(pack, window, origin);
    let length = pack.len() - start - 1;
    match u8::try_from(length) {
        Ok(short @ 0..0x80) => pack[start] = short,
        Ok(_) | Err(_) => {
            let body = pack.split_off(start + 1);
            pack.truncate(start);
            put_number(pack, length as u64);
            pack.extend_from_slice(&body);
        }
    }
}

/// Appends the parts behind the length.
fn append_body(pack: &mut Vec<u8>, window: &WindowRecord, origin: Time) {
    let WindowRecord { limit: _, key: _, log, late, open, flying: _, tat, paused } = window;
    let flag = |bit: u8, is_set: bool| if is_set { bit } else { 0 };
    let (has_tat, is_paused) = (*tat > Time::START, *paused > Time::START);
    pack.push(flag(LATE, !late.is_empty()) | flag(OPEN, *open > 0) | flag(TAT, has_tat) | flag(PAUSED, is_paused));
    put_slots(pack, log, origin);
    if !late.is_empty() {
        put_slots(pack, late, origin);
    }
    if *open > 0 {
        put_number(pack, u64::from(*open));
    }
    for at in [(has_tat, tat), (is_paused, paused)].into_iter().filter_map(|(is_set, at)| is_set.then_some(*at)) {
        put_time(pack, at, origin);
    }
}

/// Returns the pack without the entry of this key; `None` if it has none.
///
/// # Errors
/// [`NoPack`] if the pack is damaged before that entry.
pub(super) fn without(pack: &[u8], key: u128) -> Result<Option<Vec<u8>>, NoPack> {
    let mut before = 0;
    for entry in entries(pack) {
        let entry = entry?;
        let after = before + entry.bytes.len();
        if entry.key == key {
            return Ok(Some([&pack[..before], &pack[after..]].concat()));
        }
        before = after;
    }
    Ok(None)
}

/// The entries of a pack.
pub(super) fn entries(pack: &[u8]) -> Entries<'_> {
    Entries { rest: pack }
}

impl<'p> Iterator for Entries<'p> {
    type Item = Result<Entry<'p>, NoPack>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let entry = Entry::first(self.rest);
        self.rest = entry.map_or(&[], |entry| &self.rest[entry.bytes.len()..]);
        Some(entry.ok_or(NoPack))
    }
}

impl<'p> Entry<'p> {
    /// The first entry of these bytes; `None` if they do not begin with one.
    fn first(bytes: &'p [u8]) -> Option<Entry<'p>> {
        let (key, mut rest) = bytes.split_first_chunk::<KEY>()?;
        let length = usize::try_from(number(&mut rest)?).ok()?;
        let body = rest.get(..length)?;
        let end = bytes.len() - rest.len() + length;
        Some(Entry { key: u128::from_le_bytes(*key), body, bytes: &bytes[..end] })
    }

    /// Decodes the window. `origin`: zero of the times, in nanoseconds since the boot that `mapping`
    /// converts from.
    ///
    /// # Errors
    /// [`NoPack`] if the entry is damaged.
    pub(super) fn window(&self, limit: LimitId, origin: i128, mapping: TimeMapping) -> Result<WindowRecord, NoPack> {
        let at = |bytes: &mut &[u8]| Some(mapping.at_boot(origin.saturating_add(time(bytes)?)));
        self.decoded(limit, at).ok_or(NoPack)
    }

    /// As [`Entry::window`]; `None` if the entry is damaged.
    fn decoded(&self, limit: LimitId, at: impl Fn(&mut &[u8]) -> Option<Time>) -> Option<WindowRecord> {
        let (flags, mut rest) = self.body.split_first().map(|(flags, rest)| (*flags, rest))?;
        let bytes = &mut rest;
        let has = |flag: u8| flags & flag != 0;
        let log = slots(bytes, &at)?;
        let late = if has(LATE) { slots(bytes, &at)? } else { Vec::new() };
        let open = if has(OPEN) { u32::try_from(number(bytes)?).ok()? } else { 0 };
        let tat = if has(TAT) { at(bytes)? } else { Time::START };
        let paused = if has(PAUSED) { at(bytes)? } else { Time::START };
        let is_whole = bytes.is_empty() && flags < PAUSED << 1;
        is_whole.then_some(WindowRecord { limit, key: Key(self.key), log, late, open, flying: 0, tat, paused })
    }
}

/// Appends slots: their number of entries, then time and number of each.
fn put_slots(pack: &mut Vec<u8>, slots: &[(Time, u32)], origin: Time) {
    put_number(pack, slots.len() as u64);
    for (at, count) in slots {
        put_time(pack, *at, origin);
        put_number(pack, u64::from(*count));
    }
}

/// Reads what [`put_slots`] has written.
fn slots(bytes: &mut &[u8], at: impl Fn(&mut &[u8]) -> Option<Time>) -> Option<Vec<(Time, u32)>> {
    let count = usize::try_from(number(bytes)?).ok()?;
    // Each takes two bytes at least: a damaged number allocates no more than the pack has.
    let mut slots = Vec::with_capacity(count.min(bytes.len() / 2));
    for _ in 0..count {
        slots.push((at(bytes)?, u32::try_from(number(bytes)?).ok()?));
    }
    Some(slots)
}

/// Appends a time as the zigzag code of its distance from `origin`.
///
/// A distance of more than 292 years is cut to that.
fn put_time(pack: &mut Vec<u8>, at: Time, origin: Time) {
    let distance = i128::from(at.as_nanos()) - i128::from(origin.as_nanos());
    let distance = i64::try_from(distance).unwrap_or(if distance < 0 { i64::MIN } else { i64::MAX });
    put_number(pack, ((distance << 1) ^ (distance >> 63)).cast_unsigned());
}

/// Reads the distance of a time from the origin, in nanoseconds.
fn time(bytes: &mut &[u8]) -> Option<i128> {
    let code = number(bytes)?;
    Some(i128::from((code >> 1).cast_signed() ^ -(code & 1).cast_signed()))
}

/// Appends a number as LEB128.
fn put_number(pack: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        pack.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    pack.push(number.to_le_bytes()[0]);
}

/// Reads a number; `None` if the bytes end before it, or it has more than 64 bits.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return None;
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::gate::clock::Clock;

    fn window(key: u128, log: Vec<(Time, u32)>) -> WindowRecord {
        let (late, tat, paused) = (Vec::new(), Time::START, Time::START);
        WindowRecord { limit: LimitId(3), key: Key(key), log, late, open: 0, flying: 0, tat, paused }
    }

    /// Windows of every shape: all optional parts and none, long logs, times at both ends.
    fn windows() -> Vec<WindowRecord> {
        let at = |seconds: u64| Time::START + Duration::from_secs(seconds);
        let plain = window(1, vec![(at(100), 1)]);
        let long = (0..200).map(|second| (at(second), 1 + second as u32)).collect();
        vec![
            plain.clone(),
            window(u128::MAX, Vec::new()),
            WindowRecord { late: vec![(at(7), 2), (at(5000), u32::MAX)], ..plain.clone() },
            WindowRecord { open: 300, ..plain.clone() },
            WindowRecord { tat: at(1_000_000), ..plain.clone() },
            WindowRecord { paused: at(9), ..plain.clone() },
            WindowRecord { late: vec![(at(7), 2)], open: 1, tat: at(3), paused: at(4), ..plain },
            window(2, long),
        ]
    }

    fn pack(windows: &[WindowRecord], origin: Time) -> Vec<u8> {
        let mut pack = Vec::new();
        windows.iter().for_each(|window| append(&mut pack, window, origin));
        pack
    }

    fn unpacked(pack: &[u8], origin: i128, mapping: TimeMapping) -> Option<Vec<WindowRecord>> {
        entries(pack).map(|entry| entry.ok()?.window(LimitId(3), origin, mapping).ok()).collect()
    }

    #[test]
    fn a_pack_holds_every_window_as_it_was() {
        let (clock, hand) = Clock::manual();
        hand.pass(Duration::from_secs(3600));
        let (origin, mapping) = (clock.now(), TimeMapping::here(&clock));
        let windows = windows();
        let pack = pack(&windows, origin);
        assert_eq!(unpacked(&pack, mapping.to_boot(origin), mapping).unwrap(), windows);
        assert!(pack.len() < 16 + 1 + 2 + 8 + 3000, "{}: a window of one slot takes some 26 bytes", pack.len());
    }

    #[test]
    fn a_pack_that_is_cut_or_has_rubbish_in_it_is_refused_or_read_without_a_panic() {
        let (clock, _hand) = Clock::manual();
        let (origin, mapping) = (clock.now(), TimeMapping::here(&clock));
        let windows = windows();
        let whole = pack(&windows, origin);
        let ends: Vec<usize> = (0..=windows.len()).map(|count| pack(&windows[..count], origin).len()).collect();
        for cut in 0..whole.len() {
            let read = unpacked(&whole[..cut], 0, mapping);
            assert_eq!(read.is_some(), ends.contains(&cut), "cut at {cut}");
        }
        for (at, change) in (0..whole.len()).flat_map(|at| [0x01, 0x80, 0xff].map(|change| (at, change))) {
            let mut damaged = whole.clone();
            damaged[at] ^= change;
            unpacked(&damaged, i128::from(i64::MAX), mapping);
            without(&damaged, 2).ok();
        }
    }

    #[test]
    fn a_window_is_taken_out_of_its_pack_and_the_others_stay() {
        let (clock, _hand) = Clock::manual();
        let (origin, mapping) = (clock.now(), TimeMapping::here(&clock));
        let windows: Vec<_> = (0..5).map(|key| window(key, vec![(origin, 1)])).collect();
        let whole = pack(&windows, origin);
        for key in 0..5 {
            let rest = without(&whole, key).unwrap().unwrap();
            let keys = unpacked(&rest, 0, mapping).unwrap().into_iter().map(|window| window.key.0);
            assert!(keys.eq((0..5).filter(|other| *other != key)));
        }
        assert!(without(&whole, 5).unwrap().is_none());
        assert!(without(&pack(&windows[..1], origin), 0).unwrap().unwrap().is_empty());
    }
}
