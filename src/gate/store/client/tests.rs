//! What holds while the store cannot be asked, and after a suspend: the client beside a gate whose clock the test moves.

use std::num::NonZeroU32;

use super::*;
use crate::gate::clock::Hand;
use crate::gate::{Answer as Verdict, Patience, Permit};
use crate::locker::{Caller, Claim, Counts, Key, Kind, Limit, Priority, Rate, ShareBy, SlotGrant, WhenFull};

struct Stage {
    gate: Arc<Gate>,
    hand: &'static Hand,
    client: Client,
    _over: watch::Sender<bool>,
    _first: Receiver<()>,
}

/// Of two gateways that go on with their parts for an hour, one that shares four requests per 100 ms.
fn stage() -> Stage {
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
    let (over, is_over) = watch::channel(false);
    let (tried, first) = sync_channel(1);
    let client = Client::new(&gate, settings, Some(Duration::from_secs(70)), is_over, tried);
    Stage { gate, hand, client, _over: over, _first: first }
}

impl Stage {
    /// The store answers until now, and no longer.
    fn on_session_lost(&mut self) {
        self.client.contact.answered(Command::Sync, self.hand.now());
        self.client.status.set(Health::Up, None);
        self.client.on_session_lost(&Error::Silent);
    }

    fn pass(&mut self, seconds: u64) {
        self.hand.pass(Duration::from_secs(seconds));
        self.client.update_fallbacks();
    }

    fn ask_gate(&self) -> Verdict {
        self.gate.ask(&[Claim { limit: LimitId(0), key: Key::WHOLE, cost: 1 }], Caller(1), Patience::default())
    }

    fn ask(&self) -> Option<Permit> {
        match self.ask_gate() {
            Verdict::Go(permit) => Some(permit),
            Verdict::Wait(_) => None,
            Verdict::Sorry(refused) => panic!("{refused:?}"),
        }
    }

    /// The store grants four slots, because somebody waits.
    fn be_granted(&self) {
        self.gate.open_sharing();
        self.client.status.set(Health::Up, None);
        let now = self.hand.now();
        let _waiting = self.ask_gate();
        let sync = self.gate.take_sync(SyncTrigger::Heartbeat);
        let taken = SlotGrant { groups: vec![(Duration::ZERO, 4)], ..SlotGrant::default() };
        self.gate.sync_answered(&sync, &[taken], now, now);
    }
}

#[test]
fn a_gateway_that_is_cut_off_goes_on_with_its_part_as_long_as_it_has_one() {
    let mut stage = stage();
    stage.on_session_lost();
    stage.pass(2);
    assert!(stage.ask().is_none(), "others may be granted all of it");
    stage.pass(1);
    let permit = stage.ask().unwrap();
    stage.pass(3600 - 4);
    assert!(permit.is_good());
    stage.pass(1);
    assert!(permit.is_late(), "the part is others' by now");
    assert!(stage.ask().is_none());
}

#[test]
fn a_part_begins_for_as_much_later_as_clocks_may_differ() {
    let stage = stage();
    let mut limit = stage.gate.limits()[0].clone();
    limit.rate.as_mut().unwrap().per = Duration::from_secs(1000);
    let settings = &stage.client.settings.when_lost;
    let at = |millis| fallback_mode(settings, &limit, Some(Time::START), Some(Duration::ZERO), Time::START + millis);
    // The presence, a horizon, a lease and a linger; and a thousandth of the span.
    let begins = Duration::from_millis(1000 + 50 + 250 + 1000 + 1_000_000 + 1000);
    assert_eq!(at(begins - Duration::from_millis(1)), SharingMode::Blocked);
    assert!(matches!(at(begins), SharingMode::Fraction { .. }));
}

#[test]
fn a_gateway_that_was_suspended_while_it_was_cut_off_has_no_part() {
    let mut stage = stage();
    stage.on_session_lost();
    stage.pass(10);
    let permit = stage.ask().unwrap();
    stage.hand.suspend(Duration::from_secs(7200));
    stage.client.update_fallbacks();
    assert!(permit.is_late());
    assert!(stage.ask().is_none(), "its part was given to others an hour ago");
    stage.pass(60);
    assert!(stage.ask().is_none());
}

#[test]
fn what_was_granted_before_a_suspend_is_not_used_by_a_request_that_comes_after_it() {
    let mut stage = stage();
    stage.pass(1);
    stage.be_granted();
    stage.hand.suspend(Duration::from_secs(60));
    let (answer, now) = (
        ScriptReply { now: 0, epoch_start: 0, settings_mismatch: false, mismatches: Vec::new(), grants: Vec::new() },
        stage.hand.now(),
    );
    let Err(error) = stage.client.verify("store", answer, now, now) else { panic!("it is believed") };
    assert!(stage.ask().unwrap().is_late(), "its slot was granted before the suspend");
    stage.client.on_session_lost(&error);
    assert!(stage.ask().is_none());
    // What the store grants from here on is good.
    stage.hand.pass(Duration::from_millis(1));
    stage.be_granted();
    assert!(stage.ask().unwrap().is_good());
}
