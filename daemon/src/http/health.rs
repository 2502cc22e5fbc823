//! What is served and its state: `/v1/models`, `/healthz`, `/api/pool`.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use flotilla_fleet::ServingPhase;
use serde_json::{Value, json};

use super::{Context, error::ApiError};
use crate::{
    catalog::Model,
    pool::{Chosen, View},
};

fn described(model: &Model) -> Value {
    json!({ "id": model.name, "object": "model", "created": model.created, "owned_by": "flotilla" })
}

pub(super) async fn models(State(context): State<Context>) -> Json<Value> {
    let catalog = context.pool.catalog();
    let data: Vec<Value> = catalog.models.iter().map(|model| described(model)).collect();
    Json(json!({ "object": "list", "data": data }))
}

pub(super) async fn model(
    State(context): State<Context>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    context.pool.catalog().by_name(&name).map(|model| Json(described(model))).ok_or_else(|| {
        ApiError::new(
            StatusCode::NOT_FOUND,
            "model_not_found",
            format!("model {name:?} is not served here"),
        )
    })
}

/// 200 only if every model to be served has a ready placement.
pub(super) async fn healthz(State(context): State<Context>) -> Response {
    let Some(view) = context.pool.view().await else {
        return ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "shutting_down",
            "the pool has ended",
        )
        .into_response();
    };
    let catalog = context.pool.catalog();
    let models: Vec<Value> = catalog
        .models
        .iter()
        .map(|model| {
            let status = view.status.models.iter().find(|status| status.model == model.id);
            let (ready, error) =
                status.map_or((0, None), |status| (status.ready, status.unplaceable.as_ref()));
            json!({ "id": model.name, "ready": ready, "error": error })
        })
        .chain(
            catalog
                .broken
                .iter()
                .map(|(name, reason)| json!({ "id": name, "ready": 0, "error": reason })),
        )
        .collect();
    let is_ready = |model: &Value| model["ready"].as_u64() > Some(0);
    let all = !models.is_empty() && models.iter().all(is_ready);
    let status = match (all, view.status.phase) {
        (_, ServingPhase::Draining | ServingPhase::Drained) => "draining",
        (true, _) => "ok",
        (false, _) if models.iter().any(|model| !is_ready(model) && !model["error"].is_null()) => {
            "degraded"
        }
        (false, _) => "starting",
    };
    let code = if status == "ok" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "status": status, "models": models }))).into_response()
}

/// Browsers, placements, queue.
pub(super) async fn pool(State(context): State<Context>) -> Result<Json<Value>, ApiError> {
    let view = context.pool.view().await.ok_or_else(|| {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "the pool has ended")
    })?;
    Ok(Json(described_pool(&context, &view)))
}

fn described_pool(context: &Context, view: &View) -> Value {
    let catalog = context.pool.catalog();
    let browsers: Vec<Value> = view
        .status
        .slots
        .iter()
        .map(|slot| {
            let browser = view.browsers.iter().find(|browser| Some(browser.browser) == slot.browser);
            let backends: Vec<Value> = browser
                .map(|browser| browser.backends.as_slice())
                .unwrap_or_default()
                .iter()
                .map(|report| match &report.outcome {
                    Ok(adapter) => json!({ "backend": report.backend, "device": report.device, "adapter": adapter.label() }),
                    Err(reason) => json!({ "backend": report.backend, "device": report.device, "refused": reason }),
                })
                .collect();
            let placements: Vec<Value> = slot
                .placements
                .iter()
                .map(|placement| {
                    let loaded = view.loaded.iter().find(|loaded| loaded.placement == placement.placement);
                    json!({
                        "model": catalog.by_id(placement.model).map(|model| &model.name),
                        "backend": placement.backend,
                        "state": placement.state,
                        "fallback": placement.fallback,
                        "chosen": Chosen::from(&placement.account),
                        "device": loaded.and_then(|loaded| loaded.device),
                        "split": loaded.and_then(|loaded| loaded.split.as_ref()),
                        "adapter": loaded.map(|loaded| loaded.adapter.label()),
                        "load_ms": loaded.map(|loaded| loaded.report.load_us as f64 / 1e3),
                        "device_bytes": loaded.map(|loaded| loaded.report.device_bytes),
                    })
                })
                .collect();
            json!({
                "slot": slot.slot.0,
                "kind": browser.and_then(|browser| Some(&browser.facts.as_ref()?.name)).unwrap_or(&slot.kind),
                "browser": slot.browser.map(|browser| browser.to_string()),
                "state": slot.state,
                "detail": slot.words,
                "last_failure": slot.last_failure,
                "jobs": slot.jobs,
                "used_bytes": slot.used_bytes,
                "slowness": slot.slowness,
                "recycling": slot.recycling,
                "facts": browser.and_then(|browser| browser.facts.as_ref()),
                "backends": backends,
                "placements": placements,
            })
        })
        .collect();
    json!({
        "phase": view.status.phase,
        "queued": view.status.queued,
        "running": view.status.running,
        "recording": view.status.recording,
        "browsers": browsers,
        "recoveries": view.recoveries,
        "decisions": view.decisions,
        "state": view.store,
        "commit_failures": view.status.commit_failures,
    })
}
