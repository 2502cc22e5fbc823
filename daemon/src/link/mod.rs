//! A page's links: one task per WebSocket between page and pool.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use flotilla_protocol::{
    BrowserId, FRAME_BYTES_MAX, FromPage, Hello, Link, PROTOCOL_VERSION, ToPage, decode, encode,
};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::batch;

mod order;

#[cfg(test)]
pub(crate) use order::frame;
pub(crate) use order::{Inputs, Loadable, Order, Results, Runs};

/// Most frames that wait to be sent to a page.
const OUTBOX_MAX: usize = 64;
/// Most messages of pages that wait for the pool.
const INBOX_MAX: usize = 4096;
/// Most links that wait to be taken by the pool.
const GREETINGS_MAX: usize = 64;
/// Longest wait for a page's first frame.
const HELLO_MAX: Duration = Duration::from_secs(10);

/// Longest time that a page may leave a frame unread. A page that computes on the cpu reads nothing meanwhile, and the limit of
/// a run is the core's decision. This limit is for connections whose other end is gone without closing.
const SEND_MAX: Duration = Duration::from_secs(120);

/// Reason for the end of a link whose outbox was dropped.
const GIVEN_UP: &str = "closed by the daemon";

/// How many bytes may wait between pages and pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Most bytes of all pages' messages that are decoded and wait for the pool. Links read no further meanwhile, so that pages
    /// wait.
    pub results_bytes_max: usize,
    /// Most bytes of frames that wait to be sent to one page. A page for which more would wait has failed, so all runs that a
    /// page may have at once ([`runs_in_flight_max`](flotilla_fleet::Config::runs_in_flight_max)) should fit. A frame that is
    /// larger is sent if no other one waits.
    pub orders_bytes_max: usize,
}

impl Default for Memory {
    /// Four and two of the largest frames.
    fn default() -> Memory {
        Memory { results_bytes_max: 4 * FRAME_BYTES_MAX, orders_bytes_max: 2 * FRAME_BYTES_MAX }
    }
}

/// Name of one WebSocket among all that this process has had: a browser's new page has new links, and messages that still come
/// from the old ones are distinguished by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LinkId(u64);

impl LinkId {
    fn next() -> LinkId {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        LinkId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Where orders for a page go. Dropping it ends the link at once, even if something is still to be sent.
#[derive(Debug)]
pub(crate) struct Outbox {
    id: LinkId,
    orders: mpsc::Sender<Order>,
    waiting_bytes: Arc<AtomicUsize>,
    bytes_max: usize,
    // Never sent on: its end is the order.
    _open: oneshot::Sender<()>,
}

/// Why an order cannot be queued for a page.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutboxError {
    #[error("the page does not read its frames: {orders} of {bytes} bytes are queued")]
    Full { orders: usize, bytes: usize },
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
    pub(crate) fn try_send(&self, order: Order) -> Result<(), OutboxError> {
        let (waiting, bytes) = (self.waiting_bytes.load(Ordering::Relaxed), order.bytes());
        let full =
            OutboxError::Full { orders: OUTBOX_MAX - self.orders.capacity(), bytes: waiting };
        // There is no other sender, so the amount can only have shrunk. A frame that is larger than the limit is sent alone.
        if waiting > 0 && waiting.saturating_add(bytes) > self.bytes_max {
            return Err(full);
        }
        self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.orders.try_send(order).map_err(|_| {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            if self.orders.is_closed() { OutboxError::Closed } else { full }
        })
    }
}

/// The link's end of an [`Outbox`].
#[derive(Debug)]
pub(crate) struct Outgoing {
    id: LinkId,
    pub(crate) orders: mpsc::Receiver<Order>,
    waiting_bytes: Arc<AtomicUsize>,
    closed: oneshot::Receiver<()>,
}

/// An outbox in which so many bytes may wait.
pub(crate) fn outbox(bytes_max: usize) -> (Outbox, Outgoing) {
    let id = LinkId::next();
    let (sender, orders) = mpsc::channel(OUTBOX_MAX);
    let (open, closed) = oneshot::channel();
    let waiting_bytes = Arc::new(AtomicUsize::new(0));
    let outgoing = Outgoing { id, orders, waiting_bytes: waiting_bytes.clone(), closed };
    (Outbox { id, orders: sender, waiting_bytes, bytes_max, _open: open }, outgoing)
}

/// A message's share of the memory limit for all pages' messages, held until the pool has handled the message.
#[derive(Debug, Default)]
pub(crate) struct Room {
    // Released when it is dropped.
    _kib: Option<OwnedSemaphorePermit>,
}

/// Where links report to the pool.
#[derive(Clone, Debug)]
pub(crate) struct Inbox {
    reports: mpsc::Sender<LinkReport>,
    greetings: mpsc::Sender<Greeting>,
    kib: Arc<Semaphore>,
    kib_max: usize,
    orders_bytes_max: usize,
}

/// The pool's end of an [`Inbox`].
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) reports: mpsc::Receiver<LinkReport>,
    pub(crate) greetings: mpsc::Receiver<Greeting>,
}

