//! Tests of the access log: lines in each format, redaction, and a reader that has stopped.

use std::io;
use std::sync::Mutex;
use std::sync::mpsc;

use super::secret::MAX_TARGET;
use super::*;

/// 2026-01-31T23:59:59.123Z and some nanoseconds.
const AT: i128 = 1_769_903_999_123_999_999;

fn record() -> AccessLogEntry {
    AccessLogEntry {
        peer: IpAddr::from([192, 0, 2, 1]),
        user: None,
        method: "GET".to_owned(),
        target: "http://api.example/v2/x?key=secret&b=2".to_owned(),
        limits: vec!["partner-api".into(), "daily".into()],
        waited: Duration::from_micros(12_345),
        status: 200,
        refused_by: None,
        bytes_in: 3,
        bytes_out: 4567,
        took: Duration::from_millis(1_050),
        dry_run_delay: None,
        note: None,
        timeout: None,
    }
}

fn text(record: &AccessLogEntry) -> String {
    let mut out = String::new();
    write_text(&mut out, AT, record);
    out
}

fn json(record: &AccessLogEntry) -> String {
    let mut out = String::new();
    write_json(&mut out, AT, record);
    out
}

#[test]
fn a_line_of_text_says_all_there_is_to_say() {
    assert_eq!(
        text(&record()),
        "2026-01-31T23:59:59.123Z 192.0.2.1 GET http://api.example/v2/x?key=…&b=… 200 limits=partner-api,daily \
         waited=12.345ms took=1050.000ms bytes_in=3 bytes_out=4567\n"
    );
    let refused = AccessLogEntry {
        user: Some("anna".into()),
        limits: Vec::new(),
        refused_by: Some("limit"),
        note: Some("queue_full".into()),
        status: 429,
        ..record()
    };
    assert_eq!(
        text(&refused),
        "2026-01-31T23:59:59.123Z anna GET http://api.example/v2/x?key=…&b=… 429 address=192.0.2.1 waited=12.345ms \
         took=1050.000ms bytes_in=3 bytes_out=4567 refused_by=limit note=queue_full\n"
    );
}

#[test]
fn a_line_tells_what_a_limit_in_dry_run_would_have_done() {
    let dry_run_delay =
        AccessLogEntry { dry_run_delay: Some(("trial".into(), Duration::from_micros(2_500))), ..record() };
    assert!(text(&dry_run_delay).ends_with(" bytes_out=4567 dry_run=trial:2.500ms\n"), "{}", text(&dry_run_delay));
    assert!(json(&dry_run_delay).contains(",\"dry_run\":\"trial\",\"dry_run_ms\":2.500,"), "{}", json(&dry_run_delay));
}

#[test]
fn a_line_of_json_says_the_same() {
    assert_eq!(
        json(&record()),
        "{\"time\":\"2026-01-31T23:59:59.123Z\",\"caller\":\"192.0.2.1\",\"address\":\"192.0.2.1\",\"method\":\"GET\",\
         \"target\":\"http://api.example/v2/x?key=…&b=…\",\"limits\":[\"partner-api\",\"daily\"],\"status\":200,\
         \"waited_ms\":12.345,\"took_ms\":1050.000,\"bytes_in\":3,\"bytes_out\":4567}\n"
    );
    let refused =
        AccessLogEntry { user: Some("a\"b".into()), limits: Vec::new(), refused_by: Some("limit"), ..record() };
    let line = json(&refused);
    assert!(line.contains("\"caller\":\"a\\\"b\",\"address\":\"192.0.2.1\""), "{line}");
    assert!(line.contains("\"refused_by\":\"limit\",\"limits\":[],"), "{line}");
}

