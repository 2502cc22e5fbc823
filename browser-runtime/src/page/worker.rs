//! The worker: the data link and the runtime behind it.

use std::cell::RefCell;

use flotilla_protocol::{Link, ToPage};
use flotilla_tensor::Tensor;
use futures_channel::mpsc;
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::spawn_local;

use super::{blobs::HttpBlobs, socket::Socket};
use crate::{Faults, Options, Peer};

/// Most messages that wait for the one that is handled; the daemon keeps far fewer.
const WAITING_MAX: usize = 1024;

thread_local! {
    /// The target of [`suffer`], once the link is opened.
    static VICTIM: RefCell<Option<(Socket, Faults)>> = const { RefCell::new(None) };
}

/// Injects a fault into the worker; `web/runner/runner.js` lists the faults. Returns whether it
/// happened.
#[wasm_bindgen]
pub fn suffer(fault: &str, amount: f64) -> bool {
    // Closing a link calls back, so no borrow may be held.
    let Some((socket, faults)) = VICTIM.with_borrow(Clone::clone) else { return false };
    match fault {
        "lose_device" => return faults.lose_device(),
        "drop_data" => socket.close(),
        "slow_down" => faults.slow_down(amount),
        "wrong_answers" => faults.answer_wrongly(amount != 0.0),
        _ => return false,
    }
    true
}

/// Opens the data link. Returns at once; the link lives as long as the worker.
///
/// # Errors
/// The address is not one of a WebSocket.
#[wasm_bindgen]
pub fn worker_main(ws_url: &str, token: String) -> Result<(), JsValue> {
    super::report_panics();
    let (mut sender, receiver) = mpsc::channel(WAITING_MAX);
    let received = move |socket: &Socket, message: ToPage, tensors: Vec<Tensor>| {
        if sender.try_send((message, tensors)).is_err() {
            socket.refuse(&format!("more than {WAITING_MAX} messages wait"));
        }
    };
    let socket = Socket::open(ws_url, token, Link::Data, received, |reason| {
        web_sys::console::error_1(&format!("data {reason}").into());
        if let Ok(worker) = js_sys::global().dyn_into::<web_sys::DedicatedWorkerGlobalScope>() {
            worker.close();
        }
    })?;
    spawn_local(serve(socket, receiver));
    Ok(())
}

async fn serve(socket: Socket, messages: mpsc::Receiver<(ToPage, Vec<Tensor>)>) {
    let mut peer = Peer::new(Options::default(), HttpBlobs);
    VICTIM.set(Some((socket.clone(), peer.faults())));
    let mut losses = peer.losses();
    let telling = socket.clone();
    spawn_local(async move {
        while let Some(loss) = losses.next().await {
            telling.send(&loss, &[]);
        }
    });
    peer.serve(messages, &mut |message, tensors| socket.send(&message, &tensors)).await;
}
