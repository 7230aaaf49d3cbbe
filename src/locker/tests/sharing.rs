//! Tests of shared limits: reports and slot requests to the store, and the effect of its grants.

use super::*;

fn locker(limits: Vec<Limit>) -> Locker {
    let limits = limits.into_iter().map(|limit| Limit { shared: true, ..limit }).collect();
    let mut locker = Locker::new(limits);
    locker.open_sharing(ms(0));
    locker
}

fn one(requests: u32, per: u64) -> Locker {
    locker(vec![limit(requests, per, Kind::Sliding)])
}

/// A store's answer: number of requests that may go after each delay in ms, and the delay until more may.
fn slot_grant(groups: &[(u64, u32)], later: Option<u64>) -> SlotGrant {
    let groups = groups.iter().map(|(after, count)| (Duration::from_millis(*after), *count)).collect();
    let next_in = later.map(Duration::from_millis);
    let blocked_for = std::iter::repeat_n(next_in.unwrap_or_default(), 2).collect();
    SlotGrant { groups, next_in, opens_then: true, blocked_for, ..SlotGrant::default() }
}

/// One call to the store from `began` to `ended`.
fn sync(locker: &mut Locker, began: Time, ended: Time, answers: &[SlotGrant]) -> SyncRequest {
    let sync = locker.take_sync(SyncTrigger::Due, began);
    assert_eq!(sync.slot_requests.len(), answers.len(), "{sync:?}");
    locker.sync_answered(&sync, answers, began, ended, ended);
    sync
}

fn wait(locker: &mut Locker, claims: &[Claim], now: Time) -> Ticket {
    let verdict = locker.ask(&ask(claims, 1), now);
    let Verdict::Wait(ticket, _) = verdict else { panic!("{verdict:?}") };
    ticket
}

fn drain_grants(locker: &mut Locker) -> Vec<Grant> {
    let go = |(_, verdict)| {
        let Verdict::Go(grant) = verdict else { panic!("{verdict:?}") };
        grant
    };
    drain(locker).into_iter().map(go).collect()
}

#[test]
fn a_granted_slot_is_used_when_it_opens_and_until_its_lease_is_over() {
    let mut locker = one(5, 100);
    wait(&mut locker, &[claim(0, 0, 1)], ms(10));
    assert!(locker.has_sync());
    sync(&mut locker, ms(10), ms(12), &[slot_grant(&[(4, 1)], None)]);
    assert!(drain_grants(&mut locker).is_empty());
    // The store granted it between the time of the request and the time of the answer.
    assert_eq!(locker.poll_timeout(), Some(ms(16)));
    locker.handle_timeout(ms(16));
    let grants = drain_grants(&mut locker);
    assert_eq!(grants[0].until(), ms(14) + LEASE);
}

#[test]
fn what_nobody_used_in_its_time_is_given_back_and_never_used() {
    let mut locker = one(5, 100);
    let ticket = wait(&mut locker, &[claim(0, 0, 1)], ms(10));
    sync(&mut locker, ms(10), ms(12), &[slot_grant(&[(4, 1)], None)]);
    locker.leave(ticket, ms(13));
    let late = ms(14) + LEASE;
    wait(&mut locker, &[claim(0, 0, 1)], late);
    assert!(drain_grants(&mut locker).is_empty(), "the slot is another gateway's by now");
    let sync = locker.take_sync(SyncTrigger::Due, late);
    assert_eq!((sync.windows[0].returned, sync.slot_requests[0].requests), (1, 1));
}

#[test]
fn what_is_not_used_any_more_is_given_back_at_a_beat() {
    let mut locker = one(5, 100);
    let ticket = wait(&mut locker, &[claim(0, 0, 1)], ms(10));
    sync(&mut locker, ms(10), ms(12), &[slot_grant(&[(4, 1)], None)]);
    locker.leave(ticket, ms(13));
    assert_eq!(locker.take_sync(SyncTrigger::Heartbeat, ms(20)).windows[0].returned, 0, "it may come in handy yet");
    assert_eq!(locker.take_sync(SyncTrigger::Heartbeat, ms(40)).windows[0].returned, 1);
}

