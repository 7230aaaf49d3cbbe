//! Tests of removed limits: kept as long as their counts matter, and then forgotten.

use super::*;

fn named(name: &str, per: u64) -> Limit {
    Limit { name: name.into(), when_full: WhenFull::Refuse, ..limit(2, per, Kind::Sliding) }
}

fn reload(locker: &mut Locker, limits: Vec<Limit>, now: Time) -> ReloadSummary {
    locker.reload(limits, Duration::ZERO, now)
}

fn use_one(locker: &mut Locker, limit: LimitId, now: Time) {
    assert!(send(locker, &ask(&[claim(limit.0, 0, 1)], 1), now).is_ok());
}

/// Lets the sweep pass over the whole table.
fn sweep(locker: &mut Locker, now: Time) {
    (0..40).for_each(|round| locker.handle_timeout(now + Duration::from_millis(500 * round)));
}

#[test]
fn what_is_gone_is_kept_while_it_counts_and_forgotten_afterwards() {
    let mut locker = Locker::new(vec![named("a", 1000), named("b", 1000)]);
    use_one(&mut locker, LimitId(0), ms(0));
    use_one(&mut locker, LimitId(1), ms(0));
    reload(&mut locker, vec![named("b", 1000)], ms(1));
    sweep(&mut locker, ms(2));
    assert!(locker.limits()[0].is_forgotten() && !locker.is_in_force(LimitId(0)));
    assert!(!locker.limits()[1].is_forgotten() && locker.is_in_force(LimitId(1)));
    // A request that was classified before the reload may still name the limit; that has no effect.
    use_one(&mut locker, LimitId(0), ms(30_000));
    sweep(&mut locker, ms(30_001));
    assert_eq!(locker.live_keys(), 0);
    let back = reload(&mut locker, vec![named("b", 1000), named("a", 1000)], ms(60_000));
    assert_eq!((back.added, back.returned), (vec![LimitId(2)], vec![]), "its number is not used again");
}

#[test]
fn what_still_counts_is_there_when_it_comes_back() {
    let mut locker = Locker::new(vec![named("a", 60_000), named("b", 1000)]);
    use_one(&mut locker, LimitId(0), ms(0));
    reload(&mut locker, vec![named("b", 1000)], ms(1));
    sweep(&mut locker, ms(2));
    let back = reload(&mut locker, vec![named("b", 1000), named("a", 60_000)], ms(30_000));
    assert_eq!(back.returned, [LimitId(0)]);
    use_one(&mut locker, LimitId(0), ms(30_000));
    assert!(send(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(30_000)).is_err(), "one of two was used before");
}

#[test]
fn what_a_crash_may_have_cost_is_kept_until_it_no_longer_counts() {
    let known = |unknown: Vec<(Time, u32)>| LimitSnapshot {
        limit: named("a", 1000),
        in_force: false,
        since: ms(0),
        unknown,
        suspended: Vec::new(),
        lingers: None,
    };
    for (unknown, now, is_forgotten) in
        [(vec![], 5, true), (vec![(ms(0), 2)], 5, false), (vec![(ms(0), 2)], 1000, true)]
    {
        let snapshot = Snapshot { limits: vec![known(unknown)], ..Snapshot::default() };
        let mut locker = Locker::restore(snapshot, Shutdown::Orderly, WALL, ms(now));
        reload(&mut locker, vec![named("b", 1000)], ms(now));
        assert_eq!(locker.limits()[0].is_forgotten(), is_forgotten, "at {now} ms");
    }
}

#[test]
fn what_is_written_of_windows_that_are_gone_goes_before_their_limit_does() {
    let mut locker = Locker::new(vec![named("a", 1000), named("b", 1000)]);
    locker.begin_persisting(JournalStart::Fresh, ms(0));
    // Logs the records written: limits, a window, a dropped window.
    let write = |locker: &mut Locker, now: Time| {
        let mut log = String::new();
        while let Some(record) = locker.poll_record(now) {
            match record {
                JournalRecord::Limits => {
                    log.push('L');
                    locker.limits_written();
                }
                JournalRecord::Window(_, written) => {
                    log.push('W');
                    locker.records_written([written], now);
                }
                JournalRecord::Dropped(limit, _) => {
                    log.push('G');
                    assert_eq!(&*locker.limits()[limit.at()].name, "a", "or its record is never found");
                }
            }
        }
        log
    };
    assert_eq!(write(&mut locker, ms(0)), "L");
    let claims = [claim(0, 0, 1)];
    let Verdict::Wait(ticket, _) = locker.ask(&ask(&claims, 1), ms(0)) else { panic!("it is written first") };
    assert_eq!(write(&mut locker, ms(0)), "W");
    let verdicts = drain(&mut locker);
    let [(got, Verdict::Go(_))] = &verdicts[..] else { panic!("{verdicts:?}") };
    assert_eq!(*got, ticket);
    for (_, verdict) in verdicts {
        let Verdict::Go(mut grant) = verdict else { continue };
        locker.settle(&mut grant, SettlePoint::Answered, ms(0));
    }
    reload(&mut locker, vec![named("b", 1000)], ms(1));
    assert_eq!(write(&mut locker, ms(1)), "L");
    sweep(&mut locker, ms(2));
    assert!(!locker.limits()[0].is_forgotten(), "its record is still there");
    assert_eq!(write(&mut locker, ms(30_000)), "G");
    reload(&mut locker, vec![named("b", 1000)], ms(30_001));
    assert!(locker.limits()[0].is_forgotten());
    assert_eq!(write(&mut locker, ms(30_001)), "L", "without it");
}

#[test]
fn names_that_come_and_go_leave_nothing_that_any_step_must_look_at() {
    let mut locker = Locker::new(vec![named("stays", 1000)]);
    for round in 0..300 {
        let now = ms(round * 10_000);
        let (one, other) = (format!("one {round}"), format!("other {round}"));
        let made = reload(&mut locker, vec![named("stays", 1000), named(&one, 100), named(&other, 100)], now);
        use_one(&mut locker, made.ids[1], now);
        sweep(&mut locker, now + Duration::from_millis(1));
        assert!(locker.counters.limits.ids.len() <= 5, "{}", locker.counters.limits.ids.len());
        assert!(locker.counters.limits.retired.len() <= 2);
    }
    let known = locker.crash_limit_snapshots();
    assert_eq!(known.len(), 601, "their numbers are kept for another process");
    assert!(known.iter().filter(|known| !known.limit.is_forgotten()).count() <= 5);
}

#[test]
fn another_process_knows_limits_by_the_same_numbers() {
    let mut locker = Locker::new(vec![named("a", 100), named("b", 60_000)]);
    reload(&mut locker, vec![named("b", 60_000)], ms(1));
    reload(&mut locker, vec![named("b", 60_000)], ms(2));
    assert!(locker.limits()[0].is_forgotten());
    use_one(&mut locker, LimitId(1), ms(3));
    let mut next = Locker::restore(locker.snapshot(ms(4)), Shutdown::HandOver, WALL, ms(4));
    let same = reload(&mut next, vec![named("b", 60_000)], ms(4));
    assert_eq!((same.ids, same.added), (vec![LimitId(1)], vec![]));
    use_one(&mut next, LimitId(1), ms(5));
    assert!(send(&mut next, &ask(&[claim(1, 0, 1)], 1), ms(5)).is_err());
}
