//! Models that are added and removed while serving: `/api/models`.

use std::{collections::BTreeMap, path::PathBuf};

use axum::{
    Json,
    extract::{Path, Request, State},
    http::StatusCode,
};
use flotilla_fleet::ModelStatus;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, embeddings, error::ApiError};
use crate::{
    catalog::{self, Catalog, Model, ModelError, Serving},
    pool::{ModelChangeError, View},
    pull,
};

/// One model is imported at a time: an import takes a processor, and some memory.
static IMPORTING: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    path: Option<PathBuf>,
    name: Option<String>,
    #[serde(default)]
    dims: BTreeMap<String, i64>,
}

/// Imports a model and serves it. Answers when it is imported; the browsers load it from then on.
pub(super) async fn create(
    State(context): State<Context>,
    request: Request,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let wanted: Wanted = embeddings::json_body(request, context.settings.client_timeout).await?;
    let (path, name) = place(wanted.path, wanted.name)?;
    if let Some((dim, size)) =
        wanted.dims.iter().find(|(_, size)| !(0..=i64::from(i32::MAX)).contains(*size))
    {
        let message = format!("{size} is not a size of the dimension {dim}");
        return Err(ApiError::invalid("dims", "invalid_dims", message));
    }
    // Before the import, which takes seconds.
    if let Some(served) = context.pool.catalog().by_name(&name) {
        return Err(conflict(&name, &served.path));
    }
    let serving = Serving { dims: wanted.dims, weights: context.settings.weights.clone() };
    let importing = async {
        let _turn = IMPORTING.acquire().await.map_err(|_| ModelChangeError::PoolEnded)?;
        let opened =
            tokio::task::spawn_blocking(move || catalog::open_new(&path, Some(name), &serving));
        let new = opened.await.map_err(|_| ModelChangeError::PoolEnded)??;
        context.pool.add_model(new).await
    };
    let model = importing.await.map_err(|error| refusal(&error))?;
    tracing::info!(model = model.name, path = %model.path.display(), "model is served");
    Ok((StatusCode::CREATED, Json(described(&model, None))))
}

/// Path and name of the model in a client's request.
fn place(path: Option<PathBuf>, name: Option<String>) -> Result<(PathBuf, String), ApiError> {
    let is_plain = |name: &str| {
        !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
    };
    if let Some(name) = name.as_deref().filter(|name| !is_plain(name)) {
        let message = format!(
            "{name:?} is not a model name: it must not be empty, begin with a dot or contain a slash"
        );
        return Err(ApiError::invalid("name", "invalid_name", message));
    }
    match (path, name) {
        (Some(path), name) => {
            let name = name.unwrap_or_else(|| catalog::name_of(&path));
            Ok((path, name))
        }
        (None, Some(name)) => Ok((pull::models_dir().join(&name), name)),
        (None, None) => Err(ApiError::invalid(
            "path",
            "missing_path",
            "give path, a model's folder or .onnx file, or the name of a model that was pulled",
        )),
    }
}

fn conflict(name: &str, path: &std::path::Path) -> ApiError {
    let message = format!(
        "a model {name} is served already, from {}; remove it first, or give another name",
        path.display()
    );
    ApiError::new(StatusCode::CONFLICT, "model_exists", message)
}

fn refusal(error: &ModelChangeError) -> ApiError {
    let (status, code) = match error {
        ModelChangeError::Model(error) => match error {
            ModelError::SameName { name, first, .. } => return conflict(name, first),
            ModelError::Read { .. } | ModelError::NotAModel { .. } => {
                (StatusCode::NOT_FOUND, "not_a_model")
            }
            ModelError::Import { .. }
            | ModelError::Program { .. }
            | ModelError::Manifest { .. }
            | ModelError::Changed { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "model_refused"),
        },
        ModelChangeError::Unknown { .. } => (StatusCode::NOT_FOUND, "model_not_found"),
        ModelChangeError::PoolEnded => (StatusCode::SERVICE_UNAVAILABLE, "shutting_down"),
    };
    ApiError::new(status, code, error.to_string())
}

