//! Tests of refusals as responses: fields and problem documents.

use super::super::serialize::{LocalResponse, write_local};
use super::*;
use crate::locker::RefusalReason;
use crate::wire::HeadLimits;
use crate::wire::{HeadError, Name, ResponseHead};

const NOW: i128 = 1_000_000_000_000_000_000;

fn every_kind() -> Vec<Refusal> {
    let limited = [
        RefusalReason::Full,
        RefusalReason::TooLong,
        RefusalReason::QueueFull,
        RefusalReason::TimedOut,
        RefusalReason::TooManyKeys,
        RefusalReason::CostTooHigh,
        RefusalReason::StoreLost,
        RefusalReason::Unwritten,
    ]
    .map(|why| limited_by(why, 812));
    let others = [
        Refusal::Malformed("bare \"LF\""),
        Refusal::BadTarget("no"),
        Refusal::BadCost { limit: "a".into(), most: 5 },
        Refusal::HeadTooLarge,
        Refusal::UriTooLong,
        Refusal::HeadTimeout,
        Refusal::BodyTimeout,
        Refusal::Expectation,
        Refusal::Denied("port"),
        Refusal::AddressDenied,
        Refusal::Unauthorized,
        Refusal::TooManyTries { retry_after: Duration::from_millis(1) },
        Refusal::NoRoute,
        Refusal::NotPost,
        Refusal::NoLimit,
        Refusal::BadKey,
        Refusal::NotTls,
        Refusal::TlsToPlain,
        Refusal::ConnectionRefused,
        Refusal::Unreachable,
        Refusal::ConnectionTerminated,
        Refusal::ProtocolError("odd"),
        Refusal::Certificate("expired \"x\"\r\nEvil: 1 ü".into()),
        Refusal::TlsError("alert".into()),
        Refusal::DnsError,
        Refusal::DnsTimeout,
        Refusal::Closing { retry_after: Duration::ZERO },
        Refusal::Exhausted,
        Refusal::LatePermit,
        Refusal::ConnectTimeout,
        Refusal::AnswerTimeout,
        Refusal::Loop,
        Refusal::Version,
        Refusal::UnknownCoding,
        Refusal::Misdirected("name it in a limit"),
        Refusal::Ambiguous { limit: "a".into(), why: "two values".to_owned() },
    ];
    limited.into_iter().chain(others).collect()
}

fn limited_by(why: RefusalReason, ms: u64) -> Refusal {
    Refusal::Limited {
        limit: "partner-api".into(),
        why,
        retry_after: Duration::from_millis(ms),
        exact: true,
        requests: 5,
        per: Duration::from_millis(800),
    }
}

fn written(refusal: &Refusal) -> (ResponseHead, String) {
    let (mut out, body) = (Vec::new(), refusal.body());
    let response = LocalResponse {
        status: refusal.status(),
        reason: reason(refusal.status()),
        fields: &|put| refusal.fields(body.len(), NOW, put),
        connection: None,
        body: body.as_bytes(),
    };
    write_local(&response, &mut out);
    let mut head = ResponseHead::default();
    let length = head.read(&out, HeadLimits::default()).expect("well-formed").expect("whole");
    (head, String::from_utf8(out[length..].to_vec()).expect("UTF-8"))
}

fn field(head: &ResponseHead, name: &str) -> Option<String> {
    head.find(name).map(|value| String::from_utf8(value.to_vec()).expect("ASCII"))
}

#[test]
fn every_refusal_is_a_whole_response_with_what_a_proxy_owes() {
    for refusal in every_kind() {
        let (head, body) = written(&refusal);
        assert_eq!(head.status(), refusal.status());
        assert_ne!(reason(refusal.status()), "Error", "{refusal:?}");
        assert_eq!(head.reason(), reason(refusal.status()).as_bytes());
        assert_eq!(field(&head, "content-length"), Some(body.len().to_string()));
        assert_eq!(field(&head, "content-type").as_deref(), Some("application/problem+json"));
        assert_eq!(field(&head, "cache-control").as_deref(), Some("no-store"));
        assert_eq!(field(&head, "date").as_deref(), Some("Sun, 09 Sep 2001 01:46:40 GMT"));
        let status = field(&head, "proxy-status").expect("always there");
        assert!(status.starts_with(&format!("lockgate; error={}; details=\"", refusal.error())), "{status}");
        assert!(head.fields().all(|(_, _, value)| value.is_ascii()), "{refusal:?}");
        assert_eq!(head.find("evil"), None);
        assert!(
            body.starts_with("{\"type\":\"")
                && body.ends_with("}\n")
                && body.contains(&format!(",\"status\":{}", refusal.status())),
            "{body}"
        );
        assert_eq!(field(&head, "retry-after").is_some(), body.contains("retry_after_ms"), "{refusal:?}");
        assert_ne!(field(&head, "retry-after").as_deref(), Some("0"));
        assert_eq!(field(&head, "proxy-authenticate").is_some(), refusal.status() == 407);
        assert_eq!(field(&head, "allow").is_some(), refusal.status() == 405);
    }
}

