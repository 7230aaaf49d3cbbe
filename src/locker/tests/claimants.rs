//! Tests of claimants: the oldest waiter for several windows, and those that it holds back.

use super::order::{drive, wait};
use super::*;

/// Two limits of one slot, both used at the start: one opens every 100 ms, one after 150 ms. Two more have room.
fn locker() -> Locker {
    let limits = [(1, 100), (1, 150), (10, 1000), (10, 1000)];
    let mut locker = Locker::new(limits.map(|(requests, per)| limit(requests, per, Kind::Sliding)).to_vec());
    assert!(send(&mut locker, &ask(&[claim(0, 0, 1), claim(1, 0, 1)], 9), ms(0)).is_ok());
    locker
}

#[test]
fn those_that_a_claimant_held_back_go_before_later_ones_in_the_order_of_their_arrival() {
    let mut locker = locker();
    let claimant = wait(&mut locker, &ask(&[claim(0, 0, 1), claim(1, 0, 1)], 1), ms(1));
    let second = wait(&mut locker, &ask(&[claim(0, 0, 1), claim(2, 0, 1)], 2), ms(2));
    let third = wait(&mut locker, &ask(&[claim(0, 0, 1)], 3), ms(3));
    let mut went = Vec::new();
    drive(&mut locker, ms(160), |_, ticket, at| went.push((ticket, at)));
    assert_eq!(went, [(claimant, ms(150))], "the others would have taken its slot at 100 ms");
    let last = wait(&mut locker, &ask(&[claim(0, 0, 1), claim(3, 0, 1)], 4), ms(160));
    drive(&mut locker, ms(1000), |_, ticket, at| went.push((ticket, at)));
    assert_eq!(went[1..], [(second, ms(250)), (third, ms(350)), (last, ms(450))]);
}

#[test]
fn one_that_is_held_back_goes_as_soon_as_the_claimant_has_to_wait_for_longer() {
    let mut locker = locker();
    let claimant = wait(&mut locker, &ask(&[claim(0, 0, 1), claim(1, 0, 1)], 1), ms(1));
    let younger = wait(&mut locker, &ask(&[claim(0, 0, 1)], 2), ms(2));
    drive(&mut locker, ms(120), |_, ticket, at| panic!("{ticket:?} went at {at:?}"));
    locker.pause(LimitId(1), Key(0), ms(1000), ms(120));
    let Some((first, Verdict::Go(mut grant))) = locker.poll_verdict() else { panic!("the slot stays unused") };
    assert_eq!(first, younger);
    locker.settle(&mut grant, SettlePoint::Answered, ms(120));
    locker.finish(grant, ms(120));
    let mut went = Vec::new();
    drive(&mut locker, ms(2000), |_, ticket, at| went.push((ticket, at)));
    assert_eq!(went, [(claimant, ms(1000))]);
}

#[test]
fn a_claimant_that_has_waited_long_keeps_no_more_slots_than_it_needs() {
    let mut locker = Locker::new(vec![limit(1, 100, Kind::Sliding), limit(2, 100, Kind::Sliding)]);
    let Verdict::Go(_under_way) = locker.ask(&ask(&[claim(0, 0, 1)], 1), ms(0)) else { panic!() };
    wait(&mut locker, &ask(&[claim(0, 0, 1), claim(1, 0, 1)], 1), ms(1));
    assert!(send(&mut locker, &ask(&[claim(1, 0, 1)], 2), ms(500)).is_ok(), "there is a slot for each");
    wait(&mut locker, &ask(&[claim(1, 0, 1)], 2), ms(501));
}

#[test]
fn one_behind_a_waiter_that_a_claimant_holds_back_goes_when_that_leaves_if_it_needs_less() {
    let limits = [(10, 1000), (10, 10_000), (1, 5000)];
    let mut locker = Locker::new(limits.map(|(requests, per)| limit(requests, per, Kind::Sliding)).to_vec());
    assert!(send(&mut locker, &ask(&[claim(1, 0, 5), claim(2, 0, 1)], 9), ms(0)).is_ok());
    // At 5 s it needs three of the five slots that are left.
    wait(&mut locker, &ask(&[claim(1, 0, 3), claim(2, 0, 1)], 1), ms(1));
    wait(&mut locker, &ask(&[claim(1, 0, 4)], 2), ms(2));
    let first = wait(&mut locker, &ask(&[claim(0, 0, 1), claim(1, 0, 4)], 3), ms(3));
    let second = wait(&mut locker, &ask(&[claim(0, 0, 1), claim(1, 0, 1)], 3), ms(4));
    locker.leave(first, ms(5));
    let went: Vec<Ticket> = drain(&mut locker).into_iter().map(|(ticket, _)| ticket).collect();
    assert_eq!(went, [second]);
}
