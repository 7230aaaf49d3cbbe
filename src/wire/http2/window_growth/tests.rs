//! Tests of the windows' growth, with a peer and a clock that the tests move.

use std::future::poll_fn;

use super::*;

/// Windows of a connection, and the last one that was announced.
struct World {
    windows: WindowGrowth,
    wire: Arc<WireState>,
    announced: u32,
}

impl World {
    fn new(policy: PingPolicy) -> World {
        let wire = Arc::<WireState>::default();
        wire.on_settings_acks(1);
        World { windows: WindowGrowth::new(Arc::clone(&wire), policy), wire, announced: STREAM_WINDOW }
    }

    fn streams(&self, count: usize) -> Vec<StreamMeter> {
        (0..count).map(|_| StreamMeter::new(&self.windows.meter())).collect()
    }

    /// True if a measurement begins within the longest pause.
    async fn measures(&mut self) -> bool {
        let due = poll_fn(|cx| self.windows.poll_measure(cx));
        tokio::time::timeout(MAX_PAUSE + MIN_PAUSE, due).await.is_ok()
    }

    /// One round trip in which the stream consumes so many bytes, and as many before it. True if it was measured.
    async fn round_trip(&mut self, stream: &mut StreamMeter, bytes: u32) -> bool {
        self.wire.on_received(0, 1);
        stream.on_consumed(bytes as usize);
        let is_measured = self.measures().await;
        stream.on_consumed(bytes as usize);
        self.pong();
        is_measured
    }

    /// Answers a PING, and acknowledges settings that were announced.
    fn pong(&mut self) {
        let (before, announced) = (self.announced, &mut self.announced);
        self.windows.on_pong(|window| {
            *announced = window;
            true
        });
        self.wire.on_settings_acks(u64::from(self.announced != before));
    }

    /// Lets the time pass, narrows the windows, and acknowledges settings that were announced.
    async fn pass(&mut self, time: Duration) {
        let before = self.announced;
        let narrow = poll_fn(|cx| {
            let announced = &mut self.announced;
            self.windows.narrow(cx, |window| {
                *announced = window;
                true
            });
            Poll::<()>::Pending
        });
        let _elapsed = tokio::time::timeout(time, narrow).await;
        self.wire.on_settings_acks(u64::from(self.announced != before));
    }
}

#[tokio::test(start_paused = true)]
async fn a_window_that_is_used_is_quadrupled_each_round_trip_up_to_the_largest() {
    let mut world = World::new(PingPolicy::Strict);
    let mut streams = world.streams(1);
    let mut seen = Vec::new();
    for _ in 0..6 {
        let window = world.announced;
        world.round_trip(&mut streams[0], window).await;
        seen.push(world.announced);
    }
    let kib = |count: u32| count * 1024;
    assert_eq!(seen, [kib(256), kib(1024), kib(4096), kib(4096), kib(4096), kib(4096)]);
    let window = world.announced;
    assert!(!world.round_trip(&mut streams[0], window).await, "there is nothing left to measure");
}

#[tokio::test(start_paused = true)]
async fn a_window_of_which_less_than_a_third_is_used_stays() {
    let mut world = World::new(PingPolicy::Strict);
    let mut streams = world.streams(1);
    for _ in 0..20 {
        world.round_trip(&mut streams[0], STREAM_WINDOW / 3 - 1).await;
        assert_eq!(world.announced, STREAM_WINDOW);
    }
}

#[tokio::test(start_paused = true)]
async fn small_responses_are_not_measured_and_the_first_bytes_widen_nothing() {
    let mut world = World::new(PingPolicy::Strict);
    for _ in 0..100 {
        let mut streams = world.streams(1);
        assert!(!world.round_trip(&mut streams[0], 8 * 1024 - 1).await);
    }
    let mut streams = world.streams(1);
    // As much as a peer with the standard window takes without reading.
    assert!(world.round_trip(&mut streams[0], 40 * 1024).await);
    assert_eq!(world.announced, STREAM_WINDOW);
}

#[tokio::test(start_paused = true)]
async fn all_streams_together_have_room_in_the_window_of_the_connection() {
    for (count, widest) in [(2, 4096), (3, 2048), (8, 1024), (9, 512), (32, 256), (33, 128), (65, 64), (128, 64)] {
        let mut world = World::new(PingPolicy::Strict);
        let mut streams = world.streams(count);
        for _ in 0..10 {
            let window = world.announced;
            world.round_trip(&mut streams[0], window).await;
        }
        assert_eq!(world.announced, widest * 1024, "{count} streams");
        assert!(world.windows.meter().most_streams() >= count);
        assert!(world.windows.meter().most_streams() * world.announced as usize <= CONNECTION_WINDOW as usize);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_streams_returns_to_the_first_window_and_takes_as_many_as_ever() {
    let mut world = World::new(PingPolicy::Strict);
    let mut streams = world.streams(1);
    for _ in 0..3 {
        let window = world.announced;
        world.round_trip(&mut streams[0], window).await;
    }
    assert_eq!((world.announced, world.windows.meter().most_streams()), (MAX_STREAM_WINDOW, 2));
    world.pass(2 * IDLE).await;
    assert_eq!(world.announced, MAX_STREAM_WINDOW, "it has a stream");
    drop(streams);
    world.pass(IDLE / 2).await;
    assert_eq!(world.announced, MAX_STREAM_WINDOW, "the next one may come soon");
    world.pass(IDLE).await;
    world.pass(Duration::ZERO).await;
    assert_eq!((world.announced, world.windows.meter().most_streams()), (STREAM_WINDOW, 128));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_opens_more_streams_than_there_is_room_for_has_the_first_window() {
    let mut world = World::new(PingPolicy::Patient);
    let mut streams = world.streams(2);
    for _ in 0..3 {
        let window = world.announced;
        world.round_trip(&mut streams[0], window).await;
    }
    assert_eq!(world.announced, MAX_STREAM_WINDOW);
    streams.extend(world.streams(1));
    world.pass(Duration::ZERO).await;
    assert_eq!(world.announced, STREAM_WINDOW);
}

#[tokio::test(start_paused = true)]
async fn a_strict_peer_is_not_pinged_again_before_it_has_sent_more() {
    let mut world = World::new(PingPolicy::Strict);
    let mut streams = world.streams(1);
    assert!(world.round_trip(&mut streams[0], 20 * 1024).await);
    streams[0].on_consumed(50 * 1024);
    assert!(!world.measures().await, "what is consumed came before the answer");
    world.wire.on_received(0, 1);
    assert!(world.measures().await);
}
