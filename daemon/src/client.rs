//! A small HTTP client for a daemon's own API.

use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 512 << 20;

/// Why a request to a daemon failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum ClientError {
    #[error("{url} is not an address: {reason}")]
    Url { url: String, reason: String },
    #[error("no daemon answers at {url}: {reason}; start one with `flotilla serve`")]
    Connect { url: String, reason: String },
    #[error("{url} answered with status {status}: {message}")]
    Status { url: String, status: u16, message: String },
    #[error("{url} did not answer with JSON: {reason}")]
    Body { url: String, reason: String },
}

/// GET of a JSON document.
///
/// # Errors
/// No answer, an error status with the daemon's message, or something that is not JSON.
pub async fn get(url: &str) -> Result<Value, ClientError> {
    request(url, "GET", bytes::Bytes::new()).await
}

/// POST of a JSON document.
///
/// # Errors
/// As [`get`].
pub async fn post(url: &str, body: &Value) -> Result<Value, ClientError> {
    request(url, "POST", body.to_string().into()).await
}

async fn request(url: &str, method: &str, body: bytes::Bytes) -> Result<Value, ClientError> {
    let request = axum::http::Request::builder()
        .method(method)
        .uri(url)
        .header("content-type", "application/json")
        .body(Full::new(body))
        .map_err(|error| ClientError::Url { url: url.to_owned(), reason: error.to_string() })?;
    let client: Client<HttpConnector, Full<bytes::Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    let unreachable = |reason: String| ClientError::Connect { url: url.to_owned(), reason };
    let response = client.request(request).await.map_err(|error| unreachable(error.to_string()))?;
    let status = response.status();
    let unreadable = |reason: String| ClientError::Body { url: url.to_owned(), reason };
    let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| unreadable(error.to_string()))?
        .to_bytes();
    let answer: Value =
        serde_json::from_slice(&body).map_err(|error| unreadable(error.to_string()))?;
    if status.is_success() {
        Ok(answer)
    } else {
        let message = answer["error"]["message"].as_str().unwrap_or("no message").to_owned();
        Err(ClientError::Status { url: url.to_owned(), status: status.as_u16(), message })
    }
}