#[test]
fn no_caller_can_write_a_line_of_its_own() {
    let hostile = AccessLogEntry {
        user: Some("x y\n2026 \u{1b}[31m\u{202e}\u{2028}\u{85}\"\\é".into()),
        method: "G\r\nET".to_owned(),
        target: "/a\n\0b c?\r\n=1".to_owned(),
        ..record()
    };
    let line = text(&hostile);
    assert_eq!(line.matches('\n').count(), 1, "{line}");
    assert!(line.chars().all(|char| !char.is_control() || char == '\n') && !line.contains(['\u{202e}', '\u{2028}']));
    assert_eq!(line.split(' ').nth(1), Some("x\\u{20}y\\n2026\\u{20}\\u{1b}[31m\\u{202e}\\u{2028}\\u{85}\\\"\\\\é"));
    let line = json(&hostile);
    assert_eq!(line.matches('\n').count(), 1, "{line}");
    assert!(!line.contains(['\u{1b}', '\r', '\0', '\u{2028}', '\u{85}']));
}

#[test]
fn a_note_with_spaces_is_quoted_and_ends_where_its_quotes_end() {
    let noted = |note: &'static str| text(&AccessLogEntry { note: Some(note.into()), ..record() });
    for (note, shown) in [
        ("queue_full", "note=queue_full"),
        ("the caller hung up", "note=\"the caller hung up\""),
        ("it's \"b\\\" status=500\nx\u{202e}", "note=\"it's \\\"b\\\\\\\" status=500\\nx\\u{202e}\""),
        ("", "note=\"\""),
    ] {
        let line = noted(note);
        assert!(line.ends_with(&format!(" bytes_out=4567 {shown}\n")), "{line}");
    }
    let timeout = AccessLogEntry { timeout: Some("timeouts.for[a b].answer=1s".into()), ..record() };
    assert!(text(&timeout).ends_with(" timeout=\"timeouts.for[a b].answer=1s\"\n"), "{}", text(&timeout));
}

#[test]
fn an_empty_name_still_takes_its_place() {
    let nameless = AccessLogEntry { user: Some("".into()), ..record() };
    assert_eq!(text(&nameless).split(' ').nth(1), Some("-"));
}

#[test]
fn secrets_of_a_target_are_not_shown() {
    for (target, shown) in [
        ("/a?b=secret&c&d=&=secret&&e=x=secret", "/a?b=…&…&d=…&=…&&e=…"),
        ("/a?secret", "/a?…"),
        ("/a?", "/a?"),
        ("/a?b=c#secret", "/a?b=…"),
        ("/a#secret?x", "/a"),
        ("http://user:secret@h/p?q=1", "http://h/p?q=…"),
        ("http://user:se@cret@h:80", "http://h:80"),
        ("http:///user:secret@h/", "http:///h/"),
        ("user:secret@h:443", "h:443"),
        ("http:user:secret@h/p", "h/p"),
        ("h:443", "h:443"),
        ("/path/a@b", "/path/a@b"),
        ("http://h/a@b", "http://h/a@b"),
        ("*", "*"),
        ("", ""),
    ] {
        assert_eq!(without_secrets(target), shown);
    }
}

#[test]
fn a_long_target_is_cut() {
    let long = format!("/{}", "ü".repeat(10_000));
    assert!(without_secrets(&long).len() <= MAX_TARGET + '…'.len_utf8());
    let many = format!("/?{}", "a=b&".repeat(20_000));
    assert!(without_secrets(&many).len() <= MAX_TARGET + '…'.len_utf8());
}

#[test]
fn an_odd_clock_still_gives_a_time() {
    assert_eq!(Rfc3339(0).to_string(), "1970-01-01T00:00:00.000Z");
    assert_eq!(Rfc3339(-1).to_string(), "1969-12-31T23:59:59.999Z");
    assert!(Rfc3339(i128::MAX).to_string().starts_with("9999-12-3"));
}

/// Output of which each write waits for a result from the test, and returns it.
struct Gated {
    written: Arc<Mutex<Vec<u8>>>,
    words: mpsc::Receiver<io::Result<()>>,
}

