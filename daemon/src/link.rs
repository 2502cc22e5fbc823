//! A page's links: one task per WebSocket between page and pool.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use flotilla_protocol::{
    BrowserId, FromPage, Link, PROTOCOL_VERSION, Tensor, ToPage, decode, encode,
};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};

use crate::pool::Pool;

/// Most frames that wait to be sent to a page.
const OUTBOX_MAX: usize = 64;
/// Longest wait for a page's first frame.
const HELLO_MAX: Duration = Duration::from_secs(10);

/// Longest time that a page may leave a frame unread. A page that computes on the cpu reads nothing meanwhile, and how long
/// a run may take is the core's to judge: this is for connections whose other end is gone without a word.
const SEND_MAX: Duration = Duration::from_secs(120);

/// Why a link ends whose outbox was dropped.
const GIVEN_UP: &str = "closed by the daemon";

/// Name of one WebSocket among all that this process has had: a browser's new page has new links, and what still comes
/// from the old ones is told apart by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LinkId(u64);

impl LinkId {
    fn next() -> LinkId {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        LinkId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Where frames for a page go. Dropping it ends the link at once, whatever is still to be sent.
#[derive(Debug)]
pub(crate) struct Outbox {
    id: LinkId,
    frames: mpsc::Sender<Bytes>,
    // Never sent on: its end is the order.
    _open: oneshot::Sender<()>,
}

impl Outbox {
    /// The link whose outbox this is.
    pub(crate) fn id(&self) -> LinkId {
        self.id
    }

    /// Never waits.
    ///
    /// # Errors
    /// The page does not take its frames, or the link has ended.
    pub(crate) fn try_send(&self, frame: Bytes) -> Result<(), mpsc::error::TrySendError<Bytes>> {
        self.frames.try_send(frame)
    }
}

/// The link's end of an [`Outbox`].
#[derive(Debug)]
struct Outgoing {
    id: LinkId,
    frames: mpsc::Receiver<Bytes>,
    closed: oneshot::Receiver<()>,
}

fn outbox() -> (Outbox, Outgoing) {
    let id = LinkId::next();
    let (sender, frames) = mpsc::channel(OUTBOX_MAX);
    let (open, closed) = oneshot::channel();
    (Outbox { id, frames: sender, _open: open }, Outgoing { id, frames, closed })
}

/// What comes from a link. Whoever receives it compares `id` with the outbox that it holds: a report of a link that was
/// given up says nothing about the one in its place.
#[derive(Debug)]
pub(crate) enum LinkReport {
    Message { browser: BrowserId, id: LinkId, message: FromPage, tensors: Vec<Tensor> },
    Closed { browser: BrowserId, id: LinkId, link: Link, reason: String },
}

/// Serves one WebSocket until it closes.
pub(crate) async fn serve(mut socket: WebSocket, pool: Pool) {
    let Admitted { browser, link, heartbeat_ms, outgoing } = match admit(&mut socket, &pool).await {
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
    let id = outgoing.id;
    let reason = match welcome(&mut socket, heartbeat_ms).await {
        Ok(()) => relay(socket, browser, outgoing, &pool.link_reports(), SEND_MAX).await,
        Err(reason) => reason,
    };
    // No receiver means that the pool has ended and nobody needs to know.
    let _ = pool.link_reports().send(LinkReport::Closed { browser, id, link, reason }).await;
}

/// A link that the pool knows.
struct Admitted {
    browser: BrowserId,
    link: Link,
    heartbeat_ms: u32,
    outgoing: Outgoing,
}

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
    let (outbox, outgoing) = outbox();
    let (browser, heartbeat_ms) = pool.hello(hello, outbox).await?;
    Ok(Admitted { browser, link, heartbeat_ms, outgoing })
}

async fn welcome(socket: &mut WebSocket, heartbeat_ms: u32) -> Result<(), String> {
    let welcome =
        encode(&ToPage::Welcome { heartbeat_ms }, &[]).map_err(|error| error.to_string())?;
    send(socket, welcome.into(), SEND_MAX).await
}

/// Sends a frame, unless the page lets it lie for longer than `limit`.
async fn send<S>(sink: &mut S, frame: Bytes, limit: Duration) -> Result<(), String>
where
    S: SinkExt<Message> + Unpin,
    S::Error: std::fmt::Display,
{
    match tokio::time::timeout(limit, sink.send(Message::Binary(frame))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("sending failed: {error}")),
        Err(_) => Err(format!("a frame was not taken within {limit:?}")),
    }
}

/// Carries frames both ways; returns why it ended.
async fn relay<S, E>(
    socket: S,
    browser: BrowserId,
    outgoing: Outgoing,
    reports: &mpsc::Sender<LinkReport>,
    send_max: Duration,
) -> String
where
    S: Sink<Message, Error = E> + Stream<Item = Result<Message, E>>,
    E: std::fmt::Display,
{
    let Outgoing { id, mut frames, closed } = outgoing;
    let (mut sink, mut stream) = socket.split();
    let outward = async {
        while let Some(frame) = frames.recv().await {
            if let Err(reason) = send(&mut sink, frame, send_max).await {
                return reason;
            }
        }
        GIVEN_UP.to_owned()
    };
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
            let report = LinkReport::Message { browser, id, message, tensors };
            if reports.send(report).await.is_err() {
                return "the pool has ended".to_owned();
            }
        }
        "the connection ended".to_owned()
    };
    tokio::select! {
        // The outbox is dropped, never sent on.
        _ = closed => GIVEN_UP.to_owned(),
        reason = outward => reason,
        reason = inward => reason,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use super::*;

    /// A page that neither reads nor writes, over a connection that stays open.
    struct HalfOpen;

    impl Sink<Message> for HalfOpen {
        type Error = std::io::Error;

        fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Pending
        }

        fn start_send(self: Pin<&mut Self>, _: Message) -> std::io::Result<()> {
            Ok(())
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Pending
        }
    }

    impl Stream for HalfOpen {
        type Item = std::io::Result<Message>;

        fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_page_that_reads_nothing_does_not_hold_its_link_for_ever() {
        let (reports, _keep) = mpsc::channel(1);
        let (outbox, outgoing) = outbox();
        outbox.try_send(Bytes::from_static(b"frame")).unwrap();
        let limit = Duration::from_millis(10);
        let reason = relay(HalfOpen, BrowserId(0), outgoing, &reports, limit).await;
        assert!(reason.contains("not taken within 10ms"), "{reason}");
    }

    #[tokio::test]
    async fn a_link_that_is_given_up_ends_in_the_middle_of_a_frame() {
        let (reports, _keep) = mpsc::channel(1);
        let (outbox, outgoing) = outbox();
        outbox.try_send(Bytes::from_static(b"frame")).unwrap();
        let relayed = tokio::spawn(async move {
            relay(HalfOpen, BrowserId(0), outgoing, &reports, SEND_MAX).await
        });
        // The frame has been taken from the queue once there is room for a whole one again.
        while outbox.frames.capacity() < OUTBOX_MAX {
            tokio::task::yield_now().await;
        }
        drop(outbox);
        assert_eq!(relayed.await.unwrap(), GIVEN_UP);
    }

    #[test]
    fn links_are_told_apart() {
        let ((one, _), (other, _)) = (outbox(), outbox());
        assert_ne!(one.id(), other.id());
    }
}
