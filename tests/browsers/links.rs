//! A page's tokens.

use std::sync::Arc;

use flotilla::{
    browser::Kind,
    catalog::Catalog,
    local::{Local, LocalOptions},
};
use flotilla_protocol::{FromPage, Hello, Link, PROTOCOL_VERSION, ToPage, decode, encode};
use flotilla_tests::{model, place, skip::has_browsers};
use tungstenite::Message;

#[test]
fn browser_tokens_are_good_for_one_link() {
    if !has_browsers(&[Kind::Chrome]) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let catalog = Catalog::open(&[model::small(folder.path(), "small")]);
    let options =
        LocalOptions { guardian: Some(place::binary()), ..LocalOptions::of(vec![Kind::Chrome]) };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let local = Local::start(&options, Arc::new(catalog), 0).await.expect("a pool");
        let view =
            local.pool.wait_until(|view| view.status.models[0].ready > 0).await.expect("a pool");
        let browser = view.browsers[0].browser;
        let script = "arguments[arguments.length - 1](location.hash)";
        let hash = local.pool.execute(browser, script, vec![]).await.expect("a result");
        let hash = hash.as_str().expect("text");
        let (control, data) = hash.trim_start_matches('#').split_once('.').expect("two tokens");
        assert!(control.len() == 32 && data.len() == 32 && control != data, "{hash}");
        for (token, link) in [(control, Link::Control), (data, Link::Data), (control, Link::Data)] {
            let hello = Hello {
                version: PROTOCOL_VERSION,
                token: token.to_owned(),
                link,
                user_agent: "test".to_owned(),
            };
            let address = local.address;
            let reason = tokio::task::spawn_blocking(move || refusal(address, hello))
                .await
                .expect("refused");
            assert!(reason.contains("used before"), "{link:?}: {reason}");
        }
        // The page that the tokens belong to was not affected.
        let view = local.pool.view().await.expect("a pool");
        assert_eq!(view.browsers[0].browser, browser, "{:?}", view.status);
        local.stop().await;
    });
}

fn refusal(address: std::net::SocketAddr, hello: Hello) -> String {
    let stream = std::net::TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("a time-out");
    let (mut socket, _) =
        tungstenite::client(format!("ws://{address}/link"), stream).expect("a WebSocket");
    let frame = encode(&FromPage::Hello(hello), &[]).expect("a frame");
    socket.send(Message::Binary(frame.into())).expect("sent");
    let Message::Binary(frame) = socket.read().expect("a frame") else { panic!("not binary") };
    match decode(&frame).expect("a message") {
        (ToPage::Refused { reason }, _) => reason,
        (other, _) => panic!("{other:?} for a used token"),
    }
}
