//! Locks and resources as documents of the Hypertext Application Language (draft-kelly-json-hal), as the clients of
//! restful-distributed-lock-manager know them.

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::table::Lock;

/// A document.
pub(super) fn document(value: &Value) -> Response {
    (StatusCode::OK, [(CONTENT_TYPE, "application/hal+json")], value.to_string()).into_response()
}

/// A lock, with where it is.
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

/// A resource, with its locks.
pub(super) fn resource(name: &str, locks: &[Lock]) -> Value {
    let mut value = link(name);
    value["_embedded"] = json!({ "locks": locks.iter().map(lock).collect::<Vec<_>>() });
    value
}

/// All resources.
pub(super) fn resources<'r>(names: impl Iterator<Item = &'r str>) -> Value {
    json!({
        "_links": { "self": { "href": "/resources" } },
        "_embedded": { "resources": names.map(link).collect::<Vec<_>>() },
    })
}

fn link(name: &str) -> Value {
    json!({ "name": name, "_links": { "self": { "href": format!("/resources/{name}") } } })
}

/// A moment of UTC to the microsecond, without a zone: those clients read no other form.
fn moment(unix_nanos: i128) -> String {
    let stamp = Timestamp::from_nanosecond(unix_nanos).unwrap_or(Timestamp::MAX);
    stamp.strftime("%Y-%m-%dT%H:%M:%S.%6f").to_string()
}

/// Whole seconds are a whole number.
fn seconds(seconds: f64) -> Value {
    if seconds.fract() == 0.0 && seconds < 1e15 { json!(seconds as i64) } else { json!(seconds) }
}
