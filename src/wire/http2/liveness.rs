//! Liveness of an HTTP/2 connection to an origin: PING schedule and detection of dead peers (RFC
//! 9113 §6.7, §9.1).
//!
//! TCP notices a vanished peer only if an acknowledgement is due, and never one that lives on
//! without doing anything. One connection serves all requests for its origin, so a dead one would
//! fail all of them.

use std::time::Duration;

use crate::time::Time;

/// Silence after which a PING is sent, while requests are running. With a shorter one every slow
/// answer would cost a PING.
const PING_AFTER: Duration = Duration::from_secs(10);

/// Longest wait for the answer to a PING: several round trips around the world, with lost segments.
const PONG_TIMEOUT: Duration = Duration::from_secs(5);

/// Idle time after which a connection needs a PING before it is used again. Load balancers and NAT
/// forget connections after a minute or more, often without a word to either side.
const STALE_AFTER: Duration = Duration::from_secs(30);

/// Longest wait of a request for the answer to a PING, instead of a new connection: about as long
/// as opening one takes.
const MAX_PONG_WAIT: Duration = Duration::from_secs(1);

/// Shortest interval between PINGs without a message from the peer, with one exception. gRPC
/// servers take PINGs less than 5 minutes apart for an attack, and close the connection at the
/// third (`too_many_pings`).
const MIN_PING_INTERVAL: Duration = Duration::from_secs(5 * 60 + 10);

/// Counters of a connection's activity at a point in time. All but `streams` only grow.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Activity {
    /// Number of bytes received.
    pub(super) received: u64,
    /// Number of received frames that are part of a response.
    pub(super) messages: u64,
    /// Number of answers to PINGs.
    pub(super) pongs: u64,
    /// Last stream with a sent head.
    pub(super) last_head_sent: u32,
    /// Number of streams that are open or promised to a request.
    pub(super) streams: usize,
}

/// Next action for a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LivenessAction {
    Nothing,
    /// Send a PING.
    Ping,
    /// Close the connection: its peer is dead.
    Close,
}

/// Readiness of a connection for a new request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Readiness {
    Ready,
    /// A PING is unanswered; its answer is likely to come soon.
    AwaitingPong,
    /// Not usable for now.
    Suspect,
}

/// Liveness of one connection, checked about once a second and before each request.
#[derive(Debug)]
pub(super) struct Liveness {
    activity: Activity,
    /// Time of the last received bytes.
    received_at: Time,
    /// Time since which it has had streams.
    busy_since: Option<Time>,
    /// Time since which a request has waited for the first sign of its arrival.
    waiting_since: Option<Time>,
    /// Time of the unanswered PING.
    ping_sent_at: Option<Time>,
    /// Time of the last PING since the last message.
    last_ping_at: Option<Time>,
    /// True if one more PING may follow soon.
    has_spare_ping: bool,
    /// True after a request without an answer in time: only the answer to a PING clears it.
    is_suspect: bool,
}

impl Liveness {
    /// Liveness of a connection that was opened at `now`.
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

    /// Periodic check; returns the action that is due.
    pub(super) fn check(&mut self, activity: Activity, now: Time) -> LivenessAction {
        self.record(activity, now);
        if let Some(ping_sent_at) = self.ping_sent_at {
            let is_gone = now.since(ping_sent_at.max(self.received_at)) >= PONG_TIMEOUT;
            return if is_gone { LivenessAction::Close } else { LivenessAction::Nothing };
        }
        let lasts = |since: Time| now.since(since) >= PING_AFTER;
        // A request should be answered, even if its caller has given up.
        let is_unheard = self.waiting_since.is_some_and(lasts);
        // Some streams are silent by their nature, such as server-sent events.
        let is_silent = self.busy_since.is_some_and(|since| lasts(since.max(self.received_at)));
        if is_unheard || is_silent && !self.is_early(now) { self.ping(now) } else { LivenessAction::Nothing }
    }

    /// Check before a new request; returns the readiness and the action that is due.
    pub(super) fn check_for_request(&mut self, activity: Activity, now: Time) -> (Readiness, LivenessAction) {
        self.record(activity, now);
        let due = if self.is_stale(now) || self.is_suspect { self.ping(now) } else { LivenessAction::Nothing };
        (self.readiness(now), due)
    }

    /// True if a request that was promised a stream can still be sent.
    pub(super) fn is_still_ready(&self, activity: Activity) -> bool {
        activity.pongs != self.activity.pongs || self.ping_sent_at.is_none() && !self.is_suspect
    }

    /// Marks the connection as suspect: a request on it had no answer in time.
    pub(super) fn suspect(&mut self, activity: Activity, now: Time) -> LivenessAction {
        self.record(activity, now);
        self.is_suspect = true;
        self.ping(now)
    }

    /// Time that a request should wait for the answer to a PING; `None` if there is none to wait
    /// for.
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

    /// Returns `Ping` unless one is unanswered or too early for the peer.
    fn ping(&mut self, now: Time) -> LivenessAction {
        let is_early = self.is_early(now);
        if self.ping_sent_at.is_some() || is_early && !self.has_spare_ping {
            return LivenessAction::Nothing;
        }
        self.has_spare_ping = !is_early;
        (self.ping_sent_at, self.last_ping_at) = (Some(now), Some(now));
        LivenessAction::Ping
    }

    /// True if another PING would come too soon after the last.
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

    /// Connection with a simulated clock and peer.
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

        /// Advances the clock with a check each second; true if the connection was closed.
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
