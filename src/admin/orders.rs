//! What operators may order.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::limits::{look, shown};
use super::{House, Order, Outcome, Refused};
use crate::config::tune::Wish;
use crate::lobby::refused;

/// Reads the file again, and tells what is other now.
pub(super) async fn reload(State(house): State<Arc<House>>) -> Response {
    answer(order(&house, Order::Reload).await)
}

/// Writes what is in force to the file.
pub(super) async fn save(State(house): State<Arc<House>>) -> Response {
    answer(order(&house, Order::Save).await)
}

/// Tunes a limit: the keys are those of the file, `null` stands for the default. It holds until the file is read again,
/// unless it is saved.
pub(super) async fn tune(
    State(house): State<Arc<House>>,
    Path(limit): Path<String>,
    body: Result<Json<Map<String, Value>>, JsonRejection>,
) -> Response {
    let wishes = match body {
        Ok(Json(wishes)) => wishes.into_iter().map(wish).collect::<Result<Vec<_>, String>>(),
        Err(rejection) => return refused(rejection.status(), &rejection.body_text()),
    };
    let wishes = match wishes {
        Ok(wishes) => wishes,
        Err(why) => return refused(StatusCode::UNPROCESSABLE_ENTITY, &why),
    };
    let name = limit.clone();
    let tuned = order(&house, move |outcome| Order::Tune { limit, wishes, outcome }).await;
    if tuned.is_err() {
        return answer(tuned);
    }
    let (views, now) = look(&house);
    match views.iter().find(|view| *view.limit.name == *name) {
        Some(view) => Json(shown(&house, view, now)).into_response(),
        None => answer(Err(Refused::Unknown)),
    }
}

fn wish((key, value): (String, Value)) -> Result<(String, Wish), String> {
    let wish = match value {
        Value::Null => Wish::Default,
        Value::Bool(flag) => Wish::Flag(flag),
        Value::Number(number) => {
            Wish::Number(number.as_i64().ok_or_else(|| format!("`{key}` must be a whole number"))?)
        }
        Value::String(text) => Wish::Text(text),
        Value::Array(list) => {
            let texts = list.iter().map(|one| one.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
            Wish::List(texts.ok_or_else(|| format!("`{key}` must be a list of texts"))?)
        }
        Value::Object(_) => return Err(format!("`{key}` cannot be tuned")),
    };
    Ok((key, wish))
}

async fn order(house: &House, order: impl FnOnce(Outcome) -> Order) -> Result<Vec<String>, Refused> {
    let (outcome, told) = oneshot::channel();
    house.orders.send(order(outcome)).map_err(|_| Refused::Ending)?;
    told.await.map_err(|_| Refused::Ending)?
}

fn answer(outcome: Result<Vec<String>, Refused>) -> Response {
    match outcome {
        Ok(changes) => Json(json!({ "changes": changes })).into_response(),
        Err(Refused::Unknown) => refused(StatusCode::NOT_FOUND, "there is no limit of that name in force"),
        Err(Refused::Wrong(why)) => refused(StatusCode::UNPROCESSABLE_ENTITY, &why),
        Err(Refused::Conflict) => {
            refused(StatusCode::CONFLICT, "the file was changed since it was read: have it read again first")
        }
        Err(Refused::Ending) => refused(StatusCode::SERVICE_UNAVAILABLE, "the gateway is ending"),
    }
}