/// A page opens a link.
#[derive(Debug)]
pub(crate) struct Greeting {
    pub(crate) hello: Hello,
    pub(crate) outbox: Outbox,
    /// The page's browser and its heartbeat period in milliseconds, or why it is refused.
    pub(crate) reply: oneshot::Sender<Result<(BrowserId, u32), String>>,
}

impl Inbox {
    /// Links that report to it have so much memory.
    pub(crate) fn new(memory: Memory) -> (Inbox, Incoming) {
        let Memory { results_bytes_max, orders_bytes_max } = memory;
        let (sender, reports) = mpsc::channel(INBOX_MAX);
        let (greeter, greetings) = mpsc::channel(GREETINGS_MAX);
        let kib_max = (results_bytes_max >> 10).clamp(1, u32::MAX as usize);
        let kib_max = kib_max.min(Semaphore::MAX_PERMITS);
        let kib = Arc::new(Semaphore::new(kib_max));
        let inbox = Inbox { reports: sender, greetings: greeter, kib, kib_max, orders_bytes_max };
        (inbox, Incoming { reports, greetings })
    }

    async fn greet(&self, hello: Hello, outbox: Outbox) -> Result<(BrowserId, u32), String> {
        let ended = || "the pool has ended".to_owned();
        let (reply, admitted) = oneshot::channel();
        let greeting = Greeting { hello, outbox, reply };
        self.greetings.send(greeting).await.map_err(|_| ended())?;
        admitted.await.map_err(|_| ended())?
    }

    /// Waits until a message of this size may be decoded. One that is larger than all may be is decoded alone.
    async fn room(&self, bytes: usize) -> Room {
        let kib = bytes.div_ceil(1 << 10).min(self.kib_max) as u32;
        // The semaphore is never closed.
        Room { _kib: self.kib.clone().acquire_many_owned(kib).await.ok() }
    }

    /// Reports; an error when the pool has ended.
    async fn report(&self, report: LinkReport) -> Result<(), String> {
        self.reports.send(report).await.map_err(|_| "the pool has ended".to_owned())
    }
}

/// What comes from a link. The receiver compares `id` with its outbox's: a report of a link that was dropped does not concern
/// the link in its place.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are messages")]
pub(crate) enum LinkReport {
    Message {
        browser: BrowserId,
        id: LinkId,
        message: FromPage,
        /// Of [`FromPage::Ran`] only.
        results: Option<Results>,
        room: Room,
    },
    Closed {
        browser: BrowserId,
        id: LinkId,
        link: Link,
        reason: String,
    },
}

/// Serves one WebSocket until it closes.
pub(crate) async fn serve(mut socket: WebSocket, inbox: Inbox) {
    let Admitted { browser, link, heartbeat_ms, outgoing } = match admit(&mut socket, &inbox).await
    {
        Ok(admitted) => admitted,
        Err(reason) => {
            tracing::warn!(%reason, "link refused");
            if let Ok(frame) = encode(&ToPage::Refused { reason }, &[]) {
                // It does not matter whether the page receives it: it is refused either way.
                let _ = socket.send(Message::Binary(frame.into())).await;
            }
            return;
        }
    };
    let id = outgoing.id;
    let reason = match welcome(&mut socket, heartbeat_ms).await {
        Ok(()) => relay(socket, browser, outgoing, &inbox, SEND_MAX).await,
        Err(reason) => reason,
    };
    // If the pool has ended, the report is not needed.
    let _ = inbox.report(LinkReport::Closed { browser, id, link, reason }).await;
}

/// A link that the pool has admitted.
struct Admitted {
    browser: BrowserId,
    link: Link,
    heartbeat_ms: u32,
    outgoing: Outgoing,
}

async fn admit(socket: &mut WebSocket, inbox: &Inbox) -> Result<Admitted, String> {
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
    let (outbox, outgoing) = outbox(inbox.orders_bytes_max);
    let (browser, heartbeat_ms) = inbox.greet(hello, outbox).await?;
    Ok(Admitted { browser, link, heartbeat_ms, outgoing })
}

async fn welcome(socket: &mut WebSocket, heartbeat_ms: u32) -> Result<(), String> {
    let welcome =
        encode(&ToPage::Welcome { heartbeat_ms }, &[]).map_err(|error| error.to_string())?;
    send(socket, welcome.into(), SEND_MAX).await
}

