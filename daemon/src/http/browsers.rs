//! Browsers that are added and removed while serving: `/api/browsers`.

use axum::{
    Json,
    extract::{Path, Request, State},
    http::StatusCode,
};
use flotilla_browsers::{BROWSERS_MAX, install};
use flotilla_fleet::SlotId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, embeddings, error::ApiError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    browser: String,
}

/// Launches one more browser, which loads every model that is served.
pub(super) async fn create(
    State(context): State<Context>,
    request: Request,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let wanted: Wanted = embeddings::json_body(request, context.settings.client_timeout).await?;
    let build = context
        .browsers
        .builds
        .get(&wanted.browser)
        .map_err(|error| ApiError::invalid("browser", "unknown_browser", error.to_string()))?;
    if !context.browsers.simulated {
        install::find(build).map_err(|error| {
            ApiError::new(StatusCode::CONFLICT, "browser_not_installed", error.to_string())
        })?;
    }
    let desired = context.browsers.desired(build);
    let slot = context.pool.add_browser(desired).await.ok_or_else(ended)?.ok_or_else(|| {
        let message = format!(
            "there are {BROWSERS_MAX} browsers, the most that a pool has; remove one first"
        );
        ApiError::new(StatusCode::CONFLICT, "too_many_browsers", message)
    })?;
    tracing::info!(slot = slot.0, kind = wanted.browser, "browser is added");
    Ok((StatusCode::CREATED, Json(json!({ "slot": slot.0, "kind": wanted.browser }))))
}

/// Ends a browser once its runs are answered, and launches none in its place.
pub(super) async fn remove(
    State(context): State<Context>,
    Path(slot): Path<u32>,
) -> Result<Json<Value>, ApiError> {
    if !context.pool.remove_browser(SlotId(slot)).await.ok_or_else(ended)? {
        return Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "slot_not_found",
            format!("there is no slot {slot}; GET /api/pool lists them"),
        ));
    }
    tracing::info!(slot, "browser is removed");
    Ok(Json(json!({ "slot": slot, "deleted": true })))
}

fn ended() -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "the pool has ended")
}
