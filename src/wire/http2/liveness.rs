//! Liveness of an HTTP/2 connection to an origin: when a PING is due, when its peer counts as gone (RFC 9113 §6.7, §9.1).
//!
//! TCP notices a peer that vanished only when it should acknowledge something, and not at all one that lives on without
//! doing anything. One connection serves all requests for its origin, so a dead one would fail all of them.

use std::time::Duration;

use crate::time::Time;

/// How long nothing may come while something is under way, until a PING asks whether the peer is there. Shorter, and every
/// slow answer would cost one.
const SILENCE: Duration = Duration::from_secs(10);

/// How long nothing may come after a PING. Several round trips around the world, with lost segments on the way.
const ANSWER: Duration = Duration::from_secs(5);

/// How long a connection may be idle and be used again unasked. Load balancers and NAT forget connections after a minute
/// or more, often without a word to either side.
const STALE: Duration = Duration::from_secs(30);

/// How long a request waits for the answer to a PING, instead of opening a connection: about as long as that would take.
const PATIENCE: Duration = Duration::from_secs(1);

/// How far apart PINGs are without a message from the peer between them, but for one. gRPC servers take those that are
/// less than 5 minutes apart for an attack, and end the connection with the third (`too_many_pings`).
const APART: Duration = Duration::from_secs(5 * 60 + 10);

/// Signs of life of a connection at some moment. All of them but `streams` only grow.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Signs {
    /// Bytes that have come.
    pub(super) received: u64,
    /// Frames among them that are part of an answer.
    pub(super) messages: u64,
    /// Answers to PINGs.
    pub(super) pongs: u64,
    /// The last stream whose head has left.
    pub(super) departed: u32,
    /// Streams that are open or promised to a request.
    pub(super) streams: usize,
}

/// The next thing to do for a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    Nothing,
    /// Send a PING.
    Ping,
    /// End it: its peer is gone.
    End,
}

/// Whether a new request may be sent on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trust {
    Full,
    /// Not before its peer has answered a PING, which is likely.
    Soon,
    /// Not for now.
    None,
}

/// Liveness of one connection. It is looked at about once a second, and before each request.
#[derive(Debug)]
pub(super) struct Liveness {
    signs: Signs,
    /// When something came last.
    heard_at: Time,
    /// Since when there are streams.
    busy_since: Option<Time>,
    /// Since when a request waits for the first sign that it has arrived.
    waiting_since: Option<Time>,
    /// Since when a PING has not been answered.
    asked_at: Option<Time>,
    /// The last PING since the last message.
    pinged_at: Option<Time>,
    /// One more PING may follow it soon.
    has_spare: bool,
    /// A request had no answer in time: only a PING can show that the connection is good.
    doubted: bool,
}

impl Liveness {
    /// A connection that was opened now.
    pub(super) fn new(now: Time) -> Liveness {
        Liveness {
            signs: Signs::default(),
            heard_at: now,
            busy_since: None,
            waiting_since: None,
            asked_at: None,
            pinged_at: None,
            has_spare: true,
            doubted: false,
        }
    }

    /// The next thing to do.
    pub(super) fn look(&mut self, signs: Signs, now: Time) -> Due {
        self.note(signs, now);
        if let Some(asked_at) = self.asked_at {
            let is_gone = now.since(asked_at.max(self.heard_at)) >= ANSWER;
            return if is_gone { Due::End } else { Due::Nothing };
        }
        let lasts = |since: Time| now.since(since) >= SILENCE;
        // A request should be answered, also if its caller has given up.
        let is_unheard = self.waiting_since.is_some_and(lasts);
        // A stream may be silent by its nature.
        let is_silent = self.busy_since.is_some_and(|since| lasts(since.max(self.heard_at)));
        if is_unheard || is_silent && !self.is_early(now) { self.ask(now) } else { Due::Nothing }
    }

