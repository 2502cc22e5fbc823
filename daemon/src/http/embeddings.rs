//! `POST /v1/embeddings` in OpenAI's shape.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Bytes,
    extract::{FromRequest, Request, State, rejection::BytesRejection},
    http::StatusCode,
    response::Response,
};
use base64::Engine as _;
use flotilla_fleet::{Persistence, Policy, Strategy};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    BODY_BYTES_MAX, Context,
    error::ApiError,
    given::{Inputs, Scalar},
    jobs::{self, Asked},
};
use crate::{
    catalog::Model,
    embed::{self, EmbedError, Embedding, Preparation, Text},
    pool::{Provenance, Terms},
};

#[derive(Deserialize)]
struct Body {
    model: Option<Scalar>,
    #[serde(default = "Inputs::missing")]
    input: Inputs,
    #[serde(default)]
    encoding_format: Option<Scalar>,
    #[serde(default)]
    dimensions: Option<Scalar>,
    /// As in vLLM: cut inputs to so many tokens, -1 for as many as the model takes.
    #[serde(default)]
    truncate_prompt_tokens: Option<Scalar>,
    /// The name of the prompt that is put before each text, as in sentence-transformers; the model's default one without.
    #[serde(default)]
    prompt_name: Option<Scalar>,
    /// What is done when something fails.
    #[serde(default)]
    fault_tolerance: Option<FaultTolerance>,
    /// Whether a simulated browser may answer when no browser can.
    #[serde(default)]
    fallback_to_simulation: bool,
}

/// A client's options for failures.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct FaultTolerance {
    /// Longest time from the first failure to the answer, in seconds.
    recovery_timeout: Option<f64>,
    /// Whether request and answer are recorded.
    #[serde(default)]
    state_persistence: bool,
    failover_strategy: Option<Strategy>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Encoding {
    Float,
    Base64,
}

#[derive(Serialize)]
struct Row {
    object: &'static str,
    index: usize,
    embedding: Value,
}

/// What computed some of an answer's embeddings.
#[derive(Serialize)]
struct Run<'a> {
    #[serde(flatten)]
    provenance: &'a Provenance,
    /// Which embeddings.
    indices: Vec<usize>,
}

/// Answers with one embedding per input.
pub(super) async fn create(
    State(context): State<Context>,
    request: Request,
) -> Result<Response, ApiError> {
    let begin = Instant::now();
    let headers = jobs::job_headers(request.headers())?;
    let bytes = body(request, context.settings.client_timeout).await?;
    let invalid = |reason: String| {
        let message = format!("the body is not the JSON object expected: {reason}");
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", message)
    };
    // serde would also accept a list of the fields' values in place of an object.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(invalid("it is a list".to_owned()));
    }
    let body: Body = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
    let model = model(&context, body.model.as_ref())?;
    let encoding = encoding(body.encoding_format.as_ref())?;
    let texts = texts(body.input)?;
    if texts.len() > context.queue_max {
        let message = format!(
            "input holds {} texts, and this daemon's queue {} at most; send them in parts",
            texts.len(),
            context.queue_max
        );
        return Err(ApiError::invalid("input", "invalid_input", message));
    }
    let cut = truncation(body.truncate_prompt_tokens.as_ref())?;
    check_dimensions(&model, body.dimensions)?;
    let policy = policy(body.fault_tolerance.unwrap_or_default(), body.fallback_to_simulation)?;
    let prompt = prompt_name(body.prompt_name)?;
    let preparation = Preparation { cut, prompt };
    let rows = embed::tokenize(&model, texts, preparation).await.map_err(api_error)?;
    let terms = Terms { timeout: context.settings.timeout, policy, job: None, recorded: None };
    let body_hash = *blake3::hash(&bytes).as_bytes();
    jobs::answer(&context, headers, Asked { model, rows, encoding, terms, body_hash, begin }).await
}

/// The requested dimensions must be the model's: vectors are not shortened.
fn check_dimensions(model: &Model, requested: Option<Scalar>) -> Result<(), ApiError> {
    let Some(requested) = requested else { return Ok(()) };
    let Some(size) = model.dimensions() else { return Ok(()) };
    if matches!(&requested, Scalar::Number(number) if number.as_u64() == Some(size as u64)) {
        return Ok(());
    }
    let message = format!("model {} has {size} dimensions and cannot give {requested}", model.name);
    Err(ApiError::invalid("dimensions", "unsupported_dimensions", message))
}

fn policy(requested: FaultTolerance, fallback_to_simulation: bool) -> Result<Policy, ApiError> {
    let recovery_timeout = match requested.recovery_timeout.map(Duration::try_from_secs_f64) {
        None => None,
        Some(Ok(limit)) => Some(limit),
        Some(Err(_)) => {
            return Err(ApiError::invalid(
                "fault_tolerance.recovery_timeout",
                "invalid_recovery_timeout",
                "recovery_timeout must be a number of seconds, not negative",
            ));
        }
    };
    let persistence =
        if requested.state_persistence { Persistence::Record } else { Persistence::None };
    let strategy = requested.failover_strategy;
    Ok(Policy { persistence, strategy, recovery_timeout, fallback_to_simulation, lease: None })
}

/// The body, with an error in OpenAI's shape when it is too long or does not arrive within `limit`.
/// A request's body as JSON.
pub(super) async fn json_body<T: DeserializeOwned>(
    request: Request,
    limit: Duration,
) -> Result<T, ApiError> {
    let bytes = body(request, limit).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", error.to_string()))
}

