//! Mutants of the protocol: each drops one term that keeps a limit, in the model or in a simulated
//! gateway, and must break a limit in one of the first worlds.

use super::seeds;
use super::server::Server;
use super::world::World;
use super::world_store::{Backend, ScriptStore, WorldStore};

/// A rule that is broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WorldMutant {
    /// A slot is free a millisecond before its span is over.
    ExpireEarly,
    /// A new epoch is closed for a span, without horizon, lease and linger.
    FloorIsSpan,
    /// The slots of a gateway that is gone are free.
    DeadForgotten,
    /// They settle without a linger.
    DeadWithoutLinger,
    /// They settle as of its last call.
    DeadAtLastCall,
    /// No slots are kept for the fractions of gateways that are gone.
    FractionsGivenAway,
    /// A fraction is free as soon as its gateway is back.
    FractionFreeOnReturn,
    /// A fraction is free when its use ends, without lease and span.
    FractionFreeAtItsEnd,
    /// A new store keeps no fractions for gateways that have not called yet.
    UnknownFractionsGivenAway,
    /// A store with another identity is taken for the former one.
    IdentityIgnored,
    /// The doubt of a gateway starts no epoch.
    DoubtIgnored,
    /// Slots that a gateway held before a new session are free.
    NewSessionHoldsNothing,
    /// Its flights too.
    NewSessionFliesNothing,
    /// Settles count twice as long ago as they were.
    SettlesEarly,
    /// The spacing of a smooth window begins anew with each settle.
    SmoothMarkAlone,
    /// A pause holds for the gateway alone that reported it.
    PauseForgotten,
    /// A gateway uses its slots after their lease.
    NoLease,
    /// A gateway keeps its leases when it loses the store.
    SharesKept,
    /// A gateway uses its fraction at once.
    FractionAtOnce,
    /// A gateway uses its fraction for twice its time.
    FractionWithoutEnd,
    /// The reply to a hello counts as a contact.
    HelloIsContact,
    /// Slots settle when they are granted.
    SettlesAtThePermit,
    /// Reports without a reply are dropped.
    LostReportsForgotten,
}

/// Mutants, each with the seed of a world that it breaks: that one is tried first, then all others.
const MUTANTS: [(WorldMutant, u64); 23] = [
    (WorldMutant::ExpireEarly, 4),
    (WorldMutant::FloorIsSpan, 47),
    (WorldMutant::DeadForgotten, 3),
    (WorldMutant::DeadWithoutLinger, 33),
    (WorldMutant::DeadAtLastCall, 3),
    (WorldMutant::FractionsGivenAway, 1),
    (WorldMutant::FractionFreeOnReturn, 12),
    (WorldMutant::FractionFreeAtItsEnd, 25),
    (WorldMutant::UnknownFractionsGivenAway, 30),
    (WorldMutant::IdentityIgnored, 121),
    (WorldMutant::DoubtIgnored, 2),
    (WorldMutant::NewSessionHoldsNothing, 30),
    (WorldMutant::NewSessionFliesNothing, 8),
    (WorldMutant::SettlesEarly, 0),
    (WorldMutant::SmoothMarkAlone, 15),
    (WorldMutant::PauseForgotten, 11),
    (WorldMutant::NoLease, 47),
    (WorldMutant::SharesKept, 27),
    (WorldMutant::FractionAtOnce, 1),
    (WorldMutant::FractionWithoutEnd, 23),
    (WorldMutant::HelloIsContact, 25),
    (WorldMutant::SettlesAtThePermit, 1),
    (WorldMutant::LostReportsForgotten, 16),
];

/// Number of worlds on the model, and of worlds on the script.
const WORLDS: u64 = 100;
const SCRIPT_WORLDS: u64 = 24;

/// Runs worlds and fails at the first violation, with the seed.
fn check_worlds(seeds: std::ops::Range<u64>, mut backend: impl FnMut() -> Backend) {
    for seed in seeds {
        let mut world = World::new(seed, None, backend());
        let description = world.description();
        if let Some(violation) = world.run() {
            panic!("seed {seed} (LOCKGATE_SEED={seed} runs it alone): {violation}; {description}");
        }
    }
}

#[test]
fn no_more_than_n_in_t_whatever_becomes_of_store_lines_and_gateways() {
    check_worlds(seeds(0..WORLDS), || WorldStore::model(None));
}

#[test]
fn no_more_than_n_in_t_with_the_real_script() {
    let server = Server::start();
    check_worlds(seeds(1000..1000 + SCRIPT_WORLDS), || Backend::Script(ScriptStore::new(server.connect())));
}

#[test]
fn each_term_that_is_dropped_breaks_a_limit_in_some_world() {
    let mut alive = Vec::new();
    for (mutant, known) in MUTANTS {
        let backend = || WorldStore::model(Some(mutant));
        let mut seeds = std::iter::once(known).chain((0..WORLDS).filter(|seed| *seed != known));
        let killer = seeds.find_map(|seed| Some((seed, World::new(seed, Some(mutant), backend()).run()?)));
        println!("{mutant:?}: {killer:?} (seed, violation)");
        alive.extend(killer.is_none().then_some(mutant));
    }
    assert!(alive.is_empty(), "killed by nothing: {alive:#?}");
}
