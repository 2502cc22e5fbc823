//! A browser that is not there: the same protocol over real WebSockets, the same programs through the same runtime,
//! compiled natively.

use std::time::{Duration, Instant};

use flotilla_browser_runtime::{BlobFetcher, BlobStream, Options, Peer};
use flotilla_fleet::{Failure, FailureKind};
use flotilla_model::program::BlobId;
use flotilla_protocol::{
    BlobSource, BrowserId, FromPage, Hello, Link, PROTOCOL_VERSION, Tensor, ToPage, decode, encode,
};
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest, protocol::WebSocketConfig},
};

use super::{
    Facts,
    owner::{Launch, OwnerReport},
};

/// Most answers that wait to be sent.
const ANSWERS_MAX: usize = 64;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Why a simulated page ended.
#[derive(Debug, thiserror::Error)]
enum PageError {
    #[error("link: {0}")]
    Link(#[from] tungstenite::Error),
    #[error("frame: {0}")]
    Frame(#[from] flotilla_protocol::FrameError),
    #[error("refused: {0}")]
    Refused(String),
    #[error("the daemon closed the link")]
    Closed,
    #[error("answers are not taken")]
    Overflow,
    #[error("thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Plays a browser until it is ordered to end.
pub(super) async fn own(
    launch: Launch,
    reports: mpsc::Sender<(BrowserId, OwnerReport)>,
    mut ended: oneshot::Receiver<()>,
) {
    let begin = Instant::now();
    let browser = launch.browser;
    let facts = Facts {
        kind: launch.wish.kind,
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
    let page = async {
        tokio::select! {
            error = control(&launch) => error,
            error = data(&launch) => error,
        }
    };
    let error = tokio::select! {
        error = page => error,
        _ = &mut ended => return,
    };
    let failure = Failure::new(FailureKind::PageCrashed, error.to_string());
    if reports.send((browser, OwnerReport::Failed(failure))).await.is_ok() {
        let _ = ended.await;
    }
}

/// Opens a link and returns the heartbeat that the daemon wishes.
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
        format!("flotilla/{} (simulated {})", env!("CARGO_PKG_VERSION"), launch.wish.kind);
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

/// What a page's main thread does: shows that it lives.
async fn control(launch: &Launch) -> PageError {
    let beat = async {
        let (mut socket, period) = open(launch, Link::Control).await?;
        let mut ticks = tokio::time::interval(period);
        loop {
            let received = tokio::select! {
                _ = ticks.tick() => None,
                received = receive(&mut socket) => Some(received?.0),
            };
            match received {
                None => send(&mut socket, &FromPage::Heartbeat { visible: true }, &[]).await?,
                Some(ToPage::Ping { nonce }) => {
                    send(&mut socket, &FromPage::Pong { nonce }, &[]).await?
                }
                Some(_) => {}
            }
        }
    };
    let beat: Result<Never, PageError> = beat.await;
    match beat {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// What a page's worker does, on a thread of its own: computing must not stop the heartbeat.
async fn data(launch: &Launch) -> PageError {
    let launch = launch.clone();
    let (alive, gone) = oneshot::channel::<()>();
    let (result, ended) = oneshot::channel();
    let thread =
        std::thread::Builder::new().name(format!("page-{}", launch.browser)).spawn(move || {
            let error = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(async {
                    tokio::select! {
                        error = work(&launch) => error,
                        _ = gone => PageError::Closed,
                    }
                }),
                Err(error) => PageError::Thread(error),
            };
            // Whoever waited has gone when the browser was ordered to end.
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

async fn work(launch: &Launch) -> PageError {
    let serve = async {
        let (socket, _) = open(launch, Link::Data).await?;
        let (mut sink, mut stream) = socket.split();
        let fetcher = Blobs { client: Client::builder(TokioExecutor::new()).build_http() };
        let mut peer = Peer::new(Options { backends: launch.wish.backends.clone() }, fetcher);
        let mut losses = peer.losses();
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
        let working = async {
            loop {
                let (message, tensors) = receive(&mut stream).await?;
                let mut overflow = false;
                peer.handle(message, tensors, &mut |message, tensors| {
                    overflow |= answers.try_send((message, tensors)).is_err();
                })
                .await;
                if overflow {
                    return Err(PageError::Overflow);
                }
            }
        };
        tokio::try_join!(writing, losing, working).map(|(_, _, never): ((), (), Never)| never)
    };
    match serve.await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// What an endless loop returns.
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
