//! Random worlds that are handed over to another locker in the middle of everything: those in line and under way stay with
//! the first, whose word reaches the second late.

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::dice::{Nature, config};
use super::judge::Judged;
use super::oracle::Item;
use super::world::{Sent, Waiting, World, note_settle};
use super::*;

/// The locker that has given its windows away, and whom it still looks after.
struct Before {
    locker: Locker,
    waiting: Vec<Waiting>,
    sent: Vec<Sent>,
    /// What it has said and the other has not heard.
    said: VecDeque<Event>,
    /// Whom the other's tickets are for.
    guests: HashMap<Ticket, Ticket>,
    number: u64,
}

struct HandedOver {
    world: World,
    before: Before,
}

impl World {
    fn hand_over(mut self) -> HandedOver {
        let (estate, waiters) = (self.locker.estate(self.now), self.locker.waiters());
        assert_eq!(waiters.len(), self.waiting.len(), "seed {}", self.seed);
        let limits = self.locker.limits().to_vec();
        let mut next = Locker::inherit(estate, End::HandOver, 0, self.now);
        assert!(!next.reload(limits, Duration::ZERO, self.now).is_change(), "seed {}", self.seed);
        next.hold();
        let mut old = std::mem::replace(&mut self.locker, next);
        old.give(self.now);
        self.changed = true;
        let before = Before {
            locker: old,
            waiting: std::mem::take(&mut self.waiting),
            sent: std::mem::take(&mut self.sent),
            said: waiters.into(),
            guests: HashMap::new(),
            number: 1_000_000,
        };
        let mut both = HandedOver { world: self, before };
        while !both.before.said.is_empty() {
            both.deliver();
        }
        both.world.locker.release(both.world.now);
        both.listen();
        both
    }
}

impl HandedOver {
    /// The second hears the next of what the first has said.
    fn deliver(&mut self) {
        let now = self.world.now;
        while let Some(event) = self.before.locker.poll_event() {
            self.before.said.push_back(event);
        }
        let Some(event) = self.before.said.pop_front() else { return };
        let locker = &mut self.world.locker;
        match event {
            Event::Ask { ticket, claims, caller, urgency, arrived, bound, again, waits } => {
                let max_wait = (bound < Time::NEVER).then(|| bound.since(arrived));
                let ask = Ask { claims: &claims, caller, urgency, max_wait, arrived: Some(arrived) };
                match locker.ask_for(&ask, again, waits, now) {
                    Verdict::Wait(here, _) => drop(self.before.guests.insert(here, ticket)),
                    Verdict::Go(grant) => self.grant(ticket, grant),
                    Verdict::Sorry(sorry) => self.before.locker.tell(ticket, Err(sorry), now),
                }
            }
            Event::Leave(ticket) => {
                let here = self.before.guests.iter().find(|(_, there)| **there == ticket).map(|(here, _)| *here);
                if let Some(here) = here {
                    self.before.guests.remove(&here);
                    locker.leave(here, now);
                }
            }
            event @ (Event::Settle { .. } | Event::GiveBack { .. } | Event::Land { .. } | Event::Pause { .. }) => {
                locker.hear(&event, now);
            }
        }
        self.listen();
    }

    /// The second lets somebody of the first's go.
    fn grant(&mut self, ticket: Ticket, grant: Grant) {
        let claims: Vec<Claim> = self.claims_of(ticket);
        self.world.judge_grant(&claims);
        let slots = self.world.locker.entrust(grant);
        self.before.locker.tell(ticket, Ok(slots), self.world.now);
    }

    fn claims_of(&self, ticket: Ticket) -> Vec<Claim> {
        let found = self.before.waiting.iter().find(|waiting| waiting.ticket == ticket);
        found.map(|waiting| waiting.claims.clone()).unwrap_or_default()
    }

    /// Both hear what was decided.
    fn listen(&mut self) {
        while let Some((ticket, verdict)) = self.world.locker.poll_verdict() {
            let Some(there) = self.before.guests.remove(&ticket) else {
                self.world.hear_verdict(ticket, verdict);
                continue;
            };
            match verdict {
                Verdict::Go(grant) => self.grant(there, grant),
                Verdict::Sorry(sorry) => self.before.locker.tell(there, Err(sorry), self.world.now),
                Verdict::Wait(..) => panic!("seed {}", self.world.seed),
            }
        }
        while let Some((ticket, verdict)) = self.before.locker.poll_verdict() {
            let at = self.before.waiting.iter().position(|waiting| waiting.ticket == ticket);
            let waiting = self.before.waiting.swap_remove(at.unwrap_or_else(|| panic!("seed {}", self.world.seed)));
            if let Verdict::Go(grant) = verdict {
                let items = self.world.note_items(&waiting.claims);
                self.before.sent.push(Sent { grant, items });
            }
        }
    }

