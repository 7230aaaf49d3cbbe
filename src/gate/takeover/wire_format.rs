//! Wire format of the upgrade protocol (postcard), versioned.
//!
//! Encoding of the simple types:
//!
//! | type | encoding |
//! |---|---|
//! | time | nanoseconds since the boot, `None` for never |
//! | ticket | index, generation |
//! | window | limit id, hash of the key |
//!
//! The copy of limits and windows has a format of its own, `copy_format`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Error, VerdictMsg, protocol_error};
use crate::gate::clock::Clock;
use crate::gate::journal::boot_time::TimeMapping;
use crate::locker::{AskKind, Caller, Claim, Event, GrantedSlots, Key, LimitId, RefusalReason, Sorry, Ticket};
use crate::time::Time;

/// Version of the format, the first bytes of the first message. Increase it with any change below, in `copy_format` or in
/// the journal's disk format.
///
/// Four bytes, little-endian. Both processes must have the same one: an upgrade over a change of
/// the format fails, and the old process goes on.
const WIRE_VERSION: u32 = 3;

/// Time conversion to and from the other process. No time ever becomes earlier.
#[derive(Clone, Copy)]
pub(super) struct TimeMappings {
    /// For times that this process writes.
    ours: TimeMapping,
    /// For times that the other process wrote.
    theirs: TimeMapping,
}

impl TimeMappings {
    /// Conversions at this moment. A suspend shifts the clocks against each other, so they are made anew for each
    /// message.
    pub(super) fn new(clock: &Clock) -> TimeMappings {
        TimeMappings { ours: TimeMapping::here(clock), theirs: TimeMapping::of_another(clock) }
    }

    /// Conversion of times that this process writes.
    pub(super) fn ours(self) -> TimeMapping {
        self.ours
    }

    /// Conversion of times that the other process wrote.
    pub(super) fn theirs(self) -> TimeMapping {
        self.theirs
    }

    /// Nanoseconds since the boot; `None` for [`Time::NEVER`].
    pub(super) fn write(self, at: Time) -> Option<i128> {
        (at < Time::NEVER).then(|| self.ours.to_boot(at))
    }

    /// Gateway time of a time that the other process wrote.
    pub(super) fn read(self, at: Option<i128>) -> Time {
        at.map_or(Time::NEVER, |at| self.theirs.at_boot(at))
    }
}

/// First message. The descriptors come with it: the lock of the state folder, if there is one, then the sockets.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Hello {
    /// Seed of the hash of keys and callers.
    pub(super) seed: [u8; 16],
    /// Path of the state folder, and true if its lock comes along.
    pub(super) state: Option<(Vec<u8>, bool)>,
    /// Configured address of each socket.
    pub(super) listens: Vec<SocketAddr>,
}

impl Hello {
    /// Encodes the message, after the format's version.
    pub(super) fn write(&self) -> Result<Vec<u8>, Error> {
        let mut message = WIRE_VERSION.to_le_bytes().to_vec();
        message.extend(postcard::to_stdvec(self).map_err(protocol_error)?);
        Ok(message)
    }

    /// Decodes the message.
    ///
    /// # Errors
    /// [`Error::Protocol`] if it is of another version or damaged.
    pub(super) fn read(message: &[u8]) -> Result<Hello, Error> {
        let version = message.first_chunk().map(|version| u32::from_le_bytes(*version));
        match version {
            Some(WIRE_VERSION) => postcard::from_bytes(&message[4..]).map_err(protocol_error),
            Some(version) => Err(protocol_error(format_args!("its version is {version}, ours is {WIRE_VERSION}"))),
            None => Err(protocol_error("the first message is too short")),
        }
    }
}

/// Steps that both processes must have taken before the next.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(super) enum HandoverStep {
    /// The new process has read its configuration, and takes the copy.
    Ready,
    /// The new process has built everything that can fail.
    Prepared,
    /// The new process has all counts and waiters.
    Inherited,
    /// The old process grants nothing any more.
    Go,
    /// The old process has closed the journal.
    Released,
}

/// [`Ticket`]: index and generation.
type WireTicket = (u32, u32);
/// Window: limit and key.
type WireWindow = (u32, u128);

