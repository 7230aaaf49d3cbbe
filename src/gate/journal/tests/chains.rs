//! Chains of starts, orderly stops and crashes: what the file says of each window is never less than the truth.

use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata};

use super::*;
use crate::time::Time;

const META: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("whole");
const PACKS: redb::TableDefinition<'_, (&str, u64), &[u8]> = redb::TableDefinition::new("base");
const ROWS: redb::TableDefinition<'_, (&str, u128), &[u8]> = redb::TableDefinition::new("pages");

/// Gateways that follow each other, and all that they granted.
struct RestartChain {
    folder: TestFolder,
    clock: Clock,
    hand: &'static crate::gate::clock::Hand,
    gate: Option<Arc<Gate>>,
    limit: Limit,
    granted: Vec<(u128, Time)>,
    /// State of a xorshift generator.
    random: u64,
    seed: u64,
    /// True if a crash within the last span may have cost slots.
    has_crashed: bool,
}

impl RestartChain {
    fn new(seed: u64) -> RestartChain {
        let (clock, hand) = Clock::manual();
        hand.pass(HOUR * 24);
        let (folder, limit) = (TestFolder::new("chain"), Limit { name: "chain".into(), ..limit(30, HOUR) });
        let random = seed * 2 + 1;
        let mut chain = RestartChain {
            folder,
            clock,
            hand,
            gate: None,
            limit,
            granted: Vec::new(),
            random,
            seed,
            has_crashed: false,
        };
        chain.start();
        chain
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % end
    }

    fn gate(&self) -> &Arc<Gate> {
        self.gate.as_ref().unwrap()
    }

    fn start(&mut self) {
        let gate = open_at(self.clock, &self.folder.settings(), vec![self.limit.clone()]);
        self.gate = Some(gate.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed)));
        self.check();
    }

    /// Slots of a key that count at present.
    fn count(&self, key: u128) -> u32 {
        let per = self.limit.rate.as_ref().unwrap().per;
        let counts = |at: Time| at + per > self.clock.now();
        self.granted.iter().filter(|(granted, at)| *granted == key && counts(*at)).count() as u32
    }

    fn check(&self) {
        let requests = self.limit.rate.as_ref().unwrap().requests;
        for key in 0..12 {
            let (taken, count) = (usage(self.gate(), key).taken, self.count(key));
            assert!(taken >= count.min(requests), "seed {}: key {key} has {count} slots, {taken} known", self.seed);
            assert!(self.has_crashed || taken == count, "seed {}: key {key} has {count}, {taken} known", self.seed);
        }
    }

    fn ask(&mut self) {
        let (key, asked) = (u128::from(self.below(12)), self.below(4) + 1);
        let requests = self.limit.rate.as_ref().unwrap().requests;
        for _ in 0..asked {
            if go(self.gate(), key, 1) == 1 {
                let counted = self.count(key);
                assert!(counted < requests, "seed {}: key {key} had {counted} of {requests}", self.seed);
                self.granted.push((key, self.clock.now()));
            }
        }
    }

    /// Drops the windows of which nothing counts.
    fn sweep(&self) {
        for _ in 0..2 {
            let now = self.clock.now();
            self.gate().step(now, |state| state.locker.handle_timeout(now));
            self.hand.pass(Duration::from_secs(1));
        }
    }

    fn stop(&mut self) {
        self.gate().stop();
        kill(self.gate.take().unwrap());
    }

    fn crash(&mut self) {
        kill(self.gate.take().unwrap());
        self.has_crashed = true;
    }

    fn change_limit(&mut self) {
        let rate = self.limit.rate.clone().unwrap();
        let requests = [5, 9, 30][self.below(3) as usize];
        let per = HOUR / 2 * (self.below(4) as u32 + 1);
        self.limit.rate = Some(Rate { requests, per, ..rate });
        // Slots that a longer span counts, but a shorter one forgot, may be any number.
        self.has_crashed = true;
    }

    fn step(&mut self) {
        match self.below(20) {
            0..11 => self.ask(),
            11..14 => {
                let minutes = self.below(25);
                self.hand.pass(Duration::from_secs(60 * minutes));
            }
            14 => self.sweep(),
            15..17 => {
                self.stop();
                let changes = self.below(4) == 0;
                if changes {
                    self.change_limit();
                }
                self.start();
            }
            17 => {
                self.stop();
                self.hand.pass(HOUR * 2);
                self.has_crashed = false;
                self.start();
            }
            _ => {
                self.crash();
                let changes = self.below(4) == 0;
                if changes {
                    self.change_limit();
                }
                self.start();
            }
        }
    }
}

