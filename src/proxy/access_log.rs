//! Access log: one line per request, written by a thread of its own.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use self::escape::{EscapedWord, QuotedValue};
use self::secret::without_secrets;
use super::json;
use crate::gate::clock::Clock;

mod escape;
mod secret;

/// Number of records that may wait for the writer: a tenth of a second's worth at full speed, a few MiB.
const MAX_QUEUED_RECORDS: usize = 8192;

/// Bytes gathered before a write: one system call for some 300 lines.
const BATCH_BYTES: usize = 64 * 1024;

/// Time that the writer lets records gather before it takes them. A writer that waited for each record would be woken for
/// each, which cost a quarter of the gateway's processor time on a machine with few cores.
const GATHER_TIME: Duration = Duration::from_millis(5);

/// Time that [`AccessLog::flush`] waits for a reader that has stopped reading.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Format of the lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Words separated by spaces; the last of them are `name=value`, and a value with spaces is in double quotes.
    Text,
    /// One JSON object per line.
    Json,
    /// No access log.
    Off,
}

/// Record of one request, complete at its end.
#[derive(Clone, Debug)]
pub struct AccessLogEntry {
    /// Address of the caller.
    pub peer: IpAddr,
    /// User name of the caller, if it was authenticated.
    pub user: Option<Arc<str>>,
    /// Method, as received.
    pub method: String,
    /// Target, as received; the values of its query and its userinfo are left out of the line.
    pub target: String,
    /// Names of the limits that counted it.
    pub limits: Vec<Arc<str>>,
    /// Time that it waited for its permit.
    pub waited: Duration,
    /// Status that the caller received.
    pub status: u16,
    /// Party that refused it, see [`Refusal::refused_by`](super::refusal::Refusal::refused_by); `None`: the response is
    /// the origin's.
    pub refused_by: Option<&'static str>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response.
    pub bytes_out: u64,
    /// Time from the request's head to the last byte of the response.
    pub took: Duration,
    /// Limit in `dry_run` that would have delayed or refused it, and the delay.
    pub dry_run_delay: Option<(Arc<str>, Duration)>,
    /// Reason of a refusal or an unusual end.
    pub note: Option<Cow<'static, str>>,
    /// Timeout that ended it: its key and its value, such as `timeouts.answer=60s`.
    pub timeout: Option<String>,
}

/// Handle of the access log. Hands records to the thread that writes them without ever waiting for it; a record that
/// finds the queue full is dropped and counted.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// `None` if the access log is off.
    hand_over: Option<HandOver>,
}

/// Sending side of the log.
#[derive(Clone, Debug)]
struct HandOver {
    to_writer: SyncSender<LogMessage>,
    /// Number of records lost, shared with the writer.
    dropped: Arc<AtomicU64>,
    clock: Clock,
}

/// Message to the writer thread.
#[allow(clippy::large_enum_variant, reason = "nearly every message is a line, and a box would cost each an allocation")]
enum LogMessage {
    Line { unix_nanos: i128, record: AccessLogEntry },
    Flush { done: SyncSender<()> },
}

