//! The proxy in front of a server that sends every frame back.

use std::time::Duration;

use axum::{
    body::Body,
    extract::ws::{Message, WebSocket},
    http::HeaderMap,
    routing::get,
};
use flotilla_protocol::{PROTOCOL_VERSION, PlacementId, ToPage, encode};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::sync::mpsc;

use super::*;
use crate::{
    faults::{LinkFault, LinkName, Toward},
    firing::{Bell, Firing},
};

/// Longest wait for anything.
const WAIT_MAX: Duration = Duration::from_secs(20);

type Socket =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

struct Setting {
    proxy: Proxy,
    bells: mpsc::Sender<Firing>,
    firings: mpsc::Receiver<Firing>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Setting {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if let Message::Binary(frame) = message
            && socket.send(Message::Binary(frame)).await.is_err()
        {
            return;
        }
    }
}

async fn setting() -> Setting {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let upstream = listener.local_addr().expect("an address");
    let router = Router::new()
        .route("/link", get(async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(echo)))
        .route(
            "/headers",
            get(async |headers: HeaderMap| {
                ["host", "origin"]
                    .map(|name| headers[name].to_str().expect("text").to_owned())
                    .join(" ")
            }),
        );
    let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
    let mut proxy = Proxy::bind().await.expect("a port");
    proxy.serve(upstream);
    let (bells, firings) = Bell::channel();
    Setting { proxy, bells, firings, server }
}

impl Setting {
    fn arm(&self, how: LinkFault, frames: u32) {
        self.proxy.arm(Rule {
            toward: Toward::Daemon,
            kind: Some("chrome".to_owned()),
            link: LinkName::Data,
            ..Rule::new(how, frames, Bell::new(7, self.bells.clone()))
        });
    }

    /// Opens a link of this user agent and reads the echo of its hello.
    async fn open(&self, user_agent: &str) -> Socket {
        let url = format!("{}/link", self.proxy.url().replacen("http", "ws", 1));
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("connected");
        let hello = flotilla_protocol::FromPage::Hello(flotilla_protocol::Hello {
            version: PROTOCOL_VERSION,
            token: "t".to_owned(),
            link: flotilla_protocol::Link::Data,
            user_agent: user_agent.to_owned(),
        });
        let hello = encode(&hello, &[]).expect("a frame");
        say(&mut socket, hello.clone()).await;
        assert_eq!(receive(&mut socket).await, Some(hello));
        socket
    }
}

async fn say(socket: &mut Socket, frame: Vec<u8>) {
    use futures_util::SinkExt;
    let message = tokio_tungstenite::tungstenite::Message::Binary(frame.into());
    socket.send(message).await.expect("sent");
}

async fn receive(socket: &mut Socket) -> Option<Vec<u8>> {
    use futures_util::StreamExt;
    let message = tokio::time::timeout(WAIT_MAX, socket.next()).await.expect("in time");
    match message {
        Some(Ok(tokio_tungstenite::tungstenite::Message::Binary(frame))) => Some(frame.to_vec()),
        Some(Ok(_) | Err(_)) | None => None,
    }
}

/// A frame that this number distinguishes from others.
fn numbered(number: u64) -> Vec<u8> {
    encode(&ToPage::Unload { placement: PlacementId(number) }, &[]).expect("a frame")
}

#[tokio::test]
async fn forwarded_requests_carry_the_daemons_host_and_origin() {
    let setting = setting().await;
    let client: Client<HttpConnector, Body> = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::builder()
        .uri(format!("{}/headers", setting.proxy.url()))
        .header("origin", setting.proxy.url())
        .body(Body::empty())
        .expect("a request");
    let response = client.request(request).await.expect("an answer").map(Body::new);
    let body = axum::body::to_bytes(response.into_body(), 1000).await.expect("a body");
    let words = String::from_utf8(body.to_vec()).expect("text");
    let (host, origin) = words.split_once(' ').expect("two");
    assert_eq!(origin, format!("http://{host}"));
    assert_ne!(setting.proxy.url(), origin);
}

#[tokio::test]
async fn faults_affect_only_the_browser_that_they_name() {
    let mut setting = setting().await;
    let mut chrome = setting.open("Mozilla/5.0 Chrome/150").await;
    let mut firefox = setting.open("Mozilla/5.0 Firefox/140").await;
    setting.arm(LinkFault::Duplicate, 1);
    for socket in [&mut chrome, &mut firefox] {
        say(socket, numbered(1)).await;
        say(socket, numbered(2)).await;
    }
    for number in [1, 1, 2] {
        assert_eq!(receive(&mut chrome).await, Some(numbered(number)));
    }
    for number in [1, 2] {
        assert_eq!(receive(&mut firefox).await, Some(numbered(number)));
    }
    let firing = setting.firings.recv().await.expect("told");
    assert_eq!(firing.moment, 7);

    setting.arm(LinkFault::Truncate, 1);
    say(&mut chrome, numbered(3)).await;
    assert_eq!(receive(&mut chrome).await.map(|frame| frame.len()), Some(numbered(3).len() / 2));
    setting.firings.recv().await.expect("told");

    setting.arm(LinkFault::Drop, 1);
    say(&mut chrome, numbered(4)).await;
    assert_eq!(receive(&mut chrome).await, None, "the connection ends");
    setting.firings.recv().await.expect("told");
    say(&mut firefox, numbered(5)).await;
    assert_eq!(receive(&mut firefox).await, Some(numbered(5)), "others stay");
}

#[tokio::test]
async fn a_half_open_link_is_silent_until_it_is_healed() {
    let mut setting = setting().await;
    let mut chrome = setting.open("Chrome").await;
    setting.arm(LinkFault::HalfOpen, 1);
    say(&mut chrome, numbered(1)).await;
    setting.firings.recv().await.expect("told");
    say(&mut chrome, numbered(2)).await;
    let silence = tokio::time::timeout(Duration::from_millis(200), receive(&mut chrome)).await;
    assert!(silence.is_err(), "{silence:?}");
    setting.proxy.heal();
    // The lane handles the change a little later: frames until then are dropped, too.
    let mut number = 10;
    let received = loop {
        say(&mut chrome, numbered(number)).await;
        number += 1;
        let received = tokio::time::timeout(Duration::from_millis(50), receive(&mut chrome)).await;
        if let Ok(received) = received {
            break received;
        }
    };
    let received = received.expect("the connection stayed");
    assert_ne!(received, numbered(1));
    assert_ne!(received, numbered(2));
}
