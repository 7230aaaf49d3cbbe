//! HAL documents (Hypertext Application Language, draft-kelly-json-hal) of locks and resources, as clients of
//! restful-distributed-lock-manager expect them.

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::table::Lock;

/// Response with a HAL document.
pub(super) fn document(value: &Value) -> Response {
    (StatusCode::OK, [(CONTENT_TYPE, "application/hal+json")], value.to_string()).into_response()
}

/// Lock with links to itself and its resource. Times are UTC, lengths are seconds.
///
/// `active` is false for a waiter; its two times are null then.
pub(super) fn lock(lock: &Lock) -> Value {
    let since = lock.since();
    let until = since.map(|since| since + (lock.request.lifetime * 1e9) as i128);
    json!({
        "uid": *lock.uid,
        "title": *lock.request.title,
        "active": since.is_some(),
        "active_since": since.map(moment),
        "active_expires": until.map(moment),
        "lifetime": seconds(lock.request.lifetime),
        "wait": seconds(lock.request.wait),
        "_links": {
            "self": { "href": format!("/locks/{}/{}", lock.request.resource, lock.uid) },
            "resource": { "href": format!("/resources/{}", lock.request.resource) },
        },
    })
}

/// Resource with its locks embedded, the holder first.
pub(super) fn resource(name: &str, locks: &[Lock]) -> Value {
    let mut value = link(name);
    value["_embedded"] = json!({ "locks": locks.iter().map(lock).collect::<Vec<_>>() });
    value
}

/// List of resources.
///
/// Names and links alone; the locks are in the document of each resource.
pub(super) fn resources<'r>(names: impl Iterator<Item = &'r str>) -> Value {
    json!({
        "_links": { "self": { "href": "/resources" } },
        "_embedded": { "resources": names.map(link).collect::<Vec<_>>() },
    })
}

/// Name of a resource with a link to its document.
fn link(name: &str) -> Value {
    json!({ "name": name, "_links": { "self": { "href": format!("/resources/{name}") } } })
}

/// UTC time to the microsecond without a zone, the only form that those clients parse.
///
/// For instance `2026-01-01T12:00:00.000000`.
fn moment(unix_nanos: i128) -> String {
    let stamp = Timestamp::from_nanosecond(unix_nanos).unwrap_or(Timestamp::MAX);
    stamp.strftime("%Y-%m-%dT%H:%M:%S.%6f").to_string()
}

/// Seconds as an integer where they are whole, as those clients send them.
///
/// `300` and `0.5`, never `300.0`.
fn seconds(seconds: f64) -> Value {
    if seconds.fract() == 0.0 && seconds < 1e15 { json!(seconds as i64) } else { json!(seconds) }
}