impl AccessLog {
    /// Starts the thread that writes to `out`, normally the standard output; `Off` starts none. The thread ends after
    /// the last clone of the handle was dropped.
    pub fn new(format: Format, out: Box<dyn Write + Send>, clock: Clock) -> AccessLog {
        let write: fn(&mut String, i128, &AccessLogEntry) = match format {
            Format::Text => write_text,
            Format::Json => write_json,
            Format::Off => return AccessLog { hand_over: None },
        };
        let (to_writer, queue) = sync_channel(MAX_QUEUED_RECORDS);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            out,
            format,
            write,
            lines: 0,
            batch: String::new(),
            dropped: Arc::clone(&dropped),
            reported: 0,
            clock,
        };
        let started = thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run(&queue));
        if let Err(error) = started {
            tracing::error!(%error, "cannot start the thread of the access log; the log is off");
            return AccessLog { hand_over: None };
        }
        AccessLog { hand_over: Some(HandOver { to_writer, dropped, clock }) }
    }

    /// True if the log is on; if not, the caller need not make records.
    pub fn is_on(&self) -> bool {
        self.hand_over.is_some()
    }

    /// Hands a record to the writer. Takes well under a microsecond, even if the writer is stuck.
    pub fn write(&self, record: AccessLogEntry) {
        let Some(HandOver { to_writer, dropped, clock }) = &self.hand_over else { return };
        if to_writer.try_send(LogMessage::Line { unix_nanos: clock.wall_unix_nanos(), record }).is_err() {
            dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Number of lines lost because the queue was full or a write failed.
    pub fn dropped(&self) -> u64 {
        self.hand_over.as_ref().map_or(0, |hand_over| hand_over.dropped.load(Ordering::Relaxed))
    }

    /// Waits until all records handed over so far are written, for at most four seconds. Blocks the thread.
    pub fn flush(&self) {
        let Some(HandOver { to_writer, .. }) = &self.hand_over else { return };
        let (done, written) = sync_channel(1);
        let mut message = LogMessage::Flush { done };
        let pause = Duration::from_millis(1);
        for _ in 0..FLUSH_TIMEOUT.as_millis() {
            match to_writer.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return,
                Err(TrySendError::Full(back)) => message = back,
            }
            thread::sleep(pause);
        }
        // An error means that the writer has ended or is stuck: nothing more can be written.
        let _ = written.recv_timeout(FLUSH_TIMEOUT);
    }
}

/// State of the writer thread: gathers lines, and writes a batch when it is large enough or the queue is empty. Takes records
/// [`GATHER_TIME`] after the first of them at the earliest.
struct Writer {
    out: Box<dyn Write + Send>,
    format: Format,
    /// Formats one record as a line.
    write: fn(&mut String, i128, &AccessLogEntry),
    /// Formatted lines that are not written yet.
    batch: String,
    /// Number of lines in the batch.
    lines: u64,
    dropped: Arc<AtomicU64>,
    /// Number of dropped lines that the log has reported.
    reported: u64,
    clock: Clock,
}

impl Writer {
    /// Runs until the last sender is gone.
    fn run(mut self, queue: &Receiver<LogMessage>) {
        while let Ok(first) = queue.recv() {
            thread::sleep(GATHER_TIME);
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    LogMessage::Line { unix_nanos, record } => self.add(unix_nanos, &record),
                    LogMessage::Flush { done } => {
                        self.write_batch();
                        // The flushing thread may have timed out.
                        let _ = done.try_send(());
                    }
                }
                next = queue.try_recv().ok();
            }
            self.write_batch();
        }
    }

    fn add(&mut self, unix_nanos: i128, record: &AccessLogEntry) {
        (self.write)(&mut self.batch, unix_nanos, record);
        self.lines += 1;
        if self.batch.len() >= BATCH_BYTES {
            self.write_batch();
        }
    }

    fn write_batch(&mut self) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        let lost = dropped - self.reported;
        if lost > 0 {
            write_lost(&mut self.batch, self.format, self.clock.wall_unix_nanos(), lost);
        }
        if self.batch.is_empty() {
            return;
        }
        // A closed pipe or a full disk loses lines; the gateway keeps running.
        match self.out.write_all(self.batch.as_bytes()).and_then(|()| self.out.flush()) {
            Ok(()) => self.reported = dropped,
            Err(_) => drop(self.dropped.fetch_add(self.lines, Ordering::Relaxed)),
        }
        self.lines = 0;
        self.batch.clear();
        self.batch.shrink_to(2 * BATCH_BYTES);
    }
}

/// Writes a line with the number of lines lost at this place.
fn write_lost(out: &mut String, format: Format, unix_nanos: i128, lost: u64) {
    let time = Rfc3339(unix_nanos);
    let written = if format == Format::Json {
        writeln!(out, "{{\"time\":\"{time}\",\"dropped_lines\":{lost}}}")
    } else {
        writeln!(out, "{time} - - - - dropped_lines={lost}")
    };
    written.expect("writing to a String cannot fail");
}

