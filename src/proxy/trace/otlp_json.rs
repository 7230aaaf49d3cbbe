//! Parts of OTLP documents in JSON (JSON Protobuf encoding) that traces and metrics have in common.

use serde_json::{Value, json};

/// A string attribute.
pub fn string(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// The resource that all signals of this process are of. `instance`: its identity.
pub fn resource(instance: &str) -> Value {
    json!({ "attributes": [
        string("service.name", "lockgate"),
        string("service.instance.id", instance),
        string("service.version", env!("CARGO_PKG_VERSION")),
    ] })
}

/// The instrumentation scope of all signals.
pub fn scope() -> Value {
    json!({ "name": "lockgate", "version": env!("CARGO_PKG_VERSION") })
}
