//! Requests that outlive the connection and the daemon: `Idempotency-Key`, and `GET /api/requests/{id}`.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use flotilla_fleet::{Persistence, RequestError, state::Outcome};
use flotilla_store::{Claim, Job, JobId, JobState, Store};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    Context,
    embeddings::{self, Encoding},
    error::ApiError,
};
use crate::{
    catalog::Model,
    embed::{self, EmbedError, Embedding},
    pool::{AnswerError, Terms, decode_answer},
};

/// Longest key that a client may choose.
const KEY_BYTES_MAX: usize = 255;
/// Time between two checks for the requests of a job that another client has just made.
const ACCEPT_LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Most such checks. A job that has no open request after them waits for something else, such as a model that is not served.
const ACCEPT_LOOKS_MAX: usize = 50;
/// Header that names the request on every answer that was recorded.
const REQUEST_ID: &str = "flotilla-request-id";
/// Header of an answer that was sent before, or to another client with the same request.
const REPLAYED: &str = "idempotent-replayed";

/// Headers of a request that concern its job.
#[derive(Debug, Default)]
pub(super) struct JobHeaders {
    key: Option<String>,
    /// The client does not wait: it gets the answer later by a second request.
    respond_async: bool,
}

/// What is stored with a job, so that its answer can be rebuilt.
#[derive(Serialize, Deserialize)]
struct Kept {
    encoding: Encoding,
    /// Tokens of each row.
    tokens: Vec<usize>,
}

/// Rows to be embedded and how the answer is to look.
pub(super) struct Asked {
    pub(super) model: Arc<Model>,
    pub(super) rows: Vec<Vec<u32>>,
    pub(super) encoding: Encoding,
    pub(super) terms: Terms,
    /// blake3 of the request's body.
    pub(super) body_hash: [u8; 32],
    pub(super) begin: Instant,
}

pub(super) fn job_headers(headers: &HeaderMap) -> Result<JobHeaders, ApiError> {
    let key = match headers.get("idempotency-key") {
        None => None,
        Some(value) => {
            let key = value.to_str().unwrap_or_default().trim();
            if key.is_empty() || key.len() > KEY_BYTES_MAX {
                let message = format!(
                    "Idempotency-Key must be 1 to {KEY_BYTES_MAX} visible ASCII characters"
                );
                return Err(ApiError::new(StatusCode::BAD_REQUEST, "invalid_key", message));
            }
            Some(key.to_owned())
        }
    };
    let prefer = headers.get("prefer").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let respond_async =
        prefer.split(',').any(|preference| preference.trim().eq_ignore_ascii_case("respond-async"));
    Ok(JobHeaders { key, respond_async })
}

/// Answers a request; it is recorded if its headers or policy ask for it.
pub(super) async fn answer(
    context: &Context,
    headers: JobHeaders,
    asked: Asked,
) -> Result<Response, ApiError> {
    let is_recorded = headers.key.is_some()
        || headers.respond_async
        || asked.terms.policy.persistence != Persistence::None;
    if !is_recorded {
        let Asked { model, rows, encoding, terms, begin, .. } = asked;
        let embeddings =
            embed::run(&context.pool, &model, rows, terms).await.map_err(embeddings::api_error)?;
        return Ok(Json(embeddings::answer(&model, &embeddings, encoding, begin)).into_response());
    }
    let store = store(context)?;
    let kept = Kept { encoding: asked.encoding, tokens: asked.rows.iter().map(Vec::len).collect() };
    let created = flotilla_store::now();
    let job = Job {
        id: JobId(format!("req_{}", crate::token::random())),
        idempotency_key: headers.key,
        body_hash: asked.body_hash,
        model: asked.model.name.clone(),
        created,
        expires: created + context.settings.idempotency_ttl,
        requests: asked.rows.len() as u32,
        answer: serde_json::to_string(&kept).map_err(unreadable)?,
    };
    let id = job.id.clone();
    match store.claim(job).await.map_err(unreadable)? {
        Claim::New => {}
        Claim::Different(job) => {
            let message = format!(
                "this Idempotency-Key was used for another request, {}; choose a new key",
                job.id
            );
            return Err(ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                message,
            ));
        }
        Claim::Existing(job) if headers.respond_async => {
            return Ok(named(accepted(&job.id), &job.id, true));
        }
        Claim::Existing(job) => return replay(context, store, &job.id, asked.begin).await,
    }
    if headers.respond_async {
        return run_async(context.clone(), asked, id).await;
    }
    // In a task of its own: if the client disconnects now, its key must not stay without a computation.
    let running = {
        let (context, id) = (context.clone(), id.clone());
        tokio::spawn(async move { run(&context, asked, id).await })
    };
    let response = running.await.map_err(unreadable)??;
    Ok(named(response, &id, false))
}

/// Responds as soon as a request is recorded; from then on it is computed even if client or daemon end.
async fn run_async(context: Context, mut asked: Asked, id: JobId) -> Result<Response, ApiError> {
    let (recorded, mut confirmed) = mpsc::channel(1);
    asked.terms.recorded = Some(recorded);
    let running = {
        let id = id.clone();
        tokio::spawn(async move { run(&context, asked, id).await })
    };
    if confirmed.recv().await.is_some() {
        return Ok(named(accepted(&id), &id, false));
    }
    // It ended before it was recorded, so it was refused.
    running.await.map_err(unreadable)?.map(|response| named(response, &id, false))
}