#[test]
fn every_refusal_tells_what_happened_and_how_to_mend_it() {
    for refusal in every_kind() {
        let detail = refusal.detail();
        assert!(
            detail.len() > 30 && detail.ends_with(['.', '?']) && detail.starts_with(char::is_uppercase),
            "{detail}"
        );
        assert!(["limit", "access", "gateway", "origin", "caller"].contains(&refusal.refused_by()));
        assert!(refusal.note().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
    }
}

#[test]
fn no_two_refusals_look_alike_in_the_log() {
    let mut notes: Vec<_> = every_kind().iter().map(Refusal::note).collect();
    let all = notes.len();
    notes.sort_unstable();
    notes.dedup();
    assert_eq!(notes.len(), all);
}

#[test]
fn a_429_tells_the_limit_and_the_wait_to_the_millisecond() {
    let (head, body) = written(&limited_by(RefusalReason::TooLong, 812));
    assert_eq!(head.status(), 429);
    assert_eq!(field(&head, "retry-after").as_deref(), Some("1"));
    assert_eq!(field(&head, "ratelimit-policy").as_deref(), Some("\"partner-api\";q=5;w=1;lockgate-w-ms=800"));
    assert_eq!(field(&head, "ratelimit").as_deref(), Some("\"partner-api\";r=0;t=1;lockgate-t-ms=812"));
    assert_eq!(
        field(&head, "proxy-status").as_deref(),
        Some("lockgate; error=http_request_error; details=\"too_long: partner-api\"")
    );
    assert_eq!(
        body,
        "{\"type\":\"https://iana.org/assignments/http-problem-types#quota-exceeded\",\
         \"title\":\"Request cannot be satisfied as assigned quota has been exceeded\",\
         \"detail\":\"The limit \\\"partner-api\\\" has no slot within the time that the request may wait (max_wait, or Prefer: wait). Ask again in 812 ms.\",\
         \"status\":429,\"violated-policies\":[\"partner-api\"],\"verdict\":\"sorry\",\"retry_after_ms\":812}\n"
    );
}

#[test]
fn waits_are_rounded_up_and_never_0() {
    assert_eq!(
        [0, 1, 999_999_999, 1_000_000_000, 1_000_000_001].map(|nanos| seconds_up(Duration::from_nanos(nanos))),
        [1, 1, 1, 1, 2]
    );
    assert_eq!([0, 1, 1_000_000, 1_000_001].map(|nanos| millis_up(Duration::from_nanos(nanos))), [1, 1, 1, 2]);
}

#[test]
fn a_limit_on_requests_in_flight_has_no_window() {
    let refusal = Refusal::Limited {
        limit: "a\"b\\ü".into(),
        why: RefusalReason::Full,
        retry_after: Duration::from_secs(3),
        exact: false,
        requests: 20,
        per: Duration::ZERO,
    };
    let (head, body) = written(&refusal);
    assert_eq!(field(&head, "ratelimit-policy").as_deref(), Some("\"a\\\"b\\\\?\";q=20;qu=\"concurrent-requests\""));
    assert!(body.contains("at the earliest") && body.contains("[\"a\\\"b\\\\ü\"]"), "{body}");
}

#[test]
fn what_asking_again_cannot_help_has_no_retry_after() {
    let (head, body) = written(&limited_by(RefusalReason::CostTooHigh, 812));
    assert_eq!((head.status(), head.get(Name::RetryAfter)), (400, None));
    assert!(!body.contains("violated-policies"));
    assert_eq!(written(&limited_by(RefusalReason::TooManyKeys, 812)).0.status(), 503);
}

#[test]
fn credentials_are_asked_for_in_utf_8() {
    let (head, _) = written(&Refusal::Unauthorized);
    assert_eq!(field(&head, "proxy-authenticate").as_deref(), Some("Basic realm=\"lockgate\", charset=\"UTF-8\""));
}

#[test]
fn a_message_without_a_sure_end_closes_the_connection() {
    let closing: Vec<_> = every_kind().into_iter().filter(Refusal::closes).map(|refusal| refusal.status()).collect();
    assert_eq!(closing, [400, 431, 414, 408, 417, 400, 400, 505, 501]);
}

#[test]
fn an_odd_clock_still_gives_a_date() {
    assert_eq!(date(-1).to_string(), "Thu, 01 Jan 1970 00:00:00 GMT");
    assert_eq!(date(i128::MAX).to_string(), "Fri, 31 Dec 9999 23:59:59 GMT");
}

#[test]
fn a_bad_head_becomes_its_own_status() {
    let statuses = [HeadError::Malformed("x"), HeadError::TooLarge, HeadError::LineTooLong, HeadError::Version]
        .map(|error| Refusal::from(error).status());
    assert_eq!(statuses, [400, 431, 414, 505]);
}