    /// Something happens to what the first looks after.
    fn something_happens_before(&mut self) {
        let (now, limits) = (self.world.now, self.world.locker.limits().to_vec());
        let what = self.world.dice.roll(0, 8);
        let picked =
            (!self.before.sent.is_empty()).then(|| self.world.dice.roll(0, self.before.sent.len() as u64) as usize);
        match (what, picked) {
            (0..3, Some(picked)) => {
                let moment = [Moment::Sent, Moment::Answered, Moment::Failed][self.world.dice.roll(0, 3) as usize];
                let sent = &mut self.before.sent[picked];
                self.before.locker.settle(&mut sent.grant, moment, now);
                for item in &sent.items {
                    note_settle(&mut self.world.oracle.items[*item], &limits, moment, now);
                }
            }
            (3, Some(picked)) => {
                let sent = self.before.sent.swap_remove(picked);
                self.end(&sent.items, |item| {
                    item.cost = 0;
                    item.settled = Some(now);
                });
                self.before.locker.give_back(sent.grant, now);
            }
            (4, Some(picked)) => {
                let sent = self.before.sent.swap_remove(picked);
                self.end(&sent.items, |item| note_settle(item, &limits, Moment::Failed, now));
                self.before.locker.finish(sent.grant, now);
            }
            (5, _) if !self.before.waiting.is_empty() => {
                let picked = self.world.dice.roll(0, self.before.waiting.len() as u64) as usize;
                let left = self.before.waiting.swap_remove(picked);
                self.before.locker.leave(left.ticket, now);
            }
            _ => {
                let claims = self.world.claims();
                let verdict = self.before.locker.ask(&ask(&claims, self.world.dice.roll(0, 3)), now);
                let Verdict::Wait(ticket, None) = verdict else { panic!("seed {}: {verdict:?}", self.world.seed) };
                self.before.number += 1;
                self.before.waiting.push(Waiting { ticket, claims, number: self.before.number });
            }
        }
        self.listen();
    }

    fn end(&mut self, items: &[usize], mut end: impl FnMut(&mut Item)) {
        for item in items {
            let item = &mut self.world.oracle.items[*item];
            item.flying = false;
            if item.settled.is_none() {
                end(item);
            }
        }
    }

    fn live(mut self) -> u64 {
        for _ in 0..self.world.nature.steps {
            let now = self.world.time_goes_on();
            self.world.locker.handle_timeout(now);
            self.listen();
            match self.world.dice.roll(0, 10) {
                0..3 => self.deliver(),
                3..6 => self.something_happens_before(),
                _ => {
                    self.world.something_happens_but(now, Judged::Elsewhere);
                    self.listen();
                }
            }
        }
        self.rest()
    }

    /// All that is left of the first ends, and is heard of.
    fn rest(mut self) -> u64 {
        let (now, limits) = (self.world.now, self.world.locker.limits().to_vec());
        while let Some(waiting) = self.before.waiting.pop() {
            self.before.locker.leave(waiting.ticket, now);
        }
        while let Some(sent) = self.before.sent.pop() {
            self.end(&sent.items, |item| note_settle(item, &limits, Moment::Failed, now));
            self.before.locker.finish(sent.grant, now);
        }
        loop {
            self.deliver();
            if self.before.said.is_empty() && !self.before.locker.has_events() {
                break;
            }
        }
        // Verdicts on those who left meanwhile come back once more.
        self.listen();
        while self.before.locker.has_events() || !self.before.said.is_empty() {
            self.deliver();
        }
        self.world.come_to_rest();
        self.world.promise_holds();
        self.world.granted
    }
}

const NATURE: Nature = Nature { limits: 2, fixed: 1, changes: false, turns: true, steps: 300 };

fn handed_over(seed: u64) -> u64 {
    let mut world = World::new(seed, NATURE);
    for _ in 0..60 {
        let now = world.time_goes_on();
        world.something_happens(now);
        world.listen();
    }
    world.hand_over().live()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_locker_whose_windows_are_elsewhere_never_lets_more_go_than_it_may(seed: u64) {
        handed_over(seed);
    }
}

