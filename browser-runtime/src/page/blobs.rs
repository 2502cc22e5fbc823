//! Streams weights over HTTP.

use flotilla_program::BlobId;
use flotilla_protocol::BlobSource;
use js_sys::{ArrayBuffer, Function, Reflect, Uint8Array};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    ReadableStreamByobReader, ReadableStreamDefaultReader, ReadableStreamGetReaderOptions,
    ReadableStreamReadResult, ReadableStreamReaderMode, Response, WorkerGlobalScope,
};

use crate::fetch::{BlobFetcher, BlobStream};

/// Bytes that are read at once.
const READ_BYTES: u32 = 64 << 10;

/// Longest part of a refusal's text that is reported.
const REASON_CHARS_MAX: usize = 300;

/// Fetches `<url prefix>/<hash>`; the browser's cache answers for blobs that it has.
pub(super) struct HttpBlobs;

/// A response's body.
pub(super) enum Body {
    /// Read into one buffer again and again, so that the page's garbage collector has nothing to do.
    Into(ReadableStreamByobReader, ArrayBuffer),
    /// Where the body is no stream of bytes: every chunk has a buffer of its own.
    Chunks(ReadableStreamDefaultReader),
}

impl BlobFetcher for HttpBlobs {
    type Stream = Body;

    async fn open(&mut self, source: &BlobSource, blob: BlobId) -> Result<Body, String> {
        let url = format!("{}/{}", source.url_prefix, blob.to_hex());
        let scope: WorkerGlobalScope =
            js_sys::global().dyn_into().map_err(|_| "this is not a worker")?;
        let response: Response =
            JsFuture::from(scope.fetch_with_str(&url)).await.map_err(words)?.unchecked_into();
        if !response.ok() {
            let status = format!("{} {}", response.status(), response.status_text());
            let text = JsFuture::from(response.text().map_err(words)?).await.map_err(words)?;
            let reason: String =
                text.as_string().unwrap_or_default().chars().take(REASON_CHARS_MAX).collect();
            return Err(format!("{url} answered {status}: {reason}"));
        }
        let body = response.body().ok_or_else(|| format!("{url} answered without a body"))?;
        let options = ReadableStreamGetReaderOptions::new();
        options.set_mode(ReadableStreamReaderMode::Byob);
        // Not by its own function, which does not return what it throws.
        let get_reader = Reflect::get(&body, &"getReader".into()).map_err(words)?;
        Ok(match get_reader.unchecked_into::<Function>().call1(&body, &options) {
            Ok(reader) => Body::Into(reader.unchecked_into(), ArrayBuffer::new(READ_BYTES)),
            Err(_) => Body::Chunks(body.get_reader().unchecked_into()),
        })
    }
}

impl BlobStream for Body {
    async fn chunk(&mut self) -> Result<Option<Vec<u8>>, String> {
        let read = match self {
            Body::Into(reader, buffer) => {
                reader.read_with_array_buffer_view(&Uint8Array::new(buffer))
            }
            Body::Chunks(reader) => reader.read(),
        };
        let result: ReadableStreamReadResult =
            JsFuture::from(read).await.map_err(words)?.unchecked_into();
        if result.get_done() == Some(true) {
            return Ok(None);
        }
        let chunk: Uint8Array =
            result.get_value().dyn_into().map_err(|_| "a chunk of a blob is not a Uint8Array")?;
        let bytes = chunk.to_vec();
        if let Body::Into(_, buffer) = self {
            // Reading has moved the buffer's memory into a new one.
            *buffer = chunk.buffer();
        }
        Ok(Some(bytes))
    }
}

fn words(error: JsValue) -> String {
    error.as_string().unwrap_or_else(|| String::from(js_sys::Object::from(error).to_string()))
}
