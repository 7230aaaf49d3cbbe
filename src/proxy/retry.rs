//! Retry rules: requests that may be sent again.
//!
//! Two questions with different answers: after a pushback any method may be sent again, if the
//! response shows that the origin did not act on the request; after a lost connection only
//! idempotent methods.

/// True if sending a request twice has the effect of sending it once (RFC 9110 §9.2.2).
pub(super) fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

/// True if a request that was pushed back with this status may be sent again: any method after a
/// refusal (4xx), or after 503 and 529, with which a server is too busy to begin.
pub(super) fn may_resend(status: u16, method: &str) -> bool {
    (400..500).contains(&status) || matches!(status, 503 | 529) || is_idempotent(method)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_the_origin_did_not_act_on_may_be_sent_again() {
        assert!([400, 403, 429, 499, 503, 529].into_iter().all(|status| may_resend(status, "POST")));
        assert!(![500, 502, 504].into_iter().any(|status| may_resend(status, "POST")));
        assert!(may_resend(500, "GET"));
        assert!(is_idempotent("PUT") && !is_idempotent("POST") && !is_idempotent("get"));
    }
}
