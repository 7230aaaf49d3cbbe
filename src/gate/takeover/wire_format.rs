//! What the two processes say to each other: plain data, with a number for its form.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Error, VerdictMsg, protocol_error};
use crate::gate::clock::Clock;
use crate::gate::journal::boot_time::TimeMapping;
use crate::gate::journal::codec::{DiskLimitSnapshot, DiskReading, DiskWindow};
use crate::locker::{
    AskKind, Caller, Claim, Event, GrantedSlots, Key, LimitId, RefusalReason, Snapshot, Sorry, Ticket,
};
use crate::time::Time;

/// The number of the form, which is said first of all. It grows with any change of what is below or in the journal.
const WIRE_VERSION: u32 = 2;

/// Times of this process and of the other. Neither is ever taken for earlier than it is.
#[derive(Clone, Copy)]
pub(super) struct TimeMappings {
    ours: TimeMapping,
    theirs: TimeMapping,
}

impl TimeMappings {
    pub(super) fn new(clock: &Clock) -> TimeMappings {
        TimeMappings { ours: TimeMapping::here(clock), theirs: TimeMapping::of_another(clock) }
    }

    fn write(self, at: Time) -> Option<i128> {
        (at < Time::NEVER).then(|| self.ours.to_boot(at))
    }

    fn read(self, at: Option<i128>) -> Time {
        at.map_or(Time::NEVER, |at| self.theirs.at_boot(at))
    }
}

/// The first message, with which the descriptors come: the lock of the state folder, if there is one, then the sockets.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Hello {
    /// What keys and callers are hashed with.
    pub(super) seed: [u8; 16],
    /// The state folder, and whether its lock comes with this.
    pub(super) state: Option<(Vec<u8>, bool)>,
    /// Which address was asked for each socket.
    pub(super) listens: Vec<SocketAddr>,
}

impl Hello {
    pub(super) fn write(&self) -> Result<Vec<u8>, Error> {
        let mut message = WIRE_VERSION.to_le_bytes().to_vec();
        message.extend(postcard::to_stdvec(self).map_err(protocol_error)?);
        Ok(message)
    }

    pub(super) fn read(message: &[u8]) -> Result<Hello, Error> {
        let form = message.first_chunk().map(|form| u32::from_le_bytes(*form));
        match form {
            Some(WIRE_VERSION) => postcard::from_bytes(&message[4..]).map_err(protocol_error),
            Some(form) => Err(protocol_error(format_args!(
                "it is version {form} of the hand-over, and this one's is {WIRE_VERSION}"
            ))),
            None => Err(protocol_error("it says nothing")),
        }
    }
}

/// The steps that both must have taken before the next.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(super) enum HandoverStep {
    Ready,
    Inherited,
    Go,
    Released,
}

#[derive(Serialize, Deserialize)]
pub(super) struct WireSnapshot {
    limits: Vec<DiskLimitSnapshot>,
    windows: Vec<(u32, u128, DiskWindow)>,
    readings: Vec<DiskReading>,
}

impl WireSnapshot {
    pub(super) fn of(snapshot: &Snapshot, mappings: TimeMappings) -> WireSnapshot {
        WireSnapshot {
            limits: snapshot.limits.iter().map(|known| DiskLimitSnapshot::of(known, mappings.ours)).collect(),
            windows: snapshot
                .windows
                .iter()
                .map(|page| (page.limit.0, page.key.0, DiskWindow::of(page, mappings.ours)))
                .collect(),
            readings: snapshot.readings.iter().map(|reading| DiskReading::of(*reading, mappings.ours)).collect(),
        }
    }

    pub(super) fn snapshot(self, mappings: TimeMappings) -> Snapshot {
        let page = |(limit, key, page): (u32, u128, DiskWindow)| page.window(LimitId(limit), Key(key), mappings.theirs);
        Snapshot {
            limits: self.limits.into_iter().map(|known| known.known(mappings.theirs)).collect(),
            windows: self.windows.into_iter().map(page).collect(),
            readings: self.readings.into_iter().map(|reading| reading.reading(mappings.theirs)).collect(),
        }
    }
}

/// Index and generation.
type WireTicket = (u32, u32);
/// Limit and key.
type WireWindow = (u32, u128);

#[derive(Serialize, Deserialize)]
pub(super) enum WireEvent {
    Ask {
        ticket: WireTicket,
        claims: Vec<(WireWindow, u32)>,
        caller: u64,
        urgency: u8,
        arrived: Option<i128>,
        bound: Option<i128>,
        kind: WireAskKind,
    },
    Leave(WireTicket),
    Settle(WireWindow, u32, Option<i128>),
    GiveBack(WireWindow, u32),
    Land(WireWindow),
    Pause(WireWindow, Option<i128>),
}

/// See [`AskKind`].
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) enum WireAskKind {
    New,
    Retry,
    SentBack(bool),
}

