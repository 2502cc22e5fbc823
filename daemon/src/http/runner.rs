//! What pages need: the runner's files, weight blobs, and the WebSocket of a link.

use axum::{
    Json,
    body::Body,
    extract::{Path, Request, State, WebSocketUpgrade, ws},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use flotilla_program::BlobId;
use flotilla_protocol::FRAME_BYTES_MAX;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;

use super::{Context, embeddings, error::ApiError, fixed};
use crate::{link, weights::Blob};

/// Bytes per read of a served file.
const CHUNK_BYTES: usize = 64 << 10;
/// Bytes per read of a blob.
const BLOB_CHUNK_BYTES: u64 = 256 << 10;

/// Longest failure message of a page.
const FAILURE_BYTES_MAX: usize = 4096;

pub(super) async fn index(headers: HeaderMap) -> Result<Response, ApiError> {
    asset("index.html", &headers)
}

pub(super) async fn file(
    Path(file): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    asset(&file, &headers)
}

fn asset(name: &str, request: &HeaderMap) -> Result<Response, ApiError> {
    let asset = flotilla_web::runner_asset(name).ok_or_else(|| match flotilla_web::missing() {
        Some(remedy) => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "runner_not_built", remedy),
        None => ApiError::not_found(format!("the runner has no file {name}")),
    })?;
    let headers = [
        (header::CONTENT_TYPE, header::HeaderValue::from_static(asset.content_type)),
        fixed(header::CACHE_CONTROL, "no-cache"),
        // Cross-origin isolation: precise clocks, and shared memory for threads.
        fixed(header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        fixed(header::HeaderName::from_static("cross-origin-embedder-policy"), "require-corp"),
        fixed(
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; style-src 'self' 'unsafe-inline'; img-src data:",
        ),
        fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let takes_gzip = request
        .get(header::ACCEPT_ENCODING)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("gzip"));
    Ok(match asset.gzip.filter(|_| takes_gzip) {
        Some(gzip) => (headers, [fixed(header::CONTENT_ENCODING, "gzip")], gzip).into_response(),
        None => (headers, asset.bytes).into_response(),
    })
}

/// A file of the extra folder, streamed whole from disk; only plain names without `..` are served.
pub(super) async fn extra(
    State(context): State<Context>,
    Path(file): Path<String>,
) -> Result<Response, ApiError> {
    let missing = || ApiError::not_found(format!("there is no file {file}"));
    let folder = context.settings.extra.as_ref().ok_or_else(missing)?;
    let relative = std::path::Path::new(&file);
    if !relative.components().all(|part| matches!(part, std::path::Component::Normal(_))) {
        return Err(missing());
    }
    let file = tokio::fs::File::open(folder.join(relative)).await.map_err(|_| missing())?;
    let about = file.metadata().await.map_err(|_| missing())?;
    if !about.is_file() {
        return Err(missing());
    }
    let chunks = futures_util::stream::try_unfold(file, |mut file| async move {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let read = file.read_buf(&mut chunk).await?;
        Ok::<_, std::io::Error>((read > 0).then_some((chunk, file)))
    });
    let content_type = match relative.extension().and_then(|extension| extension.to_str()) {
        Some("js" | "mjs") => "text/javascript",
        Some("wasm") => "application/wasm",
        Some("json") => "application/json",
        Some(_) | None => "application/octet-stream",
    };
    let headers = [
        fixed(header::CONTENT_TYPE, content_type),
        fixed(header::HeaderName::from_static("cross-origin-embedder-policy"), "require-corp"),
        fixed(header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::CONTENT_LENGTH, header::HeaderValue::from(about.len())),
    ];
    Ok((headers, Body::from_stream(chunks)).into_response())
}

/// A blob never changes under its name, so browsers may cache it permanently.
pub(super) async fn blob(
    State(context): State<Context>,
    Path(blob): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let catalog = context.pool.catalog();
    let found = BlobId::from_hex(&blob).map(|id| catalog.blobs(id).cloned().collect::<Vec<_>>());
    let found = found.filter(|found| !found.is_empty());
    let found = found.ok_or_else(|| ApiError::not_found(format!("there is no blob {blob}")))?;
    let found = tokio::task::spawn_blocking(move || unchanged(found)).await;
    let found = found.map_err(std::io::Error::other).flatten().map_err(|error| {
        ApiError::new(StatusCode::CONFLICT, "weights_changed", error.to_string())
    })?;
    let length = found.bytes();
    let common = [
        fixed(header::CONTENT_TYPE, "application/octet-stream"),
        fixed(header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        fixed(header::ACCEPT_RANGES, "bytes"),
        fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let Some(requested) = headers.get(header::RANGE).and_then(|range| range.to_str().ok()) else {
        let whole = [(header::CONTENT_LENGTH, length.to_string())];
        return Ok((common, whole, streamed(found, 0, length)).into_response());
    };
    match range(requested, length) {
        Some((start, end)) => {
            let part = [
                (header::CONTENT_RANGE, format!("bytes {start}-{}/{length}", end - 1)),
                (header::CONTENT_LENGTH, (end - start).to_string()),
            ];
            let body = streamed(found, start, end);
            Ok((StatusCode::PARTIAL_CONTENT, common, part, body).into_response())
        }
        None => Err(ApiError::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "bad_range",
            format!("range {requested:?} does not lie in a blob of {length} bytes"),
        )),
    }
}

/// The first of equal blobs whose file was not changed. Blocks.
fn unchanged(equal: Vec<Blob>) -> std::io::Result<Blob> {
    let mut result = Err(std::io::Error::other("there is no such blob"));
    for blob in equal {
        result = blob.check().map(|()| blob);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Bytes of a blob, read piece by piece.
fn streamed(blob: Blob, start: u64, end: u64) -> Body {
    let pieces = futures_util::stream::try_unfold((blob, start), move |(blob, at)| async move {
        let length = (end - at).min(BLOB_CHUNK_BYTES);
        if length == 0 {
            return Ok(None);
        }
        let reading = tokio::task::spawn_blocking(move || {
            let piece = blob.read(at, length as usize);
            (blob, piece)
        });
        let (blob, piece) = reading.await.map_err(std::io::Error::other)?;
        Ok::<_, std::io::Error>(Some((piece?, (blob, at + length))))
    });
    Body::from_stream(pieces)
}

/// A single range of RFC 9110, 14.1.2, as start and end (exclusive).
fn range(requested: &str, length: u64) -> Option<(u64, u64)> {
    let (first, last) = requested.strip_prefix("bytes=")?.split_once('-')?;
    let (start, end) = match (first, last) {
        ("", suffix) => (length.checked_sub(suffix.parse().ok()?)?, length),
        (first, "") => (first.parse().ok()?, length),
        (first, last) => {
            (first.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?.min(length))
        }
    };
    (start < end).then_some((start, end))
}

/// A link's WebSocket. Only this daemon's page can open one: a foreign `Origin` does not pass the guard, and the
/// first frame holds the page's single-use token.
pub(super) async fn link(State(context): State<Context>, upgrade: WebSocketUpgrade) -> Response {
    upgrade
        .max_message_size(FRAME_BYTES_MAX)
        .max_frame_size(FRAME_BYTES_MAX)
        .on_upgrade(move |socket: ws::WebSocket| link::serve(socket, context.pool.inbox().clone()))
}

#[derive(Deserialize)]
struct PageFailure {
    token: String,
    error: String,
}

/// Reports why a page could not start its runtime.
pub(super) async fn failure(
    State(context): State<Context>,
    request: Request,
) -> Result<Json<()>, ApiError> {
    let mut failure: PageFailure =
        embeddings::json_body(request, context.settings.client_timeout).await?;
    failure.error.truncate(failure.error.floor_char_boundary(FAILURE_BYTES_MAX));
    context.pool.page_failure(failure.token, failure.error).await;
    Ok(Json(()))
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let table = [
            ("bytes=0-3", Some((0, 4))),
            ("bytes=4-", Some((4, 10))),
            ("bytes=-3", Some((7, 10))),
            ("bytes=0-99", Some((0, 10))),
            ("bytes=10-", None),
            ("bytes=5-4", None),
            ("bytes=-11", None),
            ("bytes=0-18446744073709551615", None),
            ("lines=0-3", None),
        ];
        for (requested, want) in table {
            assert_eq!(range(requested, 10), want, "{requested}");
        }
    }
}