#[test]
fn settles_are_told_soon_with_their_time_and_again_if_nobody_knows_whether_they_were_heard() {
    let mut locker = one(5, 1000);
    wait(&mut locker, &[claim(0, 0, 2)], ms(10));
    sync(&mut locker, ms(10), ms(12), &[slot_grant(&[(0, 1)], None)]);
    let mut grants = drain_grants(&mut locker);
    locker.settle(&mut grants[0], SettlePoint::Sent, ms(20));
    assert_eq!(locker.sync_due(), Some(ms(12)), "what was used of late is asked for ahead");
    let sync = locker.take_sync(SyncTrigger::Due, ms(25));
    assert_eq!(sync.windows[0].settled, [(ms(20), 2)]);
    locker.sync_lost(sync, ms(30));
    locker.close_sharing(ms(30));
    locker.open_sharing(ms(40));
    let sync = locker.take_sync(SyncTrigger::Due, ms(40));
    assert_eq!((sync.windows[0].is_new, sync.windows[0].held), (true, 0));
    assert_eq!(sync.windows[0].settled, [(ms(20), 2)]);
}

#[test]
fn who_is_under_way_when_the_store_is_found_again_is_told_and_what_was_granted_before_is_gone() {
    let mut locker = one(9, 1000);
    wait(&mut locker, &[claim(0, 0, 3)], ms(10));
    let ticket = wait(&mut locker, &[claim(0, 0, 3)], ms(10));
    sync(&mut locker, ms(10), ms(12), &[slot_grant(&[(0, 1), (5, 1)], None)]);
    let grants = drain_grants(&mut locker);
    assert_eq!(grants.len(), 1);
    locker.close_sharing(ms(13));
    locker.open_sharing(ms(13));
    locker.handle_timeout(ms(17));
    assert!(drain_grants(&mut locker).is_empty(), "it was granted by a store that may have forgotten it");
    let sync = locker.take_sync(SyncTrigger::Due, ms(17));
    assert_eq!((sync.windows[0].is_new, sync.windows[0].held, sync.windows[0].waiting), (true, 3, 3));
    locker.leave(ticket, ms(17));
}

#[test]
fn who_does_not_wait_is_refused_when_the_store_has_said_until_when() {
    let mut locker = locker(vec![Limit { when_full: WhenFull::Refuse, ..limit(1, 100, Kind::Sliding) }]);
    wait(&mut locker, &[claim(0, 0, 1)], ms(10));
    sync(&mut locker, ms(10), ms(12), &[slot_grant(&[], Some(70))]);
    let [(_, Verdict::Sorry(sorry))] = &drain(&mut locker)[..] else { panic!("it waits") };
    assert_eq!((sorry.reason, sorry.until, sorry.exact), (RefusalReason::Full, ms(82), false));
    // While that answer holds, the store is not asked again.
    let Verdict::Sorry(sorry) = locker.ask(&ask(&[claim(0, 0, 1)], 1), ms(20)) else { panic!("it waits") };
    assert_eq!((sorry.reason, sorry.until), (RefusalReason::Full, ms(183)), "behind the one before");
    assert!(locker.take_sync(SyncTrigger::Due, ms(20)).slot_requests.is_empty());
}

#[test]
fn a_wait_that_is_longer_than_the_patience_is_refused_on_arrival() {
    let mut locker = locker(vec![Limit { max_wait: Duration::from_millis(50), ..limit(1, 100, Kind::Sliding) }]);
    wait(&mut locker, &[claim(0, 0, 1)], ms(10));
    sync(&mut locker, ms(10), ms(12), &[slot_grant(&[], Some(90))]);
    let Verdict::Sorry(sorry) = locker.ask(&ask(&[claim(0, 0, 1)], 1), ms(20)) else { panic!("it waits") };
    assert_eq!((sorry.reason, sorry.until), (RefusalReason::TooLong, ms(102)));
}