#[test]
fn worlds_that_are_handed_over_let_many_go() {
    let granted: u64 = (0..30).map(handed_over).sum();
    assert!(granted > 1000, "{granted}: worlds in which nothing happens prove nothing");
}

#[test]
fn what_was_under_way_when_the_other_process_died_counts_as_failed() {
    let mut first = Locker::new(vec![limit(2, 1000, Kind::Sliding)]);
    let claims = [claim(0, 0, 1)];
    let Verdict::Go(_grant) = first.ask(&ask(&claims, 1), ms(0)) else { panic!("it is free") };
    let mut second = Locker::inherit(first.estate(ms(1)), End::HandOver, 0, ms(1));
    first.give(ms(1));
    assert_eq!(second.usage(LimitId(0), Key(0), ms(1)).taken, 1);
    second.lose_guests(ms(10));
    assert_eq!(second.usage(LimitId(0), Key(0), ms(2009)).taken, 1, "it settles a second later");
    assert_eq!(second.usage(LimitId(0), Key(0), ms(2010)).taken, 0);
}

/// Three lockers, of which the first gave its windows to the second, and that one to the third.
struct Chain([Locker; 3]);

impl Chain {
    /// `first` has these windows now.
    fn from(mut first: Locker, now: Time) -> Chain {
        let mut second = Locker::inherit(first.estate(now), End::HandOver, 0, now);
        first.give(now);
        let third = Locker::inherit(second.estate(now), End::HandOver, 0, now);
        second.give(now);
        Chain([first, second, third])
    }

    /// The second hears the first, and the third the second; of what is asked the last word is returned.
    fn pass(&mut self, now: Time) -> Vec<Event> {
        let [first, second, third] = &mut self.0;
        let mut asked = Vec::new();
        while let Some(event) = first.poll_event() {
            second.hear(&event, now);
            asked.extend(matches!(event, Event::Ask { .. }).then_some(event));
        }
        while let Some(event) = second.poll_event() {
            third.hear(&event, now);
        }
        asked
    }
}

#[test]
fn windows_can_move_on_to_a_third_while_the_first_still_has_requests() {
    let mut first = Locker::new(vec![limit(2, 1000, Kind::Sliding)]);
    let claims = [claim(0, 0, 1)];
    let Verdict::Go(mut grant) = first.ask(&ask(&claims, 1), ms(0)) else { panic!("it is free") };
    let mut chain = Chain::from(first, ms(1));
    assert_eq!(chain.0[2].usage(LimitId(0), Key(0), ms(900)).taken, 1, "it has not settled");
    chain.0[0].settle(&mut grant, Moment::Answered, ms(900));
    assert!(chain.pass(ms(900)).is_empty());
    assert_eq!(chain.0[2].usage(LimitId(0), Key(0), ms(1899)).taken, 1);
    assert_eq!(chain.0[2].usage(LimitId(0), Key(0), ms(1900)).taken, 0);

    // What the first asks the third grants, over the second.
    let Verdict::Wait(of_first, None) = chain.0[0].ask(&ask(&claims, 1), ms(2000)) else { panic!("it cannot know") };
    let [Event::Ask { .. }] = chain.pass(ms(2000))[..] else { panic!("one asks") };
    let Verdict::Wait(of_second, None) = chain.0[1].ask(&ask(&claims, 1), ms(2000)) else { panic!("it cannot know") };
    let Verdict::Go(grant) = chain.0[2].ask(&ask(&claims, 1), ms(2000)) else { panic!("it is free") };
    let slots = chain.0[2].entrust(grant);
    chain.0[1].tell(of_second, Ok(slots), ms(2000));
    let Some((_, Verdict::Go(grant))) = chain.0[1].poll_verdict() else { panic!("it was told") };
    let slots = chain.0[1].entrust(grant);
    chain.0[0].tell(of_first, Ok(slots), ms(2000));
    let Some((_, Verdict::Go(grant))) = chain.0[0].poll_verdict() else { panic!("it was told") };
    assert_eq!(grant.held.len(), 1);
    // Its asking was heard of by the third too, as the second's.
    while chain.0[1].poll_event().is_some() {}
    chain.0[0].give_back(grant, ms(2001));
    chain.pass(ms(2001));
    assert_eq!(chain.0[2].usage(LimitId(0), Key(0), ms(2001)).taken, 0);
}

