//! A response as a caller received it, and what every answer of the gateway's own must look like.

use std::time::Instant;

use super::request::{chunks, field};
use super::stream::{Stop, Stream};

/// How a response's message ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// No content by rule: HEAD, 1xx, 204, 304, a tunnel.
    Empty,
    /// All bytes that Content-Length announced.
    Length,
    /// The last chunk.
    Chunked,
    /// The connection's end, in order.
    Closed,
    /// Broken off before its end.
    Truncated,
}

/// One response.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) raw: String,
    pub(crate) version: String,
    pub(crate) status: u16,
    pub(crate) reason: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) end: End,
    /// The 1xx that came before, in order.
    pub(crate) interim: Vec<Answer>,
    /// When its head had come, on the tests' clock.
    pub(crate) stamp: u64,
}

impl Answer {
    fn parse(head: &[u8], stamp: u64) -> Answer {
        let raw: String = head.iter().map(|b| char::from(*b)).collect();
        let mut lines = raw.trim_end_matches("\r\n").split("\r\n");
        let first = lines.next().expect("a head has a first line");
        let (version, rest) = first.split_once(' ').unwrap_or_else(|| panic!("bad status line {first:?}"));
        let (status, reason) = rest.split_once(' ').unwrap_or_else(|| panic!("no space after the status: {first:?}"));
        assert!(status.len() == 3, "a status has three digits: {first:?}");
        Answer {
            version: version.to_owned(),
            status: status.parse().unwrap_or_else(|_| panic!("bad status {first:?}")),
            reason: reason.to_owned(),
            fields: lines.map(field).collect(),
            body: Vec::new(),
            trailers: Vec::new(),
            end: End::Empty,
            interim: Vec::new(),
            stamp,
            raw,
        }
    }

    /// Reads one response to a request of `method`, with the 1xx before it; `Err` if no whole head comes.
    pub(crate) fn read(stream: &mut Stream, method: &str, end: Instant) -> Result<Answer, Stop> {
        let mut interim = Vec::new();
        loop {
            let head = stream.take_until(b"\r\n\r\n", end)?;
            let mut answer = Answer::parse(&head, stream.stamp);
            if answer.status / 100 == 1 && answer.status != 101 {
                interim.push(answer);
                continue;
            }
            answer.interim = interim;
            answer.read_body(stream, method, end);
            return Ok(answer);
        }
    }

    fn read_body(&mut self, stream: &mut Stream, method: &str, end: Instant) {
        let none = method == "HEAD" || matches!(self.status, 101 | 204 | 304);
        if none || (method == "CONNECT" && self.status / 100 == 2) {
            return;
        }
        let coding = self.field("transfer-encoding").map(str::to_ascii_lowercase);
        let lengths: Vec<String> = self.all("content-length").map(str::to_owned).collect();
        assert!(lengths.len() <= 1, "more than one Content-Length: {}", self.raw);
        assert!(coding.is_none() || lengths.is_empty(), "two kinds of framing: {}", self.raw);
        if let Some(coding) = coding {
            assert_eq!(coding, "chunked");
            match chunks(stream, end) {
                Ok((body, trailers)) => (self.body, self.trailers, self.end) = (body, trailers, End::Chunked),
                Err(_) => self.end = End::Truncated,
            }
        } else if let Some(length) = lengths.first() {
            let count = length.parse().unwrap_or_else(|_| panic!("bad Content-Length {length:?}"));
            match stream.take(count, end) {
                Ok(body) => (self.body, self.end) = (body, End::Length),
                Err(_) => (self.body, self.end) = (std::mem::take(&mut stream.ahead), End::Truncated),
            }
        } else {
            let (body, stop) = stream.take_rest(end);
            self.body = body;
            self.end = if stop == Stop::Closed { End::Closed } else { End::Truncated };
        }
    }

