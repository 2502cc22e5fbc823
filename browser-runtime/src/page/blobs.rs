//! Streams weights over HTTP.

use flotilla_program::BlobId;
use flotilla_protocol::BlobSource;
use js_sys::Uint8Array;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{ReadableStreamDefaultReader, ReadableStreamReadResult, Response, WorkerGlobalScope};

use crate::fetch::{BlobFetcher, BlobStream};

/// Fetches `<url prefix>/<hash>`; the browser's cache answers for blobs that it has.
pub(super) struct HttpBlobs;

/// A response's body.
pub(super) struct Body(ReadableStreamDefaultReader);

impl BlobFetcher for HttpBlobs {
    type Stream = Body;

    async fn open(&mut self, source: &BlobSource, blob: BlobId) -> Result<Body, String> {
        let url = format!("{}/{}", source.url_prefix, blob.to_hex());
        let scope: WorkerGlobalScope =
            js_sys::global().dyn_into().map_err(|_| "this is not a worker")?;
        let response: Response =
            JsFuture::from(scope.fetch_with_str(&url)).await.map_err(words)?.unchecked_into();
        if !response.ok() {
            return Err(format!("{url} answered {} {}", response.status(), response.status_text()));
        }
        let body = response.body().ok_or_else(|| format!("{url} answered without a body"))?;
        Ok(Body(body.get_reader().unchecked_into()))
    }
}

impl BlobStream for Body {
    async fn chunk(&mut self) -> Result<Option<Vec<u8>>, String> {
        let result: ReadableStreamReadResult =
            JsFuture::from(self.0.read()).await.map_err(words)?.unchecked_into();
        if result.get_done() == Some(true) {
            return Ok(None);
        }
        let chunk: Uint8Array =
            result.get_value().dyn_into().map_err(|_| "a chunk is not made of bytes")?;
        Ok(Some(chunk.to_vec()))
    }
}

fn words(error: JsValue) -> String {
    error.as_string().unwrap_or_else(|| String::from(js_sys::Object::from(error).to_string()))
}
