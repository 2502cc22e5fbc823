//! A reverse proxy between pages and daemon: a page's fetches pass unchanged, faults apply to frames of its links.
//!
//! Pages are given the proxy's address as the daemon's. `Host` and `Origin` are rewritten, so that the daemon's guard sees
//! its own.

use std::net::SocketAddr;

use axum::{
    Router,
    extract::{FromRequestParts, Request, State, WebSocketUpgrade},
    http::header,
    response::{IntoResponse, Response},
};
use flotilla_protocol::FRAME_BYTES_MAX;
use tokio::{net::TcpListener, sync::watch};

use crate::forward::Forwarder;

mod lane;
mod relay;

pub use lane::Rule;

/// What is in force, and how often it has been healed.
#[derive(Clone, Debug, Default)]
struct Weather {
    rules: Vec<Rule>,
    heals: u64,
}

/// A proxy on a free port of the loopback interface. Dropping it ends it and every connection through it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    listener: Option<TcpListener>,
    weather: watch::Sender<Weather>,
    server: Option<tokio::task::JoinHandle<()>>,
}

/// State of every connection.
#[derive(Clone, Debug)]
struct Passage {
    forwarder: Forwarder,
    weather: watch::Receiver<Weather>,
}

impl Proxy {
    /// Takes a port. Connections wait until [`Proxy::serve`].
    ///
    /// # Errors
    /// No port is free.
    pub async fn bind() -> std::io::Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let weather = watch::Sender::new(Weather::default());
        Ok(Proxy { address, listener: Some(listener), weather, server: None })
    }

    /// The daemon's address for pages: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Passes connections on to a daemon. A second call changes nothing.
    pub fn serve(&mut self, upstream: SocketAddr) {
        let Some(listener) = self.listener.take() else { return };
        let forwarder = Forwarder::new(upstream);
        let passage = Passage { forwarder, weather: self.weather.subscribe() };
        let router = Router::new().fallback(pass).with_state(passage);
        self.server = Some(tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the proxy failed");
            }
        }));
    }

    /// Puts a fault in force until it has happened to its number of frames, or until [`Proxy::heal`].
    pub fn arm(&self, rule: Rule) {
        self.weather.send_modify(|weather| weather.rules.push(rule));
    }

    /// Ends every fault.
    pub fn heal(&self) {
        self.weather.send_modify(|weather| {
            weather.rules.clear();
            weather.heals += 1;
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Links end when `weather` is dropped, which happens now.
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

async fn pass(State(passage): State<Passage>, request: Request) -> Response {
    let is_link = request
        .headers()
        .get(header::UPGRADE)
        .is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if is_link { link(passage, request).await } else { passage.forwarder.forward(request).await }
}

async fn link(passage: Passage, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let path = parts.uri.path().to_owned();
    match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => {
            upgrade.max_message_size(FRAME_BYTES_MAX).max_frame_size(FRAME_BYTES_MAX).on_upgrade(
                move |page| relay::run(page, passage.forwarder.upstream, path, passage.weather),
            )
        }
        Err(rejection) => rejection.into_response(),
    }
}

#[cfg(test)]
mod tests;
