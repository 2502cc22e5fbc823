//! A page's links: one task per WebSocket between page and pool.

use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use flotilla_protocol::{
    BrowserId, FromPage, Link, PROTOCOL_VERSION, Tensor, ToPage, decode, encode,
};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::mpsc;

use crate::pool::Pool;

/// Most frames that wait to be sent to a page.
const OUTBOX_MAX: usize = 64;
/// Longest wait for a page's first frame.
const HELLO_MAX: Duration = Duration::from_secs(10);

/// Where frames for a page go.
pub(crate) type Outbox = mpsc::Sender<Bytes>;

/// What comes from a link.
#[derive(Debug)]
pub(crate) enum LinkReport {
    Message { browser: BrowserId, message: FromPage, tensors: Vec<Tensor> },
    Closed { browser: BrowserId, link: Link, reason: String },
}

/// Serves one WebSocket until it closes.
pub(crate) async fn serve(mut socket: WebSocket, pool: Pool) {
    let (browser, link, heartbeat_ms, frames) = match admit(&mut socket, &pool).await {
        Ok(admitted) => admitted,
        Err(reason) => {
            tracing::warn!(%reason, "link refused");
            if let Ok(frame) = encode(&ToPage::Refused { reason }, &[]) {
                // The page may already be gone; it is refused either way.
                let _ = socket.send(Message::Binary(frame.into())).await;
            }
            return;
        }
    };
    let reason = match welcome(&mut socket, heartbeat_ms).await {
        Ok(()) => relay(socket, browser, frames, &pool).await,
        Err(reason) => reason,
    };
    // No receiver means that the pool has ended and nobody needs to know.
    let _ = pool.link_reports().send(LinkReport::Closed { browser, link, reason }).await;
}

type Admitted = (BrowserId, Link, u32, mpsc::Receiver<Bytes>);

async fn admit(socket: &mut WebSocket, pool: &Pool) -> Result<Admitted, String> {
    let first = tokio::time::timeout(HELLO_MAX, socket.recv()).await;
    let frame = match first {
        Ok(Some(Ok(Message::Binary(frame)))) => frame,
        Ok(Some(Ok(_))) => return Err("the first frame is not binary".to_owned()),
        Ok(Some(Err(error))) => return Err(format!("the link broke: {error}")),
        Ok(None) => return Err("the link closed before its first frame".to_owned()),
        Err(_) => return Err(format!("no first frame within {HELLO_MAX:?}")),
    };
    let hello = match decode::<FromPage>(&frame) {
        Ok((FromPage::Hello(hello), _)) => hello,
        Ok(_) => return Err("the first frame is not a hello".to_owned()),
        Err(error) => {
            return Err(format!(
                "the first frame cannot be read ({error}); reload the runner page"
            ));
        }
    };
    if hello.version != PROTOCOL_VERSION {
        return Err(format!(
            "the page speaks protocol {}, this daemon {PROTOCOL_VERSION}; reload the runner page",
            hello.version
        ));
    }
    let link = hello.link;
    let (outbox, frames) = mpsc::channel(OUTBOX_MAX);
    let (browser, heartbeat_ms) = pool.hello(hello, outbox).await?;
    Ok((browser, link, heartbeat_ms, frames))
}

async fn welcome(socket: &mut WebSocket, heartbeat_ms: u32) -> Result<(), String> {
    let welcome =
        encode(&ToPage::Welcome { heartbeat_ms }, &[]).map_err(|error| error.to_string())?;
    socket
        .send(Message::Binary(welcome.into()))
        .await
        .map_err(|error| format!("the link broke: {error}"))
}

/// Carries frames both ways; returns why it ended.
async fn relay(
    socket: WebSocket,
    browser: BrowserId,
    mut frames: mpsc::Receiver<Bytes>,
    pool: &Pool,
) -> String {
    let (mut sink, mut stream) = socket.split();
    let outward = async {
        while let Some(frame) = frames.recv().await {
            if let Err(error) = sink.send(Message::Binary(frame)).await {
                return format!("sending failed: {error}");
            }
        }
        "closed by the daemon".to_owned()
    };
    let reports = pool.link_reports();
    let inward = async {
        while let Some(received) = stream.next().await {
            let frame = match received {
                Ok(Message::Binary(frame)) => frame,
                Ok(Message::Close(_)) => return "closed by the page".to_owned(),
                Ok(Message::Text(_)) => return "the page sent text".to_owned(),
                Ok(Message::Ping(_) | Message::Pong(_)) => continue,
                Err(error) => return format!("receiving failed: {error}"),
            };
            let (message, tensors) = match decode::<FromPage>(&frame) {
                Ok(decoded) => decoded,
                Err(error) => return format!("a frame cannot be read: {error}"),
            };
            if reports.send(LinkReport::Message { browser, message, tensors }).await.is_err() {
                return "the pool has ended".to_owned();
            }
        }
        "the connection ended".to_owned()
    };
    tokio::select! {
        reason = outward => reason,
        reason = inward => reason,
    }
}
