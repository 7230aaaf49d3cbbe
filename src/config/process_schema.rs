//! Schema of the sections about the process and not its requests: `[state]`, `[config]`, `[log]`, `[admin]`, `[locks]`,
//! `[trace]`.
//!
//! Changes of `[state]`, `[admin]` and `[locks]` need a restart or an upgrade, but for `tls`; that, `[config]`,
//! `[log]` and `[trace]` follow a reload. Sections that start a service keep their span, so that a missing
//! `listen` can be reported at their header.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use super::cert_pair_schema::CertPair;
use super::toml_table::TomlTable;
use super::toml_value::{Setting, SourceSpan, TomlValue};
use super::value_parsers::{Destination, address, destination, folder, path};
use crate::gate::journal::AfterCrash;
use crate::proxy::access_log::Format;

/// `[state]`: the folder with the counts that outlive a restart.
#[derive(Debug)]
pub(super) struct StateSection {
    /// Default: systemd's state folder, else state.
    ///
    /// systemd's is `STATE_DIRECTORY`; `state` lies beside the file. Holds the lock register, too.
    pub(super) dir: Setting<PathBuf>,
    /// Treatment of counts after a crash. Default: remember.
    ///
    /// `remember` believes what was written, and takes the rest as full; `forget` starts empty.
    pub(super) after_crash: AfterCrash,
}

/// `[config]`: the file itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConfigSection {
    /// True: the file is read again when it changes. Default: false.
    ///
    /// The file is polled twice a second.
    pub(super) watch: bool,
}

/// `[log]`: the log and the access log.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogSection {
    /// Default: info.
    ///
    /// `RUST_LOG` goes before it.
    pub(super) level: LevelFilter,
    /// Format of the access log. Default: text.
    ///
    /// Written to stdout, unlike the log.
    pub(super) access: Format,
}

/// `[admin]`: the admin API, metrics and dashboard.
#[derive(Debug)]
pub(super) struct AdminSection {
    /// Place of the header, for a missing key.
    pub(super) span: SourceSpan,
    /// True if the file has the section: then `listen` is needed.
    pub(super) is_present: bool,
    /// Listening address; needed.
    ///
    /// One address; port 0 is any free one.
    pub(super) listen: Setting<SocketAddr>,
    /// Path of the users file; needed beyond loopback.
    pub(super) users: Setting<PathBuf>,
    /// Certificate of the listener. Default: TLS is off.
    pub(super) tls: CertPair,
}

/// `[locks]`: the lock service.
#[derive(Debug)]
pub(super) struct LocksSection {
    /// Place of the header, for a missing key.
    pub(super) span: SourceSpan,
    /// True if the file has the section: then `listen` is needed.
    pub(super) is_present: bool,
    /// Listening address; needed.
    pub(super) listen: Setting<SocketAddr>,
    /// Path of the file with users that may see and end the locks of others.
    pub(super) users: Setting<PathBuf>,
    /// Certificate of the listener. Default: TLS is off.
    pub(super) tls: CertPair,
}

/// Times between two exports of metrics.
///
/// A choice: a collector is asked for more seldom by scrapers, too.
const METRICS_INTERVALS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// `[trace]`: spans and metrics for a collector of OpenTelemetry.
#[derive(Debug)]
pub(super) struct TraceSection {
    /// Place of the header, for a missing key.
    pub(super) span: SourceSpan,
    /// True if the file has the section: then `otlp` is needed.
    pub(super) is_present: bool,
    /// URL of the collector (OTLP over HTTP); needed.
    ///
    /// The path `/v1/traces` is appended to it for spans, `/v1/metrics` for metrics.
    pub(super) otlp: Setting<Destination>,
    /// One in so many requests without a traceparent is traced, 1 to 1 000 000. Default: 1.
    pub(super) one_in: u32,
    /// True: spans are exported. Default: true.
    pub(super) traces: bool,
    /// True: metrics are exported. Default: false.
    pub(super) metrics: bool,
    /// Time between two exports of metrics, from 1s to 1h. Default: 60s.
    pub(super) metrics_interval: Setting<Duration>,
}

impl TraceSection {
    /// A misspelt `otlp` counts as invalid, so that it is reported once.
    pub(super) fn read(table: &mut TomlTable<'_>) -> TraceSection {
        let (span, is_present) = (table.span(), table.is_present());
        let mut trace = TraceSection {
            span,
            is_present,
            otlp: table.get("otlp", destination),
            one_in: table.get("one_in", |v| v.number(1..=1_000_000)).or(1),
            traces: table.get("traces", TomlValue::boolean).or(true),
            metrics: table.get("metrics", TomlValue::boolean).or(false),
            metrics_interval: table.get("metrics_interval", |v| v.duration(METRICS_INTERVALS)),
        };
        if table.misspelt_keys().contains(&"otlp") {
            trace.otlp.mark_misspelt();
        }
        trace
    }
}

impl StateSection {
    /// Reads `dir` and `after_crash`; the default of `dir` is found by `validate`.
    pub(super) fn read(table: &mut TomlTable<'_>) -> StateSection {
        let beliefs = [("remember", AfterCrash::Remember), ("forget", AfterCrash::Forget)];
        StateSection {
            dir: table.get("dir", folder),
            after_crash: table.get("after_crash", |v| v.keyword(&beliefs)).or(AfterCrash::Remember),
        }
    }
}

impl ConfigSection {
    pub(super) fn read(table: &mut TomlTable<'_>) -> ConfigSection {
        ConfigSection { watch: table.get("watch", TomlValue::boolean).or(false) }
    }
}

impl LogSection {
    /// Levels are those of `tracing`, and `off`; `access` is `text`, `json` or `off`.
    pub(super) fn read(table: &mut TomlTable<'_>) -> LogSection {
        let levels = [
            ("error", LevelFilter::ERROR),
            ("warn", LevelFilter::WARN),
            ("info", LevelFilter::INFO),
            ("debug", LevelFilter::DEBUG),
            ("trace", LevelFilter::TRACE),
            ("off", LevelFilter::OFF),
        ];
        let formats = [("text", Format::Text), ("json", Format::Json), ("off", Format::Off)];
        LogSection {
            level: table.get("level", |v| v.keyword(&levels)).or(LevelFilter::INFO),
            access: table.get("access", |v| v.keyword(&formats)).or(Format::Text),
        }
    }
}

impl AdminSection {
    /// Misspelt keys count as invalid, so that each slip is reported once.
    pub(super) fn read(table: &mut TomlTable<'_>) -> AdminSection {
        let (span, is_present) = (table.span(), table.is_present());
        let mut admin = AdminSection {
            span,
            is_present,
            listen: table.get("listen", address),
            users: table.get("users", path),
            tls: CertPair::of_listener(table),
        };
        for key in table.misspelt_keys() {
            match key {
                "listen" => admin.listen.mark_misspelt(),
                "users" => admin.users.mark_misspelt(),
                _ => {}
            }
        }
        admin
    }
}

impl LocksSection {
    pub(super) fn read(table: &mut TomlTable<'_>) -> LocksSection {
        let (span, is_present) = (table.span(), table.is_present());
        let mut locks = LocksSection {
            span,
            is_present,
            listen: table.get("listen", address),
            users: table.get("users", path),
            tls: CertPair::of_listener(table),
        };
        if table.misspelt_keys().contains(&"listen") {
            locks.listen.mark_misspelt();
        }
        locks
    }
}
