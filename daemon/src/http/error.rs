//! Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use flotilla_fleet::{FailureKind, RequestError};
use serde_json::json;

use crate::pool::AnswerError;

/// An error as a client receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    param: Option<&'static str>,
}

impl ApiError {
    /// An error of this status; `code` is for programs, `message` for people.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { status, code, message: message.into(), param: None }
    }

    /// The client's request is wrong at `param`.
    pub fn invalid(
        param: &'static str,
        code: &'static str,
        message: impl Into<String>,
    ) -> ApiError {
        ApiError { param: Some(param), ..ApiError::new(StatusCode::BAD_REQUEST, code, message) }
    }

    /// The requested thing does not exist.
    pub fn not_found(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// The route exists, but not with this method.
    pub fn method(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
    }

    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "server_error",
        }
    }

    /// The body of its response.
    pub(super) fn body(&self) -> serde_json::Value {
        json!({
            "error": { "message": self.message, "type": self.kind(), "param": self.param, "code": self.code }
        })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = self.body();
        let mut response = (self.status, Json(body)).into_response();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<AnswerError> for ApiError {
    fn from(error: AnswerError) -> ApiError {
        let (status, code) = match &error {
            AnswerError::Request(error) => match error {
                RequestError::Overloaded { .. } => (StatusCode::TOO_MANY_REQUESTS, "queue_full"),
                RequestError::DeadlineExceeded { .. } => {
                    (StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded")
                }
                RequestError::Failed { tried } => {
                    match tried.last().map(|attempt| attempt.failure.kind) {
                        Some(FailureKind::DeadlineExceeded) => {
                            (StatusCode::GATEWAY_TIMEOUT, "worker_timeout")
                        }
                        Some(FailureKind::MemoryLimitExceeded | FailureKind::OutOfMemory) => {
                            (StatusCode::INSUFFICIENT_STORAGE, "worker_memory")
                        }
                        Some(
                            FailureKind::ConnectionLost
                            | FailureKind::PageCrashed
                            | FailureKind::BrowserExited
                            | FailureKind::DriverUnresponsive
                            | FailureKind::DeviceLost
                            | FailureKind::UnsupportedOperation
                            | FailureKind::RunRefused
                            | FailureKind::WrongResult
                            | FailureKind::Overloaded,
                        )
                        | None => (StatusCode::BAD_GATEWAY, "every_attempt_failed"),
                    }
                }
                RequestError::Unplaceable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "no_browser"),
                RequestError::RecoveryTimeout { .. } => {
                    (StatusCode::GATEWAY_TIMEOUT, "recovery_timeout")
                }
                RequestError::NotRecorded { .. } => {
                    (StatusCode::INSUFFICIENT_STORAGE, "not_recorded")
                }
                RequestError::LeaseEnded { .. } => (StatusCode::BAD_GATEWAY, "browser_gone"),
                RequestError::Draining => (StatusCode::SERVICE_UNAVAILABLE, "shutting_down"),
                RequestError::UnknownModel | RequestError::ModelRemoved { .. } => {
                    (StatusCode::NOT_FOUND, "model_not_found")
                }
            },
            AnswerError::PoolEnded => (StatusCode::SERVICE_UNAVAILABLE, "shutting_down"),
            AnswerError::Rows(_) | AnswerError::Lost { .. } => {
                (StatusCode::BAD_GATEWAY, "wrong_result")
            }
        };
        ApiError::new(status, code, error.to_string())
    }
}
