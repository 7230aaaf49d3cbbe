//! `/v1/config/*` and `PATCH /v1/limits/{name}`: handlers that reload, save and tune the configuration.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::command::{AdminCommand, AuthoredCommand, CommandError, CommandReply};
use super::guard::RefusalNote;
use super::limit_json::{limit, survey};
use super::state::AdminState;
use crate::audit::Author;
use crate::config;
use crate::config::edit::Edit;
use crate::http_admin::problem;

/// Handles `POST /v1/config/reload`: reads the file again, and answers with the changes.
pub(super) async fn reload(State(state): State<Arc<AdminState>>, Extension(by): Extension<Author>) -> Response {
    response(run(&state, by, AdminCommand::Reload).await)
}

/// Handles `POST /v1/config/save`: writes the limits in force to the file.
pub(super) async fn save(State(state): State<Arc<AdminState>>, Extension(by): Extension<Author>) -> Response {
    response(run(&state, by, AdminCommand::Save).await)
}

/// Handles `PATCH /v1/limits/{name}`: changes a limit until the next reload, unless it is saved before.
///
/// The body is a JSON object with the keys of the file; `null` restores the default.
///
/// The response is the limit as in `GET /v1/limits/{name}`, without callers and slots:
///
/// ```text
/// PATCH /v1/limits/api  {"requests": 10, "max_wait": null}
/// ```
pub(super) async fn tune(
    State(state): State<Arc<AdminState>>,
    Path(name): Path<String>,
    Extension(by): Extension<Author>,
    body: Result<Json<Map<String, Value>>, JsonRejection>,
) -> Response {
    let edits = match body {
        Ok(Json(body)) => body.into_iter().map(edit).collect::<Result<Vec<_>, String>>(),
        Err(rejection) => return problem(rejection.status(), &rejection.body_text()),
    };
    let edits = match edits {
        Ok(edits) => edits,
        Err(why) => return invalid(&why, why.clone()),
    };
    let tuned = run(&state, by, |reply| AdminCommand::Tune { limit: name.clone(), edits, reply }).await;
    match tuned {
        // The mistakes are those of the request, not lines of the file.
        Err(CommandError::Invalid(why)) => {
            let first = why.lines().next().unwrap_or_default();
            return invalid(&why, first.trim_start_matches("error: ").to_owned());
        }
        Err(error) => return response(Err(error)),
        Ok(_) => {}
    }
    let (views, now) = survey(&state);
    match views.iter().find(|view| *view.limit.name == *name) {
        Some(view) => Json(limit(&state, view, now)).into_response(),
        None => response(Err(CommandError::UnknownLimit)),
    }
}

/// Converts a member of the request's JSON object to a key and a value of the file.
///
/// Ranges and names of keys are checked with the whole file, later.
///
/// # Errors
/// A message for the client, if the value is an object, a list of anything but strings, or a number with a fraction.
fn edit((key, value): (String, Value)) -> Result<(String, Edit), String> {
    let edit = match value {
        Value::Null => Edit::Default,
        Value::Bool(flag) => Edit::Flag(flag),
        Value::Number(number) => {
            Edit::Number(number.as_i64().ok_or_else(|| format!("`{key}` must be a whole number"))?)
        }
        Value::String(text) => Edit::Text(text),
        Value::Array(list) => {
            let texts = list.iter().map(|one| one.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
            Edit::List(texts.ok_or_else(|| format!("`{key}` must be a list of texts"))?)
        }
        Value::Object(_) => return Err(format!("`{key}` cannot be tuned")),
    };
    Ok((key, edit))
}

/// Sends a command to the application, and waits for its result.
///
/// # Errors
/// The command's own, and [`CommandError::ShuttingDown`] if the application is gone.
async fn run(
    state: &AdminState,
    by: Author,
    command: impl FnOnce(CommandReply) -> AdminCommand,
) -> Result<Vec<String>, CommandError> {
    let (reply, result) = oneshot::channel();
    let command = AuthoredCommand { by, command: command(reply) };
    state.commands.send(command).map_err(|_| CommandError::ShuttingDown)?;
    result.await.map_err(|_| CommandError::ShuttingDown)?
}

/// The changes as JSON, one line of text for each (`{"changes": [..]}`), or a problem document.
fn response(result: Result<Vec<String>, CommandError>) -> Response {
    match result {
        Ok(changes) => Json(json!({ "changes": changes })).into_response(),
        Err(CommandError::UnknownLimit) => problem(StatusCode::NOT_FOUND, "there is no limit of that name in force"),
        Err(CommandError::Invalid(why)) => invalid(&why, config::brief(&why)),
        Err(CommandError::Conflict) => {
            problem(StatusCode::CONFLICT, "the file was changed since it was read; reload it first")
        }
        Err(CommandError::ShuttingDown) => problem(StatusCode::SERVICE_UNAVAILABLE, "the gateway is shutting down"),
    }
}

/// Response 422; `note`: the reason in the audit line.
fn invalid(why: &str, note: String) -> Response {
    (Extension(RefusalNote(note)), problem(StatusCode::UNPROCESSABLE_ENTITY, why)).into_response()
}
