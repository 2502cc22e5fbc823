//! A link's WebSocket.

use flotilla_protocol::{FromPage, Hello, Link, PROTOCOL_VERSION, ToPage, decode, encode};
use flotilla_tensor::Tensor;
use wasm_bindgen::{JsCast, JsValue, closure::Closure};
use web_sys::{BinaryType, MessageEvent, WebSocket};

/// A handle on a link; copies use the same socket.
#[derive(Clone)]
pub(super) struct Socket(WebSocket);

impl Socket {
    /// Opens a link and sends the hello. The handlers live as long as the page does.
    pub(super) fn open(
        url: &str,
        token: String,
        link: Link,
        mut received: impl FnMut(&Socket, ToPage, Vec<Tensor>) + 'static,
        mut closed: impl FnMut(String) + 'static,
    ) -> Result<Socket, JsValue> {
        let socket = Socket(WebSocket::new(url)?);
        socket.0.set_binary_type(BinaryType::Arraybuffer);

        let opened = socket.clone();
        let hello = FromPage::Hello(Hello {
            version: PROTOCOL_VERSION,
            token,
            link,
            user_agent: crate::platform::user_agent(),
        });
        let on_open = Closure::<dyn FnMut()>::new(move || opened.send(&hello, &[]));
        socket.0.set_onopen(Some(on_open.into_js_value().unchecked_ref()));

        let speaking = socket.clone();
        let on_message = Closure::<dyn FnMut(MessageEvent)>::new(move |event: MessageEvent| {
            let Ok(buffer) = event.data().dyn_into::<js_sys::ArrayBuffer>() else {
                return speaking.refuse("a message is not binary");
            };
            match decode::<ToPage>(&js_sys::Uint8Array::new(&buffer).to_vec()) {
                Ok((ToPage::Refused { reason }, _)) => {
                    speaking.refuse(&format!("the daemon refused the link: {reason}"))
                }
                Ok((message, tensors)) => received(&speaking, message, tensors),
                Err(error) => speaking.refuse(&error.to_string()),
            }
        });
        socket.0.set_onmessage(Some(on_message.into_js_value().unchecked_ref()));

        let on_close =
            Closure::<dyn FnMut(web_sys::CloseEvent)>::new(move |event: web_sys::CloseEvent| {
                closed(format!("link closed with {} {}", event.code(), event.reason()));
            });
        socket.0.set_onclose(Some(on_close.into_js_value().unchecked_ref()));
        Ok(socket)
    }

    /// Sends a frame. A frame that cannot be made or sent closes the link, because the daemon would take
    /// silence for work.
    pub(super) fn send(&self, message: &FromPage, tensors: &[Tensor]) {
        match encode(message, tensors) {
            Ok(frame) => {
                if self.0.send_with_u8_array(&frame).is_err() {
                    let _ = self.0.close();
                }
            }
            Err(error) => self.refuse(&error.to_string()),
        }
    }

    /// Ends the link.
    pub(super) fn close(&self) {
        // A link that is closed already needs nothing.
        let _ = self.0.close();
    }

    /// Closes the link and prints the reason on the console.
    pub(super) fn refuse(&self, reason: &str) {
        web_sys::console::error_1(&reason.into());
        let _ = self.0.close();
    }
}
