//! Tests of forwarding: a locker after it handed its windows over to another process.

use super::*;

#[test]
fn what_was_under_way_when_the_other_process_died_counts_as_failed() {
    let mut first = Locker::new(vec![limit(2, 1000, Kind::Sliding)]);
    let claims = [claim(0, 0, 1)];
    let Verdict::Go(_grant) = first.ask(&ask(&claims, 1), ms(0)) else { panic!("it is free") };
    let mut second = Locker::restore(first.snapshot(ms(1)), Shutdown::HandOver, WALL, ms(1));
    first.hand_over(ms(1));
    assert_eq!(second.usage(LimitId(0), Key(0), ms(1)).taken, 1);
    second.remote_lost(ms(10));
    assert_eq!(second.usage(LimitId(0), Key(0), ms(2009)).taken, 1, "it settles a second later");
    assert_eq!(second.usage(LimitId(0), Key(0), ms(2010)).taken, 0);
}

/// Three processes: the first handed its windows over to the second, and the second to the third.
struct Chain {
    first: Forwarder,
    second: Forwarder,
    third: Locker,
}

impl Chain {
    /// Hands the windows of `first` over twice.
    fn from(mut first: Locker, now: Time) -> Chain {
        let mut second = Locker::restore(first.snapshot(now), Shutdown::HandOver, WALL, now);
        let first = first.hand_over(now);
        let third = Locker::restore(second.snapshot(now), Shutdown::HandOver, WALL, now);
        Chain { first, second: second.hand_over(now), third }
    }

    /// Delivers events from the first to the second and from there to the third. Returns the asks among them.
    fn forward(&mut self, now: Time) -> Vec<Event> {
        let Chain { first, second, third } = self;
        let mut asked = Vec::new();
        while let Some(event) = first.poll_event() {
            second.handle_remote(&event);
            asked.extend(matches!(event, Event::Ask { .. }).then_some(event));
        }
        while let Some(event) = second.poll_event() {
            third.handle_remote(&event, now);
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
    assert_eq!(chain.third.usage(LimitId(0), Key(0), ms(900)).taken, 1, "it has not settled");
    chain.first.settle(&mut grant, SettlePoint::Answered, ms(900));
    assert!(chain.forward(ms(900)).is_empty());
    assert_eq!(chain.third.usage(LimitId(0), Key(0), ms(1899)).taken, 1);
    assert_eq!(chain.third.usage(LimitId(0), Key(0), ms(1900)).taken, 0);

    // An ask of the first is granted by the third, through the second.
    let Verdict::Wait(of_first, None) = chain.first.ask(&ask(&claims, 1), ms(2000)) else { panic!("it cannot know") };
    let [Event::Ask { .. }] = chain.forward(ms(2000))[..] else { panic!("one asks") };
    let Verdict::Wait(of_second, None) = chain.second.ask(&ask(&claims, 1), ms(2000)) else { panic!("it cannot know") };
    let Verdict::Go(grant) = chain.third.ask(&ask(&claims, 1), ms(2000)) else { panic!("it is free") };
    let slots = chain.third.delegate(grant);
    chain.second.handle_verdict(of_second, Ok(slots), ms(2000));
    let Some((_, Verdict::Go(grant))) = chain.second.poll_verdict() else { panic!("a verdict is ready") };
    let slots = chain.second.delegate(grant);
    chain.first.handle_verdict(of_first, Ok(slots), ms(2000));
    let Some((_, Verdict::Go(grant))) = chain.first.poll_verdict() else { panic!("a verdict is ready") };
    assert_eq!(grant.held.len(), 1);
    // The third learnt of that ask too, as the second's; its events are dropped.
    while chain.second.poll_event().is_some() {}
    chain.first.give_back(grant);
    chain.forward(ms(2001));
    assert_eq!(chain.third.usage(LimitId(0), Key(0), ms(2001)).taken, 0);
}

#[test]
fn the_end_of_the_first_is_heard_of_by_the_third() {
    let mut first = Locker::new(vec![limit(2, 1000, Kind::Sliding)]);
    let claims = [claim(0, 0, 1)];
    let Verdict::Go(_grant) = first.ask(&ask(&claims, 1), ms(0)) else { panic!("it is free") };
    let mut chain = Chain::from(first, ms(1));
    chain.second.remote_lost(ms(10));
    chain.forward(ms(10));
    assert_eq!(chain.third.usage(LimitId(0), Key(0), ms(2009)).taken, 1);
    assert_eq!(chain.third.usage(LimitId(0), Key(0), ms(2010)).taken, 0);
}

/// Number of slots granted at once.
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
            // The origin may still see them for a second.
            grants.into_iter().for_each(|grant| locker.finish(grant, ms(moved - 5)));
            locker
        };
        let mut alone = fail();
        for end in [Shutdown::HandOver, Shutdown::Orderly] {
            let mut next = Locker::restore(fail().snapshot(ms(moved)), end, WALL, ms(moved));
            assert_eq!(free(&mut next, ms(looked)), free(&mut alone, ms(looked)), "{kind:?} {end:?}");
        }
    }
}