/// See [`Event`].
#[derive(Serialize, Deserialize)]
pub(super) enum WireEvent {
    /// Asks for slots.
    Ask {
        /// The old process's ticket, which its verdict names.
        ticket: WireTicket,
        /// Window and cost of each claim.
        claims: Vec<(WireWindow, u32)>,
        /// Hash of the caller.
        caller: u64,
        /// RFC 9218 urgency: 0 (first) to 7.
        urgency: u8,
        /// Arrival, which decides its place in the queue.
        arrived: Option<i128>,
        /// End of the wait that the caller accepts.
        bound: Option<i128>,
        /// New, or asked before.
        kind: WireAskKind,
    },
    /// Ticket that leaves the queue.
    Leave(WireTicket),
    /// Window, cost, time.
    Settle(WireWindow, u32, Option<i128>),
    /// Window, cost.
    GiveBack(WireWindow, u32),
    /// Window of a flight that ended.
    Land(WireWindow),
    /// Window, end of the pause.
    Pause(WireWindow, Option<i128>),
}

/// See [`AskKind`].
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) enum WireAskKind {
    /// First ask of a request.
    New,
    /// Asks for another attempt.
    Retry,
    /// Asks again after a reload; true if it was a retry.
    Reask(bool),
}

impl WireAskKind {
    fn of(kind: AskKind) -> WireAskKind {
        match kind {
            AskKind::New => WireAskKind::New,
            AskKind::Retry => WireAskKind::Retry,
            AskKind::Reask { retry } => WireAskKind::Reask(retry),
        }
    }

    fn kind(self) -> AskKind {
        match self {
            WireAskKind::New => AskKind::New,
            WireAskKind::Retry => AskKind::Retry,
            WireAskKind::Reask(retry) => AskKind::Reask { retry },
        }
    }
}

/// Converts to the wire format.
fn wire_ticket(ticket: Ticket) -> WireTicket {
    (ticket.index, ticket.generation)
}

/// Converts from the wire format.
fn ticket_of((index, generation): WireTicket) -> Ticket {
    Ticket { index, generation }
}

impl WireEvent {
    /// Converts to the wire format.
    pub(super) fn of(event: &Event, mappings: TimeMappings) -> WireEvent {
        match event {
            Event::Ask { ticket, claims, caller, urgency, arrived, bound, kind } => WireEvent::Ask {
                ticket: wire_ticket(*ticket),
                claims: claims.iter().map(|claim| ((claim.limit.0, claim.key.0), claim.cost)).collect(),
                caller: caller.0,
                urgency: *urgency,
                arrived: mappings.write(*arrived),
                bound: mappings.write(*bound),
                kind: WireAskKind::of(*kind),
            },
            Event::Leave(ticket) => WireEvent::Leave(wire_ticket(*ticket)),
            Event::Settle { limit, key, cost, at } => WireEvent::Settle((limit.0, key.0), *cost, mappings.write(*at)),
            Event::GiveBack { limit, key, cost } => WireEvent::GiveBack((limit.0, key.0), *cost),
            Event::Land { limit, key } => WireEvent::Land((limit.0, key.0)),
            Event::Pause { limit, key, until } => WireEvent::Pause((limit.0, key.0), mappings.write(*until)),
        }
    }

    /// Converts from the wire format.
    pub(super) fn event(self, mappings: TimeMappings) -> Event {
        let ids = |(limit, key): WireWindow| (LimitId(limit), Key(key));
        match self {
            WireEvent::Ask { ticket, claims, caller, urgency, arrived, bound, kind } => Event::Ask {
                ticket: ticket_of(ticket),
                claims: claims
                    .into_iter()
                    .map(|((limit, key), cost)| Claim { limit: LimitId(limit), key: Key(key), cost })
                    .collect(),
                caller: Caller(caller),
                urgency,
                arrived: mappings.read(arrived),
                bound: mappings.read(bound),
                kind: kind.kind(),
            },
            WireEvent::Leave(ticket) => Event::Leave(ticket_of(ticket)),
            WireEvent::Settle(window, cost, at) => {
                let (limit, key) = ids(window);
                Event::Settle { limit, key, cost, at: mappings.read(at) }
            }
            WireEvent::GiveBack(window, cost) => {
                let (limit, key) = ids(window);
                Event::GiveBack { limit, key, cost }
            }
            WireEvent::Land(window) => {
                let (limit, key) = ids(window);
                Event::Land { limit, key }
            }
            WireEvent::Pause(window, until) => {
                let (limit, key) = ids(window);
                Event::Pause { limit, key, until: mappings.read(until) }
            }
        }
    }
}