#[test]
fn the_end_of_the_first_is_heard_of_by_the_third() {
    let mut first = Locker::new(vec![limit(2, 1000, Kind::Sliding)]);
    let claims = [claim(0, 0, 1)];
    let Verdict::Go(_grant) = first.ask(&ask(&claims, 1), ms(0)) else { panic!("it is free") };
    let mut chain = Chain::from(first, ms(1));
    chain.0[1].lose_guests(ms(10));
    chain.pass(ms(10));
    assert_eq!(chain.0[2].usage(LimitId(0), Key(0), ms(2009)).taken, 1);
    assert_eq!(chain.0[2].usage(LimitId(0), Key(0), ms(2010)).taken, 0);
}

/// How many go at once.
fn free(locker: &mut Locker, now: Time) -> usize {
    let claims = [claim(0, 0, 1)];
    let asked = Ask { max_wait: Some(Duration::ZERO), ..ask(&claims, 1) };
    std::iter::from_fn(|| match locker.ask(&asked, now) {
        Verdict::Go(grant) => Some(grant),
        Verdict::Wait(..) | Verdict::Sorry(_) => None,
    })
    .collect::<Vec<_>>()
    .len()
}

#[test]
fn failed_attempts_that_have_not_settled_are_as_open_as_before() {
    for (kind, began, moved, looked) in [
        (Kind::Fixed, 9_000, 9_950, 10_100),
        (Kind::Smooth { burst: 5 }, 0, 10, 20),
        (Kind::Sliding, 9_000, 9_950, 19_950),
    ] {
        let fail = || {
            let mut locker = Locker::new(vec![limit(10, 10_000, kind.clone())]);
            let claims = [claim(0, 0, 1)];
            let mut grants = Vec::new();
            while let Verdict::Go(grant) = locker.ask(&ask(&claims, 1), ms(began)) {
                grants.push(grant);
            }
            // The origin may see them for a second.
            grants.into_iter().for_each(|grant| locker.finish(grant, ms(moved - 5)));
            locker
        };
        let mut alone = fail();
        for end in [End::HandOver, End::Orderly] {
            let mut next = Locker::inherit(fail().estate(ms(moved)), end, 0, ms(moved));
            assert_eq!(free(&mut next, ms(looked)), free(&mut alone, ms(looked)), "{kind:?} {end:?}");
        }
    }
}

#[test]
fn what_is_written_after_the_windows_were_given_away_is_of_no_account() {
    let patient = |requests| Limit { max_wait: Duration::from_secs(1000), ..limit(requests, 100_000, Kind::Sliding) };
    let mut first = Locker::new(vec![patient(100), patient(1)]);
    first.begin_recording(ms(0));
    let write = |locker: &mut Locker, now: Time| {
        while let Some(record) = locker.poll_record(now) {
            match record {
                Record::Limits => locker.limits_recorded(),
                Record::Window(_, written) => locker.recorded(written, now),
                Record::Gone(..) => {}
            }
        }
    };
    write(&mut first, ms(0));
    let both = [claim(0, 0, 1), claim(1, 0, 1)];
    // The second window is full with this one, whose slots may have to be written down first.
    let went = first.ask(&ask(&both, 1), ms(1));
    write(&mut first, ms(1));
    let _grant = match went {
        Verdict::Go(grant) => grant,
        Verdict::Wait(..) => match drain(&mut first).pop() {
            Some((_, Verdict::Go(grant))) => grant,
            other => panic!("{other:?}"),
        },
        Verdict::Sorry(sorry) => panic!("{sorry:?}"),
    };
    write(&mut first, ms(1));
    let verdict = first.ask(&ask(&both, 2), ms(2));
    let Verdict::Wait(ticket, _) = verdict else { panic!("the second is full: {verdict:?}") };
    // The disk is slow.
    let (mut writing, mut taken) = (Vec::new(), Vec::new());
    for n in 0..60 {
        taken.push(first.ask(&ask(&[claim(0, 0, 1)], 3), ms(3 + n)));
        writing.extend(std::iter::from_fn(|| first.poll_record(ms(3 + n))));
    }
    let written = writing.iter().find_map(|record| match record {
        Record::Window(_, written) => Some(*written),
        Record::Limits | Record::Gone(..) => None,
    });
    let written = written.expect("more of the first window is to be written");
    first.give(ms(100));
    first.leave(ticket, ms(101));
    first.recorded(written, ms(102));
    first.end_recording(ms(103));
}