#[test]
fn chains_of_stops_and_crashes_with_other_limits_between_forget_no_slot() {
    let mut granted = 0;
    for seed in 0..8 {
        let mut chain = RestartChain::new(seed);
        for _ in 0..50 {
            chain.step();
        }
        granted += chain.granted.len();
    }
    assert!(granted > 100, "{granted}: chains in which nothing happens prove nothing");
}

/// Keys of all windows that the file holds.
fn keys_in(folder: &TestFolder, clock: Clock) -> Vec<u128> {
    let copy = TestFolder::new("copy");
    fs::create_dir_all(&copy.0).unwrap();
    fs::copy(folder.file(), copy.file()).unwrap();
    let (_file, content) = File::open(&copy.file(), &clock).unwrap();
    let mut keys: Vec<u128> = content.unwrap().snapshot.windows.iter().map(|window| window.key.0).collect();
    keys.sort_unstable();
    keys
}

/// Waits until the writer thread has taken all records, of which it writes the last before it ends.
fn taken(gate: &Arc<Gate>) {
    for _ in 0..2000 {
        if !gate.lock().locker.has_records() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the writer thread writes no more");
}

#[test]
fn a_key_that_was_dropped_and_comes_back_is_not_found_as_it_was_in_the_base() {
    let (folder, (clock, hand)) = (TestFolder::new("comes-back"), Clock::manual());
    hand.pass(HOUR);
    let start = |requests| open_at(clock, &folder.settings(), vec![limit(requests, HOUR)]).unwrap();
    let gate = start(30);
    (0..3).for_each(|key| assert_eq!(go(&gate, key, 1), 1));
    hand.pass(HOUR / 2);
    (3..9).for_each(|key| assert_eq!(go(&gate, key, 20), 20));
    gate.stop();
    kill(gate);
    assert_eq!(keys_in(&folder, clock), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    // This one goes on with the file, and the first three open and are dropped.
    let gate = start(30);
    hand.pass(HOUR / 2 + Duration::from_secs(1));
    for _ in 0..2 {
        hand.pass(Duration::from_secs(1));
        gate.step(clock.now(), |state| state.locker.handle_timeout(clock.now()));
    }
    taken(&gate);
    // A block of ten, of which no row says anything.
    assert_eq!(go(&gate, 1, 5), 5);
    kill(gate);
    assert_eq!(keys_in(&folder, clock), [3, 4, 5, 6, 7, 8]);
    let gate = start(30);
    assert_eq!(usage(&gate, 1).taken, 10, "what a key without a record may have taken");
    assert_eq!(usage(&gate, 3).taken, 20, "it has not granted anything since the stop");
}

#[test]
fn a_start_goes_on_with_the_file_of_a_stop_unless_the_limits_are_others() {
    let (folder, (clock, hand)) = (TestFolder::new("goes-on"), Clock::manual());
    hand.pass(HOUR);
    let rows = || {
        let copy = TestFolder::new("rows");
        fs::create_dir_all(&copy.0).unwrap();
        fs::copy(folder.file(), copy.file()).unwrap();
        let database = redb::Database::create(copy.file()).unwrap();
        let transaction = database.begin_read().unwrap();
        (transaction.open_table(ROWS).unwrap().len().unwrap(), transaction.open_table(PACKS).unwrap().len().unwrap())
    };
    let start = |limits: Vec<Limit>| open_at(clock, &folder.settings(), limits).unwrap();
    let gate = start(vec![limit(2, HOUR)]);
    (0..40).for_each(|key| assert_eq!(go(&gate, key, 1), 1));
    assert_eq!(rows(), (40, 0));
    gate.stop();
    kill(gate);
    let (left, packs) = rows();
    assert_eq!(left, 0);
    assert!((10..=40).contains(&packs), "{packs}");
    let modified = || fs::read(folder.file()).unwrap();
    let before = modified();
    let other = Limit { name: "other".into(), ..limit(2, HOUR) };
    // A new limit has no windows yet.
    let gate = start(vec![limit(2, HOUR), other.clone()]);
    assert_eq!(rows(), (0, packs), "nothing was written anew");
    assert_ne!(modified(), before, "it is marked as in use");
    assert_eq!(go(&gate, 0, 3), 1);
    assert_eq!(rows(), (1, packs));
    kill(gate);
    let gate = start(vec![limit(2, HOUR), other.clone()]);
    assert_eq!(rows().0, 0, "a start after a crash writes a base");
    assert_eq!((usage(&gate, 0).taken, usage(&gate, 1).taken), (2, 1));
    gate.stop();
    kill(gate);
    for limits in [vec![limit(1, HOUR), other.clone()], vec![other]] {
        kill(start(limits));
    }
    let gate = start(vec![limit(2, HOUR)]);
    assert_eq!(usage(&gate, 0).taken, 2, "nothing of a limit that was away for a while is lost");
}

/// Changes the file as if it had been written in an earlier boot of the machine, which had been up for so much less.
fn of_earlier_boot(folder: &TestFolder, shorter: Duration) {
    let database = redb::Database::create(folder.file()).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut meta = transaction.open_table(META).unwrap();
        let shorter = shorter.as_nanos() as i128;
        let value = |name: &str| meta.get(name).unwrap().unwrap().value().to_vec();
        let (_, since_boot, wall): (String, u64, i128) = postcard::from_bytes(&value("written")).unwrap();
        let since_boot = (i128::from(since_boot) - shorter) as u64;
        let written = postcard::to_stdvec(&("another".to_owned(), since_boot, wall)).unwrap();
        let (origin, limits): (i128, Vec<(String, u8)>) = postcard::from_bytes(&value("base")).unwrap();
        let base = postcard::to_stdvec(&(origin - shorter, limits)).unwrap();
        meta.insert("written", written.as_slice()).unwrap();
        meta.insert("base", base.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}

#[test]
fn the_times_of_a_base_are_right_after_a_boot_of_the_machine_and_after_a_crash_behind_it() {
    let (folder, (clock, hand)) = (TestFolder::new("boot"), Clock::manual());
    hand.pass(HOUR * 10);
    let start = || open_at(clock, &folder.settings(), vec![limit(2, HOUR)]).unwrap();
    let gate = start();
    assert_eq!(go(&gate, 1, 2), 2);
    let opens = clock.now() + HOUR;
    gate.stop();
    kill(gate);
    of_earlier_boot(&folder, HOUR * 5);
    hand.pass(HOUR / 4);
    let gate = start();
    assert_eq!(usage(&gate, 1).opens, Some(opens));
    assert_eq!(go(&gate, 2, 1), 1);
    kill(gate);
    hand.pass(HOUR / 4);
    // The wall clock says nothing within one boot.
    hand.set_wall_ahead(HOUR * 30);
    let gate = start();
    assert_eq!(usage(&gate, 1).opens, Some(opens), "or it would be open since the boot");
    assert_eq!(usage(&gate, 2).taken, 1);
}

#[test]
fn a_file_of_rows_alone_as_earlier_versions_wrote_is_read_and_written_anew() {
    for stopped in [true, false] {
        let (folder, (clock, hand)) = (TestFolder::new("rows-alone"), Clock::manual());
        hand.pass(HOUR);
        let start = || open_at(clock, &folder.settings(), vec![limit(3, HOUR)]).unwrap();
        let gate = start();
        assert_eq!((go(&gate, 1, 2), go(&gate, 2, 1)), (2, 1));
        kill(gate);
        let database = redb::Database::create(folder.file()).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut meta = transaction.open_table(META).unwrap();
            let head = meta.get("head").unwrap().unwrap().value().to_vec();
            // Behind the seed of 16 bytes lies the mark of a stop.
            let head = [&head[..16], &[u8::from(stopped)], &head[17..]].concat();
            meta.insert("head", head.as_slice()).unwrap();
            meta.insert("form", postcard::to_stdvec(&2_u32).unwrap().as_slice()).unwrap();
            meta.remove("base").unwrap();
        }
        transaction.delete_table(PACKS).unwrap();
        transaction.commit().unwrap();
        drop(database);
        let gate = start();
        assert!(usage(&gate, 1).taken >= 2);
        assert_eq!(usage(&gate, 3).taken, if stopped { 0 } else { 1 }, "a block of one after a crash");
        gate.stop();
        kill(gate);
        let database = redb::Database::create(folder.file()).unwrap();
        let transaction = database.begin_read().unwrap();
        let version = transaction.open_table(META).unwrap().get("form").unwrap().unwrap().value().to_vec();
        assert_eq!(version, [3], "an earlier version refuses it, since it would not look for a base");
    }
}

#[test]
fn counts_that_after_crash_forgets_are_gone_from_the_base_too() {
    let folder = TestFolder::new("forgotten-base");
    let gate = open(&folder.settings(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!(go(&gate, 1, 2), 2);
    gate.stop();
    kill(gate);
    kill(open(&folder.forgetting(), vec![limit(2, HOUR)]).unwrap());
    // This start forgets; the next goes on with its file.
    let gate = open(&folder.forgetting(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!(go(&gate, 1, 1), 1);
    gate.stop();
    kill(gate);
    let gate = open(&folder.settings(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!(usage(&gate, 1).taken, 1);
}