impl Write for Gated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // After the test has dropped its end, every write succeeds.
        self.words.recv().unwrap_or(Ok(()))?;
        self.written.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Written = Arc<Mutex<Vec<u8>>>;

fn gated(format: Format) -> (AccessLog, Written, mpsc::Sender<io::Result<()>>) {
    let written = Arc::new(Mutex::new(Vec::new()));
    let (say, words) = mpsc::channel();
    let out = Gated { written: Arc::clone(&written), words };
    (AccessLog::new(format, Box::new(out), Clock::start()), written, say)
}

fn lines(written: &Mutex<Vec<u8>>) -> Vec<String> {
    let text = String::from_utf8(written.lock().expect("no panic").clone()).expect("UTF-8");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn all_that_was_handed_over_is_written_in_order() {
    let (log, written, say) = gated(Format::Text);
    drop(say);
    for status in 200..300 {
        log.write(AccessLogEntry { status, ..record() });
    }
    log.flush();
    let lines = lines(&written);
    assert_eq!(lines.len(), 100);
    assert!((200..300).zip(&lines).all(|(status, line)| line.contains(&format!(" {status} limits="))));
    assert_eq!(log.dropped(), 0);
}

/// Counts the writes.
struct Counting(Arc<AtomicU64>);

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn lines_that_come_one_by_one_are_written_many_at_a_time() {
    let writes = Arc::new(AtomicU64::new(0));
    let clock = Clock::start();
    let log = AccessLog::new(Format::Text, Box::new(Counting(Arc::clone(&writes))), clock);
    let started = clock.now();
    for _ in 0..200 {
        log.write(record());
        thread::sleep(Duration::from_micros(100));
    }
    log.flush();
    // The writer sleeps before each write, so that a slow machine makes fewer of them.
    let most = clock.now().since(started).as_millis() / GATHER_TIME.as_millis() + 1;
    let writes = writes.load(Ordering::Relaxed);
    assert!((1..=most).contains(&u128::from(writes)), "{writes} writes, at most {most}");
    assert_eq!(log.dropped(), 0);
}

#[test]
fn what_finds_no_room_is_dropped_and_told() {
    let (log, written, say) = gated(Format::Json);
    // The writer is stuck with the first batch, so that the queue fills up.
    let all = 3 * MAX_QUEUED_RECORDS as u64;
    for _ in 0..all {
        log.write(record());
    }
    assert!(log.dropped() > 0);
    drop(say);
    log.flush();
    log.write(record());
    log.flush();
    let lines = lines(&written);
    let told: u64 = lines
        .iter()
        .filter_map(|line| line.split_once("\"dropped_lines\":"))
        .map(|(_, count)| count.trim_end_matches('}').parse::<u64>().expect("a number"))
        .sum();
    let written = lines.iter().filter(|line| line.contains("\"status\"")).count() as u64;
    assert_eq!((told, written), (log.dropped(), all + 1 - log.dropped()));
}

#[test]
fn a_broken_pipe_loses_lines_and_nothing_else() {
    let (log, written, say) = gated(Format::Text);
    say.send(Err(io::ErrorKind::BrokenPipe.into())).expect("a writer");
    log.write(record());
    log.flush();
    assert_eq!((log.dropped(), lines(&written).len()), (1, 0));
    drop(say);
    log.write(record());
    log.flush();
    let lines = lines(&written);
    assert!(lines.len() == 2 && lines.iter().any(|line| line.ends_with("dropped_lines=1")), "{lines:?}");
}

#[test]
fn off_is_off() {
    let log = AccessLog::new(Format::Off, Box::new(io::sink()), Clock::start());
    assert!(!log.is_on());
    log.write(record());
    log.flush();
    assert_eq!(log.dropped(), 0);
    assert!(AccessLog::new(Format::Json, Box::new(io::sink()), Clock::start()).is_on());
}
