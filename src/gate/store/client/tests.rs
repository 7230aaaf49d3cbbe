//! Tests of the fallback during outages and of suspends: the client with a gate whose clock the test sets.

use std::num::NonZeroU32;

use super::*;
use crate::gate::clock::Hand;
use crate::gate::{Answer as Verdict, Patience, Permit};
use crate::locker::{Caller, Claim, Counts, Key, Kind, Limit, Priority, Rate, ShareBy, SlotGrant, WhenFull};

struct ClientFixture {
    gate: Arc<Gate>,
    hand: &'static Hand,
    client: Client,
    _shutdown: watch::Sender<bool>,
    _first_try: Receiver<()>,
}

/// One of two gateways that share four requests per 100 ms, and use their fractions for up to an hour.
fn fixture() -> ClientFixture {
    let rate = Rate {
        requests: 4,
        per: Duration::from_millis(100),
        guard: Duration::ZERO,
        kind: Kind::Sliding,
        counts: Counts::Sent,
    };
    let limit = Limit {
        name: "shared".into(),
        keyed_by: "".into(),
        rate: Some(rate),
        in_flight: None,
        when_full: WhenFull::Wait,
        max_wait: Duration::from_secs(86_400),
        max_waiting: 10,
        share_by: ShareBy::Nobody,
        priority: Priority::WithinCaller,
        max_keys: 10,
        dry_run: false,
        shared: true,
    };
    let share_for = Duration::from_secs(3600);
    let settings = Settings {
        nodes: Vec::new(),
        sentinel: None,
        tls: false,
        user: None,
        password: None,
        database: 0,
        group: "g".to_owned(),
        when_lost: WhenLost::Share { gateways: NonZeroU32::new(2).unwrap(), name: "a".to_owned(), share_for },
        trusts_empty: false,
        confirm: 0,
    };
    let (clock, hand) = Clock::manual();
    let gate = Gate::new(vec![limit], clock);
    let (shutdown, is_shutdown) = watch::channel(false);
    let (tried, first_try) = sync_channel(1);
    let client = Client::new(&gate, settings, Some(Duration::from_secs(70)), is_shutdown, tried);
    ClientFixture { gate, hand, client, _shutdown: shutdown, _first_try: first_try }
}

impl ClientFixture {
    /// Ends the session now, right after a reply.
    fn lose_session(&mut self) {
        self.client.contact.answered(Command::Sync, self.hand.now());
        self.client.status.set(Health::Up, None);
        self.client.on_session_lost(&Error::Silent);
    }

    fn advance(&mut self, seconds: u64) {
        self.hand.pass(Duration::from_secs(seconds));
        self.client.update_fallbacks();
    }

    fn ask_for_verdict(&self) -> Verdict {
        self.gate.ask(&[Claim { limit: LimitId(0), key: Key::WHOLE, cost: 1 }], Caller(1), Patience::default())
    }

    fn permit(&self) -> Option<Permit> {
        match self.ask_for_verdict() {
            Verdict::Go(permit) => Some(permit),
            Verdict::Wait(_) => None,
            Verdict::Sorry(refused) => panic!("{refused:?}"),
        }
    }

    /// Grants four slots of the store, for which a request waits.
    fn grant_four(&self) {
        self.gate.open_sharing();
        self.client.status.set(Health::Up, None);
        let now = self.hand.now();
        let _waiting = self.ask_for_verdict();
        let sync = self.gate.take_sync(SyncTrigger::Heartbeat);
        let taken = SlotGrant { groups: vec![(Duration::ZERO, 4)], ..SlotGrant::default() };
        self.gate.sync_answered(&sync, &[taken], now, now);
    }
}

#[test]
fn a_gateway_that_is_cut_off_goes_on_with_its_part_as_long_as_it_has_one() {
    let mut fixture = fixture();
    fixture.lose_session();
    fixture.advance(2);
    assert!(fixture.permit().is_none(), "others may be granted all of it");
    fixture.advance(1);
    let permit = fixture.permit().unwrap();
    fixture.advance(3600 - 4);
    assert!(permit.is_good());
    fixture.advance(1);
    assert!(permit.is_late(), "the part is others' by now");
    assert!(fixture.permit().is_none());
}

#[test]
fn a_part_begins_for_as_much_later_as_clocks_may_differ() {
    let fixture = fixture();
    let mut limit = fixture.gate.limits()[0].clone();
    limit.rate.as_mut().unwrap().per = Duration::from_secs(1000);
    let settings = &fixture.client.settings.when_lost;
    let at = |millis| fallback_mode(settings, &limit, Some(Time::START), Some(Duration::ZERO), Time::START + millis);
    // Presence, horizon, lease, linger and span; and the drift, a thousandth of the span.
    let begins = Duration::from_millis(1000 + 50 + 250 + 1000 + 1_000_000 + 1000);
    assert_eq!(at(begins - Duration::from_millis(1)), SharingMode::Blocked);
    assert!(matches!(at(begins), SharingMode::Fraction { .. }));
}

#[test]
fn a_gateway_that_was_suspended_while_it_was_cut_off_has_no_part() {
    let mut fixture = fixture();
    fixture.lose_session();
    fixture.advance(10);
    let permit = fixture.permit().unwrap();
    fixture.hand.suspend(Duration::from_secs(7200));
    fixture.client.update_fallbacks();
    assert!(permit.is_late());
    assert!(fixture.permit().is_none(), "its part was given to others an hour ago");
    fixture.advance(60);
    assert!(fixture.permit().is_none());
}

#[test]
fn what_was_granted_before_a_suspend_is_not_used_by_a_request_that_comes_after_it() {
    let mut fixture = fixture();
    fixture.advance(1);
    fixture.grant_four();
    fixture.hand.suspend(Duration::from_secs(60));
    let (reply, now) = (
        ScriptReply { now: 0, epoch_start: 0, settings_mismatch: false, mismatches: Vec::new(), grants: Vec::new() },
        fixture.hand.now(),
    );
    let Err(error) = fixture.client.verify("store", reply, now, now) else { panic!("the reply is accepted") };
    assert!(fixture.permit().unwrap().is_late(), "its slot was granted before the suspend");
    fixture.client.on_session_lost(&error);
    assert!(fixture.permit().is_none());
    // Grants from here on are valid.
    fixture.hand.pass(Duration::from_millis(1));
    fixture.grant_four();
    assert!(fixture.permit().unwrap().is_good());
}
