//! One line per request.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use self::secret::without_secrets;
use super::json;
use crate::gate::clock::Clock;

mod secret;

/// How many records may wait to be written: a tenth of a second's worth at full speed, a few MiB.
const WAITING: usize = 8192;

/// How much is gathered before it is written.
const BATCH: usize = 64 * 1024;

/// How long [`AccessLog::flush`] waits for a reader that does not read.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// How lines are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Words with spaces between, the last of them `name=value`.
    Text,
    /// An object per line.
    Json,
    /// Not at all.
    Off,
}

/// What is known of a request at its end.
#[derive(Clone, Debug)]
pub struct AccessLogEntry {
    /// The caller's address.
    pub peer: IpAddr,
    /// The caller's user name, if it has proved it.
    pub user: Option<Arc<str>>,
    /// The method, as received.
    pub method: String,
    /// The target, as received; the values of its query and its userinfo are left out when it is written.
    pub target: String,
    /// The names of the limits that counted it.
    pub limits: Vec<Arc<str>>,
    /// How long it waited for its permit.
    pub waited: Duration,
    /// The status that the caller got.
    pub status: u16,
    /// Who refused it; `None`: nobody, the answer is the origin's.
    pub refused_by: Option<&'static str>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response.
    pub bytes_out: u64,
    /// From the request's first byte to the response's last.
    pub took: Duration,
    /// The limit in `dry_run` that would have held it back, and for how long.
    pub overruled: Option<(Arc<str>, Duration)>,
    /// What else there is to say.
    pub note: Option<Cow<'static, str>>,
}

/// TaskPool records over to the thread that writes them, and never waits for it: what finds no room is dropped and counted.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// `None`: off.
    hand_over: Option<HandOver>,
}

#[derive(Clone, Debug)]
struct HandOver {
    to_writer: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
    clock: Clock,
}

#[allow(clippy::large_enum_variant, reason = "nearly every message is a line, and a box would cost each an allocation")]
enum Message {
    Line { unix_nanos: i128, record: AccessLogEntry },
    Flush { done: SyncSender<()> },
}

impl AccessLog {
    /// Starts the thread that writes to `out`, normally the standard output; none if the format is `Off`. The thread
    /// ends when the last copy of the log is gone.
    pub fn new(format: Format, out: Box<dyn Write + Send>, clock: Clock) -> AccessLog {
        let write: fn(&mut String, i128, &AccessLogEntry) = match format {
            Format::Text => write_text,
            Format::Json => write_json,
            Format::Off => return AccessLog { hand_over: None },
        };
        let (to_writer, from_callers) = sync_channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            out,
            format,
            write,
            lines: 0,
            batch: String::new(),
            dropped: Arc::clone(&dropped),
            told: 0,
            clock,
        };
        let started = thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run(&from_callers));
        if let Err(error) = started {
            tracing::error!(%error, "the access log is off: its thread cannot be started");
            return AccessLog { hand_over: None };
        }
        AccessLog { hand_over: Some(HandOver { to_writer, dropped, clock }) }
    }

    /// Whether anything is written: if not, no record need be made.
    pub fn is_on(&self) -> bool {
        self.hand_over.is_some()
    }

    /// TaskPool a record over. Takes well under a microsecond, whatever becomes of the line.
    pub fn write(&self, record: AccessLogEntry) {
        let Some(HandOver { to_writer, dropped, clock }) = &self.hand_over else { return };
        if to_writer.try_send(Message::Line { unix_nanos: clock.wall_unix_nanos(), record }).is_err() {
            dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many lines were lost, because there was no room or because they could not be written.
    pub fn dropped(&self) -> u64 {
        self.hand_over.as_ref().map_or(0, |hand_over| hand_over.dropped.load(Ordering::Relaxed))
    }

    /// Waits until all that was handed over is written, but not for ever on a reader that does not read. Blocks the thread.
    pub fn flush(&self) {
        let Some(HandOver { to_writer, .. }) = &self.hand_over else { return };
        let (done, written) = sync_channel(1);
        let mut message = Message::Flush { done };
        let pause = Duration::from_millis(1);
        for _ in 0..FLUSH_WITHIN.as_millis() {
            match to_writer.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return,
                Err(TrySendError::Full(back)) => message = back,
            }
            thread::sleep(pause);
        }
        // A writer that is gone or stuck has nothing more to say.
        let _ = written.recv_timeout(FLUSH_WITHIN);
    }
}