/// Runs a request that is new.
async fn run(context: &Context, asked: Asked, id: JobId) -> Result<Response, ApiError> {
    let Asked { model, rows, encoding, mut terms, begin, .. } = asked;
    terms.policy.persistence = Persistence::Record;
    terms.job = Some(id.clone());
    match embed::run(&context.pool, &model, rows, terms).await {
        Ok(embeddings) => {
            Ok(Json(embeddings::answer(&model, &embeddings, encoding, begin)).into_response())
        }
        Err(error) => {
            let was_never_recorded = matches!(
                &error,
                EmbedError::Answer(AnswerError::Request(
                    RequestError::NotRecorded { .. }
                        | RequestError::Overloaded { .. }
                        | RequestError::Unplaceable { .. }
                        | RequestError::UnknownModel
                ))
            );
            if was_never_recorded
                && let Some(store) = context.pool.store()
                && let Err(error) = store.abandon(id)
            {
                tracing::warn!(%error, "cannot free the idempotency key of a refused request");
            }
            Err(embeddings::api_error(error))
        }
    }
}

/// `GET /api/requests/{id}`: a recorded request and, once it has ended, its answer.
pub(super) async fn get(
    State(context): State<Context>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let id = JobId(id);
    let state = load(store(&context)?, &id).await?;
    let created = state.job.created.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut body = json!({
        "id": id.0,
        "object": "request",
        "model": state.job.model,
        "created": created.as_secs(),
        "rows": state.job.requests,
        "ended": state.requests.iter().filter(|request| request.outcome.is_some()).count(),
    });
    let (status, answer) = match outcome(&context, &state, Instant::now()) {
        None => ("open", Value::Null),
        Some(Ok(answer)) => ("answered", answer),
        Some(Err(error)) => ("failed", error.body()),
    };
    body["status"] = status.into();
    body["answer"] = answer;
    Ok(Json(body).into_response())
}

async fn replay(
    context: &Context,
    store: &Store,
    id: &JobId,
    begin: Instant,
) -> Result<Response, ApiError> {
    for _ in 0..ACCEPT_LOOKS_MAX {
        context.pool.wait_job(id).await;
        let state = load(store, id).await?;
        match outcome(context, &state, begin) {
            Some(Ok(answer)) => return Ok(named(Json(answer).into_response(), id, true)),
            Some(Err(error)) => return Ok(named(error.into_response(), id, true)),
            // The handler that made the job may not have sent its requests to the pool yet, so there may be nothing to wait
            // for.
            None => tokio::time::sleep(ACCEPT_LOOK_AGAIN).await,
        }
    }
    Err(ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "not_ended",
        format!(
            "request {id} has not ended; ask again with the same key, or GET /api/requests/{id}"
        ),
    ))
}

/// How a job ended; `None` while it has not.
fn outcome(context: &Context, state: &JobState, begin: Instant) -> Option<Result<Value, ApiError>> {
    let failed = state.requests.iter().find_map(|request| match &request.outcome {
        Some(Outcome::Failed(error)) => Some(error.clone()),
        Some(Outcome::Answered) | None => None,
    });
    if let Some(error) = failed {
        return Some(Err(AnswerError::from(error).into()));
    }
    let is_whole = state.requests.len() == state.job.requests as usize
        && state.requests.iter().all(|request| request.outcome.is_some());
    is_whole.then(|| rebuild(context, state, begin))
}

/// The answer from what was recorded of it.
fn rebuild(context: &Context, state: &JobState, begin: Instant) -> Result<Value, ApiError> {
    let kept: Kept = serde_json::from_str(&state.job.answer).map_err(unreadable)?;
    let catalog = context.pool.catalog();
    let model = catalog
        .by_name(&state.job.model)
        .ok_or_else(|| unreadable(format!("model {} is no longer served", state.job.model)))?;
    let mut embeddings: Vec<Embedding> = state
        .requests
        .iter()
        .zip(&kept.tokens)
        .map(|(request, &tokens)| {
            let bytes = request.results.as_deref().ok_or_else(|| {
                unreadable(format!("the results of row {} are lost", request.index))
            })?;
            let answer = decode_answer(bytes).map_err(unreadable)?;
            embed::embedding(model, &answer, tokens).map_err(embeddings::api_error)
        })
        .collect::<Result<_, ApiError>>()?;
    // Rows of one run share their provenance, as in the first answer.
    for at in 1..embeddings.len() {
        let known =
            embeddings[..at].iter().find(|known| known.provenance == embeddings[at].provenance);
        if let Some(provenance) = known.map(|known| known.provenance.clone()) {
            embeddings[at].provenance = provenance;
        }
    }
    Ok(embeddings::answer(model, &embeddings, kept.encoding, begin))
}

async fn load(store: &Store, id: &JobId) -> Result<JobState, ApiError> {
    let state = store.job(id.clone()).await.map_err(unreadable)?;
    state.ok_or_else(|| {
        ApiError::not_found(format!("there is no request {id}; it may have been forgotten"))
    })
}

fn store(context: &Context) -> Result<&Store, ApiError> {
    context.pool.store().ok_or_else(|| {
        ApiError::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "no_state",
            "this daemon keeps no state, so requests cannot be recorded",
        )
    })
}

fn accepted(id: &JobId) -> Response {
    let body = json!({ "id": id.0, "object": "request", "status": "open" });
    let mut response = (StatusCode::ACCEPTED, Json(body)).into_response();
    if let Ok(location) = HeaderValue::from_str(&format!("/api/requests/{id}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn named(mut response: Response, id: &JobId, is_replayed: bool) -> Response {
    if let Ok(id) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    if is_replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

fn unreadable(error: impl std::fmt::Display) -> ApiError {
    let message = format!("the recorded request cannot be read: {error}");
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "state_unreadable", message)
}
