//! A simulated browser: a page's protocol over real WebSockets, and the same programs on the same runtime, compiled natively.

use std::{
    cell::Cell,
    pin::Pin,
    time::{Duration, Instant},
};

use flotilla_browser_runtime::{BlobFetcher, BlobStream, Faults, Options, Peer};
use flotilla_browsers::{
    Channel, Facts,
    fault::{Fault, FaultError},
    owner::{Launch, Order, Owner, OwnerReport, Queues},
};
use flotilla_fleet::{Failure, FailureKind};
use flotilla_program::BlobId;
use flotilla_protocol::{
    BlobSource, BrowserId, FromPage, Hello, Link, PROTOCOL_VERSION, ToPage, decode, encode,
};
use flotilla_tensor::Tensor;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc, oneshot},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest, protocol::WebSocketConfig},
};

/// Most answers that wait to be sent. Runs that fail at once, because their device is lost, are answered many in a row.
const ANSWERS_MAX: usize = 1024;
/// Most faults that wait for a page's thread.
const FAULTS_MAX: usize = 16;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Why a simulated page ended.
#[derive(Debug, thiserror::Error)]
enum PageError {
    #[error("link: {0}")]
    Link(#[from] tungstenite::Error),
    #[error("frame: {0}")]
    Frame(#[from] flotilla_protocol::FrameError),
    #[error("cannot open its links: {0}")]
    Open(#[source] Box<PageError>),
    #[error("refused: {0}")]
    Refused(String),
    #[error("the daemon closed the link")]
    Closed,
    #[error("too many answers are queued")]
    Overflow,
    #[error("thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl PageError {
    /// The failure to report. The end of a link is reported by the daemon's side of it, as for a real page.
    fn failure(&self) -> Option<Failure> {
        match self {
            PageError::Link(_) | PageError::Closed => None,
            PageError::Frame(_)
            | PageError::Open(_)
            | PageError::Refused(_)
            | PageError::Overflow
            | PageError::Thread(_) => {
                Some(Failure::new(FailureKind::PageCrashed, self.to_string()))
            }
        }
    }
}

/// A fault to inject into one of a page's two threads.
#[derive(Debug)]
struct FaultCommand {
    fault: Fault,
    reply: oneshot::Sender<Result<(), FaultError>>,
}

/// A page that is open.
struct Page {
    ended: Pin<Box<dyn Future<Output = PageError> + Send>>,
    main: mpsc::Sender<FaultCommand>,
    worker: mpsc::Sender<FaultCommand>,
}

enum Event {
    Order(Order),
    PageEnded(PageError),
}

/// Starts a simulated browser. Reports go to `reports`, with the browser's id.
pub fn launch(launch: Launch, reports: mpsc::Sender<(BrowserId, OwnerReport)>) -> Owner {
    Owner::spawn(|queues, ended| own(launch, reports, queues, ended))
}

/// Simulates a browser until it is ordered to end.
async fn own(
    mut launch: Launch,
    reports: mpsc::Sender<(BrowserId, OwnerReport)>,
    mut queues: Queues,
    mut ended: oneshot::Receiver<()>,
) {
    let begin = Instant::now();
    let browser = launch.browser;
    let facts = Facts {
        name: launch.desired.build.name.clone(),
        kind: launch.desired.build.kind,
        channel: Channel::Unknown,
        version: format!("flotilla {}", env!("CARGO_PKG_VERSION")),
        simulated: true,
        pid: None,
        guardian_pid: None,
        driver_pid: None,
        start_ms: begin.elapsed().as_millis() as u64,
    };
    if reports.send((browser, OwnerReport::Started(facts))).await.is_err() {
        return;
    }
    let mut page = Some(Page::open(&launch));
    let failure = loop {
        let page_ended = async {
            match &mut page {
                Some(page) => page.ended.as_mut().await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            _ = &mut ended => return,
            Some(order) = queues.orders.recv() => Event::Order(order),
            error = page_ended => Event::PageEnded(error),
        };
        let report = match event {
            Event::PageEnded(error) => {
                page = None;
                match error.failure() {
                    Some(failure) => break failure,
                    None => continue,
                }
            }
            Event::Order(Order::Reset { control, data }) => {
                launch.tokens = (control, data);
                page = Some(Page::open(&launch));
                OwnerReport::PageOpened
            }
            Event::Order(Order::Navigate { url: _, reply }) => {
                page = None;
                // The caller may have stopped waiting.
                let _ = reply.send(Ok(()));
                continue;
            }
            Event::Order(Order::InjectFault { fault, reply }) => match fault {
                Fault::Exit => {
                    page = None;
                    let _ = reply.send(Ok(()));
                    break Failure::new(FailureKind::BrowserExited, "the simulated process ended");
                }
                Fault::Crash => {
                    page = None;
                    let _ = reply.send(Ok(()));
                    continue;
                }
                Fault::Memory(mb) => {
                    let _ = reply.send(Ok(()));
                    OwnerReport::Memory { used_bytes: u64::from(mb) << 20 }
                }
                Fault::Hang
                | Fault::Silence
                | Fault::LoseDevice
                | Fault::DropLink(_)
                | Fault::SlowDown(_)
                | Fault::WrongAnswers(_) => {
                    match &page {
                        Some(page) => page.inject(fault, reply),
                        None => drop(reply.send(Err(FaultError::NoPage))),
                    }
                    continue;
                }
            },
        };
        if reports.send((browser, report)).await.is_err() {
            return;
        }
    };
    drop(page);
    if reports.send((browser, OwnerReport::Failed(failure))).await.is_ok() {
        let _ = ended.await;
    }
}

impl Page {
    fn open(launch: &Launch) -> Page {
        let (main, main_faults) = mpsc::channel(FAULTS_MAX);
        let (worker, worker_faults) = mpsc::channel(FAULTS_MAX);
        let launch = launch.clone();
        let ended = Box::pin(async move {
            tokio::select! {
                error = control(&launch, main_faults) => error,
                error = data(&launch, worker_faults) => error,
            }
        });
        Page { ended, main, worker }
    }

    /// Sends a fault to the thread that it concerns.
    fn inject(&self, fault: Fault, reply: oneshot::Sender<Result<(), FaultError>>) {
        let threads: &[&mpsc::Sender<FaultCommand>] = match fault {
            Fault::Hang => &[&self.main, &self.worker],
            Fault::DropLink(Link::Control) => &[&self.main],
            Fault::DropLink(Link::Data)
            | Fault::Exit
            | Fault::Crash
            | Fault::Silence
            | Fault::LoseDevice
            | Fault::SlowDown(_)
            | Fault::WrongAnswers(_)
            | Fault::Memory(_) => &[&self.worker],
        };
        let mut reply = Some(reply);
        for thread in threads {
            // If both threads get the fault, only the first one replies.
            let reply = reply.take().unwrap_or_else(|| oneshot::channel().0);
            // A full queue drops the reply: the receiver sees that the fault did not happen.
            let _ = thread.try_send(FaultCommand { fault, reply });
        }
    }
}

/// Opens a link and returns the heartbeat period that the daemon sets.
async fn open(launch: &Launch, link: Link) -> Result<(Socket, Duration), PageError> {
    let url = format!("{}/link", launch.origin.replacen("http", "ws", 1));
    let mut request = url.into_client_request()?;
    if let Ok(origin) = launch.origin.parse() {
        request.headers_mut().insert("origin", origin);
    }
    let limit = flotilla_protocol::FRAME_BYTES_MAX;
    let config =
        WebSocketConfig::default().max_message_size(Some(limit)).max_frame_size(Some(limit));
    let (mut socket, _) =
        tokio_tungstenite::connect_async_with_config(request, Some(config), true).await?;
    let token = match link {
        Link::Control => launch.tokens.0.clone(),
        Link::Data => launch.tokens.1.clone(),
    };
    let user_agent =
        format!("flotilla/{} (simulated {})", env!("CARGO_PKG_VERSION"), launch.desired.build);
    let hello = FromPage::Hello(Hello { version: PROTOCOL_VERSION, token, link, user_agent });
    send(&mut socket, &hello, &[]).await?;
    match receive(&mut socket).await? {
        (ToPage::Welcome { heartbeat_ms }, _) => {
            Ok((socket, Duration::from_millis(u64::from(heartbeat_ms.max(1)))))
        }
        (ToPage::Refused { reason }, _) => Err(PageError::Refused(reason)),
        (other, _) => Err(PageError::Refused(format!("unexpected {other:?}"))),
    }
}

/// A page's main thread: sends heartbeats.
async fn control(launch: &Launch, mut faults: mpsc::Receiver<FaultCommand>) -> PageError {
    enum Event {
        Message(ToPage),
        Beat,
        Fault(FaultCommand),
    }
    let (mut socket, period) = match open(launch, Link::Control).await {
        Ok(opened) => opened,
        Err(error) => return PageError::Open(Box::new(error)),
    };
    let mut ticks = tokio::time::interval(period);
    loop {
        let event = tokio::select! {
            _ = ticks.tick() => Event::Beat,
            Some(command) = faults.recv() => Event::Fault(command),
            received = receive(&mut socket) => match received {
                Ok((message, _)) => Event::Message(message),
                Err(error) => return error,
            },
        };
        let message = match event {
            Event::Beat => FromPage::Heartbeat,
            Event::Message(
                ToPage::Welcome { .. }
                | ToPage::Refused { .. }
                | ToPage::Inspect
                | ToPage::Load { .. }
                | ToPage::Unload { .. }
                | ToPage::Run { .. },
            ) => continue,
            Event::Fault(FaultCommand { fault, reply }) => {
                // The caller may have stopped waiting.
                let _ = reply.send(Ok(()));
                if matches!(fault, Fault::DropLink(_)) {
                    drop(socket);
                }
                return refuse_faults(&mut faults).await;
            }
        };
        if let Err(error) = send(&mut socket, &message, &[]).await {
            return error;
        }
    }
}

/// What a page's worker does, on a thread of its own: computing must not stop the heartbeat.
async fn data(launch: &Launch, faults: mpsc::Receiver<FaultCommand>) -> PageError {
    let launch = launch.clone();
    let (alive, gone) = oneshot::channel::<()>();
    let (result, ended) = oneshot::channel();
    let thread =
        std::thread::Builder::new().name(format!("page-{}", launch.browser)).spawn(move || {
            let error = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(async {
                    tokio::select! {
                        error = work(&launch, faults) => error,
                        _ = gone => PageError::Closed,
                    }
                }),
                Err(error) => PageError::Thread(error),
            };
            // Nothing waits any more if the browser was ordered to end.
            let _ = result.send(error);
        });
    if let Err(error) = thread {
        return PageError::Thread(error);
    }
    let error = ended
        .await
        .unwrap_or_else(|_| PageError::Thread(std::io::Error::other("the page's thread panicked")));
    drop(alive);
    error
}

/// Why a worker that is still alive does nothing more.
enum Stopped {
    Failed(PageError),
    Silent,
    LinkDropped,
}

async fn work(launch: &Launch, mut commands: mpsc::Receiver<FaultCommand>) -> PageError {
    let (socket, _) = match open(launch, Link::Data).await {
        Ok(opened) => opened,
        Err(error) => return PageError::Open(Box::new(error)),
    };
    let (mut sink, mut stream) = socket.split();
    let fetcher = Blobs { client: Client::builder(TokioExecutor::new()).build_http() };
    let mut peer = Peer::new(Options { backends: launch.desired.backends.clone() }, fetcher);
    let mut losses = peer.losses();
    let faults = peer.faults();
    let (answers, mut outward) = mpsc::channel::<(FromPage, Vec<Tensor>)>(ANSWERS_MAX);
    let writing = async {
        while let Some((message, tensors)) = outward.recv().await {
            sink.send(Message::Binary(encode(&message, &tensors)?.into())).await?;
        }
        Ok::<_, PageError>(())
    };
    let losing = async {
        while let Some(loss) = losses.next().await {
            answers.send((loss, Vec::new())).await.map_err(|_| PageError::Closed)?;
        }
        Ok::<_, PageError>(())
    };
    let overflow = Notify::new();
    let working = async {
        let broken = Cell::new(None);
        let messages = futures_util::stream::unfold(&mut stream, async |stream| {
            // Nothing more is read until there is room for another answer.
            drop(answers.reserve().await.ok()?);
            match receive(stream).await {
                Ok(message) => Some((message, stream)),
                Err(error) => {
                    broken.set(Some(error));
                    None
                }
            }
        });
        let mut send = |message, tensors| {
            if answers.try_send((message, tensors)).is_err() {
                overflow.notify_one();
            }
        };
        tokio::select! {
            () = peer.serve(messages, &mut send) => {}
            () = overflow.notified() => return Err(PageError::Overflow),
        }
        Err::<Never, _>(broken.take().unwrap_or(PageError::Closed))
    };
    let serving = async {
        match tokio::try_join!(writing, losing, working) {
            Ok(((), (), never)) => {
                let never: Never = never;
                match never {}
            }
            Err(error) => error,
        }
    };
    let stopped = tokio::select! {
        error = serving => Stopped::Failed(error),
        stopped = inject(&mut commands, &faults) => stopped,
    };
    match stopped {
        Stopped::Failed(error) => error,
        // The connection stays open and is not read.
        Stopped::Silent => refuse_faults(&mut commands).await,
        Stopped::LinkDropped => {
            drop((sink, stream));
            refuse_faults(&mut commands).await
        }
    }
}

/// Never returns. A stopped thread takes no further faults, so each is answered with an error.
async fn refuse_faults(commands: &mut mpsc::Receiver<FaultCommand>) -> PageError {
    while let Some(FaultCommand { fault: _, reply }) = commands.recv().await {
        // The caller may have stopped waiting.
        let _ = reply.send(Err(FaultError::NothingThere));
    }
    std::future::pending().await
}

/// Injects faults into the worker until one of them stops it.
async fn inject(commands: &mut mpsc::Receiver<FaultCommand>, faults: &Faults) -> Stopped {
    while let Some(FaultCommand { fault, reply }) = commands.recv().await {
        let (outcome, stopped) = match fault {
            Fault::Hang | Fault::Silence => (Ok(()), Some(Stopped::Silent)),
            Fault::DropLink(_) => (Ok(()), Some(Stopped::LinkDropped)),
            Fault::LoseDevice if faults.lose_device() => (Ok(()), None),
            Fault::SlowDown(factor) => {
                faults.slow_down(factor);
                (Ok(()), None)
            }
            Fault::WrongAnswers(wrongly) => {
                faults.answer_wrongly(wrongly);
                (Ok(()), None)
            }
            Fault::LoseDevice | Fault::Exit | Fault::Crash | Fault::Memory(_) => {
                (Err(FaultError::NothingThere), None)
            }
        };
        // The caller may have stopped waiting.
        let _ = reply.send(outcome);
        if let Some(stopped) = stopped {
            return stopped;
        }
    }
    std::future::pending().await
}

/// Return type of a loop that only ends with an error.
enum Never {}

/// Weights from the daemon, as a page fetches them.
struct Blobs {
    client: Client<HttpConnector, Empty<bytes::Bytes>>,
}

/// A blob's body.
struct Body(Incoming);

impl BlobFetcher for Blobs {
    type Stream = Body;

    async fn open(&mut self, source: &BlobSource, blob: BlobId) -> Result<Body, String> {
        let url = format!("{}/{}", source.url_prefix, blob.to_hex());
        let url = url.parse().map_err(|error| format!("{url}: {error}"))?;
        let response = self.client.get(url).await.map_err(|error| error.to_string())?;
        if response.status().is_success() {
            Ok(Body(response.into_body()))
        } else {
            Err(response.status().to_string())
        }
    }
}

impl BlobStream for Body {
    async fn chunk(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            match self.0.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data.to_vec()));
                    }
                }
            }
        }
    }
}

async fn send(
    socket: &mut Socket,
    message: &FromPage,
    tensors: &[Tensor],
) -> Result<(), PageError> {
    Ok(socket.send(Message::Binary(encode(message, tensors)?.into())).await?)
}

async fn receive(
    socket: &mut (impl StreamExt<Item = Result<Message, tungstenite::Error>> + Unpin),
) -> Result<(ToPage, Vec<Tensor>), PageError> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(frame))) => return Ok(decode(&frame)?),
            Some(Ok(Message::Close(_))) | None => return Err(PageError::Closed),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
        }
    }
}
