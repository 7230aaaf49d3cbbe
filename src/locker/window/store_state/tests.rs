//! Tests of leases, and of the reports to the store.

use super::*;
use crate::locker::api::{Key, LimitId};
use crate::locker::limit::{Kind, Limit};
use crate::locker::tests::{limit, ms};

/// A window whose slots the store grants, and its rule.
struct Managed {
    rule: WindowRule,
    window: Window,
}

impl Managed {
    fn of(limit: Limit) -> Managed {
        let mut rule = WindowRule::new(&Limit { shared: true, ..limit });
        rule.store_managed = true;
        let window = Window::new(LimitId(0), Key::WHOLE, &rule, Time::START);
        Managed { rule, window }
    }

    /// At most 160 slots a minute.
    fn slots() -> Managed {
        Managed::of(limit(160, 60_000, Kind::Sliding))
    }

    /// At most 160 slots a minute, and 10 flights.
    fn slots_and_flights() -> Managed {
        Managed::of(Limit { in_flight: Some(10), ..limit(160, 60_000, Kind::Sliding) })
    }

    fn lease(&mut self, from: u64, until: u64, slots: u32, flights: u32) {
        self.window.add_lease(&self.rule, SlotLease { from: ms(from), until: ms(until), slots, flights });
    }

    fn delta(&mut self, now: Time) -> Delta {
        self.window.take_delta(&self.rule, 1, now).0
    }

    fn settled(&self) -> Vec<(Time, u32)> {
        self.window.store_state().map_or_else(Vec::new, |store| store.settled.iter().copied().collect())
    }

    fn has_state(&self, now: Time) -> bool {
        self.window.has_store_state(&self.rule, now)
    }
}

#[test]
fn a_lease_covers_requests_from_its_opening_until_its_end() {
    let mut managed = Managed::slots();
    managed.lease(10, 100, 2, 0);
    managed.lease(20, 100, 1, 0);
    let opens = |cost, now| managed.window.lease_opens(&managed.rule, cost, now);
    assert_eq!(
        (opens(1, ms(0)), opens(2, ms(0)), opens(3, ms(0)), opens(4, ms(0))),
        (Some(ms(10)), Some(ms(10)), Some(ms(20)), None)
    );
    assert_eq!((opens(1, ms(50)), opens(1, ms(99)), opens(1, ms(100))), (Some(ms(50)), Some(ms(99)), None));
}

#[test]
fn a_request_must_leave_by_the_first_end_of_the_leases_that_it_uses() {
    let mut managed = Managed::slots_and_flights();
    managed.lease(0, 90, 1, 0);
    managed.lease(1, 50, 1, 1);
    managed.lease(2, 10, 1, 0);
    assert_eq!(managed.window.requests_covered(&managed.rule, 1), 1, "there is one flight");
    assert_eq!(managed.window.use_lease(&managed.rule, 1), ms(50), "the slot of the first, the flight of the second");
    assert_eq!(managed.window.leased_slots(&managed.rule), 2);
    assert_eq!(managed.window.requests_covered(&managed.rule, 1), 0, "there is no flight left");
    managed.lease(3, 70, 0, 1);
    assert_eq!(managed.window.use_lease(&managed.rule, 2), ms(10));
    assert!(!managed.window.has_leases(&managed.rule), "they are used up");
}

#[test]
fn leases_cover_as_many_requests_as_their_slots_and_flights_allow() {
    let mut managed = Managed::slots();
    assert_eq!(
        (managed.window.requests_covered(&managed.rule, 1), managed.window.has_leases(&managed.rule)),
        (0, false)
    );
    managed.lease(0, 90, 5, 0);
    assert_eq!([1, 2, 5, 6].map(|cost| managed.window.requests_covered(&managed.rule, cost)), [5, 2, 1, 0]);
    let mut managed = Managed::of(Limit { rate: None, in_flight: Some(10), ..limit(1, 1000, Kind::Sliding) });
    managed.lease(0, 90, 0, 3);
    assert_eq!(managed.window.requests_covered(&managed.rule, 7), 3);
}