#[test]
fn the_store_is_asked_again_shortly_before_the_opening() {
    let mut locker = one(1, 100);
    wait(&mut locker, &[claim(0, 0, 1)], ms(10));
    sync(&mut locker, ms(10), ms(12), &[slot_grant(&[], Some(70))]);
    let due = locker.sync_due().unwrap();
    assert!((ms(75)..ms(80)).contains(&due), "{due:?}: three quarters of 5 ms and half a round trip before 82 ms");
    assert_eq!(locker.poll_timeout(), Some(due));
    locker.handle_timeout(due);
    sync(&mut locker, due, due, &[slot_grant(&[(4, 1)], None)]);
    locker.handle_timeout(due + Duration::from_millis(4));
    assert_eq!(drain_grants(&mut locker).len(), 1);
}

#[test]
fn all_windows_of_a_request_are_asked_for_together_and_only_when_nothing_else_keeps_it_back() {
    let local = Limit { shared: false, ..limit(1, 50, Kind::Sliding) };
    let mut locker = Locker::new(vec![
        local,
        Limit { shared: true, ..limit(5, 100, Kind::Sliding) },
        Limit { shared: true, ..limit(5, 100, Kind::Sliding) },
    ]);
    locker.open_sharing(ms(0));
    send(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(10)).unwrap();
    let claims = [claim(0, 0, 1), claim(1, 0, 2), claim(2, 0, 1)];
    wait(&mut locker, &claims, ms(20));
    assert!(locker.take_sync(SyncTrigger::Due, ms(20)).slot_requests.is_empty());
    locker.handle_timeout(ms(60));
    let sync = sync(&mut locker, ms(60), ms(61), &[slot_grant(&[(0, 1)], None)]);
    assert_eq!(sync.slot_requests[0].windows.iter().map(|(_, cost)| *cost).collect::<Vec<u32>>(), [2, 1]);
    assert_eq!(drain_grants(&mut locker).len(), 1);
}

#[test]
fn without_a_store_who_waits_is_told_why_at_last_and_local_limits_go_on() {
    let mut locker = Locker::new(vec![
        Limit { shared: true, max_wait: Duration::from_millis(50), ..limit(5, 100, Kind::Sliding) },
        limit(5, 100, Kind::Sliding),
    ]);
    wait(&mut locker, &[claim(0, 0, 1)], ms(10));
    assert_eq!((locker.sync_due(), locker.shares()), (None, true));
    send(&mut locker, &ask(&[claim(1, 0, 1)], 1), ms(10)).unwrap();
    locker.handle_timeout(ms(60));
    let [(_, Verdict::Sorry(sorry))] = &drain(&mut locker)[..] else { panic!("it waits") };
    assert_eq!(sorry.reason, RefusalReason::StoreLost);
}

#[test]
fn a_part_of_a_limit_counts_what_this_gateway_has_sent_itself() {
    let mut locker = one(6, 100);
    wait(&mut locker, &[claim(0, 0, 2)], ms(10));
    sync(&mut locker, ms(10), ms(10), &[slot_grant(&[(0, 1)], None)]);
    let mut grants = drain_grants(&mut locker);
    locker.settle(&mut grants[0], SettlePoint::Sent, ms(20));
    locker.close_sharing(ms(30));
    let part = SharingMode::Fraction { parts: std::num::NonZeroU32::new(2).unwrap(), until: ms(1000) };
    locker.set_sharing_mode(Some(LimitId(0)), part, ms(40));
    send(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(40)).unwrap();
    let ticket = wait(&mut locker, &[claim(0, 0, 1)], ms(40));
    locker.leave(ticket, ms(41));
    // Half of six slots is never enough for five.
    let Verdict::Sorry(sorry) = locker.ask(&ask(&[claim(0, 0, 5)], 1), ms(41)) else { panic!("it goes") };
    assert_eq!(sorry.reason, RefusalReason::StoreLost);
    // The slots used meanwhile are reported to the store.
    locker.open_sharing(ms(50));
    let sync = locker.take_sync(SyncTrigger::Due, ms(50));
    assert_eq!(sync.windows[0].settled.iter().map(|(_, count)| count).sum::<u32>(), 3);
}

