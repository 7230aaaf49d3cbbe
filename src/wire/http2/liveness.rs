//! Liveness of an HTTP/2 connection to an origin: when a PING is due, when its peer counts as gone (RFC 9113 §6.7, §9.1).
//!
//! TCP notices a peer that vanished only when it should acknowledge something, and not at all one that lives on without
//! doing anything. One connection serves all requests for its origin, so a dead one would fail all of them.

use std::time::Duration;

use crate::time::Time;

/// How long nothing may come while something is under way, until a PING asks whether the peer is there. Shorter, and every
/// slow answer would cost one.
const PING_AFTER: Duration = Duration::from_secs(10);

/// How long nothing may come after a PING. Several round trips around the world, with lost segments on the way.
const PONG_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may be idle and be used again unasked. Load balancers and NAT forget connections after a minute
/// or more, often without a word to either side.
const STALE_AFTER: Duration = Duration::from_secs(30);

/// How long a request waits for the answer to a PING, instead of opening a connection: about as long as that would take.
const MAX_PONG_WAIT: Duration = Duration::from_secs(1);

/// How far apart PINGs are without a message from the peer between them, but for one. gRPC servers take those that are
/// less than 5 minutes apart for an attack, and end the connection with the third (`too_many_pings`).
const MIN_PING_INTERVAL: Duration = Duration::from_secs(5 * 60 + 10);

/// Activity of life of a connection at some moment. All of them but `streams` only grow.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Activity {
    /// Bytes that have come.
    pub(super) received: u64,
    /// Frames among them that are part of an answer.
    pub(super) messages: u64,
    /// Answers to PINGs.
    pub(super) pongs: u64,
    /// The last stream whose head has left.
    pub(super) last_head_sent: u32,
    /// Streams that are open or promised to a request.
    pub(super) streams: usize,
}

/// The next thing to do for a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LivenessAction {
    Nothing,
    /// Send a PING.
    Ping,
    /// End it: its peer is gone.
    Close,
}

/// Whether a new request may be sent on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Readiness {
    Ready,
    /// Not before its peer has answered a PING, which is likely.
    AwaitingPong,
    /// Not for now.
    Suspect,
}

/// Liveness of one connection. It is looked at about once a second, and before each request.
#[derive(Debug)]
pub(super) struct Liveness {
    activity: Activity,
    /// When something came last.
    received_at: Time,
    /// Since when there are streams.
    busy_since: Option<Time>,
    /// Since when a request waits for the first sign that it has arrived.
    waiting_since: Option<Time>,
    /// Since when a PING has not been answered.
    ping_sent_at: Option<Time>,
    /// The last PING since the last message.
    last_ping_at: Option<Time>,
    /// One more PING may follow it soon.
    has_spare_ping: bool,
    /// A request had no answer in time: only a PING can show that the connection is good.
    is_suspect: bool,
}

impl Liveness {
    /// A connection that was opened now.
    pub(super) fn new(now: Time) -> Liveness {
        Liveness {
            activity: Activity::default(),
            received_at: now,
            busy_since: None,
            waiting_since: None,
            ping_sent_at: None,
            last_ping_at: None,
            has_spare_ping: true,
            is_suspect: false,
        }
    }

    /// The next thing to do.
    pub(super) fn check(&mut self, activity: Activity, now: Time) -> LivenessAction {
        self.record(activity, now);
        if let Some(ping_sent_at) = self.ping_sent_at {
            let is_gone = now.since(ping_sent_at.max(self.received_at)) >= PONG_TIMEOUT;
            return if is_gone { LivenessAction::Close } else { LivenessAction::Nothing };
        }
        let lasts = |since: Time| now.since(since) >= PING_AFTER;
        // A request should be answered, also if its caller has given up.
        let is_unheard = self.waiting_since.is_some_and(lasts);
        // A stream may be silent by its nature.
        let is_silent = self.busy_since.is_some_and(|since| lasts(since.max(self.received_at)));
        if is_unheard || is_silent && !self.is_early(now) { self.ping(now) } else { LivenessAction::Nothing }
    }

    /// Whether a new request may be sent on it, and what is due before.
    pub(super) fn check_for_request(&mut self, activity: Activity, now: Time) -> (Readiness, LivenessAction) {
        self.record(activity, now);
        let due = if self.is_stale(now) || self.is_suspect { self.ping(now) } else { LivenessAction::Nothing };
        (self.readiness(now), due)
    }