/// Sends a frame; fails if the page does not read it within `limit`.
async fn send<S>(sink: &mut S, frame: Bytes, limit: Duration) -> Result<(), String>
where
    S: SinkExt<Message> + Unpin,
    S::Error: std::fmt::Display,
{
    match tokio::time::timeout(limit, sink.send(Message::Binary(frame))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("sending failed: {error}")),
        Err(_) => Err(format!("a frame was not sent within {limit:?}")),
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
    let Outgoing { id, mut orders, waiting_bytes, closed } = outgoing;
    let (mut sink, mut stream) = socket.split();
    // Both directions run in one task, so the lock is never contended.
    let runs = Mutex::new(Runs::default());
    let message = |message, results, room| {
        inbox.report(LinkReport::Message { browser, id, message, results, room })
    };
    let outward = async {
        while let Some(order) = orders.recv().await {
            let bytes = order.bytes();
            match batch::unblocked(bytes, move || order::frame(&order)).await {
                Ok((frame, run)) => {
                    if let Some(run) = run {
                        lock(&runs).expect(run);
                    }
                    if let Err(reason) = send(&mut sink, frame.into(), send_max).await {
                        return reason;
                    }
                }
                // The page would answer the same error.
                Err(failed) => {
                    if let Err(reason) = message(*failed, None, Room::default()).await {
                        return reason;
                    }
                }
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
            let bytes = frame.len();
            let room = inbox.room(bytes).await;
            let read = batch::unblocked(bytes, move || order::read(&frame)).await;
            let (report, tensors) = match read {
                Ok(read) => read,
                Err(reason) => return reason,
            };
            let checks = lock(&runs).take(&report);
            let results = match checks {
                Some(checks) => Some(batch::unblocked(bytes, move || checks.check(tensors)).await),
                None => None,
            };
            if let Err(reason) = message(report, results, room).await {
                return reason;
            }
        }
        "the connection ended".to_owned()
    };
    tokio::select! {
        // The outbox was dropped; nothing is sent on this channel.
        _ = closed => GIVEN_UP.to_owned(),
        reason = outward => reason,
        reason = inward => reason,
    }
}

fn lock(runs: &Mutex<Runs>) -> MutexGuard<'_, Runs> {
    runs.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        pin::Pin,
        task::{Context, Poll},
    };

    use flotilla_browser_runtime::probe;
    use flotilla_protocol::{Epoch, PlacementId, RunId};
    use flotilla_tensor::{DType, Tensor};

    use super::*;
    use crate::{batch::Input, catalog::Catalog};

    /// Most bytes that wait in an outbox.
    const BYTES_MAX: usize = 4 << 20;

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
        let (inbox, _keep) = Inbox::new(Memory::default());
        let (outbox, outgoing) = outbox(BYTES_MAX);
        outbox.try_send(Order::Inspect).unwrap();
        let limit = Duration::from_millis(10);
        let reason = relay(HalfOpen, BrowserId(0), outgoing, &inbox, limit).await;
        assert!(reason.contains("not sent within 10ms"), "{reason}");
    }

    #[tokio::test]
    async fn a_link_that_is_given_up_ends_in_the_middle_of_a_frame() {
        let (inbox, _keep) = Inbox::new(Memory::default());
        let (outbox, outgoing) = outbox(BYTES_MAX);
        outbox.try_send(Order::Inspect).unwrap();
        let relayed =
            tokio::spawn(
                async move { relay(HalfOpen, BrowserId(0), outgoing, &inbox, SEND_MAX).await },
            );
        // Once the queue has its full capacity again, the frame has been taken from it.
        while outbox.orders.capacity() < OUTBOX_MAX {
            tokio::task::yield_now().await;
        }
        drop(outbox);
        assert_eq!(relayed.await.unwrap(), GIVEN_UP);
    }

    #[test]
    fn an_outbox_holds_so_many_frames_and_so_many_bytes() {
        let (outbox, mut outgoing) = outbox(BYTES_MAX);
        let mut catalog = Catalog::default();
        catalog.add_program("probe", probe::program(), BTreeMap::new()).unwrap();
        let bytes = BYTES_MAX / 4 - order::MESSAGE_BYTES;
        let tensor = Tensor::new(DType::F32, vec![bytes / 4], vec![0; bytes]).unwrap();
        let large = Order::Run {
            run: RunId(1),
            placement: PlacementId(1),
            epoch: Epoch(1),
            inputs: Inputs::Requests {
                model: catalog.models[0].clone(),
                inputs: vec![Arc::new(Input::Tensors(vec![tensor]))],
            },
        };
        // Copies of one order: each counts with its full size.
        for _ in 0..4 {
            outbox.try_send(large.clone()).unwrap();
        }
        let refused = outbox.try_send(Order::Inspect).unwrap_err();
        assert!(matches!(refused, OutboxError::Full { orders: 4, bytes: BYTES_MAX }));
        let sent = outgoing.orders.try_recv().unwrap();
        outgoing.waiting_bytes.fetch_sub(sent.bytes(), Ordering::Relaxed);
        for _ in 3..OUTBOX_MAX {
            outbox.try_send(Order::Inspect).unwrap();
        }
        let refused = outbox.try_send(Order::Inspect).unwrap_err();
        assert!(matches!(refused, OutboxError::Full { orders: OUTBOX_MAX, .. }), "{refused}");
        drop(outgoing);
        let refused = outbox.try_send(Order::Inspect).unwrap_err();
        assert!(matches!(refused, OutboxError::Closed), "{refused}");
    }

    #[tokio::test]
    async fn messages_wait_until_there_is_room_for_them() {
        let (inbox, _keep) = Inbox::new(Memory::default());
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
        // A message that is larger than the limit is handled alone.
        inbox.room(usize::MAX).await;
    }

    #[test]
    fn links_are_distinguished() {
        let ((one, _), (other, _)) = (outbox(BYTES_MAX), outbox(BYTES_MAX));
        assert_ne!(one.id(), other.id());
    }
}
