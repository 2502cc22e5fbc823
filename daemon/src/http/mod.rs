//! The daemon's HTTP server: API for clients, runner page, links and blobs for pages. Loopback only.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use flotilla_browsers::Browsers;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc, watch},
};

use crate::{http::error::ApiError, pool::Pool, weights::WeightFiles};

mod browsers;
pub mod embeddings;
pub mod error;
mod given;
mod health;
mod jobs;
mod models;
mod runner;

/// Most connections at once; further ones wait. Links of pages do not count once they are open.
const CONNECTIONS_MAX: usize = 512;
/// Wait after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Largest request body.
pub const BODY_BYTES_MAX: usize = 16 << 20;

/// The state of every handler.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where requests run.
    pub pool: Pool,
    /// Which browsers can be added.
    pub browsers: Arc<Browsers>,
    /// Most requests that wait at once.
    pub queue_max: usize,
    /// What whoever starts the server chooses.
    pub settings: Arc<Settings>,
}

/// Settings of the server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Longest time from a request to its answer.
    pub timeout: Duration,
    /// How long recorded requests and their answers are kept.
    pub idempotency_ttl: Duration,
    /// Longest time that a client may take for a request's head, and again for its body.
    pub client_timeout: Duration,
    /// A folder served under `/extra/`, for pages that compare this runtime with others.
    pub extra: Option<PathBuf>,
    /// Where weights of models are kept that are added while serving; in memory without.
    pub weights: Option<WeightFiles>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            timeout: Duration::from_secs(120),
            idempotency_ttl: Duration::from_secs(24 * 3600),
            client_timeout: Duration::from_secs(30),
            extra: None,
            weights: None,
        }
    }
}

/// Why the server could not be started.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum BindError {
    #[error(
        "port {port} of 127.0.0.1 is in use; stop the other program or choose another with --port"
    )]
    InUse { port: u16 },
    #[error("cannot listen on 127.0.0.1:{port}: {source}")]
    Io { port: u16, source: std::io::Error },
}

/// Listens on the loopback interface; port 0 takes a free one.
///
/// # Errors
/// The port is in use or not allowed.
pub async fn bind(port: u16) -> Result<(TcpListener, SocketAddr), BindError> {
    let io = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AddrInUse => BindError::InUse { port },
        _ => BindError::Io { port, source },
    };
    let listener = TcpListener::bind(("127.0.0.1", port)).await.map_err(io)?;
    let address = listener.local_addr().map_err(io)?;
    Ok((listener, address))
}

/// Serves until `ended` resolves, then finishes the answers that are under way. A client that keeps the daemon waiting for a
/// request, or for the next one on an open connection, is disconnected after [`Settings::client_timeout`].
///
/// # Errors
/// The listener has no address.
pub async fn serve(
    listener: TcpListener,
    context: Context,
    ended: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let port = listener.local_addr()?.port();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(context.settings.client_timeout);
    let router = router(context, port);
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Nothing is sent on either: dropping the first is the order to close, the end of the second means that all are closed.
    let (closing, closed) = watch::channel(());
    let (open, mut all_closed) = mpsc::channel::<()>(1);
    let accepting = async {
        loop {
            // The semaphore is never closed.
            let Ok(turn) = connections.clone().acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // For example too many open files: some may be closed meanwhile.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let service = TowerToHyperService::new(router.clone());
            let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
            let (mut closed, open) = (closed.clone(), open.clone());
            tokio::spawn(async move {
                let mut connection = std::pin::pin!(connection);
                let ended = tokio::select! {
                    ended = connection.as_mut() => ended,
                    _ = closed.changed() => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                };
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended");
                }
                drop((turn, open));
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = ended => {}
    }
    drop((listener, closing, open));
    let _ = all_closed.recv().await;
    Ok(())
}

fn router(context: Context, port: u16) -> Router {
    Router::new()
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/models", get(health::models))
        .route("/v1/models/{*name}", get(health::model))
        .route("/healthz", get(health::healthz))
        .route("/api/pool", get(health::pool))
        .route("/api/browsers", post(browsers::create))
        .route("/api/browsers/{slot}", delete(browsers::remove))
        .route("/api/models", get(models::list).post(models::create))
        .route("/api/models/{*name}", get(models::get).delete(models::remove))
        .route("/api/requests/{id}", get(jobs::get))
        .route("/runner/", get(runner::index))
        .route("/runner/failure", post(runner::failure))
        .route("/runner/{file}", get(runner::file))
        .route("/blobs/{blob}", get(runner::blob))
        .route("/extra/{*file}", get(runner::extra))
        .route("/link", get(runner::link))
        .fallback(no_such_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(port, guard))
        .with_state(context)
}

async fn no_such_route(request: Request) -> ApiError {
    ApiError::not_found(format!("there is no route {} {}", request.method(), request.uri().path()))
}

async fn wrong_method(request: Request) -> ApiError {
    ApiError::method(format!("{} is not a method of {}", request.method(), request.uri().path()))
}

/// Lets through only requests that a local program or this daemon's own page makes: a web site open in the user's browser can
/// reach this port, but not with another `Host` (DNS rebinding) nor without its real `Origin`.
async fn guard(State(port): State<u16>, request: Request, next: Next) -> Response {
    match check_origin(request.headers(), port) {
        Ok(()) => next.run(request).await,
        Err(reason) => ApiError::new(StatusCode::FORBIDDEN, "forbidden", reason).into_response(),
    }
}

fn check_origin(headers: &HeaderMap, port: u16) -> Result<(), String> {
    let mut own: Vec<String> =
        ["127.0.0.1", "localhost", "[::1]"].map(|name| format!("{name}:{port}")).into();
    if port == 80 {
        // Clients omit the default port.
        own.extend(["127.0.0.1", "localhost", "[::1]"].map(str::to_owned));
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !own.iter().any(|own| own == host) {
        return Err(format!("Host {host:?} is not this daemon; use 127.0.0.1:{port}"));
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    if own.iter().any(|own| origin.strip_prefix("http://") == Some(own)) {
        Ok(())
    } else {
        Err(format!("Origin {origin:?} may not use this daemon"))
    }
}

/// A header of a constant value.
fn fixed(name: HeaderName, value: &'static str) -> (HeaderName, HeaderValue) {
    (name, HeaderValue::from_static(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_origins_pass() {
        let table: &[(&str, Option<&str>, bool)] = &[
            ("127.0.0.1:9", None, true),
            ("localhost:9", Some("http://127.0.0.1:9"), true),
            ("127.0.0.1:9", Some("http://evil.example"), false),
            ("127.0.0.1:9", Some("null"), false),
            ("127.0.0.1:9", Some("http://127.0.0.1:10"), false),
            ("evil.example:9", None, false),
            ("127.0.0.1", None, false),
        ];
        for (host, origin, want) in table {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().expect("header"));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().expect("header"));
            }
            assert_eq!(check_origin(&headers, 9).is_ok(), *want, "{host} {origin:?}");
        }
    }
}
