//! A refusal as the bytes of a response: status line, fields, problem body (RFC 9457).

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::refusal::Refusal;

impl Refusal {
    /// Appends the whole response: status line, fields, and the problem body (RFC 9457) unless `head_only`.
    ///
    /// `close`: the connection ends after it. `http10`: the caller speaks HTTP/1.0, where staying open must be said.
    /// `now_unix_nanos`: the wall clock, for `Date`.
    pub fn write(&self, out: &mut Vec<u8>, close: bool, head_only: bool, http10: bool, now_unix_nanos: i128) {
        let status = self.status();
        let body = self.body(status);
        let mut head = String::with_capacity(512);
        let mut line = |text: std::fmt::Arguments<'_>| {
            head.write_fmt(text).and_then(|()| head.write_str("\r\n")).expect("writing to a String cannot fail");
        };
        line(format_args!("HTTP/1.1 {status} {}", reason(status)));
        line(format_args!("Date: {}", date(now_unix_nanos)));
        line(format_args!("Content-Type: application/problem+json"));
        line(format_args!("Content-Length: {}", body.len()));
        line(format_args!("Cache-Control: no-store"));
        line(format_args!(
            "Proxy-Status: lockgate; error={}; details={}",
            self.error(),
            QuotedString(&self.proxy_detail())
        ));
        if let Some(wait) = self.retry_after() {
            line(format_args!("Retry-After: {}", seconds_up(wait)));
        }
        if let Refusal::Limited { limit, retry_after, requests, per, .. } = self
            && status == 429
        {
            line(format_args!("RateLimit-Policy: {}", Policy { limit, requests: *requests, per: *per }));
            line(format_args!(
                "RateLimit: {};r=0;t={};lockgate-t-ms={}",
                QuotedString(limit),
                seconds_up(*retry_after),
                millis_up(*retry_after)
            ));
        }
        if status == 407 {
            line(format_args!("Proxy-Authenticate: Basic realm=\"lockgate\", charset=\"UTF-8\""));
        }
        if close {
            line(format_args!("Connection: close"));
        } else if http10 {
            line(format_args!("Connection: keep-alive"));
        }
        line(format_args!(""));
        out.extend_from_slice(head.as_bytes());
        if !head_only {
            out.extend_from_slice(body.as_bytes());
        }
    }

    fn body(&self, status: u16) -> String {
        let detail = self.detail();
        let mut problem = Problem::of_status(status, reason(status), &detail);
        problem.retry_after_ms = self.retry_after().map(millis_up);
        if let Refusal::Limited { limit, .. } = self
            && status == 429
        {
            (problem.kind, problem.title) = QUOTA_EXCEEDED;
            problem.violated_policies = Some([limit]);
            // Clients of /acquire read the verdict where a 200 has it, too.
            problem.verdict = Some("sorry");
        }
        problem.to_string() + "\n"
    }
}

/// Type and title of a problem with a limit (draft-ietf-httpapi-ratelimit-headers).
const QUOTA_EXCEEDED: (&str, &str) = (
    "https://iana.org/assignments/http-problem-types#quota-exceeded",
    "Request cannot be satisfied as assigned quota has been exceeded",
);

/// Problem details in JSON (RFC 9457 §3): the content of every error response.
#[derive(Serialize, Debug)]
pub struct Problem<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    title: &'a str,
    detail: &'a str,
    status: u16,
    #[serde(rename = "violated-policies", skip_serializing_if = "Option::is_none")]
    violated_policies: Option<[&'a str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u128>,
}

impl<'a> Problem<'a> {
    /// A problem that means no more than its status ("about:blank", RFC 9457 §4.2.1). `title`: the status' reason phrase;
    /// `detail`: what happened and how to mend it, for people.
    pub fn of_status(status: u16, title: &'a str, detail: &'a str) -> Problem<'a> {
        let kind = "about:blank";
        Problem { kind, title, detail, status, violated_policies: None, verdict: None, retry_after_ms: None }
    }
}

impl std::fmt::Display for Problem<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&serde_json::to_string(self).map_err(|_impossible| std::fmt::Error)?)
    }
}

/// An item of RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-10 §3). `w` is in whole seconds, so the exact
/// length is in a parameter with our prefix.
struct Policy<'a> {
    limit: &'a str,
    requests: u32,
    per: Duration,
}

impl std::fmt::Display for Policy<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{};q={}", QuotedString(self.limit), self.requests)?;
        if self.per.is_zero() {
            return out.write_str(";qu=\"concurrent-requests\"");
        }
        write!(out, ";w={};lockgate-w-ms={}", seconds_up(self.per), millis_up(self.per))
    }
}

/// A String of structured fields (RFC 9651 §3.3.3): visible ASCII and spaces; what it cannot hold becomes `?`.
struct QuotedString<'a>(&'a str);

impl std::fmt::Display for QuotedString<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_char('"')?;
        for char in self.0.chars() {
            match char {
                '"' | '\\' => write!(out, "\\{char}")?,
                ' '..='~' => out.write_char(char)?,
                _ => out.write_char('?')?,
            }
        }
        out.write_char('"')
    }
}

/// Whole seconds, rounded up, never 0: a caller that obeys never comes too early.
fn seconds_up(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

pub(super) fn millis_up(wait: Duration) -> u128 {
    wait.as_nanos().div_ceil(1_000_000).max(1)
}

/// RFC 9110 §5.6.7. A clock before 1970 or after 9999 has no such date: the nearest is given.
pub(super) fn date(unix_nanos: i128) -> httpdate::HttpDate {
    const LAST_OF_9999: i128 = 253_402_300_799;
    let seconds = (unix_nanos / 1_000_000_000).clamp(0, LAST_OF_9999);
    httpdate::HttpDate::from(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs() as u64))
}

/// The reason phrase; the statuses are those of [`Refusal::status`].
fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests;
