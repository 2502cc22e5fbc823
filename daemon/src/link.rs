//! A page's links: one task per WebSocket between page and pool.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use flotilla_protocol::{
    BrowserId, FRAME_BYTES_MAX, FromPage, Link, PROTOCOL_VERSION, Tensor, ToPage, decode, encode,
};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::pool::Pool;

/// Most frames that wait to be sent to a page.
const OUTBOX_MAX: usize = 64;
/// Most bytes of frames that wait to be sent to a page: two of the largest.
const OUTBOX_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;
/// Most messages of pages that wait for the pool.
const INBOX_MAX: usize = 4096;
/// Most KiB of all pages' messages that are decoded and wait for the pool: four of the largest. Links read no further
/// meanwhile, so that pages wait.
const INBOX_KIB_MAX: usize = (4 * FRAME_BYTES_MAX) >> 10;
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
    waiting_bytes: Arc<AtomicUsize>,
    // Never sent on: its end is the order.
    _open: oneshot::Sender<()>,
}

/// Why a frame is not taken for a page.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutboxError {
    #[error("the page does not take its frames: {frames} of {bytes} bytes wait")]
    Full { frames: usize, bytes: usize },
    #[error("the link has ended")]
    Closed,
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
    pub(crate) fn try_send(&self, frame: Bytes) -> Result<(), OutboxError> {
        let waiting = self.waiting_bytes.load(Ordering::Relaxed);
        let full =
            OutboxError::Full { frames: OUTBOX_MAX - self.frames.capacity(), bytes: waiting };
        // Nobody else sends, so there cannot be more by now.
        if waiting.saturating_add(frame.len()) > OUTBOX_BYTES_MAX {
            return Err(full);
        }
        self.waiting_bytes.fetch_add(frame.len(), Ordering::Relaxed);
        self.frames.try_send(frame).map_err(|error| {
            let frame = error.into_inner();
            self.waiting_bytes.fetch_sub(frame.len(), Ordering::Relaxed);
            if self.frames.is_closed() { OutboxError::Closed } else { full }
        })
    }
}

/// The link's end of an [`Outbox`].
#[derive(Debug)]
pub(crate) struct Outgoing {
    id: LinkId,
    pub(crate) frames: mpsc::Receiver<Bytes>,
    waiting_bytes: Arc<AtomicUsize>,
    closed: oneshot::Receiver<()>,
}

pub(crate) fn outbox() -> (Outbox, Outgoing) {
    let id = LinkId::next();
    let (sender, frames) = mpsc::channel(OUTBOX_MAX);
    let (open, closed) = oneshot::channel();
    let waiting_bytes = Arc::new(AtomicUsize::new(0));
    let outgoing = Outgoing { id, frames, waiting_bytes: waiting_bytes.clone(), closed };
    (Outbox { id, frames: sender, waiting_bytes, _open: open }, outgoing)
}

/// A message's part of what all pages' messages may take until the pool has dealt with them.
#[derive(Debug, Default)]
pub(crate) struct Room {
    // Given back when it is dropped.
    _kib: Option<OwnedSemaphorePermit>,
}

/// Where links report to the pool.
#[derive(Clone, Debug)]
pub(crate) struct Inbox {
    reports: mpsc::Sender<LinkReport>,
    kib: Arc<Semaphore>,
}

impl Inbox {
    pub(crate) fn new() -> (Inbox, mpsc::Receiver<LinkReport>) {
        let (reports, queue) = mpsc::channel(INBOX_MAX);
        (Inbox { reports, kib: Arc::new(Semaphore::new(INBOX_KIB_MAX)) }, queue)
    }

    /// Waits until a message of this size may be decoded.
    async fn room(&self, bytes: usize) -> Room {
        let kib = bytes.div_ceil(1 << 10).min(INBOX_KIB_MAX) as u32;
        // The semaphore is never closed.
        Room { _kib: self.kib.clone().acquire_many_owned(kib).await.ok() }
    }

    /// Reports; an error when the pool has ended.
    async fn report(&self, report: LinkReport) -> Result<(), String> {
        self.reports.send(report).await.map_err(|_| "the pool has ended".to_owned())
    }
}

