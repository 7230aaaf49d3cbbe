//! The shape of the sections that concern the process and not its requests: `[state]`, `[config]`, `[log]`, `[admin]`, `[locks]`, `[trace]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use tracing::level_filters::LevelFilter;

use super::item::{Item, Place, Written};
use super::value::{Destination, address, destination, folder, path};
use super::walk::Table;
use crate::gate::journal::AfterCrash;
use crate::proxy::record::Format;

/// `[state]`
#[derive(Debug)]
pub(super) struct State {
    pub(super) dir: Written<PathBuf>,
    pub(super) after_crash: AfterCrash,
}

/// `[config]`
#[derive(Clone, Copy, Debug)]
pub(super) struct Config {
    pub(super) watch: bool,
}

/// `[log]`
#[derive(Clone, Copy, Debug)]
pub(super) struct Log {
    pub(super) level: LevelFilter,
    pub(super) access: Format,
}

/// `[admin]`
#[derive(Debug)]
pub(super) struct Admin {
    pub(super) place: Place,
    pub(super) is_there: bool,
    pub(super) listen: Written<SocketAddr>,
    pub(super) users: Written<PathBuf>,
}

/// `[locks]`
#[derive(Debug)]
pub(super) struct Locks {
    pub(super) place: Place,
    pub(super) is_there: bool,
    pub(super) listen: Written<SocketAddr>,
    pub(super) users: Written<PathBuf>,
}

/// `[trace]`
#[derive(Debug)]
pub(super) struct Trace {
    pub(super) place: Place,
    pub(super) is_there: bool,
    pub(super) otlp: Written<Destination>,
    pub(super) one_in: u32,
}

impl Trace {
    pub(super) fn read(table: &mut Table<'_>) -> Trace {
        let (place, is_there) = (table.place(), table.is_there());
        let mut trace = Trace {
            place,
            is_there,
            otlp: table.get("otlp", destination),
            one_in: table.get("one_in", |v| v.number(1..=1_000_000)).or(1),
        };
        if table.meant().contains(&"otlp") {
            trace.otlp.misspelt();
        }
        trace
    }
}

impl State {
    pub(super) fn read(table: &mut Table<'_>) -> State {
        let beliefs = [("remember", AfterCrash::Remember), ("forget", AfterCrash::Forget)];
        State {
            dir: table.get("dir", folder),
            after_crash: table.get("after_crash", |v| v.word(&beliefs)).or(AfterCrash::Remember),
        }
    }
}

impl Config {
    pub(super) fn read(table: &mut Table<'_>) -> Config {
        Config { watch: table.get("watch", Item::flag).or(false) }
    }
}

impl Log {
    pub(super) fn read(table: &mut Table<'_>) -> Log {
        let levels = [
            ("error", LevelFilter::ERROR),
            ("warn", LevelFilter::WARN),
            ("info", LevelFilter::INFO),
            ("debug", LevelFilter::DEBUG),
            ("trace", LevelFilter::TRACE),
            ("off", LevelFilter::OFF),
        ];
        let formats = [("text", Format::Text), ("json", Format::Json), ("off", Format::Off)];
        Log {
            level: table.get("level", |v| v.word(&levels)).or(LevelFilter::INFO),
            access: table.get("access", |v| v.word(&formats)).or(Format::Text),
        }
    }
}

impl Admin {
    pub(super) fn read(table: &mut Table<'_>) -> Admin {
        let (place, is_there) = (table.place(), table.is_there());
        let mut admin =
            Admin { place, is_there, listen: table.get("listen", address), users: table.get("users", path) };
        for key in table.meant() {
            match key {
                "listen" => admin.listen.misspelt(),
                "users" => admin.users.misspelt(),
                _ => {}
            }
        }
        admin
    }
}

impl Locks {
    pub(super) fn read(table: &mut Table<'_>) -> Locks {
        let (place, is_there) = (table.place(), table.is_there());
        let mut locks =
            Locks { place, is_there, listen: table.get("listen", address), users: table.get("users", path) };
        if table.meant().contains(&"listen") {
            locks.listen.misspelt();
        }
        locks
    }
}