    /// Whether a request that was promised a place on it can still be sent there.
    pub(super) fn is_still_ready(&self, activity: Activity) -> bool {
        activity.pongs != self.activity.pongs || self.ping_sent_at.is_none() && !self.is_suspect
    }

    /// A request on it had no answer in time.
    pub(super) fn suspect(&mut self, activity: Activity, now: Time) -> LivenessAction {
        self.record(activity, now);
        self.is_suspect = true;
        self.ping(now)
    }

    /// How long a request should wait for the answer to a PING that is under way, if at all.
    pub(super) fn pong_wait(&self, now: Time) -> Option<Duration> {
        let left = MAX_PONG_WAIT.saturating_sub(now.since(self.ping_sent_at?));
        (!left.is_zero()).then_some(left)
    }

    fn readiness(&self, now: Time) -> Readiness {
        match self.pong_wait(now) {
            Some(_) => Readiness::AwaitingPong,
            None if self.ping_sent_at.is_some() || self.is_suspect || self.is_stale(now) => Readiness::Suspect,
            None => Readiness::Ready,
        }
    }

    fn is_stale(&self, now: Time) -> bool {
        self.activity.streams == 0 && now.since(self.received_at) >= STALE_AFTER
    }

    /// A PING is due, if none is under way and its peer bears one.
    fn ping(&mut self, now: Time) -> LivenessAction {
        let is_early = self.is_early(now);
        if self.ping_sent_at.is_some() || is_early && !self.has_spare_ping {
            return LivenessAction::Nothing;
        }
        self.has_spare_ping = !is_early;
        (self.ping_sent_at, self.last_ping_at) = (Some(now), Some(now));
        LivenessAction::Ping
    }

    /// Whether another PING would come soon after the last.
    fn is_early(&self, now: Time) -> bool {
        self.last_ping_at.is_some_and(|at| now.since(at) < MIN_PING_INTERVAL)
    }