/// The thread's own: gathers lines and writes them in batches, at the latest when there is nothing more to gather.
struct Writer {
    out: Box<dyn Write + Send>,
    format: Format,
    write: fn(&mut String, i128, &AccessLogEntry),
    batch: String,
    /// How many lines the batch holds.
    lines: u64,
    dropped: Arc<AtomicU64>,
    /// How many of the dropped lines the log has told of.
    told: u64,
    clock: Clock,
}

impl Writer {
    fn run(mut self, from_callers: &Receiver<Message>) {
        while let Ok(first) = from_callers.recv() {
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Line { unix_nanos, record } => self.add(unix_nanos, &record),
                    Message::Flush { done } => {
                        self.write_batch();
                        // Whoever asked may have given up.
                        let _ = done.try_send(());
                    }
                }
                next = from_callers.try_recv().ok();
            }
            self.write_batch();
        }
    }

    fn add(&mut self, unix_nanos: i128, record: &AccessLogEntry) {
        (self.write)(&mut self.batch, unix_nanos, record);
        self.lines += 1;
        if self.batch.len() >= BATCH {
            self.write_batch();
        }
    }

    fn write_batch(&mut self) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        let lost = dropped - self.told;
        if lost > 0 {
            write_lost(&mut self.batch, self.format, self.clock.wall_unix_nanos(), lost);
        }
        if self.batch.is_empty() {
            return;
        }
        // A closed pipe or a full disk loses lines; the gateway goes on.
        match self.out.write_all(self.batch.as_bytes()).and_then(|()| self.out.flush()) {
            Ok(()) => self.told = dropped,
            Err(_) => drop(self.dropped.fetch_add(self.lines, Ordering::Relaxed)),
        }
        self.lines = 0;
        self.batch.clear();
        self.batch.shrink_to(2 * BATCH);
    }
}

/// Says how many lines are missing here.
fn write_lost(out: &mut String, format: Format, unix_nanos: i128, lost: u64) {
    let time = Rfc3339(unix_nanos);
    let written = if format == Format::Json {
        writeln!(out, "{{\"time\":\"{time}\",\"dropped_lines\":{lost}}}")
    } else {
        writeln!(out, "{time} - - - - dropped_lines={lost}")
    };
    written.expect("writing to a String cannot fail");
}

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
        overruled,
        note,
    } = record;
    push(format_args!("{} ", Rfc3339(unix_nanos)));
    match user {
        Some(user) => push(format_args!("{} ", Word(user))),
        None => push(format_args!("{} ", peer.to_canonical())),
    }
    push(format_args!("{} {} {status}", Word(method), Word(&without_secrets(target))));
    if user.is_some() {
        push(format_args!(" address={}", peer.to_canonical()));
    }
    for (index, limit) in limits.iter().enumerate() {
        push(format_args!("{}{}", if index == 0 { " limits=" } else { "," }, Word(limit)));
    }
    push(format_args!(" waited={}ms took={}ms", Millis(*waited), Millis(*took)));
    push(format_args!(" bytes_in={bytes_in} bytes_out={bytes_out}"));
    if let Some(who) = refused_by {
        push(format_args!(" refused_by={}", Word(who)));
    }
    if let Some((limit, wait)) = overruled {
        push(format_args!(" dry_run={}:{}ms", Word(limit), Millis(*wait)));
    }
    if let Some(note) = note {
        push(format_args!(" note={}", Word(note)));
    }
    out.push('\n');
}

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
        overruled,
        note,
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
    if let Some((limit, wait)) = overruled {
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

/// A text as one word of a line: no space, no quote, no control or invisible character as such.
struct Word<'a>(&'a str);

impl std::fmt::Display for Word<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return out.write_char('-');
        }
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\');
        if self.0.bytes().all(is_plain) {
            return out.write_str(self.0);
        }
        for char in self.0.chars() {
            match char {
                ' ' => out.write_str("\\u{20}")?,
                '\'' => out.write_char(char)?,
                char => write!(out, "{}", char.escape_debug())?,
            }
        }
        Ok(())
    }
}

/// Milliseconds with three decimals.
struct Millis(Duration);

impl std::fmt::Display for Millis {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}.{:03}", self.0.as_millis(), self.0.subsec_micros() % 1000)
    }
}

/// Unix time as `2026-01-31T23:59:59.123Z`.
struct Rfc3339(i128);

impl std::fmt::Display for Rfc3339 {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Rounding down to the millisecond first: no time is shown that has not come yet.
        let time =
            jiff::Timestamp::from_nanosecond(self.0 - self.0.rem_euclid(1_000_000)).unwrap_or(jiff::Timestamp::MAX);
        write!(out, "{time:.3}")
    }
}

#[cfg(test)]
mod tests;