/// Stops serving a model.
pub(super) async fn remove(
    State(context): State<Context>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    context.pool.remove_model(&name).await.map_err(|error| refusal(&error))?;
    tracing::info!(model = name, "model is no longer served");
    Ok(Json(json!({ "id": name, "object": "model", "deleted": true })))
}

/// Every model and its state.
pub(super) async fn list(State(context): State<Context>) -> Result<Json<Value>, ApiError> {
    let view = view(&context).await?;
    let catalog = context.pool.catalog();
    let served = catalog.models.iter().map(|model| described(model, status(&view, model)));
    let broken = catalog
        .broken
        .iter()
        .map(|(name, reason)| json!({ "id": name, "state": "refused", "error": reason }));
    Ok(Json(json!({ "object": "list", "data": served.chain(broken).collect::<Vec<Value>>() })))
}

/// One model and its state.
pub(super) async fn get(
    State(context): State<Context>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let view = view(&context).await?;
    let catalog: std::sync::Arc<Catalog> = context.pool.catalog();
    let model = catalog
        .by_name(&name)
        .ok_or_else(|| refusal(&ModelChangeError::Unknown { name: name.clone() }))?;
    Ok(Json(described(model, status(&view, model))))
}

async fn view(context: &Context) -> Result<View, ApiError> {
    context.pool.view().await.ok_or_else(|| refusal(&ModelChangeError::PoolEnded))
}

fn status<'a>(view: &'a View, model: &Model) -> Option<&'a ModelStatus> {
    view.status.models.iter().find(|status| status.model == model.id)
}

fn described(model: &Model, status: Option<&ModelStatus>) -> Value {
    let (ready, error) =
        status.map_or((0, None), |status| (status.ready, status.unplaceable.clone()));
    let state = match (ready, &error) {
        (0, Some(_)) => "refused",
        (0, None) => "loading",
        _ => "ready",
    };
    let ports = |ports: &[flotilla_program::Port]| -> Vec<Value> {
        let shape = |port: &flotilla_program::Port| {
            model
                .program
                .value(port.value)
                .shape
                .iter()
                .map(|dim| dim.as_fixed())
                .collect::<Vec<_>>()
        };
        ports
            .iter()
            .map(|port| json!({ "name": port.name, "dtype": format!("{:?}", port.dtype), "shape": shape(port) }))
            .collect()
    };
    let mut outputs = ports(&model.program.outputs);
    for (output, port) in outputs.iter_mut().zip(&model.program.outputs) {
        // The numbers of such an output are indices of these.
        if let Some(strings) = model.strings.get(&port.name) {
            output["strings"] = json!(strings);
        }
    }
    json!({
        "id": model.name,
        "object": "model",
        "path": model.path,
        "created": model.created,
        "state": state,
        "ready": ready,
        "error": error,
        "inputs": ports(&model.program.inputs),
        "outputs": outputs,
        "weight_bytes": model.program.blobs.iter().map(|blob| blob.bytes).sum::<u64>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_the_folder_of_pulled_models() {
        for name in ["", ".", "..", "../x", "a/b", ".hidden", "a\0b"] {
            assert!(place(None, Some(name.to_owned())).is_err(), "{name:?}");
            assert!(place(Some("/m".into()), Some(name.to_owned())).is_err(), "{name:?}");
        }
        assert!(place(None, None).is_err());
        let (path, name) = place(None, Some("m-1".to_owned())).expect("a name");
        assert_eq!((path, name.as_str()), (pull::models_dir().join("m-1"), "m-1"));
        let (path, name) = place(Some("/a/b.onnx".into()), None).expect("a path");
        assert_eq!((path, name.as_str()), (PathBuf::from("/a/b.onnx"), "b"));
        let (_, name) = place(Some("/a/b.onnx".into()), Some("c".to_owned())).expect("both");
        assert_eq!(name, "c");
    }
}
