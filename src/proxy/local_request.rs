//! Local requests, which the gateway answers itself: `acquire` (a permit without a request to forward), TRACE and
//! OPTIONS.

use std::borrow::Cow;

use super::acquire::{self, AcquireRequest};
use super::capabilities;
use super::header_rules;
use super::local_response::respond;
use super::outcome::{Failure, Outcome};
use super::request_log::RequestLog;
use super::serialize::write_field;
use super::session::Session;
use crate::wire::{Name, RequestHead};

/// Value of Allow in the response to OPTIONS: the methods that the gateway forwards.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE, CONNECT";

/// A request that is not forwarded.
pub(super) enum LocalRequest {
    /// `POST /v1/limits/NAME/acquire`.
    Acquire(AcquireRequest),
    /// TRACE with a Max-Forwards of 0.
    Trace,
    /// OPTIONS with a Max-Forwards of 0.
    Options,
}

impl LocalRequest {
    /// Recognises a TRACE or OPTIONS that must not be forwarded (RFC 9110 §7.6.2).
    pub(super) fn of_last_hop(head: &RequestHead) -> Option<LocalRequest> {
        let request = match head.method() {
            "TRACE" => LocalRequest::Trace,
            "OPTIONS" => LocalRequest::Options,
            _ => return None,
        };
        let is_last = head.get(Name::MaxForwards).is_some_and(|value| header_rules::max_forwards(value) == 0);
        is_last.then_some(request)
    }
}

/// Answers a local request.
///
/// # Errors
/// The refusal of a permit; [`Failure::CallerGone`].
pub(super) async fn answer(
    session: &mut Session,
    log: &mut RequestLog,
    request: LocalRequest,
) -> Result<Outcome, Failure> {
    let (fields, body): (Vec<(&str, Cow<'_, str>)>, Vec<u8>) = match request {
        LocalRequest::Acquire(request) => {
            // Boxed, so that a connection with other requests does not hold its memory.
            let document = Box::pin(acquire::acquire(session, log, request)).await?;
            let fields = vec![("Content-Type", "application/json".into()), ("Cache-Control", "no-store".into())];
            (fields, document.into_bytes())
        }
        LocalRequest::Trace => {
            let fields = vec![("Via", "1.1 lockgate".into()), ("Content-Type", "message/http".into())];
            (fields, echo(&session.head))
        }
        LocalRequest::Options => {
            let mut fields = vec![("Via", "1.1 lockgate".into()), ("Allow", METHODS.into())];
            if capabilities::is_asked(&session.head) {
                fields.extend(capabilities::fields(&session.worker.snapshot).map(|(name, value)| (name, value.into())));
            }
            (fields, Vec::new())
        }
    };
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, &**value)).collect();
    Ok(respond(session, log, &fields, &body).await)
}

/// Echoes a request as received, for the response to TRACE, without secrets (RFC 9110 §9.3.8).
fn echo(head: &RequestHead) -> Vec<u8> {
    let mut out = format!("{} {} HTTP/1.1\r\n", head.method(), head.target()).into_bytes();
    for (name, field, value) in head.fields() {
        let secret =
            matches!(name, Name::Authorization | Name::ProxyAuthorization) || field.eq_ignore_ascii_case(b"cookie");
        if !secret {
            write_field(&mut out, field, value);
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}