#[test]
fn a_waiter_of_before_the_hand_over_stays_in_line_until_it_leaves_or_has_a_verdict() {
    let mut first = Locker::new(vec![limit(1, 1000, Kind::Sliding)]);
    let claims = [claim(0, 0, 1)];
    let Verdict::Go(grant) = first.ask(&ask(&claims, 1), ms(0)) else { panic!("it is free") };
    let mut tickets = Vec::new();
    for caller in [2, 3] {
        let Verdict::Wait(ticket, _) = first.ask(&ask(&claims, caller), ms(1)) else { panic!("it is full") };
        tickets.push(ticket);
    }
    let mut first = first.hand_over(ms(2));
    let Verdict::Wait(asked, None) = first.ask(&ask(&claims, 4), ms(3)) else { panic!("it cannot know") };
    assert_eq!(first.orphaned_tickets(), [tickets[0], tickets[1], asked]);
    first.give_back(grant);
    first.leave(tickets[0]);
    let sorry = Sorry { reason: RefusalReason::TimedOut, limit: LimitId(0), until: ms(5), exact: false };
    first.handle_verdict(tickets[1], Err(sorry), ms(4));
    assert!(matches!(first.poll_verdict(), Some((told, Verdict::Sorry(why))) if told == tickets[1] && why == sorry));
    assert_eq!(first.orphaned_tickets(), [asked]);
    let events: Vec<Event> = std::iter::from_fn(|| first.poll_event()).collect();
    let [Event::Ask { ticket, .. }, Event::GiveBack { cost: 1, .. }, Event::Leave(left)] = events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((ticket, left), (asked, tickets[0]));
}

#[test]
fn an_event_of_a_limit_that_is_unknown_is_not_understood() {
    let locker = Locker::new(vec![limit(1, 1000, Kind::Sliding)]);
    let asks = |claim| Event::Ask {
        ticket: Ticket { index: 0, generation: 0 },
        claims: [claim].into_iter().collect(),
        caller: Caller(1),
        urgency: 3,
        arrived: ms(0),
        bound: Time::NEVER,
        kind: AskKind::New,
    };
    let pauses = |limit| Event::Pause { limit: LimitId(limit), key: Key(0), until: ms(1) };
    assert!(locker.knows_limits_of(&asks(claim(0, 0, 1))) && locker.knows_limits_of(&pauses(0)));
    assert!(!locker.knows_limits_of(&asks(claim(1, 0, 1))), "there is one limit");
    assert!(!locker.knows_limits_of(&asks(claim(0, 0, 0))), "no request takes no slots");
    assert!(!locker.knows_limits_of(&pauses(1)));
}

#[test]
fn an_event_for_more_than_the_other_process_holds_changes_nothing() {
    let mut first = Locker::new(vec![Limit { in_flight: Some(5), ..limit(5, 1000, Kind::Sliding) }]);
    let Verdict::Go(_grant) = first.ask(&ask(&[claim(0, 0, 2)], 1), ms(0)) else { panic!("it is free") };
    let mut second = Locker::restore(first.snapshot(ms(1)), Shutdown::HandOver, WALL, ms(1));
    let Verdict::Go(_own) = second.ask(&ask(&[claim(0, 0, 1)], 1), ms(1)) else { panic!("it is free") };
    let (limit, key) = (LimitId(0), Key(0));
    second.handle_remote(&Event::GiveBack { limit, key, cost: 3 }, ms(2));
    second.handle_remote(&Event::Settle { limit, key, cost: 3, at: ms(2) }, ms(2));
    (0..2).for_each(|_| second.handle_remote(&Event::Land { limit, key }, ms(2)));
    let usage = second.usage(limit, key, ms(5000));
    assert_eq!((usage.taken, usage.flying), (3, 1), "its own request is under way, and two slots of the other");
}
