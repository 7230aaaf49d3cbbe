//! Response of a refusal: reason phrase, header fields, and problem document (RFC 9457).

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::refusal::{Refusal, millis_up};

/// Callback for one header field: name and value.
pub(super) type PutField<'p> = dyn FnMut(&str, std::fmt::Arguments<'_>) + 'p;

impl Refusal {
    /// Calls `put` with the name and the value of each header field of the response, except Connection. `length`: bytes
    /// of the body. `now_unix_nanos`: wall clock, for Date.
    pub(super) fn fields(&self, length: usize, now_unix_nanos: i128, put: &mut PutField<'_>) {
        let status = self.status();
        put("Date", format_args!("{}", date(now_unix_nanos)));
        put("Content-Type", format_args!("application/problem+json"));
        put("Content-Length", format_args!("{length}"));
        put("Cache-Control", format_args!("no-store"));
        self.proxy_status(put);
        if let Some(wait) = self.retry_after() {
            put("Retry-After", format_args!("{}", seconds_up(wait)));
        }
        if let Refusal::Limited { limit, retry_after, requests, per, .. } = self
            && status == 429
        {
            put("RateLimit-Policy", format_args!("{}", Policy { limit, requests: *requests, per: *per }));
            let (seconds, ms) = (seconds_up(*retry_after), millis_up(*retry_after));
            put("RateLimit", format_args!("{};r=0;t={seconds};lockgate-t-ms={ms}", QuotedString(limit)));
        }
        if status == 405 {
            put("Allow", format_args!("POST"));
        }
        if status == 407 {
            put("Proxy-Authenticate", format_args!("Basic realm=\"lockgate\", charset=\"UTF-8\""));
        }
    }

    /// Calls `put` with Proxy-Status (RFC 9209).
    pub(super) fn proxy_status(&self, put: &mut PutField<'_>) {
        let details = self.proxy_detail();
        put("Proxy-Status", format_args!("lockgate; error={}; details={}", self.error(), QuotedString(&details)));
    }

    /// Problem document, one line of JSON.
    pub(super) fn body(&self) -> String {
        let status = self.status();
        let detail = self.detail();
        let mut problem = Problem::of_status(status, reason(status), &detail);
        problem.retry_after_ms = self.retry_after().map(millis_up);
        if let Refusal::Limited { limit, .. } = self
            && status == 429
        {
            (problem.kind, problem.title) = QUOTA_EXCEEDED;
            problem.violated_policies = Some([limit]);
            // Clients of /acquire read the verdict in a refusal as they do in a 200.
            problem.verdict = Some("sorry");
        }
        problem.to_string() + "\n"
    }
}

/// Type and title of a refusal by a limit (draft-ietf-httpapi-ratelimit-headers).
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
    /// A problem without a meaning beyond its status ("about:blank", RFC 9457 §4.2.1). `title`: the status' reason
    /// phrase; `detail`: what happened and how to mend it, for people.
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

/// An item of RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-10 §3). `w` is in whole seconds; the exact length
/// is in a parameter with our prefix.
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

/// A String of structured fields (RFC 9651 §3.3.3): visible ASCII and spaces; other characters become `?`.
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

/// Rounds up to whole seconds, at least 1, so that an obedient caller never comes too early.
pub(super) fn seconds_up(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// Formats a date (RFC 9110 §5.6.7). Clocks before 1970 or after 9999 give the nearest possible date.
pub(super) fn date(unix_nanos: i128) -> httpdate::HttpDate {
    const LAST_OF_9999: i128 = 253_402_300_799;
    let seconds = (unix_nanos / 1_000_000_000).clamp(0, LAST_OF_9999);
    httpdate::HttpDate::from(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs() as u64))
}

/// Reason phrase of the statuses of [`Refusal::status`].
pub(super) fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
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