pub(super) async fn body(request: Request, limit: Duration) -> Result<Bytes, ApiError> {
    let received = tokio::time::timeout(limit, Bytes::from_request(request, &())).await;
    let late = |_| {
        let message = format!("the body has not arrived within {limit:?}");
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message)
    };
    received.map_err(late)?.map_err(|rejection| match rejection {
        BytesRejection::FailedToBufferBody(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("the body is over the limit of {BODY_BYTES_MAX} bytes; send fewer inputs at a time"),
        ),
        other => ApiError::new(StatusCode::BAD_REQUEST, "unreadable_body", other.to_string()),
    })
}

fn model(context: &Context, name: Option<&Scalar>) -> Result<Arc<Model>, ApiError> {
    let name = match name {
        Some(Scalar::Text(name)) => name,
        Some(other) => {
            return Err(ApiError::invalid(
                "model",
                "invalid_model",
                format!("model must be a string, not {other}"),
            ));
        }
        None => return Err(ApiError::invalid("model", "missing_model", "model is missing")),
    };
    let catalog = context.pool.catalog();
    if let Some(model) = catalog.by_name(name) {
        return Ok(model.clone());
    }
    let served: Vec<&str> = catalog.models.iter().map(|model| model.name.as_str()).collect();
    let message = match catalog.broken.get(name) {
        Some(reason) => format!("model {name} could not be loaded: {reason}"),
        None => format!("model {name:?} is not served here; served are: {}", served.join(", ")),
    };
    Err(ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message))
}

fn encoding(requested: Option<&Scalar>) -> Result<Encoding, ApiError> {
    match requested {
        None => Ok(Encoding::Float),
        Some(Scalar::Text(name)) if name == "float" => Ok(Encoding::Float),
        Some(Scalar::Text(name)) if name == "base64" => Ok(Encoding::Base64),
        Some(other) => Err(ApiError::invalid(
            "encoding_format",
            "invalid_encoding_format",
            format!("encoding_format must be \"float\" or \"base64\", not {other}"),
        )),
    }
}

fn truncation(requested: Option<&Scalar>) -> Result<Option<usize>, ApiError> {
    match requested {
        None => Ok(None),
        Some(value) => {
            let number = match value {
                Scalar::Number(number) => number.as_i64(),
                _ => None,
            };
            match number {
                Some(-1) => Ok(Some(usize::MAX)),
                Some(tokens @ 1..) => Ok(Some(tokens as usize)),
                Some(_) | None => Err(ApiError::invalid(
                    "truncate_prompt_tokens",
                    "invalid_truncation",
                    format!("truncate_prompt_tokens must be -1 or a number of tokens, not {value}"),
                )),
            }
        }
    }
}

fn prompt_name(requested: Option<Scalar>) -> Result<Option<String>, ApiError> {
    match requested {
        None | Some(Scalar::Null) => Ok(None),
        Some(Scalar::Text(name)) => Ok(Some(name)),
        Some(other) => {
            let message = format!("prompt_name must be a string, not {other}");
            Err(ApiError::invalid("prompt_name", "invalid_prompt_name", message))
        }
    }
}

fn texts(input: Inputs) -> Result<Vec<Text>, ApiError> {
    match input {
        Inputs::Texts(texts) => Ok(texts),
        Inputs::Missing => Err(ApiError::invalid("input", "missing_input", "input is missing")),
        Inputs::Wrong(words) => Err(ApiError::invalid("input", "invalid_input", words)),
    }
}

pub(super) fn answer(
    model: &Model,
    embeddings: &[Embedding],
    encoding: Encoding,
    begin: Instant,
) -> Value {
    let data: Vec<Row> = embeddings
        .iter()
        .enumerate()
        .map(|(index, embedding)| Row {
            object: "embedding",
            index,
            embedding: match encoding {
                Encoding::Float => json!(embedding.values),
                Encoding::Base64 => {
                    let bytes: Vec<u8> =
                        embedding.values.iter().flat_map(|value| value.to_le_bytes()).collect();
                    json!(base64::engine::general_purpose::STANDARD.encode(bytes))
                }
            },
        })
        .collect();
    let tokens: usize = embeddings.iter().map(|embedding| embedding.tokens).sum();
    let mut runs: Vec<(&Provenance, Vec<usize>)> = Vec::new();
    for (index, embedding) in embeddings.iter().enumerate() {
        let provenance: &Provenance = &embedding.provenance;
        // Rows of one run share their provenance.
        match runs.iter_mut().find(|(run, _)| std::ptr::eq(*run, provenance)) {
            Some((_, indices)) => indices.push(index),
            None => runs.push((provenance, vec![index])),
        }
    }
    let simulated = runs.iter().any(|(run, _)| run.simulated);
    let runs: Vec<Run> =
        runs.into_iter().map(|(provenance, indices)| Run { provenance, indices }).collect();
    json!({
        "object": "list",
        "data": data,
        "model": model.name,
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
        "simulated": simulated,
        "flotilla": { "daemon_ms": begin.elapsed().as_secs_f64() * 1e3, "runs": runs },
    })
}

pub(super) fn api_error(error: EmbedError) -> ApiError {
    let message = error.to_string();
    match error {
        EmbedError::Answer(error) => error.into(),
        EmbedError::Empty { .. } => ApiError::invalid("input", "empty_input", message),
        EmbedError::TooLong { .. } | EmbedError::Sparse { .. } => {
            ApiError::invalid("input", "context_length_exceeded", message)
        }
        EmbedError::Token { .. } => ApiError::invalid("input", "invalid_token", message),
        EmbedError::NoTokenizer { .. } => ApiError::invalid("input", "no_tokenizer", message),
        EmbedError::Prompt { .. } => {
            ApiError::invalid("prompt_name", "invalid_prompt_name", message)
        }
        EmbedError::NotText { .. } => ApiError::invalid("model", "not_an_embedding_model", message),
        EmbedError::Tokenizer { .. } | EmbedError::Output { .. } => {
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
        }
    }
}
