//! One link through the proxy: two sockets and a lane in each direction.

use std::{net::SocketAddr, time::Instant};

use axum::extract::ws::{self, WebSocket};
use bytes::Bytes;
use flotilla_protocol::{FRAME_BYTES_MAX, FromPage, Hello, Link, decode};
use futures_util::{Sink, SinkExt, Stream, StreamExt, stream};
use tokio::{net::TcpStream, sync::watch};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, client::IntoClientRequest, protocol::WebSocketConfig},
};

use super::{
    Weather,
    lane::{Fate, Lane, Spot},
};
use crate::faults::{LinkName, Toward};

type Daemon = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Carries frames until one side ends or a fault cuts the link.
pub(super) async fn run(
    mut page: WebSocket,
    upstream: SocketAddr,
    path: String,
    weather: watch::Receiver<Weather>,
) {
    // The first frame names the browser and the link.
    let first = loop {
        match page.recv().await {
            Some(Ok(ws::Message::Binary(frame))) => break frame,
            Some(Ok(ws::Message::Close(_)) | Err(_)) | None => return,
            Some(Ok(_)) => {}
        }
    };
    let daemon = match connect(upstream, &path).await {
        Ok(daemon) => daemon,
        Err(error) => {
            tracing::warn!(%error, "the proxy does not reach the daemon");
            return;
        }
    };
    let (link, kind) = match decode::<FromPage>(&first) {
        Ok((FromPage::Hello(Hello { link, user_agent, .. }), _)) => {
            let link = match link {
                Link::Control => LinkName::Control,
                Link::Data => LinkName::Data,
            };
            (link, kind(&user_agent))
        }
        Ok(_) | Err(_) => (LinkName::Any, None),
    };
    let lane = |toward| Lane::new(Spot { link, toward, kind: kind.clone() });
    let (to_page, from_page) = page.split();
    let (to_daemon, from_daemon) = daemon.split();
    let from_page = from_page.filter_map(async |message| match message {
        Ok(ws::Message::Binary(frame)) => Some(Some(frame)),
        Ok(ws::Message::Close(_)) | Err(_) => Some(None),
        Ok(_) => None,
    });
    let from_daemon = from_daemon.filter_map(async |message| match message {
        Ok(tungstenite::Message::Binary(frame)) => Some(Some(frame)),
        Ok(tungstenite::Message::Close(_)) | Err(_) => Some(None),
        Ok(_) => None,
    });
    let to_page = to_page.with(async |frame| Ok::<_, axum::Error>(ws::Message::Binary(frame)));
    let to_daemon = to_daemon
        .with(async |frame| Ok::<_, tungstenite::Error>(tungstenite::Message::Binary(frame)));
    let inward = stream::iter([Some(first)]).chain(from_page);
    // The end of either direction closes both sockets: a page or a daemon that is cut off notices on every link.
    tokio::select! {
        () = carry(inward, to_daemon, lane(Toward::Daemon), weather.clone()) => {}
        () = carry(from_daemon, to_page, lane(Toward::Page), weather) => {}
    }
}

async fn connect(upstream: SocketAddr, path: &str) -> Result<Daemon, tungstenite::Error> {
    let mut request = format!("ws://{upstream}{path}").into_client_request()?;
    if let Ok(origin) = format!("http://{upstream}").parse() {
        request.headers_mut().insert("origin", origin);
    }
    let config = WebSocketConfig::default()
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX));
    let connected = tokio_tungstenite::connect_async_with_config(request, Some(config), true).await;
    connected.map(|(socket, _)| socket)
}

/// The kind of browser that a user agent names.
fn kind(user_agent: &str) -> Option<String> {
    let words = user_agent.to_lowercase();
    ["firefox", "chrome"].into_iter().find(|kind| words.contains(kind)).map(str::to_owned)
}

/// What happens to a lane.
enum Input {
    Frame(Bytes),
    Weather,
    Time,
    End,
}

async fn carry<S: Sink<Bytes>>(
    frames: impl Stream<Item = Option<Bytes>>,
    sink: S,
    mut lane: Lane,
    mut weather: watch::Receiver<Weather>,
) {
    let mut frames = std::pin::pin!(frames);
    let mut sink = std::pin::pin!(sink);
    let mut current = weather.borrow_and_update().clone();
    let mut fired = Vec::new();
    loop {
        while let Some(frame) = lane.next(Instant::now()) {
            if sink.send(frame).await.is_err() {
                return;
            }
        }
        let wake = lane.wake();
        let input = tokio::select! {
            frame = frames.next() => frame.flatten().map_or(Input::End, Input::Frame),
            changed = weather.changed() => changed.map_or(Input::End, |()| Input::Weather),
            () = sleep_until(wake) => Input::Time,
        };
        let fate = match input {
            Input::End => return,
            Input::Time => Fate::Open,
            Input::Weather => {
                let next = weather.borrow_and_update().clone();
                if next.heals != current.heals {
                    lane.heal(Instant::now());
                }
                current = next;
                Fate::Open
            }
            Input::Frame(frame) => lane.pass(Instant::now(), frame, &current.rules, &mut fired),
        };
        for bell in fired.drain(..) {
            bell.ring().await;
        }
        if fate == Fate::Cut {
            return;
        }
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