    fn record(&mut self, activity: Activity, now: Time) {
        if activity.received != self.activity.received {
            (self.received_at, self.waiting_since) = (now, None);
        } else if activity.last_head_sent != self.activity.last_head_sent {
            self.waiting_since.get_or_insert(now);
        }
        self.busy_since = (activity.streams > 0).then(|| self.busy_since.unwrap_or(now));
        if activity.messages != self.activity.messages {
            (self.last_ping_at, self.has_spare_ping) = (None, true);
        }
        if activity.pongs != self.activity.pongs {
            (self.ping_sent_at, self.is_suspect) = (None, false);
        }
        self.activity = activity;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection with a clock and a peer of the test's.
    struct LivenessWorld {
        liveness: Liveness,
        activity: Activity,
        now: Time,
        asked: Vec<u64>,
    }

    impl LivenessWorld {
        fn new() -> LivenessWorld {
            let now = Time::from_nanos(1 << 60);
            LivenessWorld { liveness: Liveness::new(now), activity: Activity::default(), now, asked: Vec::new() }
        }

        /// Sends a request that has no answer yet.
        fn send(&mut self) {
            self.activity.streams += 1;
            self.activity.last_head_sent += 2;
        }

        fn answer(&mut self) {
            self.activity.streams -= 1;
            self.activity.received += 100;
            self.activity.messages += 1;
        }

        fn pong(&mut self) {
            self.activity.received += 17;
            self.activity.pongs += 1;
        }

        fn seconds(&self) -> u64 {
            self.now.since(Time::from_nanos(1 << 60)).as_secs()
        }

        /// So many seconds pass, with a look at each; whether the connection was ended.
        fn pass(&mut self, seconds: u64) -> bool {
            for _ in 0..seconds {
                self.now = self.now + Duration::from_secs(1);
                match self.liveness.check(self.activity, self.now) {
                    LivenessAction::Nothing => {}
                    LivenessAction::Ping => self.asked.push(self.seconds()),
                    LivenessAction::Close => return true,
                }
            }
            false
        }

        fn check_for_request(&mut self) -> Readiness {
            let (trust, due) = self.liveness.check_for_request(self.activity, self.now);
            if due == LivenessAction::Ping {
                self.asked.push(self.seconds());
            }
            trust
        }
    }

    #[test]
    fn a_peer_that_is_silent_after_a_request_is_asked_and_then_gone() {
        let mut world = LivenessWorld::new();
        world.send();
        assert!(!world.pass(15) && world.asked == [11]);
        assert!(world.pass(1) && world.seconds() == 16);
    }

    #[test]
    fn requests_that_are_sent_into_silence_do_not_keep_it_alive() {
        let mut world = LivenessWorld::new();
        let ended = (0..30).find(|_| {
            world.send();
            world.check_for_request();
            world.pass(1)
        });
        assert_eq!((ended, world.asked), (Some(14), vec![10]));
    }

    #[test]
    fn callers_that_give_up_early_do_not_hide_a_dead_peer() {
        let mut world = LivenessWorld::new();
        let ended = (0..30).find(|_| {
            world.send();
            let ended = world.pass(1);
            world.activity.streams -= 1;
            world.check_for_request();
            ended
        });
        assert_eq!((ended, world.asked), (Some(15), vec![11]));
    }

    #[test]
    fn bytes_of_any_kind_show_that_a_peer_lives_but_only_an_answer_ends_a_doubt() {
        let mut world = LivenessWorld::new();
        world.send();
        assert_eq!(world.liveness.suspect(world.activity, world.now), LivenessAction::Ping);
        for _ in 0..20 {
            world.activity.received += 1;
            assert!(!world.pass(4));
            assert_eq!(world.check_for_request(), Readiness::Suspect);
        }
        world.pong();
        assert_eq!(world.check_for_request(), Readiness::Ready);
    }

    #[test]
    fn a_request_waits_for_the_answer_to_a_ping_only_as_long_as_a_new_connection_takes() {
        let mut world = LivenessWorld::new();
        world.send();
        assert_eq!(world.liveness.suspect(world.activity, world.now), LivenessAction::Ping);
        assert_eq!(world.check_for_request(), Readiness::AwaitingPong);
        assert_eq!(world.liveness.pong_wait(world.now), Some(MAX_PONG_WAIT));
        world.now = world.now + MAX_PONG_WAIT;
        assert_eq!((world.check_for_request(), world.liveness.pong_wait(world.now)), (Readiness::Suspect, None));
        world.pong();
        assert_eq!(world.check_for_request(), Readiness::Ready);
    }

    #[test]
    fn a_connection_that_was_idle_for_long_is_asked_before_it_is_used() {
        let mut world = LivenessWorld::new();
        world.send();
        world.answer();
        assert!(!world.pass(29) && world.check_for_request() == Readiness::Ready);
        assert!(!world.pass(2) && world.asked.is_empty(), "an idle one is not asked");
        assert_eq!(world.check_for_request(), Readiness::AwaitingPong);
        world.pong();
        assert_eq!((world.check_for_request(), world.asked.len()), (Readiness::Ready, 1));
    }

    #[test]
    fn an_answer_that_stands_still_is_asked_about_once_and_a_request_behind_it_once_more() {
        let mut world = LivenessWorld::new();
        world.send();
        world.activity.received += 100;
        world.activity.messages += 1;
        assert!(!world.pass(12) && world.asked == [11]);
        world.pong();
        assert!(!world.pass(60) && world.asked.len() == 1);
        world.send();
        assert!(!world.pass(11) && world.asked == [11, 83]);
        assert!(world.pass(5));
    }

    #[test]
    fn a_long_silence_costs_few_pings() {
        let mut world = LivenessWorld::new();
        world.send();
        for _ in 0..1200 {
            let before = world.asked.len();
            assert!(!world.pass(1));
            if world.asked.len() > before {
                world.pong();
            }
        }
        assert_eq!(world.asked, [11, 321, 631, 941]);
    }

    #[test]
    fn no_more_than_two_pings_come_close_together_whatever_happens() {
        let mut world = LivenessWorld::new();
        for _ in 0..3000 {
            world.send();
            let before = world.asked.len();
            if world.liveness.suspect(world.activity, world.now) == LivenessAction::Ping {
                world.asked.push(world.seconds());
            }
            world.check_for_request();
            assert!(!world.pass(1));
            if world.asked.len() > before {
                world.pong();
            }
        }
        for three in world.asked.windows(3) {
            assert!(three[2] - three[0] > 300, "{:?}", world.asked);
        }
        let mut world = LivenessWorld { activity: Activity { streams: 0, ..world.activity }, ..world };
        world.send();
        world.answer();
        assert!(
            !world.pass(31) && world.check_for_request() == Readiness::AwaitingPong,
            "a message makes up for all of them"
        );
    }
}