impl WireAskKind {
    fn of(kind: AskKind) -> WireAskKind {
        match kind {
            AskKind::New => WireAskKind::New,
            AskKind::Retry => WireAskKind::Retry,
            AskKind::Reask { retry } => WireAskKind::SentBack(retry),
        }
    }

    fn kind(self) -> AskKind {
        match self {
            WireAskKind::New => AskKind::New,
            WireAskKind::Retry => AskKind::Retry,
            WireAskKind::SentBack(retry) => AskKind::Reask { retry },
        }
    }
}

fn wire_ticket(ticket: Ticket) -> WireTicket {
    (ticket.index, ticket.generation)
}

fn ticket_of((index, generation): WireTicket) -> Ticket {
    Ticket { index, generation }
}

impl WireEvent {
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

    pub(super) fn event(self, mappings: TimeMappings) -> Event {
        let place = |(limit, key): WireWindow| (LimitId(limit), Key(key));
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
            WireEvent::Settle(at_place, cost, at) => {
                let (limit, key) = place(at_place);
                Event::Settle { limit, key, cost, at: mappings.read(at) }
            }
            WireEvent::GiveBack(at_place, cost) => {
                let (limit, key) = place(at_place);
                Event::GiveBack { limit, key, cost }
            }
            WireEvent::Land(at_place) => {
                let (limit, key) = place(at_place);
                Event::Land { limit, key }
            }
            WireEvent::Pause(at_place, until) => {
                let (limit, key) = place(at_place);
                Event::Pause { limit, key, until: mappings.read(until) }
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct WireVerdict(WireTicket, Result<Vec<WireSlots>, WireSorry>);

#[derive(Serialize, Deserialize)]
struct WireSlots {
    place: WireWindow,
    cost: u32,
    answered: bool,
    flying: bool,
    until: Option<i128>,
}

#[derive(Serialize, Deserialize)]
struct WireSorry {
    why: WireReason,
    limit: u32,
    until: Option<i128>,
    exact: bool,
}

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
    pub(super) fn of((ticket, verdict): &VerdictMsg, mappings: TimeMappings) -> WireVerdict {
        let slot = |slot: &GrantedSlots| WireSlots {
            place: (slot.limit.0, slot.key.0),
            cost: slot.cost,
            answered: slot.answered,
            flying: slot.flying,
            until: mappings.write(slot.until),
        };
        let said = match verdict {
            Ok(slots) => Ok(slots.iter().map(slot).collect()),
            Err(sorry) => Err(WireSorry::of(*sorry, mappings)),
        };
        WireVerdict(wire_ticket(*ticket), said)
    }

    pub(super) fn verdict(self, mappings: TimeMappings) -> VerdictMsg {
        let slot = |WireSlots { place: (limit, key), cost, answered, flying, until }: WireSlots| GrantedSlots {
            limit: LimitId(limit),
            key: Key(key),
            cost,
            answered,
            flying,
            until: mappings.read(until),
        };
        let WireVerdict(ticket, said) = self;
        let said = match said {
            Ok(slots) => Ok(slots.into_iter().map(slot).collect()),
            Err(sorry) => Err(sorry.sorry(mappings)),
        };
        (ticket_of(ticket), said)
    }
}

impl WireSorry {
    fn of(sorry: Sorry, mappings: TimeMappings) -> WireSorry {
        let why = match sorry.reason {
            RefusalReason::Full => WireReason::Full,
            RefusalReason::TooLong => WireReason::TooLong,
            RefusalReason::QueueFull => WireReason::QueueFull,
            RefusalReason::TimedOut => WireReason::TimedOut,
            RefusalReason::TooManyKeys => WireReason::TooManyKeys,
            RefusalReason::CostTooHigh => WireReason::CostTooHigh,
            RefusalReason::StoreLost => WireReason::StoreLost,
            RefusalReason::Unwritten => WireReason::Unwritten,
        };
        WireSorry { why, limit: sorry.limit.0, until: mappings.write(sorry.until), exact: sorry.exact }
    }

    fn sorry(self, mappings: TimeMappings) -> Sorry {
        let why = match self.why {
            WireReason::Full => RefusalReason::Full,
            WireReason::TooLong => RefusalReason::TooLong,
            WireReason::QueueFull => RefusalReason::QueueFull,
            WireReason::TimedOut => RefusalReason::TimedOut,
            WireReason::TooManyKeys => RefusalReason::TooManyKeys,
            WireReason::CostTooHigh => RefusalReason::CostTooHigh,
            WireReason::StoreLost => RefusalReason::StoreLost,
            WireReason::Unwritten => RefusalReason::Unwritten,
        };
        Sorry { reason: why, limit: LimitId(self.limit), until: mappings.read(self.until), exact: self.exact }
    }
}