/// What comes from a link. Whoever receives it compares `id` with the outbox that it holds: a report of a link that was
/// given up says nothing about the one in its place.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are messages")]
pub(crate) enum LinkReport {
    Message { browser: BrowserId, id: LinkId, message: FromPage, tensors: Vec<Tensor>, room: Room },
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
        Ok(()) => relay(socket, browser, outgoing, pool.inbox(), SEND_MAX).await,
        Err(reason) => reason,
    };
    // If the pool has ended, nobody needs to know.
    let _ = pool.inbox().report(LinkReport::Closed { browser, id, link, reason }).await;
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
    inbox: &Inbox,
    send_max: Duration,
) -> String
where
    S: Sink<Message, Error = E> + Stream<Item = Result<Message, E>>,
    E: std::fmt::Display,
{
    let Outgoing { id, mut frames, waiting_bytes, closed } = outgoing;
    let (mut sink, mut stream) = socket.split();
    let outward = async {
        while let Some(frame) = frames.recv().await {
            let bytes = frame.len();
            if let Err(reason) = send(&mut sink, frame, send_max).await {
                return reason;
            }
            waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
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
            let room = inbox.room(frame.len()).await;
            let (message, tensors) = match decode::<FromPage>(&frame) {
                Ok(decoded) => decoded,
                Err(error) => return format!("a frame cannot be read: {error}"),
            };
            drop(frame);
            let report = LinkReport::Message { browser, id, message, tensors, room };
            if let Err(reason) = inbox.report(report).await {
                return reason;
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
        let (inbox, _keep) = Inbox::new();
        let (outbox, outgoing) = outbox();
        outbox.try_send(Bytes::from_static(b"frame")).unwrap();
        let limit = Duration::from_millis(10);
        let reason = relay(HalfOpen, BrowserId(0), outgoing, &inbox, limit).await;
        assert!(reason.contains("not taken within 10ms"), "{reason}");
    }

    #[tokio::test]
    async fn a_link_that_is_given_up_ends_in_the_middle_of_a_frame() {
        let (inbox, _keep) = Inbox::new();
        let (outbox, outgoing) = outbox();
        outbox.try_send(Bytes::from_static(b"frame")).unwrap();
        let relayed =
            tokio::spawn(
                async move { relay(HalfOpen, BrowserId(0), outgoing, &inbox, SEND_MAX).await },
            );
        // The frame has been taken from the queue once there is room for a whole one again.
        while outbox.frames.capacity() < OUTBOX_MAX {
            tokio::task::yield_now().await;
        }
        drop(outbox);
        assert_eq!(relayed.await.unwrap(), GIVEN_UP);
    }

    #[test]
    fn an_outbox_holds_so_many_frames_and_so_many_bytes() {
        let (outbox, mut outgoing) = outbox();
        // Copies of one allocation: it is what they would take that counts.
        let large = Bytes::from(vec![0; OUTBOX_BYTES_MAX / 4]);
        for _ in 0..4 {
            outbox.try_send(large.clone()).unwrap();
        }
        let refused = outbox.try_send(Bytes::from_static(b"x")).unwrap_err();
        assert!(matches!(refused, OutboxError::Full { frames: 4, bytes: OUTBOX_BYTES_MAX }));
        let sent = outgoing.frames.try_recv().unwrap();
        outgoing.waiting_bytes.fetch_sub(sent.len(), Ordering::Relaxed);
        for _ in 3..OUTBOX_MAX {
            outbox.try_send(Bytes::from_static(b"x")).unwrap();
        }
        let refused = outbox.try_send(Bytes::from_static(b"x")).unwrap_err();
        assert!(matches!(refused, OutboxError::Full { frames: OUTBOX_MAX, .. }), "{refused}");
        drop(outgoing);
        let refused = outbox.try_send(Bytes::from_static(b"x")).unwrap_err();
        assert!(matches!(refused, OutboxError::Closed), "{refused}");
    }

    #[tokio::test]
    async fn messages_wait_until_there_is_room_for_them() {
        let (inbox, _keep) = Inbox::new();
        let most = inbox.room(3 * FRAME_BYTES_MAX).await;
        let rest = inbox.room(FRAME_BYTES_MAX).await;
        let mut next = std::pin::pin!(inbox.room(1));
        tokio::select! {
            biased;
            room = next.as_mut() => panic!("{room:?} beyond the limit"),
            () = std::future::ready(()) => {}
        }
        drop(rest);
        next.await;
        drop(most);
        // One that is larger than all is alone.
        inbox.room(usize::MAX).await;
    }

    #[test]
    fn links_are_told_apart() {
        let ((one, _), (other, _)) = (outbox(), outbox());
        assert_ne!(one.id(), other.id());
    }
}