#[test]
fn what_goes_in_a_part_must_have_left_when_the_part_ends() {
    let mut locker = one(6, 100);
    locker.close_sharing(ms(0));
    let part = SharingMode::Fraction { parts: std::num::NonZeroU32::new(2).unwrap(), until: ms(150) };
    locker.set_sharing_mode(Some(LimitId(0)), part, ms(10));
    let Verdict::Go(mut grant) = locker.ask(&ask(&[claim(0, 0, 3)], 1), ms(40)) else { panic!("it waits") };
    assert_eq!(grant.until(), ms(150));
    locker.settle(&mut grant, SettlePoint::Sent, ms(60));
    // The next slots open at 160 ms, and belong to other gateways by then.
    wait(&mut locker, &[claim(0, 0, 1)], ms(70));
    locker.handle_timeout(ms(160));
    wait(&mut locker, &[claim(0, 0, 1)], ms(160));
    assert!(drain(&mut locker).is_empty());
    locker.set_sharing_mode(Some(LimitId(0)), SharingMode::Standalone, ms(170));
    let grants = drain_grants(&mut locker);
    assert_eq!((grants.len(), grants[0].until()), (2, Time::NEVER));
}

#[test]
fn a_limit_that_is_shared_no_more_has_the_store_forget_what_it_knew() {
    let mut locker = one(5, 100);
    wait(&mut locker, &[claim(0, 0, 1)], ms(10));
    sync(&mut locker, ms(10), ms(10), &[slot_grant(&[(0, 1)], None)]);
    let limits = locker.limits().iter().map(|limit| Limit { shared: false, ..limit.clone() }).collect();
    locker.reload(limits, Duration::ZERO, ms(20));
    assert!(locker.has_sync() && locker.take_sync(SyncTrigger::Due, ms(20)).renew_id);
    locker.open_sharing(ms(21));
    assert!(locker.take_sync(SyncTrigger::Heartbeat, ms(22)).windows.is_empty() && !locker.shares());
    assert!(!locker.has_sync());
}

#[test]
fn when_nobody_waits_any_more_the_store_is_told() {
    let mut locker = one(1, 1000);
    let ticket = wait(&mut locker, &[claim(0, 0, 1)], ms(10));
    let sync = sync(&mut locker, ms(10), ms(10), &[slot_grant(&[], Some(500))]);
    assert_eq!(sync.windows[0].waiting, 1);
    locker.leave(ticket, ms(20));
    locker.handle_timeout(ms(30));
    assert_eq!(locker.take_sync(SyncTrigger::Due, ms(30)).windows[0].waiting, 0);
}

#[test]
fn who_comes_during_a_pause_is_asked_for_when_it_ends() {
    let mut locker = one(5, 100);
    locker.pause(LimitId(0), Key(0), ms(2000), ms(10));
    locker.take_sync(SyncTrigger::Due, ms(10));
    wait(&mut locker, &[claim(0, 0, 1)], ms(20));
    let due = locker.sync_due().unwrap();
    assert!((ms(1990)..ms(2000)).contains(&due), "{due:?}");
    locker.handle_timeout(due);
    assert_eq!(locker.take_sync(SyncTrigger::Due, due).slot_requests.len(), 1);
}