/// See [`VerdictMsg`].
#[derive(Serialize, Deserialize)]
pub(super) struct WireVerdict(WireTicket, Result<Vec<WireSlots>, WireSorry>);

/// See [`GrantedSlots`].
#[derive(Serialize, Deserialize)]
struct WireSlots {
    /// Window that granted them.
    window: WireWindow,
    /// Number of slots.
    cost: u32,
    /// True if they settle with the answer.
    answered: bool,
    /// True if the end of the request must be reported (`in_flight`).
    flying: bool,
    /// Latest time of departure.
    until: Option<i128>,
}

/// See [`Sorry`].
#[derive(Serialize, Deserialize)]
struct WireSorry {
    /// Reason of the refusal.
    reason: WireReason,
    /// Id of the limit that refused.
    limit: u32,
    /// Time for another ask.
    until: Option<i128>,
    /// False for a bound or an estimate.
    exact: bool,
}

/// See [`RefusalReason`].
#[derive(Clone, Copy, Serialize, Deserialize)]
enum WireReason {
    Full,
    TooLong,
    QueueFull,
    TimedOut,
    TooManyKeys,
    CostTooHigh,
    StoreLost,
    Unwritten,
}

impl WireVerdict {
    /// Converts to the wire format.
    pub(super) fn of((ticket, verdict): &VerdictMsg, mappings: TimeMappings) -> WireVerdict {
        let slot = |slot: &GrantedSlots| WireSlots {
            window: (slot.limit.0, slot.key.0),
            cost: slot.cost,
            answered: slot.answered,
            flying: slot.flying,
            until: mappings.write(slot.until),
        };
        let result = match verdict {
            Ok(slots) => Ok(slots.iter().map(slot).collect()),
            Err(sorry) => Err(WireSorry::of(*sorry, mappings)),
        };
        WireVerdict(wire_ticket(*ticket), result)
    }

    /// Converts from the wire format.
    pub(super) fn verdict(self, mappings: TimeMappings) -> VerdictMsg {
        let slot = |WireSlots { window: (limit, key), cost, answered, flying, until }: WireSlots| GrantedSlots {
            limit: LimitId(limit),
            key: Key(key),
            cost,
            answered,
            flying,
            until: mappings.read(until),
        };
        let WireVerdict(ticket, result) = self;
        let result = match result {
            Ok(slots) => Ok(slots.into_iter().map(slot).collect()),
            Err(sorry) => Err(sorry.sorry(mappings)),
        };
        (ticket_of(ticket), result)
    }
}

impl WireSorry {
    /// Converts to the wire format.
    fn of(sorry: Sorry, mappings: TimeMappings) -> WireSorry {
        let reason = match sorry.reason {
            RefusalReason::Full => WireReason::Full,
            RefusalReason::TooLong => WireReason::TooLong,
            RefusalReason::QueueFull => WireReason::QueueFull,
            RefusalReason::TimedOut => WireReason::TimedOut,
            RefusalReason::TooManyKeys => WireReason::TooManyKeys,
            RefusalReason::CostTooHigh => WireReason::CostTooHigh,
            RefusalReason::StoreLost => WireReason::StoreLost,
            RefusalReason::Unwritten => WireReason::Unwritten,
        };
        WireSorry { reason, limit: sorry.limit.0, until: mappings.write(sorry.until), exact: sorry.exact }
    }

    /// Converts from the wire format.
    fn sorry(self, mappings: TimeMappings) -> Sorry {
        let reason = match self.reason {
            WireReason::Full => RefusalReason::Full,
            WireReason::TooLong => RefusalReason::TooLong,
            WireReason::QueueFull => RefusalReason::QueueFull,
            WireReason::TimedOut => RefusalReason::TimedOut,
            WireReason::TooManyKeys => RefusalReason::TooManyKeys,
            WireReason::CostTooHigh => RefusalReason::CostTooHigh,
            WireReason::StoreLost => RefusalReason::StoreLost,
            WireReason::Unwritten => RefusalReason::Unwritten,
        };
        Sorry { reason, limit: LimitId(self.limit), until: mappings.read(self.until), exact: self.exact }
    }
}
