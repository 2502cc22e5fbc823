//! The daemon's side of a page, implemented by a test: it serves the runner page and accepts its links, so that a
//! browser can be tested without a pool that would repair what the test breaks.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use flotilla_protocol::{
    Epoch, FRAME_BYTES_MAX, FromPage, Hello, Link, PlacementId, RunId, ToPage, decode, encode,
};
use flotilla_tensor::Tensor;
use tungstenite::{Message, WebSocket, protocol::WebSocketConfig};

/// Interval of the heartbeats of a page's main thread.
const HEARTBEAT_MS: u32 = 100;
/// Longest time in which a message that has arrived is read.
const READ_MAX: Duration = Duration::from_millis(HEARTBEAT_MS as u64 / 10);
/// Longest head of a request.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Longest wait for the rest of a request that has started.
const REQUEST_MAX: Duration = Duration::from_secs(20);

/// A server for runner pages on a free port.
#[derive(Debug)]
pub struct Runner {
    address: SocketAddr,
    links: mpsc::Receiver<PageLink>,
    ended: Arc<AtomicBool>,
    blobs: Blobs,
    accepting: Option<std::thread::JoinHandle<()>>,
}

/// Weights that pages can fetch, by their names.
type Blobs = Arc<Mutex<BTreeMap<String, Bytes>>>;

/// A page's link that has sent its hello and was welcomed.
#[derive(Debug)]
pub struct PageLink {
    /// Which of the two.
    pub link: Link,
    /// The token that the page has sent.
    pub token: String,
    socket: WebSocket<TcpStream>,
}

/// The result of reading from a link.
#[derive(Debug)]
pub enum Received {
    /// A message.
    Message(Box<FromPage>, Vec<Tensor>),
    /// Nothing within the given time.
    Nothing,
    /// The link has ended, for this reason.
    End(String),
}

impl Runner {
    /// Starts serving.
    ///
    /// # Panics
    /// No port is available.
    pub fn start() -> Runner {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (linked, links) = mpsc::sync_channel(64);
        let ended = Arc::new(AtomicBool::new(false));
        let ending = ended.clone();
        let blobs = Blobs::default();
        let offered = blobs.clone();
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ending.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (linked, offered) = (linked.clone(), offered.clone());
                std::thread::spawn(move || {
                    if let Err(error) = serve(stream, &linked, &offered) {
                        eprintln!("runner: {error:#}");
                    }
                });
            }
        });
        Runner { address, links, ended, blobs, accepting: Some(accepting) }
    }

    /// Its address.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where pages fetch blobs from: `<prefix>/<name>`.
    pub fn blob_prefix(&self) -> String {
        format!("{}/blobs", self.origin())
    }

    /// Sets the blobs that pages can fetch, by name; earlier ones are removed.
    pub fn offer(&self, blobs: BTreeMap<String, Bytes>) {
        *self.blobs.lock().unwrap_or_else(PoisonError::into_inner) = blobs;
    }

    /// Waits for both links of the page with these tokens: control, data. Links of other pages are dropped.
    ///
    /// # Panics
    /// They are not opened within `limit`.
    pub fn page(&self, tokens: &(String, String), limit: Duration) -> (PageLink, PageLink) {
        match self.try_page(tokens, limit) {
            Ok(links) => links,
            Err(words) => panic!("{words}"),
        }
    }

    /// As [`Runner::page`].
    ///
    /// # Errors
    /// They are not opened within `limit`.
    pub fn try_page(
        &self,
        tokens: &(String, String),
        limit: Duration,
    ) -> Result<(PageLink, PageLink), String> {
        let deadline = Instant::now() + limit;
        let (mut control, mut data) = (None, None);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(link) = self.links.recv_timeout(left) else {
                return Err(format!(
                    "no page within {limit:?}: control {control:?}, data {data:?}"
                ));
            };
            match link.link {
                Link::Control if link.token == tokens.0 => control = Some(link),
                Link::Data if link.token == tokens.1 => data = Some(link),
                Link::Control | Link::Data => {}
            }
            match (control, data) {
                (Some(control), Some(data)) => return Ok((control, data)),
                (one, other) => (control, data) = (one, other),
            }
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // Wakes the thread that accepts; a listener that has ended already needs no waking.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

impl PageLink {
    /// Sends a message.
    ///
    /// # Panics
    /// The link has ended.
    pub fn send(&mut self, message: &ToPage, tensors: &[Tensor]) {
        self.try_send(message, tensors).expect("the link takes a frame");
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The link has ended, or the message is too long for a frame.
    pub fn try_send(&mut self, message: &ToPage, tensors: &[Tensor]) -> Result<(), String> {
        let frame = encode(message, tensors).map_err(|error| error.to_string())?;
        self.socket.send(Message::Binary(frame.into())).map_err(|error| error.to_string())
    }

    /// The next message before `deadline`.
    pub fn receive(&mut self, deadline: Instant) -> Received {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Received::Nothing;
            }
            if let Err(error) = self.socket.get_ref().set_read_timeout(Some(left)) {
                return Received::End(error.to_string());
            }
            match self.socket.read() {
                Ok(Message::Binary(frame)) => match decode(&frame) {
                    Ok((message, tensors)) => return Received::Message(Box::new(message), tensors),
                    Err(error) => return Received::End(error.to_string()),
                },
                Ok(_) => {}
                Err(tungstenite::Error::Io(error))
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) => {}
                Err(error) => return Received::End(error.to_string()),
            }
        }
    }

    /// Waits for a message that `pick` accepts; others are dropped.
    ///
    /// # Panics
    /// None comes within `limit`, or the link ends.
    pub fn wait<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut pick: impl FnMut(FromPage, Vec<Tensor>) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + limit;
        loop {
            match self.receive(deadline) {
                Received::Message(message, tensors) => {
                    if let Some(picked) = pick(*message, tensors) {
                        return picked;
                    }
                }
                Received::Nothing => panic!("no {what} within {limit:?}"),
                Received::End(words) => panic!("the link ended before {what}: {words}"),
            }
        }
    }

    /// Waits for the end of the link; returns whether it came within `limit`.
    pub fn ends_within(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            match self.receive(deadline) {
                Received::Message(..) => {}
                Received::Nothing => return false,
                Received::End(_) => return true,
            }
        }
    }

    /// Whether the thread behind this link works: within `limit` the main thread sends a heartbeat, or the worker refuses a run
    /// of this number, whose placement does not exist.
    pub fn works(&mut self, number: u64, limit: Duration) -> bool {
        match self.link {
            // Heartbeats that have arrived already may be from before the thread stopped.
            Link::Control => {
                while let Received::Message(..) = self.receive(Instant::now() + READ_MAX) {}
            }
            Link::Data => {
                let (run, placement) = (RunId(number), PlacementId(u64::MAX));
                self.send(&ToPage::Run { run, placement, epoch: Epoch(0) }, &[]);
            }
        }
        let deadline = Instant::now() + limit;
        loop {
            match self.receive(deadline) {
                Received::Message(message, _) => match *message {
                    FromPage::Heartbeat => return true,
                    FromPage::RunFailed { run, .. } if run.0 == number => return true,
                    _ => {}
                },
                Received::Nothing | Received::End(_) => return false,
            }
        }
    }
}