#[test]
fn what_keeps_a_large_request_back_keeps_no_small_one_back() {
    let mut locker = one(10, 60_000);
    let ticket = wait(&mut locker, &[claim(0, 0, 9)], ms(10));
    sync(&mut locker, ms(10), ms(10), &[slot_grant(&[], Some(50_000))]);
    locker.leave(ticket, ms(20));
    wait(&mut locker, &[claim(0, 0, 1)], ms(30));
    sync(&mut locker, ms(30), ms(30), &[slot_grant(&[(0, 1)], None)]);
    assert_eq!(drain_grants(&mut locker).len(), 1);
}

#[test]
fn under_another_rule_the_store_is_asked_anew() {
    let mut locker = one(1, 60_000);
    wait(&mut locker, &[claim(0, 0, 1)], ms(10));
    sync(&mut locker, ms(10), ms(10), &[slot_grant(&[], Some(50_000))]);
    assert!(locker.sync_due().unwrap() > ms(40_000));
    let wider = Limit { shared: true, ..limit(1000, 60_000, Kind::Sliding) };
    change(&mut locker, LimitId(0), wider, ms(20));
    sync(&mut locker, ms(20), ms(20), &[slot_grant(&[(0, 1)], None)]);
    assert_eq!(drain_grants(&mut locker).len(), 1);
}

#[test]
fn while_the_store_is_lost_windows_that_hold_nothing_any_more_are_dropped() {
    let mut locker = locker(vec![Limit { max_keys: 10, ..limit(5, 100, Kind::Sliding) }]);
    locker.close_sharing(ms(0));
    locker.set_sharing_mode(None, SharingMode::Standalone, ms(0));
    for key in 0..100 {
        let now = ms(10 + 200 * u64::try_from(key).unwrap());
        locker.handle_timeout(now);
        send(&mut locker, &ask(&[claim(0, key, 1)], 1), now).unwrap();
    }
}

#[test]
fn what_is_told_at_one_time_has_a_bound() {
    let mut locker = one(1000, 60_000);
    locker.close_sharing(ms(0));
    locker.set_sharing_mode(None, SharingMode::Standalone, ms(0));
    for at in 0..900 {
        send(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(10 + at)).unwrap();
    }
    locker.open_sharing(ms(2000));
    let sync = locker.take_sync(SyncTrigger::Due, ms(2000));
    let settled = &sync.windows[0].settled;
    assert!(settled.len() <= 200 && sync.windows[0].is_new, "{}", settled.len());
    assert_eq!(settled.iter().map(|(_, count)| count).sum::<u32>(), 900);
    assert!(settled[0].0 >= ms(13), "never earlier than they were");
}

#[test]
fn what_is_granted_to_a_limit_that_is_shared_no_more_keeps_no_window_alive() {
    let mut locker = locker(vec![Limit { max_keys: 1, ..limit(5, 100, Kind::Sliding) }]);
    let ticket = wait(&mut locker, &[claim(0, 0, 1)], ms(10));
    let asked = locker.take_sync(SyncTrigger::Due, ms(10));
    locker.leave(ticket, ms(11));
    let limits = locker.limits().iter().map(|limit| Limit { shared: false, ..limit.clone() }).collect();
    locker.reload(limits, Duration::ZERO, ms(12));
    locker.sync_answered(&asked, &[slot_grant(&[(0, 1)], None)], ms(10), ms(13), ms(13));
    for later in 1..100 {
        locker.handle_timeout(ms(1000 * later));
    }
    send(&mut locker, &ask(&[claim(0, 1, 1)], 1), ms(100_000)).unwrap();
}

