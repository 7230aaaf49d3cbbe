//! Story of a simulated world: a few correlated faults, each an attack on one term that keeps a
//! limit. The rest of the time only single messages are lost.

use super::Dice;
use super::world::{GATEWAYS, MAX_SETTLE_TIME, MS, RELOADED, SECOND, World, WorldSettings};
use super::world_store::{Content, WALL};
use crate::locker::{Key, Kind, LEASE, LimitId};

/// Fault that waits for its moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trap {
    /// Kills the gateway right after it has sent a request, before it can report it.
    Kill,
    /// Swaps the store while a grant is outstanding that may be used for long.
    Swap,
    /// Breaks the connection right after a grant.
    Reset,
}

/// A fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Attack {
    /// Requests of a gateway leave at the last moment.
    SendLate,
    /// A partition for longer than the presence; requests leave late.
    CutAndHold,
    /// A partition after which a hello gets through, and nothing more for a while.
    CutAfterHello,
    /// The store executes nothing for about a presence.
    StoreAsleep,
    /// The store's clock is set, forwards or backwards.
    ClockStep,
    /// A gateway doubts the store's clock without a reason.
    Doubt,
    /// The main limits get another rate, at one gateway after the other.
    Reload,
    /// An origin asks for a pause.
    Pause,
    /// A gateway stops in order, and another process takes its place.
    Bye,
    Arm(Trap),
    Snapshot,
}

const ATTACKS: [Attack; 15] = [
    Attack::Arm(Trap::Kill),
    Attack::Arm(Trap::Kill),
    Attack::Arm(Trap::Kill),
    Attack::Arm(Trap::Swap),
    Attack::Arm(Trap::Swap),
    Attack::Arm(Trap::Reset),
    Attack::CutAndHold,
    Attack::CutAndHold,
    Attack::SendLate,
    Attack::StoreAsleep,
    Attack::ClockStep,
    Attack::Doubt,
    Attack::Reload,
    Attack::Pause,
    Attack::Bye,
];

/// Attacks to come, and traps that are set.
#[derive(Debug)]
pub(super) struct Story {
    /// Time, attack and gateway; the next one last.
    to_come: Vec<(u64, Attack, usize)>,
    traps: Vec<(Trap, usize)>,
    /// Reloads of single gateways to come.
    reloads: Vec<(u64, usize)>,
}

impl Story {
    /// Draws two to four attacks.
    pub(super) fn draw(dice: &mut Dice, settings: &WorldSettings) -> Story {
        let [start, end, ..] = settings.times();
        let mut to_come = Vec::new();
        for _ in 0..2 + dice.below(3) {
            let mut attack = ATTACKS[dice.below(ATTACKS.len() as u64) as usize];
            if attack == Attack::CutAndHold && settings.share_for.is_some() && dice.one_in(2) {
                attack = Attack::CutAfterHello;
            }
            // The partition before the hello, and the one after it, take most of the time.
            let latest = if attack == Attack::CutAfterHello { SECOND } else { end - start - SECOND };
            let (at, gateway) = (start + dice.below(latest), dice.below(GATEWAYS as u64) as usize);
            to_come.push((at, attack, gateway));
            if attack == Attack::Arm(Trap::Swap) {
                // Grants of that gateway are outstanding at the swap.
                to_come.push((at.saturating_sub(dice.below(300 * MS)), Attack::SendLate, gateway));
                to_come.push((at.saturating_sub(dice.below(SECOND)), Attack::Snapshot, gateway));
            }
        }
        if settings.share_for.is_some() {
            let attack = if dice.one_in(3) { Attack::CutAfterHello } else { Attack::CutAndHold };
            to_come.push((start + dice.below(SECOND), attack, dice.below(GATEWAYS as u64) as usize));
        }
        // Without a reading of the clock before its step, a gateway cannot notice it: a step is the
        // only attack of its world.
        if let Some(step) = to_come.iter().find(|(_, attack, _)| *attack == Attack::ClockStep).copied() {
            to_come = vec![(start + SECOND + dice.below(SECOND), step.1, step.2)];
        }
        // A pause is known to all only if each report of it arrives.
        if to_come.iter().any(|(_, attack, _)| *attack == Attack::Pause) {
            to_come.retain(|(_, attack, _)| matches!(attack, Attack::Pause | Attack::SendLate));
        }
        to_come.sort_by_key(|(at, ..)| std::cmp::Reverse(*at));
        Story { to_come, traps: Vec::new(), reloads: Vec::new() }
    }

