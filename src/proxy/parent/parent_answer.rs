//! Answers of a parent proxy for itself, told from those of the origin behind it.
//!
//! A lockgate marks its own refusals by `Proxy-Status: lockgate; error=…` (RFC 9209), and leaves them without `Via`: what it
//! forwards from an origin, or from a further proxy, bears one.

use std::time::Duration;

use super::ParentProxy;
use crate::proxy::parent_fault::ParentFault;
use crate::proxy::refusal::Refusal;
use crate::wire::{Name, ResponseHead};

/// Retry-After of a refusal that names none.
const ONE_SECOND: Duration = Duration::from_secs(1);

/// Checks the response to a request in absolute form, which shows that the parent works. True if the parent, another
/// lockgate, has answered in the origin's place: then it is no pushback of the origin.
///
/// # Errors
/// 502 if the parent demands a login: its 407 is for the gateway, and must not reach the caller (RFC 9110 §11.7).
pub(in crate::proxy) fn check_answer(response: &ResponseHead, proxy: &ParentProxy) -> Result<bool, Refusal> {
    proxy.status.succeeded();
    if response.status() == 407 {
        proxy.status.refused.add_one();
        return Err(ParentFault::Login { proxy: proxy.name.clone() }.into());
    }
    Ok(is_refusal_of_lockgate(response))
}

/// Fault behind an answer to CONNECT other than a 2xx.
pub(super) fn fault_of_answer(response: &ResponseHead, proxy: &ParentProxy) -> ParentFault {
    let (status, proxy) = (response.status(), proxy.name.clone());
    match status {
        407 => ParentFault::Login { proxy },
        429 | 503 if is_refusal_of_lockgate(response) => {
            let named = response.get(Name::RetryAfter).and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
            ParentFault::Limited { proxy, status, retry_after: named.map_or(ONE_SECOND, Duration::from_secs) }
        }
        _ => ParentFault::Refused { proxy, answer: format!("{status} to CONNECT"), is_timeout: status == 504 },
    }
}

/// True for a refusal that the lockgate at the other end of the connection has made itself.
fn is_refusal_of_lockgate(response: &ResponseHead) -> bool {
    let is_ours = |value: &[u8]| value.starts_with(b"lockgate;") && memchr::memmem::find(value, b"error=").is_some();
    response.get(Name::Via).is_none() && response.find("proxy-status").is_some_and(is_ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_a_lockgate_is_told_from_one_that_it_forwards() {
        let is_own = |fields: &str| {
            let head = format!("HTTP/1.1 429 Too Many Requests\r\n{fields}\r\n");
            is_refusal_of_lockgate(&ResponseHead::parse_for_test(head.as_bytes()))
        };
        assert!(is_own("Proxy-Status: lockgate; error=http_request_error; details=\"full: api\"\r\n"));
        assert!(!is_own("Proxy-Status: lockgate; error=http_request_error\r\nVia: 1.1 lockgate\r\n"));
        assert!(!is_own("Proxy-Status: other; error=http_request_error\r\n"));
        assert!(!is_own("Proxy-Status: lockgate; hit\r\n"));
        assert!(!is_own("Retry-After: 3\r\n"));
    }
}