    /// The first value of a field, whatever its letter case.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All values of a field, in order.
    pub(crate) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let name = name.to_owned();
        self.fields.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(&name)).map(|(_, v)| v.as_str())
    }

    /// The content as text.
    pub(crate) fn text(&self) -> String {
        self.body.iter().map(|b| char::from(*b)).collect()
    }

    /// The problem body, parsed.
    #[track_caller]
    pub(crate) fn problem(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("the problem is not JSON ({e}): {}", self.text()))
    }

    /// `retry_after_ms` of a 429.
    #[track_caller]
    pub(crate) fn retry_after_ms(&self) -> f64 {
        let problem = self.problem();
        problem["retry_after_ms"].as_f64().unwrap_or_else(|| panic!("no retry_after_ms in {problem}"))
    }

    /// Whether the sender said that the connection ends here.
    pub(crate) fn says_close(&self) -> bool {
        self.all("connection").any(|v| v.split(',').any(|o| o.trim().eq_ignore_ascii_case("close")))
    }
}

/// Fails unless `answer` is one of the gateway's own, with this status, and complete in all that docs/operating.md promises.
#[track_caller]
pub(crate) fn check_ours(answer: &Answer, status: u16, error: &str) {
    let raw = format!("{}{}", answer.raw, answer.text());
    assert_eq!(answer.status, status, "{raw}");
    assert!(!answer.reason.is_empty(), "a reason phrase helps people: {raw}");
    let proxy_status = answer.field("proxy-status").unwrap_or_else(|| panic!("no Proxy-Status: {raw}"));
    let mut parts = proxy_status.split(';').map(str::trim);
    assert_eq!(parts.next(), Some("lockgate"), "{raw}");
    let named: Vec<&str> = parts.filter_map(|p| p.strip_prefix("error=")).collect();
    assert!(named.len() == 1 && error.split('|').any(|e| e == named[0]), "{named:?} is not {error}: {raw}");
    assert_eq!(answer.field("content-type"), Some("application/problem+json"), "{raw}");
    let date = answer.field("date").unwrap_or_else(|| panic!("no Date: {raw}"));
    assert!(httpdate::parse_http_date(date).is_ok(), "bad Date {date:?}");
    assert_eq!(answer.field("cache-control"), Some("no-store"), "{raw}");
    for name in ["keep-alive", "proxy-connection", "te", "upgrade", "transfer-encoding"] {
        assert_eq!(answer.field(name), None, "{name} has no place in an answer of ours: {raw}");
    }
    if let Some(retry) = answer.field("retry-after") {
        let seconds: u64 = retry.parse().unwrap_or_else(|_| panic!("Retry-After is whole seconds: {raw}"));
        assert!(seconds >= 1, "Retry-After is never 0: {raw}");
    }
    if answer.end != End::Empty {
        check_problem(answer, status);
    }
}

#[track_caller]
fn check_problem(answer: &Answer, status: u16) {
    assert_eq!(answer.end, End::Length, "the whole body came: {}", answer.raw);
    let problem = answer.problem();
    assert_eq!(problem["status"].as_u64(), Some(u64::from(status)), "{problem}");
    assert!(problem["title"].as_str().is_some_and(|t| !t.is_empty()), "{problem}");
    if status != 429 {
        return;
    }
    assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded", "{problem}");
    let violated = problem["violated-policies"].as_array().unwrap_or_else(|| panic!("no violated-policies: {problem}"));
    assert!(!violated.is_empty(), "{problem}");
    let exact_ms = answer.retry_after_ms();
    assert!(exact_ms >= 0.0, "{problem}");
    let seconds: f64 = answer.field("retry-after").expect("a 429 says when").parse().expect("whole seconds");
    assert!(seconds * 1000.0 >= exact_ms, "Retry-After {seconds} is rounded up from {exact_ms} ms");
    assert!((seconds - 1.0) * 1000.0 <= exact_ms.max(1.0), "Retry-After {seconds} is not far above {exact_ms} ms");
    assert!(answer.field("ratelimit-policy").is_some(), "{}", answer.raw);
    assert!(answer.field("ratelimit").is_some(), "{}", answer.raw);
}