    /// Time of the next attack.
    pub(super) fn next(&self) -> u64 {
        let reloads = self.reloads.iter().map(|(at, _)| *at);
        reloads.chain(self.to_come.last().map(|(at, ..)| *at)).min().unwrap_or(u64::MAX)
    }
}

impl World {
    /// Begins the attacks that are due.
    pub(super) fn play_story(&mut self) {
        while let Some((_, attack, number)) = self.story.to_come.pop_if(|(at, ..)| *at <= self.now) {
            self.attack(attack, number);
        }
        while let Some(place) = self.story.reloads.iter().position(|(at, _)| *at <= self.now) {
            let (_, number) = self.story.reloads.swap_remove(place);
            self.reload(number);
        }
        if self.now > self.settings.times()[1] {
            self.story.traps.clear();
        }
    }

    fn attack(&mut self, attack: Attack, number: usize) {
        let (now, presence) = (self.now, self.settings.presence * 1000);
        let (span, end) = (self.settings.span, self.settings.times()[1]);
        match attack {
            Attack::Arm(trap) => self.story.traps.push((trap, number)),
            Attack::Snapshot => self.store.take_snapshot(),
            Attack::SendLate => {
                self.gateways[number].late_until = (now + span + self.dice.below(2 * span)).min(end);
            }
            Attack::CutAndHold => {
                let long = presence + self.dice.below(span + 2 * SECOND) + self.time_of_fraction();
                self.gateways[number].cut = (now + long).min(end);
                self.hold_back(number, (now + long).min(end));
            }
            Attack::CutAfterHello => {
                self.gateways[number].cut = (now + span + 2 * SECOND + self.dice.below(2 * SECOND)).min(end);
                self.gateways[number].cut_again = true;
                self.hold_back(number, end);
            }
            Attack::StoreAsleep => self.store.halted = now + presence / 2 + self.dice.below(2 * presence),
            Attack::ClockStep => {
                let step = 5_000 + self.dice.below(2_000_000);
                if self.dice.one_in(4) {
                    self.store.clock -= step;
                } else {
                    self.store.clock += step;
                }
            }
            Attack::Doubt => {
                let epoch_start = self.gateways[number].epoch_start;
                self.gateways[number].suspect_epoch = (epoch_start >= 0).then_some(epoch_start);
                self.reset(number);
            }
            Attack::Reload => self.begin_reload(),
            Attack::Pause => {
                let main = self.settings.claims[0][0];
                let until = now + span / 2 + self.dice.below(2 * span);
                let ahead = self.gateways[number].ahead;
                let until_there = crate::time::Time::from_nanos(until + ahead);
                let here = self.time_of(number);
                self.gateways[number].locker.pause(LimitId(main), Key::WHOLE, until_there, here);
                // A call and its reply later, and a lease after that, nothing granted before is left.
                self.origin.add_pause(main as usize, now + 2 * SECOND, until);
            }
            Attack::Bye => self.gateways[number].is_stopping = true,
        }
    }

    /// Time of a partition in which a gateway uses its fraction, and sometimes comes to its end.
    pub(super) fn time_of_fraction(&mut self) -> u64 {
        let Some(share_for) = self.settings.share_for else { return 0 };
        let longest = self.settings.span + 2 * SECOND;
        let share_for = share_for.as_nanos() as u64;
        if share_for < 100 * SECOND && self.dice.one_in(2) { share_for + self.dice.below(longest) } else { longest }
    }

