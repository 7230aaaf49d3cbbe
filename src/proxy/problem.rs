//! A refusal as the bytes of a response: status line, fields, problem body (RFC 9457).

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use super::json;
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
        let is_limit = matches!(self, Refusal::Limited { .. }) && status == 429;
        // The type and its title are those of draft-ietf-httpapi-ratelimit-headers; "about:blank" says that the
        // status alone is meant (RFC 9457 §4.2.1).
        let (kind, title) = if is_limit {
            (
                "https://iana.org/assignments/http-problem-types#quota-exceeded",
                "Request cannot be satisfied as assigned quota has been exceeded",
            )
        } else {
            ("about:blank", reason(status))
        };
        let mut body = String::with_capacity(384);
        for (name, value) in [("{\"type\":", kind), (",\"title\":", title), (",\"detail\":", &*self.detail())] {
            body.push_str(name);
            json::push_string(&mut body, value);
        }
        write!(body, ",\"status\":{status}").expect("writing to a String cannot fail");
        if let Refusal::Limited { limit, .. } = self
            && is_limit
        {
            body.push_str(",\"violated-policies\":[");
            json::push_string(&mut body, limit);
            // Who asks for nothing but a permit reads the verdict as it reads a 200's.
            body.push_str("],\"verdict\":\"sorry\"");
        }
        if let Some(wait) = self.retry_after() {
            write!(body, ",\"retry_after_ms\":{}", millis_up(wait)).expect("writing to a String cannot fail");
        }
        body.push_str("}\n");
        body
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