#[test]
fn what_is_left_of_a_lease_goes_back_when_it_ends() {
    let mut managed = Managed::slots_and_flights();
    managed.lease(0, 50, 2, 1);
    managed.lease(0, 80, 1, 1);
    managed.window.expire_leases(&managed.rule, ms(49));
    assert_eq!(managed.window.leased_slots(&managed.rule), 3);
    managed.window.expire_leases(&managed.rule, ms(50));
    assert_eq!(managed.window.leased_slots(&managed.rule), 1);
    let delta = managed.delta(ms(50));
    assert_eq!((delta.returned, delta.landed), (2, 1));
    managed.window.expire_leases(&managed.rule, ms(500));
    assert_eq!((managed.window.leased_slots(&managed.rule), managed.delta(ms(500)).returned), (0, 1));
}

#[test]
fn slots_that_settle_within_a_step_are_reported_together_and_at_the_latest_of_their_times() {
    let mut managed = Managed::of(limit(2048, 1024, Kind::Sliding));
    assert_eq!(managed.rule.quantum, 1_000_000);
    let almost = Time::from_nanos(11_000_000 - 1);
    for at in [ms(10), Time::from_nanos(10_500_000), almost, ms(11)] {
        managed.window.report(&managed.rule, 1, at);
    }
    assert_eq!(managed.delta(ms(11)).settled, [(almost, 3), (ms(11), 1)]);
    managed.window.report(&managed.rule, 0, ms(11));
    assert_eq!(managed.delta(ms(11)), Delta::default());
}

#[test]
fn what_no_longer_counts_for_any_gateway_is_not_reported() {
    let mut managed = Managed::slots();
    managed.rule.longest_span = 100_000_000_000;
    managed.window.report(&managed.rule, 1, ms(0));
    managed.window.report(&managed.rule, 2, ms(1));
    managed.window.report(&managed.rule, 4, ms(100_000));
    assert_eq!(managed.settled(), [(ms(0), 1), (ms(1), 2), (ms(100_000), 4)]);
    managed.window.report(&managed.rule, 8, ms(100_001));
    assert_eq!(managed.settled(), [(ms(1), 2), (ms(100_000), 4), (ms(100_001), 8)]);
    assert_eq!(managed.delta(ms(100_001)).settled, [(ms(100_000), 4), (ms(100_001), 8)]);
}

#[test]
fn a_store_that_is_lost_for_long_leaves_a_report_of_bounded_length() {
    let mut managed = Managed::of(limit(160, 3_600_000, Kind::Sliding));
    for at in 0..MAX_KEPT as u64 {
        managed.window.report(&managed.rule, 1, ms(at));
    }
    assert_eq!(managed.settled().len(), MAX_KEPT);
    managed.window.report(&managed.rule, 1, ms(5000));
    let settled = managed.settled();
    assert!(settled.len() <= MAX_REPORTED, "{}", settled.len());
    let sum: u32 = settled.iter().map(|(_, count)| count).sum();
    assert_eq!((sum, settled.last().map(|(at, _)| *at)), (MAX_KEPT as u32 + 1, Some(ms(5000))));
}

#[test]
fn more_is_leased_ahead_while_few_slots_are_left_and_no_answer_is_awaited() {
    let mut managed = Managed::slots();
    assert!(!managed.window.needs_refill(&managed.rule), "the store was never asked");
    managed.lease(0, 1000, 3, 0);
    for _ in 0..3 {
        managed.window.use_lease(&managed.rule, 1);
    }
    managed.delta(ms(1));
    assert!(!managed.window.needs_refill(&managed.rule), "the answer is under way");
    managed.window.report_delivered();
    for (slots, needed) in [(5, true), (1, false)] {
        managed.lease(0, 1000, slots, 0);
        assert_eq!(managed.window.needs_refill(&managed.rule), needed, "twice what was used");
    }
    assert_eq!(managed.delta(ms(2)).prefetch, 0, "none was used since");
}

