//! Time of stops and starts of a gate with many keys: an orderly stop, the start after it, and the start after a crash.
//!
//! `cargo bench --bench stop_and_start -- [KEYS [FOLDER]]`; with a folder, only that is filled, and left as after a
//! crash. Each key has one request of a limit of 100 per hour, and its record is on the disk before the stop or the
//! crash. Without a folder, one is made where the system has its temporary files, which should be on a disk.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lockgate::gate::clock::Clock;
use lockgate::gate::journal::{AfterCrash, Settings as State};
use lockgate::gate::{Answer, Gate, Patience, Settings};
use lockgate::locker::{Caller, Claim, Counts, Key, Kind, Limit, LimitId, Priority, Rate, ShareBy, WhenFull};
use rustix::time::{ClockId, clock_gettime};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let keys = words.first().map_or(1_000_000, |word| word.parse().expect("a number of keys"));
    println!("{keys} keys of 100 per hour");
    if let Some(folder) = words.get(1) {
        return fill(keys, Path::new(folder));
    }
    let folder = std::env::temp_dir().join(format!("lockgate-bench-{}", std::process::id()));
    println!("{:<28}{:>10}{:>14}", "", "time", "processor");
    fill(keys, &folder);
    let gate = start(&folder, "start after a crash");
    end_in_order(gate, &folder);
    for name in ["start", "start again"] {
        let gate = start(&folder, name);
        measure("first answer", || ask(&gate, 7));
        end_in_order(gate, &folder);
    }
    // A crash of a process that has written nothing but its start.
    end(start(&folder, "start"));
    end_in_order(start(&folder, "start after that crash"), &folder);
    std::fs::remove_dir_all(&folder).expect("the folder is there");
}

/// Writes a record of each key into the folder, and ends as in a crash.
fn fill(keys: u64, folder: &Path) {
    let gate = start(folder, "first start");
    measure("requests", || (0..keys).for_each(|key| ask(&gate, key)));
    measure("records written", || settle_down(&gate));
    end(gate);
}

/// Prints how long a step takes, and how much of the processors it takes.
fn measure<R>(name: &str, step: impl FnOnce() -> R) -> R {
    let processor = || {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
    };
    let clock = Clock::start();
    let (began, before) = (clock.now(), processor());
    let result = step();
    println!("{name:<28}{:>8.3} s{:>12.3} s", clock.now().since(began).as_secs_f64(), processor() - before);
    result
}

fn start(folder: &Path, name: &str) -> Arc<Gate> {
    let state = State { dir: folder.to_owned(), after_crash: AfterCrash::Remember };
    let settings = Settings { limits: vec![limit()], state: Some(state), store: None };
    measure(name, || {
        let (gate, _) = measure("  read", || Gate::open(settings, Clock::start())).expect("the folder can be used");
        measure("  write", || gate.start_journal()).expect("the folder can be written");
        gate
    })
}

fn end_in_order(gate: Arc<Gate>, folder: &Path) {
    measure("stop", || gate.stop());
    measure("end", || end(gate));
    print_size(folder);
}

fn end(gate: Arc<Gate>) {
    let weak = Arc::downgrade(&gate);
    drop(gate);
    // The writer thread holds the gate, and then the file, for a moment.
    while weak.strong_count() > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(50));
}

fn print_size(folder: &Path) {
    let size = std::fs::metadata(folder.join("journal.redb")).map_or(0, |file| file.len());
    println!("{:<28}{:>7} MiB", "file", size >> 20);
}

fn ask(gate: &Arc<Gate>, key: u64) {
    let claims = [Claim { limit: LimitId(0), key: spread(key), cost: 1 }];
    let permit = match gate.ask(&claims, Caller(1), Patience::default()) {
        Answer::Go(permit) => permit,
        Answer::Wait(waiting) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
            runtime.block_on(waiting).expect("it has slots")
        }
        Answer::Sorry(refused) => panic!("{refused:?}"),
    };
    permit.depart().sent();
}

/// A key as evenly spread as a hash.
fn spread(number: u64) -> Key {
    let mix = |seed: u64| {
        let mixed = (number ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9)
    };
    Key(u128::from(mix(1) ^ (mix(1) >> 32)) << 64 | u128::from(mix(2) ^ (mix(2) >> 32)))
}

/// Waits until the writer thread has written all.
fn settle_down(gate: &Arc<Gate>) {
    // A key of its own is written behind all others.
    for key in 0..2 {
        (0..100).for_each(|_| ask(gate, u64::MAX - key));
    }
}

fn limit() -> Limit {
    let per = Duration::from_secs(3600);
    Limit {
        name: "hourly".into(),
        keyed_by: "header:x-key".into(),
        rate: Some(Rate { requests: 100, per, guard: Duration::ZERO, kind: Kind::Sliding, counts: Counts::Sent }),
        in_flight: None,
        when_full: WhenFull::Wait,
        max_wait: Duration::from_secs(600),
        max_waiting: 1000,
        share_by: ShareBy::Nobody,
        priority: Priority::WithinCaller,
        max_keys: 10_000_000,
        dry_run: false,
        shared: false,
    }
}
