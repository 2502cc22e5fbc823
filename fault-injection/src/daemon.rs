//! A daemon as its clients see it: over HTTP, one connection for each request, so that the end of a connection shows which
//! request was lost.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Response, StatusCode};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};

use crate::{process::Roots, report::RecoveryLine};

/// Header that names a recorded request on its answer.
const REQUEST_ID: &str = "flotilla-request-id";

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Longest wait for the pool's status.
const LOOK_MAX: Duration = Duration::from_secs(10);
/// Wait before a request is sent again to a daemon that does not answer.
const AGAIN: Duration = Duration::from_millis(50);

/// A browser as `GET /api/pool` reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Browser {
    /// Its slot.
    pub slot: u64,
    /// Its kind.
    pub kind: String,
    /// Its name in the pool; `None` between two browsers.
    pub name: Option<String>,
    /// Whether it and all of its placements are ready.
    pub is_ready: bool,
    /// Whether it has the model: faults are only injected into such browsers.
    pub holds: bool,
    /// Whether it is simulated by native code.
    pub is_simulated: bool,
    /// Its processes.
    pub roots: Roots,
    /// Its state as the pool reports it.
    pub words: String,
}

/// Outcome of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Results: vectors, and the failed attempts.
    Answer {
        /// One vector for each row; a right answer has one.
        vectors: Vec<Vec<f32>>,
        /// Failed attempts.
        tried: Vec<String>,
        /// The daemon's name of the request, where it was recorded.
        request: Option<String>,
    },
    /// The daemon's error message, or no daemon accepted it.
    Error(String),
    /// It was accepted and never answered.
    Lost(String),
}

/// Why the pool's status is not known.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum LookError {
    #[error("the daemon does not answer: {0}")]
    Unreachable(String),
    #[error("the daemon did not answer within {LOOK_MAX:?}")]
    Late,
    #[error("the daemon answered with status {status}")]
    Status { status: u16 },
    #[error("the daemon's pool status cannot be read: {0}")]
    Json(#[from] serde_json::Error),
}

/// Why an exchange failed.
enum Broken {
    /// No connection: nothing was accepted.
    Connect(String),
    /// It ended before the answer did.
    Ended(String),
}

/// A daemon's address and the model of its requests.
#[derive(Clone, Debug)]
pub struct Daemon {
    url: String,
    model: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Daemon {
    /// The daemon at `http://127.0.0.1:PORT`, and a model that it serves.
    pub fn new(url: impl Into<String>, model: impl Into<String>) -> Daemon {
        // Connections are not reused: a client that retries by itself would hide a loss.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
        Daemon { url: url.into().trim_end_matches('/').to_owned(), model: model.into(), client }
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Requests a row's embedding, at the latest until `limit`. With a key the request is sent again as often as its connection
    /// breaks.
    pub async fn ask(&self, row: &[u32], key: Option<&str>, limit: Instant) -> Reply {
        let body = Bytes::from(json!({ "model": self.model, "input": row }).to_string());
        let asking = async {
            loop {
                let broken = match self.exchange("POST", "/v1/embeddings", body.clone(), key).await
                {
                    Ok(response) => return reply(&response),
                    Err(broken) => broken,
                };
                match (broken, key) {
                    (Broken::Connect(words), None) => return Reply::Error(words),
                    (Broken::Ended(words), None) => return Reply::Lost(words),
                    (Broken::Connect(_) | Broken::Ended(_), Some(_)) => {
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
        };
        tokio::time::timeout_at(limit.into(), asking)
            .await
            .unwrap_or_else(|_| Reply::Lost("no answer in time".to_owned()))
    }

    /// The pool's slots.
    ///
    /// # Errors
    /// The daemon does not answer, or not with its pool's status.
    pub async fn browsers(&self) -> Result<Vec<Browser>, LookError> {
        let pool = self.pool().await?;
        let mut browsers: Vec<Browser> =
            pool["browsers"].as_array().into_iter().flatten().map(browser).collect();
        // If only some browsers hold the model, the others need nothing more to be ready.
        if !browsers.iter().any(|browser| browser.is_ready && browser.holds) {
            browsers.iter_mut().for_each(|browser| browser.is_ready &= browser.holds);
        }
        Ok(browsers)
    }

    /// `GET /api/pool`.
    ///
    /// # Errors
    /// As [`Daemon::browsers`].
    pub async fn pool(&self) -> Result<Value, LookError> {
        let looking = self.exchange("GET", "/api/pool", Bytes::new(), None);
        let response =
            tokio::time::timeout(LOOK_MAX, looking).await.map_err(|_| LookError::Late)?.map_err(
                |(Broken::Connect(words) | Broken::Ended(words))| LookError::Unreachable(words),
            )?;
        if response.status() != StatusCode::OK {
            return Err(LookError::Status { status: response.status().as_u16() });
        }
        Ok(serde_json::from_slice(response.body())?)
    }

    /// Recoveries of the daemon since it was started.
    ///
    /// # Errors
    /// As [`Daemon::browsers`].
    pub async fn recoveries(&self) -> Result<Vec<RecoveryLine>, LookError> {
        let mut pool = self.pool().await?;
        Ok(serde_json::from_value(pool["recoveries"].take())?)
    }

    async fn exchange(
        &self,
        method: &str,
        path: &str,
        body: Bytes,
        key: Option<&str>,
    ) -> Result<Response<Bytes>, Broken> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let request =
            request.body(Full::new(body)).map_err(|error| Broken::Connect(error.to_string()))?;
        let response = self.client.request(request).await.map_err(|error| {
            let words = chain(&error);
            if error.is_connect() { Broken::Connect(words) } else { Broken::Ended(words) }
        })?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| Broken::Ended(error.to_string()))?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn reply(response: &Response<Bytes>) -> Reply {
    let status = response.status().as_u16();
    let Ok(answer) = serde_json::from_slice::<Value>(response.body()) else {
        return Reply::Lost(format!("status {status} without a readable body"));
    };
    if status != 200 {
        let words = answer["error"]["message"].as_str().unwrap_or("no message");
        return Reply::Error(format!("{status}: {words}"));
    }
    let vectors = answer["data"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| {
            let values = row["embedding"].as_array().into_iter().flatten();
            values.map(|value| value.as_f64().map_or(f32::NAN, |value| value as f32)).collect()
        })
        .collect();
    let tried = answer["flotilla"]["runs"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|run| run["tried"].as_array().into_iter().flatten())
        .filter_map(|tried| tried.as_str().map(str::to_owned))
        .collect();
    let request = response.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    Reply::Answer { vectors, tried, request: request.map(str::to_owned) }
}

fn browser(slot: &Value) -> Browser {
    let facts = &slot["facts"];
    let pid = |name: &str| facts[name].as_u64().and_then(|pid| u32::try_from(pid).ok());
    let placements = slot["placements"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_loaded = placements.iter().all(|each| each["state"] == "ready");
    let word = |name: &str| slot[name].as_str().unwrap_or_default();
    Browser {
        slot: slot["slot"].as_u64().unwrap_or(u64::MAX),
        kind: word("kind").to_owned(),
        name: slot["browser"].as_str().map(str::to_owned),
        is_ready: slot["state"] == "ready" && facts.is_object() && is_loaded,
        holds: is_loaded && !placements.is_empty(),
        is_simulated: facts["simulated"] == true,
        roots: Roots { browser: pid("pid"), driver: pid("driver_pid") },
        words: [word("state"), word("detail"), word("last_failure")]
            .into_iter()
            .filter(|words| !words.is_empty())
            .collect::<Vec<_>>()
            .join(", "),
    }
}
