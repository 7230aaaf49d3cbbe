//! What the two processes say to each other: plain data, with a number for its form.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Error, Word, foreign};
use crate::gate::clock::Clock;
use crate::gate::journal::boot_time::Line;
use crate::gate::journal::codec::{KnownForm, PageForm, ReadingForm};
use crate::locker::{
    AskKind, Caller, Claim, Event, GrantedSlots, Key, LimitId, RefusalReason, Snapshot, Sorry, Ticket,
};
use crate::time::Time;

/// The number of the form, which is said first of all. It grows with any change of what is below or in the journal.
const FORM: u32 = 2;

/// Times of this process and of the other. Neither is ever taken for earlier than it is.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    ours: Line,
    theirs: Line,
}

impl Lines {
    pub(super) fn new(clock: &Clock) -> Lines {
        Lines { ours: Line::here(clock), theirs: Line::of_another(clock) }
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
        let mut message = FORM.to_le_bytes().to_vec();
        message.extend(postcard::to_stdvec(self).map_err(foreign)?);
        Ok(message)
    }

    pub(super) fn read(message: &[u8]) -> Result<Hello, Error> {
        let form = message.first_chunk().map(|form| u32::from_le_bytes(*form));
        match form {
            Some(FORM) => postcard::from_bytes(&message[4..]).map_err(foreign),
            Some(form) => Err(foreign(format_args!("it is form {form} of the hand-over, and this one's is {FORM}"))),
            None => Err(foreign("it says nothing")),
        }
    }
}

/// The steps that both must have taken before the next.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(super) enum Step {
    Ready,
    Inherited,
    Go,
    Released,
}

#[derive(Serialize, Deserialize)]
pub(super) struct EstateForm {
    limits: Vec<KnownForm>,
    windows: Vec<(u32, u128, PageForm)>,
    readings: Vec<ReadingForm>,
}

impl EstateForm {
    pub(super) fn of(estate: &Snapshot, lines: Lines) -> EstateForm {
        EstateForm {
            limits: estate.limits.iter().map(|known| KnownForm::of(known, lines.ours)).collect(),
            windows: estate
                .windows
                .iter()
                .map(|page| (page.limit.0, page.key.0, PageForm::of(page, lines.ours)))
                .collect(),
            readings: estate.readings.iter().map(|reading| ReadingForm::of(*reading, lines.ours)).collect(),
        }
    }

    pub(super) fn estate(self, lines: Lines) -> Snapshot {
        let page = |(limit, key, page): (u32, u128, PageForm)| page.page(LimitId(limit), Key(key), lines.theirs);
        Snapshot {
            limits: self.limits.into_iter().map(|known| known.known(lines.theirs)).collect(),
            windows: self.windows.into_iter().map(page).collect(),
            readings: self.readings.into_iter().map(|reading| reading.reading(lines.theirs)).collect(),
        }
    }
}

/// Index and generation.
type TicketForm = (u32, u32);
/// Limit and key.
type Place = (u32, u128);

#[derive(Serialize, Deserialize)]
pub(super) enum EventForm {
    Ask {
        ticket: TicketForm,
        claims: Vec<(Place, u32)>,
        caller: u64,
        urgency: u8,
        arrived: Option<i128>,
        bound: Option<i128>,
        kind: KindForm,
    },
    Leave(TicketForm),
    Settle(Place, u32, Option<i128>),
    GiveBack(Place, u32),
    Land(Place),
    Pause(Place, Option<i128>),
}

/// See [`AskKind`].
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) enum KindForm {
    New,
    Retry,
    SentBack(bool),
}

impl KindForm {
    fn of(kind: AskKind) -> KindForm {
        match kind {
            AskKind::New => KindForm::New,
            AskKind::Retry => KindForm::Retry,
            AskKind::Reask { retry } => KindForm::SentBack(retry),
        }
    }

    fn kind(self) -> AskKind {
        match self {
            KindForm::New => AskKind::New,
            KindForm::Retry => AskKind::Retry,
            KindForm::SentBack(retry) => AskKind::Reask { retry },
        }
    }
}

fn ticket_form(ticket: Ticket) -> TicketForm {
    (ticket.index, ticket.generation)
}

fn ticket_of((index, generation): TicketForm) -> Ticket {
    Ticket { index, generation }
}

impl EventForm {
    pub(super) fn of(event: &Event, lines: Lines) -> EventForm {
        match event {
            Event::Ask { ticket, claims, caller, urgency, arrived, bound, kind } => EventForm::Ask {
                ticket: ticket_form(*ticket),
                claims: claims.iter().map(|claim| ((claim.limit.0, claim.key.0), claim.cost)).collect(),
                caller: caller.0,
                urgency: *urgency,
                arrived: lines.write(*arrived),
                bound: lines.write(*bound),
                kind: KindForm::of(*kind),
            },
            Event::Leave(ticket) => EventForm::Leave(ticket_form(*ticket)),
            Event::Settle { limit, key, cost, at } => EventForm::Settle((limit.0, key.0), *cost, lines.write(*at)),
            Event::GiveBack { limit, key, cost } => EventForm::GiveBack((limit.0, key.0), *cost),
            Event::Land { limit, key } => EventForm::Land((limit.0, key.0)),
            Event::Pause { limit, key, until } => EventForm::Pause((limit.0, key.0), lines.write(*until)),
        }
    }