    /// Lets all granted requests of a gateway, and those to come, leave late.
    fn hold_back(&mut self, number: usize, until: u64) {
        self.gateways[number].late_until = until;
        let leaving = std::mem::take(&mut self.gateways[number].leaving);
        for request in leaving {
            self.on_grant(number, request.grant);
        }
    }

    /// True if this trap is set for this gateway.
    pub(super) fn is_set(&self, trap: Trap, number: usize) -> bool {
        self.story.traps.contains(&(trap, number))
    }

    /// Springs the trap, if it is set for this gateway.
    pub(super) fn spring(&mut self, trap: Trap, number: usize) {
        let Some(place) = self.story.traps.iter().position(|set| *set == (trap, number)) else { return };
        if trap == Trap::Swap {
            let far = self.now + self.gateways[number].ahead + LEASE.as_nanos() as u64 / 2;
            let gateway = &self.gateways[number];
            let is_held = gateway
                .leaving
                .iter()
                .any(|request| request.at > self.now + 100 * MS && request.grant.until().as_nanos() > far);
            if !is_held {
                return;
            }
        }
        self.story.traps.swap_remove(place);
        match trap {
            Trap::Kill => {
                let retry = self.now + if self.dice.one_in(2) { 0 } else { self.dice.below(2 * SECOND) };
                self.gateways[number] = self.new_gateway(number);
                self.gateways[number].retry = retry;
            }
            Trap::Reset => self.reset(number),
            Trap::Swap => self.swap_store(number),
        }
    }

    /// The connection breaks, and the gateway connects again at once.
    fn reset(&mut self, number: usize) {
        if !self.gateways[number].is_stopping {
            self.on_session_lost(number);
            self.gateways[number].retry = self.now;
        }
    }

    /// Another store takes the place of the present one; mostly the gateways notice at once.
    /// The gateway with the grant may be cut off from it, so that it cannot report the use.
    fn swap_store(&mut self, holder: usize) {
        // An empty store that is trusted has lost all counts, as its setting says.
        let contents = [Content::Same, Content::Snapshot, Content::Empty];
        let content = contents[self.dice.below(if self.settings.trusts_empty { 1 } else { 3 }) as usize];
        let keeps_name = content == Content::Empty && self.dice.one_in(3);
        self.store.number += u64::from(!keeps_name);
        self.store.set_content(content);
        if !keeps_name {
            self.store.clock = WALL + self.dice.below(1_000_000);
        }
        self.origin.forget_pauses();
        if self.dice.one_in(4) {
            self.store.halted = self.now + self.dice.below(600 * MS);
        }
        if self.dice.one_in(2) {
            let long = self.settings.span + self.dice.below(2 * SECOND) + self.time_of_fraction();
            self.gateways[holder].cut = (self.now + long).min(self.settings.times()[1]);
        }
        for number in 0..GATEWAYS {
            if self.dice.below(4) > 0 {
                self.reset(number);
            }
        }
    }

    fn begin_reload(&mut self) {
        for at in RELOADED {
            let Some(rate) = &mut self.limits[at].rate else { continue };
            rate.requests = 2 + self.dice.below(5) as u32;
            rate.per = rate.per * [1, 2, 4][self.dice.below(3) as usize] / 2;
            if self.dice.one_in(3) {
                rate.kind = if rate.kind == Kind::Fixed { Kind::Sliding } else { Kind::Fixed };
            }
            self.origin.add_rate(at, &self.limits[at].clone(), self.now);
        }
        let reloads = (0..GATEWAYS).map(|number| (self.now + self.dice.below(400 * MS), number)).collect();
        self.story.reloads = reloads;
    }

    fn reload(&mut self, number: usize) {
        let (limits, now) = (self.limits.clone(), self.time_of(number));
        self.gateways[number].limits = limits.clone();
        self.gateways[number].locker.reload(limits, MAX_SETTLE_TIME, now);
        if self.story.reloads.is_empty() {
            for limit in RELOADED {
                // Grants by the former rates leave within a lease, and what the store
                // counted by a fixed window of them ends with it.
                self.origin.end_former_rates(limit, self.now + SECOND);
            }
        }
        self.poll_verdicts(number);
    }
}