#[test]
fn what_is_kept_for_other_gateways_has_a_bound_and_forgets_nothing() {
    let mut locker = one(1000, 1000);
    locker.set_reported_spans(&[(LimitId(0), Duration::from_secs(86_400))]);
    locker.close_sharing(ms(0));
    locker.set_sharing_mode(None, SharingMode::Standalone, ms(0));
    for at in 0..20_000 {
        send(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(10 + at)).unwrap();
    }
    locker.open_sharing(ms(30_000));
    let settled = &locker.take_sync(SyncTrigger::Heartbeat, ms(30_000)).windows[0].settled;
    assert_eq!(settled.iter().map(|(_, count)| count).sum::<u32>(), 20_000);
    assert!(settled.len() <= 200);
    let mut sync = settled.iter().flat_map(|(at, count)| std::iter::repeat_n(*at, *count as usize));
    assert!((0..20_000).all(|sent| sync.next().unwrap() >= ms(10 + sent)), "none earlier than it was");
}

#[test]
fn what_settled_is_told_for_as_long_as_it_counts_for_any_gateway() {
    let mut locker = one(5, 100);
    locker.set_reported_spans(&[(LimitId(0), Duration::from_secs(60))]);
    wait(&mut locker, &[claim(0, 0, 1)], ms(10));
    sync(&mut locker, ms(10), ms(12), &[slot_grant(&[(0, 1)], None)]);
    let mut grants = drain_grants(&mut locker);
    locker.settle(&mut grants[0], SettlePoint::Sent, ms(20));
    locker.close_sharing(ms(30));
    for later in 1..50 {
        locker.handle_timeout(ms(1000 * later));
    }
    locker.open_sharing(ms(50_000));
    let sync = locker.take_sync(SyncTrigger::Heartbeat, ms(50_000));
    assert_eq!(sync.windows.first().map(|sync| sync.settled.clone()), Some(vec![(ms(20), 1)]));
}

#[test]
fn a_smooth_slot_that_nobody_waits_for_is_given_back_at_once() {
    // While the slot is leased, no other gateway is granted one.
    let smooth = || locker(vec![limit(5, 100, Kind::Smooth { burst: 1 })]);
    let mut locker = smooth();
    let ticket = wait(&mut locker, &[claim(0, 0, 1)], ms(10));
    sync(&mut locker, ms(10), ms(12), &[slot_grant(&[(4, 1)], None)]);
    locker.leave(ticket, ms(13));
    locker.handle_timeout(ms(20));
    assert_eq!(locker.take_sync(SyncTrigger::Due, ms(20)).windows[0].returned, 1);
    // The waiter leaves while the request for its slot is under way.
    let mut locker = smooth();
    let ticket = wait(&mut locker, &[claim(0, 0, 1)], ms(10));
    let asked = locker.take_sync(SyncTrigger::Due, ms(10));
    locker.leave(ticket, ms(11));
    locker.sync_answered(&asked, &[slot_grant(&[(4, 1)], None)], ms(10), ms(12), ms(12));
    locker.handle_timeout(ms(20));
    assert_eq!(locker.take_sync(SyncTrigger::Due, ms(20)).windows[0].returned, 1);
}

#[test]
fn who_waited_for_an_answer_of_a_store_that_was_lost_is_asked_for_when_it_is_found() {
    let mut locker = one(1, 1000);
    wait(&mut locker, &[claim(0, 0, 1)], ms(10));
    wait(&mut locker, &[claim(0, 1, 1)], ms(10));
    // Nothing opens within half a second.
    let asked = locker.take_sync(SyncTrigger::Due, ms(10));
    let answers = vec![slot_grant(&[], Some(500)); asked.slot_requests.len()];
    locker.sync_answered(&asked, &answers, ms(10), ms(10), ms(10));
    let asked = locker.take_sync(SyncTrigger::Heartbeat, ms(600));
    assert_eq!(asked.slot_requests.len(), 2);
    locker.sync_lost(asked, ms(610));
    locker.close_sharing(ms(610));
    assert!(!locker.has_sync());
    locker.open_sharing(ms(620));
    assert_eq!(locker.take_sync(SyncTrigger::Due, ms(620)).slot_requests.len(), 2);
}