    /// Whether a new request may be sent on it, and what is due before.
    pub(super) fn offer(&mut self, signs: Signs, now: Time) -> (Trust, Due) {
        self.note(signs, now);
        let stale = signs.streams == 0 && now.since(self.heard_at) >= STALE;
        let due = if stale || self.doubted { self.ask(now) } else { Due::Nothing };
        (self.trust(stale, now), due)
    }

    /// Whether a request that was promised a place on it can still be sent there.
    pub(super) fn is_trusted(&self, signs: Signs) -> bool {
        signs.pongs != self.signs.pongs || self.asked_at.is_none() && !self.doubted
    }

    /// A request on it had no answer in time.
    pub(super) fn doubt(&mut self, signs: Signs, now: Time) -> Due {
        self.note(signs, now);
        self.doubted = true;
        self.ask(now)
    }

    /// How long a request should wait for the answer to a PING that is under way, if at all.
    pub(super) fn patience(&self, now: Time) -> Option<Duration> {
        let left = PATIENCE.saturating_sub(now.since(self.asked_at?));
        (!left.is_zero()).then_some(left)
    }

    fn trust(&self, stale: bool, now: Time) -> Trust {
        match self.patience(now) {
            Some(_) => Trust::Soon,
            None if self.asked_at.is_some() || self.doubted || stale => Trust::None,
            None => Trust::Full,
        }
    }

    /// A PING is due, if none is under way and its peer bears one.
    fn ask(&mut self, now: Time) -> Due {
        let is_early = self.is_early(now);
        if self.asked_at.is_some() || is_early && !self.has_spare {
            return Due::Nothing;
        }
        self.has_spare = !is_early;
        (self.asked_at, self.pinged_at) = (Some(now), Some(now));
        Due::Ping
    }

    /// Whether another PING would come soon after the last.
    fn is_early(&self, now: Time) -> bool {
        self.pinged_at.is_some_and(|at| now.since(at) < APART)
    }

