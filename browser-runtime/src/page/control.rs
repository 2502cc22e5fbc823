//! The main thread: heartbeats, console.

use std::cell::RefCell;

use flotilla_protocol::{FromPage, Level, Link, ToPage};
use wasm_bindgen::{JsCast, JsValue, closure::Closure, prelude::wasm_bindgen};

use super::socket::Socket;

/// Most console lines that wait for the link.
const WAITING_MAX: usize = 256;
/// Longest console text that is forwarded.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// Where the console's lines go.
enum Console {
    /// The link is not accepted yet; lines wait.
    Waiting(Vec<FromPage>),
    /// They are sent at once.
    Linked(Socket),
}

thread_local! {
    static CONSOLE: RefCell<Console> = const { RefCell::new(Console::Waiting(Vec::new())) };
}

/// Opens the control link. Returns at once; the link lives as long as the page.
///
/// # Errors
/// The address is not one of a WebSocket.
#[wasm_bindgen]
pub fn control_main(ws_url: &str, token: String) -> Result<(), JsValue> {
    super::report_panics();
    let received = |socket: &Socket, message: ToPage, _| match message {
        ToPage::Welcome { heartbeat_ms } => welcome(socket, heartbeat_ms),
        // Refusals are handled in the socket; everything else belongs to the data link.
        ToPage::Refused { .. }
        | ToPage::Inspect
        | ToPage::Load { .. }
        | ToPage::Unload { .. }
        | ToPage::Run { .. } => {}
    };
    let closed = |reason: String| {
        CONSOLE.with_borrow_mut(|console| *console = Console::Waiting(Vec::new()));
        web_sys::console::error_1(&format!("control {reason}").into());
    };
    Socket::open(ws_url, token, Link::Control, received, closed)?;
    Ok(())
}

/// Closes the control link on purpose, as a fault. Returns whether it was open.
#[wasm_bindgen]
pub fn drop_control_link() -> bool {
    let socket = CONSOLE.with_borrow(|console| match console {
        Console::Linked(socket) => Some(socket.clone()),
        Console::Waiting(_) => None,
    });
    if let Some(socket) = &socket {
        socket.close();
    }
    socket.is_some()
}

/// Forwards a line of the console. `level` is the console's method.
#[wasm_bindgen]
pub fn forward_console(level: &str, text: &str) {
    let level = match level {
        "debug" => Level::Debug,
        "warn" => Level::Warn,
        "error" => Level::Error,
        _ => Level::Info,
    };
    let text = text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned();
    let message = FromPage::Console { level, text };
    // Sending may fail and then write to the console, which comes back here: no borrow may be held.
    let socket = CONSOLE.with_borrow_mut(|console| match console {
        Console::Linked(socket) => Some(socket.clone()),
        Console::Waiting(lines) => {
            if lines.len() < WAITING_MAX {
                lines.push(message.clone());
            }
            None
        }
    });
    if let Some(socket) = socket {
        socket.send(&message, &[]);
    }
}

fn welcome(socket: &Socket, heartbeat_ms: u32) {
    let linked = Console::Linked(socket.clone());
    let waiting = CONSOLE.with_borrow_mut(|console| std::mem::replace(console, linked));
    if let Console::Waiting(lines) = waiting {
        for line in lines {
            socket.send(&line, &[]);
        }
    }
    let Some(window) = web_sys::window() else { return };
    let beating = socket.clone();
    let beat = Closure::<dyn FnMut()>::new(move || heartbeat(&beating)).into_js_value();
    let period = i32::try_from(heartbeat_ms.max(1)).unwrap_or(i32::MAX);
    let timer =
        window.set_interval_with_callback_and_timeout_and_arguments_0(beat.unchecked_ref(), period);
    if timer.is_err() {
        socket.refuse("the page has no timers");
    }
    heartbeat(socket);
}

fn heartbeat(socket: &Socket) {
    socket.send(&FromPage::Heartbeat, &[]);
}
