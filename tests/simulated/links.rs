//! The WebSocket of pages: which clients may open one.

use std::{net::TcpStream, time::Duration};

use flotilla_protocol::{FromPage, Hello, Link, PROTOCOL_VERSION, ToPage, decode, encode};
use flotilla_tests::{daemon::Daemon, model};
use serde_json::json;
use tungstenite::{Message, WebSocket, client::IntoClientRequest, handshake::HandshakeError};

/// Longest wait for a frame.
const FRAME_MAX: Duration = Duration::from_secs(20);

fn open(daemon: &Daemon, origin: Option<&str>) -> Result<WebSocket<TcpStream>, tungstenite::Error> {
    let stream = TcpStream::connect(daemon.address()).expect("a connection");
    stream.set_read_timeout(Some(FRAME_MAX)).expect("a time-out");
    let mut request = format!("ws://{}/link", daemon.address()).into_client_request()?;
    if let Some(origin) = origin {
        request.headers_mut().insert("origin", origin.parse().expect("a header"));
    }
    match tungstenite::client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(HandshakeError::Failure(error)) => Err(error),
        Err(HandshakeError::Interrupted(_)) => panic!("no answer within {FRAME_MAX:?}"),
    }
}

/// Sends a first frame; returns the message of refusal, after which the link must be closed.
fn refusal(daemon: &Daemon, first: Message) -> String {
    let origin = daemon.url("");
    let mut socket = open(daemon, Some(&origin)).expect("a WebSocket");
    socket.send(first).expect("sent");
    let Message::Binary(frame) = socket.read().expect("a frame") else { panic!("not binary") };
    let (ToPage::Refused { reason }, _) = decode(&frame).expect("a message") else {
        panic!("not refused")
    };
    loop {
        match socket.read() {
            Ok(Message::Close(_)) => {}
            Ok(other) => panic!("{other:?} after a refusal"),
            Err(tungstenite::Error::Io(error))
                if error.kind() == std::io::ErrorKind::WouldBlock =>
            {
                panic!("the link stays open after a refusal")
            }
            Err(_) => return reason,
        }
    }
}

fn hello(version: u32, token: &str, link: Link) -> Message {
    let hello = Hello { version, token: token.to_owned(), link, user_agent: "test".to_owned() };
    Message::Binary(encode(&FromPage::Hello(hello), &[]).expect("a frame").into())
}

#[test]
fn only_a_page_of_this_daemon_gets_a_link() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small").display().to_string();
    let daemon = Daemon::ready(&["--simulate", "chrome=1", "--models", &small]);
    let guess = "0123456789abcdef0123456789abcdef";
    let heartbeat = encode(&FromPage::Heartbeat, &[]).expect("a frame");
    for (first, says) in [
        (hello(PROTOCOL_VERSION, guess, Link::Data), &["token"][..]),
        (hello(PROTOCOL_VERSION, guess, Link::Control), &["token"]),
        (hello(PROTOCOL_VERSION, "", Link::Control), &["token"]),
        (
            hello(PROTOCOL_VERSION + 1, guess, Link::Control),
            &["protocol", &(PROTOCOL_VERSION + 1).to_string(), "reload"],
        ),
        (Message::Binary(heartbeat.into()), &["hello"]),
        (Message::Binary(vec![0xff; 100].into()), &["cannot be read"]),
        (Message::Binary(Vec::new().into()), &["cannot be read"]),
        (Message::Text("hello".into()), &["binary"]),
    ] {
        let reason = refusal(&daemon, first.clone());
        for part in says {
            assert!(reason.contains(part), "{first:?}: {reason:?} does not say {part:?}");
        }
    }
    for origin in ["http://evil.example", "null"] {
        match open(&daemon, Some(origin)) {
            Err(tungstenite::Error::Http(response)) => {
                assert_eq!(response.status(), 403, "{origin}")
            }
            other => panic!("{origin}: {other:?}"),
        }
    }
    assert_eq!(daemon.embed("small", json!([1, 2, 3])).status, 200);
}