/// Appends a record in the format [`Format::Text`].
fn write_text(out: &mut String, unix_nanos: i128, record: &AccessLogEntry) {
    let mut push = |text: std::fmt::Arguments<'_>| out.write_fmt(text).expect("writing to a String cannot fail");
    let AccessLogEntry {
        peer,
        user,
        method,
        target,
        limits,
        waited,
        status,
        refused_by,
        bytes_in,
        bytes_out,
        took,
        dry_run_delay,
        note,
        timeout,
    } = record;
    push(format_args!("{} ", Rfc3339(unix_nanos)));
    match user {
        Some(user) => push(format_args!("{} ", EscapedWord(user))),
        None => push(format_args!("{} ", peer.to_canonical())),
    }
    push(format_args!("{} {} {status}", EscapedWord(method), EscapedWord(&without_secrets(target))));
    if user.is_some() {
        push(format_args!(" address={}", peer.to_canonical()));
    }
    for (index, limit) in limits.iter().enumerate() {
        push(format_args!("{}{}", if index == 0 { " limits=" } else { "," }, EscapedWord(limit)));
    }
    push(format_args!(" waited={}ms took={}ms", Millis(*waited), Millis(*took)));
    push(format_args!(" bytes_in={bytes_in} bytes_out={bytes_out}"));
    if let Some(party) = refused_by {
        push(format_args!(" refused_by={}", EscapedWord(party)));
    }
    if let Some((limit, wait)) = dry_run_delay {
        push(format_args!(" dry_run={}:{}ms", EscapedWord(limit), Millis(*wait)));
    }
    if let Some(note) = note {
        push(format_args!(" note={}", QuotedValue(note)));
    }
    if let Some(timeout) = timeout {
        push(format_args!(" timeout={}", QuotedValue(timeout)));
    }
    out.push('\n');
}

/// Appends a record in the format [`Format::Json`].
fn write_json(out: &mut String, unix_nanos: i128, record: &AccessLogEntry) {
    let AccessLogEntry {
        peer,
        user,
        method,
        target,
        limits,
        waited,
        status,
        refused_by,
        bytes_in,
        bytes_out,
        took,
        dry_run_delay,
        note,
        timeout,
    } = record;
    let address = peer.to_canonical().to_string();
    write!(out, "{{\"time\":\"{}\"", Rfc3339(unix_nanos)).expect("writing to a String cannot fail");
    let target = without_secrets(target);
    let strings = [
        (",\"caller\":", Some(user.as_deref().unwrap_or(&address))),
        (",\"address\":", Some(address.as_str())),
        (",\"method\":", Some(method)),
        (",\"target\":", Some(&target)),
        (",\"refused_by\":", *refused_by),
        (",\"note\":", note.as_deref()),
        (",\"timeout\":", timeout.as_deref()),
    ];
    for (name, value) in strings {
        let Some(value) = value else { continue };
        out.push_str(name);
        json::push_string(out, value);
    }
    for (index, limit) in limits.iter().enumerate() {
        out.push_str(if index == 0 { ",\"limits\":[" } else { "," });
        json::push_string(out, limit);
    }
    out.push_str(if limits.is_empty() { ",\"limits\":[]" } else { "]" });
    if let Some((limit, wait)) = dry_run_delay {
        out.push_str(",\"dry_run\":");
        json::push_string(out, limit);
        write!(out, ",\"dry_run_ms\":{}", Millis(*wait)).expect("writing to a String cannot fail");
    }
    let (waited, took) = (Millis(*waited), Millis(*took));
    writeln!(
        out,
        ",\"status\":{status},\"waited_ms\":{waited},\"took_ms\":{took},\"bytes_in\":{bytes_in},\"bytes_out\":{bytes_out}}}"
    )
    .expect("writing to a String cannot fail");
}

/// Duration in milliseconds with three decimals.
struct Millis(Duration);

impl std::fmt::Display for Millis {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}.{:03}", self.0.as_millis(), self.0.subsec_micros() % 1000)
    }
}

/// Unix time in nanoseconds, shown as `2026-01-31T23:59:59.123Z` (RFC 3339).
struct Rfc3339(i128);

impl std::fmt::Display for Rfc3339 {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Rounds down to the millisecond, so that no time in the future is shown.
        let time =
            jiff::Timestamp::from_nanosecond(self.0 - self.0.rem_euclid(1_000_000)).unwrap_or(jiff::Timestamp::MAX);
        write!(out, "{time:.3}")
    }
}

#[cfg(test)]
mod tests;