    pub(super) fn event(self, lines: Lines) -> Event {
        let place = |(limit, key): Place| (LimitId(limit), Key(key));
        match self {
            EventForm::Ask { ticket, claims, caller, urgency, arrived, bound, kind } => Event::Ask {
                ticket: ticket_of(ticket),
                claims: claims
                    .into_iter()
                    .map(|((limit, key), cost)| Claim { limit: LimitId(limit), key: Key(key), cost })
                    .collect(),
                caller: Caller(caller),
                urgency,
                arrived: lines.read(arrived),
                bound: lines.read(bound),
                kind: kind.kind(),
            },
            EventForm::Leave(ticket) => Event::Leave(ticket_of(ticket)),
            EventForm::Settle(at_place, cost, at) => {
                let (limit, key) = place(at_place);
                Event::Settle { limit, key, cost, at: lines.read(at) }
            }
            EventForm::GiveBack(at_place, cost) => {
                let (limit, key) = place(at_place);
                Event::GiveBack { limit, key, cost }
            }
            EventForm::Land(at_place) => {
                let (limit, key) = place(at_place);
                Event::Land { limit, key }
            }
            EventForm::Pause(at_place, until) => {
                let (limit, key) = place(at_place);
                Event::Pause { limit, key, until: lines.read(until) }
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct WordForm(TicketForm, Result<Vec<SlotForm>, SorryForm>);

#[derive(Serialize, Deserialize)]
struct SlotForm {
    place: Place,
    cost: u32,
    answered: bool,
    flying: bool,
    until: Option<i128>,
}

#[derive(Serialize, Deserialize)]
struct SorryForm {
    why: WhyForm,
    limit: u32,
    until: Option<i128>,
    exact: bool,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum WhyForm {
    Full,
    TooLong,
    QueueFull,
    TimedOut,
    TooManyKeys,
    CostTooHigh,
    StoreLost,
    Unwritten,
}

impl WordForm {
    pub(super) fn of((ticket, word): &Word, lines: Lines) -> WordForm {
        let slot = |slot: &GrantedSlots| SlotForm {
            place: (slot.limit.0, slot.key.0),
            cost: slot.cost,
            answered: slot.answered,
            flying: slot.flying,
            until: lines.write(slot.until),
        };
        let said = match word {
            Ok(slots) => Ok(slots.iter().map(slot).collect()),
            Err(sorry) => Err(SorryForm::of(*sorry, lines)),
        };
        WordForm(ticket_form(*ticket), said)
    }

    pub(super) fn word(self, lines: Lines) -> Word {
        let slot = |SlotForm { place: (limit, key), cost, answered, flying, until }: SlotForm| GrantedSlots {
            limit: LimitId(limit),
            key: Key(key),
            cost,
            answered,
            flying,
            until: lines.read(until),
        };
        let WordForm(ticket, said) = self;
        let said = match said {
            Ok(slots) => Ok(slots.into_iter().map(slot).collect()),
            Err(sorry) => Err(sorry.sorry(lines)),
        };
        (ticket_of(ticket), said)
    }
}

impl SorryForm {
    fn of(sorry: Sorry, lines: Lines) -> SorryForm {
        let why = match sorry.reason {
            RefusalReason::Full => WhyForm::Full,
            RefusalReason::TooLong => WhyForm::TooLong,
            RefusalReason::QueueFull => WhyForm::QueueFull,
            RefusalReason::TimedOut => WhyForm::TimedOut,
            RefusalReason::TooManyKeys => WhyForm::TooManyKeys,
            RefusalReason::CostTooHigh => WhyForm::CostTooHigh,
            RefusalReason::StoreLost => WhyForm::StoreLost,
            RefusalReason::Unwritten => WhyForm::Unwritten,
        };
        SorryForm { why, limit: sorry.limit.0, until: lines.write(sorry.until), exact: sorry.exact }
    }

    fn sorry(self, lines: Lines) -> Sorry {
        let why = match self.why {
            WhyForm::Full => RefusalReason::Full,
            WhyForm::TooLong => RefusalReason::TooLong,
            WhyForm::QueueFull => RefusalReason::QueueFull,
            WhyForm::TimedOut => RefusalReason::TimedOut,
            WhyForm::TooManyKeys => RefusalReason::TooManyKeys,
            WhyForm::CostTooHigh => RefusalReason::CostTooHigh,
            WhyForm::StoreLost => RefusalReason::StoreLost,
            WhyForm::Unwritten => RefusalReason::Unwritten,
        };
        Sorry { reason: why, limit: LimitId(self.limit), until: lines.read(self.until), exact: self.exact }
    }
}