#[test]
fn no_more_than_a_sixteenth_of_the_limit_is_leased_ahead() {
    for (used, left, ahead) in [(1, 0, 4), (1, 3, 1), (1, 5, 0), (3, 0, 10), (100, 0, 10)] {
        let mut managed = Managed::slots();
        managed.lease(0, 1000, used + left, 0);
        managed.window.use_lease(&managed.rule, used);
        assert_eq!(managed.delta(ms(1)).prefetch, ahead, "{used} used, {left} left");
    }
}

#[test]
fn a_lease_that_nobody_uses_between_two_heartbeats_goes_back() {
    let mut managed = Managed::slots_and_flights();
    managed.lease(0, 1000, 9, 9);
    managed.window.use_lease(&managed.rule, 8);
    managed.delta(ms(1));
    assert!(!managed.window.heartbeat(&managed.rule), "it was used");
    assert_eq!(managed.window.store_state().map(|store| store.recent_use), Some(4));
    assert!(managed.window.heartbeat(&managed.rule));
    let delta = managed.delta(ms(2));
    assert_eq!((delta.returned, delta.landed), (1, 8));
    assert!(!managed.window.heartbeat(&managed.rule), "there is nothing to report");
    managed.window.report_unused(&managed.rule, 0, 1);
    assert!(managed.window.heartbeat(&managed.rule), "a flight has ended");
}

#[test]
fn a_window_is_queued_for_one_report_at_a_time() {
    let mut managed = Managed::slots();
    assert!(!managed.window.has_report_queued());
    assert!(managed.window.mark_report_queued() && managed.window.has_report_queued());
    assert!(!managed.window.mark_report_queued(), "it is queued already");
    managed.delta(ms(1));
    assert!(!managed.window.has_report_queued());
}

#[test]
fn a_gateway_with_a_new_identity_reports_the_windows_that_count_something() {
    let fresh = || Managed::slots_and_flights().window;
    assert!(!fresh().is_known_to_store());
    assert!(Window { unsettled: 1, ..fresh() }.is_known_to_store());
    assert!(Window { flying: 1, ..fresh() }.is_known_to_store());
    let mut managed = Managed::slots();
    managed.window.report(&managed.rule, 1, ms(1));
    assert!(managed.window.is_known_to_store());
    managed.delta(ms(1));
    assert!(!managed.window.is_known_to_store());
}

#[test]
fn a_window_is_kept_while_something_is_leased_to_be_reported_or_under_way() {
    let mut managed = Managed::slots_and_flights();
    assert!(!managed.has_state(ms(0)));
    managed.lease(0, 1000, 1, 1);
    assert!(managed.has_state(ms(0)), "a lease");
    managed.window.use_lease(&managed.rule, 1);
    assert!(!managed.has_state(ms(0)));
    for (slots, flights) in [(1, 0), (0, 1)] {
        managed.window.report_unused(&managed.rule, slots, flights);
        assert!(managed.has_state(ms(0)), "{slots} slots and {flights} flights to give back");
        managed.delta(ms(0));
        assert!(managed.has_state(ms(0)), "a report is under way");
        managed.window.report_delivered();
        assert!(!managed.has_state(ms(0)));
    }
    managed.window.mark_report_queued();
    assert!(managed.has_state(ms(0)), "a report is wanted");
}

#[test]
fn without_its_store_a_window_is_kept_for_the_slots_that_still_count() {
    let mut managed = Managed::slots();
    managed.window.report(&managed.rule, 1, ms(5));
    managed.window.report_unused(&managed.rule, 1, 0);
    managed.window.mark_report_queued();
    managed.rule.store_lost = true;
    assert!(managed.has_state(ms(60_004)), "a slot counts for its span");
    assert!(!managed.has_state(ms(60_005)), "what could be given back is worth nothing");
}

#[test]
fn what_was_leased_in_another_term_is_void() {
    let mut managed = Managed::slots();
    managed.lease(0, 1000, 5, 0);
    managed.window.report_unused(&managed.rule, 3, 0);
    managed.rule.term += 1;
    assert_eq!(managed.window.leased_slots(&managed.rule), 0);
    assert!(!managed.has_state(ms(0)));
    managed.lease(0, 1000, 1, 0);
    assert_eq!(managed.window.leased_slots(&managed.rule), 1);
    assert_eq!(managed.delta(ms(0)).returned, 0);
}