    fn note(&mut self, signs: Signs, now: Time) {
        if signs.received != self.signs.received {
            (self.heard_at, self.waiting_since) = (now, None);
        } else if signs.departed != self.signs.departed {
            self.waiting_since.get_or_insert(now);
        }
        self.busy_since = (signs.streams > 0).then(|| self.busy_since.unwrap_or(now));
        if signs.messages != self.signs.messages {
            (self.pinged_at, self.has_spare) = (None, true);
        }
        if signs.pongs != self.signs.pongs {
            (self.asked_at, self.doubted) = (None, false);
        }
        self.signs = signs;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection with a clock and a peer of the test's.
    struct World {
        liveness: Liveness,
        signs: Signs,
        now: Time,
        asked: Vec<u64>,
    }

    impl World {
        fn new() -> World {
            let now = Time::from_nanos(1 << 60);
            World { liveness: Liveness::new(now), signs: Signs::default(), now, asked: Vec::new() }
        }

        /// Sends a request that has no answer yet.
        fn send(&mut self) {
            self.signs.streams += 1;
            self.signs.departed += 2;
        }

        fn answer(&mut self) {
            self.signs.streams -= 1;
            self.signs.received += 100;
            self.signs.messages += 1;
        }

        fn pong(&mut self) {
            self.signs.received += 17;
            self.signs.pongs += 1;
        }

        fn seconds(&self) -> u64 {
            self.now.since(Time::from_nanos(1 << 60)).as_secs()
        }

        /// So many seconds pass, with a look at each; whether the connection was ended.
        fn pass(&mut self, seconds: u64) -> bool {
            for _ in 0..seconds {
                self.now = self.now + Duration::from_secs(1);
                match self.liveness.look(self.signs, self.now) {
                    Due::Nothing => {}
                    Due::Ping => self.asked.push(self.seconds()),
                    Due::End => return true,
                }
            }
            false
        }

        fn offer(&mut self) -> Trust {
            let (trust, due) = self.liveness.offer(self.signs, self.now);
            if due == Due::Ping {
                self.asked.push(self.seconds());
            }
            trust
        }
    }

    #[test]
    fn a_peer_that_is_silent_after_a_request_is_asked_and_then_gone() {
        let mut world = World::new();
        world.send();
        assert!(!world.pass(15) && world.asked == [11]);
        assert!(world.pass(1) && world.seconds() == 16);
    }

    #[test]
    fn requests_that_are_sent_into_silence_do_not_keep_it_alive() {
        let mut world = World::new();
        let ended = (0..30).find(|_| {
            world.send();
            world.offer();
            world.pass(1)
        });
        assert_eq!((ended, world.asked), (Some(14), vec![10]));
    }

    #[test]
    fn callers_that_give_up_early_do_not_hide_a_dead_peer() {
        let mut world = World::new();
        let ended = (0..30).find(|_| {
            world.send();
            let ended = world.pass(1);
            world.signs.streams -= 1;
            world.offer();
            ended
        });
        assert_eq!((ended, world.asked), (Some(15), vec![11]));
    }

    #[test]
    fn bytes_of_any_kind_show_that_a_peer_lives_but_only_an_answer_ends_a_doubt() {
        let mut world = World::new();
        world.send();
        assert_eq!(world.liveness.doubt(world.signs, world.now), Due::Ping);
        for _ in 0..20 {
            world.signs.received += 1;
            assert!(!world.pass(4));
            assert_eq!(world.offer(), Trust::None);
        }
        world.pong();
        assert_eq!(world.offer(), Trust::Full);
    }

    #[test]
    fn a_request_waits_for_the_answer_to_a_ping_only_as_long_as_a_new_connection_takes() {
        let mut world = World::new();
        world.send();
        assert_eq!(world.liveness.doubt(world.signs, world.now), Due::Ping);
        assert_eq!(world.offer(), Trust::Soon);
        assert_eq!(world.liveness.patience(world.now), Some(PATIENCE));
        world.now = world.now + PATIENCE;
        assert_eq!((world.offer(), world.liveness.patience(world.now)), (Trust::None, None));
        world.pong();
        assert_eq!(world.offer(), Trust::Full);
    }

    #[test]
    fn a_connection_that_was_idle_for_long_is_asked_before_it_is_used() {
        let mut world = World::new();
        world.send();
        world.answer();
        assert!(!world.pass(29) && world.offer() == Trust::Full);
        assert!(!world.pass(2) && world.asked.is_empty(), "an idle one is not asked");
        assert_eq!(world.offer(), Trust::Soon);
        world.pong();
        assert_eq!((world.offer(), world.asked.len()), (Trust::Full, 1));
    }

    #[test]
    fn an_answer_that_stands_still_is_asked_about_once_and_a_request_behind_it_once_more() {
        let mut world = World::new();
        world.send();
        world.signs.received += 100;
        world.signs.messages += 1;
        assert!(!world.pass(12) && world.asked == [11]);
        world.pong();
        assert!(!world.pass(60) && world.asked.len() == 1);
        world.send();
        assert!(!world.pass(11) && world.asked == [11, 83]);
        assert!(world.pass(5));
    }

    #[test]
    fn a_long_silence_costs_few_pings() {
        let mut world = World::new();
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
        let mut world = World::new();
        for _ in 0..3000 {
            world.send();
            let before = world.asked.len();
            if world.liveness.doubt(world.signs, world.now) == Due::Ping {
                world.asked.push(world.seconds());
            }
            world.offer();
            assert!(!world.pass(1));
            if world.asked.len() > before {
                world.pong();
            }
        }
        for three in world.asked.windows(3) {
            assert!(three[2] - three[0] > 300, "{:?}", world.asked);
        }
        let mut world = World { signs: Signs { streams: 0, ..world.signs }, ..world };
        world.send();
        world.answer();
        assert!(!world.pass(31) && world.offer() == Trust::Soon, "a message makes up for all of them");
    }
}
