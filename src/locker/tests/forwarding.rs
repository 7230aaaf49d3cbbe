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

/// Three lockers: the first handed its windows over to the second, and the second to the third.
struct Chain([Locker; 3]);

impl Chain {
    /// Hands the windows of `first` over twice.
    fn from(mut first: Locker, now: Time) -> Chain {
        let mut second = Locker::restore(first.snapshot(now), Shutdown::HandOver, WALL, now);
        first.hand_over(now);
        let third = Locker::restore(second.snapshot(now), Shutdown::HandOver, WALL, now);
        second.hand_over(now);
        Chain([first, second, third])
    }

    /// Delivers events from the first to the second and from there to the third. Returns the asks among them.
    fn forward(&mut self, now: Time) -> Vec<Event> {
        let [first, second, third] = &mut self.0;
        let mut asked = Vec::new();
        while let Some(event) = first.poll_event() {
            second.handle_remote(&event, now);
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
    assert_eq!(chain.0[2].usage(LimitId(0), Key(0), ms(900)).taken, 1, "it has not settled");
    chain.0[0].settle(&mut grant, SettlePoint::Answered, ms(900));
    assert!(chain.forward(ms(900)).is_empty());
    assert_eq!(chain.0[2].usage(LimitId(0), Key(0), ms(1899)).taken, 1);
    assert_eq!(chain.0[2].usage(LimitId(0), Key(0), ms(1900)).taken, 0);

    // An ask of the first is granted by the third, through the second.
    let Verdict::Wait(of_first, None) = chain.0[0].ask(&ask(&claims, 1), ms(2000)) else { panic!("it cannot know") };
    let [Event::Ask { .. }] = chain.forward(ms(2000))[..] else { panic!("one asks") };
    let Verdict::Wait(of_second, None) = chain.0[1].ask(&ask(&claims, 1), ms(2000)) else { panic!("it cannot know") };
    let Verdict::Go(grant) = chain.0[2].ask(&ask(&claims, 1), ms(2000)) else { panic!("it is free") };
    let slots = chain.0[2].delegate(grant);
    chain.0[1].handle_verdict(of_second, Ok(slots), ms(2000));
    let Some((_, Verdict::Go(grant))) = chain.0[1].poll_verdict() else { panic!("a verdict is ready") };
    let slots = chain.0[1].delegate(grant);
    chain.0[0].handle_verdict(of_first, Ok(slots), ms(2000));
    let Some((_, Verdict::Go(grant))) = chain.0[0].poll_verdict() else { panic!("a verdict is ready") };
    assert_eq!(grant.held.len(), 1);
    // The third learnt of that ask too, as the second's; its events are dropped.
    while chain.0[1].poll_event().is_some() {}
    chain.0[0].give_back(grant, ms(2001));
    chain.forward(ms(2001));
    assert_eq!(chain.0[2].usage(LimitId(0), Key(0), ms(2001)).taken, 0);
}

#[test]
fn the_end_of_the_first_is_heard_of_by_the_third() {
    let mut first = Locker::new(vec![limit(2, 1000, Kind::Sliding)]);
    let claims = [claim(0, 0, 1)];
    let Verdict::Go(_grant) = first.ask(&ask(&claims, 1), ms(0)) else { panic!("it is free") };
    let mut chain = Chain::from(first, ms(1));
    chain.0[1].remote_lost(ms(10));
    chain.forward(ms(10));
    assert_eq!(chain.0[2].usage(LimitId(0), Key(0), ms(2009)).taken, 1);
    assert_eq!(chain.0[2].usage(LimitId(0), Key(0), ms(2010)).taken, 0);
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
fn what_is_written_after_the_windows_were_given_away_is_of_no_account() {
    let patient = |requests| Limit { max_wait: Duration::from_secs(1000), ..limit(requests, 100_000, Kind::Sliding) };
    let mut first = Locker::new(vec![patient(100), patient(1)]);
    first.begin_persisting(JournalStart::Fresh, ms(0));
    let write = |locker: &mut Locker, now: Time| {
        while let Some(record) = locker.poll_record(now) {
            match record {
                JournalRecord::Limits => locker.limits_written(),
                JournalRecord::Window(_, written) => locker.records_written([written], now),
                JournalRecord::Dropped(..) => {}
            }
        }
    };
    write(&mut first, ms(0));
    let both = [claim(0, 0, 1), claim(1, 0, 1)];
    // This request fills the second window; its slots may have to be written first.
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
        JournalRecord::Window(_, written) => Some(*written),
        JournalRecord::Limits | JournalRecord::Dropped(..) => None,
    });
    let written = written.expect("more of the first window is to be written");
    first.hand_over(ms(100));
    first.leave(ticket, ms(101));
    first.records_written([written], ms(102));
    first.end_persisting(ms(103));
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
