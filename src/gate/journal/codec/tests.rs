//! Records of the journal are read as what was written, by this version and by earlier ones.

use super::*;
use crate::gate::clock::Clock;

const SECOND: Duration = Duration::from_secs(1);

fn rate(kind: Kind) -> Rate {
    Rate { requests: 300, per: 3600 * SECOND, guard: SECOND / 4, kind, counts: Counts::Sent }
}

/// Limit in which no two fields of one type have the same value.
fn limit() -> Limit {
    Limit {
        name: "searches".into(),
        keyed_by: "host".into(),
        rate: Some(rate(Kind::Sliding)),
        in_flight: Some(7),
        when_full: WhenFull::Wait,
        max_wait: 30 * SECOND,
        max_waiting: 1000,
        share_by: ShareBy::Nobody,
        priority: Priority::WithinCaller,
        max_keys: 100_000,
        dry_run: false,
        shared: false,
    }
}

/// Windows of every kind.
fn kinds() -> Vec<Kind> {
    let zone = TimeZone::get("Europe/Berlin").unwrap();
    let calendar = [Unit::Minute, Unit::Hour, Unit::Day].map(|unit| Kind::Calendar { unit, zone: zone.clone() });
    [Kind::Sliding, Kind::Fixed, Kind::Smooth { burst: 5 }].into_iter().chain(calendar).collect()
}

/// The limit as another process reads it.
fn reread(limit: &Limit) -> Limit {
    let written = postcard::to_stdvec(&DiskLimit::of(limit)).unwrap();
    postcard::from_bytes::<DiskLimit>(&written).unwrap().limit()
}

/// Bytes as hexadecimal digits.
fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_setting_of_a_limit_is_read_as_it_was_written() {
    let mut limits = vec![
        limit(),
        Limit { rate: None, ..limit() },
        Limit { in_flight: None, ..limit() },
        Limit { when_full: WhenFull::Refuse, ..limit() },
        Limit { max_waiting: usize::MAX, max_keys: usize::MAX, ..limit() },
        Limit { dry_run: true, ..limit() },
        Limit { shared: true, ..limit() },
        Limit { rate: Some(Rate { counts: Counts::Answered, ..rate(Kind::Fixed) }), ..limit() },
    ];
    limits.extend(kinds().into_iter().map(|kind| Limit { rate: Some(rate(kind)), ..limit() }));
    for priority in [Priority::WithinCaller, Priority::Strict, Priority::None] {
        limits.extend([ShareBy::Nobody, ShareBy::Caller].map(|share_by| Limit { priority, share_by, ..limit() }));
    }
    for limit in limits {
        assert_eq!(reread(&limit), limit);
    }
}

#[test]
fn a_zone_that_this_machine_does_not_know_makes_the_limit_another_one() {
    let configured = Limit { rate: Some(rate(kinds().pop().unwrap())), ..limit() };
    let mut written = DiskLimit::of(&configured);
    let DiskKind::Calendar(_, zone) = &mut written.rate.as_mut().unwrap().kind else { panic!("a calendar window") };
    *zone = "Atlantis/Poseidonis".to_owned();
    let utc = Kind::Calendar { unit: Unit::Day, zone: TimeZone::UTC };
    assert_eq!(written.limit(), Limit { rate: Some(rate(utc)), ..limit() });
}

#[test]
fn a_limit_and_a_window_are_read_with_their_own_times() {
    let (clock, hand) = Clock::manual();
    hand.pass(3600 * SECOND);
    let mapping = TimeMapping::here(&clock);
    let at = |seconds: u32| clock.now() + seconds * SECOND;
    let snapshot = LimitSnapshot {
        limit: limit(),
        in_force: true,
        since: at(1),
        unknown: vec![(at(2), 3), (at(4), 5)],
        suspended: vec![(at(6), 7)],
        lingers: Some((at(8), 9 * SECOND)),
    };
    for snapshot in [LimitSnapshot { in_force: false, lingers: None, ..snapshot.clone() }, snapshot] {
        assert_eq!(DiskLimitSnapshot::of(&snapshot, mapping).snapshot(mapping), snapshot);
    }
    let window = WindowRecord {
        limit: LimitId(1),
        key: Key(2),
        log: vec![(at(1), 2), (at(3), 4)],
        late: vec![(at(5), 6)],
        open: 7,
        flying: 8,
        tat: at(9),
        paused: at(10),
    };
    assert_eq!(DiskWindow::of(&window, mapping).window(LimitId(1), Key(2), mapping), window);
    for until in [at(11), Time::NEVER] {
        let reading = WallReading { least: -5, most: 1 << 70, until };
        assert_eq!(DiskReading::of(reading, mapping).reading(mapping), reading);
    }
}

#[test]
fn the_bytes_of_version_3_mean_what_they_meant_when_it_came_out() {
    // A change of these bytes is a change of the format: a new version, and one more that is read.
    assert_eq!(DISK_VERSION, 3);
    for (kind, bytes) in kinds().into_iter().zip([
        "ac02901c000080e59a770100",
        "ac02901c000080e59a770101",
        "ac02901c000080e59a77010205",
        "ac02901c000080e59a770103000d4575726f70652f4265726c696e",
        "ac02901c000080e59a770103010d4575726f70652f4265726c696e",
        "ac02901c000080e59a770103020d4575726f70652f4265726c696e",
    ]) {
        let rate = DiskRate::of(&Rate { counts: Counts::Answered, ..rate(kind) });
        assert_eq!(digits(&postcard::to_stdvec(&rate).unwrap()), bytes);
    }
    let snapshot = DiskLimitSnapshot {
        limit: DiskLimit::of(&Limit { priority: Priority::None, share_by: ShareBy::Caller, shared: true, ..limit() }),
        in_force: true,
        since: -1,
        unknown: vec![(2, 3)],
        aside: vec![(4, 5), (6, 7)],
        lingers: Some((8, 9 * SECOND)),
    };
    let readings = vec![DiskReading { least: -10, most: 11, until: Some(12) }];
    let head = JournalHead { seed: [13; 16], stopped: true, limits: vec![snapshot], readings };
    assert_eq!(
        digits(&postcard::to_stdvec(&head).unwrap()),
        "0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d010108736561726368657304686f737401ac02\
         901c000080e59a7700000107001e00e80705a08d06000101010104030208050c07011009000113160118"
    );
    let window = DiskWindow { log: vec![(1, 2)], late: vec![(3, 4), (-5, 6)], open: 7, flying: 8, mark: 9, paused: 10 };
    assert_eq!(digits(&postcard::to_stdvec(&window).unwrap()), "010202020604090607081214");
}

#[test]
fn an_order_is_read_as_what_was_written_before_there_were_priorities() {
    for turns in [false, true] {
        let before = postcard::to_stdvec(&turns).unwrap();
        let order: DiskOrder = postcard::from_bytes(&before).unwrap();
        assert_eq!(order.share_by() == ShareBy::Caller, turns);
        assert_eq!(order.priority(), Priority::WithinCaller);
        assert_eq!(postcard::to_stdvec(&order).unwrap(), before);
    }
}