fn serve(
    mut stream: TcpStream,
    linked: &mpsc::SyncSender<PageLink>,
    blobs: &Blobs,
) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(REQUEST_MAX))?;
    let Some(head) = peek_head(&stream)? else { return Ok(()) };
    let path = head.split(' ').nth(1).context("a request has a path")?.to_owned();
    if path == "/link" {
        return accept(stream, linked);
    }
    let length: usize = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok()
        })
        .unwrap_or(0);
    let mut request = vec![0; head.len() + length];
    stream.read_exact(&mut request)?;
    if length > 0 {
        eprintln!("runner: {path}: {}", String::from_utf8_lossy(&request[head.len()..]));
    }
    let blob = path
        .strip_prefix("/blobs/")
        .and_then(|name| blobs.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned());
    let name = match path.strip_prefix("/runner/") {
        Some("") => "index.html",
        Some(name) => name,
        None => "",
    };
    match (blob, flotilla_web::runner_asset(name)) {
        (Some(blob), _) => respond(&mut stream, "application/octet-stream", &blob)?,
        (None, Some(asset)) => respond(&mut stream, asset.content_type, asset.bytes)?,
        (None, None) => stream.write_all(
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        )?,
    }
    Ok(())
}

fn respond(stream: &mut TcpStream, content_type: &str, bytes: &[u8]) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        bytes.len()
    )?;
    stream.write_all(bytes)
}

/// The head of a request, which stays unread; `None` for an unused connection.
fn peek_head(stream: &TcpStream) -> anyhow::Result<Option<String>> {
    let mut bytes = vec![0; HEAD_BYTES_MAX];
    let deadline = Instant::now() + REQUEST_MAX;
    loop {
        let count = match stream.peek(&mut bytes) {
            Ok(0) => return Ok(None),
            Ok(count) => count,
            // Browsers open connections in advance.
            Err(_) => return Ok(None),
        };
        let text = String::from_utf8_lossy(&bytes[..count]);
        if let Some(end) = text.find("\r\n\r\n") {
            return Ok(Some(text[..end + 4].to_owned()));
        }
        ensure!(count < HEAD_BYTES_MAX, "the head of a request is too long");
        ensure!(Instant::now() < deadline, "a request was begun and not ended");
        std::thread::yield_now();
    }
}

fn accept(stream: TcpStream, linked: &mpsc::SyncSender<PageLink>) -> anyhow::Result<()> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX));
    let mut socket = tungstenite::accept_with_config(stream, Some(config))
        .map_err(|error| anyhow::anyhow!("no WebSocket: {error}"))?;
    let Message::Binary(frame) = socket.read()? else { bail!("the first frame is not binary") };
    let (FromPage::Hello(Hello { token, link, .. }), _) = decode(&frame)? else {
        bail!("the first frame is not a hello");
    };
    let welcome = encode(&ToPage::Welcome { heartbeat_ms: HEARTBEAT_MS }, &[])?;
    socket.send(Message::Binary(welcome.into()))?;
    // The test may have ended.
    let _ = linked.send(PageLink { link, token, socket });
    Ok(())
}
