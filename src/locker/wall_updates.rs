//! Calendar limits follow the wall clock.

use super::Locker;
use super::api::LimitId;
use super::wall_clock::{WallClock, WallReading, WallSample};
use super::window::Algorithm;
use crate::time::Time;

impl Locker {
    /// Tells what the wall clock reads.
    pub fn set_wall(&mut self, wall: WallSample, now: Time) {
        let now = self.advance(now);
        let calendar = |id: &LimitId| matches!(self.limits.rules[id.at()].algorithm, Algorithm::Calendar { .. });
        let calendars: Vec<LimitId> = self.limits.ids.iter().copied().filter(calendar).collect();
        if calendars.is_empty() {
            self.wall = WallClock::begin(wall);
            return;
        }
        if !self.wall.set(wall, now) {
            return;
        }
        for id in calendars {
            self.limits.rules[id.at()].roll(&self.wall, now);
            self.mark_limit_dirty(id);
        }
        self.next_roll = self.limits.next_roll();
        self.request_limits_write();
        self.dispatch(now);
    }

    /// Returns true if a wall clock that reads so many nanoseconds of Unix time goes on as it is known to.
    pub fn expects_wall(&self, unix_nanos: i128, now: Time) -> bool {
        self.wall.expects(unix_nanos, now)
    }

    /// The readings of the wall clock that a locker which goes on from here must know of.
    pub fn readings(&self) -> Vec<WallReading> {
        self.wall.readings()
    }
}
